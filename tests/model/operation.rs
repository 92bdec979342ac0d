//! The operations on the model's disk, and the events that they cause.

use file_watcher::model::LibraryPath;
use proptest::prelude::*;

/// Paths of files: audio and others, at several depths, one of them in a directory with an audio name.
pub(crate) const FILES: [&str; 11] = [
    "r.mp3",
    "a/1.mp3",
    "a/2.mp3",
    "a/t.part",
    "a/d/1.mp3",
    "b/1.mp3",
    "b/2.mp3",
    "b/d/1.mp3",
    "x.mp3",
    "x.mp3/1.mp3",
    "m/1.mp3",
];

/// Directories that are created, removed and renamed.
pub(crate) const DIRECTORIES: [&str; 6] = ["a", "b", "c", "a/d", "b/d", "x.mp3"];

/// The content of a file. Each complete content has its own number.
pub(crate) type ContentId = u8;

/// The modification time of a file after a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mtime {
    Now,
    /// Restored to its old value, as by tag editors.
    Restored,
    /// In the future.
    Future,
}

/// An operation on the disk.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Op {
    Create(NameIndex, ContentId, Mtime),
    /// In place. The flag says whether the size changes.
    Rewrite(ExistingIndex, ContentId, bool, Mtime),
    /// In place, with the modification time restored. The event comes when the file is closed.
    RewriteAndKeepOpen(ExistingIndex, ContentId),
    /// Closes all files that are still open for writing.
    CloseAll,
    /// Written elsewhere and renamed into place.
    Replace(ExistingIndex, ContentId),
    MapAndWrite(ExistingIndex, ContentId),
    Touch(ExistingIndex),
    Chmod(ExistingIndex),
    Remove(ExistingIndex),
    Rename(ExistingIndex, NameIndex),
    Link(ExistingIndex, NameIndex),
    MakeDirectory(NameIndex),
    RemoveTree(ExistingIndex),
    RenameDirectory(ExistingIndex, NameIndex),
    ToggleReadable(ExistingIndex),
    ToggleMount,
    /// To an unwatched place, and back from there.
    MoveOut(ExistingIndex),
    MoveIn(NameIndex),
    /// Renames a file to a temporary name, so that its name is free.
    PutAside(ExistingIndex),
    /// Renames another file of the directory to the free name. Its old name is free then.
    PassName(ExistingIndex),
    /// Renames the file with the temporary name to the free name.
    TakeBack,
    /// A hard link in an unwatched place.
    LinkOutside(ExistingIndex),
    /// In place, through a name in an unwatched place.
    RewriteOutside(ExistingIndex, ContentId, Mtime),
}

/// An index of [`FILES`] or [`DIRECTORIES`].
pub(crate) type NameIndex = usize;

/// Selects one of the existing files or directories, modulo their number, so that few operations have no effect.
pub(crate) type ExistingIndex = u8;

/// An event of the kernel.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    Created(LibraryPath),
    Closed(LibraryPath),
    Attributes(LibraryPath),
    Removed(LibraryPath),
    DirectoryCreated(LibraryPath),
    DirectoryRemoved(LibraryPath),
    DirectoryAttributes(LibraryPath),
    /// The two halves of a rename have the same number.
    MovedFrom(LibraryPath, u32),
    MovedTo(LibraryPath, u32),
    Unmounted,
}

impl Event {
    pub(crate) fn path(&self) -> Option<&LibraryPath> {
        match self {
            Self::Created(path)
            | Self::Closed(path)
            | Self::Attributes(path)
            | Self::Removed(path)
            | Self::DirectoryCreated(path)
            | Self::DirectoryRemoved(path)
            | Self::DirectoryAttributes(path)
            | Self::MovedFrom(path, _)
            | Self::MovedTo(path, _) => Some(path),
            Self::Unmounted => None,
        }
    }
}

/// An existing file or directory. The first one is chosen most often, because sequences of operations on one file find
/// the most bugs.
fn existing() -> impl Strategy<Value = ExistingIndex> {
    prop_oneof![Just(0), any::<ExistingIndex>()]
}

/// Any operation. Renames and rewrites are the most frequent, because they find the most bugs.
pub(crate) fn any_op() -> impl Strategy<Value = Op> {
    prop_oneof![
        30 => op_with_events(),
        1 => (existing(), content()).prop_map(|(at, content)| Op::MapAndWrite(at, content)),
        2 => (existing(), content()).prop_map(|(at, content)| Op::RewriteAndKeepOpen(at, content)),
        1 => Just(Op::CloseAll),
        1 => (existing(), file()).prop_map(|(from, to)| Op::Link(from, to)),
        1 => existing().prop_map(Op::LinkOutside),
        1 => (existing(), content(), mtime()).prop_map(|(at, content, mtime)| Op::RewriteOutside(at, content, mtime)),
        1 => existing().prop_map(Op::ToggleReadable),
        1 => Just(Op::ToggleMount),
    ]
}

/// Operations that a reliable kernel reports completely. It does not report every name of a file with hard links, nor
/// changes of hidden files. A write that changes no time has an event only for a path that may be gone after the next
/// rename of a directory.
pub(crate) fn op_with_events() -> impl Strategy<Value = Op> {
    let directory = || 0..DIRECTORIES.len();
    prop_oneof![
        6 => (file(), content(), mtime()).prop_map(|(at, content, mtime)| Op::Create(at, content, mtime)),
        4 => (existing(), content(), any::<bool>(), mtime())
            .prop_map(|(at, content, other_size, mtime)| Op::Rewrite(at, content, other_size, mtime)),
        2 => (existing(), content()).prop_map(|(at, content)| Op::Replace(at, content)),
        1 => existing().prop_map(Op::Touch),
        1 => existing().prop_map(Op::Chmod),
        2 => existing().prop_map(Op::Remove),
        9 => (existing(), file()).prop_map(|(from, to)| Op::Rename(from, to)),
        1 => directory().prop_map(Op::MakeDirectory),
        1 => existing().prop_map(Op::RemoveTree),
        4 => (existing(), directory()).prop_map(|(from, to)| Op::RenameDirectory(from, to)),
        1 => existing().prop_map(Op::MoveOut),
        2 => directory().prop_map(Op::MoveIn),
        1 => existing().prop_map(Op::PutAside),
        2 => any::<ExistingIndex>().prop_map(Op::PassName),
        1 => Just(Op::TakeBack),
    ]
}

/// Operations on files only, so that every write has an event for a path of the file. Most of them write or rename.
pub(crate) fn op_with_own_event() -> impl Strategy<Value = Op> {
    prop_oneof![
        3 => (file(), content(), mtime()).prop_map(|(at, content, mtime)| Op::Create(at, content, mtime)),
        6 => (existing(), content(), mtime()).prop_map(|(at, content, mtime)| Op::Rewrite(at, content, false, mtime)),
        1 => (existing(), content()).prop_map(|(at, content)| Op::Replace(at, content)),
        1 => existing().prop_map(Op::Touch),
        1 => existing().prop_map(Op::Remove),
        9 => (existing(), file()).prop_map(|(from, to)| Op::Rename(from, to)),
    ]
}

/// Permutes the names of a few files of one directory, in steps. If the first file keeps its temporary name, the names
/// only shift.
pub(crate) fn permutation() -> impl Strategy<Value = Vec<Op>> {
    let passed = prop::collection::vec(any::<ExistingIndex>().prop_map(Op::PassName), 1..4);
    (any::<ExistingIndex>().prop_map(Op::PutAside), passed, prop_oneof![3 => Just(Some(Op::TakeBack)), 1 => Just(None)])
        .prop_map(|(first, passed, last)| [first].into_iter().chain(passed).chain(last).collect())
}

fn file() -> impl Strategy<Value = NameIndex> {
    0..FILES.len()
}

fn content() -> impl Strategy<Value = ContentId> {
    1..6_u8
}

fn mtime() -> impl Strategy<Value = Mtime> {
    prop_oneof![3 => Just(Mtime::Now), 3 => Just(Mtime::Restored), 1 => Just(Mtime::Future)]
}
