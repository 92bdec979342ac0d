//! The figures of the service, in the names and units of Prometheus.
//!
//! No label has a value that depends on a file, so the number of time series is bounded.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use prometheus::core::Collector;
use prometheus::{
    Encoder as _, Gauge, GaugeVec, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder,
};

use crate::model::{EventType, Origin};

/// Bounds for work on one file, in seconds: from a small file in the cache to a large one on a slow disk.
const FILE_SECONDS: [f64; 10] = [0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 10.0];

/// Bounds for a transaction or a confirmed batch, in seconds.
const BATCH_SECONDS: [f64; 9] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 5.0];

/// Bounds for the time from an event to its confirm, in seconds: it includes the wait until a file is complete.
const LATENCY_SECONDS: [f64; 13] = [0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0, 30.0, 300.0];

/// The metrics. Clones share them.
#[derive(Clone)]
pub struct Metrics(Arc<Inner>);

struct Inner {
    registry: Registry,
    events: IntCounterVec,
    files_hashed: IntCounter,
    bytes_hashed: IntCounter,
    files_verified: IntCounter,
    bytes_verified: IntCounter,
    rotten_files: IntGauge,
    hash_seconds: Histogram,
    metadata_seconds: Histogram,
    commit_seconds: Histogram,
    confirm_seconds: Histogram,
    latency_seconds: Histogram,
    snapshot: SnapshotGauges,
}

/// Figures that other parts of the program keep. They are copied when the metrics are read.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Hints that wait for a look.
    pub pending_paths: u64,
    /// Messages in the outbox.
    pub outbox_messages: u64,
    /// The number of them at which intake pauses.
    pub outbox_limit: u64,
    /// The age of the oldest of them.
    pub outbox_oldest: Option<Duration>,
    /// Parked messages.
    pub parked_messages: u64,
    /// Messages that the broker confirmed and did not return.
    pub confirms: u64,
    /// Messages that a queue rejected.
    pub nacks: u64,
    /// Messages that no queue was bound for.
    pub returns: u64,
    /// Messages that were discarded because no queue was bound.
    pub dropped: u64,
    /// Messages that were published again.
    pub redeliveries: u64,
    /// Connections to the broker that were opened.
    pub connections: u64,
    /// How often the kernel lost events.
    pub overflows: u64,
    /// Finished walks of everything.
    pub scans: u64,
    /// The duration of the last one.
    pub last_scan: Option<Duration>,
    /// When the last one finished that could read everything, in seconds since the epoch.
    pub last_clean_scan: Option<f64>,
    /// Files that cannot be read.
    pub failed_files: u64,
    /// Directories and files that walks cannot read.
    pub unreadable_paths: u64,
    /// Held deletes.
    pub held_deletes: u64,
    /// The number of directories that are watched, and the limit of the kernel.
    pub watches: Option<(u64, u64)>,
    /// Files and bytes in the index, by format.
    pub index: Vec<FormatFigures>,
    /// Every kind of condition, and whether it is in effect.
    pub conditions: Vec<(&'static str, bool)>,
}

/// The files of one format in the index.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FormatFigures {
    /// The format, such as `flac`.
    pub format: String,
    /// The number of files.
    pub files: u64,
    /// The sum of their sizes.
    pub bytes: u64,
}

/// The metrics of a [`Snapshot`].
struct SnapshotGauges {
    pending_paths: IntGauge,
    outbox_messages: IntGauge,
    outbox_limit: IntGauge,
    outbox_oldest_seconds: Gauge,
    parked_messages: IntGauge,
    confirms: IntCounter,
    nacks: IntCounter,
    returns: IntCounter,
    dropped: IntCounter,
    redeliveries: IntCounter,
    connections: IntCounter,
    overflows: IntCounter,
    scans: IntCounter,
    last_scan_seconds: Gauge,
    last_clean_scan_timestamp_seconds: Gauge,
    failed_files: IntGauge,
    unreadable_paths: IntGauge,
    held_deletes: IntGauge,
    watches: IntGauge,
    watches_allowed: IntGauge,
    index_files: IntGaugeVec,
    index_bytes: GaugeVec,
    conditions: IntGaugeVec,
}

/// Creates metrics in one registry.
struct Maker(Registry);

impl Maker {
    fn add<M: Collector + Clone + 'static>(&self, metric: Result<M, prometheus::Error>) -> M {
        // Both fail only for invalid or repeated names, which the test of the names would show.
        let metric = metric.expect("the name of a metric is valid");
        self.0.register(Box::new(metric.clone())).expect("the name of a metric is unique");
        metric
    }

    fn opts(name: &str, help: &str) -> Opts {
        Opts::new(format!("file_watcher_{name}"), help)
    }

    fn counter(&self, name: &str, help: &str) -> IntCounter {
        self.add(IntCounter::with_opts(Self::opts(name, help)))
    }

    fn gauge(&self, name: &str, help: &str) -> Gauge {
        self.add(Gauge::with_opts(Self::opts(name, help)))
    }

    fn int_gauge(&self, name: &str, help: &str) -> IntGauge {
        self.add(IntGauge::with_opts(Self::opts(name, help)))
    }

    fn histogram(&self, name: &str, help: &str, bounds: &[f64]) -> Histogram {
        let opts = HistogramOpts { common_opts: Self::opts(name, help), buckets: bounds.to_vec() };
        self.add(Histogram::with_opts(opts))
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Metrics {
    /// Metrics that all are zero.
    #[must_use]
    pub fn new() -> Self {
        let registry = Registry::new();
        let make = Maker(registry.clone());
        let events = make.add(IntCounterVec::new(
            Maker::opts("events_total", "File events that were committed to the outbox."),
            &["type", "origin"],
        ));
        for event_type in EventType::ALL {
            for origin in Origin::ALL {
                events.with_label_values(&[event_type.as_str(), origin.as_str()]);
            }
        }
        let version = make.add(IntGaugeVec::new(Maker::opts("build_info", "1, with the version."), &["version"]));
        version.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        let process = prometheus::process_collector::ProcessCollector::for_self();
        registry.register(Box::new(process)).expect("the names of the process metrics are unique");
        Self(Arc::new(Inner {
            events,
            files_hashed: make.counter("files_hashed_total", "Files that were read to their end."),
            bytes_hashed: make.counter("hashed_bytes_total", "Bytes of these files."),
            files_verified: make.counter("verified_files_total", "Files that were read again to verify them."),
            bytes_verified: make.counter("verified_bytes_total", "Bytes of these files."),
            rotten_files: make.int_gauge(
                "rotten_files",
                "Files with another content than was published, and the same size and times.",
            ),
            hash_seconds: make.histogram("hash_seconds", "Time to read and hash one file.", &FILE_SECONDS),
            metadata_seconds: make.histogram("metadata_seconds", "Time to read the metadata of a file.", &FILE_SECONDS),
            commit_seconds: make.histogram(
                "commit_seconds",
                "Time of one transaction of index and outbox.",
                &BATCH_SECONDS,
            ),
            confirm_seconds: make.histogram(
                "confirm_seconds",
                "Time until the broker confirmed one batch.",
                &BATCH_SECONDS,
            ),
            latency_seconds: make.histogram(
                "event_to_confirm_seconds",
                "Time from the event of the kernel until the broker confirmed the message.",
                &LATENCY_SECONDS,
            ),
            snapshot: SnapshotGauges::new(&make),
            registry,
        }))
    }

    /// A file event was committed.
    pub fn count_event(&self, event_type: EventType, origin: Origin) {
        self.0.events.with_label_values(&[event_type.as_str(), origin.as_str()]).inc();
    }

    /// A file was read.
    pub fn count_read(&self, bytes: u64, hash: Duration, metadata: Duration) {
        self.0.files_hashed.inc();
        self.0.bytes_hashed.inc_by(bytes);
        self.0.hash_seconds.observe(hash.as_secs_f64());
        self.0.metadata_seconds.observe(metadata.as_secs_f64());
    }

    /// Files were read again to verify them.
    pub fn count_verified(&self, files: u64, bytes: u64) {
        self.0.files_verified.inc_by(files);
        self.0.bytes_verified.inc_by(bytes);
    }

    /// Sets the number of rotten files.
    pub fn set_rotten(&self, files: u64) {
        self.0.rotten_files.set(signed(files));
    }

    /// How many files were read to their end.
    #[must_use]
    pub fn files_hashed(&self) -> u64 {
        self.0.files_hashed.get()
    }

    /// The bytes of these files.
    pub fn bytes_hashed(&self) -> u64 {
        self.0.bytes_hashed.get()
    }

    /// A batch was committed.
    pub fn observe_commit(&self, took: Duration) {
        self.0.commit_seconds.observe(took.as_secs_f64());
    }

    /// A batch was confirmed.
    pub fn observe_confirm(&self, took: Duration) {
        self.0.confirm_seconds.observe(took.as_secs_f64());
    }

    /// A message was confirmed this long after the event of the kernel.
    pub fn observe_latency(&self, took: Duration) {
        self.0.latency_seconds.observe(took.as_secs_f64());
    }

    /// All metrics in Prometheus' text format.
    #[must_use]
    pub fn encode(&self, snapshot: &Snapshot) -> String {
        self.0.snapshot.set(snapshot);
        let mut text = Vec::new();
        // Writing to memory does not fail, and the names were checked when they were registered.
        let _ = TextEncoder::new().encode(&self.0.registry.gather(), &mut text);
        String::from_utf8(text).unwrap_or_default()
    }
}

impl SnapshotGauges {
    fn new(make: &Maker) -> Self {
        let by = |name, help, label| make.add(IntGaugeVec::new(Maker::opts(name, help), &[label]));
        Self {
            pending_paths: make.int_gauge("pending_paths", "Paths that wait to be looked at."),
            outbox_messages: make.int_gauge("outbox_messages", "Messages that are not confirmed yet."),
            outbox_limit: make
                .int_gauge("outbox_max_messages", "The number of messages in the outbox at which intake pauses."),
            outbox_oldest_seconds: make.gauge("outbox_oldest_seconds", "Age of the oldest message in the outbox."),
            parked_messages: make.int_gauge("parked_messages", "Messages that the broker refused."),
            confirms: make.counter("confirms_total", "Messages that the broker confirmed."),
            nacks: make.counter("nacks_total", "Messages that a queue rejected."),
            returns: make.counter("returns_total", "Messages that were returned because no queue was bound."),
            dropped: make.counter(
                "dropped_total",
                "Messages that were discarded because no queue was bound, as UNROUTABLE says.",
            ),
            redeliveries: make.counter("redeliveries_total", "Messages that were published again."),
            connections: make.counter("broker_connections_total", "Connections to the broker that were opened."),
            overflows: make.counter("overflows_total", "How often the kernel lost events."),
            scans: make.counter("scans_total", "Finished scans of the whole library."),
            last_scan_seconds: make.gauge("last_scan_seconds", "Duration of the last scan."),
            last_clean_scan_timestamp_seconds: make
                .gauge("last_clean_scan_timestamp_seconds", "When the last scan finished that could read everything."),
            failed_files: make.int_gauge("failed_files", "Files that could not be read when last looked at."),
            unreadable_paths: make.int_gauge("unreadable_paths", "Paths that scans cannot read."),
            held_deletes: make.int_gauge("held_deletes", "Deletes that are held."),
            watches: make.int_gauge("watches", "Directories that are watched."),
            watches_allowed: make.int_gauge("watches_allowed", "Directories that the kernel allows to watch."),
            index_files: by("index_files", "Files in the index.", "format"),
            index_bytes: make
                .add(GaugeVec::new(Maker::opts("index_bytes", "Bytes of the files in the index."), &["format"])),
            conditions: by("condition", "1 while the condition is in effect.", "condition"),
        }
    }

    fn set(&self, snapshot: &Snapshot) {
        self.pending_paths.set(signed(snapshot.pending_paths));
        self.outbox_messages.set(signed(snapshot.outbox_messages));
        self.outbox_limit.set(signed(snapshot.outbox_limit));
        self.outbox_oldest_seconds.set(snapshot.outbox_oldest.unwrap_or_default().as_secs_f64());
        self.parked_messages.set(signed(snapshot.parked_messages));
        raise(&self.confirms, snapshot.confirms);
        raise(&self.nacks, snapshot.nacks);
        raise(&self.returns, snapshot.returns);
        raise(&self.dropped, snapshot.dropped);
        raise(&self.redeliveries, snapshot.redeliveries);
        raise(&self.connections, snapshot.connections);
        raise(&self.overflows, snapshot.overflows);
        raise(&self.scans, snapshot.scans);
        self.last_scan_seconds.set(snapshot.last_scan.unwrap_or_default().as_secs_f64());
        self.last_clean_scan_timestamp_seconds.set(snapshot.last_clean_scan.unwrap_or_default());
        self.failed_files.set(signed(snapshot.failed_files));
        self.unreadable_paths.set(signed(snapshot.unreadable_paths));
        self.held_deletes.set(signed(snapshot.held_deletes));
        let (watches, allowed) = snapshot.watches.unwrap_or_default();
        self.watches.set(signed(watches));
        self.watches_allowed.set(signed(allowed));
        for FormatFigures { format, files, bytes } in &snapshot.index {
            self.index_files.with_label_values(&[format]).set(signed(*files));
            self.index_bytes.with_label_values(&[format]).set(*bytes as f64);
        }
        for (condition, is_active) in &snapshot.conditions {
            self.conditions.with_label_values(&[*condition]).set(i64::from(*is_active));
        }
    }
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Raises a counter to the value that another part of the program counts.
fn raise(counter: &IntCounter, to: u64) {
    counter.inc_by(to.saturating_sub(counter.get()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_and_what_was_counted_are_encoded() {
        let metrics = Metrics::new();
        metrics.count_event(EventType::Created, Origin::Watch);
        metrics.count_read(1000, Duration::from_millis(3), Duration::from_millis(1));
        metrics.observe_latency(Duration::from_millis(60));
        let index = vec![FormatFigures { format: "flac".to_owned(), files: 2, bytes: 30 }];
        let conditions = vec![("root_gone", true), ("polled", false)];
        let mut snapshot = Snapshot { confirms: 7, index, conditions, ..Snapshot::default() };
        for confirms in [7, 9] {
            snapshot.confirms = confirms;
            let text = metrics.encode(&snapshot);
            let has = |line: &str| assert!(text.lines().any(|it| it == line), "{line} is missing:\n{text}");
            has("file_watcher_events_total{origin=\"watch\",type=\"created\"} 1");
            has("file_watcher_events_total{origin=\"scan\",type=\"moved\"} 0");
            has("file_watcher_hashed_bytes_total 1000");
            has(&format!("file_watcher_confirms_total {confirms}"));
            has("file_watcher_index_files{format=\"flac\"} 2");
            has("file_watcher_condition{condition=\"root_gone\"} 1");
            has("file_watcher_condition{condition=\"polled\"} 0");
            has("file_watcher_event_to_confirm_seconds_bucket{le=\"0.05\"} 0");
            has("file_watcher_event_to_confirm_seconds_bucket{le=\"0.075\"} 1");
            assert!(text.contains("process_resident_memory_bytes"));
        }
    }
}
