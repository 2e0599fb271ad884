//! The command `check`: proves the delivery promises on a running deployment.
//!
//! Clients send, read, disconnect at random, resume and try again; everything they do and see is the [`history`], and [`verify`]
//! judges it. Nothing that a client believes while it runs takes part in the judgement.

mod api;
mod client;
mod events;
pub mod history;
pub mod latency;
mod message;
mod shared;
pub mod verify;

use std::future::pending;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use clap::Args;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tonic::Code;
use tonic::transport::Endpoint;
use uuid::Uuid;

use super::dial::{self, DialError};
use super::lifecycle;
use super::token::{self, TokenError};
use crate::config::duration::parse_duration;
use crate::config::{ConfigError, load_secret, unless_empty};
use api::Api;
use client::{Client, Part};
use history::{Record, Writer};
use latency::{Latencies, Moments};
use shared::{Phase, Progress, Shared};
use verify::{Counts, Judge, NotJudged, Verdict};

/// Beyond the run's own time, for settling and listing.
const TOKEN_RESERVE: Duration = Duration::from_secs(3600);
/// A server that doesn't answer is noticed in the sum of these.
const KEEP_ALIVE: Duration = Duration::from_secs(2);
const KEEP_ALIVE_DUE: Duration = Duration::from_secs(3);
/// Small, so that a reader that doesn't read is felt by the server.
const WINDOW_BYTES: u32 = 64 * 1024;
const PROGRESS_EVERY: Duration = Duration::from_millis(250);
/// Of messages a second "without a limit", in which the window alone holds a sender.
const RATE_UNLIMITED: f64 = 1e9;

#[derive(Args)]
pub struct CheckArgs {
    /// A node of the deployment; several, separated by commas, are all used
    #[arg(long, env = "CHAT_ADDR", default_value = "https://localhost:50051", value_delimiter = ',')]
    pub addr: Vec<String>,
    /// The CA that signed the server's certificate, PEM
    #[arg(long, env = "CHAT_CA", default_value = "certs/ca.pem")]
    pub ca: PathBuf,
    /// File with the secret that signs the clients' tokens
    #[arg(long, env = "CHAT_AUTH_SECRET", default_value = "certs/dev.secret")]
    pub auth_secret: PathBuf,
    /// A token to use instead, where the secret isn't at hand; several, separated by commas, are used in turn
    #[arg(long, env = "CHAT_TOKEN", hide_env_values = true, value_delimiter = ',')]
    pub token: Vec<String>,
    /// The `iss` claim of the clients' tokens
    #[arg(long, env = "CHAT_AUTH_ISSUER")]
    pub issuer: Option<String>,
    /// The `aud` claim of the clients' tokens
    #[arg(long, env = "CHAT_AUTH_AUDIENCE")]
    pub audience: Option<String>,
    /// How long to send; SIGINT (Ctrl-C) or SIGTERM ends it early
    #[arg(long, default_value = "30s", value_parser = parse_duration)]
    pub duration: Duration,
    /// Stop after this many messages, if that comes first; 0: no limit
    #[arg(long, default_value_t = 0)]
    pub messages: u64,
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub chats: u32,
    /// Clients that send; every other one reads as well
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub senders: u32,
    /// Clients that only read
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub readers: u32,
    /// Readers, of those, that stop reading now and then
    #[arg(long, default_value_t = 1)]
    pub slow_readers: u32,
    /// Messages a second, of all senders together; 0: as fast as they are acknowledged
    #[arg(long, default_value_t = 500)]
    pub rate: u32,
    /// Messages that a sender has unacknowledged at most
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub window: u32,
    /// Mean time after which a client disconnects; 0: never
    #[arg(long, default_value = "3s", value_parser = parse_duration)]
    pub disconnect_every: Duration,
    /// How long a server that can't be reached is waited for
    #[arg(long, default_value = "60s", value_parser = parse_duration)]
    pub patience: Duration,
    /// Of the random choices; the times at which things happen are still the deployment's
    #[arg(long)]
    pub seed: Option<u64>,
    /// Where the history goes, as JSON lines
    #[arg(long, default_value = "check-history.jsonl")]
    pub history: PathBuf,
    /// Judge this history, and run nothing
    #[arg(long, value_name = "FILE")]
    pub verify: Option<PathBuf>,
}

/// Why nothing could be proven: exit code 2.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error("--auth-secret: {0}; set CHAT_AUTH_SECRET to the deployment's secret file, or give --token")]
    Secret(#[from] ConfigError),
    #[error("can't sign a token: {0}")]
    Token(#[from] TokenError),
    #[error("--token: it is no JWT with a `sub`")]
    NoSubject,
    #[error("the server refuses {call}: {code:?}: {message}")]
    Refused { call: &'static str, code: Code, message: String },
    #[error("no answer to {call}: {message}; is the server at --addr running?")]
    NoAnswer { call: &'static str, message: String },
    #[error("no answer for {patience:?}, with {unsettled} messages of a client unsettled; is the server at --addr running?")]
    Patience { patience: Duration, unsettled: usize },
    #[error("nothing was acknowledged or delivered for {patience:?}; is the deployment's database there?")]
    Stuck { patience: Duration },
    #[error("{0}")]
    Unexpected(String),
    #[error("--history {path}: {source}")]
    History { path: PathBuf, source: std::io::Error },
    #[error("--verify {path}: {source}")]
    Unreadable { path: PathBuf, source: history::ReadError },
    #[error("{0}")]
    NotJudged(#[from] NotJudged),
}

/// Runs the command: exit code 0 where every promise held, 1 where one did not, 2 where nothing could be proven.
pub async fn run(args: CheckArgs) -> ExitCode {
    let judged = match &args.verify {
        Some(path) => judge(path),
        None => check(&args).await,
    };
    match judged {
        Ok(verdict) => {
            for violation in &verdict.violations {
                println!("{violation}");
            }
            println!("{}", last_line(&verdict.counts));
            if verdict.counts.is_ok() { ExitCode::SUCCESS } else { ExitCode::from(1) }
        }
        Err(error) => {
            eprintln!("chat-service: check: {error}");
            ExitCode::from(2)
        }
    }
}

fn last_line(counts: &Counts) -> String {
    let Counts { acked, delivered, reconnects, lost, duplicated, reordered, holes, phantoms, .. } = counts;
    let numbers = format!(
        "acked={acked} delivered={delivered} reconnects={reconnects} lost={lost} duplicated={duplicated} reordered={reordered} holes={holes}"
    );
    if counts.is_ok() { format!("check: ok {numbers}") } else { format!("check: violated {numbers} phantoms={phantoms}") }
}

/// Judges a recorded history.
pub fn judge(path: &Path) -> Result<Verdict, CheckError> {
    let unreadable = |source| CheckError::Unreadable { path: path.to_owned(), source };
    let mut judge = Judge::default();
    for line in history::read(path).map_err(|error| unreadable(error.into()))? {
        judge.take(line.map_err(unreadable)?)?;
    }
    Ok(judge.finish()?)
}

/// When things happened in a recorded history.
pub fn moments(path: &Path) -> Result<Moments, CheckError> {
    let unreadable = |source| CheckError::Unreadable { path: path.to_owned(), source };
    let mut moments = Moments::default();
    for line in history::read(path).map_err(|error| unreadable(error.into()))? {
        moments.take(&line.map_err(unreadable)?);
    }
    Ok(moments)
}

fn latencies_line(latencies: &Latencies) -> String {
    let shown = |name: &str, spread: &Option<latency::Spread>| match spread {
        Some(spread) => format!("{name} p50 {:.1} ms, p99 {:.1} ms", spread.p50.as_secs_f64() * 1e3, spread.p99.as_secs_f64() * 1e3),
        None => format!("{name} none"),
    };
    format!("delivery: {}; {}", shown("same node", &latencies.same_node), shown("across nodes", &latencies.across_nodes))
}

async fn check(args: &CheckArgs) -> Result<Verdict, CheckError> {
    let parts = parts(args)?;
    let endpoints = args.addr.iter().map(|addr| dial::endpoint(addr, &args.ca).map(tuned)).collect::<Result<Vec<_>, _>>()?;
    let api = Api { endpoints: endpoints.clone(), token: parts[0].token.clone(), patience: args.patience };
    let failed = |source| CheckError::History { path: args.history.clone(), source };
    let users: Vec<&str> = parts.iter().map(|part| part.user.as_str()).collect();
    let mut chats = Vec::new();
    for _ in 0..args.chats {
        chats.push(api.create_chat(&users).await?);
    }
    let history = Writer::create(&args.history).map_err(failed)?;
    history.write(Record::Run { version: history::VERSION, chats: chats.clone() });

    let (phase, _) = watch::channel(Phase::Sending);
    let (settled, settlements) = mpsc::unbounded_channel();
    let shared = Arc::new(Shared {
        endpoints,
        chats,
        history,
        phase,
        settled,
        patience: args.patience,
        disconnect_every: args.disconnect_every,
        window: args.window as usize,
        rate_per_sender: if args.rate == 0 { RATE_UNLIMITED } else { f64::from(args.rate) / f64::from(args.senders) },
        messages_left: AtomicI64::new(i64::try_from(args.messages).ok().filter(|left| *left > 0).unwrap_or(i64::MAX)),
        progress: Progress::default(),
        broken: Mutex::default(),
    });
    let progress = tokio::spawn(show_progress(Arc::clone(&shared), args.duration));
    let done = run_clients(&shared, &parts, args.duration, settlements).await;
    progress.abort();
    done?;
    let last_sequences = api::list(&shared, &api).await?;
    let broken = shared.broken.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let readers = parts.iter().filter(|part| part.reads && !broken.contains(&part.number)).map(|part| part.number).collect();
    shared.history.write(Record::End { readers, last_sequences });
    shared.history.finish().map_err(failed)?;

    let verdict = judge(&args.history)?;
    if verdict.counts.is_ok() {
        api.delete_chats(&shared.chats).await;
    }
    let Counts { sent, acked, rejected, conflicts, .. } = verdict.counts;
    println!(
        "{} chats, {} senders, {} readers: {sent} messages sent, {acked} acknowledged; {rejected} sends refused and sent again, {conflicts} conflicts refused",
        args.chats, args.senders, args.readers
    );
    let slow: Vec<u32> = parts.iter().filter(|part| part.slow).map(|part| part.number).collect();
    if let Some(latencies) = moments(&args.history)?.without(&slow).latencies() {
        println!("{}", latencies_line(&latencies));
    }
    println!("history: {}", args.history.display());
    Ok(verdict)
}

/// The run's clients, each with a token.
fn parts(args: &CheckArgs) -> Result<Vec<Part>, CheckError> {
    let seed = args.seed.unwrap_or_else(rand::random);
    let run = Uuid::new_v4().simple().to_string();
    let secret = if args.token.is_empty() { Some(load_secret(&args.auth_secret)?) } else { None };
    let (issuer, audience) = (unless_empty(&args.issuer), unless_empty(&args.audience));
    let part = |number: u32| {
        let sends = number < args.senders;
        let (user, token) = match &secret {
            Some(secret) => {
                let user = format!("check-{}-{number}", &run[..8]);
                let ttl = args.duration + TOKEN_RESERVE;
                let token = token::sign(secret.expose(), &user, &["user".to_owned()], ttl, issuer.as_deref(), audience.as_deref())?;
                (user, token)
            }
            None => {
                let token = args.token[number as usize % args.token.len()].clone();
                (subject(&token).ok_or(CheckError::NoSubject)?, token)
            }
        };
        Ok(Part {
            number,
            user,
            token: dial::bearer(&token)?,
            sends,
            reads: !sends || number % 2 == 1,
            slow: (args.senders..args.senders.saturating_add(args.slow_readers)).contains(&number),
            seed: seed.wrapping_add(u64::from(number)),
        })
    };
    (0..args.senders + args.readers).map(part).collect()
}

/// The `sub` of a token, unverified: the server verifies it.
fn subject(token: &str) -> Option<String> {
    use base64::Engine;
    let claims = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
    let claims: serde_json::Value = serde_json::from_slice(&claims).ok()?;
    claims.get("sub")?.as_str().map(str::to_owned)
}

fn tuned(endpoint: Endpoint) -> Endpoint {
    endpoint
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE_DUE)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(2 * WINDOW_BYTES)
}

async fn run_clients(
    shared: &Arc<Shared>,
    parts: &[Part],
    duration: Duration,
    mut settlements: mpsc::UnboundedReceiver<()>,
) -> Result<(), CheckError> {
    let mut clients = JoinSet::new();
    for part in parts {
        clients.spawn(Client::new(Arc::clone(shared), part.clone()).run());
    }
    let phases = async {
        let sending = async {
            while !shared.all_made() {
                sleep(PROGRESS_EVERY).await;
            }
        };
        // A signal ends the sending early; what was sent is settled and judged all the same.
        tokio::select! {
            _ = timeout(duration, sending) => {}
            () = async { if let Ok(asked) = lifecycle::asked_to_stop() { asked.await } else { pending().await } } => {}
        }
        shared.phase.send_replace(Phase::Settling);
        for _ in parts {
            settlements.recv().await;
        }
        shared.phase.send_replace(Phase::Draining);
        pending::<()>().await;
    };
    let ended = async {
        while let Some(ended) = clients.join_next().await {
            ended.map_err(|error| CheckError::Unexpected(format!("a client of the check failed: {error}")))??;
        }
        Ok(())
    };
    tokio::select! {
        ended = ended => ended,
        () = phases => Ok(()),
        () = stuck(shared) => Err(CheckError::Stuck { patience: shared.patience }),
    }
}

/// Returns when nothing was acknowledged or delivered for as long as the patience lasts.
async fn stuck(shared: &Shared) {
    let done = || shared.progress.acked.load(Ordering::Relaxed) + shared.progress.delivered.load(Ordering::Relaxed);
    let (mut before, mut since) = (done(), Instant::now());
    while since.elapsed() < shared.patience {
        sleep(PROGRESS_EVERY).await;
        let now = done();
        if now != before {
            (before, since) = (now, Instant::now());
        }
    }
}

async fn show_progress(shared: Arc<Shared>, duration: Duration) {
    if !std::io::stderr().is_terminal() {
        return;
    }
    let began = Instant::now();
    let mut ticks = interval(PROGRESS_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let (count, done) = (|n: &AtomicU64| n.load(Ordering::Relaxed), began.elapsed().as_secs_f64() / duration.as_secs_f64().max(0.001));
        let bar = "#".repeat((done.min(1.0) * 20.0) as usize);
        let Progress { acked, delivered, rejected, connections } = &shared.progress;
        eprint!(
            "\r[{bar:<20}] {:?}: acknowledged {}, delivered {}, refused {}, connections {} ",
            *shared.phase.borrow(),
            count(acked),
            count(delivered),
            count(rejected),
            count(connections)
        );
    }
}
