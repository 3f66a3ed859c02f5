//! What the tests share: a server, a daemon, a tail, and waiting for a condition.

pub(crate) mod capture;
pub(crate) mod daemon;
pub(crate) mod forwarder;
pub(crate) mod grpc;
pub(crate) mod http;
pub(crate) mod types;
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

/// The server's major version.
pub(crate) fn major_version(cluster: &Cluster) -> u32 {
    let number = cluster.psql("postgres", "SHOW server_version_num").expect("an answer");
    number.parse::<u32>().expect("a number") / 10_000
}

/// Bytes from their hexadecimal digits.
pub(crate) fn unhex(text: &str) -> Vec<u8> {
    let digits = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).expect("hexadecimal");
    (0..text.len() / 2).map(|n| digits(2 * n)).collect()
}

/// The path of the daemon under test.
pub(crate) fn binary() -> &'static str {
    static PATH: OnceLock<&str> = OnceLock::new();
    PATH.get_or_init(|| env!("CARGO_BIN_EXE_dbstreamd"))
}
