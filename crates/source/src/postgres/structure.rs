//! The SQL that describes a table: one text for who asks the catalog and for the DDL trigger.

/// What the catalog knows of the relation with OID `$1`, as the JSON of `TableFacts`.
pub(super) const TABLE_STRUCTURE: &str = include_str!("structure.sql");

/// Asks for the end of the WAL, and behind it for a table's facts; no row when there is no such table.
pub(super) fn facts_sql(relation: u32) -> String {
    let structure = TABLE_STRUCTURE.replace("$1", &relation.to_string());
    // The position is read first: what is seen afterwards is at least as new.
    format!(
        "SELECT CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn() \
         ELSE pg_catalog.pg_current_wal_insert_lsn() END, (\n{structure}\n)"
    )
}
