//! The lane: a connection of its own, used on the lane's thread: one transaction a batch, one message after the other by prepared
//! statements. Through sqlx each statement would cost two changes of threads.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use rusqlite::{CachedStatement, Connection, OptionalExtension, Transaction, TransactionBehavior, params};

use super::checkpoint::{self, Checkpoints};
use super::{BUSY_TIMEOUT, PRAGMAS, Writer};
use crate::model::{AppendOutcome, ChatId, ChatRole, Clock, NewMessage, SystemClock, Timestamp, access};
use crate::repository::{AppendLane, Result, StoreError, bounded, role};

pub(super) struct SqliteLane {
    path: PathBuf,
    /// Held while the lane writes, so that the store's own writer and this one never wait for the file's lock.
    writer: Writer,
    /// `None`: not opened yet, or its transaction could not be ended.
    connection: Option<Connection>,
    checkpoints: Checkpoints,
}

impl SqliteLane {
    pub fn new(path: PathBuf, writer: Writer) -> Self {
        Self { checkpoints: Checkpoints::start(path.clone()), path, writer, connection: None }
    }
}

#[async_trait]
impl AppendLane for SqliteLane {
    fn blocks(&self) -> bool {
        true
    }

    async fn append(&mut self, batch: &[NewMessage]) -> Result<Vec<AppendOutcome>> {
        // Nothing has been asked of the store yet.
        let locked = bounded(async { Ok(self.writer.lock().await) }).await;
        let _writer = locked.map_err(|_| StoreError::Undone(sqlx::Error::PoolTimedOut))?;
        let mut connection = match self.connection.take() {
            Some(connection) => {
                // Not behind the last commit, whose messages are told first.
                self.checkpoints.proceed(&connection);
                connection
            }
            None => {
                let opened = open(&self.path).map_err(|error| StoreError::from(error).before_commit())?;
                checkpoint::watch(&opened);
                opened
            }
        };
        let appended = append(&mut connection, batch);
        // One with an open transaction is closed: that ends it.
        self.connection = Some(connection).filter(Connection::is_autocommit);
        appended
    }
}

pub(super) fn open(path: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    for (name, value) in PRAGMAS {
        // Some answer with what they were set to.
        connection.pragma_update_and_check(None, name, value, |_| Ok(())).optional()?;
    }
    Ok(connection)
}

/// Where a chat's numbering stands.
struct ChatState {
    last_sequence: i64,
    last_message_at: Timestamp,
}

/// Of what fails only a commit may have happened: whatever ends the transaction before undoes it.
fn append(connection: &mut Connection, batch: &[NewMessage]) -> Result<Vec<AppendOutcome>> {
    let begun = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(StoreError::from);
    let tx = begun.map_err(StoreError::before_commit)?;
    let outcomes = place_all(&tx, batch).map_err(StoreError::before_commit)?;
    if outcomes.iter().any(|outcome| matches!(outcome, AppendOutcome::Stored { .. })) {
        // Whatever it says: the log may have it.
        tx.commit().map_err(|error| StoreError::Unavailable(sqlx::Error::AnyDriverError(error.into())))?;
    }
    Ok(outcomes)
}

fn place_all(tx: &Transaction<'_>, batch: &[NewMessage]) -> Result<Vec<AppendOutcome>> {
    let now = SystemClock.now();
    let mut statements = Statements::of(tx)?;
    // `None`: there is no such chat.
    let mut chats: HashMap<ChatId, Option<ChatState>> = HashMap::with_capacity(batch.len());
    let mut outcomes = Vec::with_capacity(batch.len());
    for message in batch {
        let chat = match chats.entry(message.chat_id) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(statements.chat(message.chat_id)?),
        };
        outcomes.push(match chat {
            Some(chat) => statements.place(message, chat, now)?,
            None => AppendOutcome::NotFound,
        });
    }
    Ok(outcomes)
}

struct Statements<'a> {
    chat: CachedStatement<'a>,
    role: CachedStatement<'a>,
    stored: CachedStatement<'a>,
    insert: CachedStatement<'a>,
}

impl<'a> Statements<'a> {
    fn of(tx: &'a Transaction<'_>) -> Result<Self> {
        Ok(Self {
            // By its newest message, where it has one.
            chat: tx.prepare_cached(
                "SELECT coalesce(m.sequence, 0), coalesce(m.created_at, 0) FROM chats c LEFT JOIN messages m ON m.chat_id = c.id
                 WHERE c.id = ? AND c.deleted_at IS NULL ORDER BY m.sequence DESC LIMIT 1",
            )?,
            role: tx.prepare_cached("SELECT role FROM chat_members WHERE chat_id = ? AND user_id = ?")?,
            stored: tx.prepare_cached(
                "SELECT sequence, created_at, text = ? FROM messages WHERE chat_id = ? AND sender_id = ? AND client_message_id = ?",
            )?,
            insert: tx.prepare_cached(
                "INSERT INTO messages (chat_id, sequence, sender_id, client_message_id, text, created_at) VALUES (?, ?, ?, ?, ?, ?)
                 ON CONFLICT (chat_id, sender_id, client_message_id) DO NOTHING",
            )?,
        })
    }

    fn chat(&mut self, id: ChatId) -> Result<Option<ChatState>> {
        let state = self.chat.query_row([id.as_uuid().as_bytes()], |row| {
            Ok(ChatState { last_sequence: row.get(0)?, last_message_at: Timestamp::from_micros(row.get(1)?) })
        });
        Ok(state.optional()?)
    }

    fn role(&mut self, message: &NewMessage) -> Result<Option<ChatRole>> {
        let chat_id = message.chat_id.as_uuid();
        let key = (chat_id.as_bytes(), message.sender.user_id.as_str());
        self.role.query_row(key, |row| row.get(0)).optional()?.map(role).transpose()
    }

    /// What was stored before comes before membership, and membership before the next number. Whoever may send is told apart by the
    /// insert from one who sends again: most messages are new.
    fn place(&mut self, message: &NewMessage, chat: &mut ChatState, now: Timestamp) -> Result<AppendOutcome> {
        let chat_id = message.chat_id.as_uuid();
        let role = self.role(message)?;
        let allowed = access::allows(access::Action::Send, message.sender.role, role);
        if allowed {
            let (sequence, created_at) = (chat.last_sequence + 1, now.max(chat.last_message_at));
            let row = params![
                chat_id.as_bytes(),
                sequence,
                message.sender.user_id.as_str(),
                message.client_message_id,
                message.text,
                created_at.as_micros()
            ];
            if self.insert.execute(row)? == 1 {
                *chat = ChatState { last_sequence: sequence, last_message_at: created_at };
                return Ok(AppendOutcome::Stored { sequence, created_at });
            }
        }
        let key = params![message.text, chat_id.as_bytes(), message.sender.user_id.as_str(), message.client_message_id];
        let before = self.stored.query_row(key, |row| Ok((row.get(0)?, Timestamp::from_micros(row.get(1)?), row.get(2)?)));
        match before.optional()? {
            Some((sequence, created_at, true)) => Ok(AppendOutcome::Duplicate { sequence, created_at }),
            Some((_, _, false)) => Ok(AppendOutcome::Conflict),
            None if allowed => Err(StoreError::corrupt("a message that is there and isn't")),
            None if role.is_some() => Ok(AppendOutcome::Denied),
            None => Ok(AppendOutcome::NotFound),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::model::{Sender, SystemRole, UserId};
    use crate::repository::sqlite::{SqliteOptions, SqliteStore};

    #[tokio::test]
    async fn what_fails_before_the_commit_is_surely_not_stored() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("chat.db");
        let _store = SqliteStore::open(&SqliteOptions { path: path.clone(), read_connections: 1 }, true).await.unwrap();
        let (chat_id, mut other) = (ChatId::generate(), open(&path).unwrap());
        let chat = "INSERT INTO chats (id, title, created_by, created_at) VALUES (?, 't', 'u', 1)";
        other.execute(chat, [chat_id.as_uuid().as_bytes()]).unwrap();
        let sender = Sender { user_id: UserId::new("backend"), role: SystemRole::Service };
        let message =
            |number: usize| NewMessage { chat_id, sender: sender.clone(), client_message_id: number.to_string(), text: "x".repeat(4_096) };
        let batch: Vec<NewMessage> = (0..16).map(message).collect();

        let mut lane = open(&path).unwrap();
        lane.busy_timeout(Duration::ZERO).unwrap();
        let writing = other.transaction_with_behavior(TransactionBehavior::Immediate).unwrap();
        let busy = append(&mut lane, &batch).unwrap_err();
        drop(writing);
        let mut only_reads = open(&path).unwrap();
        only_reads.pragma_update(None, "query_only", "on").unwrap();
        let read_only = append(&mut only_reads, &batch).unwrap_err();
        let mut full = open(&path).unwrap();
        // The file may not grow any more.
        full.pragma_update_and_check(None, "max_page_count", 1, |_| Ok(())).unwrap();
        let no_room = append(&mut full, &batch).unwrap_err();
        for error in [busy, read_only, no_room] {
            assert!(matches!(error, StoreError::Undone(_)), "{error:?}");
        }
        assert!(full.is_autocommit(), "the connection is free for the next batch");

        let outcomes = append(&mut lane, &batch).unwrap();
        assert!(matches!(outcomes[0], AppendOutcome::Stored { sequence: 1, .. }), "{outcomes:?}");
    }
}
