//! Configuration: `dbstreamd.toml`, laid over by `DBSTREAMD_…` variables, laid over by the command line.
//!
//! [`Config::load`] either returns something every part of which is checked, or one error that names the place, the
//! key and what is expected. What each setting means is said in docs/operations.md.

mod document;
mod error;
mod memory;
mod settings;
mod sources;
pub(crate) mod units;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use dbstreamd_log::{FreeSpace, HoldLimits, LogOptions, Retention, retention_classes};
use dbstreamd_model::StreamName;
use dbstreamd_source::postgres::SourceSettings;
use serde::Deserialize;

use crate::io::Io;
use crate::memory::{self as budget, Budget, LimitOrigin, Machine, Profile};
pub use document::Format;
use document::{Document, Limit, Period, Size};
pub use error::ConfigError;
use settings::{OTHER_VARIABLES, SETTINGS, value, variable};

/// Where a daemon listens unless told otherwise.
const GRPC_LISTEN: &str = "127.0.0.1:7400";
const HTTP_LISTEN: &str = "127.0.0.1:7401";

/// A configuration file is read up to this size.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// A checked configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// The gRPC server.
    pub grpc: GrpcConfig,
    /// The HTTP server.
    pub http: HttpConfig,
    /// Received bytes that may wait for the disk.
    pub credit_window_bytes: usize,
    /// What gRPC subscribers may have produced and not yet taken, all together. As much again is `log.read_ahead_bytes`.
    pub delivery_bytes: usize,
    /// What all of it adds up to, and whether that fits here.
    pub memory: Budget,
    /// Why this profile, when nobody asked for one and it is not the usual one.
    pub memory_note: Option<String>,
    /// The kernel's interface for sockets and files.
    pub io: Io,
    /// How many threads there are.
    pub threads: Threads,
    /// The log, with its directory.
    pub log: LogOptions,
    /// Log lines of the daemon itself.
    pub logging: LoggingConfig,
    /// The databases to stream from.
    pub sources: Vec<SourceSettings>,
    /// How long streams are kept (none: for ever) that are not kept as long as all others.
    pub retention_ages: BTreeMap<StreamName, Option<Duration>>,
    /// Settings that somebody chose, in any layer; the others have their defaults.
    pub chosen: BTreeSet<&'static str>,
    /// What an operator should know about the configuration although it can be used.
    pub warnings: Vec<String>,
}

/// How many threads there are.
#[derive(Clone, Copy, Debug)]
pub struct Threads {
    /// Serve subscribers, and everything else that is not `intake`'s.
    pub workers: usize,
    /// Read the databases.
    pub intake: usize,
    /// For what blocks while somebody is served, at most.
    pub blocking_max: usize,
    /// For what blocks while a database is read (name look-ups, units compared after a reconnect), at most.
    pub intake_blocking_max: usize,
}

/// The gRPC server's settings.
#[derive(Clone, Debug)]
pub struct GrpcConfig {
    /// Where it listens.
    pub listen: SocketAddr,
    /// Connections at a time.
    pub connections_max: usize,
    /// Subscriptions at a time.
    pub subscribers_max: usize,
}

/// The HTTP server's settings.
#[derive(Clone, Debug)]
pub struct HttpConfig {
    /// Where it listens.
    pub listen: SocketAddr,
    /// Host names, besides loopback ones and the address itself, under which it may be asked.
    pub allowed_hosts: Vec<String>,
    /// Connections at a time.
    pub connections_max: usize,
    /// Readers of server-sent events at a time.
    pub event_streams_max: usize,
}

/// Log lines of the daemon itself.
#[derive(Clone, Debug, Default)]
pub struct LoggingConfig {
    /// Which lines: `tracing-subscriber`'s filter syntax. None: the default.
    pub filter: Option<String>,
    /// How they look.
    pub format: Format,
}

/// What the command line says.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// `--source`, repeated.
    pub sources: Vec<String>,
    /// `--data-dir`.
    pub data_dir: Option<PathBuf>,
    /// `--grpc`.
    pub grpc: Option<String>,
    /// `--http`.
    pub http: Option<String>,
}

impl Config {
    /// Reads the file (if one is given), the environment and the command line.
    ///
    /// # Errors
    /// With the place, the key and what is expected there.
    pub fn load(path: Option<&Path>, overrides: Overrides) -> Result<Self, ConfigError> {
        let environment =
            std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        Self::load_with(path, &overrides, &environment.collect())
    }

    /// As [`load`](Self::load), with another environment.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn load_with(
        path: Option<&Path>,
        overrides: &Overrides,
        environment: &BTreeMap<String, String>,
    ) -> Result<Self, ConfigError> {
        Self::load_on(&Machine::here(), path, overrides, environment)
    }

    /// As [`load_with`](Self::load_with), on another machine.
    pub(crate) fn load_on(
        machine: &Machine,
        path: Option<&Path>,
        overrides: &Overrides,
        environment: &BTreeMap<String, String>,
    ) -> Result<Self, ConfigError> {
        let (mut table, text) = path.map_or_else(|| Ok(Default::default()), read)?;
        for (setting, kind) in SETTINGS {
            let name = variable(setting);
            let Some(text) = environment.get(&name).filter(|text| !text.is_empty()) else { continue };
            let problem =
                |problem: String| ConfigError::Variable { variable: name.clone(), problem: error::redact(&problem) };
            let value = value(*kind, text).map_err(problem)?;
            let mut alone = toml::Table::new();
            put(&mut alone, setting, value.clone());
            Document::deserialize(alone).map_err(|error| problem(error.message().to_owned()))?;
            put(&mut table, setting, value);
        }
        let arguments = [
            ("data_dir", overrides.data_dir.as_ref().map(|dir| dir.to_string_lossy().into_owned())),
            ("grpc.listen", overrides.grpc.clone()),
            ("http.listen", overrides.http.clone()),
        ];
        for (setting, text) in arguments {
            if let Some(text) = text {
                put(&mut table, setting, toml::Value::String(text));
            }
        }
        let gathered =
            sources::gather(&table, overrides, environment, path.map(|path| sources::File { path, text: &text }))?;
        table.remove("source");
        let chosen =
            SETTINGS.iter().map(|&(path, _)| path).filter(|path| is_chosen(&table, path, environment)).collect();
        // Each part was checked where it came from.
        let document = Document::deserialize(table).map_err(|error| ConfigError::Argument {
            argument: "configuration",
            problem: error::redact(error.message()),
        })?;
        let given = Given { document, sources: gathered, overrides, environment };
        let place = memory::Places { environment, file: path.map(|path| (path, text.as_str())) };
        let mut config = memory::settle(&given, machine, &place)?;
        config.chosen = chosen;
        config.warnings = warnings(&config, environment);
        Ok(config)
    }

    /// Fails when there is nothing to stream from.
    ///
    /// # Errors
    /// [`ConfigError::NoSource`].
    pub fn with_source(self) -> Result<Self, ConfigError> {
        if self.sources.is_empty() { Err(ConfigError::NoSource) } else { Ok(self) }
    }
}

fn read(path: &Path) -> Result<(toml::Table, String), ConfigError> {
    let unreadable = |source| ConfigError::Unreadable { path: path.to_owned(), source };
    let length = std::fs::metadata(path).map_err(unreadable)?.len();
    if length > FILE_BYTES_MAX {
        return Err(unreadable(std::io::Error::other(format!(
            "its {length} bytes are more than the {FILE_BYTES_MAX} allowed"
        ))));
    }
    let text = std::fs::read_to_string(path).map_err(unreadable)?;
    let refused = |error: toml::de::Error| ConfigError::in_file(path, &text, &error);
    toml::from_str::<Document>(&text).map_err(refused)?;
    let table = toml::from_str::<toml::Table>(&text).map_err(refused)?;
    sources::no_name_twice(&table, path, &text)?;
    Ok((table, text))
}

/// Whether there is a setting of this path.
#[cfg(test)]
pub(crate) fn is_setting(path: &str) -> bool {
    SETTINGS.iter().any(|(known, _)| *known == path)
}

/// Whether a setting outside `[[source]]` has a value.
fn is_chosen(table: &toml::Table, path: &str, environment: &BTreeMap<String, String>) -> bool {
    let by_short_name = path == "logging.filter" && environment.get("DBSTREAMD_LOG").is_some_and(|f| !f.is_empty());
    let found = match path.split_once('.') {
        None => table.contains_key(path),
        Some((section, key)) => {
            table.get(section).and_then(toml::Value::as_table).is_some_and(|section| section.contains_key(key))
        }
    };
    found || by_short_name
}

/// Sets a dotted path.
fn put(table: &mut toml::Table, path: &str, value: toml::Value) {
    match path.split_once('.') {
        None => {
            table.insert(path.to_owned(), value);
        }
        Some((section, key)) => {
            let section = table.entry(section).or_insert_with(|| toml::Value::Table(toml::Table::new()));
            if let toml::Value::Table(section) = section {
                section.insert(key.to_owned(), value);
            }
        }
    }
}

/// Everything that was said, each part of it checked.
struct Given<'a> {
    document: Document,
    sources: sources::Gathered,
    overrides: &'a Overrides,
    environment: &'a BTreeMap<String, String>,
}

/// The configuration with a profile's values where nothing else was said.
fn build(given: &Given<'_>, profile: Profile, machine: &Machine) -> Result<Config, ConfigError> {
    let Given { document, sources, overrides, environment } = given;
    let Document { data_dir, io, grpc, http, memory, log, consumers, logging, source: _ } = document;
    let values = profile.values(machine.processors);
    let bytes = |size: Option<Size>, default: u64| {
        usize::try_from(size.map_or(default, |Size(bytes)| bytes)).unwrap_or(usize::MAX)
    };
    let delivery = bytes(memory.delivery, values.delivery);
    let defaults = LogOptions::with_dir(data_dir.as_deref().unwrap_or("dbstreamd-data"));
    let default_retention = Retention::default();
    let age = log.retention_age.map_or(default_retention.age, |limit| limit.0.map(|Period(age)| age));
    let log = LogOptions {
        group_commit_bytes_max: bytes(log.group_commit_bytes, values.group_commit),
        group_commit_delay_max: log.group_commit_delay.map_or(defaults.group_commit_delay_max, |Period(delay)| delay),
        chunk_bytes_max: bytes(log.chunk_bytes, defaults.chunk_bytes_max as u64),
        memtable_budget_bytes: bytes(memory.memtables, values.memtables),
        block_cache_bytes: bytes(memory.block_cache, values.block_cache),
        tail_ring_bytes: bytes(memory.tail, values.tail),
        read_ahead_bytes: delivery / 2,
        partition_bytes_max: log.partition_bytes.map_or(values.partition, |Size(bytes)| bytes),
        partition_age_max: log.partition_age.map_or(defaults.partition_age_max, |Period(age)| age),
        retention_classes: retention_classes(std::iter::once(age).chain(sources.retention_ages.values().copied())),
        retention: Retention {
            age,
            bytes: log.retention_bytes.map_or(default_retention.bytes, |limit| limit.0.map(|Size(bytes)| bytes)),
        },
        free_space_min: match log.free_space_min {
            None => defaults.free_space_min,
            Some(Limit(Some(Size(bytes)))) => FreeSpace::Bytes(bytes),
            Some(Limit(None)) => FreeSpace::Off,
        },
        holds: holds(consumers)?,
        ..defaults
    };
    let where_from = |overridden: bool, argument: &'static str, setting: &'static str| {
        if overridden {
            Origin::Argument(argument)
        } else if environment.contains_key(&variable(setting)) {
            Origin::Variable(variable(setting))
        } else {
            Origin::Setting(setting)
        }
    };
    let mut config = Config {
        grpc: GrpcConfig {
            listen: address(
                grpc.listen.as_deref(),
                GRPC_LISTEN,
                where_from(overrides.grpc.is_some(), "--grpc", "grpc.listen"),
            )?,
            connections_max: grpc.max_connections.map_or(values.grpc_connections, |count| count.0),
            subscribers_max: grpc.max_subscribers.map_or(values.subscribers, |count| count.0),
        },
        http: HttpConfig {
            listen: address(
                http.listen.as_deref(),
                HTTP_LISTEN,
                where_from(overrides.http.is_some(), "--http", "http.listen"),
            )?,
            allowed_hosts: http.allowed_hosts.clone().unwrap_or_default(),
            connections_max: http.max_connections.map_or(values.http_connections, |count| count.0),
            event_streams_max: http.max_event_streams.map_or(values.event_streams, |count| count.0),
        },
        credit_window_bytes: bytes(memory.credit_window, values.credit_window),
        delivery_bytes: delivery / 2,
        memory: Budget { profile, rows: Vec::new(), limit: None },
        memory_note: None,
        io: io.unwrap_or_default(),
        threads: Threads {
            workers: values.worker_threads,
            intake: values.worker_threads.min(sources.sources.len().max(1)),
            blocking_max: values.blocking_threads / 4 * 3,
            intake_blocking_max: values.blocking_threads / 4,
        },
        log,
        logging: LoggingConfig { filter: logging.filter.clone(), format: logging.format.unwrap_or_default() },
        sources: sources.sources.clone(),
        retention_ages: sources.retention_ages.clone(),
        chosen: BTreeSet::new(),
        warnings: Vec::new(),
    };
    let total = memory.total.map(|Size(bytes)| budget::Limit { bytes, origin: LimitOrigin::Setting });
    config.memory = Budget::of(&config, profile, total.or_else(|| machine.limit.clone()));
    Ok(config)
}

/// How long consumers may hold the log.
fn holds(consumers: &document::Consumers) -> Result<HoldLimits, ConfigError> {
    let defaults = HoldLimits::default();
    let max_hold_bytes = consumers.max_hold_bytes.map_or(defaults.max_hold_bytes, |size| size.0);
    // A smaller cap of its own takes the warning with it.
    let max_lag_bytes = consumers.max_lag_bytes.map_or(defaults.max_lag_bytes.min(max_hold_bytes), |size| size.0);
    if max_lag_bytes > max_hold_bytes {
        return Err(ConfigError::Argument {
            argument: "consumers.max_lag_bytes",
            problem: format!(
                "{max_lag_bytes} bytes are more than consumers.max_hold_bytes, which is {max_hold_bytes}: the warning must come before the hold is lost"
            ),
        });
    }
    let disconnected_max = consumers.disconnected_hold.map_or(defaults.disconnected_max, |period| period.0);
    Ok(HoldLimits { max_lag_bytes, max_hold_bytes, disconnected_max })
}

/// Where a value came from, to be named in its error.
enum Origin {
    Argument(&'static str),
    Variable(String),
    Setting(&'static str),
}

fn address(text: Option<&str>, default: &str, origin: Origin) -> Result<SocketAddr, ConfigError> {
    let text = text.unwrap_or(default);
    let numeric = text.strip_prefix("localhost:").map(|port| format!("127.0.0.1:{port}"));
    numeric.as_deref().unwrap_or(text).parse().map_err(|_| {
        let problem = error::redact(&format!(
            "{text:?} is not an address to listen on: expected IP:PORT, such as {default} or 0.0.0.0:7400"
        ));
        match origin {
            Origin::Argument(argument) => ConfigError::Argument { argument, problem },
            Origin::Variable(variable) => ConfigError::Variable { variable, problem },
            Origin::Setting(argument) => ConfigError::Argument { argument, problem },
        }
    })
}

fn warnings(config: &Config, environment: &BTreeMap<String, String>) -> Vec<String> {
    let mut warnings = Vec::new();
    for (what, listen) in [("grpc.listen", config.grpc.listen), ("http.listen", config.http.listen)] {
        if !listen.ip().is_loopback() {
            warnings.push(format!("{what} = {listen} is open to other machines, and there is no authentication yet: whoever reaches it can read every change; put a firewall or a proxy in front"));
        }
    }
    let settings: Vec<String> = SETTINGS.iter().map(|(path, _)| variable(path)).collect();
    for name in environment.keys().filter(|name| name.starts_with("DBSTREAMD_")) {
        let known = settings.contains(name) || OTHER_VARIABLES.contains(&name.as_str()) || sources::is_variable(name);
        if !known {
            warnings.push(format!("environment variable {name} is no setting of dbstreamd and was ignored: see docs/operations.md for the names"));
        }
    }
    warnings
}

#[cfg(test)]
mod tests;
