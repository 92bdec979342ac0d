//! What processes cost.

use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::support::usage::{self, cpu_of_children};

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
    megabytes(usage::peak_memory(pid))
}

/// The resident memory of a process, in MB; 0 if it has ended.
pub(crate) fn resident_memory(pid: u32) -> f64 {
    megabytes(usage::resident_memory(pid))
}

fn megabytes(kilobytes: Option<u64>) -> f64 {
    kilobytes.unwrap_or_default() as f64 / 1000.0
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
