//! What must reach a stream even while it delivers nothing: the end of its access to a chat.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use crate::model::ChatId;

/// Why a stream loses a chat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Eviction {
    Removed,
    Deleted,
}

/// One a stream. Bounded by the chats that the stream has joined: each subscription is evicted once.
#[derive(Debug, Default)]
pub struct Mailbox(Mutex<Posted>);

/// Chat, key of the subscription that is meant, reason.
type Posting = (ChatId, u64, Eviction);

#[derive(Debug, Default)]
struct Posted {
    evictions: Vec<Posting>,
    reader: Option<Waker>,
}

impl Mailbox {
    pub(super) fn post(&self, chat_id: ChatId, subscription: u64, eviction: Eviction) {
        let mut posted = self.lock();
        posted.evictions.push((chat_id, subscription, eviction));
        let reader = posted.reader.take();
        drop(posted);
        if let Some(reader) = reader {
            reader.wake();
        }
    }

    /// The evictions that have come, or none until the one reader is woken.
    pub fn poll_take(&self, cx: &mut Context<'_>) -> Poll<Vec<Posting>> {
        let mut posted = self.lock();
        if !posted.evictions.is_empty() {
            return Poll::Ready(std::mem::take(&mut posted.evictions));
        }
        match &mut posted.reader {
            Some(reader) => reader.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        Poll::Pending
    }

    fn lock(&self) -> MutexGuard<'_, Posted> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
