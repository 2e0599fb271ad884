//! Databases of a given size, filled past the server.

use std::path::PathBuf;

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection, PgConnection};
use tokio::process::Command;

use crate::Done;
use crate::bench::Bench;
use crate::process::Kind;

/// Chat n is the chat of user n % USERS, alone.
pub const USERS: i64 = 10;
/// Chats whose messages one statement inserts.
const CHATS_OF_A_STATEMENT: i64 = 5_000;

#[derive(Clone, Copy, Debug)]
pub struct Size {
    pub chats: i64,
    /// The first so many.
    pub chats_with_messages: i64,
    pub messages_each: i64,
}

impl Size {
    pub fn messages(&self) -> i64 {
        self.chats_with_messages * self.messages_each
    }
}

pub struct Database {
    pub url: String,
    pub size: Size,
    folder: Option<PathBuf>,
}

/// Numbered, so that the load knows them; the same number of digits as those that are made of the time.
pub fn chat_id(number: i64) -> String {
    format!("00000000-0000-7000-8000-{number:012x}")
}

pub fn user_of(chat: i64) -> String {
    format!("user{}", chat % USERS)
}

impl Database {
    pub async fn fill(bench: &Bench, kind: Kind, size: Size) -> Done<Self> {
        eprintln!("  filling {} chats with {} messages", size.chats, size.messages());
        let (url, folder) = if kind == Kind::Sqlite {
            let folder = bench.path(&format!("growth-{}-{}", size.chats, size.messages()));
            (format!("sqlite:{}", folder.join("chat.db").display()), Some(folder))
        } else {
            (bench.postgres.create().await?, None)
        };
        let migrate =
            Command::new(env!("CARGO_BIN_EXE_chat-service")).args(["migrate", "--database-url", &url]).env_clear().status().await?;
        if !migrate.success() {
            return Err("the schema couldn't be made".into());
        }
        match &folder {
            Some(folder) => fill_sqlite(&folder.join("chat.db"), size).await?,
            None => fill_postgres(&url, size).await?,
        }
        Ok(Self { url, size, folder })
    }

    pub async fn remove(&self, bench: &Bench) -> Done<()> {
        match &self.folder {
            Some(folder) => Ok(std::fs::remove_dir_all(folder)?),
            None => bench.postgres.drop(&self.url).await,
        }
    }
}

async fn fill_postgres(url: &str, size: Size) -> Done<()> {
    let mut connection = PgConnection::connect(url).await?;
    sqlx::query(
        "INSERT INTO chats (id, title, created_by, created_at, last_sequence, last_message_at)
         SELECT ('00000000-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid, 'Growth', 'user' || (n % $2), now(),
                CASE WHEN n < $3 THEN $4 ELSE 0 END, now()
         FROM generate_series(0::bigint, $1::bigint - 1) n",
    )
    .bind(size.chats)
    .bind(USERS)
    .bind(size.chats_with_messages)
    .bind(size.messages_each)
    .execute(&mut connection)
    .await?;
    sqlx::query("INSERT INTO chat_members (chat_id, user_id, role, joined_at) SELECT id, created_by, 1, now() FROM chats")
        .execute(&mut connection)
        .await?;
    for (from, to) in parts(size) {
        sqlx::query(
            "INSERT INTO messages (chat_id, sequence, sender_id, client_message_id, text, created_at)
             SELECT ('00000000-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid, s, 'user' || (n % $4), 'filled-' || s,
                    repeat('x', 100), now()
             FROM generate_series($1::bigint, $2::bigint - 1) n, generate_series(1::bigint, $3::bigint) s",
        )
        .bind(from)
        .bind(to)
        .bind(size.messages_each)
        .bind(USERS)
        .execute(&mut connection)
        .await?;
    }
    // Otherwise that is done while something is measured.
    for statement in ["VACUUM (ANALYZE, FREEZE)", "CHECKPOINT"] {
        sqlx::query(statement).execute(&mut connection).await?;
    }
    Ok(())
}

async fn fill_sqlite(file: &std::path::Path, size: Size) -> Done<()> {
    // Nothing is lost if this fails; the server opens the file with its own settings.
    let options = SqliteConnectOptions::new()
        .filename(file)
        .pragma("journal_mode", "OFF")
        .pragma("synchronous", "OFF")
        .pragma("cache_size", "-262144")
        .disable_statement_logging();
    let mut connection = options.connect().await?;
    sqlx::query(
        "WITH RECURSIVE c (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM c WHERE n + 1 < ?1)
         INSERT INTO chats (id, title, created_by, created_at) SELECT unhex(printf('00000000000070008000%012x', n)), 'Growth', 'user' || (n % ?2), 1 FROM c",
    )
    .bind(size.chats)
    .bind(USERS)
    .execute(&mut connection)
    .await?;
    sqlx::query("INSERT INTO chat_members (chat_id, user_id, role, joined_at) SELECT id, created_by, 1, 1 FROM chats")
        .execute(&mut connection)
        .await?;
    for (from, to) in parts(size) {
        sqlx::query(
            "WITH RECURSIVE c (n) AS (SELECT ?1 UNION ALL SELECT n + 1 FROM c WHERE n + 1 < ?2),
                            m (s) AS (SELECT 1 UNION ALL SELECT s + 1 FROM m WHERE s < ?3)
             INSERT INTO messages (chat_id, sequence, sender_id, client_message_id, text, created_at)
             SELECT unhex(printf('00000000000070008000%012x', n)), s, 'user' || (n % ?4), 'filled-' || s,
                    'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx', 1
             FROM m CROSS JOIN c",
        )
        .bind(from)
        .bind(to)
        .bind(size.messages_each)
        .bind(USERS)
        .execute(&mut connection)
        .await?;
    }
    // As the server does, by thousands.
    for statement in [
        "INSERT INTO message_ids (chat_id, sender_id, client_message_id, position)
         SELECT chat_id, sender_id, client_message_id, position FROM messages ORDER BY chat_id, sender_id, client_message_id",
        "UPDATE message_ids_end SET position = (SELECT coalesce(max(position), 0) FROM messages)",
    ] {
        sqlx::query(statement).execute(&mut connection).await?;
    }
    connection.close().await?;
    Ok(())
}

/// Ranges of chats whose messages are inserted together.
fn parts(size: Size) -> Vec<(i64, i64)> {
    let step = usize::try_from(CHATS_OF_A_STATEMENT).unwrap_or(usize::MAX);
    let ends = (0..size.chats_with_messages).step_by(step);
    ends.map(|from| (from, (from + CHATS_OF_A_STATEMENT).min(size.chats_with_messages))).collect()
}
