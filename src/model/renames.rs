//! Renames that have to be decided together, so that every file keeps its identity.
//!
//! When names are passed around, as in a renumbering or a swap, the file that left a path and the one that
//! came there are seen by different looks. A look at a path whose old file left must not be committed before
//! the look that finds that file elsewhere, or the file would be published as deleted and created.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

/// A group of renames. Clones are the same group.
#[derive(Clone, Debug)]
pub struct RenameGroup(Arc<Group>);

#[derive(Debug)]
struct Group {
    /// Hints and looks that may still find a file of the group under its new name.
    members: AtomicUsize,
    limit: Duration,
}

/// The groups of renames that are going on. Clones are the same register.
#[derive(Clone, Debug, Default)]
pub struct RenameGroups(Arc<Mutex<Vec<Weak<Group>>>>);

impl RenameGroups {
    /// A new group, whose looks wait for each other no longer than `limit`.
    pub fn begin(&self, limit: Duration) -> RenameGroup {
        let group = RenameGroup::new(limit);
        let mut groups = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        groups.retain(|group| group.strong_count() > 0);
        groups.push(Arc::downgrade(&group.0));
        group
    }

    /// The groups that have members.
    pub fn open(&self) -> Vec<RenameGroup> {
        let groups = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let there = groups.iter().filter_map(Weak::upgrade).map(RenameGroup);
        there.filter(|group| group.members() > 0).collect()
    }
}

/// A hint or look that may find a file of the group under its new name. It counts until it is dropped.
#[derive(Debug)]
pub struct Member(RenameGroup);

impl RenameGroup {
    /// A group without members, whose looks wait for each other no longer than `limit`.
    pub fn new(limit: Duration) -> Self {
        Self(Arc::new(Group { members: AtomicUsize::new(0), limit }))
    }

    /// One member more.
    pub fn join(&self) -> Arc<Member> {
        self.0.members.fetch_add(1, Ordering::Relaxed);
        Arc::new(Member(self.clone()))
    }

    /// How many members there are.
    pub fn members(&self) -> usize {
        self.0.members.load(Ordering::Acquire)
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
}

impl Ties {
    /// Adds the ties of another hint for the same path.
    pub fn append(&mut self, other: &mut Self) {
        self.member_of.append(&mut other.member_of);
        self.left_in.append(&mut other.left_in);
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
    fn a_group_is_open_while_it_has_members() {
        let groups = RenameGroups::default();
        let (one, other) = (groups.begin(Duration::ZERO), groups.begin(Duration::ZERO));
        let member = one.join();
        assert_eq!(groups.open().iter().map(RenameGroup::id).collect::<Vec<_>>(), [one.id()]);
        drop(member);
        assert!(groups.open().is_empty());
        drop((one, other));
        assert_eq!(groups.0.lock().unwrap().iter().filter_map(Weak::upgrade).count(), 0);
    }
}
