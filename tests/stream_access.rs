//! Streams lose what their users lose: a removal, a role taken, a deletion and a token's end reach open streams within a second
//! of the change's answer, on the process that made it. The sweep, which would find the first ones too, is off.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chat_service::pb::chat::v1::connect_chat_request::Frame;
use chat_service::pb::chat::v1::connect_chat_response::Event;
use chat_service::pb::chat::v1::*;
use common::*;
use serde_json::json;
use tokio_util::sync::CancellationToken;
use tonic::Code;

on_both_stores!(
    a_removed_member_loses_the_chat_and_hears_no_more_of_it,
    a_deleted_chat_leaves_every_stream,
    a_member_made_reader_reads_on_and_sends_no_more,
    a_trusted_stream_stays_when_its_user_is_removed,
    access_ends_in_the_middle_of_catching_up,
    access_ends_for_a_client_that_does_not_read,
    a_token_ends_its_streams_whether_or_not_they_are_read,
    a_refreshed_token_keeps_its_stream,
    a_refused_refresh_leaves_the_old_end,
    a_refreshed_role_counts_from_then_on,
);

/// The contract's bound.
const PROMISE: Duration = Duration::from_secs(1);
/// Bytes that a client with small windows lets the server send ahead.
const SMALL_WINDOW: u32 = 65_535;
/// A history that is far more than small windows, the server's buffers and the sockets hold.
const HISTORY: i64 = 1_000;
const HISTORY_TEXT_BYTES: usize = 2_000;

async fn serve(on: On) -> TestServer {
    TestServer::start_on(Ground::new(on).await, &["--sweep-interval", "1h", "--auth-leeway", "0s"]).await
}

fn add(chat: &str, name: &str, role: ChatRole) -> AddMembersRequest {
    AddMembersRequest { chat_id: chat.into(), members: vec![NewMember { user_id: name.into(), role: role.into() }] }
}

/// Reads until the chat is left: why, and how many messages came before.
async fn left(stream: &mut Stream) -> (LeftReason, i64) {
    // Messages that go on coming must not keep it waiting for ever.
    within(async {
        let mut messages = 0;
        loop {
            match stream.event().await {
                Event::Left(left) => return (left.reason(), messages),
                Event::Message(_) => messages += 1,
                other => panic!("{other:?}"),
            }
        }
    })
    .await
}

/// Sends a message and waits until it is both acknowledged and delivered, in whichever order; returns its sequence.
async fn send(stream: &mut Stream, chat: &str, id: &str) -> i64 {
    stream.send_text(chat, id, "hello");
    let mut sequences = Vec::new();
    while sequences.len() < 2 {
        match stream.event().await {
            Event::Acknowledged(acknowledged) => sequences.push(acknowledged.sequence),
            Event::Message(message) => sequences.push(message.sequence),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(sequences[0], sequences[1]);
    sequences[0]
}

/// The stream has left the chat, and nothing of it waits: the answer to a frame is the next that comes.
async fn is_silent(stream: &mut Stream, chat: &str) {
    for _ in 0..2 {
        stream.send(Frame::Leave(LeaveFrame { chat_id: chat.into() }));
        assert_eq!(reason(&refusal(&stream.rejected().await)), "NOT_JOINED");
    }
}

async fn a_removed_member_loses_the_chat_and_hears_no_more_of_it(on: On) {
    let server = serve(on).await;
    let mut alice = server.client("alice").await;
    let chat = new_chat(&mut alice, &["bob"]).await;
    let mut stream = Stream::joined(&mut server.client("bob").await, &chat, None).await;
    let (sent, stop) = (Arc::new(AtomicI64::new(0)), CancellationToken::new());
    let sender = {
        let (mut alice, chat, sent, stop) = (alice.clone(), chat.clone(), sent.clone(), stop.clone());
        tokio::spawn(async move {
            while !stop.is_cancelled() {
                let number = sent.load(Ordering::Relaxed);
                alice.send_message(send_request(&chat, &number.to_string(), "x")).await.unwrap();
                sent.store(number + 1, Ordering::Relaxed);
            }
        })
    };
    stream.message().await;
    alice.remove_member(remove_request(&chat, "bob")).await.unwrap();
    let answered = Instant::now();
    assert_eq!(left(&mut stream).await.0, LeftReason::Removed);
    assert!(answered.elapsed() < PROMISE, "{:?}", answered.elapsed());
    let then = sent.load(Ordering::Relaxed);
    until("the sender went on", || sent.load(Ordering::Relaxed) > then + 20).await;
    is_silent(&mut stream, &chat).await;
    stop.cancel();
    within(sender).await.unwrap();
}

async fn a_deleted_chat_leaves_every_stream(on: On) {
    let server = serve(on).await;
    let mut alice = server.client("alice").await;
    let chat = new_chat(&mut alice, &["bob"]).await;
    let mut streams = Vec::new();
    for (name, role) in [("alice", "user"), ("bob", "user"), ("bob", "reader"), ("backend", "service"), ("boss", "admin")] {
        streams.push(Stream::joined(&mut server.client_as(name, &[role]).await, &chat, None).await);
    }
    alice.delete_chat(DeleteChatRequest { chat_id: chat.clone() }).await.unwrap();
    let answered = Instant::now();
    for stream in &mut streams {
        assert_eq!(left(stream).await, (LeftReason::Deleted, 0));
    }
    assert!(answered.elapsed() < PROMISE, "{:?}", answered.elapsed());
}

async fn a_member_made_reader_reads_on_and_sends_no_more(on: On) {
    let server = serve(on).await;
    let mut alice = server.client("alice").await;
    let chat = new_chat(&mut alice, &["bob"]).await;
    let mut stream = Stream::joined(&mut server.client("bob").await, &chat, None).await;
    assert_eq!(send(&mut stream, &chat, "1").await, 1);
    alice.add_members(add(&chat, "bob", ChatRole::Reader)).await.unwrap();
    stream.send_text(&chat, "2", "as a reader");
    let rejected = stream.rejected().await;
    assert_eq!((rejected.frame(), rejected.client_message_id.as_str()), (FrameKind::Send, "2"));
    assert_eq!((refusal(&rejected).code(), reason(&refusal(&rejected))), (Code::PermissionDenied, "ROLE_TOO_LOW".into()));
    alice.send_message(send_request(&chat, "1", "readers read")).await.unwrap();
    assert_eq!(stream.message().await.sequence, 2);

    alice.add_members(add(&chat, "bob", ChatRole::Member)).await.unwrap();
    assert_eq!(send(&mut stream, &chat, "2").await, 3);
}

async fn a_trusted_stream_stays_when_its_user_is_removed(on: On) {
    let server = serve(on).await;
    let mut alice = server.client("alice").await;
    let chat = new_chat(&mut alice, &["backend"]).await;
    let mut stream = Stream::joined(&mut server.client_as("backend", &["service"]).await, &chat, None).await;
    alice.add_members(add(&chat, "backend", ChatRole::Reader)).await.unwrap();
    alice.remove_member(remove_request(&chat, "backend")).await.unwrap();
    assert_eq!(send(&mut stream, &chat, "1").await, 1);
}

/// Bob's client, whose small windows hold up a server that has much to send.
async fn slow(server: &TestServer, token: &str) -> Client {
    let endpoint = endpoint(&server.ground.path("certs/ca.pem"), server.port);
    let endpoint = endpoint.initial_stream_window_size(SMALL_WINDOW).initial_connection_window_size(SMALL_WINDOW);
    with_token(within(endpoint.connect()).await.unwrap(), token)
}

/// A chat of alice and bob with a long history.
async fn long_chat(alice: &mut Client) -> String {
    let chat = new_chat(alice, &["bob"]).await;
    let text = "x".repeat(HISTORY_TEXT_BYTES);
    let first = Frame::Send(SendFrame { chat_id: chat.clone(), client_message_id: "1".into(), text: text.clone() });
    let mut sender = Stream::open(alice, first).await;
    for number in 2..=HISTORY {
        sender.send_text(&chat, &number.to_string(), &text);
    }
    for _ in 0..HISTORY {
        sender.acknowledged().await;
    }
    chat
}

async fn access_ends_in_the_middle_of_catching_up(on: On) {
    let server = serve(on).await;
    let mut alice = server.client("alice").await;
    let chat = long_chat(&mut alice).await;
    let mut bob = slow(&server, &mint("bob", &["user"])).await;
    let mut stream = Stream::joined(&mut bob, &chat, Some(0)).await;
    for sequence in 1..=50 {
        assert_eq!(stream.message().await.sequence, sequence);
    }
    alice.remove_member(remove_request(&chat, "bob")).await.unwrap();
    let answered = Instant::now();
    let (reason, messages) = left(&mut stream).await;
    assert!(answered.elapsed() < PROMISE, "{:?}", answered.elapsed());
    assert_eq!(reason, LeftReason::Removed);
    assert!(messages < HISTORY - 50, "the history went on to its end");
    is_silent(&mut stream, &chat).await;
}

async fn access_ends_for_a_client_that_does_not_read(on: On) {
    let server = serve(on).await;
    let mut alice = server.client("alice").await;
    let chat = long_chat(&mut alice).await;
    let mut bob = slow(&server, &mint("bob", &["user"])).await;
    let mut stream = Stream::joined(&mut bob, &chat, Some(0)).await;
    assert_eq!(server.registry.subscription_count(), 1);
    alice.remove_member(remove_request(&chat, "bob")).await.unwrap();
    let answered = Instant::now();
    until("the server has given up the place", || server.registry.subscription_count() == 0).await;
    assert!(answered.elapsed() < PROMISE, "{:?}", answered.elapsed());
    for number in 0..20 {
        alice.send_message(send_request(&chat, &format!("after {number}"), "x")).await.unwrap();
    }
    // What was on its way when the access ended may come, and then the end.
    let (reason, messages) = left(&mut stream).await;
    assert_eq!(reason, LeftReason::Removed);
    assert!(messages < HISTORY);
    is_silent(&mut stream, &chat).await;
}

/// When a token ends, as it says.
fn end_of(token: &str) -> SystemTime {
    let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap();
    let claims: serde_json::Value = serde_json::from_slice(&claims).unwrap();
    UNIX_EPOCH + Duration::from_secs(claims["exp"].as_u64().unwrap())
}

/// A token that ends soon, and not before a stream is opened with it.
fn brief(name: &str, role: &str) -> String {
    mint_for(name, &[role], Duration::from_secs(4))
}

/// Holds that a token's end has come, and not longer ago than is promised.
fn has_just_ended(token: &str) {
    let late = SystemTime::now().duration_since(end_of(token)).expect("it ended before its time");
    assert!(late < PROMISE, "{late:?}");
}

async fn a_token_ends_its_streams_whether_or_not_they_are_read(on: On) {
    let server = serve(on).await;
    let mut alice = server.client("alice").await;
    let chat = long_chat(&mut alice).await;
    let token = brief("bob", "user");
    let mut reading = Stream::joined(&mut client(&server.ground, server.port, &token).await, &chat, None).await;
    let _stalled = Stream::joined(&mut slow(&server, &token).await, &chat, Some(0)).await;
    assert_eq!(server.registry.subscription_count(), 2);
    let end = reading.end().await;
    has_just_ended(&token);
    assert_eq!((end.code(), reason(&end)), (Code::Unauthenticated, "TOKEN_EXPIRED".into()));
    until("the server has given up both places", || server.registry.subscription_count() == 0).await;
    has_just_ended(&token);
}

fn refresh(token: String) -> Frame {
    Frame::RefreshToken(RefreshTokenFrame { token })
}

async fn a_refreshed_token_keeps_its_stream(on: On) {
    let server = serve(on).await;
    let mut alice = server.client("alice").await;
    let chat = new_chat(&mut alice, &["bob"]).await;
    let token = brief("bob", "user");
    let mut bob = client(&server.ground, server.port, &token).await;
    let (mut kept, mut not) = (Stream::joined(&mut bob, &chat, None).await, Stream::joined(&mut bob, &chat, None).await);
    let longer = mint("bob", &["user"]);
    kept.send(refresh(longer.clone()));
    match kept.event().await {
        Event::TokenRefreshed(refreshed) => {
            let seconds = refreshed.expires_at.unwrap().seconds;
            assert_eq!(UNIX_EPOCH + Duration::from_secs(seconds as u64), end_of(&longer));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(reason(&not.end().await), "TOKEN_EXPIRED");
    assert_eq!(send(&mut kept, &chat, "1").await, 1);
}

async fn a_refused_refresh_leaves_the_old_end(on: On) {
    let server = serve(on).await;
    let mut alice = server.client("alice").await;
    let chat = new_chat(&mut alice, &["bob"]).await;
    let token = brief("bob", "user");
    let mut stream = Stream::joined(&mut client(&server.ground, server.port, &token).await, &chat, None).await;
    let over = json!({"sub": "bob", "exp": 1_000_000_000});
    let over = jsonwebtoken::encode(&Default::default(), &over, &jsonwebtoken::EncodingKey::from_secret(SECRET.as_bytes())).unwrap();
    for (refused, code, why) in [
        (mint("eve", &["user"]), Code::PermissionDenied, "TOKEN_OF_ANOTHER"),
        (mint("bob", &["service"]), Code::PermissionDenied, "TOKEN_OF_ANOTHER"),
        (mint("bob", &["admin"]), Code::PermissionDenied, "TOKEN_OF_ANOTHER"),
        (over, Code::Unauthenticated, "TOKEN_EXPIRED"),
        ("no.good.token".into(), Code::Unauthenticated, "TOKEN_INVALID"),
    ] {
        stream.send(refresh(refused));
        let rejected = stream.rejected().await;
        let refusal = refusal(&rejected);
        assert_eq!((rejected.frame(), refusal.code(), reason(&refusal).as_str()), (FrameKind::RefreshToken, code, why));
    }
    assert_eq!(send(&mut stream, &chat, "1").await, 1, "bob is still bob");
    assert_eq!(reason(&stream.end().await), "TOKEN_EXPIRED");
    has_just_ended(&token);
}

async fn a_refreshed_role_counts_from_then_on(on: On) {
    let server = serve(on).await;
    let mut alice = server.client("alice").await;
    let chat = new_chat(&mut alice, &["bob"]).await;
    let mut stream = Stream::joined(&mut server.client("bob").await, &chat, None).await;
    for (id, role) in [("1", "reader"), ("2", "user"), ("3", "reader")] {
        stream.send(refresh(mint("bob", &[role])));
        assert!(matches!(stream.event().await, Event::TokenRefreshed(_)));
        if role == "user" {
            assert_eq!(send(&mut stream, &chat, id).await, 1);
        } else {
            stream.send_text(&chat, id, "readers only read");
            assert_eq!(reason(&refusal(&stream.rejected().await)), "ROLE_TOO_LOW");
        }
    }
    alice.send_message(send_request(&chat, "1", "hello")).await.unwrap();
    assert_eq!(stream.message().await.sequence, 2, "a reader reads on");
    let mut backend = Stream::joined(&mut server.client_as("backend", &["service"]).await, &chat, None).await;
    backend.send(refresh(mint("backend", &["admin"])));
    assert!(matches!(backend.event().await, Event::TokenRefreshed(_)), "both are trusted");
    backend.send(refresh(mint("backend", &["user"])));
    assert_eq!(reason(&refusal(&backend.rejected().await)), "TOKEN_OF_ANOTHER", "a user would not be a member");
}
