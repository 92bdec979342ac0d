//! The laws of every decision, whatever happened on disk.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::super::*;
use super::model::{
    Consumer, Disk, File, Filesystem, LONG_AGO, NOW, apply, contents, look, retagged, rows_of, touched, track, words,
};

const PATHS: [&str; 9] =
    ["a/1.mp3", "a/1.tmp.mp3", "a/2.mp3", "a/3.mp3", "a/4.mp3", "b/1.mp3", "b/2.mp3", "c/d/1.mp3", "r.mp3"];

/// One change by a user. Sequences of these make moves, swaps, cycles and overwrites likely.
#[derive(Clone, Debug)]
enum Step {
    Create(usize, Filesystem, u32),
    Rename(usize, usize),
    Swap(usize, usize),
    Rotate(usize, usize, usize),
    /// Each of these paths is renamed to the next one, the last one first.
    ShiftUp(usize, usize),
    /// Each of these paths is renamed to the one before it, the first one first.
    ShiftDown(usize, usize),
    /// Written in place.
    Rewrite(usize, u32),
    /// Written in place, with the modification time restored.
    Retag(usize, u32),
    /// Replaced by a new file.
    Save(usize, u32),
    /// The first one gets the content of the second, which gets new content. Both are written in place.
    HandOn(usize, usize, u32),
    /// Replaced by a copy of another file.
    Copy(usize, usize),
    /// Saved with other tags at another path, and removed.
    SaveElsewhere(usize, usize),
    Link(usize, usize),
    Remove(usize),
}

fn any_step() -> impl Strategy<Value = Step> {
    let path = || 0..PATHS.len();
    let content = || 0..4_u32;
    prop_oneof![
        2 => (path(), any_filesystem(), content()).prop_map(|(at, on, content)| Step::Create(at, on, content)),
        4 => (path(), path()).prop_map(|(from, to)| Step::Rename(from, to)),
        2 => (path(), path()).prop_map(|(one, other)| Step::Swap(one, other)),
        2 => (path(), path(), path()).prop_map(|(one, two, three)| Step::Rotate(one, two, three)),
        2 => (path(), path()).prop_map(|(from, to)| Step::ShiftUp(from, to)),
        2 => (path(), path()).prop_map(|(from, to)| Step::ShiftDown(from, to)),
        2 => (path(), content()).prop_map(|(at, content)| Step::Rewrite(at, content)),
        1 => (path(), content()).prop_map(|(at, content)| Step::Retag(at, content)),
        2 => (path(), content()).prop_map(|(at, content)| Step::Save(at, content)),
        1 => (path(), path(), content()).prop_map(|(at, from, content)| Step::HandOn(at, from, content)),
        1 => (path(), path()).prop_map(|(from, to)| Step::Copy(from, to)),
        2 => (path(), path()).prop_map(|(from, to)| Step::SaveElsewhere(from, to)),
        1 => (path(), path()).prop_map(|(from, to)| Step::Link(from, to)),
        2 => path().prop_map(Step::Remove),
    ]
}

fn any_filesystem() -> impl Strategy<Value = Filesystem> + Clone {
    prop_oneof![4 => Just(Filesystem::Births), 2 => Just(Filesystem::Inodes), 1 => Just(Filesystem::Neither)]
}

/// A disk that gives the lowest free inode number to each new file, as ext4 does.
#[derive(Clone, Debug, Default)]
struct Machine {
    disk: Disk,
    now: i64,
    files: u32,
    /// Whether no two paths ever have the same content.
    is_unique: bool,
}

impl Machine {
    fn take(&mut self, step: &Step) {
        self.now += 1;
        let at = |index: usize| LibraryPath::from(PATHS[index]);
        match *step {
            Step::Create(path, on, content) => {
                if !self.disk.contains_key(&at(path)) {
                    self.create(at(path), on, content);
                }
            }
            Step::Rename(from, to) => self.rename(&at(from), &at(to)),
            Step::Swap(one, other) => self.rotate(&[at(one), at(other)]),
            Step::Rotate(one, two, three) => self.rotate(&[at(one), at(two), at(three)]),
            Step::ShiftUp(from, to) => (from..to).rev().for_each(|path| self.rename(&at(path), &at(path + 1))),
            Step::ShiftDown(from, to) => (from..to).for_each(|path| self.rename(&at(path + 1), &at(path))),
            Step::Rewrite(path, content) => self.rewrite(&at(path), content, false),
            Step::Retag(path, content) => self.rewrite(&at(path), content, true),
            Step::Save(path, content) => {
                if let Some(old) = self.disk.remove(&at(path)) {
                    self.create(at(path), old.filesystem, content);
                }
            }
            Step::HandOn(path, from, content) => {
                let handed = self.disk.get(&at(from)).map(|file| file.content);
                if let (Some(handed), Some(old)) = (handed, self.disk.get(&at(path)).copied())
                    && self.disk[&at(from)].id != old.id
                {
                    self.rewrite(&at(from), content, false);
                    self.change(old.id, |file| file.content = handed);
                    let now = self.now;
                    self.change(old.id, |file| (file.mtime, file.ctime) = (now, now));
                }
            }
            Step::Copy(from, to) => {
                if let Some(file) = self.disk.get(&at(from)).copied().filter(|_| from != to) {
                    self.create(at(to), file.filesystem, file.content);
                    self.change(self.files, |copy| copy.content = file.content);
                    if self.is_unique {
                        self.disk.remove(&at(from));
                    }
                }
            }
            Step::SaveElsewhere(from, to) => {
                if let Some(file) = self.disk.get(&at(from)).copied().filter(|_| from != to) {
                    self.create(at(to), file.filesystem, file.content);
                    self.change(self.files, |saved| saved.content = retagged(file.content));
                    self.disk.remove(&at(from));
                }
            }
            Step::Link(from, to) => {
                if let Some(file) = self.disk.get(&at(from)).copied()
                    && !self.disk.contains_key(&at(to))
                    && !self.is_unique
                {
                    self.disk.insert(at(to), file);
                    let now = self.now;
                    self.change(file.id, |file| file.ctime = now);
                }
            }
            Step::Remove(path) => drop(self.disk.remove(&at(path))),
        }
    }

    /// Changes a file under all its names.
    fn change(&mut self, id: u32, change: impl Fn(&mut File)) {
        self.disk.values_mut().filter(|file| file.id == id).for_each(change);
    }

    fn create(&mut self, path: LibraryPath, filesystem: Filesystem, content: u32) {
        self.files += 1;
        let used: BTreeSet<u64> =
            self.disk.values().filter(|file| file.filesystem == filesystem).map(|file| file.inode).collect();
        let inode = (1..=u64::MAX).find(|inode| !used.contains(inode)).unwrap();
        let (id, born, content) = (self.files, self.now, self.content(content));
        // A coarse clock: files that are created one after the other often have the same time.
        let mtime = self.now / 4;
        self.disk.insert(path, File { id, filesystem, inode, born, content, mtime, ctime: self.now });
    }

    fn content(&self, drawn: u32) -> u32 {
        if self.is_unique { 1_000 + 4 * u32::try_from(self.now).unwrap() } else { drawn }
    }

    fn rename(&mut self, from: &LibraryPath, to: &LibraryPath) {
        let (Some(file), target) = (self.disk.get(from).copied(), self.disk.get(to)) else { return };
        // POSIX: a rename between two names of one file does nothing.
        if target.is_none_or(|target| target.id != file.id) {
            self.disk.remove(from);
            self.disk.insert(to.clone(), file);
            let now = self.now;
            self.change(file.id, |file| file.ctime = now);
        }
    }

    fn rotate(&mut self, paths: &[LibraryPath]) {
        let different: BTreeSet<&LibraryPath> = paths.iter().collect();
        if different.len() < paths.len() || paths.iter().any(|path| !self.disk.contains_key(path)) {
            return;
        }
        let files: Vec<File> = paths.iter().map(|path| self.disk[path]).collect();
        for (path, file) in paths.iter().zip(files.iter().cycle().skip(1)) {
            self.disk.insert(path.clone(), File { ctime: self.now, ..*file });
        }
    }

    fn rewrite(&mut self, path: &LibraryPath, content: u32, keeps_time: bool) {
        if let Some(file) = self.disk.get(path).copied() {
            let (now, content) = (self.now, self.content(content));
            self.change(file.id, |file| {
                (file.content, file.ctime) = (content, now);
                file.mtime = if keeps_time { file.mtime } else { now };
            });
        }
    }
}

/// A disk before and after changes by a user.
fn any_change(is_unique: bool) -> impl Strategy<Value = (Disk, Disk)> {
    let files = prop::collection::vec((0..PATHS.len(), any_filesystem(), 0..4_u32), 0..8);
    let steps = prop::collection::vec(any_step(), 0..4);
    (files, steps, prop::collection::vec(any_step(), 1..8)).prop_map(move |(files, earlier, steps)| {
        let mut machine = Machine { is_unique, ..Machine::default() };
        for (path, on, content) in files {
            machine.take(&Step::Create(path, on, content));
        }
        for step in &earlier {
            machine.take(step);
        }
        let before = machine.disk.clone();
        for step in &steps {
            machine.take(step);
        }
        (before, machine.disk)
    })
}

/// Any two disks, even impossible ones: rows may be from different times, and inode numbers may be wrong.
fn any_two_disks() -> impl Strategy<Value = (Disk, Disk)> {
    let file = (1..6_u64, any_filesystem(), 0..2_i64, 0..4_u32, 0..2_i64, 0..2_i64);
    let disk = move || {
        let files = prop::collection::btree_map(0..PATHS.len(), file.clone(), 0..7);
        files.prop_map(|files| {
            let made = files.into_iter().map(|(path, (inode, filesystem, born, content, mtime, ctime))| {
                let id = u32::try_from(path).unwrap();
                (LibraryPath::from(PATHS[path]), File { id, filesystem, inode, born, content, mtime, ctime })
            });
            made.collect::<Disk>()
        })
    };
    (disk(), disk())
}

fn any_young() -> impl Strategy<Value = BTreeSet<LibraryPath>> {
    prop::sample::subsequence(PATHS.to_vec(), 0..PATHS.len())
        .prop_map(|paths| paths.into_iter().map(LibraryPath::from).collect())
}

/// Looks at every path.
fn look_at_all(disk: &Disk, rows: &Rows, may_trust: bool) -> Vec<Observation> {
    PATHS.iter().map(|path| look(disk, rows, &LibraryPath::from(*path), may_trust)).collect()
}

fn rank(change: &Change) -> u8 {
    match change {
        Change::Deleted(_) => 0,
        Change::Moved { .. } => 1,
        Change::Modified(_) => 2,
        Change::Created(_) => 3,
    }
}

/// The rows without the time of their first message.
fn undated(rows: &Rows) -> Rows {
    let undated = |row: &Row| Row { first_published: LONG_AGO, ..row.clone() };
    rows.iter().map(|(path, row)| (path.clone(), undated(row))).collect()
}

/// The names that each file has.
fn names(disk: &Disk) -> BTreeMap<u32, BTreeSet<&LibraryPath>> {
    let mut names: BTreeMap<u32, BTreeSet<&LibraryPath>> = BTreeMap::new();
    for (path, file) in disk {
        names.entry(file.id).or_default().insert(path);
    }
    names
}

fn are_distinct(disk: &Disk) -> bool {
    let contents: BTreeSet<u32> = disk.values().map(|file| file.content).collect();
    contents.len() == disk.len()
}

/// Whether the contents of paths that keep their rows were exchanged in a cycle, so that no order is right.
fn are_permuted_in_place(before: &Disk, changes: &[FileEvent]) -> bool {
    let mut known = contents(before);
    let mut becomes: BTreeMap<[u8; 32], [u8; 32]> = BTreeMap::new();
    for event in changes {
        match &event.change {
            Change::Deleted(path) => drop(known.remove(path)),
            Change::Moved { from, row } => {
                known.remove(from);
                known.insert(row.path.clone(), row.track.fingerprint);
            }
            Change::Modified(row) => {
                becomes.insert(known[&row.path].sha256, row.track.fingerprint.sha256);
            }
            Change::Created(_) => {}
        }
    }
    becomes.keys().any(|first| {
        let mut next = becomes[first];
        for _ in 0..becomes.len() {
            if next == *first {
                return true;
            }
            let Some(after) = becomes.get(&next) else { return false };
            next = *after;
        }
        false
    })
}

/// Whether the row of a file was deleted because the file was saved over another one.
fn was_saved_over(id: u32, before: &Disk, after: &Disk, rows: &Rows, changes: &[FileEvent]) -> bool {
    let (had, has) = (names(before), names(after));
    let is_deleted = |path: &LibraryPath| changes.iter().any(|event| event.change == Change::Deleted(path.clone()));
    let is_moved = |path: &LibraryPath| {
        changes.iter().any(|event| matches!(&event.change, Change::Moved { from, .. } if from == path))
    };
    had[&id].iter().any(|source| {
        is_deleted(source)
            && has[&id].iter().any(|target| {
                let is_young = rows[*source].first_published > LONG_AGO;
                let is_temporary = temporary::is_temporary_name_of(source.name(), target.name());
                before.contains_key(*target) && !is_moved(target) && (is_young || is_temporary)
            })
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4096, ..ProptestConfig::default() })]

    /// For any before and after, however the looks are ordered and batched, and however old they are.
    #[test]
    fn replaying_the_changes_on_the_before_gives_the_after(
        (before, after) in prop_oneof![3 => any_change(false), 1 => any_two_disks()],
        young in any_young(),
        order in Just(PATHS.to_vec()).prop_shuffle(),
        batch_size in 1..=PATHS.len(),
        looks_are_old: bool,
        may_trust: bool,
    ) {
        let mut rows = rows_of(&before, |path| young.contains(path));
        let mut consumer = Consumer::of(&before, false);
        let old_rows = rows.clone();
        // Each path with the rows that the look at it relies on, if it is made before the batch begins.
        let mut pending: Vec<(LibraryPath, bool, bool)> =
            order.into_iter().map(|path| (LibraryPath::from(path), may_trust, looks_are_old)).collect();
        let mut rounds = 0;
        while !pending.is_empty() {
            rounds += 1;
            prop_assert!(rounds < 60, "looks again forever");
            let batch: Vec<Observation> = pending
                .drain(..batch_size.min(pending.len()))
                .map(|(path, may_trust, is_old)| {
                    look(&after, if is_old { &old_rows } else { &rows }, &path, may_trust)
                })
                .collect();
            let decision = classify(&touched(&rows, &batch), &batch, NOW);
            prop_assert!(decision.changes.is_sorted_by_key(|event| rank(&event.change)));
            let replayed = consumer.replay(&decision.changes);
            prop_assert!(replayed.is_ok(), "{replayed:?}");
            apply(&mut rows, decision.updates);
            pending.extend(decision.again.into_iter().map(|path| (path, false, false)));
            // As after every commit: paths that lost their row are examined if there is a file.
            let lost = decision.changes.into_iter().filter_map(|event| match event.change {
                Change::Moved { from: path, .. } | Change::Deleted(path) => Some(path),
                _ => None,
            });
            let lost = lost.filter(|path| after.contains_key(path) && !rows.contains_key(path));
            pending.extend(lost.map(|path| (path, false, false)));
        }
        prop_assert_eq!(consumer.contents(), contents(&after));
        // The index agrees with the disk, so a further look finds no change.
        prop_assert_eq!(undated(&rows), rows_of(&after, |_| false));
    }

    /// A look may be older than another one of its batch, and both states may never have existed at the same time.
    #[test]
    fn looks_from_different_times_do_no_harm(
        (before, between) in any_change(false),
        later in prop::collection::vec(any_step(), 1..5),
        young in any_young(),
        is_overtaken in prop::collection::vec(any::<bool>(), PATHS.len()),
        may_trust: bool,
    ) {
        let files = between.values().map(|file| file.id).max().unwrap_or(0);
        let mut machine = Machine { disk: between.clone(), now: 100, files, is_unique: false };
        for step in &later {
            machine.take(step);
        }
        let after = machine.disk;
        let mut rows = rows_of(&before, |path| young.contains(path));
        let mut consumer = Consumer::of(&before, false);
        let looks = PATHS.iter().zip(is_overtaken);
        let mixed: Vec<Observation> = looks
            .map(|(path, is_overtaken)| {
                look(if is_overtaken { &between } else { &after }, &rows, &LibraryPath::from(*path), may_trust)
            })
            .collect();
        let decision = classify(&rows, &mixed, NOW);
        let replayed = consumer.replay(&decision.changes);
        prop_assert!(replayed.is_ok(), "{replayed:?}");
        apply(&mut rows, decision.updates);
        // Whatever was decided, consumers agree with the disk after a look at every path.
        let decision = classify(&rows, &look_at_all(&after, &rows, false), NOW);
        let replayed = consumer.replay(&decision.changes);
        prop_assert!(replayed.is_ok(), "{replayed:?}");
        apply(&mut rows, decision.updates);
        prop_assert_eq!(consumer.contents(), contents(&after));
        prop_assert_eq!(undated(&rows), rows_of(&after, |_| false));
    }

    /// A batch of everything is complete without the checks after the commit.
    #[test]
    fn a_batch_of_everything_needs_no_further_look(
        (before, after) in prop_oneof![3 => any_change(false), 1 => any_two_disks()],
        young in any_young(),
        may_trust: bool,
    ) {
        let mut rows = rows_of(&before, |path| young.contains(path));
        let mut consumer = Consumer::of(&before, false);
        let batch = look_at_all(&after, &rows, may_trust);
        let decision = classify(&rows, &batch, NOW);
        let replayed = consumer.replay(&decision.changes);
        prop_assert!(replayed.is_ok(), "{replayed:?}");
        apply(&mut rows, decision.updates);
        // Two names of one file may both be taken for the new name of one that it lost.
        if decision.again.is_empty() {
            prop_assert_eq!(consumer.contents(), contents(&after));
            prop_assert_eq!(undated(&rows), rows_of(&after, |_| false));
        } else {
            prop_assert!(may_trust);
        }
    }

    /// Each row of a file stays with one of the file's names, if the filesystem distinguishes files.
    #[test]
    fn a_file_keeps_its_row_through_a_batch_of_everything(
        (before, after) in any_change(false),
        young in any_young(),
    ) {
        let rows = rows_of(&before, |path| young.contains(path));
        let mut consumer = Consumer::of(&before, false);
        let changes = classify(&rows, &look_at_all(&after, &rows, false), NOW).changes;
        prop_assert!(consumer.replay(&changes).is_ok());
        let (had, has) = (names(&before), names(&after));
        for (id, has) in &has {
            let has_identities = has.iter().all(|path| after[*path].filesystem == Filesystem::Births);
            let Some(had) = had.get(id).filter(|_| has_identities) else { continue };
            let kept = has.iter().filter(|path| consumer.rows[**path].1 == Some(*id)).count();
            let is_kept = kept == had.len().min(has.len());
            prop_assert!(is_kept || was_saved_over(*id, &before, &after, &rows, &changes), "file {id}: {changes:?}");
        }
    }

    /// If contents are unique before and after, they are unique for consumers after every change between.
    #[test]
    fn a_consumer_with_unique_hashes_meets_no_conflict(
        (before, after) in any_change(true),
        young in any_young(),
        may_trust: bool,
    ) {
        prop_assert!(are_distinct(&before) && are_distinct(&after));
        let rows = rows_of(&before, |path| young.contains(path));
        let changes = classify(&rows, &look_at_all(&after, &rows, may_trust), NOW).changes;
        prop_assume!(!are_permuted_in_place(&before, &changes));
        let replayed = Consumer::of(&before, true).replay(&changes);
        prop_assert!(replayed.is_ok(), "{replayed:?} in {changes:?}");
    }

    /// A file that was saved with other tags into a new file elsewhere is found by its sound, whatever else is there.
    #[test]
    fn a_file_that_was_retagged_and_moved_keeps_its_row(
        (before, _) in any_change(true),
        from in any::<prop::sample::Index>(),
        to in any::<prop::sample::Index>(),
        young in any_young(),
        may_trust: bool,
    ) {
        let free: Vec<&str> = PATHS.into_iter().filter(|path| !before.contains_key(&(*path).into())).collect();
        prop_assume!(!before.is_empty() && !free.is_empty());
        let (from, file) = before.iter().nth(from.index(before.len())).unwrap();
        let to: LibraryPath = free[to.index(free.len())].into();
        let mut after = before.clone();
        after.remove(from);
        let saved = File { id: 999, inode: 999, born: 999, mtime: 999, ctime: 999, ..*file };
        after.insert(to.clone(), File { content: retagged(file.content), ..saved });
        let rows = rows_of(&before, |path| young.contains(path));
        let changes = classify(&rows, &look_at_all(&after, &rows, may_trust), NOW).changes;
        let word = if from.parent() == to.parent() { "renamed" } else { "moved" };
        let published: Vec<String> = changes.iter().map(|event| words(&event.change)).collect();
        prop_assert_eq!(published, [format!("{word} {from} -> {to}"), format!("modified {to}")]);
    }

    /// A cycle begins with a placeholder name, and nothing else is published until that is gone.
    #[test]
    fn the_messages_of_a_cycle_are_consecutive((before, after) in any_change(false), may_trust: bool) {
        let rows = rows_of(&before, |_| false);
        let decision = classify(&rows, &look_at_all(&after, &rows, may_trust), NOW);
        let is_passing = |path: &LibraryPath| path.name().starts_with(b".file-watcher-");
        let mut passing: Option<(LibraryPath, LibraryPath)> = None;
        for event in &decision.changes {
            let Change::Moved { from, row } = &event.change else {
                prop_assert!(passing.is_none() && !is_passing(event.change.path()));
                continue;
            };
            passing = match passing.take() {
                None if is_passing(&row.path) => {
                    prop_assert_eq!(from.parent(), row.path.parent());
                    prop_assert_eq!(from.extension(), row.path.extension());
                    Some((row.path.clone(), from.clone()))
                }
                None => None,
                Some((name, free)) => {
                    prop_assert_eq!(&row.path, &free);
                    (*from != name).then(|| (name, from.clone()))
                }
            };
        }
        prop_assert!(passing.is_none());
        prop_assert!(decision.updates.iter().all(|update| !is_passing(update.path())));
    }

    /// A new file has the time of its commit, a move keeps the time, and so does a change of the content.
    #[test]
    fn the_time_of_the_first_message_follows_the_row(
        (before, after) in any_change(false),
        young in any_young(),
    ) {
        let mut rows = rows_of(&before, |path| young.contains(path));
        let mut dates: BTreeMap<LibraryPath, i64> =
            rows.iter().map(|(path, row)| (path.clone(), row.first_published)).collect();
        let decision = classify(&rows, &look_at_all(&after, &rows, false), NOW);
        for event in &decision.changes {
            match &event.change {
                Change::Created(row) => drop(dates.insert(row.path.clone(), NOW)),
                Change::Modified(_) => {}
                Change::Deleted(path) => drop(dates.remove(path)),
                Change::Moved { from, row } => {
                    let date = dates.remove(from).unwrap();
                    dates.insert(row.path.clone(), date);
                }
            }
        }
        apply(&mut rows, decision.updates);
        let dated: BTreeMap<LibraryPath, i64> =
            rows.into_iter().map(|(path, row)| (path, row.first_published)).collect();
        prop_assert_eq!(dated, dates);
    }

    /// A second look at an unchanged library publishes nothing and changes nothing.
    #[test]
    fn an_unchanged_library_is_silent((disk, _) in prop_oneof![any_change(false), any_two_disks()], may_trust: bool) {
        let rows = rows_of(&disk, |_| false);
        prop_assert_eq!(classify(&rows, &look_at_all(&disk, &rows, may_trust), NOW), Decision::default());
    }

    /// Each path gets the content of the next one, and the looks come in any order.
    #[test]
    fn contents_that_are_handed_on_are_published_from_the_free_end(order in Just((0..9).collect()).prop_shuffle()) {
        let order: Vec<u32> = order;
        let modified = order.iter().map(|number| Modified {
            old: track(*number).fingerprint,
            row: Row {
                path: LibraryPath::from(number.to_string().as_str()),
                stat: FileStat::default(),
                track: track(number + 1).into(),
                first_published: LONG_AGO,
            },
            origin: Origin::Scan,
        });
        let published = order::old_holder_first(modified.collect());
        let paths: Vec<String> = published.iter().map(|event| event.change.path().to_string()).collect();
        prop_assert_eq!(paths, ["8", "7", "6", "5", "4", "3", "2", "1", "0"]);
    }
}
