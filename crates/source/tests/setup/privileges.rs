//! Roles with less than a superuser's rights.

use dbstreamd_source::postgres::setup::Created;

use crate::database::{Database, block_on, check, finding, prepare, refused, says};

/// Makes a role of this database's own, with these attributes.
fn role(database: &Database, attributes: &str) -> String {
    let role = format!("app_{}", database.name);
    database.sql(&format!("CREATE ROLE {role} LOGIN PASSWORD 'secret' {attributes}"));
    role
}

const TABLES: &str =
    "CREATE SCHEMA shop; CREATE TABLE shop.orders (id int PRIMARY KEY); CREATE TABLE shop.lines (id int PRIMARY KEY)";

#[test]
fn the_least_privileged_role_streams_from_a_publication_that_was_made_for_it() {
    let database =
        Database::with(&format!("{TABLES}; CREATE PUBLICATION dbstreamd_shop FOR TABLE shop.orders, shop.lines"));
    let role = role(&database, "REPLICATION");
    // Not even the tables themselves may be read.
    let settings = database.settings_as(&role);
    let report = check(&settings);
    assert!(!report.has_errors(), "{report}");
    let prepared = prepare(&settings).unwrap();
    assert_eq!(prepared.created, Created { slot: true, ..Created::default() });
    assert_ne!(prepared.system_id, 0);
    assert_eq!(prepared.timeline, 1);
}

#[test]
fn a_role_that_owns_its_tables_needs_create_in_the_database_and_usage_of_the_schema() {
    let database = Database::with(TABLES);
    let role = role(&database, "REPLICATION");
    let settings = database.settings_as(&role);
    database.sql(&format!("ALTER TABLE shop.orders OWNER TO {role}; ALTER TABLE shop.lines OWNER TO {role}"));
    let line = refused(&settings, "create_privilege");
    says(&line, &[&role, &format!("GRANT CREATE ON DATABASE \"{}\" TO \"{role}\"", database.name)]);
    database.sql(&format!("GRANT CREATE ON DATABASE {} TO {role}", database.name));
    says(&refused(&settings, "schema_privilege"), &[&role, &format!("GRANT USAGE ON SCHEMA \"shop\" TO \"{role}\"")]);
    database.sql(&format!("GRANT USAGE ON SCHEMA shop TO {role}"));
    assert!(prepare(&settings).unwrap().created.publication);
    // Membership in the owner's role is ownership.
    database.sql(&format!("CREATE ROLE owner_{0}; GRANT owner_{0} TO {role}; CREATE TABLE shop.more (id int PRIMARY KEY); ALTER TABLE shop.more OWNER TO owner_{0}", database.name));
    assert_eq!(prepare(&settings).unwrap().created.tables, ["shop.more"]);
    database.sql(&format!("DROP OWNED BY owner_{0}; DROP ROLE owner_{0}", database.name));
}

#[test]
fn tables_of_others_are_named_with_the_statement_for_a_superuser() {
    let database = Database::with(TABLES);
    let role = role(&database, "REPLICATION");
    database.sql(&format!("GRANT CREATE ON DATABASE {} TO {role}; GRANT USAGE ON SCHEMA shop TO {role}; ALTER TABLE shop.orders OWNER TO {role}", database.name));
    let mut settings = database.settings_as(&role);
    let line = refused(&settings, "table_owner");
    says(&line, &["shop.lines (owner postgres)", "CREATE PUBLICATION \"dbstreamd_shop\""]);
    settings.exclude = vec!["shop.lines".parse().unwrap()];
    assert_eq!(prepare(&settings).unwrap().created.tables, ["shop.orders"]);
    // Now a superuser's publication lacks a table.
    database.sql("ALTER PUBLICATION dbstreamd_shop OWNER TO postgres; ALTER PUBLICATION dbstreamd_shop DROP TABLE shop.orders; ALTER PUBLICATION dbstreamd_shop ADD TABLE shop.lines");
    settings.exclude.clear();
    says(
        &refused(&settings, "publication_owner"),
        &["\"postgres\"", "ALTER PUBLICATION \"dbstreamd_shop\" ADD TABLE ONLY \"shop\".\"orders\""],
    );
}

#[test]
fn a_role_that_may_not_replicate_is_told_how_it_may() {
    let database = Database::with(TABLES);
    let role = role(&database, "");
    database.sql(&format!("GRANT CREATE ON DATABASE {} TO {role}; ALTER TABLE shop.orders OWNER TO {role}; ALTER TABLE shop.lines OWNER TO {role}", database.name));
    let settings = database.settings_as(&role);
    says(
        &refused(&settings, "replication_privilege"),
        &[&role, &format!("ALTER ROLE \"{role}\" REPLICATION"), "rds_replication"],
    );
    // The rest of the report is there all the same.
    let report = check(&settings);
    assert_eq!(report.tables.len(), 2);
    finding(&report, "wal_level");
    assert_eq!(database.sql("SELECT count(*) FROM pg_publication"), "0");
}

#[test]
fn a_read_only_role_cannot_make_a_publication() {
    let database = Database::with(TABLES);
    let role = role(&database, "REPLICATION SUPERUSER");
    database.sql(&format!("ALTER ROLE {role} SET default_transaction_read_only = on"));
    let settings = database.settings_as(&role);
    says(&refused(&settings, "read_only"), &["publication", "default_transaction_read_only"]);
    database.sql("CREATE PUBLICATION dbstreamd_shop FOR TABLE shop.orders, shop.lines");
    assert!(block_on(dbstreamd_source::postgres::setup::prepare(&settings)).unwrap().created.slot);
}
