//! Reads all records at the start, checks that they fit together, and finishes what a crash interrupted.

use std::collections::BTreeMap;

use dbstreamd_model::{ConsumerName, Epoch, SchemaId, StreamId, StreamName};

use super::records::{self, Committed, Entry, Partition, SourceIdentity, SourceRecord, StoredForm, StreamState, Trim};
use super::{Batch, MetaKey, PartitionSeq, Store};
use crate::epochs::{EpochRecord, epoch_of};
use crate::error::LogError;
use crate::failpoint::Failpoint;
use crate::schemas::SchemaRegistry;
use crate::skips::Skip;
use crate::tables::{Divergence, TableBinding, TableBook, TableChange, TableName};

/// Everything the records say.
#[derive(Debug, Default)]
pub(crate) struct Loaded {
    pub(crate) streams: BTreeMap<StreamId, LoadedStream>,
    pub(crate) partitions: BTreeMap<PartitionSeq, Partition>,
    pub(crate) settings: BTreeMap<String, String>,
}

/// What the records say of one stream.
#[derive(Debug)]
pub(crate) struct LoadedStream {
    pub(crate) name: StreamName,
    pub(crate) state: StreamState,
    pub(crate) trim: Trim,
    pub(crate) source: Option<SourceIdentity>,
    pub(crate) form: Option<StoredForm>,
    pub(crate) epochs: Vec<EpochRecord>,
    pub(crate) schemas: SchemaRegistry,
    pub(crate) skips: Vec<Skip>,
    pub(crate) tables: TableBook,
    pub(crate) directory: Vec<(PartitionSeq, Entry)>,
    pub(crate) consumers: BTreeMap<ConsumerName, Committed>,
}

/// Reads the records and brings the column families in line with them.
pub(super) fn load(store: &Store) -> Result<Loaded, LogError> {
    let mut loaded = Loaded::default();
    store.records(|key, value| take_record(&mut loaded, key, value))?;
    for stream in loaded.streams.values_mut() {
        stream.schemas.expect_through(stream.state.schemas);
        stream.state.schemas = stream.schemas.newest();
    }
    finish_drops(store, &mut loaded)?;
    remove_orphans(store, &loaded)?;
    for stream in loaded.streams.values() {
        check(stream, &loaded.partitions)?;
    }
    Ok(loaded)
}

fn take_record(loaded: &mut Loaded, key: &[u8], value: &[u8]) -> Result<(), LogError> {
    let damaged = |what: String, reason: &str| LogError::DamagedRecord { what, reason: reason.into() };
    let key = MetaKey::from_bytes(key).ok_or_else(|| damaged(format!("key {key:02x?}"), "it is of no known kind"))?;
    // Keys sort by kind, names first, so that a record of an unknown stream is damage.
    match key {
        MetaKey::FormatVersion => {}
        MetaKey::StreamName(id) => {
            let name = std::str::from_utf8(value).ok().and_then(|name| name.parse().ok());
            let name = name.ok_or_else(|| damaged(format!("stream {}", id.0), "its name is not a name"))?;
            loaded.streams.insert(id, LoadedStream::new(name));
        }
        MetaKey::StreamState(id) => loaded.stream(id)?.state = StreamState::decode(value)?,
        MetaKey::Epoch(id, epoch) => {
            let record = records::decode_epoch(epoch, value)?;
            loaded.stream(id)?.epochs.push(record);
        }
        MetaKey::Schema(id, schema) => {
            let decoded = records::decode_schema(schema, value)?;
            let schemas = &mut loaded.stream(id)?.schemas;
            // Only events that use a damaged one cannot be read.
            schemas.expect_through(if decoded.is_some() { SchemaId(schema.0.saturating_sub(1)) } else { schema });
            decoded.map(|decoded| schemas.insert(decoded));
        }
        MetaKey::Consumer(id, name) => {
            let name = name.parse().map_err(|_| damaged(format!("consumer {name:?}"), "its name is not a name"))?;
            let stream = loaded.stream(id)?;
            // Epochs sort before consumers.
            let committed = Committed::decode(value, |offset| epoch_of(&stream.epochs, offset).0)?;
            stream.consumers.insert(name, committed);
        }
        MetaKey::Partition(seq) => {
            loaded.partitions.insert(seq, Partition::decode(value)?);
        }
        MetaKey::Directory(id, seq) => loaded.stream(id)?.directory.push((seq, Entry::decode(value)?)),
        MetaKey::Trim(id) => loaded.stream(id)?.trim = Trim::decode(value)?,
        MetaKey::Setting(name) => {
            loaded.settings.insert(name.to_owned(), records::decode_setting(value)?);
        }
        MetaKey::Table(id, name) => {
            let name = TableName::from_key(name).ok_or_else(|| damaged(format!("table {name:?}"), "it is no name"))?;
            let binding = TableBinding::decode(value)?;
            loaded.stream(id)?.tables.apply(name, TableChange::Bound(binding));
        }
        MetaKey::Diverged(id, name) => {
            let name = TableName::from_key(name).ok_or_else(|| damaged(format!("table {name:?}"), "it is no name"))?;
            let divergence = Divergence::decode(value)?;
            loaded.stream(id)?.tables.apply(name, TableChange::Diverged(divergence));
        }
        MetaKey::Skip(id, first) => {
            let skip = records::decode_skip(first, value)?;
            loaded.stream(id)?.skips.push(skip);
        }
        MetaKey::Source(id) => {
            let SourceRecord { identity, form } = SourceRecord::decode(value)?;
            let stream = loaded.stream(id)?;
            (stream.source, stream.form) = (Some(identity), form);
        }
    }
    Ok(())
}

/// Retention made its trim points durable and was interrupted before, while or after it removed the files.
fn finish_drops(store: &Store, loaded: &mut Loaded) -> Result<(), LogError> {
    let dropping: Vec<_> = loaded.partitions.iter().filter(|(_, p)| p.dropping).map(|(&seq, _)| seq).collect();
    for seq in dropping {
        store.drop_partition(seq)?;
        Failpoint::DropFinished.reach();
        let mut batch = Batch::default();
        store.delete_meta(&mut batch, MetaKey::Partition(seq))?;
        store.commit(&batch)?;
        loaded.partitions.remove(&seq);
        tracing::info!(partition = seq.0, "finished removing a partition that retention had given up");
    }
    Ok(())
}

/// A partition's family is created just before the batch with its record: a crash between leaves an empty family.
fn remove_orphans(store: &Store, loaded: &Loaded) -> Result<(), LogError> {
    let orphans = store.partitions().into_iter().filter(|seq| !loaded.partitions.contains_key(seq));
    for seq in orphans {
        store.drop_partition(seq)?;
    }
    let missing = loaded.partitions.keys().find(|seq| !store.has_partition(**seq));
    missing.map_or(Ok(()), |seq| {
        Err(LogError::DamagedRecord {
            what: format!("partition {}", seq.0),
            reason: "its column family is missing".into(),
        })
    })
}

/// What is written in one batch must be found together.
fn check(stream: &LoadedStream, partitions: &BTreeMap<PartitionSeq, Partition>) -> Result<(), LogError> {
    let damaged =
        |reason: &str| Err(LogError::DamagedRecord { what: format!("stream {}", stream.name), reason: reason.into() });
    if stream.directory.iter().any(|(seq, _)| !partitions.contains_key(seq)) {
        return damaged("its directory names a partition that does not exist");
    }
    if !stream.directory.is_sorted_by_key(|(_, entry)| entry.first_offset) {
        return damaged("its directory is out of order");
    }
    if stream.trim.point > stream.state.visible {
        return damaged("its trim point is past its visible end");
    }
    // The first has no record; the newest is the state's.
    let numbers = (Epoch::FIRST.0.saturating_add(1)..).zip(&stream.epochs);
    if numbers.into_iter().any(|(number, record)| record.epoch.0 != number)
        || stream.epochs.last().map_or(Epoch::FIRST, |newest| newest.epoch) != stream.state.epoch
    {
        return damaged("its epochs are not numbered one after the other up to its own");
    }
    if !stream.epochs.is_sorted_by_key(|record| record.first_offset)
        || stream.epochs.last().is_some_and(|newest| newest.first_offset > stream.state.visible.next())
    {
        return damaged("its epochs are out of order");
    }
    if stream.directory.is_empty() && stream.trim.point != stream.state.durable {
        return damaged("its events are in no partition");
    }
    Ok(())
}

impl Loaded {
    fn stream(&mut self, id: StreamId) -> Result<&mut LoadedStream, LogError> {
        self.streams.get_mut(&id).ok_or_else(|| LogError::DamagedRecord {
            what: format!("stream {}", id.0),
            reason: "it has no name".into(),
        })
    }
}

impl LoadedStream {
    pub(crate) fn new(name: StreamName) -> Self {
        Self {
            name,
            state: StreamState::NEW,
            trim: Trim::NONE,
            source: None,
            form: None,
            epochs: Vec::new(),
            schemas: SchemaRegistry::default(),
            skips: Vec::new(),
            tables: TableBook::default(),
            directory: Vec::new(),
            consumers: BTreeMap::new(),
        }
    }
}
