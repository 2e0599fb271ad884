//! Generated types ↔ model, and the validation of requests.

pub mod frames;
mod messages;
pub mod status;
pub mod validate;

pub use messages::*;
