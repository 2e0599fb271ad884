//! `/metrics`: what the process counts, and what this server is asked when somebody looks.

use std::sync::{Arc, Weak};

use crate::broker::{Backlog, Broker, Registry};
use crate::observe::text::Text;
use crate::observe::{metrics, process};
use crate::repository::ChatRepository;
use crate::service::ChatService;

/// Whom to ask.
#[derive(Clone)]
pub struct Metrics {
    /// Weak: a server stops when its last stream has dropped the service.
    pub service: Weak<ChatService>,
    pub registry: Arc<Registry>,
    pub broker: Arc<dyn Broker>,
    pub chats: Arc<dyn ChatRepository>,
}

impl Metrics {
    /// In Prometheus's format.
    pub fn text(&self) -> String {
        let mut out = Text::default();
        metrics::render(&mut out);
        out.gauge("chat_stream_chats_joined", "Chats joined by streams, each counted for each stream.", self.registry.subscription_count());
        self.queues(&mut out);
        self.pool(&mut out);
        let tasks = tokio::runtime::Handle::current().metrics().num_alive_tasks();
        out.gauge("chat_runtime_tasks", "Tasks that are alive in the runtime.", tasks);
        process::render(&mut out);
        out.into_string()
    }

    fn queues(&self, out: &mut Text) {
        let waiting = self.service.upgrade().map(|service| service.waiting_messages()).unwrap_or_default();
        out.gauge("chat_append_queue_messages", "Messages that wait to be stored.", waiting);
        let Backlog { queued, kept } = self.broker.backlog();
        for (name, help, frames) in [
            ("chat_broker_queue_frames", "What waits to be published, at all Redis servers together.", queued),
            ("chat_broker_kept_frames", "What is kept until a Redis server can take it.", kept),
        ] {
            out.begin(name, "gauge", help);
            for (kind, count) in [("message", frames.messages), ("announcement", frames.announcements)] {
                out.sample(name, &[("kind", kind)], count);
            }
        }
    }

    fn pool(&self, out: &mut Text) {
        let pool = self.chats.pool();
        out.begin("chat_db_pool_connections", "gauge", "Connections of the pool that serves everything but appends.");
        for (state, connections) in [("in_use", pool.in_use), ("idle", pool.idle)] {
            out.sample("chat_db_pool_connections", &[("state", state)], connections);
        }
        out.gauge("chat_db_pool_connections_limit", "Connections that the pool may have.", pool.limit);
    }
}
