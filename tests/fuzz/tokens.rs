//! Tokens and page tokens.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chat_service::converter::status::Refused;
use chat_service::converter::{page_token, parse_page_token};
use chat_service::interceptor::token::{Check, Demands, Key, Verifier};
use chat_service::model::{Identity, SystemRole, Timestamp};
use jsonwebtoken::{Algorithm, EncodingKey, Header, crypto, encode};
use proptest::collection::vec;
use proptest::prelude::{Just, Strategy, any};
use proptest::prop_oneof;
use proptest::sample::{Index, select};
use serde_json::{Value, json};

use crate::check::{Checked, ensure, equal, property};

const SECRET: &[u8] = b"a secret of the tests, long enough for HS256";
/// Seconds that the test itself may take between two looks at the clock.
const SLOW_SECS: f64 = 60.0;

fn verify(leeway_secs: u64, token: &str) -> Result<Identity, Refused> {
    let verifier = Verifier::new(&Key::Secret(SECRET.to_vec()), &Demands { leeway_secs, ..Demands::default() }).unwrap();
    match Arc::new(verifier).check(token, "") {
        Check::Done(checked) => checked,
        Check::Wait(_) => panic!("a key of one's own asks nobody"),
    }
}

fn now() -> i64 {
    chrono::Utc::now().timestamp()
}

fn signed(claims: &Value) -> String {
    encode(&Header::new(Algorithm::HS256), claims, &EncodingKey::from_secret(SECRET)).unwrap()
}

fn good() -> String {
    signed(&json!({"sub": "alice", "exp": now() + 3_600, "roles": ["user"]}))
}

/// A forged token is refused, and as such: that it had expired would tell that its signature is right.
fn is_refused(token: &str) -> Checked {
    equal(&verify(0, token).map(|identity| identity.user_id), &Err(Refused::TokenInvalid), token)
}

#[test]
fn strings_are_no_tokens() {
    let part = "[A-Za-z0-9_-]{0,80}";
    let three = (part, part, part).prop_map(|(header, claims, signature)| format!("{header}.{claims}.{signature}"));
    let real_header = URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256"}"#);
    let headed = (Just(real_header), part, part).prop_map(|(header, claims, signature)| format!("{header}.{claims}.{signature}"));
    property(256, &prop_oneof![any::<String>(), three, headed], |token| is_refused(&token));
}

#[test]
fn a_token_with_one_byte_changed_added_or_cut_off_is_refused() {
    let token = good();
    equal(&verify(0, &token).is_ok(), &true, "the token as it was").unwrap();
    property(512, &(any::<Index>(), 0_u8..128, 0_u8..4), |(at, byte, kind)| {
        let mut bytes = token.clone().into_bytes();
        let at = at.index(bytes.len());
        match kind {
            0 => bytes.truncate(at),
            1 => bytes.insert(at, byte),
            2 => {
                bytes.remove(at);
            }
            _ => bytes[at] = byte,
        }
        // ASCII stays text.
        let forged = String::from_utf8_lossy(&bytes).into_owned();
        if forged == token { Ok(()) } else { is_refused(&forged) }
    });
}

#[test]
fn a_token_can_not_choose_how_it_is_checked() {
    let algorithms = select(vec!["none", "None", "NONE", "", "HS384", "HS512", "RS256", "PS256", "ES256", "EdDSA", "hs256"]);
    let signatures = select(vec![None, Some(Algorithm::HS256), Some(Algorithm::HS384), Some(Algorithm::HS512)]);
    property(128, &(algorithms, signatures, any::<bool>()), |(algorithm, signature, old)| {
        let token = good();
        let parts: Vec<&str> = token.split('.').collect();
        let header = URL_SAFE_NO_PAD.encode(json!({"typ": "JWT", "alg": algorithm}).to_string());
        let text = format!("{header}.{}", parts[1]);
        let key = EncodingKey::from_secret(SECRET);
        let signature = match signature {
            _ if old => parts[2].to_owned(),
            None => String::new(),
            Some(by) => crypto::sign(text.as_bytes(), &key, by).unwrap(),
        };
        is_refused(&format!("{text}.{signature}"))
    });
}

/// Values of claims: right ones, and such as nobody should sign.
fn claims() -> impl Strategy<Value = Value> {
    let others = vec![json!(null), json!(0), json!(-1), json!(true), json!([]), json!({}), json!("x"), json!(1e300), json!(-1e300)];
    let other = || select(others.clone());
    let subs = vec![json!("alice"), json!(""), json!("a\u{0}b"), json!("語".repeat(128)), json!("語".repeat(129))];
    let times = [-10_000_000_000, -3_601, -3_599, -60, -1, 60, 3_600, 10_000_000_000].map(|offset: i64| json!(now() + offset)).to_vec();
    let names = select(vec![json!("admin"), json!("service"), json!("user"), json!("reader"), json!("king"), json!("")]);
    let sub = prop_oneof![6 => select(subs), 1 => any::<String>().prop_map(Value::from), 1 => other()];
    let exp = prop_oneof![6 => select(times.clone()), 1 => any::<f64>().prop_map(|secs| json!(secs)), 1 => other()];
    let nbf = prop_oneof![6 => Just(json!(null)), 2 => select(times), 1 => other()];
    let roles = prop_oneof![6 => vec(names, 0..4).prop_map(Value::from), 1 => other()];
    (sub, exp, nbf, roles, 0_u8..16).prop_map(|(sub, exp, nbf, roles, missing)| {
        let mut claims = json!({"sub": sub, "exp": exp, "nbf": nbf, "roles": roles});
        if let Some(claims) = claims.as_object_mut() {
            claims.retain(|name, value| match name.as_str() {
                "sub" => missing & 7 != 1,
                "exp" => missing & 7 != 2,
                "nbf" => !value.is_null(),
                _ => missing & 8 == 0,
            });
        }
        claims
    })
}

fn expected_role(claims: &Value) -> SystemRole {
    let named = |name: &str| claims["roles"].as_array().is_some_and(|roles| roles.iter().any(|role| role == name));
    if named("admin") {
        SystemRole::Admin
    } else if named("service") {
        SystemRole::Service
    } else if named("reader") && !named("user") {
        SystemRole::Reader
    } else {
        SystemRole::User
    }
}

#[test]
fn whoever_a_token_is_accepted_for_may_be_a_user_and_its_time_is_not_over() {
    property(512, &(claims(), 0_u64..=3_600), |(claims, leeway)| {
        let Ok(identity) = verify(leeway, &signed(&claims)) else { return Ok(()) };
        let sub = claims["sub"].as_str().ok_or("accepted without a sub")?;
        let exp = claims["exp"].as_f64().ok_or("accepted without an exp")?;
        let chars = sub.chars().count();
        ensure((1..=128).contains(&chars) && !sub.contains('\0'), || format!("accepted the sub {sub:?}"))?;
        ensure(exp + leeway as f64 + SLOW_SECS > now() as f64, || format!("accepted the exp {exp}"))?;
        ensure(claims["nbf"].as_f64().is_none_or(|nbf| nbf < now() as f64 + leeway as f64 + 1.0), || "accepted before its nbf".into())?;
        equal(&identity.user_id.as_str(), &sub, "the user")?;
        equal(&identity.role, &expected_role(&claims), "the role")?;
        let ends_at = (exp as i64).saturating_add(leeway as i64);
        equal(&identity.expires_at, &Timestamp::from_secs(ends_at), "the end")
    });
}

#[test]
fn good_claims_are_accepted() {
    property(64, &("[^\\x00]{1,128}", 61_i64..1_000_000), |(sub, ttl)| {
        let found = verify(0, &signed(&json!({"sub": sub, "exp": now() + ttl})));
        equal(&found.map(|identity| identity.user_id.as_str().to_owned()), &Ok(sub), "the user")
    });
}

#[test]
fn page_tokens_that_are_read_are_those_that_were_given_out() {
    let strange = prop_oneof![any::<String>(), "[0-9a-fA-F]{30,34}", "[0-9a-f-]{32}", "[0-9a-f]{29}語"];
    property(512, &prop_oneof![4 => "[0-9a-f]{32}", 4 => strange], |token| match parse_page_token(&token) {
        Some(chat_id) => {
            equal(&page_token(chat_id), &token.to_lowercase(), "the token of what was read")?;
            equal(&parse_page_token(&page_token(chat_id)), &Some(chat_id), "what is read again")
        }
        None => {
            let looks_like_one = token.len() == 32 && token.bytes().all(|byte| byte.is_ascii_hexdigit());
            ensure(!looks_like_one, || format!("{token} was refused"))
        }
    });
}
