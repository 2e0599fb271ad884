//! Past what the database can take: calls are offered at a fixed rate, whatever becomes of them (an open loop), at 1, 2 and 5 times what
//! the database takes, which is held down so that this machine can offer more.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use chat_service::pb::chat::v1::SendMessageRequest;
use chat_service::service::append::QUEUE_MESSAGES_MAX;
use sqlx::{ConnectOptions, Connection, Executor};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tonic::Code;
use tonic_types::StatusExt;

use crate::common::{Client, On, client, mint, new_chat};
use crate::harness::proxy::Mode;
use crate::stage::{Needs, Stage};

/// An answer of PostgreSQL takes this long: one lane then takes about 512 messages a second.
const POSTGRES_ANSWER: Duration = Duration::from_millis(500);
/// Another program holds SQLite's write lock this long, and leaves it free this long.
const SQLITE_HELD: Duration = Duration::from_millis(1500);
const SQLITE_FREE: Duration = Duration::from_millis(150);
/// Callers that keep the queue from running empty, to find out what the database takes.
const SATURATING_CALLERS: usize = 1_024;
/// The callers' connections. HTTP/2's library ends a connection with too many small DATA frames that wait to be read: so many thousand calls,
/// all at once, are no single client's, and on a slow machine they wait.
const CONNECTIONS: usize = 32;
const MEASURED: Duration = Duration::from_secs(8);
const TICK: Duration = Duration::from_millis(10);
/// Callers give up after this, as callers do.
const CALL_DEADLINE: Duration = Duration::from_secs(20);
/// Acknowledged a second under overload, at least, as a part of what was acknowledged at 1×.
const KEPT_MIN: f64 = 0.7;
/// What the server's memory may grow by over the run: a full queue, and as many calls that wait for it.
const GROWTH_BYTES_MAX: u64 = 32 * 1024 * QUEUE_MESSAGES_MAX as u64;

#[derive(Default)]
struct Level {
    times: u32,
    offered: u64,
    acked: u64,
    refused: u64,
    late: u64,
    /// Refused otherwise than the contract says.
    wrong: Vec<String>,
    latencies: Vec<Duration>,
    took: Duration,
    peak_bytes: u64,
}

pub async fn run(on: On) -> Result<(), String> {
    const FLAGS: &[&str] = &["--max-streams-per-connection", "100000"];
    let stage = Stage::set(on, Needs { small_disk_mib: None, back: true, flags: FLAGS }).await;
    let token = mint("alice", &["user"]);
    let mut clients = Vec::with_capacity(CONNECTIONS);
    for _ in 0..CONNECTIONS {
        clients.push(client(&stage.ground, stage.server.port, &token).await);
    }
    let chat = new_chat(&mut clients[0], &[]).await;
    // One caller first: the statement is prepared and the pages are warm.
    clients[0].send_message(request(&chat, "first")).await.map_err(|status| status.to_string())?;
    let _brake = Brake::on(&stage, on).await;
    let capacity = saturate(&clients, &chat).await;
    let before = resident(&stage, "VmRSS");
    let mut levels = Vec::new();
    for times in [1, 2, 5] {
        let mut level = offer(&clients, &chat, capacity * f64::from(times), times).await;
        level.peak_bytes = resident(&stage, "VmHWM");
        levels.push(level);
    }
    print_curve(on, capacity, &levels);
    judge(&levels, before)
}

/// Holds the database down as long as it lives.
struct Brake {
    off: Arc<AtomicBool>,
}

impl Brake {
    async fn on(stage: &Stage, on: On) -> Self {
        let off = Arc::new(AtomicBool::new(false));
        match (on, &stage.back) {
            (On::Sqlite, _) => {
                let path = stage.ground.database_url.trim_start_matches("sqlite:").to_owned();
                let (off, mut times) = (Arc::clone(&off), interval(SQLITE_HELD + SQLITE_FREE));
                let options = sqlx::sqlite::SqliteConnectOptions::new().filename(path).busy_timeout(SQLITE_HELD);
                let mut connection = options.connect().await.unwrap();
                tokio::spawn(async move {
                    while !off.load(Ordering::Relaxed) {
                        times.tick().await;
                        // The server may have the lock for longer than this waits.
                        if connection.execute("BEGIN IMMEDIATE").await.is_ok() {
                            tokio::time::sleep(SQLITE_HELD).await;
                            connection.execute("ROLLBACK").await.ok();
                        }
                    }
                    connection.close().await.ok();
                });
            }
            (On::Postgres, back) => back.as_ref().expect("a proxy").set(Mode::SlowAnswers(POSTGRES_ANSWER)),
        }
        Self { off }
    }
}

impl Drop for Brake {
    fn drop(&mut self) {
        self.off.store(true, Ordering::Relaxed);
    }
}

fn request(chat: &str, id: &str) -> SendMessageRequest {
    SendMessageRequest { chat_id: chat.into(), client_message_id: id.into(), text: "x".repeat(1_000) }
}

/// What the database takes, in messages a second: callers that wait for each answer, and more of them than fit into a batch.
async fn saturate(clients: &[Client], chat: &str) -> f64 {
    let began = Instant::now();
    let mut callers = JoinSet::new();
    for caller in 0..SATURATING_CALLERS {
        let (mut client, chat) = (clients[caller % clients.len()].clone(), chat.to_owned());
        callers.spawn(async move {
            let mut acked = 0_u32;
            while began.elapsed() < MEASURED {
                acked += u32::from(client.send_message(request(&chat, &format!("s{caller} {acked}"))).await.is_ok());
            }
            acked
        });
    }
    let acked: u32 = callers.join_all().await.into_iter().sum();
    f64::from(acked) / began.elapsed().as_secs_f64()
}

async fn offer(clients: &[Client], chat: &str, rate: f64, times: u32) -> Level {
    let mut level = Level { times, ..Level::default() };
    let (began, mut calls) = (Instant::now(), JoinSet::new());
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    while began.elapsed() < MEASURED {
        ticks.tick().await;
        while (level.offered as f64) < rate * began.elapsed().as_secs_f64() {
            let mut client = clients[level.offered as usize % clients.len()].clone();
            let request = request(chat, &format!("{times} {}", level.offered));
            level.offered += 1;
            calls.spawn(async move {
                let due = Instant::now();
                let answer = tokio::time::timeout(CALL_DEADLINE, client.send_message(request)).await;
                (due.elapsed(), answer.map(|answer| answer.map(drop)))
            });
        }
    }
    // What is acknowledged after the offering is no part of its rate.
    let mut in_time = 0;
    while let Some(call) = calls.join_next().await {
        match call.unwrap() {
            (latency, Ok(Ok(()))) => {
                in_time += 1;
                level.latencies.push(latency);
            }
            (_, Err(_)) => level.late += 1,
            (_, Ok(Err(status))) => {
                level.refused += 1;
                let retry = status.get_error_details().retry_info().and_then(|info| info.retry_delay);
                if !matches!(status.code(), Code::ResourceExhausted | Code::Unavailable) || retry.is_none() {
                    level.wrong.push(format!("{:?}: {}", status.code(), status.message()));
                }
            }
        }
    }
    level.took = began.elapsed();
    level.acked = in_time;
    level.latencies.sort_unstable();
    level
}

/// Of the server's memory, in bytes: resident now (VmRSS) or at most so far (VmHWM).
fn resident(stage: &Stage, what: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", stage.server.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with(what)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

fn print_curve(on: On, capacity: f64, levels: &[Level]) {
    println!("\noverload on {on:?}: the database takes {capacity:.0} messages a second\n");
    println!("| offered | offered/s | acked/s | refused | gave up | p50 | p99 | peak memory |");
    println!("|---|--:|--:|--:|--:|--:|--:|--:|");
    for level in levels {
        let at = |part: f64| level.latencies.get((level.latencies.len() as f64 * part) as usize).copied().unwrap_or_default();
        println!(
            "| {}× | {:.0} | {:.0} | {} | {} | {:.1} s | {:.1} s | {} MiB |",
            level.times,
            level.offered as f64 / MEASURED.as_secs_f64(),
            level.acked as f64 / level.took.as_secs_f64(),
            level.refused,
            level.late,
            at(0.5).as_secs_f64(),
            at(0.99).as_secs_f64(),
            level.peak_bytes / 1024 / 1024
        );
    }
    println!();
}

fn judge(levels: &[Level], before: u64) -> Result<(), String> {
    let rate = |level: &Level| level.acked as f64 / level.took.as_secs_f64();
    let (first, last) = (&levels[0], &levels[levels.len() - 1]);
    if let Some(wrong) = levels.iter().find_map(|level| level.wrong.first()) {
        return Err(format!("a refusal that isn't RESOURCE_EXHAUSTED or UNAVAILABLE with RetryInfo: {wrong}"));
    }
    if last.refused == 0 {
        return Err("5 times what the database takes, and nothing was refused".into());
    }
    if let Some(level) = levels.iter().find(|level| rate(level) < rate(first) * KEPT_MIN) {
        return Err(format!("at {}× {:.0} a second are acknowledged, at 1× {:.0}", level.times, rate(level), rate(first)));
    }
    if last.peak_bytes > before + GROWTH_BYTES_MAX {
        return Err(format!("the server's memory grew from {before} to {} bytes", last.peak_bytes));
    }
    Ok(())
}
