//! Renames that have to be decided together, so that every file keeps its identity.
//!
//! When names are passed around, as in a renumbering or a swap, the file that left a path and the one that
//! came there are seen by different looks. A look at a path whose old file left must not be committed before
//! the look that finds that file elsewhere, or the file would be published as deleted and created.
//!
//! Each rename begins a group. The path that was left waits for the group; the path that was reached is its
//! member. A file that is renamed once more takes the groups of its old path along, so a look that waits for
//! a file waits wherever it went.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use super::{LibraryPath, Token};

/// A group of renames. Clones are the same group.
#[derive(Clone, Debug)]
pub struct RenameGroup(Arc<Group>);

#[derive(Debug)]
struct Group {
    /// Hints and looks that may still find a file of the group under its new name.
    members: AtomicUsize,
    limit: Duration,
    kind: Kind,
    /// The file has a name that nothing looks at. Until then it may get another one.
    between_names: Mutex<Option<Instant>>,
}

/// What a group is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// A walk that looks for what happened while nobody watched.
    Unwatched,
    /// A rename, another walk, or paths that a walk found to have changed names with each other.
    Other,
}

/// The renames that are going on. Clones are the same register.
#[derive(Clone, Debug, Default)]
pub struct Renames(Arc<Mutex<Register>>);

/// Groups end when nothing refers to them any more.
#[derive(Debug, Default)]
struct Register {
    /// What left a path.
    left: HashMap<LibraryPath, Vec<Weak<Group>>>,
    /// What came to a path.
    came: HashMap<LibraryPath, Vec<Weak<Group>>>,
    /// Walks that are going on: they may have missed a file that is renamed meanwhile.
    walks: Vec<Weak<Group>>,
    /// Those of them that look for what happened while nobody watched.
    unwatched: Vec<Weak<Group>>,
    /// New directories that nobody has looked into: what was moved there before they were watched has no event.
    new_directories: Vec<Weak<Group>>,
    /// Groups whose files are between two names.
    between_names: Vec<RenameGroup>,
    /// How many paths there may be before the ended groups are removed.
    room: usize,
}

/// Paths that are kept without looking for ended groups.
const ROOM: usize = 1024;

impl Renames {
    /// How long a look waits for the file that left its path.
    pub const LIMIT: Duration = Duration::from_secs(3);

    /// How long a file whose name went away, or that has a name of no audio file, is expected under another name.
    pub const BETWEEN_NAMES: Duration = Duration::from_millis(200);

    /// The name `path` went away.
    pub fn left(&self, path: &LibraryPath) -> Left {
        let mut register = self.register();
        let group = RenameGroup::new(Self::LIMIT);
        let mut followed_by = alive(&register.came, path);
        followed_by.push(group.clone());
        register.are_between_names(&followed_by);
        let mut awaits = open(&mut register.new_directories);
        awaits.push(group);
        register.left.entry(path.clone()).or_default().extend(awaits.iter().map(|group| Arc::downgrade(&group.0)));
        register.make_room();
        Left { followed_by, awaits }
    }

    /// What `groups` follow, or something of unknown origin, has the name `path` now. What looks there is to carry
    /// the members.
    pub fn came(&self, path: &LibraryPath, mut groups: Vec<RenameGroup>) -> Vec<Arc<Member>> {
        let mut register = self.register();
        groups.extend(upgrade(&register.walks));
        groups.extend(upgrade(&register.unwatched));
        register.have_come(path, &groups);
        groups.iter().map(RenameGroup::join).collect()
    }

    /// A directory has the name `path` now, and `groups` follow what is in it. The walk of it is to carry the members.
    pub fn directory_came(&self, path: &LibraryPath, groups: Vec<RenameGroup>) -> Vec<Arc<Member>> {
        let group = RenameGroup::new(Self::LIMIT);
        let mut members = self.came(path, groups);
        members.push(group.join());
        self.register().new_directories.push(Arc::downgrade(&group.0));
        members
    }

    /// What `groups` follow has the name `path` now, at which nothing looks.
    pub fn came_unseen(&self, path: &LibraryPath, groups: &[RenameGroup]) {
        let mut register = self.register();
        register.have_come(path, groups);
        register.are_between_names(groups);
    }

    /// A walk begins. Whatever is renamed until its group ends is a member of it.
    pub fn begin_walk(&self) -> RenameGroup {
        let group = RenameGroup::new(Self::LIMIT);
        let mut register = self.register();
        register.walks.retain(|walk| walk.strong_count() > 0);
        register.walks.push(Arc::downgrade(&group.0));
        group
    }

    /// A walk begins that looks for what happened while nobody watched. Its group ends with the last look.
    pub fn begin_walk_of_unwatched(&self) -> RenameGroup {
        let group = RenameGroup::of(Self::LIMIT, Kind::Unwatched);
        self.register().unwatched.push(Arc::downgrade(&group.0));
        group
    }

    /// The groups that may find what left `path`, by its own name or by that of a directory above it; `ties` are
    /// those of the look that missed it.
    pub fn that_may_find_what_left(&self, path: &LibraryPath, ties: &Ties) -> Vec<RenameGroup> {
        let mut register = self.register();
        let mut groups = if register.left.is_empty() { Vec::new() } else { alive(&register.left, path) };
        groups.retain(RenameGroup::is_open);
        if !ties.of_walk {
            groups.append(&mut open(&mut register.unwatched));
        }
        groups
    }

    fn register(&self) -> MutexGuard<'_, Register> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Register {
    fn have_come(&mut self, path: &LibraryPath, groups: &[RenameGroup]) {
        for group in groups {
            *group.between_names() = None;
        }
        self.came.entry(path.clone()).or_default().extend(groups.iter().map(|group| Arc::downgrade(&group.0)));
        self.make_room();
    }

    fn are_between_names(&mut self, groups: &[RenameGroup]) {
        let now = Instant::now();
        self.between_names.retain(|group| group.between_names().is_some_and(|until| until > now));
        for group in groups {
            *group.between_names() = now.checked_add(Renames::BETWEEN_NAMES);
        }
        self.between_names.extend(groups.iter().cloned());
    }

    fn make_room(&mut self) {
        if self.left.len() + self.came.len() > self.room.max(ROOM) {
            for paths in [&mut self.left, &mut self.came] {
                paths.retain(|_, groups| {
                    groups.retain(|group| group.strong_count() > 0);
                    !groups.is_empty()
                });
            }
            self.room = 2 * (self.left.len() + self.came.len());
        }
    }
}

/// The groups at `path` and at the directories above it that have not ended.
fn alive(paths: &HashMap<LibraryPath, Vec<Weak<Group>>>, path: &LibraryPath) -> Vec<RenameGroup> {
    let mut groups = Vec::new();
    let mut at = Some(path.clone());
    while let Some(path) = at {
        groups.extend(paths.get(&path).into_iter().flat_map(|groups| upgrade(groups)));
        at = path.parent();
    }
    groups
}

/// The groups that are open; those that are not are removed.
fn open(groups: &mut Vec<Weak<Group>>) -> Vec<RenameGroup> {
    let mut open = Vec::new();
    groups.retain(|group| {
        let group = group.upgrade().map(RenameGroup).filter(RenameGroup::is_open);
        open.extend(group.clone());
        group.is_some()
    });
    open
}

fn upgrade(groups: &[Weak<Group>]) -> impl Iterator<Item = RenameGroup> {
    groups.iter().filter_map(Weak::upgrade).map(RenameGroup)
}

/// What went away under one name.
#[derive(Clone, Debug)]
pub struct Left {
    /// The groups that follow it, in which others wait for it.
    pub followed_by: Vec<RenameGroup>,
    /// The groups that may find it.
    pub awaits: Vec<RenameGroup>,
}

/// A hint or look that may find a file of the group under its new name. It counts until it is dropped.
#[derive(Debug)]
pub struct Member(RenameGroup);

impl RenameGroup {
    /// A group without members, whose looks wait for each other no longer than `limit`.
    pub fn new(limit: Duration) -> Self {
        Self::of(limit, Kind::Other)
    }

    fn of(limit: Duration, kind: Kind) -> Self {
        Self(Arc::new(Group { members: AtomicUsize::new(0), limit, kind, between_names: Mutex::default() }))
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

    /// Whether its file may still be found.
    pub fn is_open(&self) -> bool {
        self.members() > 0 || self.is_between_names()
    }

    /// Whether it is complete if `here` of its members are: no other one can come.
    pub fn is_complete(&self, here: usize) -> bool {
        here >= self.members() && !self.is_between_names()
    }

    /// How long a look waits for the others.
    pub fn limit(&self) -> Duration {
        self.0.limit
    }

    /// A number that no other group has while this one exists.
    pub fn id(&self) -> usize {
        Arc::as_ptr(&self.0).addr()
    }

    fn is_between_names(&self) -> bool {
        self.between_names().is_some_and(|until| until > Instant::now())
    }

    fn between_names(&self) -> MutexGuard<'_, Option<Instant>> {
        self.0.between_names.lock().unwrap_or_else(PoisonError::into_inner)
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

    fn ids(groups: &[RenameGroup]) -> Vec<usize> {
        groups.iter().map(RenameGroup::id).collect()
    }

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

    fn waiting(renames: &Renames, path: &str) -> Vec<usize> {
        ids(&renames.that_may_find_what_left(&path.into(), &Ties::default()))
    }

    #[test]
    fn a_path_that_was_left_waits_for_its_file_wherever_it_goes() {
        let renames = Renames::default();
        let path = LibraryPath::from;
        let first = renames.left(&path("a"));
        assert_eq!(waiting(&renames, "a"), ids(&first.awaits), "it has no name yet");
        let at_b = renames.came(&path("b"), first.followed_by.clone());
        assert!(waiting(&renames, "b").is_empty());
        let second = renames.left(&path("b"));
        drop(at_b);
        let at_c = renames.came(&path("c"), second.followed_by);
        assert_eq!(at_c.len(), 2);
        assert_eq!(waiting(&renames, "a"), ids(&first.awaits));
        drop(at_c);
        assert!(waiting(&renames, "a").is_empty() && waiting(&renames, "b").is_empty());
    }

    #[test]
    fn what_is_in_a_directory_goes_where_the_directory_goes() {
        let renames = Renames::default();
        let path = LibraryPath::from;
        let directory = renames.left(&path("d"));
        let at_e = renames.directory_came(&path("e"), directory.followed_by.clone());
        let file = renames.left(&path("e/x"));
        assert_eq!(ids(&file.followed_by)[0], directory.followed_by[0].id());
        assert_eq!(waiting(&renames, "d/x"), ids(&directory.awaits));
        assert!(waiting(&renames, "dd/x").is_empty());
        drop((at_e, file));
    }

    #[test]
    fn a_file_may_have_gone_to_a_directory_that_nobody_has_looked_into() {
        let renames = Renames::default();
        let new = renames.directory_came(&"new".into(), Vec::new());
        let left = renames.left(&"a".into());
        assert_eq!((left.followed_by.len(), left.awaits.len()), (1, 2));
        drop(new);
        assert_eq!(renames.left(&"b".into()).awaits.len(), 1);
    }

    #[test]
    fn a_file_with_a_name_that_nothing_looks_at_is_expected_for_a_while() {
        let renames = Renames::default();
        let path = LibraryPath::from;
        let left = renames.left(&path("a"));
        renames.came_unseen(&path("a.tmp"), &left.followed_by);
        drop(left);
        assert_eq!(waiting(&renames, "a").len(), 1);
        let left = renames.left(&path("a.tmp"));
        let at_b = renames.came(&path("b"), left.followed_by);
        assert_eq!(waiting(&renames, "a").len(), 1);
        drop(at_b);
        assert!(waiting(&renames, "a").is_empty());
        drop(renames.left(&path("x")));
        std::thread::sleep(Renames::BETWEEN_NAMES);
        assert!(waiting(&renames, "x").is_empty());
    }

    #[test]
    fn what_is_renamed_during_a_walk_belongs_to_it() {
        let renames = Renames::default();
        let walk = renames.begin_walk();
        let at_b = renames.came(&"b".into(), renames.left(&"a".into()).followed_by);
        assert_eq!((walk.members(), at_b.len()), (1, 2));
        drop(at_b);
        drop(walk);
        assert_eq!(renames.came(&"b".into(), Vec::new()).len(), 0);
    }

    #[test]
    fn what_left_unseen_may_be_found_by_the_first_walk() {
        let renames = Renames::default();
        let walk = renames.begin_walk_of_unwatched();
        let walking = walk.join();
        assert_eq!(waiting(&renames, "a"), [walk.id()]);
        let mut of_walk = Ties { of_walk: true, ..Ties::default() };
        assert!(renames.that_may_find_what_left(&"a".into(), &of_walk).is_empty());
        of_walk.append(&mut Ties { left_in: vec![walk.clone()], ..Ties::default() });
        assert!(of_walk.left_in.is_empty());
        drop(walking);
        assert!(waiting(&renames, "a").is_empty());
    }

    #[test]
    fn ended_groups_take_no_room() {
        let renames = Renames::default();
        for number in 0..3 * ROOM {
            drop(renames.came(&format!("{number}").as_str().into(), renames.left(&"a".into()).followed_by));
        }
        let register = renames.register();
        assert!(register.came.len() <= ROOM + 1);
    }
}
