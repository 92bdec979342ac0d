//! Replaced paths: a walk found another file there than the index has.
//!
//! Only all replaced paths together show whether such a file is new or was renamed: after a renumbering, each path has
//! the file of its neighbour. So these paths are looked at after everything else that the walk found, and paths that
//! exchanged files are tied together.

use std::collections::HashMap;
use std::time::Duration;

use crate::model::{FileStat, InodeKind, LibraryPath, MountId, RenameGroup, Ties};

/// The longest time that a look waits for the others of its group, which depends on how fast files can be read.
const GROUP_WAIT: Duration = Duration::from_mins(10);

/// A replaced path.
#[derive(Clone, Debug)]
pub struct Replaced {
    /// The path.
    pub path: LibraryPath,
    /// The stat of the file that the index has there.
    pub was: FileStat,
    /// The stat of the file that is there.
    pub now: FileStat,
}

/// The identity of a file in a walk. If inode numbers are unstable, size and modification time take their place.
type FileKey = (MountId, u64, Option<i64>, Option<(u64, i128)>);

fn key_of(stat: &FileStat) -> FileKey {
    // A row from before the inode numbers were found to be unstable has no birth time either.
    let is_unstable = stat.inode_kind == InodeKind::Unstable;
    let state = is_unstable.then_some((stat.size, stat.mtime_ns));
    let inode = if is_unstable { 0 } else { stat.inode };
    (stat.mount, inode, stat.born_ns, state)
}

/// The paths in their order, each with its ties to the others.
///
/// Two paths are tied if the old file of one is at the other one now.
#[must_use]
pub fn tie_together(replaced: Vec<Replaced>) -> Vec<(LibraryPath, Ties)> {
    let keys: Vec<(FileKey, FileKey)> = replaced
        .iter()
        .map(|Replaced { was, now, .. }| {
            let was = FileStat { inode_kind: now.inode_kind, ..*was };
            (key_of(&was), key_of(now))
        })
        .collect();
    let by_old_file: HashMap<FileKey, usize> = keys.iter().enumerate().map(|(index, (was, _))| (*was, index)).collect();
    let mut parents: Vec<usize> = (0..keys.len()).collect();
    for (index, (_, now)) in keys.iter().enumerate() {
        if let Some(&source) = by_old_file.get(now) {
            let (one, other) = (top_of(&mut parents, index), top_of(&mut parents, source));
            parents[one] = other;
        }
    }
    let mut sizes = vec![0_usize; keys.len()];
    for index in 0..keys.len() {
        sizes[top_of(&mut parents, index)] += 1;
    }
    let mut groups: HashMap<usize, RenameGroup> = HashMap::new();
    let tie = |(index, Replaced { path, .. }): (usize, Replaced)| {
        let top = top_of(&mut parents, index);
        if sizes[top] < 2 {
            return (path, Ties::default());
        }
        let group = groups.entry(top).or_insert_with(|| RenameGroup::new(GROUP_WAIT));
        (path, Ties { member_of: vec![group.join()], left_in: vec![group.clone()], ..Ties::default() })
    };
    replaced.into_iter().enumerate().map(tie).collect()
}

/// The representative of the group of `index` (union-find with path halving).
fn top_of(parents: &mut [usize], mut index: usize) -> usize {
    while parents[index] != index {
        parents[index] = parents[parents[index]];
        index = parents[index];
    }
    index
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stat(inode: u64) -> FileStat {
        FileStat { inode, size: inode, ..FileStat::default() }
    }

    fn replaced(files: &[(&str, u64, u64)]) -> Vec<Replaced> {
        files.iter().map(|&(path, was, now)| Replaced { path: path.into(), was: stat(was), now: stat(now) }).collect()
    }

    #[test]
    fn a_chain_and_a_cycle_are_one_group_each_and_the_rest_is_not_tied() {
        // 1 moved to 2, and 2 to 3, whose own file is gone; a and b were swapped; x was rewritten.
        let files = replaced(&[("2", 2, 1), ("3", 3, 2), ("a", 10, 11), ("b", 11, 10), ("x", 20, 21)]);
        let tied = tie_together(files);
        let group = |path: &str| {
            let (_, found) = tied.iter().find(|(at, _)| *at == path.into()).unwrap();
            found.left_in.first().map(|group| (group.id(), group.members()))
        };
        assert_eq!(group("2"), group("3"));
        assert_eq!(group("a"), group("b"));
        assert_ne!(group("a"), group("2"));
        assert_eq!((group("a").unwrap().1, group("x")), (2, None));
    }

    #[test]
    fn with_unstable_inode_numbers_size_and_time_tie() {
        let unstable = |stat: FileStat| FileStat { inode_kind: InodeKind::Unstable, inode: 0, ..stat };
        let files = replaced(&[("a", 1, 2), ("b", 2, 1), ("c", 5, 6)]).into_iter();
        let tied = tie_together(files.map(|it| Replaced { now: unstable(it.now), ..it }).collect());
        let members: Vec<usize> = tied.iter().map(|(_, ties)| ties.member_of.len()).collect();
        assert_eq!(members, [1, 1, 0]);
    }
}
