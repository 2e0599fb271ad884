//! PostgreSQL, 14 or newer.

mod chats;
mod lane;
mod messages;

use std::str::FromStr;
use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::ConnectOptions;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool, PgPoolOptions, PgRow};
use sqlx::{Connection, Row};

use super::{ANSWER_TIMEOUT, Result, SchemaError, StoreError, migrations};
use crate::model::{Chat, ChatId, Secret, Timestamp, UserId};

static MIGRATOR: sqlx::migrate::Migrator = sqlx::migrate!("migrations/postgres");

/// How long a statement waits for a row's lock.
const LOCK_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a statement may run on the server.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a connection from the pool, or a new one, is waited for.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a pooled connection may take to show that it is alive.
const PING_TIMEOUT: Duration = Duration::from_secs(1);
/// A pooled connection that was given back within this time isn't asked again: it was then, and each call would pay a round trip.
const PING_FROM: Duration = Duration::from_millis(50);

/// The URL's parameters that sqlx knows, beside `options[…]`.
const PARAMETERS: [&str; 18] = [
    "sslmode",
    "ssl-mode",
    "sslrootcert",
    "ssl-root-cert",
    "ssl-ca",
    "sslcert",
    "ssl-cert",
    "sslkey",
    "ssl-key",
    "statement-cache-capacity",
    "host",
    "hostaddr",
    "port",
    "dbname",
    "user",
    "password",
    "application_name",
    "options",
];

/// How to reach the database.
#[derive(Clone, Debug)]
pub struct PostgresOptions {
    pub url: Secret<String>,
    /// Connections for everything but appends.
    pub pool_connections: u32,
    /// Connections for appends, one a lane.
    pub lanes: usize,
}

/// The store.
pub struct PostgresStore {
    pool: PgPool,
    options: PgConnectOptions,
    lanes: usize,
}

impl PostgresStore {
    /// Connects and checks the schema, after bringing it up to date where `migrate` says so.
    pub async fn open(options: &PostgresOptions, migrate: bool) -> std::result::Result<Self, OpenError> {
        let connect = connect_options(options.url.expose())?;
        let mut connection = deadline(CONNECT_TIMEOUT, connect.connect()).await?;
        // A migration may take its time; the time-outs of requests don't bind it.
        sqlx::query("SET statement_timeout = 0").execute(&mut connection).await.map_err(StoreError::from)?;
        sqlx::query("SET lock_timeout = 0").execute(&mut connection).await.map_err(StoreError::from)?;
        migrations::prepare(&MIGRATOR, &mut connection, migrate).await?;
        drop(connection.close().await);
        let pool = pool_options(options.pool_connections).connect_lazy_with(connect.clone());
        Ok(Self { pool, options: connect, lanes: options.lanes })
    }

    /// Closes the pool's connections.
    pub async fn close(&self) {
        // A connection that fell silent while it was being given back is never returned; the pool would wait for it until TCP gives up.
        tokio::time::timeout(CONNECT_TIMEOUT, self.pool.close()).await.ok();
    }
}

/// Why the database can't be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("not a PostgreSQL URL: {0}")]
    Url(#[source] sqlx::Error),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Schema(#[from] SchemaError),
}

/// sqlx looks after its connections by pings without a deadline: behind a fail-over that leaves connections open and silent, each
/// ping would hold its place in the pool until TCP gives up, a quarter of an hour later. So they are asked here, in time.
fn pool_options(connections: u32) -> PgPoolOptions {
    PgPoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(CONNECT_TIMEOUT)
        .test_before_acquire(false)
        .before_acquire(|connection, meta| {
            Box::pin(async move { if meta.idle_for < PING_FROM { Ok(true) } else { answers(connection).await } })
        })
        // What a call that was given up has left under way is read to its end by this.
        .after_release(|connection, _| Box::pin(answers(connection)))
}

/// Whether the connection answers in time; an error makes the pool close it without a word to the server.
async fn answers(connection: &mut PgConnection) -> std::result::Result<bool, sqlx::Error> {
    match tokio::time::timeout(PING_TIMEOUT, connection.ping()).await {
        Ok(answer) => answer.map(|()| true),
        Err(_) => Err(sqlx::Error::Io(std::io::Error::new(std::io::ErrorKind::TimedOut, "a pooled connection does not answer"))),
    }
}

fn connect_options(url: &str) -> std::result::Result<PgConnectOptions, OpenError> {
    let options = PgConnectOptions::from_str(url).map_err(OpenError::Url)?;
    for name in unknown_parameters(url) {
        tracing::warn!(parameter = name, "DATABASE_URL has a parameter that is not known; it is ignored");
    }
    // Set for the session, whatever the server's or the role's defaults are.
    Ok(options
        .application_name("chat-service")
        .options([
            ("synchronous_commit", "on".to_owned()),
            ("default_transaction_isolation", "read committed".to_owned()),
            ("lock_timeout", LOCK_TIMEOUT.as_millis().to_string()),
            ("statement_timeout", STATEMENT_TIMEOUT.as_millis().to_string()),
            ("idle_in_transaction_session_timeout", ANSWER_TIMEOUT.as_millis().to_string()),
            ("timezone", "UTC".to_owned()),
        ])
        .disable_statement_logging())
}

/// Names of the URL's parameters that count for nothing. Never their values, and no name that may be the rest of a password.
fn unknown_parameters(url: &str) -> Vec<&str> {
    let query = url.split_once('?').map_or("", |(_, query)| query).split('#').next().unwrap_or_default();
    let unknown = query.split('&').filter(|pair| !pair.is_empty()).filter_map(|pair| {
        let (name, _) = pair.split_once('=').unwrap_or(("", pair));
        let option = ["options[", "options%5B", "options%5b"].iter().any(|start| name.starts_with(*start));
        let plain = !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_' || b == b'-');
        (!option && !PARAMETERS.contains(&name)).then_some(if plain { name } else { "(not shown)" })
    });
    unknown.collect()
}

async fn deadline<T>(limit: Duration, work: impl Future<Output = std::result::Result<T, sqlx::Error>>) -> Result<T> {
    match tokio::time::timeout(limit, work).await {
        Ok(done) => done.map_err(StoreError::from),
        Err(_) => Err(StoreError::TimedOut(limit)),
    }
}

fn to_sql(time: Timestamp) -> Result<DateTime<Utc>> {
    DateTime::from_timestamp_micros(time.as_micros()).ok_or_else(|| StoreError::corrupt("a time out of range"))
}

fn timestamp(row: &PgRow, column: &str) -> Result<Timestamp> {
    Ok(Timestamp::from_micros(row.try_get::<DateTime<Utc>, _>(column)?.timestamp_micros()))
}

fn user_id(row: &PgRow, column: &str) -> Result<UserId> {
    Ok(UserId::new(row.try_get::<&str, _>(column)?))
}

/// Reads `id, title, created_by, created_at, last_sequence`.
fn chat(row: &PgRow) -> Result<Chat> {
    Ok(Chat {
        id: ChatId::from_uuid(row.try_get("id")?),
        title: row.try_get("title")?,
        created_by: user_id(row, "created_by")?,
        created_at: timestamp(row, "created_at")?,
        last_sequence: row.try_get("last_sequence")?,
    })
}

/// Ends a connection whose state is not known, without talking to the server.
fn abandon(connection: PgConnection) {
    drop(connection);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_that_are_not_known_are_named_without_their_values() {
        let names = |query: &str| unknown_parameters(&format!("postgres://u:p@h/d{query}")).join(" ");
        assert_eq!(names(""), "");
        assert_eq!(names("?sslmode=require&options[lock_timeout]=1&options%5Bx%5D=2#f"), "");
        assert_eq!(names("?sslpassword=hunter2&connect_timeout=9"), "sslpassword connect_timeout");
        assert_eq!(names("?hunter2&Hunter2=x"), "(not shown) (not shown)");
    }

    #[test]
    fn an_address_that_is_none_is_refused_without_repeating_its_password() {
        for bad in ["postgres://u:hunter2@h:port/d", "postgres://u:hunter2@[h/d", "postgres://u:hunter2@h/d?port=hunter2"] {
            let error = connect_options(bad).expect_err("it is refused").to_string();
            assert!(!error.contains("hunter2"), "{error}");
        }
    }
}
