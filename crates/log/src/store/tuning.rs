//! How RocksDB is set up. Every option that is not a default has its reason here.

use rust_rocksdb::{
    BlockBasedOptions, Cache, DBCompressionType, DBRecoveryMode, LogLevel, Options, ReadOptions, WriteBufferManager,
};

use crate::options::LogOptions;

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// Table files that are open at a time.
const OPEN_FILES_MAX: i32 = 512;

/// Options of the database and of its column families, around one memory budget.
pub(super) struct Tuning {
    cache: Cache,
    memtables: WriteBufferManager,
    write_buffer_bytes: usize,
    memtables_per_partition: i32,
    wal_bytes_max: u64,
    direct_io: bool,
}

impl Tuning {
    pub(super) fn new(options: &LogOptions, direct_io: bool) -> Self {
        // One budget: memtables are charged to the cache, so it is as large as both.
        let cache = Cache::new_lru_cache(options.memtable_budget_bytes + options.block_cache_bytes);
        let memtables = WriteBufferManager::new_write_buffer_manager_with_cache(
            options.memtable_budget_bytes,
            // It counts and starts flushes; what stalls a writer is the number of a partition's memtables, which also
            // ends with an error when the disk is full, where a stall in here would wait for ever.
            false,
            cache.clone(),
        );
        let write_buffer_bytes = options.write_buffer_bytes();
        Self {
            cache,
            memtables,
            write_buffer_bytes,
            memtables_per_partition: i32::try_from(options.memtables_per_partition()).unwrap_or(i32::MAX),
            // One memtable's worth: once a table file holds it, what the write-ahead log says is there twice, and only
            // the records' small memtable still pins it.
            wal_bytes_max: write_buffer_bytes as u64,
            direct_io,
        }
    }

    /// Bytes in memtables, those being flushed included.
    pub(super) fn memtables_used(&self) -> usize {
        self.memtables.get_usage()
    }

    /// Bytes of blocks and indexes in the cache; the memtables are charged to it too, in steps of 256 KiB.
    pub(super) fn blocks_used(&self) -> usize {
        self.cache.get_usage().saturating_sub(self.memtables_used().next_multiple_of(256 * KIB))
    }

    pub(super) fn database(&self) -> Options {
        let mut options = Options::default();
        options.create_if_missing(true);
        options.create_missing_column_families(true);
        options.set_write_buffer_manager(&self.memtables);
        // A quiet column family (records, an old partition) would else pin the write-ahead log for ever.
        options.set_max_total_wal_size(self.wal_bytes_max);
        // After a crash the log is replayed up to the first torn record: what was fsynced is before it.
        options.set_wal_recovery_mode(DBRecoveryMode::PointInTime);
        // Table files are written once and read by who lags: they need not push the page cache out.
        options.set_use_direct_io_for_flush_and_compaction(self.direct_io);
        // Without direct I/O: write back table files bit by bit, or their flush ends in one long fsync that the
        // write-ahead log's fsyncs have to wait for.
        options.set_bytes_per_sync(MIB as u64);
        // One flush and one small compaction of the records; nothing else runs in the background.
        options.set_max_background_jobs(2);
        // Only one thread ever writes: the machinery for concurrent writers is overhead.
        options.set_allow_concurrent_memtable_write(false);
        options.set_enable_write_thread_adaptive_yield(false);
        // A bound on file descriptors: 50 GiB are about 1,600 table files.
        options.set_max_open_files(OPEN_FILES_MAX);
        // RocksDB's own diary: enough for a bug report, never a disk full of it, and no timers in an idle process.
        options.set_log_level(LogLevel::Warn);
        options.set_keep_log_file_num(2);
        options.set_max_log_file_size(MIB);
        options.set_stats_dump_period_sec(0);
        options.set_stats_persist_period_sec(0);
        // Opening must not read statistics out of every table file.
        options.set_skip_stats_update_on_db_open(true);
        options
    }

    /// A partition: append-only, never compacted, dropped whole.
    pub(super) fn partition(&self) -> Options {
        let mut options = Options::default();
        options.set_disable_auto_compactions(true);
        // Files gather in level 0 by intention: their number must never slow or stop a write.
        options.set_level_zero_file_num_compaction_trigger(i32::MAX);
        options.set_level_zero_slowdown_writes_trigger(i32::MAX);
        options.set_level_zero_stop_writes_trigger(i32::MAX);
        options.set_soft_pending_compaction_bytes_limit(0);
        options.set_hard_pending_compaction_bytes_limit(0);
        options.set_write_buffer_size(self.write_buffer_bytes);
        options.set_max_write_buffer_number(self.memtables_per_partition);
        // Partitions are many and mostly quiet: an empty memtable costs one arena block. Chunks are larger than it
        // and get memory of their own, so nothing is lost by keeping it small.
        options.set_arena_block_size(64 * KIB);
        // Chunks are compressed already.
        options.set_compression_type(DBCompressionType::None);
        // A chunk of 20 to 60 KiB is a block of its own; small chunks of quiet streams share one.
        options.set_block_based_table_factory(&self.tables(16 * KIB));
        options
    }

    /// The records: a few megabytes, overwritten all the time, compacted as usual.
    pub(super) fn meta(&self) -> Options {
        let mut options = Options::default();
        // Small: most of it are old versions of the same few records.
        options.set_write_buffer_size(self.write_buffer_bytes.min(4 * MIB));
        options.set_arena_block_size(64 * KIB);
        options.set_compression_type(DBCompressionType::Lz4);
        options.set_block_based_table_factory(&self.tables(4 * KIB));
        options
    }

    fn tables(&self, block_bytes: usize) -> BlockBasedOptions {
        let mut tables = BlockBasedOptions::default();
        tables.set_block_cache(&self.cache);
        tables.set_block_size(block_bytes);
        // Index blocks count against the same budget. No filters: the log is scanned and sought, never probed.
        tables.set_cache_index_and_filter_blocks(true);
        tables
    }
}

/// Reading a run of chunks that ends before `upper`.
pub(super) fn scan(upper: &[u8], fill_cache: bool) -> ReadOptions {
    let mut options = ReadOptions::default();
    // Bounded, so that an iterator never walks into another stream's tombstones or blocks.
    options.set_iterate_upper_bound(upper);
    options.fill_cache(fill_cache);
    options
}
