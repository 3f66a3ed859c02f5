//! `prepare`: makes the publication and the slot exist as the stream needs them. Safe to run at every start.
//!
//! The publication comes first: changes from before it was created could not be decoded from the slot's start.

use std::time::Duration;

use dbstreamd_log::Failpoint;
use dbstreamd_model::Lsn;

use super::assessment::{Assessment, Plan};
use super::facts::{self, Facts};
use super::{Report, SetupError, SourceSettings, report, server_checks, slot_checks, sql};
use crate::HistoryBreak;
use crate::postgres::{Connection, PgError, SessionKind};

/// How long changing the publication may wait for a lock on a table, and take.
const PUBLICATION_TIMEOUT: Duration = Duration::from_secs(30);
/// How much longer than the server's own limit we wait for its answer.
const ANSWER_GRACE: Duration = Duration::from_secs(10);
/// Rounds of looking and changing before others who change the same things win.
const ROUNDS_MAX: usize = 3;

/// A source that can be streamed from.
#[derive(Clone, Debug)]
pub struct Prepared {
    /// The cluster's identity.
    pub system_id: u64,
    /// The cluster's timeline.
    pub timeline: u32,
    /// The replication slot.
    pub slot: String,
    /// The publication.
    pub publication: String,
    /// Where the slot stands: everything after it will be sent.
    pub slot_confirmed_flush: Lsn,
    /// What was made just now.
    pub created: Created,
    /// That the slot was lost and made anew. Of [`prepare_anew`] only.
    pub slot_lost: Option<HistoryBreak>,
    /// Everything that was found, before anything was made.
    pub report: Report,
}

/// What [`prepare`] made.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Created {
    /// The publication.
    pub publication: bool,
    /// Tables now in the publication that were not before.
    pub tables: Vec<String>,
    /// The slot.
    pub slot: bool,
}

/// Checks the source, then creates or completes publication and slot as far as they lack.
///
/// # Errors
/// The first thing that keeps the stream from starting. Nothing is changed before everything was checked.
pub async fn prepare(settings: &SourceSettings) -> Result<Prepared, SetupError> {
    prepare_with(settings, Slot::MayBeNew).await
}

/// As [`prepare`], for a stream whose log has changes already: its slot must still be there.
///
/// A new slot in its place would begin after a gap, and hold back the server's WAL for a stream that cannot go on.
///
/// # Errors
/// As [`prepare`], and [`SetupError::SlotGone`].
pub async fn prepare_to_resume(settings: &SourceSettings) -> Result<Prepared, SetupError> {
    prepare_with(settings, Slot::MustExist).await
}

/// As [`prepare_to_resume`], but a slot that is gone is created anew, and one that the server has invalidated is dropped
/// before: the caller knows that what lies between is lost.
///
/// # Errors
/// As [`prepare`].
pub async fn prepare_anew(settings: &SourceSettings) -> Result<Prepared, SetupError> {
    prepare_with(settings, Slot::MayBeReplaced).await
}

/// Whether the stream starts or goes on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Slot {
    MayBeNew,
    MustExist,
    MayBeReplaced,
}

async fn prepare_with(settings: &SourceSettings, slot: Slot) -> Result<Prepared, SetupError> {
    let mut connection = Connection::connect(&settings.connect, SessionKind::Ordinary).await?;
    let mut created = Created::default();
    let mut lost = None;
    let mut round = 1;
    let prepared = loop {
        match attempt(&mut connection, settings, slot, &mut created).await {
            Err(error @ SetupError::SlotInvalidated { .. }) if slot == Slot::MayBeReplaced && lost.is_none() => {
                match drop_slot(&mut connection, settings).await {
                    Ok(()) => lost = error.lost_slot(),
                    Err(error) => break Err(error),
                }
            }
            // Somebody else made the same thing between our look and our statement: look again.
            Err(SetupError::Postgres(error)) if round < ROUNDS_MAX && is_duplicate(&error) => round += 1,
            outcome => break outcome,
        }
    };
    let mut prepared = prepared?;
    // An error may have left the session unusable; a polite end is for the others.
    connection.close().await;
    if slot == Slot::MayBeReplaced && prepared.created.slot {
        prepared.slot_lost = Some(lost.unwrap_or_else(|| HistoryBreak::SlotGone { slot: settings.slot.clone() }));
    }
    Ok(prepared)
}

/// Drops the stream's slot, which was seen to be of our kind, of this database, and invalidated. The server refuses
/// while somebody holds it.
async fn drop_slot(connection: &mut Connection, settings: &SourceSettings) -> Result<(), SetupError> {
    connection.simple_query(&sql::drop_invalidated_slot(&settings.slot)).await?;
    tracing::warn!(stream = %settings.name, slot = %settings.slot, "dropped the slot, which the server had invalidated");
    Ok(())
}

async fn attempt(
    connection: &mut Connection,
    settings: &SourceSettings,
    slot: Slot,
    created: &mut Created,
) -> Result<Prepared, SetupError> {
    let mut facts = Facts::read(connection, &settings.publication).await?;
    let mut assessment = Assessment::new(&mut facts, settings);
    if slot != Slot::MayBeNew && facts.publication.is_some() {
        for dropped in assessment.take_dropped_tables() {
            tracing::warn!(stream = %settings.name, "the stream goes on, but its tables are not what they were: {dropped}");
        }
    }
    if let Some(problem) = assessment.first_problem() {
        // Before a slot is replaced, everything else must be in order.
        let replaceable = slot == Slot::MayBeReplaced && problem.lost_slot().is_some();
        return Err(if replaceable { assessment.first_problem().unwrap_or(problem) } else { problem });
    }
    let plan = std::mem::take(&mut assessment.plan);
    if slot == Slot::MustExist && plan.create_slot.is_some() {
        return Err(SetupError::SlotGone { slot: settings.slot.clone() });
    }
    change_publication(connection, &facts, &plan, settings, created).await?;
    install_capture(connection, &facts, &plan, settings).await?;
    let slot_confirmed_flush = match &plan.create_slot {
        Some(statement) => {
            let lsn = create_slot(connection, &facts, statement, settings).await?;
            created.slot = true;
            lsn
        }
        None => facts.slot(&settings.slot).and_then(|slot| slot.confirmed_flush).unwrap_or(Lsn::ZERO),
    };
    Ok(Prepared {
        system_id: facts.server.system_id,
        timeline: facts.server.timeline,
        slot: settings.slot.clone(),
        publication: settings.publication.clone(),
        slot_confirmed_flush,
        created: created.clone(),
        slot_lost: None,
        report: report(settings, Some(&facts), assessment),
    })
}

async fn change_publication(
    connection: &mut Connection,
    facts: &Facts,
    plan: &Plan,
    settings: &SourceSettings,
    created: &mut Created,
) -> Result<(), SetupError> {
    let Some(statement) = plan.create_publication.as_ref().or(plan.add_tables.as_ref()) else { return Ok(()) };
    connection.simple_query(&sql::limits(facts.version_num, PUBLICATION_TIMEOUT, PUBLICATION_TIMEOUT)).await?;
    connection.simple_query(statement).await?;
    tracing::info!(stream = %settings.name, publication = %settings.publication, tables = ?plan.tables, "published tables");
    created.publication |= plan.create_publication.is_some();
    created.tables.extend(plan.tables.iter().cloned());
    Ok(())
}

/// Installs the event triggers. What the server refuses keeps no stream from starting.
async fn install_capture(
    connection: &mut Connection,
    facts: &Facts,
    plan: &Plan,
    settings: &SourceSettings,
) -> Result<(), SetupError> {
    let Some(statements) = &plan.install_capture else { return Ok(()) };
    connection.simple_query(&sql::limits(facts.version_num, PUBLICATION_TIMEOUT, PUBLICATION_TIMEOUT)).await?;
    match connection.simple_query(statements).await {
        Ok(_) => tracing::info!(stream = %settings.name, "installed the event triggers that record schema changes"),
        Err(error) if error.server_error().is_some_and(|said| !said.is_fatal()) => {
            tracing::warn!(stream = %settings.name, %error, "the event triggers that record schema changes could not be installed; `dbstreamd check --print-sql` prints them for somebody who may");
        }
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

async fn create_slot(
    connection: &mut Connection,
    facts: &Facts,
    statement: &str,
    settings: &SourceSettings,
) -> Result<Lsn, SetupError> {
    let (slot, after) = (&settings.slot, settings.slot_timeout);
    if !facts.transactions.is_empty() || !facts.prepared.is_empty() {
        let blockers = server_checks::named_blockers(facts);
        tracing::info!(stream = %settings.name, %slot, blockers, "creating the slot waits for open transactions");
    }
    // The wait is inside one statement; locks are not what it waits for.
    connection.simple_query(&sql::limits(facts.version_num, after, Duration::ZERO)).await?;
    let rows = match tokio::time::timeout(after + ANSWER_GRACE, connection.simple_query(statement)).await {
        Ok(Ok(rows)) => rows,
        Ok(Err(error)) if error.sqlstate() == Some("57014") => {
            let (open, prepared) = facts::blockers(connection).await?;
            return Err(SetupError::SlotBlocked {
                slot: slot.clone(),
                after,
                blockers: slot_checks::describe(&open, &prepared),
                ends_first: slot_checks::ends_first(&open, &prepared),
            });
        }
        Ok(Err(error)) => return Err(error.into()),
        Err(_) => return Err(PgError::SlotTimeout { slot: slot.clone(), after }.into()),
    };
    Failpoint::SlotCreated.reach();
    tracing::info!(stream = %settings.name, %slot, "created the replication slot");
    let lsn = rows.first().and_then(|row| row.first()?.as_deref()?.parse().ok());
    lsn.ok_or_else(|| {
        let detail = "no position of the new slot".to_owned();
        PgError::Answer { command: "pg_create_logical_replication_slot", detail }.into()
    })
}

/// The object exists already (duplicate_object), or its name was taken in this very moment (unique_violation).
fn is_duplicate(error: &PgError) -> bool {
    matches!(error.sqlstate(), Some("42710" | "23505"))
}
