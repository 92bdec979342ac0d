use proptest::prelude::*;

use super::*;
use crate::model::{FileStat, Fingerprint, Metadata, MountId};

/// A file of the model's disk. Sizes are all alike, so that an inode that is used again may well
/// come with the size and time of the file before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct File {
    inode: u64,
    content: u8,
    mtime: i64,
    ctime: i64,
}

/// The time of every commit: long after the rows were first published.
const NOW: i64 = 1_000_000;

type Disk = BTreeMap<LibraryPath, File>;
type Library = BTreeMap<LibraryPath, [u8; 32]>;

const PATHS: [&str; 8] = ["a/1.mp3", "a/2.mp3", "a/3.mp3", "b/1.mp3", "b/2.mp3", "c/1.mp3", "c/d/1.mp3", "r.mp3"];

fn track(content: u8) -> Track {
    let fingerprint = Fingerprint { sha256: [content; 32], xxh128: u128::from(content) };
    Track { fingerprint, metadata: Metadata::default() }
}

fn stat(file: &File) -> FileStat {
    FileStat {
        inode: file.inode,
        size: 100,
        mtime_ns: file.mtime.into(),
        ctime_ns: file.ctime.into(),
        ..FileStat::default()
    }
}

fn rows_of(disk: &Disk) -> Rows {
    let row = |(path, file): (&LibraryPath, &File)| {
        (path.clone(), Row { path: path.clone(), stat: stat(file), track: track(file.content), first_published: NOW })
    };
    disk.iter().map(row).collect()
}

fn contents(disk: &Disk) -> Library {
    disk.iter().map(|(path, file)| (path.clone(), [file.content; 32])).collect()
}

/// What an honest look says: candidates are rows whose path is gone from the disk, by inode first.
fn look(disk: &Disk, rows: &Rows, path: &LibraryPath, may_trust: bool) -> Observation {
    let seen = disk.get(path).map_or(Seen::Missing, |file| {
        let gone = |row: &&Row| !disk.contains_key(&row.path);
        let by_inode = rows.values().filter(gone).filter(|row| row.stat.same_file(&stat(file)));
        let by_content: Vec<&Row> =
            rows.values().filter(gone).filter(|row| row.track.fingerprint.sha256 == [file.content; 32]).collect();
        let unique = if by_content.len() == 1 { by_content } else { Vec::new() };
        let candidates: Vec<LibraryPath> = by_inode.clone().chain(unique).map(|row| row.path.clone()).collect();
        // A stat that agrees in every part is trusted, and in this model as on a real disk such a file is unchanged.
        let trusted = by_inode.clone().find(|row| {
            may_trust && row.stat == stat(file) && row.track == track(file.content) && !rows.contains_key(path)
        });
        let content = match trusted {
            Some(row) => Content::MovedFrom(row.path.clone()),
            None => Content::Read(track(file.content)),
        };
        Seen::File { stat: stat(file), content, candidates }
    });
    Observation { path: path.clone(), origin: Origin::Scan, seen }
}

/// A consumer that trusts nothing: every change must fit what it was told before.
fn replay(library: &mut Library, changes: &[FileEvent]) {
    for FileEvent { change, .. } in changes {
        match change {
            Change::Created(row) => {
                let before = library.insert(row.path.clone(), row.track.fingerprint.sha256);
                assert_eq!(before, None, "created a path that was known: {change:?}");
            }
            Change::Modified(row) => {
                let before = library.insert(row.path.clone(), row.track.fingerprint.sha256);
                assert!(before.is_some(), "modified a path that was not known: {change:?}");
                assert_ne!(before, Some(row.track.fingerprint.sha256), "modified to the same: {change:?}");
            }
            Change::Deleted(path) => {
                assert!(library.remove(path).is_some(), "deleted a path that was not known: {change:?}");
            }
            Change::Moved { from, row } => {
                let carried = library.remove(from);
                assert_eq!(carried, Some(row.track.fingerprint.sha256), "moved with another hash: {change:?}");
                let overwritten = library.insert(row.path.clone(), row.track.fingerprint.sha256);
                assert_eq!(overwritten, None, "moved onto a path that was known: {change:?}");
            }
        }
    }
}

fn apply(rows: &mut Rows, updates: Vec<RowUpdate>) {
    for update in updates {
        match update {
            RowUpdate::Put(row) => drop(rows.insert(row.path.clone(), row)),
            RowUpdate::Remove(path) => drop(rows.remove(&path)),
        }
    }
}

fn rank(change: &Change) -> u8 {
    match change {
        Change::Deleted(_) => 0,
        Change::Moved { .. } => 1,
        Change::Modified(_) => 2,
        Change::Created(_) => 3,
    }
}

fn touched(rows: &Rows, batch: &[Observation]) -> Rows {
    paths_touched(batch).into_iter().filter_map(|path| Some((path.clone(), rows.get(path)?.clone()))).collect()
}

fn any_disk() -> impl Strategy<Value = Disk> {
    let file = (1..6_u64, 0..4_u8, 0..2_i64, 0..2_i64).prop_map(|(inode, content, mtime, ctime)| File {
        inode,
        content,
        mtime,
        ctime,
    });
    prop::collection::btree_map(prop::sample::select(&PATHS[..]).prop_map(LibraryPath::from), file, 0..7)
}

/// What people do to libraries, in one step; sequences of these make moves, swaps, cycles and overwrites likely.
#[derive(Clone, Debug)]
enum Step {
    Rename(usize, usize),
    Swap(usize, usize),
    Rewrite(usize, u8),
    Replace(usize, u64, u8),
    Remove(usize),
}

fn any_step() -> impl Strategy<Value = Step> {
    let path = 0..PATHS.len();
    prop_oneof![
        4 => (path.clone(), path.clone()).prop_map(|(from, to)| Step::Rename(from, to)),
        1 => (path.clone(), path.clone()).prop_map(|(one, other)| Step::Swap(one, other)),
        2 => (path.clone(), 0..4_u8).prop_map(|(at, content)| Step::Rewrite(at, content)),
        2 => (path.clone(), 1..6_u64, 0..4_u8).prop_map(|(at, inode, content)| Step::Replace(at, inode, content)),
        1 => path.prop_map(Step::Remove),
    ]
}

fn take_step(disk: &mut Disk, step: &Step, now: i64) {
    let at = |index: usize| LibraryPath::from(PATHS[index]);
    match *step {
        Step::Rename(from, to) => {
            if let Some(file) = disk.remove(&at(from)) {
                disk.insert(at(to), file);
            }
        }
        Step::Swap(one, other) => {
            let (first, second) = (disk.remove(&at(one)), disk.remove(&at(other)));
            disk.extend(second.map(|file| (at(one), file)));
            disk.extend(first.map(|file| (at(other), file)));
        }
        Step::Rewrite(index, content) => {
            if let Some(file) = disk.get_mut(&at(index)) {
                *file = File { content, mtime: now, ctime: now, ..*file };
            }
        }
        Step::Replace(index, inode, content) => {
            disk.insert(at(index), File { inode, content, mtime: 0, ctime: now });
        }
        Step::Remove(index) => {
            disk.remove(&at(index));
        }
    }
}

fn any_change() -> impl Strategy<Value = (Disk, Disk)> {
    let by_steps = (any_disk(), prop::collection::vec(any_step(), 1..8)).prop_map(|(before, steps)| {
        let mut after = before.clone();
        for (now, step) in steps.iter().enumerate() {
            take_step(&mut after, step, 10 + i64::try_from(now).unwrap());
        }
        (before, after)
    });
    prop_oneof![2 => by_steps, 1 => (any_disk(), any_disk())]
}

#[test]
fn of_a_forgotten_path_a_file_is_created_nothing_is_deleted_and_a_move_onto_it_is_preceded_by_that() {
    let at = |path: &str, seen| Observation { path: path.into(), origin: Origin::Scan, seen };
    let file = File { inode: 1, content: 1, mtime: 1, ctime: 1 };
    let read = |candidates| Seen::File { stat: stat(&file), content: Content::Read(track(1)), candidates };
    let mut rows: Rows = ["here.mp3", "gone.mp3", "onto.mp3"]
        .map(|path| (path.into(), Row::forgotten(path.into(), MountId::default())))
        .into_iter()
        .collect();
    let from = LibraryPath::from("from.mp3");
    rows.insert(from.clone(), Row { path: from.clone(), stat: stat(&file), track: track(1), first_published: 0 });
    let looks = [
        at("here.mp3", read(vec![])),
        at("gone.mp3", Seen::Missing),
        at("onto.mp3", read(vec![from.clone()])),
        at("from.mp3", Seen::Missing),
    ];
    let decision = classify(&rows, &looks, NOW);
    let told: Vec<_> =
        decision.changes.iter().map(|it| (it.change.event_type(), it.change.path().to_string())).collect();
    let told: Vec<_> = told.iter().map(|(event_type, path)| (*event_type, path.as_str())).collect();
    assert_eq!(
        told,
        [("deleted", "gone.mp3"), ("deleted", "onto.mp3"), ("renamed", "onto.mp3"), ("created", "here.mp3")]
    );
    assert!(decision.updates.iter().all(|update| !matches!(update, RowUpdate::Put(row) if row.is_forgotten())));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4096, ..ProptestConfig::default() })]

    /// The law, for any before and after, however the looks are ordered and batched.
    #[test]
    fn replaying_the_changes_on_the_before_gives_the_after(
        (before, after) in any_change(),
        order in Just(PATHS.to_vec()).prop_shuffle(),
        batch_size in 1..9_usize,
        may_trust: bool,
    ) {
        let mut rows = rows_of(&before);
        let mut library = contents(&before);
        let mut pending: Vec<(LibraryPath, bool)> =
            order.into_iter().map(|path| (LibraryPath::from(path), may_trust)).collect();
        let mut rounds = 0;
        while !pending.is_empty() {
            rounds += 1;
            prop_assert!(rounds < 40, "looks again for ever");
            let batch: Vec<Observation> = pending
                .drain(..batch_size.min(pending.len()))
                .map(|(path, may_trust)| look(&after, &rows, &path, may_trust))
                .collect();
            let decision = classify(&touched(&rows, &batch), &batch, NOW);
            prop_assert!(decision.changes.is_sorted_by_key(|event| rank(&event.change)));
            replay(&mut library, &decision.changes);
            apply(&mut rows, decision.updates);
            pending.extend(decision.again.into_iter().map(|path| (path, false)));
        }
        prop_assert_eq!(&library, &contents(&after));
        // The index follows: each row is what the disk has, so a next look says nothing.
        prop_assert_eq!(&rows, &rows_of(&after));
    }

    /// A second look at an unchanged library says nothing and changes nothing.
    #[test]
    fn an_unchanged_library_is_silent(disk in any_disk()) {
        let rows = rows_of(&disk);
        let batch: Vec<Observation> =
            PATHS.iter().map(|path| look(&disk, &rows, &LibraryPath::from(*path), true)).collect();
        prop_assert_eq!(classify(&rows, &batch, NOW), Decision::default());
    }
}

fn file(inode: u64, content: u8) -> File {
    File { inode, content, mtime: 1, ctime: 1 }
}

fn disk<const N: usize>(files: [(&str, File); N]) -> Disk {
    files.into_iter().map(|(path, file)| (LibraryPath::from(path), file)).collect()
}

/// The changes between two disks in one batch, in the words of messages.
fn told(before: &Disk, after: &Disk) -> Vec<String> {
    let rows = rows_of(before);
    let paths: BTreeSet<&LibraryPath> = before.keys().chain(after.keys()).collect();
    let batch: Vec<Observation> = paths.into_iter().map(|path| look(after, &rows, path, false)).collect();
    let word = |event: FileEvent| match &event.change {
        Change::Moved { from, row } => format!("{} {from} -> {}", event.change.event_type(), row.path),
        change => format!("{} {}", change.event_type(), change.path()),
    };
    classify(&rows, &batch, NOW).changes.into_iter().map(word).collect()
}

#[test]
fn a_rename_in_its_directory_is_renamed_and_elsewhere_moved() {
    assert_eq!(told(&disk([("a/1", file(1, 1))]), &disk([("a/2", file(1, 1))])), ["renamed a/1 -> a/2"]);
    assert_eq!(told(&disk([("a/1", file(1, 1))]), &disk([("b/1", file(1, 1))])), ["moved a/1 -> b/1"]);
}

#[test]
fn a_move_to_another_filesystem_is_found_by_its_hash() {
    assert_eq!(told(&disk([("a/1", file(1, 1))]), &disk([("b/1", file(9, 1))])), ["moved a/1 -> b/1"]);
}

#[test]
fn an_inode_that_is_used_again_is_no_move() {
    let reused = File { mtime: 2, ..file(1, 2) };
    assert_eq!(told(&disk([("a/1", file(1, 1))]), &disk([("b/1", reused)])), ["deleted a/1", "created b/1"]);
}

#[test]
fn a_retagged_file_with_its_time_restored_is_moved_then_modified() {
    let retagged = File { ctime: 2, ..file(1, 2) };
    assert_eq!(told(&disk([("a/1", file(1, 1))]), &disk([("b/1", retagged)])), ["moved a/1 -> b/1", "modified b/1"]);
}

#[test]
fn a_file_whose_source_has_moved_on_since_it_was_looked_at_is_looked_at_again() {
    let (before, after) = (disk([("a/1", file(1, 1))]), disk([("c/1", file(1, 1))]));
    let seen = look(&after, &rows_of(&before), &"c/1".into(), false);
    // Another look, which was in flight with this one, found the file on its way here.
    let decision =
        classify(&touched(&rows_of(&disk([("b/1", file(1, 1))])), std::slice::from_ref(&seen)), &[seen], NOW);
    assert_eq!((decision.changes.len(), decision.again), (0, vec!["c/1".into()]));
}

#[test]
fn a_path_that_is_moved_onto_is_deleted_first() {
    assert_eq!(
        told(&disk([("a/1", file(1, 1)), ("b/1", file(2, 2))]), &disk([("b/1", file(1, 1))])),
        ["deleted b/1", "moved a/1 -> b/1"]
    );
}

#[test]
fn swaps_and_cycles_are_modified() {
    assert_eq!(
        told(
            &disk([("a/1", file(1, 1)), ("a/2", file(2, 2)), ("a/3", file(3, 3))]),
            &disk([("a/1", file(2, 2)), ("a/2", file(3, 3)), ("a/3", file(1, 1))])
        ),
        ["modified a/1", "modified a/2", "modified a/3"]
    );
}

#[test]
fn two_vanished_files_with_one_content_are_not_guessed_between() {
    assert_eq!(
        told(&disk([("a/1", file(1, 1)), ("a/2", file(2, 1))]), &disk([("b/1", file(9, 1))])),
        ["deleted a/1", "deleted a/2", "created b/1"]
    );
}

#[test]
fn two_files_with_equal_content_are_two_created() {
    assert_eq!(told(&disk([]), &disk([("a/1", file(1, 1)), ("a/2", file(2, 1))])), ["created a/1", "created a/2"]);
}

#[test]
fn a_rewrite_with_the_same_content_says_nothing() {
    assert_eq!(
        told(&disk([("a/1", file(1, 1))]), &disk([("a/1", File { inode: 2, mtime: 5, ctime: 5, content: 1 })])),
        [""; 0]
    );
}
