//! Why the harness itself could not go on. What it finds wrong with the daemon is a `Violation`, not an error.

/// The harness failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TortureError {
    #[error(transparent)]
    Cluster(#[from] dbstreamd_throwaway::ThrowawayError),
    #[error("{what}: {error}")]
    Io { what: String, error: std::io::Error },
    #[error("{what}: {error}")]
    Sql { what: &'static str, error: tokio_postgres::Error },
    #[error("{0}")]
    Failed(String),
    #[error("interrupted")]
    Interrupted,
}

/// Names what was being done when an I/O error happened.
pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> TortureError {
    let what = what.into();
    move |error| TortureError::Io { what, error }
}

/// Names what was being asked when PostgreSQL refused.
pub(crate) fn sql(what: &'static str) -> impl FnOnce(tokio_postgres::Error) -> TortureError {
    move |error| TortureError::Sql { what, error }
}
