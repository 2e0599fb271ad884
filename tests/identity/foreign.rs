//! Tokens made by other people's libraries: each is verified by its key and through a key set, and by nothing when a byte of its
//! signature is another.

use std::process::Stdio;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use chat_service::client::fetch::FetchError;
use chat_service::client::jwks::{Fetched, Jwks, Source};
use chat_service::interceptor::token::{Demands, Key, Verifier};
use chat_service::model::SystemRole;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::process::Command;

use crate::common::within;

#[derive(Deserialize)]
struct Line {
    alg: String,
    token: String,
    secret: Option<String>,
    key_pem: Option<String>,
    jwk: Option<Value>,
}

struct Fixed(Bytes);

#[tonic::async_trait]
impl Source for Fixed {
    async fn fetch(&self) -> Result<Fetched, FetchError> {
        Ok(Fetched { body: self.0.clone(), max_age: None })
    }
}

fn demands() -> Demands {
    Demands { issuer: Some("https://id.example".into()), audience: Some("chat".into()), leeway_secs: 5, ..Demands::default() }
}

/// The token with one bit of one byte of its signature changed, for each byte.
fn flipped(token: &str) -> Vec<String> {
    let (signed, signature) = token.rsplit_once('.').unwrap();
    let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
    let flip = |at: usize| {
        let mut other = signature.clone();
        other[at] ^= 1;
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(other))
    };
    (0..signature.len()).map(flip).collect()
}

async fn assert_verified(verifier: &Arc<Verifier>, line: &Line) {
    for token in flipped(&line.token) {
        assert!(verifier.check(&token, "").settled().await.is_err(), "{}: another signature", line.alg);
    }
    let identity = verifier.check(&line.token, "").settled().await.unwrap_or_else(|refused| panic!("{}: {refused:?}", line.alg));
    assert_eq!((identity.user_id.as_str(), identity.role), ("alice", SystemRole::Reader), "{}", line.alg);
}

async fn assert_all_verified(command: &mut Command) {
    let output = within(command.kill_on_drop(true).stderr(Stdio::inherit()).output()).await.unwrap();
    assert!(output.status.success());
    let printed = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<Line> = printed.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let algorithms: Vec<&str> = lines.iter().map(|line| line.alg.as_str()).collect();
    assert_eq!(algorithms, ["HS256", "RS256", "PS256", "ES256", "EdDSA"]);

    let keys: Vec<&Value> = lines.iter().filter_map(|line| line.jwk.as_ref()).collect();
    let set = Jwks::start(Arc::new(Fixed(json!({ "keys": keys }).to_string().into()))).await.unwrap();
    let by_set = Arc::new(Verifier::by_key_set(set, &demands()));
    for line in &lines {
        let key = match (&line.secret, &line.key_pem) {
            (Some(secret), None) => Key::Secret(secret.clone().into_bytes()),
            (None, Some(pem)) => Key::PublicPem(pem.clone().into_bytes()),
            _ => panic!("{}: neither secret nor key, or both", line.alg),
        };
        assert_verified(&Arc::new(Verifier::new(&key, &demands()).unwrap()), line).await;
        if line.jwk.is_some() {
            assert_verified(&by_set, line).await;
        }
        let elsewhere = Demands { audience: Some("another".into()), ..demands() };
        let elsewhere = Arc::new(Verifier::new(&key, &elsewhere).unwrap());
        assert!(elsewhere.check(&line.token, "").settled().await.is_err(), "{}: of another audience", line.alg);
    }
}

#[tokio::test]
async fn tokens_by_pyjwt_are_verified() {
    let Ok(python) = std::env::var("TEST_PYTHON") else { return eprintln!("skipped: TEST_PYTHON is not set") };
    assert_all_verified(Command::new(python).arg("tests/foreign/tokens.py")).await;
}

#[tokio::test]
async fn tokens_by_golang_jwt_are_verified() {
    let Ok(tokens) = std::env::var("TEST_GO_TOKENS") else { return eprintln!("skipped: TEST_GO_TOKENS is not set") };
    assert_all_verified(&mut Command::new(tokens)).await;
}

#[tokio::test]
async fn tokens_by_jose_are_verified() {
    if std::env::var_os("TEST_NODE_MODULES").is_none() {
        return eprintln!("skipped: TEST_NODE_MODULES is not set");
    }
    assert_all_verified(Command::new("node").arg("tests/foreign/tokens.mjs")).await;
}
