//! What a panic leaves, wherever it happens: a line in the log, as any other fault, and its count.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::panic::PanicHookInfo;

use super::lines;
use crate::observe::metrics;
use crate::observe::request::{self, Ids};

/// Bytes of a panic's text that its line holds.
const TEXT_BYTES_MAX: usize = 1024;

/// In place of a text that is not the code's own.
const MAY_QUOTE: &str = "a text that may quote data; RUST_BACKTRACE=1 shows it";

/// From now on the whole process's panics are told so. For the server: whoever types a command reads Rust's own words.
pub fn install() {
    std::panic::set_hook(Box::new(tell));
}

/// Runs on the thread that panics, in the midst of what it does. A panic in here would end the process, and waiting for a lock that
/// the thread holds would stop it: so nothing is done but to count and to log, and [`lines`] waits for nothing here.
fn tell(panic: &PanicHookInfo<'_>) {
    metrics::PANICS.one();
    let thread = std::thread::current();
    // Only where RUST_BACKTRACE asks for it.
    let backtrace = Backtrace::capture();
    let backtrace = (backtrace.status() == BacktraceStatus::Captured).then(|| backtrace.to_string());
    let text = match panic.payload_as_str() {
        None => "not a text",
        // What was put together may quote what it was about, a message's text among it: only for whoever looks for the defect.
        Some(_) if backtrace.is_none() && !panic.payload().is::<&'static str>() => MAY_QUOTE,
        Some(text) => text,
    };
    let text = &text[..text.floor_char_boundary(TEXT_BYTES_MAX)];
    let Ids { request_id, trace_id } = request::served().unwrap_or_default();
    tracing::error!(
        error = text,
        location = panic.location().map(tracing::field::display),
        thread = thread.name().unwrap_or_default(),
        %request_id,
        %trace_id,
        backtrace,
        "a panic"
    );
    // Also where RUST_LOG lets no line through.
    lines::flush();
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use http::{HeaderMap, HeaderName};
    use serde_json::Value;

    use super::*;
    use crate::app::telemetry;
    use crate::config::{LogArgs, LogFormat};
    use crate::observe::request::{REQUEST_ID, RequestContext};
    use crate::observe::text::Text;

    /// Set for a process that is to panic. A hook is its whole process's, and this one runs other tests.
    const ALONE: &str = "TEST_PANICS_ALONE";
    const NAME: &str = "app::panics::tests::a_panic_leaves_one_line_and_its_count";

    fn panic_alone() {
        telemetry::start(&LogArgs { log: "info".into(), log_format: LogFormat::Json }, None).unwrap();
        install();
        for _ in 0..3 {
            tracing::info!("before");
        }
        let named = std::thread::Builder::new().name("of the test".into());
        named.spawn(|| panic!("first line\nsecond line {}", "é".repeat(TEXT_BYTES_MAX))).unwrap().join().unwrap_err();
        std::thread::spawn(|| panic!("of the code alone")).join().unwrap_err();
        let headers = HeaderMap::from_iter([(HeaderName::from_static(REQUEST_ID), "of-the-request".parse().unwrap())]);
        let panics = || std::panic::catch_unwind(|| std::panic::panic_any(7));
        RequestContext::of(&headers, None).begin(panics).unwrap_err();
        let mut text = Text::default();
        metrics::render(&mut text);
        assert!(text.into_string().contains("chat_panics_total 3\n"));
    }

    #[test]
    fn a_panic_leaves_one_line_and_its_count() {
        if std::env::var_os(ALONE).is_some() {
            return panic_alone();
        }
        for backtraces in ["0", "1"] {
            let mut alone = Command::new(std::env::current_exe().unwrap());
            alone.args(["--exact", NAME]).env(ALONE, "1").env("RUST_BACKTRACE", backtraces).env_remove("RUST_LIB_BACKTRACE");
            let output = alone.output().unwrap();
            let said = String::from_utf8(output.stderr).unwrap();
            assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stdout));
            let lines: Vec<Value> = said.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
            let messages: Vec<&str> = lines.iter().filter_map(|line| line["message"].as_str()).collect();
            assert_eq!(messages, ["before", "before", "before", "a panic", "a panic", "a panic"], "what was held is there, and in order");
            let (first, second, third) = (&lines[3], &lines[4], &lines[5]);
            assert_eq!((&first["level"], &first["thread"]), (&"ERROR".into(), &"of the test".into()));
            let text = first["error"].as_str().unwrap();
            if backtraces == "1" {
                assert!(text.starts_with("first line\nsecond line é") && text.len() <= TEXT_BYTES_MAX);
            } else {
                assert_eq!(text, MAY_QUOTE, "nobody asked for what it quotes");
            }
            assert_eq!(second["error"], "of the code alone");
            assert!(first["location"].as_str().unwrap().starts_with("src/app/panics.rs:"));
            assert_eq!(first["backtrace"].is_string(), backtraces == "1");
            assert_eq!((&third["error"], &third["request_id"]), (&"not a text".into(), &"of-the-request".into()));
        }
    }
}
