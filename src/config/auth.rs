//! Who vouches for tokens: exactly one of four.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::Uri;

use super::validated::ConfigError;
use super::{AuthArgs, unless_empty};
use crate::model::Secret;

/// Development secrets begin with this, wherever they are copied to.
const DEVELOPMENT_MARK: &[u8] = b"development-only-";
/// Bytes of the shortest HS256 secret: the hash's own length.
const SECRET_BYTES_MIN: usize = 32;
/// Clocks that differ by more are wrong.
const LEEWAY_MAX: Duration = Duration::from_secs(10 * 60);
/// Where a token's roles stand, unless the configuration says otherwise.
const ROLES_CLAIM: &str = "roles";

/// What tokens are checked with.
#[derive(Debug)]
pub enum AuthKey {
    Secret(Secret<Vec<u8>>),
    PublicPem {
        path: PathBuf,
        pem: Vec<u8>,
    },
    /// Where an identity provider publishes its keys.
    Jwks(Uri),
    /// The Auth Service's address.
    Service(Uri),
}

/// The key, and whether it is a development secret.
pub(super) fn auth_key(args: &AuthArgs) -> Result<(AuthKey, bool), ConfigError> {
    if args.auth_leeway > LEEWAY_MAX {
        return Err(ConfigError::Leeway);
    }
    if roles_claim(args).split('.').any(str::is_empty) {
        return Err(ConfigError::RolesClaim);
    }
    let (secret, pem) = (unless_empty(&args.auth_secret), unless_empty(&args.auth_public_key));
    let (jwks, service) = (unless_empty(&args.auth_jwks_url), unless_empty(&args.auth_service_url));
    match (secret, pem, jwks, service) {
        (None, None, None, None) => Err(ConfigError::NoAuth),
        (Some(path), None, None, None) => own_secret(path),
        (None, Some(path), None, None) => {
            let pem = read("CHAT_AUTH_PUBLIC_KEY", &path)?;
            Ok((AuthKey::PublicPem { path, pem }, false))
        }
        (None, None, Some(text), None) => Ok((AuthKey::Jwks(url("CHAT_AUTH_JWKS_URL", &text)?), false)),
        (None, None, None, Some(text)) => {
            if unless_empty(&args.auth_issuer).is_some() || unless_empty(&args.auth_audience).is_some() {
                return Err(ConfigError::DemandsOfService);
            }
            let url = url("CHAT_AUTH_SERVICE_URL", &text)?;
            if url.path().len() > 1 {
                return Err(ConfigError::AuthUrl { setting: "CHAT_AUTH_SERVICE_URL", why: "it has a path, and gRPC has its own" });
            }
            Ok((AuthKey::Service(url), false))
        }
        (secret, pem, jwks, service) => {
            let set = [
                secret.map(|_| "CHAT_AUTH_SECRET"),
                pem.map(|_| "CHAT_AUTH_PUBLIC_KEY"),
                jwks.map(|_| "CHAT_AUTH_JWKS_URL"),
                service.map(|_| "CHAT_AUTH_SERVICE_URL"),
            ];
            Err(ConfigError::SeveralAuths(set.into_iter().flatten().collect::<Vec<_>>().join(", ")))
        }
    }
}

/// The claim that holds a token's roles.
pub fn roles_claim(args: &AuthArgs) -> &str {
    if args.auth_roles_claim.is_empty() { ROLES_CLAIM } else { &args.auth_roles_claim }
}

fn own_secret(path: PathBuf) -> Result<(AuthKey, bool), ConfigError> {
    let secret = load_secret(&path)?;
    if secret.expose().len() < SECRET_BYTES_MIN {
        return Err(ConfigError::ShortSecret { path });
    }
    let development = secret.expose().starts_with(DEVELOPMENT_MARK);
    Ok((AuthKey::Secret(secret), development))
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

/// An address that keys may come from and tokens go to. The error doesn't repeat it, as it may hold a password.
fn url(setting: &'static str, text: &str) -> Result<Uri, ConfigError> {
    let wrong = |why| ConfigError::AuthUrl { setting, why };
    let url: Uri = text.parse().map_err(|_| wrong("it is no URL"))?;
    let (Some(scheme), Some(authority)) = (url.scheme_str(), url.authority()) else {
        return Err(wrong("it has no scheme or no host"));
    };
    if authority.as_str().contains('@') {
        return Err(wrong("it holds a user or a password, which would not be used"));
    }
    match scheme {
        "https" => Ok(url),
        "http" if is_loopback(authority.host()) => Ok(url),
        "http" => Err(wrong("it is http beyond loopback, where others could read tokens or put their own keys")),
        _ => Err(wrong("it is neither https nor http")),
    }
}

fn is_loopback(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || address.parse().is_ok_and(|address: IpAddr| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        auth: AuthArgs,
    }

    fn key(flags: &[&str]) -> Result<AuthKey, String> {
        let args = Cli::parse_from(std::iter::once("test").chain(flags.iter().copied())).auth;
        auth_key(&args).map(|(key, _)| key).map_err(|error| error.to_string())
    }

    #[test]
    fn exactly_one_must_vouch_for_tokens() {
        assert!(key(&[]).unwrap_err().contains("CHAT_AUTH_JWKS_URL"));
        let two = key(&["--auth-jwks-url", "https://a/keys", "--auth-service-url", "https://a"]).unwrap_err();
        assert!(two.contains("CHAT_AUTH_JWKS_URL, CHAT_AUTH_SERVICE_URL are set"), "{two}");
        assert!(!two.contains("CHAT_AUTH_SECRET,"), "{two}");
        assert!(matches!(key(&["--auth-jwks-url", "https://a/keys", "--auth-service-url", ""]), Ok(AuthKey::Jwks(_))));
        assert!(matches!(key(&["--auth-service-url", "https://a"]), Ok(AuthKey::Service(_))));
        assert!(key(&["--auth-service-url", "https://a/path"]).is_err());
        let ignored = key(&["--auth-service-url", "https://a", "--auth-issuer", "me"]).unwrap_err();
        assert!(ignored.contains("CHAT_AUTH_ISSUER"), "{ignored}");
    }

    #[test]
    fn keys_come_and_tokens_go_over_tls_or_not_beyond_loopback() {
        for good in ["https://id.example/keys", "https://id.example:8443", "http://127.0.0.1:1/keys", "http://[::1]:1", "http://localhost"]
        {
            assert!(key(&["--auth-jwks-url", good]).is_ok(), "{good}");
        }
        for bad in [
            "http://id.example/keys",
            "http://127.0.0.1.example",
            "ftp://localhost",
            "/keys",
            "id.example",
            "https://u:hunter2@a",
            "http:// a",
        ] {
            let error = key(&["--auth-jwks-url", bad]).unwrap_err();
            assert!(error.starts_with("CHAT_AUTH_JWKS_URL") && !error.contains("hunter2"), "{bad}: {error}");
        }
    }

    #[test]
    fn credentials_in_an_address_are_refused_and_not_repeated() {
        for (flag, setting) in [("--auth-jwks-url", "CHAT_AUTH_JWKS_URL"), ("--auth-service-url", "CHAT_AUTH_SERVICE_URL")] {
            for address in ["https://alice:hunter2@a", "https://alice@a:8443", "http://:hunter2@localhost", "https://alice:hunter2@a:x"] {
                let error = key(&[flag, address]).unwrap_err();
                assert!(error.starts_with(setting) && error.contains("without a user or a password"), "{address}: {error}");
                assert!(!error.contains("hunter2") && !error.contains("alice"), "{address}: {error}");
            }
        }
    }

    #[test]
    fn the_roles_claim_is_a_path_and_leeway_is_bounded() {
        assert!(key(&["--auth-jwks-url", "https://a", "--auth-roles-claim", "realm_access.roles"]).is_ok());
        assert!(key(&["--auth-jwks-url", "https://a", "--auth-roles-claim", ""]).is_ok());
        assert!(key(&["--auth-jwks-url", "https://a", "--auth-roles-claim", "a..b"]).unwrap_err().contains("CHAT_AUTH_ROLES_CLAIM"));
        assert!(key(&["--auth-jwks-url", "https://a", "--auth-leeway", "1h"]).unwrap_err().contains("CHAT_AUTH_LEEWAY"));
    }

    #[test]
    fn secrets_do_not_show_in_debug_output() {
        assert_eq!(format!("{:?}", AuthKey::Secret(Secret::new(b"hunter2".to_vec()))), "Secret([redacted])");
    }

    #[test]
    fn a_secret_that_stands_where_its_file_should_is_not_repeated() {
        let error = load_secret(Path::new("hunter2")).unwrap_err().to_string();
        assert!(error.contains("CHAT_AUTH_SECRET") && !error.contains("hunter2"), "{error}");
    }
}
