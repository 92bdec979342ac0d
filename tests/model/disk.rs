//! A disk in memory: names, directories, inodes and a clock, with what people do to them.
//!
//! It keeps to what the kernel does as far as a look can tell: which times an operation changes, that
//! inode numbers are used again once nobody has the file, that a file which is open lives on without
//! a name. What the kernel tells a watcher of each operation is told too, as [`Told`].
//!
//! One thing is kinder than life: every change of content has a time of its own. Two within one tick
//! of a coarse clock, with a look between them, cannot be told apart by anybody.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use file_watcher::disk::Entry;
use file_watcher::library::Walked;
use file_watcher::model::{Extensions, FileStat, LibraryPath};
use proptest::prelude::*;

/// Where another filesystem can be mounted, and the number of that.
pub(crate) const MOUNT: &str = "m";
const MOUNTED_DEVICE: u64 = 7;

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

/// A time that lies ahead of every clock, as copied files may have: such a file is never old enough by its time.
const FUTURE: i64 = i64::MAX / 2;

/// What is in a file: each whole state that a writer meant has a number of its own.
pub(crate) type ContentId = u8;

#[derive(Clone, Debug)]
pub(crate) struct Inode {
    pub(crate) device: u64,
    pub(crate) number: u64,
    pub(crate) content: ContentId,
    pub(crate) size: u64,
    pub(crate) mtime: i64,
    pub(crate) ctime: i64,
    /// Written through a memory map without any time having changed yet.
    lazily_written: bool,
}

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

#[derive(Clone, Debug, Default)]
pub(crate) struct Disk {
    names: BTreeMap<LibraryPath, usize>,
    directories: BTreeSet<LibraryPath>,
    unreadable: BTreeSet<LibraryPath>,
    inodes: Vec<Inode>,
    /// What is on the filesystem that is not mounted now, or under the one that is.
    hidden_names: BTreeMap<LibraryPath, usize>,
    mounted: bool,
    clock: i64,
    renames: u32,
    /// Files that somebody has open.
    pub(crate) open: Vec<usize>,
}

fn new_file(index: New) -> LibraryPath {
    LibraryPath::from(FILES[index])
}

fn new_directory(index: New) -> LibraryPath {
    LibraryPath::from(DIRECTORIES[index])
}

impl Disk {
    pub(crate) fn new() -> Self {
        let mut disk = Self { mounted: true, ..Self::default() };
        disk.directories.insert(MOUNT.into());
        disk
    }

    /// Does `op`, if the disk as it is allows it, and says what the kernel tells of it.
    pub(crate) fn apply(&mut self, op: Op) -> Vec<Told> {
        let mut told = Vec::new();
        // Every other operation comes within the tick of the one before it.
        if !matches!(op, Op::Touch(_) | Op::Chmod(_) | Op::Rename(..) | Op::Link(..)) {
            self.clock += 1;
        }
        self.try_apply(op, &mut told);
        told
    }

    fn try_apply(&mut self, op: Op, told: &mut Vec<Told>) -> Option<()> {
        match op {
            Op::Create(at, content, mtime) => {
                let path = new_file(at);
                self.is_free(&path).then_some(())?;
                self.make_parents(&path, told)?;
                self.create(&path, content, mtime);
                told.extend([Told::Created(path.clone()), Told::Closed(path)]);
            }
            Op::Rewrite(at, content, other_size, mtime) => {
                let path = self.old_file(at)?;
                let now = self.clock;
                let inode = self.inode_mut(&path)?;
                inode.content = content;
                inode.size += u64::from(other_size);
                inode.ctime = now;
                match mtime {
                    Mtime::Now => inode.mtime = now,
                    Mtime::Restored => {}
                    Mtime::Future => inode.mtime = FUTURE + now,
                }
                told.push(Told::Closed(path.clone()));
                if mtime != Mtime::Now {
                    told.push(Told::Attributes(path));
                }
            }
            Op::Replace(at, content) => {
                let path = self.old_file(at)?;
                self.names.contains_key(&path).then_some(())?;
                self.reach(&path)?;
                let temporary = path.parent()?.join(b".new");
                self.create(&temporary, content, Mtime::Now);
                told.extend([Told::Created(temporary.clone()), Told::Closed(temporary.clone())]);
                self.rename(&temporary, &path, told);
            }
            Op::MapAndWrite(at, content) => {
                let path = self.old_file(at)?;
                // While it is read nothing could tell; the hint that follows makes up for it in life.
                self.open.is_empty().then_some(())?;
                let inode = self.inode_mut(&path)?;
                inode.content = content;
                inode.lazily_written = true;
                told.push(Told::Closed(path));
            }
            Op::Touch(at) => {
                let path = self.old_file(at)?;
                let now = self.clock;
                let inode = self.inode_mut(&path)?;
                (inode.mtime, inode.ctime) = (now, now);
                told.push(Told::Attributes(path));
            }
            Op::Chmod(at) => {
                let path = self.old_file(at)?;
                self.inode_mut(&path)?.ctime = self.clock;
                told.push(Told::Attributes(path));
            }
            Op::Remove(at) => {
                let path = self.old_file(at)?;
                self.inode_mut(&path)?.ctime = self.clock;
                self.names.remove(&path);
                told.push(Told::Removed(path));
            }
            Op::Rename(from, to) => self.rename_file(&self.old_file(from)?, &new_file(to), told)?,
            Op::Link(from, to) => {
                let (from, to) = (self.old_file(from)?, new_file(to));
                (self.is_free(&to) && self.device_at(&from) == self.device_at(&to)).then_some(())?;
                self.reach(&from)?;
                let source = *self.names.get(&from)?;
                self.make_parents(&to, told)?;
                self.inodes[source].ctime = self.clock;
                self.names.insert(to.clone(), source);
                told.push(Told::Created(to));
            }
            Op::MakeDirectory(at) => {
                let path = new_directory(at);
                self.is_free(&path).then_some(())?;
                self.make_parents(&path.join(b"x"), told)?;
            }
            Op::RemoveTree(at) => {
                let path = self.old_directory(at)?;
                self.directories.contains(&path).then_some(())?;
                self.reach(&path)?;
                (!self.unreadable.iter().any(|unreadable| unreadable.is_at_or_under(&path))).then_some(())?;
                let beneath: Vec<LibraryPath> =
                    self.names.keys().filter(|name| name.is_at_or_under(&path)).cloned().collect();
                for name in beneath {
                    self.inode_mut(&name)?.ctime = self.clock;
                    self.names.remove(&name);
                    told.push(Told::Removed(name));
                }
                let directories: Vec<LibraryPath> =
                    self.directories.iter().rev().filter(|name| name.is_at_or_under(&path)).cloned().collect();
                for name in directories {
                    self.directories.remove(&name);
                    told.push(Told::DirectoryRemoved(name));
                }
            }
            Op::RenameDirectory(from, to) => {
                self.rename_directory(&self.old_directory(from)?, &new_directory(to), told)?
            }
            Op::ToggleReadable(at) => {
                let path = self.old_directory(at)?;
                self.directories.contains(&path).then_some(())?;
                if !self.unreadable.remove(&path) {
                    self.unreadable.insert(path.clone());
                }
                told.push(Told::DirectoryAttributes(path));
            }
            Op::ToggleMount => {
                self.toggle_mount();
                told.push(Told::Unmounted);
            }
        }
        Some(())
    }

    /// Gives one of the files a name that was never used, in one of the directories.
    pub(crate) fn rename_to_new(&mut self, from: Old, to: Old, number: usize) -> Vec<Told> {
        self.clock += 1;
        let mut told = Vec::new();
        if let (Some(from), Some(to)) = (self.old_file(from), self.old_directory(to)) {
            self.rename_file(&from, &to.join(format!("new{number}.mp3").as_bytes()), &mut told);
        }
        told
    }

    /// Gives one of the directories a name that was never used, in the root or in another of them.
    pub(crate) fn rename_directory_to_new(&mut self, from: Old, to: Old, number: usize) -> Vec<Told> {
        self.clock += 1;
        let mut told = Vec::new();
        let to = if to < 64 { Some(LibraryPath::root()) } else { self.old_directory(to) };
        if let (Some(from), Some(to)) = (self.old_directory(from), to) {
            self.rename_directory(&from, &to.join(format!("d{number}").as_bytes()), &mut told);
        }
        told
    }

    pub(crate) fn rename_file(&mut self, from: &LibraryPath, to: &LibraryPath, told: &mut Vec<Told>) -> Option<()> {
        self.reach(from)?;
        let source = *self.names.get(from)?;
        (from != to && !self.directories.contains(to)).then_some(())?;
        self.make_parents(to, told)?;
        if self.device_at(from) == self.device_at(to) {
            // Two names of one file: the kernel does nothing.
            (self.names.get(to) != Some(&source)).then_some(())?;
            self.rename(from, to, told);
        } else {
            // What mv does then: copy, set the time, remove.
            let Inode { content, mtime, size, .. } = self.inodes[source];
            self.names.remove(to);
            let copy = self.create(to, content, Mtime::Now);
            (self.inodes[copy].mtime, self.inodes[copy].size) = (mtime, size);
            self.names.remove(from);
            let copied = [Told::Created(to.clone()), Told::Closed(to.clone()), Told::Attributes(to.clone())];
            told.extend(copied.into_iter().chain([Told::Removed(from.clone())]));
        }
        Some(())
    }

    pub(crate) fn rename_directory(
        &mut self,
        from: &LibraryPath,
        to: &LibraryPath,
        told: &mut Vec<Told>,
    ) -> Option<()> {
        self.directories.contains(from).then_some(())?;
        self.reach(from)?;
        (self.is_free(to) && !to.is_at_or_under(from)).then_some(())?;
        self.make_parents(to, told)?;
        let moved = |path: LibraryPath| {
            if !path.is_at_or_under(from) {
                return path;
            }
            let below = &path.as_bytes()[from.as_bytes().len()..];
            LibraryPath::from_bytes(&[to.as_bytes(), below].concat())
        };
        self.directories = std::mem::take(&mut self.directories).into_iter().map(moved).collect();
        self.unreadable = std::mem::take(&mut self.unreadable).into_iter().map(moved).collect();
        self.names = std::mem::take(&mut self.names).into_iter().map(|(path, inode)| (moved(path), inode)).collect();
        self.tell_rename(from, to, told);
        Some(())
    }

    fn toggle_mount(&mut self) {
        let mount = LibraryPath::from(MOUNT);
        let shown: Vec<LibraryPath> = self.names.keys().filter(|name| name.is_at_or_under(&mount)).cloned().collect();
        let shown = shown.into_iter().filter_map(|name| self.names.remove_entry(&name)).collect();
        let hidden = std::mem::replace(&mut self.hidden_names, shown);
        self.names.extend(hidden);
        self.mounted = !self.mounted;
    }

    fn rename(&mut self, from: &LibraryPath, to: &LibraryPath, told: &mut Vec<Told>) {
        let Some(inode) = self.names.remove(from) else { return };
        if let Some(overwritten) = self.names.insert(to.clone(), inode) {
            self.inodes[overwritten].ctime = self.clock;
        }
        self.inodes[inode].ctime = self.clock;
        self.tell_rename(from, to, told);
    }

    fn tell_rename(&mut self, from: &LibraryPath, to: &LibraryPath, told: &mut Vec<Told>) {
        self.renames += 1;
        told.extend([Told::Went(from.clone(), self.renames), Told::Came(to.clone(), self.renames)]);
    }

    fn create(&mut self, path: &LibraryPath, content: ContentId, mtime: Mtime) -> usize {
        let device = self.device_at(path);
        let now = self.clock;
        let mtime = if mtime == Mtime::Future { FUTURE + now } else { now };
        // The lowest number that nobody has: deleted files give theirs to the next one.
        let in_use: BTreeSet<u64> = self
            .names
            .values()
            .chain(self.hidden_names.values())
            .chain(&self.open)
            .map(|&inode| &self.inodes[inode])
            .filter(|inode| inode.device == device)
            .map(|inode| inode.number)
            .collect();
        let number = (1..).find(|number| !in_use.contains(number)).unwrap_or_default();
        self.inodes.push(Inode { device, number, content, size: 100, mtime, ctime: now, lazily_written: false });
        self.names.insert(path.clone(), self.inodes.len() - 1);
        self.inodes.len() - 1
    }

    fn old_file(&self, at: Old) -> Option<LibraryPath> {
        self.names.keys().nth(usize::from(at) % self.names.len().max(1)).cloned()
    }

    /// A directory that is no place for a mount.
    fn old_directory(&self, at: Old) -> Option<LibraryPath> {
        let others = self.directories.len() - 1;
        let mut old = self.directories.iter().filter(|path| path.as_bytes() != MOUNT.as_bytes());
        old.nth(usize::from(at) % others.max(1)).cloned()
    }

    /// Makes the directories above `path`; nothing where a file or a lack of rights is in the way.
    fn make_parents(&mut self, path: &LibraryPath, told: &mut Vec<Told>) -> Option<()> {
        let mut parents = Vec::new();
        let mut parent = path.parent()?;
        while !parent.is_root() {
            (!self.names.contains_key(&parent) && !self.unreadable.contains(&parent)).then_some(())?;
            parents.push(parent.clone());
            parent = parent.parent()?;
        }
        for parent in parents.into_iter().rev() {
            if self.directories.insert(parent.clone()) {
                told.push(Told::DirectoryMade(parent));
            }
        }
        Some(())
    }

    fn is_free(&self, path: &LibraryPath) -> bool {
        !self.names.contains_key(path) && !self.directories.contains(path)
    }

    /// Nothing where a directory above `path` cannot be searched.
    fn reach(&self, path: &LibraryPath) -> Option<()> {
        (!self.is_sealed(path)).then_some(())
    }

    fn is_sealed(&self, path: &LibraryPath) -> bool {
        self.unreadable.iter().any(|directory| path != directory && path.is_at_or_under(directory))
    }

    fn inode_mut(&mut self, path: &LibraryPath) -> Option<&mut Inode> {
        self.reach(path)?;
        let inode = *self.names.get(path)?;
        self.inodes.get_mut(inode)
    }

    fn device_at(&self, path: &LibraryPath) -> u64 {
        let beneath_mount = self.mounted && path.is_at_or_under(&MOUNT.into());
        if beneath_mount { MOUNTED_DEVICE } else { 0 }
    }

    // What a look sees.

    pub(crate) fn entry(&self, path: &LibraryPath) -> io::Result<Entry> {
        if self.is_sealed(path) {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        if path.is_root() || self.directories.contains(path) {
            return Ok(Entry::Directory);
        }
        if let Some(&inode) = self.names.get(path) {
            return Ok(Entry::File(self.stat(inode)));
        }
        let mut nearest = path.parent().unwrap_or_else(LibraryPath::root);
        while !nearest.is_root() && !self.directories.contains(&nearest) {
            nearest = nearest.parent().unwrap_or_else(LibraryPath::root);
        }
        Ok(Entry::Missing { nearest_device: self.device_at(&nearest) })
    }

    pub(crate) fn open(&mut self, path: &LibraryPath) -> io::Result<Option<usize>> {
        if self.is_sealed(path) {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        let opened = self.names.get(path).copied();
        self.open.extend(opened);
        Ok(opened)
    }

    pub(crate) fn stat(&self, inode: usize) -> FileStat {
        let Inode { device, number, size, mtime, ctime, .. } = self.inodes[inode];
        FileStat { device, inode: number, size, mtime_ns: mtime, ctime_ns: ctime }
    }

    pub(crate) fn content(&self, inode: usize) -> ContentId {
        self.inodes[inode].content
    }

    /// What the file at `path` holds, whether or not anybody may see it.
    pub(crate) fn content_at(&self, path: &LibraryPath) -> Option<ContentId> {
        self.names.get(path).map(|&inode| self.content(inode))
    }

    /// What a walk of `start` comes by, in the order of paths.
    pub(crate) fn walk(&self, start: &LibraryPath, extensions: &Extensions) -> Vec<Walked> {
        let denied = || io::Error::from(io::ErrorKind::PermissionDenied);
        if self.is_sealed(start) {
            return vec![Walked::Unreadable(start.clone(), denied())];
        }
        let mut walked: Vec<(LibraryPath, Walked)> = self
            .names
            .iter()
            .filter(|(path, _)| path.is_at_or_under(start) && !self.is_sealed(path) && extensions.matches(path))
            .map(|(path, &inode)| (path.clone(), Walked::File(path.clone(), self.stat(inode))))
            .collect();
        let sealed = self.unreadable.iter().filter(|path| path.is_at_or_under(start) && !self.is_sealed(path));
        walked.extend(sealed.map(|path| (path.join(b""), Walked::Unreadable(path.clone(), denied()))));
        walked.sort_by(|one, other| one.0.cmp(&other.0));
        walked.into_iter().map(|(_, walked)| walked).collect()
    }

    // What the tests ask for.

    /// Every audio file that can be seen.
    pub(crate) fn library(&self, extensions: &Extensions) -> BTreeMap<LibraryPath, (FileStat, ContentId)> {
        self.names
            .iter()
            .filter(|(path, _)| extensions.matches(path) && !self.is_sealed(path))
            .map(|(path, &inode)| (path.clone(), (self.stat(inode), self.content(inode))))
            .collect()
    }

    /// Whether nothing can be said now of a file that was at `path` with this stat.
    pub(crate) fn is_out_of_sight(&self, path: &LibraryPath, stat: &FileStat) -> bool {
        self.is_sealed(path)
            || (stat.device != 0
                && matches!(self.entry(path), Ok(Entry::Missing { nearest_device }) if nearest_device != stat.device))
    }

    /// Makes everything visible again.
    pub(crate) fn heal(&mut self) {
        self.unreadable.clear();
        if !self.mounted {
            self.toggle_mount();
        }
    }

    pub(crate) fn is_directory(&self, path: &LibraryPath) -> bool {
        self.directories.contains(path)
    }

    /// The kernel writes mapped pages back sooner or later, and then the times change.
    pub(crate) fn write_back(&mut self) {
        self.clock += 1;
        for inode in self.inodes.iter_mut().filter(|inode| inode.lazily_written) {
            (inode.mtime, inode.ctime, inode.lazily_written) = (self.clock, self.clock, false);
        }
    }
}

/// Any operation; renames and rewrites are what goes wrong, so they come most.
pub(crate) fn any_op() -> impl Strategy<Value = Op> {
    let old = any::<Old>;
    let file = || 0..FILES.len();
    let directory = || 0..DIRECTORIES.len();
    let content = || 1..6_u8;
    let mtime = || prop_oneof![3 => Just(Mtime::Now), 3 => Just(Mtime::Restored), 1 => Just(Mtime::Future)];
    prop_oneof![
        6 => (file(), content(), mtime()).prop_map(|(at, content, mtime)| Op::Create(at, content, mtime)),
        4 => (old(), content(), any::<bool>(), mtime())
            .prop_map(|(at, content, other_size, mtime)| Op::Rewrite(at, content, other_size, mtime)),
        2 => (old(), content()).prop_map(|(at, content)| Op::Replace(at, content)),
        1 => (old(), content()).prop_map(|(at, content)| Op::MapAndWrite(at, content)),
        1 => old().prop_map(Op::Touch),
        1 => old().prop_map(Op::Chmod),
        2 => old().prop_map(Op::Remove),
        6 => (old(), file()).prop_map(|(from, to)| Op::Rename(from, to)),
        1 => (old(), file()).prop_map(|(from, to)| Op::Link(from, to)),
        1 => directory().prop_map(Op::MakeDirectory),
        1 => old().prop_map(Op::RemoveTree),
        4 => (old(), directory()).prop_map(|(from, to)| Op::RenameDirectory(from, to)),
        1 => old().prop_map(Op::ToggleReadable),
        1 => Just(Op::ToggleMount),
    ]
}
