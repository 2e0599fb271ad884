//! Rate limits: by user on calls and on streams, by address before tokens are looked at.

mod common;

use std::time::Duration;

use chat_service::pb::chat::v1::connect_chat_request::Frame;
use chat_service::pb::chat::v1::connect_chat_response::Event;
use chat_service::pb::chat::v1::*;
use common::*;
use futures_util::future::join_all;
use tonic::{Code, Request, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_types::StatusExt;

const MANY: usize = 30;

/// The wait that a refusal states. It must have its reason.
fn wait_of(status: &Status) -> Duration {
    assert_eq!(status.code(), Code::ResourceExhausted);
    let details = status.get_error_details();
    assert_eq!(details.error_info().unwrap().reason, "RATE_LIMITED");
    let wait = details.retry_info().unwrap().retry_delay.unwrap();
    assert!(!wait.is_zero());
    wait
}

/// Sends many messages at once: the statuses of those that were refused.
async fn send_many(client: &Client, chat: &str) -> Vec<Status> {
    let sends = (0..MANY).map(|number| {
        let (mut client, request) = (client.clone(), send_request(chat, &format!("call {number}"), "x"));
        async move { client.send_message(request).await.err() }
    });
    within(join_all(sends)).await.into_iter().flatten().collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sends_beyond_the_limit_are_refused_and_the_stated_wait_is_true() {
    let server = started(&["--rate-limit-user-sends", "1/s burst 5"]).await;
    let (mut alice, bob) = (server.client("alice").await, server.client("bob").await);
    let chat = new_chat(&mut alice, &["bob"]).await;
    let refused = send_many(&alice, &chat).await;
    assert!(refused.len() <= MANY - 5, "the burst has passed");
    assert!(wait_of(refused.last().expect("no more than the burst and the rate pass")) <= Duration::from_secs(1));

    alice.list_chats(list_request()).await.expect("other calls have a limit of their own");
    assert!(send_many(&bob, &chat).await.len() <= MANY - 5, "other users too");

    let mut ids = 1000..;
    let mut send = async || {
        let id = ids.next().unwrap().to_string();
        alice.send_message(send_request(&chat, &id, "x")).await
    };
    let wait = loop {
        if let Err(status) = send().await {
            break wait_of(&status);
        }
    };
    tokio::time::sleep(wait).await;
    send().await.expect("after the stated wait it passes");
}

/// What becomes of the next send of a stream.
async fn settled(stream: &mut Stream) -> Result<AcknowledgedEvent, RejectedEvent> {
    loop {
        match stream.event().await {
            Event::Acknowledged(event) => return Ok(event),
            Event::Rejected(event) => return Err(event),
            Event::Joined(_) | Event::Message(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sends_on_a_stream_count_like_calls_and_the_stream_lives_on() {
    let server = started(&["--rate-limit-user-sends", "1/s burst 5"]).await;
    let mut alice = server.client("alice").await;
    let chat = new_chat(&mut alice, &[]).await;
    let mut stream = Stream::open(&mut alice, join(&chat, None)).await;
    for number in 0..MANY {
        stream.send_text(&chat, &number.to_string(), "x");
    }
    let (mut acknowledged, mut rejected) = (0, Vec::new());
    for _ in 0..MANY {
        match settled(&mut stream).await {
            Ok(_) => acknowledged += 1,
            Err(event) => rejected.push(event),
        }
    }
    assert!(acknowledged >= 5, "the burst has passed");
    let last = rejected.pop().expect("no more than the burst and the rate pass");
    assert_eq!(last.frame(), FrameKind::Send);
    wait_of(&refusal(&last));
    // What the stream has used up is used up for calls.
    assert!(send_many(&alice, &chat).await.len() > MANY - 5);

    let mut ids = 1000..;
    let wait = loop {
        stream.send_text(&chat, &ids.next().unwrap().to_string(), "x");
        if let Err(event) = settled(&mut stream).await {
            break wait_of(&refusal(&event));
        }
    };
    tokio::time::sleep(wait).await;
    stream.send_text(&chat, "later", "x");
    assert_eq!(settled(&mut stream).await.unwrap().client_message_id, "later", "after the stated wait it passes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_frames_count_as_other_calls() {
    let server = started(&["--rate-limit-user-calls", "1/s burst 3"]).await;
    let chat = new_chat(&mut server.client("alice").await, &["bob"]).await;
    // Opening the stream is a call, and joining another.
    let mut stream = Stream::joined(&mut server.client("bob").await, &chat, None).await;
    for _ in 0..MANY {
        stream.send(Frame::Leave(LeaveFrame { chat_id: chat.clone() }));
    }
    let limited = loop {
        match stream.event().await {
            Event::Rejected(rejected) if rejected.status.as_ref().unwrap().code == i32::from(Code::ResourceExhausted) => break rejected,
            // The first of them passed, the chat was left then.
            Event::Left(_) | Event::Rejected(_) => {}
            other => panic!("{other:?}"),
        }
    };
    assert_eq!((limited.frame(), limited.chat_id.as_str()), (FrameKind::Leave, chat.as_str()));
    wait_of(&refusal(&limited));
    stream.send_text(&chat, "1", "sends have a limit of their own");
    loop {
        match stream.event().await {
            Event::Acknowledged(_) => break,
            Event::Rejected(rejected) => assert_eq!(rejected.frame(), FrameKind::Leave),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_is_limited_before_its_tokens_are_looked_at() {
    let server = started(&["--rate-limit-address", "1/s burst 5"]).await;
    let channel = server.channel().await;
    let guesses = (0..MANY).map(|number| {
        let mut client = with_token(channel.clone(), &format!("guess-{number}"));
        async move { client.list_chats(list_request()).await.unwrap_err() }
    });
    let refused = within(join_all(guesses)).await;
    let limited: Vec<_> = refused.iter().filter(|status| status.code() != Code::Unauthenticated).collect();
    assert!(refused.len() - limited.len() >= 5, "the burst was looked at");
    wait_of(limited.last().expect("no more than the burst and the rate are looked at"));
    let mut health = HealthClient::new(channel);
    let mut refused = None;
    for _ in 0..MANY {
        refused = health.check(HealthCheckRequest { service: String::new() }).await.err().or(refused);
    }
    wait_of(&refused.expect("health counts too"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn behind_a_trusted_proxy_each_client_has_its_own_limit() {
    let server = started(&["--rate-limit-address", "1/s burst 2", "--trusted-proxies", "127.0.0.0/8"]).await;
    let alice = server.client("alice").await;
    let from = async |client: &str| {
        let calls = (0..MANY).map(|_| {
            let (mut alice, mut request) = (alice.clone(), Request::new(list_request()));
            request.metadata_mut().insert("x-forwarded-for", client.parse().unwrap());
            async move { alice.list_chats(request).await.is_ok() }
        });
        within(join_all(calls)).await.into_iter().filter(|passed| *passed).count()
    };
    let first = from("198.51.100.1").await;
    assert!((2..MANY).contains(&first), "{first}");
    assert!(from("198.51.100.2").await >= 2, "another client");
    let same = from("2001:db8:0:1::1").await + from("2001:db8:0:1::2").await;
    assert!(same < MANY, "an IPv6 client is its network of 64 bits");
}
