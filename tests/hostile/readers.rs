//! Clients that don't read, or read slowly.

use std::time::Duration;

use chat_service::pb::chat::v1::connect_chat_response::Event;
use tonic::transport::Channel;

use crate::common::*;
use crate::raw::*;
use crate::{Honest, chat_with_history};

/// What HTTP/2 begins with, and small clients stay at.
const SMALL_WINDOW: u32 = 65_535;

async fn small_windows(server: &TestServer) -> Channel {
    let endpoint = endpoint(&server.ground.path("certs/ca.pem"), server.port);
    within(endpoint.initial_stream_window_size(SMALL_WINDOW).initial_connection_window_size(SMALL_WINDOW).connect()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_is_never_read_is_closed() {
    let adjust = |times: &mut chat_service::app::server::Times| times.connection.send_due = Some(Duration::from_secs(1));
    let server = TestServer::start_with(Ground::new(On::Sqlite).await, &[], adjust).await;
    let mut honest = Honest::new(&server).await;
    let chat = chat_with_history(&server).await;
    // HTTP/2 would let everything come; it is the socket that takes no more.
    let tcp = tcp(&server, Some(4096)).await;
    let io = tls_on(&server, tcp, "h2").await.unwrap();
    let mut raw = Raw::over(io, "mallory", &[(INITIAL_WINDOW_SIZE, WINDOW_MAX)]).await;
    raw.write(&frame(WINDOW_UPDATE, 0, 0, &(WINDOW_MAX - SMALL_WINDOW).to_be_bytes())).await.unwrap();
    for _ in 0..100 {
        raw.connect(join(&chat, Some(0))).await;
    }
    until("all have joined", || server.registry.subscription_count() > 1).await;
    let attack = async {
        until("only the honest one's subscription is left", || server.registry.subscription_count() == 1).await;
        // A connection that was still open would go on now.
        raw.closed().await;
    };
    honest.beside(attack).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_whose_client_takes_nothing_is_reset() {
    let adjust = |times: &mut chat_service::app::server::Times| times.send_due = Some(Duration::from_secs(1));
    let server = TestServer::start_with(Ground::new(On::Sqlite).await, &[], adjust).await;
    let mut honest = Honest::new(&server).await;
    let chat = chat_with_history(&server).await;
    // The connection is read all the while, but its streams' windows never open.
    let mut raw = Raw::open(&server, "mallory", &[(INITIAL_WINDOW_SIZE, 0)]).await;
    let stream = raw.connect(join(&chat, Some(0))).await;
    let reset = honest.beside(raw.next_of(RST_STREAM)).await.expect("the connection goes on");
    assert_eq!(reset.stream, stream);
    until("only the honest one's subscription is left", || server.registry.subscription_count() == 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_whose_client_takes_nothing_is_reset() {
    let adjust = |times: &mut chat_service::app::server::Times| times.send_due = Some(Duration::from_secs(1));
    let server = TestServer::start_with(Ground::new(On::Sqlite).await, &[], adjust).await;
    let mut honest = Honest::new(&server).await;
    let mut raw = Raw::open(&server, "mallory", &[(INITIAL_WINDOW_SIZE, 0)]).await;
    // The first bytes of an answer have no window either.
    let stream = raw.begin("ListChats").await;
    raw.write(&frame(DATA, END_STREAM, stream, &[0; 5])).await.unwrap();
    let reset = honest.beside(raw.next_of(RST_STREAM)).await.expect("the connection goes on");
    assert_eq!(reset.stream, stream);
}

/// Many receivers on one connection with the smallest windows have stalled for good. Each must get everything, or be told to come again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_hundred_receivers_on_one_connection_with_small_windows_do_not_stall() {
    const STREAMS: usize = 300;
    const MESSAGES: i64 = 40;
    let server = started(&["--max-streams-per-connection", "400", "--send-timeout", "5s"]).await;
    let mut honest = Honest::new(&server).await;
    let mut alice = server.client("alice").await;
    let chat = new_chat(&mut alice, &["bob"]).await;
    let mut bob = with_token(small_windows(&server).await, &mint("bob", &["user"]));
    let mut receivers = Vec::new();
    for _ in 0..STREAMS {
        let mut stream = Stream::joined(&mut bob, &chat, None).await;
        receivers.push(tokio::spawn(async move {
            let mut last = 0;
            while last < MESSAGES {
                match stream.next().await {
                    Ok(Some(response)) => {
                        let Some(Event::Message(message)) = response.event else { continue };
                        last += 1;
                        assert_eq!(message.sequence, last);
                    }
                    Ok(None) | Err(_) => break,
                }
            }
            last
        }));
    }
    let sending = async {
        for number in 0..MESSAGES {
            alice.send_message(send_request(&chat, &number.to_string(), &"x".repeat(1000))).await.unwrap();
        }
        let mut ended_early = Vec::new();
        for receiver in receivers {
            let last = within(receiver).await.unwrap();
            if last < MESSAGES {
                ended_early.push(last);
            }
        }
        ended_early
    };
    let ended_early = honest.beside(sending).await;
    for last in ended_early {
        let mut stream = Stream::joined(&mut bob, &chat, Some(last)).await;
        for sequence in last + 1..=MESSAGES {
            assert_eq!(stream.message().await.sequence, sequence);
        }
    }
}

/// A client's HTTP/2 library charges small frames that it holds unread, and may close the connection by itself with ENHANCE_YOUR_CALM. Frames
/// above 170 bytes fill the window first, so flow control stops them before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_reader_with_small_windows_keeps_its_connection() {
    const MESSAGES: i64 = 2000;
    let server = TestServer::start(On::Sqlite).await;
    let mut alice = server.client("alice").await;
    let chat = new_chat(&mut alice, &["bob"]).await;
    let mut bob = with_token(small_windows(&server).await, &mint("bob", &["user"]));
    let mut slow = Stream::joined(&mut bob, &chat, None).await;
    let mut sender = Stream::joined(&mut alice, &chat, None).await;
    for number in 0..MESSAGES {
        sender.send_text(&chat, &number.to_string(), &"x".repeat(120));
    }
    for _ in 0..MESSAGES {
        sender.acknowledged().await;
    }
    for sequence in 1..=MESSAGES {
        assert_eq!(slow.message().await.sequence, sequence);
    }
}
