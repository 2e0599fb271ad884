//! What the product does, apart from how it is reached: chats, membership, sends, pages, joins.

pub mod append;
mod chats;
mod error;
mod healing;
mod purge;
mod sweep;

use std::sync::Arc;

pub use chats::{ChatPage, ChatWithMembers, CreateChat};
pub use error::Error;
pub use healing::run_healer;
pub use purge::run_purge;
pub use sweep::run_sweep;

use append::{Appender, Reply, Settled};
use tokio::sync::{broadcast, mpsc};

use crate::broker::{Broker, Delivery, Eviction, Mailbox, Registry, Subscription};
use crate::model::access::{Action, allows};
use crate::model::{Bound, Chat, ChatId, Clock, Identity, Message, NewMessage, Page, PageQuery, Reader, Sender, limits};
use crate::repository::{ChatRepository, MessageRepository};

pub type Result<T> = std::result::Result<T, Error>;

/// Weight of the pages that a stream catches up with, in bytes: what a stream holds at most of what it reads.
const CATCH_UP_PAGE_BYTES: usize = 64 * 1024;
/// Messages of such a page.
const CATCH_UP_PAGE_MESSAGES: usize = 256;

/// The service. Cheap to share: one for the process.
pub struct ChatService {
    chats: Arc<dyn ChatRepository>,
    messages: Arc<dyn MessageRepository>,
    broker: Arc<dyn Broker>,
    registry: Arc<Registry>,
    appender: Appender,
    clock: Arc<dyn Clock>,
}

/// What the service is built from.
pub struct Parts {
    pub chats: Arc<dyn ChatRepository>,
    pub messages: Arc<dyn MessageRepository>,
    pub broker: Arc<dyn Broker>,
    pub registry: Arc<Registry>,
    pub appender: Appender,
    pub clock: Arc<dyn Clock>,
}

/// A send, as a client asks for it.
#[derive(Clone, Debug)]
pub struct SendMessage {
    pub chat_id: ChatId,
    pub client_message_id: String,
    pub text: String,
}

/// A stream's place in a chat.
pub struct Joined {
    pub chat: Chat,
    /// The last sequence that the stream has: delivery goes on behind it.
    pub cursor: i64,
    /// Up to here the receiver brings nothing: what the stream lacks of it must be read.
    pub head: i64,
    pub subscription: Subscription,
    pub receiver: broadcast::Receiver<Arc<Delivery>>,
}

impl ChatService {
    pub fn new(parts: Parts) -> Self {
        let Parts { chats, messages, broker, registry, appender, clock } = parts;
        Self { chats, messages, broker, registry, appender, clock }
    }

    /// Stores a message; returns when it is durable. A retry returns the first one's place.
    pub async fn send_message(&self, caller: &Identity, send: SendMessage) -> Result<Message> {
        let (reply, outcome) = Reply::call();
        let message = new_message(caller, send);
        self.appender.submit(message.clone(), reply);
        let placed = outcome.await.unwrap_or(Err(Error::Unavailable))?;
        Ok(Message {
            chat_id: message.chat_id,
            sequence: placed.sequence,
            sender_id: message.sender.user_id,
            client_message_id: message.client_message_id,
            text: message.text,
            created_at: placed.created_at,
        })
    }

    /// Queues a stream's message; the outcome comes through `settled`. Sends of one caller keep their order.
    pub fn submit_message(&self, caller: &Identity, send: SendMessage, settled: mpsc::UnboundedSender<Settled>) {
        let reply = Reply::stream(settled, send.chat_id, send.client_message_id.clone());
        self.appender.submit(new_message(caller, send), reply);
    }

    /// Messages that wait to be stored.
    pub fn waiting_messages(&self) -> usize {
        self.appender.waiting()
    }

    /// Part of a chat's messages, ascending.
    pub async fn list_messages(&self, caller: &Identity, chat_id: ChatId, bound: Bound, page_size: usize) -> Result<Page> {
        self.page(caller, chat_id, bound, page_size, limits::PAGE_BYTES_MAX).await
    }

    /// The next part of a chat for a stream that has everything up to `cursor`; membership is checked with it.
    pub async fn catch_up(&self, caller: &Identity, chat_id: ChatId, cursor: i64) -> Result<Page> {
        self.page(caller, chat_id, Bound::After(cursor), CATCH_UP_PAGE_MESSAGES, CATCH_UP_PAGE_BYTES).await
    }

    async fn page(&self, caller: &Identity, chat_id: ChatId, bound: Bound, limit: usize, max_bytes: usize) -> Result<Page> {
        let reader = Reader { user_id: caller.user_id.clone(), role: caller.role };
        let query = PageQuery { chat_id, reader, bound, limit, max_bytes };
        self.messages.page(&query).await?.ok_or(Error::ChatNotFound)
    }

    /// Subscribes a stream to a chat, here and at the other nodes, then checks membership, then tells where the chat stands: in this
    /// order nothing falls between.
    pub async fn join(&self, caller: &Identity, chat_id: ChatId, after_sequence: Option<i64>, mailbox: Arc<Mailbox>) -> Result<Joined> {
        let trusted = caller.role.is_trusted();
        let (subscription, receiver) = self.registry.subscribe(chat_id, caller.user_id.clone(), trusted, mailbox);
        self.broker.listening(chat_id).await;
        let view = self.chats.find(chat_id, &caller.user_id).await?.ok_or(Error::ChatNotFound)?;
        if !allows(Action::Read, caller.role, view.role) {
            return Err(Error::ChatNotFound);
        }
        let last_sequence = view.chat.last_sequence;
        let cursor = after_sequence.unwrap_or(last_sequence);
        if cursor > last_sequence {
            return Err(Error::SequenceAhead { last_sequence });
        }
        let head = subscription.joined_at(last_sequence, view.access_version);
        Ok(Joined { chat: view.chat, cursor, head, subscription, receiver })
    }

    /// The chat's last sequence.
    pub async fn last_sequence(&self, caller: &Identity, chat_id: ChatId) -> Result<i64> {
        let view = self.chats.find(chat_id, &caller.user_id).await?.ok_or(Error::ChatNotFound)?;
        if allows(Action::Read, caller.role, view.role) { Ok(view.chat.last_sequence) } else { Err(Error::ChatNotFound) }
    }

    /// Why somebody who could read a chat can't any more. Where the store doesn't tell, it counts as their own removal.
    pub async fn why_lost(&self, chat_id: ChatId) -> Eviction {
        match self.chats.positions(&[chat_id]).await {
            Ok(found) if found.is_empty() => Eviction::Deleted,
            Ok(_) | Err(_) => Eviction::Removed,
        }
    }
}

fn new_message(caller: &Identity, send: SendMessage) -> NewMessage {
    NewMessage {
        chat_id: send.chat_id,
        sender: Sender { user_id: caller.user_id.clone(), role: caller.role },
        client_message_id: send.client_message_id,
        text: send.text,
    }
}
