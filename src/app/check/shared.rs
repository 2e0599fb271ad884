//! What the run's clients share.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tonic::transport::Endpoint;

use super::history::{Record, Via, Writer};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Sending,
    /// No new messages; what is unsettled is settled.
    Settling,
    /// Readers are delivered the rest.
    Draining,
}

pub struct Shared {
    pub endpoints: Vec<Endpoint>,
    pub chats: Vec<String>,
    pub history: Writer,
    pub phase: watch::Sender<Phase>,
    /// Told once by each client that has nothing unsettled and makes nothing more.
    pub settled: mpsc::UnboundedSender<()>,
    pub patience: Duration,
    pub disconnect_every: Duration,
    pub window: usize,
    pub rate_per_sender: f64,
    pub messages_left: AtomicI64,
    pub progress: Progress,
    /// Clients for which the server lost what they were delivered.
    pub broken: Mutex<Vec<u32>>,
}

#[derive(Default)]
pub struct Progress {
    pub acked: AtomicU64,
    pub delivered: AtomicU64,
    pub rejected: AtomicU64,
    pub connections: AtomicU64,
}

impl Shared {
    pub fn connected(&self, via: Via, node: usize) {
        self.progress.connections.fetch_add(1, Ordering::Relaxed);
        self.history.write(Record::Connected { via, node });
    }

    pub fn acked(&self) {
        self.progress.acked.fetch_add(1, Ordering::Relaxed);
    }

    pub fn delivered(&self) {
        self.progress.delivered.fetch_add(1, Ordering::Relaxed);
    }

    pub fn rejected(&self) {
        self.progress.rejected.fetch_add(1, Ordering::Relaxed);
    }

    pub fn broken(&self, client: u32) {
        self.broken.lock().unwrap_or_else(PoisonError::into_inner).push(client);
    }

    /// Whether one more message may be made.
    pub fn take_turn(&self) -> bool {
        self.messages_left.fetch_sub(1, Ordering::Relaxed) > 0
    }

    pub fn all_made(&self) -> bool {
        self.messages_left.load(Ordering::Relaxed) <= 0
    }
}
