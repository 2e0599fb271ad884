//! The real binary as its users run it.

use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use super::{Ground, within};

/// The binary, with nothing of this process's environment but the path.
pub fn binary() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_chat-service"));
    command.kill_on_drop(true).env_clear().env("PATH", std::env::var("PATH").unwrap_or_default());
    command
}

/// A server process. Its log is read all the time: a pipe that nobody reads would stop the server.
pub struct Process {
    pub child: Child,
    pub port: u16,
    pub log: Arc<Mutex<Vec<String>>>,
}

impl Process {
    /// The binary's server, once it is ready. Port 0: any.
    pub async fn serve(ground: &Ground, port: u16, more: &[&str]) -> Self {
        let mut flags = ground.flags();
        flags[1] = format!("127.0.0.1:{port}");
        // Empty variables count as unset.
        let empty = ["CHAT_AUTH_PUBLIC_KEY", "CHAT_AUTH_ISSUER", "CHAT_AUTH_AUDIENCE"].map(|name| (name, ""));
        let mut command = binary();
        command.arg("serve").args(flags).args(more).env("NO_COLOR", "1").envs(empty).stdin(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let log = Arc::new(Mutex::new(Vec::new()));
        let port = within(async {
            loop {
                let line =
                    lines.next_line().await.unwrap().unwrap_or_else(|| panic!("the server ended at its start: {:?}", log.lock().unwrap()));
                log.lock().unwrap().push(line.clone());
                if let Some((_, rest)) = line.split_once("127.0.0.1:")
                    && line.contains("serving")
                {
                    break rest.chars().take_while(char::is_ascii_digit).collect::<String>().parse().unwrap();
                }
            }
        })
        .await;
        let kept = Arc::clone(&log);
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                kept.lock().unwrap().push(line);
            }
        });
        Self { child, port, log }
    }

    pub fn pid(&self) -> u32 {
        self.child.id().expect("the server is running")
    }

    pub async fn signal(&self, signal: &str) {
        let status = Command::new("kill").args([&format!("-{signal}"), &self.pid().to_string()]).status().await.unwrap();
        assert!(status.success());
    }

    /// Asks it to stop and waits until it has.
    pub async fn stop(&mut self) -> ExitStatus {
        self.signal("TERM").await;
        within(self.child.wait()).await.unwrap()
    }

    /// Lines of its log that hold a text.
    pub fn said(&self, text: &str) -> u64 {
        self.log.lock().unwrap().iter().filter(|line| line.contains(text)).count() as u64
    }
}
