//! What SQLite alone must do.

use chat_service::repository::SchemaError;
use chat_service::repository::sqlite::{self, SqliteOptions, SqliteStore};
use sqlx::Connection;

use crate::fixture::sqlite_fixture;

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
