//! Databases whose text is not UTF-8: converted by the server, or, where it has no encoding, delivered as bytes.

use dbstreamd_throwaway::{Cluster, ShutdownMode};
use serde_json::{Value, json};

use super::{events_of, streaming};
use crate::ordering::wait_visible;
use crate::support::{Daemon, cluster, eventually, unhex};

/// A database in another encoding. Statements are ASCII, as psql would take them for UTF-8.
fn encoded(cluster: &Cluster, encoding: &str, sql: &str) -> String {
    let create = format!("CREATE DATABASE shop ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0");
    cluster.psql("postgres", &create).unwrap();
    cluster.psql("shop", sql).unwrap();
    cluster.url("shop")
}

/// A block that executes statements whose names hold bytes, given as `format` and its arguments.
fn execute(statements: &[&str]) -> String {
    let executes: String = statements.iter().map(|statement| format!("EXECUTE format({statement});\n")).collect();
    format!("DO $$ BEGIN {executes} END $$;")
}

#[test]
fn text_and_names_of_a_latin1_database_arrive_as_utf8() {
    let cluster = cluster();
    let names = execute(&[
        r"'CREATE TABLE %I (id int PRIMARY KEY, %I text)', E't\xe4', E's\xfc\xdf'",
        r"'CREATE TYPE %I AS ENUM (%L)', E'\xe4rt', E'gr\xfcn'",
        r"'ALTER TABLE %I ADD e %I', E't\xe4', E'\xe4rt'",
    ]);
    let url = encoded(&cluster, "LATIN1", &names);
    let dir = tempfile::tempdir().unwrap();
    let daemon = streaming(&url, dir.path(), "");
    let work = [
        execute(&[r"'INSERT INTO %I VALUES (1, %L, %L)', E't\xe4', E'na\xefve \xa0\xff\x01', E'gr\xfcn'"]),
        r"SELECT pg_logical_emit_message(true, E'pr\xe4fix', E'inh\xe4lt');".to_owned(),
    ];
    cluster.psql("shop", &work.concat()).unwrap();
    wait_visible(&daemon, 2);
    let events = daemon.everything("shop");
    assert_eq!(events[0]["table"], "tä");
    assert_eq!(events[0]["after"], json!({"id": "1", "süß": "naïve \u{a0}ÿ\u{1}", "e": "grün"}));
    assert_eq!(events[1]["prefix"], "präfix");
    // The content is bytes, of which the server knows no encoding: in LATIN1 they are not UTF-8.
    assert_eq!(events[1]["content"], json!({"base64": "aW5o5Gx0"}));
}

#[test]
fn bytes_of_a_database_without_an_encoding_arrive_as_they_are_and_never_stop_the_stream() {
    let cluster = cluster();
    let names = execute(&[
        r"'CREATE TABLE %I (id int PRIMARY KEY, %I text)', E'caf\xe9', E'\xff\x22'",
        r"'CREATE TYPE %I AS ENUM (%L)', E't\xe9', E'\xfe'",
        r"'ALTER TABLE %I ADD e %I', E'caf\xe9', E't\xe9'",
        r"'CREATE SCHEMA %I', E'\xc3'",
        r"'CREATE TABLE %I.plain (id int PRIMARY KEY, v text)', E'\xc3'",
    ]);
    let url = encoded(&cluster, "SQL_ASCII", &names);
    let dir = tempfile::tempdir().unwrap();
    let daemon = streaming(&url, dir.path(), "");
    let work = [
        execute(&[
            r"'INSERT INTO %I VALUES (1, %L, %L)', E'caf\xe9', E'a\xff\xfe\x01', E'\xfe'",
            r"'INSERT INTO %I VALUES (2, %L)', E'caf\xe9', E'na\xc3\xafve'",
            r"'INSERT INTO %I.plain VALUES (3, %L)', E'\xc3', E'\xc3'",
            r"'UPDATE %I SET id = 5 WHERE id = 2', E'caf\xe9'",
        ]),
        r"SELECT pg_logical_emit_message(true, E'\xfd', E'\xfc');".to_owned(),
    ];
    cluster.psql("shop", &work.concat()).unwrap();
    wait_visible(&daemon, 5);
    check_raw(&daemon.everything("shop"));
    // What is sent again is the same, names and all.
    cluster.restart(ShutdownMode::Immediate).unwrap();
    eventually("units were sent again", || {
        (daemon.metric("dbstreamd_stream_resent_transactions_total{stream=\"shop\"}") > 0.0).then_some(())
    });
    cluster.psql("shop", &execute(&[r"'DELETE FROM %I WHERE id = 1', E'caf\xe9'"])).unwrap();
    wait_visible(&daemon, 6);
    let events = daemon.everything("shop");
    check_raw(&events[..5]);
    assert_eq!((&events[5]["op"], &events[5]["table"]), (&json!("delete"), &json!("\\x636166e9")));
    assert_eq!(daemon.streams()[0]["epoch"], 1);
    tables_with_such_names_can_be_chosen(&url);
}

fn check_raw(events: &[Value]) {
    assert_eq!(events[0]["table"], "\\x636166e9");
    let wanted = json!({"id": "1", "\\xff22": {"base64": "Yf/+AQ=="}, "e": {"base64": "/g=="}});
    assert_eq!(events[0]["after"], wanted);
    assert_eq!(events[1]["after"], json!({"id": "2", "\\xff22": "naïve", "e": null}), "what is UTF-8 is text");
    assert_eq!((&events[2]["schema"], &events[2]["table"]), (&json!("\\xc3"), &json!("plain")));
    assert_eq!(events[2]["after"], json!({"id": "3", "v": {"base64": "ww=="}}));
    assert_eq!(events[3]["before"], json!({"id": "2"}));
    assert_eq!((&events[4]["prefix"], &events[4]["content"]), (&json!({"base64": "/Q=="}), &json!({"base64": "/A=="})));
}

fn tables_with_such_names_can_be_chosen(url: &str) {
    let dir = tempfile::tempdir().unwrap();
    let settings = "slot = \"another\"\npublication = \"another\"\ntables = ['public.\"\\x636166e9\"']";
    let daemon = streaming(url, dir.path(), settings);
    assert_eq!(daemon.streams()[0]["state"], "STREAMING");
}

#[test]
fn text_that_the_server_cannot_convert_stops_the_stream_with_the_remedy_and_arrives_as_bytes_with_it() {
    let cluster = cluster();
    // In this encoding five bytes are no character.
    let url = encoded(&cluster, "WIN1252", &execute(&[r"'CREATE TABLE %I (id int PRIMARY KEY, v text)', E't\xe4'"]));
    let dir = tempfile::tempdir().unwrap();
    let mut daemon = streaming(&url, dir.path(), "");
    let insert = |id: u32, text: &str| execute(&[&format!(r"'INSERT INTO %I VALUES ({id}, %L)', E't\xe4', E'{text}'")]);
    cluster.psql("shop", &insert(1, r"\x80")).unwrap();
    wait_visible(&daemon, 1);
    cluster.psql("shop", &insert(2, r"\x81")).unwrap();
    let error = daemon.wait_failed();
    assert!(error.contains("raw_text = true") && error.contains("WIN1252"), "{error}");
    daemon.kill();
    // Everything is sent again, in the other form.
    cluster.restart(ShutdownMode::Immediate).unwrap();
    let daemon = streaming(&url, dir.path(), "raw_text = true");
    wait_visible(&daemon, 2);
    let events = daemon.everything("shop");
    assert_eq!((&events[0]["table"], &events[0]["after"]), (&json!("tä"), &json!({"id": "1", "v": "€"})));
    assert_eq!((&events[1]["table"], &events[1]["after"]["v"]), (&json!("\\x74e4"), &json!({"base64": "gQ=="})));
    assert_eq!(daemon.streams()[0]["epoch"], 1);
}

#[test]
fn half_a_character_in_a_utf8_database_is_the_servers_escape_or_bytes() {
    let cluster = cluster();
    let work = "INSERT INTO t VALUES (1, 'é'::text::\"char\")";
    let events = events_of(&cluster, "CREATE TABLE t (id int PRIMARY KEY, c \"char\")", "", work, 1);
    // Newer servers write it as three octal digits, older ones as it is.
    let wanted = match cluster.psql("shop", "SELECT encode(textsend(format('%s', c)), 'hex') FROM t").unwrap().as_str()
    {
        "c3" => json!({"base64": "ww=="}),
        escaped => json!(String::from_utf8(unhex(escaped)).unwrap()),
    };
    assert_eq!(events[0]["after"]["c"], wanted);
}

#[test]
fn a_daemon_says_what_to_expect_of_a_database_without_an_encoding() {
    let cluster = cluster();
    let url = encoded(&cluster, "SQL_ASCII", "CREATE TABLE t (id int PRIMARY KEY)");
    let check = crate::support::Command::new(&["check", "--source", &url]).run();
    assert!(
        check.stdout.contains("SQL_ASCII") && check.stdout.contains("delivered as the bytes it is"),
        "{}",
        check.stdout
    );
    let _: Daemon = Daemon::serving(&[&url]);
}
