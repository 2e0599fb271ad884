//! Which Redis it may be: a Cluster, one that gives few rights, one behind TLS; and what can't be meant.

use std::sync::Arc;

use chat_service::pb::chat::v1::LeftReason;

use crate::common::process::{Process, binary};
use crate::common::redis_server::{RedisServer, prefix};
use crate::common::*;
use crate::{NO_SWEEP, left, send, two_nodes, until_full_in};

/// The channels that somebody listens to, of this kind.
async fn channels(kind: &str, connection: &mut redis::aio::MultiplexedConnection) -> Vec<String> {
    redis::cmd("PUBSUB").arg(kind).query_async(connection).await.unwrap()
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
    alice.remove_member(remove_request(&another, "carol")).await.unwrap();
    until("the newest message alone is kept", || one.broker.dropped() == 2).await;

    redis::cmd("CLUSTER").arg("ADDSLOTS").arg(spare).exec_async(&mut admin).await.unwrap();
    for sequence in 1..=3 {
        assert_eq!(stream.message().await.sequence, sequence);
    }
    assert_eq!(left(&mut removed).await, LeftReason::Removed);
    assert_eq!((one.broker.dropped(), other.broker.received()), (2, 2), "an announcement and a message");
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
