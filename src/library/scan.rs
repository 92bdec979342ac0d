//! Walks the marked subtrees and emits a hint for each difference from the index.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use futures::{Stream, StreamExt};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_stream::wrappers::ReceiverStream;

use super::unstable_inodes::UnstableInodes;
use super::{Difference, ExcludedDirectories, Inbox, Reconcile, Walk};
use crate::disk::{Disk as _, Entry, Root};
use crate::engine::{Engine, FullWalk, Missing, Replaced, Round, Verdict, tie_together};
use crate::model::{Cause, FsEvent, Index, LibraryPath, MountId, Origin, Row};

/// Capacity of the channel between the walking thread and the chain. It evens out their speeds.
const HINT_BUFFER: usize = 512;

/// The most excluded rows that one walk remembers. The rest is left to the next walk.
const MAX_EXCLUDED: usize = 100_000;

/// The most replaced paths that one walk remembers. Further ones are looked at in the first wave.
const MAX_REPLACED: usize = 100_000;

/// The most walks that run at once. A new album must not wait for the walk of everything.
const MAX_CONCURRENT_WALKS: usize = 4;

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
    pub excluded: ExcludedDirectories,
    /// The engine, which decides what follows from the findings of a walk.
    pub inbox: Inbox,
    /// Counters of the walks.
    pub tally: Arc<Tally>,
}

/// Counters of the walks since the last walk of everything began.
#[derive(Debug, Default)]
pub struct Tally {
    /// Audio files that walks found.
    pub seen: AtomicU64,
    /// Those of them that equal their row.
    pub unchanged: AtomicU64,
    finished: watch::Sender<FinishedScans>,
}

/// A finished walk of everything, with all looks that it asked for.
#[derive(Clone, Copy, Debug)]
pub struct FinishedScan {
    /// When it finished.
    pub finished: SystemTime,
    /// How long it took.
    pub took: Duration,
}

/// The walks of everything that finished since the start.
#[derive(Clone, Copy, Debug, Default)]
pub struct FinishedScans {
    /// Their number.
    pub count: u64,
    /// The last one.
    pub last: Option<FinishedScan>,
    /// When the last one finished that could read everything.
    pub clean: Option<SystemTime>,
}

impl Tally {
    /// The finished walks of everything, to read or to wait for.
    #[must_use]
    pub fn finished(&self) -> watch::Receiver<FinishedScans> {
        self.finished.subscribe()
    }

    /// The last finished walk of everything.
    #[must_use]
    pub fn last_scan(&self) -> Option<FinishedScan> {
        self.finished.borrow().last
    }

    fn scan_finished(&self, took: Duration, is_clean: bool) {
        let now = SystemTime::now();
        self.finished.send_modify(|finished| {
            finished.count += 1;
            finished.last = Some(FinishedScan { finished: now, took });
            if is_clean {
                finished.clean = Some(now);
            }
        });
    }
}

/// What a walk found, apart from its hints.
#[derive(Debug, Default)]
pub struct WalkReport {
    /// Paths with another file than in the index, in order, up to a bound.
    pub replaced: Vec<Replaced>,
    /// Indexed paths that the rules exclude now, in order, up to a bound.
    pub excluded: Vec<LibraryPath>,
    /// Their number, including those beyond the bound.
    pub excluded_total: u64,
    /// Indexed paths at which there was no file.
    pub missing: Missing,
    /// Paths that could not be read, and why.
    pub unreadable: Vec<(LibraryPath, String)>,
    /// Why the index could not be read completely. Then no missing file is published as deleted.
    pub failure: Option<String>,
    /// Root generation at the start of the walk. A stale one proves no deletion.
    pub generation: u64,
}

impl WalkReport {
    /// Takes the hints of the second wave: the replaced paths. Those that exchanged their files are tied together.
    pub fn replaced_hints(&mut self, origin: Origin) -> Vec<FsEvent> {
        let generation = self.generation;
        let hint = |(path, ties)| found(path, origin, generation).tied(ties);
        tie_together(std::mem::take(&mut self.replaced)).into_iter().map(hint).collect()
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
                report.missing = scanner.inbox.engine().with(Engine::begin_full_walk);
                scanner.tally.seen.store(0, Ordering::Relaxed);
                scanner.tally.unchanged.store(0, Ordering::Relaxed);
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
        let walk = Walk::new(&self.root, subtree.clone()).recording(&self.excluded);
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
                        self.root.note_unstable_inodes(replaced.now.mount);
                    }
                    if report.replaced.len() < MAX_REPLACED {
                        report.replaced.push(replaced);
                    } else if hints.blocking_send(found(replaced.path, origin, report.generation)).is_err() {
                        return false;
                    }
                }
                Ok(Difference::Gone(path, mount)) => {
                    let is_excluded = self.root.is_excluded(&path);
                    // The ignore files of a mount that is gone cannot be read: they may include the path again.
                    let may_be_away = whole_library || is_excluded;
                    if may_be_away && self.is_mount_gone(&path, mount, &mut nearest) {
                        let known = self.root.mounts().get(mount);
                        report.missing.add_away(path, mount, known.as_ref().map(|known| &known.place));
                    } else if is_excluded {
                        report.excluded_total += 1;
                        if report.excluded.len() < MAX_EXCLUDED {
                            report.excluded.push(path);
                        }
                    } else {
                        report.missing.add_here(path);
                    }
                }
                Ok(Difference::Unreadable(path, error)) => report.unreadable.push((path, error.to_string())),
                Err(error) => {
                    report.failure = Some(error.to_string());
                    break;
                }
            }
        }
        inodes.mounts().for_each(|mount| self.root.note_unstable_inodes(mount));
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

    /// Removes from `report` the missing paths whose row satisfies `is_elsewhere`: their file is at another path now.
    pub fn remove_found_elsewhere(&self, report: &mut WalkReport, is_elsewhere: impl Fn(&Row) -> bool) {
        report.missing.retain(|path| !matches!(self.index.row(path), Ok(Some(row)) if is_elsewhere(&row)));
    }

    /// The hints for the missing paths of `report` that may be published as deleted and still have a row.
    pub fn deletions(&self, report: WalkReport, is_of_everything: bool) -> Vec<FsEvent> {
        let WalkReport { mut missing, generation, mut excluded, excluded_total, .. } = report;
        let still_indexed = |path: &LibraryPath| self.index.row(path).is_ok_and(|row| row.is_some());
        let look = |path| found(path, Origin::Scan, generation).because(Cause::Gone).indexed();
        // These deletes are never held, because an operator changed the rules.
        let is_more_excluded = excluded_total > excluded.len() as u64;
        excluded.retain(still_indexed);
        let excluded = excluded.into_iter().map(look);
        missing.retain(still_indexed);
        if !is_of_everything {
            let gone =
                self.inbox.with(|engine, now| engine.missed_by_subtree_walk(missing, is_more_excluded, now.instant));
            return excluded.chain(gone.into_iter().map(look)).collect();
        }
        let walk = FullWalk {
            is_more_excluded,
            generation,
            // A root that cannot be listed counts as empty.
            is_root_empty: !missing.here().is_empty() && self.root.is_bare().unwrap_or(true),
            indexed: self.index.len().unwrap_or(0).saturating_sub(excluded_total),
            missing,
        };
        let mounts = self.root.mounts();
        let describe = |mount| mounts.get(mount).map(|known| (known.kind, known.source));
        let Verdict { gone, approved } = self.inbox.with(|engine, now| engine.missed_by_full_walk(walk, describe, now));
        let approved = approved.into_iter().map(|(path, token)| {
            let mut look = look(path).holding(token);
            look.guards.approved = true;
            look
        });
        excluded.chain(gone.into_iter().map(look)).chain(approved).collect()
    }

    /// Walks every subtree that the engine asks for, forever. The hints for missing files are pushed to the engine at the
    /// end of each round.
    pub fn rounds(self, watcher: Arc<dyn Barrier>) -> impl Stream<Item = FsEvent> {
        let rounds =
            futures::stream::unfold(self.inbox.clone(), |inbox| async move { Some((inbox.next_round().await, inbox)) });
        rounds.flat_map_unordered(MAX_CONCURRENT_WALKS, move |round| {
            Box::pin(self.clone().round(round, Arc::clone(&watcher)))
        })
    }

    fn round(self, round: Round, watcher: Arc<dyn Barrier>) -> impl Stream<Item = FsEvent> {
        async_stream::stream! {
            let (id, begun) = (round.id, Instant::now());
            // New directories are watched from here on, so changes that the walk does not find cause events.
            let root = Arc::clone(&self.root);
            let prepare = move || {
                if round.is_of_everything {
                    root.find_links();
                }
                watcher.wait();
            };
            let _ = tokio::task::spawn_blocking(prepare).await;
            let (hints, report) = self.walk(round.subtrees.clone(), round.origin);
            for await hint in hints {
                yield self.inbox.engine().with(|engine| engine.found(id, hint));
            }
            let Ok(mut report) = report.await else {
                self.inbox.round_ended(id);
                return;
            };
            let replaced = report.replaced_hints(round.origin);
            let replaced: Vec<FsEvent> = self.inbox.engine().with(|engine| {
                let replaced = replaced.into_iter().map(|hint| engine.found_replaced(id, hint)).collect();
                engine.walk_ended(id);
                replaced
            });
            if !replaced.is_empty() {
                self.inbox.wait_until(|engine| engine.is_first_wave_done(id)).await;
            }
            for hint in replaced {
                yield hint;
            }
            self.inbox.engine().with(|engine| engine.found_all(id));
            self.inbox.looks_ended();
            tokio::spawn(async move {
                self.note_unreadable(&round.subtrees, &report);
                self.finish(report, &round, begun).await;
                self.inbox.round_ended(id);
            });
        }
    }

    /// Logs each path once that cannot be read, or can be read again.
    fn note_unreadable(&self, walked: &[LibraryPath], report: &WalkReport) {
        for (path, error) in &report.unreadable {
            let is_new = self.inbox.with(|engine, now| engine.walk_failed_at(path, error, now));
            let path = path.to_absolute(self.root.path());
            if is_new {
                tracing::warn!(path = %path.display(), %error, "cannot be read; its files stay in the index");
            } else {
                tracing::debug!(path = %path.display(), %error, "still cannot be read");
            }
        }
        if report.failure.is_none() {
            let unreadable: Vec<&LibraryPath> = report.unreadable.iter().map(|(path, _)| path).collect();
            for path in self.inbox.engine().with(|engine| engine.readable_again(walked, &unreadable)) {
                let path = path.to_absolute(self.root.path());
                tracing::info!(path = %path.display(), "can be read again, or is gone");
            }
        }
    }

    /// Waits until everything that this and earlier rounds found was looked at, then pushes the hints for missing files.
    async fn finish(&self, report: WalkReport, round: &Round, begun: Instant) {
        let inbox = &self.inbox;
        if let Some(error) = &report.failure {
            tracing::error!(%error, "the walk could not be finished, because the index could not be read");
            inbox.with(|engine, now| engine.walk_failed(error, now.instant));
            return;
        }
        inbox.wait_until(|engine| engine.is_looked_at(round.id)).await;
        if report.generation != self.root.generation() {
            // The missing files may be in the old root. The new root is being walked.
            return;
        }
        if report.unreadable.iter().any(|(path, _)| path.is_root()) {
            inbox.with(|engine, now| engine.root_was_unreadable(now.instant));
            return;
        }
        let (scanner, is_of_everything) = (self.clone(), round.is_of_everything);
        let is_clean = report.unreadable.is_empty();
        let deletions = tokio::task::spawn_blocking(move || scanner.deletions(report, is_of_everything)).await;
        // A file that was renamed since the walk is looked at under its new name first.
        for look in deletions.unwrap_or_default() {
            inbox.with(|engine, now| {
                let ties = engine.ties_of_missed(round.id, &look.path);
                engine.push(FsEvent { origin: round.origin, ..look }.tied(ties), now.instant);
            });
        }
        if is_of_everything {
            self.tally.scan_finished(begun.elapsed(), is_clean);
            tracing::debug!("everything was walked");
        }
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

/// The barrier of a single scan: nothing is watched.
#[derive(Debug)]
pub struct NoWatcher;

impl Barrier for NoWatcher {
    fn wait(&self) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{FileStat, Guards, MemoryIndex};

    fn scanner(folder: &std::path::Path, index: MemoryIndex) -> Scanner<MemoryIndex> {
        Scanner {
            excluded: ExcludedDirectories::default(),
            root: Arc::new(Root::open(folder).unwrap()),
            index,
            ignore_ctime: false,
            inbox: Inbox::new(),
            tally: Arc::default(),
        }
    }

    #[tokio::test]
    async fn the_end_of_a_scan_wakes_those_who_wait_for_it() {
        let tally = Tally::default();
        let mut finished = tally.finished();
        assert_eq!(finished.borrow_and_update().count, 0);
        tally.scan_finished(Duration::from_secs(3), true);
        tally.scan_finished(Duration::from_secs(2), false);
        finished.changed().await.unwrap();
        let FinishedScans { count, last, clean } = *finished.borrow();
        assert_eq!((count, last.map(|last| last.took)), (2, Some(Duration::from_secs(2))));
        assert!(clean.is_some() && clean <= last.map(|last| last.finished));
    }

    #[tokio::test]
    async fn excluded_rows_are_neither_held_nor_walked_twice() {
        let names = ["flac", "txt"].into_iter().flat_map(|kind| (10..22).map(move |at| format!("{at}.{kind}")));
        let stat = FileStat { inode: 1, size: 1, ..FileStat::default() };
        let rows = MemoryIndex::of_files(names.map(|name| (LibraryPath::from(name.as_str()), stat)));

        let folder = tempfile::tempdir().unwrap();
        let scanner = scanner(folder.path(), rows);
        let _polled = scanner.inbox.trust(|trust| trust.leave_unwatched(&LibraryPath::root()));
        scanner.inbox.engine().with(|engine| engine.set_mass_delete_percent(50));
        for whole_library in [false, true] {
            let (hints, report) = scanner.walk(vec![LibraryPath::root()], Origin::Scan);
            assert_eq!(hints.count().await, 0);
            let report = report.await.unwrap();
            assert_eq!((report.missing.here().len(), report.excluded.len()), (12, 12));
            let excluded = report.excluded.clone();
            let gone: Vec<_> = scanner.deletions(report, whole_library).into_iter().map(|it| it.path).collect();
            assert_eq!(gone, excluded);
        }
        assert_eq!(
            scanner.inbox.engine().with(|engine| engine.held_count()),
            12,
            "all twelve rows that are not excluded are missing"
        );
    }

    #[tokio::test]
    async fn a_subtree_is_in_doubt_until_everything_found_in_it_was_looked_at() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("a")).unwrap();
        std::fs::write(folder.path().join("a/x.mp3"), b"").unwrap();
        let scanner = scanner(folder.path(), MemoryIndex::default());
        let inbox = scanner.inbox.clone();
        inbox.mark("a".into(), Duration::ZERO);
        let mut rounds = std::pin::pin!(scanner.rounds(Arc::new(NoWatcher)));
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
