//! What concurrent writers commit arrives whole, once and in commit order.

use crate::support::workload::{self, SCHEMA};
use crate::support::{Daemon, cluster, database, eventually};

#[test]
fn concurrent_writers_arrive_complete_whole_and_in_commit_order() {
    let (writers, transactions) = (4, 300);
    let cluster = cluster();
    let url = database(&cluster, "shop", SCHEMA);
    let daemon = Daemon::serving(&[&url]);
    std::thread::scope(|scope| {
        for writer in 1..=writers {
            let cluster = &cluster;
            scope.spawn(move || workload::write(cluster, "shop", writer, 1, transactions));
        }
    });
    let expected = u64::from(writers) * workload::events_of(transactions);
    wait_visible(&daemon, expected);
    let events = daemon.everything("shop");
    assert_eq!(events.len() as u64, expected);
    workload::check(&events, writers, transactions);
    // A follower that starts in the middle sees the same events under the same offsets.
    let middle = daemon.tail(&["shop", "--from", "1000", "--until-caught-up"]);
    assert_eq!(middle, events[999..]);
    // And so does who seeks by the LSN of a transaction: it gets what ends after it.
    let lsn = events[999]["commit_lsn"].as_str().unwrap();
    let by_lsn = daemon.tail(&["shop", "--from", &format!("lsn:{lsn}"), "--limit", "1"]);
    assert_eq!(by_lsn[0]["commit_lsn"], lsn, "the transaction that commits at an LSN ends after it");
    assert_eq!(by_lsn[0]["ordinal"], 0);
}

#[test]
fn a_rolled_back_transaction_and_a_rolled_back_savepoint_leave_nothing() {
    let cluster = cluster();
    let url = database(&cluster, "shop", "CREATE TABLE t (id int PRIMARY KEY)");
    let daemon = Daemon::serving(&[&url]);
    cluster
        .psql("shop", "BEGIN; INSERT INTO t VALUES (1); ROLLBACK;
            BEGIN; INSERT INTO t VALUES (2); SAVEPOINT s; INSERT INTO t VALUES (3); ROLLBACK TO s; INSERT INTO t VALUES (4); COMMIT;")
        .unwrap();
    wait_visible(&daemon, 2);
    let ids: Vec<_> = daemon.everything("shop").iter().map(|e| e["after"]["id"].clone()).collect();
    assert_eq!(ids, ["2", "4"]);
}

/// Waits until the only stream's visible offset reaches `offset`.
pub(crate) fn wait_visible(daemon: &Daemon, offset: u64) {
    eventually(&format!("offset {offset} is visible"), || {
        let visible = daemon.streams()[0]["visible_offset"].as_u64()?;
        (visible >= offset).then_some(())
    });
}
