//! Tells people when a consumer begins to lag, loses its hold of the log, needs a snapshot, or is well again.

use std::sync::Arc;
use std::time::Duration;

use dbstreamd_log::{ConsumerState, HoldChange, HoldLost, SnapshotReason};
use dbstreamd_model::{Notice, Severity};
use tokio_util::sync::CancellationToken;

use crate::directory::Directory;

/// How often consumers are looked at.
const REVIEW_INTERVAL: Duration = Duration::from_secs(1);

/// Why a consumer is in a state; empty for the one that needs no reason.
pub(crate) const fn reason(state: ConsumerState) -> &'static str {
    match state {
        ConsumerState::Active => "",
        ConsumerState::Lagging => "it is behind by more than consumers.max_lag_bytes",
        ConsumerState::Released(HoldLost::Lag) => "it is behind by more than consumers.max_hold_bytes",
        ConsumerState::Released(HoldLost::Absence) => "it was away for longer than consumers.disconnected_hold",
        ConsumerState::Released(HoldLost::Space) => "the data volume is nearly full",
        ConsumerState::NeedsSnapshot(SnapshotReason::Trimmed) => "what it would read next was removed by retention",
        ConsumerState::NeedsSnapshot(SnapshotReason::NewEpoch) => {
            "continuity with the source was broken behind its position"
        }
    }
}

/// Reviews all consumers until `shutdown` fires.
pub(crate) async fn watch(directory: Arc<Directory>, shutdown: CancellationToken) {
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(REVIEW_INTERVAL) => {}
        }
        for change in directory.log().review_consumers() {
            tell(&directory, &change);
        }
    }
}

fn tell(directory: &Directory, change: &HoldChange) {
    let Some(entry) = directory.entries().iter().find(|entry| entry.id == change.stream) else { return };
    let why = reason(change.to);
    let (severity, kind, text) = match change.to {
        ConsumerState::Active => (Severity::Info, "consumer_active", "it keeps up again"),
        ConsumerState::Lagging => (Severity::Warning, "consumer_lagging", why),
        ConsumerState::Released(_) => (Severity::Warning, "consumer_released", why),
        ConsumerState::NeedsSnapshot(_) => (Severity::Error, "consumer_needs_snapshot", why),
    };
    let (from, to) = (change.from.name(), change.to.name());
    let (committed, lag) = (change.committed, change.lag_bytes);
    let text = format!("consumer went from {from} to {to}: {text} (committed offset {committed}, {lag} bytes behind)");
    directory.notices.push(Notice::new(severity, kind, text).of_stream(&entry.name).of_consumer(&change.consumer));
}
