//! What ties looks together that have to be decided in one batch, so that every file keeps its identity.
//!
//! When names are passed around, as in a renumbering or a swap, the file that left a path and the one that
//! came there are seen by different looks. A look at a path whose old file left must not be committed before
//! the look that finds that file elsewhere, or the file would be published as deleted and created.
//!
//! Each rename begins a group. The path that was left waits for the group; the path that was reached is its
//! member. A file that is renamed again takes the groups of its old path along, so a look that waits for
//! a file waits wherever it went.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use super::Token;

/// A group of renames. Clones are the same group.
#[derive(Clone, Debug)]
pub struct RenameGroup(Arc<Group>);

/// A group that ends when nothing else refers to it.
#[derive(Clone, Debug)]
pub struct WeakRenameGroup(Weak<Group>);

#[derive(Debug)]
struct Group {
    /// Hints and looks that may still find a file of the group under its new name.
    members: AtomicUsize,
    limit: Duration,
    kind: Kind,
}

/// What a group is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// A walk that looks for what happened while nothing was watched.
    Unwatched,
    /// A rename, another walk, or paths that a walk found to have changed names with each other.
    Other,
}

/// A hint or look that may find a file of the group under its new name. It counts until it is dropped.
#[derive(Debug)]
pub struct Member(RenameGroup);

impl RenameGroup {
    /// A group without members, whose looks wait for each other no longer than `limit`.
    pub fn new(limit: Duration) -> Self {
        Self::of(limit, Kind::Other)
    }

    /// The group of a walk that looks for what happened while nothing was watched.
    #[must_use]
    pub fn of_unwatched_time(limit: Duration) -> Self {
        Self::of(limit, Kind::Unwatched)
    }

    fn of(limit: Duration, kind: Kind) -> Self {
        Self(Arc::new(Group { members: AtomicUsize::new(0), limit, kind }))
    }

    /// The same group, which may end meanwhile.
    #[must_use]
    pub fn downgrade(&self) -> WeakRenameGroup {
        WeakRenameGroup(Arc::downgrade(&self.0))
    }

    /// One member more.
    pub fn join(&self) -> Arc<Member> {
        // In this order, so that there are never fewer references than members.
        let member = Member(self.clone());
        self.0.members.fetch_add(1, Ordering::Relaxed);
        Arc::new(member)
    }

    /// How many members there are.
    pub fn members(&self) -> usize {
        self.0.members.load(Ordering::Acquire)
    }

    /// Whether its file may still be found.
    pub fn is_open(&self) -> bool {
        self.members() > 0
    }

    /// Whether it is complete if `here` of its members are: no other one can come.
    pub fn is_complete(&self, here: usize) -> bool {
        here >= self.members()
    }

    /// How long a look waits for the others.
    pub fn limit(&self) -> Duration {
        self.0.limit
    }

    /// A number that no other group has while this one exists.
    pub fn id(&self) -> usize {
        Arc::as_ptr(&self.0).addr()
    }
}

impl WeakRenameGroup {
    /// The group, if it has not ended.
    #[must_use]
    pub fn upgrade(&self) -> Option<RenameGroup> {
        self.0.upgrade().map(RenameGroup)
    }

    /// The group, if anything but its members refers to it: whatever waits for it, or may wait for it later.
    #[must_use]
    pub fn upgrade_if_awaited(&self) -> Option<RenameGroup> {
        // The reference that is made here is none of them.
        self.upgrade().filter(|group| Arc::strong_count(&group.0) - 1 > group.members())
    }

    /// Whether the group has not ended.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.0.strong_count() > 0
    }
}

impl Member {
    /// The group that it is a member of.
    pub fn group(&self) -> &RenameGroup {
        &self.0
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.0.0.members.fetch_sub(1, Ordering::Release);
    }
}

/// What ties a hint to others.
#[derive(Clone, Debug, Default)]
pub struct Ties {
    /// The groups of which this hint is a member: it may find a file under its new name.
    pub member_of: Vec<Arc<Member>>,
    /// The groups that may find the path's old file elsewhere.
    pub left_in: Vec<RenameGroup>,
    /// A walk asked for the look, when it had seen everything else that it waits for.
    pub of_walk: bool,
    /// The next wave of a walk waits for this look, until it waits for others itself.
    pub waves: Vec<Token>,
    /// How often a look found that it has to wait for the others.
    pub waits: u32,
}

impl Ties {
    /// Adds the ties of another hint for the same path.
    pub fn append(&mut self, other: &mut Self) {
        self.member_of.append(&mut other.member_of);
        self.left_in.append(&mut other.left_in);
        self.waves.append(&mut other.waves);
        self.of_walk |= other.of_walk;
        if self.of_walk {
            // The walk waits for its own looks.
            self.left_in.retain(|group| group.0.kind != Kind::Unwatched);
        }
        self.waits = self.waits.max(other.waits);
    }

    /// The places of looks that wait for no one but each other: of all looks that wait, those whose groups have no
    /// member elsewhere. One that stays takes along those that need it here.
    #[must_use]
    pub fn complete<K: Copy + Ord>(waiting: &BTreeMap<K, &Self>) -> BTreeSet<K> {
        let mut complete = waiting.clone();
        loop {
            let here = Self::members_here(complete.values().copied());
            let before = complete.len();
            complete.retain(|_, ties| ties.left_in.iter().all(|group| here.are_all_of(group)));
            if complete.len() == before {
                return complete.into_keys().collect();
            }
        }
    }

    /// The looks among `all` that are members of each group, by the group's number.
    pub fn members_here<'a>(all: impl Iterator<Item = &'a Self>) -> MembersHere {
        let mut here = MembersHere::default();
        for member in all.flat_map(|ties| &ties.member_of) {
            here.0.entry(member.group().id()).or_default().insert(Arc::as_ptr(member).addr());
        }
        here
    }
}

/// The members of groups that are in one place.
#[derive(Debug, Default)]
pub struct MembersHere(HashMap<usize, HashSet<usize>>);

impl MembersHere {
    /// Whether all members of the group are here.
    pub fn are_all_of(&self, group: &RenameGroup) -> bool {
        group.is_complete(self.0.get(&group.id()).map_or(0, HashSet::len))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_counts_until_its_last_clone_is_dropped() {
        let group = RenameGroup::new(Duration::from_secs(1));
        let (one, other) = (group.join(), group.join());
        let clone = Arc::clone(&one);
        assert_eq!(group.members(), 2);
        drop(one);
        drop(other);
        assert_eq!((group.members(), clone.group().id()), (1, group.id()));
        drop(clone);
        assert_eq!(group.members(), 0);
    }

    #[test]
    fn what_a_walk_of_unwatched_time_looks_at_does_not_wait_for_that_walk() {
        let walk = RenameGroup::of_unwatched_time(Duration::from_secs(1));
        let mut of_walk = Ties { of_walk: true, ..Ties::default() };
        of_walk.append(&mut Ties { left_in: vec![walk.clone()], ..Ties::default() });
        assert!(of_walk.left_in.is_empty());
    }
}
