//! What answers on the public port, with the layers that every request passes.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Either};
use http::{Request, Response};
use tonic::service::Routes;
use tonic_health::pb::health_server::{Health, HealthServer};
use tower::Service;

use super::grpc_web::{GrpcWeb, is_grpc_web};
use super::handlers::{ChatApi, ConnectBody};
use super::websocket::{self, WebSocket};
use crate::interceptor::HttpService;
use crate::interceptor::auth::Auth;
use crate::interceptor::cors::Cors;
use crate::interceptor::deadline::Deadline;
use crate::interceptor::limit::{AddressLimit, UserLimit};
use crate::interceptor::log::Log;
use crate::interceptor::panic::CatchPanic;
use crate::interceptor::token::Verifier;
use crate::model::{Network, Origin, limits};
use crate::pb::FILE_DESCRIPTOR_SET;
use crate::pb::chat::v1::chat_service_server::ChatServiceServer;
use crate::ratelimiter::RateLimiter;

pub struct RouteOptions<H> {
    pub api: ChatApi,
    pub verifier: Arc<Verifier>,
    pub limiter: Arc<dyn RateLimiter>,
    /// Proxies that are trusted to say for whom they ask.
    pub trusted_proxies: Arc<[Network]>,
    /// Of pages that may use this server, beside its own.
    pub origins: Arc<[Origin]>,
    /// When a call's answer must have begun.
    pub request_due: Duration,
    pub health: HealthServer<H>,
    pub reflection: bool,
}

/// The public port's service.
pub fn routes<H: Health>(options: RouteOptions<H>) -> Result<impl HttpService + use<H>, tonic_reflection::server::Error> {
    let api = ChatServiceServer::new(options.api).max_decoding_message_size(limits::REQUEST_BYTES_MAX);
    let mut routes = Routes::new(api).add_service(options.health);
    if options.reflection {
        let builder = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
                // The details of errors, so that clients by reflection can show them.
                .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
        };
        routes = routes.add_service(builder().build_v1()?).add_service(builder().build_v1alpha()?);
    }
    let router = routes.into_axum_router().layer(axum::middleware::map_response(put_connect_body));
    // From the inside out; `interceptor` says why in this order.
    let service = Deadline { inner: Answering(router), due: options.request_due };
    let service = UserLimit { inner: service, limiter: Arc::clone(&options.limiter) };
    let service = Auth { inner: service, verifier: options.verifier };
    let (limiter, trusted_proxies) = (Arc::clone(&options.limiter), Arc::clone(&options.trusted_proxies));
    let calls = Log(AddressLimit { inner: service, limiter, trusted_proxies });
    let websocket = WebSocket {
        calls: calls.clone(),
        origins: Arc::clone(&options.origins),
        limiter: options.limiter,
        trusted_proxies: options.trusted_proxies,
    };
    let ways = Ways { websocket, grpc_web: GrpcWeb { calls: calls.clone() }, calls };
    Ok(CatchPanic(Cors { inner: ways, origins: options.origins }))
}

async fn put_connect_body(mut response: Response<Body>) -> Response<Body> {
    match response.extensions_mut().remove::<ConnectBody>().and_then(|body| body.take()) {
        Some(body) => response.map(|_| body),
        None => response,
    }
}

/// By which way a request comes in: what isn't translated is a gRPC call.
#[derive(Clone)]
struct Ways<S> {
    websocket: WebSocket<S>,
    grpc_web: GrpcWeb<S>,
    calls: S,
}

impl<S: HttpService> Service<Request<Body>> for Ways<S> {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Either<S::Future, BoxFuture<'static, Result<Response<Body>, Infallible>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.calls.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        if request.uri().path() == websocket::PATH {
            return Either::Right(self.websocket.call(request).boxed());
        }
        if is_grpc_web(request.headers()) {
            return Either::Right(self.grpc_web.call(request));
        }
        Either::Left(self.calls.call(request))
    }
}

/// The router under the stack's own names of types.
#[derive(Clone)]
struct Answering(axum::Router);

impl Service<Request<Body>> for Answering {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = <axum::Router as Service<Request<Body>>>::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Service::<Request<Body>>::poll_ready(&mut self.0, cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        self.0.call(request)
    }
}
