//! What is known of a running delivery; written by the loop, read by anyone.

use std::sync::Arc;

use dbstreamd_model::Offset;
use tokio::sync::watch;

/// Where a delivery is in its life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeliveryState {
    /// Asking the destination where it is.
    Starting,
    /// Changes flow.
    Delivering,
    /// Between two attempts, with the reason of the last failure.
    Retrying(Arc<str>),
    /// Waiting for somebody to act, with the reason.
    Stopped(Arc<str>),
}

/// State and position of one delivery.
#[derive(Debug)]
pub struct DeliveryStatus {
    state: watch::Sender<DeliveryState>,
    committed: watch::Sender<Offset>,
}

impl Default for DeliveryStatus {
    fn default() -> Self {
        Self { state: watch::Sender::new(DeliveryState::Starting), committed: watch::Sender::new(Offset::NONE) }
    }
}

impl DeliveryStatus {
    /// The state now, and every change of it.
    pub fn state(&self) -> watch::Receiver<DeliveryState> {
        self.state.subscribe()
    }

    /// The position whose events are durable at the destination and committed in the log.
    pub fn committed(&self) -> watch::Receiver<Offset> {
        self.committed.subscribe()
    }

    pub(crate) fn enter(&self, state: DeliveryState) {
        self.state.send_if_modified(|now| {
            let changed = *now != state;
            *now = state;
            changed
        });
    }

    pub(crate) fn reach(&self, offset: Offset) {
        self.committed.send_replace(offset);
    }
}
