//! The delivery checker as a process of its own, which works until it is told to judge.

use std::io::{Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use chat_service::app::check::history::Line;
use chat_service::app::check::judge;
use chat_service::app::check::verify::Counts;
use tokio::process::{Child, Command};

use crate::common::process::binary;
use crate::common::{Ground, within};

/// Longer than any suite takes; the suite ends the checker's sending itself.
const SENDING_MAX: &str = "30m";
const POLL: Duration = Duration::from_millis(20);
/// The reader that stops reading now and then: the first behind the senders.
pub const SLOW_READER: u32 = 4;

pub struct Checker {
    child: Child,
    pub history: PathBuf,
    read: u64,
    acked: u64,
    /// When the history's clock began, or a little later: the file lags behind what happens.
    began: Instant,
}

pub struct Judged {
    pub counts: Counts,
    pub history: PathBuf,
}

impl Checker {
    /// Starts it against these addresses, with its history in the ground's folder, and waits until it is at work.
    pub async fn begin(ground: &Ground, addresses: &[String], history: &str) -> Self {
        let history = ground.path(history);
        let mut command = binary();
        command
            .args(["check", "--addr", &addresses.join(","), "--ca"])
            .arg(ground.path("certs/ca.pem"))
            .arg("--auth-secret")
            .arg(ground.path("secret"))
            .arg("--history")
            .arg(&history)
            .args(["--duration", SENDING_MAX, "--rate", "300", "--disconnect-every", "2s"])
            .args(["--senders", &SLOW_READER.to_string(), "--readers", "4", "--slow-readers", "1"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut checker = Self { child: command.spawn().unwrap(), history, read: 0, acked: 0, began: Instant::now() };
        checker.acks(100).await;
        checker
    }

    /// Messages acknowledged so far.
    pub fn acked(&mut self) -> u64 {
        let Ok(mut file) = std::fs::File::open(&self.history) else { return 0 };
        file.seek(SeekFrom::Start(self.read)).unwrap();
        let mut new = Vec::new();
        file.read_to_end(&mut new).unwrap();
        // Whole lines only; the rest is there the next time.
        let whole = new.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        self.set_clock(&new[..whole]);
        self.read += whole as u64;
        let is_ack = |line: &&[u8]| line.windows(22).any(|window| window == br#""event":"acknowledged""#);
        self.acked += new[..whole].split(|byte| *byte == b'\n').filter(is_ack).count() as u64;
        self.acked
    }

    /// The history's newest line was written at its time or later.
    fn set_clock(&mut self, lines: &[u8]) {
        let Some(last) = lines.trim_ascii_end().rsplit(|byte| *byte == b'\n').next().filter(|line| !line.is_empty()) else { return };
        let t_us = serde_json::from_slice::<Line>(last).unwrap().t_us;
        if let Some(began) = Instant::now().checked_sub(Duration::from_micros(t_us)) {
            // Before the first line it is when the process was started, which is earlier.
            self.began = if self.read == 0 { began } else { self.began.min(began) };
        }
    }

    /// Now, by the history's clock.
    pub fn now_us(&mut self) -> u64 {
        self.acked();
        u64::try_from(self.began.elapsed().as_micros()).unwrap()
    }

    /// Waits until this many more messages are acknowledged: the service works.
    pub async fn acks(&mut self, more: u64) {
        let enough = self.acked() + more;
        let mut polls = tokio::time::interval(POLL);
        within(async {
            while self.acked() < enough {
                if let Some(status) = self.child.try_wait().unwrap() {
                    panic!("the checker ended early: {status}: {}", self.last_words().await);
                }
                polls.tick().await;
            }
        })
        .await;
    }

    async fn last_words(&mut self) -> String {
        use tokio::io::AsyncReadExt;
        let mut said = Vec::new();
        if let Some(mut pipe) = self.child.stdout.take() {
            pipe.read_to_end(&mut said).await.ok();
        }
        if let Some(mut pipe) = self.child.stderr.take() {
            pipe.read_to_end(&mut said).await.ok();
        }
        String::from_utf8_lossy(&said).into_owned()
    }

    /// Ends the sending, and lets it judge: the counts, or what is wrong, with the history kept.
    pub async fn judge(self) -> Result<Judged, String> {
        let Self { child, history, .. } = self;
        let pid = child.id().expect("the checker is running");
        assert!(Command::new("kill").args(["-INT", &pid.to_string()]).status().await.unwrap().success());
        let output = within(child.wait_with_output()).await.unwrap();
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        let said = format!("{printed}{}", String::from_utf8_lossy(&output.stderr));
        let last = printed.lines().last().unwrap_or_default();
        if output.status.code() != Some(0) || !last.starts_with("check: ok ") {
            let kept = std::env::temp_dir().join(format!("check-history-{}.jsonl", uuid::Uuid::new_v4()));
            std::fs::copy(&history, &kept).ok();
            return Err(format!("{}: {said}history kept in {}", output.status, kept.display()));
        }
        // The history alone gives the same verdict.
        let verdict = judge(&history).map_err(|error| error.to_string())?;
        if verdict.counts.is_ok() { Ok(Judged { counts: verdict.counts, history }) } else { Err(format!("{:#?}", verdict.violations)) }
    }
}
