//! ConnectChat on a WebSocket: the same promises as on a stream.

use std::time::Duration;

use chat_service::model::limits;
use chat_service::pb::chat::v1::connect_chat_request::Frame;
use chat_service::pb::chat::v1::*;
use chat_service::transport::session::outbox;
use serde_json::json;
use tokio_tungstenite::tungstenite::Message as Wire;

use crate::common::*;
use crate::on_both_stores;
use crate::socket::{Socket, text_and_sequence};

on_both_stores!(
    sockets_and_streams_tell_one_story,
    a_socket_resumes_behind_what_it_has_seen,
    sends_are_acknowledged_once_however_often_they_come,
    a_reader_that_stalls_gets_everything_in_bounded_memory,
    a_member_who_is_removed_loses_the_chat,
);

async fn sockets_and_streams_tell_one_story(on: On) {
    let server = TestServer::start(on).await;
    let (mut alice, mut bob) = (server.client("alice").await, server.client("bob").await);
    let chat = new_chat(&mut alice, &["bob"]).await;
    let mut socket = Socket::joined(&server, "alice", &chat, None).await;
    let mut stream = Stream::joined(&mut bob, &chat, None).await;

    socket.send_text(&chat, "1", "from the socket: ☕ \"quoted\" <b>\u{202e}").await;
    let (mut acknowledged, mut delivered) = (None, None);
    while acknowledged.is_none() || delivered.is_none() {
        let event = socket.event().await;
        acknowledged = acknowledged.or_else(|| event.get("acknowledged").cloned());
        delivered = delivered.or_else(|| event.get("message").cloned());
    }
    let (acknowledged, delivered) = (acknowledged.unwrap(), delivered.unwrap());
    let seen = stream.message().await;
    let created_at = seen.created_at.as_ref().unwrap().to_string();
    assert_eq!(
        delivered,
        json!({
            "chatId": chat, "sequence": "1", "senderId": "alice", "clientMessageId": "1", "createdAt": created_at, "text": text_of(&seen)
        })
    );
    assert_eq!(acknowledged, json!({"chatId": chat, "clientMessageId": "1", "sequence": "1", "createdAt": created_at}));

    stream.send_text(&chat, "1", "from the stream");
    let answer = socket.event_of("message").await;
    assert_eq!((&answer["sequence"], &answer["senderId"], &answer["text"]), (&json!("2"), &json!("bob"), &json!("from the stream")));
    loop {
        if let Some(seen) = text_and_sequence(&stream.event().await) {
            assert_eq!(seen, ("from the stream".into(), 2));
            break;
        }
    }
}

async fn a_socket_resumes_behind_what_it_has_seen(on: On) {
    let server = TestServer::start(on).await;
    let mut alice = server.client("alice").await;
    let chat = new_chat(&mut alice, &[]).await;
    fill(&mut alice, &chat, 300).await;
    let mut socket = Socket::joined(&server, "alice", &chat, Some(2)).await;
    alice.send_message(send_request(&chat, "live", "x")).await.unwrap();
    for sequence in 3..=301 {
        assert_eq!(socket.sequence().await, sequence);
    }
    socket.send(json!({"leave": {"chatId": chat}})).await;
    assert_eq!(socket.event_of("left").await["reason"], "LEFT_REASON_ASKED");
    socket.join(&chat, Some(302)).await;
    assert_eq!(socket.rejected().await, "SEQUENCE_AHEAD");
    socket.join(&chat, Some(300)).await;
    assert_eq!(socket.sequence().await, 301);
}

async fn sends_are_acknowledged_once_however_often_they_come(on: On) {
    let server = TestServer::start(on).await;
    let chat = new_chat(&mut server.client("alice").await, &[]).await;
    let mut socket = Socket::open(&server, "alice").await;
    // Beyond the window of 256, without reading meanwhile: it reads on as it settles.
    for number in 0..1000 {
        socket.send_text(&chat, &number.to_string(), "x").await;
    }
    for number in 0..1000 {
        let acknowledged = socket.event_of("acknowledged").await;
        let expected = (json!(number.to_string()), json!((number + 1).to_string()));
        assert_eq!((&acknowledged["clientMessageId"], &acknowledged["sequence"]), (&expected.0, &expected.1));
    }
    let mut again = Socket::open(&server, "alice").await;
    again.send_text(&chat, "7", "x").await;
    assert_eq!(again.event_of("acknowledged").await["sequence"], "8", "the first one's place");
}

async fn a_reader_that_stalls_gets_everything_in_bounded_memory(on: On) {
    const MESSAGES: i64 = 10_000;
    let server = TestServer::start(on).await;
    let mut alice = server.client("alice").await;
    let chat = new_chat(&mut alice, &["bob"]).await;
    let mut stalled = Socket::joined(&server, "bob", &chat, None).await;
    let text = "x".repeat(1000);
    let first = Frame::Send(SendFrame { chat_id: chat.clone(), client_message_id: "1".into(), text: text.clone() });
    let mut sender = Stream::open(&mut alice, first).await;
    for number in 2..=MESSAGES {
        sender.send_text(&chat, &number.to_string(), &text);
    }
    for _ in 0..MESSAGES {
        sender.acknowledged().await;
    }
    for sequence in 1..=MESSAGES {
        assert_eq!(stalled.sequence().await, sequence);
    }
    // What waits, a page on top of it, and the largest event.
    let bound = outbox::HIGH_WATER_BYTES + 64 * 1024 + 32 * 1024;
    assert!(outbox::peak_bytes() >= outbox::HIGH_WATER_BYTES, "the reader did stall");
    assert!(outbox::peak_bytes() <= bound, "{} bytes were held for a stream", outbox::peak_bytes());
}

async fn a_member_who_is_removed_loses_the_chat(on: On) {
    let server = TestServer::start(on).await;
    let mut alice = server.client("alice").await;
    let chat = new_chat(&mut alice, &["bob"]).await;
    let mut socket = Socket::joined(&server, "bob", &chat, None).await;
    alice.remove_member(remove_request(&chat, "bob")).await.unwrap();
    assert_eq!(socket.event_of("left").await, json!({"chatId": chat, "reason": "LEFT_REASON_REMOVED"}));
    socket.join(&chat, None).await;
    assert_eq!(socket.rejected().await, "CHAT_NOT_FOUND");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_is_taken_from_the_header_from_the_protocols_or_as_the_first_frame() {
    let server = TestServer::start(On::Sqlite).await;
    let chat = new_chat(&mut server.client("alice").await, &[]).await;
    let token = mint("alice", &["user"]);

    let mut by_header = Socket::with_token(&server, &token).await;
    assert!(by_header.headers.contains_key("x-request-id") && !by_header.headers.contains_key("sec-websocket-extensions"));
    by_header.join(&chat, None).await;
    by_header.event_of("joined").await;

    let protocols = format!("chat.v1, bearer.{token}");
    let mut by_protocol = Socket::ask(&server, &[("sec-websocket-protocol", &protocols)]).await.unwrap();
    assert_eq!(by_protocol.headers["sec-websocket-protocol"], "chat.v1");
    by_protocol.join(&chat, None).await;
    by_protocol.event_of("joined").await;

    let mut by_frame = Socket::ask(&server, &[("sec-websocket-protocol", "chat.v1")]).await.unwrap();
    by_frame.send(json!({"refreshToken": {"token": token}})).await;
    assert!(by_frame.event().await["tokenRefreshed"]["expiresAt"].is_string(), "it is answered as any new token");
    by_frame.join(&chat, None).await;
    by_frame.event_of("joined").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_token_closes_the_socket_whichever_way_it_came() {
    let server = TestServer::start(On::Sqlite).await;
    let refused = (4401, "TOKEN_INVALID".to_owned());
    assert_eq!(Socket::with_token(&server, "forged").await.end().await, refused);
    let mut by_protocol = Socket::ask(&server, &[("sec-websocket-protocol", "chat.v1, bearer.forged")]).await.unwrap();
    assert_eq!(by_protocol.end().await, refused);
    let mut by_frame = Socket::ask(&server, &[]).await.unwrap();
    by_frame.send(json!({"refreshToken": {"token": "forged"}})).await;
    assert_eq!(by_frame.end().await, refused);
    let mut without = Socket::ask(&server, &[]).await.unwrap();
    without.send(json!({"join": {"chatId": "any"}})).await;
    assert_eq!(without.end().await, (4401, "TOKEN_MISSING".into()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_socket_ends_with_its_token_unless_it_gets_a_new_one() {
    let server = started(&["--auth-leeway", "0s"]).await;
    let brief = || mint_for("alice", &["user"], Duration::from_secs(2));
    let (mut ends, mut stays) = (Socket::with_token(&server, &brief()).await, Socket::with_token(&server, &brief()).await);
    stays.send(json!({"refreshToken": {"token": mint("bob", &["user"])}})).await;
    assert_eq!(stays.rejected().await, "TOKEN_OF_ANOTHER");
    stays.send(json!({"refreshToken": {"token": mint("alice", &["user"])}})).await;
    stays.event_of("tokenRefreshed").await;
    ends.send(json!({"leave": {"chatId": uuid::Uuid::now_v7().to_string()}})).await;
    assert_eq!(ends.end().await, (4401, "TOKEN_EXPIRED".into()));
    stays.send(json!({"leave": {"chatId": uuid::Uuid::now_v7().to_string()}})).await;
    assert_eq!(stays.rejected().await, "NOT_JOINED", "it lives on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_frame_leaves_the_socket_alive() {
    let server = TestServer::start(On::Sqlite).await;
    let chat = new_chat(&mut server.client("alice").await, &[]).await;
    let mut socket = Socket::joined(&server, "alice", &chat, None).await;
    socket.send_text(&chat, "1", " \n ").await;
    let blank = socket.event_of("rejected").await;
    assert_eq!((&blank["frame"], &blank["clientMessageId"]), (&json!("FRAME_KIND_SEND"), &json!("1")));
    let violations = blank["status"]["details"].as_array().unwrap().iter().find_map(|detail| detail["fieldViolations"].as_array());
    assert_eq!(violations.unwrap()[0]["field"], "send.text");
    for unknown in [
        json!({}),
        json!([1, 2]),
        json!({"shout": {"chatId": chat}}),
        json!({"send": {"chatId": chat, "clientMessageId": "1", "text": "x", "loud": true}}),
        json!({"send": {"chatId": chat, "clientMessageId": 1, "text": "x"}}),
        json!({"join": {"chatId": chat, "afterSequence": 1.5}}),
    ] {
        socket.send(unknown.clone()).await;
        let rejected = socket.event_of("rejected").await;
        assert_eq!(rejected["frame"], "FRAME_KIND_UNSPECIFIED", "{unknown}");
        assert_eq!(rejected["status"]["details"][0]["reason"], "UNKNOWN_FRAME", "{unknown}");
    }
    socket.join(&chat, None).await;
    assert_eq!(socket.rejected().await, "ALREADY_JOINED");
    socket.send_text(&chat, "1", "still here").await;
    assert_eq!(socket.event_of("acknowledged").await["sequence"], "1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_socket_asks_for_counts_as_on_a_stream() {
    let limits = ["--rate-limit-address", "1/s", "--rate-limit-user-calls", "1/s burst 3"];
    let server = started(&limits).await;
    // One request of the address: the call behind it isn't another one.
    let mut socket = Socket::open(&server, "alice").await;
    socket.send(json!({"leave": {"chatId": uuid::Uuid::now_v7().to_string()}})).await;
    assert_eq!(socket.rejected().await, "NOT_JOINED");
    let bearer = format!("Bearer {}", mint("bob", &["user"]));
    let mut refused = None;
    for _ in 0..50 {
        refused = refused.or(Socket::ask(&server, &[("authorization", &bearer)]).await.err());
    }
    assert_eq!(refused, Some(429));
    let mut reasons = Vec::new();
    for _ in 0..6 {
        socket.send(json!({"leave": {"chatId": uuid::Uuid::now_v7().to_string()}})).await;
        reasons.push(socket.rejected().await);
    }
    assert!(reasons.contains(&"RATE_LIMITED".to_owned()), "{reasons:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pings_are_answered_and_text_may_come_in_fragments() {
    use tokio_tungstenite::tungstenite::protocol::frame::Frame as WireFrame;
    use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};

    let server = TestServer::start(On::Sqlite).await;
    let chat = new_chat(&mut server.client("alice").await, &[]).await;
    let mut socket = Socket::open(&server, "alice").await;
    socket.put(Wire::Ping("tick".into())).await;
    match within(futures_util::StreamExt::next(&mut socket.io)).await {
        Some(Ok(Wire::Pong(payload))) => assert_eq!(payload, "tick"),
        other => panic!("{other:?}"),
    }
    // The text's characters may be cut anywhere, and pings come in between.
    let frame = json!({"send": {"chatId": chat, "clientMessageId": "1", "text": "☕".repeat(1000)}}).to_string().into_bytes();
    let pieces: Vec<&[u8]> = frame.chunks(700).collect();
    for (at, piece) in pieces.iter().enumerate() {
        let opcode = OpCode::Data(if at == 0 { Data::Text } else { Data::Continue });
        socket.put(Wire::Frame(WireFrame::message(piece.to_vec(), opcode, at + 1 == pieces.len()))).await;
        socket.put(Wire::Ping("in between".into())).await;
    }
    assert_eq!(socket.event_of("acknowledged").await["sequence"], "1");
    assert!(frame.len() < limits::REQUEST_BYTES_MAX);
}
