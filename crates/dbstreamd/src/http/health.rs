//! `/health`: 200 while every stream is well, or paused because an operator wanted that; 503 when one has failed, the log does not write any more, or damage
//! was found in it, when it was opened or by a reader since.

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
    let damage: Vec<_> = directory.log().damage().iter().map(ToString::to_string).collect();
    let mut failed = log_failure.is_some() || !damage.is_empty();
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
        "status": if failed { "FAILED" } else { "SERVING" },
        "version": env!("CARGO_PKG_VERSION"),
        "log": { "writing": log_failure.is_none(), "error": log_failure, "damage": damage },
        "streams": streams,
        "io": { "setting": shared.io.asked.name(), "chosen": shared.io.chosen(), "why": shared.io.why },
        "memory": shared.memory.document(directory.log()),
    });
    let status = if failed { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    (status, Json(body)).into_response()
}
