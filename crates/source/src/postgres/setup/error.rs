//! `SetupError`: why a database cannot be streamed from yet, and what to do about it.
//!
//! `check` shows each as a finding, `prepare` stops at the first. Cause and remedy are one line each.

use std::fmt;
use std::time::Duration;

use crate::HistoryBreak;
use crate::postgres::{PgError, quote_identifier, quote_literal};

/// Most names listed in one line.
const NAMES_MAX: usize = 10;

/// What keeps a source from streaming. [`cause`](Self::cause) says what is, [`remedy`](Self::remedy) what to do.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The conversation with the server failed.
    Postgres(#[from] PgError),
    /// A fact that must be known could not be read.
    Unread {
        /// What was asked for.
        what: &'static str,
        /// What the server said.
        error: PgError,
    },
    /// The configured slot name is none that PostgreSQL accepts.
    SlotName(String),
    /// The configured publication name is none that PostgreSQL accepts.
    PublicationName(String),
    /// A standby of a version that cannot decode.
    Standby {
        /// The server's version.
        version: String,
    },
    /// The setting `origin` needs a newer server.
    NoOriginFilter {
        /// The server's version.
        version: String,
    },
    /// `wal_level` is not `logical`.
    WalLevel {
        /// What it is.
        found: String,
    },
    /// The role may not replicate.
    NoReplicationPrivilege {
        /// The role.
        user: String,
    },
    /// Every walsender is in use.
    NoFreeWalSender {
        /// `max_wal_senders`.
        limit: i64,
    },
    /// Every replication slot is in use.
    NoFreeSlot {
        /// `max_replication_slots`.
        limit: i64,
        /// Slots that nobody reads.
        inactive: Vec<String>,
    },
    /// A pattern takes no table.
    PatternMatchesNothing {
        /// The pattern.
        pattern: String,
        /// The connected database.
        database: String,
        /// Tables that exist, as patterns.
        existing: Vec<String>,
    },
    /// A pattern names something that cannot be published.
    NotPublishable {
        /// What was named.
        table: String,
        /// Why not.
        why: &'static str,
    },
    /// Nothing is left to publish.
    NothingToPublish {
        /// Why each table was left out.
        skipped: Vec<String>,
    },
    /// Tables without an identity, and the setting says fail.
    TablesWithoutIdentity {
        /// The tables, with the statement that gives each an identity.
        tables: Vec<(String, String)>,
    },
    /// Tables of somebody else would have to be added to the publication.
    NotOwner {
        /// The role.
        user: String,
        /// Each table and its owner.
        tables: Vec<(String, String)>,
        /// What an owner or superuser can run instead.
        statement: String,
    },
    /// The role may not look up tables in their schemas.
    NoSchemaUsage {
        /// The role.
        user: String,
        /// The schemas.
        schemas: Vec<String>,
    },
    /// The role may not create a publication.
    NoCreatePrivilege {
        /// The role.
        user: String,
        /// The database.
        database: String,
    },
    /// The publication is somebody else's and lacks tables.
    PublicationNotOwned {
        /// Its name.
        publication: String,
        /// Its owner.
        owner: String,
        /// What the owner can run.
        statement: String,
    },
    /// The publication does not exist and is not to be created.
    PublicationMissing {
        /// Its name.
        publication: String,
        /// What creates it.
        statement: String,
    },
    /// The slot is older than the publication could be: what it still has to send needs the publication of its time.
    PublicationGone {
        /// The publication.
        publication: String,
        /// The slot.
        slot: String,
    },
    /// The publication lacks tables that are configured by name, and is not to be changed.
    PublicationLacksTables {
        /// Its name.
        publication: String,
        /// The tables.
        tables: Vec<String>,
        /// What adds them.
        statement: String,
    },
    /// The publication would send tables that the stream does not take.
    PublicationHasOtherTables {
        /// Its name.
        publication: String,
        /// The tables.
        tables: Vec<String>,
    },
    /// The session cannot write, and something must be created.
    ReadOnly {
        /// What must be created.
        what: &'static str,
    },
    /// The slot does not exist and is not to be created.
    SlotMissing {
        /// Its name.
        slot: String,
    },
    /// The slot of a stream that has run before is gone.
    SlotGone {
        /// Its name.
        slot: String,
    },
    /// A slot of this name serves something else.
    SlotNotUsable {
        /// Its name.
        slot: String,
        /// What it is.
        found: SlotMismatch,
    },
    /// The slot lost its place: PostgreSQL has removed what comes next.
    SlotInvalidated {
        /// Its name.
        slot: String,
        /// PostgreSQL's reason.
        reason: String,
    },
    /// Somebody holds the slot. Normal for a while after a connection was lost.
    SlotActive {
        /// Its name.
        slot: String,
        /// The holder's process at the server.
        pid: i32,
        /// Who that is, as far as it may be seen.
        holder: Vec<String>,
    },
    /// Transactions that were open kept the slot from being created.
    SlotBlocked {
        /// Its name.
        slot: String,
        /// How long it was waited for.
        after: Duration,
        /// The transactions, each with its pid or gid.
        blockers: Vec<String>,
        /// What ends the first of them.
        ends_first: Option<String>,
    },
}

/// What is wrong with a slot of the right name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SlotMismatch {
    /// It is a physical slot.
    Physical,
    /// It is temporary, of a running session.
    Temporary,
    /// Another output plugin.
    Plugin(String),
    /// Another database of the cluster.
    Database {
        /// The slot's.
        found: String,
        /// The configured one.
        wanted: String,
    },
    /// It decodes prepared transactions, which protocol version 1 cannot carry.
    TwoPhase,
}

impl fmt::Display for SlotMismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Physical => f.write_str("is a physical slot"),
            Self::Temporary => f.write_str("is a temporary slot of a running session"),
            Self::Plugin(plugin) => write!(f, "uses the plugin {plugin:?} instead of pgoutput"),
            Self::Database { found, wanted } => write!(f, "belongs to the database {found:?} instead of {wanted:?}"),
            Self::TwoPhase => f.write_str("was created with two_phase, which changes how transactions are sent"),
        }
    }
}

impl SetupError {
    /// Whether it may pass without anybody doing anything.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Postgres(error) | Self::Unread { error, .. } => error.is_transient(),
            Self::SlotActive { .. } | Self::SlotBlocked { .. } | Self::NoFreeWalSender { .. } => true,
            _ => false,
        }
    }

    /// That the slot of a stream that ran before is lost.
    pub(crate) fn lost_slot(&self) -> Option<HistoryBreak> {
        match self {
            Self::SlotGone { slot } => Some(HistoryBreak::SlotGone { slot: slot.clone() }),
            Self::SlotInvalidated { slot, reason } => {
                Some(HistoryBreak::SlotInvalidated { slot: slot.clone(), why: reason.clone() })
            }
            _ => None,
        }
    }

    /// A short name that never changes, for scripts.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Postgres(_) => "connection",
            Self::Unread { .. } => "unread",
            Self::SlotName(_) => "slot_name",
            Self::PublicationName(_) => "publication_name",
            Self::Standby { .. } => "standby",
            Self::NoOriginFilter { .. } => "origin",
            Self::WalLevel { .. } => "wal_level",
            Self::NoReplicationPrivilege { .. } => "replication_privilege",
            Self::NoFreeWalSender { .. } => "max_wal_senders",
            Self::NoFreeSlot { .. } => "max_replication_slots",
            Self::PatternMatchesNothing { .. } => "pattern_matches_nothing",
            Self::NotPublishable { .. } => "not_publishable",
            Self::NothingToPublish { .. } => "nothing_to_publish",
            Self::TablesWithoutIdentity { .. } => "replica_identity",
            Self::NotOwner { .. } => "table_owner",
            Self::NoSchemaUsage { .. } => "schema_privilege",
            Self::NoCreatePrivilege { .. } => "create_privilege",
            Self::PublicationNotOwned { .. } => "publication_owner",
            Self::PublicationMissing { .. } => "publication_missing",
            Self::PublicationGone { .. } => "publication_gone",
            Self::PublicationLacksTables { .. } => "publication_lacks_tables",
            Self::PublicationHasOtherTables { .. } => "publication_has_other_tables",
            Self::ReadOnly { .. } => "read_only",
            Self::SlotMissing { .. } => "slot_missing",
            Self::SlotGone { .. } => "slot_gone",
            Self::SlotNotUsable { .. } => "slot_not_usable",
            Self::SlotInvalidated { .. } => "slot_invalidated",
            Self::SlotActive { .. } => "slot_active",
            Self::SlotBlocked { .. } => "slot_blocked",
        }
    }

    /// What is the matter.
    pub fn cause(&self) -> String {
        match self {
            Self::Postgres(error) => error.to_string(),
            Self::Unread { what, error } => format!("{what} could not be read: {error}"),
            Self::SlotName(name) => format!("{name:?} cannot name a replication slot"),
            Self::PublicationName(name) => format!("{name:?} cannot name a publication"),
            Self::Standby { version } => {
                format!("the server is a standby, and PostgreSQL {version} cannot decode changes on a standby")
            }
            Self::NoOriginFilter { version } => {
                format!("origin = \"none\" needs PostgreSQL 16 or newer, and the server is PostgreSQL {version}")
            }
            Self::WalLevel { found } => format!("wal_level is {found:?}; decoding changes needs \"logical\""),
            Self::NoReplicationPrivilege { user } => format!("the role {user:?} may not replicate"),
            Self::NoFreeWalSender { limit } => {
                format!("all walsenders of the server are in use (max_wal_senders = {limit})")
            }
            Self::NoFreeSlot { limit, .. } => {
                format!("all replication slots of the server are in use (max_replication_slots = {limit})")
            }
            Self::PatternMatchesNothing { pattern, database, .. } => {
                format!("the table pattern {pattern} matches no table of the database {database:?}")
            }
            Self::NotPublishable { table, why } => format!("{table} cannot be published: it is {why}"),
            Self::NothingToPublish { skipped } if skipped.is_empty() => "no table is left to publish".into(),
            Self::NothingToPublish { skipped } => {
                format!("no table is left to publish: {}", names(skipped))
            }
            Self::TablesWithoutIdentity { tables } => format!(
                "{} without a replica identity: {}",
                count(tables.len(), "table"),
                names(tables.iter().map(|(table, _)| table))
            ),
            Self::NotOwner { user, tables, .. } => format!(
                "only a table's owner can publish it, and the role {user:?} does not own {}",
                names(tables.iter().map(|(table, owner)| format!("{table} (owner {owner})")))
            ),
            Self::NoSchemaUsage { user, schemas } => {
                format!(
                    "the role {user:?} may not use the {}: {}",
                    if schemas.len() == 1 { "schema" } else { "schemas" },
                    names(schemas)
                )
            }
            Self::NoCreatePrivilege { user, database } => {
                format!("the role {user:?} may not create a publication in the database {database:?}")
            }
            Self::PublicationNotOwned { publication, owner, .. } => {
                format!("the publication {publication:?} lacks tables, and only its owner {owner:?} can add them")
            }
            Self::PublicationMissing { publication, .. } => format!("the publication {publication:?} does not exist"),
            Self::PublicationGone { publication, slot } => format!(
                "the replication slot {slot:?} exists but the publication {publication:?} does not, and one made now does not count for the changes that the slot still has to send"
            ),
            Self::PublicationLacksTables { publication, tables, .. } => {
                format!("the publication {publication:?} does not contain {}", names(tables))
            }
            Self::PublicationHasOtherTables { publication, tables } => format!(
                "the publication {publication:?} contains {} that this stream does not take: {}",
                count(tables.len(), "table"),
                names(tables)
            ),
            Self::ReadOnly { what } => format!("{what} must be created, but the server or the session is read-only"),
            Self::SlotMissing { slot } => format!("the replication slot {slot:?} does not exist"),
            Self::SlotGone { slot } => format!(
                "the replication slot {slot:?}, from which this stream was read so far, no longer exists: the changes since it was dropped are lost to the stream"
            ),
            Self::SlotNotUsable { slot, found } => format!("the replication slot {slot:?} {found}"),
            Self::SlotInvalidated { slot, reason } => {
                format!(
                    "PostgreSQL has invalidated the replication slot {slot:?} ({reason}): changes after its position are lost"
                )
            }
            Self::SlotActive { slot, pid, holder } if holder.is_empty() => {
                format!("the replication slot {slot:?} is in use by the server process {pid}")
            }
            Self::SlotActive { slot, pid, holder } => {
                format!("the replication slot {slot:?} is in use by the server process {pid} ({})", holder.join(" "))
            }
            Self::SlotBlocked { slot, after, blockers, .. } => format!(
                "the replication slot {slot:?} could not be created within {} s, because PostgreSQL first waits for every open transaction of the cluster: {}",
                after.as_secs(),
                if blockers.is_empty() { "none is open any more".to_owned() } else { names(blockers) }
            ),
        }
    }

    /// What to do about it; empty where the cause says it already.
    pub fn remedy(&self) -> String {
        match self {
            Self::Postgres(_) => String::new(),
            Self::Unread { .. } => "let the role read the system catalogs, as every role may by default".into(),
            Self::SlotName(_) => "use 1 to 63 of the characters a-z 0-9 _".into(),
            Self::PublicationName(_) => "use 1 to 63 bytes".into(),
            Self::Standby { .. } => "connect to the primary".into(),
            Self::NoOriginFilter { .. } => "remove the setting, or set origin = \"any\"".into(),
            Self::WalLevel { .. } => {
                "ALTER SYSTEM SET wal_level = logical, then restart the server (managed services: set rds.logical_replication = 1, cloudsql.logical_decoding = on or wal_level = logical in the parameter group)".into()
            }
            Self::NoReplicationPrivilege { user } => format!(
                "ALTER ROLE {0} REPLICATION, or on Amazon RDS and Aurora GRANT rds_replication TO {0}",
                quote_identifier(user)
            ),
            Self::NoFreeWalSender { .. } => {
                "end a replication connection that is not needed (see pg_stat_replication), or raise max_wal_senders and restart the server".into()
            }
            Self::NoFreeSlot { inactive, .. } if inactive.is_empty() => {
                "raise max_replication_slots and restart the server".into()
            }
            Self::NoFreeSlot { inactive, .. } => format!(
                "drop a slot that nobody needs with pg_drop_replication_slot (not in use now: {}), or raise max_replication_slots and restart the server",
                names(inactive)
            ),
            Self::PatternMatchesNothing { existing, .. } if existing.is_empty() => {
                "the database has no user tables: create them first, or connect to the right database".into()
            }
            Self::PatternMatchesNothing { existing, .. } => {
                format!("correct the pattern or the database; there are {}", names(existing))
            }
            Self::NotPublishable { .. } => "take it out of the stream's tables".into(),
            Self::NothingToPublish { .. } => {
                "give the tables a primary key or replica identity, or change tables, exclude and tables_without_identity".into()
            }
            Self::TablesWithoutIdentity { tables } => format!(
                "{}; or set tables_without_identity to \"skip\" or \"publish\"",
                names(tables.iter().map(|(_, statement)| statement))
            ),
            Self::NotOwner { statement, .. } => format!(
                "as a superuser run: {statement} (and set create_publication = false if dbstreamd shall leave it alone), make the role a member of the owners' roles, or exclude the tables"
            ),
            Self::NoSchemaUsage { user, schemas } => format!(
                "GRANT USAGE ON SCHEMA {} TO {}",
                names(schemas.iter().map(|schema| quote_identifier(schema))),
                quote_identifier(user)
            ),
            Self::NoCreatePrivilege { user, database } => format!(
                "GRANT CREATE ON DATABASE {} TO {}, or create the publication as another role and set create_publication = false",
                quote_identifier(database),
                quote_identifier(user)
            ),
            Self::PublicationNotOwned { statement, .. } => {
                format!("as its owner or a superuser run: {statement}")
            }
            Self::PublicationMissing { statement, .. } => {
                format!("run on the primary: {statement}; with create_publication = true dbstreamd does so there itself")
            }
            Self::PublicationGone { slot, .. } => format!(
                "if nobody has streamed from the slot yet, pg_drop_replication_slot({}) and dbstreamd makes both; otherwise create the publication again as it was: the stream goes on by itself, without what was written while there was none, so compare or reload the copies of its tables (up to PostgreSQL 17 the server refuses to go on if anything was written: drop the slot then, and start a stream under another name)",
                quote_literal(slot).trim()
            ),
            Self::PublicationLacksTables { statement, .. } => {
                format!("run: {statement}; or set create_publication = true, or take them out of the stream's tables")
            }
            Self::PublicationHasOtherTables { .. } => {
                "add them to the stream's tables, take them out with ALTER PUBLICATION … DROP TABLE, or set another publication name for this stream".into()
            }
            Self::ReadOnly { .. } => {
                "connect to the primary, or ALTER ROLE … RESET default_transaction_read_only".into()
            }
            Self::SlotMissing { .. } => {
                "set create_slot = true, or create it with pg_create_logical_replication_slot".into()
            }
            Self::SlotGone { .. } => {
                "set on_lost_slot = \"recreate\" for this source and restart dbstreamd (or create the slot yourself): the stream then goes on under a new epoch; in any case resynchronise its consumers".into()
            }
            Self::SlotNotUsable { .. } => {
                "set another slot name for this stream, or drop that slot if nobody needs it".into()
            }
            Self::SlotInvalidated { slot, .. } => format!(
                "set on_lost_slot = \"recreate\" for this source and restart dbstreamd (or pg_drop_replication_slot({}) and create it anew yourself): the stream then goes on under a new epoch; in any case resynchronise its consumers; raise max_slot_wal_keep_size or idle_replication_slot_timeout to keep it from happening again",
                quote_literal(slot).trim()
            ),
            Self::SlotActive { pid, .. } => format!(
                "normal for up to wal_sender_timeout after a lost connection; otherwise stop the other reader, or SELECT pg_terminate_backend({pid})"
            ),
            Self::SlotBlocked { ends_first, .. } => match ends_first {
                Some(statement) => format!("end it ({statement}), or raise slot_timeout; dbstreamd tries again by itself"),
                None => "raise slot_timeout; dbstreamd tries again by itself".into(),
            },
        }
    }
}

impl fmt::Display for SetupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let remedy = self.remedy();
        f.write_str(&self.cause())?;
        if remedy.is_empty() { Ok(()) } else { write!(f, "; {remedy}") }
    }
}

/// The first few names of a list, and how many more there are.
pub(crate) fn names<T: fmt::Display>(list: impl IntoIterator<Item = T>) -> String {
    let mut list = list.into_iter();
    let mut line: Vec<_> = list.by_ref().take(NAMES_MAX).map(|name| name.to_string()).collect();
    let more = list.count();
    if more > 0 {
        line.push(format!("and {more} more"));
    }
    line.join(", ")
}

/// `1 table`, `2 tables`.
pub(crate) fn count(n: usize, noun: &str) -> String {
    format!("{n} {noun}{}", if n == 1 { "" } else { "s" })
}
