//! The link to one server: two connections, one to publish on and one to listen on, each of which comes back by itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tokio_util::sync::CancellationToken;

use super::subscriptions::LinkId;
use super::{Shared, listener, publisher};
use crate::broker::FrameCounts;
use crate::client::redis::Server;

/// Messages that wait to be published on a server. What comes beyond is kept ([`super::kept`]).
const MESSAGES_MAX: usize = 8_192;
/// Announcements that wait; they go before messages. What comes beyond is kept likewise.
const ANNOUNCEMENTS_MAX: usize = 1_024;

/// What is to be published.
pub(super) struct Frame {
    pub channel: String,
    pub payload: Vec<u8>,
    /// Of a message; `None`: it announces the end of somebody's access.
    pub sequence: Option<i64>,
}

pub(super) struct Link {
    pub id: LinkId,
    pub server: Server,
    /// Whether chats are spread over the servers of a Cluster.
    pub is_sharded: bool,
    messages: mpsc::Sender<Frame>,
    announcements: mpsc::Sender<Frame>,
    pub publishes: AtomicBool,
    pub listens: AtomicBool,
    /// Ends the link, when its server has left the Cluster or this node stops.
    pub stop: CancellationToken,
}

/// What waits to be published.
pub(super) struct Waiting {
    pub messages: mpsc::Receiver<Frame>,
    pub announcements: mpsc::Receiver<Frame>,
}

impl Link {
    pub fn new(shared: &Shared, id: LinkId, server: Server, is_sharded: bool) -> (Arc<Self>, Waiting) {
        let (messages, waiting_messages) = mpsc::channel(MESSAGES_MAX);
        let (announcements, waiting_announcements) = mpsc::channel(ANNOUNCEMENTS_MAX);
        let link = Self {
            id,
            server,
            is_sharded,
            messages,
            announcements,
            publishes: AtomicBool::new(false),
            listens: AtomicBool::new(false),
            stop: shared.stop.child_token(),
        };
        (Arc::new(link), Waiting { messages: waiting_messages, announcements: waiting_announcements })
    }

    /// Starts its tasks. By then [`super::subscriptions`] must know the link.
    pub fn start(self: &Arc<Self>, shared: &Arc<Shared>, waiting: Waiting) {
        shared.tasks.spawn(publisher::run(Arc::clone(shared), Arc::clone(self), waiting));
        shared.tasks.spawn(listener::run(Arc::clone(shared), Arc::clone(self)));
    }

    pub fn is_up(&self) -> bool {
        self.publishes.load(Ordering::Relaxed) && self.listens.load(Ordering::Relaxed)
    }

    /// Queues a frame; never waits. Gives it back where the server is away, or there is no room.
    pub fn publish(&self, frame: Frame) -> Result<(), Frame> {
        if !self.takes_frames() {
            return Err(frame);
        }
        let queue = if frame.sequence.is_none() { &self.announcements } else { &self.messages };
        queue.try_send(frame).map_err(TrySendError::into_inner)
    }

    /// What waits to be published.
    pub fn queued(&self) -> FrameCounts {
        let used = |queue: &mpsc::Sender<Frame>| queue.max_capacity() - queue.capacity();
        FrameCounts { messages: used(&self.messages), announcements: used(&self.announcements) }
    }

    /// Whether a frame has a chance to be published soon.
    pub fn takes_frames(&self) -> bool {
        self.publishes.load(Ordering::Relaxed)
    }
}
