//! The faults. Each is played under the checker's load, and returns how often it bit.

use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, Instant};

use crate::harness::proxy::Mode;
use crate::hostile;
use crate::stage::Stage;

/// What the server logs when it can't tell whether a batch was stored, and when a store call failed for good.
const UNKNOWN: &str = "an append's outcome is unknown";
const UNAVAILABLE: &str = "the store is unavailable";
/// Beyond `CHAT_SHUTDOWN_TIMEOUT`, for a machine that is busy.
const EXIT_MARGIN: Duration = Duration::from_secs(2);
/// What the scripts' servers are given to stop.
pub const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(3);
pub const SHUTDOWN_FLAGS: &[&str] = &["--shutdown-timeout", "3s"];

/// How often a fault is repeated; FAULT_ROUNDS makes a soak of it.
fn rounds(default: u64) -> u64 {
    std::env::var("FAULT_ROUNDS").map_or(default, |rounds| rounds.parse().expect("FAULT_ROUNDS is a number"))
}

pub async fn server_killed(stage: &mut Stage) -> u64 {
    let mut killed = 0;
    for _ in 0..rounds(3) {
        stage.server.child.start_kill().unwrap();
        let status = stage.server.child.wait().await.unwrap();
        killed += u64::from(status.signal() == Some(9));
        stage.serve_again().await;
        stage.acks(100).await;
    }
    killed
}

/// Once shorter than clients take to notice, once longer.
pub async fn server_frozen(stage: &mut Stage) -> u64 {
    let mut frozen = 0;
    for hold in [1, 6].into_iter().cycle().take(rounds(2) as usize) {
        stage.server.signal("STOP").await;
        let stat = format!("/proc/{}/stat", stage.server.pid());
        crate::common::until("the server is stopped", || std::fs::read_to_string(&stat).unwrap().contains(") T ")).await;
        let before = stage.acked();
        stage.hold(Duration::from_secs(hold)).await;
        // What was on its way is in the history by now; a server that is stopped acknowledges nothing.
        frozen += u64::from(stage.acked() < before + 100);
        stage.server.signal("CONT").await;
        stage.acks(100).await;
    }
    frozen
}

pub async fn graceful_stop(stage: &mut Stage) -> u64 {
    let mut stopped = 0;
    for _ in 0..rounds(3) {
        let began = Instant::now();
        let status = stage.server.stop().await;
        assert!(began.elapsed() < SHUTDOWN_TIMEOUT + EXIT_MARGIN, "the stop took {:?}", began.elapsed());
        stopped += u64::from(status.code() == Some(0));
        stage.serve_again().await;
        stage.acks(100).await;
    }
    stopped
}

/// Clients that never read, reset at once and ignore GOAWAY: the others go on, and a stop ends in time all the same.
pub async fn hostile_clients(stage: &mut Stage) -> u64 {
    let port = stage.server.port;
    let mut streams = Vec::new();
    for _ in 0..4 {
        streams.push(hostile::never_reads(&stage.ground, port, 300).await);
    }
    let mut connections = Vec::new();
    for _ in 0..20 {
        connections.push(hostile::ignores_goaway(&stage.ground, port).await);
    }
    let resets = hostile::resets(&stage.ground, port, 200).await;
    stage.acks(100).await;
    let stopped = graceful_stop(stage).await;
    assert!(stopped > 0);
    resets + streams.len() as u64 + connections.len() as u64
}

pub async fn clients_cut(stage: &mut Stage) -> u64 {
    let before = stage.front.bites();
    for _ in 0..rounds(4) {
        stage.front.cut_all();
        stage.acks(60).await;
    }
    stage.front.bites() - before
}

pub async fn clients_delayed(stage: &mut Stage) -> u64 {
    let before = stage.front.bites();
    for _ in 0..rounds(1) {
        stage.front.set(Mode::Delay(Duration::from_millis(150)));
        stage.acks(200).await;
        stage.front.set(Mode::Pass);
        stage.acks(100).await;
    }
    stage.front.bites() - before
}

pub async fn clients_stalled(stage: &mut Stage) -> u64 {
    let before = stage.front.bites();
    for hold in [1, 6].into_iter().cycle().take(rounds(2) as usize) {
        stage.front.set(Mode::Stall);
        stage.hold(Duration::from_secs(hold)).await;
        stage.front.set(Mode::Pass);
        stage.acks(100).await;
    }
    stage.front.bites() - before
}

pub async fn disk_full(stage: &mut Stage) -> u64 {
    // Whether it was in a commit or before it: the server has given an append up.
    let before = stage.said(UNAVAILABLE);
    for _ in 0..rounds(2) {
        let refused = stage.said(UNAVAILABLE);
        stage.disk.as_ref().expect("a small disk").fill();
        stage.says(UNAVAILABLE, refused).await;
        stage.hold(Duration::from_secs(1)).await;
        stage.disk.as_ref().expect("a small disk").empty();
        // PostgreSQL ends itself when it can't write its log.
        if let Some(postgres) = &stage.postgres
            && postgres.pid().is_none()
        {
            postgres.start_again().await;
        }
        stage.acks(100).await;
    }
    stage.said(UNAVAILABLE) - before
}

pub async fn postgres_killed(stage: &mut Stage) -> u64 {
    let before = stage.said(UNKNOWN);
    for _ in 0..rounds(2) {
        let noticed = stage.said(UNKNOWN);
        let postgres = stage.postgres.as_ref().expect("PostgreSQL");
        assert!(postgres.kill_9().await > 1, "the server and its children");
        stage.says(UNKNOWN, noticed).await;
        stage.postgres.as_ref().expect("PostgreSQL").start_again().await;
        stage.acks(100).await;
    }
    stage.said(UNKNOWN) - before
}

pub async fn postgres_connections_ended(stage: &mut Stage) -> u64 {
    let mut ended = 0;
    for _ in 0..rounds(4) {
        let statement =
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = 'chat' AND pid <> pg_backend_pid()".to_owned();
        ended += stage.postgres.as_ref().expect("PostgreSQL").execute(statement).await.unwrap() as u64;
        stage.acks(60).await;
    }
    ended
}

/// The answer to a commit is lost, each time in another batch: it ends as an acknowledgement or as UNAVAILABLE.
pub async fn commits_unknown(stage: &mut Stage) -> u64 {
    let before = stage.said(UNKNOWN);
    for _ in 0..rounds(4) {
        let back = stage.back.as_ref().expect("a proxy");
        let bites = back.bites();
        back.set(Mode::CutAppendAnswers);
        crate::common::until("some answers are cut", || back.bites() >= bites + 6).await;
        back.set(Mode::Pass);
        stage.acks(60).await;
    }
    stage.said(UNKNOWN) - before
}

pub async fn postgres_cut(stage: &mut Stage) -> u64 {
    let back = |stage: &Stage| stage.back.as_ref().expect("a proxy").bites();
    let before = back(stage);
    for _ in 0..rounds(4) {
        stage.back.as_ref().expect("a proxy").cut_all();
        stage.acks(60).await;
    }
    back(stage) - before
}

pub async fn postgres_delayed(stage: &mut Stage) -> u64 {
    let back = stage.back.as_ref().expect("a proxy");
    let before = back.bites();
    back.set(Mode::Delay(Duration::from_millis(50)));
    stage.acks(300).await;
    stage.back.as_ref().expect("a proxy").set(Mode::Pass);
    stage.acks(100).await;
    stage.back.as_ref().expect("a proxy").bites() - before
}

/// Once shorter than the server waits for an answer, once longer.
pub async fn postgres_stalled(stage: &mut Stage) -> u64 {
    let before = stage.said(UNKNOWN) + stage.said(UNAVAILABLE);
    for hold in [2, 12].into_iter().cycle().take(rounds(2) as usize) {
        stage.back.as_ref().expect("a proxy").set(Mode::Stall);
        stage.hold(Duration::from_secs(hold)).await;
        stage.back.as_ref().expect("a proxy").set(Mode::Pass);
        stage.acks(100).await;
    }
    stage.said(UNKNOWN) + stage.said(UNAVAILABLE) - before
}
