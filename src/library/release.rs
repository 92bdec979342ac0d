//! An operator's approval of held deletes, and its outcome.

use std::collections::{BTreeSet, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use super::held::Place;
use crate::model::{HeldReason, LibraryPath, Token};

/// The approval of the deletes that were held at or under a path. It is valid for one walk of everything, and for the
/// deletes beyond the bound of that walk.
#[derive(Debug)]
pub(super) struct Approval {
    under: LibraryPath,
    /// The places where deletes were held at the time of the approval.
    places: BTreeSet<Place>,
    /// The number of deletes that an earlier walk left over, if there was one.
    left: Option<u64>,
    pub(super) release: Arc<Release>,
}

impl Approval {
    pub(super) fn new(under: LibraryPath, places: BTreeSet<Place>) -> (Self, Arc<Release>) {
        let release = Arc::new(Release::default());
        (Self { under, places, left: None, release: Arc::clone(&release) }, release)
    }

    /// Whether the approval covers a path whose mount is gone.
    pub(super) fn covers_away(&self, path: &LibraryPath, place: &Place) -> bool {
        self.includes(path) && self.has(place)
    }

    /// Whether the approval covers a path whose mount is present.
    pub(super) fn covers_here(&self, path: &LibraryPath) -> bool {
        let held_as = |reason| self.has(&Place::in_library(reason, path));
        self.includes(path) && (held_as(HeldReason::RootEmpty) || held_as(HeldReason::TooMany))
    }

    /// Whether a path is at or under the path of the approval.
    pub(super) fn includes(&self, path: &LibraryPath) -> bool {
        path.is_at_or_under(&self.under)
    }

    fn has(&self, place: &Place) -> bool {
        self.places.contains(place) || self.places.contains(&Place { directory: None, mount: None, ..place.clone() })
    }

    /// Whether this many deletes are no more than an earlier walk left over.
    pub(super) fn admits(&self, count: u64) -> bool {
        self.left.is_none_or(|left| count <= left)
    }

    /// The approval of the deletes that are left over, for the next walk.
    pub(super) fn for_left_over(mut self, left: u64) -> Self {
        self.left = Some(left);
        self
    }
}

impl Drop for Approval {
    fn drop(&mut self) {
        self.release.looks.close();
        self.release.is_over.send_replace(true);
    }
}

/// The progress of approved deletes.
#[derive(Debug, Default)]
pub struct Release {
    looks: TaskTracker,
    is_over: watch::Sender<bool>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    is_judged: bool,
    waiting: HashSet<LibraryPath>,
    outcome: Released,
}

/// The outcome of an approval.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Released {
    /// The number of approved deletes that the walk found.
    pub found: u64,
    /// The number of those that were published so far.
    pub published: u64,
    /// The number of deletes that are still held at or under the path of the approval.
    pub still_held: u64,
}

impl Release {
    /// Notes the result of a walk: the deletes of `paths` are released now.
    pub(super) fn begin(&self, paths: &[LibraryPath], found: u64, still_held: u64) {
        let mut state = self.state();
        if !state.is_judged {
            state.outcome.found = found;
        }
        state.is_judged = true;
        state.outcome.still_held = still_held;
        state.waiting.extend(paths.iter().cloned());
    }

    /// A token for the look at one of the paths. The look keeps it until its outcome is committed.
    pub(super) fn token(&self) -> Token {
        Token::new(self.looks.token())
    }

    /// Notes that a path was published as deleted.
    pub(super) fn note_deleted(&self, path: &LibraryPath) {
        let mut state = self.state();
        if state.waiting.remove(path) {
            state.outcome.published += 1;
        }
    }

    /// Waits until the walk is done and every released delete is committed.
    pub async fn wait(&self) {
        // `self` has the sender, so this never fails.
        let _ = self.is_over.subscribe().wait_for(|is_over| *is_over).await;
        self.looks.wait().await;
    }

    /// The outcome so far, or `None` if no walk was finished.
    #[must_use]
    pub fn outcome(&self) -> Option<Released> {
        let state = self.state();
        state.is_judged.then_some(state.outcome)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
