//! Tokens that an identity provider's keys have signed.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::future::join_all;
use http::StatusCode;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::json;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::Caller;
use crate::common::{Ground, On, TestServer, reason, until, within};
use crate::provider::{Provider, SigningKey, claims, header};

async fn server_for(provider: &Provider) -> TestServer {
    TestServer::start_without_secret(Ground::new(On::Sqlite).await, &["--auth-jwks-url", &provider.url]).await
}

fn refusal(result: Result<(), Status>) -> (Code, String) {
    let status = result.expect_err("the token was taken");
    (status.code(), reason(&status))
}

fn invalid() -> (Code, String) {
    (Code::Unauthenticated, "TOKEN_INVALID".into())
}

/// Of somebody who calls all the while.
struct Day {
    token: Mutex<String>,
    calls: AtomicUsize,
    over: AtomicBool,
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_rotate_with_no_failed_request_and_withdrawn_ones_are_refused() {
    let (old, new) = (SigningKey::new("old", Algorithm::ES256), SigningKey::new("new", Algorithm::EdDSA));
    let provider = Provider::start(&[&old]).await;
    let server = server_for(&provider).await;
    let caller = Arc::new(Caller::of(&server).await);
    let old_token = old.token("alice");
    caller.call(&old_token).await.unwrap();

    // Somebody who calls all the while, with the token of the day.
    let day = Arc::new(Day { token: Mutex::new(old_token.clone()), calls: AtomicUsize::new(0), over: AtomicBool::new(false) });
    let calling = {
        let (caller, day) = (Arc::clone(&caller), Arc::clone(&day));
        tokio::spawn(async move {
            while !day.over.load(Ordering::SeqCst) {
                let token = day.token.lock().unwrap().clone();
                caller.call(&token).await.unwrap();
                day.calls.fetch_add(1, Ordering::SeqCst);
            }
        })
    };
    provider.publish(&[&old, &new]);
    let first_of_the_new = join_all((0..20).map(|_| async { caller.call(&new.token("bob")).await })).await;
    assert!(first_of_the_new.iter().all(Result::is_ok), "{first_of_the_new:?}");
    caller.call(&old_token).await.unwrap();
    *day.token.lock().unwrap() = new.token("alice");
    let calls = day.calls.load(Ordering::SeqCst);
    until("two more calls have ended, so no call has the old token", || day.calls.load(Ordering::SeqCst) >= calls + 2).await;

    provider.publish(&[&new]);
    // A key that nobody knows makes the server look.
    let stranger = SigningKey::new("stranger", Algorithm::ES256);
    assert_eq!(refusal(caller.call(&stranger.token("eve")).await), invalid());
    assert_eq!(refusal(caller.call(&old_token).await), invalid(), "though it was good before");
    caller.call(&new.token("alice")).await.unwrap();
    day.over.store(true, Ordering::SeqCst);
    within(calling).await.expect("no call failed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_unknown_keys_costs_few_fetches_and_disturbs_nobody() {
    let key = SigningKey::new("a", Algorithm::ES256);
    let provider = Provider::start(&[&key]).await;
    let server = server_for(&provider).await;
    let (caller, honest) = (Caller::of(&server).await, Caller::of(&server).await);
    let began = Instant::now();
    let flood = join_all((0..200).map(|number| {
        let token = key.token_as(Algorithm::ES256, &format!("unknown {number}"), "eve");
        let caller = &caller;
        async move { refusal(caller.call(&token).await) }
    }));
    let calls = async {
        for _ in 0..20 {
            honest.call(&key.token("alice")).await.unwrap();
        }
    };
    let (flood, ()) = tokio::join!(flood, calls);
    assert!(flood.iter().all(|refusal| *refusal == invalid()), "{flood:?}");
    // One at the start, one for the first, and one in two seconds.
    let bound = 3 + began.elapsed().as_secs() / 2;
    assert!(provider.fetches() as u64 <= bound, "{} fetches", provider.fetches());
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_provider_is_away_known_keys_are_good_and_unknown_ones_unavailable() {
    let (known, next) = (SigningKey::new("known", Algorithm::ES256), SigningKey::new("next", Algorithm::ES256));
    let provider = Provider::start(&[&known]).await;
    let server = server_for(&provider).await;
    let caller = Caller::of(&server).await;
    provider.fail(StatusCode::SERVICE_UNAVAILABLE);
    let unknown = caller.call(&next.token("alice")).await.unwrap_err();
    assert_eq!((unknown.code(), reason(&unknown)), (Code::Unavailable, "AUTH_UNAVAILABLE".into()));
    assert!(unknown.get_error_details().retry_info().is_some());
    caller.call(&known.token("alice")).await.unwrap();
    provider.publish_text("<html>a captive portal</html>");
    assert_eq!(caller.call(&next.token("alice")).await.unwrap_err().code(), Code::Unavailable);
    caller.call(&known.token("bob")).await.unwrap();
    provider.publish(&[&known, &next]);
    caller.call(&next.token("alice")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn forged_tokens_are_refused_whatever_they_say_of_their_key() {
    let (rsa, ec) = (SigningKey::new("rsa", Algorithm::RS256), SigningKey::new("ec", Algorithm::ES256));
    let (pinned, sealing) = (SigningKey::new("pinned", Algorithm::RS256), SigningKey::new("sealing", Algorithm::ES256));
    let (forger, ec_forger) = (SigningKey::new("rsa", Algorithm::RS256), SigningKey::new("ec", Algorithm::ES256));
    let secret = b"a secret that should not have been published";
    let (mut pinned_jwk, mut sealing_jwk) = (pinned.jwk(), sealing.jwk());
    pinned_jwk["alg"] = json!("RS256");
    sealing_jwk["use"] = json!("enc");
    let oct = json!({"kty": "oct", "kid": "oct", "alg": "HS256", "k": URL_SAFE_NO_PAD.encode(secret)});
    let provider = Provider::start(&[]).await;
    provider.publish_raw(vec![oct, rsa.jwk(), ec.jwk(), pinned_jwk, sealing_jwk]);
    let server = server_for(&provider).await;
    let caller = Caller::of(&server).await;
    for good in [rsa.token("alice"), rsa.token_as(Algorithm::PS256, "rsa", "alice"), ec.token("alice"), pinned.token("alice")] {
        caller.call(&good).await.unwrap();
    }
    let by_secret =
        |secret: &[u8], kid: &str| encode(&header(Algorithm::HS256, kid), &claims("eve"), &EncodingKey::from_secret(secret)).unwrap();
    let part = |value: &serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let unsigned = |alg: &str| format!("{}.{}.", part(&json!({"alg": alg, "kid": "rsa"})), part(&claims("eve")));
    let good = ec.token("alice");
    let parts: Vec<&str> = good.split('.').collect();
    let own_key = Header { jwk: serde_json::from_value(forger.jwk()).ok(), ..header(Algorithm::RS256, "rsa") };
    let forged = [
        ("the public key as a secret", by_secret(rsa.public_pem.as_bytes(), "rsa")),
        ("a published secret", by_secret(secret, "oct")),
        ("no signature", unsigned("none")),
        ("no signature, spelt otherwise", unsigned("None")),
        ("an empty signature", unsigned("RS256")),
        ("a key of another kind", ec.token_as(Algorithm::ES256, "rsa", "eve")),
        ("another key", forger.token("eve")),
        ("another key of the same curve", ec_forger.token("eve")),
        ("an algorithm that the key isn't for", pinned.token_as(Algorithm::PS256, "pinned", "eve")),
        ("a key that isn't for signatures", sealing.token("eve")),
        ("a key that the token brings along", encode(&own_key, &claims("eve"), &forger.private).unwrap()),
        ("other claims", format!("{}.{}.{}", parts[0], part(&claims("eve")), parts[2])),
        ("another header", format!("{}.{}.{}", part(&json!({"alg": "RS256", "kid": "rsa"})), parts[1], parts[2])),
    ];
    for (what, token) in forged {
        assert_eq!(refusal(caller.call(&token).await), invalid(), "{what}");
    }
    let without_kid = encode(&Header::new(Algorithm::ES256), &claims("alice"), &ec.private).unwrap();
    caller.call(&without_kid).await.unwrap();
    let without_kid = encode(&Header::new(Algorithm::ES256), &claims("eve"), &ec_forger.private).unwrap();
    assert_eq!(refusal(caller.call(&without_kid).await), invalid());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_does_not_start_without_keys_and_says_which_setting_it_is() {
    let failing = Provider::start(&[]).await;
    failing.fail(StatusCode::NOT_FOUND);
    let moved = Provider::start(&[]).await;
    moved.fail(StatusCode::MOVED_PERMANENTLY);
    let (empty, other) = (Provider::start(&[]).await, Provider::start(&[]).await);
    other.publish_text("{}");
    let nobody = "http://127.0.0.1:1/keys".to_owned();
    let cases = [failing.url.clone(), moved.url.clone(), empty.url.clone(), other.url.clone(), nobody].map(|url| async move {
        let ground = Ground::new(On::Sqlite).await;
        let flags = ground.flags_without_secret();
        let error = TestServer::try_start(ground, &flags, &["--auth-jwks-url", &url]).await.err().expect("it started").to_string();
        assert!(error.starts_with("CHAT_AUTH_JWKS_URL") && error.contains(&url) && error.lines().count() == 1, "{error}");
    });
    within(join_all(cases)).await;
    assert_eq!(failing.fetches(), 4, "it tries a few times");
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_come_over_tls_from_an_authority_that_is_trusted_and_from_no_other() {
    let key = SigningKey::new("a", Algorithm::ES256);
    let (ground, other) = (Ground::new(On::Sqlite).await, Ground::new(On::Sqlite).await);
    let provider = Provider::start_tls(&[&key], &ground).await;
    let [ca, other_ca] = [&ground, &other].map(|ground| ground.path("certs/ca.pem").display().to_string());
    let flags = other.flags_without_secret();
    let args = ["--auth-jwks-url", provider.url.as_str(), "--auth-ca", other_ca.as_str()];
    let error = TestServer::try_start(other, &flags, &args).await.err().expect("it started").to_string();
    assert!(error.starts_with("CHAT_AUTH_JWKS_URL"), "{error}");
    assert_eq!(provider.fetches(), 0);

    let args = ["--auth-jwks-url", provider.url.as_str(), "--auth-ca", ca.as_str()];
    let server = TestServer::start_without_secret(ground, &args).await;
    Caller::of(&server).await.call(&key.token("alice")).await.unwrap();
}
