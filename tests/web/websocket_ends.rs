//! How sockets end, and what is no socket.

use std::time::Duration;

use bytes::Bytes;
use chat_service::app::server::Times;
use futures_util::StreamExt;
use http::{Method, Request, Version};
use serde_json::json;
use tokio_tungstenite::tungstenite::Message as Wire;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};

use crate::common::*;
use crate::http_client::send;
use crate::raw;
use crate::socket::Socket;

/// A server, a chat, and a socket of alice that has joined it.
async fn joined(more: &[&str]) -> (TestServer, String, Socket) {
    let server = started(more).await;
    let chat = new_chat(&mut server.client("alice").await, &[]).await;
    let socket = Socket::joined(&server, "alice", &chat, None).await;
    (server, chat, socket)
}

fn text(payload: impl Into<Bytes>) -> Frame {
    Frame::message(payload, OpCode::Data(Data::Text), true)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_settles_what_is_in_flight_and_says_goodbye() {
    let (server, chat, mut socket) = joined(&[]).await;
    for number in 0..100 {
        socket.send_text(&chat, &number.to_string(), "x").await;
    }
    socket.event_of("acknowledged").await;
    server.begin_stop();
    let (mut acknowledged, mut told) = (1, false);
    let end = loop {
        match socket.next().await {
            Ok(event) if event.get("acknowledged").is_some() => acknowledged += 1,
            Ok(event) => told |= event["goingAway"]["reconnectAfter"].is_string(),
            Err(end) => break end,
        }
    };
    assert!(told, "before it is closed");
    assert_eq!(end, (1001, "GOING_AWAY".into()));
    assert!(within(socket.io.next()).await.is_none());
    let ground = server.ground.clone();
    server.stopped().await;

    let server = TestServer::start_on(ground, &[]).await;
    let stored = server.client("alice").await.get_chat(get_request(&chat)).await.unwrap().into_inner().chat.unwrap().last_sequence;
    assert_eq!(stored, acknowledged, "what was stored was acknowledged");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_does_not_wait_for_clients_that_ignore_it() {
    let (server, _, socket) = joined(&["--shutdown-timeout", "2s"]).await;
    let registry = server.registry.clone();
    server.begin_stop();
    // It is never read again, so it agrees with nothing.
    server.stopped().await;
    until("its subscription is gone", || registry.subscription_count() == 0).await;
    drop(socket);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_connection_is_sent_elsewhere() {
    let (server, _, mut socket) = joined(&["--max-connection-age", "2s"]).await;
    socket.event_of("goingAway").await;
    assert_eq!(socket.end().await, (1001, "GOING_AWAY".into()));
    drop(server);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_connection_that_does_not_agree_is_cut() {
    let adjust = |times: &mut Times| times.connection.drain_due = Duration::from_secs(1);
    let server = TestServer::start_with(Ground::new(On::Sqlite).await, &["--max-connection-age", "2s"], adjust).await;
    let chat = new_chat(&mut server.client("alice").await, &[]).await;
    let socket = Socket::joined(&server, "alice", &chat, None).await;
    until("its subscription is gone", || server.registry.subscription_count() == 0).await;
    raw::closed(socket.io.into_inner()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_socket_that_vanishes_or_closes_leaves_nothing_behind() {
    let (server, chat, vanishing) = joined(&[]).await;
    let mut closing = Socket::joined(&server, "alice", &chat, None).await;
    assert_eq!(server.registry.subscription_count(), 2);
    drop(vanishing);
    until("the one that vanished is gone", || server.registry.subscription_count() == 1).await;
    within(closing.io.close(None)).await.unwrap();
    while let Some(message) = within(closing.io.next()).await {
        assert!(matches!(message.unwrap(), Wire::Close(_)), "the server agrees, and says nothing else");
    }
    until("the one that closed is gone", || server.registry.subscription_count() == 0).await;
    assert!(server.registry.chats().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_socket_keeps_its_connections_place() {
    let server = started(&["--max-connections-per-address", "1"]).await;
    let mut first = Socket::open(&server, "alice").await;
    first.send(json!({"leave": {"chatId": uuid::Uuid::now_v7().to_string()}})).await;
    assert_eq!(first.rejected().await, "NOT_JOINED");
    let another = async || raw::tls_on(&server, raw::tcp(&server, None).await, "http/1.1").await;
    assert!(another().await.is_err(), "there is one place");
    drop(first);
    let free = async {
        while another().await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    within(free).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_takes_nothing_loses_its_connection() {
    let adjust = |times: &mut Times| times.send_due = Some(Duration::from_secs(1));
    let server = TestServer::start_with(Ground::new(On::Sqlite).await, &[], adjust).await;
    let mut alice = server.client("alice").await;
    let chat = new_chat(&mut alice, &[]).await;
    let socket = Socket::joined(&server, "alice", &chat, None).await;
    let mut sender = Socket::open(&server, "alice").await;
    for number in 0..3000 {
        sender.send_text(&chat, &number.to_string(), &"x".repeat(4096)).await;
        sender.event_of("acknowledged").await;
        if server.registry.subscription_count() == 0 {
            break;
        }
    }
    until("its session has ended", || server.registry.subscription_count() == 0).await;
    raw::closed(socket.io.into_inner()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_frame_ends_the_socket_and_nothing_else() {
    let (server, chat, mut healthy) = joined(&[]).await;
    let mut compressed = text(&b"{}"[..]);
    compressed.header_mut().rsv1 = true;
    for (message, code, reason) in [
        (Wire::text("no json"), 1007, "MALFORMED_FRAME"),
        (Wire::text(r#"{"join":"#), 1007, "MALFORMED_FRAME"),
        (Wire::text(""), 1007, "MALFORMED_FRAME"),
        (Wire::Frame(text(&b"{\"\xff\":1}"[..])), 1007, "MALFORMED_FRAME"),
        (Wire::binary(&b"{}"[..]), 1003, "TEXT_FRAMES_ONLY"),
        (Wire::text("x".repeat(300 * 1024)), 1009, "MESSAGE_TOO_BIG"),
        (Wire::Frame(compressed), 1002, "PROTOCOL_ERROR"),
        (Wire::Frame(Frame::message(&b"{}"[..], OpCode::Data(Data::Continue), true)), 1002, "PROTOCOL_ERROR"),
    ] {
        let shown = format!("{message:?}").chars().take(80).collect::<String>();
        let mut socket = Socket::open(&server, "alice").await;
        // The server may have closed before all of it was written.
        drop(within(futures_util::SinkExt::send(&mut socket.io, message)).await);
        assert_eq!(socket.end().await, (code, reason.into()), "{shown}");
    }
    // Too long in all, though no part of it is.
    let mut socket = Socket::open(&server, "alice").await;
    for at in 0..5 {
        let opcode = OpCode::Data(if at == 0 { Data::Text } else { Data::Continue });
        let part = Frame::message("x".repeat(100 * 1024), opcode, false);
        if within(futures_util::SinkExt::send(&mut socket.io, Wire::Frame(part))).await.is_err() {
            break;
        }
    }
    assert_eq!(socket.end().await, (1009, "MESSAGE_TOO_BIG".into()));
    healthy.send_text(&chat, "1", "still here").await;
    assert_eq!(healthy.event_of("acknowledged").await["sequence"], "1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_pages_of_this_server_and_of_configured_origins_get_sockets() {
    let server = started(&["--cors-origins", "https://app.example.org"]).await;
    let token = format!("Bearer {}", mint("alice", &["user"]));
    let own = format!("https://localhost:{}", server.port);
    for origin in [own.as_str(), "https://app.example.org"] {
        assert!(Socket::ask(&server, &[("origin", origin), ("authorization", &token)]).await.is_ok(), "{origin}");
    }
    for origin in ["https://evil.example", "https://localhost", "http://app.example.org", "null"] {
        let refused = Socket::ask(&server, &[("origin", origin), ("authorization", &token)]).await;
        assert_eq!(refused.err(), Some(403), "{origin}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_asks_for_no_socket_is_told_how() {
    let server = started(&[]).await;
    for version in [Version::HTTP_11, Version::HTTP_2] {
        let plain = Request::get("/v1/connect").body(Bytes::new()).unwrap();
        let mut told = send(&server, version, plain).await;
        assert_eq!((told.status, &told.headers["sec-websocket-version"]), (426, &"13".parse().unwrap()));
        assert_eq!(told.json().await["details"][0]["reason"], "WEBSOCKET_HANDSHAKE");
        let posted = Request::builder().method(Method::POST).uri("/v1/connect").body(Bytes::new()).unwrap();
        let told = send(&server, version, posted).await;
        assert_eq!((told.status, &told.headers["allow"]), (405, &"GET".parse().unwrap()));
    }
    for (name, value, status) in [
        ("sec-websocket-protocol", "graphql-ws", 400),
        ("sec-websocket-key", "short", 400),
        ("sec-websocket-version", "12", 426),
        ("upgrade", "h2c", 426),
    ] {
        assert_eq!(Socket::ask(&server, &[(name, value)]).await.err(), Some(status), "{name}: {value}");
    }
}
