use std::collections::HashMap;

use async_trait::async_trait;
use tokio::sync::broadcast;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use super::*;
use crate::broker::{Eviction, Mailbox, Subscription};
use crate::model::{Bound, Chat, Member, MembersChanged, Message, NewChat, Page, PageQuery, Refusal, Timestamp};
use crate::repository::{AppendLane, ChatView, CreateOutcome, DecideDelete, DecideMembers};

const EVERY: Duration = Duration::from_secs(2);

/// How a chat's messages are read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reads {
    Fail,
    NeverEnd,
}

/// Chats without members. One that has no position is deleted.
#[derive(Default)]
struct Store {
    positions: Mutex<HashMap<ChatId, ChatPosition>>,
    /// Of chats whose messages can't be read.
    reads: Mutex<HashMap<ChatId, Reads>>,
    /// A query for it fails.
    poison: Mutex<Option<ChatId>>,
}

impl Store {
    fn put(&self, chat_id: ChatId, last_sequence: i64, access_version: i64) {
        lock(&self.positions).insert(chat_id, ChatPosition { chat_id, last_sequence, access_version });
    }
}

#[async_trait]
impl ChatRepository for Store {
    async fn create(&self, _: &NewChat) -> Result<CreateOutcome> {
        unreachable!("the sweep creates nothing")
    }

    async fn find(&self, _: ChatId, _: &UserId) -> Result<Option<ChatView>> {
        unreachable!("the sweep asks for many at once")
    }

    async fn members(&self, _: ChatId) -> Result<Vec<Member>> {
        Ok(Vec::new())
    }

    async fn list(&self, _: &UserId, _: Option<ChatId>, _: usize) -> Result<Vec<Chat>> {
        unreachable!("the sweep is nobody")
    }

    async fn change_members(&self, _: ChatId, _: &[UserId], _: Timestamp, _: DecideMembers<'_>) -> Result<Result<MembersChanged, Refusal>> {
        unreachable!("the sweep changes nothing")
    }

    async fn delete(&self, _: ChatId, _: &UserId, _: Timestamp, _: DecideDelete<'_>) -> Result<Result<(), Refusal>> {
        unreachable!("the sweep deletes nothing")
    }

    async fn purge_deleted(&self, _: usize) -> Result<usize> {
        unreachable!("that is the purge's")
    }

    async fn positions(&self, chat_ids: &[ChatId]) -> Result<Vec<ChatPosition>> {
        if lock(&self.poison).is_some_and(|poison| chat_ids.contains(&poison)) {
            return Err(StoreError::TimedOut(Duration::ZERO));
        }
        let positions = lock(&self.positions);
        Ok(chat_ids.iter().filter_map(|id| positions.get(id).copied()).collect())
    }

    async fn ping(&self) -> Result<()> {
        Ok(())
    }
}

#[async_trait]
impl MessageRepository for Store {
    fn lane_count(&self) -> usize {
        0
    }

    async fn open_lane(&self) -> Result<Box<dyn AppendLane>> {
        unreachable!("it is only read")
    }

    async fn page(&self, query: &PageQuery) -> Result<Option<Page>> {
        let reads = lock(&self.reads).get(&query.chat_id).copied();
        match reads {
            Some(Reads::NeverEnd) => std::future::pending().await,
            Some(Reads::Fail) => Err(StoreError::TimedOut(Duration::ZERO)),
            None => {
                let Bound::After(after) = query.bound else { panic!("{query:?}") };
                let last_sequence = lock(&self.positions)[&query.chat_id].last_sequence;
                let messages =
                    (after + 1..=last_sequence).take(query.limit).map(|sequence| Message::example(query.chat_id, sequence)).collect();
                Ok(Some(Page { messages, has_more: false, last_sequence }))
            }
        }
    }
}

/// A stream in one chat.
struct Joined {
    chat_id: ChatId,
    mailbox: Arc<Mailbox>,
    receiver: broadcast::Receiver<Arc<Delivery>>,
    _subscription: Subscription,
}

impl Joined {
    /// Why the stream loses its chat, which must be known within `due`.
    async fn eviction(&self, due: Duration) -> Eviction {
        let evictions = timeout(due, std::future::poll_fn(|cx| self.mailbox.poll_take(cx))).await.expect("its access ends in time");
        evictions[0].2
    }
}

#[derive(Default)]
struct Stage {
    store: Arc<Store>,
    stop: CancellationToken,
}

impl Stage {
    /// A stream that has joined a chat at 0, with access version 1. The chat now stands at `last_sequence`.
    fn join(&self, registry: &Arc<Registry>, last_sequence: i64) -> Joined {
        let (chat_id, mailbox) = (ChatId::generate(), Arc::<Mailbox>::default());
        self.store.put(chat_id, last_sequence, 1);
        let (subscription, receiver) = registry.subscribe(chat_id, UserId::new("bob"), false, Arc::clone(&mailbox));
        subscription.joined_at(0, 1);
        Joined { chat_id, mailbox, receiver, _subscription: subscription }
    }

    fn sweep(&self, registry: &Arc<Registry>) -> JoinHandle<()> {
        tokio::spawn(run_sweep(self.store.clone(), self.store.clone(), Arc::clone(registry), EVERY, self.stop.clone()))
    }

    async fn end(self, sweep: JoinHandle<()>) {
        self.stop.cancel();
        sweep.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn access_ends_within_the_interval_while_lagging_chats_can_not_be_read() {
    let (stage, registry) = (Stage::default(), Registry::new());
    let stuck: Vec<Joined> = (0..2 * HEALS_AT_ONCE).map(|_| stage.join(&registry, 5)).collect();
    lock(&stage.store.reads).extend(stuck.iter().map(|joined| (joined.chat_id, Reads::NeverEnd)));
    let removed = stage.join(&registry, 0);
    let sweep = stage.sweep(&registry);
    // The first round finds the lagging ones.
    sleep(EVERY / 2).await;
    stage.store.put(removed.chat_id, 0, 2);
    let began = Instant::now();
    assert_eq!(removed.eviction(EVERY).await, Eviction::Removed);
    assert!(began.elapsed() <= EVERY);
    stage.end(sweep).await;
}

#[tokio::test(start_paused = true)]
async fn a_query_that_fails_does_not_end_the_round_for_the_other_chats() {
    let (stage, registry) = (Stage::default(), Registry::new());
    let streams: Vec<Joined> = (0..=CHUNK_CHATS_MAX).map(|_| stage.join(&registry, 0)).collect();
    let chats = registry.chats();
    let (first, last) = (chats[0], chats[chats.len() - 1]);
    *lock(&stage.store.poison) = Some(first);
    lock(&stage.store.positions).remove(&last);
    let deleted = streams.iter().find(|joined| joined.chat_id == last).unwrap();
    let sweep = stage.sweep(&registry);
    assert_eq!(deleted.eviction(EVERY / 2).await, Eviction::Deleted);
    stage.end(sweep).await;
}

#[tokio::test(start_paused = true)]
async fn what_a_chat_lacks_is_read_whichever_others_fail() {
    let (stage, registry) = (Stage::default(), Registry::new());
    let broken: Vec<Joined> = (0..4 * FAILURES_MAX).map(|_| stage.join(&registry, 5)).collect();
    lock(&stage.store.reads).extend(broken.iter().map(|joined| (joined.chat_id, Reads::Fail)));
    let mut whole = stage.join(&registry, 2);
    let sweep = stage.sweep(&registry);
    for sequence in 1..=2 {
        let next = timeout(EVERY / 2, whole.receiver.recv()).await.expect("the first round brings it");
        assert_eq!(next.unwrap().message.sequence, sequence);
    }
    stage.end(sweep).await;
}

#[tokio::test(start_paused = true)]
async fn what_may_have_been_missed_is_looked_for_at_once() {
    let (stage, registry) = (Stage::default(), Registry::new());
    let mut joined = stage.join(&registry, 0);
    let sweep = stage.sweep(&registry);
    sleep(EVERY / 4).await;
    stage.store.put(joined.chat_id, 1, 1);
    let began = Instant::now();
    registry.may_have_missed();
    let next = timeout(EVERY, joined.receiver.recv()).await.expect("it is looked for");
    assert_eq!((next.unwrap().message.sequence, began.elapsed()), (1, Duration::ZERO));
    stage.end(sweep).await;
}

#[tokio::test]
async fn a_chat_waits_once_however_often_it_is_found_behind() {
    let lagging = Lagging::default();
    let position = |chat_id| ChatPosition { chat_id, last_sequence: 1, access_version: 1 };
    let (one, other) = (ChatId::generate(), ChatId::generate());
    for chat_id in [one, one, other] {
        lagging.note(position(chat_id));
    }
    assert_eq!(lagging.next().await.chat_id, one);
    // It is being read.
    lagging.note(position(one));
    assert_eq!(lagging.next().await.chat_id, other);
    lagging.settled(one);
    lagging.note(position(one));
    assert_eq!(lagging.next().await.chat_id, one);
}
