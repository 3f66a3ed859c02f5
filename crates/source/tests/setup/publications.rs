//! Publications that somebody else has made.

use dbstreamd_source::postgres::setup::{Created, TableState};

use crate::database::{Database, check, finding, prepare, refused, says, table, warned};

const TABLES: &str = "CREATE SCHEMA shop; CREATE TABLE shop.orders (id int PRIMARY KEY, total int);
    CREATE TABLE shop.lines (id int PRIMARY KEY); CREATE TABLE public.other (id int PRIMARY KEY)";

#[test]
fn a_publication_with_other_tables_is_refused_and_they_are_named() {
    let database =
        Database::with(&format!("{TABLES}; CREATE PUBLICATION dbstreamd_shop FOR TABLE shop.orders, public.other"));
    let mut settings = database.settings();
    settings.tables = vec!["shop.*".parse().unwrap()];
    says(&refused(&settings, "publication_has_other_tables"), &["dbstreamd_shop", "public.other", "DROP TABLE"]);
    assert_eq!(database.published(), ["public.other", "shop.orders"]);
    assert_eq!(database.slots(), "");
}

#[test]
fn publications_of_everything_are_accepted_and_what_comes_along_is_said() {
    let database = Database::with(&format!("{TABLES}; CREATE PUBLICATION dbstreamd_shop FOR ALL TABLES"));
    let mut settings = database.settings();
    says(&finding(&check(&settings), "publication_broad").message, &["all tables of the database"]);
    settings.tables = vec!["shop.*".parse().unwrap()];
    says(&warned(&check(&settings), "publication_broad"), &["public.other"]);
    assert_eq!(prepare(&settings).unwrap().created, Created { slot: true, ..Created::default() });
}

#[test]
fn publications_of_schemas_are_accepted_and_completed() {
    let database = Database::with(TABLES);
    if database.sql("SHOW server_version_num").parse::<u32>().unwrap() < 150_000 {
        return; // PostgreSQL 14 has none.
    }
    database.sql("CREATE PUBLICATION dbstreamd_shop FOR TABLES IN SCHEMA shop");
    let mut settings = database.settings();
    settings.tables = vec!["shop.*".parse().unwrap()];
    says(&finding(&check(&settings), "publication_broad").message, &["schemas shop"]);
    settings.tables = vec!["*.*".parse().unwrap()];
    assert_eq!(prepare(&settings).unwrap().created.tables, ["public.other"]);
    settings.tables = vec!["shop.orders".parse().unwrap(), "public.*".parse().unwrap()];
    says(&warned(&check(&settings), "publication_broad"), &["shop.lines"]);
}

#[test]
fn filters_column_lists_and_missing_operations_are_said() {
    let database = Database::with(TABLES);
    let modern = database.sql("SHOW server_version_num").parse::<u32>().unwrap() >= 150_000;
    let limited = if modern {
        "shop.orders WHERE (id > 5), shop.lines (id), public.other"
    } else {
        "shop.orders, shop.lines, public.other"
    };
    database.sql(&format!("CREATE PUBLICATION dbstreamd_shop FOR TABLE {limited} WITH (publish = 'insert, update')"));
    let report = check(&database.settings());
    assert!(!report.has_errors());
    says(&warned(&report, "publication_operations"), &["delete, truncate", "ALTER PUBLICATION"]);
    if modern {
        says(&warned(&report, "publication_filters"), &["shop.lines, shop.orders"]);
    }
}

#[test]
fn a_publication_that_is_somebody_elses_matter_is_left_as_it_is() {
    let database = Database::with(TABLES);
    let mut settings = database.settings();
    settings.create_publication = false;
    says(&refused(&settings, "publication_missing"), &["dbstreamd_shop", "CREATE PUBLICATION"]);
    database.sql("CREATE PUBLICATION dbstreamd_shop FOR TABLE shop.orders");
    let report = check(&settings);
    says(&warned(&report, "publication_lacks_tables"), &["shop.lines", "public.other", "ALTER PUBLICATION"]);
    assert_eq!(table(&report, "lines").state, TableState::Missing);
    settings.tables = vec!["shop.orders".parse().unwrap(), "shop.lines".parse().unwrap()];
    says(&refused(&settings, "publication_lacks_tables"), &["shop.lines"]);
    settings.tables = vec!["shop.*".parse().unwrap()];
    prepare(&settings).unwrap();
    assert_eq!(database.published(), ["shop.orders"]);
}
