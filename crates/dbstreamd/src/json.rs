//! Change events as JSON, one object each: what `tail --format json` prints and the server-sent events carry.
//!
//! The fields, their names and their order are a contract with scripts (README, "JSON"). Values are in
//! PostgreSQL's text form, or typed if that was asked for (`values`); what cannot be text is an object that says so: `{"binary": …}` for PostgreSQL's
//! binary form, `{"base64": …}` for bytes that are not UTF-8. Nothing is ever replaced or dropped.

pub(crate) mod values;

use std::collections::HashMap;
use std::io::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use dbstreamd_model::{Lsn, Timestamp};

use crate::proto::{self, Operation, cell};

/// An event could not be shown: it does not fit the schemas that came before it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JsonError {
    /// The event's schema was not sent before it.
    #[error("event {offset} refers to schema {fingerprint}, which was not sent before it; subscribe again")]
    UnknownSchema {
        /// The event's offset.
        offset: u64,
        /// The fingerprint it names.
        fingerprint: String,
    },
    /// A row has more or fewer cells than its schema has columns.
    #[error("event {offset} has a row of {cells} cells, but its schema has {columns} columns; subscribe again")]
    CellCount {
        /// The event's offset.
        offset: u64,
        /// Cells in the row.
        cells: usize,
        /// Columns of the schema.
        columns: usize,
    },
    /// The operation is none that this version knows.
    #[error("event {offset} has the unknown operation {operation}; use a newer dbstreamd to read it")]
    UnknownOperation {
        /// The event's offset.
        offset: u64,
        /// The operation's number.
        operation: i32,
    },
}

/// Turns events into JSON; remembers the schemas it was shown.
#[derive(Debug, Default)]
pub struct Renderer {
    schemas: HashMap<Bytes, Known>,
}

/// A schema with its names already as JSON.
#[derive(Debug)]
struct Known {
    schema: String,
    table: String,
    columns: Vec<KnownColumn>,
}

#[derive(Debug)]
struct KnownColumn {
    name: String,
    in_identity: bool,
    /// Integers are strings.
    wide: bool,
}

impl Renderer {
    /// Remembers a schema; to be called for every schema, before the events that follow it.
    pub fn learn(&mut self, schema: &proto::Schema) {
        let columns = schema
            .columns
            .iter()
            .map(|column| KnownColumn {
                name: quoted(&column.name),
                in_identity: column.in_identity,
                wide: values::wide(column),
            })
            .collect();
        let known = Known { schema: quoted(&schema.schema), table: quoted(&schema.table), columns };
        self.schemas.insert(schema.fingerprint.clone(), known);
    }

    /// One event as one JSON object, without a line end.
    ///
    /// # Errors
    /// When the event does not fit the schemas learned so far.
    pub fn event_json(&self, event: &proto::Event) -> Result<String, JsonError> {
        let mut out = Vec::with_capacity(512);
        self.write_event(event, &mut out)?;
        // Only whole strings and ASCII were written.
        Ok(String::from_utf8_lossy(&out).into_owned())
    }

    /// As [`event_json`](Self::event_json), behind what is in `out` already; `out` is unchanged on error.
    ///
    /// # Errors
    /// When the event does not fit the schemas learned so far.
    pub fn write_event(&self, event: &proto::Event, out: &mut Vec<u8>) -> Result<(), JsonError> {
        let start = out.len();
        let written = self.write(event, out);
        if written.is_err() {
            out.truncate(start);
        }
        written
    }

    fn write(&self, event: &proto::Event, out: &mut Vec<u8>) -> Result<(), JsonError> {
        let operation = operation_name(event)?;
        let known = match &event.fingerprint {
            none if none.is_empty() => None,
            fingerprint => Some(
                self.schemas
                    .get(fingerprint)
                    .ok_or_else(|| JsonError::UnknownSchema { offset: event.offset, fingerprint: hex(fingerprint) })?,
            ),
        };
        put(out, format_args!("{{\"offset\":{},\"op\":\"{operation}\"", event.offset));
        match known {
            Some(known) => put(out, format_args!(",\"schema\":{},\"table\":{}", known.schema, known.table)),
            None => out.extend_from_slice(b",\"schema\":null,\"table\":null"),
        }
        let mut unchanged = Vec::new();
        for (name, row, identity_only) in
            [("before", &event.before, !event.before_is_full), ("after", &event.after, false)]
        {
            put(out, format_args!(",\"{name}\":"));
            match (row, known) {
                (Some(row), Some(known)) => put_row(out, event, row, known, identity_only, &mut unchanged)?,
                _ => out.extend_from_slice(b"null"),
            }
        }
        put(out, format_args!(",\"unchanged\":[{}]", unchanged.join(",")));
        put(out, format_args!(",\"commit_lsn\":\"{}\"", Lsn(event.commit_lsn)));
        put(out, format_args!(",\"ordinal\":{},\"xid\":{},\"commit_time\":", event.ordinal, event.xid));
        match rfc3339(event.commit_time_us) {
            Some(time) => put(out, format_args!("\"{time}\"")),
            None => out.extend_from_slice(b"null"),
        }
        put(out, format_args!(",\"epoch\":{},\"fingerprint\":", event.epoch));
        match known {
            Some(_) => put(out, format_args!("\"{}\"", hex(&event.fingerprint))),
            None => out.extend_from_slice(b"null"),
        }
        put(out, format_args!(",\"last_in_transaction\":{}", event.last_in_transaction));
        if let Some(truncate) = &event.truncate {
            put(out, format_args!(",\"cascade\":{}", truncate.cascade));
            put(out, format_args!(",\"restart_identity\":{}", truncate.restart_identity));
        }
        if let Some(message) = &event.message {
            out.extend_from_slice(b",\"prefix\":");
            put_text(out, &message.prefix);
            out.extend_from_slice(b",\"content\":");
            put_text(out, &message.content);
            put(out, format_args!(",\"transactional\":{}", message.transactional));
        }
        if let Some(change) = &event.schema_change {
            put(out, format_args!(",\"schema_change\":{}", crate::schema_json::change_document(change)));
        }
        out.push(b'}');
        Ok(())
    }
}

fn put_row(
    out: &mut Vec<u8>,
    event: &proto::Event,
    row: &proto::Row,
    known: &Known,
    identity_only: bool,
    unchanged: &mut Vec<String>,
) -> Result<(), JsonError> {
    let typed = !row.values.is_empty();
    let (cells, columns) = (if typed { row.values.len() } else { row.cells.len() }, known.columns.len());
    if cells != columns {
        return Err(JsonError::CellCount { offset: event.offset, cells, columns });
    }
    if typed {
        put_values(out, row, known, identity_only, unchanged);
        return Ok(());
    }
    let mut separator = '{';
    for (cell, column) in row.cells.iter().zip(&known.columns) {
        if identity_only && !column.in_identity {
            continue;
        }
        if let Some(cell::Value::Unchanged(_)) = cell.value {
            if !unchanged.contains(&column.name) {
                unchanged.push(column.name.clone());
            }
            continue;
        }
        put(out, format_args!("{separator}{}:", column.name));
        separator = ',';
        match &cell.value {
            Some(cell::Value::Text(text)) => put_text(out, text),
            Some(cell::Value::Binary(bytes)) => put(out, format_args!("{{\"binary\":\"{}\"}}", BASE64.encode(bytes))),
            Some(cell::Value::Unchanged(_)) | None => out.extend_from_slice(b"null"),
        }
    }
    out.extend_from_slice(if separator == '{' { b"{}" } else { b"}" });
    Ok(())
}

fn put_values(out: &mut Vec<u8>, row: &proto::Row, known: &Known, identity_only: bool, unchanged: &mut Vec<String>) {
    let mut separator = '{';
    for (value, column) in row.values.iter().zip(&known.columns) {
        if identity_only && !column.in_identity {
            continue;
        }
        if let Some(proto::value::Kind::Unchanged(_)) = value.kind {
            if !unchanged.contains(&column.name) {
                unchanged.push(column.name.clone());
            }
            continue;
        }
        put(out, format_args!("{separator}{}:", column.name));
        separator = ',';
        values::put_value(out, value, column.wide);
    }
    out.extend_from_slice(if separator == '{' { b"{}" } else { b"}" });
}

/// Lower-case name of an event's operation.
pub(crate) fn operation_name(event: &proto::Event) -> Result<&'static str, JsonError> {
    match event.operation() {
        Operation::Insert => Ok("insert"),
        Operation::Update => Ok("update"),
        Operation::Delete => Ok("delete"),
        Operation::Truncate => Ok("truncate"),
        Operation::Message => Ok("message"),
        Operation::SchemaChange => Ok("schema_change"),
        Operation::Unspecified => Err(JsonError::UnknownOperation { offset: event.offset, operation: event.operation }),
    }
}

/// Lower-case name of an epoch's reason; `unspecified` for one that this version does not know.
pub(crate) fn epoch_reason(epoch: &proto::Epoch) -> String {
    let name = epoch.reason().as_str_name();
    name.strip_prefix("EPOCH_REASON_").unwrap_or(name).to_ascii_lowercase()
}

/// An epoch as JSON. It is no event: it has no offset of its own, but the one of its first event.
pub(crate) fn epoch_document(epoch: &proto::Epoch) -> serde_json::Value {
    serde_json::json!({
        "epoch": epoch.epoch,
        "first_offset": epoch.first_offset,
        "reason": epoch_reason(epoch),
        "log_lsn": Lsn(epoch.log_lsn).to_string(),
        "source_lsn": Lsn(epoch.source_lsn).to_string(),
        "started_at": rfc3339(epoch.started_at_us),
    })
}

/// A place where consumers are parked.
pub(crate) fn parked_document(parked: &proto::Parked) -> serde_json::Value {
    serde_json::json!({
        "offset": parked.offset,
        "reason": parked.reason,
        "text": parked.text,
        "since": rfc3339(parked.since_us),
    })
}

/// Events that are left out.
pub(crate) fn skipped_document(skipped: &proto::Skipped) -> serde_json::Value {
    serde_json::json!({
        "first_offset": skipped.first_offset,
        "next_offset": skipped.next_offset,
        "note": skipped.note,
        "at": rfc3339(skipped.at_us),
    })
}

/// A time in microseconds since 1970 as RFC 3339 with microseconds, in UTC; none for 0, "not known".
pub(crate) fn rfc3339(micros: i64) -> Option<String> {
    crate::position::rfc3339(Timestamp(micros))
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |text, byte| text + &format!("{byte:02x}"))
}

fn put(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    // Writing to memory cannot fail.
    let _ = out.write_fmt(text);
}

/// Bytes as a JSON string, or as `{"base64": …}` when they are not UTF-8.
fn put_text(out: &mut Vec<u8>, bytes: &[u8]) {
    match std::str::from_utf8(bytes) {
        // A string always serializes, and memory always takes it.
        Ok(text) => drop(serde_json::to_writer(&mut *out, text)),
        Err(_) => put(out, format_args!("{{\"base64\":\"{}\"}}", BASE64.encode(bytes))),
    }
}

fn quoted(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len() + 2);
    put_text(&mut out, text.as_bytes());
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schema() -> proto::Schema {
        let column = |name: &str, in_identity| proto::Column {
            name: name.into(),
            type_name: "text".into(),
            in_identity,
            ..proto::Column::default()
        };
        proto::Schema {
            fingerprint: Bytes::from_static(&[0xAB; 16]),
            schema: "shop".into(),
            table: "or\"ders".into(),
            columns: vec![column("id", true), column("note", false), column("big", false)],
            ..proto::Schema::default()
        }
    }

    fn row(cells: [Option<cell::Value>; 3]) -> Option<proto::Row> {
        Some(proto::Row { cells: cells.into_iter().map(|value| proto::Cell { value }).collect(), ..Default::default() })
    }

    fn text(text: &'static str) -> Option<cell::Value> {
        Some(cell::Value::Text(Bytes::from_static(text.as_bytes())))
    }

    fn event(operation: Operation) -> proto::Event {
        proto::Event {
            offset: 7,
            operation: operation.into(),
            commit_lsn: 0x16_B374_D848,
            ordinal: 2,
            xid: 741,
            commit_time_us: 1_700_000_000_000_001,
            epoch: 1,
            last_in_transaction: true,
            fingerprint: schema().fingerprint,
            ..proto::Event::default()
        }
    }

    fn render(event: &proto::Event) -> String {
        let mut renderer = Renderer::default();
        renderer.learn(&schema());
        renderer.event_json(event).unwrap()
    }

    const TAIL: &str = r#""commit_lsn":"16/B374D848","ordinal":2,"xid":741,"commit_time":"2023-11-14T22:13:20.000001Z","epoch":1,"fingerprint":"abababababababababababababababab","last_in_transaction":true"#;

    #[test]
    fn an_update_has_its_fields_in_the_contracts_order_and_keeps_null_and_unchanged_apart() {
        let before = row([text("1"), None, None]);
        let after = row([text("2"), None, Some(cell::Value::Unchanged(true))]);
        let update = proto::Event { before, after, ..event(Operation::Update) };
        let expected = format!(
            r#"{{"offset":7,"op":"update","schema":"shop","table":"or\"ders","before":{{"id":"1"}},"after":{{"id":"2","note":null}},"unchanged":["big"],{TAIL}}}"#
        );
        assert_eq!(render(&update), expected);
    }

    #[test]
    fn a_full_old_row_shows_all_columns_and_a_delete_has_no_after() {
        let before = row([text("1"), None, text("x")]);
        let delete = proto::Event { before, before_is_full: true, ..event(Operation::Delete) };
        assert!(render(&delete).contains(r#""before":{"id":"1","note":null,"big":"x"},"after":null,"unchanged":[],"#));
    }

    #[test]
    fn bytes_that_are_no_text_are_marked_and_complete() {
        let not_utf8 = Some(cell::Value::Text(Bytes::from_static(b"\xff")));
        let binary = Some(cell::Value::Binary(Bytes::from_static(&[0, 1])));
        let insert = proto::Event { after: row([text("a\u{1}\n"), not_utf8, binary]), ..event(Operation::Insert) };
        let expected = r#""after":{"id":"a\u0001\n","note":{"base64":"/w=="},"big":{"binary":"AAE="}}"#;
        assert!(render(&insert).contains(expected), "{}", render(&insert));
    }

    #[test]
    fn truncates_and_messages_add_their_own_fields_at_the_end() {
        let truncate = proto::Truncate { cascade: true, restart_identity: false };
        let truncate = proto::Event { truncate: Some(truncate), ..event(Operation::Truncate) };
        assert!(render(&truncate).ends_with(r#""last_in_transaction":true,"cascade":true,"restart_identity":false}"#));
        let message = proto::Message { transactional: true, prefix: "audit".into(), content: "hi".into() };
        let message = proto::Event {
            message: Some(message),
            fingerprint: Bytes::new(),
            commit_time_us: 0,
            ..event(Operation::Message)
        };
        let line = render(&message);
        assert!(line.starts_with(
            r#"{"offset":7,"op":"message","schema":null,"table":null,"before":null,"after":null,"unchanged":[],"#
        ));
        assert!(line.contains(r#""commit_time":null"#) && line.contains(r#""fingerprint":null"#));
        assert!(line.ends_with(r#","prefix":"audit","content":"hi","transactional":true}"#), "{line}");
        assert!(serde_json::from_str::<serde_json::Value>(&line).is_ok());
    }

    #[test]
    fn a_schema_change_has_all_its_fields_in_an_object_of_its_own() {
        let object =
            proto::ChangedObject { r#type: "table".into(), identity: "s.t".into(), oid: 7, ..Default::default() };
        let facts = proto::TableFacts { table: "t".into(), primary_key: vec!["id".into()], ..Default::default() };
        let diverged = proto::Divergence { table: "t".into(), reason: 1, ..Default::default() };
        let change = proto::SchemaChange {
            command_tag: "ALTER TABLE".into(),
            objects: vec![object],
            tables: vec![facts],
            diverged: vec![diverged],
            ..Default::default()
        };
        let change =
            proto::Event { schema_change: Some(change), fingerprint: Bytes::new(), ..event(Operation::SchemaChange) };
        let line = render(&change);
        assert!(line.starts_with(r#"{"offset":7,"op":"schema_change","schema":null,"table":null,"#), "{line}");
        let change = &serde_json::from_str::<serde_json::Value>(&line).unwrap()["schema_change"];
        assert_eq!(change["command_tag"], "ALTER TABLE");
        assert_eq!((&change["statement"], &change["error"]), (&serde_json::Value::Null, &serde_json::Value::Null));
        assert_eq!((&change["objects"][0]["identity"], &change["objects"][0]["oid"]), (&"s.t".into(), &7.into()));
        assert_eq!(change["tables"][0]["primary_key"][0], "id");
        assert_eq!(change["diverged"][0]["reason"], "rewritten");
    }

    #[test]
    fn an_event_that_does_not_fit_its_schema_is_refused_and_nothing_is_written() {
        let mut out = b"kept".to_vec();
        let insert = proto::Event { after: row([None, None, None]), ..event(Operation::Insert) };
        let unknown = Renderer::default().write_event(&insert, &mut out);
        assert!(matches!(unknown, Err(JsonError::UnknownSchema { offset: 7, .. })));
        let mut renderer = Renderer::default();
        renderer.learn(&schema());
        let short = proto::Event { after: Some(proto::Row::default()), ..event(Operation::Insert) };
        let refused = renderer.write_event(&short, &mut out);
        assert_eq!(refused, Err(JsonError::CellCount { offset: 7, cells: 0, columns: 3 }));
        let refused = renderer.write_event(&event(Operation::Unspecified), &mut out);
        assert!(matches!(refused, Err(JsonError::UnknownOperation { .. })));
        assert_eq!(out, b"kept");
    }
}
