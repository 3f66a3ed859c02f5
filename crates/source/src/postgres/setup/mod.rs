//! Setup: looks at a database and brings it into shape for streaming, as often as anybody likes.
//!
//! ```text
//!   sql ─▶ facts ─▶ selection ─▶ assessment ─┬─▶ report             (check:   changes nothing)
//!                                            └─▶ prepare ─▶ plan    (prepare: publication, then slot)
//! ```
//!
//! [`check`] and [`prepare`] read the same facts and judge them in the same way; what the one reports as an error is
//! what the other refuses with. Left to others: the connection itself, and whether the log fits the slot.

mod assessment;
mod capture_checks;
mod error;
mod facts;
mod prepare;
mod report;
mod selection;
mod server_checks;
mod settings;
mod slot_checks;
mod sql;
mod table_pattern;

pub use error::{SetupError, SlotMismatch};
pub use prepare::{Created, Prepared, prepare, prepare_anew, prepare_to_resume};
pub use report::{Finding, Level, Report, TableReport, TableState};
pub use settings::{SourceSettings, TablesWithoutIdentity};
pub use table_pattern::{TablePattern, TablePatternError};

pub(super) use facts::blockers;
pub(super) use slot_checks::describe;

use assessment::Assessment;
use facts::Facts;
use report::Findings;

use super::{Connection, PgError, SessionKind};

/// Looks at everything and changes nothing. What cannot be reached or read is in the report as an error.
pub async fn check(settings: &SourceSettings) -> Report {
    let mut facts = match read(settings).await {
        Ok(facts) => facts,
        Err(error) => {
            let mut assessment = Assessment::default();
            assessment.fail("connection", error.into());
            return report(settings, None, assessment);
        }
    };
    let mut assessment = Assessment::new(&mut facts, settings);
    let refused = |problem: &SetupError| {
        matches!(problem, SetupError::NoReplicationPrivilege { .. } | SetupError::NoFreeWalSender { .. })
    };
    if !assessment.problems.iter().any(refused) {
        match replication_connection(settings).await {
            Ok(()) => assessment.findings.ok("replication_connection", "connection", "a replication connection works"),
            Err(error) => assessment.fail("replication connection", error.into()),
        }
    }
    report(settings, Some(&facts), assessment)
}

async fn read(settings: &SourceSettings) -> Result<Facts, PgError> {
    let mut connection = Connection::connect(&settings.connect, SessionKind::Ordinary).await?;
    let facts = Facts::read(&mut connection, &settings.publication).await?;
    connection.close().await;
    Ok(facts)
}

/// pg_hba.conf and max_wal_senders speak only when somebody tries.
async fn replication_connection(settings: &SourceSettings) -> Result<(), PgError> {
    let mut connection = Connection::connect(&settings.connect, SessionKind::Replication).await?;
    connection.identify_system().await?;
    connection.close().await;
    Ok(())
}

fn report(settings: &SourceSettings, facts: Option<&Facts>, assessment: Assessment) -> Report {
    let server = facts.map(|facts| {
        let server = &facts.server;
        format!("PostgreSQL {}, database {:?}, role {:?}", server.version, server.database, server.user)
    });
    let Assessment { findings, tables, plan, .. } = assessment;
    Report {
        stream: settings.name.to_string(),
        source: settings.connect.display_safe(),
        server,
        slot: settings.slot.clone(),
        publication: settings.publication.clone(),
        level: Findings::level(&findings),
        findings: findings.into_list(),
        tables,
        statements: plan.statements(),
    }
}
