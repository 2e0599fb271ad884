//! One port for every client: each request goes, by its content type and path, to gRPC, to the gateway, or to what is answered directly.
//!
//! gRPC's stack of layers is whole in itself, and the gateway's calls go through it as gRPC: the same authentication, limits, log lines. What becomes no
//! call (files, preflights, refusals) goes through a shorter stack, without authentication: log, panic, address limit.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::Body;
use futures_util::future::{Either, Ready, ready as answered};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, Request, Response};
use http_body::Body as _;
use prost_reflect::MessageDescriptor;
use tower::Service;

use super::assets::{self, Assets};
use super::dev_token::DevToken;
use super::drain;
use super::gateway::{Gateway, Refusal};
use super::grpc_web::{self, GrpcWeb, is_grpc_web};
use super::websocket::{self, WebSocket};
use crate::converter::status::Refused;
use crate::interceptor::HttpService;
use crate::interceptor::cors::{is_preflight, preflight};
use crate::model::Origin;

/// Who answers a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Speech {
    Grpc,
    GrpcWeb,
    WebSocket,
    Rest,
    /// Files; and what nobody knows.
    Other,
}

fn speech(headers: &HeaderMap, path: &str) -> Speech {
    let content_type = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    let is = |prefix: &[u8]| content_type.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix));
    match path {
        _ if is_grpc_web(headers) => Speech::GrpcWeb,
        _ if is(b"application/grpc") => Speech::Grpc,
        websocket::PATH => Speech::WebSocket,
        path if path.starts_with("/v1/") => Speech::Rest,
        _ => Speech::Other,
    }
}

/// The public port's service. Whoever has it has a pointer: of the stacks behind it, only the one that a request takes is cloned for it.
pub struct Dispatch<G, D>(Arc<Stacks<G, D>>);

impl<G, D> Dispatch<G, D> {
    pub fn new(stacks: Stacks<G, D>) -> Self {
        Self(Arc::new(stacks))
    }
}

impl<G, D> Clone for Dispatch<G, D> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

/// `grpc`: the whole stack of gRPC; `direct`: the shorter one, around a [`Direct`].
pub struct Stacks<G, D> {
    pub grpc: G,
    pub grpc_web: GrpcWeb<G>,
    pub websocket: WebSocket<G>,
    pub direct: D,
    pub gateway: Arc<Gateway>,
}

type Boxed = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;
/// gRPC's own answer as it comes, or another one.
type Dispatched<G> = Either<<G as Service<Request<Body>>>::Future, Boxed>;

impl<G: HttpService, D: HttpService> Service<Request<Body>> for Dispatch<G, D> {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Dispatched<G>;

    /// Every layer of the stacks, and what is behind them, is always ready.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let stacks = &*self.0;
        if is_preflight(&request) {
            return stacks.direct(request);
        }
        match speech(request.headers(), request.uri().path()) {
            Speech::Grpc => Either::Left(stacks.grpc.clone().call(request)),
            Speech::Rest => match stacks.gateway.open(&request) {
                Ok(call) => {
                    let output = call.output();
                    let (request, rest) = drain::hold(request);
                    let answer = stacks.grpc.clone().call(call.into_grpc(request));
                    Either::Right(Box::pin(rest.behind(translated(Arc::clone(&stacks.gateway), answer, Some(output)))))
                }
                Err(_) => stacks.direct(request),
            },
            Speech::GrpcWeb if grpc_web::is_call(&request) => Either::Right(stacks.grpc_web.clone().call(request)),
            Speech::WebSocket => match stacks.websocket.agree(&request) {
                Some(agreed) => Either::Right(stacks.websocket.open(request, agreed)),
                None => stacks.direct(request),
            },
            Speech::GrpcWeb | Speech::Other => stacks.direct(request),
        }
    }
}

impl<G: HttpService, D: HttpService> Stacks<G, D> {
    fn direct(&self, request: Request<Body>) -> Dispatched<G> {
        let is_head = request.method() == Method::HEAD;
        // The layers around it refuse as gRPC does.
        let (request, rest) = drain::hold(request);
        let answer = rest.behind(translated(Arc::clone(&self.gateway), self.direct.clone().call(request), None));
        Either::Right(Box::pin(async move {
            let answer = answer.await?;
            Ok(if is_head { without_body(answer) } else { answer })
        }))
    }
}

async fn translated(
    gateway: Arc<Gateway>,
    answer: impl Future<Output = Result<Response<Body>, Infallible>>,
    output: Option<MessageDescriptor>,
) -> Result<Response<Body>, Infallible> {
    Ok(gateway.to_http(answer.await?, output).await)
}

/// The answer to HEAD says how long its body would be, and has none.
fn without_body(mut response: Response<Body>) -> Response<Body> {
    if let Some(length) = response.body().size_hint().exact().filter(|length| *length > 0) {
        response.headers_mut().insert(CONTENT_LENGTH, length.into());
    }
    response.map(|_| Body::empty())
}

/// Answers what is no call: files, preflights, and refusals.
#[derive(Clone)]
pub struct Direct {
    pub gateway: Arc<Gateway>,
    pub assets: Arc<Assets>,
    /// Of pages that may use this server, beside its own.
    pub origins: Arc<[Origin]>,
    /// On a development server.
    pub minting: Option<DevToken>,
}

impl Direct {
    fn answer(&self, request: &Request<Body>) -> Response<Body> {
        if is_preflight(request) {
            return preflight(request.headers(), &self.origins, |refused| self.gateway.refuse(refused.into()));
        }
        match speech(request.headers(), request.uri().path()) {
            // Those that are calls don't come here.
            Speech::GrpcWeb => self.gateway.refuse(grpc_web::refusal(request).unwrap_or(Refused::PathUnknown.into())),
            Speech::WebSocket => websocket::refuse(request, &self.origins, &self.gateway),
            Speech::Grpc | Speech::Rest | Speech::Other => self.file(request),
        }
    }

    fn file(&self, request: &Request<Body>) -> Response<Body> {
        match self.assets.find(request.uri().path()) {
            Some(asset) if [Method::GET, Method::HEAD].contains(request.method()) => asset.answer(request.headers()),
            Some(_) => self.gateway.refuse(Refusal::method(assets::METHODS)),
            None => self.gateway.refuse(self.gateway.open(request).err().unwrap_or(Refused::PathUnknown.into())),
        }
    }
}

impl Service<Request<Body>> for Direct {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Either<Ready<Result<Response<Body>, Infallible>>, Boxed>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        match self.minting.clone().filter(|_| !is_preflight(&request) && DevToken::answers(&request)) {
            Some(minting) => {
                let gateway = Arc::clone(&self.gateway);
                Either::Right(Box::pin(async move { Ok(minting.answer(request, &gateway).await) }))
            }
            None => Either::Left(answered(Ok(self.answer(&request)))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_content_type_decides_first_and_then_the_path() {
        let speech = |content_type: &'static str, path: &str| {
            speech(&HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(content_type))]), path)
        };
        for (content_type, path, expected) in [
            ("application/grpc", "/chat.v1.ChatService/GetChat", Speech::Grpc),
            ("application/grpc+proto", "/v1/chats", Speech::Grpc),
            ("Application/GRPC-Web+proto", "/chat.v1.ChatService/GetChat", Speech::GrpcWeb),
            ("application/json", "/v1/chats", Speech::Rest),
            ("", "/v1/connect", Speech::WebSocket),
            ("", "/v1/", Speech::Rest),
            ("", "/v1", Speech::Other),
            ("", "/", Speech::Other),
            ("application/gr", "/chat.v1.ChatService/GetChat", Speech::Other),
        ] {
            assert_eq!(speech(content_type, path), expected, "{content_type} {path}");
        }
    }
}
