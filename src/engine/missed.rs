//! Which files that walks did not find may be published as deleted.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use super::{Engine, Missing, Trust};
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

impl MissedOnce {
    /// Those of `missed`, by a walk of everything in the root of this `generation`, that may be published as deleted.
    pub(super) fn sure_of_full_walk<'a>(
        &mut self,
        missed: impl Iterator<Item = &'a LibraryPath>,
        generation: u64,
        trust: &Trust,
    ) -> HashSet<LibraryPath> {
        let (unwatched, watched): (HashSet<_>, HashSet<_>) = missed.cloned().partition(|path| trust.is_unwatched(path));
        let before = std::mem::replace(self, Self { generation, paths: unwatched });
        let is_second = |path: &&LibraryPath| before.generation == generation && before.paths.contains(*path);
        self.paths.iter().filter(is_second).cloned().chain(watched).collect()
    }
}

impl Engine {
    /// Those of the missing files of a subtree that may be published as deleted. In subtrees without change notification
    /// there are none: a walk of everything may find the file elsewhere. `is_more_excluded` if the rules exclude more rows
    /// than the walk could remember.
    pub fn missed_by_subtree_walk(
        &mut self,
        missing: Missing,
        is_more_excluded: bool,
        now: Instant,
    ) -> Vec<LibraryPath> {
        if is_more_excluded {
            self.mark(LibraryPath::root(), Duration::ZERO, now);
        }
        let mut missed = missing.into_here();
        missed.retain(|path| !self.trust.is_unwatched(path));
        missed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{FullWalk, Now};

    fn missing(names: &[&str]) -> Missing {
        let mut missing = Missing::default();
        for name in names {
            missing.add_here((*name).into());
        }
        missing
    }

    fn full_walk(engine: &mut Engine, names: &[&str], generation: u64) -> Vec<String> {
        let walk = FullWalk { missing: missing(names), generation, indexed: 100, ..FullWalk::default() };
        let now = Now { instant: Instant::now(), wall: std::time::UNIX_EPOCH };
        engine.missed_by_full_walk(walk, |_| None, now).gone.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_delete_without_change_notification_requires_two_walks() {
        let mut engine = Engine::default();
        let both = ["a/x.mp3", "b/x.mp3"];
        assert_eq!(full_walk(&mut engine, &both, 0), both);

        let _polled = engine.trust().leave_unwatched(&"a".into());
        assert_eq!(full_walk(&mut engine, &both, 0), ["b/x.mp3"]);
        assert_eq!(engine.missed_by_subtree_walk(missing(&both), false, Instant::now()), ["b/x.mp3".into()]);
        assert_eq!(full_walk(&mut engine, &["a/x.mp3", "a/y.mp3"], 0), ["a/x.mp3"]);
        // Another root, and a walk between that found it.
        assert_eq!(full_walk(&mut engine, &["a/x.mp3"], 1), [""; 0]);
        assert_eq!(full_walk(&mut engine, &[], 1), [""; 0]);
        assert_eq!(full_walk(&mut engine, &["a/x.mp3"], 1), [""; 0]);
        assert_eq!(full_walk(&mut engine, &["a/x.mp3"], 1), ["a/x.mp3"]);
    }

    #[test]
    fn what_a_walk_left_over_is_walked_again() {
        let now = Instant::now();
        let mut engine = Engine::default();
        let walks = |engine: &mut Engine| engine.take_marked().len();
        full_walk(&mut engine, &["a/x.mp3"], 0);
        assert_eq!(walks(&mut engine), 0);
        let _polled = engine.trust().leave_unwatched(&"a".into());
        full_walk(&mut engine, &["a/x.mp3"], 0);
        assert_eq!(walks(&mut engine), 1, "the second walk that makes it sure");
        full_walk(&mut engine, &["a/x.mp3"], 0);
        assert_eq!(walks(&mut engine), 0);
        engine.missed_by_subtree_walk(Missing::default(), true, now);
        assert_eq!(walks(&mut engine), 1);
    }
}
