//! `dbstreamd serve`: the daemon, until a signal ends it.

use dbstreamd_log::Failpoint;
use tokio_util::sync::CancellationToken;

use super::signals::Received;
use super::{CliError, ServeArguments, Signals};
use crate::config::Overrides;

/// Names a place in the code where the process dies.
const FAILPOINT: &str = "DBSTREAMD_FAILPOINT";

pub(super) async fn run(arguments: ServeArguments) -> Result<(), CliError> {
    let ServeArguments { sources, data_dir, grpc, http } = arguments;
    let config = sources.load(Overrides { data_dir, grpc, http, ..Overrides::default() })?;
    crate::telemetry::init(&config.logging).map_err(|error| CliError::failed(&error))?;
    arm_failpoint()?;
    let mut signals = Signals::listen()?;
    let shutdown = CancellationToken::new();
    let serving = crate::serve::run(config, shutdown.clone());
    tokio::pin!(serving);
    let received = tokio::select! {
        ended = &mut serving => return ended.map_err(|error| CliError::failed(&error)),
        received = signals.next() => received,
    };
    shutdown.cancel();
    tokio::select! {
        ended = &mut serving => ended.map_err(|error| CliError::failed(&error))?,
        // The log is crash-safe: whoever does not want to wait need not.
        _ = signals.next() => return Err(CliError::Interrupted),
    }
    match received {
        Received::Terminate => Ok(()),
        Received::Interrupt => Err(CliError::Interrupted),
    }
}

/// Tests tell a daemon where to die.
fn arm_failpoint() -> Result<(), CliError> {
    let Ok(text) = std::env::var(FAILPOINT) else { return Ok(()) };
    let armed = Failpoint::arm(&text).map_err(|problem| CliError::Failed(format!("{FAILPOINT}: {problem}")))?;
    tracing::warn!(failpoint = armed.name(), "this process will kill itself there: {FAILPOINT} is for tests");
    Ok(())
}
