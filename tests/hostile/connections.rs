//! Connections that say nothing, say it slowly, are too many, or don't go.

use std::time::Duration;

use chat_service::app::server::Times;
use chat_service::pb::chat::v1::connect_chat_response::Event;
use tokio::io::AsyncWriteExt;
use tonic::Code;
use tonic_types::StatusExt;

use crate::Honest;
use crate::common::*;
use crate::raw::*;

/// Where another limit is meant to come first.
const NEVER: Duration = Duration::from_secs(3600);

async fn started(more: &[&str], adjust: impl FnOnce(&mut Times)) -> TestServer {
    TestServer::start_with(Ground::new(On::Sqlite).await, more, adjust).await
}

/// A server that waits for no more than a second.
async fn impatient() -> TestServer {
    started(&[], |times| times.connection.handshake_due = Duration::from_secs(1)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handshake_that_does_not_go_on_is_closed() {
    let server = impatient().await;
    let mut honest = Honest::new(&server).await;
    let mut loris = tcp(&server, None).await;
    // A TLS record with a ClientHello, without the ClientHello.
    loris.write_all(&[0x16, 3, 1, 0, 200, 1]).await.unwrap();
    let silent = tcp(&server, None).await;
    honest.beside(async { tokio::join!(closed(loris), closed(silent)) }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_never_says_its_protocol_is_closed() {
    let server = impatient().await;
    let mut honest = Honest::new(&server).await;
    let silent = tls(&server, "h2").await;
    let mut half = tls(&server, "h2").await;
    half.write_all(b"PRI * HTTP/2").await.unwrap();
    half.flush().await.unwrap();
    honest.beside(async { tokio::join!(closed(silent), closed(half)) }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_http1_header_that_comes_byte_by_byte_is_closed() {
    let server = impatient().await;
    let mut honest = Honest::new(&server).await;
    let (reading, mut writing) = tokio::io::split(tls(&server, "http/1.1").await);
    let drip = async {
        let mut ticks = tokio::time::interval(Duration::from_millis(50));
        writing.write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\nx-slow: ").await.unwrap();
        loop {
            ticks.tick().await;
            if writing.write_all(b"y").await.is_err() || writing.flush().await.is_err() {
                break;
            }
        }
    };
    honest.beside(async { tokio::join!(closed(reading), within(drip)) }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_whose_body_never_comes_is_answered_in_time() {
    let server = started(&[], |times| times.request_due = Duration::from_secs(1)).await;
    let mut honest = Honest::new(&server).await;
    let mut raw = Raw::open(&server, "mallory", &[]).await;
    let stream = raw.begin("SendMessage").await;
    let answered = async {
        loop {
            let frame = raw.next().await.expect("the connection goes on");
            if frame.stream == stream && frame.kind == HEADERS {
                break frame;
            }
        }
    };
    let answer = honest.beside(answered).await;
    assert_ne!(answer.flags & END_STREAM, 0, "nothing comes behind the status");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_without_a_stream_is_told_to_go_and_closed() {
    let server = started(&[], |times| {
        times.connection.idle_due = Duration::from_secs(1);
        times.connection.drain_due = Duration::from_secs(1);
        times.connection.keep_alive_interval = NEVER;
    })
    .await;
    // The honest one's connection has a stream.
    let mut honest = Honest::new(&server).await;
    let idle = Raw::open(&server, "mallory", &[]).await;
    assert!(honest.beside(idle.closed()).await, "with a GOAWAY");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_whose_client_gives_no_sign_of_life_is_closed() {
    let server = started(&[], |times| {
        times.connection.keep_alive_interval = Duration::from_secs(1);
        times.connection.keep_alive_due = Duration::from_secs(1);
    })
    .await;
    let chat = new_chat(&mut server.client("mallory").await, &[]).await;
    let mut raw = Raw::open(&server, "mallory", &[]).await;
    // With a stream, so that it isn't idle; it answers no PING.
    raw.connect(join(&chat, None)).await;
    let mut honest = Honest::new(&server).await;
    honest.beside(raw.closed()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_does_not_go_is_cut() {
    let server = started(&["--max-connection-age", "2s"], |times| {
        times.connection.drain_due = Duration::from_secs(1);
        times.connection.keep_alive_interval = NEVER;
    })
    .await;
    let chat = new_chat(&mut server.client("mallory").await, &[]).await;
    let mut raw = Raw::open(&server, "mallory", &[]).await;
    raw.connect(join(&chat, None)).await;
    // It answers no PING, so the server never knows that its GOAWAY has come.
    assert!(raw.closed().await, "with a GOAWAY");
    Honest::new(&server).await.round().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_of_age_sends_its_streams_away_and_its_client_comes_back() {
    let server = started(&["--max-connection-age", "2s"], |_| {}).await;
    let mut alice = server.client("alice").await;
    let chat = new_chat(&mut alice, &[]).await;
    let mut stream = Stream::joined(&mut alice, &chat, None).await;
    assert!(matches!(stream.event().await, Event::GoingAway(_)));
    let end = stream.end().await;
    assert_eq!((end.code(), end.get_error_details().error_info().unwrap().reason.as_str()), (Code::Unavailable, "GOING_AWAY"));
    // A call may still meet the connection that closes.
    within(async { while alice.send_message(send_request(&chat, "1", "back again")).await.is_err() {} }).await;
    assert_eq!(Stream::joined(&mut alice, &chat, Some(0)).await.message().await.sequence, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_of_an_address_beyond_its_limit_are_closed_at_once() {
    let server = started(&["--max-connections-per-address", "4"], |_| {}).await;
    let mut honest = Honest::new(&server).await;
    let mut open = Vec::new();
    for _ in 0..3 {
        open.push(tls(&server, "h2").await);
    }
    let attack = async {
        for _ in 0..20 {
            closed(tcp(&server, None).await).await;
        }
    };
    honest.beside(attack).await;
    drop(open.pop());
    let again = async { while tls_on(&server, tcp(&server, None).await, "h2").await.is_err() {} };
    honest.beside(within(again)).await;
}
