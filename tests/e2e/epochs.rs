//! The source's history breaks, each way that it can: the stream goes on under a new epoch, or stops where it is told to,
//! and nothing is spliced, dropped or confirmed in silence.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use dbstreamd_throwaway::{Cluster, ShutdownMode};
use serde_json::Value;

use crate::ordering::wait_visible;
use crate::support::{Daemon, cluster, daemon::run, database, eventually};

pub(crate) const SLOT: &str = "dbstreamd_shop";

/// A server with one table, a daemon's data directory, and the source's settings.
pub(crate) struct Shop {
    pub(crate) cluster: Cluster,
    pub(crate) url: String,
    dir: tempfile::TempDir,
    pub(crate) settings: String,
}

impl Shop {
    pub(crate) fn new(settings: &str) -> Self {
        Self::on(cluster(), settings)
    }

    fn on(cluster: Cluster, settings: &str) -> Self {
        let url = database(&cluster, "shop", "CREATE TABLE t (id int PRIMARY KEY)");
        Self { cluster, url, dir: tempfile::tempdir().unwrap(), settings: settings.to_owned() }
    }

    /// Starts the daemon; does not wait for the source.
    pub(crate) fn start(&self) -> Daemon {
        let config = self.dir.path().join("dbstreamd.toml");
        let text = format!("[[source]]\nname = \"shop\"\nurl = \"{}\"\n{}\n", self.url, self.settings);
        std::fs::write(&config, text).unwrap();
        Daemon::start_with(&["--config".into(), config.to_str().unwrap().into()], &self.dir.path().join("data"))
    }

    pub(crate) fn streaming(&self) -> Daemon {
        let daemon = self.start();
        daemon.wait_streaming();
        daemon
    }

    pub(crate) fn insert(&self, from: u32, to: u32) {
        self.sql(&format!("INSERT INTO t SELECT generate_series({from}, {to})"));
    }

    pub(crate) fn sql(&self, sql: &str) -> String {
        self.cluster.psql("shop", sql).unwrap()
    }

    /// WAL that holds nothing for the stream: two segments of it.
    fn idle_wal(&self) {
        for _ in 0..2 {
            self.sql("SELECT pg_create_restore_point('idle'); SELECT pg_switch_wal()");
        }
        self.sql("CHECKPOINT");
    }

    /// Stops the server and copies its data directory, with owners and times, as a volume snapshot does.
    pub(crate) fn snapshot(&self) -> PathBuf {
        self.cluster.stop(ShutdownMode::Fast).unwrap();
        let copy = self.dir.path().join("copy");
        copy_dir(&self.cluster.data_dir(), &copy);
        self.cluster.start_again().unwrap();
        copy
    }

    /// Stops the server and puts the copy in place of its data directory.
    pub(crate) fn put_back(&self, copy: &Path) {
        self.cluster.stop(ShutdownMode::Fast).unwrap();
        std::fs::remove_dir_all(self.cluster.data_dir()).unwrap();
        copy_dir(copy, &self.cluster.data_dir());
    }

    /// Starts the stopped server as a standby of nobody and promotes it: a new timeline that begins where its WAL ended.
    pub(crate) fn promote(&self) {
        std::fs::write(self.cluster.data_dir().join("standby.signal"), "").unwrap();
        self.cluster.start_again().unwrap();
        self.sql("SELECT pg_promote()");
        eventually("the promotion", || (self.sql("SELECT pg_is_in_recovery()") == "f").then_some(()));
    }

    /// The WAL position up to which the server has written.
    fn wal_end(&self) -> u64 {
        self.sql("SELECT pg_current_wal_insert_lsn() - '0/0'").parse().unwrap()
    }

    pub(crate) fn slot(&self, column: &str) -> String {
        self.sql(&format!("SELECT {column} FROM pg_replication_slots WHERE slot_name = '{SLOT}'"))
    }

    /// Runs a statement on the slot once nobody holds it.
    fn on_free_slot(&self, sql: &str) {
        eventually("the slot is free", || self.cluster.psql("shop", sql).ok());
    }
}

fn copy_dir(from: &Path, to: &Path) {
    assert!(std::process::Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap().success());
}

fn lsn(value: &Value) -> u64 {
    let (high, low) = value.as_str().unwrap().split_once('/').unwrap();
    u64::from_str_radix(high, 16).unwrap() << 32 | u64::from_str_radix(low, 16).unwrap()
}

/// The recorded epochs, once there are so many.
pub(crate) fn epochs(daemon: &Daemon, count: usize) -> Vec<Value> {
    eventually(&format!("{count} new epochs"), || {
        let epochs = daemon.streams()[0]["epochs"].as_array().unwrap().clone();
        (epochs.len() >= count).then_some(epochs)
    })
}

/// The ids of all rows, by epoch; checks that offsets are dense and epochs announced before their first row.
pub(crate) fn ids(daemon: &Daemon) -> Vec<Vec<u32>> {
    let mut ids: Vec<Vec<u32>> = vec![Vec::new()];
    let mut offset = 0;
    for line in daemon.everything("shop") {
        if let Some(started) = line.get("epoch_started") {
            ids.push(Vec::new());
            assert_eq!(started["epoch"], ids.len(), "{started}");
            assert_eq!(started["first_offset"], offset + 1, "{started}");
            continue;
        }
        offset += 1;
        assert_eq!((line["offset"].as_u64(), line["epoch"].as_u64()), (Some(offset), Some(ids.len() as u64)), "{line}");
        ids.last_mut().unwrap().push(line["after"]["id"].as_str().unwrap().parse().unwrap());
    }
    ids
}

/// Checks the ids of all rows by epoch, without the thousands of them in a message.
pub(crate) fn has_ids(daemon: &Daemon, expected: &[Vec<u32>]) {
    let found = ids(daemon);
    let short = |ids: &[Vec<u32>]| {
        ids.iter().map(|ids| (ids.first().copied(), ids.len(), ids.last().copied())).collect::<Vec<_>>()
    };
    assert!(found == expected, "(first, number, last) by epoch: {:?} instead of {:?}", short(&found), short(expected));
}

/// Waits for the last row of the new history and checks it: all of it is there, under one new epoch. The copy's slot may
/// stand before rows 1 to 10 (a server that stops need not have stored how far it was confirmed): then they come again.
fn has_new_history(daemon: &Daemon, new: &[u32]) -> usize {
    let last = *new.last().unwrap();
    let after = eventually(&format!("row {last} arrives"), || {
        let mut found = ids(daemon);
        let newest = found.pop().filter(|ids| ids.last() == Some(&last) && !found.is_empty())?;
        assert_eq!(found, [(1..=20).collect::<Vec<_>>()], "what was there stays as it was");
        Some(newest)
    });
    let again = after.len() - new.len();
    assert!(again == 0 || after[..again] == (1..=10).collect::<Vec<_>>(), "{:?}", &after[..again]);
    assert!(after[again..] == *new, "{} rows from {} to {last}", after.len() - again, after[again]);
    after.len()
}

/// A named consumer is kept at the boundary, says why, and goes on once it says that it knows.
pub(crate) fn consumer_is_held(daemon: &Daemon, boundary: u64, left: usize) {
    let server = daemon.server_url();
    let tail = |more: &[&str]| {
        run(&[&["tail", "shop", "--server", &server, "--consumer", "audit", "--until-caught-up"], more].concat())
    };
    let held = tail(&[]);
    assert_eq!(held.status.code(), Some(1));
    let line = held.error_line();
    assert!(line.contains("must resynchronise") && line.contains(&format!("since offset {boundary}")), "{line}");
    let accepted = daemon.tail(&["shop", "--consumer", "audit", "--from", &boundary.to_string(), "--until-caught-up"]);
    assert_eq!(accepted[0]["epoch_started"]["first_offset"], boundary);
    assert_eq!(accepted.len(), left + 1);
    assert!(tail(&[]).status.success(), "from now on it resumes as usual");
}

/// Rows 1 to 10 are in the copy and in the log, 11 to 20 in the log alone; both daemon and server are stopped.
fn put_back_to_ten(shop: &Shop, idle: bool) {
    let mut daemon = shop.streaming();
    shop.insert(1, 10);
    wait_visible(&daemon, 10);
    assert!(daemon.stop().success());
    let copy = shop.snapshot();
    let mut daemon = shop.streaming();
    shop.insert(11, 20);
    if idle {
        shop.idle_wal();
    }
    wait_visible(&daemon, 20);
    let end = shop.wal_end();
    if idle {
        eventually("the idle position is confirmed", || {
            (lsn(&daemon.streams()[0]["confirmed_through_lsn"]) + 4096 > end).then_some(())
        });
    }
    assert_eq!(daemon.tail(&["shop", "--consumer", "audit", "--until-caught-up"]).len(), 20);
    assert!(daemon.stop().success());
    shop.put_back(&copy);
}

#[test]
fn a_server_put_back_to_an_older_copy_begins_a_new_epoch_before_it_overtakes_us() {
    let shop = Shop::new("");
    put_back_to_ten(&shop, true);
    shop.cluster.start_again().unwrap();
    shop.insert(1001, 1005);
    let daemon = shop.streaming();
    shop.insert(1006, 1010);
    let after = has_new_history(&daemon, &(1001..=1010).collect::<Vec<_>>());
    let record = &epochs(&daemon, 1)[0];
    assert_eq!((&record["reason"], &record["first_offset"]), (&"server_behind".into(), &21.into()));
    assert!(lsn(&record["source_lsn"]) < lsn(&record["log_lsn"]), "{record}");
    let said = daemon.stderr();
    let line = said.lines().find(|line| line.contains("epoch_raised")).unwrap_or_else(|| panic!("{said}"));
    for part in [
        "ERROR",
        "server's WAL ends at",
        "begins at offset 21",
        "history ends at",
        "new one begins at",
        "explicit start",
    ] {
        assert!(line.contains(part), "{part} is not in {line}");
    }
    consumer_is_held(&daemon, 21, after);
}

#[test]
fn a_server_put_back_to_an_older_copy_begins_a_new_epoch_after_it_has_overtaken_us() {
    let shop = Shop::new("");
    put_back_to_ten(&shop, false);
    let ended = {
        shop.cluster.start_again().unwrap();
        // Same system identifier, same timeline, LSNs and transaction ids used once more.
        shop.insert(1001, 1003);
        shop.insert(2001, 5000);
        shop.wal_end()
    };
    let daemon = shop.streaming();
    let record = epochs(&daemon, 1)[0].clone();
    assert!(lsn(&record["log_lsn"]) < ended, "it had overtaken us: {record}");
    assert_eq!((&record["reason"], &record["first_offset"]), (&"history_rewritten".into(), &21.into()));
    let after = has_new_history(&daemon, &(1001..=1003).chain(2001..=5000).collect::<Vec<_>>());
    consumer_is_held(&daemon, 21, after);
    // And a restart compares with the new epoch alone.
    drop(daemon);
    let daemon = shop.streaming();
    shop.insert(30_000, 30_000);
    wait_visible(&daemon, 20 + after as u64 + 1);
    assert_eq!(epochs(&daemon, 1).len(), 1);
}

/// A copy of the server with ten rows, a daemon that has since confirmed an idle position that the copy has not, and the end
/// of the server's WAL by then.
fn copied_before_an_idle_position(shop: &Shop) -> (PathBuf, Daemon, u64) {
    let mut daemon = shop.streaming();
    shop.insert(1, 10);
    wait_visible(&daemon, 10);
    assert!(daemon.stop().success());
    let copy = shop.snapshot();
    let daemon = shop.streaming();
    shop.idle_wal();
    let end = shop.wal_end();
    eventually("the idle position is confirmed", || {
        (lsn(&daemon.streams()[0]["confirmed_through_lsn"]) + 4096 > end).then_some(())
    });
    (copy, daemon, end)
}

#[test]
fn a_copy_that_lacks_nothing_of_ours_loses_nothing_of_its_own_where_we_had_confirmed_an_idle_position() {
    let shop = Shop::new("");
    let (copy, mut daemon, _) = copied_before_an_idle_position(&shop);
    daemon.kill();
    shop.put_back(&copy);
    shop.cluster.start_again().unwrap();
    shop.insert(11, 20);
    shop.idle_wal();
    shop.idle_wal();
    shop.insert(21, 30);
    // Killed again and again before it has come far: what it has confirmed, it has.
    for _ in 0..3 {
        let mut daemon = shop.start();
        eventually("a session", || (daemon.streams()[0]["state"] == "STREAMING").then_some(()));
        daemon.kill();
    }
    let daemon = shop.streaming();
    wait_visible(&daemon, 30);
    // the log had every unit of the copy: one history
    has_ids(&daemon, &[(1..=30).collect::<Vec<_>>()]);
}

#[test]
fn with_on_gap_fail_the_stream_stops_at_a_rewritten_history_and_nothing_is_appended() {
    let shop = Shop::new("on_gap = \"fail\"");
    put_back_to_ten(&shop, false);
    shop.cluster.start_again().unwrap();
    shop.insert(1001, 4000);
    let confirmed = shop.slot("confirmed_flush_lsn");
    let daemon = shop.start();
    let reason = daemon.wait_failed();
    assert!(reason.contains("differs from the log") && reason.contains("on_gap = \"new_epoch\""), "{reason}");
    has_ids(&daemon, &[(1..=20).collect::<Vec<_>>()]);
    assert_eq!(daemon.streams()[0]["epoch"], 1);
    assert_eq!(shop.slot("confirmed_flush_lsn"), confirmed, "the evidence is still there");
}

#[test]
fn a_slot_that_was_advanced_behind_our_back_is_a_gap_with_both_lsns() {
    let shop = Shop::new("");
    let mut daemon = shop.streaming();
    shop.insert(1, 1);
    wait_visible(&daemon, 1);
    assert_eq!(daemon.tail(&["shop", "--consumer", "audit", "--until-caught-up"]).len(), 1);
    assert!(daemon.stop().success());
    let ours = shop.slot("confirmed_flush_lsn");
    shop.insert(2, 2);
    shop.on_free_slot(&format!("SELECT pg_replication_slot_advance('{SLOT}', pg_current_wal_lsn())"));
    let theirs = shop.slot("confirmed_flush_lsn");
    shop.insert(3, 3);
    let daemon = shop.streaming();
    wait_visible(&daemon, 2);
    let record = &epochs(&daemon, 1)[0];
    assert_eq!((&record["reason"], &record["source_lsn"]), (&"slot_ahead".into(), &theirs.into()));
    assert!(lsn(&record["log_lsn"]) >= lsn(&ours.into()) && lsn(&record["log_lsn"]) < lsn(&record["source_lsn"]));
    // row 2 is in the gap
    has_ids(&daemon, &[vec![1], vec![3]]);
    consumer_is_held(&daemon, 2, 1);
}

#[test]
fn a_dropped_slot_is_recreated_when_told_to_and_three_times_an_hour_at_most() {
    let shop = Shop::new("on_lost_slot = \"recreate\"");
    let drop_slot = format!("SELECT pg_drop_replication_slot('{SLOT}')");
    let mut daemon = shop.streaming();
    let mut expected = vec![vec![1]];
    shop.insert(1, 1);
    wait_visible(&daemon, 1);
    for round in 1..=3 {
        assert!(daemon.stop().success());
        shop.on_free_slot(&drop_slot);
        shop.insert(100 * round, 100 * round);
        daemon = shop.streaming();
        shop.insert(100 * round + 1, 100 * round + 1);
        wait_visible(&daemon, u64::from(round) + 1);
        let epochs = epochs(&daemon, round as usize);
        assert_eq!(epochs.last().unwrap()["reason"], "slot_gone");
        expected.push(vec![100 * round + 1]);
    }
    assert!(daemon.stop().success());
    shop.on_free_slot(&drop_slot);
    let daemon = shop.start();
    let reason = daemon.wait_failed();
    assert!(reason.contains(SLOT) && reason.contains("3 new epochs within the last hour"), "{reason}");
    assert_eq!(shop.slot("count(*)"), "0", "no slot is left to hold WAL for a stream that stopped");
    has_ids(&daemon, &expected);
    assert_eq!(daemon.streams()[0]["epoch"], 4);
}

#[test]
fn an_invalidated_slot_stops_the_stream_or_is_replaced_as_configured() {
    let small = Cluster::builder().setting("max_slot_wal_keep_size", "1MB").start().unwrap();
    let mut shop = Shop::on(small, "");
    let mut daemon = shop.streaming();
    shop.insert(1, 10);
    wait_visible(&daemon, 10);
    assert!(daemon.stop().success());
    eventually("the slot is lost", || {
        shop.idle_wal();
        (shop.slot("wal_status") == "lost").then_some(())
    });
    let daemon = shop.start();
    let reason = daemon.wait_failed();
    assert!(reason.contains("invalidated") && reason.contains("on_lost_slot = \"recreate\""), "{reason}");
    assert_eq!(shop.slot("wal_status"), "lost", "nothing was changed at the server");
    drop(daemon);

    shop.settings = "on_lost_slot = \"recreate\"".into();
    let daemon = shop.streaming();
    shop.insert(11, 12);
    wait_visible(&daemon, 12);
    let record = &epochs(&daemon, 1)[0];
    assert_eq!(record["reason"], "slot_invalidated");
    assert!(lsn(&record["log_lsn"]) < lsn(&record["source_lsn"]), "{record}");
    has_ids(&daemon, &[(1..=10).collect(), vec![11, 12]]);
    assert_eq!(shop.slot("wal_status"), "reserved");
}

#[test]
fn a_promoted_standby_without_our_newest_changes_but_with_the_slot_goes_on_under_a_new_epoch() {
    let shop = Shop::new("");
    // With the slot, as PostgreSQL 17 and later can have it; `failover.rs` has the rest.
    put_back_to_ten(&shop, false);
    shop.promote();
    // Its WAL overtakes our position: neither its end nor the slot shows that it is another history.
    shop.insert(1001, 4000);
    let daemon = shop.streaming();
    let after = has_new_history(&daemon, &(1001..=4000).collect::<Vec<_>>());
    assert_eq!(epochs(&daemon, 1)[0]["reason"], "other_timeline");
    consumer_is_held(&daemon, 21, after);
}

#[test]
fn a_standby_promoted_with_every_change_but_less_idle_wal_than_we_confirmed_is_followed_and_loses_nothing() {
    let shop = Shop::new("");
    // The primary idles on, and we confirm it; the standby never gets that WAL.
    let (copy, mut daemon, end) = copied_before_an_idle_position(&shop);
    assert!(daemon.stop().success());
    shop.put_back(&copy);
    shop.promote();
    assert!(shop.wal_end() < end, "its WAL is shorter than what we confirmed");
    shop.insert(11, 20);
    let mut daemon = shop.streaming();
    wait_visible(&daemon, 20);
    let lowered = lsn(&daemon.streams()[0]["confirmed_through_lsn"]);
    assert!(lowered < end, "what was confirmed of the old timeline is no position of the new one");
    // Restarted while the server's WAL still ends before the old position.
    for row in 21..=23 {
        assert!(daemon.stop().success());
        shop.insert(row, row);
        daemon = shop.streaming();
        wait_visible(&daemon, u64::from(row));
    }
    assert!(shop.wal_end() < end);
    assert_eq!(daemon.streams()[0]["epoch"], 1);
    has_ids(&daemon, &[(1..=23).collect::<Vec<_>>()]);
}

/// How often the daemon is restarted beside a busy database.
const RESTARTS: usize = 100;

/// Ends the traffic when the test ends, however it does.
struct Busy<'a>(&'a AtomicBool);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

#[test]
fn an_idle_database_beside_a_busy_one_is_confirmed_and_a_hundred_restarts_begin_no_epoch() {
    let shop = Shop::new("");
    database(&shop.cluster, "busy", "CREATE TABLE t (id bigserial PRIMARY KEY, note text)");
    let traffic = "DO $$ BEGIN FOR i IN 1..100 LOOP INSERT INTO t (note) SELECT repeat('x', 500) FROM \
                   generate_series(1, 20); COMMIT; PERFORM pg_sleep(0.005); END LOOP; END $$";
    let busy = AtomicBool::new(true);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while busy.load(Ordering::Acquire) {
                // Once the server is restarted under it.
                let _ = shop.cluster.psql("busy", traffic);
            }
        });
        let _busy = Busy(&busy);
        let (mut confirmed, begun) = (0, Instant::now());
        for round in 0..RESTARTS {
            let mut daemon = shop.streaming();
            // That takes a second, since an idle position alone is not worth a write more often: not each time.
            if round % 5 == 0 {
                eventually("the idle database's slot advances", || {
                    let now = shop.slot("confirmed_flush_lsn - '0/0'").parse::<u64>().unwrap();
                    (now > confirmed).then(|| confirmed = now)
                });
            }
            let stream = &daemon.streams()[0];
            assert_eq!((&stream["epoch"], &stream["visible_offset"]), (&1.into(), &0.into()), "round {round}");
            // Politely, and not.
            if round % 2 == 0 {
                assert!(daemon.stop().success());
            } else {
                daemon.kill();
            }
            if round == RESTARTS / 2 {
                shop.cluster.restart(ShutdownMode::Immediate).unwrap();
            }
        }
        eprintln!("{RESTARTS} restarts in {:?}", begun.elapsed());
    });
    let daemon = shop.streaming();
    shop.insert(1, 3);
    wait_visible(&daemon, 3);
    has_ids(&daemon, &[vec![1, 2, 3]]);
}
