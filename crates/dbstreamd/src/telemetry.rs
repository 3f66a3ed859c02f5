//! The daemon's own log lines, on stderr: text for people, or JSON for machines.
//!
//! Which lines is said by `DBSTREAMD_LOG`, else by `logging.filter`, else `info`, and can be changed while the process
//! runs. No line carries a secret: passwords
//! are a type that cannot be printed.

use std::io::IsTerminal;
use std::sync::OnceLock;

use parking_lot::Mutex;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::config::{Format, LoggingConfig};

/// The variable that is asked first.
const FILTER_VARIABLE: &str = "DBSTREAMD_LOG";

/// Changes the filter of this process's log lines.
struct Lines {
    filter: Mutex<String>,
    reload: Box<dyn Fn(EnvFilter) -> Result<(), String> + Send + Sync>,
}

/// A process has one set of log lines.
static LINES: OnceLock<Lines> = OnceLock::new();

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
    let parsed = EnvFilter::try_new(&filter).map_err(|error| TelemetryError::Filter {
        from,
        filter: filter.clone(),
        problem: error.to_string(),
    })?;
    let builder = tracing_subscriber::fmt().with_env_filter(parsed).with_writer(std::io::stderr);
    let taken = |error: tracing_subscriber::util::TryInitError| TelemetryError::Taken(error.to_string());
    let reload: Box<dyn Fn(EnvFilter) -> Result<(), String> + Send + Sync> = match config.format {
        Format::Json => {
            let builder = builder.json().flatten_event(true).with_filter_reloading();
            let handle = builder.reload_handle();
            builder.finish().try_init().map_err(taken)?;
            Box::new(move |filter| handle.reload(filter).map_err(|error| error.to_string()))
        }
        Format::Text => {
            let builder = builder.with_ansi(std::io::stderr().is_terminal()).with_filter_reloading();
            let handle = builder.reload_handle();
            builder.finish().try_init().map_err(taken)?;
            Box::new(move |filter| handle.reload(filter).map_err(|error| error.to_string()))
        }
    };
    // Only the first one gets here: setting up twice was refused above.
    LINES.get_or_init(|| Lines { filter: Mutex::new(filter), reload });
    Ok(())
}

/// The filter in force; empty when this process has no log lines.
pub(crate) fn filter() -> String {
    LINES.get().map(|lines| lines.filter.lock().clone()).unwrap_or_default()
}

/// Fails when this is no filter, saying why.
pub(crate) fn check_filter(filter: &str) -> Result<(), String> {
    if filter.trim().is_empty() {
        return Err("is empty".to_owned());
    }
    EnvFilter::try_new(filter).map(drop).map_err(|error| error.to_string())
}

/// Changes which lines are written, from now on.
pub(crate) fn set_filter(filter: &str) -> Result<(), String> {
    let lines = LINES.get().ok_or("this process has no log lines")?;
    let parsed = EnvFilter::try_new(filter).map_err(|error| error.to_string())?;
    let mut current = lines.filter.lock();
    (lines.reload)(parsed)?;
    filter.clone_into(&mut current);
    Ok(())
}
