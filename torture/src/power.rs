//! A power cut: what the disk would hold if everything that was not fsynced were gone.
//!
//! The model, from the journal of `shim/`: a file's content is durable up to the length it had when its last successful
//! fsync began (our files are append-only); a name (created, renamed, unlinked) is durable once its folder was fsynced
//! after the change. A cut is either *strict*, and keeps nothing else, or *torn*: all names stand as they are, and every
//! file keeps some part of what was not synced. Files the library did not see created (and folders) stay as they are.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write as _;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rand::Rng;
use rand::rngs::SmallRng;

use crate::error::{TortureError, io};
use crate::shim::Shim;

/// What a cut leaves beyond what is durable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Cut {
    Strict,
    Torn,
}

/// What a cut took.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Loss {
    pub(crate) bytes: u64,
    /// Names that were undone: files created, renamed or unlinked.
    pub(crate) names: u64,
}

type Names = BTreeMap<PathBuf, u64>;

/// The journal, replayed. Files are inodes.
#[derive(Default, Debug, PartialEq)]
struct Ledger {
    now: Names,
    durable: Names,
    lengths: HashMap<u64, u64>,
}

impl Ledger {
    fn replay(journal: &str) -> Self {
        let mut ledger = Self::default();
        for line in journal.lines() {
            ledger.take(line);
        }
        ledger
    }

    /// Takes one line; one that was torn by a kill says nothing.
    fn take(&mut self, line: &str) -> Option<()> {
        let (kind, rest) = line.split_once(' ')?;
        if kind == "D" {
            let folder = Path::new(rest);
            self.durable.retain(|path, _| path.parent() != Some(folder));
            let named = self.now.iter().filter(|(path, _)| path.parent() == Some(folder));
            self.durable.extend(named.map(|(path, inode)| (path.clone(), *inode)));
            return Some(());
        }
        let (inode, rest) = rest.split_once(' ')?;
        let inode: u64 = inode.parse().ok()?;
        match kind {
            "C" => {
                self.lengths.insert(inode, 0);
                self.now.insert(rest.into(), inode);
            }
            "S" => {
                self.lengths.insert(inode, rest.parse().ok()?);
            }
            "R" => {
                let (from, to) = rest.split_once('\t')?;
                self.now.remove(Path::new(from));
                self.now.insert(to.into(), inode);
            }
            "U" => {
                self.now.remove(Path::new(rest));
            }
            _ => {}
        }
        Some(())
    }
}

/// Cuts the power of a daemon that is not running any more, and starts a new journal from what is left.
pub(crate) fn cut(shim: &Shim, cut: Cut, random: &mut SmallRng) -> Result<Loss, TortureError> {
    let text = std::fs::read_to_string(&shim.journal).map_err(io("read the shim's journal"))?;
    let ledger = Ledger::replay(&text);
    let present = files_below(&shim.watched)?;
    let mut loss = Loss::default();
    let names = match cut {
        Cut::Strict => {
            restore_names(shim, &ledger, &present, &mut loss)?;
            ledger.durable.clone()
        }
        // Only files whose creation the journal has are cut short.
        Cut::Torn => present.into_iter().filter(|(_, inode)| ledger.lengths.contains_key(inode)).collect(),
    };
    for (path, inode) in &names {
        let durable = ledger.lengths.get(inode).copied().unwrap_or(0);
        let file = std::fs::File::options().write(true).open(path).map_err(io("open a file after the cut"))?;
        let length = file.metadata().map_err(io("look at a file after the cut"))?.len();
        let kept = match cut {
            Cut::Strict => durable.min(length),
            Cut::Torn => random.random_range(durable.min(length)..=length),
        };
        loss.bytes += length - kept;
        file.set_len(kept).map_err(io("cut a file short"))?;
    }
    for entry in std::fs::read_dir(&shim.grave).map_err(io("read the grave"))?.flatten() {
        std::fs::remove_file(entry.path()).map_err(io("empty the grave"))?;
    }
    restart_journal(shim)?;
    Ok(loss)
}

/// Gives every durable name its file back, and takes away names that were not durable.
fn restore_names(shim: &Shim, ledger: &Ledger, present: &Names, loss: &mut Loss) -> Result<(), TortureError> {
    let stage = shim.grave.join("stage");
    std::fs::create_dir(&stage).map_err(io("create a folder in the grave"))?;
    let where_now: HashMap<u64, &PathBuf> = present.iter().map(|(path, inode)| (*inode, path)).collect();
    let wanted: BTreeSet<u64> = ledger.durable.values().copied().collect();
    for inode in &wanted {
        let buried = shim.grave.join(inode.to_string());
        let source = where_now.get(inode).map_or(buried.as_path(), |path| path.as_path());
        let staged = stage.join(inode.to_string());
        std::fs::hard_link(source, staged).map_err(io(format!("find the durable file {}", source.display())))?;
    }
    for (path, inode) in present {
        // A file of which the journal knows nothing is none of ours.
        if ledger.now.contains_key(path) || ledger.lengths.contains_key(inode) {
            loss.names += u64::from(ledger.durable.get(path) != Some(inode));
            std::fs::remove_file(path).map_err(io("take a name away"))?;
        }
    }
    for (path, inode) in &ledger.durable {
        loss.names += u64::from(!present.contains_key(path));
        std::fs::hard_link(stage.join(inode.to_string()), path).map_err(io("give a name back"))?;
    }
    std::fs::remove_dir_all(&stage).map_err(io("remove a folder in the grave"))
}

/// What is on disk now is durable.
fn restart_journal(shim: &Shim) -> Result<(), TortureError> {
    let mut text = String::new();
    let mut folders = BTreeSet::new();
    for (path, inode) in files_below(&shim.watched)? {
        let length = path.metadata().map_err(io("look at a file after the cut"))?.len();
        // Writing to a String cannot fail.
        let _ = writeln!(text, "C {inode} {}\nS {inode} {length}", path.display());
        folders.extend(path.parent().map(Path::to_owned));
    }
    for folder in folders {
        let _ = writeln!(text, "D {}", folder.display());
    }
    std::fs::write(&shim.journal, text).map_err(io("write the shim's journal"))
}

fn files_below(folder: &Path) -> Result<Names, TortureError> {
    let mut files = Names::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).map_err(io("read the data directory"))? {
            let entry = entry.map_err(io("read the data directory"))?;
            let meta = entry.metadata().map_err(io("read the data directory"))?;
            if meta.is_dir() {
                folders.push(entry.path());
            } else if meta.is_file() {
                files.insert(entry.path(), meta.ino());
            }
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    /// A shim whose journal the test writes by hand.
    fn shim(folder: &Path) -> Shim {
        let data = folder.join("data");
        std::fs::create_dir(&data).unwrap();
        Shim::prepare(Path::new("none"), folder, &data).unwrap()
    }

    fn write(path: &Path, text: &str) -> u64 {
        std::fs::write(path, text).unwrap();
        path.metadata().unwrap().ino()
    }

    #[test]
    fn a_strict_cut_keeps_what_was_synced_and_undoes_names_whose_folder_was_not() {
        let folder = tempfile::tempdir().unwrap();
        let shim = shim(folder.path());
        let at = |name: &str| shim.watched.join(name);
        let wal = write(&at("wal"), "synced, and not");
        let new = write(&at("new"), "synced, but its name was not");
        // Current was replaced by a rename; the old one lies in the grave. Gone was unlinked.
        let old_current = write(&shim.grave.join("x"), "old");
        std::fs::rename(shim.grave.join("x"), shim.grave.join(old_current.to_string())).unwrap();
        let current = write(&at("current"), "new");
        let gone = write(&shim.grave.join("y"), "not quite");
        std::fs::rename(shim.grave.join("y"), shim.grave.join(gone.to_string())).unwrap();
        write(&at("foreign"), "nobody saw it");
        let data = shim.watched.display();
        let journal = format!(
            "C {wal} {data}/wal\nC {old_current} {data}/current\nS {old_current} 3\nC {gone} {data}/gone\nS {gone} 9\n\
             D {data}\nS {wal} 6\nC {new} {data}/new\nS {new} 28\nC {current} {data}/tmp\nS {current} 3\n\
             R {current} {data}/tmp\t{data}/current\nU {gone} {data}/gone\nS {wal}"
        );
        std::fs::write(&shim.journal, journal).unwrap();
        let loss = cut(&shim, Cut::Strict, &mut SmallRng::seed_from_u64(1)).unwrap();
        let text = |name| std::fs::read_to_string(at(name)).ok();
        assert_eq!(text("wal").as_deref(), Some("synced"));
        assert_eq!(text("current").as_deref(), Some("old"));
        assert_eq!(text("gone").as_deref(), Some("not quite"));
        assert_eq!(text("new"), None);
        assert_eq!(text("tmp"), None);
        assert_eq!(text("foreign").as_deref(), Some("nobody saw it"));
        assert_eq!((loss.bytes, loss.names), (9, 3));
        // A second cut right after it takes nothing.
        let loss = cut(&shim, Cut::Strict, &mut SmallRng::seed_from_u64(1)).unwrap();
        assert_eq!((loss.bytes, loss.names), (0, 0));
    }

    #[test]
    fn a_torn_cut_keeps_at_least_what_was_synced() {
        let folder = tempfile::tempdir().unwrap();
        let shim = shim(folder.path());
        let wal = write(&shim.watched.join("wal"), "synced, and not");
        let data = shim.watched.display();
        for round in 0..20 {
            write(&shim.watched.join("wal"), "synced, and not");
            std::fs::write(&shim.journal, format!("C {wal} {data}/wal\nS {wal} 6\n")).unwrap();
            cut(&shim, Cut::Torn, &mut SmallRng::seed_from_u64(round)).unwrap();
            assert!(std::fs::read_to_string(shim.watched.join("wal")).unwrap().starts_with("synced"));
        }
    }
}
