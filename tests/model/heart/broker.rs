//! Fan-out at its worst: it drops, repeats, holds back and swaps deliveries, and drops announcements.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use chat_service::broker::{AccessEnd, Broker, Delivery, Registry};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::time::sleep;

/// The longest that a delivery is held back.
const HELD_MILLIS_MAX: u64 = 700;

pub struct ChaosBroker {
    registry: Arc<Registry>,
    dice: Mutex<StdRng>,
    /// How many deliveries and announcements are dropped, as a probability; at 1 only the sweep and the sessions' own reads deliver.
    drops: f64,
    /// How many deliveries are repeated, held back or swapped.
    mischief: f64,
}

impl ChaosBroker {
    pub fn new(registry: Arc<Registry>, seed: u64, drops: f64, mischief: f64) -> Self {
        Self { registry, dice: Mutex::new(StdRng::seed_from_u64(seed)), drops, mischief }
    }

    /// When each delivery goes out; those that are missing never do.
    fn plan(&self, messages: Vec<Arc<Delivery>>) -> Vec<(Duration, Arc<Delivery>)> {
        let mut dice = self.dice.lock().unwrap();
        let mut plan = Vec::new();
        for message in messages {
            if dice.random_bool(self.drops) {
                continue;
            }
            let late = |dice: &mut StdRng| Duration::from_millis(dice.random_range(1..HELD_MILLIS_MAX));
            let first = if dice.random_bool(self.mischief) { late(&mut dice) } else { Duration::ZERO };
            if dice.random_bool(self.mischief) {
                plan.push((late(&mut dice), Arc::clone(&message)));
            }
            plan.push((first, message));
            if plan.len() > 1 && dice.random_bool(self.mischief) {
                let last = plan.len() - 1;
                plan.swap(last - 1, last);
            }
        }
        plan
    }
}

#[async_trait]
impl Broker for ChaosBroker {
    async fn publish(&self, messages: Vec<Arc<Delivery>>) {
        for (wait, message) in self.plan(messages) {
            if wait.is_zero() {
                self.registry.deliver(message);
            } else {
                let registry = Arc::clone(&self.registry);
                tokio::spawn(async move {
                    sleep(wait).await;
                    registry.deliver(message);
                });
            }
        }
    }

    async fn announce(&self, end: AccessEnd) {
        let dropped = self.dice.lock().unwrap().random_bool(self.drops);
        if !dropped {
            self.registry.evict(&end);
        }
    }
}
