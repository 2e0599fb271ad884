//! A panic in one request is answered as INTERNAL and stays in that request.

use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::task::{Context, Poll};

use axum::body::Body;
use futures_util::FutureExt;
use http::{Request, Response};
use tower::Service;

use super::{Answer, HttpService};
use crate::converter::status::{self, Refused};
use crate::observe::metrics;

#[derive(Clone)]
pub struct CatchPanic<S>(pub S);

impl<S: HttpService> Service<Request<Body>> for CatchPanic<S> {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Answer {
        // The panic's own message is logged by the panic hook. Nothing of the request is used after it.
        let called = std::panic::catch_unwind(AssertUnwindSafe(|| self.0.call(request)));
        Box::pin(async move {
            let answer = match called {
                Ok(answer) => AssertUnwindSafe(answer).catch_unwind().await,
                Err(panic) => Err(panic),
            };
            answer.unwrap_or_else(|_| {
                metrics::PANICS.one();
                Ok(status::refused(Refused::Panicked).into_http())
            })
        })
    }
}
