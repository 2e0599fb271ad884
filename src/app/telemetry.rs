//! Logs: lines on stderr, as text or JSON. And spans, where traces are exported.

use std::io::{IsTerminal, stderr};
use std::time::SystemTime;

use chrono::{DateTime, SecondsFormat, Utc};
use tracing::Subscriber;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{FilterExt, LevelFilter, Targets};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry, fmt};

use super::json::Json;
use super::lines;
use super::plain::Plain;
use super::traces::Traces;
use crate::config::{LogArgs, LogFormat};
use crate::observe::trace;

/// The time of a line, as the library writes it, but without calls of the formatter for each part of it.
pub(super) fn now() -> String {
    // Not chrono's own reading of the clock, which panics where that is before 1970.
    DateTime::<Utc>::from(SystemTime::now()).to_rfc3339_opts(SecondsFormat::Micros, true)
}

struct Now;

impl FormatTime for Now {
    fn format_time(&self, writer: &mut Writer<'_>) -> std::fmt::Result {
        writer.write_str(&now())
    }
}

/// Lines as they are asked for. In colors on a terminal alone, unless NO_COLOR is set.
fn lines<S: Subscriber + for<'a> LookupSpan<'a>>(format: LogFormat) -> Box<dyn Layer<S> + Send + Sync> {
    let lines = fmt::layer().with_writer(lines::start());
    let in_colors = stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|set| set.is_empty());
    match format {
        LogFormat::Json => Box::new(lines.event_format(Json)),
        LogFormat::Text => Box::new(lines.with_ansi(in_colors).with_timer(Now).fmt_fields(Plain)),
    }
}

/// Starts logging, and making spans where there are `traces`; the first call of the process counts.
pub fn start(args: &LogArgs, traces: Option<&Traces>) -> Result<(), LogError> {
    let filter = EnvFilter::try_new(&args.log).map_err(|error| LogError(error.to_string()))?;
    let Some(traces) = traces else {
        drop(tracing_subscriber::registry().with(filter).with(caps()).with(lines(args.log_format)).try_init());
        return Ok(());
    };
    // What is logged and what is traced are two choices: neither may hide something from the other.
    let (spans, chosen) = (tracing_subscriber::registry().with(traces.layer::<Registry>()), filter.and(caps()));
    let started = spans.with(lines(args.log_format).with_filter(chosen)).try_init();
    if started.is_ok() {
        trace::switch_on();
    }
    Ok(())
}

/// What is never logged, whatever RUST_LOG asks for. Below INFO, libraries tell of what passes through them: statements, TLS
/// session tickets, in some version perhaps headers and buffers. This service's own lines are known to hold neither tokens nor
/// texts; a library's aren't, so a new one is capped without being named here.
fn caps() -> Targets {
    Targets::new()
        .with_default(LevelFilter::INFO)
        .with_target("chat_service", LevelFilter::TRACE)
        // They are for traces.
        .with_target(trace::TARGET, LevelFilter::OFF)
        // It warns of a parameter of the database's URL that it doesn't know, and shows its value, which may be a password.
        // `repository::postgres` warns in its place.
        .with_target("sqlx_postgres::options::parse", LevelFilter::OFF)
}

#[derive(Debug, thiserror::Error)]
#[error("RUST_LOG is not a filter: {0}; try `info`")]
pub struct LogError(String);

#[cfg(test)]
mod tests {
    use super::*;
    use tracing::Level;

    #[test]
    fn libraries_are_capped_and_the_service_is_not() {
        let caps = caps();
        for (target, level, may) in [
            ("chat_service::rpc", Level::TRACE, true),
            (trace::TARGET, Level::ERROR, false),
            ("h2::codec", Level::DEBUG, false),
            ("rustls::conn", Level::TRACE, false),
            ("sqlx::query", Level::DEBUG, false),
            ("a_library_of_tomorrow", Level::DEBUG, false),
            ("rustls::common_state", Level::WARN, true),
            ("sqlx_postgres::options::parse", Level::ERROR, false),
        ] {
            assert_eq!(caps.would_enable(target, &level), may, "{target} {level}");
        }
    }
}
