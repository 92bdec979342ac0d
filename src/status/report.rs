//! What the service says about itself: at `/status`, and to `file-watcher status`.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{HistoryReport, human_bytes};
use crate::model::{counted, printable};

/// The state of a running service. Times are in RFC 3339 and in UTC.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The version of the program.
    pub version: String,
    /// The instance id, as in the messages.
    pub instance_id: String,
    /// The library root.
    pub library: String,
    /// Whether a service is running. If not, this is about the index and the outbox at rest.
    pub running: bool,
    /// When the service was started; empty if none is running.
    pub started: String,
    /// When this report was made.
    pub now: String,
    /// Whether the library is followed completely and messages are delivered: no condition prevents that.
    pub ready: bool,
    /// The conditions in effect, in the order in which they began.
    pub conditions: Vec<ConditionReport>,
    /// The scans of the whole library.
    pub scan: ScanReport,
    /// File events since the start, by type.
    pub events: EventsReport,
    /// Figures of the last hour.
    pub history: HistoryReport,
    /// The undelivered messages.
    pub outbox: OutboxReport,
    /// The broker.
    pub broker: BrokerReport,
    /// The watch.
    pub watch: WatchReport,
    /// The index.
    pub index: IndexReport,
    /// Hints that wait for a look.
    pub pending: u64,
    /// Files that could not be read when last looked at, and paths that scans cannot read.
    pub failed: u64,
    /// Parked messages.
    pub parked: u64,
}

/// Whether the service is ready: what `/readyz` answers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Readiness {
    /// Whether no condition prevents it.
    pub ready: bool,
    /// The conditions in effect, also those that do not prevent readiness.
    pub reasons: Vec<ConditionReport>,
}

/// A condition that is in effect.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConditionReport {
    /// Its kind, such as `root_gone`.
    pub kind: String,
    /// Whether the service is not ready because of it.
    pub prevents_readiness: bool,
    /// How bad it is.
    pub severity: Severity,
    /// Since when it is in effect.
    pub since: String,
    /// What is the case, in a sentence.
    pub summary: String,
    /// Figures and causes; empty if there are none.
    pub details: String,
    /// What an operator can do.
    pub what_to_do: String,
}

/// How bad a condition is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Nothing is wrong. It explains what the service does.
    #[default]
    Info,
    /// The service works, more slowly or not for every file.
    Warning,
    /// The service does not do its work until an operator acts or the cause ends.
    Error,
}

/// The scans of the whole library.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ScanReport {
    /// Whether one is running.
    pub running: bool,
    /// Whether it is the first one since the start.
    pub is_first: bool,
    /// Files that it is done with.
    pub files_seen: u64,
    /// The files that it will probably find: those of the index; `None` if the index is new.
    pub files_total: Option<u64>,
    /// Bytes that were hashed since the start.
    pub bytes_hashed: u64,
    /// The time that is left, if it can be estimated.
    pub seconds_left: Option<u64>,
    /// When the last one finished.
    pub last_finished: Option<String>,
    /// How long it took.
    pub last_seconds: Option<f64>,
}

/// File events by type.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields are the event types")]
pub struct EventsReport {
    pub created: u64,
    pub modified: u64,
    pub deleted: u64,
    pub moved: u64,
    pub renamed: u64,
}

/// The undelivered messages.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct OutboxReport {
    /// Their number.
    pub messages: u64,
    /// The age of the oldest one.
    pub oldest_seconds: Option<f64>,
    /// The number at which intake pauses.
    pub limit: u64,
}

/// The broker.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BrokerReport {
    /// `connected`, `connecting`, `refused`, `blocked`, or `none` if messages go to standard output.
    pub state: String,
    /// The node that it is connected to: host and port.
    #[serde(default)]
    pub node: Option<String>,
    /// Why it is not connected.
    pub details: Option<String>,
    /// Confirmed messages since the start.
    pub confirmed: u64,
    /// Messages that a queue rejected.
    pub rejected: u64,
    /// Messages that no queue was bound for.
    pub returned: u64,
    /// Connections that were opened.
    pub connections: u64,
}

/// The watch.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WatchReport {
    /// `full`, `partial`, `none` or `polled`.
    pub coverage: String,
    /// The number of directories that are watched, and of those above them.
    pub watches: Option<u64>,
    /// The number of watches of this user that the kernel allows.
    pub watches_allowed: Option<u64>,
}

/// The index.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexReport {
    /// The number of files.
    pub files: u64,
    /// The sum of their sizes.
    pub bytes: u64,
}

impl Report {
    /// The report as one line of JSON.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("texts and numbers are always JSON")
    }
}

impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let headline = match (self.running, self.ready, self.conditions.is_empty()) {
            (false, ..) => "no service is running",
            (true, false, _) => "not ready",
            (true, true, false) => "ready, with remarks",
            (true, true, true) => "ready",
        };
        writeln!(formatter, "status        {headline}")?;
        for ConditionReport { since, summary, details, what_to_do, .. } in &self.conditions {
            writeln!(formatter, "              - {} (since {since})", printable(summary))?;
            for line in [details, what_to_do].into_iter().filter(|line| !line.is_empty()) {
                writeln!(formatter, "                {}", printable(line))?;
            }
        }
        writeln!(formatter, "library       {}", printable(&self.library))?;
        writeln!(
            formatter,
            "index         {}, {}",
            counted(self.index.files, "file"),
            human_bytes(self.index.bytes as f64)
        )?;
        let oldest = self.outbox.oldest_seconds.map(|oldest| format!(", oldest {oldest:.0} s")).unwrap_or_default();
        let outbox = format!("{}{oldest}, {} parked", counted(self.outbox.messages, "message"), self.parked);
        if !self.running {
            return write!(formatter, "outbox        {outbox}\nversion       {}", self.version);
        }
        let ScanReport { running, is_first, files_seen, files_total, last_finished, last_seconds, .. } = &self.scan;
        if *running {
            let which = if *is_first { "first scan" } else { "scan" };
            let total = files_total.map(|total| format!(" of about {total}")).unwrap_or_default();
            writeln!(formatter, "scan          {which} running, {}{total}", counted(*files_seen, "file"))?;
        } else if let (Some(finished), Some(seconds)) = (last_finished, last_seconds) {
            writeln!(formatter, "scan          last one finished {finished}, took {seconds:.1} s")?;
        }
        let EventsReport { created, modified, deleted, moved, renamed } = &self.events;
        writeln!(
            formatter,
            "events        {created} created, {modified} modified, {deleted} deleted, {moved} moved, {renamed} renamed"
        )?;
        writeln!(formatter, "outbox        {outbox}")?;
        let BrokerReport { state, node, details, confirmed, .. } = &self.broker;
        let preposition = if state == "connected" { "to" } else { "at" };
        let node = node.as_ref().map(|node| format!(" {preposition} {node}")).unwrap_or_default();
        let details = details.as_ref().map(|details| format!(" ({details})")).unwrap_or_default();
        writeln!(formatter, "broker        {state}{node}{details}, {confirmed} confirmed")?;
        // A lone "full" reads as if a limit were reached.
        let watched = match self.watch.coverage.as_str() {
            "full" => "all directories",
            "partial" => "some directories",
            "none" => "no directory",
            "polled" => "by regular scans",
            other => other,
        };
        writeln!(formatter, "watch         {watched}")?;
        writeln!(formatter, "waiting       {}", counted(self.pending, "path"))?;
        writeln!(formatter, "failed        {}", counted(self.failed, "path"))?;
        write!(formatter, "version       {}, started {}", self.version, self.started)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_json_and_text() {
        let report = Report {
            version: "0.1.0".to_owned(),
            library: "/music".to_owned(),
            running: true,
            started: "2026-01-01T00:00:00Z".to_owned(),
            conditions: vec![ConditionReport {
                kind: "root_gone".to_owned(),
                prevents_readiness: true,
                severity: Severity::Error,
                since: "2026-01-01T00:01:00Z".to_owned(),
                summary: "the library root is gone".to_owned(),
                details: "No such file or directory".to_owned(),
                what_to_do: "Mount the library.".to_owned(),
            }],
            index: IndexReport { files: 12, bytes: 3_500_000 },
            scan: ScanReport {
                running: true,
                is_first: true,
                files_seen: 7,
                files_total: Some(12),
                ..Default::default()
            },
            broker: BrokerReport {
                state: "connected".to_owned(),
                node: Some("rabbit-1:5672".to_owned()),
                confirmed: 5,
                ..BrokerReport::default()
            },
            watch: WatchReport { coverage: "full".to_owned(), ..WatchReport::default() },
            ..Report::default()
        };
        assert_eq!(serde_json::from_str::<Report>(&report.to_json()).unwrap(), report);
        insta::assert_snapshot!(report, @r"
        status        not ready
                      - the library root is gone (since 2026-01-01T00:01:00Z)
                        No such file or directory
                        Mount the library.
        library       /music
        index         12 files, 3.5 MB
        scan          first scan running, 7 files of about 12
        events        0 created, 0 modified, 0 deleted, 0 moved, 0 renamed
        outbox        0 messages, 0 parked
        broker        connected to rabbit-1:5672, 5 confirmed
        watch         all directories
        waiting       0 paths
        failed        0 paths
        version       0.1.0, started 2026-01-01T00:00:00Z
        ");
        let at_rest = Report { running: false, conditions: Vec::new(), ..report };
        insta::assert_snapshot!(at_rest, @r"
        status        no service is running
        library       /music
        index         12 files, 3.5 MB
        outbox        0 messages, 0 parked
        version       0.1.0
        ");
    }
}
