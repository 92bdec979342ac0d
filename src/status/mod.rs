//! Counters, and the conditions that an operator should know.

mod conditions;
mod event_log;
mod held_list;
mod history;
mod lists;
mod progress;
mod register;
mod report;

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::json;

use crate::model::{EventType, counted};

pub use conditions::{Condition, ConditionKind};
pub use event_log::{EventLog, EventPage, EventQuery, LoggedEvent};
pub use held_list::{HeldLine, HeldList};
pub use history::{History, HistoryReport, STEP};
pub use lists::{
    DuplicateFile, DuplicatesLine, DuplicatesReport, FailedLine, FailedReport, LibraryLine, LibraryReport,
};
pub use progress::{Progress, ScanProgress, duration_text, human_bytes, kilohertz, scan_text};
pub use register::{Active, Conditions};
pub use report::{
    BrokerReport, ConditionReport, EventsReport, IndexReport, OutboxReport, Readiness, Report, ScanReport, Severity,
    WatchReport,
};

/// Counters that only increase while the service runs.
#[derive(Debug, Default)]
pub struct Counters {
    /// Looks that ended, whatever they found.
    pub looks: AtomicU64,
    /// Looks that found a file unchanged.
    pub unchanged: AtomicU64,
    /// Looks that failed.
    pub failed: AtomicU64,
    /// Files that a scan left to the next scan.
    pub left: AtomicU64,
}

/// A number for each event type.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are the event types")]
pub struct EventCounts<T> {
    pub created: T,
    pub modified: T,
    pub deleted: T,
    pub moved: T,
    pub renamed: T,
}

impl EventCounts<AtomicU64> {
    /// Counts one event of a type.
    pub fn count(&self, event_type: EventType) {
        let counter = match event_type {
            EventType::Created => &self.created,
            EventType::Modified => &self.modified,
            EventType::Deleted => &self.deleted,
            EventType::Moved => &self.moved,
            EventType::Renamed => &self.renamed,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// The current numbers.
    pub fn now(&self) -> EventCounts<u64> {
        EventCounts {
            created: self.created.load(Ordering::Relaxed),
            modified: self.modified.load(Ordering::Relaxed),
            deleted: self.deleted.load(Ordering::Relaxed),
            moved: self.moved.load(Ordering::Relaxed),
            renamed: self.renamed.load(Ordering::Relaxed),
        }
    }
}

impl EventCounts<u64> {
    /// What was counted after `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            created: self.created - earlier.created,
            modified: self.modified - earlier.modified,
            deleted: self.deleted - earlier.deleted,
            moved: self.moved - earlier.moved,
            renamed: self.renamed - earlier.renamed,
        }
    }

    /// The sum of all numbers.
    pub fn total(&self) -> u64 {
        self.created + self.modified + self.deleted + self.moved + self.renamed
    }

    /// The number for an event type.
    pub fn get(&self, event_type: EventType) -> u64 {
        match event_type {
            EventType::Created => self.created,
            EventType::Modified => self.modified,
            EventType::Deleted => self.deleted,
            EventType::Moved => self.moved,
            EventType::Renamed => self.renamed,
        }
    }
}

/// The result of a verification.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VerifySummary {
    /// Files that were tried.
    pub files: u64,
    /// Bytes of those that were read.
    pub bytes: u64,
    /// Files with another content than was published, and the same size and times.
    pub rotten: u64,
    /// Files with another size or other times.
    pub changed: u64,
    /// Files that are gone.
    pub gone: u64,
    /// Files that could not be read.
    pub failed: u64,
}

impl VerifySummary {
    /// The summary as one line of JSON.
    #[must_use]
    pub fn to_json(&self) -> String {
        let Self { files, bytes, rotten, changed, gone, failed } = self;
        json!({
            "files_verified": files,
            "bytes_verified": bytes,
            "rotten": rotten,
            "changed": changed,
            "gone": gone,
            "failed": failed,
        })
        .to_string()
    }
}

impl fmt::Display for VerifySummary {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { files, bytes, rotten, changed, gone, failed } = self;
        let (files, bytes) = (counted(*files, "file"), human_bytes(*bytes as f64));
        write!(formatter, "{files} verified, {bytes}: {rotten} rotten, {changed} changed, {gone} gone, {failed} failed")
    }
}

/// The result of a scan, as it is printed at its end.
#[derive(Clone, Copy, Debug, Default)]
pub struct Summary {
    /// Audio files that were found.
    pub seen: u64,
    /// Unchanged files.
    pub unchanged: u64,
    /// Messages that were committed, by event type.
    pub events: EventCounts<u64>,
    /// Files and directories that could not be read.
    pub failed: u64,
    /// Files that were left to the next scan because they have been empty for less than a minute.
    pub left: u64,
    /// Symbolic links that were skipped, if links out of the library are followed.
    pub links_passed_over: u64,
    /// Deletes that are held.
    pub held: u64,
    /// Messages that are parked.
    pub parked: u64,
    /// Bytes of new or changed files that were read for hashing.
    pub bytes: u64,
    /// Bytes of files that were read to verify that only their names changed.
    pub verified: u64,
    /// The time from the start of the scan to the last delivery.
    pub took: Duration,
}

impl Summary {
    /// The summary as one line of JSON.
    #[must_use]
    pub fn to_json(&self) -> String {
        let EventCounts { created, modified, deleted, moved, renamed } = self.events;
        json!({
            "files_seen": self.seen,
            "created": created,
            "modified": modified,
            "deleted": deleted,
            "moved": moved,
            "renamed": renamed,
            "unchanged": self.unchanged,
            "failed": self.failed,
            "left": self.left,
            "links_skipped": self.links_passed_over,
            "held_deletes": self.held,
            "parked_messages": self.parked,
            "bytes_hashed": self.bytes,
            "bytes_verified": self.verified,
            "seconds": self.took.as_secs_f64(),
        })
        .to_string()
    }

    /// Whether everything could be read and no delete is held.
    pub fn is_complete(&self) -> bool {
        self.failed == 0 && self.held == 0
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.took.as_secs_f64();
        let counts = EventType::ALL.map(|event_type| (self.events.get(event_type), event_type));
        let by_type: Vec<String> = counts
            .into_iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, event_type)| format!("{count} {event_type}"))
            .collect();
        let by_type = if by_type.is_empty() { String::new() } else { format!(" ({})", by_type.join(", ")) };
        writeln!(formatter, "files seen    {}", self.seen)?;
        writeln!(formatter, "changed       {}{by_type}", self.events.total())?;
        writeln!(formatter, "unchanged     {}", self.unchanged)?;
        writeln!(formatter, "failed        {}", self.failed)?;
        if self.left > 0 {
            writeln!(formatter, "left          {} (empty for less than a minute)", self.left)?;
        }
        if self.links_passed_over > 0 {
            writeln!(formatter, "links skipped {}", self.links_passed_over)?;
        }
        if self.held > 0 {
            writeln!(formatter, "held deletes  {}", self.held)?;
        }
        if self.parked > 0 {
            writeln!(
                formatter,
                "parked        {} (`file-watcher parked` lists them)",
                counted(self.parked, "message")
            )?;
        }
        write!(formatter, "hashed        {}", human_bytes(self.bytes as f64))?;
        if self.bytes > 0 {
            write!(formatter, " at {}/s", human_bytes(self.bytes as f64 / seconds.max(0.001)))?;
        }
        writeln!(formatter)?;
        if self.verified > 0 {
            writeln!(formatter, "verified      {} of renamed files", human_bytes(self.verified as f64))?;
        }
        write!(formatter, "time          {seconds:.2} s, {:.0} files/s", self.seen as f64 / seconds.max(0.001))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_has_one_line_per_figure() {
        let summary = Summary {
            seen: 12,
            unchanged: 9,
            events: EventCounts { created: 2, moved: 1, ..EventCounts::default() },
            failed: 1,
            bytes: 3_500_000,
            took: Duration::from_secs(2),
            ..Summary::default()
        };
        insta::assert_snapshot!(summary, @r"
        files seen    12
        changed       3 (2 created, 1 moved)
        unchanged     9
        failed        1
        hashed        3.5 MB at 1.8 MB/s
        time          2.00 s, 6 files/s
        ");
    }
}
