//! Typed values that cannot be: the delivery stops before them, says so, and skips nothing.

use std::sync::Arc;

use dbstreamd_model::TableSchema;
use tonic::Code;

use super::fixture::*;
use crate::grpc::details::find_error_info;
use crate::proto;
use crate::proto::value::Kind;

/// `shop.orders` with a date for a note.
fn orders() -> Arc<TableSchema> {
    let mut schema = TableSchema::clone(&table("orders"));
    if let Some(note) = schema.columns.last_mut() {
        note.type_name = "date".into();
    }
    Arc::new(schema)
}

fn typed(from: Option<proto::StartFrom>) -> proto::Start {
    proto::Start { from, values: proto::ValueForm::Typed.into(), ..Default::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_typed_delivery_stops_before_a_value_that_cannot_be_read_and_text_goes_on() {
    let mut fixture = Fixture::start().await;
    let orders = orders();
    let rows = [("1", b"2000-01-02".as_slice()), ("2", b"2024-02-30"), ("3", b"infinity")];
    fixture.commit(&rows.map(|(id, note)| (&orders, insert(id, note)))).await;

    let mut whole = fixture.subscribe(typed(earliest())).await;
    let first = whole.events(1).await;
    let values = &first[0].after.as_ref().unwrap().values;
    assert_eq!(values[1].kind, Some(Kind::Date(1)));
    let status = whole.refused().await;
    assert_eq!(status.code(), Code::FailedPrecondition);
    let (reason, metadata) = find_error_info(&status).unwrap();
    assert_eq!(reason, "VALUE_UNREADABLE");
    let of = |key: &str| metadata[key].as_str();
    assert_eq!([of("stream"), of("table"), of("column"), of("offset")], ["shop", "shop.orders", "note", "2"]);
    assert_eq!(of("lsn"), "0/C8");
    assert!(of("reason").contains("a date, YYYY-MM-DD"), "{metadata:?}");
    assert!(!status.message().contains("2024-02-30"), "a value is nobody's business: {}", status.message());

    // Whoever comes again gets the same answer, and the operator one notice.
    let again = fixture.subscribe(typed(from_offset(2))).await.refused().await;
    assert_eq!(again.message(), status.message());
    let filter = Some(proto::Filter { tables: vec!["shop.*".into()], operations: Vec::new() });
    let filtered = fixture.subscribe(proto::Start { filter, ..typed(from_offset(2)) }).await.refused().await;
    assert_eq!(filtered.message(), status.message());
    let (_, body) = fixture.get("/v1/streams/shop/events?from=2&values=typed", "").await;
    assert!(body.contains("event: error") && body.contains("cannot be read in typed form"), "{body}");
    let told = fixture.notices.after(0, 10).notices;
    let told: Vec<_> = told.iter().filter(|told| told.notice.kind == "value_unreadable").collect();
    assert_eq!(told.len(), 1);
    assert!(told[0].notice.text.contains("column \"note\" of table shop.orders"), "{:?}", told[0].notice);

    // What is behind it can be read, and as text all of it.
    let after = fixture.subscribe(typed(from_offset(3))).await.events(1).await;
    let infinity = Kind::Infinity(proto::Infinity::Positive.into());
    assert_eq!(after[0].after.as_ref().unwrap().values[1].kind, Some(infinity));
    let text = fixture.subscribe(proto::Start { from: earliest(), ..Default::default() }).await.events(3).await;
    assert!(text.iter().all(|event| event.after.as_ref().is_some_and(|row| row.values.is_empty())));
    fixture.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_of_more_parts_than_can_be_held_is_refused_by_typed_server_sent_events_alone() {
    let mut fixture = Fixture::start().await;
    let mut orders = TableSchema::clone(&table("orders"));
    if let Some(note) = orders.columns.last_mut() {
        note.type_name = "_int4".into();
    }
    let orders = Arc::new(orders);
    let (few, many) = (format!("{{{}1}}", "NULL,".repeat(1_000)), format!("{{{}1}}", "NULL,".repeat(1_500_000)));
    let rows = [("1", few.as_bytes()), ("2", many.as_bytes())];
    fixture.commit(&rows.map(|(id, note)| (&orders, insert(id, note)))).await;

    let (_, body) = fixture.get("/v1/streams/shop/events?from=1&values=typed", "").await;
    assert!(body.contains("\"note\":[null,null"), "{}", body.len());
    assert!(body.contains("event: error") && body.contains("the event at offset 2 has values of more than"));
    let (_, body) = fixture.get("/v1/streams/shop/events?from=2&limit=1", "").await;
    assert!(body.contains("\"note\":\"{NULL,NULL"), "{}", body.len());
    let events = fixture.subscribe(typed(from_offset(2))).await.events(1).await;
    let Some(Kind::Array(array)) = &events[0].after.as_ref().unwrap().values[1].kind else { panic!("no array") };
    assert_eq!(array.elements.len(), 1_500_001);
    fixture.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_place_that_was_given_up_is_left_out_by_typed_readers_alone_and_they_are_told() {
    let mut fixture = Fixture::start().await;
    let orders = orders();
    let rows = [("1", b"2000-01-02".as_slice()), ("2", b"nonsense"), ("3", b"worse"), ("4", b"infinity")];
    fixture.commit(&rows.map(|(id, note)| (&orders, insert(id, note)))).await;
    let mut control = fixture.control().await;
    let resume = |skip_to| proto::ResumeStreamRequest {
        stream: "shop".into(),
        by: "ann".into(),
        why: "never mind".into(),
        skip_to,
    };
    let early = control.resume_stream(resume(4)).await.unwrap_err();
    assert_eq!(early.code(), Code::FailedPrecondition, "nobody has met anything yet");

    fixture.subscribe(typed(from_offset(2))).await.refused().await;
    let resumed = control.resume_stream(resume(4)).await.unwrap().into_inner().stream.unwrap();
    assert_eq!((resumed.parked.len(), resumed.skipped.len()), (0, 1));

    let mut reader = fixture.subscribe(typed(earliest())).await;
    let events = reader.events(2).await;
    assert_eq!([events[0].offset, events[1].offset], [1, 4]);
    let skipped = &reader.skipped[0];
    assert_eq!((skipped.first_offset, skipped.next_offset, skipped.note.as_str()), (2, 4, "ann: never mind"));
    // Who stands inside of it and cannot read on, too.
    let inside = fixture.subscribe(typed(from_offset(3))).await.events(1).await;
    assert_eq!(inside[0].offset, 4);
    let (_, body) = fixture.get("/v1/streams/shop/events?from=earliest&values=typed&limit=2", "").await;
    assert!(body.contains("event: skipped") && body.contains(r#""next_offset":4"#), "{body}");
    assert!(body.contains("id: 4") && !body.contains("event: error"), "{body}");
    let text = fixture.subscribe(proto::Start { from: earliest(), ..Default::default() }).await.events(4).await;
    assert_eq!(text.len(), 4);
    fixture.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_form_that_this_daemon_does_not_know_is_refused() {
    let fixture = Fixture::start().await;
    let refused = fixture.subscribe(proto::Start { values: 99, ..Default::default() }).await.refused().await;
    assert_eq!(refused.code(), Code::InvalidArgument);
    let (status, body) = fixture.get("/v1/streams/shop/events?values=binary", "").await;
    assert_eq!(status, 400);
    assert!(body.contains("neither text nor typed"), "{body}");
    fixture.stop().await;
}
