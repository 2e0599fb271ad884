//! What a fault plays on: three server processes on one PostgreSQL and one Redis, or a Redis Cluster of three, and nginx in front of them.

use std::sync::Arc;
use std::time::Duration;

use crate::common::process::Process;
use crate::common::{Ground, within};
use crate::harness::checker::{Checker, Judged};
use crate::harness::postgres::Postgres;
use crate::harness::proxy::{Mode, Proxy};
use crate::nginx::{self, Nginx};
use crate::programs;
use crate::redis::Redis;

pub const NODES: usize = 3;
const MASTERS: u32 = 3;
const PARTITION: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/postgres/partition_messages.sql");
/// Above what the checker's clients do: Redis counts and refuses nobody.
const RATE: &str = "1000/s burst 5000";
/// The default of `serve`. Deliveries between nodes that take as long were not made by Redis.
pub const SWEEP_INTERVAL: Duration = Duration::from_secs(2);
pub const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(3);
const POLL: Duration = Duration::from_millis(20);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    /// One Redis, which each node reaches through a proxy of its own.
    Redis,
    /// A Redis Cluster, so sharded pub/sub, and a partitioned table of messages.
    RedisCluster,
}

impl Variant {
    pub fn name(self) -> &'static str {
        match self {
            Self::Redis => "Redis",
            Self::RedisCluster => "Redis Cluster",
        }
    }
}

/// Where the checker's clients connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// To the nodes, each connection to one at random.
    Nodes,
    Nginx,
}

pub struct Stage {
    pub ground: Arc<Ground>,
    pub postgres: Postgres,
    /// One, or a Cluster's masters.
    pub redis: Vec<Redis>,
    /// Between node n and the one Redis.
    pub proxies: Vec<Proxy>,
    pub nodes: Vec<Process>,
    pub nginx: Option<Nginx>,
    /// Logs of nodes that were restarted since.
    logs_before: Vec<Arc<std::sync::Mutex<Vec<String>>>>,
    check: Option<Checker>,
    checks: usize,
    /// When the fault was there, by the checker's clock.
    spans: Vec<(u64, u64)>,
    began_us: Option<u64>,
    /// PostgreSQL's; gone last.
    _folder: tempfile::TempDir,
}

/// What a fault's run brought.
pub struct Outcome {
    pub judged: Judged,
    pub spans: Vec<(u64, u64)>,
}

impl Stage {
    pub async fn set(variant: Variant) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let postgres = Postgres::start(folder.path()).await;
        postgres.create_database("chat").await;
        let ground = Arc::new(Ground::with_database(Some(postgres.url("chat"))));
        let redis = match variant {
            Variant::Redis => vec![Redis::start().await],
            Variant::RedisCluster => Redis::start_cluster(MASTERS).await,
        };
        let mut proxies = Vec::new();
        if variant == Variant::Redis {
            for _ in 0..NODES {
                proxies.push(Proxy::to_redis(redis[0].address()).await);
            }
        }
        let mut stage = Self {
            ground,
            postgres,
            redis,
            proxies,
            nodes: Vec::new(),
            nginx: None,
            logs_before: Vec::new(),
            check: None,
            checks: 0,
            spans: Vec::new(),
            began_us: None,
            _folder: folder,
        };
        for node in 0..NODES {
            let serving = stage.serve(node, 0).await;
            stage.nodes.push(serving);
            // The first node has made the schema.
            if node == 0 && variant == Variant::RedisCluster {
                stage.postgres.run_script("chat", std::fs::read_to_string(PARTITION).unwrap()).await;
            }
        }
        if variant == Variant::Redis && nginx::program().is_some() {
            let ports: Vec<u16> = stage.nodes.iter().map(|node| node.port).collect();
            stage.nginx = Some(Nginx::start(&stage.ground, &ports, &[]).await);
        }
        stage
    }

    /// Where a node finds Redis; a Cluster's every master is named, so that it is found while one is away.
    pub fn redis_url(&self, node: usize) -> String {
        match self.proxies.get(node) {
            Some(proxy) => format!("redis://127.0.0.1:{}", proxy.port),
            None => self.redis.iter().map(|redis| format!("redis://127.0.0.1:{}", redis.port)).collect::<Vec<_>>().join(","),
        }
    }

    async fn serve(&self, node: usize, port: u16) -> Process {
        let (url, sweep, stop) = (self.redis_url(node), millis(SWEEP_INTERVAL), millis(SHUTDOWN_TIMEOUT));
        let mut flags = vec!["--redis-url", &url, "--sweep-interval", &sweep, "--shutdown-timeout", &stop];
        flags.extend(["--trusted-proxies", "127.0.0.1", "--rate-limit-user-sends", RATE, "--rate-limit-user-calls", RATE]);
        Process::serve(&self.ground, port, &flags).await
    }

    /// Starts a node again, on the port that it had.
    pub async fn serve_again(&mut self, node: usize) {
        self.logs_before.push(Arc::clone(&self.nodes[node].log));
        self.nodes[node] = self.serve(node, self.nodes[node].port).await;
    }

    /// Starts the checker, with its clients spread over the nodes, and waits until it is at work.
    pub async fn begin_check(&mut self, door: Door) {
        let ports: Vec<u16> = match door {
            Door::Nodes => self.nodes.iter().map(|node| node.port).collect(),
            Door::Nginx => vec![self.nginx.as_ref().expect("nginx").port],
        };
        let addresses: Vec<String> = ports.iter().map(|port| format!("https://localhost:{port}")).collect();
        self.checks += 1;
        self.spans.clear();
        self.check = Some(Checker::begin(&self.ground, &addresses, &format!("history-{}.jsonl", self.checks)).await);
    }

    fn checker(&mut self) -> &mut Checker {
        self.check.as_mut().expect("the checker is at work")
    }

    /// Waits until this many more messages are acknowledged: the service works.
    pub async fn acks(&mut self, more: u64) {
        self.checker().acks(more).await;
    }

    /// From here on the fault is there.
    pub fn fault_begins(&mut self) {
        self.began_us = Some(self.checker().now_us());
    }

    /// The fault is gone, though what it did may not be healed.
    pub fn fault_ends(&mut self) {
        let began_us = self.began_us.take().expect("a fault began");
        let ended_us = self.checker().now_us();
        self.spans.push((began_us, ended_us));
    }

    /// Holds the stage as it is, for a time that belongs to the fault.
    pub async fn hold(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }

    pub fn set_proxies(&self, mode: Mode) {
        for proxy in &self.proxies {
            proxy.set(mode);
        }
    }

    pub fn cut_proxies(&self) {
        for proxy in &self.proxies {
            proxy.cut_all();
        }
    }

    /// How often the proxies in front of Redis did something.
    pub fn bites(&self) -> u64 {
        self.proxies.iter().map(Proxy::bites).sum()
    }

    /// Connections that are subscribed to something, on every Redis.
    pub async fn subscribers(&self) -> u64 {
        let mut subscribers = 0;
        for redis in &self.redis {
            subscribers += redis.subscribers().await;
        }
        subscribers
    }

    /// How often the nodes of this stage have logged a text.
    pub fn said(&self, text: &str) -> u64 {
        let logs = self.logs_before.iter().chain(self.nodes.iter().map(|node| &node.log));
        logs.map(|log| log.lock().unwrap().iter().filter(|line| line.contains(text)).count() as u64).sum()
    }

    /// Waits until the nodes have logged this text oftener than `before`.
    pub async fn says(&self, text: &str, before: u64) {
        let mut polls = tokio::time::interval(POLL);
        within(async {
            while self.said(text) <= before {
                polls.tick().await;
            }
        })
        .await;
    }

    /// Ends the sending, and lets the checker judge: what came of it, or what is wrong.
    pub async fn judge(&mut self) -> Result<Outcome, String> {
        let judged = self.check.take().expect("the checker is at work").judge().await.map_err(|error| {
            let tails: Vec<Vec<String>> = self.nodes.iter().map(tail).collect();
            format!("{error}; the nodes said {tails:#?}")
        })?;
        Ok(Outcome { judged, spans: std::mem::take(&mut self.spans) })
    }

    /// Stops every node: whether all ended well.
    pub async fn stop(mut self) -> Result<(), String> {
        for (number, node) in self.nodes.iter_mut().enumerate() {
            let status = node.stop().await;
            if status.code() != Some(0) {
                return Err(format!("node {number} ended with {status}; it said {:#?}", tail(node)));
            }
        }
        Ok(())
    }
}

/// What a node said last, without its lines of calls.
fn tail(node: &Process) -> Vec<String> {
    let log = node.log.lock().unwrap();
    log.iter().rev().filter(|line| !line.contains("chat_service::rpc")).take(12).cloned().collect()
}

/// As options have it.
pub fn millis(time: Duration) -> String {
    format!("{}ms", time.as_millis())
}

/// Kills a node as a crash does, and waits until it is gone; whether it was killed.
pub async fn kill(node: &mut Process) -> bool {
    use std::os::unix::process::ExitStatusExt;
    node.child.start_kill().unwrap();
    node.child.wait().await.unwrap().signal() == Some(9)
}

/// Freezes a node: its connections stay, and nothing is answered.
pub async fn freeze(node: &Process) {
    node.signal("STOP").await;
    programs::is_frozen(node.pid()).await;
}
