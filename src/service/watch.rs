//! Live: watch first, then walk, then follow.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{Service, ServiceError};
use crate::control::{Control, Request};
use crate::library::{Barrier, Handler, WatchTrouble, Watcher};
use crate::model::{LibraryPath, WatchMode};
use crate::sink::Sink;
use crate::status::Summary;
use crate::store::StateDir;

/// How often the root's identity is checked: a root that vanishes tells nothing.
const ROOT_CHECK: Duration = Duration::from_secs(1);

/// How soon after lost events everything is walked: soon, and not at once for each of many.
const AFTER_OVERFLOW: Duration = Duration::from_millis(500);

/// Follows the library until `shutdown`, then finishes what is in flight within the grace time.
pub async fn watch(
    service: Arc<Service>,
    state_dir: &StateDir,
    sink: &mut Sink,
    shutdown: CancellationToken,
) -> Result<Option<Summary>, ServiceError> {
    let control = Control::open(state_dir.path())?;
    let eyes = Arc::new(Eyes { service: Arc::clone(&service), watcher: Mutex::new(None) });
    let opened = Arc::clone(&eyes);
    let _ = tokio::task::spawn_blocking(move || opened.open()).await;
    service.inbox.mark(LibraryPath::root(), Duration::ZERO);
    tracing::info!(root = %service.root.path().display(), "watching");

    let scan = service.scanner.clone().rounds(service.inbox.clone(), Arc::clone(&eyes) as Arc<dyn Barrier>);
    let hints = futures::stream::select(service.inbox.hints(), scan);
    let work = async {
        service.index(hints, &shutdown).await;
        // The input has ended and everything taken in is committed: deliver what can be delivered.
        service.store.drained().await?;
        Ok(())
    };
    let stopped = async {
        shutdown.cancelled().await;
        tokio::time::sleep(service.settings.shutdown_grace).await;
        tracing::warn!(
            waiting = service.store.outbox_length(),
            "the grace time is over; what was not delivered stays in the outbox"
        );
    };
    tokio::select! {
        done = work => done,
        failed = service.deliver(sink) => failed,
        () = service.say_progress() => Ok(()),
        () = eyes.keep_open() => Ok(()),
        () = control.serve(|request| service.answer(request)) => Ok(()),
        failed = service.replay_for_good() => failed,
        () = stopped => Ok(()),
    }?;
    Ok(None)
}

impl Service {
    async fn answer(&self, request: Request) -> Result<String, String> {
        match request {
            Request::Approve => match self.approve() {
                0 => Ok("no delete is held; the next walk's deletes are approved".to_owned()),
                held => Ok(format!("{held} held deletes are approved and will be published after the next walk")),
            },
            Request::Replay(under) => match self.begin_replay(under).await {
                Ok(files) => Ok(format!("{files} files will be published again")),
                Err(error) => Err(error.to_string()),
            },
        }
    }
}

/// The watcher, opened again whenever the root is another directory.
struct Eyes {
    service: Arc<Service>,
    watcher: Mutex<Option<Watcher>>,
}

impl Barrier for Eyes {
    fn wait(&self) {
        if let Some(watcher) = self.watcher.lock().unwrap_or_else(PoisonError::into_inner).as_ref() {
            watcher.barrier();
        }
    }
}

impl Eyes {
    /// Watches the root as it is now. Where that cannot be done, walks make up for it.
    fn open(&self) {
        let service = &self.service;
        if service.settings.watch_mode == WatchMode::Poll {
            return;
        }
        let inbox = service.inbox.clone();
        let handler = Handler {
            root: service.root.path().to_path_buf(),
            extensions: service.settings.extensions.clone(),
            inbox: service.inbox.clone(),
            dirty: service.examiner.dirty.clone(),
            trouble: Box::new(move |trouble| {
                match trouble {
                    WatchTrouble::Overflow => tracing::warn!("the kernel lost events; everything is walked"),
                    WatchTrouble::OutOfWatches => tracing::error!(
                        "fs.inotify.max_user_watches is reached: some directories are only walked now and then"
                    ),
                    WatchTrouble::Other(error) => tracing::warn!(%error, "the watcher has trouble"),
                }
                inbox.mark(LibraryPath::root(), AFTER_OVERFLOW);
            }),
        };
        // The old one goes first: both at once would need twice the watches.
        let mut watcher = self.watcher.lock().unwrap_or_else(PoisonError::into_inner);
        *watcher = None;
        match Watcher::start(handler) {
            Ok(started) => *watcher = Some(started),
            Err(error) => tracing::error!(%error, "changes are found by walking only"),
        }
    }

    /// Walks everything now and then, and notices when the root is another directory.
    async fn keep_open(self: Arc<Self>) {
        let service = &self.service;
        let mut present = true;
        let mut next_walk = service.settings.rescan_interval.map(|interval| tokio::time::Instant::now() + interval);
        loop {
            tokio::time::sleep(ROOT_CHECK).await;
            let polled = self.watcher.lock().unwrap_or_else(PoisonError::into_inner).is_none();
            let interval = if polled { Some(service.settings.poll_interval) } else { service.settings.rescan_interval };
            if let Some(interval) = interval {
                let now = tokio::time::Instant::now();
                let due = next_walk.map_or(now + interval, |due| due.min(now + interval));
                next_walk = Some(if due <= now { now + interval } else { due });
                if due <= now {
                    service.inbox.mark(LibraryPath::root(), Duration::ZERO);
                }
            }
            present = self.check_root(present).await;
        }
    }

    async fn check_root(self: &Arc<Self>, was_present: bool) -> bool {
        let eyes = Arc::clone(self);
        let checked = tokio::task::spawn_blocking(move || {
            let root = &eyes.service.root;
            match root.current_identity() {
                Err(error) => Err(error),
                Ok(identity) if identity == root.identity() && was_present => Ok(()),
                Ok(_) => {
                    root.adopt()?;
                    eyes.open();
                    eyes.service.inbox.mark(LibraryPath::root(), Duration::ZERO);
                    tracing::warn!(root = %root.path().display(), "the library root is there again or another one; everything is walked");
                    Ok(())
                }
            }
        })
        .await;
        match checked {
            Ok(Ok(())) => true,
            Ok(Err(error)) => {
                if was_present {
                    tracing::error!(%error, "the library root is gone; nothing is called deleted until it is back");
                }
                false
            }
            Err(_) => was_present,
        }
    }
}
