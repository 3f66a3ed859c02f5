//! Standard gRPC health: the server, the service, and one entry `stream/NAME` per stream.
//!
//! The daemon and `dbstreamd.v1.Streams` are SERVING while the daemon runs: a stream that failed leaves the API up.
//! `stream/NAME` is NOT_SERVING while that stream is FAILED.

use std::sync::Arc;

use dbstreamd_source::State;
use tokio_util::sync::CancellationToken;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::directory::Directory;

/// The service's full name.
const SERVICE: &str = "dbstreamd.v1.Streams";

/// Keeps health entries in step with the streams' lifecycles until shutdown.
pub(super) async fn report(directory: Arc<Directory>, reporter: HealthReporter, shutdown: CancellationToken) {
    reporter.set_service_status("", ServingStatus::Serving).await;
    reporter.set_service_status(SERVICE, ServingStatus::Serving).await;
    let mut watchers = tokio::task::JoinSet::new();
    for entry in directory.entries() {
        let Some(running) = &entry.running else { continue };
        let (mut lifecycle, reporter) = (running.status.watch(), reporter.clone());
        let name = format!("stream/{}", entry.name);
        watchers.spawn(async move {
            loop {
                let failed = lifecycle.borrow_and_update().state == State::Failed;
                let status = if failed { ServingStatus::NotServing } else { ServingStatus::Serving };
                reporter.set_service_status(&name, status).await;
                if lifecycle.changed().await.is_err() {
                    return;
                }
            }
        });
    }
    shutdown.cancelled().await;
    drop(watchers);
    reporter.set_service_status("", ServingStatus::NotServing).await;
    reporter.set_service_status(SERVICE, ServingStatus::NotServing).await;
}
