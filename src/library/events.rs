//! Translates the kernel's events for the engine.
//!
//! The handler runs on the watcher's thread, which empties the kernel's queue. It must be fast and must never block, or
//! the queue overflows.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use notify::event::{AccessKind, AccessMode, CreateKind, ModifyKind, RemoveKind, RenameMode};
use notify::{ErrorKind, Event, EventKind};

use super::{ExcludedDirectories, Inbox};
use crate::disk::{LinkedPath, Root};
use crate::engine::{Alias, Found, KernelEvent, KernelEventKind, WatchTrouble};
use crate::failpoint::failpoint;
use crate::model::{IGNORE_FILE, LibraryPath, RenameGroup};

/// The context of the handler of events.
pub struct Handler {
    /// The library root.
    pub root: Arc<Root>,
    /// Root generation. It changes when the root is replaced by another directory.
    pub generation: u64,
    /// Where hints go.
    pub inbox: Inbox,
    /// Mounts that do not answer. They are not accessed.
    pub avoided: Vec<LibraryPath>,
    /// Directories that the rules exclude.
    pub excluded: ExcludedDirectories,
    /// Called when events were lost or something cannot be watched.
    pub trouble: Arc<dyn Fn(WatchTrouble) + Send + Sync>,
}

impl fmt::Debug for Handler {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Handler").field("root", &self.root).finish_non_exhaustive()
    }
}

/// Directories that are to be watched before the next walk. Clones share them.
pub(super) type ToWatch = Arc<Mutex<BTreeSet<PathBuf>>>;

/// Translates the events of `notify` into those of the engine.
pub(super) struct Translator {
    handler: Handler,
    /// The path of the root in the events.
    root: PathBuf,
    /// `None` if whole filesystems are watched, so that no directory has to be watched.
    to_watch: Option<ToWatch>,
    /// The bundle of the renames that are handled now, if they have one.
    bundle: Option<RenameGroup>,
}

impl Translator {
    /// New directories of this instance's part, in a root that is not watched recursively, are added to `to_watch`, and
    /// the root itself if any may be missing.
    pub(super) fn of_directories(handler: Handler, to_watch: ToWatch) -> Self {
        Self { root: handler.root.path().to_path_buf(), handler, to_watch: Some(to_watch), bundle: None }
    }

    /// Whole filesystems are watched, and `root` is the path of the root without links.
    pub(super) fn of_filesystems(handler: Handler, root: PathBuf) -> Self {
        Self { handler, root, to_watch: None, bundle: None }
    }

    /// Handles events together of which it is not known in which order they happened, nor how often.
    pub(super) fn handle_bundle(&mut self, events: impl Iterator<Item = Event>) {
        let bundle = self.handler.inbox.engine().with(|engine| engine.renames().begin_bundle());
        // Until all of them are handled, more may come.
        let _open = bundle.join();
        self.bundle = Some(bundle);
        for event in events {
            self.handle(Ok(event));
        }
        self.bundle = None;
    }

    pub(super) fn handle(&mut self, event: notify::Result<Event>) {
        failpoint!("watch::handle");
        match event {
            Ok(event) if event.need_rescan() => {
                self.watch_later(&LibraryPath::root());
                self.trouble(WatchTrouble::Overflow);
            }
            Ok(event) => self.translate(&event),
            Err(error) => self.fail(&error),
        }
    }

    fn fail(&self, error: &notify::Error) {
        let Handler { root, inbox, .. } = &self.handler;
        let is_excluded =
            |path: &PathBuf| self.place_of(path).is_some_and(|LinkedPath { path, .. }| root.is_excluded(&path));
        match &error.kind {
            // Changes there are not published. This may read the disk, but errors are rare.
            ErrorKind::Io(_) if !error.paths.is_empty() && error.paths.iter().all(is_excluded) => {}
            ErrorKind::MaxFilesWatch => self.trouble(WatchTrouble::OutOfWatches),
            ErrorKind::Io(source) if source.kind() == io::ErrorKind::PermissionDenied => {
                let places = error.paths.iter().filter_map(|path| self.place_of(path));
                let refused = places.map(|place| place.path).collect();
                inbox.with(|engine, now| engine.may_not_be_read(refused, now));
            }
            _ => self.trouble(WatchTrouble::Other(error.to_string())),
        }
    }

    fn trouble(&self, trouble: WatchTrouble) {
        (self.handler.trouble)(trouble);
    }

    fn translate(&self, event: &Event) {
        let Some(path) = event.paths.first() else { return };
        let Some(LinkedPath { path: here, is_target }) = self.place_of(path) else { return };
        tracing::trace!(path = %here, kind = ?event.kind, rename = event.tracker(), "kernel event");
        let Some(kind) = kind_of(event.kind) else { return };
        if here.name() == IGNORE_FILE {
            self.ignore_file_changed(&here, kind);
        }
        let Handler { root, inbox, generation, .. } = &self.handler;
        // A new link is found by a walk of everything, which first resolves its target.
        let is_excluded =
            self.is_excluded(&here) || (root.follows_links_out() && !is_target && self.is_new_link(&here, path, kind));
        let has_audio_name = root.rules().extensions().matches(&here);
        let needs_found = if is_excluded { kind == KernelEventKind::MovedTo } else { kind.needs_found(has_audio_name) };
        let event = KernelEvent {
            found: if needs_found { self.found(path) } else { Found::Nothing },
            aliases: if is_excluded { Vec::new() } else { self.aliases(&here) },
            path: here,
            kind,
            cookie: event.tracker(),
            bundle: self.bundle.clone(),
            has_audio_name,
            follows_links: root.follows_links(),
            generation: *generation,
        };
        if is_excluded {
            self.excluded(&event);
            return;
        }
        if event.may_concern_directory() {
            // Another directory may have this path now.
            root.forget_ignore_files(&event.path);
        }
        let is_directory = kind == KernelEventKind::DirectoryCreated || event.found == Found::Directory;
        let is_new =
            matches!(kind, KernelEventKind::DirectoryCreated | KernelEventKind::Created | KernelEventKind::MovedTo);
        if is_directory && is_new {
            self.may_be_unwatched(&event.path);
        }
        if let Some(trouble) = inbox.with(|engine, now| engine.kernel_event(&event, now)) {
            self.trouble(trouble);
        }
    }

    /// The library path of an absolute path, and whether it is itself the target of a link.
    fn place_of(&self, path: &Path) -> Option<LinkedPath> {
        let root = &self.handler.root;
        let in_library = LibraryPath::strip_root(&self.root, path).map(|path| LinkedPath { path, is_target: false });
        in_library.or_else(|| root.by_links(path))
    }

    /// The other paths that lead to `here` through links, and the links whose targets are under it.
    fn aliases(&self, here: &LibraryPath) -> Vec<Alias> {
        let root = &self.handler.root;
        let alias = |path: LibraryPath, is_exact| {
            let has_audio_name = root.rules().extensions().matches(&path);
            Alias { path, is_exact, has_audio_name }
        };
        let exact = root.other_paths(here).into_iter().map(|path| alias(path, true));
        exact.chain(root.links_to_targets_under(here).into_iter().map(|path| alias(path, false))).collect()
    }

    /// What is at the path now.
    fn found(&self, path: &Path) -> Found {
        match path.symlink_metadata() {
            Ok(found) if found.is_dir() => Found::Directory,
            Ok(found) if found.is_symlink() && self.handler.root.follows_links() => Found::Directory,
            Ok(_) => Found::File,
            Err(_) => Found::Nothing,
        }
    }

    /// Whether a link was created here. Notes a new link, and a known link that is gone.
    fn is_new_link(&self, here: &LibraryPath, path: &Path, kind: KernelEventKind) -> bool {
        let root = &self.handler.root;
        let is_new = match kind {
            KernelEventKind::Created | KernelEventKind::MovedTo => {
                // `found` stats the path again if it is no link. That is rare: only with links that lead out of the library.
                path.symlink_metadata().is_ok_and(|found| found.is_symlink())
            }
            KernelEventKind::Removed | KernelEventKind::DirectoryRemoved | KernelEventKind::MovedFrom => false,
            KernelEventKind::DirectoryCreated
            | KernelEventKind::ClosedAfterWriting
            | KernelEventKind::AttributesChanged => return false,
        };
        if is_new || root.has_link_at_or_under(here) {
            root.links_changed();
        }
        is_new
    }

    /// Reports a new directory that may not be watched: directories above an avoided mount are not watched recursively.
    fn may_be_unwatched(&self, directory: &LibraryPath) {
        if self.to_watch.is_none() {
            return;
        }
        let parent = directory.parent().unwrap_or_else(LibraryPath::root);
        if parent.is_root() {
            self.watch_later(directory);
        }
        if self.handler.avoided.iter().any(|place| place.is_at_or_under(&parent)) {
            self.trouble(WatchTrouble::MoreToWatch);
        }
    }

    /// Has a directory watched before the next walk, if the root is not watched recursively.
    fn watch_later(&self, directory: &LibraryPath) {
        let root = &self.handler.root;
        if let Some(to_watch) = &self.to_watch
            && !root.rules().partition().is_whole()
        {
            let mut to_watch = to_watch.lock().unwrap_or_else(PoisonError::into_inner);
            to_watch.insert(directory.to_absolute(root.path()));
        }
    }

    /// Whether the rules exclude a path, and no links lead to it or to anything under it.
    fn is_excluded(&self, path: &LibraryPath) -> bool {
        let root = &self.handler.root;
        root.is_known_to_be_excluded(path)
            && (!root.follows_links()
                || (root.other_paths(path).is_empty() && root.links_to_targets_under(path).is_empty()))
    }

    /// Handles an event at a path that the rules exclude.
    fn excluded(&self, event: &KernelEvent) {
        self.handler.inbox.with(|engine, _| engine.excluded_event(event));
        if event.kind == KernelEventKind::DirectoryCreated || event.found == Found::Directory {
            self.handler.excluded.note_created(event.path.clone());
        }
        tracing::trace!(path = %event.path, "excluded by the rules");
    }

    /// Handles a change of the ignore file of a directory.
    fn ignore_file_changed(&self, ignore_file: &LibraryPath, kind: KernelEventKind) {
        let Handler { root, inbox, excluded, .. } = &self.handler;
        let Some(directory) = ignore_file.parent() else { return };
        if self.to_watch.is_some() && excluded.has_unwatched_under(&directory) {
            // An unwatched directory may not be excluded any more.
            self.trouble(WatchTrouble::MoreToWatch);
        }
        if root.follows_links() {
            // The file also applies to paths through links, and it may exclude links.
            root.forget_ignore_files(&LibraryPath::root());
            root.links_changed();
        }
        root.forget_ignore_files(&directory);
        let aliases = self.aliases(&directory);
        inbox.with(|engine, now| engine.ignore_file_changed(&directory, kind, &aliases, now));
    }
}

/// The engine's kind of an event, or `None` for events that are not needed.
fn kind_of(kind: EventKind) -> Option<KernelEventKind> {
    Some(match kind {
        EventKind::Create(CreateKind::Folder) => KernelEventKind::DirectoryCreated,
        EventKind::Create(_) => KernelEventKind::Created,
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => KernelEventKind::ClosedAfterWriting,
        EventKind::Modify(ModifyKind::Metadata(_)) => KernelEventKind::AttributesChanged,
        EventKind::Modify(ModifyKind::Name(RenameMode::From)) => KernelEventKind::MovedFrom,
        EventKind::Modify(ModifyKind::Name(RenameMode::To)) => KernelEventKind::MovedTo,
        EventKind::Remove(RemoveKind::Folder) => KernelEventKind::DirectoryRemoved,
        EventKind::Remove(_) => KernelEventKind::Removed,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Cause;

    fn translator(root: &Path) -> Translator {
        let handler = Handler {
            root: Arc::new(Root::open(root).unwrap()),
            generation: 0,
            inbox: Inbox::new(),
            avoided: Vec::new(),
            trouble: Arc::new(|trouble| panic!("{trouble:?}")),
            excluded: ExcludedDirectories::default(),
        };
        Translator::of_directories(handler, ToWatch::default())
    }

    #[test]
    fn the_hint_for_a_file_that_may_have_changed_has_no_old_path() {
        let folder = tempfile::tempdir().unwrap();
        let translator = translator(folder.path());
        let inbox = translator.handler.inbox.clone();
        let rename = |tracker| {
            let half = |mode, name| {
                let kind = EventKind::Modify(ModifyKind::Name(mode));
                Event::new(kind).add_path(folder.path().join(name)).set_tracker(tracker)
            };
            translator.translate(&half(RenameMode::From, "old/a.mp3"));
            translator.translate(&half(RenameMode::To, "new/a.mp3"));
            let hints = inbox.take_all();
            hints.into_iter().find(|hint| hint.cause == Cause::Renamed).and_then(|hint| hint.evidence.renamed_from)
        };
        assert_eq!(rename(1), Some("old/a.mp3".into()));
        for in_doubt in ["old/a.mp3", "old", ""] {
            let _doubt = inbox.trust(|trust| trust.doubt(&in_doubt.into()));
            assert_eq!(rename(2), None, "{in_doubt:?}");
        }
    }

    #[test]
    fn events_at_excluded_paths_cause_no_hints() {
        let folder = tempfile::tempdir().unwrap();
        for directory in ["album/@eaDir/inside", "deep/ignored"] {
            std::fs::create_dir_all(folder.path().join(directory)).unwrap();
        }
        std::fs::write(folder.path().join("deep/.ignore-music"), "ignored/").unwrap();
        let translator = translator(folder.path());
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
                assert!(inbox.take_all().is_empty() && inbox.take_subtrees().is_empty(), "{path} {kind:?}");
            }
        }
        translator.translate(&Event::new(closed).add_path(folder.path().join("album/x.mp3")));
        assert_eq!(inbox.take_all().len(), 1);
    }

    #[test]
    fn a_changed_ignore_file_is_read_again_and_its_directory_is_walked() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("a")).unwrap();
        let translator = translator(folder.path());
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
            let is_excluded = || root.is_excluded(&"a/x.mp3".into());
            let before = is_excluded();
            let pattern = if number % 2 == 0 { "*.mp3" } else { "*.flac" };
            std::fs::write(folder.path().join("a/.ignore-music"), pattern).unwrap();
            assert_eq!(is_excluded(), before);
            translator.translate(&Event::new(kind).add_path(folder.path().join("a/.ignore-music")));
            assert_eq!(is_excluded(), !before, "{kind:?}");
            let marked: Vec<_> = inbox.take_subtrees().iter().map(ToString::to_string).collect();
            assert!(marked.contains(&"a".to_owned()), "{kind:?}: {marked:?}");
        }
    }

    #[test]
    fn a_renamed_file_stays_in_doubt() {
        let folder = tempfile::tempdir().unwrap();
        let translator = translator(folder.path());
        let inbox = translator.handler.inbox.clone();
        // The second one is not audio, so its writes cause no hints.
        for first in ["doubtful.mp3", "x.part"] {
            let doubt = inbox.trust(|trust| trust.doubt(&"doubtful.mp3".into()));
            for (from, to) in [(first, "a.mp3"), ("a.mp3", "c.mp3")] {
                for (mode, name) in [(RenameMode::From, from), (RenameMode::To, to)] {
                    let kind = EventKind::Modify(ModifyKind::Name(mode));
                    translator.translate(&Event::new(kind).add_path(folder.path().join(name)).set_tracker(1));
                }
            }
            drop(doubt);
            let hints = inbox.take_all();
            assert!(hints.iter().all(|hint| hint.evidence.renamed_from.is_none()), "{hints:?}");
            assert!(inbox.trust(|trust| trust.is_in_doubt(&"c.mp3".into())), "{first}");
        }
    }

    #[test]
    fn the_ignore_files_of_a_directory_that_may_be_another_one_are_forgotten_and_no_others() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("a")).unwrap();
        let translator = translator(folder.path());
        let root = Arc::clone(&translator.handler.root);
        let closed = EventKind::Access(AccessKind::Close(AccessMode::Write));
        for (kind, is_forgotten) in [
            (closed, false),
            (EventKind::Create(CreateKind::File), true),
            (EventKind::Create(CreateKind::Folder), true),
            (EventKind::Modify(ModifyKind::Name(RenameMode::From)), true),
            (EventKind::Remove(RemoveKind::File), false),
            (EventKind::Remove(RemoveKind::Folder), true),
        ] {
            let is_excluded = || root.is_excluded(&"a/x.mp3".into());
            std::fs::write(folder.path().join("a/.ignore-music"), "*.mp3").unwrap();
            root.forget_ignore_files(&"a".into());
            assert!(is_excluded());
            std::fs::write(folder.path().join("a/.ignore-music"), "").unwrap();
            translator.translate(&Event::new(kind).add_path(folder.path().join("a")).set_tracker(1));
            assert_eq!(is_excluded(), !is_forgotten, "{kind:?}");
        }
    }

    #[test]
    fn the_first_name_of_a_directory_that_was_renamed_twice_is_walked() {
        let folder = tempfile::tempdir().unwrap();
        let translator = translator(folder.path());
        let inbox = translator.handler.inbox.clone();
        let rename = |from, to| {
            for (mode, name) in [(RenameMode::From, from), (RenameMode::To, to)] {
                let kind = EventKind::Modify(ModifyKind::Name(mode));
                translator.translate(&Event::new(kind).add_path(folder.path().join(name)).set_tracker(1));
            }
            inbox.take_subtrees().iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        // The path does not exist any more when the event is handled.
        assert_eq!(rename("a", "b"), ["a"]);
        std::fs::write(folder.path().join("x.mp3"), b"").unwrap();
        assert_eq!(rename("x.part", "x.mp3"), [""; 0]);
        std::fs::create_dir(folder.path().join("c")).unwrap();
        assert_eq!(rename("b", "c"), ["b", "c"]);
    }
}
