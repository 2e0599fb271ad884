//! Logs: lines on stderr, as text or JSON.

use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, fmt};

use crate::config::{LogArgs, LogFormat};

/// Starts logging; the first call of the process counts.
pub fn start(args: &LogArgs) -> Result<(), LogError> {
    let filter = EnvFilter::try_new(&args.log).map_err(|error| LogError(error.to_string()))?;
    let chosen = tracing_subscriber::registry().with(filter).with(caps());
    let lines = fmt::layer().with_writer(std::io::stderr);
    drop(match args.log_format {
        LogFormat::Text => chosen.with(lines).try_init(),
        LogFormat::Json => chosen.with(lines.json().flatten_event(true)).try_init(),
    });
    Ok(())
}

/// What is never logged, whatever RUST_LOG asks for. Below INFO, libraries tell of what passes through them: statements, TLS
/// session tickets, in some version perhaps headers and buffers. This service's own lines are known to hold neither tokens nor
/// texts; a library's aren't, so a new one is capped without being named here.
fn caps() -> Targets {
    Targets::new()
        .with_default(LevelFilter::INFO)
        .with_target("chat_service", LevelFilter::TRACE)
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
