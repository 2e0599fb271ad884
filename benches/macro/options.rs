//! What is run and for how long: variables, so that `make bench` passes them through.

use std::time::Duration;

use crate::Done;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Every row of the goals but growth.
    Whole,
    /// CI's: the rows that are stable, short, and failing only where a goal is missed by far.
    Guard,
    /// The rows that need large databases.
    Growth,
}

#[derive(Clone, Debug)]
pub struct Options {
    pub mode: Mode,
    /// BENCH_ROUNDS: how often each row is measured.
    pub rounds: usize,
    /// BENCH_SECONDS: how long one measurement takes.
    pub time: Duration,
    /// How long a load runs before it is measured.
    pub warm_up: Duration,
    /// BENCH_ONLY: rows whose keys hold one of these, separated by commas.
    pub only: Vec<String>,
    /// BENCH_STORE=sqlite: the rows that are measured on one store are measured on SQLite.
    pub main_on_sqlite: bool,
    /// BENCH_CLIENT_THREADS: of the load's runtime.
    pub client_threads: usize,
    /// BENCH_SERVER_THREADS: of both servers' runtimes; unset: what they choose themselves, one a core.
    pub server_threads: Option<usize>,
    /// BENCH_LOG: the server's RUST_LOG, by default the product's own. Bare tonic logs nothing.
    pub log: String,
    /// Idle streams, and idle connections, whose memory is measured.
    pub idle_streams: usize,
    /// Messages that the large database holds.
    pub stored_messages: i64,
    /// What a goal may be missed by: 1 is nothing.
    pub slack: f64,
}

/// The guard fails where a ratio is under this much of its goal, or over its goal by as much.
const GUARD_SLACK: f64 = 0.7;
const IDLE_STREAMS: usize = 10_000;
const IDLE_STREAMS_SHORT: usize = 2_000;
const STORED_MESSAGES: i64 = 10_000_000;

impl Options {
    pub fn read(word: Option<&str>) -> Done<Self> {
        let mode = match word {
            None => Mode::Whole,
            Some("guard") => Mode::Guard,
            Some("growth") => Mode::Growth,
            Some(other) => return Err(format!("there is no {other}; guard, growth or nothing").into()),
        };
        let short = variable("BENCH_SHORT").is_some_and(|value| value != "0");
        let (rounds, seconds, warm_up, idle_streams) = match (mode, short) {
            (Mode::Guard, _) => (3, 1.5, 0.4, IDLE_STREAMS_SHORT),
            (_, true) => (1, 1.0, 0.3, IDLE_STREAMS_SHORT),
            (_, false) => (3, 2.5, 0.5, IDLE_STREAMS),
        };
        let time = Duration::try_from_secs_f64(number("BENCH_SECONDS", seconds)?)?;
        let options = Self {
            mode,
            rounds: number("BENCH_ROUNDS", rounds)?,
            time,
            warm_up: Duration::from_secs_f64(warm_up),
            only: variable("BENCH_ONLY").map(|keys| keys.split(',').map(|key| key.trim().to_owned()).collect()).unwrap_or_default(),
            main_on_sqlite: variable("BENCH_STORE").is_some_and(|store| store == "sqlite"),
            client_threads: number("BENCH_CLIENT_THREADS", 1)?,
            server_threads: variable("BENCH_SERVER_THREADS").map(|value| value.parse()).transpose()?,
            log: variable("BENCH_LOG").unwrap_or_else(|| "info".to_owned()),
            idle_streams: number("BENCH_IDLE_STREAMS", idle_streams)?,
            stored_messages: number("BENCH_STORED_MESSAGES", STORED_MESSAGES)?,
            slack: if mode == Mode::Guard { GUARD_SLACK } else { 1.0 },
        };
        if options.rounds == 0 || options.client_threads == 0 || options.time.is_zero() {
            return Err("BENCH_ROUNDS, BENCH_CLIENT_THREADS and BENCH_SECONDS are above 0".into());
        }
        Ok(options)
    }

    pub fn wants(&self, key: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| key.contains(only.as_str()))
    }

    /// The name of the file with the results.
    pub fn file(&self) -> &'static str {
        match self.mode {
            Mode::Whole => "macro.json",
            Mode::Guard => "guard.json",
            Mode::Growth => "growth.json",
        }
    }
}

/// An empty variable is an unset one.
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn number<T: std::str::FromStr>(name: &str, default: T) -> Done<T> {
    match variable(name) {
        None => Ok(default),
        Some(value) => value.parse().map_err(|_| format!("{name} is {value}, which is no number that fits").into()),
    }
}
