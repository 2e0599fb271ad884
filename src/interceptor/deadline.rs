//! A call's answer begins within a stated time, so that a request whose body never comes holds nothing for ever. Streams answer at once and
//! have deadlines of their own.

use std::convert::Infallible;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use http::{Request, Response};
use tower::Service;

use super::{Answer, HttpService};
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
    type Future = Answer;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Answer {
        let answer = tokio::time::timeout(self.due, self.inner.call(request));
        Box::pin(async move {
            answer.await.unwrap_or_else(|_| {
                metrics::limit_hit(Limit::RequestDue);
                Ok(status::refused(Refused::RequestLate).into_http())
            })
        })
    }
}
