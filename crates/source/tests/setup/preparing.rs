//! What `prepare` makes, and that making it again changes nothing.

use dbstreamd_source::postgres::setup::{Created, Level, TableState};

use crate::database::{Database, check, finding, prepare, says, table};

const SHOP: &str = "CREATE SCHEMA shop; CREATE TABLE shop.orders (id int PRIMARY KEY, note text); CREATE TABLE lines (id int PRIMARY KEY)";

#[test]
fn a_fresh_database_gets_publication_and_slot_and_a_second_run_changes_nothing() {
    let database = Database::with(SHOP);
    let settings = database.settings();
    let first = prepare(&settings).unwrap();
    let tables = vec!["public.lines".to_owned(), "shop.orders".to_owned()];
    assert_eq!(first.created, Created { publication: true, tables: tables.clone(), slot: true });
    assert_eq!(database.published(), tables);
    assert_eq!(database.slots(), database.slot());
    assert_eq!((first.slot, first.publication), (database.slot(), "dbstreamd_shop".to_owned()));
    let confirmed =
        database.sql("SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE database = current_database()");
    assert_eq!(first.slot_confirmed_flush.to_string(), confirmed);
    let identity = database.sql("SELECT system_identifier FROM pg_control_system()");
    assert_eq!((first.system_id.to_string(), first.timeline), (identity, 1));

    let second = prepare(&settings).unwrap();
    assert_eq!(second.created, Created::default());
    assert_eq!(second.slot_confirmed_flush, first.slot_confirmed_flush);
    assert_eq!(second.report.statements, Vec::<String>::new());
}

#[test]
fn check_changes_nothing_and_shows_what_would_be_done() {
    let database = Database::with(SHOP);
    let mut settings = database.settings();
    settings.publish_via_partition_root = true;
    let report = check(&settings);
    assert!(!report.has_errors(), "{report}");
    assert_eq!(table(&report, "orders").state, TableState::Add);
    assert_eq!(
        report.statements,
        [
            "CREATE PUBLICATION \"dbstreamd_shop\" FOR TABLE ONLY \"public\".\"lines\", ONLY \"shop\".\"orders\" WITH (publish_via_partition_root = true)".to_owned(),
            format!("SELECT lsn FROM pg_catalog.pg_create_logical_replication_slot('{}', 'pgoutput')", database.slot()),
        ]
    );
    assert_eq!(database.slots(), "");
    assert_eq!(database.sql("SELECT count(*) FROM pg_publication"), "0");
    assert_eq!(finding(&report, "replication_connection").level, Level::Ok);
    // What it shows is what a DBA may run instead.
    report.statements.iter().for_each(|statement| _ = database.sql(statement));
    assert_eq!(prepare(&settings).unwrap().created, Created::default());
}

#[test]
fn a_table_created_later_is_added_at_the_next_run() {
    let database = Database::with(SHOP);
    let settings = database.settings();
    prepare(&settings).unwrap();
    database.sql("CREATE TABLE shop.payments (id int PRIMARY KEY)");
    assert_eq!(table(&check(&settings), "payments").state, TableState::Add);
    let again = prepare(&settings).unwrap();
    assert_eq!(again.created, Created { tables: vec!["shop.payments".into()], ..Created::default() });
    assert_eq!(database.published(), ["public.lines", "shop.orders", "shop.payments"]);
    assert_eq!(table(&check(&settings), "payments").state, TableState::Published);
}

#[test]
fn patterns_and_exclusions_choose_the_tables() {
    let database = Database::with(&format!("{SHOP}; CREATE TABLE shop.secrets (id int PRIMARY KEY)"));
    let mut settings = database.settings();
    settings.tables = vec!["shop.*".parse().unwrap()];
    settings.exclude = vec!["*.secrets".parse().unwrap()];
    prepare(&settings).unwrap();
    assert_eq!(database.published(), ["shop.orders"]);
}

#[test]
fn a_slot_that_exists_is_adopted_where_it_stands() {
    let database = Database::with(SHOP);
    let settings = database.settings();
    database.sql("CREATE PUBLICATION dbstreamd_shop FOR TABLE shop.orders, lines");
    database.sql(&format!("SELECT pg_create_logical_replication_slot('{}', 'pgoutput')", database.slot()));
    let confirmed =
        database.sql("SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE database = current_database()");
    database.sql("INSERT INTO lines VALUES (1)");
    let prepared = prepare(&settings).unwrap();
    assert_eq!(prepared.created, Created::default());
    assert_eq!(prepared.slot_confirmed_flush.to_string(), confirmed);
}

#[test]
fn two_that_prepare_at_once_both_get_through() {
    let database = Database::with(SHOP);
    let settings = database.settings();
    let both = crate::database::block_on(async {
        let prepare = || dbstreamd_source::postgres::setup::prepare(&settings);
        tokio::join!(prepare(), prepare())
    });
    for prepared in [both.0, both.1] {
        // Whoever is late may see the other's session still creating the slot.
        assert!(
            prepared.as_ref().is_ok() || prepared.as_ref().is_err_and(|error| error.is_transient()),
            "{prepared:?}"
        );
    }
    assert!(prepare(&settings).is_ok());
    assert_eq!(database.published(), ["public.lines", "shop.orders"]);
}

#[test]
fn the_report_reads_well_as_text_and_as_json() {
    let database = Database::with(&format!("{SHOP}; CREATE TABLE log (line text)"));
    let report = check(&database.settings());
    let text = report.to_string();
    says(
        &text,
        &[
            "PostgreSQL ",
            "wal_level",
            "shop.orders",
            "ready: 0 errors",
            "ALTER TABLE \"public\".\"log\" REPLICA IDENTITY FULL",
        ],
    );
    assert!(!text.contains(database.cluster.password()), "the report shows the password");
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["level"], "warning");
    assert_eq!(json["tables"][1]["state"], "skipped");
    assert_eq!(json["tables"][1]["updates_and_deletes"], false);
    assert_eq!(json["findings"][0]["level"], "ok");
    assert!(!json.to_string().contains(database.cluster.password()), "the report shows the password");
}
