//! What the running service says about itself, for HTTP and for the control socket.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;

use super::observed::Earlier;
use super::watch_limit::watches_allowed;
use super::{Observed, Service, inventory};
use crate::engine::Coverage;
use crate::http::Source;
use crate::metrics::{FormatFigures, Snapshot};
use crate::model::{FileType, Index as _, LibraryPath};
use crate::sink::{BrokerState, DeliveryStatus};
use crate::status::{
    Active, BrokerReport, Condition, ConditionKind, ConditionReport, DuplicatesReport, EventPage, EventQuery,
    EventsReport, FailedLine, FailedReport, IndexReport, LibraryLine, LibraryReport, LoggedEvent, OutboxReport,
    Readiness, Report, STEP, ScanReport, WatchReport,
};
use crate::store::Figures;

/// How old the figures of the index may be: this many times as old as it takes to count its files. So counting takes at
/// most a hundredth of the time.
const INDEX_FIGURES_AGE: u32 = 100;

/// How long the engine may take to answer before the service counts as dead.
const LIVENESS_LIMIT: Duration = Duration::from_secs(30);

/// How often the engine is asked.
const HEARTBEAT: Duration = Duration::from_secs(5);

/// The rows that are read at once when the files of the index are counted.
const PAGE: usize = 10_000;

/// Reports the state of a service.
pub(super) struct Reporter {
    service: Arc<Service>,
    delivery: Option<Arc<DeliveryStatus>>,
    begun: Instant,
    /// When the engine answered last, in seconds after `begun`.
    last_beat: AtomicU64,
    index: Mutex<IndexFigures>,
    ended: CancellationToken,
}

/// The files of the index by format, as they were counted last.
#[derive(Debug, Default)]
struct IndexFigures {
    formats: Vec<FormatFigures>,
    /// Until when they need not be counted again.
    valid_until: Option<Instant>,
}

impl Reporter {
    pub(super) fn new(service: &Arc<Service>, delivery: Option<Arc<DeliveryStatus>>) -> Self {
        Self {
            service: Arc::clone(service),
            delivery,
            begun: Instant::now(),
            last_beat: AtomicU64::new(0),
            index: Mutex::default(),
            ended: CancellationToken::new(),
        }
    }

    /// Collects the figures of the last hour. Never returns.
    pub(super) async fn sample(&self) -> std::convert::Infallible {
        loop {
            tokio::time::sleep(STEP).await;
            let service = &self.service;
            let Observed { history, metrics, .. } = &*service.observed;
            history.sample(metrics.files_hashed(), metrics.bytes_hashed(), service.store.outbox_length());
        }
    }

    /// Asks the engine again and again whether it answers. Never returns.
    pub(super) async fn beat(&self) -> std::convert::Infallible {
        loop {
            self.service.inbox.engine().with(|_| {});
            self.last_beat.store(self.begun.elapsed().as_secs(), Ordering::Relaxed);
            tokio::time::sleep(HEARTBEAT).await;
        }
    }

    /// The files of the index by format, sorted by format.
    fn index_figures(&self) -> Vec<FormatFigures> {
        let mut index = self.index.lock().unwrap_or_else(PoisonError::into_inner);
        let begun = Instant::now();
        if index.valid_until.is_none_or(|until| until <= begun) {
            index.formats = self.count_index();
            index.valid_until = Some(begun + begun.elapsed() * INDEX_FIGURES_AGE);
        }
        index.formats.clone()
    }

    fn count_index(&self) -> Vec<FormatFigures> {
        let service = &self.service;
        let mut formats: BTreeMap<String, (u64, u64)> = BTreeMap::new();
        let mut after: Option<LibraryPath> = None;
        // A page that cannot be read ends the count: the condition about the store says why.
        while let Ok(rows) = service.store.index().rows_after(&LibraryPath::root(), after.as_ref(), PAGE) {
            let Some(last) = rows.last_path() else { break };
            after = Some(last);
            for (path, stat) in rows.iter() {
                let (files, bytes) = formats.entry(FileType::of(&path).as_str().to_owned()).or_default();
                (*files, *bytes) = (*files + 1, *bytes + stat.size);
            }
        }
        formats.into_iter().map(|(format, (files, bytes))| FormatFigures { format, files, bytes }).collect()
    }

    fn conditions(&self) -> Vec<ConditionReport> {
        let report = |active: Active| match active.condition {
            Condition::FirstScan => ConditionReport { details: self.scan_progress(), ..condition_report(&active) },
            _ => condition_report(&active),
        };
        self.service.conditions.list().into_iter().map(report).collect()
    }

    fn scan_progress(&self) -> String {
        let scan = self.scan();
        match scan.files_total {
            Some(total) if total > 0 => {
                let percent = (scan.files_seen * 100 / total).min(100);
                format!("{percent} %, {} of about {total} files", scan.files_seen)
            }
            _ => format!("{} files so far", scan.files_seen),
        }
    }

    fn scan(&self) -> ScanReport {
        let service = &self.service;
        let tally = &service.scanner.tally;
        let last = tally.last_scan();
        let is_first = last.is_none();
        let known = service.store.index().len().unwrap_or(0);
        let running = service.inbox.engine().with(|engine| engine.is_walking_everything());
        let files_seen = service.files_done();
        // A library that has grown since has more files than its index.
        let files_total = (!service.is_index_new).then_some(known).filter(|total| *total >= files_seen);
        // The first scan began about when the service did.
        let left = files_total
            .filter(|_| running && is_first && files_seen > 0)
            .map(|total| self.begun.elapsed().as_secs().saturating_mul(total.saturating_sub(files_seen)) / files_seen);
        ScanReport {
            running,
            is_first,
            files_seen,
            files_total,
            seconds_left: left,
            bytes_hashed: service.examiner.contents.bytes_read(),
            last_finished: last.map(|last| rfc3339(last.finished)),
            last_seconds: last.map(|last| last.took.as_secs_f64()),
        }
    }

    fn outbox_oldest(&self) -> Option<Duration> {
        self.service.store.index().oldest_message().ok()?.map(age)
    }

    fn broker(&self) -> BrokerReport {
        let Some(status) = &self.delivery else {
            return BrokerReport { state: "none".to_owned(), ..BrokerReport::default() };
        };
        let counts = self.counts();
        let state = match &*status.state().borrow() {
            BrokerState::Connecting { .. } => "connecting",
            BrokerState::Connected => "connected",
            BrokerState::Blocked { .. } => "blocked",
            BrokerState::Refused { .. } => "refused",
        };
        BrokerReport {
            state: state.to_owned(),
            node: status.node(),
            details: status.waiting_for().map(|waiting_for| format!("waits for {waiting_for}")),
            confirmed: counts.confirms,
            rejected: counts.nacks,
            returned: counts.returns,
            connections: counts.connections,
        }
    }

    /// The counts since the start, also those of runs with other settings.
    fn counts(&self) -> Earlier {
        let earlier = self.service.observed.earlier();
        let delivery = self.delivery.as_deref();
        let count = |count: fn(&DeliveryStatus) -> u64| delivery.map(count).unwrap_or_default();
        Earlier {
            confirms: earlier.confirms + count(DeliveryStatus::delivered),
            nacks: earlier.nacks + count(DeliveryStatus::rejected),
            returns: earlier.returns + count(DeliveryStatus::returned),
            dropped: earlier.dropped + count(DeliveryStatus::dropped),
            redeliveries: earlier.redeliveries + count(DeliveryStatus::redelivered),
            connections: earlier.connections + count(DeliveryStatus::connections),
            scans: earlier.scans + self.service.scanner.tally.finished().borrow().count,
        }
    }

    /// Keeps the counts of this run for the next one.
    pub(super) fn keep_counts(&self) {
        let counts = self.counts();
        *self.service.observed.earlier.lock().unwrap_or_else(PoisonError::into_inner) = counts;
    }

    fn snapshot(&self) -> Snapshot {
        let service = &self.service;
        let (pending, held, unreadable, failed) = service.inbox.engine().with(|engine| {
            (engine.hints() as u64, engine.held_count(), engine.unreadable_count() as u64, engine.failed_count() as u64)
        });
        let active: Vec<ConditionKind> =
            service.conditions.list().into_iter().map(|active| active.condition.kind()).collect();
        let scans = *service.scanner.tally.finished().borrow();
        let counts = self.counts();
        Snapshot {
            pending_paths: pending,
            outbox_messages: service.store.outbox_length(),
            outbox_limit: service.settings.outbox_max_events,
            outbox_oldest: self.outbox_oldest(),
            parked_messages: *service.store.parked_length().borrow(),
            confirms: counts.confirms,
            nacks: counts.nacks,
            returns: counts.returns,
            dropped: counts.dropped,
            redeliveries: counts.redeliveries,
            connections: counts.connections,
            overflows: service.observed.overflows.load(Ordering::Relaxed),
            scans: counts.scans,
            last_scan: scans.last.map(|last| last.took),
            last_clean_scan: scans.clean.and_then(|at| at.duration_since(UNIX_EPOCH).ok()).map(|at| at.as_secs_f64()),
            failed_files: failed,
            unreadable_paths: unreadable,
            held_deletes: held,
            watches: watches().zip(watches_allowed()),
            index: self.index_figures(),
            conditions: ConditionKind::ALL.map(|kind| (kind.as_str(), active.contains(&kind))).to_vec(),
        }
    }
}

impl Source for Reporter {
    fn is_live(&self) -> bool {
        let last_beat = Duration::from_secs(self.last_beat.load(Ordering::Relaxed));
        self.begun.elapsed().saturating_sub(last_beat) < LIVENESS_LIMIT
    }

    fn readiness(&self) -> Readiness {
        let reasons = self.conditions();
        Readiness { ready: !reasons.iter().any(|condition| condition.prevents_readiness), reasons }
    }

    fn report(&self) -> Report {
        let service = &self.service;
        let Readiness { ready, reasons: conditions } = self.readiness();
        let events = service.observed.events.now();
        let index = self.index_figures();
        let (pending, failed, coverage) = service.inbox.engine().with(|engine| {
            let failed = engine.failed_count() + engine.unreadable_count();
            (engine.hints() as u64, failed as u64, engine.coverage())
        });
        Report {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            instance_id: service.instance_id.clone(),
            library: service.root.path().display().to_string(),
            running: true,
            started: rfc3339(service.observed.started),
            now: rfc3339(SystemTime::now()),
            ready,
            conditions,
            history: service.observed.history.report(),
            scan: self.scan(),
            events: EventsReport {
                created: events.created,
                modified: events.modified,
                deleted: events.deleted,
                moved: events.moved,
                renamed: events.renamed,
            },
            outbox: OutboxReport {
                messages: service.store.outbox_length(),
                oldest_seconds: self.outbox_oldest().map(|oldest| oldest.as_secs_f64()),
                limit: service.settings.outbox_max_events,
            },
            broker: self.broker(),
            watch: WatchReport {
                coverage: word_of(coverage).to_owned(),
                watches: watches(),
                watches_allowed: watches_allowed(),
            },
            index: IndexReport {
                files: index.iter().map(|figures| figures.files).sum(),
                bytes: index.iter().map(|figures| figures.bytes).sum(),
            },
            pending,
            failed,
            parked: *service.store.parked_length().borrow(),
        }
    }

    fn metrics(&self) -> String {
        self.service.observed.metrics.encode(&self.snapshot())
    }

    fn events(&self, query: &EventQuery) -> EventPage {
        self.service.observed.event_log.find(query)
    }

    fn live(&self) -> broadcast::Receiver<Arc<LoggedEvent>> {
        self.service.observed.event_log.live()
    }

    fn ended(&self) -> CancellationToken {
        self.ended.clone()
    }

    fn library(&self) -> Result<LibraryReport, String> {
        let index = self.service.store.index();
        let lines = |figures: Vec<Figures>| {
            let line = |Figures { name, files, bytes }| LibraryLine { name, files, bytes };
            figures.into_iter().map(line).collect()
        };
        let formats = self.index_figures().into_iter();
        let formats = formats.map(|FormatFigures { format, files, bytes }| LibraryLine { name: format, files, bytes });
        Ok(LibraryReport {
            formats: formats.collect(),
            sizes: lines(index.by_size().map_err(|error| error.to_string())?),
            years: lines(index.by_year().map_err(|error| error.to_string())?),
        })
    }

    fn duplicates(&self, limit: usize) -> Result<DuplicatesReport, String> {
        let found = self.service.store.index().duplicates(&LibraryPath::root(), limit);
        found.map(|found| inventory::report_of(found, self.service.root.path())).map_err(|error| error.to_string())
    }

    fn failed(&self, limit: usize) -> FailedReport {
        let (unreadable, looked_at) =
            self.service.inbox.engine().with(|engine| (engine.unreadable(), engine.failed_files()));
        let total = (unreadable.len() + looked_at.len()) as u64;
        let by_walks = unreadable.into_iter().map(|unreadable| FailedLine {
            path: unreadable.path.to_string(),
            error: unreadable.error,
            since: Some(rfc3339(unreadable.since)),
        });
        let by_looks =
            looked_at.into_iter().map(|(path, error)| FailedLine { path: path.to_string(), error, since: None });
        FailedReport { failed: by_walks.chain(by_looks).take(limit).collect(), total }
    }
}

pub(super) fn condition_report(active: &Active) -> ConditionReport {
    let kind = active.condition.kind();
    ConditionReport {
        kind: kind.as_str().to_owned(),
        severity: kind.severity(),
        prevents_readiness: kind.prevents_readiness(),
        since: rfc3339(UNIX_EPOCH + Duration::from_secs(active.since.unsigned_abs())),
        summary: active.condition.description(),
        details: active.condition.details(),
        what_to_do: active.condition.what_to_do().to_owned(),
    }
}

fn word_of(coverage: Coverage) -> &'static str {
    match coverage {
        Coverage::Full => "full",
        Coverage::Partial => "partial",
        Coverage::None => "none",
        Coverage::Polled => "polled",
    }
}

/// The number of watches of this process: of directories with inotify, of filesystems with fanotify.
pub(super) fn watches() -> Option<u64> {
    let mut watches = 0;
    for entry in std::fs::read_dir("/proc/self/fd").ok()?.flatten() {
        let Ok(target) = std::fs::read_link(entry.path()) else { continue };
        let watch = match target.as_os_str().as_bytes() {
            b"anon_inode:inotify" => "inotify wd:",
            b"anon_inode:[fanotify]" => "fanotify sdev:",
            _ => continue,
        };
        let info = std::fs::read_to_string(Path::new("/proc/self/fdinfo").join(entry.file_name())).ok()?;
        watches += info.lines().filter(|line| line.starts_with(watch)).count() as u64;
    }
    Some(watches)
}

/// How long ago this time was, in seconds since the epoch.
pub(super) fn age(seconds: u64) -> Duration {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now.saturating_sub(Duration::from_secs(seconds))
}

pub(super) fn rfc3339(time: SystemTime) -> String {
    jiff::Timestamp::try_from(time).map(|time| format!("{time:.0}")).unwrap_or_default()
}
