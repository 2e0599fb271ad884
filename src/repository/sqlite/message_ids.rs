//! Where clients' ids are found: the newest messages' in memory, all others' in the table `message_ids`.
//!
//! The ids are random, and each would make a page of the table be written. So they wait until there are [`FLUSHED_FROM`], and then go there in the
//! table's order, a few for each message that is stored: neighbours share a page.
//!
//! `messages` has the ids too, in the order of arrival, and `message_ids_end` tells up to which position the table is complete: from there on they are
//! read again where this memory is lost.

use std::collections::{BTreeMap, HashMap};
use std::mem;

use rusqlite::{Connection, OptionalExtension, Row, Transaction, TransactionBehavior};
use uuid::Uuid;

use crate::model::{ChatId, NewMessage, UserId};
use crate::repository::Result;

/// From so many on that wait in memory the oldest of them, so many, are flushed.
const FLUSHED_FROM: usize = 8_192;
/// As many may be read: more than a server leaves that ends, if it wasn't ended again and again just before a flush was complete. What is beyond goes
/// to the table at once.
const READ_MAX: usize = 3 * FLUSHED_FROM;
/// So many are flushed in one transaction, or more.
const FLUSHED_TOGETHER: usize = 64;

/// What no two messages share. In the table's order, by bytes.
type Key = (ChatId, UserId, String);

/// What it was told of must be committed: where that fails it is read anew.
pub(super) struct MessageIds {
    /// Of the newest message that is known here; the next one goes behind it.
    position: i64,
    pending: HashMap<Key, i64>,
    /// On their way to the table, which behind the last of them is complete up to a position.
    flushing: BTreeMap<Key, i64>,
    complete_then: i64,
    /// How many are to be flushed.
    due: usize,
}

pub(super) fn key(message: &NewMessage) -> Key {
    (message.chat_id, message.sender.user_id.clone(), message.client_message_id.clone())
}

impl MessageIds {
    /// In transactions of its own.
    pub fn open(connection: &mut Connection) -> Result<Self> {
        loop {
            let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let position = tx.query_row("SELECT coalesce(max(position), 0) FROM message_ids_end", [], |row| row.get(0))?;
            let mut ids = Self { position, pending: HashMap::new(), flushing: BTreeMap::new(), complete_then: 0, due: 0 };
            if ids.read_on(&tx)? {
                return Ok(ids);
            }
            tx.execute(
                "INSERT OR REPLACE INTO message_ids (chat_id, sender_id, client_message_id, position)
                 SELECT chat_id, sender_id, client_message_id, position FROM messages WHERE position > ? AND position <= ?
                 ORDER BY chat_id, sender_id, client_message_id",
                [position, ids.position],
            )?;
            set_end(&tx, ids.position)?;
            tx.commit()?;
        }
    }

    /// Reads what others have stored, programs beside the server; false: there is more than may be read.
    pub fn read_on(&mut self, tx: &Transaction<'_>) -> Result<bool> {
        let room = READ_MAX.saturating_sub(self.pending.len());
        let mut statement = tx.prepare_cached(
            "SELECT position, chat_id, sender_id, client_message_id FROM messages WHERE position > ? ORDER BY position LIMIT ?",
        )?;
        let mut rows = statement.query([self.position, room as i64 + 1])?;
        let mut read = 0;
        while let Some(row) = rows.next()? {
            self.position = row.get(0)?;
            // Of other types it was put in by hand, and is nothing that a client can send.
            if let Ok(key) = read_key(row) {
                self.pending.insert(key, self.position);
            }
            read += 1;
        }
        Ok(read <= room)
    }

    /// Where a message with this key is, or was.
    pub fn find(&self, tx: &Transaction<'_>, key: &Key) -> Result<Option<i64>> {
        if let Some(position) = self.pending.get(key).or_else(|| self.flushing.get(key)) {
            return Ok(Some(*position));
        }
        let mut statement =
            tx.prepare_cached("SELECT position FROM message_ids WHERE chat_id = ? AND sender_id = ? AND client_message_id = ?")?;
        let (chat_id, sender, id) = key;
        Ok(statement.query_row((chat_id.as_uuid().as_bytes(), sender.as_str(), id), |row| row.get(0)).optional()?)
    }

    /// Adds a message's key; where the message goes.
    pub fn add(&mut self, key: Key) -> i64 {
        self.position += 1;
        self.pending.insert(key, self.position);
        self.position
    }

    /// Flushes ids for so many messages that were stored.
    pub fn flush(&mut self, tx: &Transaction<'_>, stored: usize) -> Result<()> {
        if self.flushing.is_empty() {
            if self.pending.len() < FLUSHED_FROM {
                return Ok(());
            }
            let mut positions: Vec<i64> = self.pending.values().copied().collect();
            self.complete_then = *positions.select_nth_unstable(FLUSHED_FROM - 1).1;
            self.flushing = self.pending.extract_if(|_, position| *position <= self.complete_then).collect();
        }
        // Twice as many where more wait than usual.
        self.due += if self.pending.len() > FLUSHED_FROM { 2 * stored } else { stored };
        if self.due < FLUSHED_TOGETHER {
            return Ok(());
        }
        // Of a message that is gone meanwhile nothing is flushed.
        let mut statement = tx.prepare_cached(
            "INSERT OR REPLACE INTO message_ids (chat_id, sender_id, client_message_id, position)
             SELECT chat_id, sender_id, client_message_id, position FROM messages WHERE position = ?",
        )?;
        for _ in 0..mem::take(&mut self.due) {
            let Some((_, position)) = self.flushing.pop_first() else { break };
            statement.execute([position])?;
        }
        if self.flushing.is_empty() {
            set_end(tx, self.complete_then)?;
        }
        Ok(())
    }
}

fn read_key(row: &Row<'_>) -> rusqlite::Result<Key> {
    let sender: String = row.get(2)?;
    Ok((ChatId::from_uuid(Uuid::from_bytes(row.get(1)?)), UserId::new(sender), row.get(3)?))
}

fn set_end(tx: &Transaction<'_>, position: i64) -> Result<()> {
    tx.prepare_cached("INSERT OR REPLACE INTO message_ids_end (id, position) VALUES (1, ?)")?.execute([position])?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repository::sqlite::lane::open;
    use crate::repository::sqlite::new_store;

    /// A server that is started again and again before what it read at its start is flushed.
    #[tokio::test]
    async fn however_often_a_server_is_started_anew_there_is_no_more_to_read_than_it_may() {
        let (_folder, store) = new_store().await;
        let mut connection = open(&store.path).unwrap();
        connection.pragma_update(None, "synchronous", "off").unwrap();
        let chat_id = ChatId::generate();
        let mut stored = 0_i64;
        // The first ends with the most that a server leaves; the others just before as much would be flushed as they store.
        for batches in [62, 31, 31, 31, 62] {
            let end: i64 = connection.query_row("SELECT max(position) FROM message_ids_end", [], |row| row.get(0)).unwrap();
            let mut ids = MessageIds::open(&mut connection).unwrap();
            let read = ids.pending.len();
            assert!(read < READ_MAX && read as i64 == stored - end, "{read} of {} in memory", stored - end);
            for _ in 0..batches {
                let (tx, chat) = (connection.transaction().unwrap(), chat_id.as_uuid());
                for _ in 0..256 {
                    let id = stored.to_string();
                    stored += 1;
                    let position = ids.add((chat_id, UserId::new("u"), id.clone()));
                    let row = (position, chat.as_bytes(), stored, id);
                    tx.prepare_cached("INSERT INTO messages VALUES (?, ?, ?, 'u', ?, 'text', 1)").unwrap().execute(row).unwrap();
                }
                ids.flush(&tx, 256).unwrap();
                tx.commit().unwrap();
                assert!(ids.pending.len() + ids.flushing.len() <= 2 * READ_MAX);
            }
        }
    }
}
