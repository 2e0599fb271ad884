//! A PostgreSQL of the suite's own, which it may kill.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use sqlx::{Connection, PgConnection};
use tokio::process::Command;

use crate::common::within;

pub struct Postgres {
    data: PathBuf,
    bin: PathBuf,
    port: u16,
}

impl Postgres {
    /// Makes a cluster in a folder and starts it.
    pub async fn start(folder: &Path) -> Self {
        let bin = PathBuf::from(std::env::var("TEST_POSTGRES_BIN").expect("TEST_POSTGRES_BIN is not set: run `make test-faults`"));
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let postgres = Self { data: folder.join("data"), bin, port: free };
        if is_root().await {
            assert!(Command::new("chown").args(["-R", "postgres"]).arg(folder).status().await.unwrap().success());
        }
        let made = postgres.run("initdb", &["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--wal-segsize=1"]).await;
        assert!(made, "initdb failed");
        postgres.start_again().await;
        postgres
    }

    /// Starts the server; right after a crash its last processes may still be ending, so it is tried until it is there.
    pub async fn start_again(&self) {
        let options = format!(
            "-p {} -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c max_connections=100 -c max_wal_size=32MB -c min_wal_size=8MB -c shared_buffers=16MB",
            self.port
        );
        within(async {
            while !self.run("pg_ctl", &["-w", "-l", &self.data.with_file_name("log").display().to_string(), "-o", &options, "start"]).await
            {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }

    async fn run(&self, program: &str, arguments: &[&str]) -> bool {
        let mut command = if is_root().await {
            let mut command = Command::new("runuser");
            command.args(["-u", "postgres", "--"]).arg(self.bin.join(program));
            command
        } else {
            Command::new(self.bin.join(program))
        };
        let arguments = command.arg("-D").arg(&self.data).args(arguments).current_dir("/");
        arguments.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status().await.unwrap().success()
    }

    pub fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    pub fn url(&self, database: &str) -> String {
        url_at(self.port, database)
    }

    pub async fn execute(&self, statement: String) -> sqlx::Result<i64> {
        let mut connection = PgConnection::connect(&self.url("postgres")).await?;
        sqlx::query_scalar::<_, i64>(sqlx::AssertSqlSafe(statement)).fetch_one(&mut connection).await
    }

    /// Runs a file of statements.
    pub async fn run_script(&self, database: &str, script: String) {
        let mut connection = PgConnection::connect(&self.url(database)).await.unwrap();
        sqlx::raw_sql(sqlx::AssertSqlSafe(script)).execute(&mut connection).await.unwrap();
    }

    pub async fn create_database(&self, name: &str) {
        let mut connection = PgConnection::connect(&self.url("postgres")).await.unwrap();
        sqlx::query(sqlx::AssertSqlSafe(format!("CREATE DATABASE {name}"))).execute(&mut connection).await.unwrap();
    }

    /// The first process of the server; `None`: it isn't running.
    pub fn pid(&self) -> Option<u32> {
        let file = std::fs::read_to_string(self.data.join("postmaster.pid")).ok()?;
        let pid = file.lines().next()?.trim().parse().ok()?;
        Path::new(&format!("/proc/{pid}")).exists().then_some(pid)
    }

    /// Kills every process of the server at once, as a crash of the machine does; the number of processes.
    pub async fn kill_9(&self) -> u64 {
        let postmaster = self.pid().expect("PostgreSQL is running");
        let children = Command::new("pgrep").args(["-P", &postmaster.to_string()]).output().await.unwrap();
        let children = String::from_utf8(children.stdout).unwrap();
        let pids: Vec<String> = std::iter::once(postmaster.to_string()).chain(children.lines().map(str::to_owned)).collect();
        // A child may have ended by itself.
        Command::new("kill").arg("-9").args(&pids).stderr(Stdio::null()).status().await.unwrap();
        crate::common::until("PostgreSQL is gone", || self.pid().is_none()).await;
        pids.len() as u64
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if let Some(pid) = self.pid() {
            std::process::Command::new("kill").args(["-QUIT", &pid.to_string()]).status().ok();
        }
    }
}

pub fn url_at(port: u16, database: &str) -> String {
    format!("postgres://postgres@127.0.0.1:{port}/{database}")
}

pub async fn is_root() -> bool {
    let output = Command::new("id").arg("-u").output().await.unwrap();
    output.stdout.trim_ascii() == b"0"
}
