//! The streams of this process, by chat: each chat with a stream has a broadcast channel, gone with its last subscriber.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::{Notify, broadcast, mpsc};
use tokio::time::Instant;

use super::channel::{Channel, State, Stream, lock};
use super::{AccessEnd, Delivery, Eviction, Mailbox, SharedRead};
use crate::model::{ChatId, ChatPosition, UserId};

const SHARDS: usize = 16;
/// Chats with holes that wait to be looked after. A hole beyond it is left to the sweep.
const HOLES_MAX: usize = 1_024;
/// Messages that a stream a little behind takes at once.
const RECENT_AT_ONCE: usize = 64;

/// Lock order: shard, then chat.
pub struct Registry {
    shards: [Mutex<HashMap<ChatId, Arc<Channel>>>; SHARDS],
    next_key: AtomicU64,
    subscriptions: AtomicUsize,
    missed: Notify,
    /// Where other nodes publish too.
    shared: Option<Shared>,
}

struct Shared {
    interest: Arc<dyn Interest>,
    holes: mpsc::Sender<ChatId>,
    told: AtomicU64,
}

/// Whoever must know which chats have streams here. Called in the order in which it happens, and under a lock: must not wait, nor call back.
pub trait Interest: Send + Sync {
    /// The chat has its first stream here.
    fn begins(&self, chat_id: ChatId);

    /// Its last one is gone.
    fn ends(&self, chat_id: ChatId);
}

/// Chats in which messages came early, for whoever reads what is missing.
pub struct Holes(mpsc::Receiver<ChatId>);

impl Holes {
    /// The next chat; what its hole is, and whether it still is one, tells [`Registry::hole`].
    pub async fn next(&mut self) -> Option<ChatId> {
        self.0.recv().await
    }
}

/// Messages that are missing between what went through and what was heard of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hole {
    /// The last sequence that went through.
    pub head: i64,
    /// Since when.
    pub since: Instant,
}

impl Registry {
    /// Of a node that is alone.
    pub fn new() -> Arc<Self> {
        Self::with(None)
    }

    /// Of one node among several.
    pub fn shared(interest: Arc<dyn Interest>) -> (Arc<Self>, Holes) {
        let (sender, receiver) = mpsc::channel(HOLES_MAX);
        (Self::with(Some(Shared { interest, holes: sender, told: AtomicU64::new(0) })), Holes(receiver))
    }

    fn with(shared: Option<Shared>) -> Arc<Self> {
        Arc::new(Self {
            shards: std::array::from_fn(|_| Mutex::default()),
            next_key: AtomicU64::new(1),
            subscriptions: AtomicUsize::new(0),
            missed: Notify::new(),
            shared,
        })
    }

    /// Subscribes a stream to a chat. Subscribe first and read the chat's position after: then nothing falls between.
    pub fn subscribe(
        self: &Arc<Self>,
        chat_id: ChatId,
        user_id: UserId,
        trusted: bool,
        mailbox: Arc<Mailbox>,
    ) -> (Subscription, broadcast::Receiver<Arc<Delivery>>) {
        let key = self.next_key.fetch_add(1, Ordering::Relaxed);
        let mut shard = self.shard(chat_id);
        let channel = match shard.entry(chat_id) {
            Entry::Occupied(known) => Arc::clone(known.get()),
            Entry::Vacant(new) => {
                if let Some(shared) = &self.shared {
                    shared.interest.begins(chat_id);
                }
                Arc::clone(new.insert(Channel::new()))
            }
        };
        let receiver = channel.sender.subscribe();
        channel.state().streams.insert(key, Stream { user_id, trusted, mailbox, member_at: None, removed_at: None });
        drop(shard);
        self.subscriptions.fetch_add(1, Ordering::Relaxed);
        (Subscription { registry: Arc::clone(self), channel, chat_id, key }, receiver)
    }

    /// Takes a message to this process's streams of its chat. One that went through before is dropped. Of a node that is alone, a message
    /// behind a hole goes through, and each stream reads what it lacks; among several nodes it is held until its turn comes.
    pub fn deliver(&self, delivery: Arc<Delivery>) {
        let chat_id = delivery.message.chat_id;
        let Some(channel) = self.channel(chat_id) else { return };
        let mut state = channel.state();
        match &self.shared {
            None => channel.deliver(&mut state, delivery),
            Some(shared) => {
                if channel.deliver_in_order(&mut state, delivery) {
                    shared.tell(chat_id, &mut state);
                }
            }
        }
    }

    /// What is missing in a chat that [`Holes`] named. `None`: nothing, and the chat will be named again when something is.
    pub fn hole(&self, chat_id: ChatId) -> Option<Hole> {
        let channel = self.channel(chat_id)?;
        let mut state = channel.state();
        let head = state.head?;
        Some(Hole { head, since: state.early.hole(head)? })
    }

    /// The repository has no message beyond this one: what was heard of such is forgotten.
    pub fn nothing_beyond(&self, chat_id: ChatId, last_sequence: i64) {
        if let Some(channel) = self.channel(chat_id) {
            channel.state().early.nothing_beyond(last_sequence);
        }
    }

    /// What is missing can't be read now: it is left to the sweep.
    pub fn leave_hole(&self, chat_id: ChatId) {
        if let Some(channel) = self.channel(chat_id) {
            channel.state().early.give_up();
        }
    }

    /// Tells streams that their access to a chat has ended. A removal that comes late, when its user was added again, ends nothing.
    pub fn evict(&self, end: &AccessEnd) {
        match end {
            AccessEnd::Removed { chat_id, user_id, access_version } => self.evict_where(*chat_id, Eviction::Removed, |stream| {
                !stream.trusted && stream.user_id == *user_id && stream.is_ended_by_removal(*access_version)
            }),
            AccessEnd::Deleted { chat_id } => self.evict_where(*chat_id, Eviction::Deleted, |_| true),
        }
    }

    /// Evicts the streams whose user is not among `members`, as far as they were there before `before`, a
    /// [`Registry::watermark`] taken before the members were read, which was behind `position`. Of the others it is known then that
    /// their users were members at its version or later. One that still joins tells its version itself, and one whose user was seen to be a
    /// member at a later version stays: the next look is at that one.
    ///
    /// A version below what is known is of a look that was overtaken by a join, or of a store that was restored from an older backup: it
    /// counts when it is seen once more. Returns whether it counted.
    pub fn evict_strangers(&self, position: &ChatPosition, members: &HashSet<UserId>, before: u64) -> bool {
        let Some(channel) = self.channel(position.chat_id) else { return true };
        let version = position.access_version;
        let mut state = channel.state();
        let fell = state.access_version.is_some_and(|known| version < known);
        let seen_before = state.fell_to.replace(version) == Some(version);
        if fell && !seen_before {
            return false;
        }
        state.fell_to = None;
        for (key, stream) in state.streams.iter_mut().filter(|(key, stream)| **key < before && !stream.trusted) {
            match (members.contains(&stream.user_id), &mut stream.member_at) {
                (true, Some(member_at)) => *member_at = if fell { version } else { version.max(*member_at) },
                (true, None) => {}
                (false, None) => stream.removed_at = stream.removed_at.max(Some(version + 1)),
                (false, Some(member_at)) if *member_at > version && !fell => {}
                (false, Some(_)) => stream.mailbox.post(position.chat_id, *key, Eviction::Removed),
            }
        }
        true
    }

    fn evict_where(&self, chat_id: ChatId, eviction: Eviction, mut affected: impl FnMut(&mut Stream) -> bool) {
        let Some(channel) = self.channel(chat_id) else { return };
        for (key, stream) in &mut channel.state().streams {
            if affected(stream) {
                stream.mailbox.post(chat_id, *key, eviction);
            }
        }
    }

    /// Says that messages and ends of access may have been lost on their way to this node.
    pub fn may_have_missed(&self) {
        self.missed.notify_one();
    }

    /// Waits until that has been said, however often, since the last time. For one who waits; cancel safe.
    pub async fn missed(&self) {
        self.missed.notified().await;
    }

    /// Subscriptions made from now on have keys at or above this.
    pub fn watermark(&self) -> u64 {
        self.next_key.load(Ordering::Relaxed)
    }

    /// The chats that have streams here.
    pub fn chats(&self) -> Vec<ChatId> {
        self.shards.iter().flat_map(|shard| lock(shard).keys().copied().collect::<Vec<_>>()).collect()
    }

    /// The last sequence that went through, where the chat's position says that more was committed.
    pub fn behind(&self, position: &ChatPosition) -> Option<i64> {
        let channel = self.channel(position.chat_id)?;
        let head = channel.state().head?;
        (head < position.last_sequence).then_some(head)
    }

    /// Whether the chat's access version is another than its streams were checked against.
    pub fn access_moved(&self, position: &ChatPosition) -> bool {
        self.channel(position.chat_id).is_some_and(|channel| channel.state().access_version != Some(position.access_version))
    }

    /// Notes that the chat's streams were checked against this version.
    pub fn access_checked(&self, position: &ChatPosition) {
        if let Some(channel) = self.channel(position.chat_id) {
            channel.state().access_version = Some(position.access_version);
        }
    }

    /// Lets go of messages that were kept for streams a little behind, where that is long enough ago.
    pub fn forget_recent(&self) {
        let now = Instant::now();
        for shard in &self.shards {
            let channels: Vec<_> = lock(shard).values().cloned().collect();
            channels.iter().for_each(|channel| channel.state().recent.forget(now));
        }
    }

    /// Subscriptions alive, for metrics and tests.
    pub fn subscription_count(&self) -> usize {
        self.subscriptions.load(Ordering::Relaxed)
    }

    /// How often a message came so early that somebody was told, for metrics and tests.
    pub fn hole_count(&self) -> u64 {
        self.shared.as_ref().map_or(0, |shared| shared.told.load(Ordering::Relaxed))
    }

    fn channel(&self, chat_id: ChatId) -> Option<Arc<Channel>> {
        self.shard(chat_id).get(&chat_id).cloned()
    }

    fn shard(&self, chat_id: ChatId) -> MutexGuard<'_, HashMap<ChatId, Arc<Channel>>> {
        lock(&self.shards[chat_id.spread() % SHARDS])
    }
}

impl Shared {
    fn tell(&self, chat_id: ChatId, state: &mut State) {
        self.told.fetch_add(1, Ordering::Relaxed);
        if self.holes.try_send(chat_id).is_err() {
            state.early.give_up();
        }
    }
}

/// A stream's place in a chat; dropping it gives the place up.
pub struct Subscription {
    registry: Arc<Registry>,
    channel: Arc<Channel>,
    chat_id: ChatId,
    key: u64,
}

impl Subscription {
    pub fn key(&self) -> u64 {
        self.key
    }

    /// The chat's messages behind `sequence`, ascending, and the last sequence that went through, if all up to that are still here; of many
    /// the first ones.
    pub fn recent(&self, sequence: i64) -> Option<(Vec<Arc<Delivery>>, i64)> {
        let state = self.channel.state();
        let head = state.head?;
        if sequence >= head {
            return Some((Vec::new(), head));
        }
        // Whoever publishes waits for this lock.
        Some((state.recent.after(sequence)?.take(RECENT_AT_ONCE).cloned().collect(), head))
    }

    /// For each try of a stream to read what is behind `sequence` from the repository.
    pub fn share_read(&self, sequence: i64) -> impl Fn() -> SharedRead + use<> {
        let channel = Arc::clone(&self.channel);
        move || SharedRead::new(Arc::clone(&channel), sequence)
    }

    /// Notes where the chat stood when this stream's membership was checked. The sweep checks again from the oldest version
    /// that any stream was checked against, and a removal ends this stream's access where it is behind this version.
    ///
    /// Returns the sequence up to which the channel brings nothing more, at least `last_sequence`: another stream may have
    /// joined later in the chat, and what was published up to there is dropped. A stream that has less must read it.
    pub fn joined_at(&self, last_sequence: i64, access_version: i64) -> i64 {
        let mut state = self.channel.state();
        if let Some(stream) = state.streams.get_mut(&self.key)
            && stream.joined_at(access_version)
        {
            stream.mailbox.post(self.chat_id, self.key, Eviction::Removed);
        }
        state.access_version = Some(state.access_version.map_or(access_version, |known| known.min(access_version)));
        let head = *state.head.get_or_insert(last_sequence);
        // What came while nobody had joined.
        if let Some(shared) = &self.registry.shared
            && self.channel.catch_up(&mut state)
        {
            shared.tell(self.chat_id, &mut state);
        }
        last_sequence.max(head)
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut shard = self.registry.shard(self.chat_id);
        let empty = {
            let mut state = self.channel.state();
            state.streams.remove(&self.key);
            state.streams.is_empty()
        };
        if empty {
            shard.remove(&self.chat_id);
            if let Some(shared) = &self.registry.shared {
                shared.interest.ends(self.chat_id);
            }
        }
        drop(shard);
        self.registry.subscriptions.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;
