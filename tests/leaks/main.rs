//! Nobody is told a secret. The real binary runs at the most talkative log level through everything that it does, well and badly;
//! then no message's text, no token, no secret and no password may stand in anything that it wrote or that its traces hold, and none of
//! those, nor any SQL, in what it told those who were refused.
//!
//! - `canaries`: what must not be seen, and what refused callers were told.
//! - `server`: everything that a server does, well and badly.
//! - `commands`: help, failing starts, the terminal client.

mod canaries;
#[path = "../observability/collector.rs"]
mod collector;
mod commands;
#[path = "../common/mod.rs"]
mod common;
mod server;
