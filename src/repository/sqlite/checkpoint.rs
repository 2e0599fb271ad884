//! Moves the write-ahead log into the file while the lane goes on.
//!
//! Left to a commit, this holds up the lane, and everybody who sends, for as long as it takes. So a thread of its own does it, by a
//! connection of its own, pass after pass, each of what the last one left and of what was committed meanwhile. A log begins anew only where
//! all of it is moved when a commit begins: the last little bit is moved by the lane, between two commits.

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use rusqlite::Connection;

use super::lane::open;

/// Pages in the log, 16 MiB, from which it is moved. One that is written again and again before is moved once.
const FROM_PAGES: u32 = 8_000;
/// So few are left to the lane.
const LEFT_PAGES: u32 = 400;
/// Pages in the log, 64 MiB, at which the lane waits for the thread, and moves what there is: the log doesn't grow for ever where commits
/// are faster.
pub(super) const MOST_PAGES: u32 = 32_000;

/// When the log is moved.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    from: u32,
    left: u32,
    most: u32,
}

const BOUNDS: Bounds = Bounds { from: FROM_PAGES, left: LEFT_PAGES, most: MOST_PAGES };

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Work {
    None,
    /// The thread's.
    Moves,
    /// The lane's, for the thread has done what it can.
    Rest,
}

#[derive(Debug)]
struct Shared {
    work: Mutex<Work>,
    /// The thread has done what it can.
    done: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, work: Work) {
        *self.lock() = work;
        self.done.notify_all();
    }
}

/// The lane's end of it. The thread ends with it.
#[derive(Debug)]
pub(super) struct Checkpoints {
    bounds: Bounds,
    shared: Arc<Shared>,
    thread: Option<(SyncSender<()>, JoinHandle<()>)>,
}

thread_local! {
    /// Pages in the log behind this thread's last commit.
    static PAGES: Cell<u32> = const { Cell::new(0) };
}

/// Has the connection's commits tell how long the log is, in place of moving it.
pub(super) fn watch(connection: &Connection) {
    connection.wal_hook(Some(|_, pages| {
        PAGES.set(pages.try_into().unwrap_or(0));
        Ok(())
    }));
}

impl Checkpoints {
    pub fn start(path: PathBuf) -> Self {
        Self::within(BOUNDS, path)
    }

    fn within(bounds: Bounds, path: PathBuf) -> Self {
        let shared = Arc::new(Shared { work: Mutex::new(Work::None), done: Condvar::new() });
        let (wake, woken) = sync_channel(1);
        let run = {
            let shared = Arc::clone(&shared);
            move || run(&path, bounds, &shared, &woken)
        };
        let thread = std::thread::Builder::new().name("checkpoint".to_owned()).spawn(run).expect("moving the log needs a thread");
        Self { bounds, shared, thread: Some((wake, thread)) }
    }

    /// Behind a commit of a watched connection on this thread.
    pub fn committed(&self, connection: &Connection) {
        let pages = PAGES.get();
        if pages < self.bounds.from {
            return;
        }
        let mut work = self.shared.lock();
        if *work == Work::None {
            *work = Work::Moves;
            drop(work);
            self.wake();
            return;
        }
        while *work == Work::Moves && pages >= self.bounds.most {
            work = self.shared.done.wait(work).unwrap_or_else(PoisonError::into_inner);
        }
        if *work == Work::Rest {
            *work = Work::None;
            drop(work);
            told(pass(connection));
        }
    }

    fn wake(&self) {
        let woken = self.thread.as_ref().map(|(wake, _)| wake.try_send(()));
        // One that is gone has left it all to the lane.
        if let Some(Err(TrySendError::Disconnected(()))) | None = woken {
            self.shared.set(Work::Rest);
        }
    }
}

impl Drop for Checkpoints {
    fn drop(&mut self) {
        if let Some((wake, thread)) = self.thread.take() {
            drop(wake);
            drop(thread.join());
        }
    }
}

/// However the thread ends, the lane doesn't wait for it.
struct Running<'a>(&'a Shared);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.set(Work::Rest);
    }
}

fn run(path: &Path, bounds: Bounds, shared: &Shared, woken: &Receiver<()>) {
    let _running = Running(shared);
    let mut connection = None;
    while let Ok(()) = woken.recv() {
        let moved = match &connection {
            Some(connection) => move_most(connection, bounds),
            None => open(path).and_then(|opened| move_most(connection.insert(opened), bounds)),
        };
        if told(moved).is_none() {
            connection = None;
        }
        shared.set(Work::Rest);
    }
}

/// Passes until little is left, or a pass leaves no less than half of what the one before did.
fn move_most(connection: &Connection, bounds: Bounds) -> rusqlite::Result<()> {
    let mut before = u32::MAX;
    loop {
        let left = pass(connection)?;
        if left <= bounds.left || left >= before / 2 {
            return Ok(());
        }
        before = left;
    }
}

/// Moves what can be moved without making anybody wait; how many pages of the log are left.
fn pass(connection: &Connection) -> rusqlite::Result<u32> {
    connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| {
        let (pages, moved): (i64, i64) = (row.get(1)?, row.get(2)?);
        Ok((pages - moved).max(0).try_into().unwrap_or(u32::MAX))
    })
}

/// What isn't moved now is moved later; nothing is lost.
fn told<T>(moved: rusqlite::Result<T>) -> Option<T> {
    moved.inspect_err(|error| tracing::warn!(error = %error, "the write-ahead log could not be moved into the file; later again")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FEW: Bounds = Bounds { from: 50, left: 5, most: 200 };

    /// Commits until the log has begun anew so often; the most pages that it had.
    fn commit(path: &Path, checkpoints: &Checkpoints, times: usize) -> u32 {
        let connection = open(path).unwrap();
        connection.execute_batch("CREATE TABLE IF NOT EXISTS t (n INTEGER PRIMARY KEY, x TEXT)").unwrap();
        watch(&connection);
        let (mut most, mut before, mut begun) = (0, 0, 0);
        // One that is never moved grows for ever.
        while begun < times && most < 10 * FEW.most {
            connection.execute("INSERT INTO t (x) VALUES (?)", ["x".repeat(5_000)]).unwrap();
            let pages = PAGES.get();
            begun += usize::from(pages < before);
            (most, before) = (most.max(pages), pages);
            checkpoints.committed(&connection);
        }
        most
    }

    #[test]
    fn the_log_begins_anew_and_stays_within_its_bound_however_fast_the_commits_are() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("chat.db");
        let checkpoints = Checkpoints::within(FEW, path.clone());
        let most = commit(&path, &checkpoints, 20);
        assert!((FEW.from..FEW.most + 20).contains(&most), "{most}");
    }

    #[test]
    fn where_the_thread_is_gone_the_lane_moves_the_log() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("chat.db");
        let mut checkpoints = Checkpoints::within(FEW, path.clone());
        let (wake, thread) = checkpoints.thread.take().unwrap();
        drop(wake);
        thread.join().unwrap();
        let most = commit(&path, &checkpoints, 5);
        assert!((FEW.from..FEW.most).contains(&most), "{most}");
    }

    #[test]
    fn where_the_thread_finds_no_file_the_lane_moves_the_log() {
        let folder = tempfile::tempdir().unwrap();
        let checkpoints = Checkpoints::within(FEW, folder.path().join("gone").join("chat.db"));
        let most = commit(&folder.path().join("chat.db"), &checkpoints, 5);
        assert!((FEW.from..FEW.most + 20).contains(&most), "{most}");
    }
}
