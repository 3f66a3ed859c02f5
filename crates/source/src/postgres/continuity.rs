//! Whether a server's history goes on where the log ends: same cluster, a timeline that has every unit the log has, and
//! WAL that reaches as far. What the server then sends again is compared unit by unit (`resent.rs`); this is what can
//! be known before, and before anything is changed there.

use dbstreamd_log::{Resume, SourceIdentity};
use dbstreamd_model::Lsn;

use super::{Connection, PgError, SystemIdentity};
use crate::epochs::HistoryBreak;
use crate::error::SourceError;

/// Stored for a source that is a standby.
const ANY_TIMELINE: u32 = 0;
/// The histories are not known to part anywhere.
const EVERYWHERE: Lsn = Lsn(u64::MAX);

/// What a server's history is to the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    /// Whose it is.
    pub(super) identity: SourceIdentity,
    /// How it does not continue the log's.
    pub(super) broken: Option<HistoryBreak>,
    /// Up to where the two are the same, as far as that is known.
    pub(super) common_through: Lsn,
}

/// Compares a server with the log. A server that is a stranger, or not ready, is an error.
pub(super) async fn check(
    connection: &mut Connection,
    server: &SystemIdentity,
    resume: &Resume,
) -> Result<Verdict, SourceError> {
    let standby = connection.is_in_recovery().await?;
    let found = Found { system_id: server.system_id, timeline: server.timeline, flush_lsn: server.flush_lsn, standby };
    let history = match found.other_timeline(resume) {
        Some(_) if found.timeline > 1 => Some(connection.timeline_history(found.timeline).await?),
        _ => None,
    };
    judge(&found, history.as_deref(), resume)
}

/// A server, as far as it matters here.
struct Found {
    system_id: u64,
    timeline: u32,
    flush_lsn: Lsn,
    standby: bool,
}

impl Found {
    /// The log's timeline, when it is comparable and another one.
    fn other_timeline(&self, resume: &Resume) -> Option<u32> {
        // A standby moves to its upstream's new timeline while it streams, without a word to us: only what it sends
        // again can be compared.
        let known = follows(resume)?.timeline;
        (known != self.timeline && known != ANY_TIMELINE && !self.standby).then_some(known)
    }
}

/// Whose history the log follows. One without anything in it follows none yet.
fn follows(resume: &Resume) -> Option<SourceIdentity> {
    let log_lsn = resume.confirmed_through.max(resume.visible_lsn);
    resume.source.filter(|_| !log_lsn.is_zero())
}

/// `history` is the server's timeline history, when it is on another timeline than the log.
fn judge(found: &Found, history: Option<&str>, resume: &Resume) -> Result<Verdict, SourceError> {
    let timeline = if found.standby { ANY_TIMELINE } else { found.timeline };
    let identity = SourceIdentity { system_id: found.system_id, timeline };
    if let Some(known) = follows(resume)
        && known.system_id != found.system_id
    {
        return Err(SourceError::OtherSystem { known: known.system_id, found: found.system_id });
    }
    let (server_lsn, log_lsn) = (found.flush_lsn, resume.confirmed_through);
    if let Some(known) = found.other_timeline(resume) {
        let left_at = history.map(|history| switch_point(history, known)).transpose()?.flatten();
        // What counts is the newest unit, not `confirmed_through`: that may be an idle position further on, in WAL that held
        // nothing for us and that a standby need not have had when it was promoted. (Any record moves it: a checkpoint is
        // enough.) So a server that left our timeline in between has all there is. But from there on its history
        // is another one, of which nothing was confirmed: the old idle position is no evidence that it has nothing for us
        // there, nor may it be confirmed to it. Hence `common_through`: the log's position is taken back to it, and a
        // slot that is already past it is a gap.
        return Ok(match left_at {
            Some(left_at) if left_at >= resume.visible_lsn => {
                tracing::info!(from = known, to = found.timeline, %left_at, "the server was promoted, with everything this log has");
                Verdict { identity, broken: None, common_through: left_at }
            }
            _ => {
                let log_lsn = resume.visible_lsn;
                let broken = HistoryBreak::OtherTimeline { known, found: found.timeline, left_at, log_lsn };
                Verdict { identity, broken: Some(broken), common_through: EVERYWHERE }
            }
        });
    }
    // On one timeline WAL never gets shorter, idle or not: a walsender sends what is flushed only.
    if server_lsn < log_lsn && found.standby {
        return Err(SourceError::Replaying { server_lsn, log_lsn });
    }
    let broken = (server_lsn < log_lsn).then_some(HistoryBreak::Behind { server_lsn, log_lsn });
    Ok(Verdict { identity, broken, common_through: EVERYWHERE })
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

    const KNOWN: SourceIdentity = SourceIdentity { system_id: 7, timeline: 1 };

    /// A log whose newest unit ends at `visible` and that has confirmed up to `confirmed`.
    fn log(visible: u64, confirmed: u64) -> Resume {
        Resume {
            confirmed_through: Lsn(confirmed),
            next_offset: dbstreamd_model::Offset(9),
            visible_lsn: Lsn(visible),
            trimmed_through: Lsn::ZERO,
            source: Some(KNOWN),
            form: None,
            epoch: dbstreamd_model::Epoch::FIRST,
            epochs_last_hour: 0,
        }
    }

    fn server(timeline: u32, flush_lsn: u64, standby: bool) -> Found {
        Found { system_id: 7, timeline, flush_lsn: Lsn(flush_lsn), standby }
    }

    #[test]
    fn a_promoted_server_goes_on_with_the_log_when_it_has_every_unit_and_only_from_where_it_left() {
        let judge = |left: &str, log: &Resume| judge(&server(2, 0x900, false), Some(left), log).unwrap();
        let identity = SourceIdentity { timeline: 2, ..KNOWN };
        // Everything, an idle position included.
        let all = judge("1\t0/500\twhy", &log(0x300, 0x500));
        assert_eq!(all, Verdict { identity, broken: None, common_through: Lsn(0x500) });
        // Every unit, but the log had confirmed an idle position further on: nothing past 0/400 is common.
        let idle = judge("1\t0/400\twhy", &log(0x300, 0x500));
        assert_eq!(idle, Verdict { identity, broken: None, common_through: Lsn(0x400) });
        assert_eq!(judge("1\t0/300\twhy", &log(0x300, 0x500)).broken, None);
        // The newest unit is missing.
        let fork = judge("1\t0/2FF\twhy", &log(0x300, 0x500));
        let (left_at, log_lsn) = (Some(Lsn(0x2FF)), Lsn(0x300));
        assert_eq!(fork.broken, Some(HistoryBreak::OtherTimeline { known: 1, found: 2, left_at, log_lsn }));
        // It never was on ours.
        assert!(judge("3\t0/600\twhy", &log(0x300, 0x500)).broken.is_some());
        // An epoch without a unit yet goes on wherever the histories are the same from its start.
        assert_eq!(judge("1\t0/400\twhy", &log(0, 0x500)).common_through, Lsn(0x400));
        // Its WAL may still be shorter than what was confirmed of the old timeline's.
        let short = super::judge(&server(2, 0x450, false), Some("1\t0/400\twhy"), &log(0x300, 0x500)).unwrap();
        assert_eq!(short.broken, None);
    }

    #[test]
    fn wal_that_got_shorter_on_the_same_timeline_is_a_break_and_a_standby_is_waited_for() {
        let behind = judge(&server(1, 0x4FF, false), None, &log(0x300, 0x500)).unwrap();
        let (server_lsn, log_lsn) = (Lsn(0x4FF), Lsn(0x500));
        assert_eq!(behind.broken, Some(HistoryBreak::Behind { server_lsn, log_lsn }));
        assert_eq!(judge(&server(1, 0x500, false), None, &log(0x300, 0x500)).unwrap().broken, None);
        let standby = judge(&server(1, 0x4FF, true), None, &log(0x300, 0x500));
        assert!(matches!(standby, Err(SourceError::Replaying { .. })));
    }

    #[test]
    fn another_system_is_refused_and_a_log_without_anything_follows_nobody() {
        let other = Found { system_id: 8, ..server(1, 0x900, false) };
        assert!(matches!(
            judge(&other, None, &log(0x300, 0x500)),
            Err(SourceError::OtherSystem { known: 7, found: 8 })
        ));
        assert_eq!(judge(&other, None, &log(0, 0)).unwrap().broken, None);
    }

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
