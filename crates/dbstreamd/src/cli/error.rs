//! How a command ends when not well, and the exit code that says so.

use std::io;

/// Exit code of a usage error, as clap has it.
pub(super) const USAGE: u8 = 2;
const FAILED: u8 = 1;
const INTERRUPTED: u8 = 130;

/// Why a command ended before its work was done.
#[derive(Debug)]
pub(crate) enum CliError {
    /// Refused or failed; one line with cause and remedy.
    Failed(String),
    /// Ctrl-C or a termination signal.
    Interrupted,
    /// Whoever read our output went away (`| head`): nobody is left to tell.
    OutputClosed,
}

impl CliError {
    /// A failure with everything the error and its sources say, in one line.
    pub(crate) fn failed(error: &(dyn std::error::Error + 'static)) -> Self {
        let mut text = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            let cause_text = cause.to_string();
            // Many errors quote their source already.
            if !text.contains(&cause_text) {
                text = format!("{text}: {cause_text}");
            }
            source = cause.source();
        }
        Self::Failed(text)
    }

    /// A failure of an operation on files, sockets or processes.
    pub(crate) fn io(what: &'static str) -> impl Fn(io::Error) -> Self {
        move |error| Self::Failed(format!("could not {what}: {error}"))
    }

    /// A failure to write to stdout.
    pub(crate) fn output(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::OutputClosed,
            _ => Self::Failed(format!("could not write to standard output: {error}. Is the disk full?")),
        }
    }

    pub(super) fn exit_code(&self) -> u8 {
        match self {
            Self::Failed(_) => FAILED,
            Self::Interrupted => INTERRUPTED,
            Self::OutputClosed => 0,
        }
    }

    /// Says it on stderr, in one line.
    pub(super) fn report(&self) {
        if let Self::Failed(text) = self {
            let lines: Vec<_> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
            note(&format!("error: {}", lines.join("; ")));
        }
    }
}

/// A line for the person at the terminal, on stderr so that it never mixes with data. A closed stderr is no failure.
pub(crate) fn note(line: &str) {
    use std::io::Write;
    let _ = writeln!(io::stderr().lock(), "{line}");
}
