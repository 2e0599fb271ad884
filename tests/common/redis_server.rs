//! Redis servers for tests.

use std::path::Path;
use std::process::Stdio;

use redis::AsyncConnectionConfig;
use redis::aio::MultiplexedConnection;
use tokio::process::{Child, Command};

use super::{PATIENCE, free_port, within};

/// The Redis that all tests share; each has channels of its own by a prefix of its own.
pub fn shared_url() -> String {
    std::env::var("TEST_REDIS_URL").expect("TEST_REDIS_URL is not set: run `make test`, which starts Redis")
}

/// A prefix that no other test has.
pub fn prefix() -> String {
    format!("test:{}:", uuid::Uuid::new_v4().simple())
}

/// A Redis of a test's own, which it may kill. Gone with the value.
pub struct RedisServer {
    folder: tempfile::TempDir,
    options: Vec<String>,
    pub port: u16,
    child: Option<Child>,
}

impl RedisServer {
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// One server that is a Cluster by itself.
    pub async fn start_cluster() -> Self {
        let bus = free_port().to_string();
        let server = Self::start_with(&["--cluster-enabled", "yes", "--cluster-port", &bus]).await;
        let mut connection = server.connection().await;
        redis::cmd("CLUSTER").arg("ADDSLOTSRANGE").arg(0).arg(16_383).exec_async(&mut connection).await.unwrap();
        within(async {
            loop {
                let info: String = redis::cmd("CLUSTER").arg("INFO").query_async(&mut connection).await.unwrap();
                if info.contains("cluster_state:ok") {
                    break;
                }
            }
        })
        .await;
        server
    }

    pub async fn start_with(options: &[&str]) -> Self {
        let mut server = Self {
            folder: tempfile::tempdir().unwrap(),
            options: options.iter().map(|option| (*option).to_owned()).collect(),
            port: free_port(),
            child: None,
        };
        server.start_again().await;
        server
    }

    /// By TLS only, with these certificates.
    pub async fn start_tls(certs: &Path) -> Self {
        let path = |name| certs.join(name).display().to_string();
        let port = free_port();
        let options = [
            ("--tls-port", port.to_string()),
            ("--tls-auth-clients", "no".to_owned()),
            ("--tls-cert-file", path("server.pem")),
            ("--tls-key-file", path("server.key")),
            ("--tls-ca-cert-file", path("ca.pem")),
        ];
        let options = options.into_iter().flat_map(|(name, value)| [name.to_owned(), value]).collect();
        let mut server = Self { folder: tempfile::tempdir().unwrap(), options, port, child: None };
        server.spawn(0);
        within(async {
            while tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err() {
                tokio::task::yield_now().await;
            }
        })
        .await;
        server
    }

    /// Starts it, on the same port, and waits until it answers.
    pub async fn start_again(&mut self) {
        self.spawn(self.port);
        within(async {
            while redis::cmd("PING").exec_async(&mut self.connection().await).await.is_err() {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }

    fn spawn(&mut self, port: u16) {
        let bin = std::env::var("TEST_REDIS_BIN").expect("TEST_REDIS_BIN is not set: run `make test`, which finds Redis");
        let mut command = Command::new(bin);
        command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]);
        command.arg("--dir").arg(self.folder.path()).args(&self.options);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true).spawn().unwrap();
        self.child = Some(child);
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// A new connection, as soon as there is one.
    pub async fn connection(&self) -> MultiplexedConnection {
        connection(&self.url()).await
    }

    pub async fn kill_9(&mut self) {
        let mut child = self.child.take().expect("it runs");
        child.kill().await.unwrap();
    }

    /// STOP freezes it: it keeps its connections and answers nothing. CONT lets it go on.
    pub async fn signal(&self, signal: &str) {
        let pid = self.child.as_ref().and_then(Child::id).expect("it runs");
        let status = Command::new("kill").args([&format!("-{signal}"), &pid.to_string()]).status().await.unwrap();
        assert!(status.success());
    }
}

/// A new connection, as soon as there is one.
pub async fn connection(url: &str) -> MultiplexedConnection {
    let client = redis::Client::open(url).unwrap();
    let config = AsyncConnectionConfig::new().set_response_timeout(Some(PATIENCE)).set_connection_timeout(Some(PATIENCE));
    within(async {
        loop {
            match client.get_multiplexed_async_connection_with_config(&config).await {
                Ok(connection) => break connection,
                Err(_) => tokio::task::yield_now().await,
            }
        }
    })
    .await
}
