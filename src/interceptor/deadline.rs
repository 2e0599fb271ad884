//! A call's answer begins within a stated time, so that a request whose body never comes holds nothing for ever. Streams answer at once and
//! have deadlines of their own.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Body;
use http::{Request, Response};
use pin_project_lite::pin_project;
use tokio::time::{Timeout, timeout};
use tower::Service;

use super::HttpService;
use crate::converter::status::{self, Refused};
use crate::observe::metrics::{self, Limit};

#[derive(Clone)]
pub struct Deadline<S> {
    pub inner: S,
    pub due: Duration,
}

impl<S: HttpService> Service<Request<Body>> for Deadline<S> {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = InTime<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        InTime { answer: timeout(self.due, self.inner.call(request)) }
    }
}

pin_project! {
    /// An answer, or the refusal that takes its place.
    pub struct InTime<F> {
        #[pin]
        answer: Timeout<F>,
    }
}

impl<F: Future<Output = Result<Response<Body>, Infallible>>> Future for InTime<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        Poll::Ready(ready!(self.project().answer.poll(cx)).unwrap_or_else(|_| {
            metrics::limit_hit(Limit::RequestDue);
            Ok(status::refused(Refused::RequestLate).into_http())
        }))
    }
}
