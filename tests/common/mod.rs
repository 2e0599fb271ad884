//! Servers and clients for tests: a real port, TLS, tokens; each server has a store of its own.
//!
//! - `ground`: keys and a database.
//! - `server`: a server in this process; `process`: the real binary.
//! - `clients`: tokens, connections, requests; `stream`: ConnectChat; `raw_tls`: below any HTTP.
//! - `redis_server`: Redis.

#![allow(dead_code, reason = "each test binary uses a part of it")]

mod clients;
mod ground;
pub mod process;
pub mod raw_tls;
pub mod redis_server;
mod server;
mod stream;

use std::io::Write;
use std::time::Duration;

#[allow(unused_imports, reason = "each test binary uses a part of it")]
pub use self::{clients::*, ground::*, server::*, stream::*};

pub const SECRET: &str = "a secret of the tests, long enough for HS256";
/// No test waits longer for anything: one that would is broken.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Which store a test runs on.
#[derive(Clone, Copy, Debug)]
pub enum On {
    Sqlite,
    Postgres,
}

/// Instantiates each test on both stores.
#[macro_export]
macro_rules! on_both_stores {
    ($($name:ident),* $(,)?) => {
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { super::$name($crate::common::On::Sqlite).await; })*
        }
        mod postgres {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { super::$name($crate::common::On::Postgres).await; })*
        }
    };
}

/// Says that a part is not tried on this machine; `make test` repeats it in its summary.
pub fn skipped(what: &str) {
    eprintln!("skipped: {what}");
    if let Some(file) = std::env::var_os("SKIPPED_FILE") {
        let mut file = std::fs::OpenOptions::new().append(true).create(true).open(file).unwrap();
        // Whole: others write too.
        file.write_all(format!("{what}\n").as_bytes()).unwrap();
    }
}

/// The same of what the tests' own scripts bring: CI has it, and fails without.
pub fn skipped_but_by_ci(what: &str) {
    assert!(std::env::var("CI").as_deref() != Ok("true"), "not skipped with CI=true: {what}");
    skipped(what);
}

pub async fn within<F: Future>(work: F) -> F::Output {
    tokio::time::timeout(PATIENCE, work).await.expect("it took too long")
}

/// Waits until a condition holds that no event tells of.
pub async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("it never came: {what}"));
}

/// A port that nobody had a moment ago.
pub fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}
