//! What cannot be tried on this machine is printed, whether or not the output of tests is captured.

use std::fs;
use std::io::Write as _;

use crate::support::medium::Disk;

/// Filesystems that people have, and what in this suite stands for them.
const WANTED: &[(&str, &str)] = &[
    ("vfat", "a FUSE filesystem without case and one with inode numbers that change"),
    ("exfat", "a FUSE filesystem without case and one with inode numbers that change"),
    ("nfs", "a FUSE filesystem that is changed elsewhere, fails and hangs"),
    ("nfs4", "a FUSE filesystem that is changed elsewhere, fails and hangs"),
    ("cifs", "a FUSE filesystem without case that is changed elsewhere, fails and hangs"),
    ("hfsplus", "a FUSE filesystem with other normal forms"),
    ("zfs", "a FUSE filesystem with other normal forms, and btrfs"),
];

/// Filesystems that this suite must not do without.
const NEEDED: &[&str] = &["ext4", "xfs", "btrfs", "overlay", "tmpfs", "squashfs", "fuse", "fuseblk"];

#[test]
fn what_this_machine_lacks_is_named() {
    let known = fs::read_to_string("/proc/filesystems").unwrap();
    let has = |name: &str| known.lines().any(|line| line.split_whitespace().last() == Some(name));
    // Not by eprint!, which is captured.
    let mut report = std::io::stderr();
    for (name, stand_in) in WANTED.iter().filter(|(name, _)| !has(name)) {
        writeln!(report, "not tried: {name}: the kernel lacks it; in its place: {stand_in}").unwrap();
    }
    if let Err(error) = Disk::casefold() {
        writeln!(report, "not tried: ext4 with casefold: {error}; in its place: a FUSE filesystem without case")
            .unwrap();
    }
    let missing: Vec<_> = NEEDED.iter().filter(|name| !has(name)).collect();
    assert!(missing.is_empty(), "the kernel has no {missing:?}, which these tests need");
}
