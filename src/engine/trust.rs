//! What may not be trusted at the moment, by path and by reason.
//!
//! Each entry is a [`Token`]: it counts until its last clone is dropped, so a hint that carries it keeps its
//! path in the register for as long as the hint lives.

use std::collections::HashMap;

use crate::model::{LibraryPath, Token, WeakToken};

/// The four reasons why the engine does not take a path for what it seems to be.
#[derive(Debug, Default)]
pub struct Trust {
    claimed: Register,
    in_doubt: Register,
    replaced: Register,
    unwatched: Register,
}

impl Trust {
    /// A look takes `path` for the old path of its file. Until the token is dropped, no delete of `path` is
    /// published.
    #[must_use]
    pub fn claim(&mut self, path: &LibraryPath) -> Token {
        self.claimed.add(path)
    }

    /// Whether a look in flight claims `path`.
    #[must_use]
    pub fn is_claimed(&self, path: &LibraryPath) -> bool {
        self.claimed.has(path)
    }

    /// The content at `path`, or anywhere under it, may have changed since the last look. Until the token is
    /// dropped, no rename of it is accepted without hashing.
    #[must_use]
    pub fn doubt(&mut self, path: &LibraryPath) -> Token {
        self.in_doubt.add(path)
    }

    /// Whether exactly `path` is in doubt.
    #[must_use]
    pub fn is_in_doubt(&self, path: &LibraryPath) -> bool {
        self.in_doubt.has(path)
    }

    /// Whether `path` or a directory above it is in doubt.
    #[must_use]
    pub fn is_under_doubt(&self, path: &LibraryPath) -> bool {
        self.in_doubt.covers(path)
    }

    /// How many paths are in doubt.
    #[must_use]
    pub fn doubts(&self) -> usize {
        self.in_doubt.len()
    }

    /// The directory at `subtree` went away and was not walked since: earlier events for a path under it may
    /// concern another file.
    #[must_use]
    pub fn replace(&mut self, subtree: &LibraryPath) -> Token {
        self.replaced.add(subtree)
    }

    /// Whether `path` is under a directory that was replaced.
    #[must_use]
    pub fn is_replaced(&self, path: &LibraryPath) -> bool {
        self.replaced.covers(path)
    }

    /// Not every change under `subtree` causes an event. Until the token is dropped, only walks find deletes there.
    #[must_use]
    pub fn leave_unwatched(&mut self, subtree: &LibraryPath) -> Token {
        self.unwatched.add(subtree)
    }

    /// Whether `path` is under a subtree without change notification.
    #[must_use]
    pub fn is_unwatched(&self, path: &LibraryPath) -> bool {
        self.unwatched.covers(path)
    }
}

/// Entries that are kept without looking for ended ones.
const ROOM: usize = 1024;

/// Paths with a token that is alive.
#[derive(Debug, Default)]
struct Register {
    paths: HashMap<LibraryPath, WeakToken>,
    /// How many entries there may be before the ended ones are removed.
    room: usize,
}

impl Register {
    fn add(&mut self, path: &LibraryPath) -> Token {
        if let Some(token) = self.paths.get(path).and_then(WeakToken::upgrade) {
            return token;
        }
        if self.paths.len() >= self.room.max(ROOM) {
            self.paths.retain(|_, token| token.is_alive());
            self.room = 2 * self.paths.len();
        }
        let token = Token::new(());
        self.paths.insert(path.clone(), token.downgrade());
        token
    }

    fn has(&self, path: &LibraryPath) -> bool {
        self.paths.get(path).is_some_and(WeakToken::is_alive)
    }

    fn covers(&self, path: &LibraryPath) -> bool {
        !self.paths.is_empty() && path.at_and_above().any(|at| self.has(&at))
    }

    fn len(&self) -> usize {
        self.paths.values().filter(|token| token.is_alive()).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_counts_until_its_last_token_is_dropped() {
        let mut trust = Trust::default();
        let (first, second) = (trust.claim(&"a".into()), trust.claim(&"a".into()));
        let clone = second.clone();
        drop((first, second));
        assert!(trust.is_claimed(&"a".into()));
        drop(clone);
        assert!(!trust.is_claimed(&"a".into()));
    }

    #[test]
    fn an_entry_for_a_directory_covers_what_is_under_it() {
        let mut trust = Trust::default();
        assert!(!trust.is_under_doubt(&"a/b/x.mp3".into()));
        let directory = trust.doubt(&"a".into());
        assert!(trust.is_under_doubt(&"a/b/x.mp3".into()) && trust.is_in_doubt(&"a".into()));
        assert!(!trust.is_in_doubt(&"a/b/x.mp3".into()));
        assert!(!trust.is_under_doubt(&"a.mp3".into()) && !trust.is_under_doubt(&"b/a".into()));
        drop(directory);
        let _everything = trust.doubt(&LibraryPath::root());
        assert!(trust.is_under_doubt(&"a/b/x.mp3".into()));
    }

    #[test]
    fn the_reasons_are_kept_apart() {
        let mut trust = Trust::default();
        let path: LibraryPath = "a".into();
        let _replaced = trust.replace(&path);
        assert!(trust.is_replaced(&path));
        assert!(!trust.is_claimed(&path) && !trust.is_under_doubt(&path) && !trust.is_unwatched(&path));
    }

    #[test]
    fn ended_entries_take_no_room() {
        let mut trust = Trust::default();
        for number in 0..3 * ROOM {
            drop(trust.doubt(&number.to_string().as_str().into()));
        }
        assert!(trust.in_doubt.paths.len() <= ROOM + 1);
        assert_eq!(trust.doubts(), 0);
    }
}
