//! One chat that has streams here.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, broadcast};

use super::early::Early;
use super::recent::Recent;
use super::{Delivery, Mailbox};
use crate::model::UserId;

/// Messages that a chat's channel holds for streams that are a little behind. One that falls further behind is told so by
/// the channel, and takes what it lacks from [`Recent`], or reads it from the repository.
const RING_SLOTS: usize = 32;

pub(super) struct Channel {
    pub sender: broadcast::Sender<Arc<Delivery>>,
    /// A read for the chat's streams has ended.
    pub read: Notify,
    state: Mutex<State>,
}

#[derive(Default)]
pub(super) struct State {
    /// The last sequence that went through; unknown until the first delivery or join.
    pub head: Option<i64>,
    /// The access version that the streams were last checked against.
    pub access_version: Option<i64>,
    /// A lower version that the sweep has seen once.
    pub fell_to: Option<i64>,
    pub streams: HashMap<u64, Stream>,
    /// Used where other nodes publish too.
    pub early: Early,
    /// Ends at `head`.
    pub recent: Recent,
    /// A stream reads what others may lack, too.
    pub reading: bool,
}

pub(super) struct Stream {
    pub user_id: UserId,
    /// Of a trusted role: reads without being a member.
    pub trusted: bool,
    pub mailbox: Arc<Mailbox>,
    /// At which access version its user was known to be a member, at least; unknown until it has joined.
    pub member_at: Option<i64>,
    /// The newest version at which its user was removed while it joined.
    pub removed_at: Option<i64>,
}

impl Stream {
    /// Whether its user's removal ends its access. What isn't known yet is noted, for when it has joined.
    pub fn is_ended_by_removal(&mut self, access_version: Option<i64>) -> bool {
        match (self.member_at, access_version) {
            (_, None) => true,
            (Some(member_at), Some(removed_at)) => removed_at > member_at,
            (None, removed_at) => {
                self.removed_at = self.removed_at.max(removed_at);
                false
            }
        }
    }

    /// Notes that its user was a member at a version. Returns whether it was removed behind that.
    pub fn joined_at(&mut self, access_version: i64) -> bool {
        self.member_at = Some(access_version);
        self.removed_at.take().is_some_and(|removed_at| removed_at > access_version)
    }
}

impl Channel {
    pub fn new() -> Arc<Self> {
        Arc::new(Self { sender: broadcast::Sender::new(RING_SLOTS), read: Notify::new(), state: Mutex::default() })
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Takes a message from this node. One that went through before is dropped; behind a hole the message goes through and each
    /// stream reads what it lacks. Under the lock of `state`, so that the ring's order is the order of sequences.
    pub fn deliver(&self, state: &mut State, delivery: Arc<Delivery>) {
        let sequence = delivery.message.sequence;
        if state.head.is_none_or(|head| sequence > head) {
            self.pass(state, delivery);
        }
    }

    /// Takes a message from any node. One that went through before is dropped, one that comes early is held. Returns whether there is
    /// a hole now that somebody must be told of.
    pub fn deliver_in_order(&self, state: &mut State, delivery: Arc<Delivery>) -> bool {
        let sequence = delivery.message.sequence;
        match state.head {
            Some(head) if sequence <= head => return false,
            Some(head) if sequence - 1 == head => self.pass(state, delivery),
            // Without a head nobody has joined yet: whoever does begins where the repository stands.
            Some(_) | None => state.early.hold(delivery),
        }
        self.catch_up(state)
    }

    /// Lets through what was held and whose turn has come. Returns whether there is a hole now that somebody must be told of.
    pub fn catch_up(&self, state: &mut State) -> bool {
        while let Some(next) = state.head.and_then(|head| state.early.next(head)) {
            self.pass(state, next);
        }
        state.head.is_some_and(|head| state.early.must_tell(head))
    }

    fn pass(&self, state: &mut State, delivery: Arc<Delivery>) {
        state.head = Some(delivery.message.sequence);
        state.early.moved();
        state.recent.push(Arc::clone(&delivery));
        // An error says that nobody listens.
        drop(self.sender.send(delivery));
    }
}

/// What these locks guard is consistent after each statement, so a panic elsewhere spoils nothing.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
