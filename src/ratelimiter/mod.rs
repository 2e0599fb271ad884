//! How often a user or an address may do something.
//!
//! - [`memory`]: counts in this process.
//! - [`shared`]: counts that nodes share, of which [`redis`] keeps the ledger.

pub mod memory;
pub mod redis;
pub mod shared;

use std::net::IpAddr;
use std::time::Duration;

use crate::model::UserId;

/// What is counted, and for whom. Each kind has a rate and buckets of its own.
#[derive(Clone, Copy, Debug)]
pub enum Check<'a> {
    /// A message that a user sends, by a call or on a stream.
    Send(&'a UserId),
    /// Any other call of a user, and any other frame on its streams.
    Call(&'a UserId),
    /// A request from an address, before anything is known of its sender. The address is its
    /// [`client_network`](crate::model::client_network).
    Address(IpAddr),
}

/// Too often: the same is allowed again after this time, if nothing else comes between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryAfter(pub Duration);

/// Decides at once, without waiting for anything: a stream's frames act in their order, and a frame must not wait for a counter that is
/// elsewhere. One that shares its counts with other processes decides by what it knows of them and settles up beside.
///
/// What it holds is bounded, however many keys come.
pub trait RateLimiter: Send + Sync {
    /// Takes one from the bucket, or nothing where it is empty. A refused try costs nothing: whoever waits for the stated time gets through.
    fn check(&self, check: Check<'_>) -> Result<(), RetryAfter>;
}
