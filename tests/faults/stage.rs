//! What a fault plays on: a real server process, a store, proxies on both sides, and the checker at work.

use std::collections::HashMap;
use std::io::{Read, Seek, SeekFrom};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use chat_service::app::check::judge;
use chat_service::app::check::verify::Counts;
use tokio::process::{Child, Command};

use crate::common::process::{Process, binary};
use crate::common::{Ground, On, within};
use crate::postgres::{Postgres, is_root, url_at};
use crate::proxy::Proxy;

/// Longer than any fault suite takes; the suite ends the checker's sending itself.
const SENDING_MAX: &str = "30m";
const POLL: Duration = Duration::from_millis(20);

/// What a fault needs beside a server and a store.
#[derive(Clone, Copy, Debug, Default)]
pub struct Needs {
    /// The store's files lie on a small disk of their own, of this many MiB.
    pub small_disk_mib: Option<u32>,
    /// The server reaches PostgreSQL through a proxy.
    pub back: bool,
    /// Options of the server.
    pub flags: &'static [&'static str],
}

pub struct Stage {
    pub ground: Arc<Ground>,
    pub server: Process,
    pub postgres: Option<Postgres>,
    /// Between clients and server.
    pub front: Proxy,
    /// Between server and PostgreSQL.
    pub back: Option<Proxy>,
    pub disk: Option<Disk>,
    needs: Needs,
    /// Said by servers that were restarted since.
    said_before: HashMap<&'static str, u64>,
    check: Option<Checking>,
}

struct Checking {
    child: Child,
    history: PathBuf,
    read: u64,
    acked: u64,
}

impl Stage {
    pub async fn set(on: On, needs: Needs) -> Self {
        let disk = match needs.small_disk_mib {
            Some(mib) => Some(Disk::mount(mib).await),
            None => None,
        };
        let (mut postgres, mut back) = (None, None);
        let url = match (on, &disk) {
            (On::Sqlite, None) => None,
            (On::Sqlite, Some(disk)) => Some(format!("sqlite:{}", disk.folder.path().join("data/chat.db").display())),
            (On::Postgres, disk) => {
                let folder = disk.as_ref().map_or_else(|| tempfile::tempdir().unwrap().keep(), |disk| disk.folder.path().to_owned());
                let started = Postgres::start(&folder).await;
                started.create_database("chat").await;
                let mut url = started.url("chat");
                if needs.back {
                    let proxy = Proxy::to(started.address()).await;
                    url = url_at(proxy.port, "chat");
                    back = Some(proxy);
                }
                postgres = Some(started);
                Some(url)
            }
        };
        let ground = Arc::new(Ground::with_database(url));
        let server = Process::serve(&ground, 0, needs.flags).await;
        let front = Proxy::to(SocketAddr::from(([127, 0, 0, 1], server.port))).await;
        Self { ground, server, postgres, front, back, disk, needs, said_before: HashMap::new(), check: None }
    }

    /// Starts the checker and waits until it is at work.
    pub async fn begin_check(&mut self) {
        let history = self.ground.path("history.jsonl");
        let mut command = binary();
        command
            .args(["check", "--addr", &format!("https://localhost:{}", self.front.port), "--ca"])
            .arg(self.ground.path("certs/ca.pem"))
            .arg("--auth-secret")
            .arg(self.ground.path("secret"))
            .arg("--history")
            .arg(&history)
            .args(["--duration", SENDING_MAX, "--rate", "300", "--disconnect-every", "2s"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        self.check = Some(Checking { child: command.spawn().unwrap(), history, read: 0, acked: 0 });
        self.acks(100).await;
    }

    /// Messages acknowledged so far.
    pub fn acked(&mut self) -> u64 {
        let check = self.check.as_mut().expect("the checker is at work");
        let Ok(mut file) = std::fs::File::open(&check.history) else { return 0 };
        file.seek(SeekFrom::Start(check.read)).unwrap();
        let mut new = Vec::new();
        file.read_to_end(&mut new).unwrap();
        // Whole lines only; the rest is there the next time.
        let whole = new.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        check.read += whole as u64;
        let is_ack = |line: &&[u8]| line.windows(22).any(|window| window == br#""event":"acknowledged""#);
        check.acked += new[..whole].split(|byte| *byte == b'\n').filter(is_ack).count() as u64;
        check.acked
    }

    /// Waits until this many more messages are acknowledged: the service works.
    pub async fn acks(&mut self, more: u64) {
        let enough = self.acked() + more;
        let mut polls = tokio::time::interval(POLL);
        within(async {
            while self.acked() < enough {
                if let Some(status) = self.check.as_mut().unwrap().child.try_wait().unwrap() {
                    panic!("the checker ended early: {status}: {}", self.last_words().await);
                }
                polls.tick().await;
            }
        })
        .await;
    }

    async fn last_words(&mut self) -> String {
        let check = self.check.take().unwrap();
        let output = check.child.wait_with_output().await.unwrap();
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
    }

    /// Holds the stage as it is, for a time that belongs to the fault.
    pub async fn hold(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }

    /// Waits until the server's log has this text oftener than `before`.
    pub async fn says(&self, text: &'static str, before: u64) {
        let mut polls = tokio::time::interval(POLL);
        within(async {
            while self.said(text) <= before {
                polls.tick().await;
            }
        })
        .await;
    }

    /// How often the servers of this stage have logged a text.
    pub fn said(&self, text: &'static str) -> u64 {
        self.server.said(text) + self.said_before.get(text).copied().unwrap_or(0)
    }

    /// Starts the server again, on the port that it had.
    pub async fn serve_again(&mut self) {
        let port = self.server.port;
        self.server = Process::serve(&self.ground, port, self.needs.flags).await;
    }

    /// Ends the sending, and lets the checker judge: its exit code, what it printed, and the counts.
    pub async fn judge(&mut self) -> Result<Counts, String> {
        let check = self.check.take().expect("the checker is at work");
        let pid = check.child.id().expect("the checker is running");
        assert!(Command::new("kill").args(["-INT", &pid.to_string()]).status().await.unwrap().success());
        let output = within(check.child.wait_with_output()).await.unwrap();
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        let said = format!("{printed}{}", String::from_utf8_lossy(&output.stderr));
        let last = printed.lines().last().unwrap_or_default();
        if output.status.code() != Some(0) || !last.starts_with("check: ok ") {
            let kept = std::env::temp_dir().join(format!("check-history-{}.jsonl", uuid::Uuid::new_v4()));
            std::fs::copy(&check.history, &kept).ok();
            let log = self.server.log.lock().unwrap();
            let tail = log.iter().rev().filter(|line| !line.contains("chat_service::rpc")).take(20).cloned().collect::<Vec<_>>();
            return Err(format!("{}: {said}history kept in {}; the server said {tail:#?}", output.status, kept.display()));
        }
        // The history alone gives the same verdict.
        let verdict = judge(&check.history).map_err(|error| error.to_string())?;
        if verdict.counts.is_ok() { Ok(verdict.counts) } else { Err(format!("{:#?}", verdict.violations)) }
    }
}

/// A small disk in memory; only root can make one.
pub struct Disk {
    pub folder: tempfile::TempDir,
}

impl Disk {
    /// Whether one can be made here.
    pub async fn can_be_made() -> bool {
        cfg!(target_os = "linux") && is_root().await && {
            let folder = tempfile::tempdir().unwrap();
            let mounted = mount(folder.path(), 1).await;
            drop(Self { folder });
            mounted
        }
    }

    async fn mount(mib: u32) -> Self {
        let folder = tempfile::tempdir().unwrap();
        assert!(mount(folder.path(), mib).await, "mounting a tmpfs failed");
        Self { folder }
    }

    fn ballast(&self) -> PathBuf {
        self.folder.path().join("ballast")
    }

    /// Fills it to the last byte.
    pub fn fill(&self) {
        use std::io::Write;
        let mut file = std::fs::File::create(self.ballast()).unwrap();
        for size in [64 * 1024, 4096, 1] {
            while file.write_all(&vec![0; size]).is_ok() {}
        }
    }

    pub fn empty(&self) {
        std::fs::remove_file(self.ballast()).unwrap();
    }
}

async fn mount(folder: &Path, mib: u32) -> bool {
    let mut command = Command::new("mount");
    command.args(["-t", "tmpfs", "-o", &format!("size={mib}m,mode=0755"), "none"]).arg(folder).stderr(Stdio::null());
    command.status().await.is_ok_and(|status| status.success())
}

impl Drop for Disk {
    fn drop(&mut self) {
        std::process::Command::new("umount").arg("-l").arg(self.folder.path()).stderr(Stdio::null()).status().ok();
    }
}
