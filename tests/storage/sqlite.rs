//! What SQLite alone must do.

use std::path::Path;

use chat_service::model::{AppendOutcome, Bound, ChatId, Timestamp};
use chat_service::repository::sqlite::{self, SqliteOptions, SqliteStore};
use chat_service::repository::{ChatRepository, MessageRepository, SchemaError};
use sqlx::migrate::Migrator;
use sqlx::sqlite::SqliteConnection;
use sqlx::{ConnectOptions, Connection};

use crate::fixture::{Fixture, message, sequences, sqlite_fixture, user};

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

/// More than wait in the server's memory until they are flushed, and as many on their way.
const MANY: usize = 20_000;
/// More than it may read.
const TOO_MANY: usize = 60_000;
/// How many messages a batch has here.
const BATCH: usize = 500;

async fn count(connection: &mut SqliteConnection, table: &str, chat: ChatId) -> i64 {
    let statement = sqlx::AssertSqlSafe(format!("SELECT count(*) FROM {table} WHERE chat_id = ?"));
    sqlx::query_scalar(statement).bind(chat.as_uuid()).fetch_one(connection).await.unwrap()
}

/// Appends messages whose ids are these numbers.
async fn append_numbered(f: &Fixture, chat: ChatId, numbers: std::ops::Range<usize>) {
    for from in numbers.clone().step_by(BATCH) {
        let batch: Vec<_> = (from..numbers.end.min(from + BATCH)).map(|n| message(chat, "owner", &n.to_string(), "text")).collect();
        assert!(f.append(&batch).await.iter().all(|outcome| matches!(outcome, AppendOutcome::Stored { .. })));
    }
}

/// Has another program store messages whose ids are these numbers, each that far before its sequence.
async fn import_numbered(beside: &mut SqliteConnection, chat: ChatId, numbers: std::ops::Range<usize>, shift: i64) {
    let insert = "WITH RECURSIVE n (n) AS (SELECT ?2 UNION ALL SELECT n + 1 FROM n WHERE n + 1 < ?3)
                  INSERT INTO messages (chat_id, sequence, sender_id, client_message_id, text, created_at)
                  SELECT ?1, n + ?4, 'owner', n, 'text', 1 FROM n";
    let insert = sqlx::query(insert).bind(chat.as_uuid()).bind(numbers.start as i64).bind(numbers.end as i64).bind(shift);
    insert.execute(beside).await.unwrap();
}

/// Whether numbers that were appended first and in order are known, with their texts.
async fn are_known(f: &Fixture, chat: ChatId, numbers: impl Iterator<Item = usize>) {
    for number in numbers {
        let [again, other] = ["text", "other"].map(|text| message(chat, "owner", &number.to_string(), text));
        let outcomes = f.append(&[again, other]).await;
        let [AppendOutcome::Duplicate { sequence, .. }, AppendOutcome::Conflict] = outcomes[..] else { panic!("{number}: {outcomes:?}") };
        assert_eq!(usize::try_from(sequence).unwrap(), number + 1);
    }
}

#[tokio::test]
async fn a_retry_is_found_wherever_its_id_is_kept() {
    let f = sqlite_fixture().await;
    let chat = f.chat(&[]).await;
    append_numbered(&f, chat, 0..MANY).await;
    let in_table = count(&mut f.beside().await, "message_ids", chat).await;
    assert!(in_table > 8_000 && (in_table as usize) < MANY, "some are in the table, some on their way, some wait: {in_table}");
    are_known(&f, chat, (0..MANY).step_by(37)).await;
    // As after a crash: nothing of the memory is left.
    f.forget_lane().await;
    are_known(&f, chat, (0..MANY).step_by(37)).await;
    append_numbered(&f, chat, MANY..MANY + BATCH).await;
    assert_eq!(f.page(chat, Bound::Latest, 1).await.0, [(MANY + BATCH) as i64]);
}

#[tokio::test]
async fn what_a_program_beside_the_server_stores_is_known_and_what_it_removes_is_not() {
    let f = sqlite_fixture().await;
    let chat = f.chat(&[]).await;
    append_numbered(&f, chat, 0..3).await;
    let mut beside = f.beside().await;
    for (from, to) in [(3, 5), (5, MANY), (MANY, TOO_MANY)] {
        import_numbered(&mut beside, chat, from..to, 1).await;
        are_known(&f, chat, (0..to).step_by(101).chain([to - 1])).await;
    }
    append_numbered(&f, chat, TOO_MANY..TOO_MANY + 2).await;
    let removed = "DELETE FROM messages WHERE chat_id = ? AND sequence > ?";
    for kept in [TOO_MANY + 1, 10] {
        sqlx::query(removed).bind(chat.as_uuid()).bind(kept as i64).execute(&mut beside).await.unwrap();
        let outcomes = f.append(&[message(chat, "owner", &kept.to_string(), "text")]).await;
        assert_eq!(sequences(&outcomes), [Some(kept as i64 + 1)], "{outcomes:?}");
    }
    are_known(&f, chat, 0..11).await;
    // Another sender's now.
    sqlx::query("UPDATE messages SET sender_id = 'other' WHERE sequence = 3").execute(&mut beside).await.unwrap();
    assert_eq!(sequences(&f.append(&[message(chat, "owner", "2", "text")]).await), [Some(12)]);
}

#[tokio::test]
async fn rows_that_no_client_can_have_sent_hold_up_nobody_and_ids_are_found_anew_from_the_messages() {
    let f = sqlite_fixture().await;
    let chat = f.chat(&[]).await;
    append_numbered(&f, chat, 0..10).await;
    let mut beside = f.beside().await;
    for odd in ["x'00', 1, 'u', 'id'", "'a text', 1, 'u', 'id'", "zeroblob(16), 1, x'ff', 'id'", "zeroblob(16), 2, 'u', x'ff'"] {
        let insert = sqlx::AssertSqlSafe(format!(
            "INSERT INTO messages (chat_id, sequence, sender_id, client_message_id, text, created_at) VALUES ({odd}, 'text', 1)"
        ));
        sqlx::query(insert).execute(&mut beside).await.unwrap();
    }
    // Imported twice, under other numbers.
    for shift in [1, 10_001] {
        import_numbered(&mut beside, chat, 10..10_010, shift).await;
    }
    are_known(&f, chat, 0..10).await;
    let twice: Vec<_> = [10, 5_000, 10_009].map(|number: usize| message(chat, "owner", &number.to_string(), "text")).into();
    assert_eq!(sequences(&f.append(&twice).await), [None; 3], "not once more");
    // As after a repair that has lost them.
    for table in ["message_ids", "message_ids_end"] {
        sqlx::query(sqlx::AssertSqlSafe(format!("DELETE FROM {table}"))).execute(&mut beside).await.unwrap();
    }
    f.forget_lane().await;
    are_known(&f, chat, 0..10).await;
    assert_eq!(sequences(&f.append(&twice).await), [None; 3]);
    assert_eq!(sequences(&f.append(&[message(chat, "owner", "new", "text")]).await), [Some(20_011)]);
}

#[tokio::test]
async fn of_a_chat_that_is_purged_no_ids_are_left_also_where_they_were_on_their_way() {
    let f = sqlite_fixture().await;
    let (chat, other) = (f.chat(&[]).await, f.chat(&[]).await);
    append_numbered(&f, chat, 0..9_000).await;
    f.chats.delete(chat, &user("owner"), Timestamp::from_micros(2), &|_| Ok(())).await.unwrap().unwrap();
    f.chats.purge_deleted(500).await.unwrap();
    append_numbered(&f, other, 0..BATCH).await;
    let mut beside = f.beside().await;
    assert!(count(&mut beside, "message_ids", chat).await > 0, "what isn't purged yet is moved");
    while f.chats.purge_deleted(1_000).await.unwrap() > 0 {}
    append_numbered(&f, other, BATCH..MANY).await;
    for table in ["messages", "message_ids"] {
        assert_eq!(count(&mut beside, table, chat).await, 0, "{table}");
    }
    are_known(&f, other, (0..MANY).step_by(101)).await;
}
