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

use super::Inbox;
use crate::model::{Extensions, FsEvent, LibraryPath, Origin, Quiet, Token};
use crate::stream::Holds;

/// How long a directory that went away is left alone, so that its other name is walked first and
/// its files are seen as moved.
const GONE_DIRECTORY_WAIT: Duration = Duration::from_millis(400);

/// How long a new directory is left alone, so that many of them make one walk.
const NEW_DIRECTORY_WAIT: Duration = Duration::from_millis(10);

/// Renames whose second half did not come yet; they come within microseconds of each other.
const RENAMES_REMEMBERED: usize = 4096;

/// A running watcher. It ends when it is dropped.
pub struct Watcher {
    /// `None` only while it is dropped.
    watcher: Mutex<Option<RecommendedWatcher>>,
    barrier: PathBuf,
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
    /// The library root, as events name it.
    pub root: PathBuf,
    /// Which directory the root is, of all that it has been.
    pub generation: u64,
    /// Which files matter.
    pub extensions: Extensions,
    /// Where hints go.
    pub inbox: Inbox,
    /// Paths whose content may have changed.
    pub dirty: Holds,
    /// Told of trouble.
    pub trouble: Arc<dyn Fn(WatchTrouble) + Send + Sync>,
}

impl Watcher {
    /// Watches everything beneath the handler's root, new directories included. Blocks while the
    /// watches are added, microseconds for each directory. Where the kernel's limit of watches is
    /// reached, that is trouble and no error: what could be watched is.
    pub fn start(handler: Handler) -> Result<Self, WatchError> {
        let (root, trouble) = (handler.root.clone(), Arc::clone(&handler.trouble));
        let mut translator =
            Translator { handler, renames: HashMap::new(), rename_order: VecDeque::new(), refused: HashSet::new() };
        let watcher = Self::listen(&root, move |event| translator.handle(event))?;
        match watcher.with(|watcher| watcher.watch(&root, RecursiveMode::Recursive)) {
            Ok(()) => {}
            Err(error) if matches!(error.kind, ErrorKind::MaxFilesWatch) => trouble(WatchTrouble::OutOfWatches),
            Err(error) => return Err(error.into()),
        }
        Ok(watcher)
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
        Ok(Self { watcher: Mutex::new(Some(watcher)), barrier: root.join("\u{1}barrier") })
    }

    /// Returns once every directory that was seen to be made before this call is watched, and says
    /// whether the watcher still works. Blocks.
    ///
    /// The watcher tells of a new directory before it watches it. Asking it to forget a path that it
    /// never knew is a round trip through its loop, which adds the pending watches first.
    pub fn barrier(&self) -> bool {
        match self.with(|watcher| watcher.unwatch(&self.barrier)) {
            Ok(()) => true,
            Err(error) => matches!(error.kind, ErrorKind::WatchNotFound),
        }
    }

    fn with<T>(&self, ask: impl FnOnce(&mut RecommendedWatcher) -> notify::Result<T>) -> notify::Result<T> {
        match self.watcher.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            Some(watcher) => ask(watcher),
            None => Err(notify::Error::new(ErrorKind::WatchNotFound)),
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        // One whose thread is gone would panic when it is dropped. What it leaks then is a channel.
        if !self.barrier() {
            let watcher = self.watcher.get_mut().unwrap_or_else(PoisonError::into_inner).take();
            std::mem::forget(watcher);
        }
    }
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
}

impl Translator {
    fn handle(&mut self, event: notify::Result<Event>) {
        match event {
            Ok(event) if event.need_rescan() => self.trouble(WatchTrouble::Overflow),
            Ok(event) => self.translate(&event),
            Err(error) => self.fail(&error),
        }
    }

    fn fail(&mut self, error: &notify::Error) {
        match &error.kind {
            ErrorKind::MaxFilesWatch => self.trouble(WatchTrouble::OutOfWatches),
            ErrorKind::Io(source) if source.kind() == std::io::ErrorKind::PermissionDenied => {
                let refused = error.paths.iter().filter_map(|path| LibraryPath::beneath(&self.handler.root, path));
                for path in refused {
                    self.handler.inbox.mark(path.clone(), NEW_DIRECTORY_WAIT);
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
        self.handler.inbox.mark(directory, NEW_DIRECTORY_WAIT);
    }

    fn translate(&mut self, event: &Event) {
        let Some(path) = event.paths.first() else { return };
        let Some(here) = LibraryPath::beneath(&self.handler.root, path) else { return };
        let inbox = &self.handler.inbox;
        let is_audio = self.handler.extensions.matches(&here);
        match event.kind {
            EventKind::Create(CreateKind::Folder) => drop(inbox.mark(here, NEW_DIRECTORY_WAIT)),
            EventKind::Create(_) if is_audio => self.content_may_have_changed(here, Quiet::Created, false),
            EventKind::Access(AccessKind::Close(AccessMode::Write)) if is_audio => {
                self.content_may_have_changed(here, Quiet::Closed, true);
            }
            EventKind::Modify(ModifyKind::Metadata(_)) if is_audio => {
                self.content_may_have_changed(here, Quiet::Touched, false);
            }
            EventKind::Modify(ModifyKind::Metadata(_)) if is_directory(path) => self.maybe_readable(here),
            EventKind::Modify(ModifyKind::Name(RenameMode::From)) if here.is_root() => {
                self.trouble(WatchTrouble::RootGone);
            }
            EventKind::Modify(ModifyKind::Name(RenameMode::From)) => self.name_went(here, is_audio, event.tracker()),
            EventKind::Modify(ModifyKind::Name(RenameMode::To)) => {
                self.name_came(here, path, is_audio, event.tracker());
            }
            EventKind::Remove(RemoveKind::File) if is_audio => inbox.push(self.hint(here, Quiet::Gone)),
            EventKind::Remove(RemoveKind::File) => {}
            EventKind::Remove(RemoveKind::Folder) if !here.is_root() => {
                inbox.mark(here, GONE_DIRECTORY_WAIT);
            }
            EventKind::Remove(_) if here.is_root() => self.trouble(WatchTrouble::RootGone),
            // A filesystem was unmounted: no proof that any file is gone for good.
            EventKind::Remove(_) => {
                inbox.mark(LibraryPath::root(), GONE_DIRECTORY_WAIT);
            }
            _ => {}
        }
    }

    fn content_may_have_changed(&self, path: LibraryPath, quiet: Quiet, written: bool) {
        let mut hint = self.hint(path.clone(), quiet);
        hint.written = written;
        hint.complete_at = written.then(SystemTime::now);
        hint.holds.push(Token::new(self.handler.dirty.hold(path)));
        self.handler.inbox.push(hint);
    }

    fn hint(&self, path: LibraryPath, quiet: Quiet) -> FsEvent {
        FsEvent { generation: Some(self.handler.generation), ..FsEvent::new(path, quiet, Origin::Watch) }
    }

    fn name_went(&mut self, path: LibraryPath, is_audio: bool, tracker: Option<usize>) {
        let mut marked = false;
        if is_audio {
            self.handler.inbox.push(self.hint(path.clone(), Quiet::Gone));
        } else {
            // It may have been a directory, of which only its own name is told.
            marked = self.handler.inbox.mark(path.clone(), GONE_DIRECTORY_WAIT);
        }
        if let Some(tracker) = tracker {
            self.rename_order.push_back(tracker);
            self.renames.insert(tracker, Went { path, marked });
            if self.rename_order.len() > RENAMES_REMEMBERED
                && let Some(oldest) = self.rename_order.pop_front()
            {
                self.renames.remove(&oldest);
            }
        }
    }

    fn name_came(&mut self, path: LibraryPath, absolute: &Path, is_audio: bool, tracker: Option<usize>) {
        let from = tracker.and_then(|tracker| self.renames.remove(&tracker));
        if is_directory(absolute) {
            // Its files tell nothing of their own.
            self.handler.inbox.mark(path, NEW_DIRECTORY_WAIT);
            return;
        }
        // It was a file after all, and not one of ours.
        if let Some(Went { path, marked: true }) = &from {
            self.handler.inbox.unmark(path);
        }
        if is_audio {
            let mut hint = self.hint(path, Quiet::Renamed);
            hint.complete_at = Some(SystemTime::now());
            hint.renamed_from = from.map(|from| from.path);
            self.handler.inbox.push(hint);
        }
    }
}

fn is_directory(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|metadata| metadata.is_dir())
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
}
