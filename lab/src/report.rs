//! What a benchmark found, and the report it goes into: markdown, plots, or JSON.

use std::io::Write;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::{Value, json};

use crate::error::{LabError, io};
use crate::floors;
use crate::machine::Machine;

/// A figure that a floor may ask for, or why there is none.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Finding {
    /// What it is, as in [`floors::FLOORS`].
    pub(crate) key: &'static str,
    /// The figure in the floor's unit; or why it is not given.
    pub(crate) seen: Result<f64, String>,
}

/// A picture of a section.
pub(crate) struct Plot {
    /// Distinguishes it from the others of its section: lower case, no spaces.
    pub(crate) name: String,
    pub(crate) svg: String,
}

/// What one benchmark has to say.
pub(crate) struct Section {
    /// Names its files: lower case, no spaces.
    pub(crate) name: &'static str,
    /// Markdown with headings from the second level on.
    pub(crate) text: String,
    pub(crate) findings: Vec<Finding>,
    pub(crate) plots: Vec<Plot>,
    /// Everything measured, for programs.
    pub(crate) data: Value,
    /// What went wrong, if anything: a wrong count, a client that failed. The report is still written; the lab ends with an error.
    pub(crate) failures: Vec<String>,
}

/// Where reports go. Part of every benchmark's arguments.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Output {
    /// Folder for the report (markdown) and its plots (SVG), with date and time in their names; without it the report is only printed.
    #[arg(long)]
    pub(crate) results: Option<PathBuf>,
    /// Print JSON instead of markdown.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Prints the sections with the machine and the floors, and stores them when a folder is named.
pub(crate) fn publish(title: &str, machine: &Machine, sections: &[Section], output: &Output) -> Result<(), LabError> {
    let findings: Vec<Finding> = sections.iter().flat_map(|section| section.findings.clone()).collect();
    let name = if let [section] = sections { section.name } else { "bench" };
    let date = now()?;
    let mut text = format!("# {title}\n\n{date}. {}\n", machine.text());
    for section in sections {
        text += "\n";
        text += section.text.trim_end();
        text += "\n";
        if output.results.is_some() {
            for plot in &section.plots {
                text += &format!("\n![{}]({})\n", plot.name, plot_file(section.name, plot, &date));
            }
        }
    }
    // What gives no figure for any floor has nothing to say about them.
    if !findings.is_empty() {
        text += "\n";
        text += &floors::table(&findings);
    }
    if let Some(folder) = &output.results {
        std::fs::create_dir_all(folder).map_err(io(folder.display().to_string()))?;
        for section in sections {
            for plot in &section.plots {
                write(&folder.join(plot_file(section.name, plot, &date)), &plot.svg)?;
            }
        }
        write(&folder.join(format!("{name}-{date}.md")), &text)?;
    }
    if output.json {
        let data: serde_json::Map<String, Value> =
            sections.iter().map(|section| (section.name.to_owned(), section.data.clone())).collect();
        let report = json!({ "date": date, "machine": machine, "benchmarks": data, "floors": floors::json(&findings) });
        say(&format!("{report:#}"))?;
    } else {
        say(&text)?;
    }
    let failures: Vec<&str> = sections.iter().flat_map(|section| &section.failures).map(String::as_str).collect();
    if failures.is_empty() { Ok(()) } else { Err(LabError::Failed(failures.join("; "))) }
}

/// Prints. Whoever closes the pipe early has seen enough.
fn say(text: &str) -> Result<(), LabError> {
    match writeln!(std::io::stdout(), "{text}") {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        result => result.map_err(io("standard output")),
    }
}

fn plot_file(section: &str, plot: &Plot, date: &str) -> String {
    format!("{section}-{}-{date}.svg", plot.name)
}

fn write(file: &Path, text: &str) -> Result<(), LabError> {
    std::fs::write(file, text).map_err(io(file.display().to_string()))?;
    eprintln!("written: {}", file.display());
    Ok(())
}

/// Date and minute, so that a quick look does not replace a report of the same day.
fn now() -> Result<String, LabError> {
    let output = std::process::Command::new("date").arg("+%Y-%m-%d-%H%M").output().map_err(io("date"))?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// The middle of `values`; the mean of the two in the middle of an even number; none of none.
pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let upper = values.get(values.len() / 2)?;
    let lower = values.get((values.len() - 1) / 2)?;
    Some((lower + upper) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_whatever_the_order() {
        assert_eq!(median([3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median([4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median([]), None);
    }
}
