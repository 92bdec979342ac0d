//! What walks miss where nobody else tells of renames.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use crate::model::LibraryPath;
use crate::stream::Holds;

/// Paths that the last walk of everything missed, in places where only walks find changes. Clones share them.
///
/// A walk takes its time. What is renamed from where it is not yet to where it has passed, it misses under
/// both names; where the kernel tells of the rename, that is no harm. Where it does not, only a second walk
/// can find the file under its new name, before anything is said of the old one.
#[derive(Clone, Debug, Default)]
pub struct Missing {
    /// Subtrees of which nobody tells what happens there.
    unwatched: Holds,
    last: Arc<Mutex<LastWalk>>,
}

#[derive(Debug, Default)]
struct LastWalk {
    generation: u64,
    missed: HashSet<LibraryPath>,
}

impl Missing {
    /// Nothing is missing yet; only walks tell of what is beneath `unwatched`.
    pub fn new(unwatched: Holds) -> Self {
        Self { unwatched, last: Arc::default() }
    }

    /// Those of `missed`, by a walk of everything in the root of this `generation`, that may be called gone.
    pub fn twice(&self, missed: Vec<LibraryPath>, generation: u64) -> Vec<LibraryPath> {
        let unwatched = missed.iter().filter(|path| self.unwatched.cover(path)).cloned().collect();
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::replace(&mut *last, LastWalk { generation, missed: unwatched });
        let is_first = |path: &LibraryPath| {
            last.missed.contains(path) && !(before.generation == generation && before.missed.contains(path))
        };
        missed.into_iter().filter(|path| !is_first(path)).collect()
    }

    /// Those of `missed`, by a walk of a subtree, that may be called gone: it may be the old place of what a walk
    /// of everything finds at its new one.
    pub fn beneath_a_subtree(&self, mut missed: Vec<LibraryPath>) -> Vec<LibraryPath> {
        missed.retain(|path| !self.unwatched.cover(path));
        missed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_nobody_tells_of_renames_two_walks_have_to_miss_a_file() {
        let unwatched = Holds::new();
        let missing = Missing::new(unwatched.clone());
        let paths = |names: &[&str]| names.iter().map(|name| LibraryPath::from(*name)).collect::<Vec<_>>();
        assert_eq!(missing.twice(paths(&["a/x.mp3", "b/x.mp3"]), 0), paths(&["a/x.mp3", "b/x.mp3"]));

        let _polled = unwatched.hold("a".into());
        assert_eq!(missing.twice(paths(&["a/x.mp3", "b/x.mp3"]), 0), paths(&["b/x.mp3"]));
        assert_eq!(missing.beneath_a_subtree(paths(&["a/x.mp3", "b/x.mp3"])), paths(&["b/x.mp3"]));
        assert_eq!(missing.twice(paths(&["a/x.mp3", "a/y.mp3"]), 0), paths(&["a/x.mp3"]));
        // Another root, and a walk between that found it.
        assert_eq!(missing.twice(paths(&["a/x.mp3"]), 1), paths(&[]));
        assert_eq!(missing.twice(paths(&[]), 1), paths(&[]));
        assert_eq!(missing.twice(paths(&["a/x.mp3"]), 1), paths(&[]));
        assert_eq!(missing.twice(paths(&["a/x.mp3"]), 1), paths(&["a/x.mp3"]));
    }
}
