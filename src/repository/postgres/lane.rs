//! A lane: one connection, one call of `chat_append` a batch.

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use sqlx::postgres::{PgConnectOptions, PgConnection, PgRow};
use sqlx::{ConnectOptions, Row};
use uuid::Uuid;

use super::{ANSWER_TIMEOUT, CONNECT_TIMEOUT, abandon, deadline};
use crate::model::{AppendOutcome, NewMessage, SystemRole, Timestamp};
use crate::repository::{AppendLane, Result, StoreError};

pub(super) struct PostgresLane {
    options: PgConnectOptions,
    /// `None` after an error that leaves the connection's state unknown.
    connection: Option<PgConnection>,
}

impl PostgresLane {
    pub fn new(options: PgConnectOptions) -> Self {
        // The planner must never answer a hot path by reading a whole table, whatever it believes of its size.
        let options = options.options([("enable_seqscan", "off"), ("enable_hashjoin", "off"), ("enable_mergejoin", "off")]);
        Self { options, connection: None }
    }

    pub async fn connect(&mut self) -> Result<&mut PgConnection> {
        let connection = match self.connection.take() {
            Some(connection) => connection,
            // Whatever refuses a connection, a password that is being changed among it: nothing was asked for, and later it may go.
            None => match tokio::time::timeout(CONNECT_TIMEOUT, self.options.connect()).await {
                Ok(connected) => connected.map_err(StoreError::Unreachable)?,
                Err(_) => return Err(StoreError::Unreachable(sqlx::Error::Io(std::io::ErrorKind::TimedOut.into()))),
            },
        };
        Ok(self.connection.insert(connection))
    }

    async fn call(&mut self, batch: &[NewMessage], skip_locked: bool) -> Result<Vec<AppendOutcome>, StoreError> {
        let chats: Vec<Uuid> = batch.iter().map(|m| m.chat_id.as_uuid()).collect();
        let senders: Vec<&str> = batch.iter().map(|m| m.sender.user_id.as_str()).collect();
        let rights: Vec<i16> = batch.iter().map(|m| rights(m.sender.role)).collect();
        let ids: Vec<&str> = batch.iter().map(|m| m.client_message_id.as_str()).collect();
        let texts: Vec<&str> = batch.iter().map(|m| m.text.as_str()).collect();
        let connection = self.connect().await?;
        let query = sqlx::query("SELECT outcome, sequence, created_at FROM chat_append($1, $2, $3, $4, $5, $6)")
            .bind(chats)
            .bind(senders)
            .bind(rights)
            .bind(ids)
            .bind(texts)
            .bind(skip_locked);
        let rows = deadline(ANSWER_TIMEOUT, query.fetch_all(connection)).await?;
        if rows.len() != batch.len() {
            return Err(StoreError::corrupt(format!("{} answers for {} messages", rows.len(), batch.len())));
        }
        rows.iter().map(outcome).collect()
    }
}

#[async_trait]
impl AppendLane for PostgresLane {
    async fn append(&mut self, batch: &[NewMessage]) -> Result<Vec<AppendOutcome>> {
        let result = match self.call(batch, false).await {
            // One chat's lock couldn't be had: the others go on without it.
            Err(StoreError::Unavailable(error)) if is_lock_timeout(&error) => self.call(batch, true).await,
            result => result,
        };
        if let Err(error) = &result
            && error.is_unknown_outcome()
            && let Some(connection) = self.connection.take()
        {
            abandon(connection);
        }
        result
    }
}

/// What `chat_append` knows of system roles.
fn rights(role: SystemRole) -> i16 {
    match role {
        SystemRole::Admin | SystemRole::Service => 2,
        SystemRole::User => 1,
        SystemRole::Reader => 0,
    }
}

fn is_lock_timeout(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::Database(database) if database.code().as_deref() == Some("55P03"))
}

fn outcome(row: &PgRow) -> Result<AppendOutcome> {
    let place = || -> Result<(i64, Timestamp)> {
        let created_at: DateTime<Utc> = row.try_get("created_at")?;
        Ok((row.try_get("sequence")?, Timestamp::from_micros(created_at.timestamp_micros())))
    };
    match row.try_get::<i8, _>("outcome")? as u8 {
        b'S' => place().map(|(sequence, created_at)| AppendOutcome::Stored { sequence, created_at }),
        b'D' => place().map(|(sequence, created_at)| AppendOutcome::Duplicate { sequence, created_at }),
        b'C' => Ok(AppendOutcome::Conflict),
        b'N' => Ok(AppendOutcome::NotFound),
        b'R' => Ok(AppendOutcome::Denied),
        b'B' => Ok(AppendOutcome::Busy),
        other => Err(StoreError::corrupt(format!("chat_append answered {other}"))),
    }
}
