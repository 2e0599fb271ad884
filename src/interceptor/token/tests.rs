use super::*;
use crate::model::SystemRole;
use jsonwebtoken::{EncodingKey, Header, encode};
use serde_json::json;

const SECRET: &[u8] = b"a secret of the tests, long enough";

fn verifier(demands: &Demands) -> Arc<Verifier> {
    Arc::new(Verifier::new(&Key::Secret(SECRET.to_vec()), demands).unwrap())
}

fn by_pem(pem: &str) -> Option<Arc<Verifier>> {
    Verifier::new(&Key::PublicPem(pem.as_bytes().to_vec()), &Demands::default()).map(Arc::new)
}

fn verify(verifier: &Arc<Verifier>, token: &str) -> Result<Identity, Refused> {
    match verifier.check(token, "/chat.v1.ChatService/ListChats") {
        Check::Done(result) => result,
        Check::Wait(_) => panic!("a key of one's own needs nobody's answer"),
    }
}

fn now() -> i64 {
    chrono::Utc::now().timestamp()
}

fn token(algorithm: Algorithm, secret: &[u8], claims: &serde_json::Value) -> String {
    encode(&Header::new(algorithm), claims, &EncodingKey::from_secret(secret)).unwrap()
}

#[test]
fn a_valid_token_gives_its_bearer_each_time() {
    let exp = now() + 60;
    let token = token(Algorithm::HS256, SECRET, &json!({"sub": "alice", "exp": exp, "roles": ["admin"]}));
    let verifier = verifier(&Demands { leeway_secs: 5, ..Demands::default() });
    for _ in 0..3 {
        let identity = verify(&verifier, &token).unwrap();
        assert_eq!((identity.user_id.as_str(), identity.role), ("alice", SystemRole::Admin));
        assert_eq!(identity.expires_at, Timestamp::from_secs(exp + 5));
    }
}

#[test]
fn tokens_of_other_secrets_algorithms_and_times_are_refused() {
    let verifier = verifier(&Demands::default());
    let claims = json!({"sub": "alice", "exp": now() + 60});
    assert_eq!(verify(&verifier, &token(Algorithm::HS256, b"another", &claims)), Err(Refused::TokenInvalid));
    assert_eq!(verify(&verifier, &token(Algorithm::HS384, SECRET, &claims)), Err(Refused::TokenInvalid));
    assert_eq!(
        verify(&verifier, "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhbGljZSIsImV4cCI6OTk5OTk5OTk5OX0."),
        Err(Refused::TokenInvalid),
        "alg none"
    );
    assert_eq!(verify(&verifier, &"x".repeat(TOKEN_BYTES_MAX + 1)), Err(Refused::TokenInvalid));
    for past in [now() - 60, now()] {
        let expired = json!({"sub": "alice", "exp": past});
        assert_eq!(verify(&verifier, &token(Algorithm::HS256, SECRET, &expired)), Err(Refused::TokenExpired));
    }
    for broken in [
        json!({"exp": now() + 60}),
        json!({"sub": "alice"}),
        json!({"sub": "alice", "exp": "soon"}),
        json!({"sub": "", "exp": now() + 60}),
        json!({"sub": 7, "exp": now() + 60}),
        json!({"sub": "a\0", "exp": now() + 60}),
        json!({"sub": "x".repeat(129), "exp": now() + 60}),
        json!({"sub": "alice", "exp": now() + 60, "nbf": now() + 30}),
        json!({"sub": "alice", "exp": now() + 60, "roles": 7}),
    ] {
        assert_eq!(verify(&verifier, &token(Algorithm::HS256, SECRET, &broken)), Err(Refused::TokenInvalid), "{broken}");
    }
    let critical = Header { crit: Some(vec!["b64".into()]), ..Header::new(Algorithm::HS256) };
    let critical = encode(&critical, &claims, &EncodingKey::from_secret(SECRET)).unwrap();
    assert_eq!(verify(&verifier, &critical), Err(Refused::TokenInvalid), "what is critical and not understood");
}

#[test]
fn a_time_may_have_a_fraction_and_leeway_counts_on_both_ends() {
    let verifier = verifier(&Demands { leeway_secs: 30, ..Demands::default() });
    let exp = now() - 10;
    let token = |claims| token(Algorithm::HS256, SECRET, &claims);
    let identity = verify(&verifier, &token(json!({"sub": "a", "exp": exp as f64 + 0.5, "nbf": now() + 20}))).unwrap();
    assert_eq!(identity.expires_at, Timestamp::from_secs(exp + 30));
    assert_eq!(verify(&verifier, &token(json!({"sub": "a", "exp": now() - 31}))), Err(Refused::TokenExpired));
    assert_eq!(verify(&verifier, &token(json!({"sub": "a", "exp": now() + 60, "nbf": now() + 60}))), Err(Refused::TokenInvalid));
}

#[test]
fn issuer_and_audience_are_demanded_where_configured() {
    let demands = Demands { issuer: Some("me".into()), audience: Some("chat".into()), ..Demands::default() };
    let verifier = verifier(&demands);
    let exp = now() + 60;
    let check = |claims| verify(&verifier, &token(Algorithm::HS256, SECRET, &claims)).is_ok();
    assert!(check(json!({"sub": "a", "exp": exp, "iss": "me", "aud": "chat"})));
    assert!(check(json!({"sub": "a", "exp": exp, "iss": "me", "aud": ["mail", "chat"]})));
    assert!(!check(json!({"sub": "a", "exp": exp})));
    assert!(!check(json!({"sub": "a", "exp": exp, "iss": "me"})));
    assert!(!check(json!({"sub": "a", "exp": exp, "iss": "me", "aud": ["mail"]})));
    assert!(!check(json!({"sub": "a", "exp": exp, "iss": "you", "aud": "chat"})));
    assert!(!check(json!({"sub": "a", "exp": exp, "iss": 7, "aud": "chat"})));
}

#[test]
fn public_keys_verify_their_own_algorithms_and_are_no_secrets() {
    let rsa = rcgen::KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048).unwrap();
    let ec = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let ed = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    type FromPem = fn(&[u8]) -> jsonwebtoken::errors::Result<EncodingKey>;
    let kinds: [(&rcgen::KeyPair, Algorithm, FromPem); 4] = [
        (&rsa, Algorithm::RS256, EncodingKey::from_rsa_pem),
        (&rsa, Algorithm::PS256, EncodingKey::from_rsa_pem),
        (&ec, Algorithm::ES256, EncodingKey::from_ec_pem),
        (&ed, Algorithm::EdDSA, EncodingKey::from_ed_pem),
    ];
    let claims = json!({"sub": "alice", "exp": now() + 60});
    let verifiers = [&rsa, &ec, &ed].map(|pair| (by_pem(&pair.public_key_pem()).unwrap(), pair.public_key_pem()));
    for (pair, algorithm, from_pem) in kinds {
        let token = encode(&Header::new(algorithm), &claims, &from_pem(pair.serialize_pem().as_bytes()).unwrap()).unwrap();
        for (verifier, pem) in &verifiers {
            assert_eq!(verify(verifier, &token).is_ok(), *pem == pair.public_key_pem(), "{algorithm:?}");
        }
    }
    let rs512 = encode(&Header::new(Algorithm::RS512), &claims, &EncodingKey::from_rsa_pem(rsa.serialize_pem().as_bytes()).unwrap());
    assert_eq!(verify(&verifiers[0].0, &rs512.unwrap()), Err(Refused::TokenInvalid), "an algorithm that isn't taken");
    for (verifier, pem) in &verifiers {
        // The public key, known to everyone, used as an HMAC secret.
        assert_eq!(verify(verifier, &token(Algorithm::HS256, pem.as_bytes(), &claims)), Err(Refused::TokenInvalid));
    }
    assert!(by_pem("no key").is_none());
    let p384 = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    assert!(by_pem(&p384.public_key_pem()).is_none(), "a curve that isn't taken");
}
