//! A group commit: what is put into one batch, and what is made known once it is durable.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use dbstreamd_model::{ConsumerName, Offset, StreamId, Timestamp};
use tokio::sync::OwnedSemaphorePermit;

use super::partitions::Class;
use super::published::Woken;
use super::queue::Reply;
use super::{ChunkCommand, CommitCommand, Durable, Slot, Writer};
use crate::chunk::{Chunk, encode};
use crate::consumers::judge;
use crate::credit::Credit;
use crate::error::LogError;
use crate::failpoint::Failpoint;
use crate::holds::Known;
use crate::schemas::StoredSchema;
use crate::store::{Batch, ChunkKey, Committed, Entry, MetaKey, PartitionSeq, StreamState, encode_schema};
use crate::stream::{InFlight, Stream};
use crate::tables::{TableChange, TableName};

/// The group at hand.
#[derive(Default)]
pub(super) struct Group {
    batch: Batch,
    /// Bytes of chunks in it, as stored.
    stored_bytes: usize,
    /// Bytes of chunks in it, as received: what bounds the group.
    raw_bytes: usize,
    /// Streams whose state changes.
    touched: BTreeSet<StreamId>,
    chunks: Vec<Stored>,
    schemas: Vec<(Arc<Stream>, StoredSchema)>,
    tables: Vec<(Arc<Stream>, TableName, TableChange)>,
    places: Vec<(Arc<Stream>, PartitionSeq, Entry)>,
    commits: BTreeMap<(StreamId, ConsumerName), (Arc<Stream>, Committed)>,
    /// How many of these consumers are new to their stream.
    new_consumers: BTreeMap<StreamId, usize>,
    replies: Vec<(Reply<Durable<Offset>>, Offset, OwnedSemaphorePermit)>,
    /// Partitions that were closed while it was put together.
    closed: Vec<PartitionSeq>,
    /// When it was durable.
    synced_at: Option<Instant>,
}

struct Stored {
    stream: Arc<Stream>,
    chunk: Chunk,
    credit: Option<Credit>,
    in_flight: InFlight,
    appended_at: Instant,
}

impl Group {
    pub(super) fn bytes(&self) -> usize {
        self.raw_bytes
    }

    fn pass_failpoints(&self) {
        Failpoint::Committed.reach();
        if self.chunks.iter().any(|stored| !stored.chunk.finished()) {
            Failpoint::FragmentCommitted.reach();
        }
        if !self.commits.is_empty() {
            Failpoint::OffsetCommitted.reach();
        }
    }

    fn is_empty(&self) -> bool {
        self.touched.is_empty() && self.commits.is_empty()
    }
}

impl Writer {
    /// Puts a chunk, with the schemas it brings, into the group.
    pub(super) fn gather_chunk(&mut self, group: &mut Group, command: ChunkCommand) -> Result<(), LogError> {
        let ChunkCommand { stream, chunk, framed, schemas, tables, confirm, credit, in_flight, appended_at, .. } =
            command;
        let (class, last) = self.class_of(stream.id)?;
        let (partition, closed) = self.active_partition(&mut group.batch, class, last)?;
        group.closed.extend(closed);
        let slot = self.streams.get_mut(&stream.id).ok_or(LogError::UnknownStream(stream.id.0))?;
        // Asserted before writing what the reader asserts after reading: offsets are dense.
        if chunk.first_offset != slot.state.durable.next() {
            return Err(LogError::Store {
                action: "append a chunk",
                reason: format!("it starts at offset {}, after offset {}", chunk.first_offset, slot.state.durable),
            });
        }
        for schema in schemas {
            let key = MetaKey::Schema(stream.id, schema.id);
            self.store.put_meta(&mut group.batch, key, &encode_schema(&schema))?;
            slot.state.schemas = slot.state.schemas.max(schema.id);
            group.schemas.push((Arc::clone(&stream), schema));
        }
        for (table, change) in tables {
            let key = table.to_key();
            let (name, diverged) = (MetaKey::Table(stream.id, &key), MetaKey::Diverged(stream.id, &key));
            match &change {
                TableChange::Bound(binding) => self.store.put_meta(&mut group.batch, name, &binding.encode())?,
                TableChange::Diverged(what) => self.store.put_meta(&mut group.batch, diverged, &what.encode())?,
                TableChange::Cleared => self.store.delete_meta(&mut group.batch, diverged)?,
                TableChange::Gone => {
                    self.store.delete_meta(&mut group.batch, name)?;
                    self.store.delete_meta(&mut group.batch, diverged)?;
                }
            }
            group.tables.push((Arc::clone(&stream), table, change));
        }
        if slot.partition != Some(partition) {
            let entry = slot.entry();
            slot.partition = Some(partition);
            self.store.put_meta(&mut group.batch, MetaKey::Directory(stream.id, partition), &entry.encode())?;
            group.places.push((Arc::clone(&stream), partition, entry));
        }

        let key = chunk.key();
        let value = match &framed {
            Some(framed) => framed.value(),
            None => encode(&chunk, &key, &mut self.scratch)
                .map_err(|error| LogError::Store { action: "encode a chunk", reason: error.to_string() })?,
        };
        self.store.put_chunk(&mut group.batch, partition, &key, value)?;
        let bytes = ChunkKey::BYTES + value.len();
        slot.advance(&chunk, bytes);
        slot.state.confirmed_through = slot.state.confirmed_through.max(confirm);
        self.partitions.grow(partition, bytes);
        group.stored_bytes += bytes;
        group.raw_bytes += chunk.body_bytes();
        group.touched.insert(stream.id);
        group.chunks.push(Stored { stream, chunk, credit, in_flight, appended_at });
        Ok(())
    }

    /// Puts a consumer's commit into the group, or refuses it.
    pub(super) fn gather_commit(&mut self, group: &mut Group, command: CommitCommand) -> Result<(), LogError> {
        let CommitCommand { stream, consumer, offset, claim, reply, permit } = command;
        let marks = stream.published.watermarks();
        let id = (stream.id, consumer);
        let committed = match group.commits.get(&id) {
            Some((_, pending)) => Some(*pending),
            None => stream.consumers.read().get(&id.1).map(|known| known.committed),
        };
        let (wanted, epoch) = match judge(committed, offset, claim, &marks, |at| stream.layout.read().epoch_of(at).0) {
            Ok(comes_to) => comes_to,
            Err(error) => {
                // Nobody may be waiting any more; the refusal changes nothing.
                let _ = reply.send(Err(error));
                return Ok(());
            }
        };
        if committed.is_none() {
            let new = group.new_consumers.entry(id.0).or_default();
            let max = self.shared.options.consumers_per_stream_max;
            if stream.consumers.read().len() + *new >= max {
                // As above.
                let _ = reply.send(Err(LogError::TooManyConsumers { max }));
                return Ok(());
            }
            *new += 1;
        }
        if committed.is_none_or(|committed| (committed.offset, committed.epoch) != (wanted, epoch)) {
            let record = Committed { offset: wanted, at: Timestamp::now(), epoch };
            self.store.put_meta(&mut group.batch, MetaKey::Consumer(id.0, id.1.as_str()), &record.encode())?;
            group.commits.insert(id, (stream, record));
        }
        group.replies.push((reply, wanted, permit));
        Ok(())
    }

    /// Takes idle positions along.
    pub(super) fn gather_idle(&mut self, group: &mut Group) {
        self.idle_flushed = if group.is_empty() { Instant::now() } else { self.idle_flushed };
        for (stream, lsn) in self.shared.queue.take_idle() {
            if let Some(slot) = self.streams.get_mut(&stream.id)
                && slot.state.confirmed_through < lsn
            {
                slot.state.confirmed_through = lsn;
                group.touched.insert(stream.id);
            }
        }
    }

    /// Writes the group, syncs, and makes it known.
    pub(super) fn write(&mut self, group: &mut Group) -> Result<(), LogError> {
        if !group.is_empty() {
            for id in &group.touched {
                if let Some(slot) = self.streams.get(id) {
                    self.store.put_meta(&mut group.batch, MetaKey::StreamState(*id), &slot.state.encode())?;
                }
            }
            let started = Instant::now();
            Failpoint::Gathered.reach();
            self.store.commit(&group.batch)?;
            let synced_at = Instant::now();
            group.synced_at = Some(synced_at);
            group.pass_failpoints();
            let metrics = &self.shared.metrics;
            for stored in &group.chunks {
                metrics.append_to_fsync.observe(synced_at.saturating_duration_since(stored.appended_at));
            }
            metrics.flush_seconds.observe(synced_at.saturating_duration_since(started).as_secs_f64());
            metrics.flush_bytes.observe(f64::from(u32::try_from(group.stored_bytes).unwrap_or(u32::MAX)));
            metrics.flushes.inc();
        }
        let next = Group { batch: group.batch.recycled(), ..Group::default() };
        self.publish(std::mem::replace(group, next))
    }

    fn publish(&mut self, group: Group) -> Result<(), LogError> {
        for (stream, schema) in group.schemas {
            Arc::make_mut(&mut stream.schemas.write()).insert(schema);
        }
        for (stream, table, change) in group.tables {
            Arc::make_mut(&mut stream.tables.write()).apply(table, change);
        }
        for (stream, partition, entry) in group.places {
            stream.layout.write().directory.push((partition, entry));
        }
        for ((_, consumer), (stream, record)) in group.commits {
            let mut consumers = stream.consumers.write();
            let known = consumers.entry(consumer).or_insert_with(|| Known::new(record));
            known.committed = record;
            known.touch();
        }
        let metrics = &self.shared.metrics;
        metrics.chunks.inc_by(group.chunks.len() as u64);
        metrics.stored_bytes.inc_by(group.stored_bytes as u64);
        metrics.body_bytes.inc_by(group.raw_bytes as u64);
        let mut released = Vec::with_capacity(group.chunks.len());
        let visible_at = Instant::now();
        if let Some(synced_at) = group.synced_at.filter(|_| !group.chunks.is_empty()) {
            metrics.fsync_to_visible.observe(visible_at.saturating_duration_since(synced_at));
        }
        for Stored { stream, mut chunk, credit, in_flight, appended_at: _ } in group.chunks {
            metrics.events.inc_by(chunk.len() as u64);
            // Fragments of a large unit are left to the disk: they become visible all at once, much later.
            if chunk.finished() && chunk.units.first().is_some_and(|unit| unit.first_ordinal == 0) {
                chunk.visible_at = Some(visible_at);
                self.ring.push(&stream, chunk);
            }
            released.push((credit, in_flight));
        }
        // Readers may look now: everything they need is in place.
        for id in &group.touched {
            if let Some(slot) = self.streams.get(id) {
                slot.stream.layout.write().bytes = slot.state.bytes;
                match slot.stream.published.publish_paced(&slot.state, visible_at) {
                    Woken::Now => self.unwoken.remove(id),
                    Woken::DueAt(due) => self.unwoken.insert(*id, due),
                    Woken::NoNeed => None,
                };
            }
        }
        // And the appenders may go on: whoever is woken finds the watermarks moved.
        drop(released);
        Failpoint::Published.reach();
        for (reply, offset, _permit) in group.replies {
            // Who asked may have gone away; the commit holds all the same.
            let _ = reply.send(Ok(Durable::mint(offset)));
        }
        // A closed partition's memory goes to its last table file, so that the write-ahead log can be let go.
        group.closed.into_iter().try_for_each(|partition| self.store.flush_partition(partition, false))
    }
}

impl Writer {
    /// The class of a stream, and the partition it wrote to last.
    fn class_of(&self, stream: StreamId) -> Result<(Class, Option<PartitionSeq>), LogError> {
        let slot = self.streams.get(&stream).ok_or(LogError::UnknownStream(stream.0))?;
        Ok((Class::of(self.kept_for(&slot.stream)), slot.partition))
    }
}

impl Slot {
    /// Where the stream stands, as the start of its part of a partition.
    fn entry(&self) -> Entry {
        Entry {
            first_offset: self.state.durable.next(),
            lsn_before: self.state.visible_lsn,
            commit_time_before: self.state.commit_time_max,
            bytes_before: self.state.bytes,
        }
    }

    fn advance(&mut self, chunk: &Chunk, bytes: usize) {
        let state: &mut StreamState = &mut self.state;
        state.durable = chunk.last_offset();
        state.bytes += bytes as u64;
        self.stream.appended.fetch_max(state.durable.0, Relaxed);
        if let Some(unit) = chunk.units.last().filter(|unit| unit.finished) {
            state.visible = state.durable;
            state.visible_lsn = unit.end_lsn;
            state.visible_commit_time = unit.commit_time;
            state.commit_time_max = chunk.commit_time_max;
        }
    }
}
