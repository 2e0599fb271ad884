//! What must reach a stream even while it delivers nothing: the end of its access to a chat.

use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;

use crate::model::ChatId;

/// Why a stream loses a chat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Eviction {
    Removed,
    Deleted,
}

/// One a stream. Bounded by the chats that the stream has joined: each subscription is evicted once.
#[derive(Debug, Default)]
pub struct Mailbox {
    evictions: Mutex<Vec<(ChatId, u64, Eviction)>>,
    arrived: Notify,
}

impl Mailbox {
    pub(super) fn post(&self, chat_id: ChatId, subscription: u64, eviction: Eviction) {
        self.evictions.lock().unwrap_or_else(PoisonError::into_inner).push((chat_id, subscription, eviction));
        self.arrived.notify_one();
    }

    /// Waits for evictions: chat, key of the subscription that is meant, reason. Cancel safe.
    pub async fn take(&self) -> Vec<(ChatId, u64, Eviction)> {
        loop {
            let taken = std::mem::take(&mut *self.evictions.lock().unwrap_or_else(PoisonError::into_inner));
            if !taken.is_empty() {
                return taken;
            }
            self.arrived.notified().await;
        }
    }
}
