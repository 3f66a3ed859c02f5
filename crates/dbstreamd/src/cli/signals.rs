//! Ctrl-C and termination signals, as something to await.

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::CliError;

/// What was received.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Received {
    /// Ctrl-C, or a terminal that went away.
    Interrupt,
    /// Somebody asked for a clean end.
    Terminate,
}

/// Signals that end the program. From its making on they no longer kill it.
#[derive(Debug)]
pub(crate) struct Signals {
    interrupt: Signal,
    hangup: Signal,
    terminate: Signal,
}

impl Signals {
    pub(crate) fn listen() -> Result<Self, CliError> {
        let on = |kind| signal(kind).map_err(CliError::io("listen for signals"));
        Ok(Self {
            interrupt: on(SignalKind::interrupt())?,
            hangup: on(SignalKind::hangup())?,
            terminate: on(SignalKind::terminate())?,
        })
    }

    /// Waits for the next one. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Received {
        tokio::select! {
            _ = self.interrupt.recv() => Received::Interrupt,
            _ = self.hangup.recv() => Received::Interrupt,
            _ = self.terminate.recv() => Received::Terminate,
        }
    }
}
