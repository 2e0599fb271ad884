//! What this server asks of others: the keys of an identity provider, and the Auth Service. Both over TLS, with deadlines and
//! bounds, and neither ever lets somebody in that it could not ask about.
//!
//! - [`trust`]: which certificates are believed.
//! - [`ask`]: one request over HTTPS.
//! - [`fetch`]: a document by it.
//! - [`keys`]: public keys that verify tokens, and which algorithm each is for.
//! - [`jwks`]: a key set that is kept up to date.
//! - [`access`]: the Auth Service.
//!
//! And Redis ([`redis`]), which tells and counts between nodes and of which nothing depends on an answer.

pub mod access;
pub mod ask;
pub mod fetch;
pub mod jwks;
pub mod keys;
pub mod redis;
pub mod trust;
