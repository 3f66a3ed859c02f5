//! Tables whose rows change without an event for each: noticed, kept, told, and cleared.

use std::path::Path;

use serde_json::Value;

use crate::support::capture::{after, capturing, changes, partitioned};
use crate::support::daemon::run;
use crate::support::{Daemon, cluster, database, eventually, major_version};

/// The stream's tables that diverged, with their reasons.
fn diverged(daemon: &Daemon) -> Vec<(String, String)> {
    let listed = daemon.streams()[0]["diverged"].as_array().unwrap().clone();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    listed.iter().map(|table| (text(&table["table"]), text(&table["reason"]))).collect()
}

fn one(table: &str, reason: &str) -> Vec<(String, String)> {
    vec![(table.to_owned(), reason.to_owned())]
}

#[test]
fn a_rewritten_table_is_on_the_list_over_restarts_until_it_is_cleared_emptied_or_dropped() {
    let cluster = cluster();
    let url = database(
        &cluster,
        "shop",
        "CREATE TABLE t (id int PRIMARY KEY, v int); CREATE TABLE empty (id int PRIMARY KEY); INSERT INTO t VALUES (1, 1)",
    );
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let mut daemon = capturing(&url, "", &data);
    let events = after(
        &cluster,
        &daemon,
        "ALTER TABLE t ADD c int DEFAULT 5; ALTER TABLE empty ADD r float8 DEFAULT random();
         CREATE TABLE unpublished AS SELECT 1 AS id; ALTER TABLE unpublished ADD r float8 DEFAULT random()",
    );
    assert!(diverged(&daemon).is_empty(), "no row became another: {events:?}");
    let events = after(&cluster, &daemon, "ALTER TABLE t ADD r float8 DEFAULT random(); INSERT INTO t VALUES (2)");
    assert_eq!(diverged(&daemon), one("t", "rewritten"));
    let said = events.iter().find(|event| event["schema_change"]["diverged"][0]["table"] == "t").unwrap();
    assert_eq!(daemon.streams()[0]["diverged"][0]["offset"], said["offset"]);
    assert_eq!(daemon.streams()[0]["diverged"][0]["commit_lsn"], said["commit_lsn"]);
    let metric = "dbstreamd_diverged_tables{stream=\"shop\"}";
    assert!((daemon.metric(metric) - 1.0).abs() < 0.1);
    let notices = daemon.ask(&["notices", "--json"]).stdout;
    assert!(notices.contains("table_diverged") && notices.contains("tables clear shop public.t"), "{notices}");
    assert!(daemon.ask(&["streams"]).stdout.contains("tables clear shop public.t"));

    daemon.kill();
    let daemon = capturing(&url, "", &data);
    assert_eq!(diverged(&daemon), one("t", "rewritten"));
    assert!(daemon.ask(&["tables", "clear", "shop", "public.*"]).error_line().contains("pattern"));
    assert!(daemon.ask(&["tables", "clear", "shop", "public.empty"]).error_line().contains("not on the list"));
    let cleared = daemon.ask_json(&["tables", "clear", "shop", "public.t"]);
    assert!(cleared["diverged"].as_array().unwrap().is_empty());
    assert!(daemon.ask(&["notices", "--json"]).stdout.contains("table_cleared"));
    assert!(diverged(&daemon).is_empty());

    after(&cluster, &daemon, "ALTER TABLE t ALTER v TYPE text USING v || 'x'");
    assert_eq!(diverged(&daemon), one("t", "rewritten"));
    after(&cluster, &daemon, "TRUNCATE t");
    assert!(diverged(&daemon).is_empty(), "an emptied table is what its events say");
    after(
        &cluster,
        &daemon,
        "INSERT INTO t VALUES (3, 'x'); ALTER TABLE t ALTER v TYPE bytea USING v::bytea; ALTER TABLE t RENAME TO u",
    );
    assert_eq!(diverged(&daemon), one("u", "rewritten"), "it is as wrong under its new name");
    after(&cluster, &daemon, "DROP TABLE u");
    assert!(diverged(&daemon).is_empty());
}

#[test]
fn a_partition_that_comes_or_goes_with_rows_is_noticed_where_its_root_is_published() {
    let (cluster, _dir, daemon) = partitioned("");
    let check = |sql: &str, expected: bool| {
        after(&cluster, &daemon, sql);
        assert_eq!(diverged(&daemon), if expected { one("p", "partition_moved") } else { vec![] }, "{sql}");
        if expected {
            daemon.ask_json(&["tables", "clear", "shop", "public.p"]);
        }
    };
    check(
        "INSERT INTO p VALUES (1); CREATE TABLE p2 (id int PRIMARY KEY); ALTER TABLE p ATTACH PARTITION p2 FOR VALUES FROM (10) TO (20)",
        false,
    );
    check("ALTER TABLE p DETACH PARTITION p2", false);
    check("INSERT INTO p2 VALUES (11); ALTER TABLE p ATTACH PARTITION p2 FOR VALUES FROM (10) TO (20)", true);
    check("ALTER TABLE p DETACH PARTITION p2", true);
    check(
        "DO $$ BEGIN EXECUTE 'ALTER TABLE p ' || 'att' || 'ach PARTITION p2 FOR VALUES FROM (10) TO (20)'; END $$",
        true,
    );
    check("ALTER TABLE p DETACH PARTITION p2 CONCURRENTLY", true);
    check("DROP TABLE p1", true);
    check(
        "CREATE TABLE p3 PARTITION OF p FOR VALUES FROM (20) TO (30); INSERT INTO p VALUES (21); ALTER TABLE p ADD v text DEFAULT 'x'",
        false,
    );
    after(&cluster, &daemon, "ALTER TABLE p ALTER v DROP DEFAULT; ALTER TABLE p ALTER v TYPE bytea USING v::bytea");
    assert_eq!(diverged(&daemon), one("p", "rewritten"), "what is rewritten in a partition is so in its root");
}

#[test]
fn a_lock_on_another_published_table_hides_no_divergence() {
    let schema = "CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE other (id int PRIMARY KEY); INSERT INTO t VALUES (1);
                  CREATE TABLE p2 (id int PRIMARY KEY) PARTITION BY RANGE (id); CREATE TABLE p21 PARTITION OF p2 FOR VALUES FROM (10) TO (20)";
    let (cluster, _dir, daemon) = partitioned(schema);
    std::thread::scope(|scope| {
        let blocker = "BEGIN; LOCK other, p21 IN ACCESS EXCLUSIVE MODE; SELECT pg_sleep(200)";
        scope.spawn(|| cluster.psql("shop", blocker).unwrap_err());
        let sleeping = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
        let pid =
            eventually("the locks are held", || cluster.psql("shop", sleeping).ok().filter(|pid| !pid.is_empty()));
        let events = after(&cluster, &daemon, "ALTER TABLE t ADD r float8 DEFAULT random(); DROP TABLE p1");
        assert_eq!(diverged(&daemon), [one("p", "partition_moved"), one("t", "rewritten")].concat());
        let all = changes(&events);
        assert!(!all.is_empty() && all.iter().all(|change| change["error"].is_null()), "{all:?}");
        cluster.psql("shop", &format!("SELECT pg_terminate_backend({pid})")).unwrap();
    });
}

#[test]
fn what_cannot_be_looked_up_is_taken_to_have_diverged() {
    let schema = "CREATE ROLE lowly; CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1); ALTER TABLE t OWNER TO lowly;
                  ALTER TABLE p OWNER TO lowly; ALTER TABLE p1 OWNER TO lowly";
    let (cluster, _dir, daemon) = partitioned(schema);
    let events = after(
        &cluster,
        &daemon,
        "REVOKE SELECT ON pg_publication_rel FROM PUBLIC; SET ROLE lowly; ALTER TABLE t ADD r float8 DEFAULT random(); DROP TABLE p1",
    );
    assert_eq!(diverged(&daemon), [one("p", "partition_moved"), one("t", "rewritten")].concat());
    let errors = changes(&events).iter().filter(|change| !change["error"].is_null()).count();
    assert_eq!(errors, 2, "the rewrite and the drop: {events:?}");
}

#[test]
fn the_name_on_the_list_is_the_one_that_each_publication_publishes() {
    let cluster = cluster();
    database(
        &cluster,
        "shop",
        "CREATE SCHEMA x;
         CREATE TABLE root (id int, v text) PARTITION BY RANGE (id); CREATE TABLE x.mid (id int, v text) PARTITION BY RANGE (id);
         CREATE TABLE leaf PARTITION OF x.mid FOR VALUES FROM (0) TO (10); ALTER TABLE root ATTACH PARTITION x.mid FOR VALUES FROM (0) TO (100);
         CREATE PUBLICATION all_leaves FOR ALL TABLES; CREATE PUBLICATION all_roots FOR ALL TABLES WITH (publish_via_partition_root);
         CREATE PUBLICATION root_leaves FOR TABLE root; CREATE PUBLICATION root_root FOR TABLE root WITH (publish_via_partition_root);
         CREATE PUBLICATION both_root FOR TABLE leaf, x.mid WITH (publish_via_partition_root); CREATE PUBLICATION just_leaf FOR TABLE leaf;
         CREATE TABLE t (id int, v text); CREATE PUBLICATION another FOR TABLE t; CREATE PUBLICATION nothing;
         INSERT INTO root VALUES (1, 'x')",
    );
    // In order of the publications' names.
    let mut rewritten = vec![
        ("all_leaves", "public.leaf"),
        ("all_roots", "public.root"),
        ("both_root", "x.mid"),
        ("just_leaf", "public.leaf"),
        ("root_leaves", "public.leaf"),
        ("root_root", "public.root"),
    ];
    if major_version(&cluster) >= 15 {
        cluster.psql("shop", "CREATE PUBLICATION schema_leaves FOR TABLES IN SCHEMA x; CREATE PUBLICATION schema_root FOR TABLES IN SCHEMA x WITH (publish_via_partition_root)").unwrap();
        rewritten.extend([("schema_leaves", "public.leaf"), ("schema_root", "x.mid")]);
    }
    let moved: Vec<_> =
        rewritten.iter().copied().filter(|(name, _)| name.ends_with("_root") || *name == "all_roots").collect();
    cluster.psql("shop", &run(&["check", "--print-sql"]).stdout).unwrap();
    cluster.psql("shop", "SELECT pg_create_logical_replication_slot('look', 'test_decoding')").unwrap();
    let check = |work: &str, reason: &str, expected: &[(&str, &str)]| {
        cluster.psql("shop", work).unwrap();
        let found = cluster
            .psql(
                "shop",
                "SELECT p.name || '=' || (d->>'schema') || '.' || (d->>'table') || '=' || (d->>'reason')
                 FROM pg_logical_slot_get_changes('look', NULL, NULL) c,
                 json_array_elements(substring(c.data from 'content:(.+)$')::json->'diverged') d,
                 json_array_elements_text(d->'publications') p(name)
                 WHERE c.data LIKE '%dbstreamd.ddl%content:{%' ORDER BY 1",
            )
            .unwrap();
        let expected: Vec<_> =
            expected.iter().map(|(publication, name)| format!("{publication}={name}={reason}")).collect();
        assert_eq!(found.lines().collect::<Vec<_>>(), expected, "{work}");
    };
    check("ALTER TABLE root ALTER v TYPE bytea USING v::bytea", "rewritten", &rewritten);
    check("ALTER TABLE x.mid DETACH PARTITION leaf", "partition_moved", &moved);
    check("ALTER TABLE x.mid ATTACH PARTITION leaf FOR VALUES FROM (0) TO (10)", "partition_moved", &moved);
    check(
        "DROP TABLE leaf",
        "partition_moved",
        &[("all_roots", "public.root"), ("both_root", "x.mid"), ("root_root", "public.root"), ("schema_root", "x.mid")]
            [..if rewritten.len() > 6 { 4 } else { 3 }],
    );
    let of_all = [("all_leaves", "public.t"), ("all_roots", "public.t"), ("another", "public.t")];
    check(
        "INSERT INTO t VALUES (1, 'x'); ALTER TABLE t ADD r float8 DEFAULT random(); CREATE TEMP TABLE aside AS SELECT 1 AS id;
         ALTER TABLE aside ADD r float8 DEFAULT random()",
        "rewritten",
        &of_all,
    );
}

/// Swaps two tables, and changes a type, with or without the triggers.
fn names_and_types(cluster: &dbstreamd_throwaway::Cluster, daemon: &Daemon) -> Vec<Vec<(String, String)>> {
    let mut found = Vec::new();
    for work in [
        "INSERT INTO orders VALUES (1); INSERT INTO next VALUES (2);
         BEGIN; ALTER TABLE orders RENAME TO old; ALTER TABLE next RENAME TO orders; COMMIT; INSERT INTO orders VALUES (3)",
        "INSERT INTO t VALUES (1, 'a'); ALTER TABLE t ALTER v TYPE varchar(10); INSERT INTO t VALUES (2, 'b'); ALTER TABLE t ALTER v TYPE text; INSERT INTO t VALUES (3, 'c')",
        "ALTER TABLE t ALTER v TYPE bytea USING convert_to(v, 'UTF8'); INSERT INTO t VALUES (4, 'd')",
    ] {
        after(cluster, daemon, work);
        found.push(diverged(daemon));
        for (table, _) in diverged(daemon) {
            daemon.ask_json(&["tables", "clear", "shop", &format!("public.{table}")]);
        }
    }
    found
}

const SWAPPABLE: &str = "CREATE TABLE orders (id int PRIMARY KEY); CREATE TABLE next (id int PRIMARY KEY); CREATE TABLE t (id int PRIMARY KEY, v varchar(5))";

#[test]
fn a_name_that_another_table_has_and_a_column_of_another_type_are_noticed_with_the_triggers_and_without() {
    for captured in [true, false] {
        let cluster = cluster();
        let url = database(&cluster, "shop", SWAPPABLE);
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        let serve = |data: &Path| if captured { capturing(&url, "", data) } else { Daemon::streaming(&url, data) };
        let mut daemon = serve(&data);
        let found = names_and_types(&cluster, &daemon);
        assert_eq!(found[0], one("orders", "name_reused"), "captured: {captured}");
        assert!(found[1].is_empty(), "a type that only got room: {found:?}");
        assert_eq!(found[2], one("t", if captured { "rewritten" } else { "type_changed" }));
        // What is known is known after a restart, too, and nothing is noticed anew.
        for id in 10..13 {
            daemon.kill();
            daemon = serve(&data);
            after(&cluster, &daemon, &format!("INSERT INTO orders VALUES ({id}); INSERT INTO t VALUES ({id}, 'z')"));
            assert!(diverged(&daemon).is_empty());
        }
        // Without the triggers nobody says that the one before was dropped.
        let drop = "DROP TABLE orders; CREATE TABLE orders (id int PRIMARY KEY); ALTER PUBLICATION dbstreamd_shop ADD TABLE orders; INSERT INTO orders VALUES (1)";
        after(&cluster, &daemon, drop);
        assert_eq!(diverged(&daemon), if captured { vec![] } else { one("orders", "name_reused") });
    }
}
