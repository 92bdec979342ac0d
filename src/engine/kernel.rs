//! What follows from an event of the kernel.
//!
//! An event is never a fact about the disk: it says which paths to look at, or which subtrees to walk, and how far the
//! index may be trusted until then.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;

use super::{Engine, Left, Now, WatchTrouble};
use crate::model::{Cause, Evidence, FsEvent, LibraryPath, Origin, RenameGroup, Ties};

/// How long the walk of a directory that went away waits, so that its other name is walked first and its files are
/// published as moved.
const GONE_DIRECTORY_WAIT: Duration = Duration::from_millis(400);

/// How long the walk of a new directory waits, so that many of them make one walk.
const NEW_DIRECTORY_WAIT: Duration = Duration::from_millis(10);

/// How long a new ignore file waits: its close says when it is written. One that is linked into place is never closed.
const NEW_IGNORE_FILE_WAIT: Duration = Duration::from_secs(1);

/// First halves of renames that are kept. The second half comes within microseconds.
const RENAMES_REMEMBERED: usize = 4096;

/// An event of the kernel, with what the disk says of its path right afterwards.
#[derive(Clone, Debug)]
pub struct KernelEvent {
    /// Where.
    pub path: LibraryPath,
    /// What happened.
    pub kind: KernelEventKind,
    /// The number that the two halves of a rename share.
    pub cookie: Option<usize>,
    /// Renames of which it is not known in which order they happened, nor how often. This is one of them.
    pub bundle: Option<RenameGroup>,
    /// Whether the path has the name of an audio file.
    pub has_audio_name: bool,
    /// What has the name now. It may be asked only of kinds for which [`KernelEventKind::needs_found`] says so.
    pub found: Found,
    /// Whether links are followed, so that a file may be a link to a directory.
    pub follows_links: bool,
    /// Other paths that lead to the same file or directory by links, or to something in the directory.
    pub aliases: Vec<Alias>,
    /// Which directory the root is, of all that had its path.
    pub generation: u64,
}

/// A path that leads to something by a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alias {
    /// The path.
    pub path: LibraryPath,
    /// Whether it leads to the path of the event, and not to something under it.
    pub is_exact: bool,
    /// Whether it has the name of an audio file.
    pub has_audio_name: bool,
}

/// What happened to a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KernelEventKind {
    /// A file, a link or something else was created.
    Created,
    /// A directory was created.
    DirectoryCreated,
    /// A file was closed after writing.
    ClosedAfterWriting,
    /// Permissions, times or other attributes changed.
    AttributesChanged,
    /// The first half of a rename: the name went away.
    MovedFrom,
    /// The second half of a rename: the name came.
    MovedTo,
    /// A file was removed.
    Removed,
    /// A directory was removed.
    DirectoryRemoved,
}

impl KernelEventKind {
    /// Whether what follows depends on what has the name now.
    #[must_use]
    pub fn needs_found(self, has_audio_name: bool) -> bool {
        match self {
            Self::MovedTo => true,
            Self::Created | Self::AttributesChanged => !has_audio_name,
            Self::DirectoryCreated
            | Self::ClosedAfterWriting
            | Self::MovedFrom
            | Self::Removed
            | Self::DirectoryRemoved => false,
        }
    }
}

/// What has a name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Found {
    /// Nothing, or nobody asked.
    #[default]
    Nothing,
    /// A directory, or a link that may lead to one: what is in it causes no event of its own.
    Directory,
    /// Anything else.
    File,
}

/// What the engine remembers of earlier events.
#[derive(Debug, Default)]
pub(super) struct Earlier {
    /// First halves of renames, by their cookie.
    halves: HashMap<usize, MovedFrom>,
    order: VecDeque<usize>,
    /// Directories that are not watched because they cannot be read.
    unreadable: HashSet<LibraryPath>,
}

/// A name that went away.
#[derive(Debug)]
struct MovedFrom {
    path: LibraryPath,
    has_audio_name: bool,
    /// Whether that made a new mark to walk it.
    is_marked: bool,
    /// What follows the file or directory that had it.
    followed_by: Vec<RenameGroup>,
}

impl Earlier {
    fn remember(&mut self, cookie: usize, half: MovedFrom) {
        self.order.push_back(cookie);
        self.halves.insert(cookie, half);
        if self.order.len() > RENAMES_REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.halves.remove(&oldest);
        }
    }

    fn take(&mut self, cookie: Option<usize>) -> Option<MovedFrom> {
        self.halves.remove(&cookie?)
    }
}

impl KernelEvent {
    /// Whether a directory may have come to this path, changed there or left it. A name that went away may have been
    /// that of a directory, unless it is that of an audio file.
    #[must_use]
    pub fn may_concern_directory(&self) -> bool {
        match self.kind {
            KernelEventKind::DirectoryCreated | KernelEventKind::DirectoryRemoved => true,
            KernelEventKind::MovedFrom => !self.is_audio(),
            KernelEventKind::Removed => self.follows_links && !self.is_audio(),
            KernelEventKind::Created | KernelEventKind::AttributesChanged | KernelEventKind::MovedTo => {
                self.found == Found::Directory
            }
            KernelEventKind::ClosedAfterWriting => false,
        }
    }

    fn is_audio(&self) -> bool {
        self.has_audio_name || self.aliases.iter().any(|alias| alias.is_exact && alias.has_audio_name)
    }

    fn hint(&self, cause: Cause, now: Now) -> FsEvent {
        let mut hint = FsEvent::new(self.path.clone(), cause, Origin::Watch).about_root(self.generation);
        hint.evidence.first_event = Some(now.instant);
        hint
    }
}

impl Engine {
    /// Takes an event in.
    pub fn kernel_event(&mut self, event: &KernelEvent, now: Now) -> Option<WatchTrouble> {
        let is_audio = event.is_audio();
        match event.kind {
            KernelEventKind::DirectoryCreated => self.directory_came(event, Vec::new(), now),
            KernelEventKind::Created if is_audio => self.content_may_have_changed(event, Cause::Created, now),
            KernelEventKind::Created if event.found == Found::Directory => {
                self.directory_came(event, Vec::new(), now);
            }
            KernelEventKind::ClosedAfterWriting if is_audio => {
                self.content_may_have_changed(event, Cause::Closed, now);
            }
            KernelEventKind::AttributesChanged if is_audio => {
                self.content_may_have_changed(event, Cause::Touched, now);
            }
            KernelEventKind::AttributesChanged if event.found == Found::Directory => {
                return self.directory_may_be_readable(event, now);
            }
            KernelEventKind::MovedFrom | KernelEventKind::Removed | KernelEventKind::DirectoryRemoved
                if event.path.is_root() =>
            {
                return Some(WatchTrouble::RootGone);
            }
            KernelEventKind::MovedFrom => self.name_went(event, is_audio, now),
            KernelEventKind::MovedTo => self.name_came(event, is_audio, now),
            KernelEventKind::Removed if is_audio => self.push_for_all(event, event.hint(Cause::Gone, now), now),
            // It may have been a link to a directory.
            KernelEventKind::Removed if event.follows_links => {
                self.directory_went(event, &[], now);
            }
            KernelEventKind::DirectoryRemoved => {
                self.directory_went(event, &[], now);
            }
            KernelEventKind::Created
            | KernelEventKind::ClosedAfterWriting
            | KernelEventKind::AttributesChanged
            | KernelEventKind::Removed => {}
        }
        None
    }

    /// Something happened at a path that the rules exclude. Only the other half of a rename matters: a directory that
    /// was moved here is gone from its old path, which is to be walked; a file leaves nothing to walk.
    pub fn excluded_event(&mut self, event: &KernelEvent) {
        if event.kind == KernelEventKind::MovedTo {
            let from = self.earlier.take(event.cookie);
            self.unmark_if_no_directory(from.as_ref(), event.found);
        }
    }

    /// The ignore file of `directory` changed: a walk finds out what it says.
    pub fn ignore_file_changed(&mut self, directory: &LibraryPath, kind: KernelEventKind, aliases: &[Alias], now: Now) {
        let wait = match kind {
            KernelEventKind::Created => NEW_IGNORE_FILE_WAIT,
            _ => NEW_DIRECTORY_WAIT,
        };
        self.mark_all(directory, aliases, |engine, path| engine.mark(path, wait, now.instant));
    }

    /// The watcher may not read these directories.
    pub fn may_not_be_read(&mut self, directories: Vec<LibraryPath>, now: Now) {
        for directory in directories {
            self.mark(directory.clone(), NEW_DIRECTORY_WAIT, now.instant);
            self.earlier.unreadable.insert(directory);
        }
    }

    fn content_may_have_changed(&mut self, event: &KernelEvent, cause: Cause, now: Now) {
        let mut hint = event.hint(cause, now);
        hint.evidence.written = cause == Cause::Closed;
        hint.evidence.complete_at = hint.evidence.written.then_some(now.wall);
        let hint = self.doubting(hint);
        self.push_for_all(event, hint, now);
    }

    fn directory_may_be_readable(&mut self, event: &KernelEvent, now: Now) -> Option<WatchTrouble> {
        let before = self.earlier.unreadable.len();
        self.earlier.unreadable.retain(|path| !path.is_at_or_under(&event.path));
        let is_more = self.earlier.unreadable.len() < before;
        self.mark_all(&event.path, &event.aliases, |engine, path| engine.mark(path, NEW_DIRECTORY_WAIT, now.instant));
        is_more.then_some(WatchTrouble::MoreToWatch)
    }

    /// A directory is new here, and `groups` followed it.
    fn directory_came(&mut self, event: &KernelEvent, groups: Vec<RenameGroup>, now: Now) {
        let member_of = self.renames.directory_came(&event.path, groups);
        let ties = Ties { member_of, ..Ties::default() };
        self.mark_all(&event.path, &event.aliases, |engine, path| {
            engine.mark_tied(path, NEW_DIRECTORY_WAIT, ties.clone(), now.instant)
        });
    }

    /// A directory went away, and `groups` may find it. Returns whether its walk is a new one.
    fn directory_went(&mut self, event: &KernelEvent, groups: &[RenameGroup], now: Now) -> bool {
        let ties = Ties { left_in: groups.to_vec(), ..Ties::default() };
        self.mark_all(&event.path, &event.aliases, |engine, path| {
            engine.mark_replaced(path, GONE_DIRECTORY_WAIT, ties.clone(), now.instant)
        })
    }

    fn name_went(&mut self, event: &KernelEvent, is_audio: bool, now: Now) {
        let Left { followed_by, awaits } = self.renames.left(&event.path, event.bundle.as_ref(), now.instant);
        let is_marked = if is_audio {
            let ties = Ties { left_in: awaits, ..Ties::default() };
            self.push_for_all(event, event.hint(Cause::Gone, now).tied(ties), now);
            false
        } else {
            // It may have been a directory, which has an event for its own name alone.
            self.directory_went(event, &awaits, now)
        };
        if let Some(cookie) = event.cookie {
            let (path, has_audio_name) = (event.path.clone(), event.has_audio_name);
            self.earlier.remember(cookie, MovedFrom { path, has_audio_name, is_marked, followed_by });
        }
    }

    fn name_came(&mut self, event: &KernelEvent, is_audio: bool, now: Now) {
        let from = self.earlier.take(event.cookie);
        let mut groups = from.as_ref().map(|from| from.followed_by.clone()).unwrap_or_default();
        groups.extend(event.bundle.clone());
        if event.found == Found::Directory {
            self.directory_came(event, groups, now);
            return;
        }
        self.unmark_if_no_directory(from.as_ref(), event.found);
        if !is_audio {
            self.renames.came_unseen(&event.path, &groups, now.instant);
            return;
        }
        let ties = Ties { member_of: self.renames.came(&event.path, groups), ..Ties::default() };
        // Decided now, and not when the path is looked at: the doubt may be over then, because its look found the old
        // name gone. Writes under a name without an audio extension cause no hint, so such a name is not trusted.
        let is_trusted =
            |from: &MovedFrom| event.bundle.is_none() && from.has_audio_name && !self.trust.is_under_doubt(&from.path);
        let renamed_from = from.filter(is_trusted).map(|from| from.path);
        let is_certain = renamed_from.is_some();
        let mut hint = event.hint(Cause::Renamed, now).tied(ties);
        let evidence = Evidence { complete_at: Some(now.wall), renamed_from, doubtful: !is_certain, ..hint.evidence };
        hint.evidence = evidence;
        // The doubt goes with the file: it may get a third name before it is looked at.
        let hint = if is_certain { hint } else { self.doubting(hint) };
        self.push_for_all(event, hint, now);
    }

    /// A name that went away may have been that of a directory, whose old path was marked for a walk. If it was that of
    /// a file, nothing has to be walked.
    fn unmark_if_no_directory(&mut self, from: Option<&MovedFrom>, found: Found) {
        if let Some(MovedFrom { path, is_marked: true, .. }) = from
            && found == Found::File
        {
            self.unmark(path);
        }
    }

    /// Adds a hint, and one for each other path that leads to the same file.
    fn push_for_all(&mut self, event: &KernelEvent, hint: FsEvent, now: Now) {
        for alias in event.aliases.iter().filter(|alias| alias.is_exact) {
            // That name was not renamed.
            let mut other = FsEvent { path: alias.path.clone(), ..hint.clone() };
            other.evidence.renamed_from = None;
            let other = if hint.guards.holds.is_empty() { other } else { self.doubting(other) };
            self.push(other, now.instant);
        }
        self.push(hint, now.instant);
    }

    /// Marks a subtree, and those that links make of it elsewhere. Returns what `mark` returns for the subtree.
    fn mark_all<T>(
        &mut self,
        subtree: &LibraryPath,
        aliases: &[Alias],
        mark: impl Fn(&mut Self, LibraryPath) -> T,
    ) -> T {
        for alias in aliases {
            mark(self, alias.path.clone());
        }
        mark(self, subtree.clone())
    }
}
