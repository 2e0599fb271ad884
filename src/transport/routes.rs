//! What answers on the public port, with the layers that every request passes.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use http::{Request, Response};
use tonic::service::Routes;
use tonic_health::pb::health_server::{Health, HealthServer};
use tower::Service;

use super::assets::Assets;
use super::dev_token::DevToken;
use super::dispatch::{Direct, Dispatch};
use super::gateway::{Gateway, Unsupported};
use super::grpc_web::GrpcWeb;
use super::handlers::{ChatApi, ConnectBody};
use super::open::{Counting, Open};
use super::websocket::WebSocket;
use crate::converter::status;
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

/// The largest request of health and reflection, which need no token.
const OPEN_REQUEST_BYTES_MAX: usize = 4 * 1024;

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
    /// Tokens for whoever asks, on a development server.
    pub minting: Option<DevToken>,
}

/// Why there is no service.
#[derive(Debug, thiserror::Error)]
pub enum RouteError {
    #[error("can't serve reflection: {0}; set CHAT_REFLECTION=false")]
    Reflection(#[from] tonic_reflection::server::Error),
    #[error("can't serve REST: {0}")]
    Gateway(#[from] Unsupported),
}

/// The public port's service.
pub fn routes<H: Health>(options: RouteOptions<H>) -> Result<impl HttpService + use<H>, RouteError> {
    let api = ChatServiceServer::new(options.api).max_decoding_message_size(limits::REQUEST_BYTES_MAX);
    // Strangers may ask these, and need few words for it.
    let health = Open { inner: options.health.max_decoding_message_size(OPEN_REQUEST_BYTES_MAX), counting: None };
    let mut routes = Routes::new(api).add_service(health);
    if options.reflection {
        let builder = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
                // The details of errors, so that clients by reflection can show them.
                .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
        };
        let v1 = builder().build_v1()?.max_decoding_message_size(OPEN_REQUEST_BYTES_MAX);
        let v1alpha = builder().build_v1alpha()?.max_decoding_message_size(OPEN_REQUEST_BYTES_MAX);
        let counting = Counting { limiter: Arc::clone(&options.limiter), trusted_proxies: Arc::clone(&options.trusted_proxies) };
        routes = routes
            .add_service(Open { inner: v1, counting: Some(counting.clone()) })
            .add_service(Open { inner: v1alpha, counting: Some(counting) });
    }
    let router = routes.into_axum_router().layer(axum::middleware::map_response(finish));
    // From the inside out; `interceptor` says why in this order.
    let service = Deadline { inner: Answering(router), due: options.request_due };
    let service = UserLimit { inner: service, limiter: Arc::clone(&options.limiter) };
    let service = Auth { inner: service, verifier: options.verifier };
    let (limiter, trusted_proxies) = (options.limiter, options.trusted_proxies);
    let limit_address = AddressLimit { inner: service, limiter: Arc::clone(&limiter), trusted_proxies: Arc::clone(&trusted_proxies) };
    let calls = CatchPanic(Log(limit_address));
    let gateway = Arc::new(Gateway::new()?);
    let origins = options.origins;
    let direct =
        Direct { gateway: Arc::clone(&gateway), assets: Arc::new(Assets::new()), origins: Arc::clone(&origins), minting: options.minting };
    let direct = AddressLimit { inner: direct, limiter: Arc::clone(&limiter), trusted_proxies: Arc::clone(&trusted_proxies) };
    let dispatch = Dispatch {
        websocket: WebSocket {
            calls: calls.clone(),
            origins: Arc::clone(&origins),
            limiter,
            trusted_proxies,
            gateway: Arc::clone(&gateway),
        },
        grpc_web: GrpcWeb { calls: calls.clone() },
        grpc: calls,
        direct: CatchPanic(Log(direct)),
        gateway,
    };
    Ok(Cors { inner: dispatch, origins })
}

/// Puts a stream's real body in, and says in this service's words what tonic said in its own.
async fn finish(mut response: Response<Body>) -> Response<Body> {
    if let Some(status) = status::in_own_words(response.headers()) {
        return status.into_http();
    }
    match response.extensions_mut().remove::<ConnectBody>().and_then(|body| body.take()) {
        Some(body) => response.map(|_| body),
        None => response,
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
