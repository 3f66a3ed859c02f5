//! What an event says: the fields of the JSON contract, in their order. What the values are is in `fidelity/`.

use serde_json::{Value, json};

use crate::ordering::wait_visible;
use crate::support::{Daemon, cluster, database};

fn events(schema: &str, work: &str, count: u64) -> Vec<Value> {
    let cluster = cluster();
    let url = database(&cluster, "shop", schema);
    let daemon = Daemon::serving(&[&url]);
    cluster.psql("shop", work).unwrap();
    wait_visible(&daemon, count);
    daemon.everything("shop")
}

#[test]
fn every_field_of_the_json_contract_is_there() {
    let events = events("CREATE TABLE t (id int PRIMARY KEY, name text)", "INSERT INTO t VALUES (1, NULL)", 1);
    let object = events[0].as_object().unwrap();
    let fields: Vec<_> = object.keys().map(String::as_str).collect();
    let contract = [
        "offset",
        "op",
        "schema",
        "table",
        "before",
        "after",
        "unchanged",
        "commit_lsn",
        "ordinal",
        "xid",
        "commit_time",
        "epoch",
        "fingerprint",
        "last_in_transaction",
    ];
    assert_eq!(fields, contract);
    assert_eq!(events[0]["after"], json!({"id": "1", "name": null}));
    assert_eq!(events[0]["before"], Value::Null);
    assert_eq!(events[0]["unchanged"], json!([]));
    assert_eq!((&events[0]["schema"], &events[0]["table"]), (&json!("public"), &json!("t")));
    assert_eq!(events[0]["fingerprint"].as_str().unwrap().len(), 32);
    assert_eq!(events[0]["last_in_transaction"], true);
}

#[test]
fn truncates_and_logical_messages_are_events_in_their_order() {
    let events = events(
        "CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY)",
        "INSERT INTO a VALUES (1);
         BEGIN; SELECT pg_logical_emit_message(true, 'audit', 'inside'); TRUNCATE a, b RESTART IDENTITY; COMMIT;
         SELECT pg_logical_emit_message(false, 'note', 'at once');",
        5,
    );
    let ops: Vec<_> = events.iter().map(|e| e["op"].as_str().unwrap()).collect();
    assert_eq!(ops, ["insert", "message", "truncate", "truncate", "message"]);
    assert_eq!(events[1]["prefix"], "audit");
    assert_eq!(events[1]["content"], "inside");
    assert_eq!(events[1]["xid"], events[2]["xid"]);
    let tables: Vec<_> = events[2..4].iter().map(|e| e["table"].as_str().unwrap()).collect();
    assert_eq!(tables, ["a", "b"]);
    assert_eq!(events[2]["restart_identity"], true);
    assert_eq!((&events[4]["transactional"], &events[4]["xid"]), (&json!(false), &json!(0)));
}
