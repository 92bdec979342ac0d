//! One scan of the whole library.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures::{Stream, StreamExt};
use tokio_util::sync::CancellationToken;

use super::{Service, ServiceError};
use crate::library::WalkReport;
use crate::model::{Cause, FsEvent, LibraryPath, Origin};
use crate::sink::{BrokerState, DeliveryStatus, Sink};
use crate::status::Summary;

/// The most walks of one round, if the library changes during them.
const MAX_WALKS: usize = 10;

/// The most rounds of one scan. Another round is made if a mount went away, or if a walk could not remember all approved
/// or excluded deletes.
const MAX_ROUNDS: usize = 100;

/// The most looks at a file that keeps changing. After that it is left to the next scan.
const MAX_ATTEMPTS: u32 = 8;

/// Scans the whole library once, and waits until every change is delivered.
///
/// # Errors
/// If the walk cannot be finished, the store fails, the broker refuses messages, or `shutdown` comes first.
pub async fn scan(
    service: &Service,
    sink: &mut Sink,
    shutdown: CancellationToken,
) -> Result<Option<Summary>, ServiceError> {
    let started = Instant::now();
    let work = async {
        service.index_once(&shutdown).await?;
        if service.store.outbox_length() > 0 {
            tracing::info!(waiting = service.store.outbox_length(), "everything is indexed; delivering");
        }
        Ok(())
    };
    run_and_deliver(service, work, sink, &shutdown).await?;
    Ok(Some(service.summary(started)))
}

/// Does `work` and delivers all its messages. Stops after the grace time when `shutdown` comes.
pub(super) async fn run_and_deliver(
    service: &Service,
    work: impl Future<Output = Result<(), ServiceError>>,
    sink: &mut Sink,
    shutdown: &CancellationToken,
) -> Result<(), ServiceError> {
    let delivered = async {
        work.await?;
        service.store.drained().await?;
        Ok(())
    };
    let stopped = async {
        shutdown.cancelled().await;
        tokio::time::sleep(service.settings.shutdown_grace).await;
    };
    tokio::select! {
        done = delivered => done,
        refused = refused(sink.status()) => Err(refused),
        failed = service.deliver(sink) => failed,
        never = service.log_progress() => match never {},
        () = stopped => Err(ServiceError::Interrupted),
    }?;
    if shutdown.is_cancelled() { Err(ServiceError::Interrupted) } else { Ok(()) }
}

/// Waits until the broker refuses the connection for a cause that an operator has to fix.
async fn refused(status: Option<Arc<DeliveryStatus>>) -> ServiceError {
    let Some(status) = status else { return std::future::pending().await };
    let mut state = status.state();
    let refused = state.wait_for(|state| matches!(state, BrokerState::Refused { .. })).await;
    match refused.as_deref() {
        Ok(BrokerState::Refused { reason, .. }) => ServiceError::Refused(reason.clone()),
        _ => std::future::pending().await,
    }
}

impl Service {
    async fn index_once(&self, shutdown: &CancellationToken) -> Result<(), ServiceError> {
        for _ in 0..MAX_ROUNDS {
            self.is_mount_missed.store(false, Ordering::Relaxed);
            self.scanner.tally.seen.store(0, Ordering::Relaxed);
            self.scanner.tally.unchanged.store(0, Ordering::Relaxed);
            let is_more_left_out = self.index_everything(shutdown).await?;
            let is_mount_missed = self.is_mount_missed.load(Ordering::Relaxed);
            if shutdown.is_cancelled() || !(is_mount_missed || is_more_left_out || self.scanner.held.is_approved()) {
                break;
            }
        }
        self.note_held();
        Ok(())
    }

    /// Walks everything and publishes new and changed files, then deletes. Returns whether the rules exclude more rows than
    /// one walk remembers.
    async fn index_everything(&self, shutdown: &CancellationToken) -> Result<bool, ServiceError> {
        let root = Arc::clone(&self.root);
        let _ = tokio::task::spawn_blocking(move || root.find_links()).await;
        let mut found = WalkReport::default();
        let mut subtrees = vec![LibraryPath::root()];
        // One walk, unless the library changes during it. Then the changed subtrees are walked again.
        for walk in 0..MAX_WALKS {
            if subtrees.is_empty() || shutdown.is_cancelled() {
                break;
            }
            let (hints, report) = self.scanner.walk(subtrees, Origin::Scan);
            self.index(hints, shutdown).await;
            self.finish_looks(shutdown).await;
            let Ok(mut report) = report.await else { return Ok(false) };
            self.index(futures::stream::iter(report.replaced_hints(Origin::Scan)), shutdown).await;
            self.finish_looks(shutdown).await;
            if walk == 0 {
                found = report;
            } else {
                found.append(report);
            }
            subtrees = self.inbox.take_subtrees();
        }
        if let Some(failure) = found.failure {
            return Err(ServiceError::Walk(failure));
        }
        for (path, error) in &found.unreadable {
            self.failed(path, &std::io::Error::other(error.clone()));
        }
        if shutdown.is_cancelled() || found.unreadable.iter().any(|(path, _)| path.is_root()) {
            return Ok(false);
        }
        let is_more_left_out = found.left_out_total > found.left_out.len() as u64;
        let scanner = self.scanner.clone();
        let deletions = tokio::task::spawn_blocking(move || scanner.deletions(found, true)).await;
        let looks = deletions.unwrap_or_default().gone.into_iter().map(|look| look.because(Cause::Found));
        self.index(futures::stream::iter(looks), shutdown).await;
        self.finish_looks(shutdown).await;
        Ok(is_more_left_out)
    }

    /// Repeats the looks at files that were found changing, until they are finished or were tried often enough.
    async fn finish_looks(&self, shutdown: &CancellationToken) {
        loop {
            let waiting = self.take_unfinished();
            let Some(wait) = waiting.iter().map(wait_of).max() else { break };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = shutdown.cancelled() => break,
            }
            self.index(futures::stream::iter(waiting), shutdown).await;
        }
    }

    /// Runs the chain until the hints end or `shutdown` comes, and commits everything in flight.
    pub(super) async fn index(&self, hints: impl Stream<Item = FsEvent>, shutdown: &CancellationToken) {
        let hints = hints.take_until(shutdown.cancelled());
        let commit = |batch| self.commit(batch, shutdown.is_cancelled());
        crate::pipeline::index(hints, &self.chain, |look| self.examine(look), commit).await;
    }

    /// Takes the hints for files that were found changing and are looked at again.
    fn take_unfinished(&self) -> Vec<FsEvent> {
        let (waiting, given_up): (Vec<FsEvent>, Vec<FsEvent>) = self
            .inbox
            .take_all()
            .into_iter()
            .filter(|look| !self.is_left_to_next_scan(look))
            .partition(|look| look.retry.attempt <= MAX_ATTEMPTS);
        for look in given_up {
            self.failed(&look.path, &std::io::Error::other("it keeps changing"));
        }
        waiting
    }

    /// Whether a file is left to the next scan: it has been empty for less than a minute and may be a starting download.
    fn is_left_to_next_scan(&self, look: &FsEvent) -> bool {
        let is_empty = look.retry.last_seen.is_some_and(|last_seen| last_seen.stat.size == 0);
        let is_left = is_empty && matches!(look.cause, Cause::Again(wait) if wait > self.settings.settle);
        if is_left {
            self.counters.left.fetch_add(1, Ordering::Relaxed);
            tracing::info!(path = %look.path.to_absolute(self.root.path()).display(), "empty for less than a minute; left to the next scan");
        }
        is_left
    }

    fn summary(&self, started: Instant) -> Summary {
        let events = self.counters.events.now();
        let seen = self.scanner.tally.seen.load(Ordering::Relaxed);
        let unchanged_on_walk = self.scanner.tally.unchanged.load(Ordering::Relaxed);
        let verified = self.examiner.verified_bytes.load(Ordering::Relaxed);
        Summary {
            seen,
            unchanged: unchanged_on_walk + self.counters.unchanged.load(Ordering::Relaxed),
            events,
            failed: self.counters.failed.load(Ordering::Relaxed),
            left: self.counters.left.load(Ordering::Relaxed),
            links_passed_over: self.root.links_passed_over(),
            held: self.scanner.held.count(),
            bytes: self.examiner.contents.bytes_read().saturating_sub(verified),
            verified,
            took: started.elapsed(),
        }
    }
}

fn wait_of(look: &FsEvent) -> Duration {
    match look.cause {
        Cause::Again(wait) => wait,
        _ => Duration::ZERO,
    }
}
