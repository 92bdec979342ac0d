//! Watching: starts the watcher, walks everything once, then follows the events.

use std::pin::pin;
use std::sync::Arc;

use futures::StreamExt as _;
use tokio_util::sync::CancellationToken;

use super::reporter::Reporter;
use super::scan::refused;
use super::supervisor::WatchSupervisor;
use super::{Reload, Service, ServiceError, parked, systemd};
use crate::control::{Control, Refusal, Reply, Request};
use crate::http::{HttpServer, Source as _};
use crate::library::{Barrier, Recheck, RecheckThread};
use crate::model::{counted, with_causes};
use crate::sink::{DeliveryStatus, Sink};
use crate::status::Condition;
use crate::store::StateDir;

/// Follows the library until `shutdown` or `reload`, then finishes everything in flight: within the grace time, and
/// without waiting for the delivery of messages if it goes on with other settings.
///
/// # Errors
/// If the control socket cannot be opened, or the store or the sink fails for good.
pub async fn watch(
    service: Arc<Service>,
    state_dir: &StateDir,
    sink: &mut Sink,
    shutdown: CancellationToken,
    reload: &Reload,
) -> Result<(), ServiceError> {
    let end_of_run = reload.begin_run();
    let control = Control::open(state_dir.path())?;
    let server = match service.settings.http_addr {
        Some(address) => Some(HttpServer::listen(address).await?),
        None => None,
    };
    if let Some(address) = server.as_ref().and_then(HttpServer::address) {
        tracing::info!(%address, "health, metrics and status are served by HTTP");
    }
    service.conditions.set(&Condition::FirstScan);
    let status = sink.status();
    let reporter = Arc::new(Reporter::new(&service, status.clone()));
    // Connections to the HTTP server outlive it, and must not keep the service alive.
    let ended = reporter.ended();
    let _ends_connections = ended.clone().drop_guard();
    let mut http = pin!({
        let reporter = Arc::clone(&reporter);
        async move {
            match server {
                Some(server) => server.serve(reporter).await,
                None => std::future::pending().await,
            }
        }
    });
    let mut answers = pin!(control.serve(|request| service.answer(&reporter, reload, request)));
    let supervisor = Arc::new(WatchSupervisor::new(&service));
    // This adds a watch for each directory.
    tokio::select! {
        () = supervisor.start() => {}
        never = &mut http => match never {},
        never = &mut answers => match never {},
        never = reporter.beat() => match never {},
        never = systemd::notify_of_start() => match never {},
    }
    service.announce();

    let _recheck = service.start_recheck();
    let scan = service.scanner.clone().rounds(Arc::clone(&supervisor) as Arc<dyn Barrier>);
    let hints = futures::stream::select(service.inbox.hints(), scan);
    let delivery = status.clone();
    let work = async {
        let hints = hints.take_until(end_of_run.cancelled());
        service.index(hints, &shutdown).await;
        // The input has ended and everything in flight is committed. Deliver what can be delivered.
        if !end_of_run.is_cancelled() {
            service.drained_unless_refused(delivery).await?;
        }
        Ok(())
    };
    let stopped = async {
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = end_of_run.cancelled() => {}
        }
        if shutdown.is_cancelled() {
            systemd::notify_end();
        }
        tokio::time::sleep(service.settings.shutdown_grace).await;
        tracing::warn!(
            waiting = service.store.outbox_length(),
            "the grace time is over; undelivered messages stay in the outbox"
        );
    };
    let mut supervision = supervisor.supervise().map_err(ServiceError::Threads)?;
    let done = tokio::select! {
        done = work => done,
        failed = service.deliver(sink) => failed,
        never = service.show_progress() => match never {},
        never = service.send_traces() => match never {},
        never = supervision.goes_on() => match never {},
        never = service.keep_conditions(status) => match never {},
        never = &mut answers => match never {},
        never = reload.on_hangups(&service.settings) => match never {},
        never = &mut http => match never {},
        never = reporter.beat() => match never {},
        never = systemd::notify(&reporter) => match never {},
        never = reporter.sample() => match never {},
        never = service.replay_for_good(&shutdown) => match never {},
        never = service.verify_nightly(ended) => match never {},
        never = service.watch_rotten() => match never {},
        never = service.rest() => match never {},
        () = stopped => Ok(()),
    };
    supervision.end().await;
    if shutdown.is_cancelled() {
        // It may have ended before anything else noticed.
        systemd::notify_end();
    }
    service.send_last_traces(&shutdown).await;
    reporter.keep_counts();
    done
}

impl Service {
    /// Waits until everything is delivered, or until the broker refuses the connection: the next attempt is half a minute
    /// away, and an operator has to act first.
    async fn drained_unless_refused(&self, delivery: Option<Arc<DeliveryStatus>>) -> Result<(), ServiceError> {
        tokio::select! {
            biased;
            drained = self.store.drained() => drained?,
            _ = refused(delivery) => {
                let waiting = self.store.outbox_length();
                tracing::warn!(waiting, "RabbitMQ refuses the connection; undelivered messages stay in the outbox");
            }
        }
        Ok(())
    }

    /// Starts the slow walk for changes that cause no event, unless regular walks are disabled.
    fn start_recheck(&self) -> Option<RecheckThread> {
        self.settings.rescan_interval?;
        let recheck = Recheck {
            root: Arc::clone(&self.root),
            index: self.store.index().clone(),
            ignore_ctime: self.settings.ignore_ctime,
            inbox: self.inbox.clone(),
        };
        let started = recheck.spawn();
        started.inspect_err(|error| tracing::warn!(%error, "changes without events are found by full walks only")).ok()
    }

    async fn answer(&self, reporter: &Arc<Reporter>, reload: &Reload, request: Request) -> Result<Reply, Refusal> {
        match request {
            Request::Reload => match reload.prepare(&self.settings) {
                Ok(ends_run) => {
                    tracing::info!("the settings were read again; the library is scanned with them");
                    Ok(Reply::and_then("the settings were read again; the library is scanned with them", ends_run))
                }
                Err(error) => Err(Refusal::Invalid(format!("the settings stay as they are: {error}"))),
            },
            Request::Status => {
                let reporter = Arc::clone(reporter);
                let report = tokio::task::spawn_blocking(move || reporter.report()).await;
                report
                    .map(|report| report.to_json().into())
                    .map_err(|_| Refusal::Failed("the report failed".to_owned()))
            }
            Request::Held(under) => match self.list_held(&under).await {
                Some(held) => Ok(held.to_json().into()),
                None => Err(Refusal::Failed("the first walk of the library is not done yet; ask again".to_owned())),
            },
            Request::Approve(under) => Ok(self.approve(under).await.into()),
            Request::Replay(under) => match self.begin_replay(under).await {
                Ok(files) => Ok(format!("{} to be published again", counted(files, "file")).into()),
                Err(error @ ServiceError::NothingKnown(_)) => Err(Refusal::Invalid(error.to_string())),
                Err(error) => Err(Refusal::Failed(with_causes(&error))),
            },
            Request::Parked(request) => match parked::answer(&self.store, request, true).await {
                Ok(answer) => Ok(answer.into()),
                Err(error @ ServiceError::NotParked(_)) => Err(Refusal::Invalid(error.to_string())),
                Err(error) => Err(Refusal::Failed(with_causes(&error))),
            },
        }
    }
}
