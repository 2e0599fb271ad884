//! Verifies tokens: by a key of one's own, by the keys of an identity provider, or by asking the Auth Service.
//!
//! - [`claims`]: what a token must say, and what it says of its bearer.
//! - [`cache`]: what was verified lately.

mod cache;
mod claims;

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use jsonwebtoken::{Algorithm, decode_header};

pub use claims::Demands;

use crate::client::access::{AccessClient, AccessError};
use crate::client::jwks::{Awaited, Jwks};
use crate::client::keys::{KeySet, VerifyingKey};
use crate::converter::status::Refused;
use crate::model::{Clock, Identity, SystemClock, Timestamp};
use cache::{Cache, Fingerprint, fingerprint};
use claims::Rules;

/// Bytes of the longest token that is looked at.
const TOKEN_BYTES_MAX: usize = 16 * 1024;
/// How long an answer of the Auth Service is used: what it takes away is gone within this.
const ANSWER_KEPT_MAX: Duration = Duration::from_secs(60);
/// Keys of one's own don't change.
const OWN_GENERATION: u64 = 0;

/// The key that tokens are signed with.
pub enum Key {
    /// HS256: the secret's bytes.
    Secret(Vec<u8>),
    /// A public key as PEM, whose kind decides the algorithm: RSA for RS256 and PS256, P-256 for ES256, Ed25519 for EdDSA.
    PublicPem(Vec<u8>),
}

/// Whose word counts.
enum Authority {
    Key(VerifyingKey),
    KeySet(Jwks),
    Service(Box<AccessClient>),
}

pub struct Verifier {
    authority: Authority,
    /// The Auth Service has its own.
    rules: Rules,
    cache: Cache,
    clock: Arc<dyn Clock>,
}

/// A verification: done, or one that waits for somebody else's answer.
pub enum Check {
    Done(Result<Identity, Refused>),
    Wait(Pin<Box<dyn Future<Output = Result<Identity, Refused>> + Send>>),
}

impl Check {
    /// What comes of it.
    pub async fn settled(self) -> Result<Identity, Refused> {
        match self {
            Self::Done(result) => result,
            Self::Wait(check) => check.await,
        }
    }
}

impl Verifier {
    /// By a key of one's own. `None`: the PEM is no public key of a kind that is known.
    pub fn new(key: &Key, demands: &Demands) -> Option<Self> {
        let key = match key {
            Key::Secret(secret) => VerifyingKey::of_secret(secret),
            Key::PublicPem(pem) => VerifyingKey::of_pem(pem)?,
        };
        Some(Self::of(Authority::Key(key), demands))
    }

    /// By the keys of an identity provider.
    pub fn by_key_set(keys: Jwks, demands: &Demands) -> Self {
        Self::of(Authority::KeySet(keys), demands)
    }

    /// By asking the Auth Service, which makes its own demands.
    pub fn by_service(service: AccessClient) -> Self {
        Self::of(Authority::Service(Box::new(service)), &Demands::default())
    }

    fn of(authority: Authority, demands: &Demands) -> Self {
        Self { authority, rules: Rules::new(demands), cache: Cache::default(), clock: Arc::new(SystemClock) }
    }

    /// Who the token's bearer is, and whether it may call `endpoint`, a gRPC path. At once where that is known or can be computed.
    pub fn check(self: &Arc<Self>, token: &str, endpoint: &str) -> Check {
        if token.len() > TOKEN_BYTES_MAX {
            return Check::Done(Err(Refused::TokenInvalid));
        }
        match &self.authority {
            Authority::Key(key) => Check::Done(self.by_own_key(token, key)),
            Authority::KeySet(keys) => self.by_keys(token, keys),
            Authority::Service(_) => self.by_answer(token, endpoint),
        }
    }

    fn by_own_key(&self, token: &str, key: &VerifyingKey) -> Result<Identity, Refused> {
        let (fingerprint, now) = (fingerprint(token, ""), self.clock.now());
        if let Some(identity) = self.cache.get(&fingerprint, OWN_GENERATION, now) {
            return Ok(identity);
        }
        let header = decode_header(token).map_err(|_| Refused::TokenInvalid)?;
        let identity = self.rules.verify(token, &header, std::iter::once(key), now)?;
        self.remember(fingerprint, &identity, OWN_GENERATION, identity.expires_at);
        Ok(identity)
    }

    fn by_keys(self: &Arc<Self>, token: &str, keys: &Jwks) -> Check {
        let Some(set) = keys.current() else { return Check::Done(Err(Refused::AuthUnavailable)) };
        match self.by_set(token, &set) {
            Verdict::Done(result) => Check::Done(result),
            Verdict::UnknownKey(kid) => {
                let (verifier, token) = (Arc::clone(self), token.to_owned());
                Check::Wait(Box::pin(async move { verifier.by_new_key(&token, &kid).await }))
            }
        }
    }

    fn by_set(&self, token: &str, set: &KeySet) -> Verdict {
        let (fingerprint, now, generation) = (fingerprint(token, ""), self.clock.now(), set.generation());
        if let Some(identity) = self.cache.get(&fingerprint, generation, now) {
            return Verdict::Done(Ok(identity));
        }
        let Ok(header) = decode_header(token) else { return Verdict::Done(Err(Refused::TokenInvalid)) };
        let kid = header.kid.as_deref();
        if let Some(kid) = kid
            && !set.knows(kid)
            && is_asymmetric(header.alg)
        {
            return Verdict::UnknownKey(kid.to_owned());
        }
        let result = self.rules.verify(token, &header, set.candidates(kid, header.alg), now);
        if let Ok(identity) = &result {
            self.remember(fingerprint, identity, generation, identity.expires_at);
        }
        Verdict::Done(result)
    }

    /// A token that names a key which isn't known: it may have been made since the last fetch.
    async fn by_new_key(&self, token: &str, kid: &str) -> Result<Identity, Refused> {
        let Authority::KeySet(keys) = &self.authority else { return Err(Refused::TokenInvalid) };
        match keys.await_key(kid).await {
            Awaited::Known(set) => match self.by_set(token, &set) {
                Verdict::Done(result) => result,
                Verdict::UnknownKey(_) => Err(Refused::TokenInvalid),
            },
            Awaited::Unknown => Err(Refused::TokenInvalid),
            Awaited::Unavailable => Err(Refused::AuthUnavailable),
        }
    }

    fn by_answer(self: &Arc<Self>, token: &str, endpoint: &str) -> Check {
        let (fingerprint, now) = (fingerprint(token, endpoint), self.clock.now());
        if let Some(identity) = self.cache.get(&fingerprint, OWN_GENERATION, now) {
            return Check::Done(Ok(identity));
        }
        let (verifier, token, endpoint) = (Arc::clone(self), token.to_owned(), endpoint.to_owned());
        Check::Wait(Box::pin(async move {
            let Authority::Service(service) = &verifier.authority else { return Err(Refused::TokenInvalid) };
            let identity = service.check(&token, &endpoint).await.map_err(|error| match error {
                AccessError::Unauthenticated => Refused::TokenInvalid,
                AccessError::Denied => Refused::AccessDenied,
                AccessError::Overloaded => Refused::AuthOverloaded,
                AccessError::Unavailable => Refused::AuthUnavailable,
            })?;
            // From before it was asked: the answer may have been on its way for long.
            let until = identity.expires_at.min(now.saturating_add(ANSWER_KEPT_MAX));
            verifier.remember(fingerprint, &identity, OWN_GENERATION, until);
            Ok(identity)
        }))
    }

    fn remember(&self, fingerprint: Fingerprint, identity: &Identity, generation: u64, until: Timestamp) {
        self.cache.put(fingerprint, identity.clone(), generation, until);
    }
}

/// What a key set says of a token.
enum Verdict {
    Done(Result<Identity, Refused>),
    /// It names a key that isn't in the set.
    UnknownKey(String),
}

/// Whether a key set can have a key for it: for other tokens nothing need be fetched.
fn is_asymmetric(algorithm: Algorithm) -> bool {
    matches!(algorithm, Algorithm::RS256 | Algorithm::PS256 | Algorithm::ES256 | Algorithm::EdDSA)
}

#[cfg(test)]
mod tests;
