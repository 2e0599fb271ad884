//! The heart of the product against plain models, under random interleavings.
//!
//! - [`stores`]: SQLite and PostgreSQL do what [`reference`], the storage contract as plain data, does.
//! - [`append`]: the append path over a store that loses answers.
//! - [`heart`]: service, append path, registry, sweep and sessions together, over a store that fails, a broker that loses and
//!   swaps, and clients that vanish and come back.
//!
//! A failure prints what makes the case again. MODEL_CASES=100 runs a hundred times as many cases.

#[path = "../common/mod.rs"]
mod common;

mod append;
mod check;
mod heart;
mod memory;
mod reference;
mod stores;
mod wire;
