//! The connection to a daemon, and what its refusals mean to the person who typed the command.

use std::error::Error;

use tonic::{Code, Status};

use super::CliError;
use crate::proto::{self, Client, ControlClient};

/// Connects, or says that nobody is there.
pub(super) async fn connect(server: &str) -> Result<Client, CliError> {
    proto::connect(server).await.map_err(|error| no_daemon(server, &error))
}

/// Connects to operate a daemon, or says that nobody is there.
pub(super) async fn connect_control(server: &str) -> Result<ControlClient, CliError> {
    proto::connect_control(server).await.map_err(|error| no_daemon(server, &error))
}

/// Who runs this command, for those who see what it did: `user@host`.
pub(super) fn whoami() -> String {
    let user =
        ["USER", "LOGNAME"].into_iter().find_map(|name| std::env::var(name).ok().filter(|user| !user.is_empty()));
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("{}@{}", user.as_deref().unwrap_or("somebody"), host.trim())
}

/// The first cause: what stands above it only says that something failed.
fn root<'a>(error: &'a (dyn Error + 'static)) -> &'a (dyn Error + 'static) {
    std::iter::successors(Some(error), |&error| error.source()).last().unwrap_or(error)
}

fn no_daemon(server: &str, error: &tonic::transport::Error) -> CliError {
    let cause = root(error);
    CliError::Failed(format!(
        "no dbstreamd answers at {server} ({cause}). Start one with `dbstreamd serve`, or name its gRPC address with --server"
    ))
}

/// Whether a call ended because the connection did, rather than because the daemon refused it.
pub(super) fn is_disconnect(status: &Status) -> bool {
    // A status that came over the wire has no source; one made by our own side of the connection has.
    status.code() == Code::Unavailable || status.source().is_some()
}

/// The daemon's refusal as our failure; its messages name cause and remedy already.
pub(super) fn refused(server: &str, status: &Status) -> CliError {
    let message = match status.message() {
        "" => "no reason given",
        message => message,
    };
    match status.code() {
        Code::Unimplemented => CliError::Failed(format!(
            "what answers at {server} is no dbstreamd, or another version of it ({message}). Name a dbstreamd's gRPC address with --server"
        )),
        _ => match status.source().map(root) {
            Some(cause) => CliError::Failed(format!(
                "the connection to the daemon at {server} broke ({cause}). Is it still running, and is this its gRPC address?"
            )),
            // The daemon said it, also when it said that it goes away.
            None => CliError::Failed(message.to_owned()),
        },
    }
}
