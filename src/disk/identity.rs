//! The identity of the directory at the root's path, to notice when another one has replaced it.

use std::io;
use std::os::fd::OwnedFd;

use super::stat::{KernelMount, RawStat};

/// The identity of a directory. It is valid for as long as this process runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    mount: KernelMount,
    device: u64,
    /// The inode number on its filesystem.
    pub inode: u64,
    /// The birth time in nanoseconds since the epoch, if the filesystem keeps it. A recreated directory often gets
    /// the inode number of the removed one.
    pub born_ns: Option<i64>,
}

impl Identity {
    /// The identity of an open directory.
    pub(super) fn of(directory: &OwnedFd) -> io::Result<Self> {
        let RawStat { mount, device, inode, born_ns, .. } = RawStat::of(directory)?;
        Ok(Self { mount, device, inode, born_ns })
    }
}
