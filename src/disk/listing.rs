//! The entries of a directory that matter to a walk.

use std::cmp::Ordering;
use std::io;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, Mode, OFlags, RawDir, openat2};
use rustix::io::Errno;

use super::descent::{At, WITHIN};
use super::ignore_files::DirectoryRules;
use super::mounts::Present;
use super::outside::{Lead, is_unknown_link};
use super::stat::{KernelMount, RawStat};
use super::{Entry, LISTING_BUFFER, Root};
use crate::model::{FileStat, IGNORE_FILE, LibraryPath};

/// The entries of a directory that matter to a walk, in byte order of their paths.
///
/// The names are kept in one piece: a walk reads each of them once.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    names: Vec<u8>,
    entries: Vec<(Name, ListedKind)>,
}

/// Where a name is in the names of its listing.
type Name = Range<usize>;

/// One entry of a directory.
#[derive(Clone, Copy, Debug)]
pub struct Listed<'a> {
    /// Its name.
    pub name: &'a [u8],
    /// What it is.
    pub kind: &'a ListedKind,
}

impl Listing {
    /// The number of entries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The entry at this position.
    pub fn get(&self, at: usize) -> Option<Listed<'_>> {
        Some(Listed::of(&self.names, self.entries.get(at)?))
    }

    /// The entries from this position on.
    pub fn iter_from(&self, at: usize) -> impl Iterator<Item = Listed<'_>> {
        (at..self.len()).filter_map(|at| self.get(at))
    }
}

/// What a directory's entry is.
#[derive(Debug, Clone)]
pub enum ListedKind {
    /// A directory.
    Directory,
    /// A directory that is excluded.
    Excluded,
    /// A regular file with the extension of an audio file.
    File(FileStat),
    /// Something whose stat could not be read.
    Unreadable(Errno),
}

impl Root {
    /// The entries of a directory that matter to a walk: directories, and audio files that are not excluded. They are
    /// in byte order of their paths, so a directory sorts as `name/`. `None` if there is no directory of this name.
    /// The directory's `.ignore-music` is read anew.
    ///
    /// # Errors
    ///
    /// If the directory or its ignore file cannot be read.
    pub fn list(&self, directory: &LibraryPath) -> io::Result<Option<Listing>> {
        match self.lead(directory)? {
            Some(Lead::To(real)) => return self.list_real(real.at(), directory, true),
            Some(Lead::PassedOver) => return Ok(None),
            None => {}
        }
        match self.list_real(directory.into(), directory, self.follows_links())? {
            None => match self.behind_link(directory)? {
                Some(real) => self.list_real((&real).into(), directory, false),
                None => Ok(None),
            },
            listed => Ok(listed),
        }
    }

    /// Whether the root contains nothing but `lost+found` and hidden names, which begin with a dot.
    ///
    /// # Errors
    ///
    /// If the root was replaced or cannot be read.
    pub fn is_bare(&self) -> io::Result<bool> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = rustix::fs::openat(self.open_checked()?, c".", flags, Mode::empty())?;
        let mut buffer = [const { MaybeUninit::uninit() }; LISTING_BUFFER];
        let mut entries = RawDir::new(&opened, &mut buffer);
        while let Some(entry) = entries.next() {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if !name.starts_with(b".") && name != b"lost+found" {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// A directory, open so that its entries can be read. `None` if there is no directory of this name.
    pub(super) fn open_to_list(&self, at: At<'_>) -> io::Result<Option<OwnedFd>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        if at.outside.is_none() && !at.path.is_root() {
            self.servers.check(at.path)?;
            // If this fails, the reason is found out below.
            if let Ok(opened) = openat2(self.open_checked()?, at.path.as_bytes(), flags, Mode::empty(), WITHIN) {
                return Ok(Some(opened));
            }
        }
        let Some(path_only) = self.open_directory(at)? else { return Ok(None) };
        Ok(Some(rustix::fs::openat(&path_only, c".", flags, Mode::empty())?))
    }

    /// The entries of the directory at `real`, under the rules for `directory`.
    fn list_real(&self, real: At<'_>, directory: &LibraryPath, follow: bool) -> io::Result<Option<Listing>> {
        let Some(opened) = self.open_to_list(real)? else { return Ok(None) };
        let wanted = self.rules.extensions();
        let mut names: Vec<u8> = Vec::new();
        let mut found: Vec<(Name, FileType)> = Vec::new();
        let mut has_ignore_file = false;
        let mut buffer = [const { MaybeUninit::uninit() }; LISTING_BUFFER];
        let mut entries = RawDir::new(&opened, &mut buffer);
        while let Some(entry) = entries.next() {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            has_ignore_file |= name == IGNORE_FILE;
            match entry.file_type() {
                FileType::Directory if name == b"." || name == b".." => {}
                FileType::RegularFile if !wanted.matches_name(name) => {}
                FileType::Symlink if !follow => {}
                kind @ (FileType::Directory | FileType::RegularFile | FileType::Symlink | FileType::Unknown) => {
                    let begin = names.len();
                    names.extend_from_slice(name);
                    found.push((begin..names.len(), kind));
                }
                _ => {}
            }
        }
        // This way no system call looks for an ignore file in directories that have none.
        let ignore_file = has_ignore_file.then_some(opened.as_fd());
        let DirectoryRules::Included(ignore_file) = self.rules_now(directory, ignore_file)? else {
            let directories = found.into_iter().filter(|(_, kind)| *kind == FileType::Directory);
            let entries = directories.map(|(name, _)| (name, ListedKind::Excluded)).collect();
            return Ok(Some(Listing { names, entries }));
        };
        let is_excluded =
            |name: &[u8], is_directory| self.rules.excludes(ignore_file.as_deref(), directory, name, is_directory);
        let mut last_mount = None;
        let mut entries = Vec::with_capacity(found.len());
        for (place, file_type) in found {
            let name = &names[place.clone()];
            let kind = match file_type {
                FileType::Directory => Some(ListedKind::Directory),
                FileType::RegularFile if is_excluded(name, false) => None,
                FileType::Symlink => self.linked_kind(&directory.join(name)),
                _ => self.listed_kind(opened.as_fd(), (name, file_type), follow.then_some(directory), &mut last_mount),
            };
            let kind = match kind {
                // Its rules were applied before its stat was read.
                kind if file_type == FileType::RegularFile => kind,
                Some(ListedKind::Directory) if is_excluded(name, true) => Some(ListedKind::Excluded),
                Some(ListedKind::Directory) => kind,
                kind => kind.filter(|_| !is_excluded(name, false)),
            };
            entries.extend(kind.map(|kind| (place, kind)));
        }
        entries.sort_unstable_by(|one, other| Listed::of(&names, one).cmp_paths(Listed::of(&names, other)));
        Ok(Some(Listing { names, entries }))
    }

    /// The kind of an entry, given its name and type as they are listed. A link is followed if `follow` is the path of its
    /// directory.
    fn listed_kind(
        &self,
        directory: BorrowedFd<'_>,
        (name, listed_type): (&[u8], FileType),
        follow: Option<&LibraryPath>,
        last_mount: &mut Option<(KernelMount, Present)>,
    ) -> Option<ListedKind> {
        let unreadable = |error: &io::Error| match Errno::from_io_error(error) {
            Some(Errno::NOENT) => None,
            error => Some(ListedKind::Unreadable(error.unwrap_or(Errno::IO))),
        };
        match RawStat::at(directory, name) {
            Ok(found) => match found.kind {
                FileType::Directory => Some(ListedKind::Directory),
                // Other names were left out as far as the listing says what they are.
                FileType::RegularFile if listed_type == found.kind || self.rules.extensions().matches_name(name) => {
                    match *last_mount {
                        Some((mount, present)) if mount == found.mount => {
                            Some(ListedKind::File(present.file_stat(&found)))
                        }
                        _ => match self.mounts.of(&found, directory, Some(name)) {
                            Ok(present) => {
                                *last_mount = Some((found.mount, present));
                                Some(ListedKind::File(present.file_stat(&found)))
                            }
                            Err(error) => unreadable(&error),
                        },
                    }
                }
                FileType::Symlink => follow.and_then(|directory| self.linked_kind(&directory.join(name))),
                _ => None,
            },
            Err(error) => unreadable(&error),
        }
    }

    fn linked_kind(&self, link: &LibraryPath) -> Option<ListedKind> {
        let found = self.entry_by_links(link);
        if found.as_ref().is_err_and(is_unknown_link) {
            self.links_changed();
            return None;
        }
        match self.apply_rules(link, found) {
            Ok(Entry::Directory) => Some(ListedKind::Directory),
            Ok(Entry::File(stat)) => Some(ListedKind::File(stat)),
            Ok(_) => None,
            Err(error) => Some(ListedKind::Unreadable(Errno::from_io_error(&error).unwrap_or(Errno::IO))),
        }
    }
}

impl<'a> Listed<'a> {
    fn of(names: &'a [u8], (name, kind): &'a (Name, ListedKind)) -> Self {
        Self { name: &names[name.clone()], kind }
    }

    /// The order of whole paths: a directory, or anything that may be one, sorts as `name/`.
    fn cmp_paths(self, other: Self) -> Ordering {
        let common = self.name.len().min(other.name.len());
        let (one, two) = (self.byte_at(common), other.byte_at(common));
        self.name[..common].cmp(&other.name[..common]).then(one.cmp(&two)).then(self.name.len().cmp(&other.name.len()))
    }

    /// The byte of the sort key at a position within the name or right behind it. A file has none behind its name.
    fn byte_at(self, place: usize) -> Option<u8> {
        let slash = (!matches!(self.kind, ListedKind::File(_))).then_some(b'/');
        self.name.get(place).copied().or(slash)
    }
}
