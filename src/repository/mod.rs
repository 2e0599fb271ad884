//! The storage contract. `postgres/` and `sqlite/` implement it with the same names in the same order; one suite
//! (`tests/storage`) holds both to it.
//!
//! What every implementation promises:
//! - **Every write to a chat takes the chat's row lock first** and reads only in later statements, so that it sees
//!   all that was committed before it (SQLite: `BEGIN IMMEDIATE`, one writer; what its lane has in memory it trusts within the transaction, if no
//!   other connection has committed since).
//! - **A write that has returned `Ok` is durable** (PostgreSQL: `synchronous_commit=on`; SQLite: WAL with
//!   `synchronous=FULL`).
//! - **A deleted chat is not there**: no method but [`ChatRepository::purge_deleted`] sees it.
//! - Queries are checked at run time, by the suite, on both stores: sqlx's macros know one driver a crate.

mod error;
mod migrations;
pub mod postgres;
pub mod sqlite;
pub mod traced;

use std::time::Duration;

use async_trait::async_trait;

pub use error::StoreError;
pub use migrations::SchemaError;

use crate::model::chat::CreateKey;
use crate::model::{
    AppendOutcome, Chat, ChatId, ChatPosition, ChatRole, Member, MemberChange, MembersChanged, MembershipView, NewChat, NewMessage, Page,
    PageQuery, Refusal, Timestamp, UserId,
};

pub type Result<T, E = StoreError> = std::result::Result<T, E>;

/// How long an answer is waited for, so that a server that is frozen or cut off, or a disk that hangs, is noticed.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(8);

/// What came of creating a chat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CreateOutcome {
    Created,
    /// The creator's `request_id` made this chat before, from the same content.
    Existing(ChatId),
    /// The creator's `request_id` stands for other content.
    Conflict,
}

/// A chat as one user sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChatView {
    pub chat: Chat,
    /// The user's role; `None` where it is no member.
    pub role: Option<ChatRole>,
    pub access_version: i64,
}

/// A pool's connections, for whoever watches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pool {
    pub in_use: usize,
    pub idle: usize,
    /// How many it may have.
    pub limit: usize,
}

/// Decides on a change of members from what the store sees under the lock.
pub type DecideMembers<'a> = &'a (dyn Fn(&MembershipView) -> Result<Vec<MemberChange>, Refusal> + Send + Sync);

/// Decides whether a chat may be deleted.
pub type DecideDelete<'a> = &'a (dyn Fn(&MembershipView) -> Result<(), Refusal> + Send + Sync);

/// Chats and their members.
#[async_trait]
pub trait ChatRepository: Send + Sync {
    /// Stores a chat with its members. Atomic; with a [`CreateKey`] repeatable as long as the chat lives.
    async fn create(&self, chat: &NewChat) -> Result<CreateOutcome>;

    /// The chat, with the user's role in it. `None`: no such chat.
    async fn find(&self, chat_id: ChatId, user_id: &UserId) -> Result<Option<ChatView>>;

    /// The chat's members, by role and then by id. At most [`crate::model::limits::MEMBERS_PER_CHAT`].
    async fn members(&self, chat_id: ChatId) -> Result<Vec<Member>>;

    /// The user's chats with an id below `before`, newest first, at most `limit`.
    async fn list(&self, user_id: &UserId, before: Option<ChatId>, limit: usize) -> Result<Vec<Chat>>;

    /// Changes members. Under the chat's lock it reads a view of the `involved` users, lets `decide` choose, applies
    /// the changes, and raises `access_version` where there are any. Returns the changes made, and the version as it is then; the outer
    /// error is the store's, the inner one `decide`'s or [`Refusal::ChatNotFound`].
    async fn change_members(
        &self,
        chat_id: ChatId,
        involved: &[UserId],
        now: Timestamp,
        decide: DecideMembers<'_>,
    ) -> Result<Result<MembersChanged, Refusal>>;

    /// Hides the chat from everyone, at once, where `decide` allows it from the view of `caller`. Its rows go later,
    /// by [`ChatRepository::purge_deleted`].
    async fn delete(&self, chat_id: ChatId, caller: &UserId, now: Timestamp, decide: DecideDelete<'_>) -> Result<Result<(), Refusal>>;

    /// Removes at most `limit` rows of deleted chats, in one short transaction; returns how many. 0: nothing is left.
    async fn purge_deleted(&self, limit: usize) -> Result<usize>;

    /// Where the chats stand; deleted ones are missing from the answer. At most 1,000 ids a call.
    async fn positions(&self, chat_ids: &[ChatId]) -> Result<Vec<ChatPosition>>;

    /// Whether the store answers, and its schema is at least this build's: a newer one is the work of a newer build, beside which
    /// this one goes on. [`StoreError::SchemaTooOld`] where it isn't.
    async fn ping(&self) -> Result<()>;

    /// The pool that serves everything but appends.
    fn pool(&self) -> Pool {
        Pool::default()
    }
}

/// Messages.
#[async_trait]
pub trait MessageRepository: Send + Sync {
    /// How many lanes are worth opening: appends on different lanes run side by side.
    fn lane_count(&self) -> usize;

    /// Opens a lane. A chat must be in one lane's batch at a time, or appends to it wait for each other's lock.
    async fn open_lane(&self) -> Result<Box<dyn AppendLane>>;

    /// Part of a chat as one reader may see it, in one snapshot with the membership check. `None`: no such chat for
    /// this reader.
    async fn page(&self, query: &PageQuery) -> Result<Option<Page>>;
}

/// One writer of messages: a connection of its own.
#[async_trait]
pub trait AppendLane: Send {
    /// Whether appending blocks the thread: then the lane needs one of its own.
    fn blocks(&self) -> bool {
        false
    }

    /// Stores a batch in one durable transaction; the answer's element i is `batch[i]`'s.
    ///
    /// For each message, in the batch's order: an id that its sender used in the chat before is looked up first
    /// ([`AppendOutcome::Duplicate`], [`AppendOutcome::Conflict`]), then membership is checked, then the next number is
    /// given. Messages that are refused take no number. Two with the same id in one batch are handled as if one came
    /// after the other.
    ///
    /// On an `Err` of which [`StoreError::is_unknown_outcome`] nothing is known of the batch: it may be stored. Appending it again is
    /// right, and finds out. On any other nothing of it is stored; on [`StoreError::Undone`] the same may go at once.
    async fn append(&mut self, batch: &[NewMessage]) -> Result<Vec<AppendOutcome>>;
}

/// No call waits longer for the store than [`ANSWER_TIMEOUT`].
async fn bounded<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::time::timeout(ANSWER_TIMEOUT, work).await.unwrap_or(Err(StoreError::TimedOut(ANSWER_TIMEOUT)))
}

/// Compares a stored request with a repeated one.
fn repeated(stored_id: ChatId, stored_digest: &[u8], key: &CreateKey) -> CreateOutcome {
    if stored_digest == key.digest { CreateOutcome::Existing(stored_id) } else { CreateOutcome::Conflict }
}

/// Reads a stored role; one that is not known means the row was not written by this service.
fn role(number: i16) -> Result<ChatRole> {
    ChatRole::from_number(number).ok_or_else(|| StoreError::corrupt(format!("unknown chat role {number}")))
}
