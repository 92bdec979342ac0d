//! Which files that walks did not find may be published as deleted.

use std::collections::HashSet;

use super::Engine;
use crate::model::LibraryPath;

/// Paths that the last walk of everything missed, in subtrees without change notification.
///
/// A walk takes its time. It misses a file under both names if the file is renamed from a directory that it has not
/// reached to one that it has passed. If the rename causes an event, that does no harm. If not, only a second walk finds
/// the new name, so a delete there requires two walks that missed the file.
#[derive(Debug, Default)]
pub(super) struct MissedOnce {
    generation: u64,
    paths: HashSet<LibraryPath>,
}

impl Engine {
    /// Those of `missed`, by a walk of everything in the root of this `generation`, that may be published as deleted.
    pub fn missed_by_full_walk(&mut self, missed: Vec<LibraryPath>, generation: u64) -> Vec<LibraryPath> {
        let unwatched = missed.iter().filter(|path| self.trust.is_unwatched(path)).cloned().collect();
        let before = std::mem::replace(&mut self.missed, MissedOnce { generation, paths: unwatched });
        let is_first = |path: &LibraryPath| {
            self.missed.paths.contains(path) && !(before.generation == generation && before.paths.contains(path))
        };
        missed.into_iter().filter(|path| !is_first(path)).collect()
    }

    /// Those of `missed`, by a walk of a subtree, that may be published as deleted. In subtrees without change
    /// notification there are none: a walk of everything may find the file elsewhere.
    #[must_use]
    pub fn missed_by_subtree_walk(&self, mut missed: Vec<LibraryPath>) -> Vec<LibraryPath> {
        missed.retain(|path| !self.trust.is_unwatched(path));
        missed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delete_without_change_notification_requires_two_walks() {
        let mut engine = Engine::default();
        let paths = |names: &[&str]| names.iter().map(|name| LibraryPath::from(*name)).collect::<Vec<_>>();
        let both = || paths(&["a/x.mp3", "b/x.mp3"]);
        assert_eq!(engine.missed_by_full_walk(both(), 0), both());

        let _polled = engine.trust().leave_unwatched(&"a".into());
        assert_eq!(engine.missed_by_full_walk(both(), 0), paths(&["b/x.mp3"]));
        assert_eq!(engine.missed_by_subtree_walk(both()), paths(&["b/x.mp3"]));
        assert_eq!(engine.missed_by_full_walk(paths(&["a/x.mp3", "a/y.mp3"]), 0), paths(&["a/x.mp3"]));
        // Another root, and a walk between that found it.
        assert_eq!(engine.missed_by_full_walk(paths(&["a/x.mp3"]), 1), paths(&[]));
        assert_eq!(engine.missed_by_full_walk(paths(&[]), 1), paths(&[]));
        assert_eq!(engine.missed_by_full_walk(paths(&["a/x.mp3"]), 1), paths(&[]));
        assert_eq!(engine.missed_by_full_walk(paths(&["a/x.mp3"]), 1), paths(&["a/x.mp3"]));
    }
}
