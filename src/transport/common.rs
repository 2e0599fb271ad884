//! What the parts of one connection share: whoever reads, writes, spawns its streams, and watches over its times.
//!
//! In one place, for each of them looks at it in each turn, and where there are thousands of connections no cache holds it.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

use super::rarely::{Note, Rarely, Who};

/// What a connection turned out to speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Too little has come to tell.
    Unknown,
    Http1,
    Http2,
}

/// Where a connection is in its turn; in each it is polled once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// The first write is put off.
    Fresh,
    /// One was: the next turn writes.
    PutOff,
    Writes,
}

#[derive(Clone, Debug)]
pub struct Common(Arc<Note<State>>);

#[derive(Debug)]
pub struct State {
    protocol: AtomicU8,
    turn: AtomicU8,
    streams: Mutex<Streams>,
}

#[derive(Debug)]
struct Streams {
    open: usize,
    /// When the connection began, or its last stream ended.
    idle_since: Instant,
}

impl Common {
    pub fn new() -> Self {
        let streams = Mutex::new(Streams { open: 0, idle_since: Instant::now() });
        // Where nobody counts turns, everything is written at once.
        Self(Note::new(State { protocol: AtomicU8::new(Protocol::Unknown as u8), turn: AtomicU8::new(Turn::Writes as u8), streams }))
    }

    pub fn protocol(&self) -> Protocol {
        match self.0.beside.protocol.load(Ordering::Relaxed) {
            n if n == Protocol::Http1 as u8 => Protocol::Http1,
            n if n == Protocol::Http2 as u8 => Protocol::Http2,
            _ => Protocol::Unknown,
        }
    }

    pub fn speaks(&self, protocol: Protocol) {
        self.0.beside.protocol.store(protocol as u8, Ordering::Relaxed);
    }

    pub fn turn(&self) -> Turn {
        match self.0.beside.turn.load(Ordering::Relaxed) {
            n if n == Turn::Fresh as u8 => Turn::Fresh,
            n if n == Turn::PutOff as u8 => Turn::PutOff,
            _ => Turn::Writes,
        }
    }

    pub fn set_turn(&self, turn: Turn) {
        self.0.beside.turn.store(turn as u8, Ordering::Relaxed);
    }

    /// Since when there is no stream; `None` while there is one.
    pub fn idle_since(&self) -> Option<Instant> {
        let streams = self.streams();
        (streams.open == 0).then_some(streams.idle_since)
    }

    pub fn streams_open(&self) -> usize {
        self.streams().open
    }

    pub fn begin_stream(&self) -> OpenStream {
        self.streams().open += 1;
        OpenStream(self.clone())
    }

    /// Of what seldom comes for the connection's task.
    pub fn rarely(&self, who: Who) -> Rarely<State> {
        Rarely::new(&self.0, who)
    }

    fn streams(&self) -> MutexGuard<'_, Streams> {
        self.0.beside.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A stream that counts.
pub struct OpenStream(Common);

impl Drop for OpenStream {
    fn drop(&mut self) {
        let mut streams = self.0.streams();
        streams.open -= 1;
        if streams.open == 0 {
            streams.idle_since = Instant::now();
        }
    }
}
