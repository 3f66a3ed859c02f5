//! What this machine is, for the head of a report.

use std::process::Command;

use serde::Serialize;

use crate::references::first_line;

/// Facts about the machine and the programs on it, in the order in which they are printed.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Machine {
    pub(crate) processor: String,
    pub(crate) cores: usize,
    pub(crate) memory_bytes: u64,
    pub(crate) kernel: String,
    /// Name and version of what takes part.
    pub(crate) versions: Vec<(String, String)>,
}

impl Machine {
    /// Looks at the machine; `versions` begins with the checkout, where there is one.
    pub(crate) fn look() -> Self {
        let field = |file: &str, key: &str| {
            let text = std::fs::read_to_string(file).unwrap_or_default();
            let line = text.lines().find(|line| line.starts_with(key))?.to_owned();
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        let kilobytes = |text: String| text.strip_suffix(" kB")?.parse::<u64>().ok();
        let mut git = Command::new("git");
        let checkout = first_line(git.args(["describe", "--always", "--dirty"]), false);
        Self {
            processor: field("/proc/cpuinfo", "model name").unwrap_or_else(|| "unknown processor".into()),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            memory_bytes: field("/proc/meminfo", "MemTotal").and_then(kilobytes).unwrap_or(0) * 1024,
            kernel: std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned(),
            versions: checkout.map(|commit| ("checkout".to_owned(), commit)).into_iter().collect(),
        }
    }

    /// Adds the version of a program that takes part.
    pub(crate) fn with(&mut self, name: &str, version: impl Into<String>) {
        self.versions.push((name.to_owned(), version.into()));
    }

    /// One paragraph.
    pub(crate) fn text(&self) -> String {
        #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
        let gigabytes = self.memory_bytes as f64 / 1e9;
        let versions = self.versions.iter().map(|(name, version)| format!("; {name} {version}")).collect::<String>();
        format!("{} × {}, {gigabytes:.1} GB memory, Linux {}{versions}.", self.cores, self.processor, self.kernel)
    }
}
