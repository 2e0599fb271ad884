//! From a committed message to the streams that want it.
//!
//! The broker's contract: [`Broker::publish`] and [`Broker::announce`] are best effort. Losing what they carry loses no
//! message and keeps nobody in: streams read what they missed from the repository, and the sweep notices what no stream
//! could. Whatever comes, from this node or another, ends in [`Registry::deliver`] and [`Registry::evict`], the single way into this process's streams.

mod channel;
mod early;
mod local;
mod mailbox;
mod recent;
mod redis;
mod registry;
mod shared_read;
mod stats;

use std::sync::Arc;
use std::sync::OnceLock;

use async_trait::async_trait;
use bytes::Bytes;

pub use self::redis::RedisBroker;
pub use local::LocalBroker;
pub use mailbox::{Eviction, Mailbox};
pub use registry::{Hole, Holes, Interest, Registry, Subscription};
pub use shared_read::SharedRead;
pub use stats::{BrokerState, BrokerStats};

use crate::model::{ChatId, Message, UserId};
use crate::observe::trace::Origin;

/// A committed message on its way to streams, encoded once for all of them.
#[derive(Debug)]
pub struct Delivery {
    pub message: Message,
    /// The span that sent it, at whichever node, where that is traced: what becomes of it is part of the same trace.
    pub origin: Option<Origin>,
    encoded: OnceLock<Bytes>,
}

impl Delivery {
    pub fn new(message: Message) -> Arc<Self> {
        Self::traced(message, None)
    }

    pub fn traced(message: Message, origin: Option<Origin>) -> Arc<Self> {
        Arc::new(Self { message, origin, encoded: OnceLock::new() })
    }

    /// The bytes that go to a stream; `encode` runs for the first that asks.
    pub fn encoded(&self, encode: impl FnOnce(&Message) -> Bytes) -> &Bytes {
        self.encoded.get_or_init(|| encode(&self.message))
    }
}

/// Who loses access to a chat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AccessEnd {
    Removed {
        chat_id: ChatId,
        user_id: UserId,
        /// The chat's, from the removal on: somebody who is known to be a member at this version or a later one was added again, and
        /// stays. `None`: a node that doesn't tell it.
        access_version: Option<i64>,
    },
    Deleted {
        chat_id: ChatId,
    },
}

/// Messages and announcements, each counted once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FrameCounts {
    pub messages: usize,
    pub announcements: usize,
}

/// What waits to reach other nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backlog {
    /// Where there is a way to them.
    pub queued: FrameCounts,
    /// Where there is none now.
    pub kept: FrameCounts,
}

#[async_trait]
pub trait Broker: Send + Sync {
    /// Takes committed messages to every node's streams; those of one chat in the order of their sequence.
    async fn publish(&self, messages: Vec<Arc<Delivery>>);

    /// Takes the end of somebody's access to every node's streams.
    async fn announce(&self, end: AccessEnd);

    /// Waits until what other nodes publish in the chat, which has a stream here, reaches this one. Not for long, and not at all where that
    /// can't be had now: what is missed the sweep brings.
    async fn listening(&self, _chat_id: ChatId) {}

    /// What waits now; nothing where there is one node only.
    fn backlog(&self) -> Backlog {
        Backlog::default()
    }
}
