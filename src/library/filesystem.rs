//! Filesystems without notification of remote changes.

use std::io;
use std::path::Path;

use crate::disk::MountEntry;

/// Silent filesystems, by their magic number in statfs(2). The kernel reports only the changes that this machine makes
/// through the mount. Changes on the server, or by the process behind a FUSE mount, cause no event.
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

/// The name of the filesystem of `path`, if its changes have to be found by walking.
///
/// # Errors
/// If statfs(2) fails on `path`.
pub fn silent_filesystem(path: &Path) -> io::Result<Option<&'static str>> {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the numbers have 32 bits, some signed"
    )]
    let kind = rustix::fs::statfs(path)?.f_type as u32;
    Ok(name_of_silent(kind))
}

/// The mount points of those mounts whose changes have to be found by walking.
///
/// The type comes from the mount table and not from statfs(2), which would block on an unreachable server.
#[must_use]
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
    fn statfs_is_asked_for_the_filesystem_of_a_path() {
        assert_eq!(silent_filesystem(Path::new("/proc")).unwrap(), None);
        silent_filesystem(Path::new("/nowhere")).expect_err("the path does not exist");
    }
}
