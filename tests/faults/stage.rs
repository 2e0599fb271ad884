//! What a fault plays on: a real server process, a store, proxies on both sides, and the checker at work.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use chat_service::app::check::verify::Counts;
use tokio::process::Command;

use crate::common::process::Process;
use crate::common::{Ground, On, within};
use crate::harness::checker::Checker;
use crate::harness::postgres::{Postgres, is_root, url_at};
use crate::harness::proxy::Proxy;

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
    check: Option<Checker>,
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
        let address = format!("https://localhost:{}", self.front.port);
        self.check = Some(Checker::begin(&self.ground, &[address], "history.jsonl").await);
    }

    fn checker(&mut self) -> &mut Checker {
        self.check.as_mut().expect("the checker is at work")
    }

    /// Messages acknowledged so far.
    pub fn acked(&mut self) -> u64 {
        self.checker().acked()
    }

    /// Waits until this many more messages are acknowledged: the service works.
    pub async fn acks(&mut self, more: u64) {
        self.checker().acks(more).await;
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

    /// Ends the sending, and lets the checker judge: the counts, or what is wrong.
    pub async fn judge(&mut self) -> Result<Counts, String> {
        let check = self.check.take().expect("the checker is at work");
        check.judge().await.map(|judged| judged.counts).map_err(|error| {
            let log = self.server.log.lock().unwrap();
            let tail = log.iter().rev().filter(|line| !line.contains("chat_service::rpc")).take(20).cloned().collect::<Vec<_>>();
            format!("{error}; the server said {tail:#?}")
        })
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
