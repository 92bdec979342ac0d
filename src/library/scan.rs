//! Walks subtrees that were asked for, and turns where they differ from the index into hints.
//!
//! A walk gives its hints in three waves, each when the one before it was looked at and committed: first what
//! is new or changed, then the paths that hold another file than before, and last what is gone. So a file that was
//! moved is found at its new path before its old one is given to another file or called deleted, however
//! far apart the two are.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::{Stream, StreamExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::TaskTracker;

use super::brake::{Brake, Verdict};
use super::passing_inodes::PassingInodes;
use super::{Difference, Inbox, Missing, Reconcile, Replaced, Subtree, Walk, tie_together};
use crate::disk::{Disk as _, Root};
use crate::model::{Extensions, FsEvent, Index, LibraryPath, Origin, Quiet, Token};

/// Hints between the walking thread and the chain: enough that neither waits for the other's rhythm.
const AHEAD: usize = 512;

/// Vanished paths that one walk remembers. Where there are more, the rest is left to the next walk.
const MOST_GONE: usize = 100_000;

/// Paths with another file that one walk remembers. More are looked at with the first wave.
const MOST_REPLACED: usize = 100_000;

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
    /// What holds deletes until it is sure that the file has no other name by now.
    pub missing: Missing,
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
    /// Paths that hold another file than the index has there, in order; no more than a bound.
    pub replaced: Vec<Replaced>,
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

/// What may be told of what a walk missed.
#[derive(Debug, Default)]
pub struct Deletions {
    /// Paths that may be called gone.
    pub gone: Vec<LibraryPath>,
    /// How soon everything is to be walked again for the rest.
    pub walk_again: Option<Duration>,
}

impl WalkReport {
    /// The hints of the second wave: the paths that hold another file, those tied together that changed names.
    pub fn replaced_hints(&mut self, origin: Origin) -> Vec<FsEvent> {
        let generation = self.generation;
        let hint = |(path, ties)| FsEvent { ties, ..found(path, origin, generation) };
        tie_together(std::mem::take(&mut self.replaced)).into_iter().map(hint).collect()
    }

    /// Adds what a later walk found.
    pub fn append(&mut self, mut later: Self) {
        self.replaced.append(&mut later.replaced);
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
            if subtrees.iter().any(LibraryPath::is_root) {
                scanner.root.ask_servers();
            }
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
        let mut noticed = PassingInodes::default();
        let walk = Walk::new(&self.root, &self.extensions, subtree.clone());
        for difference in Reconcile::new(walk, &self.index, subtree, self.ignore_ctime) {
            match difference {
                Ok(Difference::Same(was, now)) => {
                    noticed.note(&was, &now);
                    self.tally.seen.fetch_add(1, Ordering::Relaxed);
                    self.tally.unchanged.fetch_add(1, Ordering::Relaxed);
                }
                Ok(Difference::Look(path)) => {
                    self.tally.seen.fetch_add(1, Ordering::Relaxed);
                    if hints.blocking_send(found(path, origin, report.generation)).is_err() {
                        return false;
                    }
                }
                Ok(Difference::Replaced(replaced)) => {
                    self.tally.seen.fetch_add(1, Ordering::Relaxed);
                    if noticed.note(&replaced.was, &replaced.now) {
                        self.root.inodes_do_not_last(replaced.now.mount);
                    }
                    if report.replaced.len() < MOST_REPLACED {
                        report.replaced.push(replaced);
                    } else if hints.blocking_send(found(replaced.path, origin, report.generation)).is_err() {
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
        noticed.at_the_end().for_each(|mount| self.root.inodes_do_not_last(mount));
        true
    }

    /// The paths of `report` that still have a row, if they and so many may be called gone.
    pub fn deletions(&self, report: &WalkReport, whole_library: bool) -> Deletions {
        let still_indexed = |path: &&LibraryPath| self.index.row(path).is_ok_and(|row| row.is_some());
        let missed: Vec<LibraryPath> = report.gone.iter().filter(still_indexed).cloned().collect();
        if !whole_library {
            return Deletions { gone: self.missing.beneath_a_subtree(missed), walk_again: None };
        }
        let beyond_the_bound = report.gone_in_all - report.gone.len() as u64;
        let count = missed.len() as u64 + beyond_the_bound;
        let gone = self.missing.twice(missed, report.generation);
        let left_over = count - gone.len() as u64;
        let indexed = self.index.len().unwrap_or(0);
        let gone = match self.brake.judge(count, left_over, indexed) {
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
        };
        let walk_again = if beyond_the_bound > 0 || self.brake.held() > 0 {
            Some(HELD_RECHECK)
        } else {
            (left_over > 0).then_some(Duration::ZERO)
        };
        Deletions { gone, walk_again }
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
        subtrees: Vec<Subtree>,
        inbox: Inbox,
        watcher: Arc<dyn Barrier>,
        recent: Arc<Rounds>,
    ) -> impl Stream<Item = FsEvent> {
        async_stream::stream! {
            let whole_library = subtrees.iter().any(|subtree| subtree.path.is_root());
            let Some(_turn) = recent.turn(whole_library).await else { return };
            let looks = TaskTracker::new();
            let earlier = recent.begin(&looks, whole_library);
            // New directories are watched from here on, so what the walk does not come by will be told.
            let _ = tokio::task::spawn_blocking(move || watcher.wait()).await;
            let origin = if whole_library { Origin::Scan } else { Origin::Watch };
            let paths = subtrees.iter().map(|subtree| subtree.path.clone()).collect();
            let (hints, report) = self.walk(paths, origin);
            let first_wave = TaskTracker::new();
            for await hint in hints {
                let mut hint = inbox.doubting(hint);
                hint.walks.extend([Token::new(looks.token()), Token::new(first_wave.token())]);
                yield hint;
            }
            let Ok(mut report) = report.await else { return };
            let replaced = report.replaced_hints(origin);
            if !replaced.is_empty() {
                first_wave.close();
                first_wave.wait().await;
            }
            for hint in replaced {
                let mut hint = inbox.doubting(hint);
                hint.walks.push(Token::new(looks.token()));
                yield hint;
            }
            looks.close();
            tokio::spawn(async move {
                self.finish(report, origin, earlier, inbox).await;
                // Until now anything beneath them may have been other than the index has it.
                drop(subtrees);
            });
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
        let scanner = self.clone();
        let deletions = tokio::task::spawn_blocking(move || scanner.deletions(&report, whole_library)).await;
        let Deletions { gone, walk_again } = deletions.unwrap_or_default();
        for path in gone {
            // What has another name since the walk is looked at there first.
            inbox.push(FsEvent { quiet: Quiet::Gone, ..found(path, origin, generation) });
        }
        if whole_library {
            self.tally.full_walks.fetch_add(1, Ordering::Relaxed);
            tracing::debug!("everything was walked");
        }
        if let Some(wait) = walk_again {
            inbox.mark(LibraryPath::root(), wait);
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

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;
    use crate::model::{FileStat, MountId, Row};

    #[derive(Clone)]
    struct NoRows;

    impl Index for NoRows {
        type Error = Infallible;

        fn row(&self, _: &LibraryPath) -> Result<Option<Row>, Infallible> {
            Ok(None)
        }

        fn rows_by_inode(&self, _: MountId, _: u64, _: usize) -> Result<Vec<Row>, Infallible> {
            Ok(Vec::new())
        }

        fn rows_by_sha256(&self, _: &[u8; 32], _: usize) -> Result<Vec<Row>, Infallible> {
            Ok(Vec::new())
        }

        fn rows_after(
            &self,
            _: &LibraryPath,
            _: Option<&LibraryPath>,
            _: usize,
        ) -> Result<Vec<(LibraryPath, FileStat)>, Infallible> {
            Ok(Vec::new())
        }

        fn len(&self) -> Result<u64, Infallible> {
            Ok(0)
        }
    }

    struct NoWatcher;

    impl Barrier for NoWatcher {
        fn wait(&self) {}
    }

    #[tokio::test]
    async fn what_is_walked_is_in_doubt_until_all_that_was_found_there_was_looked_at() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("a")).unwrap();
        std::fs::write(folder.path().join("a/x.mp3"), b"").unwrap();
        let scanner = Scanner {
            root: Arc::new(Root::open(folder.path()).unwrap()),
            extensions: Extensions::default(),
            index: NoRows,
            ignore_ctime: false,
            brake: Brake::new(50),
            missing: Missing::default(),
            tally: Arc::default(),
        };
        let inbox = Inbox::new();
        inbox.mark("a".into(), Duration::ZERO);
        let mut rounds = std::pin::pin!(scanner.rounds(inbox.clone(), Arc::new(NoWatcher)));
        let found = rounds.next().await.unwrap();
        let doubts = inbox.doubts();
        assert!(doubts.is_held(&found.path) && doubts.is_held(&"a".into()));
        // It was looked at, and is not finished: the walk is over, and the file in doubt.
        let FsEvent { path, holds, walks, .. } = found;
        drop(walks);
        let begun = std::time::Instant::now();
        while doubts.is_held(&"a".into()) {
            assert!(begun.elapsed() < Duration::from_secs(10), "the walk is never over");
            let _ = tokio::time::timeout(Duration::from_millis(1), rounds.next()).await;
        }
        assert!(doubts.is_held(&path));
        drop(holds);
        assert_eq!(doubts.held(), 0);
    }
}
