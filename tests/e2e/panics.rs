//! A part that panics: what it happens in ends as INTERNAL, and nothing else does.

use std::sync::Arc;

use chat_service::interceptor::token::{Demands, Key, Verifier};
use chat_service::model::{Clock, SystemClock, Timestamp};
use chat_service::observe::metrics;
use chat_service::observe::text::Text;
use chat_service::pb::chat::v1::*;
use chat_service::ratelimiter::{Check, RateLimiter, RetryAfter};
use chat_service::transport::limits::ConnectionLimits;
use chat_service::transport::listener::{self, ListenerOptions};
use chat_service::transport::session::{Session, SessionOptions, outbox};
use chat_service::transport::{ChatApi, RouteOptions, routes};
use futures_util::StreamExt;
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request};

use crate::common::*;
use crate::parts::{Alone, identity};

/// A defect that shows when this user's calls and frames are counted.
const UNLUCKY: &str = "unlucky";
struct Defect;

impl RateLimiter for Defect {
    fn check(&self, check: Check<'_>) -> Result<(), RetryAfter> {
        match check {
            Check::Call(user) if user.as_str() == UNLUCKY => panic!("a defect, on purpose"),
            _ => Ok(()),
        }
    }
}

/// A defect that shows when a chat is made.
struct NoClock;

impl Clock for NoClock {
    fn now(&self) -> Timestamp {
        panic!("a defect, on purpose")
    }
}

fn verifier() -> Arc<Verifier> {
    Arc::new(Verifier::new(&Key::Secret(SECRET.into()), &Demands::default()).unwrap())
}

/// The one connection to a port: there is no second one.
async fn connected(port: u16) -> Channel {
    let mut only = Some(TcpStream::connect(("127.0.0.1", port)).await.unwrap());
    let connector = tower::service_fn(move |_: http::Uri| {
        std::future::ready(only.take().map(TokioIo::new).ok_or_else(|| std::io::Error::other("the connection has ended")))
    });
    within(Endpoint::from_static("http://localhost").connect_with_connector(connector)).await.unwrap()
}

fn with_id<T>(message: T, id: &'static str) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("x-request-id", id.parse().unwrap());
    request
}

/// How many calls of a method have ended with INTERNAL.
fn internal(method: &str) -> u64 {
    let mut text = Text::default();
    metrics::render(&mut text);
    let sample = format!("chat_rpc_requests_total{{method=\"chat.v1.ChatService/{method}\",code=\"INTERNAL\"}} ");
    text.into_string().lines().find_map(|line| line.strip_prefix(sample.as_str())?.parse().ok()).unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_in_a_call_is_answered_as_internal_with_its_id_and_its_count_and_its_connection_goes_on() {
    // One panics in a layer, before there is an answer to wait for; the other one in the handler's own time.
    let Alone { service, _folder, .. } = Alone::by(Arc::new(NoClock)).await;
    let (verifier, limiter, draining) = (verifier(), Arc::new(Defect), CancellationToken::new());
    let options = SessionOptions {
        service,
        verifier: verifier.clone(),
        clock: Arc::new(SystemClock),
        limiter: limiter.clone(),
        send_due: None,
        draining: draining.clone(),
    };
    let (_reporter, health) = tonic_health::server::health_reporter();
    let answering = routes(RouteOptions {
        api: ChatApi::new(options),
        verifier,
        limiter,
        trusted_proxies: Arc::from([]),
        origins: Arc::from([]),
        request_due: PATIENCE,
        health,
        reflection: false,
        minting: None,
    });
    let listening = ListenerOptions {
        tls: None,
        connections_max: 0,
        connections_per_address_max: 0,
        trusted_proxies: Arc::from([]),
        limits: ConnectionLimits::default(),
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let serving = tokio::spawn(listener::serve(listener, answering.unwrap(), listening, draining, CancellationToken::new()));

    let channel = connected(port).await;
    let mut unlucky = with_token(channel.clone(), &mint(UNLUCKY, &["user"]));
    let mut alice = with_token(channel, &mint("alice", &["user"]));
    let methods = ["ListChats", "CreateChat"];
    let before = methods.map(internal);
    let in_a_layer = within(unlucky.list_chats(with_id(ListChatsRequest::default(), "of-the-layer"))).await.unwrap_err();
    let create = CreateChatRequest { title: "Tea".into(), ..CreateChatRequest::default() };
    let in_a_handler = within(alice.create_chat(with_id(create, "of-the-handler"))).await.unwrap_err();
    for (status, id) in [(in_a_layer, "of-the-layer"), (in_a_handler, "of-the-handler")] {
        assert_eq!((status.code(), reason(&status).as_str()), (Code::Internal, "INTERNAL"));
        assert_eq!(status.metadata().get("x-request-id").unwrap(), id);
    }
    let answer = within(alice.list_chats(ListChatsRequest::default())).await.unwrap();
    assert!(answer.into_inner().chats.is_empty());
    until("both are counted", || methods.map(internal) == before.map(|calls| calls + 1)).await;
    serving.abort();
}

#[tokio::test]
async fn a_panic_in_a_session_ends_its_stream_as_internal_and_leaves_nothing_behind() {
    let Alone { service, registry, _folder, .. } = Alone::new().await;
    let (verifier, clock, draining) = (verifier(), Arc::new(SystemClock), CancellationToken::new());
    let leaving = draining.clone();
    let options = Arc::new(SessionOptions { service, verifier, clock, limiter: Arc::new(Defect), send_due: None, draining });
    let frame = ConnectChatRequest { frame: Some(join("no chat", None)) };
    let frames = futures_util::stream::iter([Ok(frame)]).chain(futures_util::stream::pending());
    let (outbox, mut body) = outbox::outbox();
    let session = tokio::spawn(Session::new(options, leaving, identity(UNLUCKY), frames, outbox).run());
    let trailers = within(body.frame()).await.unwrap().unwrap().into_trailers().unwrap();
    assert_eq!(trailers["grpc-status"], "13", "INTERNAL");
    assert!(trailers.contains_key("grpc-status-details-bin"), "with its reason");
    assert_eq!(registry.subscription_count(), 0);
    session.abort();
}
