//! What stands around the binary, tried without containers:
//!
//! - `containers`: docker-compose.yml and the Dockerfile.
//! - `settings`: local.env.example.

#[path = "../common/mod.rs"]
mod common;
mod containers;
mod settings;
