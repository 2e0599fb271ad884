//! What stands around the binary, tried without containers:
//!
//! - `backup`: docs/backup.md.
//! - `containers`: docker-compose.yml and the Dockerfile.
//! - `examples`: deploy/.
//! - `settings`: local.env.example.

mod backup;
#[path = "../common/mod.rs"]
mod common;
mod containers;
mod examples;
mod settings;
