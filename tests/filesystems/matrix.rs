//! Every medium plays every scenario.

use crate::medium::{Bind, Disk, Mergerfs, Overlay, Squashfs};
use crate::mirror::{Mirror, Oddity};
use crate::scenarios::{Traits, all};

const DISK: Traits = Traits { inodes_last: true, has_birth_times: true };
const FUSE: Traits = Traits { inodes_last: true, has_birth_times: false };
const CHANGING: Traits = Traits { inodes_last: false, has_birth_times: false };

#[test]
fn ext4_keeps_the_promises() {
    all(|| Box::new(Disk::ext4()), DISK);
}

#[test]
fn xfs_keeps_the_promises() {
    all(|| Box::new(Disk::xfs()), DISK);
}

#[test]
fn btrfs_keeps_the_promises() {
    all(|| Box::new(Disk::btrfs()), DISK);
}

#[test]
fn tmpfs_keeps_the_promises() {
    all(|| Box::new(Bind::tmpfs()), DISK);
}

#[test]
fn a_bind_mount_keeps_the_promises() {
    all(|| Box::new(Bind::directory()), DISK);
}

#[test]
fn squashfs_keeps_the_promises() {
    // Its numbers are those of the image, which is made anew.
    all(|| Box::new(Squashfs::new()), CHANGING);
}

#[test]
fn an_overlay_keeps_the_promises() {
    // Copied up, a file has another birth time.
    all(|| Box::new(Overlay::in_memory()), FUSE);
}

#[test]
fn ntfs_by_ntfs_3g_keeps_the_promises() {
    all(|| Box::new(Disk::ntfs()), FUSE);
}

#[test]
fn mergerfs_that_passes_inode_numbers_on_keeps_the_promises() {
    all(|| Box::new(Mergerfs::new("passthrough")), FUSE);
}

#[test]
fn mergerfs_that_makes_inode_numbers_of_device_numbers_keeps_the_promises() {
    all(|| Box::new(Mergerfs::new("devino-hash")), CHANGING);
}

#[test]
fn mergerfs_that_makes_inode_numbers_of_paths_keeps_the_promises() {
    all(|| Box::new(Mergerfs::new("path-hash")), FUSE);
}

#[test]
fn a_filesystem_in_user_space_keeps_the_promises() {
    all(|| Box::new(Mirror::new(Oddity::None)), FUSE);
}

#[test]
fn a_filesystem_with_other_inode_numbers_at_each_mount_keeps_the_promises() {
    all(|| Box::new(Mirror::new(Oddity::InodesOfMount)), CHANGING);
}

#[test]
fn a_filesystem_with_other_inode_numbers_at_each_look_up_keeps_the_promises() {
    all(|| Box::new(Mirror::new(Oddity::InodesOfLookup)), CHANGING);
}

#[test]
fn a_filesystem_without_case_keeps_the_promises() {
    all(|| Box::new(Mirror::new(Oddity::NoCase)), FUSE);
}

#[test]
fn a_filesystem_with_other_normal_forms_keeps_the_promises() {
    all(|| Box::new(Mirror::new(Oddity::Decomposed)), FUSE);
}
