//! The reference model as a store: the repositories' traits and lanes over it, with faults on demand.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use chat_service::model::{
    AppendOutcome, Chat, ChatId, ChatPosition, Member, MembersChanged, NewChat, NewMessage, Page, PageQuery, Refusal, Timestamp, UserId,
};
use chat_service::repository::{
    AppendLane, ChatRepository, ChatView, CreateOutcome, DecideDelete, DecideMembers, MessageRepository, Result, StoreError,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use crate::reference::Model;

/// A text that the store refuses, as a constraint would.
pub const POISON: &str = "poison";
/// Where the store's clock begins, in microseconds.
const BEGAN_AT_MICROS: i64 = 1_700_000_000_000_000;
/// How far the clock jumps back and forth.
const CLOCK_JUMP_MICROS: i64 = 3_000;

/// How often what goes wrong, as probabilities.
#[derive(Clone, Copy, Debug)]
pub struct Faults {
    /// Reads that are answered by an error.
    pub reads: f64,
    /// Appends that are stored and not answered.
    pub answers_lost: f64,
    /// Appends that are neither stored nor answered.
    pub never_arrived: f64,
    /// Appends that find one chat locked.
    pub busy: f64,
    /// Everything takes up to this long, before and after it happens.
    pub pause_millis: u64,
}

impl Faults {
    pub const NONE: Self = Self { reads: 0.0, answers_lost: 0.0, never_arrived: 0.0, busy: 0.0, pause_millis: 0 };
}

pub struct MemoryStore {
    model: Mutex<Model>,
    dice: Mutex<StdRng>,
    faults: Faults,
    calm: AtomicBool,
    began: Instant,
    /// Chats of which an append's answer was lost since this was last asked for.
    lost: Mutex<BTreeSet<ChatId>>,
    /// Chats whose appends were disturbed at any time.
    disturbed: Mutex<BTreeSet<ChatId>>,
    /// Chats of batches under way.
    appending: Mutex<BTreeSet<ChatId>>,
    /// What the lanes saw that must not be.
    wrong: Mutex<Vec<String>>,
}

/// A chat's id. Chats with successive numbers are in shards of their own, so that a run doesn't hang on the order of hash maps.
pub fn chat_id(number: u64) -> ChatId {
    ChatId::from_uuid(Uuid::from_u64_pair(0x0198_f7a0_0000_7000, 0x8000_0000_0000_0000 | number))
}

impl MemoryStore {
    pub fn new(model: Model, seed: u64, faults: Faults) -> Arc<Self> {
        Arc::new(Self {
            model: Mutex::new(model),
            dice: Mutex::new(StdRng::seed_from_u64(seed)),
            faults,
            calm: AtomicBool::new(false),
            began: Instant::now(),
            lost: Mutex::default(),
            disturbed: Mutex::default(),
            appending: Mutex::default(),
            wrong: Mutex::default(),
        })
    }

    pub fn model(&self) -> MutexGuard<'_, Model> {
        self.model.lock().unwrap()
    }

    pub fn lanes(self: &Arc<Self>, count: usize) -> Vec<Box<dyn AppendLane>> {
        (0..count).map(|_| Box::new(ScriptedLane { store: Arc::clone(self), unanswered: None }) as Box<dyn AppendLane>).collect()
    }

    /// From now on nothing goes wrong.
    pub fn calm_down(&self) {
        self.calm.store(true, Ordering::Relaxed);
    }

    pub fn is_calm(&self) -> bool {
        self.calm.load(Ordering::Relaxed)
    }

    /// Whether an answer about the chat was lost since this was last asked.
    pub fn take_lost(&self, chat_id: ChatId) -> bool {
        self.lost.lock().unwrap().remove(&chat_id)
    }

    /// Whether anything ever went wrong with the chat's appends.
    pub fn was_disturbed(&self, chat_id: ChatId) -> bool {
        self.disturbed.lock().unwrap().contains(&chat_id)
    }

    pub fn was_ever_disturbed(&self) -> bool {
        !self.disturbed.lock().unwrap().is_empty()
    }

    pub fn take_wrong(&self) -> Vec<String> {
        std::mem::take(&mut *self.wrong.lock().unwrap())
    }

    fn happens(&self, probability: f64) -> bool {
        !self.is_calm() && self.dice.lock().unwrap().random_bool(probability)
    }

    async fn pause(&self) {
        let millis = self.dice.lock().unwrap().random_range(0..=self.faults.pause_millis);
        if millis > 0 {
            sleep(Duration::from_millis(millis)).await;
        }
    }

    /// A clock that isn't to be relied on.
    fn now(&self) -> Timestamp {
        let jump = self.dice.lock().unwrap().random_range(-CLOCK_JUMP_MICROS..=CLOCK_JUMP_MICROS);
        Timestamp::from_micros(BEGAN_AT_MICROS + self.began.elapsed().as_micros() as i64 + jump)
    }

    async fn read<T: Send>(&self, look: impl FnOnce(&Model) -> T + Send) -> Result<T> {
        self.pause().await;
        if self.happens(self.faults.reads) {
            return Err(StoreError::Unavailable(sqlx::Error::PoolTimedOut));
        }
        let found = look(&self.model());
        // What was read may be old when it arrives.
        self.pause().await;
        Ok(found)
    }

    fn append(&self, batch: &[NewMessage]) -> Result<Vec<AppendOutcome>> {
        let unanswered = || {
            self.lost.lock().unwrap().extend(chats_of(batch));
            self.disturbed.lock().unwrap().extend(chats_of(batch));
            Err(StoreError::TimedOut(Duration::ZERO))
        };
        if self.happens(self.faults.never_arrived) {
            return unanswered();
        }
        let answer_lost = self.happens(self.faults.answers_lost);
        let is_busy = !answer_lost && self.happens(self.faults.busy);
        let busy = batch.first().filter(|_| is_busy).map(|message| message.chat_id);
        if busy.is_some() {
            self.disturbed.lock().unwrap().extend(chats_of(batch));
        }
        let now = self.now();
        let judged: Vec<NewMessage> = batch.iter().filter(|message| Some(message.chat_id) != busy).cloned().collect();
        let mut model = self.model();
        if judged.iter().any(|message| message.text == POISON) {
            let tried = model.clone().append(&judged, |_| now);
            let stores_poison = |(message, outcome): (&NewMessage, &AppendOutcome)| {
                message.text == POISON && matches!(outcome, AppendOutcome::Stored { .. })
            };
            if judged.iter().zip(&tried).any(stores_poison) {
                return Err(StoreError::Refused(sqlx::Error::RowNotFound));
            }
        }
        let mut found = model.append(&judged, |_| now).into_iter();
        if answer_lost {
            return unanswered();
        }
        let outcome = |message: &NewMessage| {
            if Some(message.chat_id) == busy { AppendOutcome::Busy } else { found.next().unwrap_or(AppendOutcome::Busy) }
        };
        Ok(batch.iter().map(outcome).collect())
    }
}

fn chats_of(batch: &[NewMessage]) -> BTreeSet<ChatId> {
    batch.iter().map(|message| message.chat_id).collect()
}

struct ScriptedLane {
    store: Arc<MemoryStore>,
    /// The batch whose first answer was lost: it must come once more before anything else.
    unanswered: Option<Vec<NewMessage>>,
}

#[async_trait]
impl AppendLane for ScriptedLane {
    async fn append(&mut self, batch: &[NewMessage]) -> Result<Vec<AppendOutcome>> {
        let first = self.unanswered.take();
        if first.as_deref().is_some_and(|first| first != batch) {
            self.store.wrong.lock().unwrap().push("behind a lost answer another batch was appended".into());
        }
        let chats = chats_of(batch);
        if !chats.iter().all(|chat| self.store.appending.lock().unwrap().insert(*chat)) {
            self.store.wrong.lock().unwrap().push("two batches under way had messages of one chat".into());
        }
        self.store.pause().await;
        let result = self.store.append(batch);
        self.store.pause().await;
        self.store.appending.lock().unwrap().retain(|chat| !chats.contains(chat));
        if first.is_none() && result.as_ref().is_err_and(StoreError::is_unknown_outcome) {
            self.unanswered = Some(batch.to_vec());
        }
        result
    }
}

#[async_trait]
impl ChatRepository for MemoryStore {
    async fn create(&self, chat: &NewChat) -> Result<CreateOutcome> {
        self.pause().await;
        Ok(self.model().create(chat))
    }

    async fn find(&self, chat_id: ChatId, user_id: &UserId) -> Result<Option<ChatView>> {
        self.read(|model| model.find(chat_id, user_id)).await
    }

    async fn members(&self, chat_id: ChatId) -> Result<Vec<Member>> {
        self.read(|model| model.members(chat_id)).await
    }

    async fn list(&self, user_id: &UserId, before: Option<ChatId>, limit: usize) -> Result<Vec<Chat>> {
        self.read(|model| model.list(user_id, before, limit)).await
    }

    async fn change_members(
        &self,
        chat_id: ChatId,
        involved: &[UserId],
        now: Timestamp,
        decide: DecideMembers<'_>,
    ) -> Result<Result<MembersChanged, Refusal>> {
        self.pause().await;
        Ok(self.model().change_members(chat_id, involved, now, decide))
    }

    async fn delete(&self, chat_id: ChatId, caller: &UserId, _: Timestamp, decide: DecideDelete<'_>) -> Result<Result<(), Refusal>> {
        self.pause().await;
        Ok(self.model().delete(chat_id, caller, decide))
    }

    async fn purge_deleted(&self, _: usize) -> Result<usize> {
        Ok(0)
    }

    async fn positions(&self, chat_ids: &[ChatId]) -> Result<Vec<ChatPosition>> {
        self.read(|model| model.positions(chat_ids)).await
    }

    async fn ping(&self) -> Result<()> {
        Ok(())
    }
}

#[async_trait]
impl MessageRepository for MemoryStore {
    fn lane_count(&self) -> usize {
        0
    }

    async fn open_lane(&self) -> Result<Box<dyn AppendLane>> {
        Err(StoreError::Corrupt("MemoryStore::lanes makes the lanes".into()))
    }

    async fn page(&self, query: &PageQuery) -> Result<Option<Page>> {
        self.read(|model| model.page(query)).await
    }
}
