//! What answers on the public port, with the layers that every request passes.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use futures_util::FutureExt;
use futures_util::future::{Either, Map};
use http::{Request, Response};
use tonic::service::Routes;
use tonic_health::pb::health_server::{Health, HealthServer};
use tower::Service;

use super::assets::Assets;
use super::dev_token::DevToken;
use super::dispatch::{Direct, Dispatch, Stacks};
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
use crate::pb::chat::v1::chat_service_server::{self, ChatServiceServer};
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
    let mut others = Routes::new(health);
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
        others = others
            .add_service(Open { inner: v1, counting: Some(counting.clone()) })
            .add_service(Open { inner: v1alpha, counting: Some(counting) });
    }
    // From the inside out; `interceptor` says why in this order.
    let service = Deadline { inner: Services { api, others: others.into_axum_router() }, due: options.request_due };
    let service = UserLimit { inner: service, limiter: Arc::clone(&options.limiter) };
    let service = Auth { inner: service, verifier: options.verifier };
    let (limiter, trusted_proxies) = (options.limiter, options.trusted_proxies);
    let limit_address = AddressLimit { inner: service, limiter: Arc::clone(&limiter), trusted_proxies: Arc::clone(&trusted_proxies) };
    let calls = Log(CatchPanic(limit_address));
    let gateway = Arc::new(Gateway::new()?);
    let origins = options.origins;
    let direct =
        Direct { gateway: Arc::clone(&gateway), assets: Arc::new(Assets::new()), origins: Arc::clone(&origins), minting: options.minting };
    let direct = AddressLimit { inner: direct, limiter: Arc::clone(&limiter), trusted_proxies: Arc::clone(&trusted_proxies) };
    let dispatch = Dispatch::new(Stacks {
        websocket: WebSocket {
            calls: calls.clone(),
            origins: Arc::clone(&origins),
            limiter,
            trusted_proxies,
            gateway: Arc::clone(&gateway),
        },
        grpc_web: GrpcWeb { calls: calls.clone() },
        grpc: calls,
        direct: Log(CatchPanic(direct)),
        gateway,
    });
    Ok(Cors { inner: dispatch, origins })
}

/// gRPC's services. Behind the router are those that nobody calls often.
#[derive(Clone)]
struct Services {
    api: ChatServiceServer<ChatApi>,
    others: axum::Router,
}

type Answered<B> = Result<Response<B>, Infallible>;
type Finished<F, B> = Map<F, fn(Answered<B>) -> Answered<Body>>;

impl Service<Request<Body>> for Services {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Either<
        Finished<<ChatServiceServer<ChatApi> as Service<Request<Body>>>::Future, tonic::body::Body>,
        Finished<<axum::Router as Service<Request<Body>>>::Future, Body>,
    >;

    /// Both are always ready.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let service = request.uri().path().strip_prefix('/').and_then(|path| path.split_once('/')).map(|(service, _)| service);
        if service == Some(chat_service_server::SERVICE_NAME) {
            Either::Left(self.api.call(request).map(|answer| answer.map(finish)))
        } else {
            Either::Right(self.others.call(request).map(|answer| answer.map(own_words)))
        }
    }
}

/// Puts a stream's real body in.
fn finish(mut response: Response<tonic::body::Body>) -> Response<Body> {
    let body = response.extensions_mut().remove::<ConnectBody>().and_then(|body| body.take());
    own_words(response.map(|empty| body.unwrap_or_else(|| Body::new(empty))))
}

/// Says in this service's words what tonic said in its own.
fn own_words(response: Response<Body>) -> Response<Body> {
    match status::in_own_words(response.headers()) {
        Some(status) => status.into_http(),
        None => response,
    }
}
