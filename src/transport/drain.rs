//! Reads what a refused request still sends, before it is answered.
//!
//! HTTP/2 resets a stream that was answered while its request was being sent. That is allowed, and some clients, among them common versions of curl,
//! take the reset for a failure and don't show the answer, as they were about to send a body. So a small body is read to its end, and thrown away.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt;

use crate::model::limits;

/// Bytes that are thrown away: the largest request. Who sends more is reset.
const BYTES_MAX: usize = limits::REQUEST_BYTES_MAX;
/// How long the rest may take.
const DUE: Duration = Duration::from_secs(1);

/// A request's body, as whoever answers the request sees it.
struct Shared(Arc<Mutex<Body>>);

impl HttpBody for Shared {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner)).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).size_hint()
    }
}

/// What is left of a request's body once the request is answered.
pub struct Rest(Option<Arc<Mutex<Body>>>);

/// Keeps a hand on a request's body.
pub fn hold(request: Request<Body>) -> (Request<Body>, Rest) {
    if request.body().is_end_stream() {
        return (request, Rest(None));
    }
    let mut rest = None;
    let request = request.map(|body| {
        let body = Arc::new(Mutex::new(body));
        rest = Some(Arc::clone(&body));
        Body::new(Shared(body))
    });
    (request, Rest(rest))
}

impl Rest {
    /// Waits for an answer, and then for the rest of the request.
    pub async fn behind(self, answer: impl Future<Output = Result<Response<Body>, Infallible>>) -> Result<Response<Body>, Infallible> {
        let answer = answer.await;
        if let Some(body) = self.0 {
            // What fails or takes too long is the client's own affair: it is answered all the same.
            let _late = tokio::time::timeout(DUE, throw_away(Shared(body))).await;
        }
        answer
    }
}

async fn throw_away(mut body: Shared) {
    let mut bytes = 0;
    while let Some(Ok(frame)) = body.frame().await {
        bytes += frame.data_ref().map_or(0, Bytes::len);
        if bytes > BYTES_MAX {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::StreamExt;

    #[tokio::test]
    async fn an_answer_comes_behind_the_rest_of_its_request_and_the_rest_is_bounded() {
        let pieces = |count: usize| {
            let sent = Arc::new(Mutex::new(0));
            let told = Arc::clone(&sent);
            let pieces = futures_util::stream::iter(std::iter::repeat_n(Bytes::from(vec![0; 16 * 1024]), count)).map(move |piece| {
                *told.lock().unwrap() += 1;
                Ok::<_, Infallible>(piece)
            });
            (Request::new(Body::from_stream(pieces)), sent)
        };
        for (count, read) in [(3, 3), (1000, BYTES_MAX / (16 * 1024) + 1)] {
            let (request, sent) = pieces(count);
            let (request, rest) = hold(request);
            let refused = async move {
                drop(request);
                Ok(Response::new(Body::empty()))
            };
            rest.behind(refused).await.unwrap();
            assert_eq!(*sent.lock().unwrap(), read);
        }
    }
}
