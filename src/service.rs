//! The service: everything assembled from the settings, run once (`scan`) or for good (`watch`).

mod delivery;
mod held;
mod parked;
mod relocation;
mod replay;
mod scan;
mod watch;

use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use backon::BackoffBuilder;
use rayon::{ThreadPool, ThreadPoolBuildError, ThreadPoolBuilder};
use tokio::sync::{Notify, oneshot};
use tokio_util::sync::CancellationToken;

use crate::config::{Command, Relocation, Settings, SinkKind};
use crate::content::{Examined, Examiner, Outcome, Patience, Reader};
use crate::control::ControlError;
use crate::disk::Root;
use crate::library::{Held, Inbox, Missing, Scanner, Tally, Unreadable, Watcher};
use crate::message::Encoder;
use crate::model::{Change, FsEvent, LibraryPath, Observation, Origin, Quiet};
use crate::pipeline::Chain;
use crate::sink::{Amqp, AmqpSettings, Sink, SinkError, Stdout};
use crate::status::{Conditions, Counters, Progress};
use crate::store::{Committed, Damage, IndexReader, Rebuilt, Relocated, Store, StoreError};
use crate::stream::{Hold, Holds, Leased, Leases, Pace, Settle};

pub use held::{approve, held};
pub use parked::parked_at_rest;
pub use relocation::relocate;
pub use replay::replay;
pub use scan::scan;
pub use watch::watch;

/// How long a look at a file with a server may take before it is asked whether the server answers at all.
const LOOK_TIME: Duration = Duration::from_secs(3);
/// How long a file must have been empty before it is published: downloads create their file first, and may get
/// their first byte much later.
const EMPTY: Duration = Duration::from_mins(1);

/// Paths whose failure is remembered, so that it is told once; beyond that it may be told again.
const FAILURES_REMEMBERED: usize = 10_000;

/// The longest wait before an unreadable path is tried again if there is no regular walk of everything.
const LONGEST_UNREADABLE_RETRY: Duration = Duration::from_hours(1);

/// Why the service could not do its work.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// The library cannot be looked at.
    #[error("the library {path} cannot be looked at")]
    Library {
        /// Its root.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The store cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Messages cannot be delivered, now or later.
    #[error(transparent)]
    Sink(#[from] SinkError),
    /// The threads that read could not be started.
    #[error("the threads that read files cannot be started: {0}")]
    Threads(#[from] ThreadPoolBuildError),
    /// Other invocations could not reach this one.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// The broker is there and will not have us until a person puts something right.
    #[error("{0}")]
    Refused(String),
    /// The walk could not be finished.
    #[error("the walk could not be finished: {0}")]
    Walk(String),
    /// Of the path that was asked for no file is known.
    #[error("nothing is known at or beneath {0:?}; give a path of the library as its messages had it")]
    NothingKnown(PathBuf),
    /// A sequence number was given of which no message is parked.
    #[error("{0} is not the sequence number of a parked message; `file-watcher parked` lists them")]
    NotParked(u64),
    /// A signal came before the work was done.
    #[error("interrupted; the next start goes on where this one stopped")]
    Interrupted,
}

/// The parts that both ways of running share.
pub struct Service {
    settings: Settings,
    root: Arc<Root>,
    store: Store,
    inbox: Inbox,
    /// What tells of changes, while there is such a thing.
    watcher: Arc<Mutex<Option<Watcher>>>,
    /// Subtrees of which nobody tells what happens there: walks, again and again, find it.
    unwatched: Holds,
    chain: Chain,
    examiner: Arc<Examiner<Arc<Root>, Reader, IndexReader>>,
    scanner: Scanner<IndexReader>,
    counters: Counters,
    conditions: Conditions,
    /// What the relocation that was asked for came to.
    relocated: Option<Relocated>,
    /// Held by an approval until it is known what came of it.
    approving: tokio::sync::Mutex<()>,
    /// Whether a look found that its file's mount is gone, which the last walk of everything did not know.
    is_mount_missed: AtomicBool,
    /// Threads that look at files: enough to keep the processors and the disk busy, and few enough not to fight over
    /// them. The other files in flight wait their turn.
    readers: ThreadPool,
    replay_begun: Notify,
    /// Paths that could not be looked at, in doubt until they can be.
    failures: Mutex<HashMap<LibraryPath, Hold>>,
    /// When it was last said that the outbox is full.
    full_said: Mutex<Option<Instant>>,
}

impl Service {
    /// Opens the library and the store.
    pub fn open(settings: Settings, instance_id: &str) -> Result<Self, ServiceError> {
        use std::os::unix::ffi::OsStrExt;

        let root = Root::open(&settings.root)
            .and_then(|root| root.trusting_inodes(settings.inode_trust))
            .map_err(|source| ServiceError::Library { path: settings.root.display().to_string(), source })?;
        let root = root.with_rules(settings.rules.clone());
        let root = Arc::new(if settings.follow_symlinks { root.following_links() } else { root });
        let encoder = Encoder::new(instance_id, &settings.root, settings.metadata_style);
        let file = settings.store_file();
        let relocated = relocate_store(&settings, &file, &encoder)?;
        if settings.rebuild_index {
            rebuild(&file, settings.root.as_os_str().as_bytes(), &encoder)?;
        }
        let store = Store::open(&file, settings.root.as_os_str().as_bytes(), encoder)?;
        store.keep_mounts(root.mounts())?;
        root.own_mount()
            .map_err(|source| ServiceError::Library { path: settings.root.display().to_string(), source })?;
        let inbox = Inbox::new();
        let unwatched = Holds::new();
        let examiner = Examiner {
            disk: Arc::clone(&root),
            contents: Reader::new(settings.max_bytes_per_second),
            index: store.index().clone(),
            patience: Patience {
                debounce: settings.debounce,
                settle: settings.settle,
                empty: EMPTY,
                ignore_ctime: settings.ignore_ctime,
            },
            claimed: Holds::new(),
            doubts: inbox.doubts().clone(),
            replaced: inbox.replaced().clone(),
            unwatched: unwatched.clone(),
            renames: inbox.renames().clone(),
            verified_bytes: Arc::default(),
        };
        let scanner = Scanner {
            root: Arc::clone(&root),
            index: store.index().clone(),
            ignore_ctime: settings.ignore_ctime,
            held: Held::new(settings.mass_delete_percent, settings.rescan_interval.unwrap_or(LONGEST_HELD_RECHECK)),
            missing: Missing::new(unwatched.clone()),
            unreadable: Unreadable::new(settings.rescan_interval.unwrap_or(LONGEST_UNREADABLE_RETRY)),
            tally: Arc::new(Tally::default()),
        };
        let chain = Chain {
            extensions: settings.rules.extensions().clone(),
            pace: Pace::new(Settle { debounce: settings.debounce, settle: settings.settle }),
            files_per_second: settings.max_files_per_second,
            leases: Leases::new(),
            max_concurrent_files: settings.max_concurrent_files,
            batch_size: settings.batch_size,
        };
        Ok(Self {
            settings,
            root,
            store,
            inbox,
            watcher: Arc::default(),
            unwatched,
            chain,
            examiner: Arc::new(examiner),
            scanner,
            counters: Counters::default(),
            conditions: Conditions::default(),
            relocated,
            approving: tokio::sync::Mutex::default(),
            is_mount_missed: AtomicBool::new(false),
            readers: readers()?,
            replay_begun: Notify::new(),
            failures: Mutex::default(),
            full_said: Mutex::default(),
        })
    }

    /// Looks at one path on a thread that may block. A panic there is an outcome of that path.
    ///
    /// Not on tokio's threads for that, which sleep and are woken for every file.
    async fn examine(&self, look: Leased<FsEvent>) -> Leased<Examined> {
        let Leased { item, lease } = look;
        let examiner = Arc::clone(&self.examiner);
        let path = item.path.clone();
        let (why, attempt) = (item.quiet, item.attempt);
        let (tell, told) = oneshot::channel();
        let work = move || {
            // Where nobody waits any more, the program is about to end, or the look took too long.
            let _ = tell.send(examiner.examine(item));
        };
        let told = if self.root.has_server(&path) {
            // The look may never end: it must not take one of the readers with it.
            let _ = thread::Builder::new().name("remote look".into()).spawn(work);
            self.while_answered(&path, told).await
        } else {
            self.readers.spawn_fifo(work);
            told.await.map_err(|_| std::io::Error::other("the look panicked"))
        };
        let item = told.unwrap_or_else(|error| Examined::failed(path, error));
        tracing::trace!(path = %item.path, ?why, attempt, outcome = item.outcome.as_str(), "looked at");
        Leased { item, lease }
    }

    /// Waits for a look, for as long as the server answers that it depends on.
    async fn while_answered(
        &self,
        path: &LibraryPath,
        mut told: oneshot::Receiver<Examined>,
    ) -> Result<Examined, std::io::Error> {
        loop {
            tokio::select! {
                told = &mut told => return told.map_err(|_| std::io::Error::other("the look panicked")),
                () = tokio::time::sleep(LOOK_TIME) => {}
            }
            let root = Arc::clone(&self.root);
            let _ = tokio::task::spawn_blocking(move || root.ask_servers()).await;
            self.root.check_answered(path)?;
        }
    }

    /// Commits what a batch of looks found, and asks for what must be looked at again. Leases are
    /// released when this is done.
    async fn commit(&self, batch: Vec<Leased<Examined>>) {
        let mut leases = Vec::with_capacity(batch.len());
        let mut outcomes = Vec::with_capacity(batch.len());
        for Leased { item, lease } in batch {
            leases.push((lease, item.tokens));
            if item.look_under {
                self.inbox.mark(item.path.clone(), Duration::ZERO);
            }
            match &item.outcome {
                Outcome::Unchanged => {
                    self.counters.unchanged.fetch_add(1, Ordering::Relaxed);
                    self.chain.pace.unchanged(&item.path);
                }
                Outcome::Failed(error) => self.failed(&item.path, error),
                Outcome::Held => {
                    self.is_mount_missed.store(true, Ordering::Relaxed);
                    // Only that fills the register of what is held.
                    self.inbox.mark(LibraryPath::root(), MOUNT_MISSED);
                }
                _ => {}
            }
            outcomes.push(item.outcome);
        }
        let (observations, mut looks_again) = self.confirm(outcomes).await;
        if let Some(origin) = observations.first().map(|observation| observation.origin) {
            let observations: Arc<[Observation]> = observations.into();
            let committed = self.commit_to_store(&observations).await;
            self.count(&observations, &committed);
            let Committed { changes, again, other_names } = committed;
            let examiner = Arc::clone(&self.examiner);
            let paths: Vec<LibraryPath> = observations.iter().map(|observation| observation.path.clone()).collect();
            let look = move || examiner.overtaken(&observations, &changes);
            // What cannot be asked now is looked at again.
            let overtaken = self.unless_silent(&paths, look).await.unwrap_or(paths);
            for path in again {
                // It is read this time: what it was taken for without that, from its stat, did not hold.
                looks_again.push(FsEvent { written: true, ..FsEvent::new(path, Quiet::Found, origin) });
            }
            for path in overtaken {
                looks_again.push(FsEvent::new(path, Quiet::Found, origin));
            }
            for path in other_names {
                // It may as well be the old name of a file whose inode was given to another one.
                looks_again.push(self.inbox.doubting(FsEvent::new(path, Quiet::Gone, origin)));
            }
        }
        for look in looks_again {
            self.inbox.push(look);
        }
    }

    /// What may be committed of these outcomes, and what is to be looked at again.
    async fn confirm(&self, outcomes: Vec<Outcome>) -> (Vec<Observation>, Vec<FsEvent>) {
        let (examiner, watcher) = (Arc::clone(&self.examiner), Arc::clone(&self.watcher));
        let catch_up = move || {
            let watcher = watcher.lock().unwrap_or_else(PoisonError::into_inner);
            watcher.as_ref().is_some_and(Watcher::barrier)
        };
        let observed = |outcome: &Outcome| match outcome {
            Outcome::New(it) | Outcome::Observed(it, _) | Outcome::Trusted(it, _) => Some((it.path.clone(), it.origin)),
            _ => None,
        };
        let (paths, origins): (Vec<LibraryPath>, Vec<Origin>) = outcomes.iter().filter_map(observed).unzip();
        let confirmed = self.unless_silent(&paths, move || examiner.confirm(outcomes, catch_up)).await;
        confirmed.unwrap_or_else(|| {
            let looks = paths.into_iter().zip(origins);
            (Vec::new(), looks.map(|(path, origin)| FsEvent::new(path, Quiet::Found, origin)).collect())
        })
    }

    /// Does work that looks at these paths, on a thread that may block; `None` if it takes so long that a server was
    /// asked whether it answers, and did not.
    async fn unless_silent<T: Send + 'static>(
        &self,
        paths: &[LibraryPath],
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let mut working = tokio::task::spawn_blocking(work);
        loop {
            tokio::select! {
                done = &mut working => {
                    return Some(done.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic())));
                }
                () = tokio::time::sleep(LOOK_TIME), if paths.iter().any(|path| self.root.has_server(path)) => {}
            }
            let root = Arc::clone(&self.root);
            let _ = tokio::task::spawn_blocking(move || root.ask_servers()).await;
            if paths.iter().any(|path| self.root.check_answered(path).is_err()) {
                return None;
            }
        }
    }

    /// Commits until it succeeds: a full disk stops the intake, and nothing else.
    async fn commit_to_store(&self, observations: &Arc<[Observation]>) -> Committed {
        self.wait_for_room().await;
        let mut waits = retry_waits();
        loop {
            match self.to_be_tried_again(self.store.commit(Arc::clone(observations))).await {
                Ok(committed) => return committed,
                Err(error) => {
                    let wait = waits.next().unwrap_or(LONGEST_WAIT);
                    tracing::error!(%error, retry_in_s = wait.as_secs_f64(), "the index cannot be written; intake waits");
                    tokio::time::sleep(wait).await;
                }
            }
        }
    }

    /// Waits while the outbox is full: hints collapse meanwhile, and nothing is lost. A broker that is only
    /// slow has it full all the time, so that is said rarely.
    async fn wait_for_room(&self) {
        let outbox_max_events = self.settings.outbox_max_events;
        if self.store.outbox_length() < outbox_max_events {
            return;
        }
        let begun = Instant::now();
        let last_said = || self.full_said.lock().unwrap_or_else(PoisonError::into_inner);
        let mut room = std::pin::pin!(self.store.room(self.goes_on_below()));
        let mut said = false;
        loop {
            let silence = last_said().map_or(Duration::ZERO, |last| FULL_SAID_AGAIN.saturating_sub(last.elapsed()));
            tokio::select! {
                biased;
                _ = &mut room => break,
                () = tokio::time::sleep(silence) => {
                    let lasted_s = begun.elapsed().as_secs();
                    tracing::warn!(outbox_max_events, lasted_s, "the outbox is full; intake waits for the broker");
                    *last_said() = Some(Instant::now());
                    said = true;
                }
            }
        }
        if said {
            tracing::info!("the outbox has room; intake goes on");
        }
    }

    /// How few messages must wait for intake to go on after the outbox was full.
    fn goes_on_below(&self) -> u64 {
        (self.settings.outbox_max_events / 2).max(1)
    }

    fn count(&self, observations: &[Observation], committed: &Committed) {
        let mut told = HashSet::new();
        for event in &committed.changes {
            let event_type = event.change.event_type();
            self.counters.events.count(event_type);
            told.insert(event.change.path());
            if let Change::Deleted(path) = &event.change {
                self.scanner.held.deleted(path);
            }
            if matches!(event.change, Change::Created(_) | Change::Modified(_)) {
                self.chain.pace.published(event.change.path());
            }
            tracing::debug!(event_type, path = %event.change.path(), origin = event.origin.as_str(), "committed");
        }
        for observation in observations.iter().filter(|observation| !told.contains(&observation.path)) {
            self.counters.unchanged.fetch_add(1, Ordering::Relaxed);
            self.chain.pace.unchanged(&observation.path);
        }
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        if !failures.is_empty() {
            for observation in observations {
                failures.remove(&observation.path);
            }
        }
    }

    fn failed(&self, path: &LibraryPath, error: &std::io::Error) {
        self.counters.failed.fetch_add(1, Ordering::Relaxed);
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let is_news = !failures.contains_key(path);
        // Where there is no room to remember it, all is in doubt.
        let remembered = if failures.len() < FAILURES_REMEMBERED { path.clone() } else { LibraryPath::root() };
        failures.entry(remembered).or_insert_with_key(|path| self.inbox.doubts().hold(path.clone()));
        drop(failures);
        let path = path.under(self.root.path());
        if is_news {
            tracing::warn!(path = %path.display(), %error, "cannot be read; the next walk tries again");
        } else {
            tracing::debug!(path = %path.display(), %error, "still cannot be read");
        }
    }

    /// Does `work`, which ends in any case when the store is found damaged: nothing would succeed any more.
    pub async fn unless_damaged<T>(
        damage: &Damage,
        work: impl Future<Output = Result<T, ServiceError>>,
    ) -> Result<T, ServiceError> {
        let done = tokio::select! {
            done = work => done,
            found = damage.wait() => Err(found.into()),
        };
        // The work may have failed of it before it was told.
        match (done, damage.found()) {
            (Err(_), Some(found)) => Err(found.into()),
            (done, _) => done,
        }
    }

    /// Does something with the store that is tried again after an error. Where the store was found damaged
    /// that never ends: the program does, and has said why.
    async fn to_be_tried_again<T>(&self, work: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        let done = work.await;
        if done.is_err() && self.store.damage().found().is_some() {
            return std::future::pending().await;
        }
        done
    }

    /// Whether the store was found damaged.
    pub fn damage(&self) -> Damage {
        self.store.damage().clone()
    }

    /// Says how far the work has come, soon after it begins and then seldom, until it is dropped.
    async fn say_progress(&self) {
        let mut progress = Progress::default();
        let mut said = false;
        loop {
            tokio::time::sleep(if said { SELDOM } else { SOON }).await;
            let seen = self.scanner.tally.seen.load(Ordering::Relaxed);
            let bytes = self.examiner.contents.bytes_read();
            said = progress.say(self.counters.events.now(), seen, bytes, self.store.outbox_length());
        }
    }
}

/// Makes a new store in the place of the one at `file`, and says what was kept of that.
fn rebuild(file: &Path, library: &[u8], encoder: &Encoder) -> Result<(), StoreError> {
    match crate::store::rebuild(file, library, encoder)? {
        None => tracing::info!("there is no index to rebuild; a new one is made"),
        Some(Rebuilt { aside, messages, parked, paths, whole, last_sequence, old_library }) => {
            let aside = aside.display();
            if let Some(old_library) = old_library {
                tracing::warn!(
                    old_library,
                    paths,
                    "the old index is that of another place: all its paths are published as deleted"
                );
            }
            if whole {
                tracing::warn!(%aside, messages, parked, paths, last_sequence, "a new index takes the place of the old one");
            } else {
                tracing::error!(
                    %aside, messages, parked, paths, last_sequence,
                    "a new index takes the place of the old one, which could not be read in full: undelivered \
                     messages may be missing, and so may deletes of files that went while nobody watched"
                );
            }
        }
    }
    Ok(())
}

/// Publishes the files of a library that was moved as moved, if that was asked for and is not done yet.
fn relocate_store(settings: &Settings, file: &Path, encoder: &Encoder) -> Result<Option<Relocated>, StoreError> {
    let Some(Relocation { from, .. }) = &settings.relocation else { return Ok(None) };
    let relocated = match crate::store::relocate(file, from, &settings.root, encoder) {
        // A first start has nothing to relocate.
        Err(StoreError::NothingToRelocate { .. }) if settings.command != Command::Relocate => return Ok(None),
        relocated => relocated?,
    };
    if let Relocated::Done { messages } = relocated {
        let (from, to) = (from.display(), settings.root.display());
        tracing::info!(%from, %to, messages, "the library was relocated; its files are published as moved");
    }
    Ok(Some(relocated))
}

/// Where the settings want messages to go.
pub fn sink_of(settings: &Settings, instance_id: &str) -> Sink {
    match settings.sink {
        SinkKind::Stdout => Sink::Stdout(Stdout::new()),
        SinkKind::Amqp => {
            let watched_directory = settings.root.to_string_lossy();
            let amqp = AmqpSettings {
                tls: settings.tls.clone(),
                reread: settings.reread.clone(),
                unroutable: settings.unroutable,
                ..AmqpSettings::new(settings.broker.clone(), instance_id, &watched_directory)
            };
            Sink::Amqp(Box::new(Amqp::new(amqp)))
        }
    }
}

fn readers() -> Result<ThreadPool, ThreadPoolBuildError> {
    ThreadPoolBuilder::new()
        .num_threads(thread::available_parallelism().map_or(8, |cores| readers_for(cores.get())))
        .thread_name(|number| format!("reader {number}"))
        // Who waits for the look hears of it by that no answer comes.
        .panic_handler(|_| {})
        .build()
}

/// Each reader has its buffer and its view of the index, so there are not as many as there could be files:
/// four for a processor, which waits for disks most of the time, until those are many.
fn readers_for(cores: usize) -> usize {
    (cores * 4).min(cores.max(32))
}

/// How soon new work is told of in the log, and how often work that goes on.
const SOON: Duration = Duration::from_secs(1);
const SELDOM: Duration = Duration::from_secs(10);

/// How soon everything is walked after a look found that a mount is gone.
const MOUNT_MISSED: Duration = Duration::from_millis(500);

/// The longest wait between walks while deletes are held, if the library is not walked at an interval anyway.
const LONGEST_HELD_RECHECK: Duration = Duration::from_hours(1);

/// How long it goes without saying that the outbox is full.
const FULL_SAID_AGAIN: Duration = Duration::from_mins(1);

/// The longest wait before the store is tried again.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

fn retry_waits() -> impl Iterator<Item = Duration> {
    backon::ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(100))
        .with_max_delay(LONGEST_WAIT)
        .with_jitter()
        .without_max_times()
        .build()
}

/// A token that is cancelled by the first SIGTERM or SIGINT. The second ends the process at once, with `exit_code`.
pub fn shutdown_on_signals(exit_code: u8) -> std::io::Result<CancellationToken> {
    use tokio::signal::unix::{SignalKind, signal};

    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let token = CancellationToken::new();
    let cancelled = token.clone();
    tokio::spawn(async move {
        for is_first in [true, false] {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if is_first {
                tracing::info!("stopping: finishing what is in flight; a second signal stops at once");
                cancelled.cancel();
            }
        }
        // Everything that matters is committed, or will be found again.
        tracing::warn!("interrupted at once; the next start goes on where this one stopped");
        std::process::exit(exit_code.into());
    });
    Ok(token)
}
