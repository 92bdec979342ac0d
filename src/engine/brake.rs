//! The brake on deletes: a library that is suddenly gone is more likely unmounted than deleted.
//!
//! A walk of everything sorts the missing files before any of them is looked at. Files whose mount is gone are always
//! held. So are all files while the root is empty. The others are held if they are more than a share of the index. A
//! file whose delete is held stays in the index. The delete is published only if an operator approves it. If the file
//! comes back, nothing is published.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::{Duration, Instant, UNIX_EPOCH};

use super::approval::{Approval, Release};
use super::{Engine, Now, REPEAT_WAIT};
use crate::model::{HeldDeletes, HeldReason, LibraryPath, MountId, Token};

/// Up to this number, deletes are never too many, whatever share of the library they are.
const NEVER_TOO_MANY: u64 = 10;

/// The most places that are listed for each reason. The deletes at all others are summed up.
const MAX_PLACES: usize = 100;

/// The most missing paths that one walk remembers. The rest is left to the next walk.
const MAX_MISSING: usize = 100_000;

/// The first wait before everything is walked again while deletes are held. It doubles after each walk without a
/// change.
const FIRST_RECHECK: Duration = Duration::from_mins(1);

/// The wait before everything is walked after a look found that a mount is gone: soon, and not at once for each of many.
const MOUNT_GONE_WAIT: Duration = Duration::from_millis(500);

/// The wait before everything is walked again for the approved deletes that one walk could not remember.
const AFTER_APPROVAL: Duration = Duration::from_secs(5);

/// Where deletes are held, and why.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    reason: HeldReason,
    /// `None` for all places beyond [`MAX_PLACES`].
    directory: Option<LibraryPath>,
    /// The mount that is gone.
    mount: Option<MountId>,
}

impl Place {
    /// The place of a file whose mount is gone. `mounted_at` is where that mount was, if it is known.
    fn of_mount(path: &LibraryPath, mount: MountId, mounted_at: Option<&LibraryPath>) -> Self {
        // The filesystem may have been mounted at several places, or may be mounted elsewhere by now.
        let place = mounted_at.filter(|place| path.is_at_or_under(place));
        let place = place.cloned().unwrap_or_else(|| directory_in_root(path));
        Self { reason: HeldReason::MountGone, directory: Some(place), mount: Some(mount) }
    }

    /// The place of a file whose mount is present.
    pub(super) fn in_library(reason: HeldReason, path: &LibraryPath) -> Self {
        Self { reason, directory: Some(directory_in_root(path)), mount: None }
    }

    /// The sum of the places beyond the bound, for the same reason.
    pub(super) fn beyond_the_bound(&self) -> Self {
        Self::unlisted(self.reason)
    }

    fn unlisted(reason: HeldReason) -> Self {
        Self { reason, directory: None, mount: None }
    }

    /// Whether some of the files here may be at or under `under`.
    fn may_hold(&self, under: &LibraryPath) -> bool {
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
struct Counts(BTreeMap<Place, u64>);

impl Counts {
    fn add(&mut self, mut place: Place, count: u64) {
        if count == 0 {
            return;
        }
        let listed = self.0.keys().filter(|listed| listed.reason == place.reason).count();
        if listed >= MAX_PLACES && !self.0.contains_key(&place) {
            place = place.beyond_the_bound();
        }
        *self.0.entry(place).or_default() += count;
    }

    fn total(&self) -> u64 {
        self.0.values().sum()
    }
}

/// The indexed paths at which a walk found no file, sorted by what is known of their mounts.
#[derive(Debug, Default)]
pub struct Missing {
    /// The number of the walk of everything; 0 for other walks.
    walk: u64,
    /// The approval that waited when it began.
    approval: Option<Approval>,
    /// Paths whose mount is present, in order, up to a bound.
    here: Vec<LibraryPath>,
    /// Their number, including those beyond the bound.
    here_total: u64,
    /// Paths whose delete an operator approved, whether or not their mount is present, up to a bound.
    approved: Vec<LibraryPath>,
    /// Their number, including those beyond the bound.
    approved_total: u64,
    /// The number of those whose mount is gone.
    approved_away: u64,
    /// Paths that are not approved and whose mount is gone.
    away: Counts,
    /// The number of paths that are not approved and are at or under the path of the approval.
    under_approval: UnderApproval,
}

#[derive(Debug, Default)]
struct UnderApproval {
    here: u64,
    away: u64,
}

impl Missing {
    /// A file is missing, and the mount that it was on is present.
    pub fn add_here(&mut self, path: LibraryPath) {
        if self.approval.as_ref().is_some_and(|approval| approval.covers_here(&path)) {
            self.add_approved(path);
            return;
        }
        self.under_approval.here += u64::from(self.is_under_approval(&path));
        self.here_total += 1;
        push_bounded(&mut self.here, path);
    }

    /// A file is missing, and so is the mount that it was on. `mounted_at` is where that mount was, if it is known.
    pub fn add_away(&mut self, path: LibraryPath, mount: MountId, mounted_at: Option<&LibraryPath>) {
        let place = Place::of_mount(&path, mount, mounted_at);
        if self.approval.as_ref().is_some_and(|approval| approval.covers_away(&path, &place)) {
            self.approved_away += 1;
            self.add_approved(path);
            return;
        }
        self.under_approval.away += u64::from(self.is_under_approval(&path));
        self.away.add(place, 1);
    }

    /// Removes the remembered paths for which `is_missing` is false.
    pub fn retain(&mut self, is_missing: impl Fn(&LibraryPath) -> bool) {
        let before = (self.here.len(), self.approved.len());
        self.here.retain(&is_missing);
        self.approved.retain(&is_missing);
        self.here_total -= (before.0 - self.here.len()) as u64;
        self.approved_total -= (before.1 - self.approved.len()) as u64;
        self.approved_away = self.approved_away.min(self.approved_total);
    }

    /// The remembered paths that are not approved and whose mount is present.
    #[must_use]
    pub fn here(&self) -> &[LibraryPath] {
        &self.here
    }

    /// Takes those paths.
    pub(super) fn into_here(self) -> Vec<LibraryPath> {
        self.here
    }

    fn add_approved(&mut self, path: LibraryPath) {
        self.approved_total += 1;
        push_bounded(&mut self.approved, path);
    }

    fn is_under_approval(&self, path: &LibraryPath) -> bool {
        self.approval.as_ref().is_some_and(|approval| approval.includes(path))
    }
}

fn push_bounded(paths: &mut Vec<LibraryPath>, path: LibraryPath) {
    if paths.len() < MAX_MISSING {
        paths.push(path);
    }
}

/// What a walk of everything found about missing files.
#[derive(Debug, Default)]
pub struct FullWalk {
    /// The missing files that are still in the index.
    pub missing: Missing,
    /// Whether the rules exclude more rows than the walk could remember.
    pub is_more_excluded: bool,
    /// The number of the root that was walked: it changes when the root is replaced.
    pub generation: u64,
    /// Whether the root has no entries except hidden ones.
    pub is_root_empty: bool,
    /// The number of rows in the index that the rules include.
    pub indexed: u64,
}

/// The deletes that may be published.
#[derive(Debug, Default)]
pub struct Verdict {
    /// Paths whose delete is not held.
    pub gone: Vec<LibraryPath>,
    /// Paths whose delete an operator approved. The look keeps the token until it is committed.
    pub approved: Vec<(LibraryPath, Token)>,
}

/// The register of held deletes. Each walk of everything replaces its content.
#[derive(Debug)]
pub(super) struct Brake {
    percent: u8,
    counts: Counts,
    /// Since when each place is listed, in seconds since the epoch.
    since: BTreeMap<Place, i64>,
    /// Type and source of the mounts that are gone.
    mounts: BTreeMap<MountId, (String, String)>,
    /// The number of deletes that were approved while others stayed held as too many. They still count as missing until
    /// nothing is held as too many. Otherwise the approval of some deletes would release the rest.
    approved_meanwhile: u64,
    pub(super) approval: Option<Approval>,
    pub(super) release: Option<Release>,
    recheck: RecheckTimer,
    /// The number of walks of everything that have begun.
    begun: u64,
    /// The number of the last one of them that was judged.
    judged: u64,
    /// How often the held deletes were updated.
    walks: u64,
}

impl Default for Brake {
    fn default() -> Self {
        Self {
            percent: 100,
            counts: Counts::default(),
            since: BTreeMap::new(),
            mounts: BTreeMap::new(),
            approved_meanwhile: 0,
            approval: None,
            release: None,
            recheck: RecheckTimer::default(),
            begun: 0,
            judged: 0,
            walks: 0,
        }
    }
}

/// The timer for the next walk of everything while deletes are held.
#[derive(Debug, Default)]
struct RecheckTimer {
    wait: Duration,
    due: Option<Instant>,
}

impl RecheckTimer {
    fn schedule(&mut self, is_held: bool, is_changed: bool, longest: Option<Duration>, now: Instant) {
        let Some(longest) = longest.filter(|_| is_held) else {
            *self = Self::default();
            return;
        };
        let wait = if is_changed { FIRST_RECHECK } else { (self.wait * 2).max(FIRST_RECHECK) };
        self.wait = wait.min(longest);
        self.due = Some(now + self.wait);
    }
}

impl Brake {
    /// The places where deletes are held that may be at or under `under`.
    pub(super) fn places_under(&self, under: &LibraryPath) -> BTreeSet<Place> {
        self.counts.0.keys().filter(|place| place.may_hold(under)).cloned().collect()
    }

    /// When everything is to be walked again because deletes are held.
    pub(super) fn next_recheck(&self) -> Option<Instant> {
        self.recheck.due
    }

    /// Whether everything is to be walked now because deletes are held. Returns true once.
    pub(super) fn is_recheck_due(&mut self, now: Instant) -> bool {
        self.recheck.due.take_if(|due| *due <= now).is_some()
    }

    /// Why the missing files whose mount is present are held; `None` if they are not.
    fn reason_to_hold(&self, missing: &Missing, is_root_empty: bool, indexed: u64) -> Option<HeldReason> {
        let indexed_here = indexed.saturating_sub(missing.away.total() + missing.approved_away);
        let missing_here = missing.here_total + missing.approved_total - missing.approved_away;
        let meanwhile = self.approved_meanwhile;
        match () {
            () if missing.here_total == 0 => None,
            () if is_root_empty => Some(HeldReason::RootEmpty),
            () if self.is_too_many(missing_here + meanwhile, indexed_here + meanwhile) => Some(HeldReason::TooMany),
            () => None,
        }
    }

    /// Releases the approved deletes, and adds to `counts` those of them that stay held. `reason` is why the others whose
    /// mount is present are held.
    fn release(
        &mut self,
        missing: &mut Missing,
        reason: Option<HeldReason>,
        sure: &HashSet<LibraryPath>,
        counts: &mut Counts,
    ) -> Vec<(LibraryPath, Token)> {
        let (Some(approval), Some(release)) = (missing.approval.take(), &mut self.release) else { return Vec::new() };
        let (mut approved, total) = (std::mem::take(&mut missing.approved), missing.approved_total);
        // If there are more than an earlier walk left over, other files are missing too, so none is released.
        let is_admitted = approval.admits(total - release.count_waiting(&approved));
        approved.retain(|path| is_admitted && sure.contains(path));
        let left = total - approved.len() as u64;
        counts.add(Place::unlisted(HeldReason::TooMany), left);
        let held_here = if reason.is_some() { missing.under_approval.here } else { 0 };
        release.begin(&approved, total, missing.under_approval.away + held_here + left);
        if is_admitted && left > 0 {
            self.approval.get_or_insert(approval.for_left_over(left));
        }
        approved.into_iter().map(|path| (path, release.token())).collect()
    }

    fn is_too_many(&self, missing: u64, indexed: u64) -> bool {
        missing > NEVER_TOO_MANY && missing.saturating_mul(100) > indexed.saturating_mul(u64::from(self.percent))
    }

    fn refill(
        &mut self,
        counts: Counts,
        longest_recheck: Option<Duration>,
        describe: impl Fn(MountId) -> Option<(String, String)>,
        now: Now,
    ) {
        let seconds = now.wall.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
        let before = std::mem::take(&mut self.since);
        let since = |place: &Place| before.get(place).copied().unwrap_or(seconds);
        self.since = counts.0.keys().map(|place| (place.clone(), since(place))).collect();
        let gone = counts.0.keys().filter_map(|place| place.mount);
        self.mounts = gone.filter_map(|mount| describe(mount).map(|known| (mount, known))).collect();
        let is_changed = self.counts != counts;
        self.counts = counts;
        self.recheck.schedule(self.counts.total() > 0, is_changed, longest_recheck, now.instant);
    }
}

impl Engine {
    /// Holds deletes if they are more than `percent` of the index.
    pub fn set_mass_delete_percent(&mut self, percent: u8) {
        self.brake.percent = percent;
    }

    /// The held deletes by reason and place, as of the last walk of everything.
    #[must_use]
    pub fn held_deletes(&self) -> Vec<HeldDeletes> {
        self.held_deletes_under(&LibraryPath::root())
    }

    /// Like [`Engine::held_deletes`], without the places that have nothing at or under `under`. A place above `under` is
    /// listed with all its deletes, as it is not known how many of them are under `under`.
    #[must_use]
    pub fn held_deletes_under(&self, under: &LibraryPath) -> Vec<HeldDeletes> {
        let Brake { counts, since, mounts, .. } = &self.brake;
        let listed = counts.0.iter().filter(|(place, _)| place.may_hold(under));
        let deletes = listed.map(|(place, &count)| HeldDeletes {
            reason: place.reason,
            place: place.directory.clone(),
            mount: place.mount.and_then(|mount| mounts.get(&mount)).cloned(),
            count,
            since: since.get(place).copied().unwrap_or_default(),
        });
        deletes.collect()
    }

    /// The number of held deletes.
    #[must_use]
    pub fn held_count(&self) -> u64 {
        self.brake.counts.total()
    }

    /// The number of walks of everything so far. Each updates the held deletes.
    #[must_use]
    pub fn full_walks(&self) -> u64 {
        self.brake.walks
    }

    /// A walk of everything could not read the root. The held deletes stay as they are.
    pub fn root_was_unreadable(&mut self, now: Instant) {
        let (is_held, longest) = (self.held_count() > 0, self.longest_retry());
        self.brake.recheck.schedule(is_held, false, longest, now);
        self.brake.walks += 1;
    }

    /// A look found that the mount of its file is gone. Only a walk of everything updates the held deletes.
    pub fn look_was_held(&mut self, now: Instant) {
        self.mark(LibraryPath::root(), MOUNT_GONE_WAIT, now);
    }

    /// A walk of everything begins. Returns what it fills with the missing files.
    pub fn begin_full_walk(&mut self) -> Missing {
        self.brake.begun += 1;
        Missing { walk: self.brake.begun, approval: self.brake.approval.take(), ..Missing::default() }
    }

    /// Decides which deletes are held after a walk of everything. A walk that began before the last one that was judged
    /// decides nothing: its findings are older. `describe` returns type and source of a mount, if they
    /// were recorded.
    pub fn missed_by_full_walk(
        &mut self,
        walk: FullWalk,
        describe: impl Fn(MountId) -> Option<(String, String)>,
        now: Now,
    ) -> Verdict {
        let FullWalk { mut missing, is_more_excluded, generation, is_root_empty, indexed } = walk;
        if missing.walk < self.brake.judged {
            self.put_back(missing.approval, now.instant);
            return Verdict::default();
        }
        self.brake.judged = missing.walk;
        let missed = missing.here.iter().chain(&missing.approved);
        let sure = self.missed.sure_of_full_walk(missed, generation, &self.trust);
        let reason = self.brake.reason_to_hold(&missing, is_root_empty, indexed);
        let mut counts = std::mem::take(&mut missing.away);
        let mut verdict =
            Verdict { gone: Vec::new(), approved: self.brake.release(&mut missing, reason, &sure, &mut counts) };
        let mut walk_again = is_more_excluded.then_some(Duration::ZERO);
        let Missing { here, here_total, approved_total, approved_away, .. } = missing;
        let beyond_the_bound = here_total - here.len() as u64;
        if let Some(reason) = reason {
            for path in &here {
                counts.add(Place::in_library(reason, path), 1);
            }
            counts.add(Place::unlisted(reason), beyond_the_bound);
        } else {
            verdict.gone = here.into_iter().filter(|path| sure.contains(path)).collect();
            if walk_again.is_none() && here_total > verdict.gone.len() as u64 {
                walk_again = Some(if beyond_the_bound > 0 { REPEAT_WAIT } else { Duration::ZERO });
            }
        }
        self.brake.approved_meanwhile = match reason {
            Some(HeldReason::TooMany) => self.brake.approved_meanwhile + approved_total - approved_away,
            Some(_) => self.brake.approved_meanwhile,
            None => 0,
        };
        let longest_recheck = self.longest_retry();
        self.brake.refill(counts, longest_recheck, describe, now);
        self.brake.walks += 1;
        if self.brake.approval.is_some() {
            self.mark(LibraryPath::root(), AFTER_APPROVAL, now.instant);
        }
        if let Some(wait) = walk_again {
            self.mark(LibraryPath::root(), wait, now.instant);
        }
        verdict
    }

    /// Leaves an approval to the next walk of everything.
    fn put_back(&mut self, approval: Option<Approval>, now: Instant) {
        if let Some(approval) = approval {
            self.brake.approval.get_or_insert(approval);
            self.mark(LibraryPath::root(), AFTER_APPROVAL, now);
        }
    }
}

#[cfg(test)]
mod tests;
