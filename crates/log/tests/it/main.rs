//! The log on a real disk: one binary, so that RocksDB is linked once.

mod consumers;
mod crash;
mod damage;
mod format;
mod reading;
mod retention;
mod sessions;
mod support;
