//! A connected stream: one loop that owns it.
//!
//! - [`outbox`]: the bounded hand-over to the response's body.
//! - [`state`]: what the stream has joined and sent; pure, tested without a server.
//! - [`run`]: the loop: waits for whatever comes first, and acts on it.
//!   `run/waits` has what it waits for, `run/acts` what the client's frames ask for, `run/reads` what is read when the channel doesn't have it.

pub mod outbox;
mod run;
mod state;

pub use run::{Session, SessionOptions};
pub use state::{Cursor, Verdict};
