//! The `[[source]]` blocks: gathered from file, environment and command line, named, checked.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use dbstreamd_model::StreamName;
use dbstreamd_source::postgres::setup::TablePattern;
use dbstreamd_source::postgres::{ConnectOptions, INSURANCE_SUFFIX, Secret, SourceSettings};
use serde::Deserialize;

use super::document::{Document, Period, Source};
use super::error::{ConfigError, redact};
use super::settings::{Kind, SOURCE_SETTINGS, source_part, value};
use super::{Overrides, put};

/// PostgreSQL's limit for the name of a slot or publication, in bytes.
const IDENTIFIER_BYTES_MAX: usize = 63;

/// The server keeps whole segments of 16 MiB, and begins some way before what was confirmed.
const INSURANCE_BYTES_MIN: u64 = 64 << 20;

/// Before a source's settings can be told apart by source.
const PREFIX: &str = "DBSTREAMD_SOURCE_";

/// Whether this is a variable of some source.
pub(super) fn is_variable(name: &str) -> bool {
    let key = name
        .strip_prefix(PREFIX)
        .map(|rest| rest.strip_prefix('_').map_or(rest, |named| named.split_once("__").map_or("", |(_, key)| key)));
    key.is_some_and(|key| SOURCE_SETTINGS.iter().any(|(setting, _)| setting.eq_ignore_ascii_case(key)))
}

/// Finds a name given twice in the file, and its line.
pub(super) fn no_name_twice(table: &toml::Table, path: &Path, text: &str) -> Result<(), ConfigError> {
    let mut seen = BTreeSet::new();
    for source in blocks(table) {
        let Some(name) = source.get("name").and_then(toml::Value::as_str) else { continue };
        if seen.insert(name) {
            continue;
        }
        let says_name =
            |line: &str| line.split_once('=').is_some_and(|(key, value)| key.trim() == "name" && value.contains(name));
        let line = text.lines().enumerate().filter(|(_, line)| says_name(line)).nth(1).map_or(1, |(at, _)| at + 1);
        return Err(ConfigError::File {
            place: format!("{}:{line}", path.display()),
            problem: redact(&format!(
                "source.name: {name:?} is the name of two sources: each [[source]] needs a name of its own"
            )),
        });
    }
    Ok(())
}

/// The file that was read.
#[derive(Clone, Copy)]
pub(super) struct File<'a> {
    pub(super) path: &'a Path,
    pub(super) text: &'a str,
}

impl File<'_> {
    /// Where its `[[source]]` of this number (from 0) begins.
    fn place(&self, number: usize) -> String {
        let headers = self.text.lines().enumerate().filter(|(_, line)| line.trim_start().starts_with("[[source]]"));
        let line = headers.map(|(at, _)| at + 1).nth(number).unwrap_or(1);
        format!("{}:{line}", self.path.display())
    }
}

/// All sources of a configuration, and what their streams are kept for when that is their own.
#[derive(Clone, Default)]
pub(super) struct Gathered {
    pub(super) sources: Vec<SourceSettings>,
    pub(super) retention_ages: BTreeMap<StreamName, Option<Duration>>,
}

/// Gathers all sources of a configuration.
pub(super) fn gather(
    table: &toml::Table,
    overrides: &Overrides,
    environment: &BTreeMap<String, String>,
    file: Option<File<'_>>,
) -> Result<Gathered, ConfigError> {
    let mut written: Vec<toml::Table> = blocks(table).cloned().collect();
    let in_file = written.len();
    named_variables(&mut written, environment)?;
    written.extend(unnamed(overrides, environment)?);

    let name_of = |source: &toml::Table| Some(source.get("name")?.as_str()?.to_owned());
    let mut taken: BTreeSet<String> = written.iter().filter_map(name_of).collect();
    let mut gathered = Gathered::default();
    for (number, source) in written.into_iter().enumerate() {
        let name = name_of(&source);
        let refused = |problem: String| {
            let source = name.as_ref().map_or_else(|| "source".to_owned(), |name| redact(&format!("source {name:?}")));
            let problem = redact(&problem);
            match file.filter(|_| number < in_file) {
                Some(file) => ConfigError::File { place: file.place(number), problem: format!("{source}: {problem}") },
                None => ConfigError::Source { source_name: source, problem },
            }
        };
        let source = Source::deserialize(source).map_err(|error| refused(error.message().to_owned()))?;
        let retention_age = source.retention_age.map(|limit| limit.0.map(|Period(age)| age));
        let checked = check(source, &mut taken, environment, file.map(|file| file.path)).map_err(refused)?;
        if gathered.sources.iter().any(|other| other.name == checked.name) {
            return Err(refused("two sources have this name: give each a name of its own".to_owned()));
        }
        gathered.retention_ages.extend(retention_age.map(|age| (checked.name.clone(), age)));
        gathered.sources.push(checked);
    }
    Ok(gathered)
}

fn blocks(table: &toml::Table) -> impl Iterator<Item = &toml::Table> {
    table.get("source").and_then(toml::Value::as_array).into_iter().flatten().filter_map(toml::Value::as_table)
}

/// `DBSTREAMD_SOURCE__NAME__KEY`: changes the source of that name, or makes one.
fn named_variables(written: &mut Vec<toml::Table>, environment: &BTreeMap<String, String>) -> Result<(), ConfigError> {
    for (variable, text) in environment.iter().filter(|(_, text)| !text.is_empty()) {
        let Some((part, key)) = variable.strip_prefix("DBSTREAMD_SOURCE__").and_then(|rest| rest.rsplit_once("__"))
        else {
            continue;
        };
        let Some((setting, value)) = setting(variable, key, text)? else { continue };
        let is_it = |source: &toml::Table| {
            source
                .get("name")
                .and_then(toml::Value::as_str)
                .is_some_and(|name| source_part(name) == part.to_uppercase())
        };
        let at = match written.iter().position(is_it) {
            Some(at) => at,
            None => {
                let mut source = toml::Table::new();
                put(&mut source, "name", toml::Value::String(part.to_lowercase()));
                written.push(source);
                written.len() - 1
            }
        };
        if let Some(source) = written.get_mut(at) {
            put(source, setting, value);
        }
    }
    Ok(())
}

/// Sources of `--source`, or else of `DBSTREAMD_SOURCE_URL`; the other `DBSTREAMD_SOURCE_KEY` apply to each of them.
fn unnamed(overrides: &Overrides, environment: &BTreeMap<String, String>) -> Result<Vec<toml::Table>, ConfigError> {
    let mut common = toml::Table::new();
    for (variable, text) in environment.iter().filter(|(_, text)| !text.is_empty()) {
        let Some(key) = variable.strip_prefix(PREFIX).filter(|key| !key.starts_with('_')) else { continue };
        if let Some((setting, value)) = setting(variable, key, text)? {
            put(&mut common, setting, value);
        }
    }
    let mut urls = overrides.sources.clone();
    if let (true, Some(url)) = (urls.is_empty(), environment.get("DBSTREAMD_SOURCE_URL").filter(|url| !url.is_empty()))
    {
        urls.push(url.clone());
    }
    if urls.len() > 1 {
        for only_one in ["name", "slot"] {
            if common.contains_key(only_one) {
                let variable = format!("{PREFIX}{}", only_one.to_uppercase());
                let problem = format!(
                    "it cannot hold for {} sources at once: use DBSTREAMD_SOURCE__NAME__{}",
                    urls.len(),
                    only_one.to_uppercase()
                );
                return Err(ConfigError::Variable { variable, problem });
            }
        }
    }
    Ok(urls
        .into_iter()
        .map(|url| {
            let mut source = common.clone();
            put(&mut source, "url", toml::Value::String(url));
            source
        })
        .collect())
}

/// A variable's setting and value; none when it is no setting of a source.
fn setting(variable: &str, key: &str, text: &str) -> Result<Option<(&'static str, toml::Value)>, ConfigError> {
    let Some((setting, kind)) = SOURCE_SETTINGS.iter().find(|(setting, _)| setting.eq_ignore_ascii_case(key)) else {
        return Ok(None);
    };
    let refused = |problem: String| ConfigError::Variable { variable: variable.to_owned(), problem: redact(&problem) };
    // The checks of the file are the checks of the environment.
    let value = value(*kind, text).map_err(refused)?;
    let mut alone = toml::Table::new();
    put(&mut alone, setting, value.clone());
    let mut document = toml::Table::new();
    put(&mut document, "source", toml::Value::Array(vec![toml::Value::Table(alone)]));
    Document::deserialize(document).map_err(|error| refused(error.message().to_owned()))?;
    debug_assert!(*kind != Kind::Flag || value.is_bool());
    Ok(Some((setting, value)))
}

/// Reads a source as written; the error says what is expected, its place is added by the caller.
fn check(
    source: Source,
    taken: &mut BTreeSet<String>,
    environment: &BTreeMap<String, String>,
    path: Option<&Path>,
) -> Result<SourceSettings, String> {
    let Some(url) = source.url.as_deref() else {
        return Err("it has no url: expected one such as postgres://user@host/database".to_owned());
    };
    let mut connect = ConnectOptions::parse_with(url, |name| environment.get(name).cloned())
        .map_err(|error| format!("url: {error}"))?;
    if let Some(password) = password(&source, environment, path)? {
        connect.password = Some(Secret::new(password));
    }
    let name: StreamName = match &source.name {
        Some(name) => name.parse().map_err(|error| format!("name: {error}"))?,
        None => name_after(&connect.database, taken).parse().map_err(|error| format!("name: {error}"))?,
    };
    taken.insert(name.to_string());
    let defaults = SourceSettings::new(name, connect);
    let slot = source.slot.unwrap_or(defaults.slot);
    let slot_character = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
    if !(1..=IDENTIFIER_BYTES_MAX).contains(&slot.len()) || !slot.bytes().all(slot_character) {
        return Err(format!("slot: {slot:?} cannot name a replication slot: use 1 to 63 of the characters a-z 0-9 _"));
    }
    let publication = source.publication.unwrap_or(defaults.publication);
    if !(1..=IDENTIFIER_BYTES_MAX).contains(&publication.len()) {
        return Err(format!("publication: {publication:?} cannot name a publication: use 1 to 63 bytes"));
    }
    let wal_insurance = source.wal_insurance.map(|size| size.0);
    if let Some(bytes) = wal_insurance.filter(|bytes| *bytes < INSURANCE_BYTES_MIN) {
        return Err(format!(
            "wal_insurance: {bytes} bytes are too few: from {}MiB on, some WAL segments",
            INSURANCE_BYTES_MIN >> 20
        ));
    }
    if wal_insurance.is_some() && slot.len() + INSURANCE_SUFFIX.len() > IDENTIFIER_BYTES_MAX {
        return Err(format!(
            "wal_insurance: the slot's name {slot:?} is too long to add {INSURANCE_SUFFIX}: give a slot of at most {} bytes",
            IDENTIFIER_BYTES_MAX - INSURANCE_SUFFIX.len()
        ));
    }
    let patterns = |key: &str, texts: Vec<String>| {
        texts
            .iter()
            .map(|text| text.parse::<TablePattern>().map_err(|error| format!("{key}: {error}")))
            .collect::<Result<Vec<_>, _>>()
    };
    let period = |given: Option<super::document::Period>, default: Duration| given.map_or(default, |period| period.0);
    Ok(SourceSettings {
        tables: match source.tables {
            Some(tables) => patterns("tables", tables)?,
            None => defaults.tables,
        },
        tables_without_identity: source.tables_without_identity.unwrap_or(defaults.tables_without_identity),
        exclude: patterns("exclude", source.exclude.unwrap_or_default())?,
        slot,
        publication,
        create_slot: source.create_slot.unwrap_or(defaults.create_slot),
        create_publication: source.create_publication.unwrap_or(defaults.create_publication),
        publish_via_partition_root: source.publish_via_partition_root.unwrap_or(defaults.publish_via_partition_root),
        binary: source.binary.unwrap_or(defaults.binary),
        origin: source.origin.unwrap_or(defaults.origin),
        ddl_capture: source.ddl_capture.unwrap_or(defaults.ddl_capture),
        slot_timeout: period(source.slot_timeout, defaults.slot_timeout),
        receive_timeout: period(source.receive_timeout, defaults.receive_timeout),
        status_interval: period(source.status_interval, defaults.status_interval),
        slot_check_interval: period(source.slot_check_interval, defaults.slot_check_interval),
        on_gap: source.on_gap.unwrap_or(defaults.on_gap),
        on_lost_slot: source.on_lost_slot.unwrap_or(defaults.on_lost_slot),
        wal_insurance,
        connect: ConnectOptions {
            allow_cleartext_password: source
                .allow_cleartext_password
                .unwrap_or(defaults.connect.allow_cleartext_password),
            raw_text: source.raw_text.unwrap_or(defaults.connect.raw_text),
            ..defaults.connect
        },
        ..defaults
    })
}

/// The password from its file or variable. A relative path starts at the configuration file's folder.
fn password(
    source: &Source,
    environment: &BTreeMap<String, String>,
    path: Option<&Path>,
) -> Result<Option<String>, String> {
    match (&source.password_file, &source.password_env) {
        (Some(_), Some(_)) => Err("password_file and password_env are both given: keep one".to_owned()),
        (Some(file), None) => {
            let base = path.and_then(Path::parent).unwrap_or(Path::new(""));
            let file = base.join(file);
            let text = std::fs::read_to_string(&file)
                .map_err(|error| format!("password_file: cannot read {}: {error}", file.display()))?;
            match text.lines().next() {
                Some(password) if !password.is_empty() => Ok(Some(password.to_owned())),
                _ => Err(format!(
                    "password_file: the first line of {} is empty: it must be the password",
                    file.display()
                )),
            }
        }
        (None, Some(variable)) => match environment.get(variable) {
            Some(password) if !password.is_empty() => Ok(Some(password.clone())),
            _ => Err(format!("password_env: the environment variable {variable} is not set")),
        },
        (None, None) => Ok(None),
    }
}

/// A free stream name after a database's name.
fn name_after(database: &str, taken: &BTreeSet<String>) -> String {
    let plain: String =
        database.chars().map(|c| if c.is_ascii_alphanumeric() || "_-.".contains(c) { c } else { '-' }).collect();
    // All ASCII by now; room is left for the suffix.
    let plain: String =
        plain.trim_start_matches(|c: char| !c.is_ascii_alphanumeric()).chars().take(IDENTIFIER_BYTES_MAX - 5).collect();
    let base = if plain.is_empty() { "stream".to_owned() } else { plain };
    if !taken.contains(&base) {
        return base;
    }
    (2_u32..).map(|number| format!("{base}-{number}")).find(|name| !taken.contains(name)).unwrap_or(base)
}
