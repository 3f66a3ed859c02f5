//! The only place that knows RocksDB: one database, one write-ahead log, one fsync for all streams.
//!
//! Column family `meta` holds the records of `records.rs`; each partition of `p-…` holds chunks of all streams for
//! some span of time, is never compacted, and is dropped whole. docs/adr/0002-time-partitions.md says why.

mod direct_io;
mod keys;
mod load;
mod lock;
mod records;
mod tuning;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use dbstreamd_model::{Epoch, Offset, StreamId};
use rust_rocksdb::{DBWithThreadMode, FlushOptions, MultiThreaded, Options, WriteBatch, WriteOptions};

pub(crate) use keys::{ChunkKey, MetaKey, PartitionSeq};
pub(crate) use load::{Loaded, LoadedStream};
pub(crate) use records::{
    Committed, Entry, Partition, SourceRecord, StreamState, Trim, encode_schema, encode_setting, encode_skip,
};
pub use records::{SourceIdentity, StoredForm, ValueForm};

use crate::error::LogError;
use crate::failpoint::Failpoint;
use crate::options::LogOptions;
use lock::DirLock;

/// Version of the whole directory's layout. docs/format.md, "Versions".
pub(crate) const FORMAT_VERSION: u32 = 1;
/// The column family of records.
const META: &str = "meta";
/// RocksDB's folder inside the data directory.
pub(crate) const DATABASE_DIR: &str = "log";

type Db = DBWithThreadMode<MultiThreaded>;

/// The open database. Fields are dropped in this order: the directory is unlocked last.
pub(crate) struct Store {
    db: Db,
    partition_options: Options,
    tuning: tuning::Tuning,
    synced: WriteOptions,
    dir: PathBuf,
    _lock: DirLock,
}

/// Changes that become durable together or not at all.
#[derive(Default)]
pub(crate) struct Batch {
    inner: WriteBatch,
}

impl Store {
    /// Opens or creates the log in `options.dir` and reads all records.
    pub(crate) fn open(options: &LogOptions) -> Result<(Self, Loaded), LogError> {
        let lock = DirLock::take(&options.dir)?;
        let dir = options.dir.join(DATABASE_DIR);
        std::fs::create_dir_all(&dir).map_err(|error| LogError::io("create", &dir, error))?;
        let tuning = tuning::Tuning::new(options, direct_io::supported(&dir));
        let db = open_database(&dir, &tuning)?;
        let mut synced = WriteOptions::default();
        synced.set_sync(true);
        let partition_options = tuning.partition();
        let store = Self { db, partition_options, tuning, synced, dir: options.dir.clone(), _lock: lock };
        Failpoint::StoreOpened.reach();
        store.check_format()?;
        let loaded = load::load(&store)?;
        Ok((store, loaded))
    }

    fn check_format(&self) -> Result<(), LogError> {
        let key = MetaKey::FormatVersion.to_bytes();
        let found = self.db.get_cf(&self.meta()?, &key).map_err(LogError::store("read the format version"))?;
        match found.map(|value| <[u8; 4]>::try_from(value.as_slice()).map_or(0, u32::from_be_bytes)) {
            Some(FORMAT_VERSION) => Ok(()),
            Some(found) => Err(LogError::UnknownFormat { dir: self.dir.clone(), found, known: FORMAT_VERSION }),
            None => {
                let mut batch = Batch::default();
                batch.inner.put_cf(&self.meta()?, key, FORMAT_VERSION.to_be_bytes());
                self.commit(&batch)
            }
        }
    }

    /// Makes a batch durable: returns after the fsync.
    pub(crate) fn commit(&self, batch: &Batch) -> Result<(), LogError> {
        self.db.write_opt(&batch.inner, &self.synced).map_err(LogError::store("write and sync"))
    }

    pub(crate) fn put_meta(&self, batch: &mut Batch, key: MetaKey<'_>, value: &[u8]) -> Result<(), LogError> {
        batch.inner.put_cf(&self.meta()?, key.to_bytes(), value);
        Ok(())
    }

    pub(crate) fn delete_meta(&self, batch: &mut Batch, key: MetaKey<'_>) -> Result<(), LogError> {
        batch.inner.delete_cf(&self.meta()?, key.to_bytes());
        Ok(())
    }

    pub(crate) fn put_chunk(
        &self,
        batch: &mut Batch,
        partition: PartitionSeq,
        key: &ChunkKey,
        value: &[u8],
    ) -> Result<(), LogError> {
        batch.inner.put_cf(&self.family(&partition.family())?, key.to_bytes(), value);
        Ok(())
    }

    /// Removes the chunks of `stream` that end after `after`. One tombstone, not one per chunk: the tail of a huge
    /// unit is thousands of chunks.
    pub(crate) fn delete_after(
        &self,
        batch: &mut Batch,
        partition: PartitionSeq,
        (stream, epoch): (StreamId, Epoch),
        after: Offset,
    ) -> Result<(), LogError> {
        let from = ChunkKey { stream, epoch, last_offset: after.next() };
        let to = ChunkKey { stream, epoch, last_offset: Offset(u64::MAX) };
        batch.inner.delete_range_cf(&self.family(&partition.family())?, from.to_bytes(), to.to_bytes());
        Ok(())
    }

    pub(crate) fn create_partition(&self, partition: PartitionSeq) -> Result<(), LogError> {
        self.db.create_cf(partition.family(), &self.partition_options).map_err(LogError::store("create a partition"))
    }

    /// Removes a partition with its files. Iterators that are open on it stay valid.
    pub(crate) fn drop_partition(&self, partition: PartitionSeq) -> Result<(), LogError> {
        let name = partition.family();
        if self.db.cf_handle(&name).is_none() {
            return Ok(());
        }
        self.db.drop_cf(&name).map_err(LogError::store("drop a partition"))
    }

    pub(crate) fn has_partition(&self, partition: PartitionSeq) -> bool {
        self.db.cf_handle(&partition.family()).is_some()
    }

    /// All partitions with a column family, in order.
    pub(crate) fn partitions(&self) -> Vec<PartitionSeq> {
        let mut all: Vec<_> = self.db.cf_names().iter().filter_map(|name| PartitionSeq::from_family(name)).collect();
        all.sort_unstable();
        all
    }

    /// Writes a partition's memory to table files, now or, without `wait`, soon.
    pub(crate) fn flush_partition(&self, partition: PartitionSeq, wait: bool) -> Result<(), LogError> {
        let mut options = FlushOptions::default();
        options.set_wait(wait);
        let family = self.family(&partition.family())?;
        self.db.flush_cf_opt(&family, &options).map_err(LogError::store("flush a partition"))
    }

    /// Writes everything to table files, so that nothing depends on replaying the write-ahead log.
    pub(crate) fn flush_all(&self) -> Result<(), LogError> {
        self.partitions().into_iter().try_for_each(|partition| self.flush_partition(partition, true))?;
        self.db.flush_cf(&self.meta()?).map_err(LogError::store("flush the records"))
    }

    /// Bytes of a partition, in files and in memory.
    pub(crate) fn partition_bytes(&self, partition: PartitionSeq) -> u64 {
        let Ok(family) = self.family(&partition.family()) else { return 0 };
        let property = |name: &str| self.db.property_int_value_cf(&family, name).ok().flatten().unwrap_or(0);
        property("rocksdb.total-sst-files-size") + property("rocksdb.cur-size-all-mem-tables")
    }

    /// Bytes in memtables, and of blocks and indexes in the cache.
    pub(crate) fn memory_used(&self) -> (usize, usize) {
        (self.tuning.memtables_used(), self.tuning.blocks_used())
    }

    /// Bytes of all table files and of what is waiting to become one.
    pub(crate) fn disk_bytes(&self) -> u64 {
        std::fs::read_dir(self.dir.join(DATABASE_DIR))
            .map(|files| files.flatten().filter_map(|file| file.metadata().ok()).map(|m| m.len()).sum())
            .unwrap_or(0)
    }

    /// Visits the chunks of a partition from the first that ends at or after `from` to the last that ends at or
    /// before `through`, in order. `fill_cache` keeps their blocks in memory: worth it for a search, not for a scan.
    pub(crate) fn scan(
        &self,
        partition: PartitionSeq,
        from: ChunkKey,
        through: Offset,
        fill_cache: bool,
        mut visit: impl FnMut(ChunkKey, &[u8]) -> ControlFlow<()>,
    ) -> Result<(), LogError> {
        let family = self.family(&partition.family())?;
        let upper = ChunkKey { last_offset: through.next(), ..from };
        let mut iterator = self.db.raw_iterator_cf_opt(&family, tuning::scan(&upper.to_bytes(), fill_cache));
        iterator.seek(from.to_bytes());
        while let Some((key, value)) = iterator.item() {
            let key = ChunkKey::from_bytes(key).ok_or_else(|| LogError::DamagedRecord {
                what: "a chunk's key".into(),
                reason: "it is not 16 bytes".into(),
            })?;
            if visit(key, value).is_break() {
                return Ok(());
            }
            iterator.next();
        }
        iterator.status().map_err(LogError::store("read chunks"))
    }

    /// The newest chunk of a stream in a partition.
    pub(crate) fn newest(
        &self,
        partition: PartitionSeq,
        (stream, epoch): (StreamId, Epoch),
    ) -> Result<Option<(ChunkKey, Vec<u8>)>, LogError> {
        let family = self.family(&partition.family())?;
        let last = ChunkKey { stream, epoch, last_offset: Offset(u64::MAX) };
        let mut iterator = self.db.raw_iterator_cf_opt(&family, tuning::scan(&last.to_bytes(), true));
        iterator.seek_for_prev(last.to_bytes());
        let found = iterator.item().and_then(|(key, value)| Some((ChunkKey::from_bytes(key)?, value.to_vec())));
        iterator.status().map_err(LogError::store("read the newest chunk"))?;
        Ok(found.filter(|(key, _)| (key.stream, key.epoch) == (stream, epoch)))
    }

    /// Visits all records in the order of their keys.
    fn records(&self, mut visit: impl FnMut(&[u8], &[u8]) -> Result<(), LogError>) -> Result<(), LogError> {
        let mut iterator = self.db.raw_iterator_cf(&self.meta()?);
        iterator.seek_to_first();
        while let Some((key, value)) = iterator.item() {
            visit(key, value)?;
            iterator.next();
        }
        iterator.status().map_err(LogError::store("read the records"))
    }

    fn meta(&self) -> Result<std::sync::Arc<rust_rocksdb::BoundColumnFamily<'_>>, LogError> {
        self.family(META)
    }

    fn family(&self, name: &str) -> Result<std::sync::Arc<rust_rocksdb::BoundColumnFamily<'_>>, LogError> {
        self.db
            .cf_handle(name)
            .ok_or_else(|| LogError::Store { action: "find a column family", reason: format!("{name} does not exist") })
    }
}

/// A batch larger than this, of a huge row, gives its memory back.
const BATCH_KEPT_MAX: usize = 1 << 20;

impl Batch {
    /// An empty one, with this one's memory.
    pub(crate) fn recycled(&mut self) -> Self {
        if self.inner.size_in_bytes() > BATCH_KEPT_MAX {
            return Self::default();
        }
        let mut inner = std::mem::take(&mut self.inner);
        inner.clear();
        Self { inner }
    }

    pub(crate) fn clear(&mut self) {
        self.inner.clear();
    }
}

fn open_database(dir: &Path, tuning: &tuning::Tuning) -> Result<Db, LogError> {
    let options = tuning.database();
    // Without CURRENT there is no database yet, so there are no families to list.
    let families = if dir.join("CURRENT").exists() {
        Db::list_cf(&options, dir).map_err(LogError::store("list the partitions"))?
    } else {
        Vec::new()
    };
    let mut names: Vec<String> = families.into_iter().filter(|name| name != META && name != "default").collect();
    if let Some(name) = names.iter().find(|name| PartitionSeq::from_family(name).is_none()) {
        return Err(LogError::DamagedRecord {
            what: "partitions".into(),
            reason: format!("column family {name:?} is not of this log"),
        });
    }
    names.sort_unstable();
    let partitions = names.into_iter().map(|name| rust_rocksdb::ColumnFamilyDescriptor::new(name, tuning.partition()));
    let fixed = ["default", META].map(|name| rust_rocksdb::ColumnFamilyDescriptor::new(name, tuning.meta()));
    Db::open_cf_descriptors(&options, dir, fixed.into_iter().chain(partitions)).map_err(LogError::store("open the log"))
}
