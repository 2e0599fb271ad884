//! Several nodes on one PostgreSQL and one Redis: at once while Redis is there, by the sweep while it isn't. Where a test says nothing
//! else the sweep is off, so what arrives came by Redis.
//!
//! - `delivery`: messages and ends of access, from node to node.
//! - `outages`: Redis is killed, frozen, not there.
//! - `kinds`: a Cluster, a user with few rights, TLS, and what can't be meant.
//! - `limits`: rates that count for all nodes together.

#[path = "../common/mod.rs"]
mod common;
mod delivery;
mod kinds;
mod limits;
mod outages;

use std::sync::Arc;

use chat_service::broker::BrokerState;
use chat_service::pb::chat::v1::LeftReason;
use chat_service::pb::chat::v1::connect_chat_response::Event;
use common::*;

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
