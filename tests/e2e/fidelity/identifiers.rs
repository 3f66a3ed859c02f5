//! Names and shapes of tables that are allowed, if only just.

use serde_json::json;

use super::events_of;
use crate::support::cluster;

/// What PostgreSQL allows a table to have.
const COLUMNS_MAX: usize = 1600;

#[test]
fn quoted_and_longest_names_pass_unharmed() {
    let cluster = cluster();
    let long = "ü".repeat(31) + "x";
    assert_eq!(long.len(), 63);
    let prepare = format!(
        r#"CREATE SCHEMA "We ird"; CREATE TABLE "We ird"."T.a""b" ("Id €" int PRIMARY KEY, "a.b" text, "\x41" int);
           CREATE SCHEMA "{long}"; CREATE TABLE "{long}"."{long}" ("{long}" int PRIMARY KEY, "SELECT" int);"#
    );
    let work = format!(
        r#"INSERT INTO "We ird"."T.a""b" VALUES (7, E'\n', 1); INSERT INTO "{long}"."{long}" VALUES (1, 2);
           ALTER TABLE "We ird"."T.a""b" RENAME COLUMN "a.b" TO "'; --"; INSERT INTO "We ird"."T.a""b" VALUES (8);"#
    );
    let events = events_of(&cluster, &prepare, "", &work, 3);
    assert_eq!((&events[0]["schema"], &events[0]["table"]), (&json!("We ird"), &json!("T.a\"b")));
    // A name that looks like the text of bytes is written as bytes, so that it can be told apart from those.
    assert_eq!(events[0]["after"], json!({"Id €": "7", "a.b": "\n", "\\x5c783431": "1"}));
    assert_eq!((&events[1]["schema"], &events[1]["table"]), (&json!(long), &json!(long)));
    assert_eq!(events[1]["after"], json!({long: "1", "SELECT": "2"}));
    assert_eq!(events[2]["after"], json!({"Id €": "8", "'; --": null, "\\x5c783431": null}));
}

#[test]
fn a_table_without_columns_and_one_whose_columns_were_dropped_have_rows_all_the_same() {
    let cluster = cluster();
    let prepare = "CREATE TABLE none (); ALTER TABLE none REPLICA IDENTITY FULL;
        CREATE TABLE dropped (a int, b int, id int PRIMARY KEY, c int); ALTER TABLE dropped DROP a, DROP c;";
    let work = "INSERT INTO none DEFAULT VALUES; DELETE FROM none; INSERT INTO dropped VALUES (1, 2);
        ALTER TABLE dropped DROP b, ADD d text DEFAULT 'x'; UPDATE dropped SET id = 3;";
    let events = events_of(&cluster, prepare, "", work, 4);
    assert_eq!((&events[0]["after"], &events[0]["before"]), (&json!({}), &json!(null)));
    assert_eq!((&events[1]["after"], &events[1]["before"]), (&json!(null), &json!({})));
    assert_eq!(events[2]["after"], json!({"b": "1", "id": "2"}));
    assert_eq!(events[3]["after"], json!({"id": "3", "d": "x"}));
    assert_eq!(events[3]["before"], json!({"id": "2"}));
}

#[test]
fn a_table_of_1600_columns_comes_whole() {
    let cluster = cluster();
    let columns: String = (1..COLUMNS_MAX).map(|n| format!(", column_number_{n} int2")).collect();
    let prepare = format!("CREATE TABLE wide (id int PRIMARY KEY{columns}); ALTER TABLE wide REPLICA IDENTITY FULL;");
    let values: String = (1..COLUMNS_MAX).map(|n| format!(", {n}")).collect();
    let work = format!("INSERT INTO wide VALUES (0{values}); UPDATE wide SET column_number_1599 = NULL;");
    let events = events_of(&cluster, &prepare, "", &work, 2);
    let row = events[0]["after"].as_object().unwrap();
    assert_eq!(row.len(), COLUMNS_MAX);
    for n in 1..COLUMNS_MAX {
        assert_eq!(row[&format!("column_number_{n}")], n.to_string());
    }
    assert_eq!(events[1]["before"], events[0]["after"]);
    assert_eq!(events[1]["after"]["column_number_1599"], json!(null));
}
