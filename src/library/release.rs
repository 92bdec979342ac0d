//! A person's approval of held deletes, and what becomes of them.

use std::collections::{BTreeSet, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use super::held::Place;
use crate::model::{HeldReason, LibraryPath, Token};

/// The approval of what was held at or beneath a path, for one walk of everything and for what that walk could
/// not remember.
#[derive(Debug)]
pub(super) struct Approval {
    under: LibraryPath,
    /// What was held when the person approved.
    places: BTreeSet<Place>,
    /// How many deletes an earlier walk left over, if there was one.
    left: Option<u64>,
    pub(super) release: Arc<Release>,
}

impl Approval {
    pub(super) fn new(under: LibraryPath, places: BTreeSet<Place>) -> (Self, Arc<Release>) {
        let release = Arc::new(Release::default());
        (Self { under, places, left: None, release: Arc::clone(&release) }, release)
    }

    /// Whether a path whose mount is gone is one of those that the person approved of.
    pub(super) fn covers_away(&self, path: &LibraryPath, place: &Place) -> bool {
        self.is_about(path) && self.has(place)
    }

    /// The same for a path whose mount is there.
    pub(super) fn covers_here(&self, path: &LibraryPath) -> bool {
        let held_as = |reason| self.has(&Place::in_library(reason, path));
        self.is_about(path) && (held_as(HeldReason::RootEmpty) || held_as(HeldReason::TooMany))
    }

    /// Whether a path is at or beneath the one that the person named.
    pub(super) fn is_about(&self, path: &LibraryPath) -> bool {
        path.is_at_or_under(&self.under)
    }

    fn has(&self, place: &Place) -> bool {
        self.places.contains(place) || self.places.contains(&Place { directory: None, mount: None, ..place.clone() })
    }

    /// Whether so many deletes are no more than an earlier walk left over.
    pub(super) fn admits(&self, count: u64) -> bool {
        self.left.is_none_or(|left| count <= left)
    }

    /// The approval of the rest, for the next walk.
    pub(super) fn for_the_rest(mut self, left: u64) -> Self {
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

/// What becomes of approved deletes.
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

/// Approved deletes in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Released {
    /// How many deletes the walk found that had been approved.
    pub found: u64,
    /// Those of them that were published as deleted so far.
    pub published: u64,
    /// How many deletes are still held at or beneath the path of the approval.
    pub still_held: u64,
}

impl Release {
    /// Notes what a walk found: these `paths` are released now.
    pub(super) fn begin(&self, paths: &[LibraryPath], found: u64, still_held: u64) {
        let mut state = self.state();
        if !state.is_judged {
            state.outcome.found = found;
        }
        state.is_judged = true;
        state.outcome.still_held = still_held;
        state.waiting.extend(paths.iter().cloned());
    }

    /// To be kept by the look at each of the paths until its outcome is committed.
    pub(super) fn token(&self) -> Token {
        Token::new(self.looks.token())
    }

    /// Notes that a path was published as deleted.
    pub(super) fn deleted(&self, path: &LibraryPath) {
        let mut state = self.state();
        if state.waiting.remove(path) {
            state.outcome.published += 1;
        }
    }

    /// Waits until the walk is over and everything that was released is committed.
    pub async fn is_done(&self) {
        // The sender is here, so there is always one.
        let _ = self.is_over.subscribe().wait_for(|is_over| *is_over).await;
        self.looks.wait().await;
    }

    /// What has come of it so far; `None` where no walk was finished.
    pub fn outcome(&self) -> Option<Released> {
        let state = self.state();
        state.is_judged.then_some(state.outcome)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
