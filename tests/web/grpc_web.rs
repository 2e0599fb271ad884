//! gRPC-web: calls, and listening on ConnectChat, over HTTP/1.1 and HTTP/2.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use chat_service::app::server::Times;
use chat_service::pb::chat::v1::connect_chat_request::Frame;
use chat_service::pb::chat::v1::connect_chat_response::Event;
use chat_service::pb::chat::v1::*;
use http::{Request, Version};
use tokio::io::AsyncWriteExt;
use tonic::Code;

use crate::common::*;
use crate::http_client::{Piece, Reply, base64_decoded, grpc_web, send, take_piece};
use crate::on_both_stores;
use crate::raw;

const VERSIONS: [Version; 2] = [Version::HTTP_11, Version::HTTP_2];

on_both_stores!(a_listener_that_follows_hears_history_and_what_comes, without_follow_history_comes_and_the_stream_ends,);

/// The frames of a listener, which half-closes behind them.
fn listener(chat: &str, follow: bool) -> Vec<u8> {
    let join = JoinFrame { chat_id: chat.into(), after_sequence: Some(0), follow };
    raw::message(&ConnectChatRequest { frame: Some(Frame::Join(join)) })
}

async fn event(reply: &mut Reply) -> Event {
    reply.message::<ConnectChatResponse>().await.event.unwrap()
}

async fn sequence(reply: &mut Reply) -> i64 {
    match event(reply).await {
        Event::Message(message) => message.sequence,
        other => panic!("no message: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_are_answered_over_both_versions_of_http() {
    let server = TestServer::start(On::Sqlite).await;
    for version in VERSIONS {
        let create = CreateChatRequest { title: "Tea".into(), member_ids: vec![], request_id: String::new() };
        let mut created = send(&server, version, grpc_web("CreateChat", "alice", &[&raw::message(&create)])).await;
        assert_eq!((created.status, &created.headers["content-type"]), (200, &"application/grpc-web+proto".parse().unwrap()));
        assert!(created.headers.contains_key("x-request-id"));
        let chat = created.message::<CreateChatResponse>().await.chat.unwrap();
        assert_eq!(created.end().await.code(), Code::Ok);

        let request = send_request(&chat.chat_id, "1", "hello");
        let mut sent = send(&server, version, grpc_web("SendMessage", "alice", &[&raw::message(&request)])).await;
        assert_eq!(sent.message::<SendMessageResponse>().await.message.unwrap().sequence, 1);
        assert_eq!(sent.end().await.code(), Code::Ok);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn errors_keep_their_details() {
    let server = TestServer::start(On::Sqlite).await;
    for version in VERSIONS {
        let unknown = GetChatRequest { chat_id: uuid::Uuid::now_v7().to_string() };
        let end = send(&server, version, grpc_web("GetChat", "alice", &[&raw::message(&unknown)])).await.end().await;
        assert_eq!((end.code(), reason(&end)), (Code::NotFound, "CHAT_NOT_FOUND".into()));
        let mut stranger = grpc_web("GetChat", "alice", &[&raw::message(&unknown)]);
        stranger.headers_mut().remove("authorization");
        let end = send(&server, version, stranger).await.end().await;
        assert_eq!((end.code(), reason(&end)), (Code::Unauthenticated, "TOKEN_MISSING".into()));
    }
    // HTTP/1.1 closes on a request that isn't read to its end, and its client may miss the answer.
    let huge = send_request(&uuid::Uuid::now_v7().to_string(), "1", &"x".repeat(300 * 1024));
    let end = send(&server, Version::HTTP_2, grpc_web("SendMessage", "alice", &[&raw::message(&huge)])).await.end().await;
    assert_eq!(end.code(), Code::OutOfRange);
}

async fn a_listener_that_follows_hears_history_and_what_comes(on: On) {
    let server = TestServer::start(on).await;
    let mut alice = server.client("alice").await;
    for version in VERSIONS {
        let chat = new_chat(&mut alice, &["bob"]).await;
        alice.send_message(send_request(&chat, "before", "x")).await.unwrap();
        let mut listening = send(&server, version, grpc_web("ConnectChat", "bob", &[&listener(&chat, true)])).await;
        assert!(matches!(event(&mut listening).await, Event::Joined(_)));
        assert_eq!(sequence(&mut listening).await, 1);
        for number in 2..=100 {
            alice.send_message(send_request(&chat, &number.to_string(), "x")).await.unwrap();
            assert_eq!(sequence(&mut listening).await, number);
        }
        drop(listening);
        until("the subscription is gone with its listener", || server.registry.subscription_count() == 0).await;
    }
}

async fn without_follow_history_comes_and_the_stream_ends(on: On) {
    let server = TestServer::start(on).await;
    let mut alice = server.client("alice").await;
    let chat = new_chat(&mut alice, &[]).await;
    fill(&mut alice, &chat, 3).await;
    let last = SendFrame { chat_id: chat.clone(), client_message_id: "last".into(), text: "the last".into() };
    let last = raw::message(&ConnectChatRequest { frame: Some(Frame::Send(last)) });
    for version in VERSIONS {
        let mut reply = send(&server, version, grpc_web("ConnectChat", "alice", &[&listener(&chat, false), &last])).await;
        let (mut sequences, mut acknowledged) = (Vec::new(), 0);
        let end = loop {
            match reply.piece().await.unwrap() {
                Piece::Message(message) => {
                    match prost::Message::decode(message).map(|it: ConnectChatResponse| it.event.unwrap()).unwrap() {
                        Event::Message(message) => sequences.push(message.sequence),
                        Event::Acknowledged(event) => acknowledged = event.sequence,
                        _ => {}
                    }
                }
                Piece::Trailers(trailers) => break tonic::Status::from_header_map(&trailers).unwrap(),
            }
        };
        assert_eq!((end.code(), sequences, acknowledged), (Code::Ok, vec![1, 2, 3, 4], 4));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_tells_listeners_and_ends_them_with_a_reason() {
    for version in VERSIONS {
        let server = TestServer::start(On::Sqlite).await;
        let chat = new_chat(&mut server.client("alice").await, &[]).await;
        let mut listening = send(&server, version, grpc_web("ConnectChat", "alice", &[&listener(&chat, true)])).await;
        assert!(matches!(event(&mut listening).await, Event::Joined(_)));
        server.begin_stop();
        assert!(matches!(event(&mut listening).await, Event::GoingAway(_)));
        let end = listening.end().await;
        assert_eq!((end.code(), reason(&end)), (Code::Unavailable, "GOING_AWAY".into()));
        server.stopped().await;
    }
}

/// Of HTTP/1.1 there is no stream that could be reset.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listener_that_takes_nothing_loses_its_connection() {
    let adjust = |times: &mut Times| times.send_due = Some(Duration::from_secs(1));
    let server = TestServer::start_with(Ground::new(On::Sqlite).await, &[], adjust).await;
    let mut alice = server.client("alice").await;
    let chat = new_chat(&mut alice, &[]).await;
    // More than the kernel's buffers hold.
    let first = Frame::Send(SendFrame { chat_id: chat.clone(), client_message_id: "0".into(), text: "x".repeat(4096) });
    let mut sender = Stream::open(&mut alice, first).await;
    for number in 1..2500 {
        sender.send_text(&chat, &number.to_string(), &"x".repeat(4096));
    }
    for _ in 0..2500 {
        sender.acknowledged().await;
    }
    drop(sender);
    let tcp = raw::tcp(&server, Some(4096)).await;
    let mut io = raw::tls_on(&server, tcp, "http/1.1").await.unwrap();
    let frames = listener(&chat, true);
    let head = format!(
        "POST /chat.v1.ChatService/ConnectChat HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/grpc-web+proto\r\n\
         authorization: Bearer {}\r\ncontent-length: {}\r\n\r\n",
        mint("alice", &["user"]),
        frames.len()
    );
    within(io.write_all(&[head.as_bytes(), &frames].concat())).await.unwrap();
    until("it has joined", || server.registry.subscription_count() == 1).await;
    until("its session has ended", || server.registry.subscription_count() == 0).await;
    raw::closed(io).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_in_base64_are_understood_as_well() {
    let server = TestServer::start(On::Sqlite).await;
    let mut call = grpc_web("ListChats", "alice", &[]);
    *call.body_mut() = STANDARD.encode(raw::message(&ListChatsRequest::default())).into();
    call.headers_mut().insert("content-type", "application/grpc-web-text".parse().unwrap());
    call.headers_mut().insert("accept", "application/grpc-web-text".parse().unwrap());
    let mut reply = send(&server, Version::HTTP_11, call).await;
    assert_eq!(reply.headers["content-type"], "application/grpc-web-text+proto");
    let mut body = base64_decoded(&reply.bytes().await);
    assert!(matches!(take_piece(&mut body), Some(Piece::Message(_))));
    assert!(matches!(take_piece(&mut body), Some(Piece::Trailers(trailers)) if trailers["grpc-status"] == "0"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_grpc_web_is_told_so() {
    let server = TestServer::start(On::Sqlite).await;
    let with = |method: &str, content_type: &str| {
        Request::builder()
            .method(method)
            .uri("/chat.v1.ChatService/ListChats")
            .header("content-type", content_type)
            .body(Bytes::new())
            .unwrap()
    };
    for version in VERSIONS {
        let got = send(&server, version, with("GET", "application/grpc-web+proto")).await;
        assert_eq!((got.status, &got.headers["allow"]), (405, &"POST".parse().unwrap()));
        let mut other = send(&server, version, with("POST", "application/grpc-web+json")).await;
        assert_eq!((other.status, other.json().await["code"].as_i64()), (415, Some(3)));
    }
    // gRPC itself needs HTTP/2's trailers and resets.
    let mut plain = grpc_web("ConnectChat", "alice", &[&listener("no chat", true)]);
    plain.headers_mut().insert("content-type", "application/grpc".parse().unwrap());
    let end = send(&server, Version::HTTP_11, plain).await.end().await;
    assert_eq!((end.code(), reason(&end)), (Code::Unimplemented, "NEEDS_HTTP2".into()));
}

/// A body that breaks off inside a frame, and one that is no message.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn broken_frames_end_their_call_and_nothing_else() {
    let server = TestServer::start(On::Sqlite).await;
    for version in VERSIONS {
        for broken in [&[0, 0, 0, 0, 9, 1][..], &[0, 0, 0, 0, 2, 8, 1], b"hello"] {
            let end = send(&server, version, grpc_web("ConnectChat", "alice", &[broken])).await.end().await;
            assert_ne!(end.code(), Code::Ok, "{broken:?}");
        }
        let list = grpc_web("ListChats", "alice", &[&raw::message(&ListChatsRequest::default())]);
        assert_eq!(send(&server, version, list).await.end().await.code(), Code::Ok);
    }
}
