//! Starts the watcher, and restarts it when the root was replaced or some directories are not watched.
//!
//! The engine decides when a restart is due. This module checks the disk and the watcher, and restarts the watcher.

use std::convert::Infallible;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use tokio::sync::oneshot;

use super::{Service, watch_limit};
use crate::disk::{Disk as _, Identity, MountChanges, MountEntry};
use crate::engine::{Changes, Coverage, Engine, Intervals, Now, WatchTrouble};
use crate::library::{Barrier, Handler, Watcher, silent_filesystem, silent_mounts};
use crate::model::{LibraryPath, WatchMode, with_causes};
use crate::status::{Condition, ConditionKind};

/// How often the root and the watcher are checked. When one of them fails, there is no event.
const CHECK: Duration = Duration::from_secs(1);

/// The most excluded directories whose watches are removed per check. Each takes the watcher about a millisecond in a
/// large library.
const MAX_UNWATCHED_PER_CHECK: usize = 20;

/// Supervises the watcher and the library root.
pub(super) struct WatchSupervisor {
    service: Arc<Service>,
    /// There are no watches left since the last check.
    is_out_of_watches: Arc<AtomicBool>,
}

/// The thread of a [`WatchSupervisor`]. It stops after its current check when this is dropped.
#[must_use = "the supervision ends when this is dropped"]
pub(super) struct Supervision {
    ended: oneshot::Receiver<Infallible>,
    stop: SyncSender<()>,
}

impl Supervision {
    /// Never returns.
    ///
    /// # Panics
    ///
    /// If the thread panicked.
    pub(super) async fn goes_on(&mut self) -> Infallible {
        (&mut self.ended).await.expect("the supervision of the watcher does not panic")
    }

    /// Ends the thread. It has the service, and nothing may keep that after a reload, unless a check takes long.
    pub(super) async fn end(self) {
        let Self { ended, stop } = self;
        drop(stop);
        let _ = tokio::time::timeout(CHECK, ended).await;
    }
}

/// Whether the root can be watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RootState {
    Watched,
    Gone,
}

/// The state at the last check. The next check compares with it.
#[derive(Debug)]
struct LastCheck {
    root: RootState,
    mounts: Vec<MountEntry>,
    mount_changes: MountChanges,
    links: u64,
    servers: u64,
    has_silent_mounts: bool,
}

impl Barrier for WatchSupervisor {
    fn wait(&self) {
        self.is_watcher_alive();
    }
}

impl WatchSupervisor {
    pub(super) fn new(service: &Arc<Service>) -> Self {
        let settings = &service.settings;
        let intervals = Intervals { poll: settings.poll_interval, rescan: settings.rescan_interval };
        service.inbox.engine().with(|engine| engine.follow(intervals));
        Self { service: Arc::clone(service), is_out_of_watches: Arc::default() }
    }

    /// Watches the current root, and requests a walk of everything, because earlier changes caused no events.
    pub(super) async fn start(self: &Arc<Self>) {
        let supervisor = Arc::clone(self);
        let _ = tokio::task::spawn_blocking(move || supervisor.start_now()).await;
    }

    /// Checks the root and the watcher again and again, on a thread of its own, and requests a walk of everything when that
    /// is due. The checks may block.
    ///
    /// # Errors
    /// If the thread cannot be started.
    pub(super) fn supervise(self: Arc<Self>) -> io::Result<Supervision> {
        let (stop, stopped) = sync_channel(1);
        let (is_alive, ended) = oneshot::channel();
        thread::Builder::new().name("supervisor".to_owned()).spawn(move || {
            // Dropped after the service.
            let _is_alive: oneshot::Sender<Infallible> = is_alive;
            let supervisor = self;
            supervisor.check_until(&stopped);
        })?;
        Ok(Supervision { ended, stop })
    }

    fn check_until(&self, stopped: &Receiver<()>) {
        let mut last = self.first_check();
        let no_changes = Changes::default();
        self.service.inbox.with(|engine, now| engine.walk_if_due(no_changes, last.has_silent_mounts, now.instant));
        while matches!(stopped.recv_timeout(CHECK), Err(RecvTimeoutError::Timeout)) {
            last.root = self.check_root(last.root);
            if last.root == RootState::Gone {
                continue;
            }
            if self.is_out_of_watches.load(Ordering::Relaxed) {
                self.note_watch_limit();
            }
            self.unwatch_excluded();
            let mut changes = self.changes(&mut last);
            if self.service.inbox.with(|engine, now| engine.is_restart_due(changes, now.instant)) {
                self.start_now();
            }
            let root = &self.service.root;
            // Only a walk of everything finds the new targets of links.
            changes.links = root.follows_links_out() && root.have_links_changed();
            self.service.inbox.with(|engine, now| engine.walk_if_due(changes, last.has_silent_mounts, now.instant));
        }
    }

    fn first_check(&self) -> LastCheck {
        let root = &self.service.root;
        // A change while they are read is reported.
        let mount_changes = MountChanges::from_now();
        let mounts = root.mount_entries();
        let has_silent_mounts = self.has_silent_mounts(&mounts);
        let (links, servers) = (root.links_version(), root.answers_version());
        LastCheck { root: RootState::Watched, mounts, mount_changes, links, servers, has_silent_mounts }
    }

    /// What has changed since the last check.
    fn changes(&self, last: &mut LastCheck) -> Changes {
        let root = &self.service.root;
        let links_before = std::mem::replace(&mut last.links, root.links_version());
        let servers_before = std::mem::replace(&mut last.servers, root.answers_version());
        // Which mounts the library has depends on its links, too.
        let may_differ = last.mount_changes.are_there() || links_before != last.links;
        let mounts = may_differ && {
            let were_mounted = std::mem::replace(&mut last.mounts, root.mount_entries());
            were_mounted != last.mounts
        };
        if mounts {
            root.mounts().forget_kernel_ids();
            last.has_silent_mounts = self.has_silent_mounts(&last.mounts);
        }
        Changes {
            mounts,
            // The watcher is restarted without a server that stopped answering, as that would block it. A mount whose server
            // answers again has to be walked.
            servers: servers_before != last.servers,
            links: links_before != last.links,
        }
    }

    fn start_now(&self) {
        let Service { inbox, root, .. } = &*self.service;
        // In doubt until the walk: a file may have changed before it was watched, and be renamed after that.
        let _in_doubt = inbox.trust(|trust| trust.doubt(&LibraryPath::root()));
        let ties = inbox.engine().with(Engine::ties_of_unwatched_time);
        root.ask_servers();
        let coverage = self.start_watcher();
        let coverage = inbox.with(|engine, now| {
            engine.watch_started(coverage, ties, now.instant);
            engine.coverage()
        });
        self.note_coverage(coverage);
        self.note_watch_limit();
    }

    /// Says how many watches the library needs, once there are none left. Lists all directories, so the watcher cannot wait
    /// for it.
    fn note_watch_limit(&self) {
        if self.is_out_of_watches.swap(false, Ordering::Relaxed) {
            let reason = watch_limit::explain(&self.service.root);
            self.service.conditions.set(&Condition::PartlyWatched { reason, poll_s: self.poll_s() });
        }
    }

    fn start_watcher(&self) -> Coverage {
        let service = &self.service;
        // The old watcher is dropped first: both at once would need twice the watches.
        *lock(&service.watcher) = None;
        // That was said of the old one.
        self.is_out_of_watches.store(false, Ordering::Relaxed);
        service.excluded.clear();
        service.inbox.engine().with(Engine::watch_starts);
        if self.must_be_polled() {
            return Coverage::Polled;
        }
        // The lock is not held here: commits use the watcher, and must not wait while the watches of a large library are added.
        let started = match service.settings.watch_mode {
            WatchMode::Fanotify => Watcher::of_filesystems(self.handler()),
            WatchMode::Auto | WatchMode::Native | WatchMode::Poll => Watcher::of_directories(self.handler()),
        };
        match started {
            Ok(started) => {
                *lock(&service.watcher) = Some(started);
                Coverage::Full
            }
            Err(error) => {
                service.conditions.set(&Condition::NotWatched { reason: with_causes(&error), poll_s: self.poll_s() });
                Coverage::None
            }
        }
    }

    fn note_coverage(&self, coverage: Coverage) {
        let conditions = &self.service.conditions;
        match coverage {
            Coverage::Full => {
                conditions.clear(ConditionKind::PartlyWatched);
                conditions.clear(ConditionKind::NotWatched);
            }
            Coverage::Partial => conditions.supersede(ConditionKind::NotWatched),
            Coverage::None => conditions.supersede(ConditionKind::PartlyWatched),
            Coverage::Polled => {
                conditions.supersede(ConditionKind::PartlyWatched);
                conditions.supersede(ConditionKind::NotWatched);
            }
        }
    }

    fn must_be_polled(&self) -> bool {
        let service = &self.service;
        match service.settings.watch_mode {
            WatchMode::Poll => true,
            WatchMode::Native => false,
            // If statfs(2) fails, the watcher cannot be started either.
            WatchMode::Auto | WatchMode::Fanotify => match silent_filesystem(service.root.path()) {
                Ok(Some(filesystem)) => {
                    self.note_silent(&[filesystem]);
                    true
                }
                Ok(None) | Err(_) => false,
            },
        }
    }

    fn handler(&self) -> Handler {
        let service = &self.service;
        // The service owns the watcher, and with it this handler. After a reload nothing must keep the old service alive.
        let weak = Arc::downgrade(service);
        let poll_s = self.poll_s();
        let is_out_of_watches = Arc::clone(&self.is_out_of_watches);
        Handler {
            root: Arc::clone(&service.root),
            generation: service.root.generation(),
            inbox: service.inbox.clone(),
            avoided: service.root.silent_places(),
            excluded: service.excluded.clone(),
            trouble: Arc::new(move |trouble| {
                let Some(service) = weak.upgrade() else { return };
                let is_new = service.inbox.with(|engine, now: Now| engine.watch_trouble(&trouble, now.instant));
                let reason = match trouble {
                    WatchTrouble::Overflow => {
                        service.observed.overflows.fetch_add(1, Ordering::Relaxed);
                        service.conditions.set(&Condition::EventsLost);
                        return;
                    }
                    WatchTrouble::RootGone | WatchTrouble::MoreToWatch => return,
                    WatchTrouble::OutOfWatches => {
                        is_out_of_watches.fetch_or(is_new, Ordering::Relaxed);
                        return;
                    }
                    WatchTrouble::Other(error) => error,
                };
                if is_new {
                    service.conditions.set(&Condition::PartlyWatched { reason, poll_s });
                }
            }),
        }
    }

    /// Whether the watcher works, or none is running. Returns once new directories are watched.
    fn is_watcher_alive(&self) -> bool {
        lock(&self.service.watcher).as_ref().is_none_or(Watcher::barrier)
    }

    /// Removes the watches of some of the directories that the rules exclude.
    fn unwatch_excluded(&self) {
        let directories = self.service.excluded.take(MAX_UNWATCHED_PER_CHECK);
        if directories.is_empty() {
            return;
        }
        if let Some(watcher) = lock(&self.service.watcher).as_ref() {
            let root = self.service.root.path();
            watcher.unwatch(directories.iter().map(|directory| directory.to_absolute(root)));
        }
    }

    /// Whether some filesystems mounted under the root cause no events for remote changes.
    fn has_silent_mounts(&self, mounts: &[MountEntry]) -> bool {
        let silent = match self.service.settings.watch_mode {
            WatchMode::Auto | WatchMode::Fanotify => silent_mounts(mounts),
            WatchMode::Native | WatchMode::Poll => Vec::new(),
        };
        if !silent.is_empty() {
            self.note_silent(&silent);
        } else if self.service.inbox.engine().with(|engine| engine.coverage()) != Coverage::Polled {
            self.service.conditions.clear(ConditionKind::Polled);
        }
        !silent.is_empty()
    }

    fn note_silent(&self, filesystems: &[impl AsRef<str>]) {
        let filesystems: Vec<&str> = filesystems.iter().map(AsRef::as_ref).collect();
        let filesystems = filesystems.join(", ");
        self.service.conditions.set(&Condition::Polled { filesystems, poll_s: self.poll_s() });
    }

    fn check_root(&self, before: RootState) -> RootState {
        match self.check_root_now(before) {
            Ok(()) => {
                self.service.conditions.clear(ConditionKind::RootGone);
                RootState::Watched
            }
            Err(error) => {
                self.service.conditions.set(&Condition::RootGone { error: error.to_string() });
                RootState::Gone
            }
        }
    }

    fn check_root_now(&self, before: RootState) -> io::Result<()> {
        let Service { root, inbox, watcher, .. } = &*self.service;
        let identity = root.current_identity();
        let was_lost = inbox.engine().with(|engine| engine.is_watched_root_gone());
        let is_as_it_was = |identity: &Identity| *identity == root.identity();
        let is_the_same = before == RootState::Watched && !was_lost && identity.as_ref().is_ok_and(is_as_it_was);
        if is_the_same && self.is_watcher_alive() {
            return Ok(());
        }
        // Events of the watcher of the old root must not be used.
        *lock(watcher) = None;
        identity?;
        if is_the_same {
            tracing::error!("the watcher stopped; it is restarted and everything is walked");
        } else {
            root.adopt()?;
            // The walk of the new root replaces all marked subtrees, and holds deletes if too many files are missing.
            inbox.engine().with(Engine::unmark_all);
            let root = root.path().display();
            tracing::warn!(%root, "the library root is back or was replaced; everything is walked");
        }
        self.start_now();
        Ok(())
    }

    fn poll_s(&self) -> u64 {
        self.service.settings.poll_interval.as_secs()
    }
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
