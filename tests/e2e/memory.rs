//! One memory budget: refused when it does not fit, shown when asked for, and kept under load.

use std::path::Path;

use serde_json::Value;

use crate::ordering::wait_visible;
use crate::support::{Command, Daemon, cluster, database, eventually, http};

/// What the small profile promises, in bytes.
const SMALL_MAX: u64 = 128_000_000;

fn config(dir: &Path, url: &str, memory: &str) -> String {
    let file = dir.join("dbstreamd.toml");
    std::fs::write(&file, format!("[memory]\n{memory}\n[[source]]\nname = \"shop\"\nurl = \"{url}\"\n")).unwrap();
    file.to_str().unwrap().to_owned()
}

#[test]
fn a_budget_that_does_not_fit_is_refused_with_a_table_of_who_wants_what() {
    let dir = tempfile::tempdir().unwrap();
    let file =
        config(dir.path(), "postgres://127.0.0.1:1/d", "total = \"200MiB\"\nprofile = \"standard\"\ntail = \"123MiB\"");
    let data = dir.path().join("data");
    let done = Command::new(&["serve", "--config", &file, "--data-dir", data.to_str().unwrap()]).run();
    assert_eq!(done.status.code(), Some(1), "{}", done.stderr);
    for word in ["memory.total", "200.0 MiB", "memory.profile = \"small\""] {
        assert!(done.error_line().contains(word), "{word}: {}", done.error_line());
    }
    for words in [
        &["tail", "123.0 MiB", "memory.tail"][..],
        &["memtables", "256.0 MiB"],
        &["headroom"],
        &["needed", "more than the limit"],
    ] {
        let row = done.stderr.lines().find(|line| line.starts_with(words[0]));
        assert!(row.is_some_and(|row| words.iter().all(|word| row.contains(word))), "{words:?}: {}", done.stderr);
    }
    assert!(!data.exists(), "nothing was opened");

    // The same table without starting anything.
    let shown = Command::new(&["memory", "--config", &file]).run();
    assert_eq!(shown.status.code(), Some(1));
    assert!(
        shown.stdout.lines().count() > 15 && shown.stdout.lines().all(|line| done.stderr.contains(line)),
        "{}",
        shown.stdout
    );
    let json = Command::new(&["memory", "--config", &file, "--format", "json"]).run();
    let table: Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!((&table["fits"], &table["limit_bytes"]), (&false.into(), &(200 << 20).into()));
}

#[test]
fn the_small_profile_stays_below_128_mb_while_it_streams_replays_and_takes_a_large_transaction() {
    let cluster = cluster();
    let url = database(
        &cluster,
        "shop",
        "CREATE TABLE t (id bigint PRIMARY KEY, a text, b text); CREATE TABLE big (id int PRIMARY KEY, body text);
         ALTER TABLE big ALTER body SET STORAGE EXTERNAL;",
    );
    let dir = tempfile::tempdir().unwrap();
    let file = config(dir.path(), &url, "profile = \"small\"\ntotal = \"128MB\"");
    let daemon = Daemon::start_with(&["--config".into(), file], &dir.path().join("data"));
    daemon.wait_streaming();
    // One follows all the time, so that the tail is kept in memory too.
    let follow = ["tail", "shop", "--consumer", "live", "--format", "json", "--server", &daemon.server_url()];
    let mut live = Command::new(&follow).spawn_quietly();
    eventually("it follows", || http::get(&daemon.http, "/v1/consumers").unwrap().1.contains("\"live\"").then_some(()));
    for batch in 0..5 {
        let insert = format!(
            "INSERT INTO t SELECT g, md5(g::text), repeat(md5(g::text), 4) FROM generate_series({batch} * 100000 + 1, ({batch} + 1) * 100000) g"
        );
        cluster.psql("shop", &insert).unwrap();
    }
    wait_visible(&daemon, 500_000);
    let streamed = daemon.peak_rss();

    // Two read everything from disk, one of them filtered, while a transaction of 200 MB comes in.
    std::thread::scope(|scope| {
        scope.spawn(|| daemon.count(&["shop", "--from", "earliest", "--limit", "500000"]));
        scope.spawn(|| daemon.count(&["shop", "--from", "earliest", "--table", "public.t", "--limit", "500000"]));
        let insert = "INSERT INTO big SELECT g, (SELECT string_agg(md5(g::text || i::text), '') FROM generate_series(1, 312) i) FROM generate_series(1, 20000) g";
        cluster.psql("shop", insert).unwrap();
    });
    wait_visible(&daemon, 520_000);
    assert_eq!(daemon.count(&["shop", "--from", "500001", "--until-caught-up"]), 20_000);
    let tail_bytes = || daemon.metric("dbstreamd_memory_used_bytes{component=\"tail\"}");
    let mut newest = 520_000;
    let mut one_more = || {
        newest += 1;
        cluster.psql("shop", &format!("INSERT INTO t VALUES ({newest})")).unwrap();
        wait_visible(&daemon, newest);
    };
    eventually("what is followed is kept in the tail", || {
        one_more();
        (tail_bytes() > 0.0).then_some(())
    });
    let peak = daemon.peak_rss();
    eprintln!("peak RSS of the small profile: {} MB, {} MB before reading", peak / 1_000_000, streamed / 1_000_000);
    assert!(peak < SMALL_MAX, "peak RSS {peak} bytes: {}", daemon.health()["memory"]);

    // The table of who uses what, in health and in the metrics.
    let memory = daemon.health()["memory"].clone();
    assert_eq!((&memory["profile"], &memory["fits"]), (&"small".into(), &true.into()));
    assert_eq!(memory["limit_bytes"], SMALL_MAX);
    let components = memory["components"].as_array().unwrap();
    let part = |name: &str, key: &str| {
        let component = components.iter().find(|component| component["component"] == name);
        component.unwrap_or_else(|| panic!("{name} in {memory}"))[key].as_u64()
    };
    assert_eq!(part("memtables", "budget_bytes"), Some(20 << 20));
    for counted in ["memtables", "block_cache", "tail", "credit_window", "delivery", "disk_reads"] {
        let (used, budget) = (part(counted, "used_bytes"), part(counted, "budget_bytes"));
        assert!(used <= budget && used.is_some(), "{counted} in {memory}");
    }
    assert!(part("memtables", "used_bytes") > Some(0), "{memory}");
    let sum: u64 = components.iter().filter_map(|component| component["budget_bytes"].as_u64()).sum();
    assert_eq!(memory["sum_bytes"], sum);
    let (_, metrics) = http::get(&daemon.http, "/metrics").unwrap();
    for sample in [
        "dbstreamd_memory_budget_bytes{component=\"memtables\"} 20971520",
        "dbstreamd_memory_used_bytes{component=\"tail\"}",
        "dbstreamd_memory_limit_bytes 128000000",
        "process_resident_memory_bytes ",
    ] {
        assert!(metrics.contains(sample), "{sample} in {metrics}");
    }

    live.kill().unwrap();
    live.wait().unwrap();
    eventually("what nobody follows is let go", || {
        one_more();
        (tail_bytes() == 0.0).then_some(())
    });
}
