//! Redis, as the broker and the rate limiter use it: which servers there are, whose which keys are, and connections to them.
//!
//! The library's own connection to a Cluster isn't used: it holds pushed messages in a queue without a bound, and mixes up answers
//! when a server ends a subscription by itself, as it does for a slot that moves. One plain connection a server shows both.

mod backoff;
mod discover;
mod seeds;
mod server;
mod servers;
mod topology;

pub use backoff::Backoff;
pub use seeds::{RedisUrlError, Seeds};
pub use server::Server;
pub use servers::{Servers, View};
pub use topology::Topology;
