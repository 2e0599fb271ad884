//! Loads: each drives one server for a while and says what came of it.

pub mod callers;
pub mod comeback;
pub mod fanout;
pub mod groups;
pub mod idle;
pub mod paced;
pub mod pipelined;
pub mod stalled;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use chat_service::pb::chat::v1 as pb;

use crate::bench::Bench;
use crate::process::{Clocks, Server, Spent};
use crate::{Done, Failure};

/// Of each message.
pub const TEXT_BYTES: usize = 100;
/// How often a load that is waited for is looked at.
const POLL: Duration = Duration::from_millis(10);

/// What a measurement gave.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    pub value: f64,
    pub spent: Spent,
}

/// What happened in a measured time.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    pub count: u64,
    pub spent: Spent,
}

impl Window {
    /// A second.
    pub fn rate(&self) -> Sample {
        Sample { value: self.count as f64 / self.spent.time.as_secs_f64(), spent: self.spent }
    }

    /// The server's CPU for each, in microseconds.
    pub fn server_micros(&self) -> Sample {
        Sample { value: self.spent.server.as_secs_f64() * 1e6 / self.count as f64, spent: self.spent }
    }
}

/// What a load's tasks count, and the first thing that went wrong.
#[derive(Default)]
pub struct Count {
    done: AtomicU64,
    trouble: Mutex<Option<Failure>>,
}

impl Count {
    pub fn add(&self, done: u64) {
        self.done.fetch_add(done, Ordering::Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    pub fn fail(&self, error: Failure) {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
    }

    pub fn check(&self) -> Done<()> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).take().map_or(Ok(()), Err)
    }
}

/// Lets a load warm up, and then counts for a while.
pub async fn window(bench: &Bench, server: &Server, count: &Count, time: Duration) -> Done<Window> {
    tokio::time::sleep(bench.options.warm_up).await;
    let (before, clocks) = (count.get(), Clocks::read(bench, server));
    tokio::time::sleep(time).await;
    let (after, spent) = (count.get(), Clocks::read(bench, server).since(&clocks));
    count.check()?;
    if after == before {
        return Err("nothing happened".into());
    }
    Ok(Window { count: after - before, spent })
}

pub fn text() -> String {
    "x".repeat(TEXT_BYTES)
}

/// As long as a UUID, and unique for its user.
pub fn message_id(task: usize, number: u64) -> String {
    format!("{task:08x}-{number:027x}")
}

pub fn send_message(chat_id: &str, id: String, text: String) -> pb::SendMessageRequest {
    pb::SendMessageRequest { chat_id: chat_id.to_owned(), text, client_message_id: id }
}
