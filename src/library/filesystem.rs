//! Filesystems that do not report the changes that are made elsewhere.

use std::io;
use std::path::Path;

use crate::disk::MountEntry;

/// The filesystems, by the number that statfs(2) gives them, on which the kernel tells only of what
/// this machine does itself: everything else about them happens on a server or in another process.
const SILENT: &[(u32, &str)] = &[
    (0x6969, "NFS"),
    (0x517B, "SMB"),
    (0xFF53_4D42, "CIFS"),
    (0xFE53_4D42, "SMB2"),
    (0x6573_5546, "FUSE"),
    (0x0102_1997, "9p"),
    (0x5346_414F, "AFS"),
    (0x6B41_4653, "AFS"),
    (0x00C3_6400, "Ceph"),
    (0x7375_7245, "Coda"),
    (0x0BD0_0BD0, "Lustre"),
    (0x786F_4256, "VirtualBox"),
    (0xBACB_ACBC, "VMware"),
];

/// The name of the filesystem that `path` is on, if its changes have to be found by walking.
pub fn silent_filesystem(path: &Path) -> io::Result<Option<&'static str>> {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the numbers have 32 bits, some signed"
    )]
    let kind = rustix::fs::statfs(path)?.f_type as u32;
    Ok(name_of_silent(kind))
}

/// The places of those mounts whose changes have to be found by walking.
///
/// By the name that the kernel's table has for the filesystem, and not by statfs(2): that would wait
/// for a server that is gone.
pub fn silent_mounts(mounts: &[MountEntry]) -> Vec<String> {
    let silent = mounts.iter().filter(|mount| mount.has_server());
    silent.map(|mount| mount.point.display().to_string()).collect()
}

fn name_of_silent(kind: u32) -> Option<&'static str> {
    SILENT.iter().find(|(silent, _)| *silent == kind).map(|(_, name)| *name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn network_filesystems_are_silent_and_local_ones_are_not() {
        for (kind, name) in [(0x6969, "NFS"), (0xFF53_4D42, "CIFS"), (0x6573_5546, "FUSE"), (0x0102_1997, "9p")] {
            assert_eq!(name_of_silent(kind), Some(name));
        }
        // ext4, btrfs, xfs, tmpfs, overlayfs, ZFS.
        for kind in [0xEF53, 0x9123_683E, 0x5846_5342, 0x0102_1994, 0x794C_7630, 0x2FC1_2FC1] {
            assert_eq!(name_of_silent(kind), None, "{kind:x}");
        }
    }

    #[test]
    fn the_filesystem_of_a_path_is_asked() {
        assert_eq!(silent_filesystem(Path::new("/proc")).unwrap(), None);
        silent_filesystem(Path::new("/nowhere")).expect_err("there is nothing");
    }
}
