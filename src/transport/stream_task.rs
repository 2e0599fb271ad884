//! A stream's session runs in the task of its HTTP/2 stream, beside the response's body.
//!
//! HTTP/2 flow control stops polling a body whose client doesn't read. Timers, evictions and shutdown must run all the same,
//! and a stream that must end must be reset although it can't be written to. So this executor, which the HTTP/2 connection
//! spawns its streams on, polls beside each stream a companion that the stream's handler attached: the same task, so a
//! delivery costs no further wake-up. When the companion ends, the stream is dropped, which resets it; when the stream ends,
//! the companion is dropped, and with it everything that the session holds.

use std::cell::RefCell;
use std::pin::Pin;
use std::task::{Context, Poll};

type Companion = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What the stream that is being polled on this thread has attached.
enum Slot {
    NoStream,
    Free,
    Taken(Companion),
}

thread_local! {
    static SLOT: RefCell<Slot> = const { RefCell::new(Slot::NoStream) };
}

/// Attaches a companion to the HTTP/2 stream whose request is being handled. `false`: there is no such stream (HTTP/1).
pub fn attach(companion: impl Future<Output = ()> + Send + 'static) -> bool {
    SLOT.with_borrow_mut(|slot| {
        let free = matches!(slot, Slot::Free);
        if free {
            *slot = Slot::Taken(Box::pin(companion));
        }
        free
    })
}

/// Spawns the streams of HTTP/2 connections.
#[derive(Clone, Copy, Debug)]
pub struct StreamExecutor;

impl<F> hyper::rt::Executor<F> for StreamExecutor
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    fn execute(&self, stream: F) {
        tokio::spawn(StreamTask { stream: Box::pin(stream), companion: None });
    }
}

struct StreamTask<F> {
    stream: Pin<Box<F>>,
    companion: Option<Companion>,
}

impl<F: Future> Future for StreamTask<F> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        // The companion first: what it puts out, the stream takes in the same turn.
        if let Some(companion) = &mut self.companion
            && companion.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(());
        }
        let before = SLOT.replace(Slot::Free);
        let ended = self.stream.as_mut().poll(cx).is_ready();
        let attached = SLOT.replace(before);
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
