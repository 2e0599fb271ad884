//! What all rows share: the options, a folder with keys, and PostgreSQL.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use chat_service::app::certs::{self, GenCertArgs};
use chat_service::app::token;

use crate::Done;
use crate::options::Options;
use crate::process::Kind;
use crate::stores::Postgres;

/// Signs the tokens of the load.
const SECRET: &str = "a secret of the benchmark, long enough for HS256";
/// Longer than any run.
const TOKEN_TTL: Duration = Duration::from_secs(24 * 3600);

pub struct Bench {
    pub options: Options,
    /// Keys, SQLite files and logs; gone with the run. On the disk that the project is on.
    folder: tempfile::TempDir,
    pub postgres: Postgres,
    pub secret: Arc<str>,
}

impl Bench {
    pub async fn prepare(options: Options) -> Done<Self> {
        let results = results_folder();
        std::fs::create_dir_all(&results)?;
        let folder = tempfile::Builder::new().prefix("run-").tempdir_in(&results)?;
        let args = GenCertArgs { out: folder.path().join("certs"), force: false, names: Vec::new() };
        certs::generate(&args)?;
        std::fs::write(folder.path().join("secret"), SECRET)?;
        let postgres = Postgres::connect().await?;
        Ok(Self { options, folder, postgres, secret: Arc::from(SECRET) })
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The store of the rows that are measured on one.
    pub fn main_store(&self) -> Kind {
        if self.options.main_on_sqlite { Kind::Sqlite } else { Kind::Postgres }
    }

    /// Fails where a process can't have this many files open.
    pub fn need_files(&self, files: usize) -> Done<()> {
        let limits = std::fs::read_to_string("/proc/self/limits")?;
        let line = limits.lines().find(|line| line.starts_with("Max open files")).ok_or("/proc/self/limits has no open files")?;
        let soft = line.split_whitespace().nth(3).unwrap_or_default();
        let enough = soft == "unlimited" || soft.parse::<usize>().is_ok_and(|soft| soft >= files);
        if enough { Ok(()) } else { Err(format!("{files} open files are needed and {soft} allowed; raise `ulimit -n`").into()) }
    }
}

/// A token for one of the load's users.
pub fn token_of(secret: &str, user: &str) -> Done<String> {
    Ok(token::sign(secret.as_bytes(), user, &["user".to_owned()], TOKEN_TTL, None, None)?)
}

/// Where the results go: `target/bench`.
pub fn results_folder() -> PathBuf {
    let scratch = Path::new(env!("CARGO_TARGET_TMPDIR"));
    scratch.parent().unwrap_or(scratch).join("bench")
}
