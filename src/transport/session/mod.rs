//! A connected stream: one loop that owns it.
//!
//! - [`outbox`]: the bounded hand-over to the response's body.
//! - [`state`]: what the stream has joined and sent; pure, tested without a server.
//! - [`run`]: the loop: waits for whatever comes first, and acts on it.

pub mod outbox;
mod run;
mod state;

pub use run::{Session, SessionOptions};
pub use state::{Cursor, Verdict};
