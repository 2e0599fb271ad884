//! While Redis is away the sweep does its work, and what was lost arrives when it is back.

use chat_service::broker::BrokerState;
use chat_service::pb::chat::v1::LeftReason;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::common::process::Process;
use crate::common::redis_server::{RedisServer, prefix};
use crate::common::*;
use crate::{NO_SWEEP, are, left, node, send, two_nodes};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_redis_everything_arrives_later_and_with_it_at_once_again() {
    let mut redis = RedisServer::start().await;
    let nodes = two_nodes(&redis.url(), &prefix(), &[]).await;
    let [one, other] = &nodes;
    let (mut alice, mut bob, mut carol) = (one.client("alice").await, other.client("bob").await, other.client("carol").await);
    let chat = new_chat(&mut alice, &["bob", "carol"]).await;
    let (mut stream, mut removed) = (Stream::joined(&mut bob, &chat, None).await, Stream::joined(&mut carol, &chat, None).await);

    redis.kill_9().await;
    are(&nodes, BrokerState::Degraded).await;
    for sequence in 1..=3 {
        send(&mut alice, &chat, &sequence.to_string()).await;
        assert_eq!(stream.message().await.sequence, sequence);
        assert_eq!(removed.message().await.sequence, sequence);
    }
    alice.remove_member(remove_request(&chat, "carol")).await.unwrap();
    assert_eq!(left(&mut removed).await, LeftReason::Removed, "by the sweep: the announcement waits");
    // Who joins now doesn't wait for Redis.
    let mut late = Stream::joined(&mut bob, &chat, Some(2)).await;
    assert_eq!(late.message().await.sequence, 3);
    until("what Redis will never be given is counted: all but the chat's newest message", || one.broker.dropped() >= 2).await;

    redis.start_again().await;
    are(&nodes, BrokerState::Up).await;
    let before = other.broker.received();
    assert_eq!(send(&mut alice, &chat, "4").await, 4);
    for stream in [&mut stream, &mut late] {
        assert_eq!(stream.message().await.sequence, 4);
    }
    until("it came by Redis too", || other.broker.received() > before).await;
    assert!(one.broker.degradations() >= 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_lost_while_redis_was_away_arrives_as_soon_as_it_is_back() {
    let mut redis = RedisServer::start().await;
    let nodes = two_nodes(&redis.url(), &prefix(), &NO_SWEEP).await;
    let [one, other] = &nodes;
    let (mut alice, mut bob, mut carol) = (one.client("alice").await, other.client("bob").await, other.client("carol").await);
    let (chat, another) = (new_chat(&mut alice, &["bob"]).await, new_chat(&mut alice, &["carol"]).await);
    let (mut stream, mut removed) = (Stream::joined(&mut bob, &chat, None).await, Stream::joined(&mut carol, &another, None).await);

    redis.kill_9().await;
    are(&nodes, BrokerState::Degraded).await;
    for sequence in 1..=3 {
        send(&mut alice, &chat, &sequence.to_string()).await;
    }
    alice.remove_member(remove_request(&another, "carol")).await.unwrap();
    redis.start_again().await;
    for sequence in 1..=3 {
        assert_eq!(stream.message().await.sequence, sequence, "nobody sends more, and the sweep's interval is an hour");
    }
    assert_eq!(left(&mut removed).await, LeftReason::Removed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_is_frozen_is_noticed_and_nothing_waits_for_it() {
    let redis = RedisServer::start().await;
    let nodes = two_nodes(&redis.url(), &prefix(), &[]).await;
    let (mut alice, mut bob) = (nodes[0].client("alice").await, nodes[1].client("bob").await);
    let chat = new_chat(&mut alice, &["bob"]).await;
    let mut stream = Stream::joined(&mut bob, &chat, None).await;
    redis.signal("STOP").await;
    for sequence in 1..=5 {
        send(&mut alice, &chat, &sequence.to_string()).await;
        assert_eq!(stream.message().await.sequence, sequence);
    }
    are(&nodes, BrokerState::Degraded).await;
    redis.signal("CONT").await;
    are(&nodes, BrokerState::Up).await;
    send(&mut alice, &chat, "again").await;
    assert_eq!(stream.message().await.sequence, 6);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_is_not_there_at_the_start_is_found_later() {
    let mut redis = RedisServer::start().await;
    redis.kill_9().await;
    let ground = Ground::new(On::Postgres).await;
    let nodes = [node(&ground, &redis.url(), &prefix(), &NO_SWEEP).await];
    are(&nodes, BrokerState::Degraded).await;
    let mut alice = nodes[0].client("alice").await;
    let chat = new_chat(&mut alice, &[]).await;
    let mut stream = Stream::joined(&mut alice, &chat, None).await;
    send(&mut alice, &chat, "1").await;
    assert_eq!(stream.message().await.sequence, 1, "its own streams need no Redis");
    redis.start_again().await;
    are(&nodes, BrokerState::Up).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readiness_and_the_log_tell_once_that_redis_is_away() {
    let mut redis = RedisServer::start().await;
    redis.kill_9().await;
    let ground = Ground::new(On::Postgres).await;
    let url = format!("redis://:hunter2@127.0.0.1:{}", redis.port);
    let mut node = Process::serve(&ground, 0, &["--redis-url", &url]).await;
    until("it is told", || node.said("Redis is away") == 1).await;
    let answer = ready(&node).await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("degraded: Redis is away"), "{answer}");
    assert!(node.stop().await.success());
    assert_eq!((node.said("Redis is away"), node.said("hunter2")), (1, 0), "{:?}", node.log);
}

/// What /readyz answers.
async fn ready(node: &Process) -> String {
    let lines = node.log.lock().unwrap().clone();
    let port = lines.iter().find_map(|line| line.split_once("admin=")?.1.split_once("127.0.0.1:")).expect("it tells its ports").1;
    let port: u16 = port.chars().take_while(char::is_ascii_digit).collect::<String>().parse().unwrap();
    let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    within(stream.read_to_string(&mut answer)).await.unwrap();
    answer
}
