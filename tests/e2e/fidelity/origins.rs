//! Changes that were replicated to the source from elsewhere.

use serde_json::json;

use super::{configured, events_of};
use crate::support::{Daemon, cluster, database, major_version};

const TABLE: &str = "CREATE TABLE t (id int PRIMARY KEY)";
const WORK: &str = "SELECT pg_replication_origin_create('elsewhere');
    INSERT INTO t VALUES (1);
    SELECT pg_replication_origin_session_setup('elsewhere');
    BEGIN; SELECT pg_replication_origin_xact_setup('0/10', now()); INSERT INTO t VALUES (2); COMMIT;
    SELECT pg_replication_origin_session_reset(); INSERT INTO t VALUES (3);";

#[test]
fn changes_of_every_origin_come_unless_told_otherwise() {
    let cluster = cluster();
    let events = events_of(&cluster, TABLE, "", WORK, 3);
    assert_eq!(events[1]["after"], json!({"id": "2"}));
}

#[test]
fn only_what_was_made_here_comes_when_that_is_wished_for_and_an_older_server_is_refused() {
    let cluster = cluster();
    if major_version(&cluster) >= 16 {
        let events = events_of(&cluster, TABLE, "origin = \"none\"", WORK, 2);
        assert_eq!(events[1]["after"], json!({"id": "3"}));
        return;
    }
    let url = database(&cluster, "shop", TABLE);
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start_with(&configured(&url, dir.path(), "origin = \"none\""), &dir.path().join("data"));
    let error = daemon.wait_failed();
    assert!(error.contains("origin = \"none\" needs PostgreSQL 16") && error.contains("origin = \"any\""), "{error}");
    let slots = cluster.psql("shop", "SELECT count(*) FROM pg_replication_slots").unwrap();
    assert_eq!(slots, "0", "nothing was created for a stream that cannot run");
}
