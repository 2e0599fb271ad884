//! What runs beside the requests: the sweep and the purge.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::healing::read_behind;
use crate::broker::{AccessEnd, Delivery, Registry};
use crate::model::{ChatId, ChatPosition, UserId};
use crate::observe::metrics::{self, Heal};
use crate::repository::{ChatRepository, MessageRepository, Result, StoreError};

/// Chats in one query of the sweep.
const SWEEP_CHATS_MAX: usize = 1_000;
/// Chats that fail one after the other before the round ends: then it isn't they that are at fault.
const SWEEP_FAILURES_MAX: usize = 8;
/// Rows that one purge transaction removes.
const PURGE_ROWS_MAX: usize = 1_000;
/// How often deleted chats are looked for.
const PURGE_INTERVAL: Duration = Duration::from_secs(30);

/// Compares what this process's streams have seen with what is committed, every `interval`, until `stop`: so even a last
/// message whose publish was lost arrives, and a removal whose announcement was lost takes effect.
pub async fn run_sweep(
    chats: Arc<dyn ChatRepository>,
    messages: Arc<dyn MessageRepository>,
    registry: Arc<Registry>,
    interval: Duration,
    stop: CancellationToken,
) {
    let sweep = Sweep { chats, messages, registry };
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        let began = Instant::now();
        let swept = sweep.once().await;
        metrics::SWEEP.observe_time(began.elapsed());
        if let Some((error, chats)) = swept.first {
            metrics::SWEEP_FAILURES.one();
            tracing::warn!(error = %error, chats, "a sweep failed for some chats; the next one repeats it");
        }
    }
}

/// What went wrong in a round: the first error, and for how many chats.
#[derive(Default)]
struct Failures {
    first: Option<(StoreError, usize)>,
    in_a_row: usize,
}

impl Failures {
    fn note(&mut self, done: Result<()>, chats: usize) {
        let Err(error) = done else {
            self.in_a_row = 0;
            return;
        };
        self.in_a_row += 1;
        self.first.get_or_insert((error, 0)).1 += chats;
    }
}

struct Sweep {
    chats: Arc<dyn ChatRepository>,
    messages: Arc<dyn MessageRepository>,
    registry: Arc<Registry>,
}

impl Sweep {
    /// One chat's failure doesn't keep the others waiting; a store that is away ends the round.
    async fn once(&self) -> Failures {
        let mut failures = Failures::default();
        for ids in self.registry.chats().chunks(SWEEP_CHATS_MAX) {
            let positions = match self.chats.positions(ids).await {
                Ok(positions) => positions,
                Err(error) => {
                    failures.note(Err(error), ids.len());
                    return failures;
                }
            };
            let found: HashMap<ChatId, ChatPosition> = positions.into_iter().map(|position| (position.chat_id, position)).collect();
            for id in ids {
                let Some(position) = found.get(id) else {
                    self.registry.evict(&AccessEnd::Deleted { chat_id: *id });
                    continue;
                };
                failures.note(self.chat(position).await, 1);
                if failures.in_a_row == SWEEP_FAILURES_MAX {
                    return failures;
                }
            }
        }
        failures
    }

    async fn chat(&self, position: &ChatPosition) -> Result<()> {
        self.check_access(position).await?;
        self.heal(position).await
    }

    async fn check_access(&self, position: &ChatPosition) -> Result<()> {
        if self.registry.access_moved(position) {
            // After the position was read: a stream that comes later is checked by a join that sees this version.
            let watermark = self.registry.watermark();
            let members = self.chats.members(position.chat_id).await?;
            let members: HashSet<UserId> = members.into_iter().map(|member| member.user_id).collect();
            self.registry.evict_strangers(position.chat_id, &members, watermark);
            self.registry.access_checked(position);
        }
        Ok(())
    }

    /// Reads what was committed but never went through, once for all of the chat's streams.
    async fn heal(&self, position: &ChatPosition) -> Result<()> {
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
}

/// Removes the rows of deleted chats, in chunks, until `stop`.
pub async fn run_purge(chats: Arc<dyn ChatRepository>, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(PURGE_INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        loop {
            match chats.purge_deleted(PURGE_ROWS_MAX).await {
                Ok(0) => break,
                Ok(rows) => {
                    metrics::PURGED_ROWS.add(rows as u64);
                    tracing::debug!(rows, "removed rows of deleted chats");
                    if stop.is_cancelled() {
                        return;
                    }
                }
                Err(error) => {
                    tracing::warn!(error = %error, "removing rows of deleted chats failed; it is tried again");
                    break;
                }
            }
        }
    }
}
