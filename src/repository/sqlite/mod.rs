//! SQLite: one file, one process, one writer.

mod chats;
mod checkpoint;
mod lane;
mod message_ids;
mod messages;

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqlitePool, SqlitePoolOptions, SqliteRow};
use sqlx::{ConnectOptions, Connection, Row, Sqlite, Transaction};
use tokio::sync::{Mutex, MutexGuard};

use super::{Result, SchemaError, StoreError, migrations};
use crate::model::{Chat, ChatId, Timestamp, UserId};

static MIGRATOR: sqlx::migrate::Migrator = sqlx::migrate!("migrations/sqlite");

/// How long a reader's connection is waited for.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a lock of the file is waited for: another program may look into it.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// How each connection uses the file.
const PRAGMAS: [(&str, &str); 7] = [
    // Of a file that is new. A message makes a page of each index be written: half of the usual size is written in less time.
    ("page_size", "2048"),
    ("journal_mode", "wal"),
    // Each commit is on the disk before it returns.
    ("synchronous", "full"),
    // Pages in the write-ahead log, 32 MiB, from which a commit that isn't the lane's moves them into the file, if nobody has done it before
    // (`checkpoint`).
    ("wal_autocheckpoint", "16000"),
    // Bytes that the write-ahead log keeps of its size behind that.
    ("journal_size_limit", "67108864"),
    // What a statement may have to undo is else written to a file of its own, statement by statement.
    ("temp_store", "memory"),
    // 16 MiB of the file in memory.
    ("cache_size", "-16384"),
];

/// Where the file is.
#[derive(Clone, Debug)]
pub struct SqliteOptions {
    pub path: PathBuf,
    /// Connections that read.
    pub read_connections: u32,
}

/// The store.
pub struct SqliteStore {
    path: PathBuf,
    writer: Writer,
    readers: SqlitePool,
    /// Held as long as the store lives; a second server on the file is refused.
    _lock: File,
}

/// The connection that writes what isn't appended. Who writes, by this or by the lane's, holds the lock.
type Writer = Arc<Mutex<WriterConnection>>;

struct WriterConnection {
    connection: SqliteConnection,
    /// How to open it again.
    options: SqliteConnectOptions,
}

/// Why the file can't be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("another chat-service serves {0}; stop it, or use another file")]
    Locked(PathBuf),
    #[error("can't open {path}: {source}; choose a folder that can be written to")]
    Folder { path: PathBuf, source: std::io::Error },
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Schema(#[from] SchemaError),
}

impl SqliteStore {
    /// Opens the file, and makes it and its folder where they aren't there; checks the schema, after bringing it up to date
    /// where `migrate` says so.
    pub async fn open(options: &SqliteOptions, migrate: bool) -> std::result::Result<Self, OpenError> {
        let lock = lock(&options.path)?;
        let connect = SqliteConnectOptions::new()
            .filename(&options.path)
            .create_if_missing(true)
            .busy_timeout(BUSY_TIMEOUT)
            .disable_statement_logging();
        let connect = PRAGMAS.into_iter().fold(connect, |connect, (name, value)| connect.pragma(name, value));
        let mut connection = connect.connect().await.map_err(StoreError::from)?;
        migrations::prepare(&MIGRATOR, &mut connection, migrate).await?;
        let readers = SqlitePoolOptions::new()
            .max_connections(options.read_connections)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .connect_lazy_with(connect.clone().pragma("query_only", "on"));
        let writer = WriterConnection { connection, options: connect };
        Ok(Self { path: options.path.clone(), writer: Arc::new(Mutex::new(writer)), readers, _lock: lock })
    }

    /// Closes the readers' connections.
    pub async fn close(&self) {
        self.readers.close().await;
    }
}

fn lock(path: &Path) -> std::result::Result<File, OpenError> {
    let failed = |path: &Path, source| OpenError::Folder { path: path.to_owned(), source };
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        fs::create_dir_all(folder).map_err(|source| failed(folder, source))?;
    }
    let file =
        File::options().create(true).truncate(false).write(true).open(beside(path, ".lock")).map_err(|source| failed(path, source))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(OpenError::Locked(path.to_owned())),
        Err(TryLockError::Error(source)) => Err(failed(path, source)),
    }
}

/// The file that stands beside the database's.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// Takes the writer's connection for a transaction. One that a cancelled call left open is undone before the next begins.
async fn begin<'a>(writer: &'a mut MutexGuard<'_, WriterConnection>) -> Result<Transaction<'a, Sqlite>> {
    let WriterConnection { connection, options } = &mut **writer;
    if connection.is_in_transaction() {
        // The ping returns after a rollback that is still queued. SQLite ends a transaction by itself when the disk is full or
        // fails; that rollback then fails, and sqlx goes on counting a transaction that is gone: only a new connection helps.
        let answers = connection.ping().await.is_ok();
        if !answers || connection.is_in_transaction() {
            *connection = options.connect().await?;
        }
    }
    Ok(connection.begin_with("BEGIN IMMEDIATE").await?)
}

fn timestamp(row: &SqliteRow, column: &str) -> Result<Timestamp> {
    Ok(Timestamp::from_micros(row.try_get(column)?))
}

fn user_id(row: &SqliteRow, column: &str) -> Result<UserId> {
    Ok(UserId::new(row.try_get::<&str, _>(column)?))
}

fn chat_id(row: &SqliteRow, column: &str) -> Result<ChatId> {
    Ok(ChatId::from_uuid(row.try_get(column)?))
}

/// Reads `id, title, created_by, created_at, last_sequence`.
fn chat(row: &SqliteRow) -> Result<Chat> {
    Ok(Chat {
        id: chat_id(row, "id")?,
        title: row.try_get("title")?,
        created_by: user_id(row, "created_by")?,
        created_at: timestamp(row, "created_at")?,
        last_sequence: row.try_get("last_sequence")?,
    })
}

/// Ids as a JSON array of hex, for `json_each` and `unhex`.
fn hex_ids(ids: impl Iterator<Item = ChatId>) -> String {
    let mut out = String::from("[");
    for id in ids {
        if out.len() > 1 {
            out.push(',');
        }
        out.push('"');
        out.push_str(&id.as_uuid().simple().to_string());
        out.push('"');
    }
    out.push(']');
    out
}

/// A store with nothing in it; it goes with the folder.
#[cfg(test)]
async fn new_store() -> (tempfile::TempDir, SqliteStore) {
    let folder = tempfile::tempdir().unwrap();
    let options = SqliteOptions { path: folder.path().join("chat.db"), read_connections: 1 };
    let store = SqliteStore::open(&options, true).await.unwrap();
    (folder, store)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_transaction_that_sqlite_ended_by_itself_does_not_stop_later_ones() {
        let (_folder, store) = new_store().await;
        let mut writer = store.writer.lock().await;
        let mut tx = begin(&mut writer).await.unwrap();
        // As after a COMMIT that met a full disk: no transaction is left, and sqlx doesn't know.
        sqlx::query("ROLLBACK").execute(&mut *tx).await.unwrap();
        drop(tx);
        begin(&mut writer).await.unwrap().commit().await.unwrap();
    }

    #[tokio::test]
    async fn a_transaction_that_was_dropped_is_undone_before_the_next() {
        let (_folder, store) = new_store().await;
        let mut writer = store.writer.lock().await;
        let mut tx = begin(&mut writer).await.unwrap();
        sqlx::query("INSERT INTO chats (id, title, created_by, created_at) VALUES (x'00', 't', 'u', 1)").execute(&mut *tx).await.unwrap();
        drop(tx);
        let mut tx = begin(&mut writer).await.unwrap();
        let row = sqlx::query("SELECT count(*) AS chats FROM chats").fetch_one(&mut *tx).await.unwrap();
        assert_eq!(row.get::<i64, _>("chats"), 0);
    }
}
