//! How nodes reach each other.

use super::RedisArgs;
use super::validated::{ConfigError, Store};
use crate::model::Secret;

/// What an empty prefix means.
const PREFIX: &str = "chat:";
/// Bytes of the longest prefix.
const PREFIX_BYTES_MAX: usize = 64;

/// The options of a node among several.
#[derive(Clone, Debug)]
pub struct RedisConfig {
    /// Not empty. They may hold passwords.
    pub urls: Secret<String>,
    /// Printable ASCII without spaces and braces.
    pub prefix: String,
}

/// `None`: this node is alone.
pub(super) fn redis(args: &RedisArgs, store: &Store) -> Result<Option<RedisConfig>, ConfigError> {
    if args.redis_url.expose().trim().is_empty() {
        return Ok(None);
    }
    match store {
        Store::Sqlite(_) => return Err(ConfigError::RedisWithSqlite),
        Store::Postgres(_) => {}
    }
    let prefix = if args.redis_prefix.is_empty() { PREFIX } else { &args.redis_prefix };
    // Braces would say what a Cluster's slots hang on.
    if prefix.len() > PREFIX_BYTES_MAX || !prefix.bytes().all(|byte| byte.is_ascii_graphic() && !b"{}".contains(&byte)) {
        return Err(ConfigError::RedisPrefix);
    }
    Ok(Some(RedisConfig { urls: args.redis_url.clone(), prefix: prefix.to_owned() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(url: &str, prefix: &str, store: &Store) -> Result<Option<RedisConfig>, ConfigError> {
        redis(&RedisArgs { redis_url: url.to_owned().into(), redis_prefix: prefix.into() }, store)
    }

    #[test]
    fn several_nodes_take_redis_and_a_database_that_they_can_share() {
        let (sqlite, postgres) = (Store::Sqlite("data/chat.db".into()), Store::Postgres("postgres://h/d".to_owned().into()));
        assert!(config("", "chat:", &sqlite).unwrap().is_none());
        assert!(matches!(config("redis://h", "chat:", &sqlite), Err(ConfigError::RedisWithSqlite)));
        let found = config("redis://:hunter2@h", "", &postgres).unwrap().unwrap();
        assert_eq!(found.prefix, "chat:", "an empty variable is an unset one");
        assert!(!format!("{found:?}").contains("hunter2"));
    }

    #[test]
    fn a_prefix_that_would_break_channels_is_refused() {
        let postgres = Store::Postgres("postgres://h/d".to_owned().into());
        for bad in ["a{b", "a}b", "a b", "a\nb", "ä", &"x".repeat(65)] {
            assert!(matches!(config("redis://h", bad, &postgres), Err(ConfigError::RedisPrefix)), "{bad}");
        }
    }
}
