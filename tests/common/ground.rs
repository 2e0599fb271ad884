//! What a server stands on: keys, a secret, and a database of its own.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use chat_service::app::certs;
use clap::Parser;
use sqlx::Connection;

use super::{On, SECRET};

/// A folder with keys, and a database; gone with the last value.
pub struct Ground {
    pub folder: tempfile::TempDir,
    pub database_url: String,
}

impl Ground {
    pub async fn new(on: On) -> Arc<Self> {
        Arc::new(match on {
            On::Sqlite => Self::with_database(None),
            On::Postgres => Self::with_database(Some(new_database().await)),
        })
    }

    /// On this database; `None`: on an SQLite file in the folder.
    pub fn with_database(url: Option<String>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        make_certs(&folder.path().join("certs"));
        std::fs::write(folder.path().join("secret"), format!("{SECRET}\n")).unwrap();
        let database_url = url.unwrap_or_else(|| format!("sqlite:{}", folder.path().join("data/chat.db").display()));
        Self { folder, database_url }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A new CA and new certificates, in the place of the old ones.
    pub fn renew_certs(&self) {
        make_certs(&self.path("certs"));
    }

    /// The flags of a server on this ground.
    pub fn flags(&self) -> Vec<String> {
        let path = |name| self.path(name).display().to_string();
        [
            "--listen",
            "127.0.0.1:0",
            "--admin-listen",
            "127.0.0.1:0",
            "--database-url",
            &self.database_url,
            "--tls-cert",
            &path("certs/server.pem"),
            "--tls-key",
            &path("certs/server.key"),
            "--auth-secret",
            &path("secret"),
            "--sweep-interval",
            "200ms",
            // Tests of limits set their own.
            "--rate-limit-user-sends",
            "0",
            "--rate-limit-user-calls",
            "0",
            "--rate-limit-address",
            "0",
        ]
        .map(str::to_owned)
        .to_vec()
    }

    /// The same without its secret: something else vouches for tokens.
    pub fn flags_without_secret(&self) -> Vec<String> {
        let mut flags = self.flags();
        let at = flags.iter().position(|flag| flag == "--auth-secret").unwrap();
        flags.drain(at..at + 2);
        flags
    }
}

#[derive(Parser)]
struct GenCert {
    #[command(flatten)]
    args: certs::GenCertArgs,
}

fn make_certs(folder: &Path) {
    certs::generate(&GenCert::parse_from(["gen-cert", "--force", "--out", folder.to_str().unwrap()]).args).unwrap();
}

/// A PostgreSQL database of its own.
pub async fn new_database() -> String {
    let base = std::env::var("TEST_DATABASE_URL").expect("TEST_DATABASE_URL is not set: run `make test`, which starts PostgreSQL");
    let name = format!("test_{}", uuid::Uuid::new_v4().simple());
    let mut connection = sqlx::PgConnection::connect(&base).await.unwrap();
    sqlx::query(sqlx::AssertSqlSafe(format!("CREATE DATABASE {name}"))).execute(&mut connection).await.unwrap();
    let (server, _) = base.rsplit_once('/').unwrap();
    format!("{server}/{name}")
}

/// Removes a database that [`new_database`] made, with whoever is connected.
pub async fn drop_database(url: &str) {
    let base = std::env::var("TEST_DATABASE_URL").unwrap();
    let (_, name) = url.rsplit_once('/').unwrap();
    let mut connection = sqlx::PgConnection::connect(&base).await.unwrap();
    sqlx::query(sqlx::AssertSqlSafe(format!("DROP DATABASE {name} WITH (FORCE)"))).execute(&mut connection).await.unwrap();
}
