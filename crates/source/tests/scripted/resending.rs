//! What a source sends again is compared with the log and dropped; a difference stops the stream, or begins a new epoch.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use dbstreamd_log::{CreditWindow, EpochReason};
use dbstreamd_model::Lsn;
use dbstreamd_source::{OnGap, RetryPolicy, State, StreamStatus, run};
use tokio_util::sync::CancellationToken;

use crate::source::{Stream, Unit, history};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_sent_again_unchanged_is_dropped_whole_and_new_units_follow() {
    let stream = Stream::new();
    assert_eq!(stream.play(&history(), 0, 4).await, None);
    let again = [&history()[1..], &[Unit(400, vec!["e"])]].concat();
    assert_eq!(stream.play(&again, 200, 5).await, None);
    assert_eq!(stream.values().await, ["a", "b", "c", "d", "e"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn empty_transactions_may_be_sent_again_or_not() {
    let stream = Stream::new();
    let with_empty = vec![Unit(100, vec!["a"]), Unit(200, vec![]), Unit(300, vec!["b"]), Unit(400, vec![])];
    assert_eq!(stream.play(&with_empty, 0, 2).await, None);
    let again = vec![Unit(200, vec![]), Unit(300, vec!["b"]), Unit(500, vec!["c"])];
    assert_eq!(stream.play(&again, 200, 3).await, None);
    assert_eq!(stream.values().await, ["a", "b", "c"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_unit_that_differs_in_content_alone_is_a_fork_and_nothing_is_appended() {
    let stream = Stream::new();
    assert_eq!(stream.play(&history(), 0, 4).await, None);
    let forked = vec![Unit(200, vec!["b", "X"]), Unit(300, vec!["d"]), Unit(400, vec!["e"])];
    let reason = stream.play(&forked, 200, 5).await.expect("it stops");
    assert!(reason.contains("differs") && reason.contains("0/C8"), "{reason}");
    assert_eq!(stream.values().await, ["a", "b", "c", "d"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_sent_again_in_another_form_is_compared_without_its_content_and_only_as_far_as_it_was_in_the_old_form()
{
    let stream = Stream::new();
    assert_eq!(stream.play(&history(), 0, 4).await, None);
    stream.form.store(2, Relaxed);
    let printed = [Unit(200, vec!["B", "C"]), Unit(300, vec!["D"]), Unit(400, vec!["e"])];
    assert_eq!(stream.play(&printed, 200, 5).await, None);
    assert_eq!(stream.values().await, ["a", "b", "c", "d", "e"]);
    // Again in the new form: what was stored in it is compared in full.
    let again = [&printed[..], &[Unit(500, vec!["f"])]].concat();
    assert_eq!(stream.play(&again, 200, 6).await, None);
    let forked = [&printed[..2], &[Unit(400, vec!["X"])]].concat();
    let reason = stream.play(&forked, 200, 7).await.expect("it stops");
    assert!(reason.contains("differs"), "{reason}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_transaction_in_the_place_of_one_is_a_fork_in_any_form() {
    let stream = Stream::new();
    assert_eq!(stream.play(&history(), 0, 4).await, None);
    stream.form.store(2, Relaxed);
    let reason = stream.play(&[Unit(210, vec!["b", "c"]), Unit(300, vec!["d"])], 200, 5).await.expect("it stops");
    assert!(reason.contains("differs"), "{reason}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_unit_the_log_has_and_the_source_skips_is_a_fork() {
    let stream = Stream::new();
    assert_eq!(stream.play(&history(), 0, 4).await, None);
    let skipping = vec![Unit(200, vec!["b", "c"]), Unit(500, vec!["e"])];
    let reason = stream.play(&skipping, 200, 5).await.expect("it stops");
    assert!(reason.contains("did not send again"), "{reason}");
    assert_eq!(stream.values().await, ["a", "b", "c", "d"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_unit_the_log_never_had_where_it_had_others_is_a_fork() {
    let stream = Stream::new();
    assert_eq!(stream.play(&history(), 0, 4).await, None);
    let reason = stream.play(&[Unit(250, vec!["z"])], 200, 5).await.expect("it stops");
    assert!(reason.contains("differs"), "{reason}");
    assert_eq!(stream.values().await, ["a", "b", "c", "d"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rewritten_history_is_taken_whole_under_a_new_epoch() {
    let stream = Stream::new();
    assert_eq!(stream.play(&history(), 0, 4).await, None);
    // Half of it is as before, half is not; the new epoch has all of it, and goes on.
    let rewritten = vec![Unit(200, vec!["b", "c"]), Unit(310, vec!["x"]), Unit(420, vec!["y"])];
    assert_eq!(stream.play_with(&rewritten, 200, 8, OnGap::NewEpoch).await, None);
    assert_eq!(stream.values().await, ["a", "b", "c", "d", "b", "c", "x", "y"]);
    let id = stream.log.stream_named("shop").unwrap();
    let epochs = stream.log.epochs(id);
    let [record] = epochs.as_slice() else { panic!("{epochs:?}") };
    assert_eq!((record.reason, record.first_offset.0), (EpochReason::HistoryRewritten, 5));
    assert_eq!((record.log_lsn, record.source_lsn), (Lsn(400), Lsn(200)));
    // What is sent again later is compared with the new epoch alone.
    assert_eq!(stream.play_with(&rewritten[1..], 250, 8, OnGap::NewEpoch).await, None);
    assert_eq!((stream.values().await.len(), stream.log.epochs(id).len()), (8, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_history_that_changes_again_and_again_stops_the_stream_after_three_epochs() {
    let stream = Stream::new();
    assert_eq!(stream.play(&history(), 0, 4).await, None);
    let id = stream.log.stream_named("shop").unwrap();
    let status = StreamStatus::new("shop".parse().unwrap());
    let mut source = stream.scripted(&history()[1..], 200, OnGap::NewEpoch);
    source.flaps = true;
    let (window, retry, shutdown) = (CreditWindow::new(1 << 20), RetryPolicy::default(), CancellationToken::new());
    let task =
        run(Box::new(source), stream.log.clone(), id, window, Arc::clone(&status), retry, shutdown.clone().into());
    let task = tokio::spawn(task);
    status.watch().wait_for(|life| life.state == State::Failed && !life.retrying).await.unwrap();
    let reason = status.lifecycle().error.unwrap().to_string();
    assert!(reason.contains("differs") && reason.contains("began 3 new epochs within the last hour"), "{reason}");
    assert_eq!(stream.log.epochs(id).len(), 3);
    // Four of the old epoch, and two of each session that came through.
    assert_eq!(stream.values().await.len(), 4 + 3 * 2);
    shutdown.cancel();
    task.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_confirmed_before_the_source_has_sent_all_up_to_where_it_was_confirmed_before() {
    let stream = Stream::new();
    assert_eq!(stream.play(&history(), 0, 4).await, None);
    let id = stream.log.stream_named("shop").unwrap();
    // An idle position far beyond the newest unit, which ends at 400.
    let mut appender = stream.log.appender(id).unwrap();
    appender.begin_session().await.unwrap();
    appender.idle(Lsn(1000), true);
    stream.log.watch(id).unwrap().wait_for(|marks| marks.confirmed_through == Lsn(1000)).await.unwrap();
    drop(appender);

    // A copy of the source has overtaken us meanwhile: it has units where there was nothing.
    let units = [Unit(500, vec!["e"]), Unit(600, vec!["f"]), Unit(980, vec!["g"]), Unit(1200, vec!["h"])];
    let status = StreamStatus::new("shop".parse().unwrap());
    let source = stream.scripted(&units, 450, OnGap::NewEpoch);
    let confirmers = Arc::clone(&source.confirmers);
    let (window, retry, shutdown) = (CreditWindow::new(1 << 20), RetryPolicy::default(), CancellationToken::new());
    let task = run(Box::new(source), stream.log.clone(), id, window, status, retry, shutdown.clone().into());
    let task = tokio::spawn(task);
    stream.log.watch(id).unwrap().wait_for(|marks| marks.visible.0 == 8).await.unwrap();
    shutdown.cancel();
    task.await.unwrap();
    assert_eq!(stream.values().await, ["a", "b", "c", "d", "e", "f", "g", "h"]);
    let allowed_at = *confirmers.allowed_at.lock().unwrap();
    assert!(allowed_at.is_some_and(|lsn| lsn >= 1080), "allowed when {allowed_at:?} was received");
}
