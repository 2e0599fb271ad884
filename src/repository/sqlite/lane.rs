//! The lane: the writer's connection, one transaction a batch.

use std::collections::HashMap;

use async_trait::async_trait;
use serde_json::json;
use sqlx::{Row, Sqlite, Transaction};

use super::{Writer, begin, chat_id, hex_ids, timestamp};
use crate::model::{AppendOutcome, ChatId, ChatRole, Clock, NewMessage, SystemClock, Timestamp, access};
use crate::repository::{AppendLane, Result, bounded, role};

pub(super) struct SqliteLane {
    writer: Writer,
}

impl SqliteLane {
    pub fn new(writer: Writer) -> Self {
        Self { writer }
    }
}

#[async_trait]
impl AppendLane for SqliteLane {
    async fn append(&mut self, batch: &[NewMessage]) -> Result<Vec<AppendOutcome>> {
        bounded(async {
            let mut writer = self.writer.lock().await;
            let mut tx = begin(&mut writer).await?;
            let ids = serde_json::Value::from(
                batch.iter().map(|m| json!([hex(m.chat_id), m.sender.user_id.as_str(), m.client_message_id])).collect::<Vec<_>>(),
            )
            .to_string();
            let mut chats = read_chats(&mut tx, batch).await?;
            let known = read_known(&mut tx, &ids).await?;
            let roles = read_roles(&mut tx, &ids).await?;
            let (outcomes, new) = judge(batch, &mut chats, &known, &roles, SystemClock.now());
            if new.is_empty() {
                return Ok(outcomes);
            }
            store(&mut tx, &new, &chats).await?;
            tx.commit().await?;
            Ok(outcomes)
        })
        .await
    }
}

/// Where a chat's numbering stands.
struct ChatState {
    last_sequence: i64,
    last_message_at: Timestamp,
    /// Whether the batch moved it.
    moved: bool,
}

/// (chat, position in the batch's JSON) keys: a message's id is its chat, its sender and the sender's own id.
type MessageKey<'a> = (ChatId, &'a str, &'a str);

/// A message that is stored: its number, its time and its text.
struct Known {
    sequence: i64,
    created_at: Timestamp,
    text: String,
}

/// A message to store, with its place.
struct Numbered<'a> {
    message: &'a NewMessage,
    sequence: i64,
    created_at: Timestamp,
}

async fn read_chats(tx: &mut Transaction<'_, Sqlite>, batch: &[NewMessage]) -> Result<HashMap<ChatId, ChatState>> {
    let rows = sqlx::query(
        "SELECT id, last_sequence, last_message_at FROM chats WHERE id IN (SELECT unhex(value) FROM json_each(?)) AND deleted_at IS NULL",
    )
    .bind(hex_ids(batch.iter().map(|m| m.chat_id)))
    .fetch_all(&mut **tx)
    .await?;
    rows.iter()
        .map(|row| {
            let state = ChatState {
                last_sequence: row.try_get("last_sequence")?,
                last_message_at: timestamp(row, "last_message_at")?,
                moved: false,
            };
            Ok((chat_id(row, "id")?, state))
        })
        .collect()
}

/// What is stored of the batch's messages, by their index in it.
async fn read_known(tx: &mut Transaction<'_, Sqlite>, ids: &str) -> Result<HashMap<i64, Known>> {
    let rows = sqlx::query(
        "SELECT j.key AS n, m.sequence, m.created_at, m.text FROM json_each(?) j CROSS JOIN messages m
         ON m.chat_id = unhex(j.value ->> 0) AND m.sender_id = j.value ->> 1 AND m.client_message_id = j.value ->> 2",
    )
    .bind(ids)
    .fetch_all(&mut **tx)
    .await?;
    rows.iter()
        .map(|row| {
            let known = Known { sequence: row.try_get("sequence")?, created_at: timestamp(row, "created_at")?, text: row.try_get("text")? };
            Ok((row.try_get("n")?, known))
        })
        .collect()
}

/// The senders' roles in their chats, by the message's index in the batch.
async fn read_roles(tx: &mut Transaction<'_, Sqlite>, ids: &str) -> Result<HashMap<i64, ChatRole>> {
    let rows = sqlx::query(
        "SELECT j.key AS n, m.role FROM json_each(?) j CROSS JOIN chat_members m ON m.chat_id = unhex(j.value ->> 0) AND m.user_id = j.value ->> 1",
    )
    .bind(ids)
    .fetch_all(&mut **tx)
    .await?;
    rows.iter().map(|row| Ok((row.try_get("n")?, role(row.try_get("role")?)?))).collect()
}

/// Judges each message of a batch in its order: what was stored before first, then membership, then the next number.
fn judge<'a>(
    batch: &'a [NewMessage],
    chats: &mut HashMap<ChatId, ChatState>,
    known: &HashMap<i64, Known>,
    roles: &HashMap<i64, ChatRole>,
    now: Timestamp,
) -> (Vec<AppendOutcome>, Vec<Numbered<'a>>) {
    let mut new: Vec<Numbered<'a>> = Vec::with_capacity(batch.len());
    let mut in_batch: HashMap<MessageKey<'a>, usize> = HashMap::with_capacity(batch.len());
    let outcomes = batch
        .iter()
        .zip(0_i64..)
        .map(|(message, n)| {
            let Some(chat) = chats.get_mut(&message.chat_id) else { return AppendOutcome::NotFound };
            let key = (message.chat_id, message.sender.user_id.as_str(), message.client_message_id.as_str());
            let before = match (known.get(&n), in_batch.get(&key).map(|at| &new[*at])) {
                (Some(known), _) => Some((known.sequence, known.created_at, known.text.as_str())),
                (None, Some(first)) => Some((first.sequence, first.created_at, first.message.text.as_str())),
                (None, None) => None,
            };
            match before {
                Some((sequence, created_at, text)) if text == message.text => return AppendOutcome::Duplicate { sequence, created_at },
                Some(_) => return AppendOutcome::Conflict,
                None => {}
            }
            let role = roles.get(&n).copied();
            if !access::allows(access::Action::Send, message.sender.role, role) {
                return if role.is_some() { AppendOutcome::Denied } else { AppendOutcome::NotFound };
            }
            let (sequence, created_at) = (chat.last_sequence + 1, now.max(chat.last_message_at));
            *chat = ChatState { last_sequence: sequence, last_message_at: created_at, moved: true };
            in_batch.insert(key, new.len());
            new.push(Numbered { message, sequence, created_at });
            AppendOutcome::Stored { sequence, created_at }
        })
        .collect();
    (outcomes, new)
}

async fn store(tx: &mut Transaction<'_, Sqlite>, new: &[Numbered<'_>], chats: &HashMap<ChatId, ChatState>) -> Result<()> {
    let rows = new.iter().map(|n| {
        let m = n.message;
        json!([hex(m.chat_id), n.sequence, m.sender.user_id.as_str(), m.client_message_id, m.text, n.created_at.as_micros()])
    });
    sqlx::query(
        "INSERT INTO messages (chat_id, sequence, sender_id, client_message_id, text, created_at)
         SELECT unhex(value ->> 0), value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5 FROM json_each(?)",
    )
    .bind(serde_json::Value::from(rows.collect::<Vec<_>>()).to_string())
    .execute(&mut **tx)
    .await?;
    let moved = chats.iter().filter(|(_, chat)| chat.moved);
    let rows = moved.map(|(id, chat)| json!([hex(*id), chat.last_sequence, chat.last_message_at.as_micros()]));
    sqlx::query(
        "UPDATE chats SET last_sequence = j.value ->> 1, last_message_at = j.value ->> 2
         FROM json_each(?) j WHERE chats.id = unhex(j.value ->> 0)",
    )
    .bind(serde_json::Value::from(rows.collect::<Vec<_>>()).to_string())
    .execute(&mut **tx)
    .await?;
    Ok(())
}

fn hex(id: ChatId) -> String {
    id.as_uuid().simple().to_string()
}
