//! `dbstreamd demo`: the first thing a newcomer runs.

use crate::support::daemon::run;

#[test]
fn the_demo_shows_changes_sums_up_and_leaves_nothing_behind() {
    let done = run(&["demo", "--seconds", "3", "--rate", "50"]);
    assert_eq!(done.status.code(), Some(0), "{}\n{}", done.stdout, done.stderr);
    for word in ["insert", "update", "events", "p50", "p99"] {
        assert!(done.stdout.to_lowercase().contains(word), "no {word} in {}", done.stdout);
    }
    assert!(!done.stdout.contains('\u{1b}'), "plain lines without a terminal");
}
