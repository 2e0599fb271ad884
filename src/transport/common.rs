//! What the parts of one connection share: whoever reads, writes, spawns its streams, and watches over its times.
//!
//! In one place, for each of them looks at it in each turn, and where there are thousands of connections no cache holds it.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

use super::driver::STREAMS_HERE_MAX;
use super::rarely::{Note, Rarely, Who};
use super::stream_task::StreamTask;

/// What a connection turned out to speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Too little has come to tell.
    Unknown,
    Http1,
    Http2,
}

/// What a poll of the connection may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// The first write is put off.
    Fresh,
    /// One was: the next turn writes.
    PutOff,
    Writes,
}

/// What is to be polled in a connection's task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Due(u8);

impl Due {
    pub const CONNECTION: Self = Self(1);
    pub const STREAMS: Self = Self(2);
    /// A turn is under way, which looks at what is due before it ends.
    const TURN: Self = Self(4);

    pub fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

#[derive(Clone)]
pub struct Common(Arc<Note<State>>);

pub struct State {
    protocol: AtomicU8,
    turn: AtomicU8,
    due: AtomicU8,
    streams: Mutex<Streams>,
}

struct Streams {
    open: usize,
    /// Of these, how many live in the connection's task.
    here: usize,
    /// When the connection began, or its last stream ended.
    idle_since: Instant,
    /// A stream that is to live in the connection's task, until the driver takes it.
    arrived: Option<StreamTask>,
    /// There is no driver any more.
    closed: bool,
}

impl Common {
    pub fn new() -> Self {
        Self(Note::new(State {
            protocol: AtomicU8::new(Protocol::Unknown as u8),
            // Where nobody counts turns, everything is written at once.
            turn: AtomicU8::new(Turn::Writes as u8),
            due: AtomicU8::new(Due::CONNECTION.0),
            streams: Mutex::new(Streams { open: 0, here: 0, idle_since: Instant::now(), arrived: None, closed: false }),
        }))
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

    /// Whether there are several streams, some of them in tasks of their own.
    pub fn has_many_streams(&self) -> bool {
        let streams = self.streams();
        streams.open > 1 && streams.open > streams.here
    }

    pub fn begin_stream(&self) -> OpenStream {
        self.streams().open += 1;
        OpenStream { common: self.clone(), here: false }
    }

    /// Gives a stream to the connection's task, or back where that has no place for it.
    pub fn put_stream(&self, mut stream: StreamTask) -> Option<StreamTask> {
        let mut streams = self.streams();
        if streams.closed || streams.arrived.is_some() || streams.here == STREAMS_HERE_MAX {
            return Some(stream);
        }
        streams.here += 1;
        stream.open.here = true;
        streams.arrived = Some(stream);
        drop(streams);
        self.wake(Due::STREAMS);
        None
    }

    pub fn take_stream(&self) -> Option<StreamTask> {
        self.streams().arrived.take()
    }

    /// The connection's task is over; a stream that has only arrived.
    pub fn close(&self) -> Option<StreamTask> {
        let mut streams = self.streams();
        streams.closed = true;
        streams.arrived.take()
    }

    /// Something is due.
    pub fn wake(&self, due: Due) {
        let before = Due(self.due().fetch_or(due.0, Ordering::AcqRel));
        // Who made it due has woken the task; and a turn that is under way finds it.
        if !before.has(due) && !before.has(Due::TURN) {
            self.0.wake_task();
        }
    }

    /// Begins a turn: what is due. The connection's timer wakes the task past its waker.
    pub fn begin(&self) -> Due {
        let due = self.due().swap(Due::TURN.0, Ordering::AcqRel);
        Due(if self.0.is_due(Who::Timer) { due | Due::CONNECTION.0 } else { due })
    }

    /// Whether the connection has become due in this turn.
    pub fn take_connection(&self) -> bool {
        Due(self.due().fetch_and(!Due::CONNECTION.0, Ordering::AcqRel)).has(Due::CONNECTION)
    }

    /// Ends a turn, unless something has become due in it.
    pub fn end(&self) -> Option<Due> {
        match self.due().compare_exchange(Due::TURN.0, 0, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => None,
            Err(_) => Some(self.begin()),
        }
    }

    /// Ends a turn whatever is due, the connection among it: the next one begins at once.
    pub fn break_off(&self) {
        self.due().fetch_or(Due::CONNECTION.0, Ordering::AcqRel);
        self.due().fetch_and(!Due::TURN.0, Ordering::AcqRel);
        self.0.wake_task();
    }

    fn due(&self) -> &AtomicU8 {
        &self.0.beside.due
    }

    /// Of what seldom comes for the connection's task.
    pub fn rarely(&self) -> Rarely<State> {
        Rarely::new(&self.0)
    }

    /// The same for its timer.
    pub fn note(&self) -> Arc<Note<State>> {
        Arc::clone(&self.0)
    }

    fn streams(&self) -> MutexGuard<'_, Streams> {
        self.0.beside.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A stream that counts.
pub struct OpenStream {
    common: Common,
    /// It lives in the connection's task.
    here: bool,
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        let mut streams = self.common.streams();
        streams.open -= 1;
        streams.here -= usize::from(self.here);
        if streams.open == 0 {
            streams.idle_since = Instant::now();
        }
    }
}
