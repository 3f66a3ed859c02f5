//! `Report`: what setup found, for people and for programs.

use std::fmt;

use serde::Serialize;

use super::SetupError;

/// How bad a finding is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be, or good to know.
    Ok,
    /// Streaming works, but something can hurt later.
    Warning,
    /// Streaming cannot start.
    Error,
}

impl Level {
    /// `ok`, `warning` or `error`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// One thing that was looked at.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub level: Level,
    /// A short name that never changes, for scripts.
    pub code: &'static str,
    /// What it is about: a setting, a role, a slot, a table.
    pub subject: String,
    /// What was found.
    pub message: String,
    /// What to do about it.
    pub remedy: Option<String>,
}

/// What happens to a table.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TableState {
    /// The publication has it.
    Published,
    /// It is added when the stream starts.
    Add,
    /// It matches a pattern and is left out.
    Skipped,
    /// It is wanted, and the publication that was given does not have it.
    Missing,
}

/// One table that the stream's patterns take.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct TableReport {
    /// Schema.
    pub schema: String,
    /// Table.
    pub table: String,
    /// What happens to it.
    pub state: TableState,
    /// Why it is skipped.
    pub reason: Option<String>,
    /// `default`, `index`, `full` or `nothing`.
    pub replica_identity: &'static str,
    /// Whether it has a primary key.
    pub primary_key: bool,
    /// Whether UPDATE and DELETE work while it is published.
    pub updates_and_deletes: bool,
    /// Whether it is partitioned; its partitions are published with it.
    pub partitioned: bool,
    /// Whether the publication has it now.
    pub in_publication: bool,
    /// The planner's estimate; none for a table that was never analysed.
    pub estimated_rows: Option<i64>,
}

/// Everything setup found about one source.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Report {
    /// The stream.
    pub stream: String,
    /// The source's connection string, without password.
    pub source: String,
    /// `PostgreSQL 15.13, database "shop", role "app"`; none when nobody answered.
    pub server: Option<String>,
    /// The replication slot.
    pub slot: String,
    /// The publication.
    pub publication: String,
    /// The worst level found.
    pub level: Level,
    /// What was looked at.
    pub findings: Vec<Finding>,
    /// Every table that the patterns take.
    pub tables: Vec<TableReport>,
    /// The statements that starting the stream would run.
    pub statements: Vec<String>,
}

impl Report {
    /// Whether streaming cannot start.
    pub fn has_errors(&self) -> bool {
        self.level == Level::Error
    }
}

/// The findings, as they are collected.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    list: Vec<Finding>,
}

impl Findings {
    pub(crate) fn ok(&mut self, code: &'static str, subject: impl Into<String>, message: impl Into<String>) {
        self.push(Level::Ok, code, subject.into(), message.into(), None);
    }

    pub(crate) fn warn(
        &mut self,
        code: &'static str,
        subject: impl Into<String>,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.push(Level::Warning, code, subject.into(), message.into(), Some(remedy.into()));
    }

    pub(crate) fn error(&mut self, subject: impl Into<String>, error: &SetupError) {
        let remedy = Some(error.remedy()).filter(|remedy| !remedy.is_empty());
        self.push(Level::Error, error.code(), subject.into(), error.cause(), remedy);
    }

    fn push(&mut self, level: Level, code: &'static str, subject: String, message: String, remedy: Option<String>) {
        self.list.push(Finding { level, code, subject, message, remedy });
    }

    pub(crate) fn level(&self) -> Level {
        self.list.iter().map(|finding| finding.level).max().unwrap_or(Level::Ok)
    }

    pub(crate) fn into_list(self) -> Vec<Finding> {
        self.list
    }
}

impl fmt::Display for Report {
    /// Plain text for a terminal of any width; no colours, nothing that a log could not keep.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: {}", self.stream, self.source)?;
        if let Some(server) = &self.server {
            writeln!(f, "{server}, slot {}, publication {}", self.slot, self.publication)?;
        }
        writeln!(f)?;
        let subjects = self.findings.iter().map(|finding| finding.subject.chars().count()).max().unwrap_or(0).min(40);
        for Finding { level, subject, message, remedy, .. } in &self.findings {
            writeln!(f, "{:<7}  {subject:<subjects$}  {message}", level.name())?;
            if let Some(remedy) = remedy {
                writeln!(f, "{:<7}  {:<subjects$}  -> {remedy}", "", "")?;
            }
        }
        self.write_tables(f)?;
        if !self.statements.is_empty() {
            writeln!(f, "\nStarting the stream runs:")?;
            self.statements.iter().try_for_each(|statement| writeln!(f, "  {statement};"))?;
        }
        let of = |level| self.findings.iter().filter(|finding| finding.level == level).count();
        let (errors, warnings) = (of(Level::Error), of(Level::Warning));
        let verdict = match self.level {
            Level::Error => "not ready",
            Level::Warning | Level::Ok => "ready",
        };
        writeln!(
            f,
            "\n{verdict}: {}, {}",
            super::error::count(errors, "error"),
            super::error::count(warnings, "warning")
        )
    }
}

impl Report {
    fn write_tables(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.tables.is_empty() {
            return Ok(());
        }
        let shown: Vec<_> = self.tables.iter().map(|t| super::sql::shown(&t.schema, &t.table)).collect();
        let width = shown.iter().map(|name| name.chars().count()).max().unwrap_or(0).clamp(5, 60);
        writeln!(f, "\n{:<width$}  {:>14}  {:<9}  {:<8}", "Table", "Rows (about)", "State", "Identity")?;
        for (name, table) in shown.iter().zip(&self.tables) {
            let rows = table.estimated_rows.map_or_else(|| "?".to_owned(), |rows| rows.to_string());
            let state = match table.state {
                TableState::Published => "published",
                TableState::Add => "add",
                TableState::Skipped => "skipped",
                TableState::Missing => "missing",
            };
            let identity = match (table.replica_identity, table.updates_and_deletes) {
                (identity, true) => identity.to_owned(),
                ("default", false) => "none".to_owned(),
                (identity, false) => format!("{identity} (unusable)"),
            };
            let kind = if table.partitioned { "  partitioned" } else { "" };
            let reason = table.reason.as_ref().map_or_else(String::new, |reason| format!("  ({reason})"));
            let line = format!("{name:<width$}  {rows:>14}  {state:<9}  {identity:<8}{kind}{reason}");
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}
