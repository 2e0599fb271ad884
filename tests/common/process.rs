//! The real binary as its users run it.

use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex};

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;

use super::{Ground, until, within};

/// The binary, with nothing of this process's environment but the path, and where coverage goes when it is measured.
pub fn binary() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_chat-service"));
    command.kill_on_drop(true).env_clear();
    command.envs(["PATH", "LLVM_PROFILE_FILE"].into_iter().filter_map(|name| Some((name, std::env::var_os(name)?))));
    command
}

/// A server process. Its log is read all the time: a pipe that nobody reads would stop the server.
pub struct Process {
    pub child: Child,
    pub port: u16,
    pub log: Arc<Mutex<Vec<String>>>,
}

impl Process {
    /// The binary's server, once it is ready. Port 0: any. Flags in `more` take the place of the ground's.
    pub async fn serve(ground: &Ground, port: u16, more: &[&str]) -> Self {
        Self::serve_by(binary(), ground, port, more).await
    }

    /// By a command that has variables of its own.
    pub async fn serve_by(mut command: Command, ground: &Ground, port: u16, more: &[&str]) -> Self {
        let mut flags = ground.flags();
        flags[1] = format!("127.0.0.1:{port}");
        for name in more.iter().filter(|flag| flag.starts_with("--")) {
            if let Some(at) = flags.iter().position(|flag| flag == name) {
                flags.drain(at..at + 2);
            }
        }
        // Empty variables count as unset.
        let empty = ["AUTH_PUBLIC_KEY", "AUTH_JWKS_URL", "AUTH_SERVICE_URL", "AUTH_CA", "AUTH_ISSUER", "AUTH_AUDIENCE", "AUTH_ROLES_CLAIM"];
        let empty = empty.into_iter().chain(["TLS_CLIENT_CA", "TRUSTED_PROXIES", "REDIS_PREFIX"]).map(|name| (format!("CHAT_{name}"), ""));
        let empty = empty.chain([("REDIS_URL".to_owned(), "")]);
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

    /// The ports of a server, its own and the admin's, once it serves.
    pub async fn ports(&self) -> (u16, u16) {
        let mut ports = None;
        until("the server serves", || {
            ports = self.text().lines().find_map(ports_of);
            ports.is_some()
        })
        .await;
        ports.unwrap()
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
        Self::serve_with(ground, database_url, &[]).await
    }

    /// The same with further flags.
    pub async fn serve_with(ground: &Ground, database_url: &str, more: &[&str]) -> Self {
        let mut flags = ground.flags();
        let at = flags.iter().position(|flag| flag == "--database-url").unwrap();
        flags.drain(at..at + 2);
        let mut child = talkative()
            .arg("serve")
            .args(flags)
            .args(more)
            .env("DATABASE_URL", database_url)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let said = Said::default();
        let listeners = vec![said.listen(child.stdout.take().unwrap()), said.listen(child.stderr.take().unwrap())];
        let (port, admin) = said.ports().await;
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

/// The public and the admin port, in the line of a JSON log that says that the server serves.
pub fn ports_of(line: &str) -> Option<(u16, u16)> {
    let line: Value = serde_json::from_str(line).ok().filter(|line: &Value| line["message"] == "serving")?;
    let port = |name: &str| -> Option<u16> { line[name].as_str()?.trim_end_matches(')').rsplit_once(':')?.1.parse().ok() };
    Some((port("address")?, port("admin")?))
}
