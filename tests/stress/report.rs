//! What a run showed.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::consumer::Found;

/// How many conflicts, violations and losses are listed.
const LISTED: usize = 10;

/// The result of a run.
pub(crate) struct Report {
    pub(crate) instances: u16,
    pub(crate) files: usize,
    /// From the start of the instances to the last message of the first scan; `None` if it did not come.
    pub(crate) first_scan: Option<Duration>,
    /// The number of changes.
    pub(crate) changes: u64,
    /// From the last change to a consumer that knows what is on disk.
    pub(crate) caught_up: Duration,
    pub(crate) lost: Vec<PathBuf>,
    /// The instances that ended by themselves.
    pub(crate) died: Vec<usize>,
    /// The most memory of an instance, in kB.
    pub(crate) peak_memory: u64,
    /// The memory of all instances together after the first scan, in kB. What they share counts once.
    pub(crate) memory: u64,
    /// The directories that all instances watch together.
    pub(crate) watches: usize,
    /// The connections of all instances to the broker.
    pub(crate) connections: usize,
    pub(crate) found: Found,
}

impl Report {
    /// Whether there was no conflict, no loss and nothing that breaks the contract.
    pub(crate) fn is_clean(&self) -> bool {
        let Found { conflicts, violations, .. } = &self.found;
        self.first_scan.is_some()
            && self.lost.is_empty()
            && self.died.is_empty()
            && conflicts.is_empty()
            && violations.is_empty()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Found { messages, redelivered, conflicts, violations, latencies, deepest } = &self.found;
        let mut latencies = latencies.clone();
        latencies.sort_unstable();
        let at = |percent: usize| latencies.get(latencies.len().saturating_sub(1) * percent / 100).copied();
        let shown = |duration: Option<Duration>| {
            duration.map_or("-".to_owned(), |it| format!("{:.1} ms", it.as_secs_f64() * 1e3))
        };
        writeln!(out, "instances            {}", self.instances)?;
        match self.first_scan {
            Some(took) => writeln!(
                out,
                "first scan           {} files in {:.2} s, {:.0} files/s at the consumer",
                self.files,
                took.as_secs_f64(),
                self.files as f64 / took.as_secs_f64()
            )?,
            None => writeln!(out, "first scan           not complete")?,
        }
        writeln!(out, "changes              {}", self.changes)?;
        writeln!(out, "messages             {messages}, and {redelivered} redelivered")?;
        writeln!(
            out,
            "latency of writes    p50 {}, p95 {}, p99 {}, of {}",
            shown(at(50)),
            shown(at(95)),
            shown(at(99)),
            latencies.len()
        )?;
        writeln!(out, "caught up after      {:.1} s", self.caught_up.as_secs_f64())?;
        writeln!(out, "deepest queue        {deepest} messages")?;
        writeln!(out, "peak memory          {} MB for an instance", self.peak_memory / 1000)?;
        writeln!(out, "memory               {} MB for all instances after the first scan", self.memory / 1000)?;
        writeln!(out, "watches              {} directories, {} connections", self.watches, self.connections)?;
        writeln!(out, "conflicts            {}", conflicts.len())?;
        writeln!(out, "broken contract      {}", violations.len())?;
        writeln!(out, "lost                 {}", self.lost.len())?;
        for died in &self.died {
            writeln!(out, "  instance {died} ended by itself")?;
        }
        let lost = self.lost.iter().map(|path| format!("lost: {}", path.display()));
        for line in conflicts.iter().chain(violations).cloned().chain(lost).take(LISTED) {
            writeln!(out, "  {line}")?;
        }
        Ok(())
    }
}
