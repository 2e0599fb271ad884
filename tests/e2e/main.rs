//! The API end to end: a real port, TLS, tokens, a real client, on both stores.
//!
//! - `calls`: unary calls, and what they refuse.
//! - `streams`: ConnectChat.
//! - `parts`: the sweep and sessions without a server, where a part must fail or time must pass.
//! - `panics`: a part that panics, in a call and in a stream.
//! - `open`: health and reflection, which need no token.

mod calls;
#[path = "../common/mod.rs"]
mod common;
mod open;
mod panics;
mod parts;
mod streams;
