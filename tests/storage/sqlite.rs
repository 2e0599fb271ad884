//! What SQLite alone must do.

use std::path::Path;

use chat_service::model::{AppendOutcome, ChatId};
use chat_service::repository::sqlite::{self, SqliteOptions, SqliteStore};
use chat_service::repository::{ChatRepository, MessageRepository, SchemaError};
use sqlx::migrate::Migrator;
use sqlx::{ConnectOptions, Connection};

use crate::fixture::{message, sqlite_fixture};

#[tokio::test]
async fn a_second_server_on_one_sqlite_file_is_refused() {
    let f = sqlite_fixture().await;
    let second = SqliteStore::open(&SqliteOptions { path: f.place.clone().into(), read_connections: 1 }, true).await;
    assert!(matches!(second, Err(sqlite::OpenError::Locked(_))));
}

#[tokio::test]
async fn a_sqlite_schema_that_is_too_old_or_too_new_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let options = SqliteOptions { path: folder.path().join("chat.db"), read_connections: 1 };
    let old = SqliteStore::open(&options, false).await;
    assert!(matches!(old, Err(sqlite::OpenError::Schema(SchemaError::TooOld { found: 0, .. }))));
    drop(SqliteStore::open(&options, true).await.unwrap());
    drop(SqliteStore::open(&options, false).await.unwrap());
    let file = sqlx::sqlite::SqliteConnectOptions::new().filename(&options.path);
    let mut connection = sqlx::SqliteConnection::connect_with(&file).await.unwrap();
    let newer = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) VALUES (9999, 'x', true, x'', 0)";
    sqlx::query(newer).execute(&mut connection).await.unwrap();
    for migrate in [true, false] {
        let new = SqliteStore::open(&options, migrate).await;
        assert!(matches!(new, Err(sqlite::OpenError::Schema(SchemaError::TooNew { found: 9999, .. }))), "{migrate}");
    }
}

/// Later than any clock: the year 2100, in microseconds.
const AHEAD: i64 = 4_102_444_800_000_000;

/// A file of the first schema, with two messages of u's in a chat, after which it says that so many were numbered, and with an empty chat.
async fn first_schema(folder: &Path, last_sequence: i64) -> (SqliteOptions, ChatId, ChatId) {
    let options = SqliteOptions { path: folder.join("chat.db"), read_connections: 1 };
    let all = Migrator::new(Path::new("migrations/sqlite")).await.unwrap();
    let first = Migrator::with_migrations(all.iter().filter(|migration| migration.version == 1).cloned().collect());
    let file = sqlx::sqlite::SqliteConnectOptions::new().filename(&options.path).create_if_missing(true);
    let mut connection = file.connect().await.unwrap();
    first.run(&mut connection).await.unwrap();
    let (chat, empty) = (ChatId::generate(), ChatId::generate());
    for (id, last, at) in [(chat, last_sequence, AHEAD), (empty, 0, 0)] {
        let insert = "INSERT INTO chats (id, title, created_by, created_at, last_sequence, last_message_at) VALUES (?, 't', 'u', 1, ?, ?)";
        sqlx::query(insert).bind(id.as_uuid()).bind(last).bind(at).execute(&mut connection).await.unwrap();
        sqlx::query("INSERT INTO chat_members VALUES (?, 'u', 1, 1)").bind(id.as_uuid()).execute(&mut connection).await.unwrap();
    }
    let insert = "INSERT INTO messages VALUES (?1, 1, 'u', 'id1', 'text', ?2), (?1, 2, 'u', 'id2', 'text', ?2)";
    sqlx::query(insert).bind(chat.as_uuid()).bind(AHEAD).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    (options, chat, empty)
}

#[tokio::test]
async fn a_file_of_the_first_schema_that_lacks_newest_messages_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (options, ..) = first_schema(folder.path(), 3).await;
    for _ in 0..2 {
        let refused = SqliteStore::open(&options, true).await.map(drop).unwrap_err();
        let told = std::iter::successors(Some(&refused as &dyn std::error::Error), |error| error.source()).last().unwrap().to_string();
        assert!(told.contains("newest_messages_of_a_chat_are_missing"), "{told}");
    }
}

#[tokio::test]
async fn a_file_of_the_first_schema_goes_on_with_its_numbers_and_never_below_its_times() {
    let folder = tempfile::tempdir().unwrap();
    let (options, chat, empty) = first_schema(folder.path(), 2).await;
    let store = SqliteStore::open(&options, true).await.unwrap();
    let mut lane = store.open_lane().await.unwrap();
    let outcomes =
        lane.append(&[message(chat, "u", "id2", "text"), message(chat, "u", "a", "b"), message(empty, "u", "a", "b")]).await.unwrap();
    let [
        AppendOutcome::Duplicate { sequence: 2, .. },
        AppendOutcome::Stored { sequence: 3, created_at },
        AppendOutcome::Stored { sequence: 1, .. },
    ] = outcomes[..]
    else {
        panic!("{outcomes:?}")
    };
    assert_eq!(created_at.as_micros(), AHEAD);
    let positions = store.positions(&[chat, empty]).await.unwrap();
    assert_eq!(positions.iter().find(|position| position.chat_id == chat).unwrap().last_sequence, 3);
    assert_eq!(positions.iter().find(|position| position.chat_id == empty).unwrap().last_sequence, 1);
}
