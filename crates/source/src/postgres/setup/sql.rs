//! Every statement that setup sends.
//!
//! Each works on PostgreSQL 14 to 18 and names its catalogs in full, so that no search_path can redirect it. Columns
//! that only newer versions have are read through `to_jsonb`, which is null where they are missing.

use std::time::Duration;

use crate::postgres::{quote_identifier, quote_literal};

/// A table's name as people write it: quoted only where it must be.
pub(crate) fn shown(schema: &str, table: &str) -> String {
    super::table_pattern::exact_pattern(schema, table)
}

/// A table's name for a statement.
pub(crate) fn quoted(schema: &str, table: &str) -> String {
    format!("{}.{}", quote_identifier(schema), quote_identifier(table))
}

/// One row: version number, version, in recovery, database, its encoding, user, read-only session, system identifier,
/// timeline.
///
/// A file name of the WAL starts with the timeline; a standby must take the last checkpoint's.
pub(crate) const SERVER: &str = "\
SELECT current_setting('server_version_num'), current_setting('server_version'), pg_catalog.pg_is_in_recovery(), \
current_database(), pg_catalog.pg_encoding_to_char(d.encoding), current_user, \
current_setting('default_transaction_read_only'), \
(SELECT system_identifier FROM pg_catalog.pg_control_system()), \
CASE WHEN pg_catalog.pg_is_in_recovery() THEN (SELECT timeline_id::text FROM pg_catalog.pg_control_checkpoint()) \
ELSE 'x' || pg_catalog.left(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()), 8) END \
FROM pg_catalog.pg_database d WHERE d.datname = current_database()";

/// Rows of name and value, of the settings that matter.
pub(crate) const SETTINGS: &str = "\
SELECT name, setting FROM pg_catalog.pg_settings WHERE name IN ('wal_level', 'max_replication_slots', \
'max_wal_senders', 'max_slot_wal_keep_size', 'wal_sender_timeout', 'synchronous_standby_names', \
'idle_replication_slot_timeout', 'event_triggers')";

/// One row: superuser, replication, may create in the database, member of cloud providers' roles.
pub(crate) const ROLE: &str = "\
SELECT r.rolsuper, r.rolreplication, pg_catalog.has_database_privilege(current_database(), 'CREATE'), \
(SELECT pg_catalog.string_agg(c.rolname, ',') FROM pg_catalog.pg_roles c WHERE c.rolname IN ('rds_superuser', \
'rds_replication', 'cloudsqlsuperuser', 'alloydbsuperuser', 'azure_pg_admin') \
AND pg_catalog.pg_has_role(r.oid, c.oid, 'MEMBER')) \
FROM pg_catalog.pg_roles r WHERE r.rolname = current_user";

/// One row: walsenders in use.
pub(crate) const WAL_SENDERS: &str = "SELECT count(*) FROM pg_catalog.pg_stat_replication";

/// A row per slot of the cluster, with who holds it.
pub(crate) const SLOTS: &str = "\
SELECT s.slot_name, s.plugin, s.database, s.slot_type, s.temporary, s.active_pid, s.confirmed_flush_lsn, \
s.wal_status, coalesce(to_jsonb(s)->>'invalidation_reason', CASE WHEN (to_jsonb(s)->>'conflicting')::boolean \
THEN 'conflict with recovery' WHEN s.wal_status = 'lost' THEN 'wal_removed' END), \
coalesce((to_jsonb(s)->>'two_phase')::boolean, false), \
pg_catalog.pg_wal_lsn_diff(CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn() \
ELSE pg_catalog.pg_current_wal_lsn() END, s.restart_lsn)::bigint, \
a.application_name, host(a.client_addr), a.usename \
FROM pg_catalog.pg_replication_slots s LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = s.active_pid \
ORDER BY s.slot_name";

/// A row per relation of the user's schemas that is, or could be mistaken for, a table.
///
/// The identity conditions are those of PostgreSQL's relation cache: an index counts when it is valid, unique, immediate
/// and not partial; another one is proposed when its columns are also all NOT NULL.
pub(crate) const TABLES: &str = "\
SELECT c.oid, n.nspname, c.relname, c.relkind, c.relpersistence, c.relreplident, \
pk.indexrelid IS NOT NULL, \
CASE c.relreplident WHEN 'f' THEN true WHEN 'd' THEN coalesce(pk.indisvalid AND pk.indimmediate, false) \
WHEN 'i' THEN EXISTS (SELECT 1 FROM pg_catalog.pg_index i WHERE i.indrelid = c.oid AND i.indisreplident \
AND i.indisvalid AND i.indimmediate) ELSE false END, \
(SELECT ic.relname FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class ic ON ic.oid = i.indexrelid \
WHERE i.indrelid = c.oid AND i.indisunique AND i.indisvalid AND i.indimmediate AND i.indpred IS NULL \
AND i.indexprs IS NULL AND NOT EXISTS (SELECT 1 FROM pg_catalog.pg_attribute a WHERE a.attrelid = c.oid \
AND a.attnum = ANY (i.indkey) AND NOT a.attnotnull) ORDER BY i.indisprimary DESC, i.indnkeyatts, ic.relname LIMIT 1), \
pg_catalog.pg_has_role(c.relowner, 'USAGE'), pg_catalog.pg_get_userbyid(c.relowner), \
CASE WHEN c.reltuples >= 0 THEN c.reltuples::bigint END, \
EXISTS (SELECT 1 FROM pg_catalog.pg_depend d WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass \
AND d.objid = c.oid AND d.deptype = 'e'), \
CASE WHEN c.relispartition THEN (SELECT pg_catalog.string_agg(p.relid::pg_catalog.oid::text, ',') \
FROM pg_catalog.pg_partition_ancestors(c.oid) p WHERE p.relid <> c.oid) END, \
pg_catalog.has_schema_privilege(n.oid, 'USAGE') \
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
LEFT JOIN pg_catalog.pg_index pk ON pk.indrelid = c.oid AND pk.indisprimary \
WHERE c.relkind IN ('r', 'p', 'f', 'v', 'm') AND pg_catalog.left(n.nspname, 3) <> 'pg_' \
AND n.nspname <> 'information_schema' ORDER BY n.nspname, c.relname";

/// One row: oid, all tables, insert, update, delete, truncate, via root, may alter it, owner.
pub(crate) fn publication(name: &str) -> String {
    format!(
        "SELECT p.oid, p.puballtables, p.pubinsert, p.pubupdate, p.pubdelete, p.pubtruncate, p.pubviaroot, \
         pg_catalog.pg_has_role(p.pubowner, 'USAGE'), pg_catalog.pg_get_userbyid(p.pubowner) \
         FROM pg_catalog.pg_publication p WHERE p.pubname = {}",
        quote_literal(name)
    )
}

/// A row per table listed in the publication: oid, schema, name, has a row filter, has a column list.
pub(crate) fn publication_tables(publication: u32) -> String {
    format!(
        "SELECT r.prrelid, n.nspname, c.relname, to_jsonb(r)->>'prqual' IS NOT NULL, to_jsonb(r)->>'prattrs' IS NOT NULL \
         FROM pg_catalog.pg_publication_rel r JOIN pg_catalog.pg_class c ON c.oid = r.prrelid \
         JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE r.prpubid = {publication} \
         ORDER BY n.nspname, c.relname"
    )
}

/// A row per schema of the publication; PostgreSQL 15 and newer.
pub(crate) fn publication_schemas(publication: u32) -> String {
    format!(
        "SELECT n.nspname FROM pg_catalog.pg_publication_namespace s JOIN pg_catalog.pg_namespace n ON n.oid = s.pnnspid \
         WHERE s.pnpubid = {publication} ORDER BY n.nspname"
    )
}

/// A row per session with a transaction that has written: pid, database, user, application, state, seconds.
///
/// Only such transactions hold back slot creation. Without pg_read_all_stats, others' state and age are null.
pub(crate) const OPEN_TRANSACTIONS: &str = "\
SELECT a.pid, a.datname, a.usename, a.application_name, a.state, \
extract(epoch FROM clock_timestamp() - a.xact_start)::bigint \
FROM pg_catalog.pg_stat_activity a WHERE a.backend_xid IS NOT NULL AND a.pid <> pg_catalog.pg_backend_pid() \
ORDER BY a.xact_start NULLS LAST, a.pid LIMIT 100";

/// A row per prepared transaction: gid, database, owner, seconds.
pub(crate) const PREPARED_TRANSACTIONS: &str = "\
SELECT p.gid, p.database, p.owner, extract(epoch FROM clock_timestamp() - p.prepared)::bigint \
FROM pg_catalog.pg_prepared_xacts p ORDER BY p.prepared LIMIT 100";

/// Creates a publication of these tables.
pub(crate) fn create_publication<'a>(
    name: &str,
    tables: impl IntoIterator<Item = (&'a str, &'a str)>,
    via_root: bool,
) -> String {
    let with = if via_root { " WITH (publish_via_partition_root = true)" } else { "" };
    format!("CREATE PUBLICATION {} FOR TABLE {}{with}", quote_identifier(name), table_list(tables))
}

/// Adds these tables to a publication.
pub(crate) fn add_tables<'a>(name: &str, tables: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    format!("ALTER PUBLICATION {} ADD TABLE {}", quote_identifier(name), table_list(tables))
}

/// Creates a slot; one row with its confirmed position.
pub(crate) fn create_slot(name: &str) -> String {
    format!("SELECT lsn FROM pg_catalog.pg_create_logical_replication_slot({}, 'pgoutput')", quote_literal(name))
}

/// Drops a slot, unless it is in use again or in order: a row for each slot that was dropped.
pub(crate) fn drop_invalidated_slot(name: &str) -> String {
    format!(
        "SELECT pg_catalog.pg_drop_replication_slot(s.slot_name) FROM pg_catalog.pg_replication_slots s \
         WHERE s.slot_name = {} AND NOT s.active AND s.plugin = 'pgoutput' AND s.database = pg_catalog.current_database() \
         AND (s.wal_status = 'lost' OR (to_jsonb(s)->>'conflicting')::boolean \
         OR to_jsonb(s)->>'invalidation_reason' IS NOT NULL)",
        quote_literal(name)
    )
}

/// Limits for statements that change something, whatever the role's settings are.
///
/// `statement` ends a statement at the server, which also removes a slot that is half created: a client that merely
/// goes away would leave it waiting there.
pub(crate) fn limits(version_num: u32, statement: Duration, lock: Duration) -> String {
    let mut sql = format!("SET statement_timeout = {}; SET lock_timeout = {}", statement.as_millis(), lock.as_millis());
    if version_num >= 170_000 {
        sql.push_str("; SET transaction_timeout = 0");
    }
    sql
}

/// ONLY: tables that inherit from a table are tables of their own. Partitions follow their root all the same.
fn table_list<'a>(tables: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    let names: Vec<_> = tables.into_iter().map(|(schema, table)| format!("ONLY {}", quoted(schema, table))).collect();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_named_exactly_and_without_what_inherits_from_them() {
        assert_eq!(
            create_publication("p", [("public", "a"), ("S", "b\"c")], true),
            "CREATE PUBLICATION \"p\" FOR TABLE ONLY \"public\".\"a\", ONLY \"S\".\"b\"\"c\" WITH (publish_via_partition_root = true)"
        );
    }
}
