//! A stream's session runs in the task of its HTTP/2 stream, beside the response's body.
//!
//! HTTP/2 flow control stops polling a body whose client doesn't read. Timers, evictions and shutdown must run all the same,
//! and a stream that must end must be reset although it can't be written to. So this executor, which the HTTP/2 connection
//! spawns its streams on, polls beside each stream a companion that the stream's handler attached: the same task, so a
//! delivery costs no further wake-up. When the companion ends, the stream is dropped, which resets it; when the stream ends,
//! the companion is dropped, and with it everything that the session holds.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::task::{Context, Poll};

use super::common::{Common, OpenStream};

pub type Companion = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What the stream that is being polled on this thread has attached.
enum Slot {
    NoStream,
    Free,
    Taken(Companion),
}

thread_local! {
    static SLOT: RefCell<Slot> = const { RefCell::new(Slot::NoStream) };
    /// Whether a companion is being polled on this thread.
    static BESIDE: Cell<bool> = const { Cell::new(false) };
}

/// Whether this is called by a companion, behind which the stream is polled in the same turn: then the stream needs no waking.
pub fn stream_follows() -> bool {
    BESIDE.get()
}

/// Until it goes, a companion is polled on this thread.
struct Beside;

impl Beside {
    fn begin() -> Self {
        BESIDE.set(true);
        Self
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        BESIDE.set(false);
    }
}

/// Attaches a companion to the HTTP/2 stream whose request is being handled; gives it back where there is no such stream (HTTP/1).
pub fn attach(companion: Companion) -> Result<(), Companion> {
    SLOT.with_borrow_mut(|slot| match slot {
        Slot::Free => {
            *slot = Slot::Taken(companion);
            Ok(())
        }
        Slot::NoStream | Slot::Taken(_) => Err(companion),
    })
}

/// Until it goes, what attaches itself on this thread finds a place: also where the stream panics.
struct Opened {
    before: Option<Slot>,
}

impl Opened {
    /// What has attached itself.
    fn close(mut self) -> Slot {
        SLOT.replace(self.before.take().unwrap_or(Slot::NoStream))
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        if let Some(before) = self.before.take() {
            SLOT.set(before);
        }
    }
}

/// Runs the streams of one HTTP/2 connection: a few in its task, further ones in tasks of their own.
#[derive(Clone)]
pub struct StreamExecutor(Common);

impl StreamExecutor {
    pub fn new(common: Common) -> Self {
        Self(common)
    }
}

impl<F> hyper::rt::Executor<F> for StreamExecutor
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, stream: F) {
        let stream = StreamTask { stream: Box::pin(stream), companion: None, open: self.0.begin_stream() };
        if let Some(stream) = self.0.put_stream(stream) {
            tokio::spawn(stream);
        }
    }
}

/// A stream with its companion.
pub struct StreamTask {
    stream: Pin<Box<dyn Future<Output = ()> + Send>>,
    companion: Option<Companion>,
    pub(super) open: OpenStream,
}

impl Future for StreamTask {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        // The companion first: what it puts out, the stream takes in the same turn.
        if let Some(companion) = &mut self.companion {
            let beside = Beside::begin();
            if companion.as_mut().poll(cx).is_ready() {
                return Poll::Ready(());
            }
            drop(beside);
        }
        let opened = Opened { before: Some(SLOT.replace(Slot::Free)) };
        let ended = self.stream.as_mut().poll(cx).is_ready();
        let attached = opened.close();
        if ended {
            return Poll::Ready(());
        }
        if let Slot::Taken(companion) = attached {
            self.companion = Some(companion);
            // It hasn't been polled yet, so nothing would wake it.
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }
}
