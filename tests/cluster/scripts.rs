//! The faults. Each is played under the checker's load, and returns how often it bit.

use std::time::{Duration, Instant};

use crate::harness::proxy::Mode;
use crate::stage::{NODES, SHUTDOWN_TIMEOUT, Stage, freeze, kill};

/// What a node logs when it can't tell whether a batch was stored.
const UNKNOWN: &str = "an append's outcome is unknown";
/// Beyond `CHAT_SHUTDOWN_TIMEOUT`, for a machine that is busy.
const EXIT_MARGIN: Duration = Duration::from_secs(2);
/// Longer than clients take to notice that nobody answers.
const FROZEN: Duration = Duration::from_secs(6);
/// Longer than nodes wait for Redis.
const REDIS_AWAY: Duration = Duration::from_secs(3);

/// How often a fault is repeated; CLUSTER_ROUNDS makes a soak of it.
fn rounds(default: usize) -> usize {
    std::env::var("CLUSTER_ROUNDS").map_or(default, |rounds| rounds.parse().expect("CLUSTER_ROUNDS is a number"))
}

/// How it is without a fault.
pub async fn nothing(stage: &mut Stage) -> u64 {
    stage.fault_begins();
    let acks = 800 * rounds(1) as u64;
    stage.acks(acks).await;
    stage.fault_ends();
    acks
}

/// Clients go on at the nodes that are left.
pub async fn node_killed(stage: &mut Stage) -> u64 {
    let mut killed = 0;
    for node in (0..NODES).cycle().take(rounds(3)) {
        stage.fault_begins();
        let was_killed = kill(&mut stage.nodes[node]).await;
        stage.acks(100).await;
        killed += u64::from(was_killed);
        stage.serve_again(node).await;
        stage.fault_ends();
        stage.acks(50).await;
    }
    killed
}

pub async fn node_frozen(stage: &mut Stage) -> u64 {
    let mut frozen = 0;
    for node in (0..NODES).cycle().take(rounds(1)) {
        stage.fault_begins();
        freeze(&stage.nodes[node]).await;
        stage.hold(FROZEN).await;
        // The others hold no lock of it and wait for nothing of it.
        stage.acks(100).await;
        frozen += 1;
        stage.nodes[node].signal("CONT").await;
        stage.fault_ends();
        stage.acks(100).await;
    }
    frozen
}

/// Each node in its turn is stopped as an operator stops it, and started again.
pub async fn rolling_restart(stage: &mut Stage) -> u64 {
    let mut stopped = 0;
    for _ in 0..rounds(1) {
        for node in 0..NODES {
            stage.fault_begins();
            let began = Instant::now();
            let status = stage.nodes[node].stop().await;
            assert!(began.elapsed() < SHUTDOWN_TIMEOUT + EXIT_MARGIN, "the stop took {:?}", began.elapsed());
            assert_eq!(status.code(), Some(0), "node {node} ended with {status}");
            stopped += 1;
            stage.serve_again(node).await;
            stage.fault_ends();
            stage.acks(50).await;
        }
    }
    stopped
}

/// Sends and deliveries go on without Redis, and nodes come back to it by themselves.
pub async fn redis_killed(stage: &mut Stage) -> u64 {
    let mut cut = 0;
    for _ in 0..rounds(2) {
        cut += every_node_subscribes(stage).await;
        stage.fault_begins();
        stage.redis[0].kill_9().await;
        stage.acks(200).await;
        stage.redis[0].start_again().await;
        stage.fault_ends();
        stage.acks(100).await;
    }
    every_node_subscribes(stage).await;
    cut
}

/// Waits until each node has a subscription; how many connections those are.
async fn every_node_subscribes(stage: &Stage) -> u64 {
    crate::common::within(async {
        loop {
            let subscribers = stage.subscribers().await;
            if subscribers >= NODES as u64 {
                return subscribers;
            }
            tokio::task::yield_now().await;
        }
    })
    .await
}

pub async fn redis_frozen(stage: &mut Stage) -> u64 {
    let mut frozen = 0;
    for _ in 0..rounds(1) {
        stage.fault_begins();
        stage.redis[0].freeze().await;
        stage.hold(REDIS_AWAY).await;
        stage.acks(200).await;
        frozen += 1;
        stage.redis[0].signal("CONT").await;
        stage.fault_ends();
        stage.acks(100).await;
    }
    frozen
}

/// Subscriptions are no keys; what goes is what rate limits count.
pub async fn redis_flushed(stage: &mut Stage) -> u64 {
    let before = stage.redis[0].times_flushed().await;
    for _ in 0..rounds(5) {
        stage.fault_begins();
        stage.redis[0].command(&["FLUSHALL"]).await.expect("an answer to FLUSHALL");
        stage.acks(60).await;
        stage.fault_ends();
    }
    stage.redis[0].times_flushed().await - before
}

pub async fn redis_cut(stage: &mut Stage) -> u64 {
    let before = stage.bites();
    for _ in 0..rounds(4) {
        stage.fault_begins();
        stage.cut_proxies();
        stage.acks(60).await;
        stage.fault_ends();
    }
    stage.bites() - before
}

/// Connections are well and every second message is lost, the last one of a chat like any other.
pub async fn messages_dropped(stage: &mut Stage) -> u64 {
    let before = stage.bites();
    for _ in 0..rounds(1) {
        stage.fault_begins();
        stage.set_proxies(Mode::DropMessages { pass_every: 2 });
        stage.acks(500).await;
        stage.set_proxies(Mode::Pass);
        stage.fault_ends();
        stage.acks(100).await;
    }
    stage.bites() - before
}

/// What Redis says is lost on the way, then the connections are reset.
pub async fn redis_swallowed(stage: &mut Stage) -> u64 {
    let before = stage.bites();
    for _ in 0..rounds(1) {
        stage.fault_begins();
        stage.set_proxies(Mode::SwallowAnswers);
        stage.hold(REDIS_AWAY).await;
        stage.acks(100).await;
        stage.cut_proxies();
        stage.set_proxies(Mode::Pass);
        stage.fault_ends();
        stage.acks(100).await;
    }
    stage.bites() - before
}

/// One node's way to Redis is stuck; the others' is well.
pub async fn one_node_stalled(stage: &mut Stage) -> u64 {
    let before = stage.bites();
    for node in (0..NODES).cycle().take(rounds(1)) {
        stage.fault_begins();
        stage.proxies[node].set(Mode::Stall);
        stage.hold(REDIS_AWAY).await;
        stage.acks(200).await;
        stage.proxies[node].set(Mode::Pass);
        stage.fault_ends();
        stage.acks(100).await;
    }
    stage.bites() - before
}

pub async fn postgres_killed(stage: &mut Stage) -> u64 {
    let before = stage.said(UNKNOWN);
    for _ in 0..rounds(2) {
        let noticed = stage.said(UNKNOWN);
        stage.fault_begins();
        assert!(stage.postgres.kill_9().await > 1, "the server and its children");
        stage.says(UNKNOWN, noticed).await;
        stage.postgres.start_again().await;
        stage.fault_ends();
        stage.acks(100).await;
    }
    stage.said(UNKNOWN) - before
}

/// Each master in its turn: with one away the Cluster serves no slot for a while, and then those of the others at most.
pub async fn master_killed(stage: &mut Stage) -> u64 {
    let mut cut = 0;
    let masters = stage.redis.len();
    for master in (0..masters).cycle().take(rounds(masters)) {
        cut += stage.redis[master].subscribers().await;
        stage.fault_begins();
        stage.redis[master].kill_9().await;
        stage.acks(150).await;
        stage.redis[master].start_again().await;
        stage.fault_ends();
        for redis in &stage.redis {
            redis.is_formed(u32::try_from(masters).unwrap()).await;
        }
        stage.acks(100).await;
    }
    cut
}
