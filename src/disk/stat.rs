//! The stat of a file with its mount and its birth time, from statx(2).

use std::io;
use std::os::fd::AsFd;

use rustix::fs::{AtFlags, FileType, Statx, StatxFlags};
use rustix::io::Errno;
use rustix::path::Arg;

/// Since Linux 6.8: asks for a mount id that is not reused until the next boot.
const MNT_ID_UNIQUE: StatxFlags = StatxFlags::from_bits_retain(0x4000);

/// The fields to ask the kernel for. It leaves out those that it does not know.
const WANTED: StatxFlags =
    StatxFlags::BASIC_STATS.union(StatxFlags::BTIME).union(StatxFlags::MNT_ID).union(MNT_ID_UNIQUE);

/// The kernel's id of a mount, valid while it is mounted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum KernelMount {
    /// The mount id.
    Id(u64),
    /// The device of the file, if the kernel or a sandbox does not give mount ids.
    Device(u64),
}

/// The stat of a file as the kernel gives it.
#[derive(Clone, Copy, Debug)]
pub(super) struct RawStat {
    pub(super) mount: KernelMount,
    pub(super) device: u64,
    pub(super) kind: FileType,
    pub(super) inode: u64,
    pub(super) links: u64,
    pub(super) size: u64,
    pub(super) mtime_ns: i128,
    pub(super) ctime_ns: i128,
    pub(super) born_ns: Option<i64>,
}

impl RawStat {
    /// The stat of an entry of an open directory. Links are not followed.
    pub(super) fn at(directory: impl AsFd, name: impl Arg + Copy) -> io::Result<Self> {
        let directory = directory.as_fd();
        match rustix::fs::statx(directory, name, AtFlags::SYMLINK_NOFOLLOW, WANTED) {
            Ok(found) => Ok(Self::from_statx(&found)),
            Err(Errno::NOSYS | Errno::PERM) => {
                Ok(Self::from_stat(&rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The stat of an open file.
    pub(super) fn of(open: impl AsFd) -> io::Result<Self> {
        let open = open.as_fd();
        match rustix::fs::statx(open, c"", AtFlags::EMPTY_PATH, WANTED) {
            Ok(found) => Ok(Self::from_statx(&found)),
            Err(Errno::NOSYS | Errno::PERM) => Ok(Self::from_stat(&rustix::fs::fstat(open)?)),
            Err(error) => Err(error.into()),
        }
    }

    fn from_statx(found: &Statx) -> Self {
        let mask = StatxFlags::from_bits_retain(found.stx_mask);
        let device = rustix::fs::makedev(found.stx_dev_major, found.stx_dev_minor);
        let has_mount = mask.intersects(StatxFlags::MNT_ID.union(MNT_ID_UNIQUE));
        // Filesystems without birth times may report zero.
        let born = nanoseconds(found.stx_btime.tv_sec, found.stx_btime.tv_nsec.into());
        let is_born = mask.contains(StatxFlags::BTIME) && born != 0;
        Self {
            mount: if has_mount { KernelMount::Id(found.stx_mnt_id) } else { KernelMount::Device(device) },
            device,
            kind: FileType::from_raw_mode(found.stx_mode.into()),
            inode: found.stx_ino,
            links: found.stx_nlink.into(),
            size: found.stx_size,
            mtime_ns: nanoseconds(found.stx_mtime.tv_sec, found.stx_mtime.tv_nsec.into()),
            ctime_ns: nanoseconds(found.stx_ctime.tv_sec, found.stx_ctime.tv_nsec.into()),
            born_ns: i64::try_from(born).ok().filter(|_| is_born),
        }
    }

    #[expect(clippy::cast_sign_loss, reason = "a file's size and number of links are never negative")]
    #[allow(
        clippy::useless_conversion,
        clippy::unnecessary_cast,
        clippy::cast_possible_wrap,
        reason = "the types differ by architecture"
    )]
    fn from_stat(found: &rustix::fs::Stat) -> Self {
        Self {
            mount: KernelMount::Device(found.st_dev),
            device: found.st_dev,
            kind: FileType::from_raw_mode(found.st_mode),
            inode: found.st_ino,
            links: found.st_nlink as u64,
            size: found.st_size as u64,
            mtime_ns: nanoseconds(found.st_mtime, found.st_mtime_nsec as i64),
            ctime_ns: nanoseconds(found.st_ctime, found.st_ctime_nsec as i64),
            born_ns: None,
        }
    }
}

/// A time in nanoseconds since the epoch.
fn nanoseconds(seconds: i64, nanoseconds: i64) -> i128 {
    i128::from(seconds) * 1_000_000_000 + i128::from(nanoseconds)
}
