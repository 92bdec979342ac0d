//! Walks the marked subtrees and emits a hint for each difference from the index.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::{Stream, StreamExt};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;

use super::held::{Missed, Place, Vanished, Verdict};
use super::release::Approval;
use super::unstable_inodes::UnstableInodes;
use super::{Difference, Held, Inbox, LeftOut, Reconcile, Retry, Unreadable, Walk};
use crate::disk::{Disk as _, Entry, Root};
use crate::engine::{Replaced, Round, SharedEngine, tie_together};
use crate::model::{Cause, FsEvent, Index, LibraryPath, MountId, Origin, Row};

/// Capacity of the channel between the walking thread and the chain. It evens out their speeds.
const HINT_BUFFER: usize = 512;

/// The most missing paths that one walk remembers. The rest is left to the next walk.
const MAX_MISSING: usize = 100_000;

/// The most replaced paths that one walk remembers. Further ones are looked at in the first wave.
const MAX_REPLACED: usize = 100_000;

/// The most walks that run at once. A new album must not wait for the walk of everything.
const MAX_CONCURRENT_WALKS: usize = 4;

/// The wait before a walk of everything is repeated that could not be finished or missed too many files to remember.
const REPEAT_WAIT: Duration = Duration::from_mins(1);

/// The context of walks.
#[derive(Clone, Debug)]
pub struct Scanner<I> {
    /// The library root.
    pub root: Arc<Root>,
    /// The committed index.
    pub index: I,
    /// Whether a difference in ctime alone is ignored.
    pub ignore_ctime: bool,
    /// The directories that the rules exclude. Walks add to it.
    pub left_out: LeftOut,
    /// The register of held deletes.
    pub held: Held,
    /// Decides which missing files may be published as deleted.
    pub engine: SharedEngine,
    /// The register of unreadable paths.
    pub unreadable: Unreadable,
    /// Counters of the walks.
    pub tally: Arc<Tally>,
}

/// Counters that rise during walks.
#[derive(Debug, Default)]
pub struct Tally {
    /// Audio files that walks found.
    pub seen: AtomicU64,
    /// Those of them that equal their row.
    pub unchanged: AtomicU64,
    /// Completed walks of everything.
    pub full_walks: AtomicU64,
}

/// What a walk found, apart from its hints.
#[derive(Debug, Default)]
pub struct WalkReport {
    /// Paths with another file than in the index, in order, up to a bound.
    pub replaced: Vec<Replaced>,
    /// Indexed paths that the rules exclude now, in order, up to a bound.
    pub left_out: Vec<LibraryPath>,
    /// Their number, including those beyond the bound.
    pub left_out_total: u64,
    /// Indexed paths at which there was no file.
    pub vanished: Vanished,
    /// The approval that an operator gave before this walk.
    approval: Option<Approval>,
    /// Paths that could not be read, and why.
    pub unreadable: Vec<(LibraryPath, String)>,
    /// Why the index could not be read completely. Then no missing file is published as deleted.
    pub failure: Option<String>,
    /// Root generation at the start of the walk. A stale one proves no deletion.
    pub generation: u64,
}

/// What follows from the files that a walk missed.
#[derive(Debug, Default)]
pub struct Deletions {
    /// Hints for the paths that may be published as deleted.
    pub gone: Vec<FsEvent>,
    /// The wait before everything is walked again for the rest, if there is a rest.
    pub walk_again: Option<Duration>,
}

impl WalkReport {
    /// Takes the hints of the second wave: the replaced paths. Those that exchanged their files are tied together.
    pub fn replaced_hints(&mut self, origin: Origin) -> Vec<FsEvent> {
        let generation = self.generation;
        let hint = |(path, ties)| found(path, origin, generation).tied(ties);
        tie_together(std::mem::take(&mut self.replaced)).into_iter().map(hint).collect()
    }

    /// Adds the report of a later walk.
    pub fn append(&mut self, mut later: Self) {
        self.replaced.append(&mut later.replaced);
        // A later walk of a subtree may have missed the same files as the walk of everything.
        let known: HashSet<&LibraryPath> = self.vanished.here.iter().chain(&self.vanished.approved).collect();
        later.vanished.here.retain(|path| !known.contains(path));
        self.vanished.here_total += later.vanished.here.len() as u64;
        self.vanished.here.append(&mut later.vanished.here);
        self.approval = self.approval.take().or(later.approval);
        self.left_out.append(&mut later.left_out);
        self.left_out_total += later.left_out_total;
        self.unreadable.append(&mut later.unreadable);
        self.failure = self.failure.take().or(later.failure);
    }
}

impl<I: Index + Clone + Send + Sync + 'static> Scanner<I> {
    /// Walks these subtrees once, one after the other. Returns the hints for new or changed paths, in order, and the report
    /// of the completed walk. The report is never sent if the hints are dropped.
    pub fn walk(
        &self,
        subtrees: Vec<LibraryPath>,
        origin: Origin,
    ) -> (impl Stream<Item = FsEvent> + use<I>, oneshot::Receiver<WalkReport>) {
        let (hints, receiver) = mpsc::channel(HINT_BUFFER);
        let (report_to, report) = oneshot::channel();
        let scanner = self.clone();
        tokio::task::spawn_blocking(move || {
            let mut report = WalkReport { generation: scanner.root.generation(), ..WalkReport::default() };
            if subtrees.iter().any(LibraryPath::is_root) {
                scanner.root.ask_servers();
                scanner.root.identify_mounts();
                report.approval = scanner.held.take_approval();
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

    /// Walks one subtree. Returns false if the receiver of the hints was dropped.
    fn walk_one(
        &self,
        subtree: LibraryPath,
        origin: Origin,
        hints: &mpsc::Sender<FsEvent>,
        report: &mut WalkReport,
    ) -> bool {
        let mut inodes = UnstableInodes::default();
        let walk = Walk::new(&self.root, subtree.clone()).recording(&self.left_out);
        let whole_library = subtree.is_root();
        let mut nearest = None;
        for difference in Reconcile::reading_ahead(walk, self.index.clone(), subtree, self.ignore_ctime) {
            match difference {
                Ok(Difference::Same(was, now)) => {
                    inodes.note(&was, &now);
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
                    if inodes.note(&replaced.was, &replaced.now) {
                        self.root.inodes_do_not_last(replaced.now.mount);
                    }
                    if report.replaced.len() < MAX_REPLACED {
                        report.replaced.push(replaced);
                    } else if hints.blocking_send(found(replaced.path, origin, report.generation)).is_err() {
                        return false;
                    }
                }
                Ok(Difference::Gone(path, mount)) => {
                    let is_left_out = self.root.is_left_out(&path);
                    // The ignore files of a mount that is gone cannot be read: they may include the path again.
                    let may_be_away = whole_library || is_left_out;
                    let is_away = may_be_away && self.is_mount_gone(&path, mount, &mut nearest);
                    if is_left_out && !is_away {
                        report.left_out_total += 1;
                        push_bounded(&mut report.left_out, path);
                    } else {
                        self.sort_missing(path, is_away.then_some(mount), report);
                    }
                }
                Ok(Difference::Unreadable(path, error)) => report.unreadable.push((path, error.to_string())),
                Err(error) => {
                    report.failure = Some(error.to_string());
                    break;
                }
            }
        }
        inodes.mounts().for_each(|mount| self.root.inodes_do_not_last(mount));
        true
    }

    /// Whether the mount of the missing file at `path` is gone. `nearest` caches the mount of the directory of the path
    /// before.
    fn is_mount_gone(&self, path: &LibraryPath, mount: MountId, nearest: &mut Option<(LibraryPath, MountId)>) -> bool {
        let parent = path.parent().unwrap_or_else(LibraryPath::root);
        if let Some((known, nearest_mount)) = nearest
            && *known == parent
        {
            return *nearest_mount != mount && !self.root.is_elsewhere(mount, path);
        }
        // If the path exists again or cannot be examined, the look decides.
        let Ok(Some(nearest_mount)) = self.root.entry(path).map(Entry::nearest_mount) else { return false };
        *nearest = Some((parent, nearest_mount));
        nearest_mount != mount && !self.root.is_elsewhere(mount, path)
    }

    /// Adds a missing path to the report. `away` is its mount if that is gone.
    fn sort_missing(&self, path: LibraryPath, away: Option<MountId>, report: &mut WalkReport) {
        let WalkReport { vanished, approval, .. } = report;
        let place = away.map(|mount| Place::of_mount(&path, mount, self.root.mounts().get(mount).as_ref()));
        if let Some(approval) = approval {
            let is_approved = match &place {
                Some(place) => approval.covers_away(&path, place),
                None => approval.covers_here(&path),
            };
            if is_approved {
                vanished.approved_total += 1;
                vanished.approved_away += u64::from(place.is_some());
                push_bounded(&mut vanished.approved, path);
                return;
            }
            let (here, away) = &mut vanished.under_approval;
            *(if place.is_some() { away } else { here }) += u64::from(approval.includes(&path));
        }
        if let Some(place) = place {
            vanished.away.add(place, 1);
        } else {
            vanished.here_total += 1;
            push_bounded(&mut vanished.here, path);
        }
    }

    /// Removes from `report` the missing paths whose row satisfies `is_elsewhere`: their file is at another path now.
    pub fn remove_found_elsewhere(&self, report: &mut WalkReport, is_elsewhere: impl Fn(&Row) -> bool) {
        let vanished = &mut report.vanished;
        let before = vanished.here.len();
        vanished.here.retain(|path| !matches!(self.index.row(path), Ok(Some(row)) if is_elsewhere(&row)));
        vanished.here_total -= (before - vanished.here.len()) as u64;
    }

    /// The hints for the missing paths of `report` that may be published as deleted and still have a row.
    pub fn deletions(&self, report: WalkReport, whole_library: bool) -> Deletions {
        let WalkReport { mut vanished, approval, generation, mut left_out, left_out_total, .. } = report;
        let still_indexed = |path: &LibraryPath| self.index.row(path).is_ok_and(|row| row.is_some());
        let look = |path| found(path, Origin::Scan, generation).because(Cause::Gone).indexed();
        // These deletes are never held, because an operator changed the rules.
        let is_more_left_out = left_out_total > left_out.len() as u64;
        left_out.retain(still_indexed);
        let left_out = left_out.into_iter().map(look);
        if !whole_library {
            vanished.here.retain(still_indexed);
            let gone = self.engine.with(|engine| engine.missed_by_subtree_walk(vanished.here)).into_iter().map(look);
            let walk_again = is_more_left_out.then_some(Duration::ZERO);
            return Deletions { gone: left_out.chain(gone).collect(), walk_again };
        }
        let beyond_the_bound = vanished.here_total - vanished.here.len() as u64;
        let found = vanished.approved.len();
        vanished.here.retain(still_indexed);
        vanished.approved.retain(still_indexed);
        vanished.here_total = vanished.here.len() as u64 + beyond_the_bound;
        vanished.approved_total -= (found - vanished.approved.len()) as u64;
        vanished.approved_away = vanished.approved_away.min(vanished.approved_total);
        let missed = vanished.here.iter().chain(&vanished.approved).cloned().collect();
        let missed = Missed {
            sure: self.engine.with(|engine| engine.missed_by_full_walk(missed, generation)).into_iter().collect(),
            // A root that cannot be listed counts as empty.
            root_is_empty: !vanished.here.is_empty() && self.root.is_bare().unwrap_or(true),
            indexed: self.index.len().unwrap_or(0).saturating_sub(left_out_total),
            vanished,
        };
        let mounts = self.root.mounts();
        let Verdict { gone, approved, left_over } = self.held.judge(missed, approval, |mount| mounts.get(mount));
        let approved = approved.into_iter().map(|(path, token)| {
            let mut look = look(path);
            look.guards.approved = true;
            look.guards.holds.push(token);
            look
        });
        let walk_again = match left_over {
            _ if is_more_left_out => Some(Duration::ZERO),
            0 => None,
            _ if beyond_the_bound > 0 => Some(REPEAT_WAIT),
            _ => Some(Duration::ZERO),
        };
        Deletions { gone: left_out.chain(gone.into_iter().map(look)).chain(approved).collect(), walk_again }
    }

    /// Walks every subtree that is marked in `inbox`, forever. The hints for missing files are pushed to `inbox` at the end
    /// of each round.
    pub fn rounds(self, inbox: Inbox, watcher: Arc<dyn Barrier>) -> impl Stream<Item = FsEvent> {
        let rounds = {
            let inbox = inbox.clone();
            futures::stream::unfold(inbox, |inbox| async move { Some((inbox.next_round().await, inbox)) })
        };
        rounds.flat_map_unordered(MAX_CONCURRENT_WALKS, move |round| {
            Box::pin(self.clone().round(round, inbox.clone(), Arc::clone(&watcher)))
        })
    }

    fn round(self, round: Round, inbox: Inbox, watcher: Arc<dyn Barrier>) -> impl Stream<Item = FsEvent> {
        async_stream::stream! {
            let (id, whole_library) = (round.id, round.is_of_everything());
            // New directories are watched from here on, so changes that the walk does not find cause events.
            let root = Arc::clone(&self.root);
            let prepare = move || {
                if whole_library {
                    root.find_links();
                }
                watcher.wait();
            };
            let _ = tokio::task::spawn_blocking(prepare).await;
            let (hints, report) = self.walk(round.subtrees.clone(), round.origin);
            for await hint in hints {
                yield inbox.engine().with(|engine| engine.found(id, hint));
            }
            let Ok(mut report) = report.await else {
                inbox.engine().with(|engine| engine.round_ended(id));
                return;
            };
            let replaced = report.replaced_hints(round.origin);
            let replaced: Vec<FsEvent> = inbox.engine().with(|engine| {
                let replaced = replaced.into_iter().map(|hint| engine.found_replaced(id, hint)).collect();
                engine.walk_ended(id);
                replaced
            });
            if !replaced.is_empty() {
                inbox.wait_until(|engine| engine.is_first_wave_done(id)).await;
            }
            for hint in replaced {
                yield hint;
            }
            inbox.engine().with(|engine| engine.found_all(id));
            inbox.looks_ended();
            tokio::spawn(async move {
                self.note_unreadable(&round.subtrees, &report, &inbox);
                self.finish(report, &round, &inbox).await;
                inbox.engine().with(|engine| engine.round_ended(id));
                inbox.looks_ended();
            });
        }
    }

    /// Logs each path once that cannot be read, or can be read again, and marks the former for another walk.
    fn note_unreadable(&self, walked: &[LibraryPath], report: &WalkReport, inbox: &Inbox) {
        for (path, error) in &report.unreadable {
            let Retry { is_new, wait } = self.unreadable.note_failure(path, error);
            let shown = path.to_absolute(self.root.path());
            if is_new {
                tracing::warn!(path = %shown.display(), %error, "cannot be read; its files stay in the index");
            } else {
                tracing::debug!(path = %shown.display(), %error, "still cannot be read");
            }
            if !path.is_root() {
                inbox.mark(path.clone(), wait);
            }
        }
        if report.failure.is_none() {
            let unreadable: Vec<&LibraryPath> = report.unreadable.iter().map(|(path, _)| path).collect();
            for path in self.unreadable.note_walked(walked, &unreadable) {
                let path = path.to_absolute(self.root.path());
                tracing::info!(path = %path.display(), "can be read again, or is gone");
            }
        }
    }

    /// Waits until everything that this and earlier rounds found was looked at, then pushes the hints for missing files.
    async fn finish(&self, report: WalkReport, round: &Round, inbox: &Inbox) {
        if let Some(error) = &report.failure {
            tracing::error!(%error, "the index could not be read; the walk is repeated");
            inbox.mark(LibraryPath::root(), REPEAT_WAIT);
            return;
        }
        inbox.wait_until(|engine| engine.is_looked_at(round.id)).await;
        if report.generation != self.root.generation() {
            // The missing files may be in the old root. The new root is being walked.
            return;
        }
        let whole_library = round.is_of_everything();
        let Deletions { gone, walk_again } = if report.unreadable.iter().any(|(path, _)| path.is_root()) {
            // Nothing was walked, so the held deletes stay as they are.
            self.held.note_unreadable_root();
            Deletions::default()
        } else {
            let scanner = self.clone();
            let deletions = tokio::task::spawn_blocking(move || scanner.deletions(report, whole_library)).await;
            deletions.unwrap_or_default()
        };
        // A file that was renamed since the walk is looked at under its new name first.
        let ties = inbox.engine().with(|engine| engine.ties_of_missed(round.id));
        for look in gone {
            inbox.push(FsEvent { origin: round.origin, ..look }.tied(ties.clone()));
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

fn push_bounded(paths: &mut Vec<LibraryPath>, path: LibraryPath) {
    if paths.len() < MAX_MISSING {
        paths.push(path);
    }
}

fn found(path: LibraryPath, origin: Origin, generation: u64) -> FsEvent {
    FsEvent::new(path, Cause::Found, origin).about_root(generation)
}

/// Ensures that directories are watched before they are listed.
pub trait Barrier: Send + Sync {
    /// Returns once every directory that was created before this call is watched. Blocks.
    fn wait(&self);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::library::testing::Rows;
    use crate::model::{FileStat, Guards};

    struct NoWatcher;

    impl Barrier for NoWatcher {
        fn wait(&self) {}
    }

    #[tokio::test]
    async fn excluded_rows_are_neither_held_nor_walked_twice() {
        let names = ["flac", "txt"].into_iter().flat_map(|kind| (10..22).map(move |at| format!("{at}.{kind}")));
        let stat = FileStat { inode: 1, size: 1, ..FileStat::default() };
        let rows = Rows(names.map(|name| (LibraryPath::from(name.as_str()), stat)).collect());

        let folder = tempfile::tempdir().unwrap();
        let engine = SharedEngine::new();
        let scanner = Scanner {
            left_out: LeftOut::default(),
            root: Arc::new(Root::open(folder.path()).unwrap()),
            index: rows,
            ignore_ctime: false,
            held: Held::new(50, Duration::from_hours(1)),
            engine: engine.clone(),
            unreadable: Unreadable::new(Duration::ZERO),
            tally: Arc::default(),
        };
        let _polled = engine.with(|engine| engine.trust().leave_unwatched(&LibraryPath::root()));
        for whole_library in [false, true] {
            let (hints, report) = scanner.walk(vec![LibraryPath::root()], Origin::Scan);
            assert_eq!(hints.count().await, 0);
            let report = report.await.unwrap();
            assert_eq!((report.vanished.here.len(), report.left_out.len()), (12, 12));
            let left_out = report.left_out.clone();
            let gone: Vec<_> = scanner.deletions(report, whole_library).gone.into_iter().map(|it| it.path).collect();
            assert_eq!(gone, left_out);
        }
        assert_eq!(scanner.held.count(), 12, "all twelve rows that are not excluded are missing");
    }

    #[tokio::test]
    async fn a_subtree_is_in_doubt_until_everything_found_in_it_was_looked_at() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("a")).unwrap();
        std::fs::write(folder.path().join("a/x.mp3"), b"").unwrap();
        let inbox = Inbox::new();
        let scanner = Scanner {
            left_out: LeftOut::default(),
            root: Arc::new(Root::open(folder.path()).unwrap()),
            index: Rows::default(),
            ignore_ctime: false,
            held: Held::new(50, Duration::from_hours(1)),
            engine: inbox.engine().clone(),
            unreadable: Unreadable::new(Duration::ZERO),
            tally: Arc::default(),
        };
        inbox.mark("a".into(), Duration::ZERO);
        let mut rounds = std::pin::pin!(scanner.rounds(inbox.clone(), Arc::new(NoWatcher)));
        let found = rounds.next().await.unwrap();
        let is_in_doubt = |path: &LibraryPath| inbox.trust(|trust| trust.is_in_doubt(path));
        assert!(is_in_doubt(&found.path) && is_in_doubt(&"a".into()));
        // Looked at, but not done: the walk ends, and the file stays in doubt.
        let FsEvent { path, guards: Guards { holds, walks, .. }, .. } = found;
        drop(walks);
        let started = std::time::Instant::now();
        while is_in_doubt(&"a".into()) {
            assert!(started.elapsed() < Duration::from_secs(10), "the walk never ends");
            let _ = tokio::time::timeout(Duration::from_millis(1), rounds.next()).await;
        }
        assert!(is_in_doubt(&path));
        drop(holds);
        assert_eq!(inbox.trust(|trust| trust.doubts()), 0);
    }
}
