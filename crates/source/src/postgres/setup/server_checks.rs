//! What must hold for the server and the role: version, WAL level, limits, privileges, settings that hurt later.

use super::assessment::Assessment;
use super::error::names;
use super::facts::Facts;
use super::settings::{is_object_name, is_slot_name};
use super::{SetupError, SourceSettings};
use crate::postgres::Origin;

/// First version that decodes on a standby.
const STANDBY_DECODING: u32 = 160_000;

/// First version that leaves out what was replicated to the server.
const ORIGIN_FILTER: u32 = 160_000;

/// Per major version, the minor release of May 2025 that stopped losing rows of tables added to a publication while
/// transactions on them were running.
const FIXED_MINORS: [(u32, u32); 4] = [(14, 18), (15, 13), (16, 9), (17, 5)];

pub(crate) fn judge(facts: &Facts, settings: &SourceSettings, to: &mut Assessment) {
    if !is_slot_name(&settings.slot) {
        to.fail("slot", SetupError::SlotName(settings.slot.clone()));
    }
    if !is_object_name(&settings.publication) {
        to.fail("publication", SetupError::PublicationName(settings.publication.clone()));
    }
    version(facts, to);
    standby(facts, to);
    origin(facts, settings, to);
    wal_level(facts, to);
    privileges(facts, to);
    wal_senders(facts, settings, to);
    encoding(facts, to);
    synchronous_standbys(facts, settings, to);
    timeouts(facts, to);
    wal_kept_for_slots(facts, to);
}

fn version(facts: &Facts, to: &mut Assessment) {
    let (major, minor) = (facts.version_num / 10_000, facts.version_num % 10_000);
    let shown = format!("PostgreSQL {}", facts.server.version);
    match FIXED_MINORS.iter().find(|(fixed, _)| *fixed == major) {
        Some((_, needed)) if minor < *needed => to.findings.warn(
            "server_version",
            "server",
            format!("{shown} can lose changes of a table that is added to the publication while it is written to"),
            format!("upgrade to {major}.{needed} or newer; until then add tables only while nobody writes to them"),
        ),
        _ => to.findings.ok("server_version", "server", shown),
    }
}

fn standby(facts: &Facts, to: &mut Assessment) {
    if !facts.server.in_recovery {
        return;
    }
    if facts.version_num < STANDBY_DECODING {
        to.fail("server", SetupError::Standby { version: facts.server.version.clone() });
    } else {
        to.findings.warn(
            "standby",
            "server",
            "the server is a standby: the publication must be created on the primary, and a slot waits for the primary's activity",
            "set hot_standby_feedback = on here; call pg_log_standby_snapshot() on a quiet primary if slot creation hangs",
        );
    }
}

fn origin(facts: &Facts, settings: &SourceSettings, to: &mut Assessment) {
    if settings.origin == Origin::None && facts.version_num < ORIGIN_FILTER {
        to.fail("origin", SetupError::NoOriginFilter { version: facts.server.version.clone() });
    }
}

fn wal_level(facts: &Facts, to: &mut Assessment) {
    match facts.setting("wal_level") {
        "logical" => to.findings.ok("wal_level", "wal_level", "logical"),
        // Not read, which is an error already.
        "" => {}
        found => to.fail("wal_level", SetupError::WalLevel { found: found.to_owned() }),
    }
}

fn privileges(facts: &Facts, to: &mut Assessment) {
    let role = &facts.role;
    let user = facts.server.user.clone();
    if user.is_empty() {
        return;
    }
    let managed = role.cloud.iter().find(|name| matches!(name.as_str(), "rds_replication" | "rds_superuser"));
    match (role.superuser, role.replication, managed) {
        (true, ..) => to.findings.ok("replication_privilege", user, "superuser, which is more than streaming needs"),
        (_, true, _) => to.findings.ok("replication_privilege", user, "the role may replicate"),
        (.., Some(by)) => {
            to.findings.ok("replication_privilege", user, format!("the role may replicate as a member of {by}"));
        }
        _ => to.fail(user.clone(), SetupError::NoReplicationPrivilege { user }),
    }
}

fn wal_senders(facts: &Facts, settings: &SourceSettings, to: &mut Assessment) {
    let Some(limit) = facts.number("max_wal_senders") else { return };
    let used = i64::from(facts.wal_senders);
    // A slot that is in use says more, and its walsender is among those counted.
    let held = facts.slot(&settings.slot).is_some_and(|slot| slot.active_pid.is_some());
    if used < limit || held {
        to.findings.ok("max_wal_senders", "max_wal_senders", format!("{used} of {limit} in use"));
    } else {
        to.fail("max_wal_senders", SetupError::NoFreeWalSender { limit });
    }
}

fn encoding(facts: &Facts, to: &mut Assessment) {
    match facts.server.encoding.as_str() {
        "UTF8" | "" => {}
        "SQL_ASCII" => to.findings.warn(
            "encoding",
            facts.server.database.clone(),
            "the database has the encoding SQL_ASCII: the server does not check or convert text; what is not UTF-8 is delivered as the bytes it is, marked in JSON",
            "see to it that consumers expect that; or store only UTF-8 in it, or move to a database with the encoding UTF8",
        ),
        other => to.findings.ok(
            "encoding",
            facts.server.database.clone(),
            format!("the database has the encoding {other}; the server converts text to UTF-8"),
        ),
    }
}

fn synchronous_standbys(facts: &Facts, settings: &SourceSettings, to: &mut Assessment) {
    let list = facts.setting("synchronous_standby_names");
    let own = &settings.connect.application_name;
    if standby_names(list).any(|name| name == "*" || name.eq_ignore_ascii_case(own)) {
        to.findings.warn(
            "synchronous_standby",
            "synchronous_standby_names",
            format!("{list:?} matches this stream (application_name {own:?}): commits of the source would wait for dbstreamd's disk"),
            "list the real standbys by name, or give the stream another application_name in its connection string",
        );
    }
}

/// The names in `FIRST 2 (a, "b c", *)`, `ANY 1 (a)` or `a, b`.
fn standby_names(list: &str) -> impl Iterator<Item = &str> {
    let inside = match (list.find('('), list.rfind(')')) {
        (Some(open), Some(close)) => list.get(open + 1..close).unwrap_or(list),
        _ => list,
    };
    inside.split(',').map(|name| name.trim().trim_matches('"')).filter(|name| !name.is_empty())
}

fn timeouts(facts: &Facts, to: &mut Assessment) {
    if let Some(millis) = facts.number("wal_sender_timeout") {
        let message = match millis {
            0 => "off: a vanished dbstreamd holds its slot until TCP notices".to_owned(),
            millis => format!("{} s; feedback is sent at least three times as often", millis / 1000),
        };
        to.findings.ok("wal_sender_timeout", "wal_sender_timeout", message);
    }
    if let Some(idle @ 1..) = facts.number("idle_replication_slot_timeout") {
        to.findings.warn(
            "idle_replication_slot_timeout",
            "idle_replication_slot_timeout",
            format!("{idle} s: the slot is lost when dbstreamd is stopped for longer than that"),
            "make it longer than any planned stop, or 0",
        );
    }
}

fn wal_kept_for_slots(facts: &Facts, to: &mut Assessment) {
    match facts.number("max_slot_wal_keep_size") {
        Some(-1) => to.findings.warn(
            "max_slot_wal_keep_size",
            "max_slot_wal_keep_size",
            "-1: while dbstreamd is stopped the server keeps all WAL for the slot, until its disk is full",
            "set a limit that the disk can bear and that outlasts a long stop: ALTER SYSTEM SET max_slot_wal_keep_size = '50GB'; SELECT pg_reload_conf()",
        ),
        Some(megabytes) => to.findings.ok(
            "max_slot_wal_keep_size",
            "max_slot_wal_keep_size",
            format!("{megabytes} MB: a slot further behind than that is lost"),
        ),
        None => {}
    }
}

/// Slots of the cluster that nobody reads, with what each holds back.
pub(crate) fn inactive_slots(facts: &Facts) -> Vec<String> {
    let inactive = facts.slots.iter().filter(|slot| slot.active_pid.is_none());
    inactive
        .map(|slot| match slot.retained_bytes {
            Some(bytes) => format!("{} (keeps {} MB of WAL)", slot.name, bytes / 1_048_576),
            None => slot.name.clone(),
        })
        .collect()
}

/// Transactions that slot creation waits for, named so that an operator finds them.
pub(crate) fn named_blockers(facts: &Facts) -> String {
    names(super::slot_checks::describe(&facts.transactions, &facts.prepared))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn synchronous_standbys_are_read_in_every_notation() {
        let read = |list| standby_names(list).collect::<Vec<_>>();
        assert_eq!(read("FIRST 2 (a, \"b c\", *)"), ["a", "b c", "*"]);
        assert_eq!(read("ANY 1 (s1)"), ["s1"]);
        assert_eq!(read("s1, s2"), ["s1", "s2"]);
        assert_eq!(read("2 (s1)"), ["s1"]);
        assert!(read("").is_empty());
    }
}
