//! Where clients' ids are found: the newest messages' here, all others' in the table `message_ids`.
//!
//! The ids are random, and each would make a page of the table be written. So they wait until there are [`WAITING_MAX`], and then go there in the
//! table's order, with each batch as many as it stores: neighbours share a page.
//!
//! `messages` has the ids too, in the order of arrival, and `message_ids_end` tells up to which of them the table is complete: from there on they are
//! read again where this memory is lost.

use std::collections::{BTreeMap, HashMap};
use std::mem;

use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior};
use uuid::Uuid;

use crate::model::{ChatId, NewMessage, UserId};
use crate::repository::Result;

/// Ids that wait until they are moved; as many again may be on their way.
const WAITING_MAX: usize = 8_192;

/// What no two messages share.
type Key = (ChatId, UserId, String);

/// Good for one connection, and as long as what it was told of is committed.
pub(super) struct Recent {
    /// The newest message that is known here.
    newest: i64,
    waiting: HashMap<Key, i64>,
    /// On their way, in the table's order, and behind the last of them the table is complete up to a position.
    moving: BTreeMap<Key, i64>,
    moving_to: i64,
}

pub(super) fn key(message: &NewMessage) -> Key {
    (message.chat_id, message.sender.user_id.clone(), message.client_message_id.clone())
}

impl Recent {
    /// In transactions of its own: moves what is more than may wait.
    pub fn open(connection: &mut Connection) -> Result<Self> {
        loop {
            let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let end = tx.query_row("SELECT position FROM message_ids_end", [], |row| row.get(0))?;
            let mut recent = Self { newest: end, waiting: HashMap::new(), moving: BTreeMap::new(), moving_to: 0 };
            if recent.read_on(&tx)? {
                return Ok(recent);
            }
            recent.move_ids(&tx, WAITING_MAX)?;
            tx.commit()?;
        }
    }

    /// Reads what others have stored, a program beside the server; false: it is more than may wait.
    pub fn read_on(&mut self, tx: &Transaction<'_>) -> Result<bool> {
        let mut statement = tx.prepare_cached(
            "SELECT position, chat_id, sender_id, client_message_id FROM messages WHERE position > ? ORDER BY position LIMIT ?",
        )?;
        let mut rows = statement.query([self.newest, WAITING_MAX as i64])?;
        let mut read = 0;
        while let Some(row) = rows.next()? {
            let chat_id = ChatId::from_uuid(Uuid::from_bytes(row.get(1)?));
            self.add((chat_id, UserId::new(row.get::<_, String>(2)?), row.get(3)?), row.get(0)?);
            read += 1;
        }
        Ok(read < WAITING_MAX)
    }

    /// Where a message with this key is, or was.
    pub fn find(&self, tx: &Transaction<'_>, key: &Key) -> Result<Option<i64>> {
        if let Some(position) = self.waiting.get(key).or_else(|| self.moving.get(key)) {
            return Ok(Some(*position));
        }
        let mut statement =
            tx.prepare_cached("SELECT position FROM message_ids WHERE chat_id = ? AND sender_id = ? AND client_message_id = ?")?;
        let (chat_id, sender, id) = key;
        Ok(statement.query_row((chat_id.as_uuid().as_bytes(), sender.as_str(), id), |row| row.get(0)).optional()?)
    }

    pub fn add(&mut self, key: Key, position: i64) {
        self.newest = position;
        self.waiting.insert(key, position);
    }

    /// Moves so many ids to the table.
    pub fn move_ids(&mut self, tx: &Transaction<'_>, count: usize) -> Result<()> {
        if self.moving.is_empty() {
            if self.waiting.len() < WAITING_MAX {
                return Ok(());
            }
            self.moving = mem::take(&mut self.waiting).into_iter().collect();
            self.moving_to = self.newest;
        }
        // Of a message that is gone meanwhile nothing is moved.
        let mut statement = tx.prepare_cached(
            "INSERT OR REPLACE INTO message_ids (chat_id, sender_id, client_message_id, position)
             SELECT chat_id, sender_id, client_message_id, position FROM messages WHERE position = ?",
        )?;
        for _ in 0..count {
            let Some((_, position)) = self.moving.pop_first() else { break };
            statement.execute([position])?;
        }
        if self.moving.is_empty() {
            tx.prepare_cached("UPDATE message_ids_end SET position = ?")?.execute([self.moving_to])?;
        }
        Ok(())
    }
}
