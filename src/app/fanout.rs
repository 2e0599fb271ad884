//! What carries messages to streams: this process alone, or several nodes by Redis.

use std::sync::Arc;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::broker::{Broker, BrokerStats, Holes, LocalBroker, RedisBroker, Registry};
use crate::client::redis::{RedisUrlError, Seeds, Servers};
use crate::config::RedisConfig;
use crate::ratelimiter::RateLimiter;
use crate::ratelimiter::memory::{MemoryLimiter, Rates};
use crate::ratelimiter::redis::RedisLedger;
use crate::ratelimiter::shared::SharedLimiter;
use crate::repository::MessageRepository;
use crate::service::run_healer;

pub(super) struct Fanout {
    pub registry: Arc<Registry>,
    pub broker: Arc<dyn Broker>,
    pub stats: Arc<BrokerStats>,
    nodes: Option<Nodes>,
}

/// Of a node that isn't alone.
struct Nodes {
    broker: Arc<RedisBroker>,
    servers: Arc<Servers>,
    prefix: String,
    holes: Option<Holes>,
    stop: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
}

impl Fanout {
    /// A Redis that isn't there only makes it slow: then it is tried for ever.
    pub async fn start(redis: Option<&RedisConfig>) -> Result<Self, RedisUrlError> {
        let stats = Arc::new(BrokerStats::default());
        let Some(redis) = redis else {
            let registry = Registry::new();
            return Ok(Self { broker: Arc::new(LocalBroker::new(Arc::clone(&registry))), registry, stats, nodes: None });
        };
        let stop = CancellationToken::new();
        let servers = Servers::start(Seeds::parse(&redis.urls)?, stop.clone());
        let (broker, registry, holes) = RedisBroker::start(Arc::clone(&servers), &redis.prefix, Arc::clone(&stats));
        broker.started().await;
        let nodes =
            Nodes { broker: Arc::clone(&broker), servers, prefix: redis.prefix.clone(), holes: Some(holes), stop, tasks: Vec::new() };
        Ok(Self { registry, broker, stats, nodes: Some(nodes) })
    }

    /// Reads for streams what other nodes' messages show to be missing, until [`Fanout::stop`].
    pub fn heal(&mut self, messages: Arc<dyn MessageRepository>) {
        if let Some(nodes) = &mut self.nodes
            && let Some(holes) = nodes.holes.take()
        {
            nodes.tasks.push(tokio::spawn(run_healer(messages, Arc::clone(&self.registry), holes, nodes.stop.clone())));
        }
    }

    /// Counts by this node, or by all of them together.
    pub fn limiter(&mut self, rates: Rates) -> Arc<dyn RateLimiter> {
        match &mut self.nodes {
            None => Arc::new(MemoryLimiter::new(rates)),
            Some(nodes) => {
                let limiter = SharedLimiter::new(rates);
                let ledger = Arc::new(RedisLedger::new(Arc::clone(&nodes.servers), &nodes.prefix));
                nodes.tasks.push(tokio::spawn(Arc::clone(&limiter).run(ledger, nodes.stop.clone())));
                limiter
            }
        }
    }

    /// Publishes what waits, and ends.
    pub async fn stop(self) {
        if let Some(mut nodes) = self.nodes {
            nodes.broker.stop().await;
            nodes.stop.cancel();
            for task in std::mem::take(&mut nodes.tasks) {
                drop(task.await);
            }
        }
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}
