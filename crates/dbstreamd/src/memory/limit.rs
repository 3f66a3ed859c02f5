//! How much memory there is: the machine's, or the control group's if that is less. Linux only; elsewhere nobody says.

use std::fmt;
use std::path::{Component, Path, PathBuf};

use super::size_text;

/// Where Linux shows control groups.
const CGROUP_ROOT: &str = "/sys/fs/cgroup";
/// Version 1 writes "no limit" as the largest number of whole pages; nothing near it is a limit.
const UNLIMITED_MIN: u64 = 1 << 62;

/// How much memory may be used.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Limit {
    /// So many bytes.
    pub bytes: u64,
    /// Who says so.
    pub origin: LimitOrigin,
}

/// Who sets the limit.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LimitOrigin {
    /// `memory.total`.
    Setting,
    /// This file of a control group.
    Cgroup(PathBuf),
    /// The machine has no more.
    Machine,
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = size_text(self.bytes);
        match &self.origin {
            LimitOrigin::Setting => write!(f, "{bytes} of memory.total"),
            LimitOrigin::Cgroup(file) => write!(f, "{bytes} that the control group allows ({})", file.display()),
            LimitOrigin::Machine => write!(f, "{bytes} of this machine"),
        }
    }
}

/// The machine as we see it.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    /// The smaller of what it has and what our control group allows; none when nobody says.
    pub(crate) limit: Option<Limit>,
    /// Processors we may use.
    pub(crate) processors: usize,
}

impl Machine {
    /// This one.
    pub(crate) fn here() -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let machine = mem_total(&read("/proc/meminfo")).map(|bytes| Limit { bytes, origin: LimitOrigin::Machine });
        let cgroup = cgroup_limit(Path::new(CGROUP_ROOT), &read("/proc/self/cgroup"));
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Self { limit: [cgroup, machine].into_iter().flatten().min_by_key(|limit| limit.bytes), processors }
    }
}

/// `MemTotal` of `/proc/meminfo`.
fn mem_total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// The smallest limit of our control groups and the groups above them. `of_process` is `/proc/self/cgroup`: lines
/// `number:controllers:path`; version 2 has the one with number 0 and no controllers.
fn cgroup_limit(root: &Path, of_process: &str) -> Option<Limit> {
    let groups = of_process.lines().filter_map(|line| {
        let mut parts = line.splitn(3, ':');
        let (number, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
        match (number, controllers) {
            ("0", "") => Some((root.to_owned(), "memory.max", path)),
            (_, controllers) if controllers.split(',').any(|name| name == "memory") => {
                Some((root.join("memory"), "memory.limit_in_bytes", path))
            }
            _ => None,
        }
    });
    let limits = groups.flat_map(|(root, file, path)| upwards(root, path).map(move |folder| folder.join(file)));
    let limits = limits.filter_map(|file| {
        let bytes = std::fs::read_to_string(&file).ok()?.trim().parse::<u64>().ok()?;
        (bytes < UNLIMITED_MIN).then_some(Limit { bytes, origin: LimitOrigin::Cgroup(file) })
    });
    limits.min_by_key(|limit| limit.bytes)
}

/// The group's folder and those above it, up to the root. A path that leads out of our view of the groups (`/../x`), or
/// into folders that are not mounted here, leaves the folders that are: what does not exist cannot be read.
fn upwards(root: PathBuf, path: &str) -> impl Iterator<Item = PathBuf> {
    let names: Vec<_> = Path::new(path)
        .components()
        .filter_map(|part| match part {
            Component::Normal(name) => Some(name.to_owned()),
            _ => None,
        })
        .collect();
    (0..=names.len()).rev().map(move |depth| root.join(names.iter().take(depth).collect::<PathBuf>()))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Files(tempfile::TempDir);

    impl Files {
        fn new(files: &[(&str, &str)]) -> Self {
            let dir = tempfile::tempdir().unwrap();
            for (path, text) in files {
                let path = dir.path().join(path);
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(path, text).unwrap();
            }
            Self(dir)
        }

        fn limit(&self, of_process: &str) -> Option<(u64, String)> {
            let limit = cgroup_limit(self.0.path(), of_process)?;
            let LimitOrigin::Cgroup(file) = limit.origin else { panic!("{:?}", limit.origin) };
            Some((limit.bytes, file.strip_prefix(self.0.path()).unwrap().display().to_string()))
        }
    }

    #[test]
    fn the_smallest_limit_on_the_way_up_holds() {
        let files = Files::new(&[
            ("memory.max", "max\n"),
            ("a/memory.max", "1000\n"),
            ("a/b/memory.max", "2000\n"),
            ("a/b/c/memory.max", "max\n"),
        ]);
        let above = Some((1000, "a/memory.max".to_owned()));
        assert_eq!(files.limit("0::/a/b/c\n"), above);
        assert_eq!(files.limit("0::/a/b\n"), above);
        assert_eq!(files.limit("0::/\n"), None);
        assert_eq!(files.limit(""), None);
    }

    #[test]
    fn a_container_sees_its_own_group_as_the_root() {
        let files = Files::new(&[("memory.max", "134217728\n")]);
        let limit = Some((134_217_728, "memory.max".to_owned()));
        assert_eq!(files.limit("0::/\n"), limit);
        assert_eq!(files.limit("0::/../../system.slice/docker-0815.scope\n"), limit);
        assert_eq!(files.limit("0::/not/mounted\n"), limit);
    }

    #[test]
    fn version_1_has_a_tree_of_its_own_and_a_number_for_no_limit() {
        let files = Files::new(&[
            ("memory/memory.limit_in_bytes", "9223372036854771712\n"),
            ("memory/docker/0815/memory.limit_in_bytes", "536870912\n"),
            ("memory.max", "1"),
        ]);
        let process = "12:cpu,cpuacct:/docker/0815\n5:memory:/docker/0815\n1:name=systemd:/docker/0815\n";
        assert_eq!(files.limit(process), Some((536_870_912, "memory/docker/0815/memory.limit_in_bytes".to_owned())));
        assert_eq!(files.limit("5:hugetlb,memory:/docker\n"), None);
    }

    #[test]
    fn nonsense_is_no_limit() {
        let files = Files::new(&[("memory.max", "many"), ("memory/memory.limit_in_bytes", "")]);
        assert_eq!(files.limit("0::/\n5:memory:/\nwhat\n"), None);
        assert_eq!(mem_total("MemTotal:       24683372 kB\nMemFree: 1 kB\n"), Some(24_683_372 * 1024));
        assert_eq!(mem_total("MemTotal: 1 MB"), None);
    }

    #[test]
    fn this_machine_says_how_much_it_has() {
        let machine = Machine::here();
        assert!(machine.limit.unwrap().bytes > 64 << 20);
        assert!(machine.processors > 0);
    }
}
