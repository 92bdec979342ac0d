//! Marks on keys, counted: a key is held until the last of its holds is dropped.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::model::LibraryPath;

/// The register of the holds on keys. Clones are the same register.
pub struct Holds<K = LibraryPath>(Arc<Mutex<HashMap<K, usize>>>);

/// One mark on a key, gone when it is dropped.
#[must_use = "a hold is gone when it is dropped"]
pub struct Hold<K: Clone + Eq + Hash = LibraryPath> {
    key: K,
    holds: Holds<K>,
}

impl<K: Clone + Eq + Hash> Holds<K> {
    /// A register without a hold.
    pub fn new() -> Self {
        Self(Arc::default())
    }

    /// One hold more on `key`.
    pub fn hold(&self, key: K) -> Hold<K> {
        *self.lock().entry(key.clone()).or_default() += 1;
        Hold { key, holds: self.clone() }
    }

    /// Whether anybody holds `key`.
    pub fn is_held(&self, key: &K) -> bool {
        self.lock().contains_key(key)
    }

    /// How many keys are held.
    pub fn held(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<K, usize>> {
        // Every change under the lock is one step, so that a panic elsewhere cannot leave it half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Holds {
    /// Whether anybody holds `path` or a directory above it.
    pub fn cover(&self, path: &LibraryPath) -> bool {
        let held = self.lock();
        !held.is_empty()
            && std::iter::successors(Some(path.clone()), LibraryPath::parent).any(|path| held.contains_key(&path))
    }
}

impl<K: Clone + Eq + Hash> Drop for Hold<K> {
    fn drop(&mut self) {
        if let Entry::Occupied(mut count) = self.holds.lock().entry(self.key.clone()) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

impl<K: Clone + Eq + Hash> Default for Holds<K> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K> Clone for Holds<K> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<K: Clone + Eq + Hash> fmt::Debug for Holds<K> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Holds").field("held", &self.held()).finish()
    }
}

impl<K: Clone + Eq + Hash + fmt::Debug> fmt::Debug for Hold<K> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("Hold").field(&self.key).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_held_until_its_last_hold_is_dropped() {
        let holds = Holds::new();
        let (first, second, other) = (holds.hold('a'), holds.hold('a'), holds.clone().hold('b'));
        assert_eq!(holds.held(), 2);
        drop(first);
        assert!(holds.is_held(&'a'));
        drop(second);
        assert!(!holds.is_held(&'a') && holds.is_held(&'b'));
        drop(other);
        assert_eq!(holds.held(), 0);
    }

    #[test]
    fn a_hold_on_a_directory_covers_what_is_beneath_it() {
        let holds = Holds::new();
        assert!(!holds.cover(&"a/b/x.mp3".into()));
        let directory = holds.hold("a".into());
        assert!(holds.cover(&"a/b/x.mp3".into()) && holds.cover(&"a".into()));
        assert!(!holds.cover(&"a.mp3".into()) && !holds.cover(&"b/a".into()));
        drop(directory);
        let _everything = holds.hold(LibraryPath::root());
        assert!(holds.cover(&"a/b/x.mp3".into()));
    }
}
