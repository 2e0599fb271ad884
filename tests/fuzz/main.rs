//! What comes from outside, at random: bytes, frames, tokens, page tokens and settings. Nothing panics, what is accepted keeps
//! the documented limits, and what is refused breaks one.
//!
//! A failure prints the input. MODEL_CASES=100 runs a hundred times as many cases.

#[path = "../model/check.rs"]
mod check;
#[path = "../model/memory.rs"]
mod memory;
#[path = "../model/reference.rs"]
mod reference;
#[path = "../model/wire.rs"]
mod wire;

mod inputs;
mod limits;
mod requests;
mod session;
mod settings;
mod tokens;
