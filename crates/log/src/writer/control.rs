//! The writer's rare commands: streams are created, and what is not visible is deleted.

use std::collections::BTreeMap;
use std::sync::Arc;

use dbstreamd_model::{ConsumerName, Lsn, Offset, StreamId, StreamName};

use super::{Command, Next, Slot, Writer};
use crate::appender::{Restart, Resume};
use crate::error::LogError;
use crate::failpoint::Failpoint;
use crate::schemas::StoredSchema;
use crate::skips::Skip;
use crate::store::{
    Batch, Entry, LoadedStream, MetaKey, PartitionSeq, SourceIdentity, SourceRecord, Store, StoredForm, StreamState,
    encode_schema, encode_setting, encode_skip,
};
use crate::stream::Stream;
use crate::tables::{TableChange, TableName};

impl Writer {
    /// Does a command that stands alone; everything asked before it has been done.
    pub(super) fn control(&mut self, command: Command) -> Result<Next, LogError> {
        // In each arm: whoever asked may have gone away, and does not need the answer then. A failed write ends the
        // writer, so it is returned; who asked learns of it from the log's failure.
        match command {
            Command::OpenStream { name, reply } => {
                let stream = self.open_stream(name)?;
                let _ = reply.send(Ok(stream));
            }
            Command::Reset { stream, reply } => {
                let restart = self.reset(&stream)?;
                let _ = reply.send(Ok(restart));
            }
            Command::Forget { stream, consumer, reply } => {
                let committed = self.forget(&stream, &consumer)?;
                let _ = reply.send(Ok(committed));
            }
            Command::Bind { stream, source, confirmed_max, reply } => {
                self.bind(&stream, source, confirmed_max)?;
                let _ = reply.send(Ok(()));
            }
            Command::Skip { stream, skip, reply } => {
                self.skip(&stream, skip)?;
                let _ = reply.send(Ok(()));
            }
            Command::RestoreSchemas { stream, schemas, reply } => {
                self.restore_schemas(&stream, schemas)?;
                let _ = reply.send(Ok(()));
            }
            Command::Form { stream, form, reply } => {
                self.store_form(&stream, form)?;
                let _ = reply.send(Ok(()));
            }
            Command::RaiseEpoch { stream, broken, reply } => {
                let record = self.raise_epoch(&stream, broken)?;
                let _ = reply.send(Ok(record));
            }
            Command::ClearTable { stream, table, reply } => {
                let cleared = self.clear_table(&stream, table)?;
                let _ = reply.send(Ok(cleared));
            }
            Command::Settings { changes, reply } => {
                self.store_settings(changes)?;
                let _ = reply.send(Ok(()));
            }
            Command::Retain { reply } => {
                self.retain()?;
                let _ = reply.send(Ok(()));
            }
            Command::Close => return Ok(Next::Close),
            // These two are gathered, never handed on to here.
            Command::Chunk(_) | Command::Commit(_) => {}
            #[cfg(test)]
            Command::Panic => panic!("as told"),
            #[cfg(test)]
            Command::Fail => return Err(LogError::Store { action: "write", reason: "as told".into() }),
        }
        Ok(Next::Continue)
    }

    fn open_stream(&mut self, name: StreamName) -> Result<Arc<Stream>, LogError> {
        if let Some(slot) = self.streams.values().find(|slot| slot.stream.name == name) {
            return Ok(Arc::clone(&slot.stream));
        }
        let newest = self.streams.keys().map(|id| id.0).max().unwrap_or(0);
        let id = StreamId(newest.saturating_add(1));
        let mut batch = Batch::default();
        self.store.put_meta(&mut batch, MetaKey::StreamName(id), name.as_str().as_bytes())?;
        self.store.put_meta(&mut batch, MetaKey::StreamState(id), &StreamState::NEW.encode())?;
        self.store.commit(&batch)?;
        let stream = Arc::new(Stream::new(id, &LoadedStream::new(name), self.shared.options.notices.clone()));
        self.streams.insert(id, Slot { stream: Arc::clone(&stream), state: StreamState::NEW, partition: None });
        self.shared.add_stream(Arc::clone(&stream));
        Ok(stream)
    }

    fn forget(&mut self, stream: &Stream, consumer: &ConsumerName) -> Result<Option<Offset>, LogError> {
        let Some(committed) = stream.consumers.read().get(consumer).map(|known| known.committed.offset) else {
            return Ok(None);
        };
        let mut batch = Batch::default();
        self.store.delete_meta(&mut batch, MetaKey::Consumer(stream.id, consumer.as_str()))?;
        self.store.commit(&batch)?;
        stream.consumers.write().remove(consumer);
        Ok(Some(committed))
    }

    fn clear_table(&mut self, stream: &Stream, table: TableName) -> Result<bool, LogError> {
        if !stream.tables.read().diverged.contains_key(&table) {
            return Ok(false);
        }
        let mut batch = Batch::default();
        self.store.delete_meta(&mut batch, MetaKey::Diverged(stream.id, &table.to_key()))?;
        self.store.commit(&batch)?;
        Arc::make_mut(&mut stream.tables.write()).apply(table, TableChange::Cleared);
        Ok(true)
    }

    fn bind(&mut self, stream: &Stream, source: SourceIdentity, confirmed_max: Lsn) -> Result<(), LogError> {
        let slot = self.streams.get_mut(&stream.id).ok_or(LogError::UnknownStream(stream.id.0))?;
        let mut state = slot.state;
        state.confirmed_through = state.confirmed_through.min(confirmed_max.max(state.visible_lsn));
        let mut batch = Batch::default();
        let record = SourceRecord { identity: source, form: *stream.form.lock() };
        self.store.put_meta(&mut batch, MetaKey::Source(stream.id), &record.encode())?;
        self.store.put_meta(&mut batch, MetaKey::StreamState(stream.id), &state.encode())?;
        self.store.commit(&batch)?;
        slot.state = state;
        *stream.source.lock() = Some(source);
        stream.published.publish(&state);
        Ok(())
    }

    fn skip(&mut self, stream: &Stream, skip: Skip) -> Result<(), LogError> {
        let mut batch = Batch::default();
        self.store.put_meta(&mut batch, MetaKey::Skip(stream.id, skip.first), &encode_skip(&skip))?;
        self.store.commit(&batch)?;
        let mut skips = stream.skips.write();
        // One from the same place on is replaced, on disk too.
        skips.retain(|known| known.first != skip.first);
        skips.push(skip);
        skips.sort_unstable_by_key(|skip| skip.first);
        Ok(())
    }

    /// Writes records anew that were damaged or gone.
    fn restore_schemas(&mut self, stream: &Stream, schemas: Vec<StoredSchema>) -> Result<(), LogError> {
        let mut batch = Batch::default();
        for schema in &schemas {
            self.store.put_meta(&mut batch, MetaKey::Schema(stream.id, schema.id), &encode_schema(schema))?;
        }
        self.store.commit(&batch)?;
        let mut registry = stream.schemas.write();
        for schema in schemas {
            Arc::make_mut(&mut registry).restore(schema);
        }
        Ok(())
    }

    fn store_form(&mut self, stream: &Stream, form: StoredForm) -> Result<(), LogError> {
        // Without a source there is nothing that a form could be of.
        let Some(identity) = *stream.source.lock() else { return Ok(()) };
        let record = SourceRecord { identity, form: Some(form) };
        let mut batch = Batch::default();
        self.store.put_meta(&mut batch, MetaKey::Source(stream.id), &record.encode())?;
        self.store.commit(&batch)?;
        *stream.form.lock() = Some(form);
        Ok(())
    }

    fn store_settings(&mut self, changes: BTreeMap<String, Option<String>>) -> Result<(), LogError> {
        let mut batch = Batch::default();
        for (name, value) in &changes {
            match value {
                Some(value) => self.store.put_meta(&mut batch, MetaKey::Setting(name), &encode_setting(value))?,
                None => self.store.delete_meta(&mut batch, MetaKey::Setting(name))?,
            }
        }
        self.store.commit(&batch)?;
        let mut settings = self.shared.settings.write();
        for (name, value) in changes {
            match value {
                Some(value) => settings.insert(name, value),
                None => settings.remove(&name),
            };
        }
        Ok(())
    }

    fn reset(&mut self, stream: &Arc<Stream>) -> Result<Restart, LogError> {
        let slot = self.streams.get_mut(&stream.id).ok_or(LogError::UnknownStream(stream.id.0))?;
        let mut directory = stream.layout.read().directory.clone();
        delete_tail(&self.store, stream.id, &mut slot.state, &mut directory)?;
        slot.partition = directory.last().map(|(seq, _)| *seq);
        let mut layout = stream.layout.write();
        layout.directory = directory;
        let (trimmed_through, epochs_last_hour) = (layout.trimmed_in_newest_epoch(), layout.epochs_last_hour());
        drop(layout);
        stream.published.publish(&slot.state);
        Ok(Restart {
            resume: Resume {
                confirmed_through: slot.state.confirmed_through,
                next_offset: slot.state.visible.next(),
                visible_lsn: slot.state.visible_lsn,
                trimmed_through,
                source: *stream.source.lock(),
                form: *stream.form.lock(),
                epoch: slot.state.epoch,
                epochs_last_hour,
            },
            life: self.shared.queue.life(),
            commit_time_max: slot.state.commit_time_max,
        })
    }
}

/// Deletes, durably, everything of a stream that is not visible: the fragments of a unit whose end never came.
///
/// It must be done before anything is appended: the unit will be sent again and cut differently, and overwriting key
/// by key would leave some of its rows doubled.
pub(crate) fn delete_tail(
    store: &Store,
    stream: StreamId,
    state: &mut StreamState,
    directory: &mut Vec<(PartitionSeq, Entry)>,
) -> Result<(), LogError> {
    if state.durable == state.visible {
        return Ok(());
    }
    let mut batch = Batch::default();
    remove_tail(store, &mut batch, stream, state, directory)?;
    let removed = state.durable.events_since(state.visible);
    state.durable = state.visible;
    store.put_meta(&mut batch, MetaKey::StreamState(stream), &state.encode())?;
    Failpoint::TailDeleting.reach();
    store.commit(&batch)?;
    Failpoint::TailDeleted.reach();
    tracing::info!(stream = stream.0, events = removed, "removed the beginning of a transaction that had no end");
    Ok(())
}

/// Puts the removal of a stream's invisible tail into `batch`, and takes what begins in it out of `directory`. The tail
/// is of the newest epoch: raising one removes it.
pub(super) fn remove_tail(
    store: &Store,
    batch: &mut Batch,
    stream: StreamId,
    state: &StreamState,
    directory: &mut Vec<(PartitionSeq, Entry)>,
) -> Result<(), LogError> {
    if state.durable == state.visible {
        return Ok(());
    }
    // The tail begins in the last partition that starts at or before it, and fills all after that one.
    let begins = directory.partition_point(|(_, entry)| entry.first_offset <= state.visible.next()).saturating_sub(1);
    for (seq, entry) in directory.get(begins..).unwrap_or_default() {
        store.delete_after(batch, *seq, (stream, state.epoch), state.visible)?;
        if entry.first_offset > state.visible {
            store.delete_meta(batch, MetaKey::Directory(stream, *seq))?;
        }
    }
    directory.retain(|(_, entry)| entry.first_offset <= state.visible);
    Ok(())
}
