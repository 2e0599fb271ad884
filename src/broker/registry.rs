//! The streams of this process, by chat: each chat with a stream has a broadcast channel, gone with its last subscriber.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::broadcast;

use super::{AccessEnd, Delivery, Eviction, Mailbox};
use crate::model::{ChatId, ChatPosition, UserId};

/// Messages that a chat's channel holds for streams that are a little behind. One that falls further behind is told so by
/// the channel and reads from the repository.
const RING_SLOTS: usize = 32;
const SHARDS: usize = 16;

/// Lock order: shard, then chat.
pub struct Registry {
    shards: [Mutex<HashMap<ChatId, Arc<Channel>>>; SHARDS],
    next_key: AtomicU64,
    subscriptions: AtomicUsize,
}

struct Channel {
    sender: broadcast::Sender<Arc<Delivery>>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The last sequence that went through; unknown until the first delivery or join.
    head: Option<i64>,
    /// The access version that the streams were last checked against.
    access_version: Option<i64>,
    streams: HashMap<u64, Stream>,
}

struct Stream {
    user_id: UserId,
    /// Of a trusted role: reads without being a member.
    trusted: bool,
    mailbox: Arc<Mailbox>,
}

impl Registry {
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            shards: std::array::from_fn(|_| Mutex::default()),
            next_key: AtomicU64::new(1),
            subscriptions: AtomicUsize::new(0),
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
        let channel = shard
            .entry(chat_id)
            .or_insert_with(|| Arc::new(Channel { sender: broadcast::Sender::new(RING_SLOTS), state: Mutex::default() }));
        let receiver = channel.sender.subscribe();
        channel.state().streams.insert(key, Stream { user_id, trusted, mailbox });
        let channel = Arc::clone(channel);
        drop(shard);
        self.subscriptions.fetch_add(1, Ordering::Relaxed);
        (Subscription { registry: Arc::clone(self), channel, chat_id, key }, receiver)
    }

    /// Takes a message to this process's streams of its chat. One that went through before is dropped; behind a hole
    /// the message goes through and each stream reads what it lacks.
    pub fn deliver(&self, delivery: Arc<Delivery>) {
        let Some(channel) = self.channel(delivery.message.chat_id) else { return };
        let mut state = channel.state();
        let sequence = delivery.message.sequence;
        if state.head.is_some_and(|head| sequence <= head) {
            return;
        }
        state.head = Some(sequence);
        // Under the lock, so that the ring's order is the order of sequences. An error says that nobody listens.
        drop(channel.sender.send(delivery));
    }

    /// Tells streams that their access to a chat has ended.
    pub fn evict(&self, end: &AccessEnd) {
        match end {
            AccessEnd::Removed { chat_id, user_id } => {
                self.evict_where(*chat_id, Eviction::Removed, |_, stream| !stream.trusted && stream.user_id == *user_id);
            }
            AccessEnd::Deleted { chat_id } => self.evict_where(*chat_id, Eviction::Deleted, |_, _| true),
        }
    }

    /// Evicts the streams whose user is not among `members`, as far as they were there before `before`, a
    /// [`Registry::watermark`] taken before the members were read.
    pub fn evict_strangers(&self, chat_id: ChatId, members: &HashSet<UserId>, before: u64) {
        self.evict_where(chat_id, Eviction::Removed, |key, stream| key < before && !stream.trusted && !members.contains(&stream.user_id));
    }

    fn evict_where(&self, chat_id: ChatId, eviction: Eviction, affected: impl Fn(u64, &Stream) -> bool) {
        let Some(channel) = self.channel(chat_id) else { return };
        for (key, stream) in &channel.state().streams {
            if affected(*key, stream) {
                stream.mailbox.post(chat_id, *key, eviction);
            }
        }
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

    /// Subscriptions alive, for metrics and tests.
    pub fn subscription_count(&self) -> usize {
        self.subscriptions.load(Ordering::Relaxed)
    }

    fn channel(&self, chat_id: ChatId) -> Option<Arc<Channel>> {
        self.shard(chat_id).get(&chat_id).cloned()
    }

    fn shard(&self, chat_id: ChatId) -> MutexGuard<'_, HashMap<ChatId, Arc<Channel>>> {
        lock(&self.shards[chat_id.spread() % SHARDS])
    }
}

impl Channel {
    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

/// What these locks guard is consistent after each statement, so a panic elsewhere spoils nothing.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// Notes where the chat stood when this stream's membership was checked. The sweep checks again from the oldest version
    /// that any stream was checked against.
    ///
    /// Returns the sequence up to which the channel brings nothing more, at least `last_sequence`: another stream may have
    /// joined later in the chat, and what was published up to there is dropped. A stream that has less must read it.
    pub fn joined_at(&self, last_sequence: i64, access_version: i64) -> i64 {
        let mut state = self.channel.state();
        state.access_version = Some(state.access_version.map_or(access_version, |known| known.min(access_version)));
        last_sequence.max(*state.head.get_or_insert(last_sequence))
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
        }
        drop(shard);
        self.registry.subscriptions.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Message, Timestamp};

    fn delivery(chat_id: ChatId, sequence: i64) -> Arc<Delivery> {
        Delivery::new(Message {
            chat_id,
            sequence,
            sender_id: UserId::new("alice"),
            client_message_id: sequence.to_string(),
            text: "hello".into(),
            created_at: Timestamp::from_micros(sequence),
        })
    }

    fn subscribe(
        registry: &Arc<Registry>,
        chat_id: ChatId,
        user: &str,
    ) -> (Subscription, broadcast::Receiver<Arc<Delivery>>, Arc<Mailbox>) {
        let mailbox = Arc::new(Mailbox::default());
        let (subscription, receiver) = registry.subscribe(chat_id, UserId::new(user), false, Arc::clone(&mailbox));
        (subscription, receiver, mailbox)
    }

    #[test]
    fn a_chat_without_subscribers_takes_no_memory() {
        let (registry, chat) = (Registry::new(), ChatId::generate());
        let first = subscribe(&registry, chat, "alice");
        let second = subscribe(&registry, chat, "bob");
        drop(first);
        assert_eq!(registry.chats(), [chat]);
        drop(second);
        assert_eq!((registry.chats().len(), registry.subscription_count()), (0, 0));
    }

    #[test]
    fn what_went_through_before_is_not_delivered_again() {
        let (registry, chat) = (Registry::new(), ChatId::generate());
        let (_subscription, mut receiver, _) = subscribe(&registry, chat, "alice");
        for sequence in [1, 2, 2, 1, 3] {
            registry.deliver(delivery(chat, sequence));
        }
        let received: Vec<i64> = std::iter::from_fn(|| receiver.try_recv().ok()).map(|d| d.message.sequence).collect();
        assert_eq!(received, [1, 2, 3]);
    }

    #[tokio::test]
    async fn an_eviction_reaches_the_removed_users_streams_only() {
        let (registry, chat) = (Registry::new(), ChatId::generate());
        let (subscription, _receiver, mailbox) = subscribe(&registry, chat, "bob");
        let (_other, _other_receiver, other_mailbox) = subscribe(&registry, chat, "alice");
        registry.evict(&AccessEnd::Removed { chat_id: chat, user_id: UserId::new("bob") });
        assert_eq!(mailbox.take().await, [(chat, subscription.key(), Eviction::Removed)]);
        registry.evict(&AccessEnd::Deleted { chat_id: chat });
        assert_eq!(other_mailbox.take().await.len(), 1, "only the deletion");
    }

    #[test]
    fn a_message_whose_publish_was_lost_shows_as_behind() {
        let (registry, chat) = (Registry::new(), ChatId::generate());
        let (subscription, _receiver, _) = subscribe(&registry, chat, "alice");
        assert_eq!(subscription.joined_at(4, 1), 4);
        assert_eq!(subscription.joined_at(2, 1), 4, "one that joined behind must read up to the head");
        let position = |last_sequence| ChatPosition { chat_id: chat, last_sequence, access_version: 1 };
        assert_eq!(registry.behind(&position(4)), None);
        assert_eq!(registry.behind(&position(5)), Some(4));
        registry.deliver(delivery(chat, 5));
        assert_eq!(registry.behind(&position(5)), None);
    }
}
