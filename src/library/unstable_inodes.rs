//! Noticing that the inode numbers of a filesystem do not last.
//!
//! On many FUSE filesystems and some network ones, each mount gives the files other inode numbers.
//! Then a walk after a remount finds that the number differs for most files, and nothing else.
//! A restore from a backup looks different: it changes the ctime too.

use crate::model::{FileStat, MountId};

/// How many files may differ in nothing but the number before that is believed of all; so many are read again.
const SAMPLE: u64 = 32;

/// A smaller mount is believed at the end of a walk, from this many files on.
const FEWEST: u64 = 4;

/// What one walk saw of each mount.
#[derive(Debug, Default)]
pub(super) struct PassingInodes(Vec<(MountId, Seen)>);

#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    compared: u64,
    other_number: u64,
}

impl Seen {
    fn is_most(self) -> bool {
        self.other_number * 10 >= self.compared * 9
    }
}

impl PassingInodes {
    /// Takes in how an indexed file compares. Returns whether it is clear now that numbers do not last there.
    pub(super) fn note(&mut self, was: &FileStat, now: &FileStat) -> bool {
        if !now.has_stable_inode() || !was.has_stable_inode() || was.mount != now.mount {
            return false;
        }
        // A library has few mounts, and a walk stays on one of them for long.
        let place = self.0.iter().position(|(mount, _)| *mount == now.mount).unwrap_or_else(|| {
            self.0.push((now.mount, Seen::default()));
            self.0.len() - 1
        });
        let seen = &mut self.0[place].1;
        seen.compared += 1;
        let is_only_number = was.inode != now.inode && was.same_size_and_mtime(now) && was.ctime_ns == now.ctime_ns;
        seen.other_number += u64::from(is_only_number);
        is_only_number && seen.other_number == SAMPLE && seen.is_most()
    }

    /// The mounts of which it is clear at the end of the walk.
    pub(super) fn at_the_end(&self) -> impl Iterator<Item = MountId> + '_ {
        let is_clear = |seen: &Seen| seen.other_number >= FEWEST && seen.is_most();
        self.0.iter().filter(move |(_, seen)| is_clear(seen)).map(|(mount, _)| *mount)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stat(inode: u64, ctime_ns: i128) -> FileStat {
        FileStat { inode, size: 1, mtime_ns: 1, ctime_ns, ..FileStat::default() }
    }

    #[test]
    fn a_sample_of_files_with_nothing_but_another_number_is_enough() {
        let mut noticed = PassingInodes::default();
        let news: Vec<u64> =
            (0..100).filter(|number| noticed.note(&stat(*number, 1), &stat(number + 500, 1))).collect();
        assert_eq!(news, [SAMPLE - 1]);
        assert_eq!(noticed.at_the_end().count(), 1);
    }

    #[test]
    fn a_restore_and_files_that_keep_their_numbers_prove_nothing() {
        let mut noticed = PassingInodes::default();
        for number in 0..100 {
            assert!(!noticed.note(&stat(number, 1), &stat(number + 500, 2)), "the ctime changed too");
        }
        for number in 0..100 {
            let _ = noticed.note(&stat(number, 1), &stat(if number % 2 == 0 { number } else { number + 500 }, 1));
        }
        assert_eq!(noticed.at_the_end().count(), 0);
    }

    #[test]
    fn a_small_mount_is_believed_at_the_end() {
        let mut noticed = PassingInodes::default();
        for number in 0..FEWEST {
            assert_eq!(noticed.at_the_end().count(), 0);
            assert!(!noticed.note(&stat(number, 1), &stat(number + 500, 1)));
        }
        assert_eq!(noticed.at_the_end().count(), 1);
    }
}
