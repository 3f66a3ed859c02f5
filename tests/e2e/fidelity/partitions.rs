//! Partitioned tables: their changes under the leaves' names, or under the root's.

use serde_json::json;

use super::{all, events_of};
use crate::support::cluster;

const TABLES: &str =
    "CREATE TABLE sale (id int, year int, note text, PRIMARY KEY (id, year)) PARTITION BY RANGE (year);
    CREATE TABLE sale_old PARTITION OF sale FOR VALUES FROM (0) TO (2000);
    CREATE TABLE sale_new (note text, year int NOT NULL, gone int, id int NOT NULL, PRIMARY KEY (id, year));
    ALTER TABLE sale_new DROP COLUMN gone;
    ALTER TABLE sale ATTACH PARTITION sale_new FOR VALUES FROM (2000) TO (3000);";
const WORK: &str = "INSERT INTO sale VALUES (1, 1999, 'a'), (2, 2001, 'b'); UPDATE sale SET note = 'c' WHERE id = 2;
    UPDATE sale SET year = 2005 WHERE id = 1; DELETE FROM sale WHERE id = 2; TRUNCATE sale_old; TRUNCATE sale;";

#[test]
fn changes_of_partitions_come_under_the_names_of_the_leaves() {
    let cluster = cluster();
    let events = events_of(&cluster, TABLES, "", WORK, 9);
    assert_eq!(all(&events, "op")[..6], ["insert", "insert", "update", "delete", "insert", "delete"]);
    let leaves = ["sale_old", "sale_new", "sale_new", "sale_old", "sale_new", "sale_new"];
    assert_eq!(all(&events, "table")[..6], leaves, "a row that moves is deleted here and inserted there");
    assert_eq!(events[1]["after"], json!({"note": "b", "year": "2001", "id": "2"}));
    let truncated: Vec<_> = events[6..].iter().map(|event| (&event["op"], &event["table"])).collect();
    assert_eq!(truncated[0], (&json!("truncate"), &json!("sale_old")));
    let mut both: Vec<_> = all(&events[7..], "table");
    both.sort_unstable();
    assert_eq!(both, ["sale_new", "sale_old"]);
}

#[test]
fn changes_of_partitions_come_under_the_name_and_with_the_columns_of_the_root() {
    let cluster = cluster();
    // A truncate of one leaf has no place under the root's name: PostgreSQL does not send it.
    let events = events_of(&cluster, TABLES, "publish_via_partition_root = true", WORK, 7);
    assert_eq!(all(&events, "op"), ["insert", "insert", "update", "delete", "insert", "delete", "truncate"]);
    assert_eq!(all(&events, "table"), ["sale"; 7]);
    assert_eq!(events[1]["after"], json!({"id": "2", "year": "2001", "note": "b"}));
    let fingerprints: std::collections::BTreeSet<_> = all(&events, "fingerprint").into_iter().collect();
    assert_eq!(fingerprints.len(), 1, "one schema for all leaves");
}
