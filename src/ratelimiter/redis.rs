//! The ledger of all nodes, in Redis: for each bucket the time at which it will be full again, by Redis's own clock.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use ::redis::aio::MultiplexedConnection;
use ::redis::{ErrorKind, Pipeline, RedisError, RedisResult, Script, ServerErrorKind, Value};
use async_trait::async_trait;
use futures_util::future::join_all;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::shared::{Charge, Ledger};
use crate::client::redis::{Backoff, Server, Servers};

/// Takes from a bucket and tells in how many µs it will be full again. The key lives as long as it isn't.
const CHARGE: &str = r"
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local full = math.max(tonumber(redis.call('GET', KEYS[1]) or '0'), now) + tonumber(ARGV[1])
redis.call('SET', KEYS[1], string.format('%.0f', full), 'PX', math.ceil((full - now) / 1000) + 1)
return full - now
";

pub struct RedisLedger {
    servers: Arc<Servers>,
    prefix: String,
    script: Script,
    /// By the server's name.
    desks: Mutex<HashMap<String, Desk>>,
}

/// Where one server is charged.
struct Desk {
    connection: Option<MultiplexedConnection>,
    backoff: Backoff,
    /// Not connected to before.
    retry_at: Instant,
}

impl RedisLedger {
    /// `prefix`: what the deployment's keys begin with.
    pub fn new(servers: Arc<Servers>, prefix: &str) -> Self {
        Self { servers, prefix: format!("{prefix}rate:"), script: Script::new(CHARGE), desks: Mutex::default() }
    }

    async fn charge_at(&self, server: &Server, desk: &mut Desk, charges: &[(String, Duration)]) -> Vec<Option<Duration>> {
        if desk.connection.is_none() && Instant::now() < desk.retry_at {
            return vec![None; charges.len()];
        }
        match self.try_charge_at(server, desk, charges).await {
            Ok(answers) => {
                desk.backoff.reset();
                answers
            }
            Err(error) => {
                // The broker tells of servers that are away.
                tracing::debug!(server = server.name(), error = %error, "a server did not count; this node counts alone");
                desk.connection = None;
                desk.retry_at = Instant::now() + desk.backoff.next_pause();
                vec![None; charges.len()]
            }
        }
    }

    async fn try_charge_at(&self, server: &Server, desk: &mut Desk, charges: &[(String, Duration)]) -> RedisResult<Vec<Option<Duration>>> {
        let connection = match &mut desk.connection {
            Some(connection) => connection,
            None => {
                let mut connection = server.connect().await?;
                self.script.load_async(&mut connection).await?;
                desk.connection.insert(connection)
            }
        };
        let mut pipeline = Pipeline::with_capacity(charges.len());
        for (key, cost) in charges {
            let micros = u64::try_from(cost.as_micros()).unwrap_or(u64::MAX).max(1);
            pipeline.cmd("EVALSHA").arg(self.script.get_hash()).arg(1).arg(key.as_str()).arg(micros);
        }
        let answers = connection.send_packed_commands(&pipeline, 0, charges.len()).await?;
        let mut found = Vec::with_capacity(answers.len());
        for answer in answers {
            found.push(match answer {
                Value::Int(micros) => u64::try_from(micros).ok().map(Duration::from_micros),
                Value::ServerError(error) => {
                    self.refused(RedisError::from(error))?;
                    None
                }
                _ => None,
            });
        }
        Ok(found)
    }

    /// A slot that is elsewhere now is found there the next time; anything else takes a new connection, which loads the script anew.
    fn refused(&self, error: RedisError) -> RedisResult<()> {
        match error.kind() {
            ErrorKind::Server(ServerErrorKind::Moved | ServerErrorKind::Ask | ServerErrorKind::TryAgain | ServerErrorKind::ClusterDown) => {
                self.servers.look_again();
                Ok(())
            }
            _ => Err(error),
        }
    }
}

#[async_trait]
impl Ledger for RedisLedger {
    async fn charge(&self, charges: &[Charge]) -> Vec<Option<Duration>> {
        let topology = Arc::clone(&self.servers.views().borrow().topology);
        let mut by_server: HashMap<usize, (Vec<usize>, Vec<(String, Duration)>)> = HashMap::new();
        for (at, charge) in charges.iter().enumerate() {
            let key = format!("{}{}", self.prefix, charge.key);
            if let Some(server) = topology.owner(key.as_bytes()) {
                let (positions, part) = by_server.entry(server).or_default();
                positions.push(at);
                part.push((key, charge.cost));
            }
        }
        let mut desks = self.desks.lock().await;
        desks.retain(|name, _| topology.servers().iter().any(|server| server.name() == name));
        let mut work = Vec::new();
        for (server, (positions, part)) in by_server {
            let server = &topology.servers()[server];
            let mut desk = desks.remove(server.name()).unwrap_or_default();
            work.push(async move {
                let answers = self.charge_at(server, &mut desk, &part).await;
                (server.name().to_owned(), desk, positions, answers)
            });
        }
        let mut found = vec![None; charges.len()];
        for (name, desk, positions, answers) in join_all(work).await {
            desks.insert(name, desk);
            for (at, answer) in positions.into_iter().zip(answers) {
                found[at] = answer;
            }
        }
        found
    }
}

impl Default for Desk {
    fn default() -> Self {
        Self { connection: None, backoff: Backoff::default(), retry_at: Instant::now() }
    }
}
