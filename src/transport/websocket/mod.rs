//! ConnectChat on a WebSocket, for clients without gRPC: a socket's frames are the stream's, as JSON, a text message each.
//!
//! A socket is a call of ConnectChat, made in this process through all the layers, whose frames and events are translated on the way: the
//! same session, with the same promises, limits, and log line. It lives in the task of the connection that it was made from.
//!
//! - [`handshake`]: the request that asks for a socket.
//! - [`socket`]: reads frames and writes events.
//! - [`pulse`]: listens to the client, and whether it lives.
//! - [`json`]: frames and events as JSON.
//! - [`closing`]: how a socket ends.

mod closing;
mod handshake;
mod json;
mod pulse;
mod socket;

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::Body;
use futures_util::future::{Ready, ready};
use http::{HeaderMap, HeaderValue, Request, Response};
use hyper_util::rt::TokioIo;
use tower::Service;

use super::connection::{Cut, Leaving, Successor};
use super::gateway::Gateway;
use crate::converter::status::{self, Refused};
use crate::interceptor::HttpService;
use crate::interceptor::context::{REQUEST_ID, RequestContext};
use crate::interceptor::limit::check_address;
use crate::model::{Network, Origin};
use crate::ratelimiter::{RateLimiter, RetryAfter};
use crate::service::Error;
use socket::Opening;

/// Where sockets are asked for.
pub const PATH: &str = "/v1/connect";
/// Headers of the request that the call has as well.
const PASSED_ON: [&str; 3] = ["user-agent", "traceparent", "tracestate"];

/// Answers the requests for sockets.
#[derive(Clone)]
pub struct WebSocket<S> {
    /// Answers gRPC calls: the whole stack of layers, with the API behind it.
    pub calls: S,
    /// Of pages that may open sockets, beside the server's own.
    pub origins: Arc<[Origin]>,
    pub limiter: Arc<dyn RateLimiter>,
    pub trusted_proxies: Arc<[Network]>,
    /// Makes errors of HTTP.
    pub gateway: Arc<Gateway>,
}

impl<S: HttpService> Service<Request<Body>> for WebSocket<S> {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Ready<Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        ready(Ok(self.answer(request)))
    }
}

/// What a request is told that asks for no socket.
pub fn refuse(request: &Request<Body>, origins: &[Origin], gateway: &Gateway) -> Response<Body> {
    match handshake::agree(request, origins) {
        Ok(_) => gateway.refuse(Refused::PathUnknown.into()),
        Err(no) => no.into_response(request.version(), gateway),
    }
}

impl<S: HttpService> WebSocket<S> {
    /// Whether a request asks for a socket. The others are refused: see [`refuse`].
    pub fn agrees(&self, request: &Request<Body>) -> bool {
        handshake::agree(request, &self.origins).is_ok()
    }

    fn answer(&self, mut request: Request<Body>) -> Response<Body> {
        // Here, for the request; the call behind it isn't counted again.
        if let Err(RetryAfter(wait)) = check_address(&request, self.limiter.as_ref(), &self.trusted_proxies) {
            return self.gateway.refuse(Refused::RateLimited(wait).into());
        }
        let mut response = match handshake::agree(&request, &self.origins) {
            Ok(response) => response,
            Err(no) => return no.into_response(request.version(), &self.gateway),
        };
        let extensions = request.extensions();
        let (Some(Leaving(leaving)), Some(Cut(cut)), Some(successor)) =
            (extensions.get::<Leaving>().cloned(), extensions.get::<Cut>().cloned(), extensions.get::<Successor>().cloned())
        else {
            // Only a connection that the listener has accepted can be upgraded.
            return self.gateway.error(&status::of_error(&Error::Internal));
        };
        if leaving.is_cancelled() {
            return self.gateway.error(&status::of_error(&Error::GoingAway));
        }
        let context = RequestContext::of(request.headers(), None);
        let mut headers = HeaderMap::new();
        for name in PASSED_ON {
            if let Some(value) = request.headers().get(name) {
                headers.insert(name, value.clone());
            }
        }
        // Ids are made of characters that a header may hold.
        if let Ok(id) = HeaderValue::from_str(&context.request_id) {
            headers.insert(REQUEST_ID, id.clone());
            response.headers_mut().insert(REQUEST_ID, id);
        }
        let opening = Opening { authorization: handshake::authorization(request.headers()), headers, leaving, cut };
        let (upgrade, calls) = (hyper::upgrade::on(&mut request), self.calls.clone());
        successor.put(Box::pin(async move {
            match upgrade.await {
                Ok(io) => socket::serve(TokioIo::new(io), opening, calls).await,
                Err(error) => tracing::debug!(error = %error, "a client did not wait for its WebSocket"),
            }
        }));
        response
    }
}
