//! Deletes in doubt: a library that is suddenly gone is more likely unmounted than deleted.
//!
//! A walk of everything sorts what it missed before anything is looked at. Files whose mount is gone are held
//! whatever their count, and so are all files while the root is empty. Of the others, more than a share of the
//! index is held. What is held stays in the index and is published only if a person approves of it; if the
//! files come back, nothing is published.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::watch;
use tokio::time::Instant;

use super::Inbox;
use super::inbox::at;
use super::release::{Approval, Release};
use crate::disk::KnownMount;
use crate::model::{HeldDeletes, HeldReason, LibraryPath, MountId, Token};

/// Deletes that are never too many, however large a share of the library they are.
const NEVER_TOO_MANY: u64 = 10;

/// Places that are listed one by one for each reason; the deletes at all others are summed up.
const MOST_PLACES: usize = 100;

/// How soon everything is walked again while deletes are held. The wait doubles each time that nothing has changed.
const FIRST_RECHECK: Duration = Duration::from_mins(1);

/// Where deletes are held, and why.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) reason: HeldReason,
    /// `None` for all places beyond the bound.
    pub(super) directory: Option<LibraryPath>,
    /// The mount that is gone.
    pub(super) mount: Option<MountId>,
}

impl Place {
    /// The place of a file whose mount, as far as it is known, is gone.
    pub(super) fn of_mount(path: &LibraryPath, mount: MountId, known: Option<&KnownMount>) -> Self {
        // A filesystem may be mounted at two places, or be elsewhere by now.
        let place = known.map(|known| &known.place).filter(|place| path.is_at_or_under(place));
        let place = place.cloned().unwrap_or_else(|| directory_in_root(path));
        Self { reason: HeldReason::MountGone, directory: Some(place), mount: Some(mount) }
    }

    /// The place of a file whose mount is there.
    pub(super) fn in_library(reason: HeldReason, path: &LibraryPath) -> Self {
        Self { reason, directory: Some(directory_in_root(path)), mount: None }
    }

    /// Whether some of the files here may be at or beneath `under`.
    pub(super) fn may_hold(&self, under: &LibraryPath) -> bool {
        self.directory.as_ref().is_none_or(|place| place.is_at_or_under(under) || under.is_at_or_under(place))
    }
}

/// The directory in the root that holds `path`; the root for a file right in it.
fn directory_in_root(path: &LibraryPath) -> LibraryPath {
    let mut names = path.names();
    let first = names.next().filter(|_| names.next().is_some());
    first.map_or_else(LibraryPath::root, LibraryPath::from_bytes)
}

/// How many deletes there are at each place, with a bound on the places.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts(BTreeMap<Place, u64>);

impl Counts {
    pub(super) fn add(&mut self, mut place: Place, count: u64) {
        if count == 0 {
            return;
        }
        let listed = self.0.keys().filter(|listed| listed.reason == place.reason).count();
        if listed >= MOST_PLACES && !self.0.contains_key(&place) {
            place = Place { directory: None, mount: None, ..place };
        }
        *self.0.entry(place).or_default() += count;
    }

    pub(super) fn total(&self) -> u64 {
        self.0.values().sum()
    }
}

/// The indexed paths at which a walk found nothing, sorted.
#[derive(Debug, Default)]
pub struct Vanished {
    /// Paths whose mount is there, in order; no more than a bound.
    pub(super) here: Vec<LibraryPath>,
    /// How many there were in all.
    pub(super) here_in_all: u64,
    /// Paths that a person approved of, mounted or not; no more than a bound.
    pub(super) approved: Vec<LibraryPath>,
    /// How many there were in all, and how many of these are on mounts that are gone.
    pub(super) approved_in_all: u64,
    pub(super) approved_away: u64,
    /// The others, whose mount is gone.
    pub(super) away: Counts,
    /// How many of the paths that are not approved are at or beneath the path of the approval: whose mount is
    /// there, and whose mount is gone.
    pub(super) beneath_approval: (u64, u64),
}

/// What a walk of everything came to, as far as it decides about deletes.
#[derive(Debug, Default)]
pub(super) struct Missed {
    /// What is missing and still in the index.
    pub(super) vanished: Vanished,
    /// Those that may be called gone: in places without change notification two walks have to miss a file.
    pub(super) sure: HashSet<LibraryPath>,
    /// Whether the root holds nothing but hidden names.
    pub(super) root_is_empty: bool,
    /// How many rows the index has.
    pub(super) indexed: u64,
}

/// What may be published as deleted.
#[derive(Debug, Default)]
pub(super) struct Verdict {
    /// Paths that nothing holds.
    pub(super) gone: Vec<LibraryPath>,
    /// Paths that a person approved of, each with what its look must keep until it is committed.
    pub(super) approved: Vec<(LibraryPath, Token)>,
    /// Deletes that nothing holds and that are left to the next walk.
    pub(super) left_over: u64,
}

/// The register of held deletes: filled by each walk of everything. Clones share it.
#[derive(Clone, Debug)]
pub struct Held {
    percent: u8,
    longest_recheck: Duration,
    state: Arc<Mutex<State>>,
    /// Rises with each walk of everything.
    walks: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    counts: Counts,
    /// Since when each place has been listed, in seconds since the epoch.
    since: BTreeMap<Place, i64>,
    /// What is known of the mounts that are gone.
    mounts: BTreeMap<MountId, (String, String)>,
    /// Deletes that were approved while others stayed held as too many. These count as missing until all are back or
    /// approved: else approving of some would release the rest.
    let_go: u64,
    approval: Option<Approval>,
    /// Of the newest approval, while anybody waits for it.
    release: Weak<Release>,
    recheck: Recheck,
}

/// When everything is to be walked again because deletes are held.
#[derive(Debug, Default)]
struct Recheck {
    wait: Duration,
    due: Option<Instant>,
}

impl Recheck {
    fn schedule(&mut self, is_held: bool, is_changed: bool, longest: Duration, now: Instant) {
        if !is_held {
            *self = Self::default();
            return;
        }
        let wait = if is_changed { FIRST_RECHECK } else { (self.wait * 2).max(FIRST_RECHECK) };
        self.wait = wait.min(longest);
        self.due = Some(now + self.wait);
    }
}

impl Held {
    /// A register that holds more than `percent` of the index at once, and has everything walked again while
    /// deletes are held, no less often than every `longest_recheck`.
    pub fn new(percent: u8, longest_recheck: Duration) -> Self {
        Self { percent, longest_recheck, state: Arc::default(), walks: watch::Sender::new(0) }
    }

    /// What is held, as the last walk of everything found it, by reason and place.
    pub fn list(&self) -> Vec<HeldDeletes> {
        let state = self.state();
        let deletes = state.counts.0.iter().map(|(place, &count)| HeldDeletes {
            reason: place.reason,
            place: place.directory.clone(),
            mount: place.mount.and_then(|mount| state.mounts.get(&mount)).cloned(),
            count,
            since: state.since.get(place).copied().unwrap_or_default(),
        });
        deletes.collect()
    }

    /// The same, without the places that hold nothing at or beneath `under`. Of a place above `under` it is not
    /// known how many of its deletes are there.
    pub fn list_under(&self, under: &LibraryPath) -> Vec<HeldDeletes> {
        let mut listed = self.list();
        listed.retain(|held| {
            let place = Place { reason: held.reason, directory: held.place.clone(), mount: None };
            place.may_hold(under)
        });
        listed
    }

    /// How many deletes are held.
    pub fn count(&self) -> u64 {
        self.state().counts.total()
    }

    /// A number that rises with each walk of everything that filled the register.
    pub fn walks(&self) -> watch::Receiver<u64> {
        self.walks.subscribe()
    }

    /// Approves of what is held now at or beneath `under`, for the next walk of everything and no other; `None`
    /// where nothing is held there.
    pub fn approve(&self, under: &LibraryPath) -> Option<Arc<Release>> {
        let mut state = self.state();
        let places: BTreeSet<Place> = state.counts.0.keys().filter(|place| place.may_hold(under)).cloned().collect();
        if places.is_empty() {
            return None;
        }
        let (approval, release) = Approval::new(under.clone(), places);
        state.approval = Some(approval);
        state.release = Arc::downgrade(&release);
        Some(release)
    }

    /// Whether an approval waits for a walk of everything.
    pub fn is_approved(&self) -> bool {
        self.state().approval.is_some()
    }

    /// Notes that a path was published as deleted.
    pub fn deleted(&self, path: &LibraryPath) {
        let release = self.state().release.upgrade();
        if let Some(release) = release {
            release.deleted(path);
        }
    }

    /// The approval that a walk of everything begins with.
    pub(super) fn take_approval(&self) -> Option<Approval> {
        self.state().approval.take()
    }

    /// Decides about what a walk of everything missed, and fills the register with what is held.
    ///
    /// `mount` gives what is known of a mount.
    pub(super) fn judge(
        &self,
        missed: Missed,
        approval: Option<Approval>,
        mount: impl Fn(MountId) -> Option<KnownMount>,
    ) -> Verdict {
        let Missed { vanished, sure, root_is_empty, indexed } = missed;
        let Vanished { here, here_in_all, mut approved, approved_in_all, approved_away, away, beneath_approval } =
            vanished;
        let mut state = self.state();
        let indexed_here = indexed.saturating_sub(away.total() + approved_away);
        let missing_here = here_in_all + approved_in_all - approved_away;
        let is_too_many = self.is_too_many(missing_here + state.let_go, indexed_here + state.let_go);
        let reason = match () {
            () if here_in_all == 0 => None,
            () if root_is_empty => Some(HeldReason::RootEmpty),
            () => is_too_many.then_some(HeldReason::TooMany),
        };
        let mut counts = away;
        let mut verdict = Verdict::default();
        if let Some(approval) = approval {
            // More than an earlier walk left over: none of it is known to be meant.
            let is_admitted = approval.admits(approved_in_all);
            approved.retain(|path| is_admitted && sure.contains(path));
            let left = approved_in_all - approved.len() as u64;
            counts.add(Place { reason: HeldReason::TooMany, directory: None, mount: None }, left);
            let still_held = beneath_approval.1 + if reason.is_some() { beneath_approval.0 } else { 0 } + left;
            approval.release.begin(&approved, approved_in_all, still_held);
            verdict.approved = approved.into_iter().map(|path| (path, approval.release.token())).collect();
            if is_admitted && left > 0 {
                state.approval.get_or_insert(approval.for_the_rest(left));
            }
        }
        if let Some(reason) = reason {
            for path in &here {
                counts.add(Place::in_library(reason, path), 1);
            }
            counts.add(Place { reason, directory: None, mount: None }, here_in_all - here.len() as u64);
        } else {
            verdict.gone = here.into_iter().filter(|path| sure.contains(path)).collect();
            verdict.left_over = here_in_all - verdict.gone.len() as u64;
        }
        state.let_go = match reason {
            Some(HeldReason::TooMany) => state.let_go + approved_in_all - approved_away,
            Some(_) => state.let_go,
            None => 0,
        };
        state.refill(counts, self.longest_recheck, mount);
        drop(state);
        self.walks.send_modify(|walks| *walks += 1);
        verdict
    }

    /// Notes that a walk could not look at the root: what was held is held, and looked at again.
    pub(super) fn not_walked(&self) {
        let mut state = self.state();
        let is_held = state.counts.total() > 0;
        state.recheck.schedule(is_held, false, self.longest_recheck, Instant::now());
        drop(state);
        self.walks.send_modify(|walks| *walks += 1);
    }

    fn is_too_many(&self, missing: u64, indexed: u64) -> bool {
        missing > NEVER_TOO_MANY && missing.saturating_mul(100) > indexed.saturating_mul(u64::from(self.percent))
    }

    /// Marks the root in `inbox` whenever what is held is to be looked at again. Never returns.
    pub async fn recheck(&self, inbox: &Inbox) -> Infallible {
        let mut walks = self.walks();
        loop {
            walks.mark_unchanged();
            let due = self.state().recheck.due;
            tokio::select! {
                // The sender is here, so there is always one.
                _ = walks.changed() => {}
                () = at(due) => {
                    self.state().recheck.due = None;
                    inbox.mark(LibraryPath::root(), Duration::ZERO);
                }
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn refill(&mut self, counts: Counts, longest_recheck: Duration, mount: impl Fn(MountId) -> Option<KnownMount>) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let now = i64::try_from(now).unwrap_or(i64::MAX);
        let before = std::mem::take(&mut self.since);
        self.since = counts.0.keys().map(|place| (place.clone(), before.get(place).copied().unwrap_or(now))).collect();
        let gone = counts.0.keys().filter_map(|place| place.mount);
        self.mounts = gone.filter_map(|id| mount(id).map(|known| (id, (known.kind, known.source)))).collect();
        let is_changed = self.counts != counts;
        self.counts = counts;
        self.recheck.schedule(self.counts.total() > 0, is_changed, longest_recheck, Instant::now());
    }
}

#[cfg(test)]
mod tests;
