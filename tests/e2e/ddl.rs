//! Schema changes that the source's event triggers record: in order, in their transaction, and never in the way.

use std::sync::atomic::{AtomicBool, Ordering};

use dbstreamd::proto::FactsOrigin;
use dbstreamd_throwaway::Cluster;
use serde_json::Value;

use crate::support::capture::{after, capturing, changes, partitioned};
use crate::support::{Daemon, cluster, daemon::run, database, eventually};

fn tags(events: &[Value]) -> Vec<&str> {
    changes(events).into_iter().map(|change| change["command_tag"].as_str().unwrap()).collect()
}

#[test]
fn every_kind_of_schema_change_stands_between_the_rows_around_it_in_its_transaction() {
    let cluster = cluster();
    let url = database(&cluster, "shop", "CREATE TABLE mark (n int PRIMARY KEY GENERATED ALWAYS AS IDENTITY)");
    let dir = tempfile::tempdir().unwrap();
    let daemon = capturing(&url, "", &dir.path().join("data"));
    // What is done, what is recorded of it, and what it must name.
    let steps = [
        ("CREATE SCHEMA a", "CREATE SCHEMA", "a"),
        ("CREATE TYPE a.mood AS ENUM ('sad')", "CREATE TYPE", "a.mood"),
        ("CREATE DOMAIN a.amount AS numeric(10,2)", "CREATE DOMAIN", "a.amount"),
        ("CREATE TABLE a.t (id int PRIMARY KEY, v text, m a.mood)", "CREATE TABLE", "a.t"),
        ("ALTER TABLE a.t ADD c int DEFAULT 5", "ALTER TABLE", "a.t"),
        ("ALTER TABLE a.t RENAME c TO \"C c\"", "ALTER TABLE", "a.t.\"C c\""),
        ("ALTER TABLE a.t ALTER v TYPE varchar(20)", "ALTER TABLE", "a.t"),
        ("ALTER TABLE a.t ALTER v SET NOT NULL", "ALTER TABLE", "a.t"),
        ("COMMENT ON TABLE a.t IS 'one'", "COMMENT", "a.t"),
        ("COMMENT ON COLUMN a.t.v IS 'two'", "COMMENT", "a.t.v"),
        ("CREATE INDEX t_v ON a.t (v)", "CREATE INDEX", "a.t_v"),
        ("ALTER TYPE a.mood ADD VALUE 'ok'", "ALTER TYPE", "a.mood"),
        ("ALTER TYPE a.mood RENAME VALUE 'sad' TO 'bad'", "ALTER TYPE", "a.mood"),
        ("ALTER DOMAIN a.amount SET NOT NULL", "ALTER DOMAIN", "a.amount"),
        ("CREATE TYPE a.pair AS (x int)", "CREATE TYPE", "a.pair"),
        ("ALTER TYPE a.pair ADD ATTRIBUTE y text", "ALTER TYPE", "a.pair"),
        ("ALTER TYPE a.pair RENAME TO couple", "ALTER TYPE", "a.couple"),
        ("CREATE SCHEMA b; ALTER TABLE a.t SET SCHEMA b", "CREATE SCHEMA|ALTER TABLE", "b.t"),
        ("ALTER TABLE b.t RENAME TO u", "ALTER TABLE", "b.u"),
        ("CREATE ROLE somebody; ALTER TABLE b.u OWNER TO somebody", "ALTER TABLE", "b.u"),
        ("ALTER SCHEMA b RENAME TO c", "ALTER SCHEMA", "c"),
        ("CREATE TABLE c.p (id int) PARTITION BY RANGE (id)", "CREATE TABLE", "c.p"),
        (
            "CREATE TABLE c.p1 (id int); ALTER TABLE c.p ATTACH PARTITION c.p1 FOR VALUES FROM (0) TO (9)",
            "CREATE TABLE|ALTER TABLE",
            "c.p",
        ),
        ("ALTER TABLE c.p DETACH PARTITION c.p1", "ALTER TABLE", "c.p"),
        ("CREATE TABLE c.copy AS SELECT 1 AS one", "CREATE TABLE AS", "c.copy"),
        ("SELECT 2 AS two INTO c.into", "SELECT INTO", "c.\"into\""),
        ("CREATE FUNCTION c.f() RETURNS int LANGUAGE sql AS 'SELECT 1'", "CREATE FUNCTION", "c.f()"),
        ("ALTER TABLE c.u DROP CONSTRAINT t_pkey", "ALTER TABLE|ALTER TABLE", "c.u"),
        ("ALTER TABLE c.u ADD PRIMARY KEY (v)", "ALTER TABLE", "c.u"),
        ("ALTER TABLE c.u DROP COLUMN \"C c\"", "ALTER TABLE|ALTER TABLE", "c.u.\"C c\""),
        ("DROP TYPE a.mood CASCADE", "DROP TYPE", "c.u.m"),
        ("DO $$ BEGIN EXECUTE 'CREATE TABLE c.dynamic (id int)'; END $$", "CREATE TABLE", "c.dynamic"),
        (
            "ALTER PUBLICATION dbstreamd_shop ADD TABLE c.dynamic",
            "ALTER PUBLICATION",
            "c.dynamic in publication dbstreamd_shop",
        ),
        (
            "ALTER PUBLICATION dbstreamd_shop DROP TABLE c.dynamic",
            "ALTER PUBLICATION",
            "c.dynamic in publication dbstreamd_shop",
        ),
        ("CREATE TEMP TABLE aside (id int); DROP TABLE aside", "", ""),
        ("CREATE EXTENSION hstore", "CREATE EXTENSION", "hstore"),
        ("DROP OWNED BY somebody; DROP ROLE somebody", "DROP OWNED", "c.u"),
        ("DROP SCHEMA c CASCADE", "DROP SCHEMA", "c.p"),
    ];
    let script = |(ddl, _, _): &(&str, &str, &str)| {
        format!("BEGIN; INSERT INTO mark DEFAULT VALUES; {ddl}; INSERT INTO mark DEFAULT VALUES; COMMIT;\n")
    };
    let events = after(&cluster, &daemon, &steps.iter().map(script).collect::<String>());
    let mut units: Vec<Vec<&Value>> = Vec::new();
    let mut begin = true;
    for event in &events {
        if std::mem::replace(&mut begin, event["last_in_transaction"] == true) {
            units.push(Vec::new());
        }
        units.last_mut().unwrap().push(event);
    }
    let units: Vec<_> = units.into_iter().filter(|unit| unit[0]["table"] == "mark").collect();
    assert_eq!(units.len(), steps.len());
    for ((ddl, expected, named), unit) in steps.iter().zip(units) {
        let (first, last) = (unit[0], unit[unit.len() - 1]);
        assert_eq!((&first["table"], &last["table"]), (&"mark".into(), &"mark".into()), "{ddl}");
        let between = &unit[1..unit.len() - 1];
        let told: Vec<_> =
            between.iter().map(|event| event["schema_change"]["command_tag"].as_str().unwrap()).collect();
        assert_eq!(told.join("|"), *expected, "{ddl}");
        let changes = between.iter().map(|event| &event["schema_change"]);
        let mut objects = changes
            .flat_map(|change| [&change["objects"], &change["dropped"]])
            .flat_map(|list| list.as_array().unwrap());
        assert!(
            named.is_empty() || objects.any(|object| object["identity"] == *named),
            "{ddl} names no {named}: {between:?}"
        );
        for event in between {
            assert_eq!(event["schema_change"]["error"], Value::Null, "{ddl}");
            assert_eq!(event["schema_change"]["role"], "postgres");
        }
    }
    // What a partition looks like is told along with its coming and going.
    let attached =
        changes(&events).into_iter().find(|change| change["statement"].as_str().unwrap().contains("ATTACH")).unwrap();
    let described = attached["tables"].as_array().unwrap().iter().find(|table| table["table"] == "p1").unwrap();
    assert_eq!((&described["partition_of"], &described["kind"]), (&"c.p".into(), &"partition".into()));
    assert!(daemon.streams()[0]["diverged"].as_array().unwrap().is_empty(), "no row was changed without an event");
}

#[test]
fn a_row_right_behind_a_schema_change_in_its_transaction_comes_behind_it() {
    let cluster = cluster();
    let url = database(&cluster, "shop", "CREATE TABLE t (id int PRIMARY KEY)");
    let dir = tempfile::tempdir().unwrap();
    let daemon = capturing(&url, "", &dir.path().join("data"));
    // With nothing in between, with and without subtransactions of its own; a change that drops is two events.
    let steps = "ALTER TABLE t ADD a int; INSERT INTO t VALUES (1); ALTER TABLE t ADD b int; SAVEPOINT s; INSERT INTO t VALUES (2);
                 ALTER TABLE t ADD c int; RELEASE s; INSERT INTO t VALUES (3); ALTER TABLE t DROP a; INSERT INTO t VALUES (4);";
    let events = after(&cluster, &daemon, &format!("BEGIN; INSERT INTO t VALUES (0); {steps} COMMIT"));
    let operations: Vec<_> = events.iter().map(|event| event["op"].as_str().unwrap()).collect();
    let change = "schema_change";
    let expected = ["insert", change, "insert", change, "insert", change, "insert", change, change, "insert"];
    assert_eq!(operations, expected);
}

#[test]
fn what_is_rolled_back_is_never_seen() {
    let cluster = cluster();
    let url = database(&cluster, "shop", "CREATE TABLE t (id int PRIMARY KEY)");
    let dir = tempfile::tempdir().unwrap();
    let daemon = capturing(&url, "", &dir.path().join("data"));
    let work = "BEGIN; CREATE TABLE never (id int); ROLLBACK;
                BEGIN; ALTER TABLE t ADD kept int; SAVEPOINT s; ALTER TABLE t ADD dropped int; INSERT INTO t VALUES (1);
                ROLLBACK TO s; INSERT INTO t VALUES (2, 2); COMMIT;
                DO $$ BEGIN BEGIN CREATE TABLE never2 (id int); RAISE 'no'; EXCEPTION WHEN OTHERS THEN END; CREATE TABLE other (id int); END $$;";
    let events = after(&cluster, &daemon, work);
    let said: Vec<_> = changes(&events).iter().map(|change| change["objects"][0]["identity"].clone()).collect();
    assert_eq!(said, ["public.t", "public.other"]);
    let text = serde_json::to_string(&events.iter().map(|event| &event["schema_change"]["tables"]).collect::<Vec<_>>())
        .unwrap();
    assert!(text.contains("kept") && !text.contains("\"dropped\"") && !text.contains("never"), "{text}");
    assert_eq!(events.iter().filter(|event| event["op"] == "insert").count(), 1);
}

#[test]
fn a_column_added_to_a_partitioned_table_has_its_added_value_at_the_root() {
    let (cluster, _dir, daemon) = partitioned("");
    let events = after(&cluster, &daemon, "INSERT INTO p VALUES (1); ALTER TABLE p ADD c int DEFAULT 5, ADD d int");
    let tables = changes(&events)[0]["tables"].as_array().unwrap().clone();
    let root = tables.iter().find(|table| table["kind"] == "partitioned table").unwrap();
    assert_eq!((&root["columns"][1]["added_value"], &root["columns"][2]["added_value"]), (&"5".into(), &Value::Null));
}

#[test]
fn a_table_that_somebody_has_locked_costs_a_type_s_change_nothing_but_that_table_s_description() {
    let cluster = cluster();
    let url = database(
        &cluster,
        "shop",
        "CREATE TYPE mood AS ENUM ('sad'); CREATE TABLE a (id int PRIMARY KEY, m mood);
         CREATE TABLE t (id int PRIMARY KEY, m mood DEFAULT 'sad')",
    );
    let dir = tempfile::tempdir().unwrap();
    let daemon = capturing(&url, "", &dir.path().join("data"));
    // A session of its own, which has committed only when the type's change has.
    cluster
        .psql(
            "shop",
            &format!(
                "CREATE EXTENSION dblink; SELECT dblink_connect('other', '{url}');
                 SELECT dblink_exec('other', 'BEGIN; ALTER TABLE t ADD v int');
                 ALTER TYPE mood ADD VALUE 'ok'; SELECT dblink_exec('other', 'COMMIT')"
            ),
        )
        .unwrap();
    let events = after(&cluster, &daemon, "INSERT INTO t VALUES (1, 'ok', 2)");
    let change = changes(&events).into_iter().find(|change| change["command_tag"] == "ALTER TYPE").unwrap();
    assert_eq!(change["objects"][0]["identity"], "public.mood");
    assert!(change["error"].as_str().unwrap().contains("Table public.t could not be recorded"), "{change}");
    let described: Vec<_> = change["tables"].as_array().unwrap().iter().map(|table| &table["table"]).collect();
    assert_eq!(described, ["a"]);
}

#[test]
fn no_error_of_ours_fails_anybodys_schema_change() {
    let cluster = cluster();
    let url = database(
        &cluster,
        "shop",
        "CREATE SCHEMA s; CREATE TABLE s.t (id int); CREATE ROLE lowly; GRANT ALL ON SCHEMA s TO lowly",
    );
    let dir = tempfile::tempdir().unwrap();
    let daemon = capturing(&url, "tables_without_identity = \"publish\"\n", &dir.path().join("data"));
    // Without any right on our schema.
    let mut events = after(
        &cluster,
        &daemon,
        "SET ROLE lowly; CREATE TABLE s.mine (id int PRIMARY KEY); ALTER TABLE s.mine ADD v text",
    );
    assert_eq!(tags(&events), ["CREATE TABLE", "ALTER TABLE"]);
    assert!(changes(&events).iter().all(|change| change["role"] == "lowly" && change["error"].is_null()));
    // With a part of the catalog out of its reach.
    events = after(
        &cluster,
        &daemon,
        "REVOKE EXECUTE ON FUNCTION obj_description(oid, name) FROM PUBLIC; SET ROLE lowly; CREATE TABLE s.mine2 (id int)",
    );
    let last = changes(&events).pop().unwrap().clone();
    assert_eq!((&last["command_tag"], &last["tables"]), (&"CREATE TABLE".into(), &Value::Array(vec![])));
    let left_out = "Table s.mine2 could not be recorded: permission denied for function obj_description.";
    assert_eq!(last["error"], left_out);
    assert_eq!(last["objects"][0]["identity"], "s.mine2");
    // When nothing can be recorded at all.
    let before = tags(&events).len();
    let rename = |from: &str, to: &str| {
        format!(
            "SELECT format('ALTER FUNCTION %s RENAME TO {to}', oid::regprocedure) FROM pg_proc WHERE proname = '{from}' AND proargtypes[2] = 'bytea'::regtype \\gexec\n"
        )
    };
    let (hide, show) = (rename("pg_logical_emit_message", "hidden"), rename("hidden", "pg_logical_emit_message"));
    events = after(&cluster, &daemon, &format!("{hide} CREATE TABLE s.unseen (id int); DROP TABLE s.unseen;\n{show}"));
    let tables = |events: &[Value]| serde_json::to_string(events).unwrap().contains("s.unseen");
    assert!(!tables(&events) && tags(&events).len() <= before + 1);
    // Replication of others is no reason to miss a change.
    events = after(&cluster, &daemon, "SET session_replication_role = replica; CREATE TABLE s.replica (id int)");
    assert_eq!(changes(&events).pop().unwrap()["objects"][0]["identity"], "s.replica");
    // Secrets in a statement stay where they are.
    events = after(
        &cluster,
        &daemon,
        "CREATE SUBSCRIPTION sub CONNECTION 'host=nowhere password=hush' PUBLICATION p WITH (connect = false, slot_name = NONE);
         CREATE TABLE s.passwords (password text)",
    );
    assert!(!serde_json::to_string(&events).unwrap().contains("hush"));
    assert_eq!(changes(&events).pop().unwrap()["statement"], "CREATE TABLE s.passwords (password text)");
}

#[test]
fn a_statement_is_left_out_when_any_command_of_its_string_holds_a_secret() {
    let cluster = cluster();
    let url = database(&cluster, "shop", "CREATE FOREIGN DATA WRAPPER w; CREATE TABLE t (id int PRIMARY KEY)");
    let dir = tempfile::tempdir().unwrap();
    let daemon = capturing(&url, "", &dir.path().join("data"));
    // psql sends what `\;` joins as one string.
    let secret = [
        r"CREATE SERVER one FOREIGN DATA WRAPPER w OPTIONS (api_key 'hush1')\; CREATE TABLE t1 (id int)",
        r"CREATE TABLE t2 (id int)\; ALTER SERVER one OPTIONS /* new */ (SET api_key 'hush2')",
        r"CREATE USER MAPPING FOR CURRENT_USER SERVER one OPTIONS (who 'hush3')\; CREATE TABLE t3 (id int)",
        r"CREATE FOREIGN TABLE f (id int OPTIONS (k 'hush4')) SERVER one OPTIONS(k 'hush5')\; CREATE TABLE t4 (id int)",
        r"ALTER FOREIGN DATA WRAPPER w OPTIONS (k 'hush6')\; CREATE TABLE t5 (id int)",
        r"SELECT 'https://somebody:hush7@example.org/x'\; CREATE TABLE t6 (id int)",
        r"CREATE ROLE r PASSWORD /* that */ 'hush8'\; CREATE TABLE t7 (id int)",
        r"SET my.passwd TO 'hush9'\; SET my.secret = 'hush10'\; CREATE TABLE t8 (id int)",
        r#"SELECT '{"token": "hush11", "password": "hush12"}'\; CREATE TABLE t9 (id int)"#,
    ];
    // The end of what makes it a secret stands behind where the statement is cut.
    let cut =
        format!(r"SELECT '{}', '://u:hush13{}@h'\; CREATE TABLE t10 (id int)", "x".repeat(65_510), "y".repeat(100));
    let plain = [
        "CREATE TABLE plain1 (password text, token text DEFAULT 'x', server text)",
        "CREATE TABLE plain2 (url text DEFAULT 'https://example.org:80/x')",
    ];
    let all: Vec<_> = secret.iter().copied().chain([cut.as_str()]).chain(plain).collect();
    let events = after(&cluster, &daemon, &format!("{};", all.join(";\n")));
    let text = serde_json::to_string(&events).unwrap();
    assert!(!text.contains("hush"), "{text}");
    let of = |name: String| {
        let named = |change: &&&Value| change["objects"][0]["identity"] == name.as_str();
        changes(&events).iter().find(named).unwrap_or_else(|| panic!("no {name}")).to_owned().to_owned()
    };
    for n in 1..=10 {
        let change = of(format!("public.t{n}"));
        assert_eq!((&change["statement"], &change["error"]), (&Value::Null, &Value::Null), "{change}");
    }
    for (n, statement) in (1..).zip(plain) {
        assert_eq!(of(format!("public.plain{n}"))["statement"], format!("{statement};"));
    }
}

#[test]
fn a_schema_or_a_function_of_somebody_elses_is_not_taken_for_ours_and_nothing_is_installed_into_it() {
    let cluster = cluster();
    let url = database(
        &cluster,
        "shop",
        "CREATE TABLE t (id int PRIMARY KEY); CREATE ROLE mallory; GRANT CREATE ON DATABASE shop TO mallory",
    );
    let sql = run(&["check", "--print-sql"]).stdout;
    let mark = sql.split("capture_ddl() IS '").nth(1).unwrap().split('\'').next().unwrap();
    let forged = format!(
        "CREATE FUNCTION dbstreamd.capture_ddl() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END';
         COMMENT ON FUNCTION dbstreamd.capture_ddl() IS '{mark}';"
    );
    let triggers = || cluster.psql("shop", "SELECT count(*) FROM pg_event_trigger").unwrap();
    let dir = tempfile::tempdir().unwrap();
    for (made, what) in [
        ("SET ROLE mallory; CREATE SCHEMA dbstreamd;".to_owned(), "schema dbstreamd"),
        (format!("SET ROLE mallory; CREATE SCHEMA dbstreamd; {forged}"), " dbstreamd"),
        (
            format!("CREATE SCHEMA dbstreamd; GRANT ALL ON SCHEMA dbstreamd TO mallory; SET ROLE mallory; {forged}"),
            "function dbstreamd.capture_ddl",
        ),
    ] {
        cluster.psql("shop", &made).unwrap();
        let refused = cluster.psql("shop", &sql).unwrap_err().to_string();
        assert!(refused.contains(&format!("{what} belongs to role mallory")) || what == " dbstreamd", "{refused}");
        assert!(refused.contains("belongs to role mallory") && refused.contains("DROP SCHEMA dbstreamd CASCADE"));
        let mut daemon = capturing(&url, "", &dir.path().join("data"));
        let config = dir.path().join("data.toml").display().to_string();
        let check = run(&["check", "--config", &config]).stdout;
        assert!(check.contains("DROP SCHEMA dbstreamd CASCADE") && !check.contains("are installed"), "{check}");
        assert_eq!(triggers(), "0", "{made}");
        assert!(daemon.stop().success());
        cluster.psql("shop", "DROP SCHEMA dbstreamd CASCADE").unwrap();
    }
    // Not even when an earlier version has made event triggers of it.
    cluster.psql("shop", &sql).unwrap();
    cluster.psql("shop", "ALTER FUNCTION dbstreamd.capture_ddl() OWNER TO mallory").unwrap();
    let mut daemon = capturing(&url, "", &dir.path().join("data"));
    eventually("it is seen that changes are not recorded by us", || {
        (daemon.streams()[0]["ddl_capture"] == false).then_some(())
    });
    assert!(daemon.stop().success());
    cluster.psql("shop", "DROP SCHEMA dbstreamd CASCADE").unwrap();
    let daemon = capturing(&url, "", &dir.path().join("data"));
    assert_eq!(triggers(), "4");
    assert_eq!(tags(&after(&cluster, &daemon, "ALTER TABLE t ADD v text")).last(), Some(&"ALTER TABLE"));
}

#[test]
fn a_message_that_only_looks_like_a_document_is_delivered_as_a_message_and_told_of_once() {
    let cluster = cluster();
    let url = database(&cluster, "shop", "CREATE TABLE t (id int PRIMARY KEY)");
    let daemon = Daemon::serving(&[&url]);
    let events = after(
        &cluster,
        &daemon,
        "SELECT pg_logical_emit_message(true, 'dbstreamd.ddl', 'no JSON'), pg_logical_emit_message(true, 'dbstreamd.ddl', '{\"tag\": 5}'),
                pg_logical_emit_message(true, 'dbstreamd.ddl', '{\"tag\": \"X\", \"new\": 1}');
         SELECT pg_logical_emit_message(false, 'dbstreamd.ddl', '{\"tag\": \"X\"}')",
    );
    let operations: Vec<_> = events.iter().map(|event| event["op"].as_str().unwrap()).collect();
    assert_eq!(operations, ["message", "message", "schema_change", "message"]);
    let told = daemon.ask(&["notices", "--json"]).stdout;
    assert_eq!(told.matches("strange_ddl_message").count(), 1, "{told}");
}

#[test]
fn rows_from_before_a_column_have_its_added_value_and_facts_come_with_the_change() {
    let cluster = cluster();
    let url = database(&cluster, "shop", "CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)");
    let dir = tempfile::tempdir().unwrap();
    let daemon = capturing(&url, "", &dir.path().join("data"));
    let work = "ALTER TABLE t ADD c timestamptz DEFAULT '2020-01-01 00:00+00'; INSERT INTO t VALUES (2)";
    let events = after(&cluster, &daemon, &format!("SET TimeZone = 'Asia/Tokyo'; SET DateStyle = 'German'; {work}"));
    let column = &changes(&events)[0]["tables"][0]["columns"][1];
    assert_eq!(column["added_value"], "2020-01-01 00:00:00+00", "as rows have it");
    let schema = daemon.schemas("shop").pop().unwrap();
    let facts = schema.facts.unwrap();
    assert_eq!(facts.origin(), FactsOrigin::Ddl);
    assert_eq!(facts.columns[1].added_value.as_deref(), Some("2020-01-01 00:00:00+00"));
    let told = events.iter().find(|event| event["op"] == "schema_change").unwrap();
    assert_eq!(dbstreamd_model::Lsn(facts.as_of_lsn).to_string(), told["commit_lsn"], "as of the change's commit");
    assert!(daemon.streams()[0]["diverged"].as_array().unwrap().is_empty());
}

#[test]
fn table_patterns_take_the_schema_changes_of_their_tables_alone() {
    let cluster = cluster();
    let url = database(&cluster, "shop", "CREATE TABLE t (id int PRIMARY KEY)");
    let dir = tempfile::tempdir().unwrap();
    let daemon = capturing(&url, "", &dir.path().join("data"));
    after(
        &cluster,
        &daemon,
        "CREATE TABLE other (id int); ALTER TABLE t ADD v text; DROP TABLE other; CREATE SCHEMA x; INSERT INTO t VALUES (1)",
    );
    let tail = |table: &str| daemon.tail(&["shop", "--from", "earliest", "--until-caught-up", "--table", table]);
    assert_eq!(tags(&tail("public.t")), ["ALTER TABLE"]);
    assert_eq!(tags(&tail("public.other")), ["CREATE TABLE", "DROP TABLE"]);
    assert_eq!(tags(&tail("*.*")).len(), 3);
    let pretty = run(&["tail", "shop", "--server", &daemon.server_url(), "--from", "earliest", "--until-caught-up"]);
    assert!(pretty.stdout.contains("ALTER TABLE public.t"), "{}", pretty.stdout);
}

#[test]
fn a_role_that_may_not_install_the_triggers_streams_all_the_same_and_is_told_what_to_run() {
    let cluster = cluster();
    database(&cluster, "shop", "CREATE ROLE app LOGIN REPLICATION PASSWORD 'pw'; ALTER DATABASE shop OWNER TO app");
    cluster.psql("shop", "SET ROLE app; CREATE SCHEMA s; CREATE TABLE s.t (id int PRIMARY KEY)").unwrap();
    let url = format!("postgres://app:pw@{}:{}/shop", Cluster::host(), cluster.port());
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let mut daemon = capturing(&url, "slot_check_interval = \"1s\"\n", &data);
    let config = data.with_extension("toml").display().to_string();
    let check = || run(&["check", "--config", &config]).stdout;
    assert!(check().contains("check --print-sql"), "{}", check());
    let capture = |wanted: bool| {
        eventually("it is seen whether changes are recorded", || {
            (daemon.streams()[0]["ddl_capture"] == wanted).then_some(())
        });
    };
    capture(false);
    assert!(daemon.ask(&["notices", "--json"]).stdout.contains("ddl_capture_missing"));
    assert!(daemon.ask(&["streams"]).stdout.contains("ddl_capture is wanted"));
    let events = after(&cluster, &daemon, "ALTER TABLE s.t ADD v text; INSERT INTO s.t VALUES (1, 'x')");
    assert!(tags(&events).is_empty() && events.len() == 1);

    let sql = run(&["check", "--print-sql"]);
    assert!(sql.status.success(), "{}", sql.stderr);
    cluster.psql("shop", &sql.stdout).unwrap();
    capture(true);
    assert!(check().contains("are installed"), "{}", check());
    let events = after(&cluster, &daemon, "ALTER TABLE s.t ADD w text; INSERT INTO s.t VALUES (2)");
    assert_eq!(tags(&events), ["ALTER TABLE"]);
    assert!(daemon.stop().success());
}

#[test]
fn the_triggers_are_not_installed_unasked_are_brought_up_to_date_and_can_be_removed() {
    let cluster = cluster();
    let url = database(&cluster, "shop", "CREATE TABLE t (id int PRIMARY KEY)");
    let count = || cluster.psql("shop", "SELECT count(*) FROM pg_event_trigger WHERE evtenabled = 'A'").unwrap();
    drop(Daemon::serving(&[&url]));
    assert_eq!(count(), "0");
    cluster
        .psql("shop", "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE NOT active")
        .unwrap();

    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let mut daemon = capturing(&url, "", &data);
    assert_eq!(count(), "4");
    assert!(daemon.stop().success());
    let comment = || cluster.psql("shop", "SELECT obj_description('dbstreamd.capture_ddl'::regproc)").unwrap();
    let ours = comment();
    cluster.psql("shop", "COMMENT ON FUNCTION dbstreamd.capture_ddl() IS 'dbstreamd DDL capture, version 0 old'; ALTER EVENT TRIGGER dbstreamd_sql_drop DISABLE").unwrap();
    let mut daemon = capturing(&url, "", &data);
    assert_eq!((comment(), count().as_str()), (ours, "4"));
    assert!(daemon.stop().success());
    cluster.psql("shop", dbstreamd_source::postgres::DDL_CAPTURE_REMOVE_SQL).unwrap();
    let left = "SELECT (SELECT count(*) FROM pg_event_trigger) + (SELECT count(*) FROM pg_namespace WHERE nspname = 'dbstreamd')";
    assert_eq!(cluster.psql("shop", left).unwrap(), "0");
}

#[test]
fn versions_are_listed_with_what_changed_between_them() {
    let cluster = cluster();
    let url = database(
        &cluster,
        "shop",
        "CREATE TABLE t (id int PRIMARY KEY, v varchar(5)); CREATE TABLE other (id int PRIMARY KEY)",
    );
    let dir = tempfile::tempdir().unwrap();
    let daemon = capturing(&url, "", &dir.path().join("data"));
    // The catalog is asked about the first versions while they are the newest.
    after(&cluster, &daemon, "INSERT INTO t VALUES (1); INSERT INTO other VALUES (1)");
    let work = "ALTER TABLE t ADD w int NOT NULL DEFAULT 3; ALTER TABLE t RENAME v TO x; ALTER TABLE t ALTER x TYPE text; INSERT INTO t VALUES (2);
                ALTER TABLE t DROP x; INSERT INTO t VALUES (3)";
    after(&cluster, &daemon, work);
    let shown = daemon.ask(&["schemas", "shop", "public.t", "--diff"]).stdout;
    let lines: Vec<_> = shown.lines().map(str::trim).collect();
    assert!(lines[0].starts_with("public.t v1"), "{shown}");
    for line in [
        "id integer NOT NULL  [identity]",
        "v character varying(5)",
        "~ column v is now x: character varying(5) → text",
        "+ column w integer NOT NULL DEFAULT 3",
        "- column x text",
    ] {
        assert!(lines.contains(&line), "no {line:?} in {shown}");
    }
    let listed = daemon.ask_json(&["schemas", "shop"]);
    let listed = listed["schemas"].as_array().unwrap();
    let names: Vec<_> =
        listed.iter().map(|schema| (schema["table"].as_str().unwrap(), schema["version"].as_u64().unwrap())).collect();
    assert_eq!(names, [("t", 1), ("t", 2), ("t", 3), ("other", 1)]);
    assert_eq!(listed[1]["facts"]["origin"], "ddl");
    assert!(daemon.ask(&["schemas", "shop", "public.nothing"]).stdout.contains("no schema version"));
}

#[test]
fn restarts_while_the_schema_changes_make_no_false_version_and_miss_none() {
    let cluster = cluster();
    let url = database(&cluster, "shop", "CREATE TABLE t (id int PRIMARY KEY GENERATED ALWAYS AS IDENTITY)");
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let mut daemon = capturing(&url, "", &data);
    let done = AtomicBool::new(false);
    let mut versions = 0;
    std::thread::scope(|scope| {
        let driver = scope.spawn(|| {
            let mut versions = 0;
            while !done.load(Ordering::Relaxed) || versions < 40 {
                versions += 1;
                let sql = format!("INSERT INTO t DEFAULT VALUES; ALTER TABLE t ADD c{versions} int DEFAULT {versions}; INSERT INTO t DEFAULT VALUES");
                cluster.psql("shop", &sql).unwrap();
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
            versions
        });
        for round in 0..20 {
            if round % 2 == 0 {
                daemon.kill();
            } else {
                assert!(daemon.stop().success());
            }
            daemon = capturing(&url, "", &data);
        }
        done.store(true, Ordering::Relaxed);
        versions = driver.join().unwrap();
    });
    let events = after(&cluster, &daemon, "INSERT INTO t DEFAULT VALUES");
    let schemas = daemon.schemas("shop");
    let columns: Vec<_> = schemas.iter().map(|schema| schema.columns.len()).collect();
    assert_eq!(columns, (1..=versions + 1).collect::<Vec<_>>(), "each version once, in order");
    assert!(schemas.iter().enumerate().all(|(i, schema)| schema.version as usize == i + 1));
    let told: Vec<_> =
        changes(&events).iter().map(|change| change["tables"][0]["columns"].as_array().unwrap().len()).collect();
    assert_eq!(told, (2..=versions + 1).collect::<Vec<_>>(), "each change once, in order");
    assert!(daemon.streams()[0]["diverged"].as_array().unwrap().is_empty());
}
