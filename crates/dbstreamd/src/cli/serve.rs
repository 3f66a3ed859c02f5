//! `dbstreamd serve`: the daemon, until a signal ends it.

use dbstreamd_log::Failpoint;
use tokio_util::sync::CancellationToken;

use super::signals::Received;
use super::{CliError, ServeArguments, Signals, note};
use crate::config::{Config, Overrides};
use crate::serve::ServeError;

/// Names a place in the code where the process dies.
const FAILPOINT: &str = "DBSTREAMD_FAILPOINT";

/// The configuration to serve with.
pub(super) fn configure(arguments: ServeArguments) -> Result<Config, CliError> {
    let ServeArguments { sources, data_dir, grpc, http } = arguments;
    sources.load_with_source(Overrides { data_dir, grpc, http, ..Overrides::default() })
}

pub(super) async fn run(config: Config) -> Result<(), CliError> {
    crate::telemetry::init(&config.logging).map_err(|error| CliError::failed(&error))?;
    arm_failpoint()?;
    let mut signals = Signals::listen()?;
    let shutdown = CancellationToken::new();
    let serving = crate::serve::run(config, shutdown.clone());
    tokio::pin!(serving);
    let received = tokio::select! {
        ended = &mut serving => return ended.map_err(failed),
        received = signals.next() => received,
    };
    shutdown.cancel();
    tokio::select! {
        ended = &mut serving => ended.map_err(failed)?,
        // The log is crash-safe: whoever does not want to wait need not.
        _ = signals.next() => return Err(CliError::Interrupted),
    }
    match received {
        Received::Terminate => Ok(()),
        Received::Interrupt => Err(CliError::Interrupted),
    }
}

/// A refused memory budget is shown as a table before the one line that says so.
fn failed(error: ServeError) -> CliError {
    if let ServeError::Memory(over) = &error {
        over.budget.to_string().lines().for_each(note);
    }
    CliError::failed(&error)
}

/// Tests tell a daemon where to die.
fn arm_failpoint() -> Result<(), CliError> {
    let Ok(text) = std::env::var(FAILPOINT) else { return Ok(()) };
    let armed = Failpoint::arm(&text).map_err(|problem| CliError::Failed(format!("{FAILPOINT}: {problem}")))?;
    tracing::warn!(failpoint = armed.name(), "this process will kill itself there: {FAILPOINT} is for tests");
    Ok(())
}
