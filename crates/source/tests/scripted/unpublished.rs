//! A source that says, in its place between the changes, that it leaves some out since it had no publication then.

use dbstreamd_log::CreditWindow;
use dbstreamd_source::{OnGap, State};

use crate::source::{Scripted, Stream, Unit};

fn leaving_out(stream: &Stream, has_publication: bool) -> Scripted {
    let units = [Unit(100, vec!["a"]), Unit(1200, vec!["b"])];
    let mut source = stream.scripted(&units, 0, OnGap::Fail);
    source.unpublished_after = Some(1);
    source.keepalives = vec![(1, 1000)];
    source.has_publication = has_publication;
    source
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_publication_the_session_ends_there_and_nothing_behind_it_is_taken_or_confirmed() {
    let stream = Stream::new();
    let source = leaving_out(&stream, false);
    let running = stream.run(source, &CreditWindow::new(1 << 20));
    // What came before may be cut off with the session, and is sent again in the next.
    stream.until_visible(1).await;
    let failed = running.until(State::Failed).await;
    let reason = failed.error.unwrap();
    assert!(failed.retrying && reason.contains("\"shop_tables\" does not exist any more"), "{reason}");
    let received = running.status.received_lsn();
    running.stop().await;
    assert_eq!(received.0, 200, "neither the keepalive behind it nor what follows");
    assert_eq!(stream.values().await, ["a"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_a_publication_that_was_created_since_the_stream_goes_on_to_what_came_later() {
    let stream = Stream::new();
    let running = stream.run(leaving_out(&stream, true), &CreditWindow::new(1 << 20));
    stream.until_visible(2).await;
    assert_eq!(running.status.reconnects(), 0);
    running.stop().await;
    assert_eq!(stream.values().await, ["a", "b"]);
}
