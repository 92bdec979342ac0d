//! The library root: what is at a path under it, or behind a followed link that leads out of it.
//!
//! Every access starts at the root's own path, checks that the directory there is still the one that was opened, and
//! goes down name by name without following a link. For a path behind a followed link that leads out of the library,
//! it goes down from the link's target. So:
//!
//! - No access leaves the library by accident.
//! - Paths that are too long for one system call are reached.
//! - No descriptor is kept open that would prevent a filesystem from being unmounted.
//! - "Nothing has this name" is proof that a file is gone.

mod descent;
mod file_times;
mod find_links;
mod identity;
mod ignore_files;
mod links;
mod listing;
mod mountinfo;
mod mounts;
mod names;
mod outside;
mod servers;
mod stat;

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use rustix::fs::FileType;

use crate::model::{FileStat, LibraryPath, MountId, Rules};

pub use identity::Identity;
pub use listing::{Listed, ListedKind, Listing};
pub use mountinfo::{MountChanges, MountEntry, mounts_under};
pub use mounts::{KnownMount, Mounts};
pub use outside::{LinkTarget, LinkUnknown, LinkedPath};
pub use servers::{ASK_MOUNT, ask_mount};

use descent::{At, Descent, Spelling, open_directory_at};
use ignore_files::IgnoreFiles;
use links::Links;
use names::ExactNames;
use outside::{Lead, LinksOut, is_unknown_link};
use servers::Servers;
use stat::RawStat;

/// Bytes of directory entries per read.
const LISTING_BUFFER: usize = 16 * 1024;

/// What is at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// A regular file.
    File(FileStat),
    /// A directory.
    Directory,
    /// Anything else, which is never opened: a link, a pipe, a socket or a device.
    Other,
    /// Nothing has this name. This is proved, not just a failed access.
    Missing {
        /// The mount of the nearest directory that exists.
        nearest_mount: MountId,
    },
    /// The path is excluded, whatever is there: by its extension, a pattern, or a link that is not followed.
    Excluded {
        /// The mount of the nearest directory that exists, if nothing has this name. An ignore file on a mount that is
        /// gone might include the path.
        nearest_mount: Option<MountId>,
    },
}

impl Entry {
    /// The mount of the nearest directory that exists, if nothing has this name.
    pub fn nearest_mount(self) -> Option<MountId> {
        match self {
            Self::Missing { nearest_mount } => Some(nearest_mount),
            Self::Excluded { nearest_mount } => nearest_mount,
            Self::File(_) | Self::Directory | Self::Other => None,
        }
    }
}

/// The open directory of a path, so that further accesses of one look need no descent.
///
/// It is kept for no longer than a look: it prevents its filesystem from being unmounted.
#[derive(Debug, Default)]
pub struct Place(Option<Descent>);

/// Access to the files of a library. Tests use a model instead of the disk.
///
/// # Errors
///
/// An error of a method means that the answer could not be found out, never that a file is gone.
pub trait Disk {
    /// An open file.
    type File;

    /// What is at `path`, spelt exactly like this.
    fn entry(&self, path: &LibraryPath) -> io::Result<Entry>;

    /// As [`Disk::entry`], with the place of the path, which may be empty.
    fn find(&self, path: &LibraryPath) -> io::Result<(Entry, Place)> {
        Ok((self.entry(path)?, Place::default()))
    }

    /// As [`Disk::open`], at the place of `path`.
    fn open_at(&self, _place: &Place, path: &LibraryPath) -> io::Result<Option<(Self::File, FileStat)>> {
        self.open(path)
    }

    /// What a look-up finds at the place of `path` now, even if its directory has another path by now.
    fn look_up_at(&self, _place: &Place, path: &LibraryPath) -> io::Result<Entry> {
        self.entry(path)
    }

    /// What a look-up finds at each of `paths`. This is cheapest if the paths of one directory are adjacent.
    ///
    /// On a case-insensitive filesystem, a look-up may find a file that is listed under another spelling.
    fn look_up(&self, paths: &[&LibraryPath]) -> Vec<io::Result<Entry>> {
        paths.iter().map(|path| self.entry(path)).collect()
    }

    /// Opens the regular file at `path`, and returns it with its stat; `None` if there is none.
    ///
    /// This does not check whether the root was replaced. Callers do that afterwards, with [`Disk::look_up`] or
    /// [`Disk::entry`].
    fn open(&self, path: &LibraryPath) -> io::Result<Option<(Self::File, FileStat)>>;

    /// The current stat of an open file.
    fn stat(&self, file: &Self::File) -> io::Result<FileStat>;

    /// Whether the file at `path` has only one name. A write by another name would give no event for this one.
    fn has_one_name(&self, path: &LibraryPath) -> io::Result<bool>;

    /// The generation of the root, which rises each time that the root is replaced. A file that is missing in one
    /// generation proves nothing about another one.
    fn generation(&self) -> u64 {
        0
    }

    /// Whether the mount is certainly not above `path`, because it is mounted elsewhere now.
    fn is_elsewhere(&self, _mount: MountId, _path: &LibraryPath) -> bool {
        false
    }

    /// Records that a file on this mount was seen with several inode numbers.
    fn note_unstable_inodes(&self, _mount: MountId) {}

    /// How long after a look the times of a file on this mount may stay the same although it changes.
    fn time_step(&self, _mount: MountId) -> Duration {
        Duration::ZERO
    }
}

/// The root directory of the library.
#[derive(Debug)]
pub struct Root {
    path: PathBuf,
    identity: RwLock<Identity>,
    generation: AtomicU64,
    /// The links to inside the library, if they are followed.
    links: Option<Links>,
    /// The links that lead out of the library, if they are followed too.
    links_out: Option<LinksOut>,
    mounts: Arc<Mounts>,
    exact_names: ExactNames,
    servers: Servers,
    /// Which paths are published.
    rules: Rules,
    ignore_files: IgnoreFiles,
}

/// The error inside the [`io::Error`] of every access after the root was replaced.
#[derive(Debug, thiserror::Error)]
#[error("the library root is another directory now")]
pub struct RootReplaced;

/// Whether an error says that the root was replaced. Then nothing is known of any path.
pub fn is_root_replaced(error: &io::Error) -> bool {
    error.get_ref().is_some_and(<dyn std::error::Error + Send + Sync>::is::<RootReplaced>)
}

impl Root {
    /// Opens the directory at `path` as the root. The path may contain links.
    ///
    /// # Errors
    ///
    /// If there is no directory at `path`, or it cannot be opened.
    pub fn open(path: &Path) -> io::Result<Self> {
        let root = Self {
            path: path.to_path_buf(),
            identity: RwLock::new(Identity::of(&open_directory_at(path)?)?),
            generation: AtomicU64::new(0),
            links: None,
            links_out: None,
            mounts: Arc::new(Mounts::new(path)?),
            exact_names: ExactNames::default(),
            servers: Servers::default(),
            rules: Rules::default(),
            ignore_files: IgnoreFiles::default(),
        };
        root.adopt()?;
        Ok(root)
    }

    /// Applies these rules, and those of the files `.ignore-music` in the library.
    #[must_use]
    pub fn with_rules(self, rules: Rules) -> Self {
        Self { rules, ..self }
    }

    /// The rules for the whole library.
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// The path that the root was opened with.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The identity of the root. Accesses fail if another directory is at its path.
    pub fn identity(&self) -> Identity {
        *self.identity.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The identity of the directory that is at the root's path now.
    ///
    /// # Errors
    ///
    /// If there is no directory at the path now, or it cannot be opened.
    pub fn current_identity(&self) -> io::Result<Identity> {
        Identity::of(&self.open_unchecked()?)
    }

    /// Takes the directory that is at the root's path now as the root.
    ///
    /// # Errors
    ///
    /// As [`Root::current_identity`].
    pub fn adopt(&self) -> io::Result<Identity> {
        let identity = self.current_identity()?;
        // First, so that nothing of the new root is seen in the generation of the old one.
        self.generation.fetch_add(1, SeqCst);
        *self.identity.write().unwrap_or_else(PoisonError::into_inner) = identity;
        self.forget_ignore_files(&LibraryPath::root());
        Ok(identity)
    }

    /// Opens the directory at the root's path, whichever it is.
    fn open_unchecked(&self) -> io::Result<OwnedFd> {
        open_directory_at(&self.path)
    }

    /// Opens the root. Fails if another directory is at its path.
    fn open_checked(&self) -> io::Result<OwnedFd> {
        let root = self.open_unchecked()?;
        if Identity::of(&root)? == self.identity() { Ok(root) } else { Err(io::Error::other(RootReplaced)) }
    }
}

impl Disk for Root {
    type File = File;

    fn entry(&self, path: &LibraryPath) -> io::Result<Entry> {
        self.find(path).map(|(entry, _)| entry)
    }

    fn find(&self, path: &LibraryPath) -> io::Result<(Entry, Place)> {
        let (found, place) = match self.find_by_links(path) {
            Ok((entry, place)) => (Ok(entry), place),
            Err(error) => (Err(error), Place::default()),
        };
        let found = self.apply_rules(path, found);
        if found.as_ref().is_err_and(is_unknown_link) {
            self.links_changed();
        }
        Ok((found?, place))
    }

    fn open_at(&self, place: &Place, path: &LibraryPath) -> io::Result<Option<(File, FileStat)>> {
        match &place.0 {
            Some(descent) => self.open_in(descent, path),
            None => self.open(path),
        }
    }

    fn look_up_at(&self, place: &Place, path: &LibraryPath) -> io::Result<Entry> {
        match &place.0 {
            Some(descent) => self.apply_rules(path, self.entry_in(descent, path.into(), Spelling::Any)),
            None => self.entry(path),
        }
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
            self.apply_rules(path, self.entry_in(descent, path.into(), Spelling::Any))
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
        // A file behind a link inside the library has another name, its real path.
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

    fn note_unstable_inodes(&self, mount: MountId) {
        Self::note_unstable_inodes(self, mount);
    }

    fn time_step(&self, mount: MountId) -> Duration {
        file_times::step(self.mounts.get(mount).as_ref().map_or("", |mount| &mount.kind))
    }
}

impl<D: Disk + ?Sized> Disk for Arc<D> {
    type File = D::File;

    fn entry(&self, path: &LibraryPath) -> io::Result<Entry> {
        (**self).entry(path)
    }

    fn find(&self, path: &LibraryPath) -> io::Result<(Entry, Place)> {
        (**self).find(path)
    }

    fn open_at(&self, place: &Place, path: &LibraryPath) -> io::Result<Option<(D::File, FileStat)>> {
        (**self).open_at(place, path)
    }

    fn look_up_at(&self, place: &Place, path: &LibraryPath) -> io::Result<Entry> {
        (**self).look_up_at(place, path)
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

    fn note_unstable_inodes(&self, mount: MountId) {
        (**self).note_unstable_inodes(mount);
    }

    fn time_step(&self, mount: MountId) -> Duration {
        (**self).time_step(mount)
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
    fn a_file_is_found_with_its_size_and_its_mount() {
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
    fn a_place_is_the_directory_that_was_found_whatever_its_path_is_now() {
        let (_folder, root) = library();
        fs::create_dir(root.path().join("a")).unwrap();
        fs::write(root.path().join("a/x.mp3"), b"12345").unwrap();
        let path: LibraryPath = "a/x.mp3".into();
        let (found, place) = root.find(&path).unwrap();
        assert!(matches!(found, Entry::File(_)));
        fs::rename(root.path().join("a"), root.path().join("b")).unwrap();
        assert!(matches!(root.entry(&path).unwrap(), Entry::Missing { .. }));
        assert_eq!(root.look_up_at(&place, &path).unwrap(), found);
        let (_, opened) = root.open_at(&place, &path).unwrap().unwrap();
        assert_eq!(Entry::File(opened), found);
        fs::remove_file(root.path().join("b/x.mp3")).unwrap();
        assert!(matches!(root.look_up_at(&place, &path).unwrap(), Entry::Missing { .. }));
        assert!(root.open_at(&place, &path).unwrap().is_none());
    }

    #[test]
    fn a_path_is_missing_however_many_of_its_directories_are_gone() {
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
        assert!(matches!(root.entry(&"link/x.mp3".into()).unwrap(), Entry::Excluded { .. }));
        assert!(matches!(root.entry(&"link.mp3".into()).unwrap(), Entry::Excluded { .. }));
        assert_eq!(root.entry(&"pipe.mp3".into()).unwrap(), Entry::Other);
        for path in ["link/x.mp3", "link.mp3", "pipe.mp3"] {
            assert!(root.open(&path.into()).unwrap().is_none(), "{path}");
        }
        assert!(root.list(&LibraryPath::root()).unwrap().unwrap().is_empty());
        assert!(root.list(&"link".into()).unwrap().is_none());
    }

    #[test]
    fn every_access_to_a_replaced_root_fails() {
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
    fn a_recreated_root_is_another_one_even_if_it_has_the_same_inode_number() {
        let (_folder, root) = library();
        let before = root.identity();
        assert!(before.born_ns.is_some(), "the filesystem of the tests keeps no birth times");
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
        // Whether the inode number is reused depends on the filesystem; most reuse it.
        println!("{same_inode} of 20 got the inode number of the first");
    }

    #[test]
    fn a_listing_has_directories_and_audio_files_in_the_order_of_paths() {
        let (_folder, root) = library();
        for directory in ["a", "a.mp3"] {
            fs::create_dir(root.path().join(directory)).unwrap();
        }
        for file in ["a-.mp3", "a0.mp3", "a.txt", "b.MP3"] {
            fs::write(root.path().join(file), b"").unwrap();
        }
        let listed = root.list(&LibraryPath::root()).unwrap().unwrap();
        let names: Vec<_> = listed.iter_from(0).map(|entry| String::from_utf8_lossy(entry.name)).collect();
        assert_eq!(names, ["a-.mp3", "a.mp3", "a", "a0.mp3", "b.MP3"]);
    }

    #[test]
    fn a_path_that_is_too_long_for_one_system_call_is_reached() {
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
