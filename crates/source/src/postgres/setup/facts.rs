//! `Facts`: what the server says about itself, read once, before anything is judged.
//!
//! A question the server refuses to answer is remembered in [`Facts::unread`] and the rest is still read; only a lost
//! connection ends the reading. The statements are in `sql.rs`; judging is `assess.rs` and its neighbours.

use std::collections::{BTreeSet, HashMap};
use std::str::FromStr;

use dbstreamd_model::{Lsn, ReplicaIdentity};

use super::sql;
use crate::postgres::capture::{INSTALLED, Installed};
use crate::postgres::{Connection, PgError};

/// A row of an answer.
type Row = [Option<String>];

/// Everything setup knows about one database and its server.
#[derive(Debug, Default)]
pub(crate) struct Facts {
    pub(crate) version_num: u32,
    pub(crate) server: ServerFacts,
    pub(crate) settings: HashMap<String, String>,
    pub(crate) role: RoleFacts,
    pub(crate) wal_senders: u32,
    pub(crate) slots: Vec<SlotFacts>,
    pub(crate) tables: Vec<TableFacts>,
    pub(crate) publication: Option<PublicationFacts>,
    pub(crate) transactions: Vec<OpenTransaction>,
    pub(crate) prepared: Vec<PreparedTransaction>,
    /// The event triggers that record schema changes.
    pub(crate) capture: Installed,
    /// What could not be read, and why.
    pub(crate) unread: Vec<(&'static str, PgError)>,
}

#[derive(Debug, Default)]
pub(crate) struct ServerFacts {
    pub(crate) version: String,
    pub(crate) in_recovery: bool,
    pub(crate) database: String,
    pub(crate) encoding: String,
    pub(crate) user: String,
    pub(crate) read_only: bool,
    pub(crate) system_id: u64,
    pub(crate) timeline: u32,
}

#[derive(Debug, Default)]
pub(crate) struct RoleFacts {
    pub(crate) superuser: bool,
    pub(crate) replication: bool,
    /// CREATE in the database.
    pub(crate) may_create: bool,
    /// Managed services' roles it is a member of.
    pub(crate) cloud: Vec<String>,
}

#[derive(Debug, Default)]
pub(crate) struct SlotFacts {
    pub(crate) name: String,
    pub(crate) plugin: Option<String>,
    pub(crate) database: Option<String>,
    pub(crate) logical: bool,
    pub(crate) temporary: bool,
    pub(crate) active_pid: Option<i32>,
    pub(crate) confirmed_flush: Option<Lsn>,
    pub(crate) wal_status: String,
    pub(crate) invalidation: Option<String>,
    pub(crate) two_phase: bool,
    pub(crate) retained_bytes: Option<i64>,
    /// Application, address and user of who holds it, as far as they may be seen.
    pub(crate) holder: Vec<String>,
}

/// What a relation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TableKind {
    Ordinary,
    Partitioned,
    Foreign,
    View,
    MaterializedView,
}

#[derive(Debug)]
pub(crate) struct TableFacts {
    pub(crate) oid: u32,
    pub(crate) schema: String,
    pub(crate) name: String,
    pub(crate) kind: TableKind,
    pub(crate) unlogged: bool,
    pub(crate) identity: ReplicaIdentity,
    pub(crate) primary_key: bool,
    /// UPDATE and DELETE work while it is published.
    pub(crate) identity_usable: bool,
    /// An index that could be its identity.
    pub(crate) identity_candidate: Option<String>,
    /// Whether the role owns it.
    pub(crate) owned: bool,
    pub(crate) owner: String,
    pub(crate) estimated_rows: Option<i64>,
    pub(crate) of_extension: bool,
    /// Whether the role may look up names in its schema.
    pub(crate) schema_usable: bool,
    /// For a partition, its root and all tables between.
    pub(crate) ancestors: Vec<u32>,
}

impl TableFacts {
    pub(crate) fn shown(&self) -> String {
        sql::shown(&self.schema, &self.name)
    }

    pub(crate) fn is_partition(&self) -> bool {
        !self.ancestors.is_empty()
    }
}

#[derive(Debug, Default)]
pub(crate) struct PublicationFacts {
    pub(crate) all_tables: bool,
    /// insert, update, delete, truncate.
    pub(crate) operations: [bool; 4],
    pub(crate) via_root: bool,
    /// Whether the role may alter it.
    pub(crate) owned: bool,
    pub(crate) owner: String,
    pub(crate) tables: Vec<PublishedTable>,
    pub(crate) schemas: BTreeSet<String>,
}

/// A table that a publication lists by name.
#[derive(Debug)]
pub(crate) struct PublishedTable {
    pub(crate) oid: u32,
    pub(crate) schema: String,
    pub(crate) name: String,
    pub(crate) row_filter: bool,
    pub(crate) column_list: bool,
}

/// A transaction that has written and is not over.
#[derive(Debug, Clone)]
pub(crate) struct OpenTransaction {
    pub(crate) pid: i32,
    pub(crate) database: String,
    pub(crate) user: String,
    pub(crate) application: String,
    pub(crate) state: String,
    /// Seconds; none when the role may not see it.
    pub(crate) age: Option<i64>,
}

#[derive(Debug, Clone)]
pub(crate) struct PreparedTransaction {
    pub(crate) gid: String,
    pub(crate) database: String,
    pub(crate) owner: String,
    pub(crate) age: Option<i64>,
}

impl Facts {
    /// Asks the server everything. Changes nothing.
    ///
    /// # Errors
    /// When the connection breaks.
    pub(crate) async fn read(connection: &mut Connection, publication: &str) -> Result<Self, PgError> {
        let mut ask = Asker { connection, unread: Vec::new() };
        let server = ask.rows("the server's identity", sql::SERVER).await?;
        let settings = ask.rows("the server's settings", sql::SETTINGS).await?;
        let role = ask.rows("the role's privileges", sql::ROLE).await?;
        let wal_senders = ask.rows("walsenders", sql::WAL_SENDERS).await?;
        let slots = ask.rows("replication slots", sql::SLOTS).await?;
        let tables = ask.rows("tables", sql::TABLES).await?;
        let publication = ask.publication(publication).await?;
        let (transactions, prepared) = ask.blockers().await?;
        let capture = ask.rows("event triggers", INSTALLED).await?;
        let Asker { connection, unread } = ask;
        Ok(Self {
            version_num: connection.server_version_num(),
            server: server.first().map(|row| server_facts(row)).unwrap_or_default(),
            settings: settings.iter().map(|row| (text(row, 0), text(row, 1))).collect(),
            role: role.first().map(|row| role_facts(row)).unwrap_or_default(),
            wal_senders: wal_senders.first().and_then(|row| parsed(row, 0)).unwrap_or(0),
            slots: slots.iter().map(|row| slot_facts(row)).collect(),
            tables: tables.iter().filter_map(|row| table_facts(row)).collect(),
            publication,
            transactions,
            prepared,
            capture: capture.first().map(|row| Installed::of_row(row)).unwrap_or_default(),
            unread,
        })
    }

    /// A setting's value; empty when it does not exist in this version.
    pub(crate) fn setting(&self, name: &str) -> &str {
        self.settings.get(name).map_or("", String::as_str)
    }

    /// A setting that is a number.
    pub(crate) fn number(&self, name: &str) -> Option<i64> {
        self.setting(name).parse().ok()
    }

    pub(crate) fn slot(&self, name: &str) -> Option<&SlotFacts> {
        self.slots.iter().find(|slot| slot.name == name)
    }
}

/// Transactions that hold back slot creation, read anew while it waits.
///
/// # Errors
/// When the connection breaks.
pub(crate) async fn blockers(
    connection: &mut Connection,
) -> Result<(Vec<OpenTransaction>, Vec<PreparedTransaction>), PgError> {
    Asker { connection, unread: Vec::new() }.blockers().await
}

/// Asks one question after the other and remembers which were not answered.
struct Asker<'a> {
    connection: &'a mut Connection,
    unread: Vec<(&'static str, PgError)>,
}

impl Asker<'_> {
    async fn rows(&mut self, what: &'static str, sql: &str) -> Result<Vec<Vec<Option<String>>>, PgError> {
        match self.connection.simple_query(sql).await {
            Ok(rows) => Ok(rows),
            Err(error @ PgError::Server { .. }) if error.server_error().is_some_and(|said| !said.is_fatal()) => {
                self.unread.push((what, error));
                Ok(Vec::new())
            }
            Err(error) => Err(error),
        }
    }

    async fn publication(&mut self, name: &str) -> Result<Option<PublicationFacts>, PgError> {
        let found = self.rows("the publication", &sql::publication(name)).await?;
        let Some(row) = found.first() else { return Ok(None) };
        let oid = parsed(row, 0).unwrap_or(0);
        let tables = self.rows("the publication's tables", &sql::publication_tables(oid)).await?;
        let schemas = if self.connection.server_version_num() >= 150_000 {
            self.rows("the publication's schemas", &sql::publication_schemas(oid)).await?
        } else {
            Vec::new()
        };
        Ok(Some(PublicationFacts {
            all_tables: flag(row, 1),
            operations: [flag(row, 2), flag(row, 3), flag(row, 4), flag(row, 5)],
            via_root: flag(row, 6),
            owned: flag(row, 7),
            owner: text(row, 8),
            tables: tables.iter().filter_map(|row| published_table(row)).collect(),
            schemas: schemas.iter().map(|row| text(row, 0)).collect(),
        }))
    }

    async fn blockers(&mut self) -> Result<(Vec<OpenTransaction>, Vec<PreparedTransaction>), PgError> {
        let open = self.rows("open transactions", sql::OPEN_TRANSACTIONS).await?;
        let prepared = self.rows("prepared transactions", sql::PREPARED_TRANSACTIONS).await?;
        let open = open.iter().map(|row| OpenTransaction {
            pid: parsed(row, 0).unwrap_or(0),
            database: text(row, 1),
            user: text(row, 2),
            application: text(row, 3),
            state: text(row, 4),
            age: parsed(row, 5),
        });
        let prepared = prepared.iter().map(|row| PreparedTransaction {
            gid: text(row, 0),
            database: text(row, 1),
            owner: text(row, 2),
            age: parsed(row, 3),
        });
        Ok((open.collect(), prepared.collect()))
    }
}

fn server_facts(row: &Row) -> ServerFacts {
    ServerFacts {
        version: text(row, 1),
        in_recovery: flag(row, 2),
        database: text(row, 3),
        encoding: text(row, 4),
        user: text(row, 5),
        read_only: text(row, 6) == "on",
        system_id: parsed(row, 7).unwrap_or(0),
        timeline: timeline(&text(row, 8)),
    }
}

/// Hexadecimal after an `x`, as in WAL file names; otherwise decimal.
fn timeline(text: &str) -> u32 {
    match text.strip_prefix('x') {
        Some(hex) => u32::from_str_radix(hex, 16).unwrap_or(0),
        None => text.parse().unwrap_or(0),
    }
}

fn role_facts(row: &Row) -> RoleFacts {
    RoleFacts {
        superuser: flag(row, 0),
        replication: flag(row, 1),
        may_create: flag(row, 2),
        cloud: text(row, 3).split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect(),
    }
}

fn slot_facts(row: &Row) -> SlotFacts {
    let holder = [("", 11), ("from ", 12), ("as ", 13)];
    SlotFacts {
        name: text(row, 0),
        plugin: cell(row, 1).map(str::to_owned),
        database: cell(row, 2).map(str::to_owned),
        logical: text(row, 3) == "logical",
        temporary: flag(row, 4),
        active_pid: parsed(row, 5),
        confirmed_flush: parsed(row, 6),
        wal_status: text(row, 7),
        invalidation: cell(row, 8).map(str::to_owned),
        two_phase: flag(row, 9),
        retained_bytes: parsed(row, 10),
        holder: holder
            .into_iter()
            .filter_map(|(before, index)| {
                cell(row, index).filter(|text| !text.is_empty()).map(|text| format!("{before}{text}"))
            })
            .collect(),
    }
}

fn table_facts(row: &Row) -> Option<TableFacts> {
    let kind = match cell(row, 3)? {
        "r" => TableKind::Ordinary,
        "p" => TableKind::Partitioned,
        "f" => TableKind::Foreign,
        "m" => TableKind::MaterializedView,
        _ => TableKind::View,
    };
    Some(TableFacts {
        oid: parsed(row, 0)?,
        schema: text(row, 1),
        name: text(row, 2),
        kind,
        unlogged: text(row, 4) == "u",
        identity: cell(row, 5)
            .and_then(|code| ReplicaIdentity::from_code(*code.as_bytes().first()?))
            .unwrap_or(ReplicaIdentity::Nothing),
        primary_key: flag(row, 6),
        identity_usable: flag(row, 7),
        identity_candidate: cell(row, 8).map(str::to_owned),
        owned: flag(row, 9),
        owner: text(row, 10),
        estimated_rows: parsed(row, 11),
        of_extension: flag(row, 12),
        schema_usable: flag(row, 14),
        ancestors: text(row, 13).split(',').filter_map(|oid| oid.parse().ok()).collect(),
    })
}

fn published_table(row: &Row) -> Option<PublishedTable> {
    Some(PublishedTable {
        oid: parsed(row, 0)?,
        schema: text(row, 1),
        name: text(row, 2),
        row_filter: flag(row, 3),
        column_list: flag(row, 4),
    })
}

fn cell(row: &Row, index: usize) -> Option<&str> {
    row.get(index)?.as_deref()
}

fn text(row: &Row, index: usize) -> String {
    cell(row, index).unwrap_or_default().to_owned()
}

fn flag(row: &Row, index: usize) -> bool {
    matches!(cell(row, index), Some("t" | "true"))
}

fn parsed<T: FromStr>(row: &Row, index: usize) -> Option<T> {
    cell(row, index)?.parse().ok()
}
