//! Who may do what, over the API and on both stores: every RPC, by each system role, with each chat role, on oneself and on
//! others.
//!
//! - `table`: the answers, written out from the API's contract and not from the code that decides.
//! - `world`: a server, its callers, and what they ask.
//! - `by_table`: every RPC against the table.
//! - `beyond`: what the table doesn't say.

mod beyond;
mod by_table;
#[path = "../common/mod.rs"]
mod common;
mod table;
mod world;
