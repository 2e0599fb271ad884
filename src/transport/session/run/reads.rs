//! What a stream reads of its chats when the channel doesn't have it.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;
use tonic::Status;
use tracing::Instrument;

use super::{Done, JoinedChat, Session, Task, hand_out, left_reason};
use crate::broker::{Delivery, Eviction, SharedRead};
use crate::converter::status::{self, Refused};
use crate::model::{ChatId, Identity, Page};
use crate::observe::metrics;
use crate::observe::trace::root_span;
use crate::service::{ChatService, Error};
use crate::transport::session::state::Verdict;

/// Tries of a read that a stream can't go on without, with growing pauses between them: about 20 s in all.
const READ_TRIES: u32 = 12;
const READ_PAUSE: Duration = Duration::from_millis(50);
const READ_PAUSE_MAX: Duration = Duration::from_secs(3);

/// Why a joined chat could not be read.
pub(super) enum Unread {
    /// It isn't the stream's any more.
    Lost(Eviction),
    Failed(Error),
}

/// Of the subscription with this key.
pub(super) type PageRead = (u64, Result<Option<Read>, Unread>);

/// What was read of a chat, and where that stood.
pub(super) struct Read {
    deliveries: Vec<Arc<Delivery>>,
    last_sequence: i64,
}

impl<S> Session<S> {
    pub(super) fn page(&mut self, key: u64, page: Result<Option<Read>, Unread>) -> Result<(), Status> {
        // The chat may have been left, and even joined again, while the page was read.
        let Some(at) = self.chats.iter().position(|chat| chat.subscription.key() == key) else { return Ok(()) };
        let chat_id = self.chats[at].id;
        let read = match page {
            Ok(Some(read)) => read,
            // Another stream has read it.
            Ok(None) => return Ok(()),
            Err(Unread::Lost(eviction)) => {
                self.remove(at, left_reason(eviction));
                return Ok(());
            }
            Err(Unread::Failed(error)) => return Err(status::of_error(&error)),
        };
        let cursor = &mut self.chats[at].cursor;
        if !cursor.is_behind() {
            return Ok(());
        }
        metrics::CATCH_UP_PAGES.one();
        for delivery in &read.deliveries {
            match cursor.read(delivery.message.sequence) {
                Some(Verdict::Deliver) => {
                    hand_out(&self.outbox, delivery, &metrics::DELIVERIES_CAUGHT_UP);
                }
                Some(Verdict::Drop) => {}
                None => return Err(unhealable(chat_id, delivery.message.sequence)),
            }
        }
        if read.deliveries.is_empty() && cursor.delivered() < read.last_sequence {
            return Err(unhealable(chat_id, read.last_sequence));
        }
        cursor.page_done(read.last_sequence);
        Ok(())
    }

    /// Delivers from what the process has kept of a chat that is behind, as far as there is room. Returns whether that was of use.
    pub(super) fn take_recent(&mut self, at: usize) -> bool {
        let JoinedChat { cursor, subscription, .. } = &mut self.chats[at];
        let before = cursor.delivered();
        let Some((recent, head)) = subscription.recent(before) else { return false };
        for delivery in &recent {
            let is_next = cursor.read(delivery.message.sequence) == Some(Verdict::Deliver);
            if is_next && !hand_out(&self.outbox, delivery, &metrics::DELIVERIES_RECENT) {
                break;
            }
        }
        cursor.caught_up(head);
        cursor.delivered() > before || !cursor.is_behind()
    }

    pub(super) fn read_page(&self, chat: &JoinedChat) -> Task<PageRead> {
        let (chat_id, key, delivered) = (chat.id, chat.subscription.key(), chat.cursor.delivered());
        let (service, identity) = (Arc::clone(&self.options.service), self.identity.clone());
        let span = root_span!(self.origin.as_ref(), "stream.catch_up", chat.id = %chat_id, chat.after_sequence = delivered);
        let share = chat.subscription.share_read(delivered);
        let read = async move {
            let read = persist(|| read_once(share(), &service, &identity, chat_id, delivered)).await;
            (key, or_why(read, &service, chat_id).await)
        };
        Box::pin(read.instrument(span))
    }

    pub(super) fn read_positions(&self) -> Task<Done> {
        let (service, identity) = (Arc::clone(&self.options.service), self.identity.clone());
        let ids: Vec<ChatId> = self.chats.iter().map(|chat| chat.id).collect();
        Box::pin(async move {
            let mut positions = Vec::with_capacity(ids.len());
            for id in ids {
                let position = persist(|| service.last_sequence(&identity, id)).await;
                positions.push((id, or_why(position, &service, id).await));
            }
            Done::Positions(positions)
        })
    }
}

/// Reads a page, unless another stream has just read it.
async fn read_once(
    mut share: SharedRead,
    service: &ChatService,
    identity: &Identity,
    chat_id: ChatId,
    delivered: i64,
) -> Result<Option<Read>, Error> {
    if share.was_done_by_another().await {
        return Ok(None);
    }
    let Page { messages, last_sequence, .. } = service.catch_up(identity, chat_id, delivered).await?;
    let deliveries: Vec<_> = messages.into_iter().map(Delivery::new).collect();
    share.keep(&deliveries);
    Ok(Some(Read { deliveries, last_sequence }))
}

/// A chat that this caller had and doesn't find any more: was it deleted, or the caller removed?
async fn or_why<T>(read: Result<T, Error>, service: &ChatService, chat_id: ChatId) -> Result<T, Unread> {
    match read {
        Ok(found) => Ok(found),
        Err(Error::ChatNotFound) => Err(Unread::Lost(service.why_lost(chat_id).await)),
        Err(error) => Err(Unread::Failed(error)),
    }
}

/// Repeats a read while the store is away: what the stream has can't be told otherwise.
async fn persist<T, F: Future<Output = Result<T, Error>>>(read: impl Fn() -> F) -> Result<T, Error> {
    let mut pause = READ_PAUSE;
    for _ in 1..READ_TRIES {
        match read().await {
            Err(Error::Unavailable) => {}
            done => return done,
        }
        sleep(pause).await;
        pause = (pause * 2).min(READ_PAUSE_MAX);
    }
    read().await
}

fn unhealable(chat_id: ChatId, sequence: i64) -> Status {
    tracing::error!(%chat_id, sequence, "the store lacks messages before this one");
    status::refused(Refused::Unhealable)
}
