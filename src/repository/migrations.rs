//! Brings a database to the schema that this build knows, and refuses one that it doesn't.

use sqlx::migrate::{Migrate, MigrateError, Migrator};

use super::StoreError;

/// The table in which sqlx notes what was applied.
const TABLE: &str = "_sqlx_migrations";

/// Why a database can't be used as it is.
#[derive(Debug, thiserror::Error)]
pub enum SchemaError {
    #[error("the database's schema is too new: it has migration {found}, this build knows up to {known}; run a newer chat-service")]
    TooNew { found: i64, known: i64 },
    #[error("the database's schema is too old: it has migration {found}, this build needs {needed}; run `chat-service migrate`")]
    TooOld { found: i64, needed: i64 },
    #[error(
        "migration {0} of the database is not the one that this build knows, or did not finish; restore the database or run the build that made it"
    )]
    Different(i64),
    #[error("can't bring the database to this build's schema: {0}")]
    Failed(#[source] MigrateError),
}

/// The newest migration that was applied, as `version`; null where there is none.
pub(super) const APPLIED: &str = "SELECT max(version) AS version FROM _sqlx_migrations WHERE success";

/// Whether what [`APPLIED`] found is enough.
pub(super) fn check(migrator: &Migrator, applied: Option<i64>) -> Result<(), StoreError> {
    let needed = migrator.iter().map(|m| m.version).max();
    if applied >= needed { Ok(()) } else { Err(StoreError::SchemaTooOld) }
}

/// [`APPLIED`] could not be read. Where the store refuses, there is no such table: nothing was ever applied.
pub(super) fn unread(error: sqlx::Error) -> StoreError {
    match StoreError::from(error) {
        StoreError::Refused(_) => StoreError::SchemaTooOld,
        other => other,
    }
}

/// Applies what is missing where `apply` says so, and checks that the schema is then the one that this build knows.
pub(super) async fn prepare<C: Migrate>(migrator: &Migrator, connection: &mut C, apply: bool) -> Result<(), SchemaError> {
    let known = migrator.iter().map(|m| m.version).max().unwrap_or(0);
    if apply {
        return match migrator.run_direct(None, connection, false).await {
            Ok(()) => Ok(()),
            Err(MigrateError::VersionMissing(found)) => Err(SchemaError::TooNew { found, known }),
            Err(MigrateError::VersionMismatch(version) | MigrateError::Dirty(version)) => Err(SchemaError::Different(version)),
            Err(error) => Err(SchemaError::Failed(error)),
        };
    }
    // Where the table isn't there nothing was ever applied.
    let applied = connection.list_applied_migrations(TABLE).await.unwrap_or_default();
    let found = applied.iter().map(|m| m.version).max().unwrap_or(0);
    if found > known {
        return Err(SchemaError::TooNew { found, known });
    }
    for migration in migrator.iter() {
        match applied.iter().find(|a| a.version == migration.version) {
            None => return Err(SchemaError::TooOld { found, needed: known }),
            Some(applied) if applied.checksum != migration.checksum => return Err(SchemaError::Different(migration.version)),
            Some(_) => {}
        }
    }
    Ok(())
}
