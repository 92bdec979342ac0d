//! Live: watch first, then walk, then follow.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::{Service, ServiceError, parked};
use crate::control::{Control, Refusal, Request};
use crate::disk::{Disk as _, MountEntry};
use crate::engine::Engine;
use crate::library::{
    Barrier, Handler, Recheck, RecheckThread, WatchTrouble, Watcher, silent_filesystem, silent_mounts,
};
use crate::model::{LibraryPath, Token, WatchMode};
use crate::sink::Sink;
use crate::status::Summary;
use crate::store::StateDir;

/// How often the root and the watcher are checked: one that vanishes tells nothing.
const CHECK: Duration = Duration::from_secs(1);

/// How soon after trouble everything is walked: soon, and not at once for each of many.
const AFTER_TROUBLE: Duration = Duration::from_millis(500);

/// How long directories may go unwatched before watching them is tried again: twice as long after each
/// time in vain, up to this.
const LONGEST_RETRY: Duration = Duration::from_hours(1);

/// Directories that are taken from the watcher each time: about a millisecond for each in a large library.
const LEFT_OUT_AT_ONCE: usize = 20;

/// Follows the library until `shutdown`, then finishes what is in flight within the grace time.
pub async fn watch(
    service: Arc<Service>,
    state_dir: &StateDir,
    sink: &mut Sink,
    shutdown: CancellationToken,
) -> Result<Option<Summary>, ServiceError> {
    let control = Control::open(state_dir.path())?;
    let eyes = Arc::new(Eyes::new(&service));
    eyes.open().await;
    tracing::info!(root = %service.root.path().display(), "watching");

    let _recheck = service.start_recheck();
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
        () = service.keep_conditions() => Ok(()),
        () = service.scanner.held.recheck(&service.inbox) => Ok(()),
        () = control.serve(|request| service.answer(request)) => Ok(()),
        () = service.replay_for_good(&shutdown) => Ok(()),
        () = stopped => Ok(()),
    }?;
    Ok(None)
}

impl Service {
    /// Starts the slow walk for changes that cause no event, if regular walks are wanted at all.
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

    async fn answer(&self, request: Request) -> Result<String, Refusal> {
        match request {
            Request::Held(under) => match self.list_held(&under).await {
                Some(held) => Ok(held.to_json()),
                None => Err(Refusal::Failed("the first walk of the library is not done yet; ask again".to_owned())),
            },
            Request::Approve(under) => Ok(self.approve(under).await),
            Request::Replay(under) => match self.begin_replay(under).await {
                Ok(files) => Ok(format!("{files} files will be published again")),
                Err(error @ ServiceError::NothingKnown(_)) => Err(Refusal::Impossible(error.to_string())),
                Err(error) => Err(Refusal::Failed(error.to_string())),
            },
            Request::Parked(request) => match parked::answer(&self.store, request, true).await {
                Ok(answer) => Ok(answer),
                Err(error @ ServiceError::NotParked(_)) => Err(Refusal::Impossible(error.to_string())),
                Err(error) => Err(Refusal::Failed(error.to_string())),
            },
        }
    }
}

/// How much of the library the watcher sees. What it does not see is found by walking.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Sight {
    /// Everything.
    #[default]
    Whole,
    /// Some directories are not watched.
    Partial,
    /// Nothing: it could not be started, or it stopped.
    None,
    /// Nothing, and nothing is expected of it.
    Polled,
}

/// What the watcher's thread tells of itself.
#[derive(Clone, Copy, Debug, Default)]
struct Signs {
    sight: Sight,
    /// Watching again from the start would see more.
    open_again: bool,
    /// The root that is watched is not there any more, even if its name and its inode number are.
    root_gone: bool,
}

/// The watcher, opened again whenever the root is another directory or it sees less than it should.
struct Eyes {
    service: Arc<Service>,
    sight: Arc<Mutex<Signs>>,
    /// While not everything is told.
    unwatched: Mutex<Option<Token>>,
}

impl Barrier for Eyes {
    fn wait(&self) {
        self.is_alive();
    }
}

impl Eyes {
    fn new(service: &Arc<Service>) -> Self {
        Self { service: Arc::clone(service), sight: Arc::default(), unwatched: Mutex::default() }
    }

    /// Watches the root as it is now, and has it walked: what happened while nothing was watched is found so.
    async fn open(self: &Arc<Self>) {
        let eyes = Arc::clone(self);
        let _ = tokio::task::spawn_blocking(move || eyes.open_now()).await;
    }

    fn open_now(&self) {
        let inbox = &self.service.inbox;
        // Until the walk: a file may have changed that the kernel tells the next rename of.
        let _in_doubt = inbox.trust(|trust| trust.doubt(&LibraryPath::root()));
        let unwatched = inbox.engine().with(Engine::ties_of_unwatched_time);
        self.service.root.ask_servers();
        self.open_watcher();
        let is_all_told = lock(&self.sight).sight == Sight::Whole;
        self.leave_to_walks(!is_all_told);
        inbox.mark_tied(LibraryPath::root(), Duration::ZERO, unwatched);
    }

    /// Whether only walks may call anything deleted, for nobody else would tell of its other name.
    fn leave_to_walks(&self, is_left: bool) {
        let mut unwatched = lock(&self.unwatched);
        match (is_left, unwatched.is_some()) {
            (true, false) => {
                *unwatched = Some(self.service.inbox.trust(|trust| trust.leave_unwatched(&LibraryPath::root())));
            }
            (false, true) => *unwatched = None,
            _ => {}
        }
    }

    fn open_watcher(&self) {
        // The old one goes first: both at once would need twice the watches.
        let mut watcher = lock(&self.service.watcher);
        *watcher = None;
        self.service.left_out.watched_anew();
        *lock(&self.sight) = Signs::default();
        if self.is_to_be_polled() {
            lock(&self.sight).sight = Sight::Polled;
            return;
        }
        match Watcher::start(self.handler()) {
            Ok(started) => *watcher = Some(started),
            Err(error) => {
                let every_s = self.service.settings.poll_interval.as_secs();
                tracing::error!(%error, every_s, "changes are found only by walking, until watching works");
                lock(&self.sight).sight = Sight::None;
            }
        }
    }

    fn is_to_be_polled(&self) -> bool {
        let service = &self.service;
        let every_s = service.settings.poll_interval.as_secs();
        match service.settings.watch_mode {
            WatchMode::Poll => true,
            WatchMode::Native => false,
            // Where it cannot be asked, there is nothing to watch either.
            WatchMode::Auto => match silent_filesystem(service.root.path()) {
                Ok(Some(filesystem)) => {
                    tracing::info!(
                        filesystem,
                        every_s,
                        "this filesystem tells of no changes; it is walked every so often"
                    );
                    true
                }
                Ok(None) | Err(_) => false,
            },
        }
    }

    fn handler(&self) -> Handler {
        let service = &self.service;
        let (inbox, signs) = (service.inbox.clone(), Arc::clone(&self.sight));
        let every_s = service.settings.poll_interval.as_secs();
        Handler {
            root: Arc::clone(&service.root),
            generation: service.root.generation(),
            inbox: service.inbox.clone(),
            avoided: service.root.silent_places(),
            left_out: service.left_out.clone(),
            trouble: Arc::new(move |trouble| {
                let mut signs = lock(&signs);
                // One of thousands of directories says what all of them would.
                let is_news = signs.sight == Sight::Whole;
                match trouble {
                    // A directory may have been made, or have got another name, that the watcher never heard of.
                    WatchTrouble::Overflow => {
                        signs.open_again = true;
                        // Any of them may have said that a directory is another one now.
                        inbox.with(|engine, now| {
                            let ties = engine.ties_of_unwatched_time();
                            engine.mark_replaced(LibraryPath::root(), AFTER_TROUBLE, ties, now.instant)
                        });
                        tracing::warn!("the kernel lost events; everything is watched anew and walked");
                    }
                    WatchTrouble::RootGone => signs.root_gone = true,
                    WatchTrouble::MoreToWatch => signs.open_again = true,
                    WatchTrouble::OutOfWatches => {
                        signs.sight = Sight::Partial;
                        if is_news {
                            tracing::error!(
                                every_s,
                                "fs.inotify.max_user_watches is reached: some directories are not watched, and \
                                 everything is walked every so often; raise the limit"
                            );
                        }
                    }
                    WatchTrouble::Other(error) => {
                        signs.sight = Sight::Partial;
                        if is_news {
                            tracing::error!(
                                error,
                                every_s,
                                "some directories are not watched, and everything is walked every so often"
                            );
                        }
                    }
                }
                drop(signs);
                inbox.mark(LibraryPath::root(), AFTER_TROUBLE);
            }),
        }
    }

    /// Whether the watcher works, as far as there is one. Returns when new directories are watched.
    fn is_alive(&self) -> bool {
        lock(&self.service.watcher).as_ref().is_none_or(Watcher::barrier)
    }

    /// Walks everything now and then, notices when the root is another directory, and opens the
    /// watcher again when it sees less than it could.
    async fn keep_open(self: Arc<Self>) {
        let settings = &self.service.settings;
        let mut present = true;
        let mut mounted = self.service.root.mount_entries();
        let mut links = self.service.root.links_version();
        let mut untold = self.silent_mounts(&mounted);
        let mut answers = self.service.root.answers_version();
        let mut walked = Instant::now();
        let mut opened = Instant::now();
        let mut retry = settings.poll_interval;
        loop {
            tokio::time::sleep(CHECK).await;
            present = self.check_root(present).await;
            if !present {
                continue;
            }
            self.leave_out().await;
            let Signs { sight, open_again, .. } = *lock(&self.sight);
            let were_mounted = std::mem::replace(&mut mounted, self.service.root.mount_entries());
            let links_before = std::mem::replace(&mut links, self.service.root.links_version());
            let has_changed = were_mounted != mounted;
            // Other links may lead to other mounts, which are watched and walked already.
            let is_mounted_anew = has_changed && links == links_before;
            if has_changed {
                self.service.root.mounts().forget_kernel_ids();
                untold = self.silent_mounts(&mounted);
            }
            // A server that stopped answering would stop the watcher too, and one that answers again is to be walked.
            let have_answers_changed = answers != self.service.root.answers_version();
            answers = self.service.root.answers_version();
            if sight == Sight::Whole {
                retry = settings.poll_interval;
            }
            let is_due = matches!(sight, Sight::Partial | Sight::None) && opened.elapsed() >= retry;
            if is_due || open_again || is_mounted_anew || have_answers_changed {
                // One that could not start costs nothing to try; watching most of a library again does.
                retry = if sight == Sight::Partial { (retry * 2).min(LONGEST_RETRY) } else { settings.poll_interval };
                opened = Instant::now();
                self.open().await;
                walked = Instant::now();
                if sight != Sight::Whole && lock(&self.sight).sight == Sight::Whole {
                    tracing::info!("everything is watched again");
                }
            }
            if self.have_links_changed().await {
                self.service.inbox.mark(LibraryPath::root(), Duration::ZERO);
            }
            let is_all_told = lock(&self.sight).sight == Sight::Whole && untold.is_none();
            self.leave_to_walks(!is_all_told);
            let interval = if is_all_told { settings.rescan_interval } else { Some(settings.poll_interval) };
            if interval.is_some_and(|interval| walked.elapsed() >= interval) {
                walked = Instant::now();
                self.service.inbox.mark(LibraryPath::root(), Duration::ZERO);
            }
        }
    }

    /// Takes some of the directories that the rules leave out from the watcher.
    async fn leave_out(&self) {
        let directories = self.service.left_out.take(LEFT_OUT_AT_ONCE);
        if directories.is_empty() {
            return;
        }
        let (watcher, root) = (Arc::clone(&self.service.watcher), Arc::clone(&self.service.root));
        let leave_out = move || {
            if let Some(watcher) = lock(&watcher).as_ref() {
                watcher.leave_out(directories.iter().map(|directory| directory.to_absolute(root.path())));
            }
        };
        let _ = tokio::task::spawn_blocking(leave_out).await;
    }

    /// Whether other links are to be followed, which only a walk of everything finds out.
    async fn have_links_changed(&self) -> bool {
        let root = Arc::clone(&self.service.root);
        root.follows_links_out()
            && tokio::task::spawn_blocking(move || root.have_links_changed()).await.unwrap_or_default()
    }

    /// What is to be doubted while some of what is mounted beneath the root has to be walked to be followed;
    /// says so. Of what is done there elsewhere nothing is told, and of what is done here all.
    fn silent_mounts(&self, mounts: &[MountEntry]) -> Option<Token> {
        let settings = &self.service.settings;
        let silent = match settings.watch_mode {
            WatchMode::Auto => silent_mounts(mounts),
            WatchMode::Native | WatchMode::Poll => Vec::new(),
        };
        if !silent.is_empty() {
            let every_s = settings.poll_interval.as_secs();
            tracing::info!(
                mounts = silent.join(", "),
                every_s,
                "these filesystems tell of no changes; everything is walked every so often"
            );
        }
        (!silent.is_empty()).then(|| self.service.inbox.trust(|trust| trust.doubt(&LibraryPath::root())))
    }

    async fn check_root(self: &Arc<Self>, was_present: bool) -> bool {
        let eyes = Arc::clone(self);
        let checked = tokio::task::spawn_blocking(move || eyes.check_now(was_present)).await;
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

    fn check_now(&self, was_present: bool) -> std::io::Result<()> {
        let root = &self.service.root;
        let identity = root.current_identity();
        let was_lost = lock(&self.sight).root_gone;
        let is_the_same =
            was_present && !was_lost && identity.as_ref().is_ok_and(|identity| *identity == root.identity());
        if is_the_same && self.is_alive() {
            return Ok(());
        }
        // What the watcher of another root goes on to tell is none of our business.
        *lock(&self.service.watcher) = None;
        identity?;
        if is_the_same {
            tracing::error!("the watcher stopped; it is started again and everything is walked");
        } else {
            root.adopt()?;
            // A walk of all that is there now makes up for what was asked for; and it holds deletes in doubt.
            self.service.inbox.engine().with(Engine::unmark_all);
            let root = root.path().display();
            tracing::warn!(%root, "the library root is there again or another one; everything is walked");
        }
        self.open_now();
        Ok(())
    }
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
