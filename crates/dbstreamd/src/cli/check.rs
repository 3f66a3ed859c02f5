//! `dbstreamd check`: whether the sources can be captured, with everything that was found. Changes nothing.

use dbstreamd_source::postgres::ddl_capture_install_sql;
use dbstreamd_source::postgres::setup::{self, Level, Report};
use futures_util::StreamExt;
use serde_json::json;

use super::{CheckArguments, CliError, Format, Output, Paint, note};
use crate::config::Overrides;

/// Sources looked at at the same time: enough to hide round trips, few enough not to be noticed.
const AT_ONCE: usize = 8;

pub(super) async fn run(arguments: CheckArguments) -> Result<(), CliError> {
    if arguments.print_sql {
        let mut out = Output::new();
        out.line("BEGIN;")?;
        out.line(ddl_capture_install_sql().trim_end())?;
        out.line("COMMIT;")?;
        return out.flush();
    }
    let config = arguments.sources.load_with_source(Overrides::default())?;
    for warning in &config.warnings {
        note(&format!("warning: {warning}"));
    }
    let checks = config.sources.iter().map(|settings| async { Box::pin(setup::check(settings)).await });
    let reports: Vec<Report> = futures_util::stream::iter(checks).buffered(AT_ONCE).collect().await;
    let refused: Vec<&Report> = reports.iter().filter(|report| report.has_errors()).collect();

    let mut out = Output::new();
    match arguments.form.chosen() {
        Format::Json => out.line(&json!({ "ready": refused.is_empty(), "sources": reports }).to_string())?,
        Format::Text => {
            for (i, report) in reports.iter().enumerate() {
                if i > 0 {
                    out.line("")?;
                }
                print(&mut out, report)?;
            }
        }
    }
    out.flush()?;
    match refused.first() {
        None => Ok(()),
        Some(first) => Err(CliError::Failed(verdict(first, refused.len(), reports.len()))),
    }
}

fn print(out: &mut Output, report: &Report) -> Result<(), CliError> {
    let style = out.style();
    for line in report.to_string().trim_end().lines() {
        let painted = [("ok", Paint::Good), ("warning", Paint::Change), ("error", Paint::Bad)];
        let level = painted.into_iter().find(|(word, _)| line.starts_with(&format!("{word:<7}  ")));
        let mut shown = String::new();
        match level.and_then(|(word, paint)| Some((paint, word, line.strip_prefix(word)?))) {
            Some((paint, word, rest)) => {
                style.paint(paint, word, &mut shown);
                shown.push_str(rest);
            }
            None => shown.push_str(line),
        }
        out.line(&shown)?;
    }
    Ok(())
}

/// One line: how many, and the first reason.
fn verdict(first: &Report, refused: usize, all: usize) -> String {
    let reason =
        first.findings.iter().find(|finding| finding.level == Level::Error).map_or_else(String::new, |finding| {
            let remedy = finding.remedy.as_ref().map_or_else(String::new, |remedy| format!(". {remedy}"));
            format!(": {}{remedy}", finding.message)
        });
    let how_many =
        if all > 1 { format!("{refused} of {all} sources cannot be captured, first ") } else { String::new() };
    format!("{how_many}{}{reason}", first.stream)
}
