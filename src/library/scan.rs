//! Walks subtrees that were asked for, and turns where they differ from the index into hints.
//!
//! A walk speaks twice: at once of what is new or changed, and of what is gone only when all of the
//! former was looked at and committed. So a file that was moved is found at its new path, and its
//! old one is not called deleted, however far apart the two are.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::{Stream, StreamExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::TaskTracker;

use super::brake::{Brake, Verdict};
use super::{Difference, Inbox, Reconcile, Walk};
use crate::disk::{Disk as _, Root};
use crate::model::{Extensions, FsEvent, Index, LibraryPath, Origin, Quiet, Token};

/// Hints between the walking thread and the chain: enough that neither waits for the other's rhythm.
const AHEAD: usize = 512;

/// Vanished paths that one walk remembers. Where there are more, the rest is left to the next walk.
const MOST_GONE: usize = 100_000;

/// Walks that may run at once: a new album must not wait for the walk of everything.
const WALKS_AT_ONCE: usize = 4;

/// How soon a walk of everything looks again at deletes that are held.
const HELD_RECHECK: Duration = Duration::from_mins(1);

/// How soon a directory that could not be read is tried again.
const UNREADABLE_RECHECK: Duration = Duration::from_mins(5);

/// What walks need to know.
#[derive(Clone, Debug)]
pub struct Scanner<I> {
    /// The library.
    pub root: Arc<Root>,
    /// Which files matter.
    pub extensions: Extensions,
    /// What was committed.
    pub index: I,
    /// Whether a changed ctime alone is no difference.
    pub ignore_ctime: bool,
    /// What holds mass deletes.
    pub brake: Brake,
    /// How far walks have come.
    pub tally: Arc<Tally>,
}

/// Figures that rise while walks go on.
#[derive(Debug, Default)]
pub struct Tally {
    /// Audio files that were come by.
    pub seen: AtomicU64,
    /// Those of them that are as the index has them.
    pub unchanged: AtomicU64,
    /// Walks of everything that came to their end.
    pub full_walks: AtomicU64,
}

/// What a walk found beside its hints.
#[derive(Debug, Default)]
pub struct WalkReport {
    /// Indexed paths at which nothing was, in order; no more than a bound.
    pub gone: Vec<LibraryPath>,
    /// How many there were in all.
    pub gone_in_all: u64,
    /// Paths that could not be read, and why.
    pub unreadable: Vec<(LibraryPath, String)>,
    /// Why the index could not be read to its end; then nothing is said of what is gone.
    pub failure: Option<String>,
    /// Which directory the root was at the begin, of all that it has been.
    pub generation: u64,
}

impl WalkReport {
    /// Adds what a later walk found.
    pub fn append(&mut self, mut later: Self) {
        self.gone.append(&mut later.gone);
        self.gone_in_all += later.gone_in_all;
        self.unreadable.append(&mut later.unreadable);
        self.failure = self.failure.take().or(later.failure);
    }
}

impl<I: Index + Clone + Send + 'static> Scanner<I> {
    /// Walks these subtrees once, one after the other: hints for what is new or changed, in order,
    /// and the report when they are at their end.
    pub fn walk(
        &self,
        subtrees: Vec<LibraryPath>,
        origin: Origin,
    ) -> (impl Stream<Item = FsEvent> + use<I>, oneshot::Receiver<WalkReport>) {
        let (hints, receiver) = mpsc::channel(AHEAD);
        let (report_to, report) = oneshot::channel();
        let scanner = self.clone();
        tokio::task::spawn_blocking(move || {
            let mut report = WalkReport { generation: scanner.root.generation(), ..WalkReport::default() };
            for subtree in subtrees {
                if !scanner.walk_one(subtree, origin, &hints, &mut report) {
                    return;
                }
            }
            let _ = report_to.send(report);
        });
        (ReceiverStream::new(receiver), report)
    }

    /// Walks one subtree; false where nobody listens any more.
    fn walk_one(
        &self,
        subtree: LibraryPath,
        origin: Origin,
        hints: &mpsc::Sender<FsEvent>,
        report: &mut WalkReport,
    ) -> bool {
        let walk = Walk::new(&self.root, &self.extensions, subtree.clone());
        for difference in Reconcile::new(walk, &self.index, subtree, self.ignore_ctime) {
            match difference {
                Ok(Difference::Same) => {
                    self.tally.seen.fetch_add(1, Ordering::Relaxed);
                    self.tally.unchanged.fetch_add(1, Ordering::Relaxed);
                }
                Ok(Difference::Look(path)) => {
                    self.tally.seen.fetch_add(1, Ordering::Relaxed);
                    if hints.blocking_send(found(path, origin, report.generation)).is_err() {
                        return false;
                    }
                }
                Ok(Difference::Gone(path)) => {
                    report.gone_in_all += 1;
                    if report.gone.len() < MOST_GONE {
                        report.gone.push(path);
                    }
                }
                Ok(Difference::Unreadable(path, error)) => report.unreadable.push((path, error.to_string())),
                Err(error) => {
                    report.failure = Some(error.to_string());
                    break;
                }
            }
        }
        true
    }

    /// The paths of `report` that still have a row, if so many may be called gone after a walk of everything.
    pub fn deletions(&self, report: &WalkReport, whole_library: bool) -> Vec<LibraryPath> {
        let still_indexed = |path: &&LibraryPath| self.index.row(path).is_ok_and(|row| row.is_some());
        let gone: Vec<LibraryPath> = report.gone.iter().filter(still_indexed).cloned().collect();
        if !whole_library {
            return gone;
        }
        let beyond_the_bound = report.gone_in_all - report.gone.len() as u64;
        let count = gone.len() as u64 + beyond_the_bound;
        let indexed = self.index.len().unwrap_or(0);
        match self.brake.judge(count, indexed) {
            Verdict::Pass => gone,
            Verdict::NewlyHeld => {
                tracing::warn!(
                    held = count,
                    indexed,
                    "so much of the library is missing that it looks unmounted: no delete is published until the \
                     files are back, or `file-watcher approve` says that they are gone"
                );
                Vec::new()
            }
            Verdict::StillHeld => Vec::new(),
        }
    }

    /// Walks every subtree that is marked in `inbox`, for ever. What is gone is pushed to `inbox` in the end.
    pub fn rounds(self, inbox: Inbox, watcher: Arc<dyn Barrier>) -> impl Stream<Item = FsEvent> {
        let recent = Arc::new(Rounds::default());
        let due = {
            let inbox = inbox.clone();
            futures::stream::unfold(inbox, |inbox| async move { Some((inbox.due_subtrees().await, inbox)) })
        };
        due.flat_map_unordered(WALKS_AT_ONCE, move |subtrees| {
            Box::pin(self.clone().round(subtrees, inbox.clone(), Arc::clone(&watcher), Arc::clone(&recent)))
        })
    }

    fn round(
        self,
        subtrees: Vec<LibraryPath>,
        inbox: Inbox,
        watcher: Arc<dyn Barrier>,
        recent: Arc<Rounds>,
    ) -> impl Stream<Item = FsEvent> {
        async_stream::stream! {
            let whole_library = subtrees.iter().any(LibraryPath::is_root);
            let Some(_turn) = recent.turn(whole_library).await else { return };
            let looks = TaskTracker::new();
            let earlier = recent.begin(&looks, whole_library);
            // New directories are watched from here on, so what the walk does not come by will be told.
            let _ = tokio::task::spawn_blocking(move || watcher.wait()).await;
            let origin = if whole_library { Origin::Scan } else { Origin::Watch };
            let (hints, report) = self.walk(subtrees, origin);
            for await mut hint in hints {
                hint.walks.push(Token::new(looks.token()));
                yield hint;
            }
            looks.close();
            let Ok(report) = report.await else { return };
            tokio::spawn(self.finish(report, origin, earlier, inbox));
        }
    }

    /// Waits until everything that this and earlier rounds found was looked at, then tells of what is gone.
    async fn finish(self, report: WalkReport, origin: Origin, rounds: Vec<TaskTracker>, inbox: Inbox) {
        for (path, error) in &report.unreadable {
            tracing::warn!(path = %path.under(self.root.path()).display(), %error, "cannot be read; its files stay as they were");
            if !path.is_root() {
                inbox.mark(path.clone(), UNREADABLE_RECHECK);
            }
        }
        if let Some(error) = &report.failure {
            tracing::error!(%error, "the index could not be read; the walk is repeated");
            inbox.mark(LibraryPath::root(), HELD_RECHECK);
            return;
        }
        for round in rounds {
            round.wait().await;
        }
        if report.generation != self.root.generation() {
            // What this walk missed may have been in the other root. That one is being walked.
            return;
        }
        let whole_library = origin == Origin::Scan;
        let generation = report.generation;
        let bounded = report.gone_in_all > report.gone.len() as u64;
        let scanner = self.clone();
        let deletions = tokio::task::spawn_blocking(move || scanner.deletions(&report, whole_library)).await;
        for path in deletions.unwrap_or_default() {
            inbox.push(found(path, origin, generation));
        }
        if whole_library {
            self.tally.full_walks.fetch_add(1, Ordering::Relaxed);
            tracing::debug!("everything was walked");
            if bounded || self.brake.held() > 0 {
                inbox.mark(LibraryPath::root(), HELD_RECHECK);
            }
        }
    }
}

fn found(path: LibraryPath, origin: Origin, generation: u64) -> FsEvent {
    FsEvent { generation: Some(generation), ..FsEvent::new(path, Quiet::Found, origin) }
}

/// What makes sure that a directory is watched before it is listed.
pub trait Barrier: Send + Sync {
    /// Returns once every directory that was made before this call is watched. Blocks.
    fn wait(&self);
}

/// The walks that are going on or not wholly looked at yet.
#[derive(Debug)]
struct Rounds {
    /// Those of subtrees, which wait for each other.
    subtrees: Mutex<VecDeque<TaskTracker>>,
    /// Held by the walk of everything.
    everything: Arc<Semaphore>,
    /// Whether another walk of everything waits for that one to end.
    is_next_waiting: AtomicBool,
}

impl Default for Rounds {
    fn default() -> Self {
        Self {
            subtrees: Mutex::default(),
            everything: Arc::new(Semaphore::new(1)),
            is_next_waiting: AtomicBool::new(false),
        }
    }
}

impl Rounds {
    /// Waits until this walk may begin; `None` where another that waits already will do. There is one
    /// walk of everything at a time, however often it is asked for: where a walk takes longer than the
    /// time between two, they would otherwise be more and more.
    async fn turn(&self, whole_library: bool) -> Option<Option<OwnedSemaphorePermit>> {
        if !whole_library {
            return Some(None);
        }
        if self.is_next_waiting.swap(true, Ordering::AcqRel) {
            return None;
        }
        let turn = Arc::clone(&self.everything).acquire_owned().await;
        self.is_next_waiting.store(false, Ordering::Release);
        Some(turn.ok())
    }

    /// Adds a round, and gives it with all those before it. The walk of everything is waited for by
    /// itself alone: it may take hours, and a live move never depends on it.
    fn begin(&self, round: &TaskTracker, whole_library: bool) -> Vec<TaskTracker> {
        let mut rounds = self.subtrees.lock().unwrap_or_else(PoisonError::into_inner);
        rounds.retain(|round| !round.is_closed() || !round.is_empty());
        let mut earlier: Vec<TaskTracker> = rounds.iter().cloned().collect();
        earlier.push(round.clone());
        if !whole_library {
            rounds.push_back(round.clone());
        }
        earlier
    }
}
