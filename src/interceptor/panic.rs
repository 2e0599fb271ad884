//! A panic in one request is answered as INTERNAL and stays in that request.

use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::Body;
use futures_util::FutureExt;
use futures_util::future::CatchUnwind;
use http::{Request, Response};
use pin_project_lite::pin_project;
use tower::Service;

use super::HttpService;
use crate::converter::status::{self, Refused};

#[derive(Clone)]
pub struct CatchPanic<S>(pub S);

impl<S: HttpService> Service<Request<Body>> for CatchPanic<S> {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Caught<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        // The panic hook logs and counts it. Nothing of the request is used after it.
        let called = std::panic::catch_unwind(AssertUnwindSafe(|| self.0.call(request)));
        Caught { answer: called.ok().map(|answer| AssertUnwindSafe(answer).catch_unwind()) }
    }
}

pin_project! {
    /// An answer, or what is said in its place when it panics.
    pub struct Caught<F> {
        // `None`: there is none, for the call has panicked.
        #[pin]
        answer: Option<CatchUnwind<AssertUnwindSafe<F>>>,
    }
}

impl<F: Future<Output = Result<Response<Body>, Infallible>>> Future for Caught<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        if let Some(answer) = self.project().answer.as_pin_mut() {
            match answer.poll(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(answer)) => return Poll::Ready(answer),
                Poll::Ready(Err(_)) => {}
            }
        }
        Poll::Ready(Ok(status::refused(Refused::Panicked).into_http()))
    }
}
