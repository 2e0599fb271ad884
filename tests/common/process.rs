//! The real binary, as its users run it.

use std::process::Stdio;
use std::sync::{Arc, Mutex};

use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;

use super::{Ground, until, within};

/// The binary, without this process's variables.
pub fn binary() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_chat-service"));
    command.kill_on_drop(true).env_clear().env("PATH", std::env::var("PATH").unwrap_or_default());
    command
}

/// Everything that a process has written so far.
#[derive(Clone, Default)]
pub struct Said(Arc<Mutex<Vec<u8>>>);

impl Said {
    pub fn listen(&self, mut pipe: impl AsyncRead + Unpin + Send + 'static) -> JoinHandle<()> {
        let said = self.clone();
        tokio::spawn(async move {
            let mut piece = vec![0; 64 * 1024];
            while let Ok(length @ 1..) = pipe.read(&mut piece).await {
                said.0.lock().unwrap().extend_from_slice(&piece[..length]);
            }
        })
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }
}

/// The real binary's server, overheard.
pub struct Overheard {
    child: Child,
    pub port: u16,
    pub admin: u16,
    said: Said,
    listeners: Vec<JoinHandle<()>>,
}

impl Overheard {
    /// Serves by this database instead of the ground's.
    pub async fn serve(ground: &Ground, database_url: &str) -> Self {
        let mut flags = ground.flags();
        let at = flags.iter().position(|flag| flag == "--database-url").unwrap();
        flags.drain(at..at + 2);
        let mut child = talkative()
            .arg("serve")
            .args(flags)
            .env("DATABASE_URL", database_url)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let said = Said::default();
        let listeners = vec![said.listen(child.stdout.take().unwrap()), said.listen(child.stderr.take().unwrap())];
        let mut ports = None;
        until("the server serves", || {
            ports = said.text().lines().find_map(ports_of);
            ports.is_some()
        })
        .await;
        let (port, admin) = ports.unwrap();
        Self { child, port, admin, said, listeners }
    }

    /// Stops the server and returns all that it said.
    pub async fn stop(mut self) -> String {
        let status = Command::new("kill").args(["-TERM", &self.child.id().unwrap().to_string()]).status().await.unwrap();
        assert!(status.success());
        assert!(within(self.child.wait()).await.unwrap().success());
        for listener in self.listeners {
            within(listener).await.unwrap();
        }
        self.said.text()
    }
}

/// The binary at its most talkative.
pub fn talkative() -> Command {
    let mut command = binary();
    command.env("RUST_LOG", "trace,h2=trace,hyper=trace,rustls=trace,sqlx=trace,tonic=trace,tower=trace,axum=trace");
    command.env("CHAT_LOG_FORMAT", "json").env("RUST_BACKTRACE", "full");
    command
}

fn ports_of(line: &str) -> Option<(u16, u16)> {
    let line: Value = serde_json::from_str(line).ok().filter(|line: &Value| line["message"] == "serving")?;
    let port = |name: &str| -> Option<u16> { line[name].as_str()?.trim_end_matches(')').rsplit_once(':')?.1.parse().ok() };
    Some((port("address")?, port("admin")?))
}
