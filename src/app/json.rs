//! A line as a JSON object, as the library writes it, but put together in one piece: the library passes each quote and each comma on through
//! three writers, by which a call's line was a seventh of its instructions.

use std::fmt::{self, Debug, Write};

use serde::Serialize;
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_log::NormalizeEvent;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use super::telemetry::now;

/// `{"timestamp":…,"level":…,` the event's fields `,"target":…}`.
pub struct Json;

/// Room for a call's line.
const LINE_BYTES: usize = 512;

impl<S, N> FormatEvent<S, N> for Json
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        // What comes through the `log` crate has its level and target among its fields.
        let normalized = event.normalized_metadata();
        let metadata = normalized.as_ref().unwrap_or_else(|| event.metadata());
        let mut line = Line { bytes: Vec::with_capacity(LINE_BYTES), shown: String::new() };
        line.bytes.push(b'{');
        line.put("timestamp", &now());
        line.put("level", metadata.level().as_str());
        event.record(&mut line);
        line.put("target", metadata.target());
        line.bytes.extend_from_slice(b"}\n");
        writer.write_str(str::from_utf8(&line.bytes).map_err(|_| fmt::Error)?)
    }
}

struct Line {
    bytes: Vec<u8>,
    /// What is written to be read, before it is quoted.
    shown: String,
}

impl Line {
    fn put<T: Serialize + ?Sized>(&mut self, name: &str, value: &T) {
        if self.bytes.len() > 1 {
            self.bytes.push(b',');
        }
        // Into memory nothing fails, and these values are ones that JSON has.
        drop(serde_json::to_writer(&mut self.bytes, name));
        self.bytes.push(b':');
        drop(serde_json::to_writer(&mut self.bytes, value));
    }
}

impl Visit for Line {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field.name(), &value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field.name(), &value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field.name(), &value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field.name(), &value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field.name(), value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let mut shown = std::mem::take(&mut self.shown);
        shown.clear();
        // Into memory: what fails is the value, which is then shown as far as it came.
        write!(shown, "{value:?}").ok();
        self.put(field.name(), &shown);
        self.shown = shown;
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use serde_json::Value;
    use tracing_log::log::{self, Record};

    use super::*;
    use crate::app::plain::tests::Out;

    /// What is said, as this writes it or the library.
    fn said(own: bool, log: impl FnOnce()) -> String {
        let out = Out::default();
        let writer = out.clone();
        let lines = tracing_subscriber::fmt().with_writer(move || writer.clone());
        if own {
            tracing::subscriber::with_default(lines.event_format(Json).finish(), log);
        } else {
            tracing::subscriber::with_default(lines.json().flatten_event(true).finish(), log);
        }
        out.text()
    }

    #[test]
    fn lines_are_what_the_library_writes_but_for_their_time() {
        let log = || {
            let error = io::Error::other("the \"disk\"\nis full");
            let error: &(dyn std::error::Error + 'static) = &error;
            tracing::info!(text = "with \"quotes\"\n\u{1b}", number = 5, below = -5_i64, yes = true, duration_ms = 1.5, "a call");
            tracing::warn!(shown = %"/a\\b", list = ?["x"], error, nothing = tracing::field::Empty, "no fields but {}", "this");
            tracing::error!(nan = f64::NAN, large = u128::MAX, bytes = &b"\x00x"[..], r#type = "raw");
            let record = Record::builder().args(format_args!("of a library")).level(log::Level::Warn).target("lib").line(Some(5)).build();
            tracing_log::format_trace(&record).unwrap();
        };
        let without_time = |text: String| -> Vec<String> {
            let cut = |line: &str| {
                let line_of: Value = serde_json::from_str(line).unwrap();
                line.replace(line_of["timestamp"].as_str().unwrap(), "")
            };
            text.lines().map(cut).collect()
        };
        let own = without_time(said(true, log));
        assert_eq!(own, without_time(said(false, log)));
        assert_eq!(own.len(), 4);
        assert!(own[3].contains(r#""log.line":5"#) && own[3].ends_with(r#""target":"lib"}"#), "{}", own[3]);
    }

    #[test]
    fn a_line_has_its_time_to_the_microsecond_in_utc() {
        let line: Value = serde_json::from_str(&said(true, || tracing::info!("now"))).unwrap();
        let time = line["timestamp"].as_str().unwrap();
        let shape: String = time.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
        assert_eq!(shape, "0000-00-00T00:00:00.000000Z");
        let told = chrono::DateTime::parse_from_rfc3339(time).unwrap();
        assert!((chrono::Utc::now() - told.to_utc()).num_minutes().abs() < 5, "{time}");
    }
}
