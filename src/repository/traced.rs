//! A store each of whose uses has a span, where it happens within a trace. It stands before the real one only where traces are exported.

use std::sync::Arc;

use async_trait::async_trait;
use tracing::{Instrument, Span};

use super::{AppendLane, ChatRepository, ChatView, CreateOutcome, DecideDelete, DecideMembers, MessageRepository, Pool, Result};
use crate::model::{
    AppendOutcome, Chat, ChatId, ChatPosition, Member, MembersChanged, NewChat, NewMessage, Page, PageQuery, Refusal, Timestamp, UserId,
};
use crate::observe::trace::{self, child_span};

pub struct TracedChats {
    pub inner: Arc<dyn ChatRepository>,
    /// What the store is called.
    pub system: &'static str,
}

pub struct TracedMessages {
    pub inner: Arc<dyn MessageRepository>,
    /// What the store is called.
    pub system: &'static str,
}

struct TracedLane {
    inner: Box<dyn AppendLane>,
    system: &'static str,
}

macro_rules! db_span {
    ($name:literal, $system:expr $(, $($field:tt)+)?) => {
        child_span!($name, otel.kind = "client", db.system = $system, db.operation = $name, $($($field)+)?)
    };
}

async fn within<T>(span: Span, work: impl Future<Output = Result<T>>) -> Result<T> {
    let done = work.instrument(span.clone()).await;
    if done.is_err() {
        trace::fail(&span);
    }
    done
}

#[async_trait]
impl ChatRepository for TracedChats {
    async fn create(&self, chat: &NewChat) -> Result<CreateOutcome> {
        within(db_span!("db.chat.create", self.system), self.inner.create(chat)).await
    }

    async fn find(&self, chat_id: ChatId, user_id: &UserId) -> Result<Option<ChatView>> {
        within(db_span!("db.chat.find", self.system), self.inner.find(chat_id, user_id)).await
    }

    async fn members(&self, chat_id: ChatId) -> Result<Vec<Member>> {
        within(db_span!("db.chat.members", self.system), self.inner.members(chat_id)).await
    }

    async fn list(&self, user_id: &UserId, before: Option<ChatId>, limit: usize) -> Result<Vec<Chat>> {
        within(db_span!("db.chat.list", self.system), self.inner.list(user_id, before, limit)).await
    }

    async fn change_members(
        &self,
        chat_id: ChatId,
        involved: &[UserId],
        now: Timestamp,
        decide: DecideMembers<'_>,
    ) -> Result<Result<MembersChanged, Refusal>> {
        within(db_span!("db.member.change", self.system), self.inner.change_members(chat_id, involved, now, decide)).await
    }

    async fn delete(&self, chat_id: ChatId, caller: &UserId, now: Timestamp, decide: DecideDelete<'_>) -> Result<Result<(), Refusal>> {
        within(db_span!("db.chat.delete", self.system), self.inner.delete(chat_id, caller, now, decide)).await
    }

    async fn purge_deleted(&self, limit: usize) -> Result<usize> {
        self.inner.purge_deleted(limit).await
    }

    async fn positions(&self, chat_ids: &[ChatId]) -> Result<Vec<ChatPosition>> {
        self.inner.positions(chat_ids).await
    }

    async fn ping(&self) -> Result<()> {
        self.inner.ping().await
    }

    fn pool(&self) -> Pool {
        self.inner.pool()
    }
}

#[async_trait]
impl MessageRepository for TracedMessages {
    fn lane_count(&self) -> usize {
        self.inner.lane_count()
    }

    async fn open_lane(&self) -> Result<Box<dyn AppendLane>> {
        Ok(Box::new(TracedLane { inner: self.inner.open_lane().await?, system: self.system }))
    }

    async fn page(&self, query: &PageQuery) -> Result<Option<Page>> {
        within(db_span!("db.message.page", self.system), self.inner.page(query)).await
    }
}

#[async_trait]
impl AppendLane for TracedLane {
    fn blocks(&self) -> bool {
        self.inner.blocks()
    }

    async fn append(&mut self, batch: &[NewMessage]) -> Result<Vec<AppendOutcome>> {
        let span = db_span!("db.message.append", self.system, db.operation.batch.size = batch.len() as i64);
        within(span, self.inner.append(batch)).await
    }
}
