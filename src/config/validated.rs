//! The options, checked all at once: what holds a [`Config`] needn't check again.

use std::fmt;
use std::path::{Path, PathBuf};

use super::{AuthArgs, DatabaseArgs, ServeArgs, unless_empty};
use crate::model::Secret;

/// Development secrets begin with this, wherever they are copied to.
const DEVELOPMENT_MARK: &[u8] = b"development-only-";
/// Bytes of the shortest HS256 secret: the hash's own length.
const SECRET_BYTES_MIN: usize = 32;

/// What is wrong with an option, and the mend. One line each.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("DATABASE_URL is neither sqlite:PATH nor postgres://…; set it to one of them")]
    DatabaseUrl,
    #[error("no auth setting; set exactly one of CHAT_AUTH_SECRET and CHAT_AUTH_PUBLIC_KEY (`make run` uses certs/dev.secret)")]
    NoAuth,
    #[error("CHAT_AUTH_SECRET and CHAT_AUTH_PUBLIC_KEY are both set; set exactly one")]
    TwoAuths,
    // Without what the setting holds: it may be the secret itself.
    #[error("CHAT_AUTH_SECRET: can't read the file that it names: {0}; set it to the path of a file that holds the secret")]
    SecretFile(std::io::Error),
    #[error("{setting}: can't read {path}: {source}")]
    File { setting: &'static str, path: PathBuf, source: std::io::Error },
    #[error(
        "CHAT_AUTH_SECRET: the secret in {path} is shorter than 32 bytes; make a longer one, for example with `openssl rand -base64 48`"
    )]
    ShortSecret { path: PathBuf },
    #[error("CHAT_TLS_CLIENT_CA asks for clients' certificates, and CHAT_INSECURE=true turns TLS off; set one of them")]
    ClientCaWithoutTls,
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

/// What tokens are checked with.
#[derive(Debug)]
pub enum AuthKey {
    Secret(Secret<Vec<u8>>),
    PublicPem { path: PathBuf, pem: Vec<u8> },
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
        let (key, development) = auth_key(&args.auth)?;
        if development && !args.listen.ip().is_loopback() {
            return Err(ConfigError::DevelopmentBeyondLoopback(args.listen));
        }
        if args.tls.insecure && unless_empty(&args.tls.tls_client_ca).is_some() {
            return Err(ConfigError::ClientCaWithoutTls);
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
            if secret.expose().len() < SECRET_BYTES_MIN {
                return Err(ConfigError::ShortSecret { path });
            }
            let development = secret.expose().starts_with(DEVELOPMENT_MARK);
            Ok((AuthKey::Secret(secret), development))
        }
        (None, Some(path)) => {
            let pem = read("CHAT_AUTH_PUBLIC_KEY", &path)?;
            Ok((AuthKey::PublicPem { path, pem }, false))
        }
    }
}

/// The secret in a file: its bytes without the last newline.
pub fn load_secret(path: &Path) -> Result<Secret<Vec<u8>>, ConfigError> {
    let mut secret = std::fs::read(path).map_err(ConfigError::SecretFile)?;
    if secret.last() == Some(&b'\n') {
        secret.pop();
    }
    Ok(Secret::new(secret))
}

fn read(setting: &'static str, path: &Path) -> Result<Vec<u8>, ConfigError> {
    std::fs::read(path).map_err(|source| ConfigError::File { setting, path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(url: &str) -> Result<Store, ConfigError> {
        Store::of(&DatabaseArgs { database_url: url.to_owned().into(), migrate: true })
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
        assert_eq!(format!("{:?}", AuthKey::Secret(Secret::new(b"hunter2".to_vec()))), "Secret([redacted])");
        let args = DatabaseArgs { database_url: "postgres://u:hunter2@h/d".to_owned().into(), migrate: true };
        assert!(!format!("{args:?}").contains("hunter2"));
    }

    #[test]
    fn a_secret_that_stands_where_its_file_should_is_not_repeated() {
        let error = load_secret(Path::new("hunter2")).unwrap_err().to_string();
        assert!(error.contains("CHAT_AUTH_SECRET") && !error.contains("hunter2"), "{error}");
    }
}
