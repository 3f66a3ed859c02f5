//! The one table of settings that can be changed at run time: name, unit, range, and how each is read and set.
//!
//! To add a setting, add a line to [`SETTINGS`].

use std::ops::RangeInclusive;
use std::time::Duration;

use dbstreamd_log::{CreditWindow, FreeSpace, Log};

use crate::config::units;
use crate::telemetry;

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
const GIB: u64 = 1024 * MIB;
const MILLI: u64 = 1_000;
const SECOND: u64 = 1_000 * MILLI;
const DAY: u64 = 24 * 3600 * SECOND;

/// Longest log filter.
const FILTER_BYTES_MAX: usize = 1_024;

/// A setting's value. Durations are counted in microseconds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Value {
    Number(u64),
    /// No limit.
    Off,
    Filter(String),
}

/// What a setting counts, and what it accepts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Bytes(RangeInclusive<u64>),
    /// In microseconds.
    Time(RangeInclusive<u64>),
    Filter,
}

/// What the settings act on.
#[derive(Clone, Debug)]
pub(crate) struct Knobs {
    pub(crate) log: Log,
    pub(crate) window: CreditWindow,
}

/// A setting.
pub(crate) struct Setting {
    pub(crate) name: &'static str,
    /// Its path in the configuration.
    pub(crate) path: &'static str,
    pub(crate) kind: Kind,
    /// Whether it can be `off`.
    pub(crate) may_be_off: bool,
    pub(crate) description: &'static str,
    get: fn(&Knobs) -> Value,
    set: fn(&Knobs, &Value) -> Result<(), String>,
}

/// All of them, in the order in which they are shown.
pub(crate) const SETTINGS: &[Setting] = &[
    Setting {
        name: "group-commit-bytes",
        path: "log.group_commit_bytes",
        kind: Kind::Bytes(4 * KIB..=256 * MIB),
        may_be_off: false,
        description: "a group commit is closed at this size",
        get: |knobs| Value::Number(knobs.log.tunables().group_commit_bytes_max()),
        set: |knobs, value| number(value, |bytes| knobs.log.tunables().set_group_commit_bytes_max(bytes)),
    },
    Setting {
        name: "group-commit-delay",
        path: "log.group_commit_delay",
        kind: Kind::Time(0..=SECOND),
        may_be_off: false,
        description: "longest time to collect a group commit",
        get: |knobs| time(Some(knobs.log.tunables().group_commit_delay_max())),
        set: |knobs, value| {
            number(value, |us| knobs.log.tunables().set_group_commit_delay_max(Duration::from_micros(us)))
        },
    },
    Setting {
        name: "credit-window",
        path: "memory.credit_window",
        kind: Kind::Bytes(MIB..=64 * GIB),
        may_be_off: false,
        description: "received bytes that may wait for the disk",
        get: |knobs| Value::Number(knobs.window.limit() as u64),
        set: |knobs, value| number(value, |bytes| knobs.window.resize(usize::try_from(bytes).unwrap_or(usize::MAX))),
    },
    Setting {
        name: "retention-age",
        path: "log.retention_age",
        kind: Kind::Time(SECOND..=3650 * DAY),
        may_be_off: true,
        description: "history older than this is dropped",
        get: |knobs| time(knobs.log.tunables().retention().age),
        set: |knobs, value| limit(value, |us| knobs.log.tunables().set_retention_age(us.map(Duration::from_micros))),
    },
    Setting {
        name: "retention-bytes",
        path: "log.retention_bytes",
        kind: Kind::Bytes(64 * KIB..=1024 * 1024 * GIB),
        may_be_off: true,
        description: "the oldest history is dropped while the log is larger",
        get: |knobs| knobs.log.tunables().retention().bytes.map_or(Value::Off, Value::Number),
        set: |knobs, value| limit(value, |bytes| knobs.log.tunables().set_retention_bytes(bytes)),
    },
    Setting {
        name: "max-lag-bytes",
        path: "consumers.max_lag_bytes",
        kind: Kind::Bytes(64 * KIB..=1024 * 1024 * GIB),
        may_be_off: false,
        description: "a consumer further behind is warned about",
        get: |knobs| Value::Number(knobs.log.tunables().holds().max_lag_bytes),
        set: |knobs, value| number(value, |bytes| knobs.log.tunables().set_max_lag_bytes(bytes)),
    },
    Setting {
        name: "max-hold-bytes",
        path: "consumers.max_hold_bytes",
        kind: Kind::Bytes(0..=1024 * 1024 * GIB),
        may_be_off: false,
        description: "a consumer further behind loses its hold of the log",
        get: |knobs| Value::Number(knobs.log.tunables().holds().max_hold_bytes),
        set: |knobs, value| number(value, |bytes| knobs.log.tunables().set_max_hold_bytes(bytes)),
    },
    Setting {
        name: "disconnected-hold",
        path: "consumers.disconnected_hold",
        kind: Kind::Time(0..=3650 * DAY),
        may_be_off: false,
        description: "a consumer away for longer loses its hold of the log",
        get: |knobs| time(Some(knobs.log.tunables().holds().disconnected_max)),
        set: |knobs, value| number(value, |us| knobs.log.tunables().set_disconnected_max(Duration::from_micros(us))),
    },
    Setting {
        name: "free-space-min",
        path: "log.free_space_min",
        kind: Kind::Bytes(MIB..=1024 * 1024 * GIB),
        may_be_off: true,
        description: "with less left on the data volume sources are held",
        get: |knobs| match knobs.log.tunables().free_space_min() {
            FreeSpace::Bytes(bytes) => Value::Number(bytes),
            FreeSpace::Off => Value::Off,
            // The share that it comes to on this volume.
            FreeSpace::Share => Value::Number(knobs.log.space().borrow().floor),
        },
        set: |knobs, value| limit(value, |bytes| knobs.log.tunables().set_free_space_min(bytes.unwrap_or(0))),
    },
    Setting {
        name: "log-filter",
        path: "logging.filter",
        kind: Kind::Filter,
        may_be_off: false,
        description: "which log lines are written",
        get: |_| Value::Filter(telemetry::filter()),
        set: |_, value| match value {
            Value::Filter(filter) => telemetry::set_filter(filter),
            _ => Err("it must be a filter".to_owned()),
        },
    },
];

/// The setting of this name.
pub(crate) fn find(name: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|setting| setting.name == name)
}

impl Setting {
    /// The value in force.
    pub(crate) fn get(&self, knobs: &Knobs) -> Value {
        (self.get)(knobs)
    }

    /// Puts a value in force that [`parse`](Self::parse) accepted.
    pub(crate) fn set(&self, knobs: &Knobs, value: &Value) -> Result<(), String> {
        (self.set)(knobs, value)
    }

    /// What the value counts.
    pub(crate) fn unit(&self) -> &'static str {
        match self.kind {
            Kind::Bytes(_) => "bytes",
            Kind::Time(_) => "duration",
            Kind::Filter => "filter",
        }
    }

    /// The accepted values.
    pub(crate) fn range(&self) -> String {
        let or_off = if self.may_be_off { ", or off" } else { "" };
        match &self.kind {
            Kind::Bytes(range) => format!("{} to {}{or_off}", bytes_text(*range.start()), bytes_text(*range.end())),
            Kind::Time(range) => format!("{} to {}{or_off}", time_text(*range.start()), time_text(*range.end())),
            Kind::Filter => "a level such as info, or info,dbstreamd_source=debug".to_owned(),
        }
    }

    /// Reads a value and checks that it is in range; else says what is.
    pub(crate) fn parse(&self, text: &str) -> Result<Value, String> {
        let shown: String = text.chars().take(80).collect();
        let refused = |why: &str| format!("{} = {shown:?} {why}: it accepts {}", self.name, self.range());
        if self.may_be_off && matches!(text, "off" | "none") {
            return Ok(Value::Off);
        }
        let (number, range) = match &self.kind {
            Kind::Bytes(range) => (units::size(text), range),
            Kind::Time(range) => {
                (units::duration(text).map(|time| u64::try_from(time.as_micros()).unwrap_or(u64::MAX)), range)
            }
            Kind::Filter if text.len() > FILTER_BYTES_MAX => return Err(refused("is too long")),
            Kind::Filter => {
                let checked = telemetry::check_filter(text);
                return checked.map(|()| Value::Filter(text.to_owned())).map_err(|why| refused(&format!("({why})")));
            }
        };
        let number = number.map_err(|_| refused(&format!("is no value in {}", self.unit())))?;
        if range.contains(&number) { Ok(Value::Number(number)) } else { Err(refused("is out of range")) }
    }

    /// A value as text that [`parse`](Self::parse) reads back exactly.
    pub(crate) fn text(&self, value: &Value) -> String {
        match (value, &self.kind) {
            (Value::Off, _) => "off".to_owned(),
            (Value::Filter(filter), _) => filter.clone(),
            (Value::Number(us), Kind::Time(_)) => time_text(*us),
            (Value::Number(bytes), _) => bytes_text(*bytes),
        }
    }
}

fn number(value: &Value, set: impl FnOnce(u64)) -> Result<(), String> {
    match value {
        Value::Number(number) => {
            set(*number);
            Ok(())
        }
        _ => Err("it must be a number".to_owned()),
    }
}

fn limit(value: &Value, set: impl FnOnce(Option<u64>)) -> Result<(), String> {
    match value {
        Value::Off => {
            set(None);
            Ok(())
        }
        value => number(value, |limit| set(Some(limit))),
    }
}

fn time(time: Option<Duration>) -> Value {
    time.map_or(Value::Off, |time| Value::Number(u64::try_from(time.as_micros()).unwrap_or(u64::MAX)))
}

fn bytes_text(bytes: u64) -> String {
    let units = [(1 << 40, "TiB"), (GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB"), (1_000_000, "MB")];
    in_largest(bytes, &units, "B")
}

fn time_text(us: u64) -> String {
    let units = [(DAY, "d"), (3600 * SECOND, "h"), (60 * SECOND, "m"), (SECOND, "s"), (MILLI, "ms")];
    in_largest(us, &units, "us")
}

/// In the largest unit that says it exactly.
fn in_largest(number: u64, units: &[(u64, &str)], smallest: &str) -> String {
    let fits = units.iter().find(|(unit, _)| number > 0 && number.is_multiple_of(*unit));
    fits.map_or_else(|| format!("{number}{smallest}"), |(unit, name)| format!("{}{name}", number / unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_can_be_set_and_what_is_out_of_range_is_refused_with_the_range() {
        for (name, text, shown) in [
            ("group-commit-bytes", "8MB", "8MB"),
            ("group-commit-bytes", "4096", "4KiB"),
            ("group-commit-bytes", "5001", "5001B"),
            ("group-commit-delay", "0", "0us"),
            ("group-commit-delay", "1s", "1s"),
            ("retention-age", "1h30m", "90m"),
            ("retention-age", "off", "off"),
            ("retention-bytes", "none", "off"),
            ("log-filter", "info,dbstreamd_log=debug", "info,dbstreamd_log=debug"),
        ] {
            let setting = find(name).unwrap();
            let value = setting.parse(text).unwrap();
            assert_eq!(setting.text(&value), shown);
            assert_eq!(setting.parse(shown).unwrap(), value);
        }
        for (name, text, says) in [
            ("group-commit-bytes", "4095", "4KiB to 256MiB"),
            ("group-commit-bytes", "1TiB", "4KiB to 256MiB"),
            ("group-commit-bytes", "off", "4KiB to 256MiB"),
            ("group-commit-bytes", "-1", "4KiB to 256MiB"),
            ("group-commit-delay", "1001ms", "0us to 1s"),
            ("group-commit-delay", "5", "0us to 1s"),
            ("credit-window", "0", "1MiB to 64GiB"),
            ("retention-age", "0s", "1s to 3650d, or off"),
            ("retention-bytes", "99999999999999999999999", "64KiB to 1024TiB, or off"),
            ("log-filter", "info,=====", "a level"),
            ("log-filter", "", "a level"),
        ] {
            let refusal = find(name).unwrap().parse(text).unwrap_err();
            assert!(refusal.contains(says) && refusal.contains(name), "{name} {text:?}: {refusal}");
        }
        assert!(find("nonsense").is_none());
    }

    #[test]
    fn every_setting_has_a_name_of_its_own_and_a_place_in_the_configuration() {
        for setting in SETTINGS {
            assert_eq!(SETTINGS.iter().filter(|other| other.name == setting.name).count(), 1, "{}", setting.name);
            assert!(crate::config::is_setting(setting.path), "{}", setting.path);
        }
    }
}
