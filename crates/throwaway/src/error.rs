//! What can go wrong with a throwaway cluster, each with its remedy.

use std::path::PathBuf;

/// A throwaway cluster could not be had.
#[derive(Debug, thiserror::Error)]
pub enum ThrowawayError {
    /// PostgreSQL's server programs are not there.
    #[error(
        "no PostgreSQL server programs found (looked for initdb, postgres and psql in {looked_in}). \
         Install them with `apt-get install postgresql`, or name their folder in DBSTREAMD_PG_BIN"
    )]
    NotInstalled {
        /// The folders that were searched.
        looked_in: String,
    },
    /// Running as root, and no unprivileged user to run the server as.
    #[error(
        "PostgreSQL refuses to run as root, and this machine has neither a user `postgres` nor `nobody`. \
         Run as an ordinary user, or create one of the two"
    )]
    NoUnprivilegedUser,
    /// The unprivileged user cannot reach the server's programs, or where its data would be.
    #[error(
        "user {user} cannot enter {folder}, so PostgreSQL cannot use {needed}. \
         Its data must be below a folder that everybody may enter (TMPDIR, usually /tmp), and so must its programs (DBSTREAMD_PG_BIN)"
    )]
    Unreachable {
        /// The user the server would run as.
        user: String,
        /// What it needs.
        needed: PathBuf,
        /// The folder that is closed to it.
        folder: PathBuf,
    },
    /// A file or process operation failed.
    #[error("could not {what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// Why it failed.
        source: std::io::Error,
    },
    /// A PostgreSQL program ended with an error.
    #[error("{program} failed ({status}): {output}")]
    Program {
        /// The program's name.
        program: &'static str,
        /// How it ended.
        status: std::process::ExitStatus,
        /// What it said.
        output: String,
    },
    /// The server ended while it should have been starting.
    #[error("the throwaway PostgreSQL server ended while starting ({status}). Its log ends with: {log}")]
    EndedAtStart {
        /// How it ended.
        status: std::process::ExitStatus,
        /// The end of its log.
        log: String,
    },
    /// The server did not get ready in time.
    #[error("the throwaway PostgreSQL server was not ready after {seconds} s. Its log ends with: {log}")]
    NotReady {
        /// How long was waited.
        seconds: u64,
        /// The end of its log.
        log: String,
    },
    /// The server did not stop in time.
    #[error("the throwaway PostgreSQL server did not stop within {seconds} s; stop it with ShutdownMode::Immediate")]
    NotStopped {
        /// How long was waited.
        seconds: u64,
    },
    /// The server is running already.
    #[error("the throwaway PostgreSQL server is running already; stop it first")]
    AlreadyRunning,
    /// No port could be had.
    #[error("found no free TCP port on 127.0.0.1 after {attempts} attempts; free some ports between 20000 and 32767")]
    NoPort {
        /// How many ports were tried.
        attempts: usize,
    },
    /// A certificate could not be made.
    #[error("could not make a certificate for the throwaway server: {0}")]
    Certificate(#[from] rcgen::Error),
}

impl ThrowawayError {
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}
