//! The daemon's own log lines, on stderr: text for people, or JSON for machines.
//!
//! Which lines is said by `DBSTREAMD_LOG`, else by `logging.filter`, else `info`. No line carries a secret: passwords
//! are a type that cannot be printed.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::config::{Format, LoggingConfig};

/// The variable that is asked first.
const FILTER_VARIABLE: &str = "DBSTREAMD_LOG";

/// Log lines cannot be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TelemetryError {
    /// The filter cannot be parsed.
    #[error(
        "{from}: {filter:?} is not a log filter ({problem}): expected a level such as info, or info,dbstreamd_source=debug"
    )]
    Filter {
        /// Where it came from.
        from: &'static str,
        /// The filter.
        filter: String,
        /// What the parser said.
        problem: String,
    },
    /// Somebody else set up log lines in this process.
    #[error("log lines are set up already: {0}")]
    Taken(String),
}

/// Sets up log lines for this process. Call once.
///
/// # Errors
/// When the filter is wrong, or log lines are set up already.
pub fn init(config: &LoggingConfig) -> Result<(), TelemetryError> {
    let variable = std::env::var(FILTER_VARIABLE).ok().filter(|filter| !filter.is_empty());
    let (from, filter) = match (variable, &config.filter) {
        (Some(filter), _) => (FILTER_VARIABLE, filter),
        (None, Some(filter)) => ("logging.filter", filter.clone()),
        (None, None) => ("default", "info".to_owned()),
    };
    let filter = EnvFilter::try_new(&filter).map_err(|error| TelemetryError::Filter {
        from,
        filter,
        problem: error.to_string(),
    })?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let taken = |error: tracing_subscriber::util::TryInitError| TelemetryError::Taken(error.to_string());
    match config.format {
        Format::Json => builder.json().flatten_event(true).finish().try_init().map_err(taken),
        Format::Text => builder.with_ansi(std::io::stderr().is_terminal()).finish().try_init().map_err(taken),
    }
}
