//! A FUSE filesystem that shows a directory with the oddities of other filesystems. All changes are made elsewhere.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use fuser::{
    BackgroundSession, Errno, FileAttr, FileHandle, FileType, Filesystem, Generation, INodeNo, LockOwner, MountOption,
    OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyEntry, Request,
};
use tempfile::TempDir;

use super::disk::require_root;
use super::medium::{Medium, MountPoint};

/// What is odd about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Oddity {
    /// Nothing more than what any FUSE filesystem is: changes are not reported and there are no birth times.
    None,
    /// Names are found in any case, and listed as they were given.
    NoCase,
    /// Names are listed in normal form D, and found in form C too.
    Decomposed,
    /// Each mount gives files other inode numbers.
    InodesOfMount,
    /// Each look-up gives a file another inode number.
    InodesOfLookup,
}

/// What goes wrong, now.
#[derive(Clone, Default)]
pub(crate) struct Faults(Arc<(Mutex<Wrong>, Condvar)>);

#[derive(Default)]
struct Wrong {
    /// Names whose stat, listing or content gives EIO.
    stat: Option<OsString>,
    list: Option<OsString>,
    read: Option<OsString>,
    hangs: bool,
    /// It begins to hang when it is asked next whether it answers. No thread of the program is within a look then: one
    /// that is keeps its process from ending, which nobody can change.
    hangs_when_asked: bool,
}

impl Faults {
    /// What has this name cannot be read, listed or looked up.
    pub(crate) fn fail(&self, stat: Option<&str>, list: Option<&str>, read: Option<&str>) {
        let mut wrong = self.lock();
        (wrong.stat, wrong.list, wrong.read) = (stat.map(Into::into), list.map(Into::into), read.map(Into::into));
    }

    /// Lets the server answer nothing until further notice, from now on.
    pub(crate) fn hang(&self) {
        self.lock().hangs = true;
    }

    /// The same, from when it is asked next whether it answers.
    pub(crate) fn hang_when_asked(&self) {
        self.lock().hangs_when_asked = true;
    }

    /// Lets it answer again.
    pub(crate) fn answer(&self) {
        let mut wrong = self.lock();
        (wrong.hangs, wrong.hangs_when_asked) = (false, false);
        self.0.1.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Wrong> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait(&self, asked_by: u32) -> MutexGuard<'_, Wrong> {
        let mut wrong = self.lock();
        if wrong.hangs_when_asked {
            let command = fs::read(format!("/proc/{asked_by}/cmdline")).unwrap_or_default();
            wrong.hangs |= String::from_utf8_lossy(&command).contains("--ask-mount");
        }
        drop(wrong);
        self.0.1.wait_while(self.lock(), |wrong| wrong.hangs).unwrap_or_else(PoisonError::into_inner)
    }

    fn fails(&self, path: &Path, of: impl Fn(&Wrong) -> &Option<OsString>) -> bool {
        path.file_name().is_some_and(|name| of(&self.lock()).as_deref() == Some(name))
    }
}

/// The filesystem, not mounted or mounted.
pub(crate) struct Mirror {
    session: Option<BackgroundSession>,
    mounted: MountPoint,
    oddity: Oddity,
    mounts: u64,
    faults: Faults,
    folder: TempDir,
}

impl Mirror {
    pub(crate) fn new(oddity: Oddity) -> Self {
        require_root();
        let folder = tempfile::tempdir().unwrap();
        Self { session: None, mounted: MountPoint::default(), oddity, mounts: 0, faults: Faults::default(), folder }
    }

    pub(crate) fn faults(&self) -> Faults {
        self.faults.clone()
    }

    /// The directory that it shows.
    pub(crate) fn source(&self) -> PathBuf {
        self.folder.path().to_path_buf()
    }
}

impl Medium for Mirror {
    fn attach(&mut self, at: &Path) {
        fs::create_dir_all(at).unwrap();
        self.mounts += 1;
        let server = Server {
            source: self.source(),
            oddity: self.oddity,
            salt: self.mounts,
            faults: self.faults(),
            nodes: Mutex::default(),
        };
        let mut settings = fuser::Config::default();
        settings.mount_options = vec![MountOption::RO, MountOption::FSName("mirror".into())];
        self.session = Some(fuser::spawn_mount(server, at, &settings).unwrap());
        self.mounted.is_mounted_at(at);
    }

    fn detach(&mut self) {
        self.mounted.unmount();
        if let Some(session) = self.session.take() {
            let _ = session.join();
        }
    }

    fn pull_out(&mut self) {
        self.mounted.unmount_lazily();
        self.session = None;
    }

    fn prepare(&mut self, fill: &dyn Fn(&Path)) {
        fill(self.folder.path());
    }

    fn elsewhere(&self) -> Option<PathBuf> {
        Some(self.source())
    }
}

impl Drop for Mirror {
    fn drop(&mut self) {
        self.faults.answer();
        self.pull_out();
    }
}

struct Server {
    source: PathBuf,
    oddity: Oddity,
    salt: u64,
    faults: Faults,
    nodes: Mutex<Nodes>,
}

#[derive(Default)]
struct Nodes {
    paths: HashMap<u64, PathBuf>,
    last: u64,
}

/// A name as this filesystem compares it.
fn folded(oddity: Oddity, name: &OsStr) -> OsString {
    match oddity {
        Oddity::NoCase => name.to_string_lossy().to_lowercase().into(),
        Oddity::Decomposed => name.to_string_lossy().replace('\u{e9}', "e\u{301}").into(),
        _ => name.to_owned(),
    }
}

impl Server {
    fn nodes(&self) -> MutexGuard<'_, Nodes> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self, request: &Request, number: INodeNo) -> Result<PathBuf, Errno> {
        drop(self.faults.wait(request.pid()));
        if number == INodeNo::ROOT {
            return Ok(self.source.clone());
        }
        self.nodes().paths.get(&number.0).cloned().ok_or(Errno::ENOENT)
    }

    /// The number of what is at `path`.
    fn number(&self, path: &Path, inode: u64) -> u64 {
        let mut nodes = self.nodes();
        let number = match self.oddity {
            Oddity::InodesOfMount => inode + self.salt * 1_000_000_007,
            Oddity::InodesOfLookup => {
                nodes.last += 1;
                nodes.last + 1000
            }
            _ => inode,
        };
        nodes.paths.insert(number, path.to_path_buf());
        number
    }

    /// The entry of `directory` that this name finds.
    fn find(&self, directory: &Path, name: &OsStr) -> Result<PathBuf, Errno> {
        if matches!(self.oddity, Oddity::NoCase | Oddity::Decomposed) {
            let wanted = folded(self.oddity, name);
            let entries = fs::read_dir(directory).map_err(errno)?;
            let mut names = entries.flatten().map(|entry| entry.file_name());
            let found = names.find(|name| folded(self.oddity, name) == wanted).ok_or(Errno::ENOENT)?;
            return Ok(directory.join(found));
        }
        Ok(directory.join(name))
    }

    fn attributes(&self, path: &Path, number: u64) -> Result<FileAttr, Errno> {
        if self.faults.fails(path, |wrong| &wrong.stat) {
            return Err(Errno::EIO);
        }
        let metadata = fs::symlink_metadata(path).map_err(errno)?;
        let time = |seconds: i64, nanoseconds: i64| {
            UNIX_EPOCH + Duration::new(u64::try_from(seconds).unwrap(), u32::try_from(nanoseconds).unwrap())
        };
        Ok(FileAttr {
            ino: INodeNo(number),
            size: metadata.size(),
            blocks: metadata.blocks(),
            atime: UNIX_EPOCH,
            mtime: time(metadata.mtime(), metadata.mtime_nsec()),
            ctime: time(metadata.ctime(), metadata.ctime_nsec()),
            crtime: UNIX_EPOCH,
            kind: if metadata.is_dir() { FileType::Directory } else { FileType::RegularFile },
            perm: if metadata.is_dir() { 0o755 } else { 0o644 },
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        })
    }

    fn look_up(&self, request: &Request, parent: INodeNo, name: &OsStr) -> Result<FileAttr, Errno> {
        let path = self.find(&self.path(request, parent)?, name)?;
        let inode = fs::symlink_metadata(&path).map_err(errno)?.ino();
        let number = self.number(&path, inode);
        self.attributes(&path, number)
    }

    fn names(&self, directory: &Path) -> Result<Vec<(OsString, bool)>, Errno> {
        if self.faults.fails(directory, |wrong| &wrong.list) {
            return Err(Errno::EIO);
        }
        let entries = fs::read_dir(directory).map_err(errno)?.flatten();
        let mut names: Vec<_> = entries.map(|entry| (entry.file_name(), entry.path().is_dir())).collect();
        names.sort_by(|(one, _), (other, _)| one.as_bytes().cmp(other.as_bytes()));
        Ok(names)
    }

    fn content(&self, request: &Request, number: INodeNo, offset: u64, size: u32) -> Result<Vec<u8>, Errno> {
        let path = self.path(request, number)?;
        if self.faults.fails(&path, |wrong| &wrong.read) {
            return Err(Errno::EIO);
        }
        let mut bytes = vec![0; size as usize];
        let length = fs::File::open(path).and_then(|file| file.read_at(&mut bytes, offset)).map_err(errno)?;
        bytes.truncate(length);
        Ok(bytes)
    }
}

fn errno(error: io::Error) -> Errno {
    Errno::from(error)
}

impl Filesystem for Server {
    fn lookup(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.look_up(request, parent, name) {
            Ok(attributes) => reply.entry(&Duration::ZERO, &attributes, Generation(0)),
            Err(error) => reply.error(error),
        }
    }

    fn getattr(&self, request: &Request, number: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.path(request, number).and_then(|path| self.attributes(&path, number.0)) {
            Ok(attributes) => reply.attr(&Duration::ZERO, &attributes),
            Err(error) => reply.error(error),
        }
    }

    fn read(
        &self,
        request: &Request,
        number: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.content(request, number, offset, size) {
            Ok(bytes) => reply.data(&bytes),
            Err(error) => reply.error(error),
        }
    }

    fn readdir(&self, request: &Request, number: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let names = match self.path(request, number).and_then(|path| self.names(&path)) {
            Ok(names) => names,
            Err(error) => return reply.error(error),
        };
        let skipped = usize::try_from(offset).unwrap();
        for (place, (name, is_directory)) in names.into_iter().enumerate().skip(skipped) {
            let kind = if is_directory { FileType::Directory } else { FileType::RegularFile };
            if reply.add(INodeNo(place as u64 + 2), place as u64 + 1, kind, name) {
                break;
            }
        }
        reply.ok();
    }
}
