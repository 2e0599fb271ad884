//! Tokens that an Auth Service is asked about.

use std::future::{pending, ready};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use chat_service::client::access::{AccessClient, AccessError, AccessLimits};
use chat_service::model::SystemClock;
use chat_service::pb::auth::v1::access_service_server::{AccessService, AccessServiceServer};
use chat_service::pb::auth::v1::{CheckRequest, CheckResponse};
use chat_service::pb::chat::v1::connect_chat_request::Frame;
use chat_service::pb::chat::v1::connect_chat_response::Event;
use chat_service::pb::chat::v1::{CreateChatRequest, RefreshTokenFrame};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Identity, Server};
use tonic::{Code, Request, Response, Status};
use tonic_types::StatusExt;

use crate::Caller;
use crate::auth_service::{self, AuthService};
use crate::common::*;

type Verdict = Result<CheckResponse, Status>;
type Judge = dyn Fn(CheckRequest) -> Pin<Box<dyn Future<Output = Verdict> + Send>> + Send + Sync;

/// An Auth Service that answers as the test says.
struct Judging {
    judge: Box<Judge>,
    calls: Arc<AtomicUsize>,
}

#[tonic::async_trait]
impl AccessService for Judging {
    async fn check(&self, request: Request<CheckRequest>) -> Result<Response<CheckResponse>, Status> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        (self.judge)(request.into_inner()).await.map(Response::new)
    }
}

struct Judgement {
    url: String,
    calls: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl Judgement {
    async fn start<F>(judge: impl Fn(CheckRequest) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Verdict> + Send + 'static,
    {
        Self::start_on(TcpListener::bind("127.0.0.1:0").await.unwrap(), judge)
    }

    /// Answers at once.
    async fn deciding(judge: impl Fn(CheckRequest) -> Verdict + Send + Sync + 'static) -> Self {
        Self::start(move |request| ready(judge(request))).await
    }

    fn start_on<F>(listener: TcpListener, judge: impl Fn(CheckRequest) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Verdict> + Send + 'static,
    {
        let url = format!("http://{}", listener.local_addr().unwrap());
        let calls = Arc::new(AtomicUsize::new(0));
        let judge = move |request: CheckRequest| -> Pin<Box<dyn Future<Output = Verdict> + Send>> { Box::pin(judge(request)) };
        let service = Judging { judge: Box::new(judge), calls: Arc::clone(&calls) };
        let server = Server::builder().add_service(AccessServiceServer::new(service));
        let task = tokio::spawn(async move { server.serve_with_incoming(TcpIncoming::from(listener)).await.unwrap() });
        Self { url, calls, task }
    }

    fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }

    async fn server(&self) -> TestServer {
        server_asking(&self.url).await
    }
}

impl Drop for Judgement {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn server_asking(url: &str) -> TestServer {
    TestServer::start_without_secret(Ground::new(On::Sqlite).await, &["--auth-service-url", url]).await
}

fn answer_until(user_id: &str, roles: &[&str], expires_at: SystemTime) -> CheckResponse {
    let roles = roles.iter().map(|role| (*role).to_owned()).collect();
    CheckResponse { user_id: user_id.into(), roles, expires_at: Some(expires_at.into()) }
}

fn answer(user_id: &str, roles: &[&str]) -> CheckResponse {
    answer_until(user_id, roles, SystemTime::now() + Duration::from_secs(3600))
}

fn assert_unavailable(result: Result<(), Status>) {
    let status = result.expect_err("nobody is let in without an answer");
    assert_eq!((status.code(), reason(&status)), (Code::Unavailable, "AUTH_UNAVAILABLE".into()));
    assert!(status.get_error_details().retry_info().is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_service_says_who_calls_and_what_may_be_called() {
    let judgement = Judgement::deciding(|request| match request.token.as_str() {
        "alice" => Ok(answer("alice", &[])),
        "rita" => Ok(answer("rita", &["reader"])),
        "reading-only" if request.endpoint == "/chat.v1.ChatService/ListChats" => Ok(answer("bob", &["unheard-of"])),
        "reading-only" => Err(Status::permission_denied("bob's password is hunter2")),
        _ => Err(Status::unauthenticated("no such token: hunter2")),
    })
    .await;
    let server = judgement.server().await;
    let caller = Caller::of(&server).await;
    caller.call("alice").await.unwrap();
    caller.call("reading-only").await.unwrap();
    let create = |token: &str| {
        let mut client = with_token(caller.0.clone(), token);
        async move {
            let request = CreateChatRequest { title: "Tea".into(), member_ids: vec![], request_id: String::new() };
            client.create_chat(request).await.map(|created| created.into_inner().chat.unwrap().created_by)
        }
    };
    assert_eq!(create("alice").await.unwrap(), "alice");
    let by_role = create("rita").await.unwrap_err();
    assert_eq!((by_role.code(), reason(&by_role)), (Code::PermissionDenied, "ROLE_TOO_LOW".into()));
    let denied = create("reading-only").await.unwrap_err();
    assert_eq!((denied.code(), reason(&denied)), (Code::PermissionDenied, "ACCESS_DENIED".into()));
    let unknown = create("unknown").await.unwrap_err();
    assert_eq!((unknown.code(), reason(&unknown)), (Code::Unauthenticated, "TOKEN_INVALID".into()));
    for status in [denied, unknown] {
        assert!(!format!("{status:?}").contains("hunter2"), "the service's text stays inside");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_service_is_away_nobody_is_let_in_and_when_it_is_back_they_are() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let server = server_asking(&format!("http://{address}")).await;
    let caller = Caller::of(&server).await;
    assert_unavailable(caller.call("alice").await);
    let listener = TcpListener::bind(address).await.unwrap();
    let _judgement = Judgement::start_on(listener, |request| ready(Ok(answer(&request.token, &[]))));
    caller.call("alice").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_never_answers_is_given_up_after_a_few_tries() {
    let judgement = Judgement::start(|_| pending::<Verdict>()).await;
    let server = judgement.server().await;
    assert_unavailable(Caller::of(&server).await.call("alice").await);
    assert_eq!(judgement.calls(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_passes_is_tried_again_and_what_was_judged_is_not() {
    let tries = Arc::new(AtomicUsize::new(0));
    let judgement = Judgement::deciding(move |request| {
        let first = tries.fetch_add(1, Ordering::SeqCst) == 0;
        match request.token.as_str() {
            "alice" if first => Err(Status::unavailable("starting")),
            "alice" => Ok(answer("alice", &[])),
            "broken" => Err(Status::internal("a defect")),
            _ => Err(Status::unauthenticated("")),
        }
    })
    .await;
    let server = judgement.server().await;
    let caller = Caller::of(&server).await;
    caller.call("alice").await.unwrap();
    assert_eq!(judgement.calls(), 2);
    assert_eq!(caller.call("eve").await.unwrap_err().code(), Code::Unauthenticated);
    assert_eq!(judgement.calls(), 3);
    assert_unavailable(caller.call("broken").await);
    assert_eq!(judgement.calls(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_is_used_again_for_the_same_token_and_endpoint_alone() {
    let judgement = Judgement::deciding(|request| match request.token.as_str() {
        "eve" => Err(Status::unauthenticated("")),
        token => Ok(answer(token, &[])),
    })
    .await;
    let server = judgement.server().await;
    let caller = Caller::of(&server).await;
    for _ in 0..10 {
        caller.call("alice").await.unwrap();
    }
    assert_eq!(judgement.calls(), 1);
    new_chat(&mut with_token(caller.0.clone(), "alice"), &[]).await;
    assert_eq!(judgement.calls(), 2, "another endpoint");
    caller.call("bob").await.unwrap();
    assert_eq!(judgement.calls(), 3, "another token");
    for calls in [4, 5] {
        caller.call("eve").await.unwrap_err();
        assert_eq!(judgement.calls(), calls, "a refusal isn't kept");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_ends_when_the_service_said_and_an_answer_is_not_used_beyond_it() {
    let judgement = Judgement::deciding(|request| match request.endpoint.as_str() {
        "/chat.v1.ChatService/ConnectChat" => Ok(answer_until("alice", &[], SystemTime::now() + Duration::from_secs(2))),
        _ => Ok(answer("alice", &[])),
    })
    .await;
    let server = judgement.server().await;
    let mut alice = client(&server.ground, server.port, "alice").await;
    let chat = new_chat(&mut alice, &[]).await;
    let mut stream = Stream::joined(&mut alice, &chat, None).await;
    let end = stream.end().await;
    assert_eq!((end.code(), reason(&end)), (Code::Unauthenticated, "TOKEN_EXPIRED".into()));
    let before = judgement.calls();
    Stream::joined(&mut alice, &chat, None).await;
    assert_eq!(judgement.calls(), before + 1, "the old answer had ended");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_makes_no_sense_lets_nobody_in() {
    let judgement = Judgement::deciding(|request| {
        let good = answer("alice", &["admin"]);
        Ok(match request.token.as_str() {
            "empty" => CheckResponse { user_id: String::new(), ..good },
            "long" => CheckResponse { user_id: "x".repeat(129), ..good },
            "nul" => CheckResponse { user_id: "a\0".into(), ..good },
            "endless" => CheckResponse { expires_at: None, ..good },
            "past" => answer_until("alice", &["admin"], SystemTime::now() - Duration::from_secs(1)),
            "huge" => CheckResponse { roles: vec!["x".repeat(1000); 1000], ..good },
            _ => good,
        })
    })
    .await;
    let server = judgement.server().await;
    let caller = Caller::of(&server).await;
    caller.call("good").await.unwrap();
    for token in ["empty", "long", "nul", "endless", "past", "huge"] {
        assert_unavailable(caller.call(token).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn checks_under_way_are_bounded() {
    let gate = Arc::new(Semaphore::new(0));
    let waiting = Arc::clone(&gate);
    let judgement = Judgement::start(move |request: CheckRequest| {
        let gate = Arc::clone(&waiting);
        async move {
            drop(gate.acquire().await);
            Ok(answer(&request.token, &[]))
        }
    })
    .await;
    let limits = AccessLimits { try_due: PATIENCE, tries: 1, in_flight: 2 };
    let client = Arc::new(AccessClient::new(&judgement.url.parse().unwrap(), None, limits, Arc::new(SystemClock)).unwrap());
    let under_way: Vec<_> = ["alice", "bob"]
        .map(|token| {
            let client = Arc::clone(&client);
            tokio::spawn(async move { client.check(token, "/x").await })
        })
        .into();
    until("two checks are under way", || judgement.calls() == 2).await;
    assert_eq!(client.check("carol", "/x").await, Err(AccessError::Overloaded));
    gate.add_permits(1);
    for check in under_way {
        assert!(within(check).await.unwrap().is_ok());
    }
    assert!(client.check("carol", "/x").await.is_ok());
}

/// Of the next rejected frame; messages before it are passed over.
async fn rejected_code(stream: &mut Stream) -> Code {
    loop {
        match stream.event().await {
            Event::Rejected(rejected) => return Code::from_i32(rejected.status.unwrap().code),
            Event::Message(_) => {}
            other => panic!("not rejected: {other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refresh_that_waits_for_its_answer_keeps_frames_in_their_order() {
    let gate = Arc::new(Semaphore::new(0));
    let waiting = Arc::clone(&gate);
    let judgement = Judgement::start(move |request: CheckRequest| {
        let gate = Arc::clone(&waiting);
        async move {
            match request.token.as_str() {
                "alice-again" => drop(gate.acquire().await),
                "away" => return Err(Status::internal("a defect")),
                _ => {}
            }
            let user = request.token.split('-').next().unwrap_or_default();
            Ok(answer(user, &[]))
        }
    })
    .await;
    let server = judgement.server().await;
    let mut alice = client(&server.ground, server.port, "alice").await;
    let chat = new_chat(&mut alice, &[]).await;
    let mut stream = Stream::joined(&mut alice, &chat, None).await;
    let refresh = |token: &str| Frame::RefreshToken(RefreshTokenFrame { token: token.into() });
    let before = judgement.calls();
    stream.send(refresh("alice-again"));
    stream.send_text(&chat, "1", "after the refresh");
    until("the refresh is being checked", || judgement.calls() > before).await;
    // What others send is delivered all the while.
    alice.send_message(send_request(&chat, "2", "meanwhile")).await.unwrap();
    assert_eq!(text_of(&stream.message().await), "meanwhile");
    gate.add_permits(1);
    assert!(matches!(stream.event().await, Event::TokenRefreshed(_)));
    assert_eq!(stream.acknowledged().await.sequence, 2);

    stream.send(refresh("bob"));
    assert_eq!(rejected_code(&mut stream).await, Code::PermissionDenied);
    stream.send(refresh("away"));
    assert_eq!(rejected_code(&mut stream).await, Code::Unavailable, "and the stream lives on");
    stream.send_text(&chat, "3", "still here");
    assert_eq!(stream.acknowledged().await.sequence, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_reference_service_vouches_for_its_tokens_over_tls() {
    let (ground, other) = (Ground::new(On::Sqlite).await, Ground::new(On::Sqlite).await);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://localhost:{}", listener.local_addr().unwrap().port());
    let pem = |name: &str| std::fs::read(ground.path(name)).unwrap();
    let identity = Identity::from_pem(pem("certs/server.pem"), pem("certs/server.key"));
    let service = AuthService::new(SECRET.as_bytes());
    let serving = tokio::spawn(auth_service::serve(service, listener, Some(identity), pending()));

    let [ca, other_ca] = [&ground, &other].map(|ground| ground.path("certs/ca.pem").display().to_string());
    let server = TestServer::start_without_secret(ground.clone(), &["--auth-service-url", &url, "--auth-ca", &ca]).await;
    let caller = Caller::of(&server).await;
    caller.call(&mint("alice", &["user"])).await.unwrap();
    assert_eq!(caller.call("no token of this service").await.unwrap_err().code(), Code::Unauthenticated);

    let server = TestServer::start_without_secret(other, &["--auth-service-url", &url, "--auth-ca", &other_ca]).await;
    assert_unavailable(Caller::of(&server).await.call(&mint("alice", &["user"])).await);
    serving.abort();
}
