//! What an event says of the old row, and of large values that an update left as they were.

use serde_json::{Value, json};

use super::events_of;
use crate::support::cluster;

const BIG: usize = 50_000;

#[test]
fn before_is_the_key_the_whole_row_or_absent_as_the_replica_identity_says() {
    let cluster = cluster();
    let tables = "CREATE TABLE by_key (id int PRIMARY KEY, v text);
        CREATE TABLE by_index (id int PRIMARY KEY, code text NOT NULL, v text);
        CREATE UNIQUE INDEX code ON by_index (code); ALTER TABLE by_index REPLICA IDENTITY USING INDEX code;
        CREATE TABLE whole (id int, v text); ALTER TABLE whole REPLICA IDENTITY FULL;
        CREATE TABLE nothing (id int, v text); ALTER TABLE nothing REPLICA IDENTITY NOTHING;";
    let work = "INSERT INTO by_key VALUES (1, 'a'); UPDATE by_key SET v = 'b'; UPDATE by_key SET id = 2; DELETE FROM by_key;
        INSERT INTO by_index VALUES (1, 'x', 'a'); UPDATE by_index SET id = 5; UPDATE by_index SET code = 'y'; DELETE FROM by_index;
        INSERT INTO whole VALUES (1, NULL); UPDATE whole SET v = ''; DELETE FROM whole;
        INSERT INTO nothing VALUES (1, 'a'); TRUNCATE nothing;";
    let events = events_of(&cluster, tables, "tables_without_identity = \"publish\"", work, 13);
    let before: Vec<&Value> = events.iter().map(|event| &event["before"]).collect();
    let wanted = [
        json!(null),
        json!(null),
        json!({"id": "1"}),
        json!({"id": "2"}),
        json!(null),
        json!(null),
        json!({"code": "x"}),
        json!({"code": "y"}),
        json!(null),
        json!({"id": "1", "v": null}),
        json!({"id": "1", "v": ""}),
        json!(null),
        json!(null),
    ];
    assert_eq!(before, wanted.iter().collect::<Vec<_>>());
    assert_eq!(events[5]["after"], json!({"id": "5", "code": "x", "v": "a"}), "a column outside of the identity");
    // The server refuses updates of a published table without an identity: nothing is lost there in silence.
    let refused = cluster.psql("shop", "INSERT INTO nothing VALUES (1); DELETE FROM nothing").unwrap_err();
    assert!(refused.to_string().contains("replica identity"), "{refused}");
}

#[test]
fn an_unchanged_large_value_is_named_under_every_identity_that_does_not_bring_it() {
    let cluster = cluster();
    let table = |name: &str| {
        format!(
            "CREATE TABLE {name} (id int PRIMARY KEY, code text NOT NULL UNIQUE, small text, big text, other bytea);
             ALTER TABLE {name} ALTER big SET STORAGE EXTERNAL, ALTER other SET STORAGE EXTERNAL;"
        )
    };
    let tables = format!(
        "{}{} ALTER TABLE by_index REPLICA IDENTITY USING INDEX by_index_code_key;",
        table("by_key"),
        table("by_index")
    );
    let work: String = ["by_key", "by_index"]
        .map(|name| {
            format!(
                "INSERT INTO {name} VALUES (1, 'x', 'a', repeat('x', {BIG}), convert_to(repeat('y', {BIG}), 'UTF8'));
                 UPDATE {name} SET small = 'b'; UPDATE {name} SET big = repeat('z', {BIG}); UPDATE {name} SET code = 'y';"
            )
        })
        .concat();
    let events = events_of(&cluster, &tables, "", &work, 8);
    for updates in [&events[1..4], &events[5..8]] {
        assert_eq!(updates[0]["unchanged"], json!(["big", "other"]));
        assert_eq!(updates[0]["after"], json!({"id": "1", "code": "x", "small": "b"}));
        assert_eq!(updates[1]["unchanged"], json!(["other"]));
        assert_eq!(updates[1]["after"]["big"].as_str().unwrap().len(), BIG);
        assert_eq!(updates[2]["unchanged"], json!(["big", "other"]));
    }
}

#[test]
fn an_unchanged_large_value_is_filled_from_the_old_row_where_that_is_whole() {
    let cluster = cluster();
    let table = "CREATE TABLE t (id int, small text, big text, other bytea); ALTER TABLE t REPLICA IDENTITY FULL;
        ALTER TABLE t ALTER big SET STORAGE EXTERNAL, ALTER other SET STORAGE EXTERNAL;";
    let work = format!(
        "INSERT INTO t VALUES (1, 'a', repeat('x', {BIG}), NULL); UPDATE t SET small = 'b'; UPDATE t SET big = NULL;
         UPDATE t SET big = repeat('z', {BIG}), other = convert_to(repeat('y', {BIG}), 'UTF8'); UPDATE t SET id = 2; DELETE FROM t;"
    );
    let events = events_of(&cluster, table, "", &work, 6);
    for event in &events {
        assert_eq!(event["unchanged"], json!([]), "nothing is missing");
    }
    let rows = |field: &str| events.iter().map(|event| event[field].clone()).collect::<Vec<_>>();
    let (before, after) = (rows("before"), rows("after"));
    assert_eq!(after[1], json!({"id": "1", "small": "b", "big": "x".repeat(BIG), "other": null}));
    assert_eq!(after[4]["other"], format!("\\x{}", "79".repeat(BIG)));
    // Each event's old row is what the event before made of it.
    assert_eq!(before[1..], after[..5]);
}
