//! A new epoch: the stream's history broke with its source's, and goes on behind the last visible event.
//!
//! All of it is one write: the invisible tail goes, the epoch's record comes, and the stream's state starts over. So a
//! crash leaves the old epoch with everything it had, or the new one with nothing in it.

use dbstreamd_model::{Epoch, Lsn, Timestamp};

use super::Writer;
use super::control::remove_tail;
use crate::epochs::{EpochBreak, EpochRecord};
use crate::error::LogError;
use crate::failpoint::Failpoint;
use crate::store::{Batch, MetaKey, SourceRecord, StoredForm, StreamState};
use crate::stream::Stream;

impl Writer {
    /// Raises the epoch of a stream, durably. Nothing of the new epoch can have been appended before, and what was noted
    /// as idle in the old one was taken along in this very turn.
    pub(super) fn raise_epoch(&mut self, stream: &Stream, broken: EpochBreak) -> Result<EpochRecord, LogError> {
        let slot = self.streams.get_mut(&stream.id).ok_or(LogError::UnknownStream(stream.id.0))?;
        let (old, mut directory) = (slot.state, stream.layout.read().directory.clone());
        let record = EpochRecord {
            // Saturates after four billion breaks.
            epoch: Epoch(old.epoch.0.saturating_add(1)),
            first_offset: old.visible.next(),
            reason: broken.reason,
            log_lsn: old.confirmed_through.max(old.visible_lsn),
            source_lsn: broken.source_lsn,
            source: broken.source,
            started_at: Timestamp::now(),
        };
        let new = StreamState {
            epoch: record.epoch,
            durable: old.visible,
            // No unit of this epoch yet: positions of the old one mean nothing in it. Commit times go on, since their
            // running maximum is what a time is sought by in the whole log.
            visible_lsn: Lsn::ZERO,
            confirmed_through: broken.source_lsn,
            ..old
        };
        let mut batch = Batch::default();
        remove_tail(&self.store, &mut batch, stream.id, &old, &mut directory)?;
        self.store.put_meta(&mut batch, MetaKey::Epoch(stream.id, record.epoch), &record.encode())?;
        self.store.put_meta(&mut batch, MetaKey::StreamState(stream.id), &new.encode())?;
        // Positions of the old epoch mean nothing in this one, of which there is nothing yet.
        let form = stream.form.lock().map(|stored| StoredForm { since: Lsn::ZERO, ..stored });
        let source = SourceRecord { identity: broken.source, form };
        self.store.put_meta(&mut batch, MetaKey::Source(stream.id), &source.encode())?;
        Failpoint::EpochRaising.reach();
        self.store.commit(&batch)?;
        Failpoint::EpochRaised.reach();

        slot.state = new;
        slot.partition = directory.last().map(|(seq, _)| *seq);
        let mut layout = stream.layout.write();
        layout.directory = directory;
        layout.epochs.push(record);
        drop(layout);
        (*stream.source.lock(), *stream.form.lock()) = (Some(broken.source), form);
        stream.published.publish(&new);
        Ok(record)
    }
}
