//! Every medium plays every scenario.

use std::thread;

use crate::scenarios::{Traits, all};
use crate::support::medium::{Bind, Disk, Mergerfs, Overlay, Squashfs};
use crate::support::mirror::{Mirror, Oddity};

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
fn tmpfs_and_bind_mounts_keep_the_promises() {
    at_once(&[&|| all(|| Box::new(Bind::tmpfs()), DISK), &|| all(|| Box::new(Bind::directory()), DISK)]);
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
fn mergerfs_keeps_the_promises_whatever_its_inode_numbers() {
    let play = |options, traits| all(move || Box::new(Mergerfs::new(options)), traits);
    at_once(&[
        &|| play("use_ino,inodecalc=passthrough", FUSE),
        &|| play("use_ino,inodecalc=path-hash", FUSE),
        // The numbers come from device numbers, or from the order of look-ups.
        &|| play("use_ino,inodecalc=devino-hash", CHANGING),
        &|| play("inodecalc=passthrough", CHANGING),
    ]);
}

#[test]
fn filesystems_in_user_space_keep_the_promises_whatever_names_they_find() {
    let play = |oddity| all(move || Box::new(Mirror::new(oddity)), FUSE);
    at_once(&[&|| play(Oddity::None), &|| play(Oddity::NoCase), &|| play(Oddity::Decomposed)]);
}

#[test]
fn filesystems_with_other_inode_numbers_at_each_mount_or_look_up_keep_the_promises() {
    let play = |oddity| all(move || Box::new(Mirror::new(oddity)), CHANGING);
    at_once(&[&|| play(Oddity::InodesOfMount), &|| play(Oddity::InodesOfLookup)]);
}

/// They wait most of the time, so the number of processors is no reason to play them one after the other.
fn at_once(plays: &[&(dyn Fn() + Sync)]) {
    thread::scope(|scope| plays.iter().for_each(|play| drop(scope.spawn(play))));
}
