//! A new epoch, as consumers see it: told to who crosses, and the end of the call for who must not.

use dbstreamd_log::{LogOptions, Retention};
use tonic::Code;

use super::fixture::*;
use crate::proto;

fn named(from: Option<proto::StartFrom>) -> proto::Start {
    proto::Start { consumer: "audit".into(), from, ..Default::default() }
}

/// Three events of the first epoch, two of the second.
async fn two_epochs() -> Fixture {
    let mut fixture = Fixture::start().await;
    fixture.commit_many(&table("orders"), 3).await;
    fixture.raise_epoch(50).await;
    fixture.commit_many(&table("orders"), 2).await;
    fixture
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_crosses_is_told_once_before_the_first_event_of_the_new_epoch() {
    let mut fixture = Fixture::start().await;
    let orders = table("orders");
    fixture.commit_many(&orders, 3).await;
    let mut follower = fixture.subscribe(proto::Start::default()).await;
    follower.progress_to(3).await;
    fixture.raise_epoch(50).await;
    fixture.raise_epoch(60).await;
    fixture.commit_many(&orders, 1).await;
    let events = follower.events(1).await;
    assert_eq!((events[0].offset, events[0].epoch), (4, 3));
    assert_eq!(follower.epochs.iter().map(|epoch| epoch.epoch).collect::<Vec<_>>(), [2, 3], "the empty one as well");
    let told = follower.epochs[1];
    assert_eq!((told.first_offset, told.reason()), (4, proto::EpochReason::ServerBehind));
    assert_eq!((told.log_lsn, told.source_lsn), (50, 60));
    assert!(told.started_at_us > 1_700_000_000_000_000);
    fixture.commit_many(&orders, 2).await;
    assert_eq!(offsets(&follower.events(2).await), [5, 6]);
    assert_eq!(follower.epochs.len(), 2);

    let mut all = fixture.subscribe(proto::Start { from: earliest(), ..Default::default() }).await;
    let events = all.events(6).await;
    assert_eq!(events.iter().map(|event| event.epoch).collect::<Vec<_>>(), [1, 1, 1, 3, 3, 3]);
    assert_eq!((all.epochs.len(), all.started.unwrap().epoch), (2, 1));
    for (from, left, epochs) in [(3, 4, 2), (4, 3, 2), (5, 2, 0)] {
        let mut late = fixture.subscribe(proto::Start { from: from_offset(from), ..Default::default() }).await;
        late.events(left).await;
        assert_eq!(late.epochs.len(), epochs, "from {from}");
        assert_eq!(late.started.unwrap().epoch, if from == 5 { 3 } else { 1 });
    }
    let stream = fixture.client().await.get_stream(proto::GetStreamRequest::default()).await.unwrap().into_inner();
    assert_eq!((stream.epoch, stream.epochs), (3, follower.epochs));
    fixture.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_named_consumer_gets_all_of_its_epoch_and_then_must_say_that_it_knows() {
    let fixture = two_epochs().await;
    for _ in 0..2 {
        let mut held = fixture.subscribe(named(None)).await;
        assert_eq!(offsets(&held.events(3).await), [1, 2, 3]);
        let status = held.batch().await.unwrap_err();
        assert_eq!(status.code(), Code::FailedPrecondition);
        for part in ["audit", "must resynchronise", "new epoch, 2, since offset 4", "older state", "explicit start"] {
            assert!(status.message().contains(part), "{part} is not in {}", status.message());
        }
        assert_eq!(held.epochs, [], "it is not led across");
    }
    // Also when it had acknowledged everything there was.
    let mut client = fixture.client().await;
    let commit = |offset| proto::CommitOffsetRequest { consumer: "audit".into(), offset, ..Default::default() };
    client.commit_offset(commit(3)).await.unwrap();
    let mut held = fixture.subscribe(named(None)).await;
    assert_eq!(held.batch().await.unwrap_err().code(), Code::FailedPrecondition);

    let mut knowing = fixture.subscribe(named(from_offset(4))).await;
    assert_eq!(offsets(&knowing.events(2).await), [4, 5]);
    assert_eq!(knowing.epochs.len(), 1);
    client.commit_offset(commit(4)).await.unwrap();
    drop(knowing);
    let mut resumed = fixture.subscribe(named(None)).await;
    assert_eq!(offsets(&resumed.events(1).await), [5], "it is in the new epoch now");
    assert_eq!(resumed.epochs, []);
    fixture.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_named_consumer_that_waits_at_the_end_is_ended_when_the_new_epoch_has_something() {
    let mut fixture = Fixture::start().await;
    let orders = table("orders");
    fixture.commit_many(&orders, 3).await;
    let mut waiting = fixture.subscribe(named(None)).await;
    assert_eq!(offsets(&waiting.events(3).await), [1, 2, 3]);
    fixture.raise_epoch(50).await;
    fixture.commit_many(&orders, 1).await;
    assert_eq!(waiting.batch().await.unwrap_err().code(), Code::FailedPrecondition);
    fixture.stop().await;
}

/// How the consumer stands to the log.
fn state(fixture: &Fixture) -> &'static str {
    fixture.log.consumer(fixture.stream, &"audit".parse().unwrap()).unwrap().state.name()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_consumer_that_never_had_anything_of_the_old_epoch_has_nothing_to_resynchronise() {
    let keep_little = |_: &mut _, options: &mut LogOptions| {
        options.partition_bytes_max = 1;
        options.retention = Retention { age: None, bytes: Some(1) };
    };
    let mut fixture = Fixture::start_with(keep_little).await;
    let orders = table("orders");
    fixture.commit_many(&orders, 3).await;
    fixture.raise_epoch(50).await;
    fixture.log.apply_retention().await.unwrap();
    assert_eq!(fixture.log.watermarks(fixture.stream).unwrap().trim_point.0, 3, "the old epoch is gone");
    let mut waiting = fixture.subscribe(named(None)).await;
    waiting.progress_to(3).await;
    assert_eq!((fixture.committed("audit"), state(&fixture)), (3, "ACTIVE"), "it begins where the log does");
    drop(waiting);
    fixture.commit_many(&orders, 1).await;
    // It comes back before it has acknowledged anything, again and again.
    for _ in 0..2 {
        let mut new = fixture.subscribe(named(None)).await;
        assert_eq!(offsets(&new.events(1).await), [4]);
        assert_eq!(new.epochs.len(), 1, "it is told all the same");
    }
    // What it had of the second epoch, acknowledged or not, it gets again, and no more than that.
    fixture.raise_epoch(60).await;
    fixture.commit_many(&orders, 1).await;
    let mut held = fixture.subscribe(named(None)).await;
    assert_eq!(offsets(&held.events(1).await), [4]);
    assert_eq!(held.batch().await.unwrap_err().code(), Code::FailedPrecondition);
    fixture.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_explicit_start_in_the_new_epoch_is_good_at_once_and_for_the_next_subscriptions() {
    let mut fixture = Fixture::start().await;
    let orders = table("orders");
    fixture.commit_many(&orders, 3).await;
    let commit = |offset| proto::CommitOffsetRequest { consumer: "audit".into(), offset, ..Default::default() };
    fixture.client().await.commit_offset(commit(3)).await.unwrap();
    fixture.raise_epoch(50).await;
    assert_eq!(state(&fixture), "NEEDS_SNAPSHOT");
    // The epoch has nothing yet: no offset shows that the consumer is in it.
    let mut knowing = fixture.subscribe(named(from_offset(4))).await;
    knowing.progress_to(3).await;
    assert_eq!((fixture.committed("audit"), state(&fixture)), (3, "ACTIVE"));
    drop(knowing);
    fixture.commit_many(&orders, 1).await;
    let mut resumed = fixture.subscribe(named(None)).await;
    assert_eq!(offsets(&resumed.events(1).await), [4], "it need not say so again");
    assert_eq!(resumed.epochs.len(), 1);
    drop(resumed);

    // The next break holds it anew; it goes on past what there is, as the refusal says it can.
    fixture.raise_epoch(60).await;
    fixture.commit_many(&orders, 2).await;
    let mut held = fixture.subscribe(named(None)).await;
    assert_eq!(offsets(&held.events(1).await), [4]);
    assert_eq!(held.batch().await.unwrap_err().code(), Code::FailedPrecondition);
    // To read the old epoch once more is no answer to that.
    let mut again = fixture.subscribe(named(from_offset(2))).await;
    assert_eq!(offsets(&again.events(3).await), [2, 3, 4]);
    drop(again);
    assert_eq!(fixture.committed("audit"), 3);
    let mut knowing = fixture.subscribe(named(from_offset(7))).await;
    knowing.progress_to(6).await;
    assert_eq!((fixture.committed("audit"), state(&fixture)), (6, "ACTIVE"));
    drop(knowing);
    fixture.commit_many(&orders, 1).await;
    let mut resumed = fixture.subscribe(named(None)).await;
    assert_eq!(offsets(&resumed.events(1).await), [7]);
    fixture.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_whose_place_was_trimmed_is_well_as_soon_as_it_begins_elsewhere() {
    let keep_little = |_: &mut _, options: &mut LogOptions| {
        options.partition_bytes_max = 1;
        options.retention = Retention { age: None, bytes: Some(1) };
        options.holds.max_hold_bytes = 0;
    };
    let mut fixture = Fixture::start_with(keep_little).await;
    let orders = table("orders");
    fixture.commit_many(&orders, 1).await;
    let commit = |offset| proto::CommitOffsetRequest { consumer: "audit".into(), offset, ..Default::default() };
    fixture.client().await.commit_offset(commit(1)).await.unwrap();
    fixture.commit_many(&orders, 4).await;
    fixture.log.apply_retention().await.unwrap();
    assert_eq!(state(&fixture), "NEEDS_SNAPSHOT");
    assert_eq!(fixture.subscribe(named(None)).await.refused().await.code(), Code::FailedPrecondition);
    let mut anew = fixture.subscribe(named(from_offset(6))).await;
    anew.progress_to(5).await;
    assert_eq!((fixture.committed("audit"), state(&fixture)), (5, "ACTIVE"));
    drop(anew);
    fixture.commit_many(&orders, 1).await;
    let mut resumed = fixture.subscribe(named(None)).await;
    assert_eq!(offsets(&resumed.events(1).await), [6]);
    fixture.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn http_shows_epochs_and_where_they_begin() {
    let fixture = two_epochs().await;
    let (_, stream) = fixture.get("/v1/streams/shop", "").await;
    for part in ["\"epoch\":2", "\"reason\":\"server_behind\"", "\"first_offset\":4", "\"source_lsn\":\"0/32\""] {
        assert!(stream.contains(part), "{part} is not in {stream}");
    }
    let (_, metrics) = fixture.get("/metrics", "").await;
    assert!(metrics.contains("dbstreamd_stream_epoch{stream=\"shop\"} 2"), "{metrics}");
    let (_, events) = fixture.get("/v1/streams/shop/events?from=earliest&limit=5", "").await;
    let place = |part: &str| events.find(part).unwrap_or_else(|| panic!("{part} is not in {events}"));
    assert!(place("id: 3") < place("event: epoch") && place("event: epoch") < place("id: 4"), "{events}");
    assert_eq!(events.matches("event: epoch").count(), 1);
    // A browser that comes back from the old epoch's end is told too.
    let (_, events) = fixture.get("/v1/streams/shop/events?limit=1", "Last-Event-ID: 3\r\n").await;
    assert!(events.contains("event: epoch") && events.contains("id: 4"), "{events}");
    fixture.stop().await;
}
