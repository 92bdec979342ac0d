//! Directories that the rules leave out, which are not to be watched.
//!
//! The watcher watches every directory beneath the root, as it knows no rules. What a walk or an event shows to be
//! left out is taken from it afterwards, a few directories at a time, because that costs it time for each.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::model::LibraryPath;

/// Directories that are remembered; more than that stay watched, which costs memory and nothing else.
const MOST: usize = 100_000;

/// The directories that are left out. Clones share the register.
#[derive(Clone, Debug, Default)]
pub struct LeftOut(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    /// Still watched, as far as anybody knows.
    watched: BTreeSet<LibraryPath>,
    unwatched: BTreeSet<LibraryPath>,
}

impl LeftOut {
    /// A walk found this directory.
    pub fn found(&self, directory: LibraryPath) {
        let mut state = self.state();
        if !state.unwatched.contains(&directory) && state.len() < MOST {
            state.watched.insert(directory);
        }
    }

    /// The directory was made, or has got this name, so it is watched.
    pub fn made(&self, directory: LibraryPath) {
        let mut state = self.state();
        state.unwatched.remove(&directory);
        if state.len() < MOST {
            state.watched.insert(directory);
        }
    }

    /// Takes some directories that are to be watched no more.
    pub fn take(&self, most: usize) -> Vec<LibraryPath> {
        let mut state = self.state();
        let taken: Vec<LibraryPath> = std::iter::from_fn(|| state.watched.pop_first()).take(most).collect();
        state.unwatched.extend(taken.iter().cloned());
        taken
    }

    /// Whether something at or beneath `directory` is watched no more.
    pub fn is_any_beneath(&self, directory: &LibraryPath) -> bool {
        // In byte order, what is beneath a directory need not follow it at once.
        let state = self.state();
        let mut after = state.unwatched.range(directory.clone()..);
        after
            .by_ref()
            .take_while(|path| path.as_bytes().starts_with(directory.as_bytes()))
            .any(|path| path.is_at_or_under(directory))
    }

    /// Everything is watched anew, and a walk of everything follows that finds what is left out by now.
    pub fn watched_anew(&self) {
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
    fn each_directory_is_taken_once_until_it_is_made_or_everything_is_watched_anew() {
        let left_out = LeftOut::default();
        let take = |most| left_out.take(most).iter().map(ToString::to_string).collect::<Vec<_>>();
        left_out.found("a".into());
        left_out.found("b".into());
        assert_eq!(take(1), ["a"]);
        left_out.found("a".into());
        assert_eq!(take(9), ["b"]);
        left_out.made("a".into());
        assert_eq!(take(9), ["a"]);
        left_out.watched_anew();
        assert_eq!(take(9), [""; 0]);
        left_out.found("b".into());
        assert_eq!(take(9), ["b"]);
    }

    #[test]
    fn what_is_unwatched_beneath_a_directory_is_known() {
        let left_out = LeftOut::default();
        for path in ["a.b/x", "a/x", "b"] {
            left_out.found(path.into());
        }
        assert!(!left_out.is_any_beneath(&"a".into()));
        left_out.take(9);
        for (directory, is_there) in
            [("a", true), ("a.b", true), ("b", true), ("c", false), ("a/x/y", false), ("", true)]
        {
            assert_eq!(left_out.is_any_beneath(&directory.into()), is_there, "{directory}");
        }
    }
}
