//! Several nodes on one PostgreSQL and one Redis: at once while Redis is there, by the sweep while it isn't. Where a test says nothing
//! else the sweep is off, so what arrives came by Redis.

mod common;

use std::sync::Arc;
use std::time::{Duration, Instant};

use chat_service::broker::BrokerState;
use chat_service::pb::chat::v1::connect_chat_response::Event;
use chat_service::pb::chat::v1::*;
use common::process::{Process, binary};
use common::redis_server::{RedisServer, connection, prefix, shared_url};
use common::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tonic::Code;

/// The contract's bound.
const PROMISE: Duration = Duration::from_secs(1);
const NO_SWEEP: [&str; 2] = ["--sweep-interval", "1h"];

async fn node(ground: &Arc<Ground>, url: &str, prefix: &str, more: &[&str]) -> TestServer {
    let flags: Vec<&str> = ["--redis-url", url, "--redis-prefix", prefix].into_iter().chain(more.iter().copied()).collect();
    TestServer::start_on(Arc::clone(ground), &flags).await
}

/// Two nodes on a database of their own.
async fn two_nodes(url: &str, prefix: &str, more: &[&str]) -> [TestServer; 2] {
    let ground = Ground::new(On::Postgres).await;
    let nodes = [node(&ground, url, prefix, more).await, node(&ground, url, prefix, more).await];
    are(&nodes, BrokerState::Up).await;
    nodes
}

async fn are(nodes: &[TestServer], state: BrokerState) {
    for node in nodes {
        until(&format!("the state is {state:?}"), || node.broker.state() == state).await;
    }
}

async fn send(client: &mut Client, chat: &str, id: &str) -> i64 {
    client.send_message(send_request(chat, id, "hello")).await.unwrap().into_inner().message.unwrap().sequence
}

async fn left(stream: &mut Stream) -> LeftReason {
    match stream.event().await {
        Event::Left(left) => left.reason(),
        other => panic!("{other:?}"),
    }
}

fn remove(chat: &str, user: &str) -> RemoveMemberRequest {
    RemoveMemberRequest { chat_id: chat.into(), user_id: user.into() }
}

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
    alice.remove_member(remove(&chat, "bob")).await.unwrap();
    let answered = Instant::now();
    assert_eq!(left(&mut streams[0]).await, LeftReason::Removed);
    assert!(answered.elapsed() < PROMISE, "{:?}", answered.elapsed());

    alice.delete_chat(DeleteChatRequest { chat_id: chat }).await.unwrap();
    let answered = Instant::now();
    assert_eq!(left(&mut streams[1]).await, LeftReason::Deleted);
    assert!(answered.elapsed() < PROMISE, "{:?}", answered.elapsed());
}

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
    alice.remove_member(remove(&chat, "carol")).await.unwrap();
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
    alice.remove_member(remove(&another, "carol")).await.unwrap();
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_carries_messages_by_sharded_channels() {
    let redis = RedisServer::start_cluster().await;
    let [one, other] = two_nodes(&redis.url(), &prefix(), &NO_SWEEP).await;
    let (mut alice, mut bob) = (one.client("alice").await, other.client("bob").await);
    let chat = new_chat(&mut alice, &["bob"]).await;
    let mut stream = Stream::joined(&mut bob, &chat, None).await;
    send(&mut alice, &chat, "1").await;
    assert_eq!(stream.message().await.sequence, 1);
    let mut connection = redis.connection().await;
    assert!(channels("CHANNELS", &mut connection).await.is_empty());
    let sharded = channels("SHARDCHANNELS", &mut connection).await;
    assert!(sharded.len() == 1 && sharded[0].contains(&chat), "{sharded:?}");
    // The last stream takes its subscription with it.
    drop(stream);
    within(async { while !channels("SHARDCHANNELS", &mut connection).await.is_empty() {} }).await;
}

/// Waits until the Cluster says that it is in this state.
async fn cluster_is(state: &str, connection: &mut redis::aio::MultiplexedConnection) {
    let line = format!("cluster_state:{state}");
    within(async {
        loop {
            let info: String = redis::cmd("CLUSTER").arg("INFO").query_async(connection).await.unwrap();
            if info.contains(&line) {
                break;
            }
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_cluster_refuses_is_published_when_it_takes_it_again() {
    let redis = RedisServer::start_cluster().await;
    let [one, other] = two_nodes(&redis.url(), &prefix(), &NO_SWEEP).await;
    let (mut alice, mut bob, mut carol) = (one.client("alice").await, other.client("bob").await, other.client("carol").await);
    let (chat, another) = (new_chat(&mut alice, &["bob"]).await, new_chat(&mut alice, &["carol"]).await);
    let (mut stream, mut removed) = (Stream::joined(&mut bob, &chat, None).await, Stream::joined(&mut carol, &another, None).await);

    // Without a slot that is nobody's business here the Cluster is down; what is subscribed stays so.
    let mut admin = redis.connection().await;
    redis::cmd("CONFIG").arg("SET").arg("cluster-allow-pubsubshard-when-down").arg("no").exec_async(&mut admin).await.unwrap();
    let mut slots = Vec::new();
    for id in [&chat, &another] {
        let slot: u16 = redis::cmd("CLUSTER").arg("KEYSLOT").arg(format!("{{{id}}}")).query_async(&mut admin).await.unwrap();
        slots.push(slot);
    }
    let spare = (0..3).find(|slot| !slots.contains(slot)).unwrap();
    redis::cmd("CLUSTER").arg("DELSLOTS").arg(spare).exec_async(&mut admin).await.unwrap();
    cluster_is("fail", &mut admin).await;
    for sequence in 1..=3 {
        assert_eq!(send(&mut alice, &chat, &sequence.to_string()).await, sequence);
    }
    alice.remove_member(remove(&another, "carol")).await.unwrap();
    until("the newest message alone is kept", || one.broker.dropped() == 2).await;

    redis::cmd("CLUSTER").arg("ADDSLOTS").arg(spare).exec_async(&mut admin).await.unwrap();
    for sequence in 1..=3 {
        assert_eq!(stream.message().await.sequence, sequence);
    }
    assert_eq!(left(&mut removed).await, LeftReason::Removed);
    assert_eq!((one.broker.dropped(), other.broker.received()), (2, 2), "an announcement and a message");
}

/// The channels that somebody listens to, of this kind.
async fn channels(kind: &str, connection: &mut redis::aio::MultiplexedConnection) -> Vec<String> {
    redis::cmd("PUBSUB").arg(kind).query_async(connection).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_with_few_rights_is_enough() {
    let redis = RedisServer::start().await;
    let prefix = prefix();
    let mut admin = redis.connection().await;
    let mut acl = redis::cmd("ACL");
    acl.arg("SETUSER").arg("chat").arg("on").arg(">pass word").arg(format!("~{prefix}*")).arg(format!("&{prefix}*"));
    for command in
        "ping publish subscribe unsubscribe spublish ssubscribe sunsubscribe evalsha script|load get set time cluster|slots".split(' ')
    {
        acl.arg(format!("+{command}"));
    }
    acl.exec_async(&mut admin).await.unwrap();
    redis::cmd("ACL").arg("SETUSER").arg("default").arg("off").exec_async(&mut admin).await.unwrap();

    let url = format!("redis://chat:pass%20word@127.0.0.1:{}", redis.port);
    let [one, other] = two_nodes(&url, &prefix, &["--sweep-interval", "1h", "--rate-limit-user-sends", "1/s burst 16"]).await;
    let (mut alice, mut bob) = (one.client("alice").await, other.client("bob").await);
    let chat = new_chat(&mut alice, &["bob"]).await;
    let mut stream = Stream::joined(&mut bob, &chat, None).await;
    for sequence in 1..=10 {
        send(&mut alice, &chat, &sequence.to_string()).await;
        assert_eq!(stream.message().await.sequence, sequence);
    }
    until_full_in(&mut admin, &prefix, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_is_reached_by_tls() {
    let ground = Ground::new(On::Postgres).await;
    let redis = RedisServer::start_tls(&ground.path("certs")).await;
    let url = format!("rediss://localhost:{}", redis.port);
    let mut trusting = binary();
    trusting.env("SSL_CERT_FILE", ground.path("certs/ca.pem"));
    let mut node = Process::serve_by(trusting, &ground, 0, &["--redis-url", &url]).await;
    until("Redis is found", || node.said("Redis is there") == 1).await;
    assert!(node.stop().await.success());

    let mut other = Process::serve(&ground, 0, &["--redis-url", &url]).await;
    until("a certificate of nobody who is known isn't believed", || other.said("Redis is away") == 1).await;
    assert!(other.stop().await.success());
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

#[tokio::test]
async fn what_can_not_be_meant_fails_the_start_in_one_line() {
    let postgres = Arc::new(Ground::with_database(Some("postgres://localhost/none".into())));
    let sqlite = Ground::new(On::Sqlite).await;
    for (ground, flags, named) in [
        (&sqlite, ["--redis-url", "redis://localhost", "--redis-prefix", "chat:"], "REDIS_URL is set, and DATABASE_URL is an SQLite file"),
        (&postgres, ["--redis-url", "redis://localhost", "--redis-prefix", "{chat}"], "CHAT_REDIS_PREFIX"),
    ] {
        let error = TestServer::try_start(Arc::clone(ground), &ground.flags(), &flags).await.err().unwrap().to_string();
        assert!(error.contains(named) && !error.contains('\n'), "{error}");
    }
    let ground = Ground::new(On::Postgres).await;
    let error = TestServer::try_start(Arc::clone(&ground), &ground.flags(), &["--redis-url", "localhost:6379"]).await.err().unwrap();
    assert!(error.to_string().contains("REDIS_URL: address 1"), "{error}");
}

/// Waits until the ledger says that alice's bucket takes at least so many ms until it is full.
async fn until_full_in(redis: &mut redis::aio::MultiplexedConnection, prefix: &str, millis: i64) {
    within(async {
        loop {
            let left: i64 = redis::cmd("PTTL").arg(format!("{prefix}rate:send:alice")).query_async(redis).await.unwrap();
            if left >= millis {
                break;
            }
        }
    })
    .await;
}

/// How many sends pass until one is refused.
async fn exhaust(client: &mut Client, chat: &str, node: &str) -> usize {
    for number in 0.. {
        if let Err(refusal) = client.send_message(send_request(chat, &format!("{node} {number}"), "x")).await {
            assert_eq!((refusal.code(), reason(&refusal).as_str()), (Code::ResourceExhausted, "RATE_LIMITED"));
            return number;
        }
    }
    unreachable!("the limit ends it")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_user_sends_at_one_node_counts_at_the_other() {
    let prefix = prefix();
    let limit = ["--sweep-interval", "1h", "--rate-limit-user-sends", "1/s burst 24"];
    let [one, other] = two_nodes(&shared_url(), &prefix, &limit).await;
    let (mut here, mut there) = (one.client("alice").await, other.client("alice").await);
    let chat = new_chat(&mut here, &[]).await;
    assert!(exhaust(&mut here, &chat, "one").await >= 24);
    until_full_in(&mut connection(&shared_url()).await, &prefix, 12_000).await;
    let passed = exhaust(&mut there, &chat, "other").await;
    assert!(passed < 24, "{passed} passed at the second node, which has a burst of its own only until it hears of the first");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_redis_each_node_limits_by_itself() {
    let mut redis = RedisServer::start().await;
    let nodes = two_nodes(&redis.url(), &prefix(), &["--rate-limit-user-sends", "1/s burst 10"]).await;
    redis.kill_9().await;
    are(&nodes, BrokerState::Degraded).await;
    let mut alice = nodes[0].client("alice").await;
    let chat = new_chat(&mut alice, &[]).await;
    for node in &nodes {
        let passed = exhaust(&mut node.client("alice").await, &chat, &node.port.to_string()).await;
        assert!(passed >= 10, "{passed}");
    }
}
