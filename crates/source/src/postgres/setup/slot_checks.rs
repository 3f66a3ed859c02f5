//! What must hold for the replication slot, whether it exists or is to be created.

use super::assessment::Assessment;
use super::error::names;
use super::facts::{Facts, OpenTransaction, PreparedTransaction, SlotFacts};
use super::{SetupError, SlotMismatch, SourceSettings, server_checks, sql};
use crate::postgres::insurance::slot_name;
use crate::postgres::quote_literal;

/// Open transactions younger than this are ordinary traffic.
const OPEN_SECONDS_ORDINARY: i64 = 10;
/// From here on an open transaction pins so much WAL that somebody should know.
const OPEN_SECONDS_LONG: i64 = 600;

pub(crate) fn judge(facts: &Facts, settings: &SourceSettings, to: &mut Assessment) {
    match facts.slot(&settings.slot) {
        Some(slot) => existing(slot, facts, settings, to),
        None => missing(facts, settings, to),
    }
    insurance(facts, settings, to);
}

/// The second slot, which is never streamed from: in order, or left over.
fn insurance(facts: &Facts, settings: &SourceSettings, to: &mut Assessment) {
    let name = slot_name(&settings.slot);
    let drop = || format!("SELECT pg_drop_replication_slot({})", quote_literal(&name).trim());
    let kept = |slot: &SlotFacts| slot.retained_bytes.unwrap_or(0) / 1_048_576;
    let (slot, cap) = match (facts.slot(&name), settings.wal_insurance) {
        (None, None) => return,
        (Some(slot), None) => {
            let message = format!(
                "an insurance slot is left over and keeps {} MB of WAL: nothing moves it, since wal_insurance is not set",
                kept(slot)
            );
            return to.findings.warn("wal_insurance", name.clone(), message, drop());
        }
        (slot, Some(cap)) => (slot, cap),
    };
    let cap_mb = cap / 1_048_576;
    let keep = facts.number("max_slot_wal_keep_size").and_then(|megabytes| u64::try_from(megabytes).ok());
    if let Some(keep_mb) = keep.filter(|keep_mb| *keep_mb < cap_mb) {
        to.findings.warn(
            "wal_insurance",
            name.clone(),
            format!(
                "max_slot_wal_keep_size is {keep_mb} MB, less than wal_insurance ({cap_mb} MB): the slot would be lost"
            ),
            format!(
                "ALTER SYSTEM SET max_slot_wal_keep_size = '{}MB'; SELECT pg_reload_conf(), or a smaller wal_insurance",
                cap_mb * 2
            ),
        );
    }
    let problem =
        slot.and_then(|slot| match (mismatch(slot, &facts.server.database), &slot.invalidation, slot.active_pid) {
            (Some(_), ..) => Some("is not one of pgoutput in this database".to_owned()),
            (_, Some(reason), _) => Some(format!("is lost ({reason})")),
            (.., Some(pid)) => Some(format!("is being read by pid {pid}, so that it cannot be moved")),
            _ => None,
        });
    match (slot, problem) {
        (_, Some(problem)) => {
            let remedy = format!("{}; the running stream makes a new one", drop());
            to.findings.warn("wal_insurance", name.clone(), format!("the insurance slot {problem}"), remedy);
        }
        (Some(slot), None) => to.findings.ok(
            "wal_insurance",
            name.clone(),
            format!("the insurance slot keeps {} MB of WAL, at most {cap_mb} MB", kept(slot)),
        ),
        (None, None) => to.findings.ok(
            "wal_insurance",
            name.clone(),
            format!(
                "the insurance slot does not exist yet; the running stream makes it, for {cap_mb} MB of WAL at most"
            ),
        ),
    }
}

fn existing(slot: &SlotFacts, facts: &Facts, settings: &SourceSettings, to: &mut Assessment) {
    let name = &settings.slot;
    if let Some(found) = mismatch(slot, &facts.server.database) {
        return to.fail(name, SetupError::SlotNotUsable { slot: name.clone(), found });
    }
    if let Some(reason) = slot.invalidation.clone() {
        return to.fail(name, SetupError::SlotInvalidated { slot: name.clone(), reason });
    }
    let gone = facts.publication.is_none();
    if gone {
        to.fail(name, SetupError::PublicationGone { publication: settings.publication.clone(), slot: name.clone() });
    }
    if let Some(pid) = slot.active_pid {
        to.fail(name, SetupError::SlotActive { slot: name.clone(), pid, holder: slot.holder.clone() });
    }
    if gone || slot.active_pid.is_some() {
        return;
    }
    let place = slot.confirmed_flush.map_or_else(String::new, |lsn| format!(" at {lsn}"));
    let kept = slot.retained_bytes.map_or_else(String::new, |bytes| format!(", keeps {} MB of WAL", bytes / 1_048_576));
    if slot.wal_status == "unreserved" {
        to.findings.warn(
            "slot",
            name,
            format!("the slot exists{place}{kept}, and will be lost at the next checkpoint"),
            "start the stream at once, and raise max_slot_wal_keep_size",
        );
    } else {
        to.findings.ok("slot", name, format!("the slot exists{place}{kept}"));
    }
    let long = blockers_older_than(facts, OPEN_SECONDS_LONG);
    if !long.is_empty() {
        to.findings.warn(
            "open_transactions",
            "transactions",
            format!("the server must keep WAL from before {}", names(&long)),
            "end them if they are forgotten",
        );
    }
}

/// Whether the slot exists and is one that this stream could read.
pub(crate) fn is_usable(facts: &Facts, settings: &SourceSettings) -> bool {
    let slot = facts.slot(&settings.slot);
    slot.is_some_and(|slot| mismatch(slot, &facts.server.database).is_none() && slot.invalidation.is_none())
}

fn missing(facts: &Facts, settings: &SourceSettings, to: &mut Assessment) {
    let name = &settings.slot;
    if !settings.create_slot {
        return to.fail(name, SetupError::SlotMissing { slot: name.clone() });
    }
    let used = i64::try_from(facts.slots.len()).unwrap_or(i64::MAX);
    match facts.number("max_replication_slots") {
        Some(limit) if used >= limit => {
            let inactive = server_checks::inactive_slots(facts);
            to.fail("max_replication_slots", SetupError::NoFreeSlot { limit, inactive });
        }
        Some(limit) => {
            to.findings.ok("max_replication_slots", "max_replication_slots", format!("{used} of {limit} in use"));
        }
        None => {}
    }
    to.findings.ok("slot", name, "the slot does not exist yet and is created");
    to.plan.create_slot = Some(sql::create_slot(name));
    let open = blockers_older_than(facts, OPEN_SECONDS_ORDINARY);
    if !open.is_empty() {
        to.findings.warn(
            "open_transactions",
            "transactions",
            format!("creating the slot waits for {}", names(&open)),
            "end them if they are forgotten",
        );
    }
}

fn mismatch(slot: &SlotFacts, database: &str) -> Option<SlotMismatch> {
    if !slot.logical {
        return Some(SlotMismatch::Physical);
    }
    if slot.temporary {
        return Some(SlotMismatch::Temporary);
    }
    match &slot.plugin {
        Some(plugin) if plugin != "pgoutput" => return Some(SlotMismatch::Plugin(plugin.clone())),
        _ => {}
    }
    match &slot.database {
        Some(found) if found != database => {
            return Some(SlotMismatch::Database { found: found.clone(), wanted: database.to_owned() });
        }
        _ => {}
    }
    slot.two_phase.then_some(SlotMismatch::TwoPhase)
}

fn blockers_older_than(facts: &Facts, seconds: i64) -> Vec<String> {
    // An age that may not be seen counts as old: better one name too many.
    let old = |age: Option<i64>| age.is_none_or(|age| age >= seconds);
    let open: Vec<_> = facts.transactions.iter().filter(|open| old(open.age)).cloned().collect();
    let prepared: Vec<_> = facts.prepared.iter().filter(|prepared| old(prepared.age)).cloned().collect();
    describe(&open, &prepared)
}

/// Each transaction with its pid or gid, so that an operator finds it; prepared ones first, since no client ends them.
pub(crate) fn describe(open: &[OpenTransaction], prepared: &[PreparedTransaction]) -> Vec<String> {
    let age = |age: Option<i64>| age.map_or_else(String::new, |seconds| format!(", {seconds} s old"));
    let prepared = prepared.iter().map(|transaction| {
        let PreparedTransaction { gid, database, owner, .. } = transaction;
        format!("prepared transaction {gid:?} (database {database}, owner {owner}{})", age(transaction.age))
    });
    let open = open.iter().map(|transaction| {
        let OpenTransaction { pid, database, user, application, state, .. } = transaction;
        let state = if state.is_empty() { String::new() } else { format!(", {state}") };
        let application = if application.is_empty() { String::new() } else { format!(", {application}") };
        format!("pid {pid} (database {database}, user {user}{application}{state}{})", age(transaction.age))
    });
    prepared.chain(open).collect()
}

/// What ends the first of them.
pub(crate) fn ends_first(open: &[OpenTransaction], prepared: &[PreparedTransaction]) -> Option<String> {
    let rollback = |transaction: &PreparedTransaction| {
        let gid = quote_literal(&transaction.gid);
        format!("ROLLBACK PREPARED {} or COMMIT PREPARED in database {}", gid.trim(), transaction.database)
    };
    let terminate = |transaction: &OpenTransaction| format!("SELECT pg_terminate_backend({})", transaction.pid);
    prepared.first().map(rollback).or_else(|| open.first().map(terminate))
}
