//! What can go wrong in a store, by what the caller can do about it.

/// An error of a store. Its text is for the log; nothing of it may reach a client.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No connection could be had: nothing was asked for.
    #[error("the store can't be reached: {0}")]
    Unreachable(#[source] sqlx::Error),
    /// The store failed at something and said so before the commit: nothing of the transaction happened, and later the same may go.
    #[error("the store can't do it now: {0}")]
    Undone(#[source] sqlx::Error),
    /// No answer: the connection broke, could not be had, or took too long. What was asked for may have happened.
    #[error("the store is unavailable: {0}")]
    Unavailable(#[source] sqlx::Error),
    /// No answer within the time allowed. What was asked for may have happened.
    #[error("the store did not answer within {0:?}")]
    TimedOut(std::time::Duration),
    /// The store refused the statement; nothing of its transaction happened.
    #[error("the store refused: {0}")]
    Refused(#[source] sqlx::Error),
    /// What is stored can't have been written by this service.
    #[error("the store holds something unexpected: {0}")]
    Corrupt(String),
    /// The schema was taken back since the start, as by a restored backup.
    #[error("the store's schema is older than this build's; run `chat-service migrate`")]
    SchemaTooOld,
}

impl StoreError {
    pub(super) fn corrupt(what: impl Into<String>) -> Self {
        Self::Corrupt(what.into())
    }

    /// Whether it is unknown what happened: then the same again, with the same ids, is the way to find out.
    pub fn is_unknown_outcome(&self) -> bool {
        match self {
            Self::Unavailable(_) | Self::TimedOut(_) => true,
            Self::Unreachable(_) | Self::Undone(_) | Self::Refused(_) | Self::Corrupt(_) | Self::SchemaTooOld => false,
        }
    }

    /// The same failure, of which it is known that it came before the commit.
    pub(super) fn before_commit(self) -> Self {
        match self {
            Self::Unavailable(error) => Self::Undone(error),
            Self::Unreachable(_) | Self::Undone(_) | Self::TimedOut(_) | Self::Refused(_) | Self::Corrupt(_) | Self::SchemaTooOld => self,
        }
    }

    /// Whether a store that didn't answer may do so a little later, with nobody mending a setting.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Unreachable(error) | Self::Undone(error) | Self::Unavailable(error) => {
                !matches!(error, sqlx::Error::Configuration(_) | sqlx::Error::Tls(_))
            }
            Self::TimedOut(_) => true,
            Self::Refused(_) | Self::Corrupt(_) | Self::SchemaTooOld => false,
        }
    }
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        match &error {
            sqlx::Error::Database(database) => match database.code().as_deref() {
                // PostgreSQL: connection exceptions, shutdown, "too many connections" and resources; SQLite: busy, full, I/O.
                Some(code) if code.len() == 5 && ["08", "53", "57", "58"].iter().any(|class| code.starts_with(class)) => {
                    Self::Unavailable(error)
                }
                // A server that only reads: behind a fail-over, the name may still lead to what was the writer. Another connection may find
                // the new one.
                Some("25006") => Self::Unavailable(error),
                // PostgreSQL's lock_timeout, deadlock and serialization failures; and what stands between that lost the answer.
                Some("55P03" | "40P01" | "40001" | "40003") => Self::Unavailable(error),
                Some(code) if code.len() < 5 && code.parse().is_ok_and(is_sqlites_trouble) => Self::Unavailable(error),
                _ => Self::Refused(error),
            },
            sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) | sqlx::Error::ColumnNotFound(_) => Self::corrupt(error.to_string()),
            _ => Self::Unavailable(error),
        }
    }
}

/// The lane of SQLite goes to it by another library than all else.
impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        let code = error.sqlite_error().map(|error| error.extended_code);
        let driver = sqlx::Error::AnyDriverError(error.into());
        match code {
            Some(code) if is_sqlites_trouble(code) => Self::Unavailable(driver),
            Some(_) => Self::Refused(driver),
            None => Self::corrupt(driver.to_string()),
        }
    }
}

/// SQLite's extended codes keep the kind in the low byte: 5 busy, 6 locked, 8 read-only, 10 I/O, 13 full, 14 can't open.
fn is_sqlites_trouble(code: i32) -> bool {
    matches!(code & 0xff, 5 | 6 | 8 | 10 | 13 | 14)
}
