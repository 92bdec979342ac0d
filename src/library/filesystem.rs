//! Which filesystems tell of changes that are made elsewhere, and which are mounted where.

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

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

/// The same by their names in the kernel's table of mounts.
const SILENT_TYPES: &[&str] = &[
    "nfs", "nfs4", "smbfs", "cifs", "smb3", "fuse", "fuseblk", "9p", "virtiofs", "afs", "ceph", "coda", "lustre",
    "vboxsf", "vmhgfs",
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

/// The mounts on directories beneath `root`, as [`mounts_beneath`] gives them, whose changes have to be
/// found by walking.
///
/// By the name that the kernel's table has for the filesystem, and not by statfs(2): that would wait
/// for a server that is gone.
pub fn silent_mounts(mounts: &[String]) -> Vec<&str> {
    let is_silent = |mount: &&String| mount.rsplit(' ').next().is_some_and(is_silent_type);
    mounts.iter().filter(is_silent).filter_map(|mount| mount.split(' ').nth(4)).collect()
}

fn is_silent_type(name: &str) -> bool {
    // A name may have the kind of a FUSE filesystem behind a dot.
    let (kind, _) = name.split_once('.').unwrap_or((name, ""));
    SILENT_TYPES.contains(&kind)
}

fn name_of_silent(kind: u32) -> Option<&'static str> {
    SILENT.iter().find(|(silent, _)| *silent == kind).map(|(_, name)| *name)
}

/// The mounts on directories beneath `root`, each in the kernel's words: they differ where something
/// was mounted or unmounted.
pub fn mounts_beneath(root: &Path) -> io::Result<Vec<String>> {
    let root = std::fs::canonicalize(root)?;
    let table = std::fs::read("/proc/self/mountinfo")?;
    Ok(lines_beneath(&String::from_utf8_lossy(&table), &escaped(root.as_os_str().as_bytes())))
}

fn lines_beneath(table: &str, root: &str) -> Vec<String> {
    let is_beneath = |line: &&str| {
        let mount_point = line.split(' ').nth(4).and_then(|mount_point| mount_point.strip_prefix(root));
        mount_point.is_some_and(|below| below.starts_with('/'))
    };
    // The options may change without a mount; what follows them is the filesystem's type.
    let essence = |line: &str| {
        let kind = line.split_once(" - ").and_then(|(_, rest)| rest.split(' ').next()).unwrap_or("none");
        line.split(' ').take(5).chain([kind]).collect::<Vec<_>>().join(" ")
    };
    table.lines().filter(is_beneath).map(essence).collect()
}

/// A path as the kernel's table has it.
fn escaped(path: &[u8]) -> String {
    let mut text = Vec::with_capacity(path.len());
    for &byte in path {
        match byte {
            b' ' | b'\t' | b'\n' | b'\\' => text.extend_from_slice(format!("\\{byte:03o}").as_bytes()),
            _ => text.push(byte),
        }
    }
    String::from_utf8_lossy(&text).into_owned()
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

    #[test]
    fn only_what_is_mounted_beneath_the_root_counts_and_no_option_of_it() {
        let table = "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n\
                     30 22 8:2 / /my\\040music rw - ext4 /dev/sdb1 rw\n\
                     31 30 8:3 / /my\\040music/usb rw - vfat /dev/sdc1 rw\n\
                     32 22 8:4 / /my\\040music2/usb rw - vfat /dev/sdd1 rw\n";
        assert_eq!(lines_beneath(table, &escaped(b"/my music")), ["31 30 8:3 / /my\\040music/usb vfat"]);
    }

    #[test]
    fn network_filesystems_beneath_the_root_are_told_from_local_ones() {
        let table = "31 30 8:3 / /music/usb rw shared:1 - vfat /dev/sdc1 rw\n\
                     32 30 0:50 / /music/nas rw - nfs4 nas:/music rw\n\
                     33 30 0:51 / /music/cloud rw,relatime shared:2 master:1 - fuse.rclone cloud: rw\n\
                     34 30 0:52 / /music/ram rw - tmpfs tmpfs rw\n";
        let mounts = lines_beneath(table, "/music");
        assert_eq!(silent_mounts(&mounts), ["/music/nas", "/music/cloud"]);
    }
}
