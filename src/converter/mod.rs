//! Generated types ↔ model, and the validation of requests.

pub mod frames;
mod messages;
mod refusal;
pub mod status;
pub mod validate;

pub use messages::*;
pub use refusal::refusal;
