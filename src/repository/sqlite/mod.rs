use crate::repository::StoreError;
pub use super::postgres::PostgresStore as SqliteStore2;
