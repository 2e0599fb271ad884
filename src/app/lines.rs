//! Where log lines go: to stderr, each at once while they are few. Under load a call of the kernel for each is a good part of a call's cost: then
//! those of a hundredth of a second go together. The thread that writes them is not woken for a few: that costs more than their calls. Warnings and
//! errors take what is held along and never wait.

use std::io::{self, Write};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use tracing::{Level, Metadata};
use tracing_subscriber::fmt::MakeWriter;

/// How long a line may be held.
const HELD_MAX: Duration = Duration::from_millis(10);
/// So many lines, in as long as one may be held, are few.
const FEW: usize = 8;
/// How much is held.
const HELD_BYTES_MAX: usize = 64 * 1024;
/// How often a thread that panics tries to have the lock, which it may hold itself; between two tries others get their turn.
const PANIC_TRIES: usize = 1_000;

/// The process's.
static LINES: Lines<io::Stderr> = Lines::new(io::stderr);

/// Starts the thread that writes what is held. Without it every line is written at once.
pub fn start() -> &'static Lines<io::Stderr> {
    let writing = std::thread::Builder::new().name("log".to_owned()).spawn(|| LINES.write_in_time());
    LINES.lock().may_hold = writing.is_ok();
    &LINES
}

/// Writes what is held: before the process ends, and where a panic may end it.
pub fn flush() {
    if let Some(mut held) = LINES.lock_unless_held_here() {
        LINES.write(&mut held);
    }
}

pub struct Lines<W> {
    out: fn() -> W,
    held: Mutex<Held>,
    filled: Condvar,
}

struct Held {
    lines: Vec<u8>,
    /// Since when `written` are counted; `None`: no line has come.
    since: Option<Instant>,
    /// Lines that were written at once since then, or [`FEW`], where they were more.
    written: usize,
    /// Whether somebody writes in time what is held.
    may_hold: bool,
}

impl Held {
    fn count_from(&mut self, now: Instant, written: usize) {
        (self.since, self.written) = (Some(now), written);
    }
}

impl<W> Lines<W> {
    const fn new(out: fn() -> W) -> Self {
        Self { out, held: Mutex::new(Held { lines: Vec::new(), since: None, written: 0, may_hold: false }), filled: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A thread that panics tells of it while it holds whatever it holds, and perhaps this lock: then `None`, as where somebody else
    /// holds it for long.
    fn lock_unless_held_here(&self) -> Option<MutexGuard<'_, Held>> {
        if !std::thread::panicking() {
            return Some(self.lock());
        }
        for _ in 0..PANIC_TRIES {
            match self.held.try_lock() {
                Ok(held) => return Some(held),
                Err(TryLockError::Poisoned(held)) => return Some(held.into_inner()),
                Err(TryLockError::WouldBlock) => std::thread::yield_now(),
            }
        }
        None
    }
}

impl<W: Write> Lines<W> {
    fn add(&self, line: &[u8], now: Instant, at_once: bool) {
        let Some(mut held) = self.lock_unless_held_here() else {
            // Out of its order, and not lost.
            drop((self.out)().write_all(line));
            return;
        };
        let was_empty = held.lines.is_empty();
        held.lines.extend_from_slice(line);
        if held.since.is_none_or(|since| now.saturating_duration_since(since) >= HELD_MAX) {
            held.count_from(now, 0);
        }
        let few = was_empty && held.written < FEW;
        if at_once || few || !held.may_hold || held.lines.len() >= HELD_BYTES_MAX {
            held.written += 1;
            self.write(&mut held);
        } else if was_empty {
            self.filled.notify_one();
        }
    }

    fn write_in_time(&self) -> ! {
        loop {
            let filled = self.filled.wait_while(self.lock(), |held| held.lines.is_empty()).unwrap_or_else(PoisonError::into_inner);
            // More come meanwhile.
            let (mut held, _) = self.filled.wait_timeout(filled, HELD_MAX).unwrap_or_else(PoisonError::into_inner);
            held.count_from(Instant::now(), FEW);
            self.write(&mut held);
        }
    }

    /// Whoever reads stderr may have gone: then lines go nowhere, and the service goes on.
    fn write(&self, held: &mut Held) {
        drop((self.out)().write_all(&held.lines));
        held.lines.clear();
    }
}

/// Takes one line.
pub struct Line<W: 'static> {
    lines: &'static Lines<W>,
    at_once: bool,
}

impl<W: Write> Write for Line<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.lines.add(line, Instant::now(), self.at_once);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<W: Write> MakeWriter<'_> for &'static Lines<W> {
    type Writer = Line<W>;

    fn make_writer(&self) -> Line<W> {
        Line { lines: self, at_once: false }
    }

    fn make_writer_for(&self, meta: &Metadata<'_>) -> Line<W> {
        Line { lines: self, at_once: *meta.level() <= Level::WARN }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    thread_local! {
        static WRITTEN: std::cell::RefCell<Vec<String>> = const { std::cell::RefCell::new(Vec::new()) };
    }

    struct Out;

    impl Write for Out {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            WRITTEN.with_borrow_mut(|written| written.push(String::from_utf8(bytes.to_vec()).unwrap()));
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn written() -> Vec<String> {
        WRITTEN.take()
    }

    #[test]
    fn few_lines_are_written_at_once_many_together_and_warnings_never_wait() {
        let lines = Lines::new(|| Out);
        let began = Instant::now();
        lines.add(b"no writer yet\n", began, false);
        lines.add(b"so none is held\n", began, false);
        assert_eq!(written().len(), 2);
        lines.lock().may_hold = true;
        let now = began + HELD_MAX;
        (0..FEW).for_each(|_| lines.add(b"one of few\n", now, false));
        assert_eq!(written(), ["one of few\n"; FEW]);
        lines.add(b"second\n", now, false);
        lines.add(b"third\n", now + HELD_MAX / 2, false);
        assert!(written().is_empty());
        lines.add(b"warning\n", now + HELD_MAX / 2, true);
        assert_eq!(written(), ["second\nthird\nwarning\n"], "in order");
        let line = [b'x'; 1024];
        (0..HELD_BYTES_MAX / line.len() * 2).for_each(|_| lines.add(&line, now + HELD_MAX, false));
        assert!(written().iter().all(|written| written.len() <= HELD_BYTES_MAX), "what is held is bounded");
    }

    #[test]
    fn a_thread_that_panics_while_lines_are_written_can_tell_of_it() {
        /// Writes a line when it goes, as the panic hook does before.
        struct Tells<'a>(&'a Lines<Out>);

        impl Drop for Tells<'_> {
            fn drop(&mut self) {
                self.0.add(b"of the panic\n", Instant::now(), true);
            }
        }

        let lines = Lines::new(|| Out);
        let panics = || {
            let _held = lines.lock();
            let _tells = Tells(&lines);
            panic!("a defect, on purpose");
        };
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(panics)).unwrap_err();
        assert_eq!(written(), ["of the panic\n"]);
        lines.add(b"behind it\n", Instant::now(), true);
        assert_eq!(written(), ["behind it\n"]);
    }
}
