//! A disk in memory: names, directories, inodes and a clock, with the operations on them.
//!
//! It behaves as the kernel as far as a look can see: which times an operation changes, that the inode number of a deleted
//! file is reused, and that an open file exists without a name. Each operation returns its events as [`Event`]s.
//!
//! Two things differ from a real disk. Every change of content has its own time: two changes within one tick of a coarse
//! clock, with a look between them, cannot be distinguished. And a hard link outside of the library is never removed:
//! after its removal, nothing would show that the file could have been written without an event.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use file_watcher::disk::Entry;
use file_watcher::library::Walked;
use file_watcher::model::{Extensions, FileStat, LibraryPath, MountId};

use crate::operation::{ContentId, DIRECTORIES, Event, ExistingIndex, FILES, Mtime, NameIndex, Op};

/// The mount point of another filesystem, and the id of its mount.
pub(crate) const MOUNT: &str = "m";
const MOUNTED: MountId = MountId(7);

/// A modification time ahead of every clock, as copied files may have. Such a file never becomes old enough.
const FUTURE: i64 = i64::MAX / 2;

#[derive(Clone, Debug)]
pub(crate) struct Inode {
    pub(crate) mount: MountId,
    pub(crate) number: u64,
    pub(crate) content: ContentId,
    pub(crate) size: u64,
    pub(crate) mtime: i64,
    pub(crate) ctime: i64,
    /// The birth time, on a filesystem that has it.
    born: Option<i64>,
    /// Written through a memory map, and no time has changed yet.
    lazily_written: bool,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Disk {
    names: BTreeMap<LibraryPath, usize>,
    directories: BTreeSet<LibraryPath>,
    unreadable: BTreeSet<LibraryPath>,
    inodes: Vec<Inode>,
    /// The files of the filesystem that is not mounted, or the files hidden by the mounted one.
    hidden_names: BTreeMap<LibraryPath, usize>,
    mounted: bool,
    keeps_births: bool,
    /// The free name in a permutation of names.
    free_name: Option<LibraryPath>,
    clock: i64,
    renames: u32,
    /// The directory that was moved to an unwatched place.
    outside: Option<Tree>,
    /// Files with a hard link in an unwatched place.
    linked_outside: BTreeSet<usize>,
    /// Files that were written and are not closed yet.
    unclosed: Vec<usize>,
    /// Files that a look has open.
    pub(crate) open: Vec<usize>,
}

/// A detached directory: everything in it, by relative paths.
#[derive(Clone, Debug, Default)]
struct Tree {
    directories: BTreeSet<Vec<u8>>,
    names: BTreeMap<Vec<u8>, usize>,
}

impl Inode {
    fn rewrite(&mut self, content: ContentId, mtime: Mtime, now: i64) {
        (self.content, self.ctime) = (content, now);
        match mtime {
            Mtime::Now => self.mtime = now,
            Mtime::Restored => {}
            Mtime::Future => self.mtime = FUTURE + now,
        }
    }
}

/// The temporary name in a permutation of names.
const ASIDE: &[u8] = b"aside.mp3";

fn is_aside(path: &LibraryPath) -> bool {
    path.as_bytes().ends_with(ASIDE)
}

fn new_file(index: NameIndex) -> LibraryPath {
    LibraryPath::from(FILES[index])
}

fn new_directory(index: NameIndex) -> LibraryPath {
    LibraryPath::from(DIRECTORIES[index])
}

impl Disk {
    pub(crate) fn new(keeps_births: bool) -> Self {
        let mut disk = Self { mounted: true, keeps_births, ..Self::default() };
        disk.directories.insert(MOUNT.into());
        disk
    }

    /// Does `op` if the current state allows it, and returns its events.
    pub(crate) fn apply(&mut self, op: Op) -> Vec<Event> {
        let mut events = Vec::new();
        // Some operations happen within the same tick as the one before them.
        let ticks = match op {
            Op::Touch(_) | Op::Chmod(_) | Op::Link(..) | Op::LinkOutside(_) => false,
            Op::Rename(..) | Op::PutAside(_) | Op::PassName(_) | Op::TakeBack => self.renames.is_multiple_of(2),
            _ => true,
        };
        self.clock += i64::from(ticks);
        self.try_apply(op, &mut events);
        events
    }

    fn try_apply(&mut self, op: Op, events: &mut Vec<Event>) -> Option<()> {
        match op {
            Op::Create(..)
            | Op::Rewrite(..)
            | Op::RewriteAndKeepOpen(..)
            | Op::CloseAll
            | Op::Replace(..)
            | Op::MapAndWrite(..)
            | Op::RewriteOutside(..) => self.write(op, events),
            Op::MakeDirectory(_)
            | Op::RemoveTree(_)
            | Op::RenameDirectory(..)
            | Op::ToggleReadable(_)
            | Op::ToggleMount
            | Op::MoveOut(_)
            | Op::MoveIn(_) => self.change_tree(op, events),
            Op::Touch(_) | Op::Chmod(_) | Op::Remove(_) | Op::Rename(..) | Op::Link(..) | Op::LinkOutside(_) => {
                self.change_file(op, events)
            }
            Op::PutAside(_) | Op::PassName(_) | Op::TakeBack => self.permute_names(op, events),
        }
    }

    /// Operations that change content.
    fn write(&mut self, op: Op, events: &mut Vec<Event>) -> Option<()> {
        match op {
            Op::Create(at, content, mtime) => {
                let path = new_file(at);
                self.is_free(&path).then_some(())?;
                self.make_parents(&path, events)?;
                self.create(&path, content, mtime);
                events.extend([Event::Created(path.clone()), Event::Closed(path)]);
            }
            Op::Rewrite(at, content, other_size, mtime) => {
                let path = self.existing_file(at)?;
                let now = self.clock;
                let inode = self.inode_mut(&path)?;
                inode.rewrite(content, mtime, now);
                inode.size += u64::from(other_size);
                events.push(Event::Closed(path.clone()));
                if mtime != Mtime::Now {
                    events.push(Event::Attributes(path));
                }
            }
            Op::RewriteAndKeepOpen(at, content) => {
                let path = self.existing_file(at)?;
                let now = self.clock;
                // The reset of the modification time has no event here.
                self.inode_mut(&path)?.rewrite(content, Mtime::Restored, now);
                self.unclosed.extend(self.names.get(&path));
            }
            Op::CloseAll => {
                for inode in std::mem::take(&mut self.unclosed) {
                    let name = self.names.iter().find(|(_, other)| **other == inode);
                    events.extend(name.map(|(path, _)| Event::Closed(path.clone())));
                }
            }
            Op::Replace(at, content) => {
                let path = self.existing_file(at)?;
                self.names.contains_key(&path).then_some(())?;
                self.reach(&path)?;
                let temporary = path.parent()?.join(b".new");
                self.create(&temporary, content, Mtime::Now);
                events.extend([Event::Created(temporary.clone()), Event::Closed(temporary.clone())]);
                self.rename(&temporary, &path, events);
            }
            Op::MapAndWrite(at, content) => {
                let path = self.existing_file(at)?;
                // A read at the same time could not notice it. On a real disk, the event that follows causes another look.
                self.open.is_empty().then_some(())?;
                let inode = self.inode_mut(&path)?;
                inode.content = content;
                inode.lazily_written = true;
                events.push(Event::Closed(path));
            }
            Op::RewriteOutside(at, content, mtime) => {
                let moved = self.outside.iter().flat_map(|tree| tree.names.values());
                let outside: Vec<usize> = moved.chain(&self.linked_outside).copied().collect();
                let inode = *outside.get(usize::from(at) % outside.len().max(1))?;
                self.inodes[inode].rewrite(content, mtime, self.clock);
            }
            _ => {}
        }
        Some(())
    }

    /// Operations that change names or attributes of a file.
    fn change_file(&mut self, op: Op, events: &mut Vec<Event>) -> Option<()> {
        match op {
            Op::Touch(at) => {
                let path = self.existing_file(at)?;
                let now = self.clock;
                let inode = self.inode_mut(&path)?;
                (inode.mtime, inode.ctime) = (now, now);
                events.push(Event::Attributes(path));
            }
            Op::Chmod(at) => {
                let path = self.existing_file(at)?;
                self.inode_mut(&path)?.ctime = self.clock;
                events.push(Event::Attributes(path));
            }
            Op::Remove(at) => {
                let path = self.existing_file(at)?;
                self.inode_mut(&path)?.ctime = self.clock;
                self.names.remove(&path);
                events.push(Event::Removed(path));
            }
            Op::Rename(from, to) => self.rename_file(&self.existing_file(from)?, &new_file(to), events)?,
            Op::Link(from, to) => {
                let (from, to) = (self.existing_file(from)?, new_file(to));
                (self.is_free(&to) && self.mount_at(&from) == self.mount_at(&to)).then_some(())?;
                self.reach(&from)?;
                let source = *self.names.get(&from)?;
                self.make_parents(&to, events)?;
                self.inodes[source].ctime = self.clock;
                self.names.insert(to.clone(), source);
                events.push(Event::Created(to));
            }
            Op::LinkOutside(at) => {
                let path = self.existing_file(at)?;
                self.inode_mut(&path)?.ctime = self.clock;
                self.linked_outside.extend(self.names.get(&path));
            }
            _ => {}
        }
        Some(())
    }

    /// Operations that permute the names of a directory.
    fn permute_names(&mut self, op: Op, events: &mut Vec<Event>) -> Option<()> {
        let (from, to) = match op {
            Op::PutAside(at) => {
                let path = self.existing_file(at)?;
                let aside = path.parent()?.join(ASIDE);
                (path, aside)
            }
            Op::PassName(at) => {
                let free = self.free_name.clone()?;
                let directory = free.parent()?;
                let is_other = |name: &&LibraryPath| name.parent().as_ref() == Some(&directory) && !is_aside(name);
                let others: Vec<&LibraryPath> = self.names.keys().filter(is_other).collect();
                ((*others.get(usize::from(at) % others.len().max(1))?).clone(), free)
            }
            _ => {
                let free = self.free_name.clone()?;
                (free.parent()?.join(ASIDE), free)
            }
        };
        // No file is overwritten.
        (!self.names.contains_key(&to)).then_some(())?;
        self.rename_file(&from, &to, events)?;
        self.free_name = (!is_aside(&from)).then_some(from);
        Some(())
    }

    /// Operations on directories.
    fn change_tree(&mut self, op: Op, events: &mut Vec<Event>) -> Option<()> {
        match op {
            Op::MakeDirectory(at) => {
                let path = new_directory(at);
                self.is_free(&path).then_some(())?;
                self.make_parents(&path.join(b"x"), events)?;
            }
            Op::RemoveTree(at) => {
                let path = self.existing_directory(at)?;
                self.directories.contains(&path).then_some(())?;
                self.reach(&path)?;
                (!self.unreadable.iter().any(|unreadable| unreadable.is_at_or_under(&path))).then_some(())?;
                let names: Vec<LibraryPath> =
                    self.names.keys().filter(|name| name.is_at_or_under(&path)).cloned().collect();
                for name in names {
                    self.inode_mut(&name)?.ctime = self.clock;
                    self.names.remove(&name);
                    events.push(Event::Removed(name));
                }
                let directories: Vec<LibraryPath> =
                    self.directories.iter().rev().filter(|name| name.is_at_or_under(&path)).cloned().collect();
                for name in directories {
                    self.directories.remove(&name);
                    events.push(Event::DirectoryRemoved(name));
                }
            }
            Op::RenameDirectory(from, to) => {
                self.rename_directory(&self.existing_directory(from)?, &new_directory(to), events)?;
            }
            Op::ToggleReadable(at) => {
                let path = self.existing_directory(at)?;
                self.directories.contains(&path).then_some(())?;
                if !self.unreadable.remove(&path) {
                    self.unreadable.insert(path.clone());
                }
                events.push(Event::DirectoryAttributes(path));
            }
            Op::ToggleMount => {
                self.toggle_mount();
                events.push(Event::Unmounted);
            }
            Op::MoveOut(at) => {
                let path = self.existing_directory(at)?;
                (self.outside.is_none() && self.directories.contains(&path)).then_some(())?;
                self.reach(&path)?;
                let sealed = self.unreadable.iter().any(|unreadable| unreadable.is_at_or_under(&path));
                (!sealed).then_some(())?;
                self.outside = Some(self.take_tree(&path));
                self.renames += 1;
                events.push(Event::MovedFrom(path, self.renames));
            }
            Op::MoveIn(at) => {
                let path = new_directory(at);
                (self.outside.is_some() && self.is_free(&path)).then_some(())?;
                self.make_parents(&path, events)?;
                let Tree { directories, names } = self.outside.take()?;
                let inside = |end: Vec<u8>| LibraryPath::from_bytes(&[path.as_bytes(), &end].concat());
                self.directories.extend(directories.into_iter().map(inside));
                self.names.extend(names.into_iter().map(|(end, inode)| (inside(end), inode)));
                self.renames += 1;
                events.push(Event::MovedTo(path, self.renames));
            }
            _ => {}
        }
        Some(())
    }

    /// Detaches everything at or under `path`.
    fn take_tree(&mut self, path: &LibraryPath) -> Tree {
        let end = |inner: &LibraryPath| inner.as_bytes()[path.as_bytes().len()..].to_vec();
        let directories = self.directories.extract_if(.., |directory| directory.is_at_or_under(path));
        let directories = directories.map(|directory| end(&directory)).collect();
        let names = self.names.extract_if(.., |name, _| name.is_at_or_under(path));
        Tree { directories, names: names.map(|(name, inode)| (end(&name), inode)).collect() }
    }

    /// Renames a file to a name that was never used, in one of the directories.
    pub(crate) fn rename_to_new(&mut self, from: ExistingIndex, to: ExistingIndex, number: usize) -> Vec<Event> {
        self.clock += 1;
        let mut events = Vec::new();
        if let (Some(from), Some(to)) = (self.existing_file(from), self.existing_directory(to)) {
            self.rename_file(&from, &to.join(format!("new{number}.mp3").as_bytes()), &mut events);
        }
        events
    }

    /// Renames a directory to a name that was never used, in the root or in another directory.
    pub(crate) fn rename_directory_to_new(
        &mut self,
        from: ExistingIndex,
        to: ExistingIndex,
        number: usize,
    ) -> Vec<Event> {
        self.clock += 1;
        let mut events = Vec::new();
        let to = if to < 64 { Some(LibraryPath::root()) } else { self.existing_directory(to) };
        if let (Some(from), Some(to)) = (self.existing_directory(from), to) {
            self.rename_directory(&from, &to.join(format!("d{number}").as_bytes()), &mut events);
        }
        events
    }

    pub(crate) fn rename_file(&mut self, from: &LibraryPath, to: &LibraryPath, events: &mut Vec<Event>) -> Option<()> {
        self.reach(from)?;
        let source = *self.names.get(from)?;
        (from != to && !self.directories.contains(to)).then_some(())?;
        self.make_parents(to, events)?;
        if self.mount_at(from) == self.mount_at(to) {
            // Two names of one file: the kernel does nothing.
            (self.names.get(to) != Some(&source)).then_some(())?;
            self.rename(from, to, events);
        } else {
            // As mv does between filesystems: copy, set the time, remove.
            self.clock += 1;
            let Inode { content, mtime, size, .. } = self.inodes[source];
            self.names.remove(to);
            let copy = self.create(to, content, Mtime::Now);
            (self.inodes[copy].mtime, self.inodes[copy].size) = (mtime, size);
            self.names.remove(from);
            let copied = [Event::Created(to.clone()), Event::Closed(to.clone()), Event::Attributes(to.clone())];
            events.extend(copied.into_iter().chain([Event::Removed(from.clone())]));
        }
        Some(())
    }

    pub(crate) fn rename_directory(
        &mut self,
        from: &LibraryPath,
        to: &LibraryPath,
        events: &mut Vec<Event>,
    ) -> Option<()> {
        self.directories.contains(from).then_some(())?;
        self.reach(from)?;
        (self.is_free(to) && !to.is_at_or_under(from)).then_some(())?;
        self.make_parents(to, events)?;
        let moved = |path: LibraryPath| {
            if !path.is_at_or_under(from) {
                return path;
            }
            let end = &path.as_bytes()[from.as_bytes().len()..];
            LibraryPath::from_bytes(&[to.as_bytes(), end].concat())
        };
        self.directories = std::mem::take(&mut self.directories).into_iter().map(moved).collect();
        self.unreadable = std::mem::take(&mut self.unreadable).into_iter().map(moved).collect();
        self.names = std::mem::take(&mut self.names).into_iter().map(|(path, inode)| (moved(path), inode)).collect();
        self.push_rename(from, to, events);
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

    fn rename(&mut self, from: &LibraryPath, to: &LibraryPath, events: &mut Vec<Event>) {
        let Some(inode) = self.names.remove(from) else { return };
        if let Some(overwritten) = self.names.insert(to.clone(), inode) {
            self.inodes[overwritten].ctime = self.clock;
        }
        self.inodes[inode].ctime = self.clock;
        self.push_rename(from, to, events);
    }

    fn push_rename(&mut self, from: &LibraryPath, to: &LibraryPath, events: &mut Vec<Event>) {
        self.renames += 1;
        events.extend([Event::MovedFrom(from.clone(), self.renames), Event::MovedTo(to.clone(), self.renames)]);
    }

    fn create(&mut self, path: &LibraryPath, content: ContentId, mtime: Mtime) -> usize {
        let mount = self.mount_at(path);
        let now = self.clock;
        let mtime = if mtime == Mtime::Future { FUTURE + now } else { now };
        // The lowest free number, so that the numbers of deleted files are reused.
        let in_use: BTreeSet<u64> = self
            .names
            .values()
            .chain(self.hidden_names.values())
            .chain(self.outside.iter().flat_map(|tree| tree.names.values()))
            .chain(&self.linked_outside)
            .chain(&self.open)
            .map(|&inode| &self.inodes[inode])
            .filter(|inode| inode.mount == mount)
            .map(|inode| inode.number)
            .collect();
        let born = self.keeps_births.then_some(now);
        let number = (1..1000).find(|number| !in_use.contains(number)).unwrap_or_default();
        self.inodes.push(Inode { mount, number, content, size: 100, mtime, ctime: now, born, lazily_written: false });
        self.names.insert(path.clone(), self.inodes.len() - 1);
        self.inodes.len() - 1
    }

    fn existing_file(&self, at: ExistingIndex) -> Option<LibraryPath> {
        self.names.keys().nth(usize::from(at) % self.names.len().max(1)).cloned()
    }

    /// A directory that is not the mount point.
    fn existing_directory(&self, at: ExistingIndex) -> Option<LibraryPath> {
        let others = self.directories.len() - 1;
        let mut existing = self.directories.iter().filter(|path| path.as_bytes() != MOUNT.as_bytes());
        existing.nth(usize::from(at) % others.max(1)).cloned()
    }

    /// Creates the directories above `path`. `None` if a file or a missing permission prevents it.
    fn make_parents(&mut self, path: &LibraryPath, events: &mut Vec<Event>) -> Option<()> {
        let mut parents = Vec::new();
        let mut parent = path.parent()?;
        while !parent.is_root() {
            (!self.names.contains_key(&parent) && !self.unreadable.contains(&parent)).then_some(())?;
            parents.push(parent.clone());
            parent = parent.parent()?;
        }
        for parent in parents.into_iter().rev() {
            if self.directories.insert(parent.clone()) {
                events.push(Event::DirectoryCreated(parent));
            }
        }
        Some(())
    }

    fn is_free(&self, path: &LibraryPath) -> bool {
        !self.names.contains_key(path) && !self.directories.contains(path)
    }

    /// `None` if a directory above `path` cannot be searched.
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

    fn mount_at(&self, path: &LibraryPath) -> MountId {
        let is_on_mount = self.mounted && path.is_at_or_under(&MOUNT.into());
        if is_on_mount { MOUNTED } else { MountId(0) }
    }

    // For looks.

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
        Ok(Entry::Missing { nearest_mount: self.mount_at(&nearest) })
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
        let Inode { mount, number, size, mtime, ctime, born, .. } = self.inodes[inode];
        let (mtime_ns, ctime_ns) = (mtime.into(), ctime.into());
        FileStat { mount, inode: number, born_ns: born, size, mtime_ns, ctime_ns, ..FileStat::default() }
    }

    pub(crate) fn has_one_name(&self, path: &LibraryPath) -> io::Result<bool> {
        if self.is_sealed(path) {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        let Some(inode) = self.names.get(path) else { return Err(io::ErrorKind::NotFound.into()) };
        let names = self.names.values().chain(self.hidden_names.values()).filter(|named| *named == inode);
        Ok(names.count() == 1 && !self.linked_outside.contains(inode))
    }

    pub(crate) fn content(&self, inode: usize) -> ContentId {
        self.inodes[inode].content
    }

    /// The content of the file at `path`, whether or not it can be read.
    pub(crate) fn content_at(&self, path: &LibraryPath) -> Option<ContentId> {
        self.names.get(path).map(|&inode| self.content(inode))
    }

    pub(crate) fn contents(&self) -> impl Iterator<Item = (LibraryPath, ContentId)> {
        self.names.iter().map(|(path, &inode)| (path.clone(), self.content(inode)))
    }

    /// What a walk of `start` finds, in the order of paths.
    pub(crate) fn walk(&self, start: &LibraryPath, extensions: &Extensions) -> Vec<Walked> {
        let denied = || io::Error::from(io::ErrorKind::PermissionDenied);
        if self.is_sealed(start) {
            return vec![Walked::Unreadable(start.clone(), denied())];
        }
        let mut walked: Vec<(LibraryPath, Walked)> = self
            .names
            .iter()
            .filter(|(path, _)| path.is_at_or_under(start) && !self.is_sealed(path) && extensions.matches(path))
            .map(|(path, &inode)| (path.clone(), Walked::File(path.clone().into(), self.stat(inode))))
            .collect();
        let sealed = self.unreadable.iter().filter(|path| path.is_at_or_under(start) && !self.is_sealed(path));
        walked.extend(sealed.map(|path| (path.join(b""), Walked::Unreadable(path.clone(), denied()))));
        walked.sort_by(|one, other| one.0.cmp(&other.0));
        walked.into_iter().map(|(_, walked)| walked).collect()
    }

    // For the checks.

    /// Every audio file that can be read.
    pub(crate) fn library(&self, extensions: &Extensions) -> BTreeMap<LibraryPath, (FileStat, ContentId)> {
        self.names
            .iter()
            .filter(|(path, _)| extensions.matches(path) && !self.is_sealed(path))
            .map(|(path, &inode)| (path.clone(), (self.stat(inode), self.content(inode))))
            .collect()
    }

    /// Whether there is nothing but the mount point of the other filesystem.
    pub(crate) fn is_bare(&self) -> bool {
        self.names.is_empty() && self.directories.iter().all(|directory| *directory == MOUNT.into())
    }

    /// Whether the file that was at `path` with this stat may exist and be unreadable or unmounted now.
    pub(crate) fn is_out_of_sight(&self, path: &LibraryPath, stat: &FileStat) -> bool {
        self.is_sealed(path) || self.is_mount_gone(path, stat)
    }

    /// Whether the filesystem of the file that was at `path` with this stat is not mounted.
    pub(crate) fn is_mount_gone(&self, path: &LibraryPath, stat: &FileStat) -> bool {
        matches!(self.entry(path), Ok(Entry::Missing { nearest_mount }) if nearest_mount != stat.mount)
    }

    /// Makes all directories readable and mounts the filesystem.
    pub(crate) fn restore_access(&mut self) -> Vec<Event> {
        self.unreadable.clear();
        if !self.mounted {
            self.toggle_mount();
        }
        Vec::new()
    }

    /// Writes mapped pages back, as the kernel does at some time. Then the times change.
    pub(crate) fn write_back(&mut self) {
        self.clock += 1;
        for inode in self.inodes.iter_mut().filter(|inode| inode.lazily_written) {
            (inode.mtime, inode.ctime, inode.lazily_written) = (self.clock, self.clock, false);
        }
    }
}
