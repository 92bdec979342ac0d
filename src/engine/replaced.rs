//! Paths at which a walk found another file than the index has there.
//!
//! Whether such a file is new, or one whose name was passed on, is known only together with the other
//! paths: after a renumbering each path holds the file of its neighbour. So they are looked at after everything
//! else that the walk found, and those that changed names with each other are tied together.

use std::collections::HashMap;
use std::time::Duration;

use crate::model::{FileStat, InodeKind, LibraryPath, MountId, RenameGroup, Ties};

/// How long a look waits for the others of its group. They come as fast as their files can be read.
const LIMIT: Duration = Duration::from_mins(10);

/// One such path.
#[derive(Clone, Debug)]
pub struct Replaced {
    /// Where.
    pub path: LibraryPath,
    /// The stat of the file that the index has there.
    pub was: FileStat,
    /// The stat of the file that is there.
    pub now: FileStat,
}

/// What tells one file from another in a walk: where inode numbers say nothing, size and modification time.
type FileKey = (MountId, u64, Option<i64>, Option<(u64, i128)>);

fn key_of(stat: &FileStat) -> FileKey {
    // A row whose inode number is from before it was noticed that these say nothing has no birth time either.
    let is_unstable = stat.inode_kind == InodeKind::Unstable;
    let state = is_unstable.then_some((stat.size, stat.mtime_ns));
    let inode = if is_unstable { 0 } else { stat.inode };
    (stat.mount, inode, stat.born_ns, state)
}

/// The paths in their order, each with what ties it to the others.
///
/// Two paths are tied if the file of one of them is at the other one now.
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
        let group = groups.entry(top).or_insert_with(|| RenameGroup::new(LIMIT));
        (path, Ties { member_of: vec![group.join()], left_in: vec![group.clone()], ..Ties::default() })
    };
    replaced.into_iter().enumerate().map(tie).collect()
}

/// The representative of the group of `index`.
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
    fn a_chain_and_a_cycle_are_one_group_each_and_the_rest_is_alone() {
        // 1 > 2 > 3, whose own file is gone; a and b swapped; x saved anew.
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
    fn where_inode_numbers_say_nothing_size_and_time_tie() {
        let passing = |stat: FileStat| FileStat { inode_kind: InodeKind::Unstable, inode: 0, ..stat };
        let files = replaced(&[("a", 1, 2), ("b", 2, 1), ("c", 5, 6)]).into_iter();
        let tied = tie_together(files.map(|it| Replaced { now: passing(it.now), ..it }).collect());
        let members: Vec<usize> = tied.iter().map(|(_, ties)| ties.member_of.len()).collect();
        assert_eq!(members, [1, 1, 0]);
    }
}
