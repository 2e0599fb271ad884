//! gRPC-web: calls of browsers, over HTTP/1.1 and HTTP/2. The answer's trailers come as the body's last frame.
//!
//! The translation is tonic-web's, which passes bodies on piece by piece: flow control and streams stay as they are. Its layer takes nothing
//! but gRPC-web, so it is asked for nothing else.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::Body;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http::{HeaderMap, HeaderValue, Method, Request, Response, header};
use tonic_web::GrpcWebLayer;
use tower::{Layer, Service, ServiceExt};

use super::connection::Carrier;
use super::detached::MayDetach;
use super::gateway::Refusal;
use crate::converter::status::Refused;
use crate::interceptor::HttpService;

const PREFIX: &str = "application/grpc-web";
/// With binary frames, or with their base64.
const CONTENT_TYPES: [&str; 4] =
    ["application/grpc-web", "application/grpc-web+proto", "application/grpc-web-text", "application/grpc-web-text+proto"];

/// Whether a request speaks gRPC-web, or means to.
pub fn is_grpc_web(headers: &HeaderMap) -> bool {
    let given = headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    given.get(..PREFIX.len()).is_some_and(|start| start.eq_ignore_ascii_case(PREFIX.as_bytes()))
}

/// Whether a request that speaks gRPC-web is a call, for [`GrpcWeb`].
pub fn is_call(request: &Request<Body>) -> bool {
    refusal(request).is_none()
}

/// Why a request that speaks gRPC-web is no call.
pub fn refusal(request: &Request<Body>) -> Option<Refusal> {
    if request.method() != Method::POST {
        return Some(Refusal::method_because(Refused::GrpcWeb("gRPC-web calls are POST requests"), "POST"));
    }
    let unknown = Refused::GrpcWeb("the content type of gRPC-web is application/grpc-web+proto");
    known(request.headers()).is_none().then(|| unknown.into())
}

/// The content type, of those that are understood. A charset, or the like, says nothing here.
fn known(headers: &HeaderMap) -> Option<&'static str> {
    let given = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let bare = given.split(';').next().unwrap_or_default().trim();
    CONTENT_TYPES.into_iter().find(|known| known.eq_ignore_ascii_case(bare))
}

/// Translates a call, and has it answered as a gRPC call by the whole stack of layers.
#[derive(Clone)]
pub struct GrpcWeb<S> {
    pub calls: S,
}

impl<S: HttpService> Service<Request<Body>> for GrpcWeb<S> {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // A call waits for a copy of the stack.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        if let Some(known) = known(request.headers()) {
            request.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(known));
        }
        if let Some(carrier) = request.extensions().get::<Arc<Carrier>>() {
            let may_detach = MayDetach(carrier.cut.clone());
            request.extensions_mut().insert(may_detach);
        }
        let answer = GrpcWebLayer::new().layer(Calls(self.calls.clone())).oneshot(request);
        async move { Ok(answer.await?.map(Body::new)) }.boxed()
    }
}

/// The stack under the translation's own name of a body.
#[derive(Clone)]
struct Calls<S>(S);

impl<S: HttpService> Service<Request<tonic::body::Body>> for Calls<S> {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<tonic::body::Body>) -> Self::Future {
        self.0.call(request.map(Body::new))
    }
}
