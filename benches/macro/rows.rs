//! The rows of the goals' table: which load, on which servers, against what.

use std::time::Duration;

use crate::Done;
use crate::bench::Bench;
use crate::board::{Board, Goal, Spec};
use crate::load::callers::{self, Chats};
use crate::load::paced::{self, Paced};
use crate::load::{Sample, comeback, fanout, groups, idle, pipelined, stalled};
use crate::options::Mode;
use crate::process::{Kind, Server, Spent};

/// BENCH_ONLY picks by these.
pub const KEYS: [&str; 16] = [
    "one-caller",
    "callers-32",
    "callers-128",
    "one-chat-32",
    "one-chat-128",
    "pipelined",
    "fanout-on-10",
    "fanout-on-1000",
    "paced-100",
    "paced-1000",
    "paced-1000-on-10",
    "groups",
    "stalled",
    "memory-of-streams",
    "memory-of-connections",
    "comeback",
];
/// What is stable enough to fail a build.
const GUARDED: [&str; 9] =
    ["callers-32", "callers-128", "one-chat-32", "one-chat-128", "pipelined", "fanout-on-10", "paced-100", "memory-of-streams", "comeback"];

const CALLERS: usize = 32;
const READERS: usize = 1000;
/// Deliveries a second.
const PACE: f64 = 10_000.0;
const FEW_CONNECTIONS: usize = 10;
/// Streams of each connection where memory of streams is measured.
const STREAMS_OF_A_CONNECTION: usize = 100;
const BEHIND: u64 = 100;
const BARE: &str = "bare tonic";

pub async fn play_all(bench: &Bench, board: &mut Board) {
    for key in KEYS {
        let guarded = bench.options.mode != Mode::Guard || GUARDED.contains(&key);
        if !guarded || !bench.options.wants(key) {
            continue;
        }
        eprintln!("{key}");
        if let Err(error) = play(key, bench, board).await {
            board.fail(key, error);
        }
    }
}

async fn play(key: &str, bench: &Bench, board: &mut Board) -> Done<()> {
    match key {
        "one-caller" => one_caller(bench, board).await,
        "callers-32" => callers_of(bench, board, CALLERS, Chats::Many, [Goal::AtLeast(0.45); 2]).await,
        "callers-128" => {
            let goals = [Goal::AtLeast(0.65), Goal::Missed { goal: 0.65, reached: 0.5 }];
            callers_of(bench, board, 128, Chats::Many, goals).await
        }
        "one-chat-32" => callers_of(bench, board, CALLERS, Chats::One, [Goal::AtLeast(0.45); 2]).await,
        "one-chat-128" => callers_of(bench, board, 128, Chats::One, [Goal::AtLeast(0.60); 2]).await,
        "pipelined" => pipelined_of(bench, board).await,
        "fanout-on-10" => fanout_of(bench, board, FEW_CONNECTIONS).await,
        "fanout-on-1000" => fanout_of(bench, board, READERS).await,
        "paced-100" => paced_of(bench, board, 100, 100, 1.1).await,
        "paced-1000" => paced_of(bench, board, READERS, READERS, 1.1).await,
        "paced-1000-on-10" => paced_of(bench, board, READERS, FEW_CONNECTIONS, 0.9).await,
        "groups" => groups_of(bench, board).await,
        "stalled" => stalled_of(bench, board).await,
        "memory-of-streams" => {
            let streams = bench.options.idle_streams;
            idle_of(bench, board, streams, streams / STREAMS_OF_A_CONNECTION, "stream", 1.2).await
        }
        "memory-of-connections" => {
            let streams = bench.options.idle_streams;
            idle_of(bench, board, streams, streams, "connection with one stream", 0.85).await
        }
        "comeback" => comeback_of(bench, board).await,
        other => Err(format!("there is no row {other}").into()),
    }
}

/// The servers of a row: started for it, and measured in turns.
struct Stage {
    ours: Vec<Server>,
    bare: Server,
}

impl Stage {
    async fn set(bench: &Bench, stores: &[Kind]) -> Done<Self> {
        let mut ours = Vec::new();
        for store in stores {
            ours.push(Server::start(bench, *store).await?);
        }
        if stores.contains(&Kind::Postgres) {
            bench.postgres.checkpoint().await?;
        }
        Ok(Self { ours, bare: Server::start(bench, Kind::Bare).await? })
    }

    async fn strike(self, bench: &Bench) -> Done<()> {
        for server in self.ours {
            server.stop(bench).await?;
        }
        self.bare.stop(bench).await
    }
}

const BOTH: [Kind; 2] = [Kind::Postgres, Kind::Sqlite];

fn spec(name: impl Into<String>, unit: &'static str, goal: Goal, against: &'static str) -> Spec {
    Spec { name: name.into(), unit, goal, against }
}

fn plain(value: f64) -> Sample {
    Sample { value, spent: Spent::default() }
}

async fn one_caller(bench: &Bench, board: &mut Board) -> Done<()> {
    let stage = Stage::set(bench, &BOTH).await?;
    let bare_and_insert =
        spec("durable SendMessage, 1 caller (PostgreSQL)", "msg/s", Goal::AtLeast(0.8), "1 ÷ (a bare RPC + an autocommitted INSERT)");
    let sqlite = spec("durable SendMessage, 1 caller (SQLite)", "msg/s", Goal::AtLeast(0.35), BARE);
    for _ in 0..bench.options.rounds {
        let mut ours = Vec::new();
        for server in &stage.ours {
            ours.push((server.kind, callers::measure(bench, server, 1, Chats::Many).await?));
        }
        let bare = callers::measure(bench, &stage.bare, 1, Chats::Many).await?;
        let insert = bench.postgres.insert_time(bench.options.warm_up, bench.options.time).await?;
        for (store, sample) in ours {
            match store {
                Kind::Postgres => board.record(&bare_and_insert, sample, plain(1.0 / (1.0 / bare.value + insert.as_secs_f64()))),
                Kind::Sqlite | Kind::Bare => board.record(&sqlite, sample, bare),
            }
        }
    }
    stage.strike(bench).await
}

/// With the goal of each store, in the order of [`BOTH`].
async fn callers_of(bench: &Bench, board: &mut Board, count: usize, chats: Chats, goals: [Goal; 2]) -> Done<()> {
    let stage = Stage::set(bench, &BOTH).await?;
    let into = if chats == Chats::One { "one chat" } else { "many chats" };
    for _ in 0..bench.options.rounds {
        let mut ours = Vec::new();
        for server in &stage.ours {
            ours.push((server.kind, callers::measure(bench, server, count, chats).await?));
        }
        let bare = callers::measure(bench, &stage.bare, count, chats).await?;
        for ((store, sample), goal) in ours.into_iter().zip(goals) {
            let name = format!("durable SendMessage, {count} callers, {into} ({})", store.name());
            board.record(&spec(name, "msg/s", goal, BARE), sample, bare);
        }
    }
    stage.strike(bench).await
}

async fn pipelined_of(bench: &Bench, board: &mut Board) -> Done<()> {
    let stage = Stage::set(bench, &BOTH).await?;
    for _ in 0..bench.options.rounds {
        for server in &stage.ours {
            let unary = callers::measure(bench, server, CALLERS, Chats::Many).await?;
            let frames = pipelined::measure(bench, server, CALLERS).await?;
            let name = format!("pipelined `send` frames, {CALLERS} streams ({})", server.kind.name());
            board.record(&spec(name, "msg/s", Goal::AtLeast(1.5), "its own SendMessage, 32 callers"), frames, unary);
        }
    }
    stage.strike(bench).await
}

async fn fanout_of(bench: &Bench, board: &mut Board, connections: usize) -> Done<()> {
    let stage = Stage::set(bench, &[bench.main_store()]).await?;
    let name = format!("lossless fan-out at full rate, {READERS} streams on {connections} connections");
    for _ in 0..bench.options.rounds {
        let ours = fanout::measure(bench, &stage.ours[0], READERS, connections).await?;
        let bare = fanout::measure(bench, &stage.bare, READERS, connections).await?;
        board.record(&spec(name.as_str(), "deliveries/s", Goal::AtLeast(0.9), BARE), ours, bare);
    }
    stage.strike(bench).await
}

async fn paced_of(bench: &Bench, board: &mut Board, readers: usize, connections: usize, goal: f64) -> Done<()> {
    let stage = Stage::set(bench, &[bench.main_store()]).await?;
    // Twice as long as others: few messages are sent.
    let time: Duration = bench.options.time * 2;
    let name = format!("server CPU per delivery at 10k/s, {readers} readers on {connections} connections");
    for _ in 0..bench.options.rounds {
        let ours: Paced = paced::measure(bench, &stage.ours[0], readers, connections, PACE, time).await?;
        let bare: Paced = paced::measure(bench, &stage.bare, readers, connections, PACE, time).await?;
        let cpu = spec(name.as_str(), "µs", Goal::AtMost(goal), BARE);
        board.record(&cpu, ours.window.server_micros(), bare.window.server_micros());
        if readers == 100 && bench.options.mode != Mode::Guard {
            let p50 = spec("delivery p50 at 10k/s, 100 readers", "ms", Goal::AtMost(1.5), BARE);
            board.record(&p50, ours.latency(ours.p50), bare.latency(bare.p50));
            let p99 = spec("delivery p99 at 10k/s, 100 readers", "ms", Goal::AtMost(1.5), BARE);
            board.record(&p99, ours.latency(ours.p99), bare.latency(bare.p99));
        }
    }
    stage.strike(bench).await
}

async fn groups_of(bench: &Bench, board: &mut Board) -> Done<()> {
    let (chats, members) = (200, 5);
    let stage = Stage::set(bench, &[bench.main_store()]).await?;
    let row = spec(format!("{chats} chats × {members} members, all sending"), "msg/s", Goal::AtLeast(0.6), BARE);
    for _ in 0..bench.options.rounds {
        let ours = groups::measure(bench, &stage.ours[0], chats, members).await?;
        let bare = groups::measure(bench, &stage.bare, chats, members).await?;
        board.record(&row, ours, bare);
    }
    stage.strike(bench).await
}

async fn stalled_of(bench: &Bench, board: &mut Board) -> Done<()> {
    let server = Server::start(bench, bench.main_store()).await?;
    let rate = spec(format!("one stalled reader of {READERS}: the others' rate"), "deliveries/s", Goal::AtLeast(0.9), "without it");
    let p99 = spec(format!("one stalled reader of {READERS}: the others' p99"), "ms", Goal::AtMost(1.1), "without it");
    for _ in 0..bench.options.rounds {
        let without = stalled::measure(bench, &server, READERS, FEW_CONNECTIONS, false).await?;
        let with = stalled::measure(bench, &server, READERS, FEW_CONNECTIONS, true).await?;
        board.record(&rate, with.rate, without.rate);
        board.record(&p99, with.p99, without.p99);
    }
    server.stop(bench).await
}

/// Fresh servers each round: memory that was freed is not given back.
async fn idle_of(bench: &Bench, board: &mut Board, streams: usize, connections: usize, what: &str, goal: f64) -> Done<()> {
    let row = spec(format!("memory of an idle {what}, {streams} of them"), "B", Goal::AtMost(goal), BARE);
    for _ in 0..bench.options.rounds.min(2) {
        let stage = Stage::set(bench, &[bench.main_store()]).await?;
        let ours = idle::measure(bench, &stage.ours[0], streams, connections.max(1)).await?;
        let bare = idle::measure(bench, &stage.bare, streams, connections.max(1)).await?;
        board.record(&row, ours, bare);
        stage.strike(bench).await?;
    }
    Ok(())
}

async fn comeback_of(bench: &Bench, board: &mut Board) -> Done<()> {
    let stage = Stage::set(bench, &[bench.main_store()]).await?;
    let name = format!("{READERS} dropped readers back and caught up, {BEHIND} messages behind each");
    let row = spec(name, "ms", Goal::AtMost(2.0), "the same clients back at bare tonic, nothing to catch up");
    for _ in 0..bench.options.rounds {
        let ours = comeback::measure(bench, &stage.ours[0], READERS, BEHIND).await?;
        let bare = comeback::measure(bench, &stage.bare, READERS, 0).await?;
        board.record(&row, ours, bare);
    }
    stage.strike(bench).await
}
