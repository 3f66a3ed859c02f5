//! WAL insurance: a second slot that nobody streams from, kept a bounded way behind what our log has confirmed.
//!
//! The stream's own slot lets the server forget whatever is durable here. Should the data directory be lost, what was only in it can be
//! read again from this slot, as far back as the cap allows: docs/operations.md says how. It is made and moved by the slot guard, over the
//! guard's own session, with functions of the server; it is never dropped by us.

use std::time::Duration;

use dbstreamd_model::Lsn;

use super::setup::SourceSettings;
use super::{Connection, PgError, quote_literal};
use crate::status::InsuranceHealth;

/// What is added to a slot's name for the insurance slot's.
pub const SUFFIX: &str = "_insurance";

/// How long creating or moving it may take, at the server. Creating waits for transactions that are open; moving reads the WAL in between.
const STATEMENT_MAX: Duration = Duration::from_secs(50);
/// How long we wait for the server to say so.
pub(super) const INSURE_MAX: Duration = Duration::from_secs(60);

/// This part of the cap is left free, for what is written until the next look.
const SLACK_PART: u64 = 8;

/// The insurance slot's name.
pub(crate) fn slot_name(slot: &str) -> String {
    format!("{slot}{SUFFIX}")
}

/// Makes the slot if it is missing, and moves it as far as the cap demands, but never past `confirmed`, which is what the stream's own slot
/// has confirmed.
pub(super) async fn insure(
    connection: &mut Connection,
    settings: &SourceSettings,
    cap: u64,
    confirmed: Lsn,
) -> Result<InsuranceHealth, PgError> {
    let name = slot_name(&settings.slot);
    let limits = format!("SET statement_timeout = {}", STATEMENT_MAX.as_millis());
    connection.simple_query(&limits).await?;
    let seen = match look(connection, &name).await? {
        Some(seen) => seen,
        None => {
            let create = format!(
                "SELECT lsn FROM pg_catalog.pg_create_logical_replication_slot({}, 'pgoutput')",
                quote_literal(&name)
            );
            connection.simple_query(&create).await?;
            tracing::info!(stream = %settings.name, slot = %name, cap_mb = cap / 1_048_576, "created the insurance slot");
            look(connection, &name).await?.unwrap_or_default()
        }
    };
    let seen = match seen.target(cap, confirmed) {
        Some(target) if !seen.is_lost() => {
            let advance =
                format!("SELECT 1 FROM pg_catalog.pg_replication_slot_advance({}, '{target}')", quote_literal(&name));
            connection.simple_query(&advance).await?;
            look(connection, &name).await?.unwrap_or_default()
        }
        _ => seen,
    };
    Ok(InsuranceHealth {
        slot: name,
        wal_status: seen.wal_status.clone(),
        restart_lsn: seen.restart,
        retained_bytes: if seen.is_lost() { 0 } else { seen.wal_end.bytes_since(seen.restart) },
    })
}

/// The slot as the server shows it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Seen {
    restart: Lsn,
    confirmed_flush: Lsn,
    wal_end: Lsn,
    wal_status: String,
}

async fn look(connection: &mut Connection, name: &str) -> Result<Option<Seen>, PgError> {
    let statement = format!(
        "SELECT s.restart_lsn, s.confirmed_flush_lsn, CASE WHEN pg_catalog.pg_is_in_recovery() \
         THEN pg_catalog.pg_last_wal_replay_lsn() ELSE pg_catalog.pg_current_wal_lsn() END, s.wal_status \
         FROM pg_catalog.pg_replication_slots s WHERE s.slot_name = {}",
        quote_literal(name)
    );
    let rows = connection.simple_query(&statement).await?;
    Ok(rows.first().map(|row| {
        let cell = |index: usize| row.get(index).and_then(|cell| cell.as_deref());
        let lsn = |index| cell(index).and_then(|text| text.parse().ok()).unwrap_or(Lsn::ZERO);
        let wal_status = cell(3).unwrap_or_default().to_owned();
        Seen { restart: lsn(0), confirmed_flush: lsn(1), wal_end: lsn(2), wal_status }
    }))
}

impl Seen {
    fn is_lost(&self) -> bool {
        self.wal_status == "lost" || self.restart == Lsn::ZERO
    }

    /// Where to move it so that the server keeps no more than the cap; none while it keeps less. What the server keeps
    /// begins some way before the position that was confirmed, and that way is taken off too.
    fn target(&self, cap: u64, confirmed: Lsn) -> Option<Lsn> {
        let kept = self.wal_end.bytes_since(self.restart);
        let wanted = cap - cap / SLACK_PART;
        if kept <= wanted {
            return None;
        }
        let before = self.confirmed_flush.bytes_since(self.restart);
        let target = Lsn(self.wal_end.0.saturating_sub(wanted.saturating_sub(before))).min(confirmed);
        (target > self.confirmed_flush).then_some(target)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_moved_when_it_keeps_too_much_and_never_past_what_the_log_has() {
        let seen = |restart, confirmed_flush, wal_end| Seen {
            restart: Lsn(restart),
            confirmed_flush: Lsn(confirmed_flush),
            wal_end: Lsn(wal_end),
            wal_status: "reserved".into(),
        };
        // A cap of 800: 700 are kept.
        assert_eq!(seen(1000, 1000, 1700).target(800, Lsn(1700)), None);
        assert_eq!(seen(1000, 1000, 2000).target(800, Lsn(2000)), Some(Lsn(1300)));
        assert_eq!(seen(1000, 1000, 2000).target(800, Lsn(1200)), Some(Lsn(1200)));
        assert_eq!(seen(1000, 1000, 2000).target(800, Lsn(900)), None, "never back");
        // The server keeps 200 more than was confirmed.
        assert_eq!(seen(1000, 1200, 2000).target(800, Lsn(2000)), Some(Lsn(1500)));
        assert_eq!(
            seen(1000, 2900, 4000).target(800, Lsn(4000)),
            Some(Lsn(4000)),
            "an open transaction: as far as it goes"
        );
        assert!(Seen::default().is_lost());
    }
}
