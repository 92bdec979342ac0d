//! The renames that are going on: which groups follow a path, and which may find its file.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::model::{LibraryPath, Member, RenameGroup, Ties, WeakRenameGroup};

/// How long a look waits for the file that left its path.
const LIMIT: Duration = Duration::from_secs(3);

/// How long a file whose name went away, or that has a name of no audio file, is expected under another name.
const BETWEEN_NAMES: Duration = Duration::from_millis(200);

/// Paths that are kept without looking for ended groups.
const ROOM: usize = 1024;

/// The register of the renames that are going on. Groups end when nothing refers to them any more.
#[derive(Debug, Default)]
pub struct Renames {
    /// What left a path.
    left: HashMap<LibraryPath, Vec<WeakRenameGroup>>,
    /// What came to a path.
    came: HashMap<LibraryPath, Vec<WeakRenameGroup>>,
    /// Walks that are going on: they may have missed a file that is renamed meanwhile.
    walks: Vec<WeakRenameGroup>,
    /// Those of them that look for what happened while nothing was watched.
    unwatched: Vec<WeakRenameGroup>,
    /// Groups of new directories without a walk yet: what was moved there before they were watched has no event.
    new_directories: Vec<WeakRenameGroup>,
    /// The last of them, to which a directory belongs that comes before the next walk begins.
    next_new_directories: Option<WeakRenameGroup>,
    between_names: BetweenNames,
    /// How many paths there may be before the ended groups are removed.
    room: usize,
}

/// Files between two names. Each counts as a member of its groups until it has a name again or its time is over.
#[derive(Debug, Default)]
struct BetweenNames {
    /// By the number of the group.
    members: HashMap<usize, (Instant, Arc<Member>)>,
    /// The same in the order of time, with entries that are out of date.
    by_time: VecDeque<(Instant, usize)>,
}

impl BetweenNames {
    fn add(&mut self, group: &RenameGroup, until: Instant) {
        self.members.insert(group.id(), (until, group.join()));
        self.by_time.push_back((until, group.id()));
    }

    fn remove(&mut self, groups: &[RenameGroup]) {
        for group in groups {
            self.members.remove(&group.id());
        }
        let Self { members, by_time } = self;
        let is_out_of_date =
            |(until, group): &mut (Instant, usize)| members.get(group).is_none_or(|(latest, _)| latest != until);
        while by_time.pop_front_if(is_out_of_date).is_some() {}
    }

    fn expire(&mut self, now: Instant) {
        while let Some((until, group)) = self.by_time.pop_front_if(|(until, _)| *until <= now) {
            if self.members.get(&group).is_some_and(|(latest, _)| *latest == until) {
                self.members.remove(&group);
            }
        }
    }
}

/// What went away under one name.
#[derive(Clone, Debug)]
pub struct Left {
    /// The groups that follow it, in which others wait for it.
    pub followed_by: Vec<RenameGroup>,
    /// The groups that may find it.
    pub awaits: Vec<RenameGroup>,
}

impl Renames {
    /// The name `path` went away. If it belongs to a bundle, its file may have any name of the bundle.
    pub fn left(&mut self, path: &LibraryPath, bundle: Option<&RenameGroup>, now: Instant) -> Left {
        let group = RenameGroup::new(LIMIT);
        let mut followed_by = alive(&self.came, path);
        followed_by.push(group.clone());
        self.are_between_names(&followed_by, now);
        let mut awaits = open(&mut self.new_directories);
        awaits.push(group);
        awaits.extend(bundle.cloned());
        self.left.entry(path.clone()).or_default().extend(awaits.iter().map(RenameGroup::downgrade));
        self.make_room();
        Left { followed_by, awaits }
    }

    /// A group for renames of which it is not known in which order they happened, nor how often.
    pub fn begin_bundle(&self) -> RenameGroup {
        RenameGroup::new(LIMIT)
    }

    /// What `groups` follow, or something of unknown origin, has the name `path` now. What looks there is to carry
    /// the members.
    pub fn came(&mut self, path: &LibraryPath, mut groups: Vec<RenameGroup>) -> Vec<Arc<Member>> {
        // A walk that nothing waits for does not matter any more. Its members would keep it alive as long as more come.
        groups.extend(self.walks.iter().filter_map(WeakRenameGroup::upgrade_if_awaited));
        groups.extend(upgrade(&self.unwatched));
        let members = groups.iter().map(RenameGroup::join).collect();
        self.have_come(path, &groups);
        members
    }

    /// A directory has the name `path` now, and `groups` follow what is in it. The walk of it is to carry the members.
    pub fn directory_came(&mut self, path: &LibraryPath, groups: Vec<RenameGroup>) -> Vec<Arc<Member>> {
        let mut members = self.came(path, groups);
        // One group for all that the next walk may find: with one for each, what leaves a path would wait for each.
        let known = self.next_new_directories.as_ref().and_then(WeakRenameGroup::upgrade);
        let group = known.unwrap_or_else(|| {
            let group = RenameGroup::new(LIMIT);
            self.new_directories.push(group.downgrade());
            self.next_new_directories = Some(group.downgrade());
            group
        });
        members.push(group.join());
        members
    }

    /// What `groups` follow has the name `path` now, at which nothing looks.
    pub fn came_unseen(&mut self, path: &LibraryPath, groups: &[RenameGroup], now: Instant) {
        self.have_come(path, groups);
        self.are_between_names(groups, now);
    }

    /// A walk begins. Whatever is renamed until its group ends is a member of it.
    pub fn begin_walk(&mut self) -> RenameGroup {
        self.next_new_directories = None;
        let group = RenameGroup::new(LIMIT);
        self.walks.retain(|walk| walk.upgrade_if_awaited().is_some());
        self.walks.push(group.downgrade());
        group
    }

    /// A walk begins that looks for what happened while nothing was watched. Its group ends with the last look.
    pub fn begin_walk_of_unwatched_time(&mut self) -> RenameGroup {
        let group = RenameGroup::of_unwatched_time(LIMIT);
        self.unwatched.retain(WeakRenameGroup::is_alive);
        self.unwatched.push(group.downgrade());
        group
    }

    /// The groups that may find what left `path`, by its own name or by that of a directory above it; `ties` are
    /// those of the look that missed it.
    pub fn that_may_find_what_left(&mut self, path: &LibraryPath, ties: &Ties) -> Vec<RenameGroup> {
        let mut groups = if self.left.is_empty() { Vec::new() } else { alive(&self.left, path) };
        groups.retain(RenameGroup::is_open);
        if !ties.of_walk {
            groups.append(&mut open(&mut self.unwatched));
        }
        groups
    }

    /// When a file that is between two names is given up next.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.between_names.by_time.front().map(|(until, _)| *until)
    }

    /// Gives up the files that have been between two names for too long.
    pub fn tick(&mut self, now: Instant) {
        self.between_names.expire(now);
    }

    fn have_come(&mut self, path: &LibraryPath, groups: &[RenameGroup]) {
        self.between_names.remove(groups);
        self.came.entry(path.clone()).or_default().extend(groups.iter().map(RenameGroup::downgrade));
        self.make_room();
    }

    fn are_between_names(&mut self, groups: &[RenameGroup], now: Instant) {
        self.tick(now);
        for group in groups {
            self.between_names.add(group, now + BETWEEN_NAMES);
        }
    }

    fn make_room(&mut self) {
        if self.left.len() + self.came.len() > self.room.max(ROOM) {
            for paths in [&mut self.left, &mut self.came] {
                paths.retain(|_, groups| {
                    groups.retain(WeakRenameGroup::is_alive);
                    !groups.is_empty()
                });
            }
            self.room = 2 * (self.left.len() + self.came.len());
        }
    }
}

/// The groups at `path` and at the directories above it that have not ended.
fn alive(paths: &HashMap<LibraryPath, Vec<WeakRenameGroup>>, path: &LibraryPath) -> Vec<RenameGroup> {
    path.at_and_above().filter_map(|path| paths.get(&path)).flat_map(|groups| upgrade(groups)).collect()
}

/// The groups that are open; those that are not are removed.
fn open(groups: &mut Vec<WeakRenameGroup>) -> Vec<RenameGroup> {
    let mut open = Vec::new();
    groups.retain(|group| {
        let group = group.upgrade().filter(RenameGroup::is_open);
        open.extend(group.clone());
        group.is_some()
    });
    open
}

fn upgrade(groups: &[WeakRenameGroup]) -> impl Iterator<Item = RenameGroup> {
    groups.iter().filter_map(WeakRenameGroup::upgrade)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(groups: &[RenameGroup]) -> Vec<usize> {
        groups.iter().map(RenameGroup::id).collect()
    }

    fn waiting(renames: &mut Renames, path: &str) -> Vec<usize> {
        ids(&renames.that_may_find_what_left(&path.into(), &Ties::default()))
    }

    #[test]
    fn a_path_that_was_left_waits_for_its_file_wherever_it_goes() {
        let now = Instant::now();
        let mut renames = Renames::default();
        let path = LibraryPath::from;
        let first = renames.left(&path("a"), None, now);
        assert_eq!(waiting(&mut renames, "a"), ids(&first.awaits), "it has no name yet");
        let at_b = renames.came(&path("b"), first.followed_by.clone());
        assert!(waiting(&mut renames, "b").is_empty());
        let second = renames.left(&path("b"), None, now);
        drop(at_b);
        let at_c = renames.came(&path("c"), second.followed_by);
        assert_eq!(at_c.len(), 2);
        assert_eq!(waiting(&mut renames, "a"), ids(&first.awaits));
        drop(at_c);
        assert!(waiting(&mut renames, "a").is_empty() && waiting(&mut renames, "b").is_empty());
    }

    #[test]
    fn what_is_in_a_directory_goes_where_the_directory_goes() {
        let now = Instant::now();
        let mut renames = Renames::default();
        let path = LibraryPath::from;
        let directory = renames.left(&path("d"), None, now);
        let at_e = renames.directory_came(&path("e"), directory.followed_by.clone());
        let file = renames.left(&path("e/x"), None, now);
        assert_eq!(ids(&file.followed_by)[0], directory.followed_by[0].id());
        assert_eq!(waiting(&mut renames, "d/x"), ids(&directory.awaits));
        assert!(waiting(&mut renames, "dd/x").is_empty());
        drop((at_e, file));
    }

    #[test]
    fn a_path_of_a_bundle_waits_for_whatever_came_to_another_path_of_it() {
        let now = Instant::now();
        let mut renames = Renames::default();
        let path = LibraryPath::from;
        let bundle = renames.begin_bundle();
        let first = renames.left(&path("a"), Some(&bundle), now);
        let at_b = renames.came(&path("b"), vec![first.followed_by[0].clone(), bundle.clone()]);
        let second = renames.left(&path("x"), Some(&bundle), now);
        assert_eq!(waiting(&mut renames, "x"), ids(&second.awaits));
        assert!(second.awaits.iter().any(|group| group.id() == bundle.id()));
        renames.tick(now + BETWEEN_NAMES);
        drop((second, bundle));
        assert_eq!(waiting(&mut renames, "x").len(), 1, "the file of x may be at b");
        drop(at_b);
        assert!(waiting(&mut renames, "x").is_empty());
    }

    #[test]
    fn a_file_may_have_gone_to_a_directory_without_a_walk_yet() {
        let now = Instant::now();
        let mut renames = Renames::default();
        let new = renames.directory_came(&"new".into(), Vec::new());
        let left = renames.left(&"a".into(), None, now);
        assert_eq!((left.followed_by.len(), left.awaits.len()), (1, 2));
        let another = renames.directory_came(&"another".into(), Vec::new());
        assert_eq!(renames.left(&"b".into(), None, now).awaits.len(), 2, "one walk finds what is in both");
        let _walk = renames.begin_walk();
        let later = renames.directory_came(&"later".into(), Vec::new());
        assert_eq!(renames.left(&"c".into(), None, now).awaits.len(), 3);
        drop((new, another, later));
        assert_eq!(renames.left(&"d".into(), None, now).awaits.len(), 1);
    }

    #[test]
    fn a_file_with_a_name_that_nothing_looks_at_is_expected_for_a_while() {
        let mut now = Instant::now();
        let mut renames = Renames::default();
        let path = LibraryPath::from;
        let left = renames.left(&path("a"), None, now);
        renames.came_unseen(&path("a.tmp"), &left.followed_by, now);
        drop(left);
        assert_eq!(waiting(&mut renames, "a").len(), 1);
        let left = renames.left(&path("a.tmp"), None, now);
        let at_b = renames.came(&path("b"), left.followed_by);
        assert_eq!(waiting(&mut renames, "a").len(), 1);
        drop(at_b);
        assert!(waiting(&mut renames, "a").is_empty());
        drop(renames.left(&path("x"), None, now));
        assert_eq!((waiting(&mut renames, "x").len(), renames.next_deadline()), (1, Some(now + BETWEEN_NAMES)));
        now += BETWEEN_NAMES;
        renames.tick(now);
        assert!(waiting(&mut renames, "x").is_empty() && renames.next_deadline().is_none());
    }

    #[test]
    fn what_is_renamed_during_a_walk_belongs_to_it() {
        let now = Instant::now();
        let mut renames = Renames::default();
        let walk = renames.begin_walk();
        let left = renames.left(&"a".into(), None, now);
        let at_b = renames.came(&"b".into(), left.followed_by);
        assert_eq!((walk.members(), at_b.len()), (1, 2));
        let waits = walk.clone();
        drop(walk);
        assert_eq!(renames.came(&"b".into(), Vec::new()).len(), 1);
        drop(waits);
        assert_eq!(renames.came(&"b".into(), Vec::new()).len(), 0, "only members refer to it");
        drop(at_b);
    }

    #[test]
    fn what_left_unseen_may_be_found_by_the_first_walk() {
        let mut renames = Renames::default();
        let walk = renames.begin_walk_of_unwatched_time();
        let walking = walk.join();
        assert_eq!(waiting(&mut renames, "a"), [walk.id()]);
        let of_walk = Ties { of_walk: true, ..Ties::default() };
        assert!(renames.that_may_find_what_left(&"a".into(), &of_walk).is_empty());
        drop(walking);
        assert!(waiting(&mut renames, "a").is_empty());
    }

    #[test]
    fn ended_groups_take_no_room() {
        let mut now = Instant::now();
        let mut renames = Renames::default();
        for number in 0..3 * ROOM {
            now += BETWEEN_NAMES;
            let left = renames.left(&"a".into(), None, now);
            drop(renames.came(&number.to_string().as_str().into(), left.followed_by));
        }
        assert!(renames.came.len() <= ROOM + 1);
    }
}
