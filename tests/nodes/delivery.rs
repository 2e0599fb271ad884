//! What is sent at one node reaches the streams of the others, in one order; so do ends of access.

use std::time::{Duration, Instant};

use chat_service::broker::BrokerState;
use chat_service::pb::chat::v1::{DeleteChatRequest, LeftReason};

use crate::common::redis_server::{connection, prefix, shared_url};
use crate::common::*;
use crate::{NO_SWEEP, are, left, node, send, two_nodes};

/// The contract's bound.
const PROMISE: Duration = Duration::from_secs(1);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_sent_at_one_node_reaches_the_streams_of_the_other_at_once() {
    let [one, other] = two_nodes(&shared_url(), &prefix(), &NO_SWEEP).await;
    let (mut alice, mut bob) = (one.client("alice").await, other.client("bob").await);
    let chat = new_chat(&mut alice, &["bob"]).await;
    let mut streams = [Stream::joined(&mut alice, &chat, None).await, Stream::joined(&mut bob, &chat, None).await];
    for sequence in 1..=20 {
        let sender = if sequence % 2 == 0 { &mut alice } else { &mut bob };
        assert_eq!(send(sender, &chat, &sequence.to_string()).await, sequence);
        for stream in &mut streams {
            let message = stream.message().await;
            assert_eq!((message.sequence, text_of(&message)), (sequence, "hello"));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_nodes_that_send_at_the_same_time_deliver_one_order_to_all() {
    const EACH: i64 = 120;
    let [one, other] = two_nodes(&shared_url(), &prefix(), &NO_SWEEP).await;
    let (mut alice, mut bob) = (one.client("alice").await, other.client("bob").await);
    let chat = new_chat(&mut alice, &["bob"]).await;
    let mut streams = [Stream::joined(&mut alice, &chat, None).await, Stream::joined(&mut bob, &chat, None).await];
    for number in 0..EACH {
        streams.iter().for_each(|stream| stream.send_text(&chat, &number.to_string(), "at once"));
    }
    let mut seen = [Vec::new(), Vec::new()];
    for (stream, seen) in streams.iter_mut().zip(&mut seen) {
        for sequence in 1..=2 * EACH {
            let message = stream.message().await;
            assert_eq!(message.sequence, sequence);
            seen.push((message.sender_id, message.client_message_id));
        }
    }
    assert_eq!(seen[0], seen[1]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_has_joined_misses_nothing_that_other_nodes_send_from_then_on() {
    let [one, other] = two_nodes(&shared_url(), &prefix(), &NO_SWEEP).await;
    let (mut alice, mut bob) = (one.client("alice").await, other.client("bob").await);
    for _ in 0..30 {
        let chat = new_chat(&mut alice, &["bob"]).await;
        let mut stream = Stream::joined(&mut bob, &chat, None).await;
        send(&mut alice, &chat, "1").await;
        assert_eq!(stream.message().await.sequence, 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn access_that_ends_at_one_node_ends_at_the_other_within_its_second() {
    let [one, other] = two_nodes(&shared_url(), &prefix(), &NO_SWEEP).await;
    let (mut alice, mut bob, mut carol) = (one.client("alice").await, other.client("bob").await, other.client("carol").await);
    let chat = new_chat(&mut alice, &["bob", "carol"]).await;
    let mut streams = [Stream::joined(&mut bob, &chat, None).await, Stream::joined(&mut carol, &chat, None).await];
    alice.remove_member(remove_request(&chat, "bob")).await.unwrap();
    let answered = Instant::now();
    assert_eq!(left(&mut streams[0]).await, LeftReason::Removed);
    assert!(answered.elapsed() < PROMISE, "{:?}", answered.elapsed());

    alice.delete_chat(DeleteChatRequest { chat_id: chat }).await.unwrap();
    let answered = Instant::now();
    assert_eq!(left(&mut streams[1]).await, LeftReason::Deleted);
    assert!(answered.elapsed() < PROMISE, "{:?}", answered.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deployments_with_different_prefixes_hear_nothing_of_each_other() {
    let (ours, theirs) = (prefix(), prefix());
    let [one, other] = two_nodes(&shared_url(), &ours, &NO_SWEEP).await;
    let foreign = [node(&one.ground, &shared_url(), &theirs, &NO_SWEEP).await];
    are(&foreign, BrokerState::Up).await;
    let (mut alice, mut bob, mut there) = (one.client("alice").await, other.client("bob").await, foreign[0].client("bob").await);
    let chat = new_chat(&mut alice, &["bob"]).await;
    let mut stream = Stream::joined(&mut bob, &chat, None).await;
    let _foreign_stream = Stream::joined(&mut there, &chat, None).await;
    for sequence in 1..=5 {
        send(&mut alice, &chat, &sequence.to_string()).await;
        assert_eq!(stream.message().await.sequence, sequence);
    }
    assert_eq!((other.broker.received(), foreign[0].broker.received()), (5, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_frame_is_counted_and_does_no_harm() {
    let prefix = prefix();
    let [one, other] = two_nodes(&shared_url(), &prefix, &NO_SWEEP).await;
    let (mut alice, mut bob) = (one.client("alice").await, other.client("bob").await);
    let chat = new_chat(&mut alice, &["bob"]).await;
    let mut stream = Stream::joined(&mut bob, &chat, None).await;
    let mut redis = connection(&shared_url()).await;
    for frame in [b"".as_slice(), b"\x01\x01short", b"\x02 from a later version"] {
        redis::cmd("PUBLISH").arg(format!("{prefix}c:{{{chat}}}")).arg(frame).exec_async(&mut redis).await.unwrap();
    }
    send(&mut alice, &chat, "1").await;
    assert_eq!(stream.message().await.sequence, 1);
    assert_eq!((other.broker.malformed(), other.broker.unknown_version()), (2, 1));
}
