//! Turns what the kernel says into hints and subtrees to walk.
//!
//! The handler runs on the watcher's own thread, between the kernel's queue and everything else: it
//! must be near free and never wait, or the queue overflows.

use std::collections::{HashMap, HashSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use notify::event::{AccessKind, AccessMode, CreateKind, EventKindMask, ModifyKind, RemoveKind, RenameMode};
use notify::{Config, ErrorKind, Event, EventHandler, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};

use super::{Inbox, LeftOut};
use crate::disk::{LinkTarget, Root};
use crate::failpoint::failpoint;
use crate::model::{FsEvent, IGNORE_FILE, Left, LibraryPath, Origin, Quiet, RenameGroup, Ties};

/// How long a directory that went away is left alone, so that its other name is walked first and
/// its files are seen as moved.
const GONE_DIRECTORY_WAIT: Duration = Duration::from_millis(400);

/// How long a new directory is left alone, so that many of them make one walk.
const NEW_DIRECTORY_WAIT: Duration = Duration::from_millis(10);

/// How long an ignore file that was made is left alone, for its close tells when it is written; one that is
/// linked into place is never closed.
const NEW_IGNORE_FILE_WAIT: Duration = Duration::from_secs(1);

/// Renames whose second half did not come yet; they come within microseconds of each other.
const RENAMES_REMEMBERED: usize = 4096;

/// A running watcher. It ends when it is dropped.
pub struct Watcher {
    /// `None` only while it is dropped.
    inner: Mutex<Option<RecommendedWatcher>>,
    barrier: PathBuf,
    /// Where links that lead out of the library are watched.
    links: Option<Mutex<WatchedLinks>>,
}

/// What is watched outside of the library because links lead there.
struct WatchedLinks {
    root: Arc<Root>,
    trouble: Arc<dyn Fn(WatchTrouble) + Send + Sync>,
    version: Option<u64>,
    targets: HashMap<PathBuf, LinkTarget>,
}

/// What may go wrong with watching, in words for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchTrouble {
    /// The kernel dropped events: the whole library is walked.
    Overflow,
    /// The kernel's limit of watches is reached: some directories are not watched.
    OutOfWatches,
    /// A directory that could not be watched, for it could not be read, may be readable now: watching
    /// again from the start would include it.
    MoreToWatch,
    /// The root itself went away, or was unmounted: whatever has its name now, this watcher does not see it.
    RootGone,
    /// Something else, which may have left directories unwatched.
    Other(String),
}

/// Why watching could not begin.
#[derive(Debug, thiserror::Error)]
#[error("cannot watch the library: {0}")]
pub struct WatchError(#[from] notify::Error);

/// What the handler needs.
pub struct Handler {
    /// The library root.
    pub root: Arc<Root>,
    /// Which directory it is, of all that it has been.
    pub generation: u64,
    /// Where hints go.
    pub inbox: Inbox,
    /// Mounts that do not answer, and are not to be touched.
    pub avoided: Vec<LibraryPath>,
    /// Directories that the rules leave out.
    pub left_out: LeftOut,
    /// Told of trouble.
    pub trouble: Arc<dyn Fn(WatchTrouble) + Send + Sync>,
}

impl Watcher {
    /// Watches everything beneath the handler's root, new directories included. Blocks while the
    /// watches are added, microseconds for each directory. Where the kernel's limit of watches is
    /// reached, that is trouble and no error: what could be watched is.
    pub fn start(handler: Handler) -> Result<Self, WatchError> {
        let (root, trouble) = (handler.root.path().to_path_buf(), Arc::clone(&handler.trouble));
        let links = handler.root.follows_links_out().then(|| {
            let (root, trouble) = (Arc::clone(&handler.root), Arc::clone(&handler.trouble));
            Mutex::new(WatchedLinks { root, trouble, version: None, targets: HashMap::new() })
        });
        let avoided: Vec<PathBuf> = handler.avoided.iter().map(|place| place.under(&root)).collect();
        let mut translator = Translator::new(handler);
        let mut watcher = Self::listen(&root, move |event| translator.handle(event))?;
        watcher.links = links;
        match watcher.with(|watcher| watch_around(watcher, &root, &avoided)) {
            Ok(()) => {}
            Err(error) if matches!(error.kind, ErrorKind::MaxFilesWatch) => trouble(WatchTrouble::OutOfWatches),
            Err(error) => return Err(error.into()),
        }
        watcher.watch_links();
        Ok(watcher)
    }

    /// Watches what links lead to, out of the library, as they were found last.
    fn watch_links(&self) {
        let Some(links) = &self.links else { return };
        let mut links = links.lock().unwrap_or_else(PoisonError::into_inner);
        let version = links.root.links_version();
        if links.version.replace(version) == Some(version) {
            return;
        }
        let targets = links.root.link_targets();
        let before = std::mem::replace(&mut links.targets, targets);
        let is_same = |(path, target): &(&PathBuf, &LinkTarget)| links.targets.get(*path) == Some(*target);
        for (path, _) in before.iter().filter(|watched| !is_same(watched)) {
            // One that is gone is not watched any more.
            let _ = self.with(|watcher| watcher.unwatch(path));
        }
        for (path, target) in links.targets.iter().filter(|(path, target)| before.get(*path) != Some(*target)) {
            let mode = if target.is_recursive { RecursiveMode::Recursive } else { RecursiveMode::NonRecursive };
            match self.with(|watcher| watcher.watch(path, mode)) {
                Ok(()) => {}
                Err(error) if matches!(error.kind, ErrorKind::MaxFilesWatch) => {
                    (links.trouble)(WatchTrouble::OutOfWatches);
                }
                Err(error) if is_absence(&error) => links.root.links_changed(),
                Err(error) => (links.trouble)(WatchTrouble::Other(error.to_string())),
            }
        }
    }

    fn listen(root: &Path, handler: impl EventHandler) -> Result<Self, WatchError> {
        // No MODIFY: a file being written would flood the queue, and its close tells enough. No OPEN:
        // our own reading would make events.
        let mask = EventKindMask::CREATE
            | EventKindMask::REMOVE
            | EventKindMask::MODIFY_NAME
            | EventKindMask::MODIFY_META
            | EventKindMask::ACCESS_CLOSE;
        let config = Config::default().with_event_kinds(mask).with_follow_symlinks(false);
        let watcher = RecommendedWatcher::new(handler, config)?;
        Ok(Self { inner: Mutex::new(Some(watcher)), barrier: root.join("\u{1}barrier"), links: None })
    }

    /// Watches these directories, and what is beneath them, no more. Takes time for each that grows with what is
    /// watched, and blocks.
    pub fn leave_out(&self, directories: impl IntoIterator<Item = PathBuf>) {
        for directory in directories {
            // One that is not watched any more needs nothing.
            let _ = self.with(|watcher| watcher.unwatch(&directory));
        }
    }

    /// Returns once everything that the kernel told before this call was handled and every directory
    /// that was made before it is watched, and says whether the watcher still works. Blocks.
    ///
    /// An empty batch makes the watcher's loop read all that waits in the kernel and watch what is new
    /// there. It answers before it tells us what it read, so that takes a second round trip: asking it
    /// to forget a path that it never knew.
    pub fn barrier(&self) -> bool {
        self.watch_links();
        let round_trip = |watcher: &mut RecommendedWatcher| {
            watcher.update_paths(Vec::new()).map_err(|error| error.source)?;
            watcher.unwatch(&self.barrier)
        };
        match self.with(round_trip) {
            Ok(()) => true,
            Err(error) => matches!(error.kind, ErrorKind::WatchNotFound),
        }
    }

    fn with<T>(&self, ask: impl FnOnce(&mut RecommendedWatcher) -> notify::Result<T>) -> notify::Result<T> {
        match self.inner.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            Some(watcher) => ask(watcher),
            None => Err(notify::Error::new(ErrorKind::WatchNotFound)),
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        // One whose thread is gone would panic when it is dropped. What it leaks then is a channel.
        if !self.barrier() {
            let watcher = self.inner.get_mut().unwrap_or_else(PoisonError::into_inner).take();
            std::mem::forget(watcher);
        }
    }
}

/// Whether there is nothing to watch.
fn is_absence(error: &notify::Error) -> bool {
    match &error.kind {
        ErrorKind::PathNotFound => true,
        ErrorKind::Io(error) => error.kind() == std::io::ErrorKind::NotFound,
        _ => false,
    }
}

/// Watches a directory and what is beneath it, except the directories `avoided`.
fn watch_around(watcher: &mut RecommendedWatcher, directory: &Path, avoided: &[PathBuf]) -> notify::Result<()> {
    if !avoided.iter().any(|place| place.starts_with(directory)) {
        return watcher.watch(directory, RecursiveMode::Recursive);
    }
    watcher.watch(directory, RecursiveMode::NonRecursive)?;
    for entry in std::fs::read_dir(directory).map_err(notify::Error::io)?.flatten() {
        let path = entry.path();
        // The type comes from the listing: whatever is mounted there is not asked.
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) && !avoided.contains(&path) {
            watch_around(watcher, &path, avoided)?;
        }
    }
    Ok(())
}

impl std::fmt::Debug for Watcher {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Watcher")
    }
}

struct Translator {
    handler: Handler,
    /// Names that went away and may come back under another, by the kernel's number of the rename.
    renames: HashMap<usize, Went>,
    rename_order: VecDeque<usize>,
    /// Directories that are not watched because they may not be read.
    refused: HashSet<LibraryPath>,
}

/// A name that went away, and whether that made a new mark to walk it.
struct Went {
    path: LibraryPath,
    marked: bool,
    /// What follows the file or directory that had it.
    followed_by: Vec<RenameGroup>,
}

impl Translator {
    fn new(handler: Handler) -> Self {
        Self { handler, renames: HashMap::new(), rename_order: VecDeque::new(), refused: HashSet::new() }
    }

    fn handle(&mut self, event: notify::Result<Event>) {
        failpoint!("watch::handle");
        match event {
            Ok(event) if event.need_rescan() => self.trouble(WatchTrouble::Overflow),
            Ok(event) => self.translate(&event),
            Err(error) => self.fail(&error),
        }
    }

    fn fail(&mut self, error: &notify::Error) {
        let root = &self.handler.root;
        let is_left_out = |path: &PathBuf| self.place_of(path).is_some_and(|(path, _)| root.is_left_out(&path));
        match &error.kind {
            // Nobody misses what happens there. Errors are rare enough to ask the disk.
            ErrorKind::Io(_) if !error.paths.is_empty() && error.paths.iter().all(is_left_out) => {}
            ErrorKind::MaxFilesWatch => self.trouble(WatchTrouble::OutOfWatches),
            ErrorKind::Io(source) if source.kind() == std::io::ErrorKind::PermissionDenied => {
                let refused: Vec<_> = error.paths.iter().filter_map(|path| self.place_of(path)).collect();
                for (path, _) in refused {
                    self.mark(path.clone(), NEW_DIRECTORY_WAIT);
                    self.refused.insert(path);
                }
            }
            _ => self.trouble(WatchTrouble::Other(error.to_string())),
        }
    }

    fn trouble(&self, trouble: WatchTrouble) {
        (self.handler.trouble)(trouble);
    }

    /// The attributes of a directory changed: it may be readable now.
    fn maybe_readable(&mut self, directory: LibraryPath) {
        let refused = self.refused.len();
        self.refused.retain(|path| !path.is_at_or_under(&directory));
        if self.refused.len() < refused {
            self.trouble(WatchTrouble::MoreToWatch);
        }
        self.mark(directory, NEW_DIRECTORY_WAIT);
    }

    fn translate(&mut self, event: &Event) {
        let Some(path) = event.paths.first() else { return };
        let Some((here, is_target)) = self.place_of(path) else { return };
        tracing::trace!(path = %here, kind = ?event.kind, rename = event.tracker(), "the kernel tells");
        if here.name() == IGNORE_FILE {
            self.rules_may_have_changed(&here, event.kind);
        }
        if self.is_left_out(&here) {
            self.left_out(&here, path, event);
            return;
        }
        if self.handler.root.follows_links_out() && !is_target && self.is_new_link(&here, path, event.kind) {
            // Where it leads, and whether it is followed, is found out before everything is walked.
            self.left_out(&here, path, event);
            return;
        }
        let is_audio = self.is_audio(&here);
        match event.kind {
            EventKind::Create(CreateKind::Folder) => self.mark_new(here, Vec::new()),
            EventKind::Create(_) if is_audio => self.content_may_have_changed(here, Quiet::Created, false),
            EventKind::Create(_) if self.is_to_be_walked(path) => self.mark_new(here, Vec::new()),
            EventKind::Access(AccessKind::Close(AccessMode::Write)) if is_audio => {
                self.content_may_have_changed(here, Quiet::Closed, true);
            }
            EventKind::Modify(ModifyKind::Metadata(_)) if is_audio => {
                self.content_may_have_changed(here, Quiet::Touched, false);
            }
            EventKind::Modify(ModifyKind::Metadata(_)) if self.is_to_be_walked(path) => self.maybe_readable(here),
            EventKind::Modify(ModifyKind::Name(RenameMode::From)) if here.is_root() => {
                self.trouble(WatchTrouble::RootGone);
            }
            EventKind::Modify(ModifyKind::Name(RenameMode::From)) => self.name_went(here, is_audio, event.tracker()),
            EventKind::Modify(ModifyKind::Name(RenameMode::To)) => {
                self.name_came(here, path, is_audio, event.tracker());
            }
            EventKind::Remove(RemoveKind::File) if is_audio => self.push(self.hint(here, Quiet::Gone)),
            // It may have been a link to a directory.
            EventKind::Remove(RemoveKind::File) if self.handler.root.follows_links() => {
                self.mark_gone(here, &[]);
            }
            EventKind::Remove(RemoveKind::File) => {}
            EventKind::Remove(RemoveKind::Folder) if !here.is_root() => drop(self.mark_gone(here, &[])),
            EventKind::Remove(_) if here.is_root() => self.trouble(WatchTrouble::RootGone),
            _ => {}
        }
    }

    /// The path in the library of what is at an absolute path, and whether a link leads to just that.
    fn place_of(&self, path: &Path) -> Option<(LibraryPath, bool)> {
        let root = &self.handler.root;
        LibraryPath::beneath(root.path(), path)
            .map(|here| (here, false))
            .or_else(|| root.by_links(path).map(|linked| (linked.path, linked.is_target)))
    }

    /// Whether a link came to be here; notes it, and also if one that is known went away.
    fn is_new_link(&self, here: &LibraryPath, path: &Path, kind: EventKind) -> bool {
        let root = &self.handler.root;
        let is_new = match kind {
            EventKind::Create(CreateKind::Folder) => return false,
            EventKind::Create(_) | EventKind::Modify(ModifyKind::Name(RenameMode::To)) => {
                path.symlink_metadata().is_ok_and(|found| found.is_symlink())
            }
            EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(RenameMode::From)) => false,
            _ => return false,
        };
        if is_new || root.has_link_at_or_beneath(here) {
            root.links_changed();
        }
        is_new
    }

    /// A new directory is not watched by itself if its parent holds a mount that is avoided.
    fn maybe_unwatched(&self, directory: &LibraryPath) {
        let parent = directory.parent().unwrap_or_else(LibraryPath::root);
        if self.handler.avoided.iter().any(|place| place.is_at_or_under(&parent)) {
            self.trouble(WatchTrouble::MoreToWatch);
        }
    }

    fn is_audio(&self, path: &LibraryPath) -> bool {
        let root = &self.handler.root;
        let extensions = root.rules().extensions();
        // What has no name of an audio file may have one by a link.
        extensions.matches(path) || root.other_paths(path).iter().any(|other| extensions.matches(other))
    }

    /// Whether nothing of what happens at a path is published, under this path or that of a link.
    fn is_left_out(&self, path: &LibraryPath) -> bool {
        let root = &self.handler.root;
        root.is_known_to_be_left_out(path)
            && (!root.follows_links() || (root.other_paths(path).is_empty() && root.links_to_beneath(path).is_empty()))
    }

    /// Something happened at a path that is left out. Only the other half of a rename may matter: a directory that
    /// was moved here is gone from where it was, a file has to be no directory.
    fn left_out(&mut self, here: &LibraryPath, absolute: &Path, event: &Event) {
        if event.kind == EventKind::Modify(ModifyKind::Name(RenameMode::To)) {
            let from = event.tracker().and_then(|tracker| self.renames.remove(&tracker));
            self.unmark_if_no_directory(from.as_ref(), absolute);
        }
        let may_be_directory = match event.kind {
            EventKind::Create(kind) => kind == CreateKind::Folder,
            EventKind::Modify(ModifyKind::Name(RenameMode::To)) => absolute.is_dir(),
            _ => false,
        };
        if may_be_directory {
            self.handler.left_out.made(here.clone());
        }
        tracing::trace!(path = %here, "left out by the rules");
    }

    /// The ignore file of a directory changed: what it says is found out by a walk.
    fn rules_may_have_changed(&self, ignore_file: &LibraryPath, kind: EventKind) {
        let Handler { root, .. } = &self.handler;
        let Some(directory) = ignore_file.parent() else { return };
        let wait = match kind {
            EventKind::Create(_) => NEW_IGNORE_FILE_WAIT,
            EventKind::Access(AccessKind::Close(AccessMode::Write))
            | EventKind::Modify(ModifyKind::Name(_) | ModifyKind::Metadata(_))
            | EventKind::Remove(_) => NEW_DIRECTORY_WAIT,
            _ => return,
        };
        if self.handler.left_out.is_any_beneath(&directory) {
            // It may not be left out any more.
            self.trouble(WatchTrouble::MoreToWatch);
        }
        if root.follows_links() {
            // It applies by every link that leads here, and it may leave out links.
            root.forget_ignore_files(&LibraryPath::root());
            root.links_changed();
        }
        self.mark(directory, wait);
    }

    fn content_may_have_changed(&self, path: LibraryPath, quiet: Quiet, written: bool) {
        let complete_at = written.then(SystemTime::now);
        let hint = FsEvent { written, complete_at, ..self.hint(path, quiet) };
        self.push(self.handler.inbox.doubting(hint));
    }

    /// Hands a hint over, and one for each other path that leads to the same file.
    fn push(&self, hint: FsEvent) {
        let Handler { root, inbox, .. } = &self.handler;
        for path in root.other_paths(&hint.path) {
            // Nobody said how that name changed.
            let other = FsEvent { path, renamed_from: None, ..hint.clone() };
            inbox.push(if hint.holds.is_empty() { other } else { inbox.doubting(other) });
        }
        inbox.push(hint);
    }

    /// Asks for a walk of a subtree, and of what links make of it elsewhere; says whether nobody had yet.
    fn mark(&self, subtree: LibraryPath, wait: Duration) -> bool {
        self.mark_by(subtree, |inbox, path| inbox.mark(path, wait))
    }

    /// Asks for a walk of a directory that is new here, and that `groups` followed.
    fn mark_new(&self, directory: LibraryPath, groups: Vec<RenameGroup>) {
        self.maybe_unwatched(&directory);
        let member_of = self.handler.inbox.renames().directory_came(&directory, groups);
        let ties = Ties { member_of, ..Ties::default() };
        self.mark_by(directory, |inbox, path| inbox.mark_tied(path, NEW_DIRECTORY_WAIT, ties.clone()));
    }

    /// The same, where the directory went away, and `groups` follow it.
    fn mark_gone(&self, subtree: LibraryPath, groups: &[RenameGroup]) -> bool {
        let ties = Ties { left_in: groups.to_vec(), ..Ties::default() };
        self.mark_by(subtree, |inbox, path| inbox.mark_gone(path, GONE_DIRECTORY_WAIT, ties.clone()))
    }

    fn mark_by(&self, subtree: LibraryPath, mark: impl Fn(&Inbox, LibraryPath) -> bool) -> bool {
        let Handler { root, inbox, .. } = &self.handler;
        // Another directory may have its name now.
        root.forget_ignore_files(&subtree);
        for path in root.other_paths(&subtree).into_iter().chain(root.links_to_beneath(&subtree)) {
            mark(inbox, path);
        }
        mark(inbox, subtree)
    }

    /// Whether there may be something beneath the name that tells nothing of its own.
    fn is_to_be_walked(&self, path: &Path) -> bool {
        path.symlink_metadata()
            .is_ok_and(|found| found.is_dir() || (found.is_symlink() && self.handler.root.follows_links()))
    }

    fn hint(&self, path: LibraryPath, quiet: Quiet) -> FsEvent {
        FsEvent { generation: Some(self.handler.generation), ..FsEvent::new(path, quiet, Origin::Watch) }
    }

    fn name_went(&mut self, path: LibraryPath, is_audio: bool, tracker: Option<usize>) {
        let mut marked = false;
        let Left { followed_by, awaits } = self.handler.inbox.renames().left(&path);
        if is_audio {
            let ties = Ties { left_in: awaits, ..Ties::default() };
            self.push(FsEvent { ties, ..self.hint(path.clone(), Quiet::Gone) });
        } else {
            // It may have been a directory, of which only its own name is told.
            marked = self.mark_gone(path.clone(), &awaits);
        }
        if let Some(tracker) = tracker {
            self.rename_order.push_back(tracker);
            self.renames.insert(tracker, Went { path, marked, followed_by });
            if self.rename_order.len() > RENAMES_REMEMBERED
                && let Some(oldest) = self.rename_order.pop_front()
            {
                self.renames.remove(&oldest);
            }
        }
    }

    fn name_came(&mut self, path: LibraryPath, absolute: &Path, is_audio: bool, tracker: Option<usize>) {
        let from = tracker.and_then(|tracker| self.renames.remove(&tracker));
        let groups = from.as_ref().map(|from| from.followed_by.clone()).unwrap_or_default();
        if self.is_to_be_walked(absolute) {
            // Its files tell nothing of their own.
            self.mark_new(path, groups);
            return;
        }
        self.unmark_if_no_directory(from.as_ref(), absolute);
        let Handler { inbox, root, .. } = &self.handler;
        if is_audio {
            let ties = Ties { member_of: inbox.renames().came(&path, groups), ..Ties::default() };
            let extensions = root.rules().extensions();
            // Now, and not only when it is looked at: what resolves a doubt until then finds the old name gone.
            // What was written under a name that is none of ours was not told.
            let is_known = |from: &LibraryPath| extensions.matches(from) && !inbox.doubts().cover(from);
            let renamed_from = from.map(|from| from.path).filter(is_known);
            let is_certain = renamed_from.is_some();
            let complete_at = Some(SystemTime::now());
            let hint = FsEvent { complete_at, renamed_from, ties, ..self.hint(path, Quiet::Renamed) };
            // The doubt goes with the file: it may get a third name before anybody has looked at it.
            self.push(if is_certain { hint } else { inbox.doubting(hint) });
        } else {
            inbox.renames().came_unseen(&path, &groups);
        }
    }

    /// What went by another name may have been a directory, which was to be walked. If it has a name again and is
    /// no directory, it was a file, and not one of ours; or a directory that is already somewhere else.
    fn unmark_if_no_directory(&self, from: Option<&Went>, now: &Path) {
        if let Some(Went { path, marked: true, .. }) = from
            && now.symlink_metadata().is_ok()
            && !self.is_to_be_walked(now)
        {
            self.handler.inbox.unmark(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watcher_whose_thread_is_gone_says_so_and_can_be_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let watcher = Watcher::listen(folder.path(), |_| panic!("a bug in the handler")).unwrap();
        watcher.with(|watcher| watcher.watch(folder.path(), RecursiveMode::Recursive)).unwrap();
        assert!(watcher.barrier());
        std::fs::create_dir(folder.path().join("a")).unwrap();
        let begun = std::time::Instant::now();
        while watcher.barrier() {
            assert!(begun.elapsed() < Duration::from_secs(10), "it answers for ever");
        }
        drop(watcher);
    }

    fn translator(root: &Path) -> Translator {
        let handler = Handler {
            root: Arc::new(Root::open(root).unwrap()),
            generation: 0,
            inbox: Inbox::new(),
            avoided: Vec::new(),
            trouble: Arc::new(|trouble| panic!("{trouble:?}")),
            left_out: LeftOut::default(),
        };
        Translator::new(handler)
    }

    #[test]
    fn the_old_name_of_a_file_that_may_have_changed_is_not_told() {
        let folder = tempfile::tempdir().unwrap();
        let mut translator = translator(folder.path());
        let inbox = translator.handler.inbox.clone();
        let mut rename = |tracker| {
            let half = |mode, name| {
                let kind = EventKind::Modify(ModifyKind::Name(mode));
                Event::new(kind).add_path(folder.path().join(name)).set_tracker(tracker)
            };
            translator.translate(&half(RenameMode::From, "old/a.mp3"));
            translator.translate(&half(RenameMode::To, "new/a.mp3"));
            let hints = inbox.take_all();
            hints.into_iter().find(|hint| hint.quiet == Quiet::Renamed).and_then(|hint| hint.renamed_from)
        };
        assert_eq!(rename(1), Some("old/a.mp3".into()));
        for in_doubt in ["old/a.mp3", "old", ""] {
            let _doubt = inbox.doubts().hold(in_doubt.into());
            assert_eq!(rename(2), None, "{in_doubt:?}");
        }
    }

    #[test]
    fn what_happens_at_a_path_that_is_left_out_goes_nowhere() {
        let folder = tempfile::tempdir().unwrap();
        for directory in ["album/@eaDir/inside", "deep/ignored"] {
            std::fs::create_dir_all(folder.path().join(directory)).unwrap();
        }
        std::fs::write(folder.path().join("deep/.ignore-music"), "ignored/").unwrap();
        let mut translator = translator(folder.path());
        let (root, inbox) = (Arc::clone(&translator.handler.root), translator.handler.inbox.clone());
        for directory in ["", "album", "deep"] {
            root.list(&directory.into()).unwrap();
        }
        let closed = EventKind::Access(AccessKind::Close(AccessMode::Write));
        let renamed = |mode| EventKind::Modify(ModifyKind::Name(mode));
        for path in ["album/@eaDir/x.mp3", "album/@eaDir", "album/@eaDir/inside", "album/._x.mp3", "deep/ignored/x.mp3"]
        {
            for kind in [
                EventKind::Create(CreateKind::File),
                EventKind::Create(CreateKind::Folder),
                closed,
                renamed(RenameMode::From),
                renamed(RenameMode::To),
                EventKind::Remove(RemoveKind::File),
                EventKind::Remove(RemoveKind::Folder),
            ] {
                translator.translate(&Event::new(kind).add_path(folder.path().join(path)).set_tracker(1));
                assert!(inbox.is_empty() && inbox.take_subtrees().is_empty(), "{path} {kind:?}");
            }
        }
        assert!(translator.renames.is_empty());
        translator.translate(&Event::new(closed).add_path(folder.path().join("album/x.mp3")));
        assert_eq!(inbox.take_all().len(), 1);
    }

    #[test]
    fn an_ignore_file_that_changes_has_its_directory_walked_and_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("a")).unwrap();
        let mut translator = translator(folder.path());
        let (root, inbox) = (Arc::clone(&translator.handler.root), translator.handler.inbox.clone());
        let renamed = |mode| EventKind::Modify(ModifyKind::Name(mode));
        for (number, kind) in [
            EventKind::Create(CreateKind::File),
            EventKind::Access(AccessKind::Close(AccessMode::Write)),
            renamed(RenameMode::From),
            renamed(RenameMode::To),
            EventKind::Remove(RemoveKind::File),
        ]
        .into_iter()
        .enumerate()
        {
            let is_left_out = || root.is_left_out(&"a/x.mp3".into());
            let before = is_left_out();
            let pattern = if number % 2 == 0 { "*.mp3" } else { "*.flac" };
            std::fs::write(folder.path().join("a/.ignore-music"), pattern).unwrap();
            assert_eq!(is_left_out(), before);
            translator.translate(&Event::new(kind).add_path(folder.path().join("a/.ignore-music")));
            assert_eq!(is_left_out(), !before, "{kind:?}");
            let marked: Vec<_> = inbox.take_subtrees().into_iter().map(|subtree| subtree.path.to_string()).collect();
            assert!(marked.contains(&"a".to_owned()), "{kind:?}: {marked:?}");
        }
    }

    #[test]
    fn the_doubt_goes_with_the_file_from_name_to_name() {
        let folder = tempfile::tempdir().unwrap();
        let mut translator = translator(folder.path());
        let inbox = translator.handler.inbox.clone();
        // Of what was written to the second nobody tells anything.
        for first in ["doubtful.mp3", "x.part"] {
            let doubt = inbox.doubts().hold("doubtful.mp3".into());
            for (from, to) in [(first, "a.mp3"), ("a.mp3", "c.mp3")] {
                for (mode, name) in [(RenameMode::From, from), (RenameMode::To, to)] {
                    let kind = EventKind::Modify(ModifyKind::Name(mode));
                    translator.translate(&Event::new(kind).add_path(folder.path().join(name)).set_tracker(1));
                }
            }
            drop(doubt);
            let hints = inbox.take_all();
            assert!(hints.iter().all(|hint| hint.renamed_from.is_none()), "{hints:?}");
            assert!(inbox.doubts().is_held(&"c.mp3".into()), "{first}");
        }
    }

    #[test]
    fn a_directory_that_was_renamed_twice_at_once_is_looked_for_under_its_first_name() {
        let folder = tempfile::tempdir().unwrap();
        let mut translator = translator(folder.path());
        let inbox = translator.handler.inbox.clone();
        let mut rename = |from, to| {
            for (mode, name) in [(RenameMode::From, from), (RenameMode::To, to)] {
                let kind = EventKind::Modify(ModifyKind::Name(mode));
                translator.translate(&Event::new(kind).add_path(folder.path().join(name)).set_tracker(1));
            }
            inbox.take_subtrees().into_iter().map(|subtree| subtree.path.to_string()).collect::<Vec<_>>()
        };
        // Nothing is there any more when we hear of it.
        assert_eq!(rename("a", "b"), ["a"]);
        std::fs::write(folder.path().join("x.mp3"), b"").unwrap();
        assert_eq!(rename("x.part", "x.mp3"), [""; 0]);
        std::fs::create_dir(folder.path().join("c")).unwrap();
        assert_eq!(rename("b", "c"), ["b", "c"]);
    }

    #[test]
    fn after_the_barrier_everything_was_handled_that_had_happened_before_it() {
        let folder = tempfile::tempdir().unwrap();
        let handled = Arc::new(Mutex::new(HashSet::new()));
        let register = Arc::clone(&handled);
        let watcher = Watcher::listen(folder.path(), move |event: notify::Result<Event>| {
            // As late as a busy machine makes it.
            std::thread::sleep(Duration::from_micros(100));
            register.lock().unwrap().extend(event.unwrap().paths);
        });
        let watcher = watcher.unwrap();
        watcher.with(|watcher| watcher.watch(folder.path(), RecursiveMode::Recursive)).unwrap();
        for number in 0..300 {
            let file = folder.path().join(number.to_string());
            std::fs::write(&file, b"").unwrap();
            assert!(watcher.barrier());
            assert!(handled.lock().unwrap().contains(&file), "{number} was not heard of");
        }
    }
}
