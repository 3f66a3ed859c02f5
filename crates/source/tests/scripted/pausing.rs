//! A stream that is paused where it waits for something: it lets go at once, and goes on where it was.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use dbstreamd_log::CreditWindow;
use dbstreamd_model::Timestamp;
use dbstreamd_source::{Goal, OnGap, PauseNote, State};

use crate::source::{Stream, history, within};

fn pause() -> Goal {
    let note = PauseNote { by: "a test".into(), why: String::new(), since: Timestamp(0), durable: false };
    Goal::Pause(Arc::new(note))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pause_during_setup_gives_the_connection_up_and_a_resume_begins_anew() {
    let stream = Stream::new();
    let mut source = stream.scripted(&history(), 0, OnGap::Fail);
    source.hangs = 1;
    let opened = Arc::clone(&source.opened);
    let running = stream.run(source, &CreditWindow::new(1 << 20));
    let asked = async {
        while opened.load(Relaxed) == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    within(asked).await;
    assert_eq!(running.status.lifecycle().state, State::Setup);
    running.control.set(pause());
    let note = running.until(State::Paused).await.error.unwrap();
    assert!(note.contains("paused by a test"), "{note}");
    assert_eq!(opened.load(Relaxed), 1, "it does not connect while it is paused");
    running.control.set(Goal::Run);
    stream.until_visible(4).await;
    assert_eq!((opened.load(Relaxed), running.status.reconnects()), (2, 0), "the first was no session");
    running.stop().await;
    assert_eq!(stream.values().await, ["a", "b", "c", "d"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pause_while_the_credit_window_is_full_waits_for_no_credit_and_loses_nothing() {
    let stream = Stream::new();
    let window = CreditWindow::new(1 << 20);
    // Somebody else has received as much as there may be.
    let all = within(window.acquire(1 << 20)).await;
    let running = stream.run(stream.scripted(&history(), 0, OnGap::Fail), &window);
    let received = async {
        while running.status.bytes_received() == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    within(received).await;
    assert_eq!(running.status.lifecycle().state, State::Streaming);
    running.control.set(pause());
    running.until(State::Paused).await;
    let marks = stream.log.watermarks(stream.id()).unwrap();
    assert_eq!(
        (marks.appended.0, marks.visible.0, running.status.events_received()),
        (0, 0, 0),
        "nothing was taken in"
    );
    assert_eq!(window.used(), window.limit(), "and it has no credit of its own");
    drop(all);
    assert_eq!(window.used(), 0);
    running.control.set(Goal::Run);
    stream.until_visible(4).await;
    running.stop().await;
    assert_eq!(stream.values().await, ["a", "b", "c", "d"]);
    assert_eq!(window.used(), 0);
}
