//! What a token must say, and what it says of its bearer.

use jsonwebtoken::errors::{Error, ErrorKind};
use jsonwebtoken::{Algorithm, Header, Validation};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::client::keys::VerifyingKey;
use crate::converter::status::Refused;
use crate::model::{Identity, SystemRole, Timestamp, UserId};

/// What tokens must say beside `sub` and `exp`, and where their roles stand.
#[derive(Clone, Debug)]
pub struct Demands {
    pub issuer: Option<String>,
    pub audience: Option<String>,
    /// How far clocks may differ, in seconds.
    pub leeway_secs: u64,
    /// The claim that holds the roles: its name, or a path to it, as in `realm_access.roles`.
    pub roles_claim: String,
}

impl Default for Demands {
    fn default() -> Self {
        Self { issuer: None, audience: None, leeway_secs: 0, roles_claim: "roles".into() }
    }
}

/// The demands, ready to be checked.
pub struct Rules {
    /// Without the algorithm, which is the key's.
    validation: Validation,
    roles_claim: String,
}

#[derive(Deserialize)]
struct Claims {
    sub: String,
    exp: f64,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

impl Rules {
    pub fn new(demands: &Demands) -> Self {
        let mut validation = Validation::new(Algorithm::HS256);
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
        Self { validation, roles_claim: demands.roles_claim.clone() }
    }

    /// Who the bearer of a token is that one of these keys has signed, at `now`.
    pub fn verify<'k>(
        &self,
        token: &str,
        header: &Header,
        keys: impl Iterator<Item = &'k VerifyingKey>,
        now: Timestamp,
    ) -> Result<Identity, Refused> {
        // What a token declares critical must be understood, and nothing is.
        if header.crit.is_some() {
            return Err(Refused::TokenInvalid);
        }
        for key in keys.filter(|key| key.is_for(header.alg)) {
            // One algorithm, and one that the key allows: a token can't choose how it is checked.
            let validation = Validation { algorithms: vec![header.alg], ..self.validation.clone() };
            match jsonwebtoken::decode::<Claims>(token, key.key(), &validation) {
                Ok(decoded) => return self.identity(decoded.claims, now),
                Err(error) if matches!(error.kind(), ErrorKind::InvalidSignature) => {}
                Err(error) => return Err(refusal(&error)),
            }
        }
        Err(Refused::TokenInvalid)
    }

    fn identity(&self, claims: Claims, now: Timestamp) -> Result<Identity, Refused> {
        let user_id = UserId::parse(&claims.sub).ok_or(Refused::TokenInvalid)?;
        let role = role(&claims.rest, &self.roles_claim).ok_or(Refused::TokenInvalid)?;
        // Finite: JSON has no other numbers. A fraction counts for the token's end, not for its life.
        let exp = claims.exp.floor() as i64;
        let expires_at = Timestamp::from_secs(exp.saturating_add_unsigned(self.validation.leeway));
        if expires_at <= now {
            return Err(Refused::TokenExpired);
        }
        Ok(Identity { user_id, role, expires_at })
    }
}

fn refusal(error: &Error) -> Refused {
    match error.kind() {
        ErrorKind::ExpiredSignature => Refused::TokenExpired,
        _ => Refused::TokenInvalid,
    }
}

/// The strongest role in the claim: an array of names, or names with white space between them. No claim: the default. `None`: a
/// claim that can't be read, which may have been meant to take rights away.
fn role(claims: &Map<String, Value>, path: &str) -> Option<SystemRole> {
    match find(claims, path) {
        None | Some(Value::Null) => Some(SystemRole::from_claims([])),
        Some(Value::String(names)) => Some(SystemRole::from_claims(names.split_whitespace())),
        Some(Value::Array(names)) => {
            let names: Vec<&str> = names.iter().map(Value::as_str).collect::<Option<_>>()?;
            Some(SystemRole::from_claims(names))
        }
        Some(_) => None,
    }
}

/// The claim of this name, dots and all, as names that are addresses have them; else the one that the path leads to.
fn find<'c>(claims: &'c Map<String, Value>, path: &str) -> Option<&'c Value> {
    if let Some(value) = claims.get(path) {
        return Some(value);
    }
    let (parents, name) = path.rsplit_once('.')?;
    parents.split('.').try_fold(claims, |claims, parent| claims.get(parent)?.as_object())?.get(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn roles_stand_where_the_path_leads() {
        let claims = json!({
            "roles": ["admin"],
            "scope": "openid reader",
            "realm_access": {"roles": ["offline_access", "service"], "deep": {"er": "admin"}},
            "https://chat.example/roles": ["reader"],
            "number": 7,
            "mixed": ["reader", 7],
            "nothing": null,
        });
        let at = |path: &str| role(claims.as_object().unwrap(), path);
        assert_eq!(at("roles"), Some(SystemRole::Admin));
        assert_eq!(at("scope"), Some(SystemRole::Reader));
        assert_eq!(at("realm_access.roles"), Some(SystemRole::Service));
        assert_eq!(at("realm_access.deep.er"), Some(SystemRole::Admin));
        assert_eq!(at("https://chat.example/roles"), Some(SystemRole::Reader));
        for absent in ["groups", "realm_access.groups", "roles.names", "nothing", "a.b.c"] {
            assert_eq!(at(absent), Some(SystemRole::User), "{absent}");
        }
        for unreadable in ["number", "mixed", "realm_access"] {
            assert_eq!(at(unreadable), None, "{unreadable}");
        }
    }
}
