//! PostgreSQL's catalog, asked for the kinds of types and the facts of tables that a stream sees for the first time.
//!
//! A type's kind, an array's element, a range's subtype and a domain's base do not change as long as its OID exists,
//! so a later look tells what they were. Everything else comes back as facts, with the WAL position of the look.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use dbstreamd_model::{
    Column, FactsOrigin, Lsn, RecordedFacts, ReplicaIdentity, StreamName, TableFacts, TableSchema, TypeDescription,
    TypeKind,
};
use tokio::time::Instant;

use super::{ConnectOptions, Connection, PgError, Row, SessionKind, quote_literal};
use crate::SourceError;
use crate::catalog::{Catalog, Described};

/// Types below are PostgreSQL's own, the same on every server (`FirstGenbkiObjectId`).
const FOREIGN_FROM_OID: u32 = 10_000;

/// A question is answered within this, or not at all: the stream waits meanwhile.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// A table that is being changed may be locked for long, and its facts are not worth waiting for. Types need no lock.
const LOCK_MAX: Duration = Duration::from_millis(100);

/// How long the connection stays open without a question.
const REST_AFTER: Duration = Duration::from_secs(10);

/// Types inside types that are followed; PostgreSQL has no limit, but nobody has reached ten.
const NESTED_MAX: usize = 16;

/// All of one description, connecting included; when it has not come by then the session ends and tries again.
const DESCRIBE_MAX: Duration = Duration::from_secs(15);

/// A change can be seen here before a query sees it: for a moment after its commit, and as long as that waits for a
/// synchronous standby. What is missing is then looked for again.
const LOOKS_MAX: u32 = 25;
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// One source's catalog.
pub(super) struct PgCatalog {
    stream: StreamName,
    connect: ConnectOptions,
    connection: Option<(Connection, Instant)>,
}

impl PgCatalog {
    pub(super) fn new(stream: StreamName, connect: ConnectOptions) -> Self {
        Self { stream, connect, connection: None }
    }

    async fn ask(&mut self, sql: &str) -> Result<Vec<Row>, PgError> {
        let mut connection = match self.connection.take() {
            Some((connection, _)) => connection,
            None => {
                let mut connection = Connection::connect(&self.connect, SessionKind::Ordinary).await?;
                let (answer, lock) = (ANSWER_MAX.as_millis(), LOCK_MAX.as_millis());
                let limits = format!("SET statement_timeout = {answer}; SET lock_timeout = {lock}");
                connection.simple_query(&limits).await?;
                connection
            }
        };
        let answer = connection.simple_query(sql).await;
        // After a lost connection the next question makes a new one.
        if answer.as_ref().err().is_none_or(|error| error.sqlstate().is_some()) {
            self.connection = Some((connection, Instant::now()));
        }
        answer
    }

    /// The published tables, as they would be announced now, with descriptions of their types.
    pub(super) async fn tables(&mut self, publication: &str) -> Result<Vec<TableSchema>, PgError> {
        let rows = self.ask(&tables_sql(publication)).await?;
        let mut tables: Vec<(&str, TableSchema)> = Vec::new();
        for row in &rows {
            let unreadable =
                || PgError::protocol("the catalog listed the published tables in a form that cannot be read");
            let (oid, table, column) = read_column(row).ok_or_else(unreadable)?;
            if tables.last().is_none_or(|(last, _)| *last != oid) {
                tables.push((oid, table));
            }
            if let (Some((_, table)), Some(column)) = (tables.last_mut(), column) {
                table.columns.push(column);
            }
        }
        let mut tables: Vec<_> = tables.into_iter().map(|(_, table)| table).collect();
        let columns = tables.iter().flat_map(|table| &table.columns);
        let foreign: Vec<u32> = columns.map(|column| column.type_oid).filter(|&oid| is_foreign(oid)).collect();
        if !foreign.is_empty() {
            let types = self.types(&foreign, None).await?.unwrap_or_default();
            tables.iter_mut().for_each(|table| describe_columns(table, &types));
        }
        Ok(tables)
    }

    pub(super) async fn close(self) {
        if let Some((connection, _)) = self.connection {
            connection.close().await;
        }
    }

    /// The types with these OIDs, and those inside them. None when some are missing and the transaction that may have made
    /// them is not visible yet; without a transaction missing is gone.
    async fn types(&mut self, oids: &[u32], xid: Option<u32>) -> Result<Option<HashMap<u32, TypeRow>>, PgError> {
        for look in 0..LOOKS_MAX {
            if look > 0 {
                tokio::time::sleep(LOOK_INTERVAL).await;
            }
            // Asked first: what is visible now is in the answer.
            let unseen = match xid {
                Some(xid) => self.is_unseen(xid).await?,
                None => false,
            };
            let rows = self.ask(&types_sql(oids)).await?;
            let types: HashMap<_, _> = rows.iter().filter_map(TypeRow::read).collect();
            if !unseen || oids.iter().all(|oid| types.contains_key(oid)) {
                return Ok(Some(types));
            }
        }
        Ok(None)
    }

    /// Whether queries do not see yet what this transaction did, although its commit has come.
    async fn is_unseen(&mut self, xid: u32) -> Result<bool, PgError> {
        // Transaction ids in snapshots are 64 bits wide, those in the stream their lower half.
        let sql = format!(
            "SELECT EXISTS (SELECT FROM pg_catalog.pg_snapshot_xip(pg_catalog.pg_current_snapshot()) AS running(xid) \
             WHERE running.xid::pg_catalog.text::pg_catalog.int8 & 4294967295 = {xid})"
        );
        let rows = self.ask(&sql).await?;
        Ok(rows.first().and_then(|row| row.first()?.as_deref()) == Some("t"))
    }

    async fn look_up(&mut self, relation: u32, announced: &TableSchema, xid: u32) -> Result<Described, SourceError> {
        let mut schema = announced.clone();
        let foreign: Vec<u32> =
            schema.columns.iter().map(|column| column.type_oid).filter(|&oid| is_foreign(oid)).collect();
        let (namespace, name) = (&announced.namespace, &announced.table);
        if !foreign.is_empty() {
            let types = self.types(&foreign, Some(xid)).await?;
            let types = types.ok_or_else(|| SourceError::NotVisible { table: format!("{namespace}.{name}"), xid })?;
            describe_columns(&mut schema, &types);
        }
        let facts = match self.facts(relation, announced).await {
            Ok(facts) => facts.map(Arc::new),
            Err(error) => {
                tracing::warn!(stream = %self.stream, %error, "the catalog would not describe table {namespace}.{name}: its new schema version is kept without keys, defaults and comments");
                None
            }
        };
        Ok(Described { schema: Arc::new(schema), facts })
    }

    async fn facts(&mut self, relation: u32, announced: &TableSchema) -> Result<Option<RecordedFacts>, PgError> {
        let rows = self.ask(&super::structure::facts_sql(relation)).await?;
        let field = |index: usize| rows.first()?.get(index)?.as_deref();
        let (Some(as_of), Some(json)) = (field(0).and_then(|lsn| lsn.parse::<Lsn>().ok()), field(1)) else {
            return Ok(None);
        };
        let table = TableFacts::from_json(json).map_err(|error| {
            PgError::protocol(format!("the catalog described a table in a form that cannot be read: {error}"))
        })?;
        Ok(table.describes(announced).then_some(RecordedFacts { origin: FactsOrigin::Catalog, as_of, table }))
    }
}

#[async_trait]
impl Catalog for PgCatalog {
    async fn describe(&mut self, relation: u32, announced: &TableSchema, xid: u32) -> Result<Described, SourceError> {
        match tokio::time::timeout(DESCRIBE_MAX, self.look_up(relation, announced, xid)).await {
            Ok(described) => described,
            Err(_) => {
                // The connection went with the question.
                let table = format!("{}.{}", announced.namespace, announced.table);
                Err(SourceError::CatalogSilent { table, after: DESCRIBE_MAX })
            }
        }
    }

    async fn has_publication(&mut self, publication: &str) -> Result<bool, SourceError> {
        let sql = format!("SELECT FROM pg_catalog.pg_publication WHERE pubname = {}", quote_literal(publication));
        match tokio::time::timeout(DESCRIBE_MAX, self.ask(&sql)).await {
            Ok(rows) => Ok(!rows?.is_empty()),
            Err(_) => Err(SourceError::Silent(DESCRIBE_MAX)),
        }
    }

    async fn rest(&mut self) {
        if self.connection.as_ref().is_some_and(|(_, used)| used.elapsed() >= REST_AFTER)
            && let Some((connection, _)) = self.connection.take()
        {
            connection.close().await;
        }
    }
}

const fn is_foreign(oid: u32) -> bool {
    oid >= FOREIGN_FROM_OID
}

/// Per column, tables one after the other: oid, namespace, table, replica identity; then name, type's namespace and name (a
/// domain's base's), type's oid, modifier, in the identity. Those are null for a table without columns. Before PostgreSQL 18
/// the list of columns has generated ones, which are not sent; before 15 there is no list.
fn tables_sql(publication: &str) -> String {
    format!(
        "SELECT c.oid, n.nspname, c.relname, c.relreplident, a.attname, tn.nspname, t.typname, a.atttypid, a.atttypmod, \
           c.relreplident = 'f' OR coalesce(a.attnum = ANY (i.indkey), false) \
         FROM pg_catalog.pg_publication_tables p \
         JOIN pg_catalog.pg_namespace n ON n.nspname = p.schemaname \
         JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = p.tablename \
         LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped \
           AND (a.attgenerated = '' OR pg_catalog.current_setting('server_version_num')::int >= 180000) \
           AND coalesce(pg_catalog.to_jsonb(p)->'attnames' ? a.attname::text, true) \
         LEFT JOIN pg_catalog.pg_index i ON i.indrelid = c.oid AND i.indisvalid \
           AND CASE c.relreplident WHEN 'd' THEN i.indisprimary WHEN 'i' THEN i.indisreplident ELSE false END \
         LEFT JOIN LATERAL ( \
           WITH RECURSIVE down(oid) AS ( \
             SELECT a.atttypid UNION ALL \
             SELECT d.typbasetype FROM down JOIN pg_catalog.pg_type d ON d.oid = down.oid AND d.typtype = 'd') \
           SELECT b.* FROM down JOIN pg_catalog.pg_type b ON b.oid = down.oid AND b.typtype <> 'd') t ON true \
         LEFT JOIN pg_catalog.pg_namespace tn ON tn.oid = t.typnamespace \
         WHERE p.pubname = {} ORDER BY c.oid, a.attnum",
        quote_literal(publication)
    )
}

/// A row of that: the table's OID, the table without columns, and the column.
fn read_column(row: &Row) -> Option<(&str, TableSchema, Option<Column>)> {
    let field = |index: usize| row.get(index)?.as_deref();
    let table = TableSchema {
        namespace: field(1)?.to_owned(),
        table: field(2)?.to_owned(),
        replica_identity: ReplicaIdentity::from_code(field(3)?.bytes().next()?)?,
        columns: Vec::new(),
    };
    let column = match field(4) {
        None => None,
        Some(name) => Some(Column {
            name: name.to_owned(),
            type_name: type_name(field(5)?, field(6)?),
            type_oid: field(7)?.parse().ok()?,
            type_modifier: field(8)?.parse().ok()?,
            in_identity: field(9)? == "t",
            description: None,
        }),
    };
    Some((field(0)?, table, column))
}

/// As in schema versions: PostgreSQL's own types have bare names.
fn type_name(namespace: &str, name: &str) -> String {
    if namespace == "pg_catalog" { name.to_owned() } else { format!("{namespace}.{name}") }
}

fn describe_columns(schema: &mut TableSchema, types: &HashMap<u32, TypeRow>) {
    for column in schema.columns.iter_mut().filter(|column| is_foreign(column.type_oid)) {
        column.description = Some(describe(column, types));
    }
}

/// Per type: oid, namespace, name, what it is, its delimiter, the type inside.
fn types_sql(oids: &[u32]) -> String {
    let oids = oids.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
    format!(
        "WITH RECURSIVE wanted(oid) AS ( \
           SELECT pg_catalog.unnest('{{{oids}}}'::pg_catalog.oid[]) \
           UNION \
           SELECT kind.inside FROM wanted JOIN kinds kind ON kind.oid = wanted.oid WHERE kind.inside <> 0 \
         ), kinds AS ( \
           SELECT t.oid, n.nspname, t.typname, t.typdelim, \
             CASE WHEN t.typelem <> 0 AND t.typsubscript = 'pg_catalog.array_subscript_handler'::pg_catalog.regproc \
                    AND t.typcategory = 'A' THEN 'a' ELSE t.typtype END AS kind, \
             CASE WHEN t.typtype = 'd' THEN t.typbasetype \
                  WHEN t.typtype IN ('r', 'm') THEN r.rngsubtype \
                  WHEN t.typcategory = 'A' THEN t.typelem ELSE 0 END AS inside \
           FROM pg_catalog.pg_type t JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace \
           LEFT JOIN pg_catalog.pg_range r ON t.oid IN (r.rngtypid, r.rngmultitypid) \
         ) \
         SELECT kinds.oid, nspname, typname, kind, typdelim, inside FROM kinds JOIN wanted ON wanted.oid = kinds.oid"
    )
}

struct TypeRow {
    name: String,
    kind: u8,
    delimiter: u8,
    inside: u32,
}

impl TypeRow {
    fn read(row: &Row) -> Option<(u32, Self)> {
        let field = |index: usize| row.get(index)?.as_deref();
        let name = type_name(field(1)?, field(2)?);
        let letter = |index: usize| field(index).and_then(|text| text.bytes().next());
        let read = Self { name, kind: letter(3)?, delimiter: letter(4)?, inside: field(5)?.parse().ok()? };
        Some((field(0)?.parse().ok()?, read))
    }
}

/// A column's type. It keeps the name it was announced under, unless it is a domain, which is announced as its base.
fn describe(column: &Column, types: &HashMap<u32, TypeRow>) -> TypeDescription {
    let mut description = description(column.type_oid, types, NESTED_MAX);
    if !matches!(description.kind, TypeKind::Domain(_)) {
        description.name.clone_from(&column.type_name);
    }
    // A domain that is gone was announced as its base, and PostgreSQL's own types have bare names.
    if description.kind == TypeKind::Unknown && !column.type_name.contains('.') {
        description.kind = TypeKind::Base;
    }
    description
}

fn description(oid: u32, types: &HashMap<u32, TypeRow>, deeper_max: usize) -> TypeDescription {
    let found = deeper_max.checked_sub(1).and_then(|deeper_max| Some((types.get(&oid)?, deeper_max)));
    let Some((found, deeper_max)) = found else {
        return TypeDescription { name: String::new(), kind: TypeKind::Unknown };
    };
    let inner = || Box::new(description(found.inside, types, deeper_max));
    let kind = match found.kind {
        // PostgreSQL's own say by their names what they are.
        _ if !is_foreign(oid) => TypeKind::Base,
        b'e' => TypeKind::Enum,
        b'c' => TypeKind::Composite,
        b'd' => TypeKind::Domain(inner()),
        b'r' => TypeKind::Range(inner()),
        b'm' => TypeKind::Multirange(inner()),
        b'a' => {
            let delimiter = types.get(&found.inside).map_or(b',', |element| element.delimiter);
            TypeKind::Array { delimiter, element: inner() }
        }
        _ => TypeKind::Base,
    };
    TypeDescription { name: found.name.clone(), kind }
}
