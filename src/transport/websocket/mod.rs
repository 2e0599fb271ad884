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

use axum::body::Body;
use futures_util::future::{BoxFuture, ready};
use http::{HeaderMap, HeaderValue, Request, Response};
use hyper_util::rt::TokioIo;
use tonic::Status;
use tower::{Service, service_fn};

use super::connection::Carrier;
use super::gateway::Gateway;
use crate::converter::status::{self, Refused};
use crate::interceptor::HttpService;
use crate::interceptor::limit::check_address;
use crate::interceptor::log::Log;
use crate::model::{Network, Origin};
use crate::observe::request::{REQUEST_ID, RequestContext};
use crate::ratelimiter::{RateLimiter, RetryAfter};
use crate::service::Error;
use socket::Opening;

/// Where sockets are asked for.
pub const PATH: &str = "/v1/connect";
/// Headers of the request that the call has as well.
const PASSED_ON: [&str; 3] = ["user-agent", "traceparent", "tracestate"];

type Answer = BoxFuture<'static, Result<Response<Body>, Infallible>>;

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

/// What a request is told that asks for no socket.
pub fn refuse(request: &Request<Body>, origins: &[Origin], gateway: &Gateway) -> Response<Body> {
    match handshake::agree(request, origins) {
        Ok(_) => gateway.refuse(Refused::PathUnknown.into()),
        Err(no) => no.into_response(request.version(), gateway),
    }
}

impl<S: HttpService> WebSocket<S> {
    /// The answer that agrees, where a request asks for a socket. The others are refused: see [`refuse`].
    pub fn agree(&self, request: &Request<Body>) -> Option<Response<Body>> {
        handshake::agree(request, &self.origins).ok()
    }

    /// Makes a socket of the connection whose request was agreed to.
    pub fn open(&self, request: Request<Body>, agreed: Response<Body>) -> Answer {
        match self.admit(&request) {
            Ok(carrier) => Box::pin(ready(Ok(self.upgrade(request, agreed, &carrier)))),
            Err(status) => self.turn_away(request, status),
        }
    }

    /// The connection that becomes a socket.
    fn admit(&self, request: &Request<Body>) -> Result<Arc<Carrier>, Status> {
        // Here, for the request; the call behind it isn't counted again.
        if let Err(RetryAfter(wait)) = check_address(request, self.limiter.as_ref(), &self.trusted_proxies) {
            return Err(status::refused(Refused::RateLimited(wait)));
        }
        // Only a connection that the listener has accepted can be upgraded.
        let carrier = request.extensions().get::<Arc<Carrier>>().ok_or_else(|| status::of_error(&Error::Internal))?;
        if carrier.leaving.is_cancelled() {
            return Err(status::of_error(&Error::GoingAway));
        }
        Ok(Arc::clone(carrier))
    }

    /// Logged and counted here: it doesn't become the call that would be.
    fn turn_away(&self, request: Request<Body>, status: Status) -> Answer {
        let gateway = Arc::clone(&self.gateway);
        Log(service_fn(move |_: Request<Body>| ready(Ok::<_, Infallible>(gateway.error(&status))))).call(request)
    }

    fn upgrade(&self, mut request: Request<Body>, mut agreed: Response<Body>, carrier: &Carrier) -> Response<Body> {
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
            agreed.headers_mut().insert(REQUEST_ID, id);
        }
        let opening = Opening {
            authorization: handshake::authorization(request.headers()),
            headers,
            leaving: carrier.leaving.clone(),
            cut: carrier.cut.clone(),
        };
        let (upgrade, calls) = (hyper::upgrade::on(&mut request), self.calls.clone());
        carrier.succeed(Box::pin(async move {
            match upgrade.await {
                Ok(io) => socket::serve(TokioIo::new(io), opening, calls).await,
                Err(error) => tracing::debug!(error = %error, "a client did not wait for its WebSocket"),
            }
        }));
        agreed
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::time::Duration;

    use http::StatusCode;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::interceptor::address::Peer;
    use crate::ratelimiter::Check;

    struct Limit(Result<(), RetryAfter>);

    impl RateLimiter for Limit {
        fn check(&self, _: Check<'_>) -> Result<(), RetryAfter> {
            self.0
        }
    }

    /// The answer to a good handshake.
    async fn answer(limit: Result<(), RetryAfter>, leaving: &CancellationToken) -> Response<Body> {
        let websocket = WebSocket {
            calls: service_fn(|_: Request<Body>| ready(Ok::<_, Infallible>(Response::new(Body::empty())))),
            origins: Arc::from(Vec::<Origin>::new()),
            limiter: Arc::new(Limit(limit)),
            trusted_proxies: Arc::from(Vec::<Network>::new()),
            gateway: Arc::new(Gateway::new().unwrap()),
        };
        let request = Request::get(PATH)
            .header("connection", "upgrade")
            .header("upgrade", "websocket")
            .header("sec-websocket-version", "13")
            .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
            .header(REQUEST_ID, "of-the-client")
            .extension(Peer(Ipv4Addr::LOCALHOST.into()))
            .extension(Arc::new(Carrier::new(None, leaving.clone(), CancellationToken::new())));
        let request = request.body(Body::empty()).unwrap();
        let agreed = websocket.agree(&request).expect("it is a handshake");
        websocket.open(request, agreed).await.unwrap()
    }

    #[tokio::test]
    async fn a_good_handshake_that_gets_no_socket_is_told_why_and_by_its_id() {
        let (staying, leaving) = (CancellationToken::new(), CancellationToken::new());
        leaving.cancel();
        let limited = answer(Err(RetryAfter(Duration::from_secs(1))), &staying).await;
        let late = answer(Ok(()), &leaving).await;
        for (answer, status) in [(limited, StatusCode::TOO_MANY_REQUESTS), (late, StatusCode::SERVICE_UNAVAILABLE)] {
            assert_eq!(answer.status(), status);
            assert_eq!(answer.headers()[REQUEST_ID], "of-the-client");
        }
        assert_eq!(answer(Ok(()), &staying).await.status(), StatusCode::SWITCHING_PROTOCOLS);
    }
}
