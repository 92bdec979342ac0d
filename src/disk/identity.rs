//! What tells the directory at the root's path from another one of the same name.

use std::io;
use std::os::fd::OwnedFd;

use super::stat::{KernelMount, RawStat};

/// The identity of a directory, for as long as this process runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    mount: KernelMount,
    device: u64,
    /// The inode number on the filesystem that it is on.
    pub inode: u64,
    /// When it was made, in nanoseconds since the epoch, on filesystems that keep this: a directory
    /// that is made again often gets the inode number of the one that was removed.
    pub born_ns: Option<i64>,
}

impl Identity {
    pub(super) fn of(directory: &OwnedFd) -> io::Result<Self> {
        let RawStat { mount, device, inode, born_ns, .. } = RawStat::of(directory)?;
        Ok(Self { mount, device, inode, born_ns })
    }
}
