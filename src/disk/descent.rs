//! The descent from the root to a path, name by name, without following a link.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;

use super::links::is_absence;
use super::stat::RawStat;
use super::{Entry, Place, Root, names};
use crate::model::{FileStat, LibraryPath};

/// Neither leaves the directory nor follows a link.
pub(super) const WITHIN: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS);

/// How a file is opened. A pipe may have replaced it since its stat: opening that must not wait for a writer.
const TO_READ: OFlags =
    OFlags::RDONLY.union(OFlags::NOFOLLOW).union(OFlags::NONBLOCK).union(OFlags::NOCTTY).union(OFlags::CLOEXEC);

/// A place on disk that is reached without following a link.
#[derive(Clone, Copy, Debug)]
pub(super) struct At<'a> {
    /// The directory outside of the library that the path starts from; `None` for the root.
    pub(super) outside: Option<&'a Path>,
    /// The path from there.
    pub(super) path: &'a LibraryPath,
}

impl<'a> From<&'a LibraryPath> for At<'a> {
    fn from(path: &'a LibraryPath) -> Self {
        Self { outside: None, path }
    }
}

/// Which spellings of a name are accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spelling {
    /// Only the one that the directory lists.
    Exact,
    /// Any that the filesystem's look-up accepts.
    Any,
}

/// How far down a path there are directories.
#[derive(Debug)]
pub(super) enum Descent {
    /// To the end: this is the directory at the path.
    Arrived(OwnedFd),
    /// Not to the end: this is the nearest directory above the path.
    Stopped(OwnedFd),
}

impl Root {
    /// Descends to the directory at a place, as far as there are directories.
    pub(super) fn descend(&self, at: At<'_>) -> io::Result<Descent> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut directory = match at.outside {
            None => {
                self.servers.check(at.path)?;
                self.open_checked()?
            }
            Some(target) => {
                self.open_checked()?;
                match open_nearest(target)? {
                    Descent::Arrived(directory) => directory,
                    stopped @ Descent::Stopped(_) => return Ok(stopped),
                }
            }
        };
        let path = at.path;
        if path.is_root() {
            return Ok(Descent::Arrived(directory));
        }
        // The whole way in one call, if the kernel has openat2 and nothing is in the way.
        if let Ok(found) = openat2(&directory, path.as_bytes(), flags, Mode::empty(), WITHIN) {
            return Ok(Descent::Arrived(found));
        }
        // Name by name, for paths that are too long for one call, and to find the nearest directory.
        for name in path.names() {
            match rustix::fs::openat(&directory, name, flags, Mode::empty()) {
                Ok(next) => directory = next,
                // A file or a link has replaced a directory: nothing is under it.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(Descent::Stopped(directory)),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Descent::Arrived(directory))
    }

    /// What is at a place, if no link is on the way to it.
    pub(super) fn real_entry(&self, at: At<'_>) -> io::Result<Entry> {
        self.find_real(at).map(|(entry, _)| entry)
    }

    /// The same, with its directory.
    pub(super) fn find_real(&self, at: At<'_>) -> io::Result<(Entry, Place)> {
        let entry = match at.path.parent() {
            Some(parent) => {
                let descent = self.descend(At { path: &parent, ..at })?;
                return Ok((self.entry_in(&descent, at, Spelling::Exact)?, Place(Some(descent))));
            }
            None if at.outside.is_none() => Entry::Directory,
            None => match self.descend(at)? {
                Descent::Arrived(_) => Entry::Directory,
                Descent::Stopped(nearest) => self.missing(&nearest)?,
            },
        };
        Ok((entry, Place::default()))
    }

    /// The entry of a missing path whose nearest directory is this one.
    fn missing(&self, nearest: &OwnedFd) -> io::Result<Entry> {
        let present = self.mounts.of(&RawStat::of(nearest)?, nearest.as_fd(), None)?;
        Ok(Entry::Missing { nearest_mount: present.id })
    }

    /// What is at a place, after the descent to its directory.
    pub(super) fn entry_in(&self, descent: &Descent, at: At<'_>, spelling: Spelling) -> io::Result<Entry> {
        let path = at.path;
        if at.outside.is_none() {
            self.servers.check(path)?;
        }
        let directory = match descent {
            Descent::Arrived(directory) => directory,
            Descent::Stopped(nearest) => return self.missing(nearest),
        };
        let found = match RawStat::at(directory, path.name()) {
            Ok(found) => found,
            Err(error) if Errno::from_io_error(&error) == Some(Errno::NOENT) => return self.missing(directory),
            Err(error) => return Err(error),
        };
        let present = self.mounts.of(&found, directory.as_fd(), Some(path.name()))?;
        let entry = match found.kind {
            FileType::RegularFile => Entry::File(present.file_stat(&found)),
            FileType::Directory => Entry::Directory,
            _ => return Ok(Entry::Other),
        };
        if spelling == Spelling::Exact && !self.is_exact(directory, at, present.may_normalise)? {
            return self.missing(directory);
        }
        Ok(entry)
    }

    /// Whether the directories on the way list every name of the path exactly as it is spelt.
    ///
    /// If the last directory is case-sensitive, the ones above it are taken to be so too: a directory inherits this
    /// from the one that it was created in.
    fn is_exact(&self, directory: &OwnedFd, at: At<'_>, may_normalise: bool) -> io::Result<bool> {
        let path = at.path;
        // A name on the way may have been found in another normal form, even if the last one was not.
        let is_way_doubtful = may_normalise && !path.as_bytes().is_ascii();
        if !is_way_doubtful && !names::may_be_folded(directory, path.name(), may_normalise)? {
            return Ok(true);
        }
        if !self.exact_names.lists(directory, path.name())? {
            return Ok(false);
        }
        let mut way = path.parent();
        while let Some(directory) = way.filter(|directory| !directory.is_root()) {
            let above = directory.parent().unwrap_or_else(LibraryPath::root);
            let Some(opened) = self.open_directory(At { path: &above, ..at })? else { return Ok(false) };
            if !self.exact_names.lists(&opened, directory.name())? {
                return Ok(false);
            }
            way = Some(above);
        }
        Ok(true)
    }

    /// Opens the regular file at a place, if no link is on the way to it; `None` if there is none.
    pub(super) fn open_real(&self, at: At<'_>) -> io::Result<Option<(File, FileStat)>> {
        let path = at.path;
        let Some(parent) = path.parent() else { return Ok(None) };
        let base = match at.outside {
            None => {
                self.servers.check(path)?;
                self.open_unchecked()?
            }
            Some(target) => match open_nearest(target)? {
                Descent::Arrived(base) => base,
                Descent::Stopped(_) => return Ok(None),
            },
        };
        let opened = openat2(&base, path.as_bytes(), TO_READ, Mode::empty(), WITHIN).or_else(|_| {
            // The path is too long for one call, or the reason has to be found out.
            let directory = self.open_directory(At { path: &parent, ..at })?.ok_or(io::ErrorKind::NotFound)?;
            Ok(rustix::fs::openat(&directory, path.name(), TO_READ, Mode::empty())?)
        });
        self.regular_file(opened)
    }

    /// Opens the regular file of this path, after the descent to its directory; `None` if there is none.
    pub(super) fn open_in(&self, descent: &Descent, path: &LibraryPath) -> io::Result<Option<(File, FileStat)>> {
        let Descent::Arrived(directory) = descent else { return Ok(None) };
        self.servers.check(path)?;
        let opened = rustix::fs::openat(directory, path.name(), TO_READ, Mode::empty());
        self.regular_file(opened.map_err(io::Error::from))
    }

    /// What was opened and its stat, if it is a regular file; `None` if it is not, or if there was nothing to open.
    fn regular_file(&self, opened: io::Result<OwnedFd>) -> io::Result<Option<(File, FileStat)>> {
        let file = match opened {
            Ok(file) => file,
            Err(error) => match Errno::from_io_error(&error) {
                Some(Errno::NOENT | Errno::LOOP | Errno::NXIO) => return Ok(None),
                None if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                _ => return Err(error),
            },
        };
        let found = RawStat::of(&file)?;
        if found.kind != FileType::RegularFile {
            return Ok(None);
        }
        let stat = self.mounts.of(&found, file.as_fd(), None)?.file_stat(&found);
        Ok(Some((File::from(file), stat)))
    }

    /// The directory at a place, if no link is on the way to it; `None` if there is none.
    pub(super) fn open_directory(&self, at: At<'_>) -> io::Result<Option<OwnedFd>> {
        match self.descend(at)? {
            Descent::Arrived(directory) => Ok(Some(directory)),
            Descent::Stopped(_) => Ok(None),
        }
    }
}

/// Opens the directory at an absolute path, or the nearest one above it.
pub(super) fn open_nearest(target: &Path) -> io::Result<Descent> {
    for directory in target.ancestors() {
        match open_directory_at(directory) {
            Ok(opened) if directory == target => return Ok(Descent::Arrived(opened)),
            Ok(opened) => return Ok(Descent::Stopped(opened)),
            Err(error) if is_absence(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::ErrorKind::NotFound.into())
}

/// Opens the directory at an absolute path. Links on the way are followed.
pub(super) fn open_directory_at(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(CWD, path, flags, Mode::empty())?)
}
