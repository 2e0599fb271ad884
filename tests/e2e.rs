//! The API end to end: a real port, TLS, tokens, a real client, on both stores.

mod common;

use std::sync::Arc;
use std::time::Duration;

use chat_service::broker::{AccessEnd, Broker, Delivery, Eviction, Mailbox, Registry};
use chat_service::interceptor::token::{Demands, Key, Verifier};
use chat_service::model::{Identity, SystemClock, SystemRole, Timestamp, UserId};
use chat_service::pb::chat::v1::connect_chat_request::Frame;
use chat_service::pb::chat::v1::connect_chat_response::Event;
use chat_service::pb::chat::v1::*;
use chat_service::ratelimiter::memory::{MemoryLimiter, Rates};
use chat_service::ratelimiter::{self, RateLimiter};
use chat_service::repository::MessageRepository;
use chat_service::repository::sqlite::{SqliteOptions, SqliteStore};
use chat_service::service::append::Appender;
use chat_service::service::{ChatService, CreateChat, Parts, SendMessage, run_sweep};
use chat_service::transport::session::{Session, SessionOptions, outbox};
use common::*;
use futures_util::StreamExt;
use http_body_util::BodyExt;
use sqlx::Connection;
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tonic_types::StatusExt;

on_both_stores!(
    a_chat_is_created_read_listed_and_deleted,
    members_come_and_go_and_their_streams_with_them,
    a_message_is_stored_once_and_answered_alike,
    history_is_paged_both_ways,
    two_people_see_one_order_in_every_script,
    a_stream_resumes_behind_what_it_has_seen,
    sends_are_pipelined_and_acknowledged_in_order,
    a_refused_frame_leaves_the_stream_alive,
    half_close_delivers_history_and_ends,
    one_stream_carries_many_chats,
    a_reader_that_stalls_for_ten_thousand_messages_gets_them_all_in_bounded_memory,
    a_client_that_vanishes_leaves_nothing_behind,
    a_stop_settles_what_is_in_flight,
);

fn rejected_code(rejected: &RejectedEvent) -> Code {
    Code::from_i32(rejected.status.as_ref().unwrap().code)
}

fn get(chat_id: &str) -> GetChatRequest {
    GetChatRequest { chat_id: chat_id.into() }
}

async fn a_chat_is_created_read_listed_and_deleted(on: On) {
    let server = TestServer::start(on).await;
    let (mut alice, mut bob, mut eve) = (server.client("alice").await, server.client("bob").await, server.client("eve").await);
    let create = CreateChatRequest { title: "Tea ☕".into(), member_ids: vec!["bob".into(), "bob".into()], request_id: "r1".into() };
    let chat = alice.create_chat(create.clone()).await.unwrap().into_inner().chat.unwrap();
    let roles: Vec<_> = chat.members.iter().map(|m| (m.user_id.as_str(), m.role())).collect();
    assert_eq!(roles, [("alice", ChatRole::Owner), ("bob", ChatRole::Member)]);
    assert_eq!((chat.created_by.as_str(), chat.last_sequence), ("alice", 0));

    let again = alice.create_chat(create.clone()).await.unwrap().into_inner().chat.unwrap();
    assert_eq!(again.chat_id, chat.chat_id, "a retry makes no second chat");
    let other = alice.create_chat(CreateChatRequest { title: "Coffee".into(), ..create }).await.unwrap_err();
    assert_eq!((other.code(), reason(&other)), (Code::AlreadyExists, "REQUEST_ID_TAKEN".into()));

    let seen = bob.get_chat(get(&chat.chat_id)).await.unwrap().into_inner().chat.unwrap();
    assert_eq!(seen, chat);
    assert_eq!(eve.get_chat(get(&chat.chat_id)).await.unwrap_err().code(), Code::NotFound);

    let second = new_chat(&mut alice, &[]).await;
    let first_page = alice.list_chats(ListChatsRequest { page_size: 1, page_token: String::new() }).await.unwrap().into_inner();
    assert_eq!(first_page.chats[0].chat_id, second, "the newest first");
    assert!(first_page.chats[0].members.is_empty());
    let next = ListChatsRequest { page_size: 1, page_token: first_page.next_page_token };
    let last_page = alice.list_chats(next).await.unwrap().into_inner();
    assert_eq!((last_page.chats[0].chat_id.as_str(), last_page.next_page_token.as_str()), (chat.chat_id.as_str(), ""));

    let delete = DeleteChatRequest { chat_id: chat.chat_id.clone() };
    assert_eq!(bob.delete_chat(delete.clone()).await.unwrap_err().code(), Code::PermissionDenied);
    alice.delete_chat(delete).await.unwrap();
    assert_eq!(alice.get_chat(get(&chat.chat_id)).await.unwrap_err().code(), Code::NotFound);
}

async fn members_come_and_go_and_their_streams_with_them(on: On) {
    let server = TestServer::start(on).await;
    let (mut alice, mut bob) = (server.client("alice").await, server.client("bob").await);
    let chat = new_chat(&mut alice, &["bob"]).await;
    let mut stream = Stream::joined(&mut bob, &chat, None).await;
    let member = |user_id: &str, role: ChatRole| NewMember { user_id: user_id.into(), role: role.into() };
    let add = |members| AddMembersRequest { chat_id: chat.clone(), members };
    assert_eq!(bob.add_members(add(vec![member("carol", ChatRole::Member)])).await.unwrap_err().code(), Code::PermissionDenied);
    let changed = alice.add_members(add(vec![member("bob", ChatRole::Reader)])).await.unwrap().into_inner().chat.unwrap();
    assert_eq!(changed.members.iter().find(|m| m.user_id == "bob").unwrap().role(), ChatRole::Reader);
    assert_eq!(bob.send_message(send_request(&chat, "1", "hi")).await.unwrap_err().code(), Code::PermissionDenied);
    let last_owner = alice.remove_member(RemoveMemberRequest { chat_id: chat.clone(), user_id: "alice".into() }).await.unwrap_err();
    assert_eq!((last_owner.code(), reason(&last_owner)), (Code::FailedPrecondition, "LAST_OWNER".into()));

    alice.remove_member(RemoveMemberRequest { chat_id: chat.clone(), user_id: "bob".into() }).await.unwrap();
    match stream.event().await {
        Event::Left(left) => assert_eq!((left.chat_id.as_str(), left.reason()), (chat.as_str(), LeftReason::Removed)),
        other => panic!("{other:?}"),
    }
    alice.send_message(send_request(&chat, "1", "without bob")).await.unwrap();
    stream.send(join(&chat, None));
    assert_eq!(rejected_code(&stream.rejected().await), Code::NotFound, "and nothing was delivered before");

    alice.add_members(add(vec![member("bob", ChatRole::Member)])).await.unwrap();
    stream.send(join(&chat, None));
    assert!(matches!(stream.event().await, Event::Joined(_)));
    alice.delete_chat(DeleteChatRequest { chat_id: chat.clone() }).await.unwrap();
    match stream.event().await {
        Event::Left(left) => assert_eq!(left.reason(), LeftReason::Deleted),
        other => panic!("{other:?}"),
    }
}

async fn a_message_is_stored_once_and_answered_alike(on: On) {
    let server = TestServer::start(on).await;
    let mut alice = server.client("alice").await;
    let chat = new_chat(&mut alice, &[]).await;
    let first = alice.send_message(send_request(&chat, "1", "once")).await.unwrap().into_inner().message.unwrap();
    let again = alice.send_message(send_request(&chat, "1", "once")).await.unwrap().into_inner().message.unwrap();
    assert_eq!(first, again);
    let other = alice.send_message(send_request(&chat, "1", "other")).await.unwrap_err();
    assert_eq!((other.code(), reason(&other)), (Code::AlreadyExists, "CLIENT_MESSAGE_ID_TAKEN".into()));
    let next = alice.send_message(send_request(&chat, "2", "next")).await.unwrap().into_inner().message.unwrap();
    assert_eq!((first.sequence, next.sequence), (1, 2), "neither the retry nor the refused one took a number");
}

async fn history_is_paged_both_ways(on: On) {
    let server = TestServer::start(on).await;
    let mut alice = server.client("alice").await;
    let chat = new_chat(&mut alice, &[]).await;
    for number in 1..=5 {
        alice.send_message(send_request(&chat, &number.to_string(), "x")).await.unwrap();
    }
    let list =
        |after_sequence, before_sequence| ListMessagesRequest { chat_id: chat.clone(), page_size: 2, after_sequence, before_sequence };
    let mut page = async |request| {
        let page = alice.list_messages(request).await.unwrap().into_inner();
        (page.messages.iter().map(|m| m.sequence).collect::<Vec<_>>(), page.has_more)
    };
    assert_eq!(page(list(None, None)).await, (vec![4, 5], true));
    assert_eq!(page(list(Some(0), None)).await, (vec![1, 2], true));
    assert_eq!(page(list(Some(3), None)).await, (vec![4, 5], false));
    assert_eq!(page(list(None, Some(4))).await, (vec![2, 3], true));
    assert_eq!(page(list(None, Some(2))).await, (vec![1], false));
    let both = alice.list_messages(list(Some(1), Some(3))).await.unwrap_err();
    assert_eq!(both.code(), Code::InvalidArgument);
}

async fn two_people_see_one_order_in_every_script(on: On) {
    let server = TestServer::start(on).await;
    let (mut alice, mut bob) = (server.client("alice").await, server.client("bob").await);
    let chat = new_chat(&mut alice, &["bob"]).await;
    let (mut a, mut b) = (Stream::joined(&mut alice, &chat, None).await, Stream::joined(&mut bob, &chat, None).await);
    let texts = ["Привет", "你好，世界", "👩‍👩‍👧‍👦 🏳️‍🌈", "שלום مرحبا", "plain", "e\u{301} \u{202e}x"];
    for (number, text) in texts.iter().enumerate() {
        let sender = if number % 2 == 0 { &a } else { &b };
        sender.send_text(&chat, &number.to_string(), text);
    }
    let (mut at_a, mut at_b) = (Vec::new(), Vec::new());
    for _ in texts {
        at_a.push(a.message().await);
        at_b.push(b.message().await);
    }
    assert_eq!(at_a, at_b);
    assert_eq!(at_a.iter().map(|m| m.sequence).collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6]);
    let mut sent: Vec<&str> = at_a.iter().map(text_of).collect();
    sent.sort_unstable();
    let mut expected = texts.to_vec();
    expected.sort_unstable();
    assert_eq!(sent, expected);
    assert!(at_a.is_sorted_by_key(|m| m.created_at.map(|t| (t.seconds, t.nanos))));
}

async fn a_stream_resumes_behind_what_it_has_seen(on: On) {
    let server = TestServer::start(on).await;
    let mut alice = server.client("alice").await;
    let chat = new_chat(&mut alice, &[]).await;
    for number in 1..=300 {
        alice.send_message(send_request(&chat, &number.to_string(), "x")).await.unwrap();
    }
    let mut stream = Stream::joined(&mut alice, &chat, Some(2)).await;
    alice.send_message(send_request(&chat, "live", "x")).await.unwrap();
    for sequence in 3..=301 {
        assert_eq!(stream.message().await.sequence, sequence);
    }
    stream.send(Frame::Leave(LeaveFrame { chat_id: chat.clone() }));
    assert!(matches!(stream.event().await, Event::Left(_)));
    stream.send(join(&chat, Some(302)));
    let ahead = stream.rejected().await;
    assert_eq!(rejected_code(&ahead), Code::OutOfRange);
}

async fn sends_are_pipelined_and_acknowledged_in_order(on: On) {
    let server = TestServer::start(on).await;
    let mut alice = server.client("alice").await;
    let chat = new_chat(&mut alice, &[]).await;
    let first = Frame::Send(SendFrame { chat_id: chat.clone(), client_message_id: "0".into(), text: "0".into() });
    let mut stream = Stream::open(&mut alice, first).await;
    // Beyond the window of 256, without reading: the server reads on as it settles.
    for number in 1..1000 {
        stream.send_text(&chat, &number.to_string(), &number.to_string());
    }
    for number in 0..1000 {
        let acknowledged = stream.acknowledged().await;
        assert_eq!((acknowledged.client_message_id, acknowledged.sequence), (number.to_string(), number + 1));
    }
}

async fn a_refused_frame_leaves_the_stream_alive(on: On) {
    let server = TestServer::start(on).await;
    let mut alice = server.client("alice").await;
    let chat = new_chat(&mut alice, &[]).await;
    let mut stream = Stream::joined(&mut alice, &chat, None).await;
    stream.send_text(&chat, "1", " \n ");
    let blank = stream.rejected().await;
    assert_eq!((blank.frame(), rejected_code(&blank), blank.client_message_id.as_str()), (FrameKind::Send, Code::InvalidArgument, "1"));
    stream.send_text(&chat, "1", "nul \0");
    assert_eq!(rejected_code(&stream.rejected().await), Code::InvalidArgument);
    stream.send_text(&uuid::Uuid::now_v7().to_string(), "1", "to nobody");
    assert_eq!(rejected_code(&stream.rejected().await), Code::NotFound);
    stream.send(join(&chat, None));
    let joined = stream.rejected().await;
    assert_eq!((joined.frame(), rejected_code(&joined)), (FrameKind::Join, Code::AlreadyExists));
    stream.send(join(&chat, Some(-1)));
    assert_eq!(rejected_code(&stream.rejected().await), Code::InvalidArgument);
    stream.send(Frame::RefreshToken(RefreshTokenFrame { token: mint("bob", &["user"]) }));
    let foreign = stream.rejected().await;
    assert_eq!((foreign.frame(), rejected_code(&foreign)), (FrameKind::RefreshToken, Code::PermissionDenied));
    stream.send(Frame::RefreshToken(RefreshTokenFrame { token: mint("alice", &["user"]) }));
    assert!(matches!(stream.event().await, Event::TokenRefreshed(_)));
    stream.send_text(&chat, "1", "still here");
    assert_eq!(stream.acknowledged().await.sequence, 1);
}

async fn half_close_delivers_history_and_ends(on: On) {
    let server = TestServer::start(on).await;
    let mut alice = server.client("alice").await;
    let chat = new_chat(&mut alice, &[]).await;
    for number in 1..=3 {
        alice.send_message(send_request(&chat, &number.to_string(), "x")).await.unwrap();
    }
    let mut stream = Stream::open(&mut alice, join(&chat, Some(0))).await;
    stream.send_text(&chat, "4", "the last");
    stream.half_close();
    let (mut sequences, mut acknowledged) = (Vec::new(), 0);
    while let Some(response) = stream.next().await.unwrap() {
        match response.event.unwrap() {
            Event::Message(message) => sequences.push(message.sequence),
            Event::Acknowledged(_) => acknowledged += 1,
            _ => {}
        }
    }
    assert_eq!((sequences, acknowledged), (vec![1, 2, 3, 4], 1));
}

async fn one_stream_carries_many_chats(on: On) {
    let server = TestServer::start(on).await;
    let mut alice = server.client("alice").await;
    let mut chats = Vec::new();
    for _ in 0..129 {
        chats.push(new_chat(&mut alice, &[]).await);
    }
    let mut stream = Stream::joined(&mut alice, &chats[0], None).await;
    for chat in &chats[1..] {
        stream.send(join(chat, None));
    }
    for _ in 1..128 {
        assert!(matches!(stream.event().await, Event::Joined(_)));
    }
    assert_eq!(rejected_code(&stream.rejected().await), Code::ResourceExhausted, "the 129th");
    for chat in &chats[..128] {
        alice.send_message(send_request(chat, "1", "x")).await.unwrap();
    }
    let mut from: Vec<String> = Vec::new();
    for _ in 0..128 {
        from.push(stream.message().await.chat_id);
    }
    from.sort_unstable();
    let mut expected = chats[..128].to_vec();
    expected.sort_unstable();
    assert_eq!(from, expected);
}

async fn a_reader_that_stalls_for_ten_thousand_messages_gets_them_all_in_bounded_memory(on: On) {
    const MESSAGES: i64 = 10_000;
    let server = TestServer::start(on).await;
    let (mut alice, mut bob) = (server.client("alice").await, server.client("bob").await);
    let chat = new_chat(&mut alice, &["bob"]).await;
    let mut stalled = Stream::joined(&mut bob, &chat, None).await;
    let first = Frame::Send(SendFrame { chat_id: chat.clone(), client_message_id: "1".into(), text: "x".repeat(500) });
    let mut sender = Stream::open(&mut alice, first).await;
    for number in 2..=MESSAGES {
        sender.send_text(&chat, &number.to_string(), &"x".repeat(500));
    }
    for _ in 0..MESSAGES {
        sender.acknowledged().await;
    }
    for sequence in 1..=MESSAGES {
        assert_eq!(stalled.message().await.sequence, sequence);
    }
    // What waits, a page on top of it, and the largest event.
    let bound = outbox::HIGH_WATER_BYTES + 64 * 1024 + 32 * 1024;
    assert!(outbox::peak_bytes() >= outbox::HIGH_WATER_BYTES, "the reader did stall");
    assert!(outbox::peak_bytes() <= bound, "{} bytes were held for a stream", outbox::peak_bytes());
}

async fn a_client_that_vanishes_leaves_nothing_behind(on: On) {
    let server = TestServer::start(on).await;
    let mut alice = server.client("alice").await;
    let chat = new_chat(&mut alice, &[]).await;
    let mut streams = Vec::new();
    for _ in 0..20 {
        streams.push(Stream::joined(&mut server.client("alice").await, &chat, Some(0)).await);
    }
    assert_eq!(server.registry.subscription_count(), 20);
    drop(streams);
    until("every subscription is gone", || server.registry.subscription_count() == 0).await;
    assert!(server.registry.chats().is_empty());
}

async fn a_stop_settles_what_is_in_flight(on: On) {
    let server = TestServer::start(on).await;
    let ground = server.ground.clone();
    let mut alice = server.client("alice").await;
    let chat = new_chat(&mut alice, &[]).await;
    let mut stream = Stream::joined(&mut alice, &chat, None).await;
    for number in 0..100 {
        stream.send_text(&chat, &number.to_string(), "x");
    }
    stream.acknowledged().await;
    server.begin_stop();
    let (mut acknowledged, mut told) = (1, false);
    let end = loop {
        match stream.next().await {
            Ok(Some(response)) => match response.event.unwrap() {
                Event::Acknowledged(_) => acknowledged += 1,
                Event::GoingAway(_) => told = true,
                _ => {}
            },
            Ok(None) => panic!("a stop ends streams with a reason"),
            Err(status) => break status,
        }
    };
    assert!(told);
    assert_eq!((end.code(), reason(&end)), (Code::Unavailable, "GOING_AWAY".into()));
    server.stopped().await;

    let server = TestServer::start_on(ground, &[]).await;
    let mut alice = server.client("alice").await;
    let stored = alice.get_chat(get(&chat)).await.unwrap().into_inner().chat.unwrap().last_sequence;
    assert_eq!(stored, acknowledged, "what was stored was acknowledged");
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_without_a_good_token_are_refused_and_say_why() {
    let server = TestServer::start(On::Sqlite).await;
    let channel = endpoint(&server.ground.path("certs/ca.pem"), server.port).connect().await.unwrap();
    let list = || ListChatsRequest { page_size: 0, page_token: String::new() };
    let mut stranger = chat_service_client::ChatServiceClient::new(channel.clone());
    let missing = stranger.list_chats(list()).await.unwrap_err();
    assert_eq!((missing.code(), reason(&missing)), (Code::Unauthenticated, "TOKEN_MISSING".into()));
    let forged =
        with_token(channel, "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhbGljZSIsImV4cCI6OTk5OTk5OTk5OX0.").list_chats(list()).await.unwrap_err();
    assert_eq!((forged.code(), reason(&forged)), (Code::Unauthenticated, "TOKEN_INVALID".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_ends_with_its_token() {
    let server = TestServer::start_on(Ground::new(On::Sqlite).await, &["--auth-leeway", "0s"]).await;
    let mut alice = server.client("alice").await;
    let chat = new_chat(&mut alice, &[]).await;
    let mut brief = client(&server.ground, server.port, &mint_for("alice", &["user"], Duration::from_secs(2))).await;
    let mut stream = Stream::joined(&mut brief, &chat, None).await;
    let end = stream.end().await;
    assert_eq!((end.code(), reason(&end)), (Code::Unauthenticated, "TOKEN_EXPIRED".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_requests_name_their_fields() {
    let server = TestServer::start(On::Sqlite).await;
    let mut alice = server.client("alice").await;
    let chat = new_chat(&mut alice, &[]).await;
    let status = alice.send_message(send_request(&chat, "", &"x".repeat(4097))).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    let details = status.get_error_details();
    let fields: Vec<_> = details.bad_request().unwrap().field_violations.iter().map(|v| v.field.as_str()).collect();
    assert_eq!(fields, ["text", "client_message_id"]);
    let huge = alice.send_message(send_request(&chat, "1", &"x".repeat(300 * 1024))).await.unwrap_err();
    assert_eq!((huge.code(), reason(&huge)), (Code::OutOfRange, "REQUEST_TOO_LARGE".into()), "above 256 KiB a request isn't read");
    alice.send_message(send_request(&chat, "1", "the server stays up")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_malformed_request_is_the_clients_fault_and_is_told_so() {
    let server = TestServer::start(On::Sqlite).await;
    let channel = endpoint(&server.ground.path("certs/ca.pem"), server.port).connect().await.unwrap();
    let mut raw = tonic::client::Grpc::new(channel);
    raw.ready().await.unwrap();
    // Field 1 as a number, where the request has a string.
    let mut request = tonic::Request::new(ListChatsRequest { page_size: 1, page_token: String::new() });
    request.metadata_mut().insert("authorization", format!("Bearer {}", mint("alice", &["user"])).parse().unwrap());
    let codec = tonic_prost::ProstCodec::<ListChatsRequest, GetChatResponse>::default();
    let path = http::uri::PathAndQuery::from_static("/chat.v1.ChatService/GetChat");
    let refused = within(raw.unary(request, path, codec)).await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused)), (Code::InvalidArgument, "MALFORMED_REQUEST".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn services_act_on_every_chat_and_readers_only_read() {
    let server = TestServer::start(On::Sqlite).await;
    let mut alice = server.client("alice").await;
    let chat = new_chat(&mut alice, &["rita"]).await;
    let mut backend = server.client_as("backend", &["service"]).await;
    assert_eq!(backend.send_message(send_request(&chat, "1", "notice")).await.unwrap().into_inner().message.unwrap().sequence, 1);
    let mut rita = server.client_as("rita", &["reader"]).await;
    assert_eq!(rita.send_message(send_request(&chat, "1", "no")).await.unwrap_err().code(), Code::PermissionDenied);
    let create = CreateChatRequest { title: "no".into(), member_ids: vec![], request_id: String::new() };
    assert_eq!(rita.create_chat(create).await.unwrap_err().code(), Code::PermissionDenied);
    let mut stream = Stream::joined(&mut rita, &chat, Some(0)).await;
    assert_eq!(stream.message().await.sequence, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_malformed_frame_ends_its_stream_and_nothing_else() {
    let server = TestServer::start(On::Sqlite).await;
    let mut alice = server.client("alice").await;
    let chat = new_chat(&mut alice, &[]).await;
    let mut healthy = Stream::joined(&mut alice, &chat, None).await;
    let channel = endpoint(&server.ground.path("certs/ca.pem"), server.port).connect().await.unwrap();
    let mut raw = tonic::client::Grpc::new(channel);
    raw.ready().await.unwrap();
    // Field 1 as a number, where a frame has a message.
    let broken = futures_util::stream::iter([ListChatsRequest { page_size: 1, page_token: String::new() }]);
    let mut request = tonic::Request::new(broken);
    request.metadata_mut().insert("authorization", format!("Bearer {}", mint("alice", &["user"])).parse().unwrap());
    let codec = tonic_prost::ProstCodec::<ListChatsRequest, ConnectChatResponse>::default();
    let path = http::uri::PathAndQuery::from_static("/chat.v1.ChatService/ConnectChat");
    let mut events = raw.streaming(request, path, codec).await.unwrap().into_inner();
    let end = within(events.message()).await.unwrap_err();
    assert_eq!((end.code(), reason(&end)), (Code::InvalidArgument, "MALFORMED_FRAME".into()));
    healthy.send_text(&chat, "1", "still here");
    assert_eq!(healthy.acknowledged().await.sequence, 1);
}

/// A broker that loses everything.
struct LossyBroker;

#[tonic::async_trait]
impl Broker for LossyBroker {
    async fn publish(&self, _: Vec<Arc<Delivery>>) {}
    async fn announce(&self, _: AccessEnd) {}
}

/// The service on SQLite, without a server and with a broker that loses everything.
struct Alone {
    service: Arc<ChatService>,
    store: Arc<SqliteStore>,
    registry: Arc<Registry>,
    _folder: tempfile::TempDir,
}

impl Alone {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let options = SqliteOptions { path: folder.path().join("chat.db"), read_connections: 2 };
        let store = Arc::new(SqliteStore::open(&options, true).await.unwrap());
        let (registry, broker): (_, Arc<dyn Broker>) = (Registry::new(), Arc::new(LossyBroker));
        let (appender, _lanes) = Appender::start(vec![store.open_lane().await.unwrap()], &broker);
        let (chats, messages) = (store.clone(), store.clone());
        let parts = Parts { chats, messages, broker, registry: registry.clone(), appender, clock: Arc::new(SystemClock) };
        Self { service: Arc::new(ChatService::new(parts)), store, registry, _folder: folder }
    }
}

fn identity(name: &str) -> Identity {
    Identity { user_id: UserId::new(name), role: SystemRole::User, expires_at: Timestamp::from_secs(i64::MAX / 4_000_000) }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sweep_heals_what_the_broker_lost() {
    let Alone { service, store, registry, _folder } = Alone::new().await;
    let (alice, bob) = (identity("alice"), identity("bob"));
    let create = CreateChat { title: "Tea".into(), member_ids: vec![bob.user_id.clone()], request_id: None };
    let chat_id = service.create_chat(&alice, create).await.unwrap().chat.id;
    let mailbox = Arc::new(Mailbox::default());
    let mut joined = service.join(&bob, chat_id, None, mailbox.clone()).await.unwrap();
    let send = SendMessage { chat_id, client_message_id: "1".into(), text: "the last message".into() };
    service.send_message(&alice, send).await.unwrap();
    let sweep = run_sweep(store.clone(), store, registry, Duration::from_millis(20), CancellationToken::new());
    let sweep = tokio::spawn(sweep);
    assert_eq!(within(joined.receiver.recv()).await.unwrap().message.sequence, 1);
    service.remove_member(&alice, chat_id, bob.user_id.clone()).await.unwrap();
    let evictions = within(mailbox.take()).await;
    assert_eq!(evictions, [(chat_id, joined.subscription.key(), Eviction::Removed)]);
    sweep.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn one_chat_that_can_not_be_read_does_not_keep_the_sweep_from_the_others() {
    let Alone { service, store, registry, _folder: folder } = Alone::new().await;
    let alice = identity("alice");
    let mut joined = Vec::new();
    for _ in 0..2 {
        let create = CreateChat { title: "Tea".into(), member_ids: Vec::new(), request_id: None };
        let chat_id = service.create_chat(&alice, create).await.unwrap().chat.id;
        joined.push(service.join(&alice, chat_id, None, Arc::new(Mailbox::default())).await.unwrap());
        service.send_message(&alice, SendMessage { chat_id, client_message_id: "1".into(), text: "x".into() }).await.unwrap();
    }
    // The one that the sweep comes to first holds what can't be text.
    let broken = registry.chats()[0];
    let file = format!("sqlite:{}", folder.path().join("chat.db").display());
    let mut connection = sqlx::SqliteConnection::connect(&file).await.unwrap();
    let spoil = sqlx::query("UPDATE messages SET text = x'ff' WHERE chat_id = ?").bind(broken.as_uuid());
    assert_eq!(spoil.execute(&mut connection).await.unwrap().rows_affected(), 1);
    let sweep = tokio::spawn(run_sweep(store.clone(), store, registry, Duration::from_millis(20), CancellationToken::new()));
    let whole = joined.iter_mut().find(|joined| joined.chat.id != broken).unwrap();
    assert_eq!(within(whole.receiver.recv()).await.unwrap().message.sequence, 1);
    sweep.abort();
}

/// A defect that shows at the first frame.
struct Defect;

impl RateLimiter for Defect {
    fn check(&self, _: ratelimiter::Check<'_>) -> Result<(), ratelimiter::RetryAfter> {
        panic!("a defect, on purpose")
    }
}

#[tokio::test]
async fn a_panic_in_a_session_ends_its_stream_as_internal_and_leaves_nothing_behind() {
    let Alone { service, registry, _folder, .. } = Alone::new().await;
    let verifier = Arc::new(Verifier::new(&Key::Secret(SECRET.into()), &Demands::default()).unwrap());
    let (clock, draining) = (Arc::new(SystemClock), CancellationToken::new());
    let options = SessionOptions { service, verifier, clock, limiter: Arc::new(Defect), send_due: None, draining };
    let frame = ConnectChatRequest { frame: Some(join("no chat", None)) };
    let frames = futures_util::stream::iter([Ok(frame)]).chain(futures_util::stream::pending());
    let (outbox, mut body) = outbox::outbox();
    let session = tokio::spawn(Session::new(options, identity("alice"), frames, outbox).run());
    let trailers = within(body.frame()).await.unwrap().unwrap().into_trailers().unwrap();
    assert_eq!(trailers["grpc-status"], "13", "INTERNAL");
    assert!(trailers.contains_key("grpc-status-details-bin"), "with its reason");
    assert_eq!(registry.subscription_count(), 0);
    session.abort();
}

#[tokio::test]
async fn a_stream_without_a_valid_first_frame_ends_after_ten_seconds() {
    let Alone { service, _folder, .. } = Alone::new().await;
    let key = Key::Secret(SECRET.into());
    let verifier = Arc::new(Verifier::new(&key, &Demands::default()).unwrap());
    let limiter = Arc::new(MemoryLimiter::new(Rates::default()));
    let (clock, draining) = (Arc::new(SystemClock), CancellationToken::new());
    let options = SessionOptions { service, verifier, clock, limiter, send_due: None, draining };
    // Frames that don't count: one of no kind, and one that breaks a rule.
    let invalid = Frame::Leave(LeaveFrame { chat_id: "no uuid".into() });
    let frames = futures_util::stream::iter([None, Some(invalid)].map(|frame| Ok(ConnectChatRequest { frame })));
    let (outbox, mut body) = outbox::outbox();
    tokio::time::pause();
    let began = tokio::time::Instant::now();
    let session = Session::new(options, identity("alice"), frames.chain(futures_util::stream::pending()), outbox);
    let session = tokio::spawn(session.run());
    let trailers = loop {
        let frame = body.frame().await.unwrap().unwrap();
        if let Ok(trailers) = frame.into_trailers() {
            break trailers;
        }
    };
    assert_eq!(trailers["grpc-status"], "4", "DEADLINE_EXCEEDED");
    assert_eq!(began.elapsed().as_secs(), 10);
    session.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn reflection_and_health_answer_without_a_token() {
    use tonic_health::pb::health_check_response::ServingStatus;
    use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
    use tonic_reflection::pb::{v1, v1alpha};

    let server = TestServer::start(On::Sqlite).await;
    let channel = endpoint(&server.ground.path("certs/ca.pem"), server.port).connect().await.unwrap();
    let mut names = Vec::new();
    {
        use v1::server_reflection_request::MessageRequest;
        use v1::server_reflection_response::MessageResponse;
        let list = v1::ServerReflectionRequest { host: String::new(), message_request: Some(MessageRequest::ListServices(String::new())) };
        let mut client = v1::server_reflection_client::ServerReflectionClient::new(channel.clone());
        let mut answers = client.server_reflection_info(futures_util::stream::iter([list])).await.unwrap().into_inner();
        if let Some(MessageResponse::ListServicesResponse(list)) = answers.message().await.unwrap().unwrap().message_response {
            names.push(list.service.into_iter().map(|service| service.name).collect::<Vec<_>>());
        }
    }
    {
        use v1alpha::server_reflection_request::MessageRequest;
        use v1alpha::server_reflection_response::MessageResponse;
        let list =
            v1alpha::ServerReflectionRequest { host: String::new(), message_request: Some(MessageRequest::ListServices(String::new())) };
        let mut client = v1alpha::server_reflection_client::ServerReflectionClient::new(channel.clone());
        let mut answers = client.server_reflection_info(futures_util::stream::iter([list])).await.unwrap().into_inner();
        if let Some(MessageResponse::ListServicesResponse(list)) = answers.message().await.unwrap().unwrap().message_response {
            names.push(list.service.into_iter().map(|service| service.name).collect::<Vec<_>>());
        }
    }
    assert_eq!(names.len(), 2);
    assert!(names.iter().all(|names| names.iter().any(|name| name == "chat.v1.ChatService")), "{names:?}");

    let watch = HealthCheckRequest { service: "chat.v1.ChatService".into() };
    let mut statuses = HealthClient::new(channel).watch(watch).await.unwrap().into_inner();
    assert_eq!(within(statuses.message()).await.unwrap().unwrap().status(), ServingStatus::Serving);
    server.begin_stop();
    assert_eq!(within(statuses.message()).await.unwrap().unwrap().status(), ServingStatus::NotServing);
}
