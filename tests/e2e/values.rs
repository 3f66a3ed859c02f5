//! What an event says: rows, keys, unchanged TOAST, truncates, messages.

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
fn updates_deletes_keys_and_full_rows_arrive_as_the_replica_identity_says() {
    let events = events(
        "CREATE TABLE k (id int PRIMARY KEY, v text); CREATE TABLE f (id int PRIMARY KEY, v text); ALTER TABLE f REPLICA IDENTITY FULL",
        "INSERT INTO k VALUES (1, 'a'); UPDATE k SET v = 'b'; UPDATE k SET id = 2; DELETE FROM k;
         INSERT INTO f VALUES (1, 'a'); UPDATE f SET v = 'b'; DELETE FROM f;",
        7,
    );
    assert_eq!(events[1]["before"], Value::Null, "the key did not change, so PostgreSQL sends no old row");
    assert_eq!(events[2]["before"], json!({"id": "1"}));
    assert_eq!(events[2]["after"], json!({"id": "2", "v": "b"}));
    assert_eq!(events[3]["op"], "delete");
    assert_eq!(events[3]["before"], json!({"id": "2"}));
    assert_eq!(events[5]["before"], json!({"id": "1", "v": "a"}));
    assert_eq!(events[6]["before"], json!({"id": "1", "v": "b"}));
    assert_eq!(events[6]["after"], Value::Null);
}

#[test]
fn an_unchanged_toasted_value_is_named_and_is_not_null() {
    let events = events(
        "CREATE TABLE t (id int PRIMARY KEY, small text, big text); ALTER TABLE t ALTER big SET STORAGE EXTERNAL",
        "INSERT INTO t VALUES (1, 'a', repeat('x', 100000)); UPDATE t SET small = 'b'; UPDATE t SET big = NULL;",
        3,
    );
    assert_eq!(events[0]["after"]["big"].as_str().unwrap().len(), 100_000);
    assert_eq!(events[1]["unchanged"], json!(["big"]));
    assert_eq!(events[1]["after"], json!({"id": "1", "small": "b"}));
    assert_eq!(events[2]["unchanged"], json!([]));
    assert_eq!(events[2]["after"]["big"], Value::Null);
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

#[test]
fn session_settings_of_the_role_do_not_change_a_single_byte() {
    let cluster = cluster();
    let url = database(
        &cluster,
        "shop",
        "CREATE TABLE t (id int PRIMARY KEY, d timestamptz, i interval, b bytea, f float8, m money)",
    );
    cluster
        .psql(
            "shop",
            "ALTER ROLE postgres SET datestyle = 'German'; ALTER ROLE postgres SET timezone = 'Asia/Tokyo';
            ALTER ROLE postgres SET intervalstyle = 'sql_standard'; ALTER ROLE postgres SET bytea_output = 'escape';
            ALTER ROLE postgres SET extra_float_digits = 0; ALTER ROLE postgres SET search_path = 'nowhere'",
        )
        .unwrap();
    let daemon = Daemon::serving(&[&url]);
    cluster
        .psql("shop", "INSERT INTO public.t VALUES (1, '2024-02-29 12:00:00+00', '1 day 02:03:04', '\\x00ff', 0.1::float8 + 0.2::float8, 5)")
        .unwrap();
    wait_visible(&daemon, 1);
    let after = &daemon.everything("shop")[0]["after"];
    assert_eq!(after["d"], "2024-02-29 12:00:00+00");
    assert_eq!(after["b"], "\\x00ff");
    assert_eq!(after["f"], "0.30000000000000004");
    assert_eq!(after["m"], "$5.00");
    assert!(after["i"].as_str().unwrap().starts_with("1 day 02:03:04"), "{after}");
}

#[test]
fn quoted_names_and_zero_column_tables_pass_unharmed() {
    let events = events(
        r#"CREATE SCHEMA "We ird"; CREATE TABLE "We ird"."T.a""b" ("Id €" int PRIMARY KEY, "" text);"#.replace(r#", "" text"#, "").as_str(),
        r#"INSERT INTO "We ird"."T.a""b" VALUES (7)"#,
        1,
    );
    assert_eq!((&events[0]["schema"], &events[0]["table"]), (&json!("We ird"), &json!("T.a\"b")));
    assert_eq!(events[0]["after"], json!({"Id €": "7"}));
}
