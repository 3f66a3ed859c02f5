//! Partitioned tables: their changes under the leaves' names, or under the root's.

use serde_json::json;

use super::{all, events_of, streaming};
use crate::ordering::wait_visible;
use crate::support::{cluster, database};

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

#[test]
fn a_partition_whose_root_is_published_has_no_versions_until_it_is_a_table_of_its_own() {
    let cluster = cluster();
    let url = database(&cluster, "shop", TABLES);
    let dir = tempfile::tempdir().unwrap();
    let daemon = streaming(&url, dir.path(), "publish_via_partition_root = true");
    let versions = || -> Vec<(String, u32)> {
        daemon.schemas("shop").into_iter().map(|schema| (schema.table, schema.version)).collect()
    };
    // The server announces each of these partitions beside its root; and the second is another table of the first one's name.
    let again = "INSERT INTO sale VALUES (1, 1999, 'a'); DROP TABLE sale_old;
                 CREATE TABLE sale_old PARTITION OF sale FOR VALUES FROM (0) TO (2000); INSERT INTO sale VALUES (2, 1999, 'b')";
    cluster.psql("shop", again).unwrap();
    wait_visible(&daemon, 2);
    assert_eq!(versions(), [("sale".into(), 1)]);
    assert_eq!(daemon.streams()[0]["diverged"], json!([]), "nobody has rows under the partition's name");
    let apart = "ALTER TABLE sale DETACH PARTITION sale_old; ALTER TABLE sale_old ADD more int;
                 ALTER PUBLICATION dbstreamd_shop ADD TABLE sale_old; INSERT INTO sale_old VALUES (3, 1999, 'c', 4)";
    cluster.psql("shop", apart).unwrap();
    wait_visible(&daemon, 3);
    assert_eq!(versions(), [("sale".into(), 1), ("sale_old".into(), 1)]);
}
