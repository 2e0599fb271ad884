//! Reads what fan-out lost in the middle, once for all of a chat's streams on this node.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::CATCH_UP_PAGE_BYTES;
use crate::broker::{Delivery, Holes, Registry};
use crate::model::{Bound, ChatId, Page, PageQuery, Reader, SystemRole, UserId};
use crate::repository::{MessageRepository, Result};

/// How long a message that is missing may still come by itself: two nodes publish, and the later message may be the faster one.
const GRACE: Duration = Duration::from_millis(30);
/// Chats that are looked after at once; most of them only wait for their grace to end.
const CHATS_AT_ONCE: usize = 1_024;
/// Reads at once, so that holes don't take all connections to the database.
const READS_AT_ONCE: usize = 4;
/// Messages in one read.
const PAGE_MESSAGES: usize = 256;

/// Looks after holes until `stop`.
pub async fn run_healer(messages: Arc<dyn MessageRepository>, registry: Arc<Registry>, mut holes: Holes, stop: CancellationToken) {
    let healer = Healer { messages, registry, reads: Semaphore::new(READS_AT_ONCE) };
    let mut healing = FuturesUnordered::new();
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            Some(()) = healing.next(), if !healing.is_empty() => {}
            hole = holes.next(), if healing.len() < CHATS_AT_ONCE => match hole {
                Some(chat_id) => healing.push(healer.heal(chat_id)),
                None => return,
            },
        }
    }
}

struct Healer {
    messages: Arc<dyn MessageRepository>,
    registry: Arc<Registry>,
    reads: Semaphore,
}

impl Healer {
    /// Until nothing is missing in the chat any more.
    async fn heal(&self, chat_id: ChatId) {
        let mut read_from = None;
        while let Some(hole) = self.registry.hole(chat_id) {
            let due = hole.since + GRACE;
            if Instant::now() < due {
                sleep_until(due).await;
                continue;
            }
            let Ok(_permit) = self.reads.acquire().await else { return };
            let is_stuck = read_from.replace(hole.head) == Some(hole.head);
            if is_stuck || !self.read(chat_id, hole.head).await {
                self.registry.leave_hole(chat_id);
                return;
            }
        }
    }

    /// Reads what is behind `head`. Returns whether there is more to say of the chat.
    async fn read(&self, chat_id: ChatId, head: i64) -> bool {
        match read_behind(self.messages.as_ref(), chat_id, head).await {
            Ok(Some(page)) if page.messages.is_empty() => {
                // Somebody told of what isn't stored.
                self.registry.nothing_beyond(chat_id, head);
                true
            }
            Ok(Some(page)) => {
                for message in page.messages {
                    self.registry.deliver(Delivery::new(message));
                }
                true
            }
            // Deleted: the sweep tells the streams.
            Ok(None) => false,
            Err(error) => {
                tracing::warn!(error = %error, %chat_id, "reading messages that were not published here failed; the sweep repeats it");
                false
            }
        }
    }
}

/// The messages of a chat behind `head`, or the first part of them, for all of its streams. `None`: there is no such chat.
pub(super) async fn read_behind(messages: &dyn MessageRepository, chat_id: ChatId, head: i64) -> Result<Option<Page>> {
    let reader = Reader { user_id: UserId::new("sweep"), role: SystemRole::Service };
    let query = PageQuery { chat_id, reader, bound: Bound::After(head), limit: PAGE_MESSAGES, max_bytes: CATCH_UP_PAGE_BYTES };
    messages.page(&query).await
}

#[cfg(test)]
mod tests;
