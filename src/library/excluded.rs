//! Directories that the rules exclude, and whose watches are removed.
//!
//! The watcher does not know the rules, so it first watches every directory under the root. A walk or an event later
//! finds the excluded ones. Their watches are removed a few at a time, because each removal takes the watcher some
//! time.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::model::LibraryPath;

/// The most directories that are remembered. Further ones stay watched, which costs memory and nothing else.
const MAX_DIRECTORIES: usize = 100_000;

/// The register of excluded directories. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct ExcludedDirectories(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    /// Excluded, and watched as far as is known.
    watched: BTreeSet<LibraryPath>,
    /// Excluded, and no longer watched.
    unwatched: BTreeSet<LibraryPath>,
}

impl ExcludedDirectories {
    /// Notes that a walk found this excluded directory.
    pub fn note_found(&self, directory: LibraryPath) {
        let mut state = self.state();
        if !state.unwatched.contains(&directory) && state.len() < MAX_DIRECTORIES {
            state.watched.insert(directory);
        }
    }

    /// Notes that this excluded directory was created or renamed to this path, so it is watched.
    pub fn note_created(&self, directory: LibraryPath) {
        let mut state = self.state();
        state.unwatched.remove(&directory);
        if state.len() < MAX_DIRECTORIES {
            state.watched.insert(directory);
        }
    }

    /// Takes up to `limit` directories. The caller removes their watches.
    #[must_use]
    pub fn take(&self, limit: usize) -> Vec<LibraryPath> {
        let mut state = self.state();
        let taken: Vec<LibraryPath> = std::iter::from_fn(|| state.watched.pop_first()).take(limit).collect();
        state.unwatched.extend(taken.iter().cloned());
        taken
    }

    /// Whether a directory at or under `directory` is no longer watched.
    #[must_use]
    pub fn has_unwatched_under(&self, directory: &LibraryPath) -> bool {
        // In byte order, other paths may stand between a directory and those under it.
        let state = self.state();
        let mut after = state.unwatched.range(directory.clone()..);
        after
            .by_ref()
            .take_while(|path| path.as_bytes().starts_with(directory.as_bytes()))
            .any(|path| path.is_at_or_under(directory))
    }

    /// Forgets all directories: the watcher was restarted, and the walk of everything that follows finds them again.
    pub fn clear(&self) {
        *self.state() = State::default();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn len(&self) -> usize {
        self.watched.len() + self.unwatched.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_directory_is_taken_once_until_it_is_created_or_the_register_is_cleared() {
        let excluded = ExcludedDirectories::default();
        let take = |limit| excluded.take(limit).iter().map(ToString::to_string).collect::<Vec<_>>();
        excluded.note_found("a".into());
        excluded.note_found("b".into());
        assert_eq!(take(1), ["a"]);
        excluded.note_found("a".into());
        assert_eq!(take(9), ["b"]);
        excluded.note_created("a".into());
        assert_eq!(take(9), ["a"]);
        excluded.clear();
        assert_eq!(take(9), [""; 0]);
        excluded.note_found("b".into());
        assert_eq!(take(9), ["b"]);
    }

    #[test]
    fn unwatched_directories_under_a_directory_are_known() {
        let excluded = ExcludedDirectories::default();
        for path in ["a.b/x", "a/x", "b"] {
            excluded.note_found(path.into());
        }
        assert!(!excluded.has_unwatched_under(&"a".into()));
        let _ = excluded.take(9);
        for (directory, is_there) in
            [("a", true), ("a.b", true), ("b", true), ("c", false), ("a/x/y", false), ("", true)]
        {
            assert_eq!(excluded.has_unwatched_under(&directory.into()), is_there, "{directory}");
        }
    }
}
