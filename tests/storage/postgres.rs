//! What PostgreSQL alone must do.

use chat_service::model::{AppendOutcome, Bound};
use chat_service::repository::postgres::{self, PostgresStore};
use chat_service::repository::{MessageRepository, SchemaError, StoreError};
use sqlx::Connection;

use crate::common::{drop_database, new_database, within};
use crate::fixture::{message, postgres_fixture, postgres_options, sequence, sequences};

#[tokio::test]
async fn a_postgres_schema_that_is_too_old_or_too_new_is_refused() {
    let url = new_database().await;
    let old = PostgresStore::open(&postgres_options(&url), false).await;
    assert!(matches!(old, Err(postgres::OpenError::Schema(SchemaError::TooOld { found: 0, .. }))));
    PostgresStore::open(&postgres_options(&url), true).await.unwrap();
    PostgresStore::open(&postgres_options(&url), false).await.unwrap();
    let mut connection = sqlx::PgConnection::connect(&url).await.unwrap();
    let newer = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) VALUES (9999, 'x', true, '', 0)";
    sqlx::query(newer).execute(&mut connection).await.unwrap();
    for migrate in [true, false] {
        let new = PostgresStore::open(&postgres_options(&url), migrate).await;
        assert!(matches!(new, Err(postgres::OpenError::Schema(SchemaError::TooNew { found: 9999, .. }))), "{migrate}");
    }
    drop_database(&url).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_migration_waits_for_a_table_in_use_and_stops_nobody_meanwhile() {
    let f = postgres_fixture().await;
    let chat = f.chat(&[]).await;
    let mut connection = sqlx::PgConnection::connect(&f.place).await.unwrap();
    // Those that need a lock which nobody else may have beside it are to be done again.
    for statement in ["DELETE FROM _sqlx_migrations WHERE version IN (5, 6)", "DROP FUNCTION chats_refuse_title() CASCADE"] {
        sqlx::query(statement).execute(&mut connection).await.unwrap();
    }
    // As a backup does.
    let mut backup = sqlx::PgConnection::connect(&f.place).await.unwrap();
    let mut reading = backup.begin().await.unwrap();
    sqlx::query("SELECT count(*) FROM messages").execute(&mut *reading).await.unwrap();
    let options = postgres_options(&f.place);
    let migrating = tokio::spawn(async move { PostgresStore::open(&options, true).await.map(drop) });
    let pauses = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'";
    let has_paused = async { while sqlx::query_scalar::<_, i64>(pauses).fetch_one(&mut connection).await.unwrap() == 0 {} };
    within(has_paused).await;
    assert_eq!(sequences(&f.append(&[message(chat, "owner", "1", "a")]).await), [Some(1)]);
    assert!(!migrating.is_finished());
    reading.rollback().await.unwrap();
    within(migrating).await.unwrap().unwrap();
    drop_database(&f.place).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_servers_on_one_postgres_leave_no_hole() {
    let f = postgres_fixture().await;
    let chat = f.chat(&[]).await;
    let mut tasks = Vec::new();
    for server in 0..2 {
        let store = PostgresStore::open(&postgres_options(&f.place), true).await.unwrap();
        tasks.push(tokio::spawn(async move {
            let mut lane = store.open_lane().await.unwrap();
            for number in 0..100 {
                // Every other message is sent through both.
                let id = if number % 2 == 0 { format!("both {number}") } else { format!("{server} {number}") };
                // Alone, and not.
                let batch = [message(chat, "owner", &id, "a"), message(chat, "owner", &format!("{id} too"), "b")];
                for batch in if number % 4 < 2 { vec![&batch[..]] } else { vec![&batch[..1], &batch[1..]] } {
                    lane.append(batch).await.unwrap();
                }
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(f.page(chat, Bound::After(0), 500).await.0, (1..=300).collect::<Vec<_>>());
    drop_database(&f.place).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chat_that_can_not_be_locked_fails_alone() {
    let f = postgres_fixture().await;
    let (free, stuck) = (f.chat(&[]).await, f.chat(&[]).await);
    let mut foreign = sqlx::PgConnection::connect(&f.place).await.unwrap();
    let mut tx = foreign.begin().await.unwrap();
    sqlx::query("SELECT 1 FROM chats WHERE id = $1 FOR UPDATE").bind(stuck.as_uuid()).execute(&mut *tx).await.unwrap();
    let outcomes = f.append(&[message(stuck, "owner", "1", "a"), message(free, "owner", "1", "b")]).await;
    assert_eq!(outcomes[0], AppendOutcome::Busy);
    assert_eq!(sequence(&outcomes[1]), Some(1));
    assert_eq!(f.append(&[message(stuck, "owner", "1", "a")]).await, [AppendOutcome::Busy], "alone as well");
    tx.rollback().await.unwrap();
    assert_eq!(sequences(&f.append(&[message(stuck, "owner", "1", "a")]).await), [Some(1)]);
    drop_database(&f.place).await;
}

#[tokio::test]
async fn an_append_that_postgres_reports_as_failed_is_known_to_be_undone() {
    let f = postgres_fixture().await;
    let chat = f.chat(&[]).await;
    let mut connection = sqlx::PgConnection::connect(&f.place).await.unwrap();
    // A message's text is the code of the error that its insert meets.
    for statement in [
        "CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'on purpose' USING ERRCODE = NEW.text; END $$",
        "CREATE TRIGGER fail BEFORE INSERT ON messages FOR EACH ROW EXECUTE FUNCTION fail()",
    ] {
        sqlx::query(statement).execute(&mut connection).await.unwrap();
    }
    let mut lane = f.lane().await;
    for (code, is_undone) in [
        ("25006", true),
        ("40001", true),
        ("40P01", true),
        ("53100", true),
        ("55P03", true),
        ("57014", true),
        // What ends the session, or comes from between, may hide a commit.
        ("57P01", false),
        ("08006", false),
        ("40003", false),
    ] {
        let batch = [message(chat, "owner", code, code), message(chat, "owner", &format!("{code} too"), code)];
        for batch in [&batch[..1], &batch] {
            let error = lane.append(batch).await.unwrap_err();
            let told = (matches!(error, StoreError::Undone(_)), error.is_unknown_outcome());
            assert_eq!(told, (is_undone, !is_undone), "{code}, {} messages: {error:?}", batch.len());
        }
    }
    sqlx::query("DROP TRIGGER fail ON messages").execute(&mut connection).await.unwrap();
    assert_eq!(sequences(&lane.append(&[message(chat, "owner", "1", "a")]).await.unwrap()), [Some(1)]);
    drop_database(&f.place).await;
}
