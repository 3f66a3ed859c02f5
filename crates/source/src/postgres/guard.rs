//! The slot guard: watches what the server keeps for our slot, and names who makes it keep more; and what the publication
//! holds (`membership`). A session whose publication is gone it ends.
//!
//! It looks whether or not changes flow, since a stopped stream is when WAL piles up, and through a session of its own, as a
//! replication connection takes no statements while it streams. That session lasts for one look, so that a role with few
//! connections has them for the stream. Nothing is changed at the server but the insurance slot, if one is wished for
//! (`insurance`).

use std::sync::Arc;
use std::time::Duration;

use dbstreamd_model::{Lsn, Severity, Timestamp};

use super::membership::{self, Membership, Watched};
use super::setup::{SourceSettings, blockers, describe};
use super::{Connection, PgError, SessionKind, insurance, quote_literal};
use crate::status::{SlotHealth, StreamStatus};

/// The slot's oldest WAL this far behind what it confirmed: an open transaction holds it back. Ordinary transactions do so
/// too, by what is written while they run.
const PINNED_BYTES_MIN: u64 = 64 * 1024 * 1024;
/// The server must keep this much for the slot before it is worth a log line.
const RETAINED_BYTES_LOUD: u64 = 1024 * 1024 * 1024;
/// How long one look may take.
const LOOK_MAX: Duration = Duration::from_secs(10);

/// Longest time between two looks after looks that failed.
const PAUSE_MAX: Duration = Duration::from_secs(300);

/// Looks at once, whenever a session begins and every `settings.slot_check_interval`, until it is dropped.
pub(super) async fn watch(settings: SourceSettings, status: Arc<StreamStatus>) {
    let mut pause = settings.slot_check_interval;
    let mut uninsured = false;
    let mut published = Watched::default();
    let mut sessions = status.sessions();
    loop {
        // Before the look: a session that began by then had a publication, so one that is missing now was taken from it.
        let session = *sessions.borrow_and_update();
        let looked = tokio::time::timeout(LOOK_MAX, look(&settings));
        match looked.await.unwrap_or_else(|_| Err(PgError::protocol("the server did not answer in time"))) {
            Ok((mut health, membership)) => {
                if membership.is_gone() {
                    status.end_unpublished(session, &settings.publication);
                }
                membership::tell(&status, published.see(membership, session > 0));
                if let Some(health) = &mut health {
                    health.insurance = status.slot().and_then(|before| before.insurance);
                    tell(&status, health);
                }
                status.set_slot(health);
                pause = settings.slot_check_interval;
                if settings.wal_insurance.is_some() && !insure(&settings, &status, &mut uninsured).await {
                    pause = (pause * 2).min(PAUSE_MAX.max(pause));
                }
            }
            // The stream itself says what is wrong with the server. What was seen last stays, with its time.
            Err(error) => {
                tracing::debug!(stream = %status.name(), %error, "the slot could not be looked at");
                // A server that refuses us is not asked six times a minute: some lock the role then.
                pause = (pause * 2).min(PAUSE_MAX.max(settings.slot_check_interval));
            }
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            // The sender is `status`.
            _ = sessions.changed() => {}
        }
    }
}

/// Sees to the insurance slot, and says once when that does not work; whether it did.
async fn insure(settings: &SourceSettings, status: &StreamStatus, uninsured: &mut bool) -> bool {
    // Only next to a slot that is there: what it has confirmed is as far as the insurance may go.
    let (Some(cap), Some(mut health)) = (settings.wal_insurance, status.slot()) else { return true };
    let insured = async {
        let mut connection = Connection::connect(&settings.connect, SessionKind::Ordinary).await?;
        let insured = insurance::insure(&mut connection, settings, cap, health.confirmed_flush_lsn).await?;
        connection.close().await;
        Ok(insured)
    };
    let insured = tokio::time::timeout(insurance::INSURE_MAX, insured).await;
    let problem = match insured.unwrap_or_else(|_| Err(PgError::protocol("the server did not answer in time"))) {
        Ok(insurance) => {
            let lost = insurance.wal_status == "lost";
            let problem = format!("the slot {} is lost: drop it, and a new one is made", insurance.slot);
            health.insurance = Some(insurance);
            status.set_slot(Some(health));
            lost.then_some(problem)
        }
        Err(error) => Some(error.to_string()),
    };
    match (&problem, std::mem::replace(uninsured, problem.is_some())) {
        (Some(problem), false) => {
            tracing::warn!(stream = %status.name(), problem, "the insurance slot could not be made or moved; the stream itself is not affected");
        }
        (None, true) => tracing::info!(stream = %status.name(), "the insurance slot is in order again"),
        _ => {}
    }
    problem.is_none()
}

/// No slot when there is none such, or not yet.
async fn look(settings: &SourceSettings) -> Result<(Option<SlotHealth>, Membership), PgError> {
    let mut connection = Connection::connect(&settings.connect, SessionKind::Ordinary).await?;
    let rows = connection.simple_query(&slot_statement(&settings.slot)).await?;
    let health = match rows.first().and_then(|row| health(row)) {
        Some(mut health) => {
            if health.confirmed_flush_lsn.bytes_since(health.restart_lsn) >= PINNED_BYTES_MIN {
                let (open, prepared) = blockers(&mut connection).await?;
                health.pinned_by = describe(&open, &prepared);
            }
            Some(health)
        }
        None => None,
    };
    let membership = membership::look(&mut connection, &settings.publication).await?;
    connection.close().await;
    Ok((health, membership))
}

/// `pg_replication_slots` (documentation, "System Views"): restart and confirmed position, state of the WAL, bytes kept, bytes
/// that may still be written before the slot is lost.
fn slot_statement(slot: &str) -> String {
    format!(
        "SELECT s.restart_lsn, s.confirmed_flush_lsn, s.wal_status, pg_catalog.pg_wal_lsn_diff(\
         CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn() \
         ELSE pg_catalog.pg_current_wal_lsn() END, s.restart_lsn)::bigint, s.safe_wal_size \
         FROM pg_catalog.pg_replication_slots s WHERE s.slot_name = {}",
        quote_literal(slot)
    )
}

fn health(row: &[Option<String>]) -> Option<SlotHealth> {
    let cell = |index: usize| row.get(index).and_then(|cell| cell.as_deref());
    // A lost slot has no positions any more.
    let lsn = |index| cell(index).and_then(|text| text.parse().ok()).unwrap_or(Lsn::ZERO);
    // Negative once the limit is passed.
    let bytes = |index| cell(index).and_then(|text| text.parse::<i64>().ok()).map(|n| u64::try_from(n).unwrap_or(0));
    Some(SlotHealth {
        restart_lsn: lsn(0),
        confirmed_flush_lsn: lsn(1),
        wal_status: cell(2)?.to_owned(),
        retained_bytes: bytes(3).unwrap_or(0),
        safe_bytes: bytes(4),
        pinned_by: Vec::new(),
        insurance: None,
        seen_at: Timestamp::now(),
    })
}

/// A notice for each turn to the worse, and for the end of it.
fn tell(status: &StreamStatus, now: &SlotHealth) {
    let before = status.slot();
    let was = |of: fn(&SlotHealth) -> bool| before.as_ref().is_some_and(of);
    let kept_mb = now.retained_bytes / 1_048_576;
    let bad = |slot: &SlotHealth| slot.wal_status == "unreserved" || slot.wal_status == "lost";
    if bad(now) && before.as_ref().is_none_or(|before| before.wal_status != now.wal_status) {
        let text = format!(
            "the slot is about to be lost, or is (wal_status {}, {kept_mb} MiB kept): raise max_slot_wal_keep_size, and see to it that the stream runs",
            now.wal_status
        );
        status.notice(Severity::Error, "slot_in_danger", text);
    }
    if !bad(now) && was(bad) {
        let text = format!("the slot is safe again (wal_status {}, {kept_mb} MiB kept)", now.wal_status);
        status.notice(Severity::Info, "slot_safe", text);
    }
    let loud = |slot: &SlotHealth| slot.retained_bytes >= RETAINED_BYTES_LOUD;
    if loud(now) && !was(loud) {
        let text = format!("the server keeps much WAL for the slot: {kept_mb} MiB (wal_status {})", now.wal_status);
        status.notice(Severity::Warning, "slot_retains_much", text);
    }
    let pinned = |slot: &SlotHealth| !slot.pinned_by.is_empty();
    if pinned(now) && !was(pinned) {
        let text = format!(
            "WAL is kept for transactions that are still open ({kept_mb} MiB): end them if they are forgotten: {}",
            now.pinned_by.join("; ")
        );
        status.notice(Severity::Warning, "slot_pinned", text);
    }
    if !pinned(now) && was(pinned) {
        let text = format!("no open transaction holds back the slot any more ({kept_mb} MiB kept)");
        status.notice(Severity::Info, "slot_released", text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_read_whatever_the_slots_state() {
        let row = |cells: [&str; 5]| cells.map(|cell| (!cell.is_empty()).then(|| cell.to_owned()));
        let healthy = health(&row(["0/100", "0/180", "reserved", "300", ""])).unwrap();
        assert_eq!((healthy.restart_lsn, healthy.retained_bytes, healthy.safe_bytes), (Lsn(256), 300, None));
        let late = health(&row(["0/100", "0/180", "unreserved", "300", "-5"])).unwrap();
        assert_eq!(late.safe_bytes, Some(0));
        let lost = health(&row(["", "0/180", "lost", "", ""])).unwrap();
        assert_eq!((lost.restart_lsn, lost.retained_bytes), (Lsn::ZERO, 0));
        assert_eq!(health(&row(["0/100", "0/180", "", "1", ""])), None);
    }
}
