//! A session without an HTTP/2 stream: it runs in a task of its own, which belongs to the answer's body.
//!
//! A body whose client doesn't read isn't polled, and the session's timers, evictions and end go on all the same, as beside an HTTP/2 stream.
//! When the body goes, the task is aborted. When the session ends and its client took none of the rest for a while, there is no stream
//! to reset: the connection is cut.

use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::FutureExt;
use http_body::{Body, Frame};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::session::outbox::OutboxBody;
use super::stream_task::Companion;

/// In the extensions of a request whose answer may come without an HTTP/2 stream, since its end is told in the body: cancelled
/// to cut the connection.
#[derive(Clone, Debug)]
pub struct MayDetach(pub CancellationToken);

/// A session's answer, with the session.
pub struct DetachedBody {
    body: OutboxBody,
    /// Aborted with the body.
    _session: AbortOnDropHandle<()>,
}

impl DetachedBody {
    /// Starts the session. `cut` is cancelled when it has ended, or panicked, and the body is still there.
    pub fn start(session: Companion, body: OutboxBody, cut: CancellationToken) -> Self {
        let task = tokio::spawn(async move {
            // Nothing of a session is used after its panic, which the panic hook logs.
            drop(AssertUnwindSafe(session).catch_unwind().await);
            cut.cancel();
        });
        Self { body, _session: AbortOnDropHandle::new(task) }
    }
}

impl Body for DetachedBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::session::outbox::outbox;

    #[tokio::test]
    async fn a_session_ends_with_its_body_and_cuts_nothing() {
        let (cut, (alive, gone)) = (CancellationToken::new(), tokio::sync::oneshot::channel::<()>());
        let session = Box::pin(async move {
            let _alive = alive;
            std::future::pending::<()>().await;
        });
        let (_outbox, body) = outbox();
        drop(DetachedBody::start(session, body, cut.clone()));
        gone.await.unwrap_err();
        assert!(!cut.is_cancelled());
    }

    #[tokio::test]
    async fn a_session_that_ends_or_panics_before_its_body_cuts_the_connection() {
        for session in [
            Box::pin(async {}) as Companion,
            Box::pin(async {
                panic!("as it should");
            }),
        ] {
            let cut = CancellationToken::new();
            let (_outbox, body) = outbox();
            let _body = DetachedBody::start(session, body, cut.clone());
            cut.cancelled().await;
        }
    }
}
