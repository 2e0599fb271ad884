//! Pages of messages on SQLite.

use async_trait::async_trait;
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use super::lane::{Opened, SqliteLane};
use super::{SqliteStore, checkpoint, timestamp, user_id};
use crate::model::message::MESSAGE_OVERHEAD_BYTES;
use crate::model::{Bound, ChatId, Message, Page, PageQuery};
use crate::repository::{AppendLane, MessageRepository, Result, bounded};

/// One statement, so one snapshot: the membership that allows the page, the chat's last sequence, which is looked up once, and the
/// messages. `weight` is the running weight before each message, so the row that passes the limit is the last one.
macro_rules! page {
    ($bound:literal, $order:literal) => {
        concat!(
            "WITH access AS MATERIALIZED (
                 SELECT c.last_sequence FROM live_chats c
                 WHERE c.id = ?1
                   AND (?3 OR EXISTS (SELECT 1 FROM chat_members m WHERE m.chat_id = c.id AND m.user_id = ?2))
             )
             SELECT a.last_sequence, p.* FROM access a LEFT JOIN (
                 SELECT * FROM (
                     SELECT x.*, sum(length(CAST(x.text AS BLOB)) + length(CAST(x.client_message_id AS BLOB))
                                + length(CAST(x.sender_id AS BLOB)) + ?6)
                            OVER (ORDER BY x.sequence ",
            $order,
            " ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS weight
                     FROM (
                         SELECT sequence, sender_id, client_message_id, text, created_at FROM messages
                         WHERE chat_id = ?1 AND sequence ",
            $bound,
            " ?4 ORDER BY sequence ",
            $order,
            " LIMIT ?5
                     ) x
                 ) y WHERE coalesce(y.weight, 0) < ?7
             ) p ON true ORDER BY p.sequence ",
            $order
        )
    };
}

#[async_trait]
impl MessageRepository for SqliteStore {
    fn lane_count(&self) -> usize {
        1
    }

    async fn open_lane(&self) -> Result<Box<dyn AppendLane>> {
        let opened = {
            let (path, _writer) = (self.path.clone(), self.writer.lock().await);
            let open = move || {
                if let Err(error) = checkpoint::make_room(&path) {
                    tracing::warn!(error = %error, "the write-ahead log could not be given its room; messages take longer to store until it has grown");
                }
                // Not left to the first message. Where it fails, that one tries again, and tells why.
                Opened::open(&path).ok()
            };
            // A panic is logged by its hook.
            tokio::task::spawn_blocking(open).await.ok().flatten()
        };
        Ok(Box::new(SqliteLane::new(self.path.clone(), self.writer.clone(), opened)))
    }

    async fn page(&self, query: &PageQuery) -> Result<Option<Page>> {
        let (statement, bound, ascending) = match query.bound {
            Bound::After(sequence) => (page!(">", "ASC"), sequence, true),
            Bound::Before(sequence) => (page!("<", "DESC"), sequence, false),
            Bound::Latest => (page!("<", "DESC"), i64::MAX, false),
        };
        bounded(async {
            let rows = sqlx::query(statement)
                .bind(query.chat_id.as_uuid())
                .bind(query.reader.user_id.as_str())
                .bind(query.reader.role.is_trusted())
                .bind(bound)
                .bind(query.limit as i64)
                .bind(MESSAGE_OVERHEAD_BYTES as i64)
                .bind(query.max_bytes as i64)
                .fetch_all(&self.readers)
                .await?;
            let Some(first) = rows.first() else { return Ok(None) };
            let last_sequence: i64 = first.try_get("last_sequence")?;
            let mut messages = Vec::with_capacity(rows.len());
            for row in &rows {
                // The row of a chat without messages in this direction has no message.
                let Some(sequence) = row.try_get::<Option<i64>, _>("sequence")? else { break };
                messages.push(message(row, query.chat_id, sequence)?);
            }
            Ok(Some(Page::of(messages, ascending, last_sequence)))
        })
        .await
    }
}

fn message(row: &SqliteRow, chat_id: ChatId, sequence: i64) -> Result<Message> {
    Ok(Message {
        chat_id,
        sequence,
        sender_id: user_id(row, "sender_id")?,
        client_message_id: row.try_get("client_message_id")?,
        text: row.try_get("text")?,
        created_at: timestamp(row, "created_at")?,
    })
}
