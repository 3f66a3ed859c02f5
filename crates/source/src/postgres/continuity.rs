//! Whether a server's history goes on where the log ends: same cluster, a timeline that has everything the log has, and
//! WAL that reaches as far. What the server then sends again is compared unit by unit (`resent.rs`); this is what can
//! be known before, and before anything is changed there.

use dbstreamd_log::{Resume, SourceIdentity};
use dbstreamd_model::Lsn;

use super::{Connection, PgError, SystemIdentity};
use crate::error::SourceError;

/// Stored for a source that is a standby.
const ANY_TIMELINE: u32 = 0;

/// Refuses a server whose history is not the log's; otherwise says whose it is.
pub(super) async fn check(
    connection: &mut Connection,
    server: &SystemIdentity,
    resume: &Resume,
) -> Result<SourceIdentity, SourceError> {
    let standby = connection.is_in_recovery().await?;
    // A standby moves to its upstream's new timeline while it streams, without a word to us: only what it sends again
    // can be compared.
    let timeline = if standby { ANY_TIMELINE } else { server.timeline };
    let found = SourceIdentity { system_id: server.system_id, timeline };
    let log_lsn = resume.confirmed_through.max(resume.visible_lsn);
    // A log without anything in it continues no history yet.
    if let Some(known) = resume.source.filter(|_| !log_lsn.is_zero()) {
        if known.system_id != found.system_id {
            return Err(SourceError::OtherSystem { known: known.system_id, found: found.system_id });
        }
        if known.timeline != found.timeline && known.timeline != ANY_TIMELINE && !standby {
            let left_at = match found.timeline {
                // It has no history.
                0..=1 => None,
                timeline => switch_point(&connection.timeline_history(timeline).await?, known.timeline)?,
            };
            if left_at.is_none_or(|left_at| left_at < log_lsn) {
                return Err(SourceError::OtherTimeline {
                    known: known.timeline,
                    found: found.timeline,
                    left_at,
                    log_lsn,
                });
            }
            tracing::info!(from = known.timeline, to = found.timeline, %log_lsn, "the server was promoted, with everything this log has");
        }
    }
    if server.flush_lsn < resume.confirmed_through && standby {
        return Err(SourceError::Replaying { server_lsn: server.flush_lsn, log_lsn: resume.confirmed_through });
    }
    if server.flush_lsn < resume.confirmed_through {
        return Err(SourceError::Behind { server_lsn: server.flush_lsn, log_lsn: resume.confirmed_through });
    }
    Ok(found)
}

/// Where a history leaves `timeline`; none when it never was on it. The format is that of PostgreSQL's history files
/// (`src/backend/access/transam/timeline.c`): a line for each ancestor with its number, its end and why it ended.
fn switch_point(history: &str, timeline: u32) -> Result<Option<Lsn>, PgError> {
    for line in history.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let mut words = line.split_whitespace();
        let parsed =
            (words.next().and_then(|id| id.parse::<u32>().ok()), words.next().and_then(|lsn| lsn.parse().ok()));
        let (Some(ancestor), Some(end)) = parsed else {
            return Err(PgError::protocol("a timeline history that makes no sense"));
        };
        if ancestor == timeline {
            return Ok(Some(end));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_history_says_where_each_ancestor_was_left() {
        let history = "1\t0/3000148\tno recovery target specified\n\n# a comment\n2\t0/5000000\tbefore transaction 7\n";
        let left = |timeline| switch_point(history, timeline).unwrap();
        assert_eq!(left(1), Some(Lsn(0x300_0148)));
        assert_eq!(left(2), Some(Lsn(0x500_0000)));
        assert_eq!(left(3), None);
        assert_eq!(switch_point("", 1).unwrap(), None);
        for wrong in ["x\t0/1", "1", "1\tnowhere", "99999999999\t0/1"] {
            assert!(switch_point(wrong, 7).is_err(), "{wrong:?}");
        }
    }
}
