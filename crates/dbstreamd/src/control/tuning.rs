//! Settings at run time: what is in force, where it came from, and changing it, all or nothing.

use std::collections::BTreeMap;

use dbstreamd_log::LogError;
use dbstreamd_model::{Notice, Severity};
use parking_lot::Mutex;

use super::TUNED;
use super::lifecycle::Asker;
use super::settings::{Knobs, SETTINGS, Setting, Value, find};
use crate::config::Config;
use crate::notices::Notices;

/// Where a value came from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Origin {
    Default,
    Config,
    Durable,
    RunTime,
}

/// A setting as it is now.
#[derive(Clone, Debug)]
pub(crate) struct Current {
    pub(crate) name: &'static str,
    pub(crate) value: String,
    pub(crate) unit: &'static str,
    pub(crate) range: String,
    pub(crate) origin: Origin,
    pub(crate) configured: String,
    pub(crate) stored: Option<String>,
    pub(crate) description: &'static str,
}

/// One wanted change; no value to go back to the configured one.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    pub(crate) name: String,
    pub(crate) value: Option<String>,
}

/// Why nothing was changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TuneError {
    /// One line for everything that was wrong.
    #[error("nothing was changed: {0}")]
    Refused(String),
    #[error("nothing was changed, since it could not be stored: {0}")]
    Log(#[from] LogError),
}

/// The settings of this daemon.
#[derive(Debug)]
pub(crate) struct Tuning {
    knobs: Knobs,
    notices: Notices,
    /// By setting: the configured value and whether somebody chose it.
    configured: BTreeMap<&'static str, (Value, Origin)>,
    origins: Mutex<BTreeMap<&'static str, Origin>>,
    /// One change at a time: what is stored and what is in force go together.
    turn: tokio::sync::Mutex<()>,
}

impl Tuning {
    /// What the configuration says, with what was stored over it. To be called before anything uses the settings.
    pub(crate) fn restored(config: &Config, knobs: Knobs, notices: Notices) -> Self {
        let configured: BTreeMap<_, _> = SETTINGS
            .iter()
            .map(|setting| {
                let chosen = config.chosen.contains(setting.path);
                (setting.name, (setting.get(&knobs), if chosen { Origin::Config } else { Origin::Default }))
            })
            .collect();
        let origins = configured.iter().map(|(&name, &(_, origin))| (name, origin)).collect();
        let tuning =
            Self { knobs, notices, configured, origins: Mutex::new(origins), turn: tokio::sync::Mutex::new(()) };
        tuning.restore();
        tuning
    }

    fn restore(&self) {
        for (name, text) in self.knobs.log.settings() {
            let Some(name) = name.strip_prefix(TUNED) else { continue };
            let restored = find(name)
                .ok_or_else(|| format!("{name} is no setting of this version"))
                .and_then(|setting| Ok((setting, setting.parse(&text)?)))
                .and_then(|(setting, value)| setting.set(&self.knobs, &value).map(|()| setting));
            match restored {
                Ok(setting) => {
                    self.origins.lock().insert(setting.name, Origin::Durable);
                    tracing::info!(setting = name, value = text, "a tuned setting holds over the configured one");
                }
                Err(why) => {
                    let text = format!("the stored setting {name} was not applied ({why}): reset it, or tune it again");
                    self.notices.push(Notice::new(Severity::Warning, "setting_ignored", text));
                }
            }
        }
    }

    /// All settings as they are now.
    pub(crate) fn all(&self) -> Vec<Current> {
        let stored = self.knobs.log.settings();
        let origins = self.origins.lock();
        let current = |setting: &Setting| {
            let configured = self.configured.get(setting.name).map(|(value, _)| setting.text(value));
            Current {
                name: setting.name,
                value: setting.text(&setting.get(&self.knobs)),
                unit: setting.unit(),
                range: setting.range(),
                origin: origins.get(setting.name).copied().unwrap_or(Origin::Default),
                configured: configured.unwrap_or_default(),
                stored: stored.get(&format!("{TUNED}{}", setting.name)).cloned(),
                description: setting.description,
            }
        };
        SETTINGS.iter().map(current).collect()
    }

    /// Makes all these changes, or none when one of them is refused.
    pub(crate) async fn tune(&self, changes: &[Change], durable: bool, asker: &Asker) -> Result<(), TuneError> {
        let _turn = self.turn.lock().await;
        let planned = self.plan(changes)?;
        let kept = self.knobs.log.settings();
        let mut stored = BTreeMap::new();
        for (setting, value) in &planned {
            let name = format!("{TUNED}{}", setting.name);
            match value {
                Some(value) if durable => drop(stored.insert(name, Some(setting.text(value)))),
                None if kept.contains_key(&name) => drop(stored.insert(name, None)),
                _ => {}
            }
        }
        if !stored.is_empty() {
            self.knobs.log.store_settings(stored).await?;
        }
        let mut told = Vec::new();
        for (setting, wanted) in planned {
            let Some((configured, from)) = self.configured.get(setting.name) else { continue };
            let (value, origin) = match &wanted {
                Some(value) => (value, if durable { Origin::Durable } else { Origin::RunTime }),
                None => (configured, *from),
            };
            let before = setting.get(&self.knobs);
            if let Err(why) = setting.set(&self.knobs, value) {
                // Values were checked: only log lines that nobody has set up cannot be changed.
                tracing::warn!(setting = setting.name, why, "a setting could not be put in force");
                continue;
            }
            self.origins.lock().insert(setting.name, origin);
            let how = match (wanted.is_some(), durable) {
                (false, _) => ", as configured",
                (true, true) => ", durably",
                (true, false) => ", until the next restart",
            };
            told.push(format!("{} from {} to {}{how}", setting.name, setting.text(&before), setting.text(value)));
        }
        if !told.is_empty() {
            let text = format!("tuned by {}: {}", asker.by, told.join("; "));
            self.notices.push(Notice::new(Severity::Info, "settings_tuned", text));
        }
        // Otherwise it would look within seconds; whoever tightens it wants to see it act.
        if let Err(error) = self.knobs.log.apply_retention().await {
            tracing::debug!(%error, "retention could not look");
        }
        Ok(())
    }

    /// Checks everything, and says all that is wrong.
    fn plan(&self, changes: &[Change]) -> Result<Vec<(&'static Setting, Option<Value>)>, TuneError> {
        let mut planned: Vec<(&'static Setting, Option<Value>)> = Vec::new();
        let mut problems = Vec::new();
        for change in changes {
            let Some(setting) = find(&change.name) else {
                let name: String = change.name.chars().take(80).collect();
                let known: Vec<_> = SETTINGS.iter().map(|setting| setting.name).collect();
                problems.push(format!("there is no setting {name:?}; there are {}", known.join(", ")));
                continue;
            };
            if planned.iter().any(|(other, _)| other.name == setting.name) {
                problems.push(format!("{} is given twice", setting.name));
                continue;
            }
            match change.value.as_deref().map(|text| setting.parse(text)).transpose() {
                Ok(value) => planned.push((setting, value)),
                Err(problem) => problems.push(problem),
            }
        }
        if changes.is_empty() {
            problems.push("no setting was named".to_owned());
        }
        if problems.is_empty() { Ok(planned) } else { Err(TuneError::Refused(problems.join("; "))) }
    }
}
