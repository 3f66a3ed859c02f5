//! `[memory]`: values that make sense, and the profile that the rest comes from.

use std::collections::BTreeMap;
use std::path::Path;

use super::document::Size;
use super::error::{ConfigError, key_at};
use super::settings::variable;
use super::{Config, Given, build};
use crate::memory::{Machine, Profile, SETTING_BYTES_MIN, TOTAL_BYTES_MIN, size_text};

/// Where a setting can have come from, to be named in its error.
pub(super) struct Places<'a> {
    pub(super) environment: &'a BTreeMap<String, String>,
    pub(super) file: Option<(&'a Path, &'a str)>,
}

/// The configuration, with the profile that was asked for; else with the usual one if it fits, else with the small one.
/// What was set is never changed.
pub(super) fn settle(given: &Given<'_>, machine: &Machine, places: &Places<'_>) -> Result<Config, ConfigError> {
    in_range(given, machine, places)?;
    if let Some(profile) = given.document.memory.profile {
        return build(given, profile, machine);
    }
    let standard = build(given, Profile::Standard, machine)?;
    let (false, Some(limit)) = (standard.memory.fits(), &standard.memory.limit) else { return Ok(standard) };
    let mut small = build(given, Profile::Small, machine)?;
    small.memory_note = Some(format!(
        "memory.profile is small, since standard needs {} with these settings and there are {limit}: at most {} subscribers are served; set memory.profile to choose, dbstreamd memory shows the table",
        size_text(standard.memory.needed()),
        small.grpc.subscribers_max,
    ));
    Ok(small)
}

/// Refuses what cannot be meant.
fn in_range(given: &Given<'_>, machine: &Machine, places: &Places<'_>) -> Result<(), ConfigError> {
    let memory = &given.document.memory;
    let settings: [(&'static str, Option<Size>, u64); 6] = [
        ("memory.total", memory.total, TOTAL_BYTES_MIN),
        ("memory.credit_window", memory.credit_window, SETTING_BYTES_MIN),
        ("memory.memtables", memory.memtables, SETTING_BYTES_MIN),
        ("memory.block_cache", memory.block_cache, SETTING_BYTES_MIN),
        ("memory.tail", memory.tail, SETTING_BYTES_MIN),
        ("memory.delivery", memory.delivery, SETTING_BYTES_MIN),
    ];
    for (setting, size, least) in settings {
        let Some(Size(bytes)) = size else { continue };
        let most = machine.limit.as_ref();
        if bytes >= least && most.is_none_or(|most| bytes <= most.bytes) {
            continue;
        }
        let most = most.map_or_else(|| "what the machine has".to_owned(), |most| format!("the {most}"));
        let problem = format!("{} is out of range: from {} to {most}", size_text(bytes), size_text(least));
        return Err(places.refuse(setting, problem));
    }
    Ok(())
}

impl Places<'_> {
    /// An error that names where the setting came from.
    fn refuse(&self, setting: &'static str, problem: String) -> ConfigError {
        let name = variable(setting);
        if self.environment.get(&name).is_some_and(|text| !text.is_empty()) {
            return ConfigError::Variable { variable: name, problem };
        }
        let line = |(_, text): (&Path, &str)| {
            (0..text.lines().count()).find(|line| key_at(text, *line).as_deref() == Some(setting))
        };
        match self.file.and_then(|file| Some((file.0, line(file)?))) {
            Some((path, line)) => ConfigError::File {
                place: format!("{}:{}", path.display(), line + 1),
                problem: format!("{setting}: {problem}"),
            },
            None => ConfigError::Argument { argument: setting, problem },
        }
    }
}
