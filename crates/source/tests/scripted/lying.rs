//! A source that sends what lies behind what it had said was all.

use dbstreamd_log::CreditWindow;
use dbstreamd_source::{OnGap, State};

use crate::source::{Stream, Unit, history};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_behind_what_was_said_to_be_all_is_refused_and_nothing_of_it_is_stored() {
    // Three units in order, and then one that commits before the last: the source lies, or something reorders.
    let stream = Stream::new();
    let late = [history(), vec![Unit(250, vec!["late"])]].concat();
    let running = stream.run(stream.scripted(&late, 0, OnGap::Fail), &CreditWindow::new(1 << 20));
    // What came before may be cut off with the session, and is sent again in the next.
    stream.until_visible(4).await;
    let failed = running.until(State::Failed).await;
    let reason = failed.error.unwrap();
    assert!(failed.retrying && reason.contains("not the order of its own log"), "{reason}");
    running.stop().await;
    assert_eq!(stream.values().await, ["a", "b", "c", "d"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_keepalive_ahead_of_data_is_noticed_with_the_data_which_is_taken_once_the_source_sends_it_in_order() {
    let stream = Stream::new();
    let units = [Unit(100, vec!["a"]), Unit(500, vec!["late"]), Unit(1200, vec!["b"])];
    let window = CreditWindow::new(1 << 20);
    let mut lying = stream.scripted(&units, 0, OnGap::NewEpoch);
    lying.keepalives = vec![(1, 1000)];
    let running = stream.run(lying, &window);
    stream.until_visible(1).await;
    let reason = running.until(State::Failed).await.error.unwrap();
    assert!(reason.contains("not the order of its own log") && reason.contains("0/3E8"), "{reason}");
    assert!(running.status.keepalives_received() > 0);
    running.stop().await;
    assert_eq!(stream.values().await, ["a"], "nothing of it, and nothing behind it");

    // The lie may be durable by now; what the source sends from before it is taken all the same, once, and under the same
    // epoch: it was an idle position, which says nothing of what the log has.
    let running = stream.run(stream.scripted(&units, 0, OnGap::NewEpoch), &window);
    stream.until_visible(3).await;
    running.stop().await;
    assert_eq!(stream.values().await, ["a", "late", "b"]);
    assert_eq!(stream.log.epochs(stream.id()), []);
}
