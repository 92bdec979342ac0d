//! The library root: what is at a path beneath it, and outside of it only what links lead to that are followed.
//!
//! Every look starts at the root's own path, makes sure that the directory there is still the one
//! that is watched, and goes down name by name without following a link; behind a link that leads out and is
//! followed, it goes down from where that leads. So no look ever leaves the library by chance, paths longer
//! than the kernel takes at once are reached, no descriptor is held that would keep a filesystem from being
//! unmounted, and "there is nothing of this name" is proof.

mod answering;
mod descent;
mod find_links;
mod identity;
mod ignore_files;
mod links;
mod listing;
mod mountinfo;
mod mounts;
mod names;
mod outside;
mod stat;

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, PoisonError, RwLock};

use rustix::fs::FileType;

use crate::model::{FileStat, LibraryPath, MountId, Rules};

pub use answering::{ASK_MOUNT, ask_mount};
pub use identity::Identity;
pub use listing::{Listed, ListedKind};
pub use mountinfo::{MountEntry, mounts_beneath};
pub use mounts::{KnownMount, Mounts};
pub use outside::{LinkTarget, LinkUnknown, LinkedPath};

use answering::Answering;
use descent::{At, Descent, Spelling, open_directory_at};
use ignore_files::IgnoreFiles;
use links::Links;
use names::ExactNames;
use outside::{Lead, LinksOut, is_unknown_link};
use stat::RawStat;

/// Bytes of directory entries read at once.
const LISTING_BUFFER: usize = 32 * 1024;

/// What is at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// A regular file.
    File(FileStat),
    /// A directory.
    Directory,
    /// Something that is never opened: a link, a pipe, a socket, a device.
    Other,
    /// Nothing has this name, and the directory that would hold it could be asked.
    Missing {
        /// The mount of the nearest directory that is there.
        nearest_mount: MountId,
    },
    /// The rules leave this path out, whatever is there: its extension, a pattern, or a link that is not followed.
    Excluded,
}

/// How the rest of the program sees the disk; tests put a model in its place.
pub trait Disk {
    /// An open file.
    type File;

    /// What is at `path`. An error means that this could not be found out.
    fn entry(&self, path: &LibraryPath) -> io::Result<Entry>;

    /// What a look-up finds at each of `paths`, one after the other; cheapest if those of one directory stand together.
    ///
    /// On a filesystem without case that may be a file which its directory lists under another spelling.
    fn look_up(&self, paths: &[&LibraryPath]) -> Vec<io::Result<Entry>> {
        paths.iter().map(|path| self.entry(path)).collect()
    }

    /// Opens the regular file at `path` and says what it is now; `None` where there is none.
    ///
    /// That the file is one of this root is for the caller to know, by [`Disk::entry`] after it was read.
    fn open(&self, path: &LibraryPath) -> io::Result<Option<(Self::File, FileStat)>>;

    /// The stat of an open file, now.
    fn stat(&self, file: &Self::File) -> io::Result<FileStat>;

    /// Whether the file at `path` has no other name, by which it could be written to unheard.
    fn has_one_name(&self, path: &LibraryPath) -> io::Result<bool>;

    /// Which directory the root is, of all that it has been: what went away in an earlier one says
    /// nothing about this one.
    fn generation(&self) -> u64 {
        0
    }

    /// Whether this mount is certainly not at `path`, because it is mounted elsewhere in the library.
    fn is_elsewhere(&self, _mount: MountId, _path: &LibraryPath) -> bool {
        false
    }

    /// Notes that one file was seen with several inode numbers on this mount.
    fn inodes_do_not_last(&self, _mount: MountId) {}
}

/// The directory that holds the library.
#[derive(Debug)]
pub struct Root {
    path: PathBuf,
    identity: RwLock<Identity>,
    generation: AtomicU64,
    /// Those to what is inside the library, where they are followed.
    links: Option<Links>,
    /// Those that lead out of the library, where they are followed too.
    links_out: Option<LinksOut>,
    mounts: Arc<Mounts>,
    exact_names: ExactNames,
    answering: Answering,
    /// Which paths are published.
    rules: Rules,
    ignore_files: IgnoreFiles,
}

/// The error inside the [`io::Error`] of every look after the root was replaced.
#[derive(Debug, thiserror::Error)]
#[error("the library root is another directory now")]
pub struct RootReplaced;

/// Whether the root was replaced, so that nothing is known of any path.
pub fn is_root_replaced(error: &io::Error) -> bool {
    error.get_ref().is_some_and(<dyn std::error::Error + Send + Sync>::is::<RootReplaced>)
}

impl Root {
    /// The directory at `path` as it is now. The path itself may be a link, or lead through one.
    pub fn open(path: &Path) -> io::Result<Self> {
        let root = Self {
            path: path.to_path_buf(),
            identity: RwLock::new(Identity::of(&open_directory_at(path)?)?),
            generation: AtomicU64::new(0),
            links: None,
            links_out: None,
            mounts: Arc::new(Mounts::new(path)?),
            exact_names: ExactNames::default(),
            answering: Answering::default(),
            rules: Rules::default(),
            ignore_files: IgnoreFiles::default(),
        };
        root.adopt()?;
        Ok(root)
    }

    /// Obeys these rules, and the files `.ignore-music` in the library.
    #[must_use]
    pub fn with_rules(self, rules: Rules) -> Self {
        Self { rules, ..self }
    }

    /// The rules that were given for all of the library.
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// The path that the root was opened with.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The identity that looks insist on.
    pub fn identity(&self) -> Identity {
        *self.identity.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The identity of the directory that is at the root's path now.
    pub fn current_identity(&self) -> io::Result<Identity> {
        Identity::of(&self.open_unchecked()?)
    }

    /// Takes the directory that is at the root's path now as the root.
    pub fn adopt(&self) -> io::Result<Identity> {
        let identity = self.current_identity()?;
        // First, so that nothing of the new root is ever seen under the number of the old one.
        self.generation.fetch_add(1, SeqCst);
        *self.identity.write().unwrap_or_else(PoisonError::into_inner) = identity;
        self.forget_ignore_files(&LibraryPath::root());
        Ok(identity)
    }

    fn open_unchecked(&self) -> io::Result<OwnedFd> {
        open_directory_at(&self.path)
    }

    fn open_checked(&self) -> io::Result<OwnedFd> {
        let root = self.open_unchecked()?;
        if Identity::of(&root)? == self.identity() { Ok(root) } else { Err(io::Error::other(RootReplaced)) }
    }
}

impl Disk for Root {
    type File = File;

    fn entry(&self, path: &LibraryPath) -> io::Result<Entry> {
        let found = self.ruled(path, self.entry_by_links(path));
        if found.as_ref().is_err_and(is_unknown_link) {
            self.links_changed();
        }
        found
    }

    fn look_up(&self, paths: &[&LibraryPath]) -> Vec<io::Result<Entry>> {
        let mut opened: Option<(LibraryPath, Descent)> = None;
        let mut entry = |path: &LibraryPath| {
            let Some(parent) = path.parent().filter(|_| !self.follows_links()) else { return self.entry(path) };
            let descent = match opened.take() {
                Some((at, descent)) if at == parent => descent,
                _ => self.descend((&parent).into())?,
            };
            let (_, descent) = opened.insert((parent, descent));
            self.ruled(path, self.entry_in(descent, path.into(), Spelling::Any))
        };
        paths.iter().map(|path| entry(path)).collect()
    }

    fn open(&self, path: &LibraryPath) -> io::Result<Option<(File, FileStat)>> {
        self.open_by_links(path)
    }

    fn stat(&self, file: &File) -> io::Result<FileStat> {
        let found = RawStat::of(file)?;
        Ok(self.mounts.of(&found, file.as_fd(), None)?.file_stat(&found))
    }

    fn has_one_name(&self, path: &LibraryPath) -> io::Result<bool> {
        let lead = self.lead(path)?;
        let at = match &lead {
            Some(Lead::To(real)) => real.at(),
            Some(Lead::PassedOver) => return Ok(false),
            None => path.into(),
        };
        let Some(parent) = at.path.parent() else { return Ok(false) };
        let Some(directory) = self.open_directory(At { path: &parent, ..at })? else { return Ok(false) };
        let found = RawStat::at(&directory, at.path.name())?;
        // What is found behind a link inside the library has another name.
        Ok(found.kind == FileType::RegularFile && found.links == 1)
    }

    fn generation(&self) -> u64 {
        self.generation.load(SeqCst)
    }

    fn is_elsewhere(&self, mount: MountId, path: &LibraryPath) -> bool {
        match self.lead(path) {
            Ok(Some(Lead::To(real))) => self.mounts.is_elsewhere(mount, &real.absolute()),
            Ok(_) => self.mounts.is_elsewhere(mount, path),
            Err(_) => false,
        }
    }

    fn inodes_do_not_last(&self, mount: MountId) {
        Self::inodes_do_not_last(self, mount);
    }
}

impl<D: Disk + ?Sized> Disk for Arc<D> {
    type File = D::File;

    fn entry(&self, path: &LibraryPath) -> io::Result<Entry> {
        (**self).entry(path)
    }

    fn look_up(&self, paths: &[&LibraryPath]) -> Vec<io::Result<Entry>> {
        (**self).look_up(paths)
    }

    fn open(&self, path: &LibraryPath) -> io::Result<Option<(D::File, FileStat)>> {
        (**self).open(path)
    }

    fn stat(&self, file: &D::File) -> io::Result<FileStat> {
        (**self).stat(file)
    }

    fn has_one_name(&self, path: &LibraryPath) -> io::Result<bool> {
        (**self).has_one_name(path)
    }

    fn generation(&self) -> u64 {
        (**self).generation()
    }

    fn is_elsewhere(&self, mount: MountId, path: &LibraryPath) -> bool {
        (**self).is_elsewhere(mount, path)
    }

    fn inodes_do_not_last(&self, mount: MountId) {
        (**self).inodes_do_not_last(mount);
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use rustix::fs::{CWD, Mode, OFlags};

    use super::*;

    fn library() -> (tempfile::TempDir, Root) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("music");
        fs::create_dir(&path).unwrap();
        let root = Root::open(&path).unwrap();
        (folder, root)
    }

    #[test]
    fn a_file_is_seen_with_its_size_on_the_roots_own_device() {
        let (_folder, root) = library();
        fs::create_dir(root.path().join("a")).unwrap();
        fs::write(root.path().join("a/x.mp3"), b"12345").unwrap();
        let Entry::File(stat) = root.entry(&"a/x.mp3".into()).unwrap() else { panic!("no file") };
        assert_eq!((stat.mount, stat.size), (MountId(0), 5));
        let (file, opened) = root.open(&"a/x.mp3".into()).unwrap().unwrap();
        assert_eq!((opened, root.stat(&file).unwrap()), (stat, stat));
        assert!(root.has_one_name(&"a/x.mp3".into()).unwrap());
        fs::hard_link(root.path().join("a/x.mp3"), root.path().join("y")).unwrap();
        assert!(!root.has_one_name(&"a/x.mp3".into()).unwrap());
        assert_eq!(root.entry(&"a".into()).unwrap(), Entry::Directory);
        assert_eq!(root.entry(&LibraryPath::root()).unwrap(), Entry::Directory);
    }

    #[test]
    fn a_name_that_is_not_there_is_missing_however_much_of_the_path_is_gone() {
        let (_folder, root) = library();
        fs::write(root.path().join("file.mp3"), b"").unwrap();
        for path in ["x.mp3", "a/b/c.mp3", "file.mp3/x.mp3"] {
            assert_eq!(root.entry(&path.into()).unwrap(), Entry::Missing { nearest_mount: MountId(0) }, "{path}");
            assert!(root.open(&path.into()).unwrap().is_none(), "{path}");
        }
    }

    #[test]
    fn links_and_pipes_are_never_followed_or_opened() {
        let (folder, root) = library();
        let outside = folder.path().join("outside");
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("x.mp3"), b"secret").unwrap();
        symlink(&outside, root.path().join("link")).unwrap();
        symlink(outside.join("x.mp3"), root.path().join("link.mp3")).unwrap();
        rustix::fs::mknodat(CWD, root.path().join("pipe.mp3"), FileType::Fifo, Mode::RUSR, 0).unwrap();
        assert_eq!(root.entry(&"link/x.mp3".into()).unwrap(), Entry::Excluded);
        assert_eq!(root.entry(&"link.mp3".into()).unwrap(), Entry::Excluded);
        assert_eq!(root.entry(&"pipe.mp3".into()).unwrap(), Entry::Other);
        for path in ["link/x.mp3", "link.mp3", "pipe.mp3"] {
            assert!(root.open(&path.into()).unwrap().is_none(), "{path}");
        }
        assert!(root.list(&LibraryPath::root()).unwrap().unwrap().is_empty());
        assert!(root.list(&"link".into()).unwrap().is_none());
    }

    #[test]
    fn nothing_is_said_of_a_root_that_was_replaced() {
        let (_folder, root) = library();
        fs::write(root.path().join("x.mp3"), b"").unwrap();
        fs::rename(root.path(), root.path().with_extension("old")).unwrap();
        root.entry(&"x.mp3".into()).expect_err("the root is gone");
        fs::create_dir(root.path()).unwrap();
        let error = root.entry(&"x.mp3".into()).expect_err("another directory has the root's name");
        assert!(is_root_replaced(&error));
        root.own_mount().expect_err("it is another directory");
        root.own_mount_at_start().unwrap();
        assert_eq!(root.entry(&"x.mp3".into()).unwrap(), Entry::Missing { nearest_mount: MountId(0) });
    }

    #[test]
    fn a_root_that_is_made_again_is_another_one_even_with_the_same_inode_number() {
        let (_folder, root) = library();
        let before = root.identity();
        assert!(before.born_ns.is_some(), "the filesystem of the tests does not say when a directory was made");
        let mut same_inode = 0;
        for _ in 0..20 {
            fs::remove_dir(root.path()).unwrap();
            // The clock of the filesystem ticks a hundred times a second or more.
            std::thread::sleep(std::time::Duration::from_millis(20));
            fs::create_dir(root.path()).unwrap();
            let now = root.current_identity().unwrap();
            assert_ne!(now, before);
            same_inode += u32::from(now.inode == before.inode);
        }
        // Whether a filesystem gives a number to the next directory is its own affair; most do.
        println!("{same_inode} of 20 got the inode number of the first");
    }

    #[test]
    fn a_listing_has_directories_and_wanted_files_in_the_order_of_paths() {
        let (_folder, root) = library();
        for directory in ["a", "a.mp3"] {
            fs::create_dir(root.path().join(directory)).unwrap();
        }
        for file in ["a-.mp3", "a0.mp3", "a.txt", "b.MP3"] {
            fs::write(root.path().join(file), b"").unwrap();
        }
        let listed = root.list(&LibraryPath::root()).unwrap().unwrap();
        let names: Vec<_> = listed.iter().map(|entry| String::from_utf8_lossy(&entry.name)).collect();
        assert_eq!(names, ["a-.mp3", "a.mp3", "a", "a0.mp3", "b.MP3"]);
    }

    #[test]
    fn a_path_longer_than_the_kernel_takes_at_once_is_reached() {
        let (_folder, root) = library();
        let name = "d".repeat(250);
        let mut directory = rustix::fs::open(root.path(), OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
        let mut path = LibraryPath::root();
        for _ in 0..20 {
            rustix::fs::mkdirat(&directory, &name, Mode::RWXU).unwrap();
            directory = rustix::fs::openat(&directory, &name, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
            path = path.join(name.as_bytes());
        }
        let flags = OFlags::CREATE | OFlags::WRONLY;
        drop(rustix::fs::openat(&directory, "x.mp3", flags, Mode::RUSR).unwrap());
        let file = path.join(b"x.mp3");
        assert!(file.as_bytes().len() > 5000);
        assert!(matches!(root.entry(&file).unwrap(), Entry::File(_)));
        assert!(root.open(&file).unwrap().is_some());
        assert_eq!(root.list(&path).unwrap().unwrap().len(), 1);
    }
}
