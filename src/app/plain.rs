//! How a line's fields look: as the library writes them, but without its colors, for which it makes several calls of the formatter a field even
//! where they are off, and without anything that controls a terminal.

use std::error::Error;
use std::fmt::{self, Debug, Write};

use tracing::field::{Field, Visit};
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::Writer;

/// `message name=value name=value`; texts in quotes.
pub struct Plain;

impl<'writer> FormatFields<'writer> for Plain {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'writer>, fields: R) -> fmt::Result {
        let mut line = Fields { out: Escaped { writer, keeps_lines: false }, is_first: true, result: Ok(()) };
        fields.record(&mut line);
        line.result
    }
}

struct Fields<'writer> {
    out: Escaped<'writer>,
    is_first: bool,
    result: fmt::Result,
}

impl Fields<'_> {
    fn write(&mut self, field: &Field, value: impl FnOnce(&mut Escaped<'_>) -> fmt::Result) -> fmt::Result {
        // Of a record of the `log` crate, whose place the line has already.
        if field.name().starts_with("log.") {
            return Ok(());
        }
        if !std::mem::take(&mut self.is_first) {
            self.out.write_char(' ')?;
        }
        if field.name() != "message" {
            self.out.write_str(field.name())?;
            self.out.write_char('=')?;
        }
        // Lines stay lines in what is written to be read; what comes from elsewhere must not begin one.
        self.out.keeps_lines = matches!(field.name(), "message" | "backtrace");
        value(&mut self.out)
    }

    fn note(&mut self, field: &Field, value: impl FnOnce(&mut Escaped<'_>) -> fmt::Result) {
        if self.result.is_ok() {
            self.result = self.write(field, value);
        }
    }
}

impl Visit for Fields<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        let is_message = field.name() == "message";
        self.note(field, |out| if is_message { out.write_str(value) } else { write!(out, "{value:?}") });
    }

    fn record_error(&mut self, field: &Field, value: &(dyn Error + 'static)) {
        self.note(field, |out| {
            write!(out, "{value}")?;
            let mut sources = std::iter::successors(value.source(), |&error| error.source());
            sources.try_for_each(|source| write!(out, ": {source}"))
        });
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.note(field, |out| write!(out, "{value:?}"));
    }
}

/// Whoever shows the log on a terminal, now or later, must not have it controlled by what somebody has sent.
struct Escaped<'writer> {
    writer: Writer<'writer>,
    keeps_lines: bool,
}

impl Escaped<'_> {
    fn controls(&self, c: char) -> bool {
        c.is_control() && !(self.keeps_lines && matches!(c, '\n' | '\t'))
    }
}

impl Write for Escaped<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        // Nearly always there is none.
        if !text.chars().any(|c| self.controls(c)) {
            return self.writer.write_str(text);
        }
        text.chars().try_for_each(|c| self.write_char(c))
    }

    fn write_char(&mut self, c: char) -> fmt::Result {
        if self.controls(c) { write!(self.writer, "{}", c.escape_default()) } else { self.writer.write_char(c) }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use super::*;

    /// What a test's lines are written to.
    #[derive(Clone, Default)]
    pub struct Out(Arc<Mutex<Vec<u8>>>);

    impl Out {
        pub fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    impl io::Write for Out {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[derive(Debug, thiserror::Error)]
    #[error("it failed")]
    struct Failed(#[source] io::Error);

    /// What is said, with the fields written by this, or by the library.
    fn said(plain: bool, log: impl FnOnce()) -> String {
        let out = Out::default();
        let writer = out.clone();
        let lines = tracing_subscriber::fmt().without_time().with_ansi(false).with_writer(move || writer.clone());
        if plain {
            tracing::subscriber::with_default(lines.fmt_fields(Plain).finish(), log);
        } else {
            tracing::subscriber::with_default(lines.finish(), log);
        }
        out.text()
    }

    #[test]
    fn without_controls_lines_are_what_the_library_writes_without_colors() {
        let log = || {
            let failed = Failed(io::Error::other("the disk is full"));
            tracing::info!(text = "with \"quotes\"\n", number = 5, shown = %"/a/b", list = ?[1, 2], yes = true, duration_ms = 1.5, "a call");
            tracing::warn!(nothing = tracing::field::Empty, "no fields but {}", "this");
            tracing::error!(error = %failed);
        };
        let plain = said(true, log);
        assert_eq!(plain, said(false, log));
        assert!(plain.contains(r#"a call text="with \"quotes\"\n" number=5 shown=/a/b list=[1, 2] yes=true duration_ms=1.5"#), "{plain}");
    }

    #[test]
    fn what_controls_a_terminal_is_shown_and_not_done() {
        let text = said(true, || {
            let error: &(dyn Error + 'static) = &Failed(io::Error::other("\u{1b}[2J"));
            tracing::info!(shown = %"\u{1b}[31m\u{9b}\nINFO forged", error, "red\u{7}\ngreen");
        });
        assert_eq!(text.chars().filter(|c| c.is_control()).collect::<String>(), "\n\n", "of the message, and at the end: {text:?}");
        assert!(text.contains(r"green shown=\u{1b}[31m\u{9b}\nINFO forged error=it failed: \u{1b}[2J"), "{text}");
    }
}
