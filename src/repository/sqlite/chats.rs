//! Chats and members on SQLite.

use std::collections::HashMap;

use async_trait::async_trait;
use sqlx::sqlite::SqliteConnection;
use sqlx::{Row, Sqlite, Transaction};
use uuid::Uuid;

use super::{MIGRATOR, SqliteStore, begin, chat, chat_id, hex_ids, timestamp, user_id};
use crate::model::{
    Chat, ChatId, ChatPosition, ChatRole, Member, MemberChange, MembersChanged, MembershipView, NewChat, Refusal, Timestamp, UserId,
};
use crate::repository::{
    ChatRepository, ChatView, CreateOutcome, DecideDelete, DecideMembers, Pool, Result, StoreError, bounded, migrations, repeated, role,
};

#[async_trait]
impl ChatRepository for SqliteStore {
    async fn create(&self, chat: &NewChat) -> Result<CreateOutcome> {
        bounded(async {
            let mut writer = self.writer.lock().await;
            let mut tx = begin(&mut writer).await?;
            if let Some(key) = &chat.request {
                let found =
                    sqlx::query("SELECT id, request_digest FROM chats WHERE created_by = ? AND request_id = ? AND deleted_at IS NULL")
                        .bind(chat.created_by.as_str())
                        .bind(&key.request_id)
                        .fetch_optional(&mut *tx)
                        .await?;
                if let Some(row) = found {
                    return Ok(repeated(chat_id(&row, "id")?, row.try_get("request_digest")?, key));
                }
            }
            sqlx::query("INSERT INTO chats (id, title, created_by, created_at, request_id, request_digest) VALUES (?, ?, ?, ?, ?, ?)")
                .bind(chat.id.as_uuid())
                .bind(&chat.title)
                .bind(chat.created_by.as_str())
                .bind(chat.created_at.as_micros())
                .bind(chat.request.as_ref().map(|key| key.request_id.as_str()))
                .bind(chat.request.as_ref().map(|key| key.digest.as_slice()))
                .execute(&mut *tx)
                .await?;
            set_role(&mut tx, chat.id, &chat.created_by, ChatRole::Owner, chat.created_at).await?;
            for member in &chat.members {
                set_role(&mut tx, chat.id, member, ChatRole::Member, chat.created_at).await?;
            }
            tx.commit().await?;
            Ok(CreateOutcome::Created)
        })
        .await
    }

    async fn find(&self, chat_id: ChatId, user_id: &UserId) -> Result<Option<ChatView>> {
        bounded(async {
            let row = sqlx::query(
                "SELECT c.id, c.title, c.created_by, c.created_at, c.last_sequence, c.access_version, m.role
                 FROM live_chats c LEFT JOIN chat_members m ON m.chat_id = c.id AND m.user_id = ?2
                 WHERE c.id = ?1",
            )
            .bind(chat_id.as_uuid())
            .bind(user_id.as_str())
            .fetch_optional(&self.readers)
            .await?;
            row.map(|row| {
                let role = row.try_get::<Option<i16>, _>("role")?.map(role).transpose()?;
                Ok(ChatView { chat: chat(&row)?, role, access_version: row.try_get("access_version")? })
            })
            .transpose()
        })
        .await
    }

    async fn members(&self, chat_id: ChatId) -> Result<Vec<Member>> {
        bounded(async {
            let rows = sqlx::query(
                "SELECT m.user_id, m.role, m.joined_at FROM chats c JOIN chat_members m ON m.chat_id = c.id
                 WHERE c.id = ? AND c.deleted_at IS NULL ORDER BY m.role, m.user_id",
            )
            .bind(chat_id.as_uuid())
            .fetch_all(&self.readers)
            .await?;
            rows.iter()
                .map(|row| {
                    Ok(Member {
                        user_id: user_id(row, "user_id")?,
                        role: role(row.try_get("role")?)?,
                        joined_at: timestamp(row, "joined_at")?,
                    })
                })
                .collect()
        })
        .await
    }

    async fn list(&self, user_id: &UserId, before: Option<ChatId>, limit: usize) -> Result<Vec<Chat>> {
        bounded(async {
            let rows = sqlx::query(
                "SELECT c.id, c.title, c.created_by, c.created_at, c.last_sequence
                 FROM chat_members m JOIN live_chats c ON c.id = m.chat_id
                 WHERE m.user_id = ? AND m.chat_id < ?
                 ORDER BY m.chat_id DESC LIMIT ?",
            )
            .bind(user_id.as_str())
            .bind(before.map_or(Uuid::max(), ChatId::as_uuid))
            .bind(limit as i64)
            .fetch_all(&self.readers)
            .await?;
            rows.iter().map(chat).collect()
        })
        .await
    }

    async fn change_members(
        &self,
        chat_id: ChatId,
        involved: &[UserId],
        now: Timestamp,
        decide: DecideMembers<'_>,
    ) -> Result<Result<MembersChanged, Refusal>> {
        bounded(async {
            let mut writer = self.writer.lock().await;
            let mut tx = begin(&mut writer).await?;
            let Some((view, access_version)) = view(&mut tx, chat_id, involved).await? else { return Ok(Err(Refusal::ChatNotFound)) };
            let changes = match decide(&view) {
                Ok(changes) => changes,
                Err(refusal) => return Ok(Err(refusal)),
            };
            if changes.is_empty() {
                return Ok(Ok(MembersChanged { changes, access_version }));
            }
            for change in &changes {
                match change {
                    MemberChange::Set(user, role) => set_role(&mut tx, chat_id, user, *role, now).await?,
                    MemberChange::Remove(user) => {
                        sqlx::query("DELETE FROM chat_members WHERE chat_id = ? AND user_id = ?")
                            .bind(chat_id.as_uuid())
                            .bind(user.as_str())
                            .execute(&mut *tx)
                            .await?;
                    }
                }
            }
            sqlx::query("UPDATE chats SET access_version = access_version + 1 WHERE id = ?")
                .bind(chat_id.as_uuid())
                .execute(&mut *tx)
                .await?;
            tx.commit().await?;
            Ok(Ok(MembersChanged { changes, access_version: access_version + 1 }))
        })
        .await
    }

    async fn delete(&self, chat_id: ChatId, caller: &UserId, now: Timestamp, decide: DecideDelete<'_>) -> Result<Result<(), Refusal>> {
        bounded(async {
            let mut writer = self.writer.lock().await;
            let mut tx = begin(&mut writer).await?;
            let Some((view, _)) = view(&mut tx, chat_id, std::slice::from_ref(caller)).await? else {
                return Ok(Err(Refusal::ChatNotFound));
            };
            if let Err(refusal) = decide(&view) {
                return Ok(Err(refusal));
            }
            sqlx::query("UPDATE chats SET deleted_at = ?2, access_version = access_version + 1 WHERE id = ?1")
                .bind(chat_id.as_uuid())
                .bind(now.as_micros())
                .execute(&mut *tx)
                .await?;
            tx.commit().await?;
            Ok(Ok(()))
        })
        .await
    }

    async fn purge_deleted(&self, limit: usize) -> Result<usize> {
        bounded(async {
            let mut writer = self.writer.lock().await;
            let mut tx = begin(&mut writer).await?;
            let Some(row) =
                sqlx::query("SELECT id FROM chats WHERE deleted_at IS NOT NULL ORDER BY id LIMIT 1").fetch_optional(&mut *tx).await?
            else {
                return Ok(0);
            };
            let id: Uuid = row.try_get("id")?;
            let mut removed = 0;
            for statement in [
                "DELETE FROM messages WHERE position IN (SELECT position FROM messages WHERE chat_id = ?1 ORDER BY sequence LIMIT ?2)",
                "DELETE FROM message_ids WHERE chat_id = ?1 AND (sender_id, client_message_id) IN (SELECT sender_id, client_message_id FROM message_ids WHERE chat_id = ?1 LIMIT ?2)",
                "DELETE FROM chat_members WHERE chat_id = ?1 AND user_id IN (SELECT user_id FROM chat_members WHERE chat_id = ?1 LIMIT ?2)",
                "DELETE FROM chats WHERE id = ?1 AND ?2 > 0",
            ] {
                let left = limit - removed;
                if left == 0 {
                    break;
                }
                removed += sqlx::query(statement).bind(id).bind(left as i64).execute(&mut *tx).await?.rows_affected() as usize;
            }
            tx.commit().await?;
            Ok(removed)
        })
        .await
    }

    async fn positions(&self, chat_ids: &[ChatId]) -> Result<Vec<ChatPosition>> {
        bounded(async {
            let rows =
                sqlx::query("SELECT id, last_sequence, access_version FROM live_chats WHERE id IN (SELECT unhex(value) FROM json_each(?))")
                    .bind(hex_ids(chat_ids.iter().copied()))
                    .fetch_all(&self.readers)
                    .await?;
            rows.iter()
                .map(|row| {
                    Ok(ChatPosition {
                        chat_id: chat_id(row, "id")?,
                        last_sequence: row.try_get("last_sequence")?,
                        access_version: row.try_get("access_version")?,
                    })
                })
                .collect()
        })
        .await
    }

    async fn ping(&self) -> Result<()> {
        bounded(async {
            let row = sqlx::query(migrations::APPLIED).fetch_one(&self.readers).await.map_err(migrations::unread)?;
            migrations::check(&MIGRATOR, row.try_get("version")?)
        })
        .await
    }

    fn pool(&self) -> Pool {
        let (all, idle) = (self.readers.size() as usize, self.readers.num_idle());
        Pool { in_use: all.saturating_sub(idle), idle, limit: self.readers.options().get_max_connections() as usize }
    }
}

/// What a decision needs, and the chat's access version; the transaction holds the file's write lock.
async fn view(tx: &mut Transaction<'_, Sqlite>, chat_id: ChatId, involved: &[UserId]) -> Result<Option<(MembershipView, i64)>> {
    let found = sqlx::query("SELECT access_version FROM chats WHERE id = ? AND deleted_at IS NULL")
        .bind(chat_id.as_uuid())
        .fetch_optional(&mut **tx)
        .await?;
    let Some(found) = found else { return Ok(None) };
    let counts = sqlx::query("SELECT count(*) AS members, count(*) FILTER (WHERE role = 1) AS owners FROM chat_members WHERE chat_id = ?")
        .bind(chat_id.as_uuid())
        .fetch_one(&mut **tx)
        .await?;
    let users: Vec<&str> = involved.iter().map(UserId::as_str).collect();
    let users = serde_json::to_string(&users).map_err(|error| StoreError::corrupt(error.to_string()))?;
    let rows = sqlx::query("SELECT user_id, role FROM chat_members WHERE chat_id = ? AND user_id IN (SELECT value FROM json_each(?))")
        .bind(chat_id.as_uuid())
        .bind(users)
        .fetch_all(&mut **tx)
        .await?;
    let mut roles = HashMap::with_capacity(rows.len());
    for row in &rows {
        roles.insert(user_id(row, "user_id")?, role(row.try_get("role")?)?);
    }
    let view = MembershipView {
        member_count: counts.try_get::<i64, _>("members")? as usize,
        owner_count: counts.try_get::<i64, _>("owners")? as usize,
        roles,
    };
    Ok(Some((view, found.try_get("access_version")?)))
}

async fn set_role(tx: &mut SqliteConnection, chat_id: ChatId, user: &UserId, role: ChatRole, now: Timestamp) -> Result<()> {
    sqlx::query(
        "INSERT INTO chat_members (chat_id, user_id, role, joined_at) VALUES (?, ?, ?, ?)
         ON CONFLICT (chat_id, user_id) DO UPDATE SET role = excluded.role",
    )
    .bind(chat_id.as_uuid())
    .bind(user.as_str())
    .bind(role as i16)
    .bind(now.as_micros())
    .execute(tx)
    .await?;
    Ok(())
}
