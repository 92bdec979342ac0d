//! Where the directories of watched filesystems are, by the file handles that fanotify reports.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use fanotify_fid::handle::{Fsid, fsid_of_fd, handle_from_fd, open_by_handle_at};
use rustix::fs::{AtFlags, StatxFlags, fstat, stat, statx};
use rustix::io::Errno;

/// The mounts from which directories of the library can be reached.
#[derive(Debug, Default)]
pub(super) struct Places(Vec<Place>);

/// A directory whose path has more than 4,095 bytes, which the kernel cannot name.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct PathTooLong;

/// A directory of a mount.
#[derive(Debug)]
pub(super) struct Place {
    path: PathBuf,
    mount: u64,
    fsid: Fsid,
    /// The directory, while events are handled. An open directory would keep its filesystem from being unmounted.
    open: Option<File>,
    /// Where directories are, while events are handled.
    known: HashMap<Vec<u8>, Option<PathBuf>>,
}

impl Places {
    /// Adds the mount of this directory, unless it is known.
    ///
    /// # Errors
    /// If the directory cannot be opened, or its handle does not lead back to it: without the capability
    /// CAP_DAC_READ_SEARCH, and on filesystems whose handles cannot be opened.
    pub(super) fn add(&mut self, path: &Path) -> io::Result<()> {
        let open = File::open(path)?;
        let mount = statx(&open, c"", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID)?.stx_mnt_id;
        if self.0.iter().all(|place| place.mount != mount) {
            open_by_handle_at(&open, &handle_from_fd(&open)?)?;
            let fsid = fsid_of_fd(&open)?;
            self.0.push(Place { path: path.to_path_buf(), mount, fsid, open: None, known: HashMap::new() });
        }
        Ok(())
    }

    /// The mounts of a filesystem. Of one that nobody named, as a subvolume of Btrfs, all mounts.
    pub(super) fn of(&mut self, fsid: Fsid) -> impl Iterator<Item = &mut Place> {
        let is_known = self.0.iter().any(|place| place.fsid == fsid);
        self.0.iter_mut().filter(move |place| !is_known || place.fsid == fsid)
    }

    /// Forgets where directories are, and closes what is open.
    pub(super) fn forget(&mut self) {
        for place in &mut self.0 {
            place.open = None;
            place.forget();
        }
    }
}

impl Place {
    /// The path of an entry of the directory with this handle, or of the directory itself if the name is a dot; `None` if
    /// the directory is gone or cannot be reached from this mount.
    ///
    /// # Errors
    /// If the path is too long.
    pub(super) fn entry(&mut self, handle: &[u8], name: &OsStr) -> Result<Option<PathBuf>, PathTooLong> {
        if !self.known.contains_key(handle) {
            let path = self.directory(handle)?;
            self.known.insert(handle.to_vec(), path);
        }
        let Some(Some(directory)) = self.known.get(handle) else { return Ok(None) };
        Ok(Some(if name.is_empty() || name == "." { directory.clone() } else { directory.join(name) }))
    }

    /// Forgets where directories are: one of them may have been renamed.
    pub(super) fn forget(&mut self) {
        self.known.clear();
    }

    fn directory(&mut self, handle: &[u8]) -> Result<Option<PathBuf>, PathTooLong> {
        let open = match &mut self.open {
            Some(open) => open,
            closed => match File::open(&self.path) {
                Ok(open) => closed.insert(open),
                Err(_) => return Ok(None),
            },
        };
        match open_by_handle_at(open.as_fd(), handle) {
            Ok(directory) => path_of(&directory),
            Err(_) => Ok(None),
        }
    }
}

/// The path of an open directory. A directory that is gone has none, and what the kernel says of one that cannot be
/// reached from its mount leads elsewhere.
fn path_of(directory: &OwnedFd) -> Result<Option<PathBuf>, PathTooLong> {
    let path = match std::fs::read_link(format!("/proc/self/fd/{}", directory.as_raw_fd())) {
        Ok(path) => path,
        Err(error) if error.raw_os_error() == Some(Errno::NAMETOOLONG.raw_os_error()) => return Err(PathTooLong),
        Err(_) => return Ok(None),
    };
    let is_same = stat(&path)
        .ok()
        .zip(fstat(directory).ok())
        .is_some_and(|(found, expected)| (found.st_dev, found.st_ino) == (expected.st_dev, expected.st_ino));
    Ok(is_same.then_some(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn handle_of(path: &Path) -> Vec<u8> {
        handle_from_fd(File::open(path).unwrap()).unwrap()
    }

    #[test]
    fn a_handle_leads_to_the_path_that_the_directory_has_now() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        std::fs::create_dir_all(root.join("a/b")).unwrap();
        let mut places = Places::default();
        places.add(&root).unwrap();
        places.add(&root.join("a")).unwrap();
        let [place] = &mut places.0[..] else { panic!("both are on one mount") };
        let handle = handle_of(&root.join("a/b"));
        assert_eq!(place.entry(&handle, OsStr::new("x.mp3")), Ok(Some(root.join("a/b/x.mp3"))));
        assert_eq!(place.entry(&handle, OsStr::new(".")), Ok(Some(root.join("a/b"))));

        std::fs::rename(root.join("a"), root.join("c")).unwrap();
        place.forget();
        assert_eq!(place.entry(&handle, OsStr::new("x.mp3")), Ok(Some(root.join("c/b/x.mp3"))));

        // The path ends with a remark of the kernel then, which is no part of any name.
        std::fs::remove_dir(root.join("c/b")).unwrap();
        place.forget();
        assert_eq!(place.entry(&handle, OsStr::new("x.mp3")), Ok(None));
        assert_eq!(place.entry(b"no handle", OsStr::new("x.mp3")), Ok(None));
    }
}
