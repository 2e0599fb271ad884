//! gRPC-web: calls of browsers, over HTTP/1.1 and HTTP/2. The answer's trailers come as the body's last frame.
//!
//! The translation is tonic-web's, which passes bodies on piece by piece: flow control and streams stay as they are. Its layer takes nothing
//! but gRPC-web, so it is asked for nothing else.

use std::convert::Infallible;
use std::task::{Context, Poll};

use axum::body::Body;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, ready};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use tonic_web::GrpcWebLayer;
use tower::{Layer, Service, ServiceExt};

use super::connection::Cut;
use super::detached::MayDetach;
use crate::converter::refusal;
use crate::converter::status::{self, Refused};
use crate::interceptor::HttpService;

const PREFIX: &str = "application/grpc-web";
/// With binary frames, or with their base64.
const CONTENT_TYPES: [&str; 4] =
    ["application/grpc-web", "application/grpc-web+proto", "application/grpc-web-text", "application/grpc-web-text+proto"];

/// Whether a request is meant for [`GrpcWeb`].
pub fn is_grpc_web(headers: &HeaderMap) -> bool {
    let given = headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    given.get(..PREFIX.len()).is_some_and(|start| start.eq_ignore_ascii_case(PREFIX.as_bytes()))
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
        if let Err((code, refused)) = prepare(&mut request) {
            let mut response = refusal(code, &status::refused(refused));
            if code == StatusCode::METHOD_NOT_ALLOWED {
                response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("POST"));
            }
            return ready(Ok(response)).boxed();
        }
        let answer = GrpcWebLayer::new().layer(Calls(self.calls.clone())).oneshot(request);
        async move { Ok(answer.await?.map(Body::new)) }.boxed()
    }
}

fn prepare(request: &mut Request<Body>) -> Result<(), (StatusCode, Refused)> {
    if request.method() != Method::POST {
        return Err((StatusCode::METHOD_NOT_ALLOWED, Refused::GrpcWeb("gRPC-web calls are POST requests")));
    }
    let given = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    // A charset, or the like, says nothing here.
    let bare = given.split(';').next().unwrap_or_default().trim();
    let Some(known) = CONTENT_TYPES.into_iter().find(|known| known.eq_ignore_ascii_case(bare)) else {
        let why = "the content type of gRPC-web is application/grpc-web+proto";
        return Err((StatusCode::UNSUPPORTED_MEDIA_TYPE, Refused::GrpcWeb(why)));
    };
    request.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(known));
    if let Some(Cut(cut)) = request.extensions().get::<Cut>().cloned() {
        request.extensions_mut().insert(MayDetach(cut));
    }
    Ok(())
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
