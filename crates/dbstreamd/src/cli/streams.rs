//! `dbstreamd streams`: the streams of a running daemon.

use dbstreamd_model::{Lsn, Timestamp};
use serde_json::{Value, json};

use super::output::age_text;
use super::{CliError, Format, ListArguments, Output, Paint, bytes_text, client, count_text};
use crate::json::rfc3339;
use crate::proto::{ListStreamsRequest, SlotHealth, Stream, StreamState};
use crate::schema_json::{divergence_document, reason_name, table_name};

pub(super) async fn run(arguments: ListArguments) -> Result<(), CliError> {
    let server = &arguments.server.server;
    let mut client = client::connect(server).await?;
    let answer = client.list_streams(ListStreamsRequest {}).await.map_err(|status| client::refused(server, &status))?;
    let streams = answer.into_inner().streams;
    let mut out = Output::new();
    match arguments.form.chosen() {
        Format::Json => {
            let listed = json!({ "streams": streams.iter().map(document).collect::<Vec<_>>() });
            out.line(&listed.to_string())?;
        }
        Format::Text => print(&mut out, &streams)?,
    }
    out.flush()
}

fn print(out: &mut Output, streams: &[Stream]) -> Result<(), CliError> {
    if streams.is_empty() {
        return out.line("no streams: the daemon has no source");
    }
    let headings = ["STREAM", "STATE", "EPOCH", "OFFSETS", "LAST COMMIT", "CONFIRMED", "BEHIND", "LOG", "SLOT"];
    let rows: Vec<_> = streams.iter().map(row).collect();
    out.table(&headings, &rows)?;
    for stream in streams.iter().filter(|stream| !stream.error.is_empty()) {
        let mut line = String::new();
        let paint = if stream.state() == StreamState::Paused { Paint::Change } else { Paint::Bad };
        out.style().paint(paint, &format!("{}: {}", stream.name, stream.error), &mut line);
        out.line(&line)?;
    }
    for stream in streams {
        for problem in slot_problems(stream) {
            let mut line = String::new();
            out.style().paint(Paint::Bad, &format!("{}: slot {}: {problem}", stream.name, stream.slot), &mut line);
            out.line(&line)?;
        }
        if stream.ddl_capture == Some(false) {
            let mut line = String::new();
            let text = "ddl_capture is wanted, but its event triggers are not installed: see dbstreamd check";
            out.style().paint(Paint::Change, &format!("{}: {text}", stream.name), &mut line);
            out.line(&line)?;
        }
        diverged(out, stream)?;
    }
    Ok(())
}

/// Lines about tables that diverged, at most this many of a stream.
const DIVERGED_SHOWN_MAX: usize = 20;

fn diverged(out: &mut Output, stream: &Stream) -> Result<(), CliError> {
    for table in stream.diverged.iter().take(DIVERGED_SHOWN_MAX) {
        let mut line = String::new();
        let text = format!(
            "{stream}: table {name} is not what its events say since offset {offset} ({reason}): {detail}; read it anew, then: dbstreamd tables clear {stream} {name}",
            stream = stream.name,
            name = table_name(&table.schema, &table.table),
            offset = table.offset,
            reason = reason_name(table),
            detail = table.detail,
        );
        out.style().paint(Paint::Bad, &text, &mut line);
        out.line(&line)?;
    }
    match stream.diverged.len().checked_sub(DIVERGED_SHOWN_MAX) {
        None | Some(0) => Ok(()),
        Some(more) => out.line(&format!("{}: {more} more such tables: see --format json", stream.name)),
    }
}

/// What is bad about the slot at the source, each in a line; none when all is well or nobody has looked.
fn slot_problems(stream: &Stream) -> Vec<String> {
    let Some(slot) = &stream.slot_health else { return Vec::new() };
    let kept = bytes_text(slot.retained_bytes);
    let mut problems = Vec::new();
    match slot.wal_status.as_str() {
        "lost" => problems.push("it is lost, and changes with it: see what the stream says".to_owned()),
        "unreserved" => problems.push(format!(
            "it keeps {kept} and is lost at the next checkpoint: raise max_slot_wal_keep_size, and see to it that the stream runs"
        )),
        _ if slot.safe_bytes.is_some_and(|safe| safe < slot.retained_bytes) => problems.push(format!(
            "it keeps {kept} and can be lost once {} more are written",
            bytes_text(slot.safe_bytes.unwrap_or(0))
        )),
        _ => {}
    }
    problems.extend(
        slot.pinned_by.iter().map(|by| format!("{kept} of WAL are kept because of {by}: end it if it is forgotten")),
    );
    problems
}

fn row(stream: &Stream) -> Vec<(Paint, String)> {
    let state = match stream.state() {
        StreamState::Streaming => Paint::Good,
        StreamState::Failed => Paint::Bad,
        _ => Paint::Change,
    };
    let offsets = match stream.visible_offset {
        visible if visible < stream.trim_point => "none".to_owned(),
        visible => format!("{}..{}", count_text(stream.trim_point), count_text(visible)),
    };
    let last_commit = match stream.visible_commit_time_us {
        0 => "never".to_owned(),
        commit => format!("{} ago", age_text(Timestamp::now().0.saturating_sub(commit))),
    };
    let (confirmed, behind) = match behind(stream) {
        Some(behind) => (Lsn(stream.confirmed_through_lsn).to_string(), bytes_text(behind)),
        None => ("nothing".to_owned(), "–".to_owned()),
    };
    vec![
        (Paint::Bold, stream.name.clone()),
        (state, state_name(stream).to_owned()),
        (Paint::Plain, stream.epoch.to_string()),
        (Paint::Plain, offsets),
        (Paint::Plain, last_commit),
        (Paint::Plain, confirmed),
        (Paint::Plain, behind),
        (Paint::Plain, bytes_text(stream.log_bytes)),
        (Paint::Dim, stream.slot.clone()),
    ]
}

/// How much of its WAL the source still keeps for us; none before anything was confirmed.
fn behind(stream: &Stream) -> Option<u64> {
    (stream.confirmed_through_lsn > 0).then(|| stream.source_lsn.saturating_sub(stream.confirmed_through_lsn))
}

/// A stream with the names that `/v1/streams` uses.
pub(super) fn document(stream: &Stream) -> Value {
    json!({
        "name": stream.name,
        "state": state_name(stream),
        "error": Some(&stream.error).filter(|error| !error.is_empty()),
        "epoch": stream.epoch,
        "appended_offset": stream.appended_offset,
        "durable_offset": stream.durable_offset,
        "visible_offset": stream.visible_offset,
        "trim_point": stream.trim_point,
        "confirmed_through_lsn": Lsn(stream.confirmed_through_lsn).to_string(),
        "received_lsn": Lsn(stream.received_lsn).to_string(),
        "source_lsn": Lsn(stream.source_lsn).to_string(),
        "lag_bytes": stream.source_lsn.saturating_sub(stream.confirmed_through_lsn),
        "visible_commit_time": rfc3339(stream.visible_commit_time_us),
        "log_bytes": stream.log_bytes,
        "reconnects": stream.reconnects,
        "events_received": stream.events_received,
        "slot": stream.slot,
        "publication": stream.publication,
        "parked": stream.parked.iter().map(crate::json::parked_document).collect::<Vec<_>>(),
        "skipped": stream.skipped.iter().map(crate::json::skipped_document).collect::<Vec<_>>(),
        "diverged": stream.diverged.iter().map(divergence_document).collect::<Vec<_>>(),
        "ddl_capture": stream.ddl_capture,
        "epochs": stream.epochs.iter().map(crate::json::epoch_document).collect::<Vec<_>>(),
        "slot_health": stream.slot_health.as_ref().map(slot_health),
    })
}

fn slot_health(slot: &SlotHealth) -> Value {
    json!({
        "restart_lsn": Lsn(slot.restart_lsn).to_string(),
        "confirmed_flush_lsn": Lsn(slot.confirmed_flush_lsn).to_string(),
        "wal_status": slot.wal_status,
        "retained_bytes": slot.retained_bytes,
        "safe_bytes": slot.safe_bytes,
        "pinned_by": slot.pinned_by,
        "seen_at": rfc3339(slot.seen_at_us),
    })
}

/// A state's name, as in `/v1/streams`.
pub(super) fn state_name(stream: &Stream) -> &'static str {
    match StreamState::try_from(stream.state) {
        Ok(StreamState::Unspecified) => "UNCONFIGURED",
        Ok(StreamState::Init) => "INIT",
        Ok(StreamState::Setup) => "SETUP",
        Ok(StreamState::Streaming) => "STREAMING",
        Ok(StreamState::Failed) => "FAILED",
        Ok(StreamState::Paused) => "PAUSED",
        // A state of a newer daemon.
        Err(_) => "UNKNOWN",
    }
}
