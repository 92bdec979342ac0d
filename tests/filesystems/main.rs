//! The real binary on the filesystems that people keep their music on.
//!
//! Each medium of [`support::medium`] plays the scenarios of [`scenarios`], once under the library's root and once as the
//! root itself:
//!
//! | scenario | what happens |
//! |---|---|
//! | offline | a scan, a remount under another device number, changes, a scan, another remount, a scan |
//! | away | a scan, two scans while the medium is not mounted, a scan when it is back |
//! | live | changes while it is watched, the medium goes and comes back under another number, changes |
//! | killed | random changes, remounts and SIGKILLs |
//!
//! The other files have what is special about one kind of medium.
//!
//! What cannot be tried, because the kernel of the test machine lacks it, is printed by [`lacking`]:
//!
//! | filesystem | needs | what stands for it |
//! |---|---|---|
//! | ext4 with casefold | CONFIG_UNICODE | runs if the kernel has it; else a FUSE filesystem without case |
//! | vfat, exfat | a module | a FUSE filesystem without case and one with inode numbers that change at each mount |
//! | NFS, SMB | a module and a server | FUSE: changes made elsewhere, servers that hang, errors in the middle |
//! | HFS+, APFS, ZFS | a module | a FUSE filesystem that lists names in another normal form |

mod faults;
mod lacking;
mod links;
mod matrix;
mod names;
mod places;
mod scenarios;
mod stacked;
mod subvolumes;
#[path = "../support/mod.rs"]
mod support;
