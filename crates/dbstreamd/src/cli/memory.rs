//! `dbstreamd memory`: who may use how much memory, and whether that fits here. Starts nothing.

use super::{CliError, Format, MemoryArguments, Output, note};
use crate::config::{Config, Overrides};

pub(super) fn run(arguments: MemoryArguments) -> Result<(), CliError> {
    // Also without a source: it is the machine and the settings that are looked at.
    let config: Config = arguments.sources.load(Overrides::default())?;
    let mut out = Output::new();
    match arguments.form.chosen() {
        Format::Json => out.line(&config.memory.document().to_string())?,
        Format::Text => {
            for line in config.memory.to_string().lines() {
                out.line(line)?;
            }
        }
    }
    out.flush()?;
    if let Some(text) = &config.memory_note {
        note(&format!("note: {text}"));
    }
    config.memory.check().map_err(|error| CliError::failed(&error))
}
