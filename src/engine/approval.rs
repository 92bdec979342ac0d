//! An operator's approval of held deletes, and its outcome.

use std::collections::{BTreeSet, HashSet};

use super::Engine;
use super::brake::Place;
use crate::model::{HeldReason, LibraryPath, Token};

/// The approval of the deletes that were held at or under a path. It is valid for one walk of everything, and for the
/// deletes beyond the bound of that walk.
#[derive(Debug)]
pub struct Approval {
    under: LibraryPath,
    /// The places where deletes were held at the time of the approval.
    places: BTreeSet<Place>,
    /// The number of deletes that an earlier walk left over, if there was one.
    left: Option<u64>,
    /// Shared with the release and with each look at an approved path.
    _token: Token,
}

/// The progress of the newest approval.
#[derive(Debug)]
pub(super) struct Release {
    token: Token,
    is_judged: bool,
    /// Released paths that are not published as deleted yet.
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

impl Approval {
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
        self.places.contains(place) || self.places.contains(&place.beyond_the_bound())
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

impl Release {
    /// Notes the result of a walk: the deletes of `paths` are released now.
    pub(super) fn begin(&mut self, paths: &[LibraryPath], found: u64, still_held: u64) {
        if !self.is_judged {
            self.outcome.found = found;
        }
        self.is_judged = true;
        self.outcome.still_held = still_held;
        self.waiting.extend(paths.iter().cloned());
    }

    /// How many of these paths were released before and are not published as deleted yet.
    pub(super) fn count_waiting(&self, paths: &[LibraryPath]) -> u64 {
        paths.iter().filter(|path| self.waiting.contains(*path)).count() as u64
    }

    /// A token for the look at one of the paths. The look keeps it until its outcome is committed.
    pub(super) fn token(&self) -> Token {
        self.token.clone()
    }
}

impl Engine {
    /// Approves the deletes that are held now at or under `under`, for the next walk of everything only. Returns false if
    /// none is held there.
    pub fn approve(&mut self, under: &LibraryPath) -> bool {
        let places = self.brake.places_under(under);
        if places.is_empty() {
            return false;
        }
        let token = Token::new(());
        self.brake.approval = Some(Approval { under: under.clone(), places, left: None, _token: token.clone() });
        self.brake.release =
            Some(Release { token, is_judged: false, waiting: HashSet::new(), outcome: Released::default() });
        true
    }

    /// Whether the walk of the newest approval is done, and every delete that it released is committed.
    #[must_use]
    pub fn is_approval_over(&self) -> bool {
        self.brake.release.as_ref().is_none_or(|release| release.token.is_last())
    }

    /// The outcome of the newest approval so far, or `None` if no walk was finished.
    #[must_use]
    pub fn approval_outcome(&self) -> Option<Released> {
        self.brake.release.as_ref().filter(|release| release.is_judged).map(|release| release.outcome)
    }

    /// A path was published as deleted.
    pub fn deleted(&mut self, path: &LibraryPath) {
        if let Some(release) = &mut self.brake.release
            && release.waiting.remove(path)
        {
            release.outcome.published += 1;
        }
    }
}
