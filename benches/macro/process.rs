//! Server processes, and what the kernel says of them.

use std::fs;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::bench::Bench;
use crate::{Done, bare};

/// When a server must serve.
const START_DUE: Duration = Duration::from_secs(60);
const START_POLL: Duration = Duration::from_millis(1);
/// How long one that is told to end may take.
const END_DUE: Duration = Duration::from_secs(5);
/// A server is quiet when it takes less CPU than this in such a time; it is waited for so long.
const QUIET_CPU: Duration = Duration::from_millis(4);
const QUIET_TIME: Duration = Duration::from_millis(100);
const QUIET_DUE: Duration = Duration::from_secs(15);
/// The kernel counts in these, whatever its own clock is.
const TICKS_PER_SECOND: u64 = 100;

/// What serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Postgres,
    Sqlite,
    Bare,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Self::Postgres => "PostgreSQL",
            Self::Sqlite => "SQLite",
            Self::Bare => "bare tonic",
        }
    }
}

/// A server process; killed when it is dropped.
pub struct Server {
    pub kind: Kind,
    child: Child,
    pub pid: u32,
    pub port: u16,
    /// Made for this server alone, and removed with it.
    database: Option<String>,
    /// An SQLite file's folder, or none.
    folder: Option<PathBuf>,
    /// From the start of the process to when it said that it serves.
    pub started_in: Duration,
}

impl Server {
    /// Starts one with a store of its own.
    pub async fn start(bench: &Bench, kind: Kind) -> Done<Self> {
        match kind {
            Kind::Bare => Self::start_bare(bench).await,
            Kind::Postgres => {
                let url = bench.postgres.create().await?;
                let server = Self::start_on(bench, kind, &url).await?;
                Ok(Self { database: Some(url), ..server })
            }
            Kind::Sqlite => {
                let folder = bench.path(&format!("sqlite-{}", uuid::Uuid::new_v4().simple()));
                let server = Self::start_on(bench, kind, &format!("sqlite:{}", folder.join("chat.db").display())).await?;
                Ok(Self { folder: Some(folder), ..server })
            }
        }
    }

    /// Starts the product on a database, which stays.
    pub async fn start_on(bench: &Bench, kind: Kind, database_url: &str) -> Done<Self> {
        let log = bench.path(&format!("server-{}.log", uuid::Uuid::new_v4().simple()));
        let mut command = Command::new(env!("CARGO_BIN_EXE_chat-service"));
        environment(&mut command, bench);
        command
            .arg("serve")
            .args(["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--database-url", database_url])
            .arg("--tls-cert")
            .arg(bench.path("certs/server.pem"))
            .arg("--tls-key")
            .arg(bench.path("certs/server.key"))
            .arg("--auth-secret")
            .arg(bench.path("secret"))
            // What one machine's load would run into; bare tonic has none of it.
            .args(["--rate-limit-user-sends", "0", "--rate-limit-user-calls", "0", "--rate-limit-address", "0"])
            .args(["--max-connections", "0", "--max-connections-per-address", "0", "--max-streams-per-connection", "0"])
            // The line that tells the port is written whatever else is asked for.
            .env("RUST_LOG", format!("{},chat_service::app::server=info", bench.options.log))
            .stdout(Stdio::null())
            .stderr(fs::File::create(&log)?);
        let began = Instant::now();
        let mut child = command.spawn()?;
        let pid = child.id().ok_or("the server ended at its start")?;
        let port = loop {
            // The log stays short until clients come.
            let said = fs::read_to_string(&log)?;
            if let Some(port) = said.lines().find_map(port_of) {
                break port;
            }
            if let Some(status) = child.try_wait()? {
                return Err(format!("the server ended at its start, {status}: {said}").into());
            }
            if began.elapsed() > START_DUE {
                return Err(format!("the server doesn't serve: {said}").into());
            }
            tokio::time::sleep(START_POLL).await;
        };
        // From here on nobody reads it.
        fs::remove_file(&log)?;
        Ok(Self { kind, child, pid, port, database: None, folder: None, started_in: began.elapsed() })
    }

    async fn start_bare(bench: &Bench) -> Done<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        environment(&mut command, bench);
        command.arg(bare::WORD).arg(bench.path("certs/server.pem")).arg(bench.path("certs/server.key"));
        let began = Instant::now();
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn()?;
        let pid = child.id().ok_or("bare tonic ended at its start")?;
        let stdout = child.stdout.take().ok_or("bare tonic has no output")?;
        let line = tokio::time::timeout(START_DUE, BufReader::new(stdout).lines().next_line()).await??;
        let port = line.ok_or("bare tonic ended at its start")?.trim().parse()?;
        Ok(Self { kind: Kind::Bare, child, pid, port, database: None, folder: None, started_in: began.elapsed() })
    }

    /// Ends it and removes what it stored. It isn't killed at once: one that is built to learn from what it does writes that down at its end.
    pub async fn stop(mut self, bench: &Bench) -> Done<()> {
        Command::new("kill").arg(self.pid.to_string()).status().await?;
        if tokio::time::timeout(END_DUE, self.child.wait()).await.is_err() {
            self.child.kill().await?;
        }
        if let Some(url) = &self.database {
            bench.postgres.drop(url).await?;
        }
        if let Some(folder) = &self.folder {
            fs::remove_dir_all(folder)?;
        }
        Ok(())
    }

    /// Waits until what happened before has no after-effects.
    pub async fn quiet(&self) {
        let began = Instant::now();
        let mut before = cpu_of(self.pid);
        while began.elapsed() < QUIET_DUE {
            tokio::time::sleep(QUIET_TIME).await;
            let now = cpu_of(self.pid);
            if now.saturating_sub(before) < QUIET_CPU {
                return;
            }
            before = now;
        }
    }
}

/// Nothing of this process's environment but the path, and the threads that both servers are given.
fn environment(command: &mut Command, bench: &Bench) {
    command.kill_on_drop(true).env_clear().env("PATH", std::env::var("PATH").unwrap_or_default()).env("NO_COLOR", "1");
    command.stdin(Stdio::null()).current_dir(bench.folder());
    if let Some(threads) = bench.options.server_threads {
        command.env("TOKIO_WORKER_THREADS", threads.to_string());
    }
}

fn port_of(line: &str) -> Option<u16> {
    let (_, rest) = line.split_once("127.0.0.1:").filter(|_| line.contains("serving"))?;
    // A line that is still being written has no end to its number.
    let end = rest.find(|c: char| !c.is_ascii_digit())?;
    rest[..end].parse().ok()
}

/// The CPU that a process has taken, by its threads' own count in nanoseconds; threads that have ended count in ticks.
pub fn cpu_of(pid: u32) -> Duration {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let nanos = threads.filter_map(|thread| {
        let count = fs::read_to_string(thread.path().join("schedstat")).ok()?;
        count.split_whitespace().next()?.parse::<u64>().ok()
    });
    let ticks = stat_of(pid).map_or(0, |stat| stat.ticks);
    Duration::from_nanos(nanos.sum::<u64>()).max(of_ticks(ticks))
}

/// The CPU of a process and its children, those that have ended among them.
pub fn cpu_of_family(pid: u32) -> Duration {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let children = pids.filter(|child| stat_of(*child).is_some_and(|stat| stat.parent == pid));
    let ended = of_ticks(stat_of(pid).map_or(0, |stat| stat.ticks_of_ended_children));
    children.map(cpu_of).sum::<Duration>() + cpu_of(pid) + ended
}

/// The first process of a PostgreSQL, one of whose processes this is; `None`: it is no PostgreSQL of this machine.
pub fn postgres_parent(backend: u32) -> Option<u32> {
    let stat = stat_of(backend)?;
    stat.command.starts_with("postgres").then_some(stat.parent)
}

fn of_ticks(ticks: u64) -> Duration {
    Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND)
}

struct Stat {
    command: String,
    parent: u32,
    ticks: u64,
    ticks_of_ended_children: u64,
}

/// `/proc/PID/stat`: the command in brackets, then numbers, counted from the state.
fn stat_of(pid: u32) -> Option<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (before, after) = text.rsplit_once(')')?;
    let fields: Vec<&str> = after.split_whitespace().collect();
    let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
    Some(Stat {
        command: before.split_once('(')?.1.to_owned(),
        parent: fields.get(1)?.parse().ok()?,
        ticks: number(11)? + number(12)?,
        ticks_of_ended_children: number(13)? + number(14)?,
    })
}

/// A process's memory, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    /// What is resident, shared pages counted in part.
    pub pss: u64,
    pub rss: u64,
}

pub fn memory_of(pid: u32) -> Done<Memory> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let kib = |name: &str| -> Done<u64> {
        let line = text.lines().find_map(|line| line.strip_prefix(name)).ok_or("the kernel doesn't tell a process's memory")?;
        Ok(line.trim().trim_end_matches("kB").trim().parse::<u64>()? * 1024)
    };
    Ok(Memory { pss: kib("Pss:")?, rss: kib("Rss:")? })
}

/// CPU that was taken.
#[derive(Clone, Copy, Debug, Default)]
pub struct Spent {
    pub time: Duration,
    pub server: Duration,
    pub client: Duration,
    pub database: Duration,
}

/// The clocks at one moment.
pub struct Clocks {
    at: Instant,
    server: Duration,
    client: Duration,
    database: Duration,
}

impl Clocks {
    pub fn read(bench: &Bench, server: &Server) -> Self {
        let database = if server.kind == Kind::Postgres { bench.postgres.cpu() } else { Duration::ZERO };
        Self { at: Instant::now(), server: cpu_of(server.pid), client: cpu_of(std::process::id()), database }
    }

    pub fn since(&self, before: &Self) -> Spent {
        Spent {
            time: self.at - before.at,
            server: self.server.saturating_sub(before.server),
            client: self.client.saturating_sub(before.client),
            database: self.database.saturating_sub(before.database),
        }
    }
}
