//! Whether there is little memory.

use std::fs;
use std::path::{Path, PathBuf};

use crate::config::Settings;

/// The limit up to which caches are kept small, in bytes. With the usual ones and many files in flight, a first scan needs
/// about 40 MB.
const LITTLE: u64 = 128 * 1024 * 1024;

/// Whether to keep caches small: one file at a time was asked for, or the limit of the control group is low.
pub(super) fn is_little(settings: &Settings) -> bool {
    settings.is_low_resource() || limit().is_some_and(|limit| limit <= LITTLE)
}

/// The memory that the control group of the process may use, in bytes; `None` if it cannot be found out. Without a limit, it
/// is a number beyond any memory or `None`.
fn limit() -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let read = |file: PathBuf| fs::read_to_string(file).ok()?.trim().parse().ok();
    limit_files(&groups).filter_map(read).min()
}

/// The files that may hold the limit, from the content of `/proc/self/cgroup` (see cgroups(7)). In a container, the names there
/// may be those of the host, and its own group is at the root.
fn limit_files(groups: &str) -> impl Iterator<Item = PathBuf> {
    let files = groups.lines().filter_map(|line| {
        let (controllers, group) = line.split_once(':')?.1.split_once(':')?;
        let (hierarchy, file) = match controllers {
            // Version 2 has one hierarchy, for all controllers.
            "" => ("/sys/fs/cgroup", "memory.max"),
            _ if controllers.split(',').any(|controller| controller == "memory") => {
                ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")
            }
            _ => return None,
        };
        let hierarchy = Path::new(hierarchy);
        Some([hierarchy.join(group.trim_start_matches('/')).join(file), hierarchy.join(file)])
    });
    files.flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(groups: &str) -> Vec<String> {
        limit_files(groups).map(|file| file.display().to_string()).collect()
    }

    #[test]
    fn the_limit_is_that_of_the_own_group_in_both_versions() {
        assert_eq!(
            files("0::/system.slice/file-watcher.service\n"),
            ["/sys/fs/cgroup/system.slice/file-watcher.service/memory.max", "/sys/fs/cgroup/memory.max"]
        );
        assert_eq!(
            files("5:cpu:/\n4:hugetlb,memory:/docker/ab:c\n0::/\n"),
            [
                "/sys/fs/cgroup/memory/docker/ab:c/memory.limit_in_bytes",
                "/sys/fs/cgroup/memory/memory.limit_in_bytes",
                "/sys/fs/cgroup/memory.max",
                "/sys/fs/cgroup/memory.max"
            ]
        );
        assert_eq!(files("nothing\n7:memory\n"), [""; 0]);
    }
}
