//! Who vouches for tokens, put together from the configuration.

use std::sync::Arc;

use http::Uri;

use crate::client::access::{AccessClient, AccessLimits, AddressError};
use crate::client::fetch::{FetchError, HttpSource};
use crate::client::jwks::Jwks;
use crate::client::trust::{Trust, TrustError};
use crate::config::{AuthKey, Config, roles_claim, unless_empty};
use crate::interceptor::token::{Demands, Key, Verifier};
use crate::model::SystemClock;

/// Why nobody could be let in. One line, naming the setting and the mend.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error("CHAT_AUTH_PUBLIC_KEY: {0} holds no RSA, P-256 or Ed25519 public key as PEM")]
    PublicKey(std::path::PathBuf),
    #[error("CHAT_AUTH_JWKS_URL: no keys from {url}: {source}; correct the address, or start when it answers")]
    Keys { url: String, source: FetchError },
    #[error("CHAT_AUTH_JWKS_URL: {0} has no host that could be asked; correct it")]
    Address(String),
    #[error(transparent)]
    ServiceAddress(#[from] AddressError),
    #[error(transparent)]
    Trust(#[from] TrustError),
}

/// An address as it may be shown: without its query, which may hold a secret, and without a user or a password, whoever let them in.
fn place(url: &Uri) -> String {
    let port = url.port_u16().map(|port| format!(":{port}")).unwrap_or_default();
    format!("{}://{}{port}{}", url.scheme_str().unwrap_or_default(), url.host().unwrap_or_default(), url.path())
}

/// The verifier that the configuration asks for. With a JWKS URL it has its keys when this returns.
pub async fn verifier(config: &Config) -> Result<Verifier, IdentityError> {
    let auth = &config.args.auth;
    let demands = Demands {
        issuer: unless_empty(&auth.auth_issuer),
        audience: unless_empty(&auth.auth_audience),
        leeway_secs: auth.auth_leeway.as_secs(),
        roles_claim: roles_claim(auth).to_owned(),
    };
    match &config.key {
        AuthKey::Secret(secret) => own(&Key::Secret(secret.expose().clone()), &demands, Default::default()),
        AuthKey::PublicPem { path, pem } => own(&Key::PublicPem(pem.clone()), &demands, path.clone()),
        AuthKey::Jwks(url) => {
            let source = HttpSource::new(url, trust(config, url)?.as_ref()).ok_or_else(|| IdentityError::Address(place(url)))?;
            let keys = Jwks::start(Arc::new(source)).await.map_err(|source| IdentityError::Keys { url: place(url), source })?;
            Ok(Verifier::by_key_set(keys, &demands))
        }
        AuthKey::Service(url) => {
            let trust = trust(config, url)?;
            let service = AccessClient::new(url, trust.as_ref(), AccessLimits::default(), Arc::new(SystemClock))?;
            Ok(Verifier::by_service(service))
        }
    }
}

fn own(key: &Key, demands: &Demands, path: std::path::PathBuf) -> Result<Verifier, IdentityError> {
    Verifier::new(key, demands).ok_or(IdentityError::PublicKey(path))
}

/// `None`: the address is plaintext.
fn trust(config: &Config, url: &Uri) -> Result<Option<Trust>, TrustError> {
    let https = url.scheme_str() == Some("https");
    https.then(|| Trust::load("CHAT_AUTH_CA", unless_empty(&config.args.auth.auth_ca).as_deref())).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_shown_without_what_may_be_secret() {
        let shown = |address: &'static str| place(&Uri::from_static(address));
        assert_eq!(shown("https://alice:hunter2@id.example:8443/keys?key=hunter2"), "https://id.example:8443/keys");
        assert_eq!(shown("https://[::1]/keys"), "https://[::1]/keys");
    }
}
