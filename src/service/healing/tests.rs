use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use async_trait::async_trait;
use tokio::sync::broadcast;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::*;
use crate::broker::{Interest, Mailbox, Subscription};
use crate::model::Message;
use crate::repository::{AppendLane, StoreError};

/// A store of one chat's messages, which counts how often it is read.
#[derive(Default)]
struct Store {
    last_sequence: Mutex<i64>,
    reads: AtomicUsize,
    is_away: AtomicBool,
}

#[async_trait]
impl MessageRepository for Store {
    fn lane_count(&self) -> usize {
        0
    }

    async fn open_lane(&self) -> Result<Box<dyn AppendLane>> {
        Err(StoreError::Corrupt("it is only read".into()))
    }

    async fn page(&self, query: &PageQuery) -> Result<Option<Page>> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        if self.is_away.load(Ordering::Relaxed) {
            return Err(StoreError::TimedOut(Duration::ZERO));
        }
        let Bound::After(after) = query.bound else { panic!("{query:?}") };
        let last_sequence = *self.last_sequence.lock().unwrap();
        let messages = (after + 1..=last_sequence).take(query.limit).map(|sequence| Message::example(query.chat_id, sequence)).collect();
        Ok(Some(Page { messages, has_more: false, last_sequence }))
    }
}

struct Nobody;

impl Interest for Nobody {
    fn begins(&self, _: ChatId) {}
    fn ends(&self, _: ChatId) {}
}

/// A chat that stands at `head` and has a stream, with the healer at work.
struct Stage {
    chat_id: ChatId,
    registry: Arc<Registry>,
    store: Arc<Store>,
    _subscription: Subscription,
    receiver: broadcast::Receiver<Arc<Delivery>>,
    stop: CancellationToken,
    healer: JoinHandle<()>,
}

impl Stage {
    fn new(head: i64) -> Self {
        let (registry, holes) = Registry::shared(Arc::new(Nobody));
        let (store, stop, chat_id) = (Arc::new(Store::default()), CancellationToken::new(), ChatId::generate());
        let (subscription, receiver) = registry.subscribe(chat_id, UserId::new("bob"), false, Arc::new(Mailbox::default()));
        subscription.joined_at(head, 1);
        let healer = tokio::spawn(run_healer(store.clone(), Arc::clone(&registry), holes, stop.clone()));
        Self { chat_id, registry, store, _subscription: subscription, receiver, stop, healer }
    }

    fn publish(&self, sequence: i64) {
        self.registry.deliver(Delivery::new(Message::example(self.chat_id, sequence)));
    }

    fn store(&self, last_sequence: i64) {
        *self.store.last_sequence.lock().unwrap() = last_sequence;
    }

    async fn next(&mut self) -> i64 {
        self.receiver.recv().await.unwrap().message.sequence
    }

    fn reads(&self) -> usize {
        self.store.reads.load(Ordering::Relaxed)
    }

    async fn end(self) {
        self.stop.cancel();
        self.healer.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_lost_in_the_middle_is_read_once_for_all_streams() {
    let mut stage = Stage::new(4);
    stage.store(7);
    stage.publish(7);
    let began = Instant::now();
    assert_eq!([stage.next().await, stage.next().await, stage.next().await], [5, 6, 7]);
    assert!(began.elapsed() >= GRACE, "it could have come by itself");
    assert_eq!(stage.reads(), 1);
    stage.end().await;
}

#[tokio::test(start_paused = true)]
async fn messages_of_two_nodes_that_cross_need_no_read() {
    let mut stage = Stage::new(0);
    stage.store(20);
    for pair in (1..20).step_by(2) {
        stage.publish(pair + 1);
        sleep(GRACE / 2).await;
        stage.publish(pair);
        assert_eq!([stage.next().await, stage.next().await], [pair, pair + 1]);
    }
    sleep(GRACE * 3).await;
    assert_eq!(stage.reads(), 0);
    stage.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_away_is_not_asked_again_and_again() {
    let mut stage = Stage::new(4);
    stage.store.is_away.store(true, Ordering::Relaxed);
    stage.publish(6);
    sleep(GRACE * 100).await;
    assert_eq!(stage.reads(), 1, "the rest is the sweep's");
    // Another one, when it is back.
    stage.store.is_away.store(false, Ordering::Relaxed);
    stage.store(7);
    stage.publish(7);
    assert_eq!([stage.next().await, stage.next().await, stage.next().await], [5, 6, 7]);
    stage.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_was_never_stored_is_not_delivered_and_stops_nothing() {
    let mut stage = Stage::new(4);
    stage.store(4);
    stage.publish(i64::MAX);
    sleep(GRACE * 3).await;
    assert_eq!(stage.reads(), 1);
    stage.store(5);
    stage.publish(5);
    assert_eq!(stage.next().await, 5);
    stage.end().await;
}
