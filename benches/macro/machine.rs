//! What the figures were measured on.

use std::path::Path;
use std::process::Stdio;

use serde_json::{Value, json};
use tokio::process::Command;

use crate::Done;
use crate::bench::{Bench, results_folder};

pub struct Machine(Vec<(&'static str, String)>);

pub async fn describe(bench: &Bench) -> Done<Machine> {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        line.trim_start_matches([' ', '\t', ':']).trim().to_owned()
    };
    let mut commit = said("git", &["rev-parse", "--short", "HEAD"]).await;
    if !said("git", &["status", "--porcelain", "--untracked-files=no"]).await.is_empty() {
        commit.push_str(" and changes");
    }
    let cores = std::thread::available_parallelism()?.get();
    let server_threads = bench.options.server_threads.map_or_else(|| format!("{cores}, one a core"), |threads| threads.to_string());
    let data = bench.postgres.data_directory.as_deref().map(Path::new);
    let mut facts = vec![
        ("commit", commit),
        ("cores", cores.to_string()),
        ("processor", field(&read("/proc/cpuinfo"), "model name")),
        ("memory", field(&read("/proc/meminfo"), "MemTotal")),
        ("kernel", read("/proc/sys/kernel/osrelease").trim().to_owned()),
        ("PostgreSQL", format!("{}, fsync on", bench.postgres.version)),
        ("SQLite's file system", file_system(&results_folder()).await),
        ("threads of both servers", server_threads),
        ("threads of the client", bench.options.client_threads.to_string()),
        ("server's RUST_LOG", bench.options.log.clone()),
        ("rounds, seconds each", format!("{}, {:.1}", bench.options.rounds, bench.options.time.as_secs_f64())),
    ];
    if let Some(data) = data {
        facts.push(("PostgreSQL's file system", file_system(data).await));
    }
    Ok(Machine(facts))
}

/// The first line that a program prints, or nothing.
async fn said(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).stderr(Stdio::null()).output().await;
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    text.lines().next().unwrap_or_default().trim().to_owned()
}

/// On one that is memory alone, flushing costs nothing.
async fn file_system(folder: &Path) -> String {
    let Some(folder) = folder.to_str() else { return String::new() };
    said("stat", &["-f", "-c", "%T", folder]).await
}

impl Machine {
    pub fn print(&self) {
        for (name, value) in &self.0 {
            println!("{name}: {value}");
        }
    }

    pub fn json(&self) -> Value {
        self.0.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect::<serde_json::Map<_, _>>().into()
    }
}
