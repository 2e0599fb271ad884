//! Foreign programs: where they are, their ports, as whom they run, how they are stopped.

use std::path::{Path, PathBuf};

use tokio::process::Command;

use crate::common::until;
pub use crate::harness::postgres::is_root;

/// The user that owns nothing: what a program runs as where the suite is root.
pub const NOBODY: u32 = 65_534;
/// Where servers are that aren't in an ordinary user's PATH.
const FURTHER_FOLDERS: [&str; 4] = ["/usr/bin", "/usr/sbin", "/usr/local/sbin", "/opt/homebrew/bin"];

/// A program in one of these folders, in PATH, or where systems put servers.
pub fn find(name: &str, first: impl Iterator<Item = PathBuf>) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = first.chain(std::env::split_paths(&path)).chain(FURTHER_FOLDERS.map(PathBuf::from));
    folders.map(|folder| folder.join(name)).find(|program| program.is_file())
}

/// Where the suite is root, the folder and what is in it become nobody's.
pub async fn give_to_nobody(folder: &Path) {
    if is_root().await {
        let owner = format!("{NOBODY}:{NOBODY}");
        assert!(Command::new("chown").args(["-R", &owner]).arg(folder).status().await.unwrap().success());
    }
}

pub async fn signal(pid: u32, signal: &str) {
    let status = Command::new("kill").args([&format!("-{signal}"), &pid.to_string()]).status().await.unwrap();
    assert!(status.success(), "kill -{signal} {pid}");
}

/// Waits until a process that was sent SIGSTOP has stopped.
pub async fn is_frozen(pid: u32) {
    let stat = format!("/proc/{pid}/stat");
    until("the process is stopped", || std::fs::read_to_string(&stat).unwrap().contains(") T ")).await;
}
