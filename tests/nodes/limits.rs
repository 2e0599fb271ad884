//! What a user sends counts at every node, and while Redis is away at each alone.

use chat_service::broker::BrokerState;
use tonic::Code;

use crate::common::redis_server::{RedisServer, connection, prefix, shared_url};
use crate::common::*;
use crate::{are, two_nodes, until_full_in};

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
