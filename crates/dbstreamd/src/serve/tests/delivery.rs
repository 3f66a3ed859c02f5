//! Subscribe: order, schemas, positions, credit, filters, ends.

use dbstreamd_log::Retention;
use dbstreamd_model::Offset;
use tonic::Code;

use super::fixture::*;
use crate::proto;

const MULTI: tokio::runtime::RuntimeFlavor = tokio::runtime::RuntimeFlavor::MultiThread;

#[tokio::test(flavor = "multi_thread")]
async fn every_event_arrives_once_in_order_and_behind_its_schema() {
    let mut fixture = Fixture::start().await;
    assert_eq!(tokio::runtime::Handle::current().runtime_flavor(), MULTI);
    let (orders, items) = (table("orders"), table("items"));
    fixture.commit(&[(&orders, insert("1", b"a")), (&items, insert("2", b"")), (&orders, insert("3", b"c"))]).await;
    let mut early = fixture.subscribe(proto::Start { from: earliest(), ..Default::default() }).await;
    let mut events = early.events(3).await;
    // The tail is served as it grows.
    for number in 0..50 {
        fixture.commit(&[(&items, insert(&number.to_string(), b"tail"))]).await;
    }
    events.extend(early.events(50).await);
    assert_eq!(offsets(&events), (1..=53).collect::<Vec<_>>());
    assert_eq!(early.schemas.len(), 2, "each schema is sent once");
    assert_eq!(events[0].commit_lsn, events[2].commit_lsn);
    assert_eq!([events[0].ordinal, events[1].ordinal, events[2].ordinal], [0, 1, 2]);
    assert_eq!([events[1].last_in_transaction, events[2].last_in_transaction], [false, true]);
    let started = early.started.unwrap();
    assert_eq!((started.stream.as_str(), started.next_offset, started.visible_offset), ("shop", 1, 3));

    // Another one over the same history, and one that begins in the middle, see the same bytes.
    let mut late = fixture.subscribe(proto::Start { from: earliest(), ..Default::default() }).await;
    assert_eq!(late.events(53).await, events);
    let mut middle =
        fixture.subscribe(proto::Start { stream: "shop".into(), from: from_offset(20), ..Default::default() }).await;
    assert_eq!(middle.events(34).await, events[19..]);
    fixture.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_anonymous_reader_begins_at_the_end_and_a_new_consumer_at_the_beginning() {
    let mut fixture = Fixture::start().await;
    let orders = table("orders");
    fixture.commit_many(&orders, 3).await;
    let mut anonymous = fixture.subscribe(proto::Start::default()).await;
    anonymous.progress_to(3).await;
    let mut named = fixture.subscribe(proto::Start { consumer: "audit".into(), ..Default::default() }).await;
    assert_eq!(offsets(&named.events(3).await), [1, 2, 3]);
    fixture.commit_many(&orders, 1).await;
    assert_eq!(offsets(&anonymous.events(1).await), [4]);
    fixture.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_resumes_behind_what_it_acknowledged() {
    let mut fixture = Fixture::start().await;
    let orders = table("orders");
    fixture.commit_many(&orders, 10).await;
    let start = || proto::Start { consumer: "audit".into(), ..Default::default() };
    let mut first = fixture.subscribe(start()).await;
    first.events(10).await;
    for offset in 1..=6 {
        first.acknowledge(offset);
    }
    // A late, lower one changes nothing.
    first.acknowledge(2);
    first.half_close();
    fixture.until_committed("audit", 6).await;
    drop(first);
    let mut second = fixture.subscribe(start()).await;
    assert_eq!(offsets(&second.events(4).await), [7, 8, 9, 10]);

    // CommitOffset moves it too: forward, and back only when meant.
    let mut client = fixture.client().await;
    let commit = |offset, allow_rewind| proto::CommitOffsetRequest {
        stream: String::new(),
        consumer: "audit".into(),
        offset,
        allow_rewind,
    };
    assert_eq!(client.commit_offset(commit(8, false)).await.unwrap().into_inner().committed_offset, 8);
    assert_eq!(client.commit_offset(commit(3, false)).await.unwrap_err().code(), Code::FailedPrecondition);
    assert_eq!(client.commit_offset(commit(11, false)).await.unwrap_err().code(), Code::OutOfRange);
    assert_eq!(client.commit_offset(commit(3, true)).await.unwrap().into_inner().committed_offset, 3);
    let consumers = client.list_consumers(proto::ListConsumersRequest::default()).await.unwrap().into_inner().consumers;
    assert_eq!((consumers[0].committed_offset, consumers[0].lag_events, consumers[0].connected), (3, 7, true));
    fixture.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_subscription_ends_the_first_and_begins_behind_its_last_acknowledgement() {
    let mut fixture = Fixture::start().await;
    let orders = table("orders");
    fixture.commit_many(&orders, 5).await;
    let start = || proto::Start { consumer: "audit".into(), ..Default::default() };
    let mut first = fixture.subscribe(start()).await;
    first.events(5).await;
    first.acknowledge(3);
    // The acknowledgement and the takeover travel on two connections: let the first arrive.
    fixture.until_committed("audit", 3).await;
    let mut second = fixture.subscribe(start()).await;
    assert_eq!(offsets(&second.events(2).await), [4, 5]);
    let status = first.refused().await;
    assert_eq!(status.code(), Code::Aborted, "{status:?}");
    assert!(status.message().contains("audit"));
    fixture.commit_many(&orders, 1).await;
    assert_eq!(offsets(&second.events(1).await), [6]);
    fixture.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn never_more_is_delivered_than_credit_was_given() {
    let mut fixture = Fixture::start().await;
    let orders = table("orders");
    let rows: Vec<_> = (0..20).map(|number| (&orders, insert(&number.to_string(), b"x"))).collect();
    fixture.commit(&rows).await;
    let start = proto::Start { from: earliest(), credit_events: 7, ..Default::default() };
    let mut subscriber = fixture.subscribe(start.clone()).await;
    let mut seen = offsets(&subscriber.events(7).await);
    let quiet = tokio::time::timeout(std::time::Duration::from_millis(100), subscriber.batch()).await;
    assert!(quiet.is_err(), "more came than credit allowed: {quiet:?}");
    subscriber.credit(1);
    seen.extend(offsets(&subscriber.events(1).await));
    subscriber.credit(5);
    subscriber.credit(100);
    seen.extend(offsets(&subscriber.events(12).await));
    assert_eq!(seen, (1..=20).collect::<Vec<_>>());

    // With a filter, only what is delivered counts.
    let items = table("items");
    fixture
        .commit(&[
            (&items, insert("a", b"")),
            (&orders, insert("b", b"")),
            (&items, insert("c", b"")),
            (&items, insert("d", b"")),
        ])
        .await;
    let filter = Some(proto::Filter { tables: vec!["shop.items".into()], operations: Vec::new() });
    let mut filtered = fixture.subscribe(proto::Start { filter, credit_events: 2, ..start.clone() }).await;
    assert_eq!(offsets(&filtered.events(2).await), [21, 23]);
    // Who will ask for nothing more gets what is left of its credit, and the end.
    filtered.half_close();
    assert_eq!(filtered.batch().await.unwrap(), None);

    let unlimited = fixture.subscribe(proto::Start { credit_events: 0, ..start }).await;
    unlimited.credit(1);
    assert_eq!(unlimited.refused().await.code(), Code::FailedPrecondition);
    fixture.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_filters_gets_what_matches_and_progress_for_the_rest() {
    let mut fixture = Fixture::start().await;
    let (orders, items) = (table("orders"), table("Items"));
    fixture.commit(&[(&orders, insert("1", b"")), (&items, insert("2", b"")), (&orders, insert("3", b""))]).await;
    let filter = |tables: &[&str], operations: &[proto::Operation]| {
        Some(proto::Filter {
            tables: tables.iter().map(|&table| table.to_owned()).collect(),
            operations: operations.iter().map(|&operation| operation.into()).collect(),
        })
    };
    let start = |filter| proto::Start { from: earliest(), filter, ..Default::default() };
    let mut subscriber = fixture.subscribe(start(filter(&["shop.\"Items\"", "other.*"], &[]))).await;
    assert_eq!(offsets(&subscriber.events(1).await), [2]);
    subscriber.progress_to(3).await;
    assert_eq!(subscriber.schemas.len(), 1, "a schema that no event needs is not sent");
    fixture.commit_many(&orders, 5).await;
    subscriber.progress_to(8).await;
    fixture.commit(&[(&items, insert("9", b""))]).await;
    assert_eq!(offsets(&subscriber.events(1).await), [9]);

    let mut deletes = fixture.subscribe(start(filter(&[], &[proto::Operation::Delete]))).await;
    deletes.progress_to(9).await;
    let mut inserts = fixture.subscribe(start(filter(&["*.*"], &[proto::Operation::Insert]))).await;
    assert_eq!(offsets(&inserts.events(9).await), (1..=9).collect::<Vec<_>>());
    for bad in [filter(&["orders"], &[]), filter(&[], &[proto::Operation::Unspecified])] {
        let status = fixture.subscribe(start(bad)).await.refused().await;
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    }
    fixture.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_impossible_start_is_refused_with_what_is_there() {
    let mut fixture = Fixture::start().await;
    fixture.commit_many(&table("orders"), 3).await;
    let refused = async |start: proto::Start| {
        let status = fixture.subscribe(start).await.refused().await;
        (status.code(), status.message().to_owned())
    };
    let (code, message) = refused(proto::Start { from: from_offset(17), ..Default::default() }).await;
    assert!(code == Code::OutOfRange && message.contains("17") && message.contains('4'), "{code:?} {message}");
    let (code, message) = refused(proto::Start { stream: "shopp".into(), ..Default::default() }).await;
    assert!(code == Code::NotFound && message.contains("shopp") && message.contains("shop"), "{code:?} {message}");
    let (code, _) = refused(proto::Start { from: from_offset(0), ..Default::default() }).await;
    assert_eq!(code, Code::InvalidArgument);
    let (code, _) = refused(proto::Start { consumer: "no good name".into(), ..Default::default() }).await;
    assert_eq!(code, Code::InvalidArgument);

    let anonymous = fixture.subscribe(proto::Start::default()).await;
    anonymous.acknowledge(1);
    assert_eq!(anonymous.refused().await.code(), Code::FailedPrecondition);
    let ahead = fixture.subscribe(proto::Start { consumer: "audit".into(), ..Default::default() }).await;
    ahead.acknowledge(4);
    assert_eq!(ahead.refused().await.code(), Code::OutOfRange);
    fixture.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_retention_removed_is_out_of_range() {
    let mut fixture = Fixture::start_with(|_, log| {
        log.partition_bytes_max = 1;
        log.retention = dbstreamd_log::Retention { age: None, bytes: Some(1) };
    })
    .await;
    let orders = table("orders");
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while fixture.log.watermarks(fixture.stream).unwrap().trim_point < Offset(2) {
        assert!(tokio::time::Instant::now() < deadline, "nothing was trimmed");
        fixture.commit_many(&orders, 2).await;
        fixture.log.apply_retention().await.unwrap();
    }
    let status = fixture.subscribe(proto::Start { from: from_offset(1), ..Default::default() }).await.refused().await;
    assert_eq!(status.code(), Code::OutOfRange, "{status:?}");
    let first = fixture.log.watermarks(fixture.stream).unwrap().trim_point.next();
    let mut subscriber = fixture.subscribe(proto::Start { from: earliest(), ..Default::default() }).await;
    fixture.commit_many(&orders, 1).await;
    assert_eq!(subscriber.batch().await.unwrap().unwrap()[0].offset, first.0);
    let stream = fixture.client().await.get_stream(proto::GetStreamRequest::default()).await.unwrap().into_inner();
    assert_eq!(stream.trim_point, first.0);
    fixture.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_larger_than_any_batch_arrives_whole() {
    let mut fixture = Fixture::start().await;
    let orders = table("orders");
    let large = vec![b'z'; 20 << 20];
    let small: Vec<_> = (0..3).map(|number| (&orders, insert(&number.to_string(), &[b'y'; 600_000]))).collect();
    fixture.commit(&small).await;
    fixture.commit(&[(&orders, insert("large", &large)), (&orders, insert("after", b""))]).await;
    let mut subscriber = fixture.subscribe(proto::Start { from: earliest(), ..Default::default() }).await;
    let mut events = Vec::new();
    while events.len() < 5 {
        let batch = subscriber.batch().await.unwrap().unwrap();
        let bytes: usize = batch.iter().map(prost::Message::encoded_len).sum();
        assert!(batch.len() == 1 || bytes <= 1 << 20, "{} events of {bytes} bytes in one batch", batch.len());
        events.extend(batch);
    }
    let cells = &events[3].after.as_ref().unwrap().cells;
    assert_eq!(cells[1].value, Some(proto::cell::Value::Text(large.into())));
    fixture.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn subscribers_of_a_stopping_daemon_are_told_to_come_back() {
    let mut fixture = Fixture::start().await;
    fixture.commit_many(&table("orders"), 1).await;
    let mut subscriber = fixture.subscribe(proto::Start { from: earliest(), ..Default::default() }).await;
    subscriber.events(1).await;
    let stopping = tokio::time::Instant::now();
    fixture.stop_servers().await;
    assert!(stopping.elapsed() < crate::serve::SERVERS_STOP_MAX, "the servers did not end by themselves");
    assert_eq!(subscriber.refused().await.code(), Code::Unavailable);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_whose_next_event_is_gone_is_told_what_to_do_and_one_that_begins_anew_goes_on() {
    let mut fixture = Fixture::start_with(|_, options| {
        options.partition_bytes_max = 2000;
        options.retention = Retention { age: Some(std::time::Duration::ZERO), bytes: None };
        options.holds.disconnected_max = std::time::Duration::ZERO;
    })
    .await;
    let orders = table("orders");
    let start = |from| proto::Start { consumer: "audit".into(), from, ..Default::default() };
    // Known from its first subscription on, although it never acknowledges anything.
    let mut first = fixture.subscribe(start(None)).await;
    fixture.commit(&[(&orders, insert("1", &noise(1500)))]).await;
    first.events(1).await;
    for number in 2..=5 {
        fixture.commit(&[(&orders, insert(&number.to_string(), &noise(1500 + number)))]).await;
    }
    fixture.log.apply_retention().await.unwrap();
    assert_eq!(fixture.log.watermarks(fixture.stream).unwrap().trim_point, Offset::NONE, "it is here and holds");
    drop(first);
    fixture.until_trimmed().await;

    let status = fixture.subscribe(start(None)).await.refused().await;
    assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}");
    let details = crate::grpc::details::find_needs_snapshot(&status).unwrap();
    let marks = fixture.log.watermarks(fixture.stream).unwrap();
    assert_eq!((details.stream.as_str(), details.consumer.as_str()), ("shop", "audit"));
    assert_eq!(details.reason(), proto::SnapshotReason::Trimmed);
    assert_eq!((details.committed_offset, details.trim_point), (0, marks.trim_point.next().0));
    assert_eq!((details.resume_offset, details.publication.as_str()), (6, "the_publication"));
    assert!(status.message().contains("from offset 6"), "{}", status.message());

    // After its snapshot it goes on where it was told to, and is well again once it says so.
    let mut anew = fixture.subscribe(start(from_offset(details.resume_offset))).await;
    fixture.commit(&[(&orders, insert("6", b"x"))]).await;
    assert_eq!(offsets(&anew.events(1).await), [6]);
    anew.acknowledge(6);
    fixture.until_committed("audit", 6).await;
    fixture.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_whose_filter_matches_nothing_has_everything_without_saying_so() {
    let mut fixture = Fixture::start().await;
    let (orders, items) = (table("orders"), table("items"));
    fixture.commit_many(&orders, 20).await;
    let filter = proto::Filter { tables: vec!["shop.items".into()], operations: Vec::new() };
    let start =
        |from| proto::Start { consumer: "sparse".into(), filter: Some(filter.clone()), from, ..Default::default() };
    let mut sparse = fixture.subscribe(start(None)).await;
    sparse.progress_to(20).await;
    fixture.until_committed("sparse", 20).await;
    // What it was given and has not acknowledged stays in front of it.
    fixture.commit(&[(&items, insert("1", b"x"))]).await;
    fixture.commit_many(&orders, 5).await;
    assert_eq!(offsets(&sparse.events(1).await), [21]);
    sparse.progress_to(26).await;
    assert_eq!(fixture.committed("sparse"), 20);
    drop(sparse);
    let mut again = fixture.subscribe(start(None)).await;
    assert_eq!(offsets(&again.events(1).await), [21]);
    again.acknowledge(21);
    fixture.commit_many(&orders, 1).await;
    fixture.until_committed("sparse", 27).await;
    drop(again);

    // One that began elsewhere by its own wish is not moved before it acknowledges.
    let mut elsewhere = fixture.subscribe(start(from_offset(2))).await;
    elsewhere.events(1).await;
    fixture.commit_many(&orders, 1).await;
    elsewhere.progress_to(28).await;
    assert_eq!(fixture.committed("sparse"), 27);
    fixture.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_consumer_that_begins_at_the_end_and_gets_nothing_moves_on_all_the_same() {
    let mut fixture = Fixture::start().await;
    let (orders, items) = (table("orders"), table("items"));
    fixture.commit_many(&orders, 5).await;
    let filter = Some(proto::Filter { tables: vec!["shop.items".into()], operations: Vec::new() });
    let latest = Some(proto::StartFrom { from: Some(proto::start_from::From::Latest(proto::Empty {})) });
    let start = proto::Start { consumer: "rare".into(), filter, from: latest, ..Default::default() };
    let mut rare = fixture.subscribe(start).await;
    rare.progress_to(5).await;
    fixture.commit_many(&orders, 5).await;
    fixture.until_committed("rare", 10).await;
    // An acknowledgement that comes after the progress behind it carries that along.
    fixture.commit(&[(&items, insert("1", b"x"))]).await;
    fixture.commit_many(&orders, 3).await;
    assert_eq!(offsets(&rare.events(1).await), [11]);
    rare.progress_to(14).await;
    rare.acknowledge(11);
    fixture.until_committed("rare", 14).await;
    fixture.stop().await;
}
