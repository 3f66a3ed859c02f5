//! Schema versions: what they know of a table's types and of the table, and when there is a new one.

use dbstreamd::proto::{self, FactsOrigin};

use dbstreamd_throwaway::ShutdownMode;

use crate::ordering::wait_visible;
use crate::support::{Daemon, cluster, database, eventually};

/// A type as `kind name`, with what is inside it.
fn shown(described: &proto::Type) -> String {
    let kind = described.kind().as_str_name().trim_start_matches("TYPE_KIND_").to_lowercase();
    match &described.inner {
        Some(inner) => format!("{kind} {} ({})", described.name, shown(inner)),
        None => format!("{kind} {}", described.name),
    }
}

fn types(schema: &proto::Schema) -> Vec<String> {
    schema.columns.iter().map(|column| shown(column.r#type.as_ref().unwrap())).collect()
}

#[test]
fn every_kind_of_type_is_described_down_to_postgresqls_own() {
    let cluster = cluster();
    let url = database(
        &cluster,
        "shop",
        "CREATE SCHEMA s;
         CREATE TYPE s.mood AS ENUM ('sad', 'ok');
         CREATE DOMAIN s.better AS s.mood CHECK (VALUE <> 'sad');
         CREATE DOMAIN s.best AS s.better NOT NULL;
         CREATE TYPE s.pair AS (a int, b s.mood[]);
         CREATE TYPE s.moods AS RANGE (subtype = s.mood, multirange_type_name = s.manymoods);
         CREATE DOMAIN s.amount AS numeric(10, 2);
         CREATE TABLE t (id int PRIMARY KEY, a int[], m s.mood, d s.best, p s.pair, ps s.pair[], r s.moods, rs s.manymoods,
                         n s.amount, ns s.amount[], b box[])",
    );
    let daemon = Daemon::serving(&[&url]);
    cluster.psql("shop", "INSERT INTO t (id, d) VALUES (1, 'ok')").unwrap();
    wait_visible(&daemon, 1);
    let schemas = daemon.schemas("shop");
    let expected = [
        "base int4",
        "base _int4",
        "enum s.mood",
        "domain s.best (domain s.better (enum s.mood))",
        "composite s.pair",
        "array s._pair (composite s.pair)",
        "range s.moods (enum s.mood)",
        "multirange s.manymoods (enum s.mood)",
        "domain s.amount (base numeric)",
        "array s._amount (domain s.amount (base numeric))",
        "base _box",
    ];
    assert_eq!(types(&schemas[0]), expected);
    assert_eq!(schemas[0].columns[8].type_name, "numeric", "a domain's values are its base type's");
}

#[test]
fn a_restart_makes_no_new_version_and_a_type_of_another_kind_under_the_same_name_does() {
    let cluster = cluster();
    let setup = "CREATE TYPE kind AS ENUM ('a', 'b'); CREATE TABLE t (id int PRIMARY KEY, k kind)";
    let url = database(&cluster, "shop", setup);
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let mut daemon = Daemon::streaming(&url, &data);
    cluster.psql("shop", "INSERT INTO t VALUES (1, 'a')").unwrap();
    wait_visible(&daemon, 1);
    let before = daemon.schemas("shop");
    for id in 2..=4 {
        assert!(daemon.stop().success());
        daemon = Daemon::streaming(&url, &data);
        cluster.psql("shop", &format!("INSERT INTO t VALUES ({id}, 'b')")).unwrap();
        wait_visible(&daemon, id);
        assert_eq!(daemon.schemas("shop"), before);
    }
    let swap = "ALTER TABLE t DROP k; DROP TYPE kind; CREATE TYPE kind AS (x int, y int);
                ALTER TABLE t ADD k kind; INSERT INTO t VALUES (9, '(1,2)')";
    cluster.psql("shop", swap).unwrap();
    wait_visible(&daemon, 5);
    let after = daemon.schemas("shop");
    assert_eq!(after[..1], before[..]);
    assert_eq!((after.len(), after[1].version), (2, 2));
    assert_ne!(after[1].fingerprint, before[0].fingerprint, "what reads one must not read the other");
    assert_eq!(types(&after[1]), ["base int4", "composite public.kind"]);
    // The first kind's rows, read anew, still are of the first kind.
    let events = daemon.everything("shop");
    assert_ne!(events[0]["fingerprint"], events[4]["fingerprint"]);
}

#[test]
fn what_is_sent_again_is_recognised_though_its_types_were_renamed_made_anew_or_dropped_since() {
    let cluster = cluster();
    let setup = "CREATE TYPE kind AS ENUM ('a', 'b'); CREATE DOMAIN small AS int;
                 CREATE TABLE t (id small PRIMARY KEY, k kind, ks kind[]); CREATE TABLE other (id int PRIMARY KEY)";
    let url = database(&cluster, "shop", setup);
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let daemon = Daemon::streaming(&url, &data);
    cluster.psql("shop", "INSERT INTO t VALUES (1, 'a', '{a}')").unwrap();
    wait_visible(&daemon, 1);
    // Nobody announces a renamed type anew before the next session does.
    let work =
        "ALTER TYPE kind RENAME TO sort; ALTER DOMAIN small RENAME TO tiny; INSERT INTO t VALUES (2, 'b', '{b}');";
    cluster.psql("shop", work).unwrap();
    wait_visible(&daemon, 2);
    // The same content of other OIDs, and then gone.
    let work = "DROP TABLE t; DROP TYPE sort; DROP DOMAIN tiny; CREATE TYPE kind AS ENUM ('a', 'b'); CREATE DOMAIN small AS int;
                CREATE TABLE t (id small PRIMARY KEY, k kind, ks kind[]); ALTER PUBLICATION dbstreamd_shop ADD TABLE t;
                INSERT INTO t VALUES (3, 'a', '{a}')";
    cluster.psql("shop", work).unwrap();
    wait_visible(&daemon, 3);
    let before = (daemon.everything("shop"), daemon.schemas("shop"));
    assert_eq!(before.1.len(), 1, "a version is what it says, whichever types it was made of");
    cluster.psql("shop", "DROP TABLE t; DROP TYPE kind; DROP DOMAIN small").unwrap();
    // The slot's last saved position is older than what we confirmed: the server sends all of it again.
    cluster.restart(ShutdownMode::Immediate).unwrap();
    eventually("all was sent again", || {
        (daemon.metric("dbstreamd_stream_resent_transactions_total{stream=\"shop\"}") >= 3.0).then_some(())
    });
    cluster.psql("shop", "CREATE TABLE t (id int PRIMARY KEY); ALTER PUBLICATION dbstreamd_shop ADD TABLE t; INSERT INTO t VALUES (4)").unwrap();
    wait_visible(&daemon, 4);
    assert_eq!(daemon.streams()[0]["epoch"], 1, "its history is the same");
    assert_eq!(daemon.everything("shop")[..3], before.0[..]);
    assert_eq!(daemon.schemas("shop")[..1], before.1[..]);
}

#[test]
fn types_that_were_dropped_before_anyone_looked_are_known_as_text_only() {
    let cluster = cluster();
    let setup = "CREATE TYPE gone AS ENUM ('a'); CREATE DOMAIN lost AS int8;
                 CREATE TABLE t (id int PRIMARY KEY, k gone, l lost)";
    let url = database(&cluster, "shop", setup);
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let mut daemon = Daemon::streaming(&url, &data);
    assert!(daemon.stop().success());
    cluster.psql("shop", "INSERT INTO t VALUES (1, 'a', 2); ALTER TABLE t DROP k; DROP TYPE gone; ALTER TABLE t DROP l; DROP DOMAIN lost").unwrap();
    let daemon = Daemon::streaming(&url, &data);
    wait_visible(&daemon, 1);
    let schemas = daemon.schemas("shop");
    // A domain is announced as its base, so its values are known all the same.
    assert_eq!(types(&schemas[0]), ["base int4", "unknown public.gone", "base int8"]);
    assert_eq!(schemas[0].facts, None, "the table has other columns by now");
    assert_eq!(daemon.everything("shop")[0]["after"]["k"], "a");
}

#[test]
fn facts_come_from_the_catalog_and_say_as_of_when_they_are_true() {
    let cluster = cluster();
    let url = database(
        &cluster,
        "shop",
        r#"CREATE TYPE mood AS ENUM ('sad', 'ok');
           CREATE TYPE pair AS (a int, b text);
           CREATE DOMAIN amount AS numeric(10, 2) DEFAULT 1 NOT NULL CHECK (VALUE > 0);
           CREATE TABLE "T 1" (a int, id bigint GENERATED ALWAYS AS IDENTITY, m mood DEFAULT 'ok', p pair, n amount,
                               twice int GENERATED ALWAYS AS (a * 2) STORED, c text COLLATE "C" NOT NULL, gone int,
                               PRIMARY KEY (id, a));
           ALTER TABLE "T 1" DROP gone;
           ALTER TABLE "T 1" ADD added text DEFAULT 'x "y"' ;
           COMMENT ON TABLE "T 1" IS 'a table'; COMMENT ON COLUMN "T 1".m IS 'how''s it';
        "#,
    );
    let daemon = Daemon::serving(&[&url]);
    cluster.psql("shop", r#"INSERT INTO "T 1" (a, c) VALUES (1, 'c')"#).unwrap();
    wait_visible(&daemon, 1);
    let facts = daemon.schemas("shop")[0].facts.clone().unwrap();
    assert_eq!(facts.origin(), FactsOrigin::Catalog);
    assert!(facts.as_of_lsn > 0);
    assert_eq!((facts.schema.as_str(), facts.table.as_str(), facts.kind.as_str()), ("public", "T 1", "table"));
    assert_eq!(facts.primary_key, ["id", "a"]);
    assert_eq!(facts.comment, "a table");
    let names: Vec<_> = facts.columns.iter().map(|column| (column.number, column.name.as_str())).collect();
    assert_eq!(names, [(1, "a"), (2, "id"), (3, "m"), (4, "p"), (5, "n"), (6, "twice"), (7, "c"), (9, "added")]);
    let column = |name: &str| facts.columns.iter().find(|column| column.name == name).unwrap();
    assert_eq!(column("id").identity, "always");
    assert_eq!(column("m").default.as_deref(), Some("'ok'::public.mood"));
    assert_eq!(column("m").comment, "how's it");
    assert_eq!(column("twice").generated, "stored");
    assert_eq!(column("c").collation, r#"pg_catalog."C""#);
    assert!(column("c").not_null && !column("p").not_null);
    assert_eq!(column("added").added_value.as_deref(), Some(r#"x "y""#));
    let kinds: Vec<_> = facts.types.iter().map(|facts| (facts.name.as_str(), facts.kind.as_str())).collect();
    assert_eq!(kinds, [("public.amount", "domain"), ("public.mood", "enum"), ("public.pair", "composite")]);
    assert_eq!(facts.types[1].labels, ["sad", "ok"]);
    assert_eq!(facts.types[2].attributes[1].name, "b");
    assert_eq!((facts.types[0].base.as_str(), facts.types[0].not_null), ("numeric(10,2)", true));
    assert_eq!(facts.types[0].checks.len(), 1);
}

#[test]
fn a_version_is_found_by_fingerprint_and_by_number() {
    let cluster = cluster();
    let url = database(&cluster, "shop", "CREATE TABLE t (id int PRIMARY KEY)");
    let daemon = Daemon::serving(&[&url]);
    let work = "INSERT INTO t VALUES (1); ALTER TABLE t ADD v text; INSERT INTO t VALUES (2, 'x')";
    cluster.psql("shop", work).unwrap();
    wait_visible(&daemon, 2);
    let ask = |request: proto::GetSchemaRequest| {
        crate::support::grpc::block_on(async {
            daemon.client().await.get_schema(request).await.map(tonic::Response::into_inner)
        })
    };
    let version = |version| proto::GetSchemaRequest { table: "public.t".into(), version, ..Default::default() };
    let (first, newest) = (ask(version(1)).unwrap(), ask(version(0)).unwrap());
    assert_eq!((first.version, first.columns.len(), newest.version, newest.columns.len()), (1, 1, 2, 2));
    let by_fingerprint = proto::GetSchemaRequest { fingerprint: first.fingerprint.clone(), ..Default::default() };
    assert_eq!(ask(by_fingerprint).unwrap(), first);
    assert_eq!(ask(version(3)).unwrap_err().code(), tonic::Code::NotFound);
    assert_eq!(ask(proto::GetSchemaRequest::default()).unwrap_err().code(), tonic::Code::InvalidArgument);
}
