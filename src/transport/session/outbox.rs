//! The hand-over from a session to its response's body.
//!
//! Bounded by the session's own restraint: above [`HIGH_WATER_BYTES`] it takes on nothing that would add to it but what is
//! already in its hands, a page or an event. What waits together goes out as one piece.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame};
use tokio::time::Instant;
use tonic::Status;

use crate::converter::{frames, status};
use crate::pb::chat::v1::connect_chat_response::Event;
use crate::transport::rarely::{Note, Rarely};
use crate::transport::stream_task;

/// At this many waiting bytes the session stops taking on more.
pub const HIGH_WATER_BYTES: usize = 64 * 1024;
/// The largest piece that goes to HTTP/2 at once, which holds it until the client takes it.
const PIECE_BYTES_MAX: usize = 64 * 1024;

/// The most bytes that any stream of this process has held; for tests and diagnosis.
static PEAK_BYTES: AtomicUsize = AtomicUsize::new(0);

/// The most bytes that any one stream of this process has held waiting for its client.
pub fn peak_bytes() -> usize {
    PEAK_BYTES.load(Ordering::Relaxed)
}

/// What the two ends share.
#[derive(Default)]
pub struct Shared {
    /// A frame that waits alone, shared with the other streams that have it. Else what waits has been copied behind one another.
    alone: Bytes,
    waiting: BytesMut,
    /// Since when something waits and nothing was taken.
    waiting_since: Option<Instant>,
    /// Bytes put in and taken out so far.
    put: u64,
    out: u64,
    /// Where the settlements end that were not taken yet.
    settled: VecDeque<u64>,
    /// Set by the body, cleared by [`Outbox::poll_taken`].
    taken: bool,
    end: Option<Status>,
    body: Option<Waker>,
    /// The session waits until something is taken. Its waker isn't kept: it is what keeps this.
    session_waits: bool,
}

impl Shared {
    /// Bytes that wait.
    fn len(&self) -> usize {
        self.alone.len() + self.waiting.len()
    }

    /// Where to put what is to wait behind the rest.
    fn copied(&mut self) -> &mut BytesMut {
        self.waiting.extend_from_slice(&std::mem::take(&mut self.alone));
        &mut self.waiting
    }

    /// The next piece for the body.
    fn piece(&mut self) -> Bytes {
        if !self.alone.is_empty() {
            return std::mem::take(&mut self.alone);
        }
        // All of it gives the memory away: an idle stream holds none.
        let all = self.waiting.len() <= PIECE_BYTES_MAX;
        if all { std::mem::take(&mut self.waiting) } else { self.waiting.split_to(PIECE_BYTES_MAX) }.freeze()
    }

    fn wake_body(&mut self) {
        if !stream_task::stream_follows()
            && let Some(body) = self.body.take()
        {
            body.wake();
        }
    }
}

/// How full an outbox is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level {
    /// The session may take on more.
    pub has_room: bool,
    /// Settled sends that wait to be handed to the transport.
    pub settled: usize,
    /// Since when something waits and nothing was taken.
    pub waiting_since: Option<Instant>,
}

/// The session's end.
#[derive(Clone)]
pub struct Outbox(Arc<Note<Mutex<Shared>>>);

/// The response's end.
pub struct OutboxBody {
    outbox: Outbox,
    ended: bool,
}

pub fn outbox() -> (Outbox, OutboxBody) {
    let outbox = Outbox(Note::new(Mutex::default()));
    (outbox.clone(), OutboxBody { outbox, ended: false })
}

impl Outbox {
    /// Of what seldom comes for the session.
    pub fn rarely(&self) -> Rarely<Mutex<Shared>> {
        Rarely::new(&self.0)
    }

    pub fn event(&self, event: Event) {
        self.put(|out| frames::put_event(out, event));
    }

    /// An event that settles a send.
    pub fn settle(&self, event: Event) {
        self.event(event);
        let mut shared = self.lock();
        let end = shared.put;
        shared.settled.push_back(end);
    }

    /// A gRPC message that is encoded already. Returns whether the session may take on more.
    pub fn frame(&self, frame: &Bytes) -> bool {
        self.fill(|shared| {
            if shared.len() == 0 {
                shared.alone = frame.clone();
            } else {
                shared.copied().extend_from_slice(frame);
            }
        })
    }

    fn put(&self, write: impl FnOnce(&mut BytesMut)) {
        self.fill(|shared| write(shared.copied()));
    }

    fn fill(&self, fill: impl FnOnce(&mut Shared)) -> bool {
        let mut shared = self.lock();
        let before = shared.len();
        fill(&mut shared);
        let after = shared.len();
        shared.put += (after - before) as u64;
        if before == 0 && after > 0 {
            shared.waiting_since = Some(Instant::now());
        }
        // Seldom a write: all streams share it.
        if after > PEAK_BYTES.load(Ordering::Relaxed) {
            PEAK_BYTES.fetch_max(after, Ordering::Relaxed);
        }
        shared.wake_body();
        after < HIGH_WATER_BYTES
    }

    /// Ends the stream behind what waits.
    pub fn end(&self, status: Status) {
        let mut shared = self.lock();
        shared.end = Some(status);
        shared.wake_body();
    }

    pub fn level(&self) -> Level {
        let shared = self.lock();
        Level { has_room: shared.len() < HIGH_WATER_BYTES, settled: shared.settled.len(), waiting_since: shared.waiting_since }
    }

    /// Whether the body has taken something since the last call; if not, the session's task is woken when it does.
    pub fn poll_taken(&self) -> Poll<()> {
        let mut shared = self.lock();
        if std::mem::take(&mut shared.taken) {
            return Poll::Ready(());
        }
        shared.session_waits = true;
        Poll::Pending
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.0.beside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Body for OutboxBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let Self { outbox, ended } = &mut *self;
        let mut shared = outbox.lock();
        if shared.len() > 0 {
            let piece = shared.piece();
            shared.out += piece.len() as u64;
            while shared.settled.front().is_some_and(|end| *end <= shared.out) {
                shared.settled.pop_front();
            }
            shared.waiting_since = (shared.len() > 0).then(Instant::now);
            shared.taken = true;
            if std::mem::take(&mut shared.session_waits) {
                outbox.0.wake_by_ref();
            }
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        if *ended {
            return Poll::Ready(None);
        }
        if let Some(status) = shared.end.take() {
            *ended = true;
            return Poll::Ready(Some(Ok(Frame::trailers(status::trailers(&status)))));
        }
        if shared.body.as_ref().is_none_or(|body| !body.will_wake(cx.waker())) {
            shared.body = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    fn is_end_stream(&self) -> bool {
        self.ended
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;

    #[tokio::test]
    async fn what_waits_together_goes_out_as_one_piece_and_the_status_last() {
        let (outbox, mut body) = outbox();
        outbox.frame(&Bytes::from_static(b"one"));
        outbox.frame(&Bytes::from_static(b"two"));
        outbox.end(Status::ok(""));
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "onetwo");
        assert_eq!(body.frame().await.unwrap().unwrap().into_trailers().unwrap()["grpc-status"], "0");
        assert!(body.frame().await.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_is_counted_from_the_last_piece_that_was_taken() {
        let (outbox, mut body) = outbox();
        assert_eq!(outbox.level().waiting_since, None);
        let began = Instant::now();
        outbox.frame(&Bytes::from(vec![0; PIECE_BYTES_MAX]));
        tokio::time::advance(std::time::Duration::from_secs(1)).await;
        outbox.frame(&Bytes::from_static(b"more"));
        assert_eq!(outbox.level().waiting_since, Some(began));
        body.frame().await.unwrap().unwrap();
        assert_eq!(outbox.level().waiting_since, Some(Instant::now()));
        body.frame().await.unwrap().unwrap();
        assert_eq!(outbox.level().waiting_since, None);
    }

    #[tokio::test]
    async fn a_send_counts_until_its_settlement_was_taken() {
        let (outbox, mut body) = outbox();
        outbox.settle(frames::going_away(std::time::Duration::ZERO));
        assert_eq!(outbox.level().settled, 1);
        body.frame().await.unwrap().unwrap();
        assert!(outbox.poll_taken().is_ready());
        assert_eq!(outbox.level().settled, 0);
    }

    #[tokio::test]
    async fn a_full_one_that_both_ends_leave_is_gone() {
        let (outbox, mut body) = outbox();
        let held = Arc::downgrade(&outbox.0);
        outbox.frame(&Bytes::from(vec![0; HIGH_WATER_BYTES]));
        std::future::poll_fn(|cx| {
            // As the session waits: by the waker of what seldom comes, in its task.
            let mut rarely = outbox.rarely();
            assert!(rarely.is_due(cx));
            let waker = rarely.waker();
            assert!(outbox.poll_taken().is_pending());
            drop(Pin::new(&mut body).poll_frame(&mut Context::from_waker(&waker)));
            assert!(rarely.is_due(cx), "what was taken wakes the session");
            assert!(outbox.poll_taken().is_ready() && outbox.poll_taken().is_pending());
            Poll::Ready(())
        })
        .await;
        drop((outbox, body));
        assert_eq!(held.strong_count(), 0);
    }
}
