//! The lane: a connection of its own, used on the lane's thread: one transaction a batch, one message after the other by prepared
//! statements. Through sqlx each statement would cost two changes of threads.

use std::collections::HashMap;
use std::hash::Hash;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use rusqlite::{CachedStatement, Connection, OptionalExtension, Transaction, TransactionBehavior, params};

use super::checkpoint::{self, Checkpoints};
use super::message_ids::{self, MessageIds};
use super::{BUSY_TIMEOUT, PRAGMAS, Writer};
use crate::model::{AppendOutcome, ChatId, ChatRole, Clock, NewMessage, SystemClock, Timestamp, UserId, access};
use crate::repository::{AppendLane, Result, StoreError, bounded, role};

/// 4 MiB of the file in memory. More costs each commit behind the split of a page: SQLite then looks through all pages that are there.
const CACHE_SIZE: i64 = -4096;
/// Chats, and members, that are kept in memory; one more, and it begins anew.
const CACHED_MAX: usize = 16_384;

pub(super) struct SqliteLane {
    path: PathBuf,
    /// Held while the lane writes, so that the store's own writer and this one never wait for the file's lock.
    writer: Writer,
    /// `None`: what was opened failed.
    opened: Option<Opened>,
    checkpoints: Checkpoints,
}

impl SqliteLane {
    pub fn new(path: PathBuf, writer: Writer, opened: Option<Opened>) -> Self {
        Self { checkpoints: Checkpoints::start(path.clone()), path, writer, opened }
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
        for _ in 0..2 {
            let mut opened = match self.opened.take() {
                Some(opened) => {
                    // Not behind the last commit, whose messages are told first.
                    self.checkpoints.proceed(&opened.connection);
                    opened
                }
                None => Opened::open(&self.path).map_err(StoreError::before_commit)?,
            };
            let appended = opened.append(batch);
            // One with an open transaction is closed: that ends it.
            self.opened = Some(opened).filter(|opened| opened.connection.is_autocommit() && opened.cache.holds);
            if let Some(outcomes) = appended? {
                return Ok(outcomes);
            }
        }
        Err(StoreError::Undone(sqlx::Error::Protocol("a program beside the server stores too many messages".to_owned())))
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

/// The lane's connection, and what it knows of the file.
pub(super) struct Opened {
    connection: Connection,
    cache: Cache,
}

/// What was read, true until another connection commits; and what was stored, if that is committed.
struct Cache {
    /// False: what it holds may not be what the file has.
    holds: bool,
    /// The database's version, which other connections' commits change; `None`: not looked at yet.
    version: Option<i64>,
    ids: MessageIds,
    chats: HashMap<ChatId, ChatState>,
    roles: HashMap<(ChatId, UserId), Option<ChatRole>>,
}

/// Where a chat's numbering stands.
#[derive(Clone, Copy)]
struct ChatState {
    last_sequence: i64,
    last_message_at: Timestamp,
}

impl Opened {
    pub fn open(path: &Path) -> Result<Self> {
        let mut connection = open(path)?;
        connection.pragma_update(None, "cache_size", CACHE_SIZE)?;
        let ids = MessageIds::open(&mut connection)?;
        // Not before: what it has to write, commits move themselves.
        checkpoint::watch(&connection);
        Ok(Self { connection, cache: Cache { holds: true, version: None, ids, chats: HashMap::new(), roles: HashMap::new() } })
    }

    /// Of what fails only a commit may have happened: whatever ends the transaction before undoes it. `None`: others have stored more than can be read
    /// here, and nothing is appended.
    fn append(&mut self, batch: &[NewMessage]) -> Result<Option<Vec<AppendOutcome>>> {
        let Self { connection, cache } = self;
        let begun = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(StoreError::from);
        let tx = begun.map_err(StoreError::before_commit)?;
        cache.holds = false;
        if !cache.refresh(&tx).map_err(StoreError::before_commit)? {
            return Ok(None);
        }
        let outcomes = place_all(&tx, cache, batch).map_err(StoreError::before_commit)?;
        if outcomes.iter().any(is_stored) {
            // Whatever it says: the log may have it.
            tx.commit().map_err(|error| StoreError::Unavailable(sqlx::Error::AnyDriverError(error.into())))?;
        }
        cache.holds = true;
        Ok(Some(outcomes))
    }
}

impl Cache {
    /// Forgets what others may have changed, and reads what they have stored; false: it is too much.
    fn refresh(&mut self, tx: &Transaction<'_>) -> Result<bool> {
        let version = Some(tx.prepare_cached("PRAGMA data_version")?.query_row([], |row| row.get(0))?);
        if self.version == version {
            return Ok(true);
        }
        self.version = version;
        self.chats.clear();
        self.roles.clear();
        self.ids.read_on(tx)
    }
}

fn is_stored(outcome: &AppendOutcome) -> bool {
    matches!(outcome, AppendOutcome::Stored { .. })
}

fn place_all(tx: &Transaction<'_>, cache: &mut Cache, batch: &[NewMessage]) -> Result<Vec<AppendOutcome>> {
    let now = SystemClock.now();
    let mut placing = Placing::begin(tx, cache)?;
    let mut outcomes = Vec::with_capacity(batch.len());
    for message in batch {
        outcomes.push(placing.place(message, now)?);
    }
    placing.cache.ids.flush(tx, outcomes.iter().filter(|outcome| is_stored(outcome)).count())?;
    Ok(outcomes)
}

struct Placing<'a> {
    tx: &'a Transaction<'a>,
    cache: &'a mut Cache,
    insert: CachedStatement<'a>,
}

impl<'a> Placing<'a> {
    fn begin(tx: &'a Transaction<'_>, cache: &'a mut Cache) -> Result<Self> {
        let insert = tx.prepare_cached(
            "INSERT INTO messages (position, chat_id, sequence, sender_id, client_message_id, text, created_at) VALUES (?, ?, ?, ?, ?, ?, ?)",
        )?;
        Ok(Self { tx, cache, insert })
    }

    /// `None`: there is no such chat.
    fn chat(&mut self, id: ChatId) -> Result<Option<ChatState>> {
        if let Some(chat) = self.cache.chats.get(&id) {
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
            insert_bounded(&mut self.cache.chats, id, chat);
        }
        Ok(chat)
    }

    fn role(&mut self, message: &NewMessage) -> Result<Option<ChatRole>> {
        let key = (message.chat_id, message.sender.user_id.clone());
        if let Some(role) = self.cache.roles.get(&key) {
            return Ok(*role);
        }
        let mut statement = self.tx.prepare_cached("SELECT role FROM chat_members WHERE chat_id = ? AND user_id = ?")?;
        let found = statement.query_row((key.0.as_uuid().as_bytes(), key.1.as_str()), |row| row.get(0)).optional()?;
        let role = found.map(role).transpose()?;
        insert_bounded(&mut self.cache.roles, key, role);
        Ok(role)
    }

    /// What was stored before comes before membership, and membership before the next number.
    fn place(&mut self, message: &NewMessage, now: Timestamp) -> Result<AppendOutcome> {
        let Some(chat) = self.chat(message.chat_id)? else { return Ok(AppendOutcome::NotFound) };
        let key = message_ids::key(message);
        if let Some(position) = self.cache.ids.find(self.tx, &key)? {
            let (chat_id, sender, id) = (message.chat_id.as_uuid(), message.sender.user_id.as_str(), &message.client_message_id);
            let named = params![message.text, position, chat_id.as_bytes(), sender, id];
            let mut statement = self.tx.prepare_cached(
                "SELECT sequence, created_at, text = ? FROM messages
                 WHERE position = ? AND chat_id = ? AND sender_id = ? AND client_message_id = ?",
            )?;
            let before = statement.query_row(named, |row| Ok((row.get(0)?, Timestamp::from_micros(row.get(1)?), row.get(2)?)));
            match before.optional()? {
                Some((sequence, created_at, true)) => return Ok(AppendOutcome::Duplicate { sequence, created_at }),
                Some((_, _, false)) => return Ok(AppendOutcome::Conflict),
                // It was removed or changed by hand.
                None => {}
            }
        }
        let role = self.role(message)?;
        if !access::allows(access::Action::Send, message.sender.role, role) {
            return Ok(if role.is_some() { AppendOutcome::Denied } else { AppendOutcome::NotFound });
        }
        let (sequence, created_at) = (chat.last_sequence + 1, now.max(chat.last_message_at));
        let position = self.cache.ids.add(key);
        self.insert.execute(params![
            position,
            message.chat_id.as_uuid().as_bytes(),
            sequence,
            message.sender.user_id.as_str(),
            message.client_message_id,
            message.text,
            created_at.as_micros()
        ])?;
        self.cache.chats.insert(message.chat_id, ChatState { last_sequence: sequence, last_message_at: created_at });
        Ok(AppendOutcome::Stored { sequence, created_at })
    }
}

fn insert_bounded<K: Eq + Hash, V>(cache: &mut HashMap<K, V>, key: K, value: V) {
    if cache.len() == CACHED_MAX {
        cache.clear();
    }
    cache.insert(key, value);
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::model::{Sender, SystemRole, UserId};
    use crate::repository::sqlite::new_store;

    #[tokio::test]
    async fn what_fails_before_the_commit_is_surely_not_stored() {
        let (_folder, store) = new_store().await;
        let path = &store.path;
        let (chat_id, mut other) = (ChatId::generate(), open(path).unwrap());
        let chat = "INSERT INTO chats (id, title, created_by, created_at) VALUES (?, 't', 'u', 1)";
        other.execute(chat, [chat_id.as_uuid().as_bytes()]).unwrap();
        let sender = Sender { user_id: UserId::new("backend"), role: SystemRole::Service };
        let message =
            |number: usize| NewMessage { chat_id, sender: sender.clone(), client_message_id: number.to_string(), text: "x".repeat(4_096) };
        let batch: Vec<NewMessage> = (0..16).map(message).collect();

        let mut lane = Opened::open(path).unwrap();
        lane.connection.busy_timeout(Duration::ZERO).unwrap();
        let writing = other.transaction_with_behavior(TransactionBehavior::Immediate).unwrap();
        let busy = lane.append(&batch).unwrap_err();
        drop(writing);
        assert!(lane.cache.holds, "nothing was begun");
        let mut only_reads = Opened::open(path).unwrap();
        only_reads.connection.pragma_update(None, "query_only", "on").unwrap();
        let read_only = only_reads.append(&batch).unwrap_err();
        let mut full = Opened::open(path).unwrap();
        // The file may not grow any more.
        full.connection.pragma_update_and_check(None, "max_page_count", 1, |_| Ok(())).unwrap();
        let no_room = full.append(&batch).unwrap_err();
        for error in [busy, read_only, no_room] {
            assert!(matches!(error, StoreError::Undone(_)), "{error:?}");
        }
        assert!(full.connection.is_autocommit(), "the connection is free for the next batch");
        assert!(!full.cache.holds, "what it has of the batch isn't there");

        let outcomes = lane.append(&batch).unwrap().unwrap();
        assert!(matches!(outcomes[0], AppendOutcome::Stored { sequence: 1, .. }), "{outcomes:?}");
    }
}
