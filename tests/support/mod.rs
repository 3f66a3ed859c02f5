//! What the tests share: a server, a daemon, a tail, and waiting for a condition.

pub(crate) mod daemon;
pub(crate) mod forwarder;
pub(crate) mod grpc;
pub(crate) mod http;
pub(crate) mod workload;

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use dbstreamd_throwaway::Cluster;

pub(crate) use daemon::{Command, Daemon, Finished, tail_json};

/// Longest wait for anything; long, because a loaded machine is slow, and never reached by a test that passes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// Waits until `probe` gives a value; panics with `what` when it never does.
pub(crate) fn eventually<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = probe() {
            return value;
        }
        assert!(start.elapsed() < PATIENCE, "waited {PATIENCE:?} in vain for: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A server of its own, for tests that stop it or change its settings.
pub(crate) fn cluster() -> Cluster {
    Cluster::start().expect("a throwaway PostgreSQL")
}

/// A fresh database in `cluster`, its statements run.
pub(crate) fn database(cluster: &Cluster, name: &str, sql: &str) -> String {
    cluster.create_database(name).expect("a database");
    cluster.psql(name, sql).expect("the schema");
    cluster.url(name)
}

/// The path of the daemon under test.
pub(crate) fn binary() -> &'static str {
    static PATH: OnceLock<&str> = OnceLock::new();
    PATH.get_or_init(|| env!("CARGO_BIN_EXE_dbstreamd"))
}
