//! What people do to a disk, and what the kernel tells of it.

use file_watcher::model::LibraryPath;
use proptest::prelude::*;

/// Paths of files: audio and not, in directories at several depths, one beneath a directory with an audio name.
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

/// Directories that come, go and change their names.
pub(crate) const DIRECTORIES: [&str; 6] = ["a", "b", "c", "a/d", "b/d", "x.mp3"];

/// What is in a file: each whole state that a writer meant has a number of its own.
pub(crate) type ContentId = u8;

/// What becomes of a file's modification time when it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mtime {
    Now,
    /// Set back to what it was, as tag editors do.
    Restored,
    /// Set to a time to come.
    Future,
}

/// What happens to a disk.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Op {
    Create(New, ContentId, Mtime),
    /// In place; the size changes or not.
    Rewrite(Old, ContentId, bool, Mtime),
    /// In place, with its modification time set back; the kernel tells of it when it is closed.
    RewriteAndKeepOpen(Old, ContentId),
    /// Whoever still has a file open that was written to closes it.
    CloseAll,
    /// Written elsewhere and renamed into place.
    Replace(Old, ContentId),
    MapAndWrite(Old, ContentId),
    Touch(Old),
    Chmod(Old),
    Remove(Old),
    Rename(Old, New),
    Link(Old, New),
    MakeDirectory(New),
    RemoveTree(Old),
    RenameDirectory(Old, New),
    ToggleReadable(Old),
    ToggleMount,
    /// To a place that nobody watches, and from there.
    MoveOut(Old),
    MoveIn(New),
    /// Puts a file aside, so that another one of its directory may have its name.
    PutAside(Old),
    /// Gives that name to another file of the directory, the name of which is free from then on.
    PassName(Old),
    /// Gives the name that is free at last to the file that was put aside.
    TakeBack,
    /// A second name where nobody watches.
    LinkOutside(Old),
    /// In place, by the name that it has where nobody watches.
    RewriteOutside(Old, ContentId, Mtime),
}

/// A place in [`FILES`] or [`DIRECTORIES`].
pub(crate) type New = usize;

/// One of the files or directories that are there, counted around: so that few operations are in vain.
pub(crate) type Old = u8;

/// What the kernel says of an operation, before anybody looks closer.
#[derive(Clone, Debug)]
pub(crate) enum Told {
    Created(LibraryPath),
    Closed(LibraryPath),
    Attributes(LibraryPath),
    Removed(LibraryPath),
    DirectoryMade(LibraryPath),
    DirectoryRemoved(LibraryPath),
    DirectoryAttributes(LibraryPath),
    /// The two halves of a rename have one number.
    Went(LibraryPath, u32),
    Came(LibraryPath, u32),
    Unmounted,
}

impl Told {
    pub(crate) fn path(&self) -> Option<&LibraryPath> {
        match self {
            Self::Created(path)
            | Self::Closed(path)
            | Self::Attributes(path)
            | Self::Removed(path)
            | Self::DirectoryMade(path)
            | Self::DirectoryRemoved(path)
            | Self::DirectoryAttributes(path)
            | Self::Went(path, _)
            | Self::Came(path, _) => Some(path),
            Self::Unmounted => None,
        }
    }
}

/// One that was made before, the first more often than any other: what happens to a file one after the
/// other is what goes wrong.
fn old() -> impl Strategy<Value = Old> {
    prop_oneof![Just(0), any::<Old>()]
}

/// Any operation; renames and rewrites are what goes wrong, so they come most.
pub(crate) fn any_op() -> impl Strategy<Value = Op> {
    prop_oneof![
        30 => op_that_is_told(),
        1 => (old(), content()).prop_map(|(at, content)| Op::MapAndWrite(at, content)),
        2 => (old(), content()).prop_map(|(at, content)| Op::RewriteAndKeepOpen(at, content)),
        1 => Just(Op::CloseAll),
        1 => (old(), file()).prop_map(|(from, to)| Op::Link(from, to)),
        1 => old().prop_map(Op::LinkOutside),
        1 => (old(), content(), mtime()).prop_map(|(at, content, mtime)| Op::RewriteOutside(at, content, mtime)),
        1 => old().prop_map(Op::ToggleReadable),
        1 => Just(Op::ToggleMount),
    ]
}

/// What a faithful kernel can tell of: not every name of a file that has several, not what was hidden
/// meanwhile, and of a write that changed no time only a name that the next rename of a directory takes away.
pub(crate) fn op_that_is_told() -> impl Strategy<Value = Op> {
    let directory = || 0..DIRECTORIES.len();
    prop_oneof![
        6 => (file(), content(), mtime()).prop_map(|(at, content, mtime)| Op::Create(at, content, mtime)),
        4 => (old(), content(), any::<bool>(), mtime())
            .prop_map(|(at, content, other_size, mtime)| Op::Rewrite(at, content, other_size, mtime)),
        2 => (old(), content()).prop_map(|(at, content)| Op::Replace(at, content)),
        1 => old().prop_map(Op::Touch),
        1 => old().prop_map(Op::Chmod),
        2 => old().prop_map(Op::Remove),
        9 => (old(), file()).prop_map(|(from, to)| Op::Rename(from, to)),
        1 => directory().prop_map(Op::MakeDirectory),
        1 => old().prop_map(Op::RemoveTree),
        4 => (old(), directory()).prop_map(|(from, to)| Op::RenameDirectory(from, to)),
        1 => old().prop_map(Op::MoveOut),
        2 => directory().prop_map(Op::MoveIn),
        1 => old().prop_map(Op::PutAside),
        2 => any::<Old>().prop_map(Op::PassName),
        1 => Just(Op::TakeBack),
    ]
}

/// The names of a few files of one directory are passed round, in steps; or passed on, if the first file stays aside.
pub(crate) fn permutation() -> impl Strategy<Value = Vec<Op>> {
    let passed = prop::collection::vec(any::<Old>().prop_map(Op::PassName), 1..4);
    (any::<Old>().prop_map(Op::PutAside), passed, prop_oneof![3 => Just(Some(Op::TakeBack)), 1 => Just(None)])
        .prop_map(|(first, passed, last)| [first].into_iter().chain(passed).chain(last).collect())
}

fn file() -> impl Strategy<Value = New> {
    0..FILES.len()
}

fn content() -> impl Strategy<Value = ContentId> {
    1..6_u8
}

fn mtime() -> impl Strategy<Value = Mtime> {
    prop_oneof![3 => Just(Mtime::Now), 3 => Just(Mtime::Restored), 1 => Just(Mtime::Future)]
}
