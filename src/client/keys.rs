//! Public keys that verify tokens, and which algorithm each is for: decided by the key, never by a token.

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, KeyOperations, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, DecodingKeyKind};
use serde::Deserialize;

/// Keys of a set that are used; the rest is left out.
const KEYS_MAX: usize = 100;
/// Keys that a token without a `kid` is tried with.
const TRIES_WITHOUT_KID_MAX: usize = 4;
/// An RSA key has at least 2,048 bits.
const RSA_BYTES_MIN: usize = 2048 / 8;
/// A P-256 point, uncompressed: a mark and two coordinates.
const P256_POINT_BYTES: usize = 1 + 32 + 32;
const ED25519_BYTES: usize = 32;

const RSA: &[Algorithm] = &[Algorithm::RS256, Algorithm::PS256];
const P256: &[Algorithm] = &[Algorithm::ES256];
const ED25519: &[Algorithm] = &[Algorithm::EdDSA];
const HMAC: &[Algorithm] = &[Algorithm::HS256];

#[derive(Debug, thiserror::Error)]
pub enum KeySetError {
    #[error("the document is no JSON Web Key Set: {0}")]
    NoSet(#[from] serde_json::Error),
    #[error("the set holds no public key for RS256, PS256, ES256 or EdDSA")]
    NoKeys,
}

/// A key, and what it may verify.
pub struct VerifyingKey {
    kid: Option<String>,
    key: DecodingKey,
    algorithms: &'static [Algorithm],
}

impl VerifyingKey {
    /// HS256.
    pub fn of_secret(secret: &[u8]) -> Self {
        Self { kid: None, key: DecodingKey::from_secret(secret), algorithms: HMAC }
    }

    /// RSA: RS256 and PS256; P-256: ES256; Ed25519: EdDSA. `None`: the PEM is no public key of these kinds.
    pub fn of_pem(pem: &[u8]) -> Option<Self> {
        let found = None
            .or_else(|| DecodingKey::from_rsa_pem(pem).ok().map(|key| (key, RSA)))
            .or_else(|| DecodingKey::from_ec_pem(pem).ok().map(|key| (key, P256)))
            .or_else(|| DecodingKey::from_ed_pem(pem).ok().map(|key| (key, ED25519)));
        let (key, algorithms) = found?;
        is_sound(&key, algorithms).then_some(Self { kid: None, key, algorithms })
    }

    /// `None`: the key is not for verifying signatures, or of a kind or for an algorithm that isn't taken. Symmetric keys aren't:
    /// what is published is no secret.
    fn of_jwk(jwk: &Jwk) -> Option<Self> {
        let common = &jwk.common;
        let signs = common.public_key_use.as_ref().is_none_or(|purpose| *purpose == PublicKeyUse::Signature);
        let verifies = common.key_operations.as_ref().is_none_or(|operations| operations.contains(&KeyOperations::Verify));
        let fitting = match &jwk.algorithm {
            AlgorithmParameters::RSA(_) => RSA,
            AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => P256,
            AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => ED25519,
            _ => return None,
        };
        let algorithms = match common.key_algorithm {
            None => fitting,
            Some(named) => {
                let at = fitting.iter().position(|algorithm| KeyAlgorithm::from(*algorithm) == named)?;
                &fitting[at..=at]
            }
        };
        let key = DecodingKey::from_jwk(jwk).ok()?;
        (signs && verifies && is_sound(&key, algorithms)).then(|| Self { kid: common.key_id.clone(), key, algorithms })
    }

    pub fn key(&self) -> &DecodingKey {
        &self.key
    }

    /// Whether this key is for that algorithm.
    pub fn is_for(&self, algorithm: Algorithm) -> bool {
        self.algorithms.contains(&algorithm)
    }
}

/// Whether the key's length is that of its kind: a P-384 key in a PEM would be taken for a P-256 one, and verify nothing.
fn is_sound(key: &DecodingKey, algorithms: &[Algorithm]) -> bool {
    let length = match key.kind() {
        DecodingKeyKind::SecretOrDer(bytes) => bytes.len(),
        DecodingKeyKind::RsaModulusExponent { n, .. } => n.iter().skip_while(|byte| **byte == 0).count(),
    };
    match algorithms.first() {
        Some(Algorithm::ES256) => length == P256_POINT_BYTES,
        Some(Algorithm::EdDSA) => length == ED25519_BYTES,
        // As DER a little longer than the modulus.
        _ => length >= RSA_BYTES_MIN,
    }
}

/// The keys of an identity provider.
pub struct KeySet {
    generation: u64,
    keys: Vec<VerifyingKey>,
}

#[derive(Deserialize)]
struct Document {
    keys: Vec<serde_json::Value>,
}

impl KeySet {
    /// Reads a JSON Web Key Set. A key that can't be read or isn't taken is left out; a set with none is an error.
    pub fn parse(document: &[u8], generation: u64) -> Result<Self, KeySetError> {
        let Document { keys } = serde_json::from_slice(document)?;
        let usable = keys.into_iter().filter_map(|key| VerifyingKey::of_jwk(&serde_json::from_value(key).ok()?));
        let keys: Vec<VerifyingKey> = usable.take(KEYS_MAX).collect();
        if keys.is_empty() { Err(KeySetError::NoKeys) } else { Ok(Self { generation, keys }) }
    }

    /// Another for each set of keys: what was verified with one says nothing once there is another.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    pub fn knows(&self, kid: &str) -> bool {
        self.keys.iter().any(|key| key.kid.as_deref() == Some(kid))
    }

    /// The keys that may have signed a token with this header: those of its `kid`, and where it names none, the first few for its
    /// algorithm.
    pub fn candidates<'k>(&'k self, kid: Option<&'k str>, algorithm: Algorithm) -> impl Iterator<Item = &'k VerifyingKey> {
        let fitting = self.keys.iter().filter(move |key| key.is_for(algorithm) && (kid.is_none() || key.kid.as_deref() == kid));
        fitting.take(TRIES_WITHOUT_KID_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// A point of P-256: the curve's own generator.
    const X: &str = "axfR8uEsQkf4vOblY6RA8ncDfYEt6zOg9KE5RdiYwpY";
    const Y: &str = "T-NC4v4af5uO5-tKfA-eFivOM1drMV7Oy7ZAaDe_UfU";

    fn fitting(key: serde_json::Value) -> Vec<Algorithm> {
        let set = json!({ "keys": [key] }).to_string();
        KeySet::parse(set.as_bytes(), 1).map_or_else(|_| Vec::new(), |set| set.keys[0].algorithms.to_vec())
    }

    #[test]
    fn the_key_decides_what_it_verifies() {
        let rsa = "AQ".to_owned() + &"A".repeat(342);
        assert_eq!(fitting(json!({"kty": "RSA", "n": rsa, "e": "AQAB"})), [Algorithm::RS256, Algorithm::PS256]);
        assert_eq!(fitting(json!({"kty": "RSA", "n": rsa, "e": "AQAB", "alg": "PS256", "use": "sig"})), [Algorithm::PS256]);
        assert_eq!(fitting(json!({"kty": "EC", "crv": "P-256", "x": X, "y": Y, "key_ops": ["verify"]})), [Algorithm::ES256]);
        assert_eq!(fitting(json!({"kty": "OKP", "crv": "Ed25519", "x": X})), [Algorithm::EdDSA]);
    }

    #[test]
    fn keys_that_are_not_for_verifying_signatures_are_left_out() {
        let rsa = "AQ".to_owned() + &"A".repeat(342);
        for key in [
            json!({"kty": "oct", "k": X, "alg": "HS256"}),
            json!({"kty": "EC", "crv": "P-256", "x": X, "y": Y, "use": "enc"}),
            json!({"kty": "EC", "crv": "P-256", "x": X, "y": Y, "key_ops": ["deriveKey"]}),
            json!({"kty": "EC", "crv": "P-256", "x": X, "y": Y, "alg": "HS256"}),
            json!({"kty": "EC", "crv": "P-256", "x": X, "y": Y, "alg": "ES384"}),
            json!({"kty": "EC", "crv": "P-384", "x": X, "y": Y}),
            json!({"kty": "EC", "crv": "P-256", "x": X, "y": "AA"}),
            json!({"kty": "OKP", "crv": "X25519", "x": X}),
            json!({"kty": "RSA", "n": "AQAB", "e": "AQAB"}),
            json!({"kty": "RSA", "n": rsa, "e": "AQAB", "alg": "RSA-OAEP"}),
            json!({"kty": "unheard-of"}),
            json!(7),
        ] {
            assert!(fitting(key.clone()).is_empty(), "{key}");
        }
    }

    #[test]
    fn one_bad_key_does_not_spoil_the_set() {
        let good = json!({"kty": "EC", "crv": "P-256", "x": X, "y": Y, "kid": "good"});
        let set = json!({ "keys": [{"kty": "RSA", "use": 7}, good] }).to_string();
        assert!(KeySet::parse(set.as_bytes(), 1).unwrap().knows("good"));
        assert!(matches!(KeySet::parse(b"{\"keys\": []}", 1), Err(KeySetError::NoKeys)));
        assert!(matches!(KeySet::parse(b"<html>", 1), Err(KeySetError::NoSet(_))));
    }
}
