//! Tables that come into the publication, leave it and change their names while the stream runs.

use serde_json::json;

use super::{all, events_of, notices, older_than, streaming};
use crate::ordering::wait_visible;
use crate::support::{Daemon, cluster, database, eventually};

fn wait_notice(daemon: &Daemon, says: &str) {
    eventually(&format!("a notice that says {says:?}"), || {
        let texts = notices(daemon, "publication_changed");
        texts.iter().any(|text| text.contains(says)).then_some(())
    });
}

/// What changed is told from the first look on, which also sees the slot.
fn wait_first_look(daemon: &Daemon) {
    eventually("a first look", || daemon.streams().first().filter(|s| !s["slot_health"].is_null()).map(drop));
}

#[test]
fn a_table_added_while_running_comes_from_then_on_without_a_reconnect() {
    let cluster = cluster();
    let url = database(&cluster, "shop", "CREATE TABLE a (id int PRIMARY KEY)");
    let dir = tempfile::tempdir().unwrap();
    let daemon = streaming(&url, dir.path(), "");
    wait_first_look(&daemon);
    let sql = "CREATE TABLE b (id int PRIMARY KEY); INSERT INTO b VALUES (1);
        ALTER PUBLICATION dbstreamd_shop ADD TABLE b; INSERT INTO b VALUES (2); INSERT INTO a VALUES (3);";
    cluster.psql("shop", sql).unwrap();
    wait_visible(&daemon, 2);
    let events = daemon.everything("shop");
    let rows: Vec<_> = events.iter().map(|event| (&event["table"], &event["after"]["id"])).collect();
    assert_eq!(rows, [(&json!("b"), &json!("2")), (&json!("a"), &json!("3"))]);
    assert_eq!(daemon.metric("dbstreamd_stream_reconnects_total{stream=\"shop\"}"), 0.0);
    wait_notice(&daemon, "table public.b was added to the publication");
}

#[test]
fn a_table_taken_out_and_put_back_is_noticed_even_between_two_looks() {
    let cluster = cluster();
    let url = database(&cluster, "shop", "CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY)");
    let dir = tempfile::tempdir().unwrap();
    let daemon = streaming(&url, dir.path(), "");
    wait_first_look(&daemon);
    let out = "ALTER PUBLICATION dbstreamd_shop DROP TABLE b";
    let back = "ALTER PUBLICATION dbstreamd_shop ADD TABLE b";
    // In one transaction, so that no look can see what lies between.
    let both = format!("BEGIN; {out}; INSERT INTO b VALUES (1); {back}; INSERT INTO b VALUES (2); COMMIT");
    cluster.psql("shop", &both).unwrap();
    wait_notice(&daemon, "table public.b was taken out of the publication and put back");
    cluster.psql("shop", out).unwrap();
    wait_notice(&daemon, "table public.b is no longer in the publication");
    cluster.psql("shop", &format!("{back}; INSERT INTO b VALUES (3)")).unwrap();
    wait_notice(&daemon, "table public.b was added to the publication");
    wait_visible(&daemon, 2);
    let events = daemon.everything("shop");
    let rows: Vec<_> = events.iter().map(|event| &event["after"]["id"]).collect();
    assert_eq!(rows, ["2", "3"]);
}

#[test]
fn another_row_filter_or_column_list_is_noticed() {
    let cluster = cluster();
    if older_than(&cluster, 15, "a row filter") {
        return;
    }
    let url = database(&cluster, "shop", "CREATE TABLE a (id int PRIMARY KEY, v int)");
    let dir = tempfile::tempdir().unwrap();
    let daemon = streaming(&url, dir.path(), "");
    wait_first_look(&daemon);
    cluster.psql("shop", "ALTER PUBLICATION dbstreamd_shop SET (publish = 'insert')").unwrap();
    wait_notice(&daemon, "the publication is filtered otherwise");
    cluster.psql("shop", "ALTER PUBLICATION dbstreamd_shop SET TABLE a WHERE (id > 5)").unwrap();
    wait_notice(&daemon, "table public.a was taken out of the publication and put back");
}

#[test]
fn two_tables_that_swap_their_names_keep_their_rows_apart() {
    let cluster = cluster();
    let prepare = "CREATE TABLE a (id int PRIMARY KEY, of_a text); CREATE TABLE b (id int PRIMARY KEY, of_b int);";
    let work = "INSERT INTO a VALUES (1, 'x'); INSERT INTO b VALUES (2, 7);
        BEGIN; ALTER TABLE a RENAME TO c; ALTER TABLE b RENAME TO a; ALTER TABLE c RENAME TO b;
        INSERT INTO a VALUES (3, 8); INSERT INTO b VALUES (4, 'y'); COMMIT; INSERT INTO a VALUES (5, 9);";
    let events = events_of(&cluster, prepare, "", work, 5);
    assert_eq!(all(&events, "table"), ["a", "b", "a", "b", "a"]);
    assert_eq!(events[0]["after"], json!({"id": "1", "of_a": "x"}));
    assert_eq!(events[2]["after"], json!({"id": "3", "of_b": "8"}));
    assert_eq!(events[3]["after"], json!({"id": "4", "of_a": "y"}));
    assert_ne!(events[0]["fingerprint"], events[2]["fingerprint"]);
    assert_eq!(events[2]["fingerprint"], events[4]["fingerprint"]);
}
