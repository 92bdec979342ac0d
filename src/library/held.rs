//! Held deletes: a library that is suddenly gone is more likely unmounted than deleted.
//!
//! A walk of everything sorts the missing files before any of them is looked at. Files whose mount is gone are always
//! held. So are all files while the root is empty. The others are held if they are more than a share of the index. A
//! file whose delete is held stays in the index. The delete is published only if an operator approves it. If the file
//! comes back, nothing is published.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::watch;
use tokio::time::Instant;

use super::Inbox;
use super::inbox::sleep_until;
use super::release::{Approval, Release};
use crate::disk::KnownMount;
use crate::model::{HeldDeletes, HeldReason, LibraryPath, MountId, Token};

/// Up to this number, deletes are never too many, whatever share of the library they are.
const NEVER_TOO_MANY: u64 = 10;

/// The most places that are listed for each reason. The deletes at all others are summed up.
const MAX_PLACES: usize = 100;

/// The first wait before everything is walked again while deletes are held. It doubles after each walk without a
/// change.
const FIRST_RECHECK: Duration = Duration::from_mins(1);

/// Where deletes are held, and why.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) reason: HeldReason,
    /// `None` for all places beyond [`MAX_PLACES`].
    pub(super) directory: Option<LibraryPath>,
    /// The mount that is gone.
    pub(super) mount: Option<MountId>,
}

impl Place {
    /// The place of a file whose mount is gone. `known` is what was recorded of the mount.
    pub(super) fn of_mount(path: &LibraryPath, mount: MountId, known: Option<&KnownMount>) -> Self {
        // The filesystem may have been mounted at several places, or may be mounted elsewhere by now.
        let place = known.map(|known| &known.place).filter(|place| path.is_at_or_under(place));
        let place = place.cloned().unwrap_or_else(|| directory_in_root(path));
        Self { reason: HeldReason::MountGone, directory: Some(place), mount: Some(mount) }
    }

    /// The place of a file whose mount is present.
    pub(super) fn in_library(reason: HeldReason, path: &LibraryPath) -> Self {
        Self { reason, directory: Some(directory_in_root(path)), mount: None }
    }

    /// Whether some of the files here may be at or under `under`.
    pub(super) fn may_hold(&self, under: &LibraryPath) -> bool {
        self.directory.as_ref().is_none_or(|place| place.is_at_or_under(under) || under.is_at_or_under(place))
    }
}

/// The directory in the root that contains `path`, or the root for a file directly in it.
fn directory_in_root(path: &LibraryPath) -> LibraryPath {
    let mut names = path.names();
    let first = names.next().filter(|_| names.next().is_some());
    first.map_or_else(LibraryPath::root, LibraryPath::from_bytes)
}

/// The number of deletes at each place, for a bounded number of places.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts(BTreeMap<Place, u64>);

impl Counts {
    pub(super) fn add(&mut self, mut place: Place, count: u64) {
        if count == 0 {
            return;
        }
        let listed = self.0.keys().filter(|listed| listed.reason == place.reason).count();
        if listed >= MAX_PLACES && !self.0.contains_key(&place) {
            place = Place { directory: None, mount: None, ..place };
        }
        *self.0.entry(place).or_default() += count;
    }

    pub(super) fn total(&self) -> u64 {
        self.0.values().sum()
    }
}

/// The indexed paths at which a walk found no file, sorted by what is known of their mounts.
#[derive(Debug, Default)]
pub struct Vanished {
    /// Paths whose mount is present, in order, up to a bound.
    pub(super) here: Vec<LibraryPath>,
    /// Their number, including those beyond the bound.
    pub(super) here_total: u64,
    /// Paths whose delete an operator approved, whether or not their mount is present, up to a bound.
    pub(super) approved: Vec<LibraryPath>,
    /// Their number, including those beyond the bound.
    pub(super) approved_total: u64,
    /// The number of those whose mount is gone.
    pub(super) approved_away: u64,
    /// Paths that are not approved and whose mount is gone.
    pub(super) away: Counts,
    /// The number of paths that are not approved and are at or under the path of the approval: those whose mount is
    /// present, and those whose mount is gone.
    pub(super) under_approval: (u64, u64),
}

/// What a walk of everything found about missing files.
#[derive(Debug, Default)]
pub(super) struct Missed {
    /// The missing files that are still in the index.
    pub(super) vanished: Vanished,
    /// Those that may be published as deleted. In subtrees without change notification, two walks have to miss a file
    /// first.
    pub(super) sure: HashSet<LibraryPath>,
    /// Whether the root has no entries except hidden ones.
    pub(super) root_is_empty: bool,
    /// The number of rows in the index.
    pub(super) indexed: u64,
}

/// The deletes that may be published.
#[derive(Debug, Default)]
pub(super) struct Verdict {
    /// Paths whose delete is not held.
    pub(super) gone: Vec<LibraryPath>,
    /// Paths whose delete an operator approved. The look keeps the token until it is committed.
    pub(super) approved: Vec<(LibraryPath, Token)>,
    /// The number of deletes that are not held and are left to the next walk.
    pub(super) left_over: u64,
}

/// The register of held deletes. Each walk of everything replaces its content. Clones share it.
#[derive(Clone, Debug)]
pub struct Held {
    percent: u8,
    longest_recheck: Duration,
    state: Arc<Mutex<State>>,
    /// The number of walks of everything so far.
    walks: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    counts: Counts,
    /// Since when each place is listed, in seconds since the epoch.
    since: BTreeMap<Place, i64>,
    /// Type and source of the mounts that are gone.
    mounts: BTreeMap<MountId, (String, String)>,
    /// The number of deletes that were approved while others stayed held as too many. They still count as missing until
    /// nothing is held as too many. Otherwise the approval of some deletes would release the rest.
    approved_meanwhile: u64,
    approval: Option<Approval>,
    /// The release of the newest approval, while somebody waits for it.
    release: Weak<Release>,
    recheck: RecheckTimer,
}

/// The timer for the next walk of everything while deletes are held.
#[derive(Debug, Default)]
struct RecheckTimer {
    wait: Duration,
    due: Option<Instant>,
}

impl RecheckTimer {
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
    /// A register that holds deletes if they are more than `percent` of the index. While deletes are held, everything
    /// is walked again, at least every `longest_recheck`.
    #[must_use]
    pub fn new(percent: u8, longest_recheck: Duration) -> Self {
        Self { percent, longest_recheck, state: Arc::default(), walks: watch::Sender::new(0) }
    }

    /// The held deletes by reason and place, as of the last walk of everything.
    #[must_use]
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

    /// Like [`Held::list`], without the places that have nothing at or under `under`. A place above `under` is listed
    /// with all its deletes, as it is not known how many of them are under `under`.
    #[must_use]
    pub fn list_under(&self, under: &LibraryPath) -> Vec<HeldDeletes> {
        let mut listed = self.list();
        listed.retain(|held| {
            let place = Place { reason: held.reason, directory: held.place.clone(), mount: None };
            place.may_hold(under)
        });
        listed
    }

    /// The number of held deletes.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.state().counts.total()
    }

    /// The number of walks of everything so far. It changes when the register was updated.
    #[must_use]
    pub fn walks(&self) -> watch::Receiver<u64> {
        self.walks.subscribe()
    }

    /// Approves the deletes that are held now at or under `under`, for the next walk of everything only. Returns `None`
    /// if none is held there.
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
    #[must_use]
    pub fn is_approved(&self) -> bool {
        self.state().approval.is_some()
    }

    /// Notes that a path was published as deleted.
    pub fn note_deleted(&self, path: &LibraryPath) {
        let release = self.state().release.upgrade();
        if let Some(release) = release {
            release.note_deleted(path);
        }
    }

    /// Takes the approval that waits. A walk of everything calls this first.
    pub(super) fn take_approval(&self) -> Option<Approval> {
        self.state().approval.take()
    }

    /// Decides which deletes are held after a walk of everything, and stores these in the register. `mount` returns
    /// what was recorded of a mount.
    pub(super) fn judge(
        &self,
        missed: Missed,
        approval: Option<Approval>,
        mount: impl Fn(MountId) -> Option<KnownMount>,
    ) -> Verdict {
        let Missed { vanished, sure, root_is_empty, indexed } = missed;
        let Vanished { here, here_total, mut approved, approved_total, approved_away, away, under_approval } = vanished;
        let mut state = self.state();
        let indexed_here = indexed.saturating_sub(away.total() + approved_away);
        let missing_here = here_total + approved_total - approved_away;
        let is_too_many =
            self.is_too_many(missing_here + state.approved_meanwhile, indexed_here + state.approved_meanwhile);
        let reason = match () {
            () if here_total == 0 => None,
            () if root_is_empty => Some(HeldReason::RootEmpty),
            () => is_too_many.then_some(HeldReason::TooMany),
        };
        let mut counts = away;
        let mut verdict = Verdict::default();
        if let Some(approval) = approval {
            // If there are more than an earlier walk left over, other files are missing too, so none is released.
            let is_admitted = approval.admits(approved_total);
            approved.retain(|path| is_admitted && sure.contains(path));
            let left = approved_total - approved.len() as u64;
            counts.add(Place { reason: HeldReason::TooMany, directory: None, mount: None }, left);
            let still_held = under_approval.1 + if reason.is_some() { under_approval.0 } else { 0 } + left;
            approval.release.begin(&approved, approved_total, still_held);
            verdict.approved = approved.into_iter().map(|path| (path, approval.release.token())).collect();
            if is_admitted && left > 0 {
                state.approval.get_or_insert(approval.for_left_over(left));
            }
        }
        if let Some(reason) = reason {
            for path in &here {
                counts.add(Place::in_library(reason, path), 1);
            }
            counts.add(Place { reason, directory: None, mount: None }, here_total - here.len() as u64);
        } else {
            verdict.gone = here.into_iter().filter(|path| sure.contains(path)).collect();
            verdict.left_over = here_total - verdict.gone.len() as u64;
        }
        state.approved_meanwhile = match reason {
            Some(HeldReason::TooMany) => state.approved_meanwhile + approved_total - approved_away,
            Some(_) => state.approved_meanwhile,
            None => 0,
        };
        state.refill(counts, self.longest_recheck, mount);
        drop(state);
        self.walks.send_modify(|walks| *walks += 1);
        verdict
    }

    /// Notes that a walk could not read the root. The held deletes stay, and the next walk is scheduled.
    pub(super) fn note_unreadable_root(&self) {
        let mut state = self.state();
        let is_held = state.counts.total() > 0;
        state.recheck.schedule(is_held, false, self.longest_recheck, Instant::now());
        drop(state);
        self.walks.send_modify(|walks| *walks += 1);
    }

    fn is_too_many(&self, missing: u64, indexed: u64) -> bool {
        missing > NEVER_TOO_MANY && missing.saturating_mul(100) > indexed.saturating_mul(u64::from(self.percent))
    }

    /// Marks the root in `inbox` whenever everything has to be walked again because of held deletes. Never returns.
    pub async fn recheck(&self, inbox: &Inbox) -> Infallible {
        let mut walks = self.walks();
        loop {
            walks.mark_unchanged();
            let due = self.state().recheck.due;
            tokio::select! {
                // `self` has the sender, so this never fails.
                _ = walks.changed() => {}
                () = sleep_until(due) => {
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
