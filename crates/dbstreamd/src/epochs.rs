//! Where a reader crosses from one epoch of a stream into a later one. Knows neither wire format.

use dbstreamd_log::{EpochRecord, Log};
use dbstreamd_model::{Epoch, Offset, StreamId};

use crate::proto;

/// A reader's place among the epochs.
#[derive(Debug)]
pub(crate) struct Crossing {
    log: Log,
    stream: StreamId,
    /// Of everything it has had so far.
    epoch: Epoch,
}

impl Crossing {
    /// Of a reader whose next event is `next`: it has, or is taken to have, what lies before.
    pub(crate) fn before(log: Log, stream: StreamId, next: Offset) -> Self {
        let epoch = match next.previous() {
            Offset::NONE => Epoch::FIRST,
            had => log.epoch_at(stream, had),
        };
        Self { log, stream, epoch }
    }

    /// The epoch of what it has had so far.
    pub(crate) fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The next event is of `epoch`: the epochs that begin before it, oldest first; mostly none.
    pub(crate) fn enter(&mut self, epoch: Epoch) -> Vec<EpochRecord> {
        if epoch <= self.epoch {
            return Vec::new();
        }
        let mut entered = self.log.epochs(self.stream);
        entered.retain(|record| record.epoch > self.epoch && record.epoch <= epoch);
        self.epoch = epoch;
        entered
    }
}

/// An epoch in the contract's words.
pub(crate) fn contract(record: &EpochRecord) -> proto::Epoch {
    use dbstreamd_log::EpochReason as Known;
    use proto::EpochReason as Said;
    let reason = match record.reason {
        Known::SlotAhead => Said::SlotAhead,
        Known::ServerBehind => Said::ServerBehind,
        Known::OtherTimeline => Said::OtherTimeline,
        Known::HistoryRewritten => Said::HistoryRewritten,
        Known::SlotGone => Said::SlotGone,
        Known::SlotInvalidated => Said::SlotInvalidated,
    };
    proto::Epoch {
        epoch: record.epoch.0,
        first_offset: record.first_offset.0,
        reason: reason.into(),
        log_lsn: record.log_lsn.0,
        source_lsn: record.source_lsn.0,
        started_at_us: record.started_at.0,
    }
}

#[cfg(test)]
mod tests {
    use dbstreamd_log::EpochReason;

    use super::*;

    #[test]
    fn reasons_have_the_same_names_in_the_log_and_in_the_contract() {
        for reason in EpochReason::ALL {
            let source = dbstreamd_log::SourceIdentity { system_id: 1, timeline: 1 };
            let (log_lsn, source_lsn) = (dbstreamd_model::Lsn(1), dbstreamd_model::Lsn(2));
            let (epoch, first_offset, started_at) = (Epoch(2), Offset(3), dbstreamd_model::Timestamp(4));
            let said = contract(&EpochRecord { epoch, first_offset, reason, log_lsn, source_lsn, source, started_at });
            assert_eq!(crate::json::epoch_reason(&said), reason.name());
        }
    }
}
