//! REST over the real port: good and bad requests with the answers that grpc-gateway's documentation, and this project's stated deviations
//! (docs/rest.md), say; the same authentication and limits as gRPC's; the description and its page; and a foreign tool that tries to find an answer
//! which the description doesn't state.

mod bad;
#[path = "../common/mod.rs"]
mod common;
mod good;
mod http1;
mod pages;
mod same;
mod schemathesis;

/// A chat id that no chat has.
pub const NO_CHAT: &str = "0198f7a0-0000-7000-8000-000000000001";
