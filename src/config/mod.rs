//! Options from flags and environment: one struct makes `--help`, the flags and the variables.

mod auth;
pub mod duration;
pub mod origins;
pub mod rate;
mod redis;
mod traces;
mod validated;

use std::ffi::OsStr;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

pub use self::redis::RedisConfig;
pub use auth::{AuthKey, load_secret, roles_claim};
pub use traces::{Collector, Protocol, Sampling, TraceArgs};
pub use validated::{Config, ConfigError, Store};

use crate::model::Secret;
use duration::parse_duration;
use origins::{Origins, parse_origins};
use rate::{Networks, RateLimit, parse_networks, parse_rate};

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

/// Options of `serve`.
#[derive(Args, Clone, Debug)]
pub struct ServeArgs {
    /// Public address: gRPC over TLS
    #[arg(long, env = "CHAT_LISTEN", default_value = "127.0.0.1:50051")]
    pub listen: SocketAddr,
    /// Address of /metrics and of the probes /healthz and /readyz, plaintext
    #[arg(long, env = "CHAT_ADMIN_LISTEN", default_value = "127.0.0.1:9090")]
    pub admin_listen: SocketAddr,
    #[command(flatten)]
    pub database: DatabaseArgs,
    #[command(flatten)]
    pub redis: RedisArgs,
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
    /// Origins of the pages, separated by commas, that may use this server beside its own
    #[arg(long, env = "CHAT_CORS_ORIGINS", default_value = "", hide_default_value = true, value_parser = parse_origins)]
    pub cors_origins: Origins,
    #[command(flatten)]
    pub log: LogArgs,
    #[command(flatten)]
    pub traces: TraceArgs,
}

#[derive(Args, Clone, Debug)]
pub struct DatabaseArgs {
    /// sqlite:PATH or postgres://USER:PASSWORD@HOST/DATABASE
    #[arg(long, env = "DATABASE_URL", default_value = "sqlite:data/chat.db", hide_env_values = true)]
    pub database_url: Secret<String>,
    /// Bring the database's schema up to date at the start
    #[arg(long, env = "CHAT_MIGRATE", default_value_t = true, action = clap::ArgAction::Set)]
    pub migrate: bool,
    /// How long a PostgreSQL that can't be reached yet is waited for at the start; 0: not at all
    #[arg(long, env = "CHAT_DATABASE_WAIT", default_value = "30s", value_parser = parse_duration)]
    pub database_wait: Duration,
}

#[derive(Args, Clone, Debug)]
pub struct RedisArgs {
    /// What nodes reach each other by: redis://USER:PASSWORD@HOST:PORT, rediss:// for TLS, or some servers of a Cluster, separated by commas; empty: one node alone
    #[arg(long, env = "REDIS_URL", default_value = "", hide_default_value = true, hide_env_values = true)]
    pub redis_url: Secret<String>,
    /// What channels and keys in Redis begin with: sets deployments apart that share one
    #[arg(long, env = "CHAT_REDIS_PREFIX", default_value = "chat:")]
    pub redis_prefix: String,
}

#[derive(Args, Clone, Debug)]
pub struct TlsArgs {
    /// Certificate chain, PEM
    #[arg(long, env = "CHAT_TLS_CERT", default_value = "certs/server.pem")]
    pub tls_cert: PathBuf,
    /// Its private key, PEM
    #[arg(long, env = "CHAT_TLS_KEY", default_value = "certs/server.key")]
    pub tls_key: PathBuf,
    /// CA of the clients' certificates, PEM; set: clients need a certificate (mTLS)
    #[arg(long, env = "CHAT_TLS_CLIENT_CA", value_parser = any_path)]
    pub tls_client_ca: Option<PathBuf>,
    /// No TLS, for a proxy that ends it in front
    #[arg(long, env = "CHAT_INSECURE", default_value_t = false, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    pub insecure: bool,
}

/// Exactly one of the first four.
#[derive(Args, Clone, Debug)]
pub struct AuthArgs {
    /// File with the secret that signs tokens by HS256 (its bytes without the last newline)
    // Its value isn't shown in `--help`: some put the secret itself there.
    #[arg(long, env = "CHAT_AUTH_SECRET", value_parser = any_path, hide_env_values = true)]
    pub auth_secret: Option<PathBuf>,
    /// PEM file with the public key of tokens: RSA for RS256 and PS256, P-256 for ES256, Ed25519 for EdDSA
    #[arg(long, env = "CHAT_AUTH_PUBLIC_KEY", value_parser = any_path)]
    pub auth_public_key: Option<PathBuf>,
    /// Address of an identity provider's JSON Web Key Set: https, or http on loopback
    #[arg(long, env = "CHAT_AUTH_JWKS_URL", hide_env_values = true)]
    pub auth_jwks_url: Option<String>,
    /// Address of an Auth Service (proto/auth/v1): https, or http on loopback
    #[arg(long, env = "CHAT_AUTH_SERVICE_URL", hide_env_values = true)]
    pub auth_service_url: Option<String>,
    /// PEM file with the CAs that are believed of those two addresses, instead of the system's
    #[arg(long, env = "CHAT_AUTH_CA", value_parser = any_path)]
    pub auth_ca: Option<PathBuf>,
    /// The `iss` that tokens must have
    #[arg(long, env = "CHAT_AUTH_ISSUER")]
    pub auth_issuer: Option<String>,
    /// The `aud` that tokens must have
    #[arg(long, env = "CHAT_AUTH_AUDIENCE")]
    pub auth_audience: Option<String>,
    /// The claim with the roles: its name, or a path to it like `realm_access.roles`
    #[arg(long, env = "CHAT_AUTH_ROLES_CLAIM", default_value = "roles")]
    pub auth_roles_claim: String,
    /// How far the clocks of this server and of the tokens' signer may differ, at most 10m: tokens are good, and their streams live, for so much longer
    #[arg(long, env = "CHAT_AUTH_LEEWAY", default_value = "0s", value_parser = parse_duration)]
    pub auth_leeway: Duration,
}

#[derive(Args, Clone, Debug)]
pub struct LimitArgs {
    /// Messages that a user may send, by calls and on streams; 0: no limit
    #[arg(long, env = "CHAT_RATE_LIMIT_USER_SENDS", default_value = "100/s burst 500", value_parser = parse_rate)]
    pub rate_limit_user_sends: RateLimit,
    /// Other calls of a user, and other frames on its streams; 0: no limit
    #[arg(long, env = "CHAT_RATE_LIMIT_USER_CALLS", default_value = "100/s burst 500", value_parser = parse_rate)]
    pub rate_limit_user_calls: RateLimit,
    /// Requests from an address (IPv6: a /64), before their tokens are looked at; 0: no limit
    #[arg(long, env = "CHAT_RATE_LIMIT_ADDRESS", default_value = "1000/s", value_parser = parse_rate)]
    pub rate_limit_address: RateLimit,
    /// Addresses and networks, separated by commas, whose X-Forwarded-For counts
    #[arg(long, env = "CHAT_TRUSTED_PROXIES", default_value = "", hide_default_value = true, value_parser = parse_networks)]
    pub trusted_proxies: Networks,
    /// Connections at once; 0: no limit
    #[arg(long, env = "CHAT_MAX_CONNECTIONS", default_value_t = 20_000)]
    pub max_connections: usize,
    /// Connections of one address (IPv6: a /64) at once; 0: no limit
    #[arg(long, env = "CHAT_MAX_CONNECTIONS_PER_ADDRESS", default_value_t = 1000)]
    pub max_connections_per_address: usize,
    /// HTTP/2 streams of one connection at once; 0: no limit
    #[arg(long, env = "CHAT_MAX_STREAMS_PER_CONNECTION", default_value_t = 128)]
    pub max_streams_per_connection: u32,
    /// How old a connection may get, give or take a tenth, before its client is sent elsewhere; 0: as old as it likes
    #[arg(long, env = "CHAT_MAX_CONNECTION_AGE", default_value = "0", value_parser = parse_duration)]
    pub max_connection_age: Duration,
    /// How long a client may take nothing of what waits for it before its stream, or its connection, ends; 0: as long as it likes
    #[arg(long, env = "CHAT_SEND_TIMEOUT", default_value = "60s", value_parser = parse_duration)]
    pub send_timeout: Duration,
}

#[derive(Args, Clone, Debug)]
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
