//! `/v1/streams`, `/v1/streams/{name}` and `/v1/consumers`: snapshots as JSON.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use dbstreamd_log::LogError;
use dbstreamd_source::SlotHealth;
use serde_json::{Value, json};

use super::{Shared, problem};
use crate::directory::{ConsumerSnapshot, StreamSnapshot, UnknownStream};
use crate::epochs::contract;
use crate::json::{epoch_document, parked_document, skipped_document};
use crate::parking;
use crate::position::rfc3339;
use crate::schema_json::divergence_document;
use crate::schemas;

pub(super) async fn all(State(shared): State<Arc<Shared>>) -> Response {
    match shared.directory.snapshots() {
        Ok(snapshots) => Json(json!({ "streams": snapshots.iter().map(stream).collect::<Vec<_>>() })).into_response(),
        Err(error) => log_problem(&error),
    }
}

pub(super) async fn one(State(shared): State<Arc<Shared>>, Path(name): Path<String>) -> Response {
    let entry = match shared.directory.find(&name) {
        Ok(entry) => entry,
        Err(error) => return unknown(&error),
    };
    match shared.directory.snapshot(entry) {
        Ok(snapshot) => Json(stream(&snapshot)).into_response(),
        Err(error) => log_problem(&error),
    }
}

pub(super) async fn consumers(State(shared): State<Arc<Shared>>) -> Response {
    match shared.directory.consumers(None) {
        Ok(consumers) => {
            Json(json!({ "consumers": consumers.iter().map(consumer).collect::<Vec<_>>() })).into_response()
        }
        Err(error) => log_problem(&error),
    }
}

pub(super) fn unknown(error: &UnknownStream) -> Response {
    problem(StatusCode::NOT_FOUND, error.to_string())
}

pub(super) fn log_problem(error: &LogError) -> Response {
    problem(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
}

fn stream(snapshot: &StreamSnapshot) -> Value {
    let marks = &snapshot.watermarks;
    json!({
        "name": snapshot.name.as_str(),
        "state": snapshot.state_name(),
        "error": Some(snapshot.error()).filter(|error| !error.is_empty()),
        "epoch": marks.epoch.0,
        "appended_offset": marks.appended.0,
        "durable_offset": marks.durable.0,
        "visible_offset": marks.visible.0,
        "trim_point": snapshot.trim_point().0,
        "confirmed_through_lsn": marks.confirmed_through.to_string(),
        "visible_lsn": marks.visible_lsn.to_string(),
        "received_lsn": snapshot.received_lsn.to_string(),
        "source_lsn": snapshot.source_lsn.to_string(),
        "visible_commit_time": rfc3339(marks.visible_commit_time),
        "last_heard": rfc3339(snapshot.last_heard),
        "lag_bytes": snapshot.lag_bytes(),
        "lag_seconds": snapshot.lag_seconds(),
        "bytes_received": snapshot.bytes_received,
        "events_received": snapshot.events_received,
        "transactions_received": snapshot.transactions_received,
        "reconnects": snapshot.reconnects,
        "log_bytes": snapshot.log_bytes,
        "slot": snapshot.slot,
        "publication": snapshot.publication,
        "slot_health": snapshot.slot_health.as_ref().map(slot_health),
        "parked": snapshot.parked.iter().map(|parked| parked_document(&parking::contract(parked))).collect::<Vec<_>>(),
        "skipped": snapshot.skips.iter().map(|skip| skipped_document(&parking::skip_contract(skip))).collect::<Vec<_>>(),
        "diverged": snapshot.diverged.iter().map(|known| divergence_document(&schemas::diverged(known))).collect::<Vec<_>>(),
        "ddl_capture": snapshot.ddl_capture,
        "epochs": snapshot.epochs.iter().map(|record| epoch_document(&contract(record))).collect::<Vec<_>>(),
    })
}

fn slot_health(slot: &SlotHealth) -> Value {
    json!({
        "restart_lsn": slot.restart_lsn.to_string(),
        "confirmed_flush_lsn": slot.confirmed_flush_lsn.to_string(),
        "wal_status": slot.wal_status,
        "retained_bytes": slot.retained_bytes,
        "safe_bytes": slot.safe_bytes,
        "pinned_by": slot.pinned_by,
        "insurance": slot.insurance.as_ref().map(|insurance| json!({
            "slot": insurance.slot,
            "wal_status": insurance.wal_status,
            "restart_lsn": insurance.restart_lsn.to_string(),
            "retained_bytes": insurance.retained_bytes,
        })),
        "seen_at": rfc3339(slot.seen_at),
    })
}

fn consumer(snapshot: &ConsumerSnapshot) -> Value {
    json!({
        "stream": snapshot.stream.as_str(),
        "name": snapshot.name.as_str(),
        "committed_offset": snapshot.committed.0,
        "committed_at": rfc3339(snapshot.committed_at),
        "lag_events": snapshot.lag_events,
        "lag_bytes": snapshot.lag_bytes,
        "connected": snapshot.connected,
        "state": snapshot.state.name(),
        "state_reason": Some(snapshot.state_reason()).filter(|reason| !reason.is_empty()),
        "away_seconds": snapshot.away.map_or(0, |away| away.as_secs()),
    })
}
