//! Moves the write-ahead log into the file while the lane goes on.
//!
//! Left to a commit, this holds up the lane, and everybody who sends, for as long as it takes. So a thread of its own does it, by a
//! connection of its own, pass after pass, each of what was committed during the one before. A log begins anew only where all of it is moved
//! when a commit begins: what came during the last pass is moved by the lane, between two commits, with the file's flush, which SQLite does only then.
//!
//! The log's file keeps its size when the log begins anew, and has it from the start ([`make_room`]): a commit that makes the file longer waits for
//! the file system to note its length, and takes twice the time.

use std::cell::Cell;
use std::fmt::Display;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rusqlite::{Connection, TransactionBehavior};

use super::beside;
use super::lane::open;

/// When the log is moved, by its pages.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    /// From so many it is moved. One that is written again and again before is moved once.
    from: u32,
    /// So few that came during a pass are left to the lane; and where it is four times as many by then, they go back to the thread.
    left: u32,
    /// At so many the lane waits for the thread, and moves what there is: the log doesn't grow for ever where commits are faster.
    most: u32,
}

/// 16 MiB, 800 KiB, 64 MiB.
const BOUNDS: Bounds = Bounds { from: 8_000, left: 400, most: 32_000 };
/// What the log's file has room for at the start: what it holds by the time that a log of [`BOUNDS`] is moved, under a usual load and with pages of
/// 2 KiB.
const ROOM_BYTES: u32 = 20 * 1024 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Work {
    None,
    /// The thread's.
    Moves,
    /// The lane's, for the thread has moved so many pages and can do no more.
    Rest(u32),
    /// The lane's, all of it: the thread is gone.
    Alone,
    /// The lane is gone.
    Over,
}

#[derive(Debug)]
struct Shared {
    work: Mutex<Work>,
    /// It is somebody else's.
    handed: Condvar,
    told_at: Mutex<Option<Instant>>,
}

/// How often it is told that the log can't be moved.
const TOLD_EVERY: Duration = Duration::from_secs(60);

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hand(&self, mut held: MutexGuard<'_, Work>, work: Work) {
        *held = work;
        self.handed.notify_all();
    }

    /// Waits while it is so.
    fn wait<'a>(&self, held: MutexGuard<'a, Work>, mut is_so: impl FnMut(Work) -> bool) -> MutexGuard<'a, Work> {
        self.handed.wait_while(held, |work| is_so(*work)).unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, error: &dyn Display) {
        let mut told_at = self.told_at.lock().unwrap_or_else(PoisonError::into_inner);
        if told_at.is_none_or(|at| at.elapsed() >= TOLD_EVERY) {
            *told_at = Some(Instant::now());
            tracing::warn!(error = %error, "the write-ahead log could not be moved into the file; later again");
        }
    }
}

/// The lane's end of it. The thread ends with it.
#[derive(Debug)]
pub(super) struct Checkpoints {
    bounds: Bounds,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
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

/// Makes the log's file as long as it usually gets, where it is shorter: by pages of a transaction that is undone, so they are in the log and
/// nowhere else, and what is committed is written over them. Nobody else may write meanwhile.
pub(super) fn make_room(path: &Path) -> rusqlite::Result<()> {
    let log = beside(path, "-wal");
    if fs::metadata(&log).is_ok_and(|log| log.len() >= u64::from(ROOM_BYTES)) {
        return Ok(());
    }
    let mut connection = open(path)?;
    // What is more is in the log before the transaction ends.
    connection.pragma_update(None, "cache_size", 16)?;
    let made = fill(&mut connection);
    if made.is_err() {
        // What a full disk has given is given back.
        drop(connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())));
        return made;
    }
    // Not left to the first commit. Where it fails, that one fails too, and says so.
    drop(File::open(&log).and_then(|log| log.sync_data()));
    Ok(())
}

fn fill(connection: &mut Connection) -> rusqlite::Result<()> {
    let undone = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    undone.execute_batch("CREATE TABLE room (bytes BLOB)")?;
    undone.execute("INSERT INTO room VALUES (zeroblob(?))", [ROOM_BYTES])?;
    undone.rollback()
}

impl Checkpoints {
    pub fn start(path: PathBuf) -> Self {
        Self::within(BOUNDS, path)
    }

    fn within(bounds: Bounds, path: PathBuf) -> Self {
        let shared = Arc::new(Shared { work: Mutex::new(Work::None), handed: Condvar::new(), told_at: Mutex::new(None) });
        let run = {
            let shared = Arc::clone(&shared);
            move || run(&path, bounds, &shared)
        };
        let thread = std::thread::Builder::new().name("checkpoint".to_owned()).spawn(run).expect("moving the log needs a thread");
        Self { bounds, shared, thread: Some(thread) }
    }

    /// Between two transactions of a watched connection on this thread.
    pub fn proceed(&self, connection: &Connection) {
        let pages = PAGES.take();
        if pages < self.bounds.from {
            return;
        }
        let mut work = self.shared.lock();
        if pages >= self.bounds.most {
            work = self.shared.wait(work, |work| work == Work::Moves);
        }
        match *work {
            Work::Moves | Work::Over => {}
            Work::Rest(moved) if pages.saturating_sub(moved) <= 4 * self.bounds.left || pages >= self.bounds.most => {
                *work = Work::None;
                drop(work);
                self.move_rest(connection);
            }
            Work::Alone => {
                drop(work);
                self.move_rest(connection);
            }
            Work::None | Work::Rest(_) => self.shared.hand(work, Work::Moves),
        }
    }

    fn move_rest(&self, connection: &Connection) {
        match pass(connection) {
            Ok(pass) if pass.moved < pass.pages && pass.pages >= self.bounds.most => self.shared.tell(&HELD),
            Ok(_) => {}
            Err(error) => self.shared.tell(&error),
        }
    }
}

impl Drop for Checkpoints {
    fn drop(&mut self) {
        self.shared.hand(self.shared.lock(), Work::Over);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// However the thread ends, the lane doesn't wait for it.
struct Running<'a>(&'a Shared);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.hand(self.0.lock(), Work::Alone);
    }
}

fn run(path: &Path, bounds: Bounds, shared: &Shared) {
    let _running = Running(shared);
    let mut connection = None;
    while *shared.wait(shared.lock(), |work| !matches!(work, Work::Moves | Work::Over)) == Work::Moves {
        let moved = match &connection {
            Some(connection) => move_most(connection, bounds),
            None => open(path).and_then(|opened| move_most(connection.insert(opened), bounds)),
        };
        // What isn't moved now is moved later; nothing is lost.
        let moved = moved.unwrap_or_else(|error| {
            shared.tell(&error);
            connection = None;
            u32::MAX
        });
        let work = shared.lock();
        if *work == Work::Moves {
            shared.hand(work, Work::Rest(moved));
        }
    }
}

/// Passes until few pages come during one, or no less than half of what came during the one before. How many pages are moved.
fn move_most(connection: &Connection, bounds: Bounds) -> rusqlite::Result<u32> {
    let mut last = pass(connection)?;
    let mut before = u32::MAX;
    loop {
        let next = pass(connection)?;
        let came = next.pages.saturating_sub(last.moved);
        if came <= bounds.left || came >= before / 2 {
            return Ok(next.moved);
        }
        (last, before) = (next, came);
    }
}

/// Why a log isn't moved whole: what moves it makes nobody wait.
const HELD: &str = "another program moves it, or somebody reads at an old state";

#[derive(Clone, Copy)]
struct Pass {
    /// In the log when it began, and how many of them are in the file.
    pages: u32,
    moved: u32,
}

/// Moves what can be moved without making anybody wait.
fn pass(connection: &Connection) -> rusqlite::Result<Pass> {
    // Where another program moves it there are no numbers: -1.
    connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| {
        let (pages, moved): (i64, i64) = (row.get(1)?, row.get(2)?);
        let pages_of = |count: i64, else_: u32| u32::try_from(count).unwrap_or(else_);
        Ok(Pass { pages: pages_of(pages, u32::MAX), moved: pages_of(moved, 0) })
    })
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
            checkpoints.proceed(&connection);
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
    fn the_log_has_its_room_from_the_start_and_the_file_has_nothing_of_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("chat.db");
        let connection = open(&path).unwrap();
        connection.execute_batch("CREATE TABLE t (x TEXT)").unwrap();
        let length = || fs::metadata(beside(&path, "-wal")).unwrap().len();
        make_room(&path).unwrap();
        let made = length();
        assert!(made >= u64::from(ROOM_BYTES), "{made}");
        for _ in 0..100 {
            connection.execute("INSERT INTO t (x) VALUES (?)", ["x".repeat(5_000)]).unwrap();
        }
        make_room(&path).unwrap();
        assert_eq!(length(), made, "commits are written over it, and it is made once");
        let (pages, tables): (u32, u32) = connection
            .query_row("SELECT (SELECT page_count FROM pragma_page_count), (SELECT count(*) FROM sqlite_master)", [], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })
            .unwrap();
        assert!(pages < 400 && tables == 1, "{pages} pages, {tables} tables");
        assert_eq!(connection.query_row("PRAGMA integrity_check", [], |row| row.get::<_, String>(0)).unwrap(), "ok");
    }

    #[test]
    fn where_the_thread_is_gone_the_lane_moves_the_log() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("chat.db");
        let mut checkpoints = Checkpoints::within(FEW, path.clone());
        checkpoints.shared.hand(checkpoints.shared.lock(), Work::Over);
        checkpoints.thread.take().unwrap().join().unwrap();
        assert_eq!(*checkpoints.shared.lock(), Work::Alone);
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
