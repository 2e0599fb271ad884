//! Logs: lines on stderr, as text or JSON.

use tracing_subscriber::EnvFilter;

use crate::config::{LogArgs, LogFormat};

/// Starts logging; the first call of the process counts.
pub fn start(args: &LogArgs) -> Result<(), LogError> {
    let filter = EnvFilter::try_new(&args.log).map_err(|error| LogError(error.to_string()))?;
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    drop(match args.log_format {
        LogFormat::Text => lines.try_init(),
        LogFormat::Json => lines.json().flatten_event(true).try_init(),
    });
    Ok(())
}

#[derive(Debug, thiserror::Error)]
#[error("RUST_LOG is not a filter: {0}; try `info`")]
pub struct LogError(String);
