//! The options, checked all at once: what holds a [`Config`] needn't check again.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::auth::{AuthKey, auth_key};
use super::redis::{RedisConfig, redis};
use super::{DatabaseArgs, ServeArgs, unless_empty};
use crate::model::Secret;

/// The shortest interval of the sweep: a shorter one would do nothing but load the database.
const SWEEP_INTERVAL_MIN: Duration = Duration::from_millis(10);

/// What is wrong with an option, and the mend. One line each.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("DATABASE_URL is neither sqlite:PATH nor postgres://…; set it to one of them")]
    DatabaseUrl,
    #[error(
        "no auth setting; set exactly one of CHAT_AUTH_SECRET, CHAT_AUTH_PUBLIC_KEY, CHAT_AUTH_JWKS_URL and CHAT_AUTH_SERVICE_URL (`make run` uses certs/dev.secret)"
    )]
    NoAuth,
    // Without what the setting holds: it may be the secret itself.
    #[error("CHAT_AUTH_SECRET: can't read the file that it names: {0}; set it to the path of a file that holds the secret")]
    SecretFile(std::io::Error),
    #[error("{0} are set; set exactly one of them")]
    SeveralAuths(String),
    #[error("{setting}: {why}; set it to an https address without a user or a password")]
    AuthUrl { setting: &'static str, why: &'static str },
    #[error(
        "CHAT_AUTH_ISSUER and CHAT_AUTH_AUDIENCE would not be checked with CHAT_AUTH_SERVICE_URL: the service checks tokens itself; unset them"
    )]
    DemandsOfService,
    #[error("CHAT_AUTH_ROLES_CLAIM is no claim's name and no path like realm_access.roles; correct it, or unset it to use `roles`")]
    RolesClaim,
    #[error("CHAT_AUTH_LEEWAY is more than 10m; set the clocks right, and it to some seconds")]
    Leeway,
    #[error("{setting}: can't read {path}: {source}")]
    File { setting: &'static str, path: PathBuf, source: std::io::Error },
    #[error(
        "CHAT_AUTH_SECRET: the secret in {path} is shorter than 32 bytes; make a longer one, for example with `openssl rand -base64 48`"
    )]
    ShortSecret { path: PathBuf },
    #[error("CHAT_TLS_CLIENT_CA asks for clients' certificates, and CHAT_INSECURE=true turns TLS off; set one of them")]
    ClientCaWithoutTls,
    #[error(
        "REDIS_URL is set, and DATABASE_URL is an SQLite file, which one node has for itself; set DATABASE_URL to postgres://…, or unset REDIS_URL"
    )]
    RedisWithSqlite,
    #[error(
        "CHAT_REDIS_PREFIX is longer than 64 characters, or has others than printable ASCII without spaces and braces; correct it, for example to chat:"
    )]
    RedisPrefix,
    #[error("{setting}: {why}; {mend}")]
    Traces { setting: &'static str, why: String, mend: &'static str },
    #[error("CHAT_SWEEP_INTERVAL is {0:?}; set it to 10ms or more, for example 2s")]
    ShortSweepInterval(Duration),
    #[error("CHAT_LISTEN is {0}, beyond loopback, and CHAT_AUTH_SECRET is a development secret; use a secret of your own")]
    DevelopmentBeyondLoopback(std::net::SocketAddr),
}

/// Where chats are kept.
#[derive(Clone)]
pub enum Store {
    Sqlite(PathBuf),
    /// The URL may hold a password.
    Postgres(Secret<String>),
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(path) => write!(f, "sqlite:{}", path.display()),
            Self::Postgres(_) => f.write_str("postgres://[redacted]"),
        }
    }
}

impl Store {
    /// What it is called in traces.
    pub fn system(&self) -> &'static str {
        match self {
            Self::Sqlite(_) => "sqlite",
            Self::Postgres(_) => "postgresql",
        }
    }

    pub fn of(args: &DatabaseArgs) -> Result<Self, ConfigError> {
        let url = args.database_url.expose().as_str();
        if url.starts_with("postgres://") || url.starts_with("postgresql://") {
            return Ok(Self::Postgres(args.database_url.clone()));
        }
        match url.strip_prefix("sqlite:").map(|path| path.strip_prefix("//").unwrap_or(path)) {
            Some(path) if !path.is_empty() && !path.starts_with(':') => Ok(Self::Sqlite(PathBuf::from(path))),
            _ => Err(ConfigError::DatabaseUrl),
        }
    }
}

/// The options of `serve`, checked.
pub struct Config {
    pub args: ServeArgs,
    pub store: Store,
    /// `None`: this node is alone.
    pub redis: Option<RedisConfig>,
    pub key: AuthKey,
    /// Tokens are signed with a development secret: the server prints ready commands.
    pub development: bool,
}

impl Config {
    pub fn of(args: ServeArgs) -> Result<Self, ConfigError> {
        let store = Store::of(&args.database)?;
        let redis = redis(&args.redis, &store)?;
        if args.sweep_interval < SWEEP_INTERVAL_MIN {
            return Err(ConfigError::ShortSweepInterval(args.sweep_interval));
        }
        let (key, development) = auth_key(&args.auth)?;
        if development && !args.listen.ip().is_loopback() {
            return Err(ConfigError::DevelopmentBeyondLoopback(args.listen));
        }
        if args.tls.insecure && unless_empty(&args.tls.tls_client_ca).is_some() {
            return Err(ConfigError::ClientCaWithoutTls);
        }
        Ok(Self { args, store, redis, key, development })
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn args(url: &str) -> DatabaseArgs {
        DatabaseArgs { database_url: url.to_owned().into(), migrate: true, database_wait: Duration::ZERO }
    }

    fn store(url: &str) -> Result<Store, ConfigError> {
        Store::of(&args(url))
    }

    #[test]
    fn database_urls_name_a_file_or_a_server() {
        for (url, file) in [("sqlite:data/chat.db", "data/chat.db"), ("sqlite:///var/chat.db", "/var/chat.db")] {
            assert!(matches!(store(url).unwrap(), Store::Sqlite(path) if path == Path::new(file)), "{url}");
        }
        assert!(matches!(store("postgres://u:p@h/d").unwrap(), Store::Postgres(_)));
        for bad in ["", "sqlite:", "sqlite::memory:", "mysql://h/d", "data/chat.db"] {
            assert!(store(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn secrets_do_not_show_in_debug_output() {
        assert!(!format!("{:?}", store("postgres://u:hunter2@h/d").unwrap()).contains("hunter2"));
        assert!(!format!("{:?}", args("postgres://u:hunter2@h/d")).contains("hunter2"));
    }
}
