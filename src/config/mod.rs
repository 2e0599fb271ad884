//! Options from flags and environment: one struct makes `--help`, the flags and the variables.

pub mod duration;
mod validated;

use std::ffi::OsStr;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

pub use validated::{AuthKey, Config, ConfigError, Store, load_secret};

use duration::parse_duration;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

/// Options of `serve`.
#[derive(Args, Clone)]
pub struct ServeArgs {
    /// Public address: gRPC over TLS
    #[arg(long, env = "CHAT_LISTEN", default_value = "127.0.0.1:50051")]
    pub listen: SocketAddr,
    /// Address of the probes /healthz and /readyz, plaintext
    #[arg(long, env = "CHAT_ADMIN_LISTEN", default_value = "127.0.0.1:9090")]
    pub admin_listen: SocketAddr,
    #[command(flatten)]
    pub database: DatabaseArgs,
    #[command(flatten)]
    pub tls: TlsArgs,
    #[command(flatten)]
    pub auth: AuthArgs,
    #[command(flatten)]
    pub limits: LimitArgs,
    /// How often streams are compared with what is committed; at least 10ms
    #[arg(long, env = "CHAT_SWEEP_INTERVAL", default_value = "2s", value_parser = parse_duration)]
    pub sweep_interval: Duration,
    /// How long a stop may take before streams are cut
    #[arg(long, env = "CHAT_SHUTDOWN_TIMEOUT", default_value = "10s", value_parser = parse_duration)]
    pub shutdown_timeout: Duration,
    /// Answer gRPC reflection, without a token
    #[arg(long, env = "CHAT_REFLECTION", default_value_t = true, action = clap::ArgAction::Set)]
    pub reflection: bool,
    #[command(flatten)]
    pub log: LogArgs,
}

#[derive(Args, Clone)]
pub struct DatabaseArgs {
    /// sqlite:PATH or postgres://USER:PASSWORD@HOST/DATABASE
    #[arg(long, env = "DATABASE_URL", default_value = "sqlite:data/chat.db", hide_env_values = true)]
    pub database_url: String,
    /// Bring the database's schema up to date at the start
    #[arg(long, env = "CHAT_MIGRATE", default_value_t = true, action = clap::ArgAction::Set)]
    pub migrate: bool,
}

#[derive(Args, Clone)]
pub struct TlsArgs {
    /// Certificate chain, PEM
    #[arg(long, env = "CHAT_TLS_CERT", default_value = "certs/server.pem")]
    pub tls_cert: PathBuf,
    /// Its private key, PEM
    #[arg(long, env = "CHAT_TLS_KEY", default_value = "certs/server.key")]
    pub tls_key: PathBuf,
    /// No TLS, for a proxy that ends it in front
    #[arg(long, env = "CHAT_INSECURE", default_value_t = false, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    pub insecure: bool,
}

/// Exactly one of the first two.
#[derive(Args, Clone)]
pub struct AuthArgs {
    /// File with the secret that signs tokens by HS256 (its bytes without the last newline)
    #[arg(long, env = "CHAT_AUTH_SECRET", value_parser = any_path)]
    pub auth_secret: Option<PathBuf>,
    /// PEM file with the public key of tokens signed by RS256, ES256 or EdDSA
    #[arg(long, env = "CHAT_AUTH_PUBLIC_KEY", value_parser = any_path)]
    pub auth_public_key: Option<PathBuf>,
    /// The `iss` that tokens must have
    #[arg(long, env = "CHAT_AUTH_ISSUER")]
    pub auth_issuer: Option<String>,
    /// The `aud` that tokens must have
    #[arg(long, env = "CHAT_AUTH_AUDIENCE")]
    pub auth_audience: Option<String>,
    /// How far the clocks of this server and of the tokens' signer may differ; at most 1h
    #[arg(long, env = "CHAT_AUTH_LEEWAY", default_value = "5s", value_parser = parse_duration)]
    pub auth_leeway: Duration,
}

#[derive(Args, Clone)]
pub struct LimitArgs {
    /// Connections at once; 0: no limit
    #[arg(long, env = "CHAT_MAX_CONNECTIONS", default_value_t = 20_000)]
    pub max_connections: usize,
    /// HTTP/2 streams of one connection at once; 0: no limit
    #[arg(long, env = "CHAT_MAX_STREAMS_PER_CONNECTION", default_value_t = 128)]
    pub max_streams_per_connection: u32,
}

#[derive(Args, Clone)]
pub struct LogArgs {
    /// What is logged: a level, or directives like `info,sqlx=warn`
    #[arg(long, env = "RUST_LOG", default_value = "info")]
    pub log: String,
    #[arg(long, env = "CHAT_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
}

/// An empty variable is an unset one, as in files of variables.
pub fn unless_empty<T: AsRef<OsStr> + Clone>(value: &Option<T>) -> Option<T> {
    value.clone().filter(|value| !value.as_ref().is_empty())
}

/// An empty one too, for [`unless_empty`].
fn any_path(text: &str) -> Result<PathBuf, std::convert::Infallible> {
    Ok(PathBuf::from(text))
}
