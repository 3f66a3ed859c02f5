//! Why a benchmark could not be run.

/// Ends a benchmark, or one client's part of it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LabError {
    /// The throwaway PostgreSQL.
    #[error(transparent)]
    Cluster(#[from] dbstreamd_throwaway::ThrowawayError),
    /// A file, a process or a socket.
    #[error("{what}: {error}")]
    Io { what: String, error: std::io::Error },
    /// Anything else, said in a sentence.
    #[error("{0}")]
    Failed(String),
}

/// Names what was being done when an I/O error happened.
pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> LabError {
    let what = what.into();
    move |error| LabError::Io { what, error }
}
