//! The sweep compares what this process's streams have seen with what is committed: so even a last message whose publish was lost
//! arrives, and a removal whose announcement was lost takes effect.
//!
//! It is three loops. One looks where all chats stand and ends the access of whoever has lost it: that is due within the interval, whatever
//! else there is to do. Another reads what chats lack, which takes as long as it takes. The third lets go what was kept of chats for streams
//! a little behind.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::Notify;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::healing::read_behind;
use crate::broker::{AccessEnd, Delivery, Registry};
use crate::model::{ChatId, ChatPosition, UserId};
use crate::observe::metrics::{self, Heal};
use crate::repository::{ChatRepository, MessageRepository, Result, StoreError};

/// How often what was kept of chats for long enough is let go.
const FORGET_EVERY: Duration = Duration::from_secs(1);
/// Chats in one query.
const CHUNK_CHATS_MAX: usize = 1_000;
/// Queries at once; what follows from each is done before the next one.
const CHUNKS_AT_ONCE: usize = 4;
/// Chats of one query whose members can't be read, one after the other, before the rest of them is left to the next round: then it isn't
/// they that are at fault.
const FAILURES_MAX: usize = 8;
/// Chats that are read at once, so that lagging ones don't take all connections to the database.
const HEALS_AT_ONCE: usize = 4;

/// Sweeps every `every`, and at once where the registry says that something may have been missed; until `stop`.
pub async fn run_sweep(
    chats: Arc<dyn ChatRepository>,
    messages: Arc<dyn MessageRepository>,
    registry: Arc<Registry>,
    every: Duration,
    stop: CancellationToken,
) {
    let sweep = Sweep { chats, messages, registry, lagging: Lagging::default(), failures: Mutex::default() };
    let loops = async { tokio::join!(sweep.watch(every), sweep.heal(), sweep.forget()) };
    stop.run_until_cancelled(loops).await;
}

struct Sweep {
    chats: Arc<dyn ChatRepository>,
    messages: Arc<dyn MessageRepository>,
    registry: Arc<Registry>,
    lagging: Lagging,
    /// Since they were last told of.
    failures: Mutex<Failures>,
}

/// The first error, and for how many chats something went wrong.
#[derive(Default)]
struct Failures {
    first: Option<StoreError>,
    chats: usize,
}

impl Sweep {
    async fn watch(&self, every: Duration) {
        let mut ticks = interval(every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                _ = ticks.tick() => {}
                () = self.registry.missed() => ticks.reset(),
            }
            let began = Instant::now();
            self.look_at_all().await;
            metrics::SWEEP.observe_time(began.elapsed());
            self.tell_failures();
        }
    }

    /// No chat and no query keeps the others waiting, nor does what fails.
    async fn look_at_all(&self) {
        let chats = self.registry.chats();
        let mut chunks = chats.chunks(CHUNK_CHATS_MAX);
        let mut looking = FuturesUnordered::new();
        loop {
            while looking.len() < CHUNKS_AT_ONCE
                && let Some(chunk) = chunks.next()
            {
                looking.push(self.look_at(chunk));
            }
            if looking.next().await.is_none() {
                return;
            }
        }
    }

    async fn look_at(&self, ids: &[ChatId]) {
        let positions = match self.chats.positions(ids).await {
            Ok(positions) => positions,
            Err(error) => return self.failed(error, ids.len()),
        };
        let found: HashSet<ChatId> = positions.iter().map(|position| position.chat_id).collect();
        for chat_id in ids.iter().filter(|id| !found.contains(*id)) {
            self.registry.evict(&AccessEnd::Deleted { chat_id: *chat_id });
        }
        let (moved, same): (Vec<ChatPosition>, Vec<ChatPosition>) =
            positions.into_iter().partition(|position| self.registry.access_moved(position));
        for position in same {
            self.note_lag(position);
        }
        let mut failed_in_a_row = 0;
        for position in moved {
            match self.check_access(&position).await {
                Ok(()) => {
                    failed_in_a_row = 0;
                    self.note_lag(position);
                }
                Err(error) => {
                    // What is wrong with this chat alone says nothing of the next one.
                    failed_in_a_row += usize::from(error.may_pass());
                    self.failed(error, 1);
                    if failed_in_a_row == FAILURES_MAX {
                        return;
                    }
                }
            }
        }
    }

    async fn check_access(&self, position: &ChatPosition) -> Result<()> {
        // After the position was read: a stream that comes later is checked by a join that sees this version.
        let watermark = self.registry.watermark();
        let members = self.chats.members(position.chat_id).await?;
        let members: HashSet<UserId> = members.into_iter().map(|member| member.user_id).collect();
        if self.registry.evict_strangers(position, &members, watermark) {
            self.registry.access_checked(position);
        }
        Ok(())
    }

    fn note_lag(&self, position: ChatPosition) {
        if self.registry.behind(&position).is_some() {
            self.lagging.note(position);
        }
    }

    async fn forget(&self) {
        let mut ticks = interval(FORGET_EVERY);
        loop {
            ticks.tick().await;
            self.registry.forget_recent();
        }
    }

    async fn heal(&self) {
        let mut healing = FuturesUnordered::new();
        loop {
            tokio::select! {
                biased;
                Some(()) = healing.next(), if !healing.is_empty() => {}
                position = self.lagging.next(), if healing.len() < HEALS_AT_ONCE => healing.push(self.heal_chat(position)),
            }
        }
    }

    async fn heal_chat(&self, position: ChatPosition) {
        if let Err(error) = self.read_missing(&position).await {
            self.failed(error, 1);
        }
        self.lagging.settled(position.chat_id);
    }

    /// Reads what was committed but never went through, once for all of the chat's streams.
    async fn read_missing(&self, position: &ChatPosition) -> Result<()> {
        let mut read_from = None;
        while let Some(head) = self.registry.behind(position) {
            // What was read didn't help: the store lacks messages. The chat's streams find out by themselves when they read.
            if read_from.replace(head) == Some(head) {
                break;
            }
            metrics::heal(Heal::Sweep);
            let page = read_behind(self.messages.as_ref(), position.chat_id, head).await?;
            let Some(page) = page.filter(|page| !page.messages.is_empty()) else { break };
            for message in page.messages {
                self.registry.deliver(Delivery::new(message));
            }
        }
        Ok(())
    }

    fn failed(&self, error: StoreError, chats: usize) {
        let mut failures = lock(&self.failures);
        failures.first.get_or_insert(error);
        failures.chats += chats;
    }

    fn tell_failures(&self) {
        let Failures { first, chats } = std::mem::take(&mut *lock(&self.failures));
        if let Some(error) = first {
            metrics::SWEEP_FAILURES.one();
            tracing::warn!(error = %error, chats, "a sweep failed for some chats; the next one repeats it");
        }
    }
}

/// Chats of which more is committed than went through here, in the order in which they were found. Each is in it once, so it is bounded by
/// the chats that have streams here.
#[derive(Default)]
struct Lagging {
    state: Mutex<LaggingState>,
    noted: Notify,
}

#[derive(Default)]
struct LaggingState {
    waiting: VecDeque<ChatPosition>,
    /// Those that wait and those that are being read.
    noted: HashSet<ChatId>,
}

impl Lagging {
    fn note(&self, position: ChatPosition) {
        let mut state = lock(&self.state);
        if state.noted.insert(position.chat_id) {
            state.waiting.push_back(position);
            self.noted.notify_one();
        }
    }

    /// Waits for the next one, which is to be [`Lagging::settled`]. Cancel safe.
    async fn next(&self) -> ChatPosition {
        loop {
            let first = lock(&self.state).waiting.pop_front();
            if let Some(position) = first {
                return position;
            }
            self.noted.notified().await;
        }
    }

    /// It has been read, or couldn't be. Whatever it still lacks the next round finds.
    fn settled(&self, chat_id: ChatId) {
        lock(&self.state).noted.remove(&chat_id);
    }
}

/// What these locks guard is consistent after each statement, so a panic elsewhere spoils nothing.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
