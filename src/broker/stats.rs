//! What the fan-out between nodes has done: counters to be read by whoever shows them.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::watch;

use crate::observe::metrics;

/// Whether messages go between nodes at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BrokerState {
    /// At once; also where there is one node only.
    #[default]
    Up,
    /// It isn't known yet.
    Starting,
    /// Only when the sweep finds them: Redis, or one server of the Cluster, is away.
    Degraded,
}

/// Counts since the start. On a single node they stay 0.
#[derive(Debug, Default)]
pub struct BrokerStats {
    state: watch::Sender<BrokerState>,
    degradations: AtomicU64,
    published: AtomicU64,
    dropped: AtomicU64,
    received: AtomicU64,
    malformed: AtomicU64,
    unknown_version: AtomicU64,
}

impl BrokerStats {
    pub fn state(&self) -> BrokerState {
        *self.state.borrow()
    }

    pub fn states(&self) -> watch::Receiver<BrokerState> {
        self.state.subscribe()
    }

    /// How often it became [`BrokerState::Degraded`].
    pub fn degradations(&self) -> u64 {
        self.degradations.load(Ordering::Relaxed)
    }

    /// Messages and announcements that Redis has taken.
    pub fn published(&self) -> u64 {
        self.published.load(Ordering::Relaxed)
    }

    /// Those that it never will, because it was away, slow, or refused them. The streams get what they carried by a newer message of the chat,
    /// which shows that they are missing, or by the sweep.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Messages and announcements that came from other nodes.
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// What came and could not be read.
    pub fn malformed(&self) -> u64 {
        self.malformed.load(Ordering::Relaxed)
    }

    /// What came in a format that this version doesn't know.
    pub fn unknown_version(&self) -> u64 {
        self.unknown_version.load(Ordering::Relaxed)
    }

    /// Returns whether that is news.
    pub(super) fn turn(&self, state: BrokerState) -> bool {
        let before = self.state.send_replace(state);
        metrics::BROKER_UP.set(i64::from(state == BrokerState::Up));
        if state == BrokerState::Degraded && before != state {
            self.degradations.fetch_add(1, Ordering::Relaxed);
        }
        before != state
    }

    pub(super) fn count_published(&self, count: usize) {
        add(&self.published, count);
    }

    pub(super) fn count_dropped(&self, count: usize) {
        add(&self.dropped, count);
        metrics::BROKER_PUBLISH_FAILURES.add(count as u64);
    }

    pub(super) fn count_received(&self) {
        add(&self.received, 1);
    }

    pub(super) fn count_malformed(&self) {
        add(&self.malformed, 1);
    }

    pub(super) fn count_unknown_version(&self) {
        add(&self.unknown_version, 1);
    }
}

fn add(counter: &AtomicU64, count: usize) {
    counter.fetch_add(count as u64, Ordering::Relaxed);
}
