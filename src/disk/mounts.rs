//! The mounts of the library, each with a number that stays the same across remounts and reboots.
//!
//! A row of the index names its mount by that number. Device numbers and the kernel's mount ids change
//! with a reboot, and inode numbers mean something only within one filesystem. So a mount is recognised
//! by the most stable identity that it has: see `KnownMount::is`.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;

use super::Root;
use super::descent::open_directory_at;
use super::mountinfo::{self, MountEntry};
use super::stat::{KernelMount, RawStat};
use crate::model::{FileStat, InodeKind, InodeTrust, LibraryPath, MountId};

/// Filesystems that assign new inode numbers at each mount or each look-up.
const PASSING_INODES: &[&str] = &[
    "vfat",
    "msdos",
    "exfat",
    "fuse.exfat",
    "fuse.sshfs",
    "fuse.rclone",
    "fuse.s3fs",
    "fuse.goofys",
    "fuse.gcsfuse",
    "fuse.gvfsd-fuse",
    "fuse.mtpfs",
    "fuse.jmtpfs",
    "fuse.ifuse",
    "fuse.curlftpfs",
    "fuse.davfs2",
    "fuse.simple-mtpfs",
];

/// Filesystems whose look-up may accept a name in another Unicode normal form than the one that they list.
const NORMALISING: &[&str] = &[
    "hfs",
    "hfsplus",
    "apfs",
    "fuse.apfs",
    "zfs",
    "cifs",
    "smb3",
    "smbfs",
    "nfs",
    "nfs4",
    "9p",
    "virtiofs",
    "vboxsf",
    "vmhgfs",
    "fuse",
    "fuseblk",
    "ntfs",
    "ntfs3",
    "exfat",
    "vfat",
];

/// A mount of the library, now or earlier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownMount {
    /// The number in rows.
    pub id: MountId,
    /// Where it was mounted last, under the library's root. For the mount that the root is on, this is the root.
    /// For a mount outside of the library, to which a link leads, it is the absolute path with its leading slash.
    pub place: LibraryPath,
    /// The filesystem's type, such as `ext4` or `fuse.sshfs`.
    pub kind: String,
    /// What the filesystem calls its source: a device, a server, or any other text.
    pub source: String,
    /// The filesystem's UUID, or its `f_fsid` if that is not derived from the device number.
    pub filesystem: Option<String>,
    /// The inode number of the mounted directory.
    pub root_inode: u64,
    /// The birth time of that directory in nanoseconds since the epoch, if the filesystem keeps it.
    pub root_born_ns: Option<i64>,
    /// Whether inode numbers were seen to change on this mount.
    pub has_unstable_inodes: bool,
}

impl KnownMount {
    /// Whether `found`, which is mounted now, is this mount.
    ///
    /// The identity of the filesystem decides if both have one, then the birth time of the mounted directory.
    /// Without either, the same type at the same place counts as the same mount, and on network
    /// filesystems and FUSE also the same source.
    fn is(&self, found: &Self) -> bool {
        if self.kind != found.kind {
            return false;
        }
        let same_directory = self.root_inode == found.root_inode
            && (self.root_born_ns == found.root_born_ns || self.root_born_ns.is_none() || found.root_born_ns.is_none());
        match (&self.filesystem, &found.filesystem) {
            (Some(one), Some(other)) => one == other && same_directory,
            _ if self.root_born_ns.is_some() && found.root_born_ns.is_some() => same_directory,
            _ => {
                let is_device = |source: &str| source.starts_with("/dev/");
                let same_source = self.source == found.source || (is_device(&self.source) && is_device(&found.source));
                self.place == found.place && same_source
            }
        }
    }
}

/// A mount that is mounted now.
#[derive(Clone, Copy, Debug)]
pub(super) struct Present {
    pub(super) id: MountId,
    unstable_inodes: bool,
    pub(super) may_normalise: bool,
}

impl Present {
    /// The stat in the form that is compared and stored.
    pub(super) fn file_stat(self, raw: &RawStat) -> FileStat {
        FileStat {
            mount: self.id,
            // Two stats of one file may have two numbers.
            inode: if self.unstable_inodes { 0 } else { raw.inode },
            inode_kind: if self.unstable_inodes { InodeKind::Unstable } else { InodeKind::Stable },
            born_ns: raw.born_ns.filter(|_| !self.unstable_inodes),
            size: raw.size,
            mtime_ns: raw.mtime_ns,
            ctime_ns: raw.ctime_ns,
        }
    }
}

/// How many times the root or its mount may change while the program starts.
const TRIES_AT_START: u32 = 5;

/// The register of mounts. It reads the kernel's mount table only for a mount that it does not know yet.
#[derive(Debug)]
pub struct Mounts {
    /// The library's root, canonical.
    root: PathBuf,
    inode_trust: InodeTrust,
    state: RwLock<State>,
    /// Locked while a mount is identified. This accesses its filesystem and may take long.
    identifying: Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    present: HashMap<KernelMount, Present>,
    known: Vec<KnownMount>,
    version: u64,
}

impl Mounts {
    /// A register for the library at `root`, which may be a link.
    pub(super) fn new(root: &Path) -> io::Result<Self> {
        Ok(Self {
            root: std::fs::canonicalize(root)?,
            inode_trust: InodeTrust::Auto,
            state: RwLock::default(),
            identifying: Mutex::default(),
        })
    }

    pub(super) fn with_inode_trust(self, inode_trust: InodeTrust) -> Self {
        Self { inode_trust, ..self }
    }

    /// Takes over the mounts that were known before the last restart.
    pub fn remember(&self, known: Vec<KnownMount>) {
        let mut state = self.write();
        state.known = known;
        state.present.clear();
    }

    /// All mounts that rows may name, and a version that rises with each change.
    pub fn known(&self) -> (Vec<KnownMount>, u64) {
        let state = self.read();
        (state.known.clone(), state.version)
    }

    /// The version of [`Mounts::known`].
    pub fn version(&self) -> u64 {
        self.read().version
    }

    /// The mount with this number.
    pub fn get(&self, id: MountId) -> Option<KnownMount> {
        self.read().known.iter().find(|known| known.id == id).cloned()
    }

    /// Records that the inode numbers of this mount are not stable. Returns whether this was unknown.
    pub fn note_unstable_inodes(&self, id: MountId) -> bool {
        let mut state = self.write();
        if self.inode_trust != InodeTrust::Auto || state.present.values().any(|it| it.id == id && it.unstable_inodes) {
            return false;
        }
        if let Some(known) = state.known.iter_mut().find(|known| known.id == id) {
            known.has_unstable_inodes = true;
        }
        for present in state.present.values_mut().filter(|present| present.id == id) {
            present.unstable_inodes = true;
        }
        state.version += 1;
        true
    }

    /// Forgets which mount each kernel id belongs to. Call this after something was mounted or unmounted, because the
    /// kernel reuses ids.
    pub fn forget_kernel_ids(&self) {
        self.write().present.clear();
    }

    /// Whether a mount is mounted now, at a place that is not above `path`.
    pub(super) fn is_elsewhere(&self, id: MountId, path: &LibraryPath) -> bool {
        let state = self.read();
        state.present.values().any(|present| present.id == id)
            && state.known.iter().any(|known| known.id == id && !path.is_at_or_under(&known.place))
    }

    /// The mount of the entry `name` in an open directory, or of the open file itself if there is no name.
    pub(super) fn of(&self, raw: &RawStat, open: BorrowedFd<'_>, name: Option<&[u8]>) -> io::Result<Present> {
        if let Some(present) = self.read().present.get(&raw.mount) {
            return Ok(*present);
        }
        let _alone = self.identifying.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(present) = self.read().present.get(&raw.mount) {
            return Ok(*present);
        }
        let table = mountinfo::mount_table()?;
        let (entry, found) = match path_of(open) {
            Ok(mut path) => {
                path.extend(name.map(std::ffi::OsStr::from_bytes));
                let entry = mountinfo::mount_of(&table, &path)
                    .ok_or_else(|| io::Error::other(format!("no mount contains {}", path.display())))?;
                (entry, self.identify(raw.mount, entry)?)
            }
            // The kernel does not report paths that are too long for a system call.
            Err(error) if Errno::from_io_error(&error) == Some(Errno::NAMETOOLONG) => {
                let near =
                    |entry: &&MountEntry| self.root.starts_with(&entry.point) || entry.point.starts_with(&self.root);
                table
                    .iter()
                    .filter(near)
                    .find_map(|entry| Some((entry, self.identify(raw.mount, entry).ok()?)))
                    .ok_or_else(|| io::Error::other("no mount of the library is the one of this path"))?
            }
            Err(error) => return Err(error),
        };
        // The same directory of a filesystem may be mounted at several places, each of which may be unmounted alone.
        let is_mounted_at = |place: &LibraryPath| {
            let is_same = |other: &&MountEntry| (&other.device, &other.root) == (&entry.device, &entry.root);
            table.iter().filter(is_same).any(|other| self.place_of(other) == *place)
        };
        Ok(self.admit(raw.mount, found, is_mounted_at))
    }

    /// The identity of the mount at `entry`, if it still has the id `kernel`.
    fn identify(&self, kernel: KernelMount, entry: &MountEntry) -> io::Result<KnownMount> {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let directory = rustix::fs::openat(CWD, &entry.point, flags, Mode::empty())?;
        let raw = RawStat::of(&directory)?;
        // Another filesystem may have been mounted over it meanwhile.
        if matches!(kernel, KernelMount::Id(_)) && raw.mount != kernel {
            return Err(io::Error::other(format!("the mount at {} has just changed", entry.point.display())));
        }
        let fsid = rustix::fs::fstatvfs(&directory).map_or(0, |found| found.f_fsid);
        let has_fsid = fsid != 0 && fsid != encoded_device(raw.device) && !is_of_device(&entry.kind);
        let fsid = has_fsid.then(|| format!("{fsid:016x}"));
        Ok(KnownMount {
            id: MountId::UNKNOWN,
            place: self.place_of(entry),
            kind: entry.kind.clone(),
            source: entry.source.clone(),
            filesystem: fsid.or_else(|| MountEntry::uuid(entry)),
            root_inode: raw.inode,
            root_born_ns: raw.born_ns,
            has_unstable_inodes: false,
        })
    }

    /// The place of a mount, in the form of [`KnownMount::place`].
    fn place_of(&self, entry: &MountEntry) -> LibraryPath {
        match LibraryPath::strip_root(&self.root, &entry.point) {
            Some(place) => place,
            None if self.root.starts_with(&entry.point) => LibraryPath::root(),
            // It is outside of the library, and a link may lead there.
            None => LibraryPath::from_bytes(entry.point.as_os_str().as_bytes()),
        }
    }

    /// Gives the mount its number: the one that it had, possibly at another place, or a new one.
    fn admit(&self, kernel: KernelMount, found: KnownMount, is_mounted_at: impl Fn(&LibraryPath) -> bool) -> Present {
        let mut state = self.write();
        let stayed = state.known.iter().position(|known| known.place == found.place && known.is(&found));
        let has_moved = |known: &KnownMount| known.is(&found) && !is_mounted_at(&known.place);
        let place = stayed.or_else(|| state.known.iter().position(has_moved)).unwrap_or_else(|| {
            let next = state.known.iter().map(|known| known.id.0 + 1).max().unwrap_or(0);
            state.known.push(KnownMount { id: MountId(next), ..found.clone() });
            state.version += 1;
            state.known.len() - 1
        });
        let known = &mut state.known[place];
        let now = KnownMount { id: known.id, has_unstable_inodes: known.has_unstable_inodes, ..found };
        let is_changed = *known != now;
        *known = now;
        let present = Present {
            id: known.id,
            unstable_inodes: match self.inode_trust {
                InodeTrust::Ignored => true,
                InodeTrust::Trusted => false,
                InodeTrust::Auto => known.has_unstable_inodes || PASSING_INODES.contains(&known.kind.as_str()),
            },
            may_normalise: NORMALISING.contains(&known.kind.as_str()) || known.kind.starts_with("fuse."),
        };
        state.version += u64::from(is_changed);
        state.present.insert(kernel, present);
        present
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Root {
    /// Sets whether inode numbers are trusted. Call this before the first access.
    ///
    /// # Errors
    ///
    /// If the root's path cannot be resolved.
    pub fn trusting_inodes(self, inode_trust: InodeTrust) -> io::Result<Self> {
        let mounts = Arc::new(Mounts::new(&self.path)?.with_inode_trust(inode_trust));
        Ok(Self { mounts, ..self })
    }

    /// The mount that the root itself is on. Call this before accesses to other mounts, so that this one gets the first
    /// number, as in the rows of older stores.
    ///
    /// # Errors
    ///
    /// If the root was replaced, or its mount cannot be identified.
    pub fn own_mount(&self) -> io::Result<MountId> {
        let root = self.open_checked()?;
        Ok(self.mounts.of(&RawStat::of(&root)?, root.as_fd(), None)?.id)
    }

    /// The mount that the root itself is on, while the program starts. If something is mounted or unmounted at the root
    /// at this moment, the directory that is there afterwards becomes the root.
    ///
    /// # Errors
    ///
    /// As [`Root::own_mount`].
    pub fn own_mount_at_start(&self) -> io::Result<MountId> {
        for _ in 0..TRIES_AT_START {
            if let Ok(found) = self.own_mount() {
                return Ok(found);
            }
            // If the root is still the same, only its mount was replaced, and the next try finds the new one.
            if self.current_identity()? != self.identity() {
                self.adopt()?;
            }
        }
        self.own_mount()
    }

    /// The mounts of the library.
    pub fn mounts(&self) -> &Arc<Mounts> {
        &self.mounts
    }

    /// Identifies all mounts. Without this, files of a mount that has moved would count as missing.
    pub fn identify_mounts(&self) {
        let responds = |entry: &MountEntry| match LibraryPath::strip_root(&self.path, &entry.point) {
            Some(place) => self.servers.check(&place).is_ok(),
            None => !entry.has_server(),
        };
        for entry in self.mount_entries().into_iter().chain(self.known_outside()) {
            if responds(&entry)
                && let Ok(directory) = open_directory_at(&entry.point)
                && let Ok(found) = RawStat::of(&directory)
            {
                // If this fails, it is tried again with the first file on the mount.
                let _ = self.mounts.of(&found, directory.as_fd(), None);
            }
        }
    }

    /// Records that the inode numbers of a mount are not stable, and logs that once.
    pub fn note_unstable_inodes(&self, mount: MountId) {
        if self.mounts.note_unstable_inodes(mount)
            && let Some(known) = self.mounts.get(mount)
        {
            tracing::warn!(
                place = %known.place.to_absolute(&self.path).display(),
                filesystem = known.kind,
                "inode numbers are not stable here: only size and modification time show whether a file is unchanged, and \
                 moves are found by content; IGNORE_INODE=false trusts the numbers anyway"
            );
        }
    }
}

/// The path of an open file, as the kernel reports it.
fn path_of(open: BorrowedFd<'_>) -> io::Result<PathBuf> {
    use std::os::fd::AsRawFd;
    std::fs::read_link(format!("/proc/self/fd/{}", open.as_raw_fd()))
}

/// A device number in the form in which the kernel puts it into `f_fsid` for filesystems without an id of their own.
fn encoded_device(device: u64) -> u64 {
    let (major, minor) = (u64::from(rustix::fs::major(device)), u64::from(rustix::fs::minor(device)));
    (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12)
}

/// Whether `f_fsid` of this type of filesystem is always derived from the device number.
fn is_of_device(kind: &str) -> bool {
    matches!(kind, "xfs" | "vfat" | "msdos" | "exfat" | "ntfs3" | "iso9660" | "udf" | "squashfs" | "hfs" | "hfsplus")
}
