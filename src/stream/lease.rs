//! Exclusive leases on keys. A lease is returned when it is dropped.

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::channel::mpsc::UnboundedSender;

use crate::model::LibraryPath;

/// The leased keys, each with the senders to notify of its release.
type Held<K> = HashMap<K, Vec<UnboundedSender<K>>>;

/// The register of leases. Clones share it.
pub struct Leases<K = LibraryPath>(Arc<Mutex<Held<K>>>);

/// The exclusive right to work on a key, until it is dropped.
#[must_use = "a lease is returned when it is dropped"]
pub struct Lease<K: Clone + Eq + Hash = LibraryPath> {
    /// `None` once it was returned.
    key: Option<K>,
    leases: Leases<K>,
}

impl<K: Clone + Eq + Hash> Leases<K> {
    /// A register without a lease.
    pub fn new() -> Self {
        Self(Arc::default())
    }

    /// Whether `key` is leased.
    pub fn is_held(&self, key: &K) -> bool {
        self.lock().contains_key(key)
    }

    /// How many keys are leased.
    pub fn held(&self) -> usize {
        self.lock().len()
    }

    /// A lease on `key`. If it is leased already, returns `None`, and sends the key to `waiting` once, on its release.
    pub(super) fn lease_or_wait(&self, key: &K, waiting: &UnboundedSender<K>) -> Option<Lease<K>> {
        let mut held = self.lock();
        if let Some(queue) = held.get_mut(key) {
            queue.push(waiting.clone());
            return None;
        }
        held.insert(key.clone(), Vec::new());
        Some(Lease { key: Some(key.clone()), leases: self.clone() })
    }

    fn lock(&self) -> MutexGuard<'_, Held<K>> {
        // Every change under the lock is one step, so a panic cannot leave it half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Clone + Eq + Hash> Lease<K> {
    /// Returns the lease before it is dropped.
    pub(super) fn give_back(&mut self) {
        let Some(key) = self.key.take() else { return };
        let queue = self.leases.lock().remove(&key).unwrap_or_default();
        for waiting in queue {
            // A stream that was dropped no longer waits.
            let _ = waiting.unbounded_send(key.clone());
        }
    }
}

impl<K: Clone + Eq + Hash> Drop for Lease<K> {
    fn drop(&mut self) {
        self.give_back();
    }
}

impl<K: Clone + Eq + Hash> Default for Leases<K> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K> Clone for Leases<K> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<K: Clone + Eq + Hash> fmt::Debug for Leases<K> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Leases").field("held", &self.held()).finish()
    }
}

impl<K: Clone + Eq + Hash + fmt::Debug> fmt::Debug for Lease<K> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("Lease").field(&self.key).finish()
    }
}
