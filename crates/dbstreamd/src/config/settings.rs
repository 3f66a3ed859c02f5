//! Every setting's path, and with it the name of its environment variable.
//!
//! `grpc.listen` is `DBSTREAMD_GRPC_LISTEN`. A source's setting is `DBSTREAMD_SOURCE__NAME__KEY` for the source called
//! NAME, and `DBSTREAMD_SOURCE_KEY` for the source that comes from the environment or the command line.

/// How a variable's text becomes a value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// As it is; numbers, sizes and durations read themselves from text.
    Text,
    /// `true` or `false`.
    Flag,
    /// Separated by commas.
    List,
}

/// Settings outside `[[source]]`.
pub(super) const SETTINGS: &[(&str, Kind)] = &[
    ("data_dir", Kind::Text),
    ("io", Kind::Text),
    ("grpc.listen", Kind::Text),
    ("grpc.max_connections", Kind::Text),
    ("grpc.max_subscribers", Kind::Text),
    ("http.listen", Kind::Text),
    ("http.allowed_hosts", Kind::List),
    ("http.max_connections", Kind::Text),
    ("http.max_event_streams", Kind::Text),
    ("memory.profile", Kind::Text),
    ("memory.total", Kind::Text),
    ("memory.credit_window", Kind::Text),
    ("memory.memtables", Kind::Text),
    ("memory.block_cache", Kind::Text),
    ("memory.tail", Kind::Text),
    ("memory.delivery", Kind::Text),
    ("log.group_commit_bytes", Kind::Text),
    ("log.group_commit_delay", Kind::Text),
    ("log.chunk_bytes", Kind::Text),
    ("log.partition_bytes", Kind::Text),
    ("log.partition_age", Kind::Text),
    ("log.retention_age", Kind::Text),
    ("log.retention_bytes", Kind::Text),
    ("log.free_space_min", Kind::Text),
    ("consumers.max_lag_bytes", Kind::Text),
    ("consumers.max_hold_bytes", Kind::Text),
    ("consumers.disconnected_hold", Kind::Text),
    ("logging.filter", Kind::Text),
    ("logging.format", Kind::Text),
];

/// Settings of a `[[source]]`.
pub(super) const SOURCE_SETTINGS: &[(&str, Kind)] = &[
    ("name", Kind::Text),
    ("url", Kind::Text),
    ("password_file", Kind::Text),
    ("password_env", Kind::Text),
    ("tables", Kind::List),
    ("exclude", Kind::List),
    ("tables_without_identity", Kind::Text),
    ("slot", Kind::Text),
    ("publication", Kind::Text),
    ("create_slot", Kind::Flag),
    ("create_publication", Kind::Flag),
    ("publish_via_partition_root", Kind::Flag),
    ("ddl_capture", Kind::Flag),
    ("binary", Kind::Flag),
    ("origin", Kind::Text),
    ("slot_timeout", Kind::Text),
    ("receive_timeout", Kind::Text),
    ("status_interval", Kind::Text),
    ("slot_check_interval", Kind::Text),
    ("on_gap", Kind::Text),
    ("on_lost_slot", Kind::Text),
    ("wal_insurance", Kind::Text),
    ("retention_age", Kind::Text),
    ("allow_cleartext_password", Kind::Flag),
    ("raw_text", Kind::Flag),
];

/// Variables of this prefix that are not settings: the log filter's short name, what the command line reads, and
/// what the demo and the project's scripts read.
pub(super) const OTHER_VARIABLES: &[&str] = &[
    "DBSTREAMD_LOG",
    "DBSTREAMD_CONFIG",
    "DBSTREAMD_SERVER",
    "DBSTREAMD_CONSUMER",
    "DBSTREAMD_PG_BIN",
    "DBSTREAMD_PYTHON",
    "DBSTREAMD_CACHE",
    "DBSTREAMD_FAILPOINT",
];

/// The variable of a setting outside `[[source]]`.
pub(super) fn variable(path: &str) -> String {
    format!("DBSTREAMD_{}", path.replace('.', "_").to_uppercase())
}

/// A source's name as it appears in variables.
pub(super) fn source_part(name: &str) -> String {
    name.replace(['-', '.'], "_").to_uppercase()
}

/// A variable's text as a value of its setting.
pub(super) fn value(kind: Kind, text: &str) -> Result<toml::Value, String> {
    match kind {
        Kind::Text => Ok(toml::Value::String(text.to_owned())),
        Kind::Flag => match text {
            "true" | "1" => Ok(toml::Value::Boolean(true)),
            "false" | "0" => Ok(toml::Value::Boolean(false)),
            other => Err(format!("{other:?} is neither true nor false")),
        },
        Kind::List => {
            let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
            Ok(toml::Value::Array(items.map(|item| toml::Value::String(item.to_owned())).collect()))
        }
    }
}
