//! The command `token`: signs a token with a secret file.

use std::path::PathBuf;
use std::time::Duration;

use chrono::Utc;
use clap::Args;
use jsonwebtoken::{EncodingKey, Header};
use serde::Serialize;

use crate::config::duration::parse_duration;
use crate::config::{ConfigError, load_secret, unless_empty};

#[derive(Args)]
pub struct TokenArgs {
    /// The user's id
    #[arg(long)]
    pub sub: String,
    /// Roles: admin, service, user, reader
    #[arg(long, value_delimiter = ',', default_value = "user")]
    pub roles: Vec<String>,
    /// How long the token is good
    #[arg(long, default_value = "1h", value_parser = parse_duration)]
    pub ttl: Duration,
    /// The `iss` claim
    #[arg(long, env = "CHAT_AUTH_ISSUER")]
    pub issuer: Option<String>,
    /// The `aud` claim
    #[arg(long, env = "CHAT_AUTH_AUDIENCE")]
    pub audience: Option<String>,
    /// File with the secret
    #[arg(long, env = "CHAT_AUTH_SECRET", default_value = "certs/dev.secret", hide_env_values = true)]
    pub secret: PathBuf,
}

#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    #[error("{0}; `make run` makes certs/dev.secret, or set CHAT_AUTH_SECRET to a secret file")]
    Secret(#[from] ConfigError),
    #[error("--ttl is too long")]
    Ttl,
    #[error("can't sign: {0}")]
    Sign(#[from] jsonwebtoken::errors::Error),
}

#[derive(Serialize)]
struct Claims<'a> {
    sub: &'a str,
    roles: &'a [String],
    iat: i64,
    exp: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    iss: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    aud: Option<&'a str>,
}

/// The token that the arguments ask for.
pub fn mint(args: &TokenArgs) -> Result<String, TokenError> {
    let secret = load_secret(&args.secret)?;
    let (issuer, audience) = (unless_empty(&args.issuer), unless_empty(&args.audience));
    sign(secret.expose(), &args.sub, &args.roles, args.ttl, issuer.as_deref(), audience.as_deref())
}

/// Signs by HS256.
pub fn sign(
    secret: &[u8],
    sub: &str,
    roles: &[String],
    ttl: Duration,
    issuer: Option<&str>,
    audience: Option<&str>,
) -> Result<String, TokenError> {
    let iat = Utc::now().timestamp();
    let exp = i64::try_from(ttl.as_secs()).ok().and_then(|ttl| iat.checked_add(ttl)).ok_or(TokenError::Ttl)?;
    let claims = Claims { sub, roles, iat, exp, iss: issuer, aud: audience };
    Ok(jsonwebtoken::encode(&Header::default(), &claims, &EncodingKey::from_secret(secret))?)
}
