//! Detects filesystems with unstable inode numbers.
//!
//! Many FUSE filesystems and some network filesystems assign new inode numbers at each mount. A walk after a remount then
//! finds most files with another number and no other difference. A restore from a backup also changes the ctime.

use crate::model::{FileStat, MountId};

/// The number of files that differ only in the inode number after which the numbers of a mount count as unstable during
/// a walk. Files up to there are read again.
const SAMPLE: u64 = 32;

/// The number of such files that is enough at the end of a walk, for smaller mounts.
const MIN_FILES: u64 = 4;

/// The files of one walk, counted by mount.
#[derive(Debug, Default)]
pub(super) struct UnstableInodes(Vec<(MountId, MountCounts)>);

#[derive(Clone, Copy, Debug, Default)]
struct MountCounts {
    compared: u64,
    other_number: u64,
}

impl MountCounts {
    fn is_almost_all(self) -> bool {
        self.other_number * 10 >= self.compared * 9
    }
}

impl UnstableInodes {
    /// Counts an indexed file. Returns true when this file shows that the inode numbers of its mount are unstable.
    pub(super) fn note(&mut self, was: &FileStat, now: &FileStat) -> bool {
        if !now.has_stable_inode() || !was.has_stable_inode() || was.mount != now.mount {
            return false;
        }
        // A library has few mounts, so a linear search is fast enough.
        let place = self.0.iter().position(|(mount, _)| *mount == now.mount).unwrap_or_else(|| {
            self.0.push((now.mount, MountCounts::default()));
            self.0.len() - 1
        });
        let counts = &mut self.0[place].1;
        counts.compared += 1;
        let is_only_number = was.inode != now.inode && was.same_size_and_mtime(now) && was.ctime_ns == now.ctime_ns;
        counts.other_number += u64::from(is_only_number);
        is_only_number && counts.other_number == SAMPLE && counts.is_almost_all()
    }

    /// The mounts with unstable inode numbers, from all files of the walk.
    pub(super) fn mounts(&self) -> impl Iterator<Item = MountId> + '_ {
        let is_unstable = |counts: &MountCounts| counts.other_number >= MIN_FILES && counts.is_almost_all();
        self.0.iter().filter(move |(_, counts)| is_unstable(counts)).map(|(mount, _)| *mount)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stat(inode: u64, ctime_ns: i128) -> FileStat {
        FileStat { inode, size: 1, mtime_ns: 1, ctime_ns, ..FileStat::default() }
    }

    #[test]
    fn a_sample_of_files_that_differ_only_in_the_number_is_enough() {
        let mut inodes = UnstableInodes::default();
        let detected_at: Vec<u64> =
            (0..100).filter(|number| inodes.note(&stat(*number, 1), &stat(number + 500, 1))).collect();
        assert_eq!(detected_at, [SAMPLE - 1]);
        assert_eq!(inodes.mounts().count(), 1);
    }

    #[test]
    fn neither_a_restore_nor_files_with_the_same_number_count() {
        let mut inodes = UnstableInodes::default();
        for number in 0..100 {
            assert!(!inodes.note(&stat(number, 1), &stat(number + 500, 2)), "the ctime changed too");
        }
        for number in 0..100 {
            let _ = inodes.note(&stat(number, 1), &stat(if number % 2 == 0 { number } else { number + 500 }, 1));
        }
        assert_eq!(inodes.mounts().count(), 0);
    }

    #[test]
    fn a_small_mount_is_detected_at_the_end_of_the_walk() {
        let mut inodes = UnstableInodes::default();
        for number in 0..MIN_FILES {
            assert_eq!(inodes.mounts().count(), 0);
            assert!(!inodes.note(&stat(number, 1), &stat(number + 500, 1)));
        }
        assert_eq!(inodes.mounts().count(), 1);
    }
}
