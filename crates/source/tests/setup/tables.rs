//! Which tables are taken: identities, odd names, partitions, and what cannot be published.

use dbstreamd_source::postgres::setup::{TableState, TablesWithoutIdentity};

use crate::database::{Database, check, finding, prepare, refused, says, table, warned};

#[test]
fn a_table_without_identity_is_left_out_and_goes_on_working() {
    let database = Database::with(
        "CREATE TABLE orders (id int PRIMARY KEY); CREATE TABLE log (line text); INSERT INTO log VALUES ('a')",
    );
    let settings = database.settings();
    let report = check(&settings);
    says(
        &warned(&report, "replica_identity"),
        &["public.log", "left out", "ALTER TABLE \"public\".\"log\" REPLICA IDENTITY FULL"],
    );
    assert_eq!(table(&report, "log").state, TableState::Skipped);
    prepare(&settings).unwrap();
    assert_eq!(database.published(), ["public.orders"]);
    database.sql("UPDATE log SET line = 'b'; DELETE FROM log");

    database.sql("ALTER TABLE log REPLICA IDENTITY FULL");
    assert_eq!(prepare(&settings).unwrap().created.tables, ["public.log"]);
    database.sql("INSERT INTO log VALUES ('a'); UPDATE log SET line = 'b'; DELETE FROM log");
}

#[test]
fn tables_without_identity_can_be_refused_or_published_on_request() {
    let database = Database::with("CREATE TABLE orders (id int PRIMARY KEY); CREATE TABLE log (line text)");
    let mut settings = database.settings();
    settings.tables_without_identity = TablesWithoutIdentity::Fail;
    says(&refused(&settings, "replica_identity"), &["public.log", "REPLICA IDENTITY FULL"]);
    settings.tables_without_identity = TablesWithoutIdentity::Publish;
    says(&warned(&check(&settings), "replica_identity"), &["public.log", "refuses UPDATE and DELETE"]);
    prepare(&settings).unwrap();
    assert_eq!(database.published(), ["public.log", "public.orders"]);
}

#[test]
fn identities_are_judged_as_postgresql_judges_them() {
    let database = Database::with(
        "CREATE TABLE plain (id int PRIMARY KEY);
         CREATE TABLE late (id int PRIMARY KEY DEFERRABLE);
         CREATE TABLE nothing (id int PRIMARY KEY); ALTER TABLE nothing REPLICA IDENTITY NOTHING;
         CREATE TABLE chosen (id int NOT NULL UNIQUE); ALTER TABLE chosen REPLICA IDENTITY USING INDEX chosen_id_key;
         CREATE TABLE gone (id int NOT NULL UNIQUE); ALTER TABLE gone REPLICA IDENTITY USING INDEX gone_id_key;
         ALTER TABLE gone DROP CONSTRAINT gone_id_key;
         CREATE TABLE candidate (a int NOT NULL, b int NOT NULL, UNIQUE (a, b));
         CREATE TABLE nullable (id int UNIQUE);
         CREATE TABLE fully (line text); ALTER TABLE fully REPLICA IDENTITY FULL",
    );
    let mut settings = database.settings();
    settings.tables_without_identity = TablesWithoutIdentity::Publish;
    let report = check(&settings);
    prepare(&settings).unwrap();
    for name in ["plain", "late", "nothing", "chosen", "gone", "candidate", "nullable", "fully"] {
        let works = database.cluster.psql(&database.name, &format!("DELETE FROM {name}")).is_ok();
        assert_eq!(table(&report, name).updates_and_deletes, works, "{name}");
    }
    let remedy = |name: &str| {
        let about = report.findings.iter().find(|f| f.subject == format!("public.{name}"));
        about.and_then(|f| f.remedy.clone()).unwrap()
    };
    assert_eq!(
        remedy("candidate"),
        "ALTER TABLE \"public\".\"candidate\" REPLICA IDENTITY USING INDEX \"candidate_a_b_key\""
    );
    assert_eq!(remedy("nothing"), "ALTER TABLE \"public\".\"nothing\" REPLICA IDENTITY USING INDEX \"nothing_pkey\"");
    assert_eq!(remedy("nullable"), "ALTER TABLE \"public\".\"nullable\" REPLICA IDENTITY FULL");
    for name in ["late", "nothing", "gone", "candidate", "nullable"] {
        database.sql(&remedy(name));
        database.sql(&format!("DELETE FROM {name}"));
    }
}

#[test]
fn names_that_need_quotes_survive() {
    let long = "é".repeat(31) + "x";
    let names = ["Order Lines", "select", "a\"b", "a.b", "back\\slash", "it's", "{x}", "*", &long];
    let quoted = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
    let create: Vec<_> = names
        .iter()
        .map(|name| format!("CREATE TABLE \"Shop \"\"1\"\"\".{} (id int PRIMARY KEY)", quoted(name)))
        .collect();
    let database = Database::with(&format!("CREATE SCHEMA \"Shop \"\"1\"\"\"; {}", create.join(";")));
    let mut settings = database.settings();
    settings.publication = "My \"publication\" \\ 'x'".into();
    prepare(&settings).unwrap();
    assert_eq!(prepare(&settings).unwrap().created.tables, Vec::<String>::new());
    assert_eq!(database.sql("SELECT count(*) FROM pg_publication_tables"), names.len().to_string());
    // One by one, as a configuration names them.
    for name in names {
        settings.tables = vec![format!("\"Shop \"\"1\"\"\".{}", quoted(name)).parse().unwrap()];
        let report = check(&settings);
        assert_eq!(report.tables.len(), 1, "{name}");
        assert_eq!(report.tables[0].table, name);
    }
}

const PARTITIONED: &str = "CREATE TABLE events (id int, at date, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
    CREATE TABLE events_1 PARTITION OF events FOR VALUES FROM ('2024-01-01') TO ('2025-01-01');
    CREATE TABLE events_2 PARTITION OF events FOR VALUES FROM ('2025-01-01') TO ('2026-01-01') PARTITION BY RANGE (at);
    CREATE TABLE events_2a PARTITION OF events_2 FOR VALUES FROM ('2025-01-01') TO ('2025-06-01')";

#[test]
fn a_partitioned_table_brings_its_partitions() {
    let database = Database::with(PARTITIONED);
    let settings = database.settings();
    let report = check(&settings);
    assert_eq!(report.tables.len(), 1);
    assert!(table(&report, "events").partitioned);
    says(&finding(&report, "partitions").message, &["each partition's own name"]);
    prepare(&settings).unwrap();
    assert_eq!(database.published(), ["public.events_1", "public.events_2a"]);
    // A new partition needs nothing.
    database.sql("CREATE TABLE events_2b PARTITION OF events_2 FOR VALUES FROM ('2025-06-01') TO ('2026-01-01')");
    assert_eq!(prepare(&settings).unwrap().created.tables, Vec::<String>::new());

    let mut via_root = database.settings();
    via_root.publish_via_partition_root = true;
    says(&warned(&check(&via_root), "partitions"), &["publish_via_partition_root = true", "ALTER PUBLICATION"]);
    via_root.publication = "rooted".into();
    via_root.slot += "_rooted";
    prepare(&via_root).unwrap();
    assert_eq!(database.sql("SELECT tablename FROM pg_publication_tables WHERE pubname = 'rooted'"), "events");
}

#[test]
fn partitions_can_be_named_and_one_without_identity_keeps_its_root_out() {
    let database = Database::with(PARTITIONED);
    let mut settings = database.settings();
    settings.tables = vec!["public.events_1".parse().unwrap()];
    prepare(&settings).unwrap();
    assert_eq!(database.published(), ["public.events_1"]);
    database.sql(&format!("DROP PUBLICATION dbstreamd_shop; SELECT pg_drop_replication_slot('{}')", database.slot()));

    database.sql("CREATE TABLE other (id int PRIMARY KEY); ALTER TABLE events_2a REPLICA IDENTITY NOTHING");
    settings.tables = vec!["*.*".parse().unwrap()];
    settings.exclude = vec!["public.events_1".parse().unwrap()];
    let report = check(&settings);
    assert_eq!(table(&report, "events").state, TableState::Skipped);
    says(&warned(&report, "replica_identity"), &["public.events_2a"]);
    says(&warned(&report, "exclude_partition"), &["public.events_1"]);
    prepare(&settings).unwrap();
    assert_eq!(database.published(), ["public.other"]);
    // Excluding the root excludes its partitions.
    database.sql("ALTER TABLE events_2a REPLICA IDENTITY DEFAULT");
    settings.exclude = vec!["public.events".parse().unwrap()];
    assert_eq!(check(&settings).tables.len(), 1);
}

#[test]
fn what_is_no_table_is_left_alone_unless_it_is_named() {
    let database = Database::with(
        "CREATE TABLE parent (id int PRIMARY KEY); CREATE TABLE child () INHERITS (parent);
         CREATE UNLOGGED TABLE scratch (id int PRIMARY KEY);
         CREATE VIEW look AS SELECT 1; CREATE MATERIALIZED VIEW kept AS SELECT 1;
         CREATE FOREIGN DATA WRAPPER w; CREATE SERVER s FOREIGN DATA WRAPPER w; CREATE FOREIGN TABLE far (id int) SERVER s",
    );
    let mut settings = database.settings();
    let report = check(&settings);
    assert!(!report.has_errors());
    assert_eq!(table(&report, "scratch").state, TableState::Skipped);
    assert_eq!(table(&report, "far").state, TableState::Skipped);
    prepare(&settings).unwrap();
    // A table that inherits is a table of its own, and this one has no key.
    assert_eq!(database.published(), ["public.parent"]);
    for (name, what) in [
        ("look", "a view"),
        ("kept", "a materialized view"),
        ("scratch", "an unlogged table"),
        ("far", "a foreign table"),
    ] {
        settings.tables = vec!["public.parent".parse().unwrap(), format!("public.{name}").parse().unwrap()];
        says(&refused(&settings, "not_publishable"), &[name, what]);
    }
}

#[test]
fn a_pattern_that_matches_nothing_is_refused_with_what_there_is() {
    let database = Database::with("CREATE TABLE \"Orders\" (id int PRIMARY KEY)");
    let mut settings = database.settings();
    settings.tables = vec!["public.*".parse().unwrap(), "public.Orders".parse().unwrap()];
    says(&refused(&settings, "pattern_matches_nothing"), &["public.orders", &database.name, "public.\"Orders\""]);
    let empty = Database::with("");
    says(&refused(&empty.settings(), "pattern_matches_nothing"), &["*.*", &empty.name, "no user tables"]);
    let log = Database::with("CREATE TABLE log (line text)");
    says(&refused(&log.settings(), "nothing_to_publish"), &["public.log", "no replica identity"]);
    assert_eq!(log.slots(), "");
}
