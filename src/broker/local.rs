//! The broker of a single node: straight into the registry.

use std::sync::Arc;

use async_trait::async_trait;

use super::{AccessEnd, Broker, Delivery, Registry};

pub struct LocalBroker {
    registry: Arc<Registry>,
}

impl LocalBroker {
    pub fn new(registry: Arc<Registry>) -> Self {
        Self { registry }
    }
}

#[async_trait]
impl Broker for LocalBroker {
    async fn publish(&self, messages: Vec<Arc<Delivery>>) {
        for message in messages {
            self.registry.deliver(message);
        }
    }

    async fn announce(&self, end: AccessEnd) {
        self.registry.evict(&end);
    }
}
