//! Finds PostgreSQL's programs: in `DBSTREAMD_PG_BIN`, else the newest Debian package, else on `PATH`.

use std::path::{Path, PathBuf};

use crate::ThrowawayError;

/// Names the folder of `initdb`, `postgres` and `psql`.
const VARIABLE: &str = "DBSTREAMD_PG_BIN";
/// Debian keeps one folder per major version here.
const DEBIAN: &str = "/usr/lib/postgresql";

/// The programs of one PostgreSQL installation.
#[derive(Clone, Debug)]
pub(crate) struct Binaries {
    pub(crate) initdb: PathBuf,
    pub(crate) postgres: PathBuf,
    pub(crate) psql: PathBuf,
}

impl Binaries {
    /// The programs in `chosen`, or, without it, in the first place that has them.
    pub(crate) fn find(chosen: Option<&Path>) -> Result<Self, ThrowawayError> {
        if let Some(folder) = chosen.map(PathBuf::from).or_else(|| std::env::var_os(VARIABLE).map(PathBuf::from)) {
            let missing = || ThrowawayError::NotInstalled { looked_in: folder.display().to_string() };
            return Self::in_folder(&folder).ok_or_else(missing);
        }
        let path = std::env::var_os("PATH").unwrap_or_default();
        debian_folders()
            .into_iter()
            .chain(std::env::split_paths(&path))
            .find_map(|folder| Self::in_folder(&folder))
            .ok_or_else(|| ThrowawayError::NotInstalled { looked_in: format!("{DEBIAN}/*/bin and on PATH") })
    }

    fn in_folder(folder: &Path) -> Option<Self> {
        let program = |name: &str| Some(folder.join(name)).filter(|path| path.is_file());
        let initdb = program("initdb")?;
        let postgres = program("postgres")?;
        // A packaged server may keep its client elsewhere.
        let psql = program("psql").or_else(|| {
            let path = std::env::var_os("PATH")?;
            std::env::split_paths(&path).map(|folder| folder.join("psql")).find(|path| path.is_file())
        })?;
        Some(Self { initdb, postgres, psql })
    }
}

/// The path of one of PostgreSQL's other programs, such as `pg_recvlogical`: of the installation that clusters use, and when that
/// has the server's programs only, of the newest Debian package or on `PATH`. Client programs get on with servers of other
/// versions.
///
/// # Errors
/// When there is no installation, or none has that program.
pub fn binary(name: &str) -> Result<PathBuf, ThrowawayError> {
    let found = Binaries::find(None)?;
    let program = found.postgres.with_file_name(name);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let elsewhere = debian_folders().into_iter().chain(std::env::split_paths(&path)).map(|folder| folder.join(name));
    std::iter::once(program.clone())
        .chain(elsewhere)
        .find(|program| program.is_file())
        .ok_or_else(|| ThrowawayError::NotInstalled { looked_in: program.display().to_string() })
}

/// Debian's folders, newest major version first.
fn debian_folders() -> Vec<PathBuf> {
    let mut versions: Vec<(u32, PathBuf)> = std::fs::read_dir(DEBIAN)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin"))))
        .collect();
    versions.sort_by_key(|(version, _)| std::cmp::Reverse(*version));
    versions.into_iter().map(|(_, folder)| folder).collect()
}
