//! `/v1/notices`: what happened lately, as JSON.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::{Shared, problem};
use crate::notices::{KEPT_MAX, Recorded};
use crate::position::rfc3339;

/// `?after=SEQUENCE&limit=N`: the notices after that one, oldest first; all that are kept unless told otherwise.
pub(super) async fn list(State(shared): State<Arc<Shared>>, Query(query): Query<Vec<(String, String)>>) -> Response {
    let (mut after, mut limit) = (0, KEPT_MAX);
    for (key, value) in &query {
        let number = value.parse::<u64>().ok();
        match (key.as_str(), number) {
            ("after", Some(sequence)) => after = sequence,
            ("limit", Some(wanted @ 1..)) => limit = usize::try_from(wanted).unwrap_or(KEPT_MAX).min(KEPT_MAX),
            ("after", None) => {
                return problem(StatusCode::BAD_REQUEST, format!("after: {value:?} is not the sequence of a notice"));
            }
            ("limit", _) => {
                return problem(StatusCode::BAD_REQUEST, format!("limit: {value:?} is not a number of notices from 1"));
            }
            (other, _) => {
                let text = format!("{other:?} cannot be asked for: use after and limit");
                return problem(StatusCode::BAD_REQUEST, text);
            }
        }
    }
    let page = shared.directory.notices.after(after, limit);
    let notices: Vec<Value> = page.notices.iter().map(|recorded| notice(recorded)).collect();
    Json(json!({ "notices": notices, "oldest_sequence": page.oldest, "newest_sequence": page.newest })).into_response()
}

fn notice(recorded: &Recorded) -> Value {
    let notice = &recorded.notice;
    json!({
        "sequence": recorded.sequence,
        "time": rfc3339(recorded.time),
        "severity": notice.severity.name(),
        "kind": notice.kind,
        "stream": notice.stream.as_ref().map(|name| name.as_str()),
        "consumer": notice.consumer.as_ref().map(|name| name.as_str()),
        "text": notice.text,
    })
}
