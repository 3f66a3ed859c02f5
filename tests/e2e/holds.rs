//! Consumers that die or lag: they hold our log within limits, never the source's WAL.

use dbstreamd_throwaway::{Cluster, ShutdownMode};

use crate::ordering::wait_visible;
use crate::support::{Command, Daemon, cluster, daemon::run, database, eventually, http};

/// What the dead consumer misses. The full size of the promise is a matter of minutes: DBSTREAMD_TEST_DEAD_CONSUMER_MB=3000.
fn missed_megabytes() -> u64 {
    std::env::var("DBSTREAMD_TEST_DEAD_CONSUMER_MB").ok().and_then(|text| text.parse().ok()).unwrap_or(300)
}

fn consumer(daemon: &Daemon, name: &str) -> serde_json::Value {
    let (_, body) = http::get(&daemon.http, "/v1/consumers").unwrap();
    let answer: serde_json::Value = serde_json::from_str(&body).unwrap();
    answer["consumers"].as_array().unwrap().iter().find(|c| c["name"] == name).cloned().unwrap_or_default()
}

#[test]
fn a_dead_consumer_holds_the_log_within_its_limit_and_the_servers_wal_not_at_all() {
    let cluster = Cluster::builder()
        .setting("max_wal_size", "128MB")
        .setting("min_wal_size", "32MB")
        .setting("checkpoint_timeout", "30s")
        .start()
        .unwrap();
    let url = database(&cluster, "shop", "CREATE TABLE t (id bigserial PRIMARY KEY, note text)");
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("dbstreamd.toml");
    std::fs::write(
        &config,
        "[log]\npartition_bytes = \"8MiB\"\nretention_bytes = \"16MiB\"\n\
         [consumers]\nmax_lag_bytes = \"20MiB\"\nmax_hold_bytes = \"100MiB\"\n",
    )
    .unwrap();
    let args = ["--config", config.to_str().unwrap(), "--source", &url].map(str::to_owned);
    let mut daemon = Daemon::start_with(&args, &dir.path().join("data"));
    daemon.wait_streaming();
    cluster.psql("shop", "INSERT INTO t (note) SELECT 'first' FROM generate_series(1, 10)").unwrap();
    wait_visible(&daemon, 10);
    assert_eq!(daemon.tail(&["shop", "--consumer", "audit", "--limit", "5"]).len(), 5);
    let at_rest = daemon.peak_rss();

    // Text that compresses badly, so that our log is about as large as what passes.
    let megabyte = "INSERT INTO t (note) SELECT string_agg(md5(random()::text), '') FROM generate_series(1, 1000) g, \
                    generate_series(1, 32) GROUP BY g";
    let (mut seen, mut wal_max) = (Vec::new(), 0);
    let clock =
        || cluster.psql("shop", "SELECT extract(epoch FROM clock_timestamp())").unwrap().parse::<f64>().unwrap();
    let counted = |what: &str| daemon.metric(&format!("dbstreamd_stream_received_{what}_total{{stream=\"shop\"}}"));
    let (began, before) = (clock(), ["keepalives", "transactions"].map(counted));
    for _ in 0..missed_megabytes() {
        cluster.psql("shop", megabyte).unwrap();
        let state = consumer(&daemon, "audit")["state"].as_str().unwrap().to_owned();
        if seen.last() != Some(&state) {
            seen.push(state);
        }
        let wal = cluster.psql("shop", "SELECT sum(size) FROM pg_ls_waldir()").unwrap();
        wal_max = wal_max.max(wal.trim().parse::<u64>().unwrap());
    }
    eventually("the consumer's place is gone", || {
        (consumer(&daemon, "audit")["state"] == "NEEDS_SNAPSHOT").then_some(())
    });
    let seconds = clock() - began;
    let (keepalives, transactions) = (counted("keepalives") - before[0], counted("transactions") - before[1]);
    // The server sends one whenever it has sent all there is, so with every transaction of a stream that keeps up, and
    // repeats it until it is taken up; beside those there are fewer than ten a second, whoever is behind.
    assert!(
        keepalives > 0.0 && keepalives < 10.0 * seconds + transactions,
        "{keepalives} keepalives with {transactions} transactions in {seconds} s"
    );
    assert_eq!(seen.first().map(String::as_str), Some("ACTIVE"));
    assert!(seen.contains(&"LAGGING".to_owned()), "{seen:?}");
    assert!(wal_max < 400 << 20, "the server kept {wal_max} bytes of WAL");
    eprintln!(
        "pg_wal at most {} MB, states {seen:?}, {:.2} keepalives/s, RSS {} MB, at rest {} MB",
        wal_max >> 20,
        keepalives / seconds,
        daemon.peak_rss() >> 20,
        at_rest >> 20
    );
    assert!(daemon.peak_rss() < 400 << 20, "{} bytes of memory", daemon.peak_rss());

    let refused = run(&["tail", "shop", "--consumer", "audit", "--server", &daemon.server_url()]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(refused.error_line().contains("needs a snapshot"), "{}", refused.error_line());
    let (_, notices) = http::get(&daemon.http, "/v1/notices").unwrap();
    for kind in ["consumer_lagging", "consumer_needs_snapshot"] {
        assert!(notices.contains(kind), "{notices}");
    }
    let (_, metrics) = http::get(&daemon.http, "/metrics").unwrap();
    assert!(metrics.contains("dbstreamd_consumer_needs_snapshot{stream=\"shop\",consumer=\"audit\"} 1"), "{metrics}");

    // The server's fast shutdown waits for nobody.
    cluster.stop(ShutdownMode::Fast).unwrap();
    daemon.stop();
}

#[test]
fn a_consumer_within_its_limits_finds_everything_although_retention_would_have_removed_it() {
    let cluster = cluster();
    let url = database(&cluster, "shop", "CREATE TABLE t (id bigserial PRIMARY KEY, note text)");
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("dbstreamd.toml");
    std::fs::write(&config, "[log]\npartition_bytes = \"128KiB\"\nretention_bytes = \"256KiB\"\n").unwrap();
    let args = ["--config", config.to_str().unwrap(), "--source", &url].map(str::to_owned);
    let data = dir.path().join("data");
    let mut daemon = Daemon::start_with(&args, &data);
    daemon.wait_streaming();
    // One that has been there and acknowledged nothing yet is as good as any.
    let mut child = Command::new(&["tail", "shop", "--consumer", "audit", "--server", &daemon.server_url()]).spawn();
    eventually("the consumer is known", || (consumer(&daemon, "audit")["connected"] == true).then_some(()));
    child.kill().unwrap();
    child.wait().unwrap();
    let rows = 20_000_u64;
    let sql = format!(
        "INSERT INTO t (note) SELECT md5(random()::text) || md5(random()::text) FROM generate_series(1, {})",
        rows / 20
    );
    for _ in 0..20 {
        cluster.psql("shop", &sql).unwrap();
    }
    wait_visible(&daemon, rows);
    assert!(daemon.stop().success());
    let daemon = Daemon::start_with(&args, &data);
    let told = |kind: &str, severity: &str| {
        eventually(kind, || http::get(&daemon.http, "/v1/notices").unwrap().1.contains(kind).then_some(()));
        let counted = format!("dbstreamd_notices_total{{kind=\"{kind}\",severity=\"{severity}\"}}");
        assert_eq!(daemon.metric(&counted), 1.0, "{kind}");
        assert!(daemon.stderr().contains(kind), "a notice is a log line too");
    };
    told("retention_paused", "warning");
    let events = daemon.tail(&["shop", "--consumer", "audit", "--until-caught-up"]);
    assert_eq!(events.len() as u64, rows);
    assert_eq!((events[0]["offset"].as_u64(), consumer(&daemon, "audit")["lag_bytes"].as_u64()), (Some(1), Some(0)));
    // Now it holds nothing back any more.
    eventually("retention removes what was kept for it", || {
        (daemon.streams()[0]["trim_point"].as_u64().unwrap() > 1).then_some(())
    });
    told("retention_resumed", "info");
}
