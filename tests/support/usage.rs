//! What processes use, as the kernel says.

use std::fs;

/// Ticks per second in `/proc/PID/stat`, on every Linux.
const TICKS: f64 = 100.0;

/// The processor time of a process, in seconds.
pub(crate) fn cpu_of(pid: u32) -> f64 {
    // utime and stime are fields 14 and 15.
    cpu(&format!("/proc/{pid}/stat"), 14)
}

/// The processor time of all children of this process that have ended, in seconds.
pub(crate) fn cpu_of_children() -> f64 {
    // cutime and cstime are fields 16 and 17.
    cpu("/proc/self/stat", 16)
}

/// The sum of a field of a `stat` file, from 1, and the next one.
fn cpu(file: &str, field: usize) -> f64 {
    let stat = fs::read_to_string(file).unwrap();
    // Field 2 is the name in brackets, which may contain spaces.
    let after_name = stat.rsplit(") ").next().unwrap();
    let ticks = after_name.split(' ').skip(field - 3).take(2);
    ticks.map(|ticks| ticks.parse::<f64>().unwrap()).sum::<f64>() / TICKS
}

/// The most memory that a process ever had resident, in kB; `None` if it has ended.
pub(crate) fn peak_memory(pid: u32) -> Option<u64> {
    memory(pid, "VmHWM:")
}

/// The memory that a process has resident, in kB; `None` if it has ended.
pub(crate) fn resident_memory(pid: u32) -> Option<u64> {
    memory(pid, "VmRSS:")
}

/// The memory of a process in kB, in which what several processes share counts in parts; `None` if it has ended.
pub(crate) fn share_of_memory(pid: u32) -> Option<u64> {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let value = rollup.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    value.trim().trim_end_matches(" kB").parse().ok()
}

/// How many directories a process watches with inotify.
pub(crate) fn watched_directories(pid: u32) -> usize {
    watches(pid, "inotify ")
}

/// How many filesystems a process watches with fanotify.
pub(crate) fn watched_filesystems(pid: u32) -> usize {
    watches(pid, "fanotify sdev:")
}

/// The lines about its open files that begin like this: the kernel writes one for each watch.
fn watches(pid: u32, begin: &str) -> usize {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fdinfo")).into_iter().flatten().flatten();
    let infos = descriptors.filter_map(|entry| fs::read_to_string(entry.path()).ok());
    infos.map(|info| info.lines().filter(|line| line.starts_with(begin)).count()).sum()
}

fn memory(pid: u32, field: &str) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let value = status.lines().find_map(|line| line.strip_prefix(field))?;
    value.trim().trim_end_matches(" kB").parse().ok()
}
