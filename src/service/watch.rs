//! Watching: starts the watcher, walks everything once, then follows the events.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::reporter::Reporter;
use super::supervisor::WatchSupervisor;
use super::{Service, ServiceError, parked};
use crate::control::{Control, Refusal, Request};
use crate::http::{HttpServer, Source as _};
use crate::library::{Barrier, Recheck, RecheckThread};
use crate::model::with_causes;
use crate::sink::Sink;
use crate::status::{Condition, Summary};
use crate::store::StateDir;

/// Follows the library until `shutdown`, then finishes everything in flight within the grace time.
///
/// # Errors
/// If the control socket cannot be opened, or the store or the sink fails for good.
pub async fn watch(
    service: Arc<Service>,
    state_dir: &StateDir,
    sink: &mut Sink,
    shutdown: CancellationToken,
) -> Result<Option<Summary>, ServiceError> {
    let control = Control::open(state_dir.path())?;
    let server = match service.settings.http_addr {
        Some(address) => Some(HttpServer::listen(address).await?),
        None => None,
    };
    if let Some(address) = server.as_ref().and_then(HttpServer::address) {
        tracing::info!(%address, "health, metrics and status are served by HTTP");
    }
    service.conditions.set(&Condition::FirstScan);
    let supervisor = Arc::new(WatchSupervisor::new(&service));
    supervisor.start().await;
    tracing::info!(root = %service.root.path().display(), "watching");

    let _recheck = service.start_recheck();
    let scan = service.scanner.clone().rounds(Arc::clone(&supervisor) as Arc<dyn Barrier>);
    let hints = futures::stream::select(service.inbox.hints(), scan);
    let status = sink.status();
    let reporter = Arc::new(Reporter::new(&service, status.clone()));
    let http = {
        let reporter = Arc::clone(&reporter);
        async move {
            match server {
                Some(server) => server.serve(reporter).await,
                None => std::future::pending().await,
            }
        }
    };
    let work = async {
        service.index(hints, &shutdown).await;
        // The input has ended and everything in flight is committed. Deliver what can be delivered.
        service.store.drained().await?;
        Ok(())
    };
    let stopped = async {
        shutdown.cancelled().await;
        tokio::time::sleep(service.settings.shutdown_grace).await;
        tracing::warn!(
            waiting = service.store.outbox_length(),
            "the grace time is over; undelivered messages stay in the outbox"
        );
    };
    tokio::select! {
        done = work => done,
        failed = service.deliver(sink) => failed,
        never = service.log_progress() => match never {},
        never = supervisor.supervise() => match never {},
        never = service.keep_conditions(status) => match never {},
        never = control.serve(|request| service.answer(&reporter, request)) => match never {},
        never = http => match never {},
        never = reporter.beat() => match never {},
        never = reporter.sample() => match never {},
        never = service.replay_for_good(&shutdown) => match never {},
        () = stopped => Ok(()),
    }?;
    Ok(None)
}

impl Service {
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

    async fn answer(&self, reporter: &Arc<Reporter>, request: Request) -> Result<String, Refusal> {
        match request {
            Request::Status => {
                let reporter = Arc::clone(reporter);
                let report = tokio::task::spawn_blocking(move || reporter.report()).await;
                report.map(|report| report.to_json()).map_err(|_| Refusal::Failed("the report failed".to_owned()))
            }
            Request::Held(under) => match self.list_held(&under).await {
                Some(held) => Ok(held.to_json()),
                None => Err(Refusal::Failed("the first walk of the library is not done yet; ask again".to_owned())),
            },
            Request::Approve(under) => Ok(self.approve(under).await),
            Request::Replay(under) => match self.begin_replay(under).await {
                Ok(files) => Ok(format!("{files} files will be published again")),
                Err(error @ ServiceError::NothingKnown(_)) => Err(Refusal::Invalid(error.to_string())),
                Err(error) => Err(Refusal::Failed(with_causes(&error))),
            },
            Request::Parked(request) => match parked::answer(&self.store, request, true).await {
                Ok(answer) => Ok(answer),
                Err(error @ ServiceError::NotParked(_)) => Err(Refusal::Invalid(error.to_string())),
                Err(error) => Err(Refusal::Failed(with_causes(&error))),
            },
        }
    }
}
