//! A lane: one connection, one call a batch: `chat_append_one` or `chat_append_new`; where the batch isn't all new, then `chat_append`.

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use sqlx::postgres::{PgConnectOptions, PgConnection, PgDatabaseError, PgRow, PgSeverity};
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
        // The planner must never answer a hot path by reading a whole table, whatever it believes of its size; and planning anew for
        // each batch would take longer than a small batch itself.
        let options = options.options([
            ("enable_seqscan", "off"),
            ("enable_hashjoin", "off"),
            ("enable_mergejoin", "off"),
            ("plan_cache_mode", "force_generic_plan"),
        ]);
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

    /// Appends a message that is new and may be stored; `None`: it isn't one, and isn't stored.
    async fn append_one(&mut self, message: &NewMessage) -> Result<Option<AppendOutcome>> {
        let query = sqlx::query("SELECT place, at FROM chat_append_one($1, $2, $3, $4, $5)")
            .bind(message.chat_id.as_uuid())
            .bind(message.sender.user_id.as_str())
            .bind(rights(message.sender.role))
            .bind(&message.client_message_id)
            .bind(&message.text);
        let connection = self.connect().await?;
        let row = deadline(ANSWER_TIMEOUT, query.fetch_one(connection)).await.map_err(of_statement)?;
        let Some(sequence) = row.try_get("place")? else { return Ok(None) };
        let at: DateTime<Utc> = row.try_get("at")?;
        Ok(Some(AppendOutcome::Stored { sequence, created_at: Timestamp::from_micros(at.timestamp_micros()) }))
    }

    /// Appends a batch whose messages are all new and may all be stored; `None`: it isn't one, and nothing is stored.
    async fn append_new(&mut self, batch: &[NewMessage]) -> Result<Option<Vec<AppendOutcome>>> {
        let mut chats: Vec<Uuid> = batch.iter().map(|m| m.chat_id.as_uuid()).collect();
        chats.sort_unstable();
        chats.dedup();
        let mut counts = vec![0_i32; chats.len()];
        // Of each message: the place of its chat, and its own among its chat's, from 1.
        let (mut places, mut ranks) = (Vec::with_capacity(batch.len()), Vec::with_capacity(batch.len()));
        for message in batch {
            let place = chats.partition_point(|chat| *chat < message.chat_id.as_uuid());
            counts[place] += 1;
            ranks.push(counts[place]);
            places.push(i32::try_from(place + 1).unwrap_or(i32::MAX));
        }
        let query = sqlx::query("SELECT befores, times FROM chat_append_new($1, $2, $3, $4, $5, $6, $7, $8)")
            .bind(chats)
            .bind(counts)
            .bind(&places)
            .bind(&ranks)
            .bind(senders(batch))
            .bind(all_rights(batch))
            .bind(ids(batch))
            .bind(texts(batch));
        let connection = self.connect().await?;
        let answer = deadline(ANSWER_TIMEOUT, query.fetch_optional(connection)).await.map_err(of_statement)?;
        let Some(row) = answer else { return Ok(None) };
        let (befores, times): (Vec<i64>, Vec<DateTime<Utc>>) = (row.try_get("befores")?, row.try_get("times")?);
        let stored = places.iter().zip(ranks).map(|(place, rank)| {
            let at = usize::try_from(place - 1).ok()?;
            Some(AppendOutcome::Stored {
                sequence: befores.get(at)? + i64::from(rank),
                created_at: Timestamp::from_micros(times.get(at)?.timestamp_micros()),
            })
        });
        let outcomes: Option<Vec<_>> = stored.collect();
        outcomes.map(Some).ok_or_else(|| StoreError::corrupt(format!("{} answers for the chats of a batch", befores.len())))
    }

    async fn append_judged(&mut self, batch: &[NewMessage], skip_locked: bool) -> Result<Vec<AppendOutcome>> {
        let chats: Vec<Uuid> = batch.iter().map(|m| m.chat_id.as_uuid()).collect();
        let query = sqlx::query("SELECT outcome, sequence, created_at FROM chat_append($1, $2, $3, $4, $5, $6)")
            .bind(chats)
            .bind(senders(batch))
            .bind(all_rights(batch))
            .bind(ids(batch))
            .bind(texts(batch))
            .bind(skip_locked);
        let connection = self.connect().await?;
        let rows = deadline(ANSWER_TIMEOUT, query.fetch_all(connection)).await.map_err(of_statement)?;
        if rows.len() != batch.len() {
            return Err(StoreError::corrupt(format!("{} answers for {} messages", rows.len(), batch.len())));
        }
        rows.iter().map(outcome).collect()
    }

    async fn call(&mut self, batch: &[NewMessage]) -> Result<Vec<AppendOutcome>> {
        let new = match batch {
            [message] => self.append_one(message).await?.map(|outcome| vec![outcome]),
            _ => self.append_new(batch).await?,
        };
        match new {
            Some(outcomes) => Ok(outcomes),
            None => self.append_judged(batch, false).await,
        }
    }
}

fn senders(batch: &[NewMessage]) -> Vec<&str> {
    batch.iter().map(|m| m.sender.user_id.as_str()).collect()
}

fn all_rights(batch: &[NewMessage]) -> Vec<i16> {
    batch.iter().map(|m| rights(m.sender.role)).collect()
}

fn ids(batch: &[NewMessage]) -> Vec<&str> {
    batch.iter().map(|m| m.client_message_id.as_str()).collect()
}

fn texts(batch: &[NewMessage]) -> Vec<&str> {
    batch.iter().map(|m| m.text.as_str()).collect()
}

#[async_trait]
impl AppendLane for PostgresLane {
    async fn append(&mut self, batch: &[NewMessage]) -> Result<Vec<AppendOutcome>> {
        let result = match self.call(batch).await {
            // One chat's lock couldn't be had: the others go on without it.
            Err(StoreError::Undone(error)) if is_lock_timeout(&error) => self.append_judged(batch, true).await,
            result => result,
        };
        // Where it is known that nothing happened, too: a new connection may find a server with room, or one that writes.
        if let Err(error) = &result
            && (error.is_unknown_outcome() || matches!(error, StoreError::Undone(_)))
            && let Some(connection) = self.connection.take()
        {
            abandon(connection);
        }
        result
    }
}

/// What the functions know of system roles.
fn rights(role: SystemRole) -> i16 {
    match role {
        SystemRole::Admin | SystemRole::Service => 2,
        SystemRole::User => 1,
        SystemRole::Reader => 0,
    }
}

/// A statement here is a transaction of its own. What PostgreSQL reports of it as an ERROR has undone it, also where it came up in the
/// commit: behind a commit that is written it reports none. What ends the session may come at any time.
fn of_statement(error: StoreError) -> StoreError {
    match error {
        StoreError::Refused(refusal) if ends_the_session(&refusal) => StoreError::Unavailable(refusal),
        error if is_undone(&error) => error.before_commit(),
        error => error,
    }
}

fn ends_the_session(error: &sqlx::Error) -> bool {
    let sqlx::Error::Database(database) = error else { return false };
    let severity = database.try_downcast_ref::<PgDatabaseError>().map(PgDatabaseError::severity);
    matches!(severity, Some(PgSeverity::Fatal | PgSeverity::Panic))
}

fn is_undone(error: &StoreError) -> bool {
    let StoreError::Unavailable(sqlx::Error::Database(database)) = error else { return false };
    database.try_downcast_ref::<PgDatabaseError>().is_some_and(|told| told.severity() == PgSeverity::Error && undoes(told.code()))
}

/// Whether an ERROR with this code is the server's own word on a statement: what proxies make up, when they lose the server, is of class 08.
fn undoes(code: &str) -> bool {
    // Read-only; serialization failure, deadlock; a lock that isn't had in time; a statement that is cancelled or takes too long; too few
    // resources; the system.
    matches!(code, "25006" | "40001" | "40P01" | "55P03" | "57014") || ["53", "58"].iter().any(|class| code.starts_with(class))
}

/// Of one lock, or of several that together took longer than a statement may.
fn is_lock_timeout(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::Database(database) if matches!(database.code().as_deref(), Some("55P03" | "57014")))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_server_says_of_a_statement_undoes_it() {
        for code in ["25006", "40001", "40P01", "53100", "53200", "53300", "55P03", "57014", "58030"] {
            assert!(undoes(code), "{code}");
        }
        // A lost connection, a shutdown, a crash elsewhere, an outcome that the one between doesn't know.
        for code in ["08006", "08P01", "57P01", "57P02", "40003", ""] {
            assert!(!undoes(code), "{code}");
        }
    }

    #[test]
    fn what_is_no_answer_stays_unknown() {
        let broken = || StoreError::Unavailable(sqlx::Error::Io(std::io::ErrorKind::ConnectionReset.into()));
        assert!(of_statement(broken()).is_unknown_outcome());
        assert!(of_statement(StoreError::TimedOut(ANSWER_TIMEOUT)).is_unknown_outcome());
    }
}
