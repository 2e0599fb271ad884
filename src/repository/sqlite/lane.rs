//! The lane: a connection of its own, used on the lane's thread: one transaction a batch, one message after the other by prepared
//! statements. Through sqlx each statement would cost two changes of threads.

use std::collections::HashMap;
use std::hash::Hash;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use rusqlite::{CachedStatement, Connection, OptionalExtension, Transaction, TransactionBehavior, params};

use super::checkpoint::{self, Checkpoints};
use super::recent::{self, Recent};
use super::{BUSY_TIMEOUT, PRAGMAS, Writer};
use crate::model::{AppendOutcome, ChatId, ChatRole, Clock, NewMessage, SystemClock, Timestamp, UserId, access};
use crate::repository::{AppendLane, Result, StoreError, bounded, role};

/// 4 MiB of the file in memory: behind a page that was split a commit looks through all of them.
const CACHE_SIZE: i64 = -4096;

pub(super) struct SqliteLane {
    path: PathBuf,
    /// Held while the lane writes, so that the store's own writer and this one never wait for the file's lock.
    writer: Writer,
    /// `None`: not opened yet, or its transaction could not be ended.
    connection: Option<Connection>,
    /// `None`: not read yet, or a batch failed that had changed it.
    known: Option<Known>,
    checkpoints: Checkpoints,
}

impl SqliteLane {
    pub fn new(path: PathBuf, writer: Writer) -> Self {
        Self { checkpoints: Checkpoints::start(path.clone()), path, writer, connection: None, known: None }
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
                let opened = open_for_appends(&self.path).map_err(|error| StoreError::from(error).before_commit())?;
                checkpoint::watch(&opened);
                self.known = None;
                opened
            }
        };
        let appended = append(&mut connection, &mut self.known, batch);
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

fn open_for_appends(path: &Path) -> rusqlite::Result<Connection> {
    let connection = open(path)?;
    connection.pragma_update(None, "cache_size", CACHE_SIZE)?;
    Ok(connection)
}

/// What was read stays true until another connection commits, and what was written if this one does.
struct Known {
    /// The database's version, which other connections' commits change; `None`: not looked at yet.
    version: Option<i64>,
    recent: Recent,
    chats: HashMap<ChatId, ChatState>,
    roles: HashMap<(ChatId, UserId), Option<ChatRole>>,
}

/// Chats, and members, that are kept; one more, and it begins anew.
const KNOWN_MAX: usize = 16_384;

/// Where a chat's numbering stands.
#[derive(Clone, Copy)]
struct ChatState {
    last_sequence: i64,
    last_message_at: Timestamp,
}

impl Known {
    fn open(connection: &mut Connection) -> Result<Self> {
        Ok(Self { version: None, recent: Recent::open(connection)?, chats: HashMap::new(), roles: HashMap::new() })
    }

    /// Forgets and reads what others have changed; false: more than can be read here.
    fn bring_up_to_date(&mut self, tx: &Transaction<'_>) -> Result<bool> {
        let version = Some(tx.prepare_cached("PRAGMA data_version")?.query_row([], |row| row.get(0))?);
        if self.version == version {
            return Ok(true);
        }
        self.version = version;
        self.chats.clear();
        self.roles.clear();
        self.recent.read_on(tx)
    }
}

/// Of what fails only a commit may have happened: whatever ends the transaction before undoes it.
fn append(connection: &mut Connection, kept: &mut Option<Known>, batch: &[NewMessage]) -> Result<Vec<AppendOutcome>> {
    loop {
        let known = match kept.take() {
            Some(known) => Ok(known),
            None => Known::open(connection),
        };
        let mut known = known.map_err(StoreError::before_commit)?;
        let begun = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(StoreError::from);
        let tx = begun.map_err(StoreError::before_commit)?;
        if !known.bring_up_to_date(&tx).map_err(StoreError::before_commit)? {
            continue;
        }
        let outcomes = place_all(&tx, &mut known, batch).map_err(StoreError::before_commit)?;
        if outcomes.iter().any(|outcome| matches!(outcome, AppendOutcome::Stored { .. })) {
            // Whatever it says: the log may have it.
            tx.commit().map_err(|error| StoreError::Unavailable(sqlx::Error::AnyDriverError(error.into())))?;
        }
        *kept = Some(known);
        return Ok(outcomes);
    }
}

fn place_all(tx: &Transaction<'_>, known: &mut Known, batch: &[NewMessage]) -> Result<Vec<AppendOutcome>> {
    let now = SystemClock.now();
    let mut placing = Placing::begin(tx, known)?;
    let mut outcomes = Vec::with_capacity(batch.len());
    for message in batch {
        outcomes.push(placing.place(message, now)?);
    }
    let stored = outcomes.iter().filter(|outcome| matches!(outcome, AppendOutcome::Stored { .. })).count();
    placing.known.recent.move_ids(tx, stored)?;
    Ok(outcomes)
}

struct Placing<'a> {
    tx: &'a Transaction<'a>,
    known: &'a mut Known,
    stored: CachedStatement<'a>,
    insert: CachedStatement<'a>,
}

impl<'a> Placing<'a> {
    fn begin(tx: &'a Transaction<'_>, known: &'a mut Known) -> Result<Self> {
        Ok(Self {
            tx,
            known,
            stored: tx.prepare_cached("SELECT sequence, created_at, text = ? FROM messages WHERE position = ?")?,
            insert: tx.prepare_cached(
                "INSERT INTO messages (chat_id, sequence, sender_id, client_message_id, text, created_at) VALUES (?, ?, ?, ?, ?, ?)",
            )?,
        })
    }

    /// `None`: there is no such chat.
    fn chat(&mut self, id: ChatId) -> Result<Option<ChatState>> {
        if let Some(chat) = self.known.chats.get(&id) {
            return Ok(Some(*chat));
        }
        // By its newest message, where it has one.
        let mut statement = self.tx.prepare_cached(
            "SELECT coalesce(m.sequence, 0), coalesce(m.created_at, 0) FROM chats c LEFT JOIN messages m ON m.chat_id = c.id
             WHERE c.id = ? AND c.deleted_at IS NULL ORDER BY m.sequence DESC LIMIT 1",
        )?;
        let chat = statement.query_row([id.as_uuid().as_bytes()], |row| {
            Ok(ChatState { last_sequence: row.get(0)?, last_message_at: Timestamp::from_micros(row.get(1)?) })
        });
        let chat = chat.optional()?;
        if let Some(chat) = chat {
            keep(&mut self.known.chats, id, chat);
        }
        Ok(chat)
    }

    fn role(&mut self, message: &NewMessage) -> Result<Option<ChatRole>> {
        let key = (message.chat_id, message.sender.user_id.clone());
        if let Some(role) = self.known.roles.get(&key) {
            return Ok(*role);
        }
        let mut statement = self.tx.prepare_cached("SELECT role FROM chat_members WHERE chat_id = ? AND user_id = ?")?;
        let found = statement.query_row((key.0.as_uuid().as_bytes(), key.1.as_str()), |row| row.get(0)).optional()?;
        let role = found.map(role).transpose()?;
        keep(&mut self.known.roles, key, role);
        Ok(role)
    }

    /// What was stored before comes before membership, and membership before the next number.
    fn place(&mut self, message: &NewMessage, now: Timestamp) -> Result<AppendOutcome> {
        let Some(chat) = self.chat(message.chat_id)? else { return Ok(AppendOutcome::NotFound) };
        let key = recent::key(message);
        if let Some(position) = self.known.recent.find(self.tx, &key)? {
            let before = self
                .stored
                .query_row(params![message.text, position], |row| Ok((row.get(0)?, Timestamp::from_micros(row.get(1)?), row.get(2)?)));
            match before.optional()? {
                Some((sequence, created_at, true)) => return Ok(AppendOutcome::Duplicate { sequence, created_at }),
                Some((_, _, false)) => return Ok(AppendOutcome::Conflict),
                // Somebody has removed it by hand.
                None => {}
            }
        }
        let role = self.role(message)?;
        if !access::allows(access::Action::Send, message.sender.role, role) {
            return Ok(if role.is_some() { AppendOutcome::Denied } else { AppendOutcome::NotFound });
        }
        let (sequence, created_at) = (chat.last_sequence + 1, now.max(chat.last_message_at));
        self.insert.execute(params![
            message.chat_id.as_uuid().as_bytes(),
            sequence,
            message.sender.user_id.as_str(),
            message.client_message_id,
            message.text,
            created_at.as_micros()
        ])?;
        self.known.recent.add(key, self.tx.last_insert_rowid());
        self.known.chats.insert(message.chat_id, ChatState { last_sequence: sequence, last_message_at: created_at });
        Ok(AppendOutcome::Stored { sequence, created_at })
    }
}

fn keep<K: Eq + Hash, V>(kept: &mut HashMap<K, V>, key: K, value: V) {
    if kept.len() == KNOWN_MAX {
        kept.clear();
    }
    kept.insert(key, value);
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
        let busy = append(&mut lane, &mut None, &batch).unwrap_err();
        drop(writing);
        let mut only_reads = open(&path).unwrap();
        only_reads.pragma_update(None, "query_only", "on").unwrap();
        let read_only = append(&mut only_reads, &mut None, &batch).unwrap_err();
        let mut full = open(&path).unwrap();
        // The file may not grow any more.
        full.pragma_update_and_check(None, "max_page_count", 1, |_| Ok(())).unwrap();
        let no_room = append(&mut full, &mut None, &batch).unwrap_err();
        for error in [busy, read_only, no_room] {
            assert!(matches!(error, StoreError::Undone(_)), "{error:?}");
        }
        assert!(full.is_autocommit(), "the connection is free for the next batch");

        let outcomes = append(&mut lane, &mut None, &batch).unwrap();
        assert!(matches!(outcomes[0], AppendOutcome::Stored { sequence: 1, .. }), "{outcomes:?}");
    }
}
