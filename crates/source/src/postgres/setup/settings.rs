//! `SourceSettings`: everything a stream's owner can decide about its source.

use std::time::Duration;

use dbstreamd_model::StreamName;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::TablePattern;
use crate::postgres::{ConnectOptions, Origin, Replication};
use crate::{OnGap, OnLostSlot};

/// Longest name PostgreSQL keeps, in bytes.
const NAME_BYTES_MAX: usize = 63;

/// How long slot creation may wait for the transactions that are open when it starts.
const SLOT_TIMEOUT: Duration = Duration::from_secs(60);
/// Silence after which a connection is taken for dead; the server is asked to speak well before.
const RECEIVE_TIMEOUT: Duration = Duration::from_secs(60);
/// Time between status updates of a quiet stream; the server's own timeout can only shorten it.
const STATUS_INTERVAL: Duration = Duration::from_secs(10);

/// Time between two looks at the slot.
const SLOT_CHECK_INTERVAL: Duration = Duration::from_secs(30);

/// What happens to a table that matches a pattern but has no replica identity.
///
/// PostgreSQL refuses UPDATE and DELETE on such a table as soon as it is published.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum TablesWithoutIdentity {
    /// It is left out, and reported.
    #[default]
    Skip,
    /// Setup fails until somebody decides.
    Fail,
    /// It is published all the same: for tables that only ever see INSERT and TRUNCATE.
    Publish,
}

/// One `[[source]]`, with its defaults filled in.
#[derive(Clone, Debug)]
pub struct SourceSettings {
    /// The stream it feeds.
    pub name: StreamName,
    /// How to reach the server.
    pub connect: ConnectOptions,
    /// The tables to take; default `*.*`.
    pub tables: Vec<TablePattern>,
    /// The tables to leave out of those.
    pub exclude: Vec<TablePattern>,
    /// What to do with tables that have no replica identity.
    pub tables_without_identity: TablesWithoutIdentity,
    /// The replication slot; default `dbstreamd_<name>`.
    pub slot: String,
    /// The publication; default `dbstreamd_<name>`.
    pub publication: String,
    /// Whether a missing slot is created.
    pub create_slot: bool,
    /// Whether a missing publication is created, and missing tables are added to it.
    pub create_publication: bool,
    /// Whether a partition's changes arrive under its root table's name; used when the publication is created.
    ///
    /// Off by default, as in PostgreSQL: under the root's name, TRUNCATE of a single partition is not replicated.
    pub publish_via_partition_root: bool,
    /// Whether values come in PostgreSQL's binary form.
    pub binary: bool,
    /// Which changes are taken, by where they were first made.
    pub origin: Origin,
    /// How long slot creation may wait for open transactions.
    pub slot_timeout: Duration,
    /// Silence after which the connection is taken for dead.
    pub receive_timeout: Duration,
    /// Time between status updates of a quiet stream.
    pub status_interval: Duration,
    /// How often it is looked at what the server keeps for the slot.
    pub slot_check_interval: Duration,
    /// What happens when the server's history does not continue the log's.
    pub on_gap: OnGap,
    /// What happens when the slot of a stream that ran before is gone or invalidated.
    pub on_lost_slot: OnLostSlot,
    /// Whether event triggers are installed that record schema changes.
    pub ddl_capture: bool,
    /// Bytes of WAL that a second, unread slot may keep so that they can be read again; none for no such slot.
    pub wal_insurance: Option<u64>,
}

impl SourceSettings {
    /// The defaults for a stream of this name.
    pub fn new(name: StreamName, connect: ConnectOptions) -> Self {
        let object = default_object_name(name.as_str());
        Self {
            name,
            connect,
            tables: vec![TablePattern::everything()],
            exclude: Vec::new(),
            tables_without_identity: TablesWithoutIdentity::default(),
            slot: object.clone(),
            publication: object,
            create_slot: true,
            create_publication: true,
            publish_via_partition_root: false,
            binary: false,
            origin: Origin::default(),
            slot_timeout: SLOT_TIMEOUT,
            receive_timeout: RECEIVE_TIMEOUT,
            status_interval: STATUS_INTERVAL,
            slot_check_interval: SLOT_CHECK_INTERVAL,
            on_gap: OnGap::default(),
            on_lost_slot: OnLostSlot::default(),
            ddl_capture: false,
            wal_insurance: None,
        }
    }

    /// What to stream.
    pub(crate) fn replication(&self) -> Replication {
        Replication {
            slot: self.slot.clone(),
            publications: vec![self.publication.clone()],
            binary: self.binary,
            origin: self.origin,
        }
    }
}

/// `dbstreamd_<name>`, in the characters that a slot's name may have.
///
/// Where that changes or cuts the name, a hash of the original keeps two streams from sharing one slot.
pub(crate) fn default_object_name(stream: &str) -> String {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    let plain = format!("dbstreamd_{stream}");
    if plain.len() <= NAME_BYTES_MAX && plain.chars().all(fits) {
        return plain;
    }
    let hash: String = Sha256::digest(stream).iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    let kept: String = plain
        .chars()
        .map(|c| c.to_ascii_lowercase())
        .map(|c| if fits(c) { c } else { '_' })
        .take(NAME_BYTES_MAX - 1 - hash.len())
        .collect();
    format!("{kept}_{hash}")
}

/// Whether PostgreSQL accepts this as a slot's name.
pub(crate) fn is_slot_name(name: &str) -> bool {
    (1..=NAME_BYTES_MAX).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
}

/// Whether PostgreSQL keeps this name as it is.
pub(crate) fn is_object_name(name: &str) -> bool {
    (1..=NAME_BYTES_MAX).contains(&name.len()) && !name.contains('\0')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_stream_name_gives_a_slot_name_of_its_own() {
        assert_eq!(default_object_name("shop"), "dbstreamd_shop");
        let longest = "x".repeat(63);
        let names = ["shop", "Shop", "a.b", "a-b", "a_b", &longest, &"x".repeat(62), &"x".repeat(53)];
        let slots: std::collections::HashSet<_> = names.iter().map(|name| default_object_name(name)).collect();
        assert_eq!(slots.len(), names.len());
        for slot in &slots {
            assert!(is_slot_name(slot), "{slot} is no slot name");
        }
        for bad in ["", "Shop", "a-b", "ä", &"x".repeat(64)] {
            assert!(!is_slot_name(bad), "{bad} was accepted");
        }
    }
}
