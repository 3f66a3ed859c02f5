//! The shape of `dbstreamd.toml`. Nothing is required, nothing unknown is accepted.
//!
//! The environment and the command line are laid over the file in this same shape, so that one description checks
//! all three.

use std::fmt;
use std::time::Duration;

use dbstreamd_source::postgres::Origin;
use dbstreamd_source::postgres::setup::TablesWithoutIdentity;
use dbstreamd_source::{OnGap, OnLostSlot};
use serde::Deserialize;
use serde::de::{Deserializer, Error, Visitor};

use super::units;
use crate::io::Io;
use crate::memory::Profile;

/// A whole configuration as written.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Document {
    pub(super) data_dir: Option<String>,
    pub(super) io: Option<Io>,
    pub(super) grpc: Grpc,
    pub(super) http: Http,
    pub(super) memory: Memory,
    pub(super) log: Log,
    pub(super) consumers: Consumers,
    pub(super) logging: Logging,
    pub(super) source: Vec<Source>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Grpc {
    pub(super) listen: Option<String>,
    pub(super) max_connections: Option<Count>,
    pub(super) max_subscribers: Option<Count>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Http {
    pub(super) listen: Option<String>,
    pub(super) allowed_hosts: Option<Vec<String>>,
    pub(super) max_connections: Option<Count>,
    pub(super) max_event_streams: Option<Count>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Memory {
    pub(super) profile: Option<Profile>,
    pub(super) total: Option<Size>,
    pub(super) credit_window: Option<Size>,
    pub(super) memtables: Option<Size>,
    pub(super) block_cache: Option<Size>,
    pub(super) tail: Option<Size>,
    pub(super) delivery: Option<Size>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Log {
    pub(super) group_commit_bytes: Option<Size>,
    pub(super) group_commit_delay: Option<Period>,
    pub(super) chunk_bytes: Option<Size>,
    pub(super) partition_bytes: Option<Size>,
    pub(super) partition_age: Option<Period>,
    pub(super) retention_age: Option<Limit<Period>>,
    pub(super) retention_bytes: Option<Limit<Size>>,
    pub(super) free_space_min: Option<Limit<Size>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Consumers {
    pub(super) max_lag_bytes: Option<Size>,
    pub(super) max_hold_bytes: Option<Size>,
    pub(super) disconnected_hold: Option<Period>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Logging {
    pub(super) filter: Option<String>,
    pub(super) format: Option<Format>,
}

/// How log lines look.
#[derive(Deserialize, Clone, Copy, PartialEq, Eq, Debug, Default)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// One `[[source]]`.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Source {
    pub(super) name: Option<String>,
    pub(super) url: Option<String>,
    pub(super) password_file: Option<String>,
    pub(super) password_env: Option<String>,
    pub(super) tables: Option<Vec<String>>,
    pub(super) exclude: Option<Vec<String>>,
    pub(super) tables_without_identity: Option<TablesWithoutIdentity>,
    pub(super) slot: Option<String>,
    pub(super) publication: Option<String>,
    pub(super) create_slot: Option<bool>,
    pub(super) create_publication: Option<bool>,
    pub(super) publish_via_partition_root: Option<bool>,
    pub(super) binary: Option<bool>,
    pub(super) origin: Option<Origin>,
    pub(super) slot_timeout: Option<Period>,
    pub(super) receive_timeout: Option<Period>,
    pub(super) status_interval: Option<Period>,
    pub(super) slot_check_interval: Option<Period>,
    pub(super) on_gap: Option<OnGap>,
    pub(super) on_lost_slot: Option<OnLostSlot>,
    pub(super) ddl_capture: Option<bool>,
    pub(super) wal_insurance: Option<Size>,
    pub(super) retention_age: Option<Limit<Period>>,
    pub(super) allow_cleartext_password: Option<bool>,
    pub(super) raw_text: Option<bool>,
}

/// A number of things, at least one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Count(pub(super) usize);

/// A number of bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Size(pub(super) u64);

/// A stretch of time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Period(pub(super) Duration);

/// A bound, or `"none"`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limit<T>(pub(super) Option<T>);

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Text("a whole number of at least 1", |text: &str| {
            text.parse()
                .ok()
                .filter(|&count| count > 0)
                .map(Self)
                .ok_or_else(|| format!("{text:?} is not a whole number of at least 1"))
        }))
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Text("a size such as \"512MiB\"", |text: &str| units::size(text).map(Self)))
    }
}

impl<'de> Deserialize<'de> for Period {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Text("a duration such as \"500us\" or \"7d\"", |text: &str| {
            units::duration(text).map(Self)
        }))
    }
}

impl<'de> Deserialize<'de> for Limit<Size> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Text("a size such as \"50GiB\", or \"none\"", |text: &str| match text {
            "none" => Ok(Self(None)),
            text => units::size(text).map(|bytes| Self(Some(Size(bytes)))),
        }))
    }
}

impl<'de> Deserialize<'de> for Limit<Period> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Text("a duration such as \"7d\", or \"none\"", |text: &str| match text {
            "none" => Ok(Self(None)),
            text => units::duration(text).map(|age| Self(Some(Period(age)))),
        }))
    }
}

/// Reads a value from its text or from a plain number.
struct Text<F>(&'static str, F);

impl<T, F: FnOnce(&str) -> Result<T, String>> Visitor<'_> for Text<F> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        (self.1)(text).map_err(E::custom)
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<T, E> {
        (self.1)(&number.to_string()).map_err(E::custom)
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<T, E> {
        (self.1)(&number.to_string()).map_err(E::custom)
    }
}
