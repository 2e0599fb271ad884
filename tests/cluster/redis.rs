//! A Redis of the suite's own, which it may kill, freeze and empty; alone, or as one of a Redis Cluster's masters.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use crate::common::{free_port, until, within};
use crate::harness::resp;
use crate::programs::{self, NOBODY};

/// After this a Cluster holds a master that doesn't answer for failed.
const NODE_TIMEOUT_MS: &str = "1000";
/// Parts of a Cluster's keys, and so of its channels.
const SLOTS: u32 = 16_384;

pub struct Redis {
    folder: tempfile::TempDir,
    pub port: u16,
    /// Of the Cluster's own talk.
    bus_port: Option<u16>,
    child: Child,
}

impl Redis {
    pub async fn start() -> Self {
        Self::start_as(None).await
    }

    /// A Redis Cluster of this many masters, formed.
    pub async fn start_cluster(masters: u32) -> Vec<Self> {
        let mut cluster = Vec::new();
        for _ in 0..masters {
            cluster.push(Self::start_as(Some(free_port())).await);
        }
        for (n, redis) in (0..masters).zip(&cluster) {
            let (from, to) = (n * SLOTS / masters, (n + 1) * SLOTS / masters - 1);
            redis.command(&["CLUSTER", "ADDSLOTSRANGE", &from.to_string(), &to.to_string()]).await.unwrap();
            redis.command(&["CLUSTER", "SET-CONFIG-EPOCH", &(n + 1).to_string()]).await.unwrap();
        }
        for redis in &cluster[1..] {
            let (port, bus) = (redis.port.to_string(), redis.bus_port.unwrap().to_string());
            cluster[0].command(&["CLUSTER", "MEET", "127.0.0.1", &port, &bus]).await.unwrap();
        }
        for redis in &cluster {
            redis.is_formed(masters).await;
        }
        cluster
    }

    async fn start_as(bus_port: Option<u16>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        programs::give_to_nobody(folder.path()).await;
        let port = free_port();
        let child = launch(folder.path(), port, bus_port).await;
        let redis = Self { folder, port, bus_port, child };
        redis.answers().await;
        redis
    }

    async fn answers(&self) {
        within(async {
            while self.command(&["PING"]).await.is_none_or(|answer| !answer.contains("PONG")) {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }

    /// Waits until this master knows the others, and all slots are served.
    pub async fn is_formed(&self, masters: u32) {
        within(async {
            loop {
                let info = self.command(&["CLUSTER", "INFO"]).await.unwrap_or_default();
                if info.contains("cluster_state:ok") && info.contains(&format!("cluster_known_nodes:{masters}\r\n")) {
                    return;
                }
                tokio::task::yield_now().await;
            }
        })
        .await;
    }

    pub fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    /// A command's answer as it stands on the wire; `None`: there was none.
    pub async fn command(&self, words: &[&str]) -> Option<String> {
        let mut connection = TcpStream::connect(self.address()).await.ok()?;
        let mut request = format!("*{}\r\n", words.len());
        for word in words {
            request.push_str(&format!("${}\r\n{word}\r\n", word.len()));
        }
        connection.write_all(request.as_bytes()).await.ok()?;
        let mut answer = Vec::new();
        loop {
            if let Some(length) = resp::length(&answer) {
                return Some(String::from_utf8_lossy(&answer[..length]).into_owned());
            }
            if connection.read_buf(&mut answer).await.ok()? == 0 {
                return None;
            }
        }
    }

    /// Connections that are subscribed to something.
    pub async fn subscribers(&self) -> u64 {
        let list = self.command(&["CLIENT", "LIST", "TYPE", "PUBSUB"]).await.unwrap_or_default();
        list.lines().filter(|line| line.starts_with("id=")).count() as u64
    }

    /// How often it was emptied since it began.
    pub async fn times_flushed(&self) -> u64 {
        let stats = self.command(&["INFO", "commandstats"]).await.unwrap_or_default();
        let calls = stats.lines().find_map(|line| line.strip_prefix("cmdstat_flushall:calls="));
        calls.and_then(|rest| rest.split(',').next()?.parse().ok()).unwrap_or(0)
    }

    pub async fn signal(&self, signal: &str) {
        programs::signal(self.child.id().expect("Redis is running"), signal).await;
    }

    /// Freezes it: connections stay, and nothing is answered.
    pub async fn freeze(&self) {
        self.signal("STOP").await;
        programs::is_frozen(self.child.id().expect("Redis is running")).await;
    }

    pub async fn kill_9(&mut self) {
        self.child.start_kill().unwrap();
        self.child.wait().await.unwrap();
    }

    /// Starts it again, empty, where it was; one of a Cluster knows its slots.
    pub async fn start_again(&mut self) {
        self.child = launch(self.folder.path(), self.port, self.bus_port).await;
        self.answers().await;
    }
}

async fn launch(folder: &Path, port: u16, bus_port: Option<u16>) -> Child {
    let mut command = Command::new(redis_server());
    command.args(["--bind", "127.0.0.1", "--port", &port.to_string(), "--save", "", "--appendonly", "no", "--dir"]).arg(folder);
    if let Some(bus_port) = bus_port {
        command.args(["--cluster-enabled", "yes", "--cluster-node-timeout", NODE_TIMEOUT_MS, "--cluster-port", &bus_port.to_string()]);
    }
    if programs::is_root().await {
        command.uid(NOBODY).gid(NOBODY);
    }
    command.current_dir(folder).kill_on_drop(true).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child =
        command.spawn().unwrap_or_else(|error| panic!("redis-server can't be started: {error}; install it, or set TEST_REDIS_BIN"));
    until("Redis listens", || {
        if let Some(status) = child.try_wait().unwrap() {
            panic!("redis-server ended at its start: {status}");
        }
        std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
    })
    .await;
    child
}

fn redis_server() -> PathBuf {
    let folders = std::env::var("TEST_REDIS_BIN").into_iter().map(PathBuf::from);
    programs::find("redis-server", folders).expect("redis-server isn't here: run `make test-cluster`, or set TEST_REDIS_BIN to its folder")
}
