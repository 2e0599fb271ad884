//! The storage contract: one suite, run on both stores.
//!
//! - `fixture`: a store with nothing in it, and what each test of the contract runs on.
//! - `appends`: numbers, retries, rights.
//! - `chats`: pages, members, deletions.
//! - `sqlite`, `postgres`: what one of them alone must do.

mod appends;
mod chats;
#[path = "../common/mod.rs"]
mod common;
mod fixture;
mod postgres;
mod sqlite;
