//! What a publication can do: filters, column lists, truncates, messages, generated columns.

use serde_json::{Value, json};

use super::{all, events_of, older_than};
use crate::support::cluster;

#[test]
fn a_row_filter_decides_per_row_and_turns_updates_across_it_into_inserts_and_deletes() {
    let cluster = cluster();
    if older_than(&cluster, 15, "a row filter") {
        return;
    }
    let prepare = "CREATE TABLE t (id int PRIMARY KEY, v int); ALTER TABLE t REPLICA IDENTITY FULL;
        CREATE PUBLICATION dbstreamd_shop FOR TABLE t WHERE (v > 10);";
    let work =
        "INSERT INTO t VALUES (1, 5), (2, 50); UPDATE t SET v = 60 WHERE id = 2; UPDATE t SET v = 20 WHERE id = 1;
        UPDATE t SET v = 1 WHERE id = 2; DELETE FROM t WHERE id = 2; DELETE FROM t WHERE id = 1;";
    let events = events_of(&cluster, prepare, "", work, 5);
    assert_eq!(all(&events, "op"), ["insert", "update", "insert", "delete", "delete"]);
    assert_eq!(events[2]["after"], json!({"id": "1", "v": "20"}), "it entered the filter");
    assert_eq!(events[3]["before"], json!({"id": "2", "v": "60"}), "it left the filter");
}

#[test]
fn a_column_list_is_the_whole_table_for_the_stream() {
    let cluster = cluster();
    if older_than(&cluster, 15, "a column list") {
        return;
    }
    let prepare = "CREATE TABLE t (id int PRIMARY KEY, secret text, v int);
        CREATE PUBLICATION dbstreamd_shop FOR TABLE t (v, id);";
    let work = "INSERT INTO t VALUES (1, 'psst', 5); UPDATE t SET secret = 'hush'; UPDATE t SET id = 2; DELETE FROM t;";
    let events = events_of(&cluster, prepare, "", work, 4);
    assert_eq!(events[0]["after"], json!({"id": "1", "v": "5"}));
    assert_eq!(events[1]["after"], events[0]["after"], "an update of what is left out is an update of nothing");
    assert_eq!(events[2]["before"], json!({"id": "1"}));
    assert!(!serde_json::to_string(&events).unwrap().contains("psst"));
}

#[test]
fn a_truncate_of_several_tables_is_one_event_each_with_its_options() {
    let cluster = cluster();
    let prepare = "CREATE TABLE a (id serial PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY REFERENCES a);
        CREATE TABLE c (id int PRIMARY KEY); CREATE UNLOGGED TABLE u (id int PRIMARY KEY);";
    let work = "INSERT INTO a DEFAULT VALUES; TRUNCATE c, u; TRUNCATE a CASCADE; TRUNCATE a, b, c RESTART IDENTITY;
        BEGIN; TRUNCATE c; ROLLBACK;";
    let events = events_of(&cluster, prepare, "", work, 7);
    let of = |events: &[Value]| {
        let mut tables: Vec<_> = all(events, "table").into_iter().map(str::to_owned).collect();
        tables.sort_unstable();
        let options: Vec<_> =
            events.iter().map(|event| (event["cascade"].clone(), event["restart_identity"].clone())).collect();
        assert!(
            options.iter().all(|option| *option == options[0]) && all(events, "op").iter().all(|op| *op == "truncate")
        );
        (tables, options[0].0 == true, options[0].1 == true)
    };
    assert_eq!(of(&events[1..2]), (vec!["c".to_owned()], false, false), "an unlogged table is no part of it");
    assert_eq!(of(&events[2..4]), (vec!["a".to_owned(), "b".to_owned()], true, false));
    assert_eq!(of(&events[4..7]), (["a", "b", "c"].map(str::to_owned).to_vec(), false, true));
    assert_eq!(events[4]["xid"], events[6]["xid"]);
}

#[test]
fn messages_inside_a_transaction_go_with_it_and_others_stand_alone_even_when_it_is_rolled_back() {
    let cluster = cluster();
    let work = "BEGIN; SELECT pg_logical_emit_message(true, 'inside', 'lost'); SELECT pg_logical_emit_message(false, 'outside', 'kept'); ROLLBACK;
        BEGIN; INSERT INTO t VALUES (1); SELECT pg_logical_emit_message(true, 'in ü', '\\x00ff01'::bytea); INSERT INTO t VALUES (2); COMMIT;
        SELECT pg_logical_emit_message(true, '', '');";
    let events = events_of(&cluster, "CREATE TABLE t (id int PRIMARY KEY)", "", work, 5);
    assert_eq!(all(&events, "op"), ["message", "insert", "message", "insert", "message"]);
    assert_eq!((&events[0]["prefix"], &events[0]["content"]), (&json!("outside"), &json!("kept")));
    assert_eq!((&events[0]["transactional"], &events[0]["xid"]), (&json!(false), &json!(0)));
    assert_eq!((&events[2]["prefix"], &events[2]["content"]), (&json!("in ü"), &json!({"base64": "AP8B"})));
    assert_eq!((&events[2]["transactional"], &events[2]["xid"]), (&json!(true), &events[1]["xid"]));
    assert_eq!((&events[4]["prefix"], &events[4]["content"]), (&json!(""), &json!("")));
}

#[test]
fn generated_columns_are_left_out_unless_the_publication_sends_them() {
    let cluster = cluster();
    let table = "CREATE TABLE t (id int PRIMARY KEY, twice int GENERATED ALWAYS AS (id * 2) STORED);";
    let events = events_of(&cluster, table, "", "INSERT INTO t VALUES (21)", 1);
    assert_eq!(events[0]["after"], json!({"id": "21"}));
}

#[test]
fn stored_generated_columns_come_when_the_publication_sends_them() {
    let cluster = cluster();
    if older_than(&cluster, 18, "publish_generated_columns") {
        return;
    }
    let prepare = "CREATE TABLE t (id int PRIMARY KEY, twice int GENERATED ALWAYS AS (id * 2) STORED,
            thrice int GENERATED ALWAYS AS (id * 3) VIRTUAL);
        CREATE PUBLICATION dbstreamd_shop FOR TABLE t WITH (publish_generated_columns = stored);";
    let events = events_of(&cluster, prepare, "", "INSERT INTO t VALUES (21); UPDATE t SET id = 22", 2);
    assert_eq!(events[0]["after"], json!({"id": "21", "twice": "42"}));
    assert_eq!(events[1]["after"], json!({"id": "22", "twice": "44"}));
}

#[test]
fn temporary_and_unlogged_tables_are_no_part_of_the_stream() {
    let cluster = cluster();
    let prepare = "CREATE TABLE t (id int PRIMARY KEY); CREATE UNLOGGED TABLE u (id int PRIMARY KEY);";
    let work = "CREATE TEMP TABLE x (id int PRIMARY KEY); INSERT INTO x VALUES (1); INSERT INTO u VALUES (2); INSERT INTO t VALUES (3);";
    let events = events_of(&cluster, prepare, "", work, 1);
    assert_eq!(events[0]["after"], json!({"id": "3"}));
}
