//! `/health`: 200 while every stream is well, 503 when one has failed or the log does not write any more.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::Shared;
use crate::position::rfc3339;

pub(super) async fn health(State(shared): State<Arc<Shared>>) -> Response {
    let directory = &shared.directory;
    let log_failure = directory.log().failure().map(|failure| failure.to_string());
    let mut failed = log_failure.is_some();
    let mut streams = Vec::new();
    for entry in directory.entries() {
        // A stream without a source is history, neither well nor ill.
        let Some(running) = &entry.running else { continue };
        let lifecycle = running.status.lifecycle();
        failed |= lifecycle.state == dbstreamd_source::State::Failed;
        streams.push(json!({
            "name": entry.name.as_str(),
            "state": lifecycle.state.name(),
            "error": lifecycle.error.as_deref(),
            "retrying": lifecycle.retrying,
            "since": rfc3339(lifecycle.since),
        }));
    }
    let body = json!({
        "status": if failed { "failed" } else { "ok" },
        "version": env!("CARGO_PKG_VERSION"),
        "log": { "status": if log_failure.is_some() { "failed" } else { "ok" }, "error": log_failure },
        "streams": streams,
    });
    let status = if failed { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    (status, Json(body)).into_response()
}
