//! What a role or a database prefers changes no byte of any event: not between two readings of the same WAL, and not
//! in what the server sends again.

use dbstreamd_throwaway::{Cluster, ShutdownMode};

use crate::ordering::wait_visible;
use crate::support::types::Lab;
use crate::support::{Daemon, cluster, database, eventually};

/// Every setting that the text of some value depends on, or might.
const PREFERENCES: &[&str] = &[
    "TimeZone = 'Asia/Tokyo'",
    "DateStyle = 'German, DMY'",
    "IntervalStyle = 'sql_standard'",
    "bytea_output = 'escape'",
    "extra_float_digits = 0",
    "lc_monetary = 'POSIX'",
    "lc_numeric = 'POSIX'",
    "search_path = 'public'",
    "quote_all_identifiers = on",
    "xmlbinary = 'hex'",
    "xmloption = 'document'",
    "client_encoding = 'LATIN1'",
    "array_nulls = off",
    "default_text_search_config = 'pg_catalog.german'",
    "statement_timeout = '1ms'",
];

fn prefer(cluster: &Cluster, whose: &str) {
    let sql: String = PREFERENCES.iter().map(|setting| format!("ALTER {whose} SET {setting};\n")).collect();
    // The role's own preferences hold for this session too.
    let sql = format!("SET statement_timeout = 0;\n{sql}");
    cluster.psql("postgres", &sql).unwrap();
}

fn forget(cluster: &Cluster, whose: &str) {
    cluster.psql("postgres", &format!("SET statement_timeout = 0; ALTER {whose} RESET ALL")).unwrap();
}

#[test]
fn a_second_reading_of_the_same_wal_under_other_preferences_gives_the_same_bytes() {
    let cluster = cluster();
    let url = database(&cluster, "shop", "");
    let lab = Lab::new(&cluster, "shop");
    let mut first = Daemon::serving(&[&url]);
    let again = ["role", "database"];
    for slot in again {
        let sql = format!("SELECT pg_create_logical_replication_slot('dbstreamd_{slot}', 'pgoutput')");
        cluster.psql("shop", &sql).unwrap();
    }
    let rows = lab.fill();
    wait_visible(&first, rows);
    let before = first.everything("shop");
    first.stop();
    for (slot, whose) in again.into_iter().zip(["ROLE postgres", "DATABASE shop"]) {
        prefer(&cluster, whose);
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("dbstreamd.toml");
        let text = format!(
            "[[source]]\nname = \"shop\"\nurl = \"{url}\"\nslot = \"dbstreamd_{slot}\"\npublication = \"dbstreamd_shop\"\n"
        );
        std::fs::write(&config, text).unwrap();
        let second = Daemon::start_with(&["--config".into(), config.display().to_string()], &dir.path().join("data"));
        second.wait_streaming();
        wait_visible(&second, rows);
        let after = second.everything("shop");
        assert_eq!(before.len(), after.len());
        for (before, after) in before.iter().zip(&after) {
            assert_eq!(before, after, "{whose}");
        }
        forget(&cluster, whose);
    }
}

#[test]
fn what_the_server_sends_again_under_other_preferences_is_recognised() {
    let cluster = cluster();
    let url = database(&cluster, "shop", "");
    let lab = Lab::new(&cluster, "shop");
    let daemon = Daemon::serving(&[&url]);
    let rows = lab.fill();
    wait_visible(&daemon, rows);
    let before = daemon.everything("shop");
    prefer(&cluster, "ROLE postgres");
    prefer(&cluster, "DATABASE shop");
    // The slot's last saved position is older than what we confirmed: the server sends all of it again.
    cluster.restart(ShutdownMode::Immediate).unwrap();
    eventually("units were sent again", || {
        (daemon.metric("dbstreamd_stream_resent_transactions_total{stream=\"shop\"}") > 0.0).then_some(())
    });
    forget(&cluster, "ROLE postgres");
    forget(&cluster, "DATABASE shop");
    cluster.psql("shop", "INSERT INTO plain (id) VALUES (1000)").unwrap();
    wait_visible(&daemon, rows + 1);
    let after = daemon.everything("shop");
    assert_eq!(after[..before.len()], before);
    assert_eq!(daemon.streams()[0]["epoch"], 1, "its history is the same");
}
