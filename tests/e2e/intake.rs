//! However busy those threads are that serve: the databases are read.

use std::sync::{Arc, Barrier, mpsc};

use dbstreamd::config::{Config, Overrides};
use dbstreamd::serve;
use dbstreamd_source::State;
use tokio::runtime::Builder;

use crate::support::{cluster, database, eventually};

const THREADS: usize = 2;

#[test]
fn while_every_thread_that_serves_is_busy_a_change_is_received_made_durable_and_confirmed() {
    let cluster = cluster();
    let url = database(&cluster, "shop", "CREATE TABLE t (id int PRIMARY KEY)");
    let dir = tempfile::tempdir().unwrap();
    let overrides = Overrides {
        sources: vec![url],
        data_dir: Some(dir.path().join("data")),
        grpc: Some("127.0.0.1:0".into()),
        http: Some("127.0.0.1:0".into()),
    };
    let config = Config::load_with(None, &overrides, &Default::default()).unwrap();
    let runtime = Builder::new_multi_thread().worker_threads(THREADS).enable_all().build().unwrap();
    let running = runtime.block_on(serve::start(config)).unwrap();
    let status = Arc::clone(&running.statuses()[0]);
    eventually("the stream streams", || (status.lifecycle().state == State::Streaming).then_some(()));

    let all_busy = Arc::new(Barrier::new(THREADS + 1));
    let ends: Vec<_> = (0..THREADS)
        .map(|_| {
            let (end, ended) = mpsc::channel::<()>();
            let all_busy = Arc::clone(&all_busy);
            runtime.spawn(async move {
                all_busy.wait();
                // Until the sender is gone.
                let _ = ended.recv();
            });
            end
        })
        .collect();
    all_busy.wait();
    cluster.psql("shop", "INSERT INTO t VALUES (1)").unwrap();
    let written = cluster.psql("shop", "SELECT pg_current_wal_lsn()").unwrap();
    let confirmed =
        format!("SELECT bool_and(confirmed_flush_lsn >= '{}'::pg_lsn) FROM pg_replication_slots", written.trim());
    eventually("the slot is confirmed", || (cluster.psql("shop", &confirmed).unwrap().trim() == "t").then_some(()));

    drop(ends);
    runtime.block_on(running.stop()).unwrap();
}
