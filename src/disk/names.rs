//! Whether a name is spelt exactly as its directory lists it.
//!
//! On filesystems that are case-insensitive or normalise names, a look-up succeeds for spellings that the directory
//! does not list: after `Song.mp3` was renamed to `song.mp3`, the old name still finds the file. A file is only at the
//! path that its directory lists. So if a look-up may have folded the name, the listing decides.

use std::collections::HashSet;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{Mode, OFlags, RawDir};
use rustix::io::Errno;

use super::LISTING_BUFFER;
use super::stat::{KernelMount, RawStat};

/// A directory that changed this recently may change again without a change of its times.
const YOUNG_NS: i128 = 2_000_000_000;

/// Decides whether names are exact. It caches the last listing, for directories with many files.
#[derive(Debug, Default)]
pub(super) struct ExactNames {
    last: Mutex<Option<Listing>>,
}

#[derive(Debug)]
struct Listing {
    key: ListingKey,
    names: HashSet<Box<[u8]>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ListingKey {
    mount: KernelMount,
    inode: u64,
    mtime_ns: i128,
    ctime_ns: i128,
}

/// Whether a look-up in this directory may have found `name` under another spelling.
///
/// A look-up of the name with the case of its letters swapped succeeds only if the directory is case-insensitive, or
/// if it has another file of that very name. The listing tells these two apart. `may_normalise` says that the
/// filesystem may also fold other characters.
pub(super) fn may_be_folded(directory: &OwnedFd, name: &[u8], may_normalise: bool) -> io::Result<bool> {
    if may_normalise && !name.is_ascii() {
        return Ok(true);
    }
    let swapped = with_case_swapped(name);
    if swapped == name {
        return Ok(may_normalise);
    }
    match RawStat::at(directory, swapped.as_slice()) {
        Ok(_) => Ok(true),
        Err(error) => match Errno::from_io_error(&error) {
            Some(Errno::NOENT | Errno::NOTDIR | Errno::NAMETOOLONG | Errno::INVAL | Errno::ILSEQ) => Ok(false),
            _ => Err(error),
        },
    }
}

fn with_case_swapped(name: &[u8]) -> Vec<u8> {
    let swap =
        |byte: &u8| if byte.is_ascii_lowercase() { byte.to_ascii_uppercase() } else { byte.to_ascii_lowercase() };
    name.iter().map(swap).collect()
}

impl ExactNames {
    /// Whether the directory lists exactly this name.
    pub(super) fn lists(&self, directory: &OwnedFd, name: &[u8]) -> io::Result<bool> {
        let found = RawStat::of(directory)?;
        let RawStat { mount, inode, mtime_ns, ctime_ns, .. } = found;
        let key = ListingKey { mount, inode, mtime_ns, ctime_ns };
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(listing) = last.as_ref().filter(|listing| listing.key == key) {
            return Ok(listing.names.contains(name));
        }
        drop(last);
        let names = names_of(directory)?;
        let is_listed = names.contains(name);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        let age = i128::try_from(now).unwrap_or_default() - mtime_ns.max(ctime_ns);
        if age > YOUNG_NS {
            *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(Listing { key, names });
        }
        Ok(is_listed)
    }
}

fn names_of(directory: &OwnedFd) -> io::Result<HashSet<Box<[u8]>>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let opened = rustix::fs::openat(directory.as_fd(), c".", flags, Mode::empty())?;
    let mut names = HashSet::new();
    let mut buffer = [const { MaybeUninit::uninit() }; LISTING_BUFFER];
    let mut entries = RawDir::new(&opened, &mut buffer);
    while let Some(entry) = entries.next() {
        names.insert(Box::from(entry?.file_name().to_bytes()));
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn open(path: &std::path::Path) -> OwnedFd {
        rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap()
    }

    #[test]
    fn on_a_case_sensitive_filesystem_only_a_file_with_swapped_case_makes_a_name_ambiguous() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("Song.mp3"), b"").unwrap();
        let directory = open(folder.path());
        assert!(!may_be_folded(&directory, b"Song.mp3", false).unwrap());
        fs::write(folder.path().join("sONG.MP3"), b"").unwrap();
        assert!(may_be_folded(&directory, b"Song.mp3", false).unwrap());
        assert!(!may_be_folded(&directory, "\u{e9}.mp3".as_bytes(), false).unwrap());
        assert!(may_be_folded(&directory, "\u{e9}.mp3".as_bytes(), true).unwrap());
    }

    #[test]
    fn a_listing_is_cached_only_if_its_directory_is_old_enough() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("a.mp3"), b"").unwrap();
        let directory = open(folder.path());
        let names = ExactNames::default();
        assert!(names.lists(&directory, b"a.mp3").unwrap() && !names.lists(&directory, b"A.mp3").unwrap());
        assert!(names.last.lock().unwrap().is_none(), "the directory has just changed");
        fs::rename(folder.path().join("a.mp3"), folder.path().join("A.mp3")).unwrap();
        assert!(names.lists(&directory, b"A.mp3").unwrap() && !names.lists(&directory, b"a.mp3").unwrap());
    }
}
