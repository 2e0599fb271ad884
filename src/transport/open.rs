//! The streams of services that need no token, health and reflection: bounded, and ended with their connection.
//!
//! A few bytes ask reflection for a file of 200 KB, so what one stream may ask is counted, and each request of it at its address. Both kinds end when
//! their connection takes its leave, as streams of ConnectChat do: a stop waits for none of them.

use std::convert::Infallible;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{Request, Response};
use http_body::{Body as HttpBody, Frame};
use tokio::time::{Sleep, sleep, timeout};
use tokio_util::sync::{CancellationToken, DropGuard, WaitForCancellationFutureOwned};
use tonic::Status;
use tonic::body::Body;
use tonic::server::NamedService;
use tower::Service;

use super::connection::Carrier;
use super::stream_task;
use crate::converter::status::{self, Refused};
use crate::interceptor::limit::client_of;
use crate::model::Network;
use crate::observe::methods::Method;
use crate::observe::metrics::{self, Limit};
use crate::ratelimiter::{Check, RateLimiter, RetryAfter};
use crate::service::Error;

/// Requests that a reflection stream answers. To learn the whole of this API takes about twenty; clients that want more open another stream.
const REQUESTS_MAX: usize = 128;
/// How long a reflection stream lives: as long as any other answer may take.
const REFLECTION_DUE: Duration = Duration::from_secs(60);
/// When a stream is reset whose client doesn't take its end.
const LINGER: Duration = Duration::from_secs(5);
/// Bytes before a message: whether it is compressed, and its length.
const PREFIX_BYTES: usize = 5;

/// A service whose streams end with their connection.
#[derive(Clone)]
pub struct Open<S> {
    pub inner: S,
    /// Set: its streams' requests are counted, and each lives for a while only. `None`: a stream has one request.
    pub counting: Option<Counting>,
}

/// What requests of a stream are counted with.
#[derive(Clone)]
pub struct Counting {
    pub limiter: Arc<dyn RateLimiter>,
    pub trusted_proxies: Arc<[Network]>,
}

/// Why a stream may ask nothing more.
type Refusal = Arc<OnceLock<Status>>;

impl<S: NamedService> NamedService for Open<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<Request<Body>> for Open<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        if !Method::of(request.uri().path()).is_stream() {
            return Box::pin(self.inner.call(request));
        }
        let leaving = request.extensions().get::<Arc<Carrier>>().map_or_else(CancellationToken::new, |carrier| carrier.leaving.clone());
        let refused = Refusal::default();
        // Whoever answers in a task of its own reads on until its requests end.
        let over = leaving.child_token();
        let (request, due) = match &self.counting {
            Some(counting) => (counting.count(request, &refused, &over), Some(REFLECTION_DUE)),
            None => (request, None),
        };
        let answer = self.inner.call(request);
        Box::pin(async move {
            let response = answer.await?;
            if response.headers().contains_key("grpc-status") {
                // Refused at once: there is no stream.
                return Ok(response);
            }
            // HTTP/1 has a socket of its own for each stream, which is watched.
            stream_task::attach(Box::pin(untaken(leaving.clone(), due))).ok();
            Ok(response.map(|inner| {
                Body::new(Ending {
                    inner,
                    leaving: Box::pin(leaving.cancelled_owned()),
                    due: due.map(|due| Box::pin(sleep(due))),
                    refused,
                    ended: false,
                    _over: over.drop_guard(),
                })
            }))
        })
    }
}

/// Returns when a stream must be reset, as a body that its client doesn't read isn't polled and can't end.
async fn untaken(leaving: CancellationToken, due: Option<Duration>) {
    match due {
        Some(due) => {
            let _over = timeout(due, leaving.cancelled()).await;
        }
        None => leaving.cancelled().await,
    }
    sleep(LINGER).await;
}

/// An answer that ends with its connection, or when its time is over.
struct Ending {
    inner: Body,
    leaving: Pin<Box<WaitForCancellationFutureOwned>>,
    due: Option<Pin<Box<Sleep>>>,
    refused: Refusal,
    ended: bool,
    /// Ends the requests with it.
    _over: DropGuard,
}

impl HttpBody for Ending {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        if this.ended {
            return Poll::Ready(None);
        }
        // What is there already goes first: answers, and the word that the server doesn't serve any more.
        match Pin::new(&mut this.inner).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                let Some(trailers) = frame.trailers_ref() else { return Poll::Ready(Some(Ok(frame))) };
                this.ended = true;
                let is_ok = trailers.get("grpc-status").is_some_and(|code| code == "0");
                let refused = this.refused.get().filter(|_| is_ok);
                // Its requests end with the connection, which may be heard of first.
                let leaves = is_ok && this.leaving.as_mut().poll(cx).is_ready();
                let last = match refused {
                    Some(refused) => Frame::trailers(status::trailers(refused)),
                    None if leaves => Frame::trailers(status::trailers(&status::of_error(&Error::GoingAway))),
                    None => frame,
                };
                return Poll::Ready(Some(Ok(last)));
            }
            Poll::Ready(ended) => return Poll::Ready(ended),
            Poll::Pending => {}
        }
        let status = if this.leaving.as_mut().poll(cx).is_ready() {
            status::of_error(&Error::GoingAway)
        } else {
            match &mut this.due {
                Some(due) => ready!(due.as_mut().poll(cx)),
                None => return Poll::Pending,
            }
            spent()
        };
        this.ended = true;
        Poll::Ready(Some(Ok(Frame::trailers(status::trailers(&status)))))
    }

    fn is_end_stream(&self) -> bool {
        self.ended || self.inner.is_end_stream()
    }
}

fn spent() -> Status {
    metrics::limit_hit(Limit::Reflection);
    status::refused(Refused::ReflectionSpent)
}

impl Counting {
    fn count(&self, request: Request<Body>, refused: &Refusal, over: &CancellationToken) -> Request<Body> {
        let client = client_of(&request, &self.trusted_proxies);
        let (limiter, refused, over) = (Arc::clone(&self.limiter), Arc::clone(refused), Box::pin(over.clone().cancelled_owned()));
        request.map(|inner| {
            Body::new(Counted { inner, client, limiter, refused, over, asked: 0, prefix: [0; PREFIX_BYTES], prefixed: 0, left: 0 })
        })
    }
}

/// A request's body that ends before the first message that is refused.
struct Counted {
    inner: Body,
    /// `None`: of this process itself.
    client: Option<IpAddr>,
    limiter: Arc<dyn RateLimiter>,
    refused: Refusal,
    /// Returns when the answer has ended.
    over: Pin<Box<WaitForCancellationFutureOwned>>,
    /// Messages that have begun.
    asked: usize,
    /// What has come of a message's prefix: its first `prefixed` bytes.
    prefix: [u8; PREFIX_BYTES],
    prefixed: usize,
    /// Bytes of the message that are still to come.
    left: usize,
}

impl Counted {
    /// Follows the messages through what comes. An error is the place of the first one that is refused.
    fn follow(&mut self, bytes: &[u8]) -> Result<(), usize> {
        let mut at = 0;
        while at < bytes.len() {
            if self.left > 0 {
                let step = self.left.min(bytes.len() - at);
                self.left -= step;
                at += step;
                continue;
            }
            if self.prefixed == 0
                && let Err(status) = self.one_more()
            {
                drop(self.refused.set(status));
                return Err(at);
            }
            self.prefix[self.prefixed] = bytes[at];
            self.prefixed += 1;
            at += 1;
            if self.prefixed == PREFIX_BYTES {
                let [_, length @ ..] = self.prefix;
                self.left = u32::from_be_bytes(length) as usize;
                self.prefixed = 0;
            }
        }
        Ok(())
    }

    fn one_more(&mut self) -> Result<(), Status> {
        if self.asked == REQUESTS_MAX {
            return Err(spent());
        }
        self.asked += 1;
        match self.client {
            // The first one was counted as the call that the stream is.
            Some(client) if self.asked > 1 => {
                self.limiter.check(Check::Address(client)).map_err(|RetryAfter(wait)| status::refused(Refused::RateLimited(wait)))
            }
            _ => Ok(()),
        }
    }
}

impl HttpBody for Counted {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        if this.refused.get().is_some() || this.over.as_mut().poll(cx).is_ready() {
            return Poll::Ready(None);
        }
        let frame = match ready!(Pin::new(&mut this.inner).poll_frame(cx)) {
            Some(Ok(frame)) => frame,
            ended => return Poll::Ready(ended),
        };
        Poll::Ready(Some(Ok(match frame.into_data() {
            Ok(mut data) => {
                if let Err(place) = this.follow(&data) {
                    data.truncate(place);
                }
                Frame::data(data)
            }
            Err(frame) => frame,
        })))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt, StreamBody};

    use super::*;
    use crate::ratelimiter::memory::{MemoryLimiter, Rates};

    /// Bytes of this many messages, 3 bytes each and every other one empty, in pieces of a length.
    fn messages(count: usize, piece: usize) -> (Body, usize) {
        let bytes: Vec<u8> =
            (0..count).flat_map(|number| if number % 2 == 0 { vec![0, 0, 0, 0, 3, 1, 2, 3] } else { vec![0; PREFIX_BYTES] }).collect();
        let length = bytes.len();
        let pieces: Vec<_> = bytes.chunks(piece).map(|piece| Ok::<_, Status>(Frame::data(Bytes::copy_from_slice(piece)))).collect();
        (Body::new(StreamBody::new(futures_util::stream::iter(pieces))), length)
    }

    #[tokio::test]
    async fn a_stream_asks_so_much_and_no_byte_of_the_next_message_passes_however_they_are_cut() {
        let (_, all) = messages(REQUESTS_MAX, 1);
        for piece in [1, 3, 7, 64, 10_000] {
            for (count, refuses) in [(REQUESTS_MAX, false), (REQUESTS_MAX + 1, true), (2 * REQUESTS_MAX, true)] {
                let counting = Counting { limiter: Arc::new(MemoryLimiter::new(Rates::default())), trusted_proxies: Vec::new().into() };
                let refused = Refusal::default();
                let request = counting.count(Request::new(messages(count, piece).0), &refused, &CancellationToken::new());
                let passed = request.into_body().collect().await.unwrap().to_bytes();
                assert_eq!(passed.len(), all, "{count} in pieces of {piece}");
                assert_eq!(refused.get().is_some(), refuses, "{count} in pieces of {piece}");
            }
        }
    }

    fn ending(inner: Body, leaving: &CancellationToken, refused: Refusal) -> Ending {
        let due = Some(Box::pin(sleep(REFLECTION_DUE)));
        let _over = leaving.child_token().drop_guard();
        Ending { inner, leaving: Box::pin(leaving.clone().cancelled_owned()), due, refused, ended: false, _over }
    }

    /// A message, and then nothing.
    fn quiet() -> Body {
        let first = futures_util::stream::iter([Ok::<_, Status>(Frame::data(Bytes::from_static(b"x")))]);
        Body::new(StreamBody::new(futures_util::StreamExt::chain(first, futures_util::stream::pending())))
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_ends_with_its_connection_or_when_its_time_is_over_and_says_why() {
        let left = CancellationToken::new();
        left.cancel();
        for (leaving, code) in [(left, "14"), (CancellationToken::new(), "8")] {
            let mut body = ending(quiet(), &leaving, Refusal::default());
            assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "x", "what is there goes first");
            let trailers = body.frame().await.unwrap().unwrap().into_trailers().unwrap();
            assert_eq!(trailers["grpc-status"], code);
            assert!(trailers.contains_key("grpc-status-details-bin"), "with its reason");
            assert!(body.frame().await.is_none());
        }
    }

    #[tokio::test]
    async fn a_refusal_takes_the_place_of_a_good_end_and_of_no_other() {
        for (end, told) in [("0", "8"), ("5", "5")] {
            let trailers = http::HeaderMap::from_iter([("grpc-status".parse().unwrap(), end.parse().unwrap())]);
            let frames = futures_util::stream::iter([Ok::<_, Status>(Frame::trailers(trailers))]);
            let refused = Refusal::default();
            refused.set(spent()).unwrap();
            let mut body = ending(Body::new(StreamBody::new(frames)), &CancellationToken::new(), refused);
            let trailers = body.frame().await.unwrap().unwrap().into_trailers().unwrap();
            assert_eq!(trailers["grpc-status"], told);
        }
    }
}
