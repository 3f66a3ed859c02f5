//! The event triggers that record schema changes in a source's WAL: their SQL, and how one knows which are installed.
//!
//! An event trigger belongs to superusers, and runs in everybody's DDL. So it is installed only where the configuration
//! says so, never into a schema or a function of somebody else's, and what it does is bounded, and its errors are no errors of the command; only who cancels the command while
//! it runs in here cancels the command (`capture/install.sql`).

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use dbstreamd_model::Severity;
use sha2::{Digest, Sha256};

use super::structure::TABLE_STRUCTURE;
use super::{Connection, PgError, SessionKind, SourceSettings};
use crate::status::{State, StreamStatus};

/// What is installed, but for the parts that are put in.
const INSTALL: &str = include_str!("capture/install.sql");

/// Raises an error when the schema or the function is there and belongs to who must not own it.
const OWNERS: &str = include_str!("capture/owners.sql");

/// Removes it all.
pub const REMOVE_SQL: &str = include_str!("capture/remove.sql");

/// Rises when the function changes, so that an older daemon never replaces a newer one's.
const VERSION: u32 = 2;

/// How many event triggers there are.
const TRIGGERS: u32 = 4;

/// One row: the function's comment; how many of the event triggers call it always; whether it and its schema belong to
/// superusers, to who made the event triggers, or, while there are none, to who asks.
pub(super) const INSTALLED: &str = "\
WITH trigger AS (SELECT e.evtowner, e.evtenabled FROM pg_catalog.pg_event_trigger e \
JOIN pg_catalog.pg_proc p ON p.oid = e.evtfoid JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace \
WHERE n.nspname = 'dbstreamd' AND p.proname = 'capture_ddl'), \
function AS (SELECT p.oid, p.proowner, p.pronargs FROM pg_catalog.pg_proc p \
JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace WHERE n.nspname = 'dbstreamd' AND p.proname = 'capture_ddl'), \
owner(oid) AS (SELECT f.proowner FROM function f \
UNION SELECT n.nspowner FROM pg_catalog.pg_namespace n WHERE n.nspname = 'dbstreamd') \
SELECT (SELECT pg_catalog.obj_description(f.oid, 'pg_proc') FROM function f WHERE f.pronargs = 0), \
(SELECT count(*) FROM trigger t WHERE t.evtenabled = 'A'), \
NOT EXISTS (SELECT 1 FROM owner o \
WHERE NOT EXISTS (SELECT 1 FROM pg_catalog.pg_roles r WHERE r.oid = o.oid AND r.rolsuper) \
AND NOT EXISTS (SELECT 1 FROM trigger t WHERE t.evtowner = o.oid) \
AND (pg_catalog.pg_get_userbyid(o.oid) <> current_user OR EXISTS (SELECT 1 FROM trigger)))";

/// What of it a database has.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum Installed {
    /// Nothing that is known to this version.
    #[default]
    No,
    /// An older version, or not all of it.
    Outdated,
    /// Something of its name, by whom nobody has to trust: what it says of itself counts for nothing.
    Foreign,
    /// All of it, in this version or a newer one.
    Yes,
}

impl Installed {
    /// From the row of [`INSTALLED`].
    pub(super) fn of_row(row: &[Option<String>]) -> Self {
        let field = |index: usize| row.get(index)?.as_deref();
        Self::read(field(0), field(1).and_then(|count| count.parse().ok()).unwrap_or(0), field(2) == Some("t"))
    }

    fn read(comment: Option<&str>, triggers: u32, trusted: bool) -> Self {
        if !trusted {
            return Self::Foreign;
        }
        let Some(mark) = comment else { return Self::No };
        let version = mark.strip_prefix(MARK_PREFIX).and_then(|rest| rest.split(' ').next()?.parse::<u32>().ok());
        match version {
            _ if triggers != TRIGGERS => Self::Outdated,
            Some(version) if version > VERSION => Self::Yes,
            Some(_) if mark == self::mark() => Self::Yes,
            _ => Self::Outdated,
        }
    }
}

/// Looks, while the stream runs, whether schema changes are recorded, and says once that they are not.
pub(super) async fn watch(settings: SourceSettings, status: Arc<StreamStatus>) {
    let mut lifecycle = status.watch();
    let mut told = false;
    loop {
        // Setup installs them. The sender lives in `status`.
        let _ = lifecycle.wait_for(|now| now.state == State::Streaming).await;
        let looked = tokio::time::timeout(LOOK_MAX, look(&settings)).await;
        if let Ok(Ok(installed)) = looked {
            let active = installed == Installed::Yes;
            status.set_ddl_capture(active);
            if !active && !std::mem::replace(&mut told, true) {
                status.notice(Severity::Warning, "ddl_capture_missing", MISSING.to_owned());
            }
            told &= !active;
        }
        tokio::time::sleep(settings.slot_check_interval).await;
    }
}

async fn look(settings: &SourceSettings) -> Result<Installed, PgError> {
    let mut connection = Connection::connect(&settings.connect, SessionKind::Ordinary).await?;
    let rows = connection.simple_query(INSTALLED).await?;
    connection.close().await;
    Ok(rows.first().map(|row| Installed::of_row(row)).unwrap_or_default())
}

const MISSING: &str = "ddl_capture is wanted, but its event triggers are not all installed and enabled: schema changes are noticed late and without their statements; have a superuser run, in the source's database, what `dbstreamd check --print-sql` prints";

/// How long one look may take.
const LOOK_MAX: Duration = Duration::from_secs(10);

const MARK_PREFIX: &str = "dbstreamd DDL capture, version ";

/// The statements that install or update it, to be sent as one query.
pub fn install_sql() -> String {
    body().replace("{mark}", &mark())
}

/// How the installed function says what it is: the version, and a hash of its text.
fn mark() -> String {
    let mut mark = format!("{MARK_PREFIX}{VERSION} ");
    for byte in Sha256::digest(body()).iter().take(8) {
        // Writing to a string does not fail.
        let _ = write!(mark, "{byte:02x}");
    }
    mark
}

fn body() -> String {
    let owned = INSTALL.replace("{owners}", OWNERS.trim_end());
    owned.replace("{structure}", &TABLE_STRUCTURE.replace("$1", "_relation"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_installed_is_recognised_by_its_mark_and_replaced_only_when_it_is_older() {
        let mark = mark();
        assert!(install_sql().contains(&mark));
        assert!(!install_sql().contains("{structure}") && !install_sql().contains("$1"));
        assert!(!install_sql().contains("{owners}"));
        assert_eq!(Installed::read(None, 0, true), Installed::No);
        assert_eq!(Installed::read(Some(&mark), TRIGGERS, true), Installed::Yes);
        assert_eq!(Installed::read(Some(&mark), TRIGGERS - 1, true), Installed::Outdated);
        let of_version = |version: u32| format!("{MARK_PREFIX}{version} 0123456789abcdef");
        assert_eq!(Installed::read(Some(&of_version(VERSION)), TRIGGERS, true), Installed::Outdated);
        assert_eq!(Installed::read(Some(&of_version(VERSION + 1)), TRIGGERS, true), Installed::Yes);
        assert_eq!(Installed::read(Some("something else"), TRIGGERS, true), Installed::Outdated);
        assert_eq!(Installed::read(Some(&mark), TRIGGERS, false), Installed::Foreign);
        assert_eq!(Installed::read(None, 0, false), Installed::Foreign);
    }
}
