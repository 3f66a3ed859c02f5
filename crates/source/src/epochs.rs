//! When a source's history does not continue the log's: the log goes on under a new epoch, or the stream stops.
//!
//! Either way nothing is spliced. Who finds a break says so as a [`HistoryBreak`]; [`permit`] decides by the source's
//! policy and by how often it happened lately, before anything is changed at the source; [`raise`] makes the epoch
//! durable, before anything of the new history is appended or confirmed.

use dbstreamd_log::{Appender, EpochBreak, EpochReason, Failpoint, Resume, SourceIdentity, StoredForm};
use dbstreamd_model::{Lsn, Severity};
use serde::{Deserialize, Serialize};

use crate::Session;
use crate::error::SourceError;
use crate::status::StreamStatus;

/// New epochs of one stream within an hour. Each makes every consumer start over, so whatever causes more of them (a name
/// that leads to two servers, a slot that somebody else moves) needs a person.
pub(crate) const EPOCHS_PER_HOUR_MAX: usize = 3;

/// What happens when the source's history does not continue the log's.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum OnGap {
    /// The log goes on under a new epoch; consumers are told.
    #[default]
    NewEpoch,
    /// The stream stops until somebody has decided.
    Fail,
}

/// What happens when the slot of a stream that ran before is gone or invalidated.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum OnLostSlot {
    /// The stream stops until somebody has decided.
    #[default]
    Fail,
    /// The slot is created anew, and the log goes on under a new epoch.
    Recreate,
}

/// How a source's history does not continue the log's. Shown, it is the cause; the remedy depends on the policy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HistoryBreak {
    /// The slot moved on without us.
    #[error(
        "the slot {slot} has been confirmed up to {slot_lsn} but this log ends at {log_lsn}: the changes between are lost to this log"
    )]
    SlotAhead {
        /// Slot name.
        slot: String,
        /// Its `confirmed_flush_lsn`.
        slot_lsn: Lsn,
        /// Up to where the log has the server's history.
        log_lsn: Lsn,
    },
    /// The server's WAL ends before ours does.
    #[error(
        "the server's WAL ends at {server_lsn} but this log already follows it up to {log_lsn}: it was put back to an older state (restored from a backup or a volume snapshot), or is another copy"
    )]
    Behind {
        /// The server's flush position.
        server_lsn: Lsn,
        /// Our `confirmed_through`.
        log_lsn: Lsn,
    },
    /// A promoted or recovered server that lacks changes the log has.
    #[error(
        "the server is on timeline {found}, {}, but this log follows timeline {known} up to {log_lsn}: a standby was promoted without the newest changes, or the server was recovered to a point in time",
        left_note(*.known, *.left_at)
    )]
    OtherTimeline {
        /// The log's timeline.
        known: u32,
        /// The server's.
        found: u32,
        /// Where the server's history left the log's timeline; none when it never was on it.
        left_at: Option<Lsn>,
        /// Where the log's newest unit ends.
        log_lsn: Lsn,
    },
    /// A unit was sent again and differs from what the log has.
    #[error(
        "the source sent a transaction again that differs from the log ({detail}): its history was rewritten (put back to an older state, or another copy)"
    )]
    Rewritten {
        /// What differs, with LSNs.
        detail: String,
    },
    /// The slot was gone.
    #[error("the slot {slot} was gone: the changes between its loss and its new beginning are lost to this log")]
    SlotGone {
        /// Slot name.
        slot: String,
    },
    /// The server had given the slot up.
    #[error("the server had invalidated the slot {slot} ({why}): the changes after its position are lost to this log")]
    SlotInvalidated {
        /// Slot name.
        slot: String,
        /// In the server's words.
        why: String,
    },
}

impl HistoryBreak {
    /// What is recorded of it.
    pub fn reason(&self) -> EpochReason {
        match self {
            Self::SlotAhead { .. } => EpochReason::SlotAhead,
            Self::Behind { .. } => EpochReason::ServerBehind,
            Self::OtherTimeline { .. } => EpochReason::OtherTimeline,
            Self::Rewritten { .. } => EpochReason::HistoryRewritten,
            Self::SlotGone { .. } => EpochReason::SlotGone,
            Self::SlotInvalidated { .. } => EpochReason::SlotInvalidated,
        }
    }

    /// Whether it is the loss of the slot, which has a policy of its own.
    fn is_lost_slot(&self) -> bool {
        matches!(self, Self::SlotGone { .. } | Self::SlotInvalidated { .. })
    }
}

fn left_note(known: u32, left_at: Option<Lsn>) -> String {
    left_at.map_or_else(
        || format!("which does not come from timeline {known}"),
        |lsn| format!("which left timeline {known} at {lsn}"),
    )
}

/// Whether the log may go on under a new epoch. (A lost slot was made anew only where that was permitted before.)
pub(crate) fn permit(broken: HistoryBreak, on_gap: OnGap, resume: &Resume) -> Result<HistoryBreak, SourceError> {
    if on_gap == OnGap::Fail && !broken.is_lost_slot() {
        return Err(SourceError::Broken(broken));
    }
    if resume.epochs_last_hour >= EPOCHS_PER_HOUR_MAX {
        return Err(SourceError::TooManyEpochs(broken));
    }
    Ok(broken)
}

/// Makes durable whose history the log goes on with, under a new epoch when it is not the log's own. To be called before
/// anything of the session is read. Gives where the log stands then.
pub(crate) async fn adopt(
    appender: &mut Appender,
    status: &StreamStatus,
    session: &mut Session,
    resume: Resume,
) -> Result<Resume, SourceError> {
    let Session { identity, form, common_through, resends_from, .. } = *session;
    let resume = if let Some(broken) = session.broken.take() {
        raise(appender, status, resends_from, identity, &broken).await?
    } else if resume.source == Some(identity) && common_through >= resume.confirmed_through {
        resume
    } else {
        appender.bind_source(identity, common_through).await?;
        Failpoint::SourceBound.reach();
        appender.begin_session().await?
    };
    if resume.form.is_some_and(|stored| stored.form == form) {
        return Ok(resume);
    }
    // A log from before the form was kept has what this session would print, as far as anybody knows.
    let mut stored = StoredForm { form, since: Lsn::ZERO };
    if resume.form.is_some() && !resume.visible_lsn.is_zero() {
        stored.since = resume.visible_lsn;
        let text = format!(
            "values come in another form from now on (the setting binary or raw_text, or the version of dbstreamd, is another): what the log has up to {} stays as it is, and what the source sends of that again is compared by LSN, transaction and time only",
            resume.visible_lsn
        );
        status.notice(Severity::Info, "value_form_changed", text);
    }
    appender.bind_form(stored).await?;
    Ok(Resume { form: Some(stored), ..resume })
}

/// Begins a new epoch, durably, and says so. Gives where the log stands then.
pub(crate) async fn raise(
    appender: &mut Appender,
    status: &StreamStatus,
    source_lsn: Lsn,
    source: SourceIdentity,
    cause: &HistoryBreak,
) -> Result<Resume, SourceError> {
    let record = appender.raise_epoch(EpochBreak { reason: cause.reason(), source_lsn, source }).await?;
    status.start_over();
    let text = format!(
        "epoch {} begins at offset {}: {cause} (the log's history ends at {}, the new one begins at {}); what was visible stays as it is under the epoch before; every consumer that holds anything of it must bring its copy in line with the source, and a named one must then subscribe with an explicit start",
        record.epoch, record.first_offset, record.log_lsn, record.source_lsn
    );
    status.notice(Severity::Error, "epoch_raised", text);
    Ok(appender.begin_session().await?)
}
