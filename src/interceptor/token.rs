//! Verifies tokens: signed by the configured key with an algorithm of that key's kind, not expired, for this service.

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde::Deserialize;

use crate::converter::status::Refused;
use crate::model::{Identity, SystemRole, Timestamp, UserId, limits};

/// Bytes of the longest token that is looked at.
const TOKEN_BYTES_MAX: usize = 16 * 1024;

/// The key that tokens are signed with.
pub enum Key {
    /// HS256: the secret's bytes.
    Secret(Vec<u8>),
    /// RS256, ES256 or EdDSA: a public key as PEM; the key's kind decides the algorithm.
    PublicPem(Vec<u8>),
}

/// What else a token must say.
#[derive(Clone, Debug, Default)]
pub struct Demands {
    pub issuer: Option<String>,
    pub audience: Option<String>,
    /// How far clocks may differ, in seconds.
    pub leeway_secs: u64,
}

pub struct Verifier {
    key: DecodingKey,
    validation: Validation,
}

#[derive(Deserialize)]
struct Claims {
    sub: String,
    exp: f64,
    #[serde(default)]
    roles: Vec<String>,
}

impl Verifier {
    /// `None`: the PEM is no public key of a kind that is known.
    pub fn new(key: &Key, demands: &Demands) -> Option<Self> {
        let (key, algorithm) = match key {
            Key::Secret(secret) => (DecodingKey::from_secret(secret), Algorithm::HS256),
            Key::PublicPem(pem) => None
                .or_else(|| DecodingKey::from_rsa_pem(pem).ok().map(|key| (key, Algorithm::RS256)))
                .or_else(|| DecodingKey::from_ec_pem(pem).ok().map(|key| (key, Algorithm::ES256)))
                .or_else(|| DecodingKey::from_ed_pem(pem).ok().map(|key| (key, Algorithm::EdDSA)))?,
        };
        // One algorithm: a token can't choose how it is checked.
        let mut validation = Validation::new(algorithm);
        validation.leeway = demands.leeway_secs;
        validation.validate_nbf = true;
        let mut required = vec!["sub", "exp"];
        match &demands.issuer {
            Some(issuer) => {
                validation.set_issuer(&[issuer]);
                required.push("iss");
            }
            None => validation.iss = None,
        }
        match &demands.audience {
            Some(audience) => {
                validation.set_audience(&[audience]);
                required.push("aud");
            }
            None => validation.validate_aud = false,
        }
        validation.set_required_spec_claims(&required);
        Some(Self { key, validation })
    }

    /// Who the token's bearer is.
    pub fn verify(&self, token: &str) -> Result<Identity, Refused> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(Refused::TokenInvalid);
        }
        let claims = jsonwebtoken::decode::<Claims>(token, &self.key, &self.validation).map_err(|error| match error.kind() {
            ErrorKind::ExpiredSignature => Refused::TokenExpired,
            _ => Refused::TokenInvalid,
        })?;
        let Claims { sub, exp, roles } = claims.claims;
        let length = sub.chars().take(limits::USER_ID_CHARS_MAX + 1).count();
        if length == 0 || length > limits::USER_ID_CHARS_MAX || sub.contains('\0') || !exp.is_finite() {
            return Err(Refused::TokenInvalid);
        }
        let expires_at = Timestamp::from_secs((exp as i64).saturating_add(self.validation.leeway as i64));
        Ok(Identity { user_id: UserId::new(sub), role: SystemRole::from_claims(roles.iter().map(String::as_str)), expires_at })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jsonwebtoken::{EncodingKey, Header, encode};
    use serde_json::json;

    const SECRET: &[u8] = b"a secret of the tests, long enough";

    fn verifier(demands: &Demands) -> Verifier {
        Verifier::new(&Key::Secret(SECRET.to_vec()), demands).unwrap()
    }

    fn now() -> i64 {
        chrono::Utc::now().timestamp()
    }

    fn token(algorithm: Algorithm, secret: &[u8], claims: &serde_json::Value) -> String {
        encode(&Header::new(algorithm), claims, &EncodingKey::from_secret(secret)).unwrap()
    }

    #[test]
    fn a_valid_token_gives_its_bearer() {
        let exp = now() + 60;
        let token = token(Algorithm::HS256, SECRET, &json!({"sub": "alice", "exp": exp, "roles": ["admin"]}));
        let identity = verifier(&Demands { leeway_secs: 5, ..Demands::default() }).verify(&token).unwrap();
        assert_eq!((identity.user_id.as_str(), identity.role), ("alice", SystemRole::Admin));
        assert_eq!(identity.expires_at, Timestamp::from_secs(exp + 5));
    }

    #[test]
    fn tokens_of_other_secrets_algorithms_and_times_are_refused() {
        let verifier = verifier(&Demands::default());
        let claims = json!({"sub": "alice", "exp": now() + 60});
        assert_eq!(verifier.verify(&token(Algorithm::HS256, b"another", &claims)), Err(Refused::TokenInvalid));
        assert_eq!(verifier.verify(&token(Algorithm::HS384, SECRET, &claims)), Err(Refused::TokenInvalid));
        assert_eq!(verifier.verify("eyJhbGciOiJub25lIn0.eyJzdWIiOiJhbGljZSIsImV4cCI6OTk5OTk5OTk5OX0."), Err(Refused::TokenInvalid));
        let expired = json!({"sub": "alice", "exp": now() - 60});
        assert_eq!(verifier.verify(&token(Algorithm::HS256, SECRET, &expired)), Err(Refused::TokenExpired));
        for broken in [
            json!({"exp": now() + 60}),
            json!({"sub": "alice"}),
            json!({"sub": "", "exp": now() + 60}),
            json!({"sub": "a\0", "exp": now() + 60}),
            json!({"sub": "x".repeat(129), "exp": now() + 60}),
            json!({"sub": "alice", "exp": now() + 60, "nbf": now() + 30}),
        ] {
            assert_eq!(verifier.verify(&token(Algorithm::HS256, SECRET, &broken)), Err(Refused::TokenInvalid), "{broken}");
        }
    }

    #[test]
    fn issuer_and_audience_are_demanded_where_configured() {
        let demands = Demands { issuer: Some("me".into()), audience: Some("chat".into()), leeway_secs: 0 };
        let verifier = verifier(&demands);
        let exp = now() + 60;
        let check = |claims| verifier.verify(&token(Algorithm::HS256, SECRET, &claims)).is_ok();
        assert!(check(json!({"sub": "a", "exp": exp, "iss": "me", "aud": "chat"})));
        assert!(!check(json!({"sub": "a", "exp": exp})));
        assert!(!check(json!({"sub": "a", "exp": exp, "iss": "me"})));
        assert!(!check(json!({"sub": "a", "exp": exp, "iss": "you", "aud": "chat"})));
    }

    #[test]
    fn public_keys_verify_their_own_algorithm_and_are_no_secrets() {
        let rsa = rcgen::KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048).unwrap();
        let ec = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let ed = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        type FromPem = fn(&[u8]) -> jsonwebtoken::errors::Result<EncodingKey>;
        let kinds: [(rcgen::KeyPair, Algorithm, FromPem); 3] = [
            (rsa, Algorithm::RS256, EncodingKey::from_rsa_pem),
            (ec, Algorithm::ES256, EncodingKey::from_ec_pem),
            (ed, Algorithm::EdDSA, EncodingKey::from_ed_pem),
        ];
        let claims = json!({"sub": "alice", "exp": now() + 60});
        let verifiers = kinds.each_ref().map(|(pair, ..)| {
            let pem = pair.public_key_pem();
            (Verifier::new(&Key::PublicPem(pem.clone().into_bytes()), &Demands::default()).unwrap(), pem)
        });
        for (at, (pair, algorithm, from_pem)) in kinds.iter().enumerate() {
            let token = encode(&Header::new(*algorithm), &claims, &from_pem(pair.serialize_pem().as_bytes()).unwrap()).unwrap();
            for (other, (verifier, _)) in verifiers.iter().enumerate() {
                assert_eq!(verifier.verify(&token).is_ok(), at == other, "{algorithm:?}");
            }
        }
        for (verifier, pem) in &verifiers {
            // The public key, known to everyone, used as an HMAC secret.
            assert_eq!(verifier.verify(&token(Algorithm::HS256, pem.as_bytes(), &claims)), Err(Refused::TokenInvalid));
        }
        assert!(Verifier::new(&Key::PublicPem(b"no key".to_vec()), &Demands::default()).is_none());
    }
}
