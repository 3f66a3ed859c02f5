//! The harness's side of the preloaded library: its control page, its journal and its grave.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::error::{TortureError, io};

/// What `shim/src/control.rs` maps.
const PAGE_BYTES: u64 = 4096;
const WORD_BYTES: u64 = 8;
/// Counters stand this many words behind the words they count.
const COUNTERS: u64 = 8;

/// The words of the page: the same numbers as in `shim/src/control.rs`.
#[derive(Clone, Copy)]
pub(crate) enum Word {
    DelaySyncMs = 0,
    FailSync = 1,
    Full = 2,
    Lie = 3,
}

/// The library, as the daemon is told about it.
pub(crate) struct Shim {
    library: PathBuf,
    page: File,
    page_path: PathBuf,
    pub(crate) journal: PathBuf,
    pub(crate) grave: PathBuf,
    pub(crate) watched: PathBuf,
}

impl Shim {
    /// Prepares `watched` (the data directory) and what the library writes: the journal in `folder`, the grave beside
    /// `watched`, because files can only be linked within one file system.
    pub(crate) fn prepare(library: &Path, folder: &Path, watched: &Path) -> Result<Self, TortureError> {
        let page_path = folder.join("shim-control");
        let page = File::options().read(true).write(true).create(true).truncate(true).open(&page_path);
        let page = page.map_err(io("create the shim's control page"))?;
        page.set_len(PAGE_BYTES).map_err(io("create the shim's control page"))?;
        let grave = watched.with_extension("grave");
        std::fs::create_dir(&grave).map_err(io("create the shim's grave"))?;
        let journal = folder.join("shim-journal");
        Ok(Self { library: library.to_owned(), page, page_path, journal, grave, watched: watched.to_owned() })
    }

    /// What the daemon's process needs in its environment.
    pub(crate) fn environment(&self) -> [(&'static str, &Path); 5] {
        [
            ("LD_PRELOAD", &self.library),
            ("TORTURE_SHIM_DIR", &self.watched),
            ("TORTURE_SHIM_CONTROL", &self.page_path),
            ("TORTURE_SHIM_JOURNAL", &self.journal),
            ("TORTURE_SHIM_GRAVE", &self.grave),
        ]
    }

    pub(crate) fn set(&self, word: Word, value: u64) -> Result<(), TortureError> {
        let at = word as u64 * WORD_BYTES;
        self.page.write_all_at(&value.to_ne_bytes(), at).map_err(io("write the shim's control page"))
    }

    /// How often the library has done this.
    pub(crate) fn count(&self, word: Word) -> Result<u64, TortureError> {
        let mut bytes = [0; 8];
        let at = (COUNTERS + word as u64) * WORD_BYTES;
        self.page.read_exact_at(&mut bytes, at).map_err(io("read the shim's control page"))?;
        Ok(u64::from_ne_bytes(bytes))
    }

    /// Everything passes again.
    pub(crate) fn clear(&self) -> Result<(), TortureError> {
        [Word::DelaySyncMs, Word::FailSync, Word::Full, Word::Lie].into_iter().try_for_each(|word| self.set(word, 0))
    }
}
