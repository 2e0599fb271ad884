//! Access ends on every node: within a second, and without Redis within the sweep's interval.

use std::time::{Duration, Instant};

use chat_service::pb::chat::v1::connect_chat_response::Event;
use chat_service::pb::chat::v1::*;

use crate::common::process::Process;
use crate::common::{Client, Stream, client, mint, new_chat, send_request, until, within};
use crate::harness::proxy::Mode;
use crate::stage::{SWEEP_INTERVAL, Stage, kill};

/// The contract's bound.
const PROMISE: Duration = Duration::from_secs(1);
/// Beyond the sweep's interval: its query, and a machine that is busy.
const SWEEP_MARGIN: Duration = Duration::from_secs(1);
/// A sweep that never comes: what ends access is Redis.
const NO_SWEEP: &str = "1h";
const ROUNDS: usize = 5;

/// Two nodes that would learn nothing without Redis.
pub async fn with_redis(stage: &mut Stage) -> String {
    let (near, far) = (stage.redis_url(0), stage.redis_url(1));
    let mut a = Process::serve(&stage.ground, 0, &["--redis-url", &near, "--sweep-interval", NO_SWEEP]).await;
    let mut b = Process::serve(&stage.ground, 0, &["--redis-url", &far, "--sweep-interval", NO_SWEEP]).await;
    let mut alice = connect(stage, a.port, "alice").await;
    let mut longest = Duration::ZERO;
    for _ in 0..ROUNDS {
        let (chat, mut bob) = joined_by_bob(stage, &mut alice, b.port).await;
        alice.send_message(send_request(&chat, "1", "over Redis")).await.unwrap();
        assert_eq!(bob.message().await.sequence, 1);
        longest = longest.max(removed(&mut alice, &chat, &mut bob).await);

        let (chat, mut bob) = joined_by_bob(stage, &mut alice, b.port).await;
        alice.delete_chat(DeleteChatRequest { chat_id: chat }).await.unwrap();
        let answered = Instant::now();
        assert_eq!(left(&mut bob).await, LeftReason::Deleted);
        longest = longest.max(answered.elapsed());
    }
    drop(alice);
    assert!(longest < PROMISE, "access ended {longest:?} after the answer");
    // What is joined there is gone by now, so both end at once.
    assert!(kill(&mut a).await && kill(&mut b).await);
    format!("at most {} ms after the answer", longest.as_millis())
}

/// The announcement alone is lost, while every connection is well.
pub async fn announcement_lost(stage: &mut Stage) -> String {
    let mut alice = connect(stage, stage.nodes[0].port, "alice").await;
    let mut longest = Duration::ZERO;
    for _ in 0..ROUNDS.div_ceil(2) {
        let (chat, mut bob) = joined_by_bob(stage, &mut alice, stage.nodes[1].port).await;
        let before = stage.bites();
        stage.set_proxies(Mode::DropMessages { pass_every: 0 });
        longest = longest.max(removed(&mut alice, &chat, &mut bob).await);
        until("an announcement is dropped", || stage.bites() > before).await;
        stage.set_proxies(Mode::Pass);
    }
    assert!(longest < SWEEP_INTERVAL + SWEEP_MARGIN, "access ended {longest:?} after the answer");
    format!("at most {} ms after the answer", longest.as_millis())
}

pub async fn without_redis(stage: &mut Stage) -> String {
    let mut alice = connect(stage, stage.nodes[0].port, "alice").await;
    let (chat, mut bob) = joined_by_bob(stage, &mut alice, stage.nodes[1].port).await;
    let (other, mut late) = joined_by_bob(stage, &mut alice, stage.nodes[2].port).await;
    stage.redis[0].kill_9().await;
    let mut longest = removed(&mut alice, &chat, &mut bob).await;
    // Messages arrive as well.
    alice.send_message(send_request(&other, "1", "by the sweep")).await.unwrap();
    assert_eq!(late.message().await.sequence, 1);
    longest = longest.max(removed(&mut alice, &other, &mut late).await);
    stage.redis[0].start_again().await;
    assert!(longest < SWEEP_INTERVAL + SWEEP_MARGIN, "access ended {longest:?} after the answer");
    format!("at most {} ms after the answer", longest.as_millis())
}

async fn connect(stage: &Stage, port: u16, name: &str) -> Client {
    client(&stage.ground, port, &mint(name, &["user"])).await
}

/// A new chat of alice's, and bob's stream that has joined it at another node.
async fn joined_by_bob(stage: &Stage, alice: &mut Client, port: u16) -> (String, Stream) {
    let chat = new_chat(alice, &["bob"]).await;
    let mut bob = connect(stage, port, "bob").await;
    let stream = Stream::joined(&mut bob, &chat, None).await;
    (chat, stream)
}

/// Removes bob; the time from the answer to the end of his stream's chat.
async fn removed(alice: &mut Client, chat: &str, bob: &mut Stream) -> Duration {
    within(alice.remove_member(RemoveMemberRequest { chat_id: chat.into(), user_id: "bob".into() })).await.unwrap();
    let answered = Instant::now();
    assert_eq!(left(bob).await, LeftReason::Removed);
    answered.elapsed()
}

/// Why the chat was left; messages before it are passed over.
async fn left(stream: &mut Stream) -> LeftReason {
    loop {
        match stream.event().await {
            Event::Left(left) => return left.reason(),
            Event::Message(_) => {}
            other => panic!("{other:?}"),
        }
    }
}
