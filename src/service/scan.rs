//! One scan of the whole library.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use futures::{Stream, StreamExt};
use tokio_util::sync::CancellationToken;

use super::{Service, ServiceError};
use crate::engine::Engine;
use crate::library::NoWatcher;
use crate::model::{Cause, FsEvent, Token};
use crate::sink::{BrokerState, DeliveryStatus, Sink};
use crate::status::Summary;

/// The most rounds of one scan. Another round is made if the library changes during the scan, if a mount went away, or
/// if a walk could not remember all approved or excluded deletes.
const MAX_ROUNDS: u64 = 100;

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
        if service.store.outbox_length() > 0 && !shutdown.is_cancelled() {
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
    let status = sink.status();
    let delivered = async {
        work.await?;
        service.store.drained().await?;
        Ok(())
    };
    let stopped = async {
        shutdown.cancelled().await;
        tokio::time::sleep(service.settings.shutdown_grace).await;
    };
    let done = tokio::select! {
        done = delivered => done,
        refused = refused(status.clone()) => Err(refused),
        failed = service.deliver(sink) => failed,
        never = service.show_progress() => match never {},
        never = service.send_traces() => match never {},
        never = service.keep_conditions(status) => match never {},
        () = stopped => Err(ServiceError::Interrupted),
    };
    service.send_last_traces(shutdown).await;
    done?;
    if shutdown.is_cancelled() { Err(ServiceError::Interrupted) } else { Ok(()) }
}

/// Waits until the broker refuses the connection for a cause that an operator has to fix.
pub(super) async fn refused(status: Option<Arc<DeliveryStatus>>) -> ServiceError {
    let Some(status) = status else { return std::future::pending().await };
    let mut state = status.state();
    let refused = state.wait_for(|state| matches!(state, BrokerState::Refused { .. })).await;
    match refused.as_deref() {
        Ok(BrokerState::Refused { reason, .. }) => ServiceError::Refused(reason.clone()),
        _ => std::future::pending().await,
    }
}

impl Service {
    /// Walks everything, and whatever changes meanwhile, until every change is committed.
    async fn index_once(&self, shutdown: &CancellationToken) -> Result<(), ServiceError> {
        let in_flight = Token::new(());
        self.inbox.with(|engine, now| engine.begin_scan(now.instant));
        let rounds = self.scanner.clone().rounds(Arc::new(NoWatcher));
        let hints = futures::stream::select(self.inbox.hints(), rounds)
            .filter(|hint| std::future::ready(!self.is_given_up(hint)))
            // Kept until the look is committed, and everything that follows from it waits in the engine.
            .map(|hint| hint.holding(in_flight.clone()));
        let is_done = |engine: &mut Engine| in_flight.is_last() && engine.is_scan_done(MAX_ROUNDS);
        Box::pin(self.index(hints.take_until(self.inbox.wait_until(is_done)), shutdown)).await;
        self.note_engine();
        let failure = self.inbox.engine().with(|engine| engine.scan_failure().map(ToOwned::to_owned));
        failure.map_or(Ok(()), |failure| Err(ServiceError::Walk(failure)))
    }

    /// Runs the chain until the hints end or `shutdown` comes, and commits everything in flight.
    pub(super) async fn index(&self, hints: impl Stream<Item = FsEvent>, shutdown: &CancellationToken) {
        let hints = hints.take_until(shutdown.cancelled());
        let commit = |batch| self.commit(batch, shutdown.is_cancelled());
        crate::pipeline::index(hints, &self.chain, |look| self.examine(look), commit).await;
    }

    /// Whether a hint is not followed by this scan any more.
    fn is_given_up(&self, hint: &FsEvent) -> bool {
        let keeps_changing = hint.retry.attempt > MAX_ATTEMPTS;
        if keeps_changing {
            self.failed(&hint.path, &std::io::Error::other("it keeps changing"));
        }
        let is_given_up = keeps_changing || self.is_left_to_next_scan(hint);
        if is_given_up {
            self.inbox.looks_ended();
        }
        is_given_up
    }

    /// Whether a file is left to the next scan: it has been empty for less than a minute and may be a starting download.
    fn is_left_to_next_scan(&self, look: &FsEvent) -> bool {
        let is_empty = look.retry.last_seen.as_ref().is_some_and(|last_seen| last_seen.stat.size == 0);
        let is_left = is_empty && matches!(look.cause, Cause::Again(wait) if wait > self.settings.settle);
        if is_left {
            self.counters.left.fetch_add(1, Ordering::Relaxed);
            tracing::info!(path = %look.path.to_absolute(self.root.path()).display(), "empty for less than a minute; left to the next scan");
        }
        is_left
    }

    fn summary(&self, started: Instant) -> Summary {
        let events = self.observed.events.now();
        let seen = self.scanner.tally.seen.load(Ordering::Relaxed);
        let unchanged_on_walk = self.scanner.tally.unchanged.load(Ordering::Relaxed);
        let (held, unreadable) =
            self.inbox.engine().with(|engine| (engine.held_count(), engine.unreadable_count() as u64));
        let verified = self.examiner.verified_bytes.load(Ordering::Relaxed);
        Summary {
            seen,
            unchanged: unchanged_on_walk + self.counters.unchanged.load(Ordering::Relaxed),
            events,
            failed: self.counters.failed.load(Ordering::Relaxed) + unreadable,
            left: self.counters.left.load(Ordering::Relaxed),
            links_passed_over: self.root.links_passed_over(),
            held,
            parked: *self.store.parked_length().borrow(),
            bytes: self.examiner.contents.bytes_read().saturating_sub(verified),
            verified,
            took: started.elapsed(),
        }
    }
}
