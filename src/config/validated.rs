//! The options, checked all at once: what holds a [`Config`] needn't check again.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{AuthArgs, DatabaseArgs, ServeArgs, unless_empty};

/// Development secrets begin with this, wherever they are copied to.
const DEVELOPMENT_MARK: &[u8] = b"development-only-";
/// Bytes of the shortest HS256 secret: the hash's own length.
const SECRET_BYTES_MIN: usize = 32;

/// The shortest interval of the sweep: a shorter one would do nothing but load the database.
const SWEEP_INTERVAL_MIN: Duration = Duration::from_millis(10);
/// The widest gap between clocks: with a wider one expired tokens would go on.
const AUTH_LEEWAY_MAX: Duration = Duration::from_secs(3_600);

/// What is wrong with an option, and the mend. One line each.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("DATABASE_URL is neither sqlite:PATH nor postgres://…; set it to one of them")]
    DatabaseUrl,
    #[error("no auth setting; set exactly one of CHAT_AUTH_SECRET and CHAT_AUTH_PUBLIC_KEY (`make run` uses certs/dev.secret)")]
    NoAuth,
    #[error("CHAT_AUTH_SECRET and CHAT_AUTH_PUBLIC_KEY are both set; set exactly one")]
    TwoAuths,
    #[error("{setting}: can't read {path}: {source}")]
    File { setting: &'static str, path: PathBuf, source: std::io::Error },
    #[error(
        "CHAT_AUTH_SECRET: the secret in {path} is shorter than 32 bytes; make a longer one, for example with `openssl rand -base64 48`"
    )]
    ShortSecret { path: PathBuf },
    #[error("CHAT_SWEEP_INTERVAL is {0:?}; set it to 10ms or more, for example 2s")]
    ShortSweepInterval(Duration),
    #[error("CHAT_AUTH_LEEWAY is {0:?}; set it to at most 1h, for example 5s")]
    LongLeeway(Duration),
    #[error("CHAT_LISTEN is {0}, beyond loopback, and CHAT_AUTH_SECRET is a development secret; use a secret of your own")]
    DevelopmentBeyondLoopback(std::net::SocketAddr),
}

/// Where chats are kept.
#[derive(Clone, PartialEq, Eq)]
pub enum Store {
    Sqlite(PathBuf),
    /// The URL may hold a password.
    Postgres(String),
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
    pub fn of(args: &DatabaseArgs) -> Result<Self, ConfigError> {
        let url = args.database_url.as_str();
        if url.starts_with("postgres://") || url.starts_with("postgresql://") {
            return Ok(Self::Postgres(url.to_owned()));
        }
        match url.strip_prefix("sqlite:").map(|path| path.strip_prefix("//").unwrap_or(path)) {
            Some(path) if !path.is_empty() && !path.starts_with(':') => Ok(Self::Sqlite(PathBuf::from(path))),
            _ => Err(ConfigError::DatabaseUrl),
        }
    }
}

/// What tokens are checked with.
pub enum AuthKey {
    Secret(Vec<u8>),
    PublicPem { path: PathBuf, pem: Vec<u8> },
}

impl fmt::Debug for AuthKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Secret(_) => f.write_str("Secret([redacted])"),
            Self::PublicPem { path, .. } => f.debug_tuple("PublicPem").field(path).finish(),
        }
    }
}

/// The options of `serve`, checked.
pub struct Config {
    pub args: ServeArgs,
    pub store: Store,
    pub key: AuthKey,
    /// Tokens are signed with a development secret: the server prints ready commands.
    pub development: bool,
}

impl Config {
    pub fn of(args: ServeArgs) -> Result<Self, ConfigError> {
        let store = Store::of(&args.database)?;
        if args.sweep_interval < SWEEP_INTERVAL_MIN {
            return Err(ConfigError::ShortSweepInterval(args.sweep_interval));
        }
        if args.auth.auth_leeway > AUTH_LEEWAY_MAX {
            return Err(ConfigError::LongLeeway(args.auth.auth_leeway));
        }
        let (key, development) = auth_key(&args.auth)?;
        if development && !args.listen.ip().is_loopback() {
            return Err(ConfigError::DevelopmentBeyondLoopback(args.listen));
        }
        Ok(Self { args, store, key, development })
    }
}

fn auth_key(args: &AuthArgs) -> Result<(AuthKey, bool), ConfigError> {
    match (unless_empty(&args.auth_secret), unless_empty(&args.auth_public_key)) {
        (None, None) => Err(ConfigError::NoAuth),
        (Some(_), Some(_)) => Err(ConfigError::TwoAuths),
        (Some(path), None) => {
            let secret = load_secret(&path)?;
            if secret.len() < SECRET_BYTES_MIN {
                return Err(ConfigError::ShortSecret { path });
            }
            let development = secret.starts_with(DEVELOPMENT_MARK);
            Ok((AuthKey::Secret(secret), development))
        }
        (None, Some(path)) => {
            let pem = read("CHAT_AUTH_PUBLIC_KEY", &path)?;
            Ok((AuthKey::PublicPem { path, pem }, false))
        }
    }
}

/// The secret in a file: its bytes without the last newline.
pub fn load_secret(path: &Path) -> Result<Vec<u8>, ConfigError> {
    let mut secret = read("CHAT_AUTH_SECRET", path)?;
    if secret.last() == Some(&b'\n') {
        secret.pop();
    }
    Ok(secret)
}

fn read(setting: &'static str, path: &Path) -> Result<Vec<u8>, ConfigError> {
    std::fs::read(path).map_err(|source| ConfigError::File { setting, path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(url: &str) -> Result<Store, ConfigError> {
        Store::of(&DatabaseArgs { database_url: url.into(), migrate: true })
    }

    #[test]
    fn database_urls_name_a_file_or_a_server() {
        assert_eq!(store("sqlite:data/chat.db").unwrap(), Store::Sqlite("data/chat.db".into()));
        assert_eq!(store("sqlite:///var/chat.db").unwrap(), Store::Sqlite("/var/chat.db".into()));
        assert!(matches!(store("postgres://u:p@h/d").unwrap(), Store::Postgres(_)));
        for bad in ["", "sqlite:", "sqlite::memory:", "mysql://h/d", "data/chat.db"] {
            assert!(store(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn secrets_do_not_show_in_debug_output() {
        assert!(!format!("{:?}", store("postgres://u:hunter2@h/d").unwrap()).contains("hunter2"));
        assert!(!format!("{:?}", AuthKey::Secret(b"hunter2".to_vec())).contains("104"));
    }
}
