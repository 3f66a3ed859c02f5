//! The daemon dies at each named step between socket and acknowledgement, in recovery and in retention; after each the
//! log is whole, and nothing was confirmed that it does not have.

use std::os::unix::process::ExitStatusExt;
use std::path::Path;

use dbstreamd_log::Failpoint;
use dbstreamd_throwaway::Cluster;
use serde_json::Value;

use crate::ordering::wait_visible;
use crate::support::daemon::free_address;
use crate::support::workload::{self, SCHEMA};
use crate::support::{Command, Daemon, database, eventually};

/// How a step is reached.
enum Way {
    /// While a source is set up for the first time.
    FirstStart,
    /// While changes flow.
    Flow,
    /// While a consumer acknowledges.
    Consumer,
    /// While retention has something to do.
    Retention,
    /// At the start after having died at that other step.
    StartAfter(Failpoint, u32),
    /// At the start after the slot moved on without us.
    Gap,
}

/// How, and at which time, each step is reached. Adding one without saying how does not compile.
fn way(point: Failpoint) -> (Way, u32) {
    use Failpoint::*;
    match point {
        SlotCreated | SourceBound => (Way::FirstStart, 1),
        Received | Appended | HandedOver | Gathered | Committed | Published => (Way::Flow, 12),
        Confirming | Confirmed => (Way::Flow, 3),
        FragmentCommitted => (Way::Flow, 1),
        PartitionCreated => (Way::Flow, 2),
        OffsetCommitted => (Way::Consumer, 2),
        TrimCommitted | PartitionDropped | PartitionForgotten => (Way::Retention, 2),
        StoreOpened => (Way::StartAfter(Committed, 12), 1),
        DropFinished => (Way::StartAfter(TrimCommitted, 2), 1),
        TailDeleting | TailDeleted => (Way::StartAfter(FragmentCommitted, 1), 1),
        EpochRaising | EpochRaised => (Way::Gap, 1),
    }
}

const ROUNDS: u32 = 40;
/// Rows of the one large transaction, which makes several chunks.
const LARGE: u32 = 4000;

struct Case<'a> {
    cluster: &'a Cluster,
    database: String,
    args: Vec<String>,
    data: std::path::PathBuf,
}

impl Case<'_> {
    fn start(&self) -> Daemon {
        let daemon = Daemon::start_with(&self.args, &self.data);
        daemon.wait_streaming();
        daemon
    }

    /// Runs a daemon until it dies at `point`; meanwhile `busy` is done.
    fn die_at(&self, point: Failpoint, times: u32, busy: impl FnOnce(&str) + Send) {
        let (grpc, http) = (free_address(), free_address());
        let args: Vec<&str> = ["serve", "--grpc", &grpc, "--http", &http, "--data-dir", self.data.to_str().unwrap()]
            .into_iter()
            .chain(self.args.iter().map(String::as_str))
            .collect();
        let child =
            Command::new(&args).env("DBSTREAMD_FAILPOINT", &format!("{}={times}", point.name())).spawn_quietly();
        let child = std::sync::Mutex::new(child);
        std::thread::scope(|scope| {
            scope.spawn(|| busy(&grpc));
            let status = eventually(&format!("the daemon dies at {}", point.name()), || {
                child.lock().unwrap().try_wait().expect("a child")
            });
            assert_eq!(status.signal(), Some(9), "it died of something else at {}: {status}", point.name());
        });
    }

    fn write(&self) {
        workload::write(self.cluster, &self.database, 1, 1, ROUNDS);
        let large = format!(
            "INSERT INTO large SELECT g, md5(g::text) || md5((g + 1)::text) FROM generate_series(1, {LARGE}) g"
        );
        self.cluster.psql(&self.database, &large).unwrap();
        workload::write(self.cluster, &self.database, 1, ROUNDS + 1, ROUNDS);
    }

    /// Everything that was written is there once and in order, and the slot was told of nothing else.
    fn check(&self, point: Failpoint, daemon: &Daemon) {
        let expected = workload::events_of(2 * ROUNDS) + u64::from(LARGE);
        wait_visible(daemon, expected);
        let stream = daemon.streams().remove(0);
        let trim = stream["trim_point"].as_u64().unwrap();
        let events = daemon.everything(&self.database);
        assert_eq!(events.len() as u64, expected + 1 - trim, "after {}", point.name());
        let (large, small): (Vec<Value>, Vec<Value>) = events.into_iter().partition(|event| event["table"] == "large");
        let ids: Vec<_> = large.iter().map(|event| event["after"]["id"].as_str().unwrap().to_owned()).collect();
        let kept = u32::try_from(ids.len()).unwrap();
        assert_eq!(ids, (LARGE - kept + 1..=LARGE).map(|id| id.to_string()).collect::<Vec<_>>(), "{}", point.name());
        if trim == 1 {
            check_small(small);
        }
        let slot = self
            .cluster
            .psql(
                &self.database,
                &format!(
                    "SELECT confirmed_flush_lsn - '{}'::pg_lsn FROM pg_replication_slots WHERE database = '{}'",
                    stream["confirmed_through_lsn"].as_str().unwrap(),
                    self.database
                ),
            )
            .unwrap();
        assert!(
            slot.trim().parse::<i64>().unwrap() <= 0,
            "the slot is ahead of the log by {slot} after {}",
            point.name()
        );
    }
}

/// The workload's own check wants dense offsets, and the large transaction lies between.
fn check_small(mut events: Vec<Value>) {
    for (index, event) in events.iter_mut().enumerate() {
        event["offset"] = (index + 1).into();
    }
    workload::check(&events, 1, 2 * ROUNDS);
}

fn run_case(cluster: &Cluster, point: Failpoint) {
    let (way, times) = way(point);
    let database_name = point.name().to_owned();
    let url =
        database(cluster, &database_name, &format!("{SCHEMA} CREATE TABLE large (id int PRIMARY KEY, note text)"));
    let dir = tempfile::tempdir().unwrap();
    let retains = matches!(way, Way::Retention | Way::StartAfter(Failpoint::TrimCommitted, _));
    let args = arguments(dir.path(), &url, retains);
    let case = Case { cluster, database: database_name, args, data: dir.path().join("data") };
    match way {
        Way::FirstStart => {
            case.die_at(point, times, |_| {});
            case.write();
        }
        Way::Flow | Way::Retention => {
            drop(case.start());
            case.die_at(point, times, |_| case.write());
        }
        Way::Consumer => {
            drop(case.start());
            case.die_at(point, times, |grpc| {
                case.write();
                // Its daemon dies under it.
                let args = ["tail", &case.database, "--consumer", "audit", "--limit", "10", "--server", grpc];
                drop(Command::new(&args).run());
            });
        }
        Way::StartAfter(first, times_first) => {
            drop(case.start());
            case.die_at(first, times_first, |_| case.write());
            case.die_at(point, times, |_| {});
        }
        Way::Gap => return gap(&case, point),
    }
    let mut daemon = case.start();
    case.check(point, &daemon);
    // And once more from the disk alone.
    assert!(daemon.stop().success());
    case.check(point, &case.start());
}

/// What the slot was moved past is missing, and said to be; everything after it is there.
fn gap(case: &Case<'_>, point: Failpoint) {
    let mut daemon = case.start();
    workload::write(case.cluster, &case.database, 1, 1, 5);
    let before = workload::events_of(5);
    wait_visible(&daemon, before);
    assert!(daemon.stop().success());
    workload::write(case.cluster, &case.database, 1, 6, 5);
    let advance = format!(
        "SELECT pg_replication_slot_advance(slot_name, pg_current_wal_lsn()) FROM pg_replication_slots WHERE database = '{}'",
        case.database
    );
    case.cluster.psql(&case.database, &advance).unwrap();
    case.die_at(point, 1, |_| {});
    let daemon = case.start();
    let insert = format!("INSERT INTO large SELECT g, 'after' FROM generate_series(1, {LARGE}) g");
    case.cluster.psql(&case.database, &insert).unwrap();
    wait_visible(&daemon, before + u64::from(LARGE));
    assert_eq!(daemon.streams()[0]["epoch"], 2, "one break is one epoch, wherever it died");
    let mut after = daemon.tail(&[&case.database, "--from", &(before + 1).to_string(), "--until-caught-up"]);
    // One line says that an epoch began, if the reader crossed into it.
    after.retain(|line| line["offset"].is_u64());
    assert_eq!(after.len(), LARGE as usize, "after {}", point.name());
    assert!(after.iter().all(|event| event["epoch"] == 2), "{}", after[0]);
}

fn arguments(dir: &Path, url: &str, retains: bool) -> Vec<String> {
    let config = dir.join("dbstreamd.toml");
    let retention = if retains { "\"24KiB\"" } else { "\"none\"" };
    let text = format!("[log]\nchunk_bytes = \"8KiB\"\npartition_bytes = \"8KiB\"\nretention_bytes = {retention}\n");
    std::fs::write(&config, text).unwrap();
    ["--config", config.to_str().unwrap(), "--source", url].map(str::to_owned).to_vec()
}

#[test]
fn dying_at_any_step_loses_doubles_and_reorders_nothing() {
    let cluster =
        Cluster::builder().setting("max_replication_slots", "40").setting("max_wal_senders", "40").start().unwrap();
    for point in Failpoint::ALL {
        run_case(&cluster, *point);
        let drop = format!(
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = '{}' AND NOT active",
            point.name()
        );
        cluster.psql("postgres", &drop).unwrap();
    }
}

#[test]
fn an_unknown_failpoint_is_refused_with_those_there_are() {
    let dir = tempfile::tempdir().unwrap();
    let args = ["serve", "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0", "--source", "postgres://u@127.0.0.1:1/db"];
    let refused = Command::new(&args).current_dir(dir.path()).env("DBSTREAMD_FAILPOINT", "nowhere").run();
    assert_eq!(refused.status.code(), Some(1));
    assert!(refused.error_line().contains("partition_dropped"), "{}", refused.error_line());
}
