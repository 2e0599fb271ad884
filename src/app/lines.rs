//! Where log lines go: to stderr, each at once while they are few. Under load a call of the kernel for each is a good part of a call's cost: then
//! those of a hundredth of a second go together. Warnings and errors take what is held along and never wait.

use std::io::{self, Write};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tracing::{Level, Metadata};
use tracing_subscriber::fmt::MakeWriter;

/// How long a line may be held.
const HELD_MAX: Duration = Duration::from_millis(10);
/// How much is held.
const HELD_BYTES_MAX: usize = 64 * 1024;

/// The process's.
static LINES: Lines<io::Stderr> = Lines::new(io::stderr);

/// Starts the thread that writes what is held. Without it every line is written at once.
pub fn start() -> &'static Lines<io::Stderr> {
    let writing = std::thread::Builder::new().name("log".to_owned()).spawn(|| LINES.write_in_time());
    LINES.lock().may_hold = writing.is_ok();
    &LINES
}

/// Writes what is held: before the process ends.
pub fn flush() {
    LINES.lock().write();
}

pub struct Lines<W> {
    held: Mutex<Held<W>>,
    filled: Condvar,
}

struct Held<W> {
    out: fn() -> W,
    lines: Vec<u8>,
    written_at: Option<Instant>,
    /// Whether somebody writes in time what is held.
    may_hold: bool,
}

impl<W> Lines<W> {
    const fn new(out: fn() -> W) -> Self {
        Self { held: Mutex::new(Held { out, lines: Vec::new(), written_at: None, may_hold: false }), filled: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Held<W>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<W: Write> Lines<W> {
    fn add(&self, line: &[u8], now: Instant, at_once: bool) {
        let mut held = self.lock();
        let was_empty = held.lines.is_empty();
        held.lines.extend_from_slice(line);
        let lately = held.written_at.is_some_and(|at| now.saturating_duration_since(at) < HELD_MAX);
        if at_once || !lately && was_empty || !held.may_hold || held.lines.len() >= HELD_BYTES_MAX {
            held.written_at = Some(now);
            held.write();
        } else if was_empty {
            self.filled.notify_one();
        }
    }

    fn write_in_time(&self) -> ! {
        loop {
            let filled = self.filled.wait_while(self.lock(), |held| held.lines.is_empty()).unwrap_or_else(PoisonError::into_inner);
            // More come meanwhile.
            let (mut held, _) = self.filled.wait_timeout(filled, HELD_MAX).unwrap_or_else(PoisonError::into_inner);
            held.written_at = Some(Instant::now());
            held.write();
        }
    }
}

impl<W: Write> Held<W> {
    /// Whoever reads stderr may have gone: then lines go nowhere, and the service goes on.
    fn write(&mut self) {
        drop((self.out)().write_all(&self.lines));
        self.lines.clear();
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
        lines.add(b"first\n", now, false);
        assert_eq!(written(), ["first\n"]);
        lines.add(b"second\n", now, false);
        lines.add(b"third\n", now + HELD_MAX / 2, false);
        assert!(written().is_empty());
        lines.add(b"warning\n", now + HELD_MAX / 2, true);
        assert_eq!(written(), ["second\nthird\nwarning\n"], "in order");
        let line = [b'x'; 1024];
        (0..HELD_BYTES_MAX / line.len() * 2).for_each(|_| lines.add(&line, now + HELD_MAX, false));
        assert!(written().iter().all(|written| written.len() <= HELD_BYTES_MAX), "what is held is bounded");
    }
}
