//! What processes cost.

use std::fs;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Ticks per second in `/proc/PID/stat`, on every Linux.
const TICKS: f64 = 100.0;

/// The cost of a process.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cost {
    /// Seconds.
    pub(crate) wall: f64,
    /// Seconds on all processors.
    pub(crate) cpu: f64,
    /// The most resident memory in MB.
    pub(crate) memory: f64,
}

/// Runs a command to its end, which must succeed.
pub(crate) fn cost(command: &mut Command) -> Cost {
    let (before, begun) = (cpu_of_children(), Instant::now());
    let mut child = command.stdin(Stdio::null()).spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let mut memory = 0.0_f64;
    let status = loop {
        memory = memory.max(peak_memory(child.id()));
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        thread::sleep(Duration::from_millis(1));
    };
    let wall = begun.elapsed().as_secs_f64();
    assert!(status.success(), "{command:?} ended with {status}");
    Cost { wall, cpu: cpu_of_children() - before, memory }
}

/// The most resident memory of a process so far, in MB; 0 if it has ended.
pub(crate) fn peak_memory(pid: u32) -> f64 {
    memory(pid, "VmHWM:")
}

/// The resident memory of a process, in MB.
pub(crate) fn resident_memory(pid: u32) -> f64 {
    memory(pid, "VmRSS:")
}

fn memory(pid: u32, field: &str) -> f64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let value = status.lines().find_map(|line| line.strip_prefix(field)).unwrap_or("0 kB");
    value.trim().trim_end_matches(" kB").parse::<f64>().unwrap() / 1000.0
}

/// The processor time of a process, in seconds.
pub(crate) fn cpu_of(pid: u32) -> f64 {
    ticks(&format!("/proc/{pid}/stat"), 11) / TICKS
}

fn cpu_of_children() -> f64 {
    ticks("/proc/self/stat", 13) / TICKS
}

/// The sum of two fields of a `stat` file: those after so many behind the name in brackets, which may contain spaces.
fn ticks(file: &str, skipped: usize) -> f64 {
    let stat = fs::read_to_string(file).unwrap();
    let after_name = stat.rsplit(") ").next().unwrap();
    after_name.split(' ').skip(skipped).take(2).map(|ticks| ticks.parse::<f64>().unwrap()).sum()
}

/// The value below which are so many percent of the values.
pub(crate) fn percentile(values: &[f64], percent: usize) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values[(values.len() - 1) * percent / 100]
}

/// The median.
pub(crate) fn median(values: &[f64]) -> f64 {
    percentile(values, 50)
}
