//! Single decisions, written as the messages that are published.

mod laws;
mod model;

use std::collections::BTreeSet;

use super::*;
use crate::model::MountId;
use model::{Disk, File, Filesystem, LONG_AGO, NOW, look, retagged, rows_of, touched, track, words};

/// A file on a filesystem that keeps birth times.
fn file(inode: u64, content: u32) -> File {
    let id = u32::try_from(inode).unwrap();
    File { id, filesystem: Filesystem::Births, inode, born: 1, content, mtime: 1, ctime: 1 }
}

fn disk<const N: usize>(files: [(&str, File); N]) -> Disk {
    files.into_iter().map(|(path, file)| (LibraryPath::from(path), file)).collect()
}

fn in_words(decision: &Decision) -> Vec<String> {
    decision.changes.iter().map(|event| words(&event.change)).collect()
}

/// The changes between two disks in one batch, if only the rows of `young` are young.
fn published_with_young(young: &[&str], before: &Disk, after: &Disk) -> Vec<String> {
    let rows = rows_of(before, |path| young.contains(&path.to_string().as_str()));
    let paths: BTreeSet<&LibraryPath> = before.keys().chain(after.keys()).collect();
    let batch: Vec<Observation> = paths.into_iter().map(|path| look(after, &rows, path, false)).collect();
    in_words(&classify(&rows, &batch, NOW))
}

fn published(before: &Disk, after: &Disk) -> Vec<String> {
    published_with_young(&[], before, after)
}

/// The numbered files of an album: for each path, the number of the file that is there.
fn album(files: &[(u64, u32)]) -> Disk {
    let at = |(path, number): &(u64, u32)| (format!("a/{path}.mp3").as_str().into(), file((*number).into(), *number));
    files.iter().map(at).collect()
}

#[test]
fn a_rename_within_a_directory_is_renamed_and_another_one_is_moved() {
    assert_eq!(published(&disk([("a/1", file(1, 1))]), &disk([("a/2", file(1, 1))])), ["renamed a/1 -> a/2"]);
    assert_eq!(published(&disk([("a/1", file(1, 1))]), &disk([("b/1", file(1, 1))])), ["moved a/1 -> b/1"]);
}

#[test]
fn a_move_to_another_filesystem_is_found_by_its_hash() {
    assert_eq!(published(&disk([("a/1", file(1, 1))]), &disk([("b/1", file(9, 1))])), ["moved a/1 -> b/1"]);
}

#[test]
fn a_reused_inode_number_is_no_move() {
    let reused = File { born: 2, ..file(1, 2) };
    assert_eq!(published(&disk([("a/1", file(1, 1))]), &disk([("b/1", reused)])), ["deleted a/1", "created b/1"]);
    let unknown = |file: File| File { filesystem: Filesystem::Inodes, ..file };
    let reused = unknown(File { mtime: 2, ..file(1, 2) });
    assert_eq!(
        published(&disk([("a/1", unknown(file(1, 1)))]), &disk([("b/1", reused)])),
        ["deleted a/1", "created b/1"]
    );
}

#[test]
fn a_file_that_was_renamed_and_retagged_is_renamed_then_modified() {
    let retagged = File { mtime: 7, ctime: 7, ..file(1, 2) };
    assert_eq!(
        published(&disk([("a/1", file(1, 1))]), &disk([("a/2", retagged)])),
        ["renamed a/1 -> a/2", "modified a/2"]
    );
}

#[test]
fn a_file_that_was_saved_with_other_tags_elsewhere_is_moved_then_modified() {
    for filesystem in [Filesystem::Births, Filesystem::Inodes, Filesystem::Neither] {
        let old = File { filesystem, ..file(1, 4) };
        let new = File { filesystem, mtime: 7, ctime: 7, ..file(9, retagged(4)) };
        assert_eq!(
            published(&disk([("a/1", old), ("a/2", file(2, 1))]), &disk([("b/1", new), ("a/2", file(2, 1))])),
            ["moved a/1 -> b/1", "modified b/1"]
        );
    }
}

#[test]
fn a_sound_proves_a_move_only_if_it_is_of_one_missing_file_and_long_enough() {
    let saved = |content| File { mtime: 7, ctime: 7, ..file(9, content) };
    // Two files with the sound are missing.
    let both = disk([("a/1", file(1, 4)), ("a/2", File { ctime: 3, ..file(2, 4) })]);
    assert_eq!(published(&both, &disk([("b/1", saved(5))])), ["deleted a/1", "deleted a/2", "created b/1"]);
    // The file is still there, or a new version of it.
    let one = disk([("a/1", file(1, 4))]);
    assert_eq!(published(&one, &disk([("a/1", file(1, 4)), ("b/1", saved(5))])), ["created b/1"]);
    let new_version = File { mtime: 5, ctime: 5, ..file(8, 5) };
    assert_eq!(published(&one, &disk([("a/1", new_version), ("b/1", saved(5))])), ["modified a/1", "created b/1"]);
    // A moment of silence.
    assert_eq!(published(&disk([("a/1", file(1, 2))]), &disk([("b/1", saved(3))])), ["deleted a/1", "created b/1"]);
    // It replaced a file with the same sound.
    let replaced = disk([("a/1", file(1, 4)), ("b/1", File { ctime: 3, ..file(2, 4) })]);
    assert_eq!(published(&replaced, &disk([("b/1", saved(5))])), ["deleted a/1", "modified b/1"]);
}

#[test]
fn the_same_content_is_better_evidence_than_the_same_sound() {
    let before = disk([("a/1", file(1, 4)), ("a/2", file(2, 5))]);
    let copy = File { mtime: 7, ctime: 7, ..file(9, 5) };
    assert_eq!(published(&before, &disk([("b/1", copy)])), ["deleted a/1", "moved a/2 -> b/1"]);
}

#[test]
fn without_birth_times_size_and_time_prove_that_a_retagged_file_was_moved() {
    let unknown = |file: File| File { filesystem: Filesystem::Inodes, ..file };
    let retagged = unknown(File { ctime: 2, ..file(1, 2) });
    assert_eq!(
        published(&disk([("a/1", unknown(file(1, 1)))]), &disk([("b/1", retagged)])),
        ["moved a/1 -> b/1", "modified b/1"]
    );
}

#[test]
fn a_file_whose_source_row_has_moved_since_the_look_is_examined_again() {
    let after = disk([("c/1", file(1, 1))]);
    let seen = look(&after, &rows_of(&disk([("a/1", file(1, 1))]), |_| false), &"c/1".into(), false);
    // Another look at the same time found the file at a path in between.
    let on_its_way = rows_of(&disk([("b/1", file(1, 1))]), |_| false);
    let decision = classify(&touched(&on_its_way, std::slice::from_ref(&seen)), std::slice::from_ref(&seen), NOW);
    assert_eq!((decision.changes.len(), decision.again), (0, vec!["c/1".into()]));
    // The same if the row of another file is at the former path now.
    let replaced = rows_of(&disk([("a/1", file(2, 2)), ("b/1", file(1, 1))]), |_| false);
    let decision = classify(&touched(&replaced, std::slice::from_ref(&seen)), &[seen], NOW);
    assert_eq!((decision.changes.len(), decision.again), (0, vec!["c/1".into()]));
}

#[test]
fn a_file_that_is_at_its_path_again_was_not_moved_away() {
    for filesystem in [Filesystem::Births, Filesystem::Inodes, Filesystem::Neither] {
        let file = File { filesystem, ..file(1, 1) };
        let rows = rows_of(&disk([("a/1", file)]), |_| false);
        // The file was at its new path when that was examined, and is at its old path again since.
        let moved = look(&disk([("a/2", file)]), &rows, &"a/2".into(), false);
        let retagged = File { content: 2, mtime: 5, ctime: 5, ..file };
        let mut back = vec![File { ctime: 5, ..file }];
        if filesystem == Filesystem::Births {
            // Even with other content.
            back.push(retagged);
        }
        for file in back {
            let back = look(&disk([("a/1", file)]), &rows, &"a/1".into(), false);
            let decision = classify(&rows, &[moved.clone(), back], NOW);
            assert!(in_words(&decision).contains(&"created a/2".to_owned()), "{filesystem:?}: {decision:?}");
            assert!(!in_words(&decision).contains(&"renamed a/1 -> a/2".to_owned()), "{filesystem:?}: {decision:?}");
        }
    }
}

#[test]
fn without_birth_times_a_changed_file_with_the_same_inode_number_is_another_one() {
    let unknown = |file: File| File { filesystem: Filesystem::Inodes, ..file };
    let before = disk([("a/1", unknown(file(1, 1)))]);
    let after = disk([("a/1", unknown(File { mtime: 5, ..file(1, 2) })), ("b/1", unknown(file(7, 1)))]);
    assert_eq!(published(&before, &after), ["moved a/1 -> b/1", "created a/1"]);
}

#[test]
fn the_target_of_a_move_is_deleted_first() {
    assert_eq!(
        published(&disk([("a/1", file(1, 1)), ("b/1", file(2, 2))]), &disk([("b/1", file(1, 1))])),
        ["deleted b/1", "moved a/1 -> b/1"]
    );
}

#[test]
fn a_renumbered_album_is_renamed_from_the_free_end() {
    assert_eq!(
        published(&album(&[(1, 1), (2, 2), (3, 3), (4, 4)]), &album(&[(2, 1), (3, 2), (4, 3), (5, 4)])),
        [
            "renamed a/4.mp3 -> a/5.mp3",
            "renamed a/3.mp3 -> a/4.mp3",
            "renamed a/2.mp3 -> a/3.mp3",
            "renamed a/1.mp3 -> a/2.mp3"
        ]
    );
    assert_eq!(
        published(&album(&[(1, 1), (2, 2), (3, 3), (4, 4)]), &album(&[(1, 2), (2, 3), (3, 4)])),
        ["deleted a/1.mp3", "renamed a/2.mp3 -> a/1.mp3", "renamed a/3.mp3 -> a/2.mp3", "renamed a/4.mp3 -> a/3.mp3"]
    );
}

#[test]
fn a_swap_goes_through_a_placeholder_name() {
    assert_eq!(
        published(&album(&[(1, 1), (2, 2)]), &album(&[(1, 2), (2, 1)])),
        [
            "renamed a/1.mp3 -> a/.file-watcher-1.mp3",
            "renamed a/2.mp3 -> a/1.mp3",
            "renamed a/.file-watcher-1.mp3 -> a/2.mp3"
        ]
    );
}

#[test]
fn a_rotation_across_directories_has_its_placeholder_in_the_directory_of_its_first_file() {
    let before = disk([("a/1.mp3", file(1, 1)), ("b/2.flac", file(2, 2)), ("c/3.mp3", file(3, 3))]);
    let after = disk([("a/1.mp3", file(3, 3)), ("b/2.flac", file(1, 1)), ("c/3.mp3", file(2, 2))]);
    assert_eq!(
        published(&before, &after),
        [
            "renamed a/1.mp3 -> a/.file-watcher-1.mp3",
            "moved c/3.mp3 -> a/1.mp3",
            "moved b/2.flac -> c/3.mp3",
            "moved a/.file-watcher-1.mp3 -> b/2.flac"
        ]
    );
}

#[test]
fn a_placeholder_name_is_one_that_no_row_of_the_batch_has() {
    let taken = ("a/.file-watcher-1.mp3".into(), file(9, 9));
    let with_taken = |files| album(files).into_iter().chain([taken.clone()]).collect();
    assert_eq!(
        published(&with_taken(&[(1, 1), (2, 2)]), &with_taken(&[(1, 2), (2, 1)]))[0],
        "renamed a/1.mp3 -> a/.file-watcher-2.mp3"
    );
}

#[test]
fn files_without_stable_inode_numbers_keep_their_rows_by_content() {
    let unstable = |inode, content| File { filesystem: Filesystem::Neither, ..file(inode, content) };
    let before = disk([("a/1.mp3", unstable(1, 1)), ("a/2.mp3", unstable(2, 2))]);
    let after = disk([("a/1.mp3", unstable(7, 2)), ("a/2.mp3", unstable(8, 1))]);
    assert_eq!(published(&before, &after).len(), 3);
    assert_eq!(published(&before, &before), [""; 0]);
}

#[test]
fn contents_that_are_swapped_in_place_are_modified() {
    let rewritten = |inode, content| File { mtime: 5, ctime: 5, ..file(inode, content) };
    assert_eq!(
        published(
            &disk([("a/1", file(1, 1)), ("a/2", file(2, 2))]),
            &disk([("a/1", rewritten(1, 2)), ("a/2", rewritten(2, 1))])
        ),
        ["modified a/1", "modified a/2"]
    );
}

#[test]
fn a_content_that_is_copied_over_another_file_comes_after_the_change_of_its_source() {
    let rewritten = |inode, content| File { mtime: 5, ctime: 5, ..file(inode, content) };
    assert_eq!(
        published(
            &disk([("a/1", file(1, 1)), ("a/2", file(2, 2)), ("a/3", file(3, 3))]),
            &disk([("a/1", rewritten(1, 2)), ("a/2", rewritten(2, 3)), ("a/3", rewritten(3, 4))])
        ),
        ["modified a/3", "modified a/2", "modified a/1"]
    );
}

#[test]
fn a_new_file_at_the_path_of_a_moved_one_is_created() {
    assert_eq!(
        published(&album(&[(1, 1)]), &album(&[(1, 5), (2, 1)])),
        ["renamed a/1.mp3 -> a/2.mp3", "created a/1.mp3"]
    );
}

#[test]
fn a_new_file_at_the_path_of_a_deleted_one_is_modified() {
    assert_eq!(published(&album(&[(1, 1)]), &album(&[(1, 5)])), ["modified a/1.mp3"]);
}

#[test]
fn a_young_file_that_is_renamed_over_an_old_one_is_a_new_version_of_it() {
    let (before, after) = (album(&[(1, 1), (2, 2)]), album(&[(2, 1)]));
    assert_eq!(published_with_young(&["a/1.mp3"], &before, &after), ["deleted a/1.mp3", "modified a/2.mp3"]);
    assert_eq!(
        published_with_young(&["a/2.mp3"], &before, &after),
        ["deleted a/2.mp3", "renamed a/1.mp3 -> a/2.mp3"],
        "the age of the file that is replaced says nothing"
    );
}

#[test]
fn a_file_is_young_for_a_minute_after_its_first_message() {
    let (before, after) = (album(&[(1, 1), (2, 2)]), album(&[(2, 1)]));
    let mut rows = rows_of(&before, |_| false);
    let batch = ["a/1.mp3", "a/2.mp3"].map(|path| look(&after, &rows, &path.into(), false));
    for (seconds, changes) in [(59, "modified a/2.mp3"), (60, "renamed a/1.mp3 -> a/2.mp3")] {
        rows.get_mut(&LibraryPath::from("a/1.mp3")).unwrap().first_published = NOW - seconds;
        assert_eq!(in_words(&classify(&rows, &batch, NOW))[1], changes, "{seconds}");
    }
}

#[test]
fn a_temporary_file_that_is_renamed_over_its_original_is_a_new_version_of_it() {
    let before = disk([("a/2.mp3", file(1, 1)), ("a/2.temp.mp3", file(2, 2))]);
    let after = disk([("a/2.mp3", file(2, 2))]);
    assert_eq!(published(&before, &after), ["deleted a/2.temp.mp3", "modified a/2.mp3"]);
    let rows = rows_of(&before, |path| path.to_string() == "a/2.temp.mp3");
    let looks = |may_trust| ["a/2.mp3", "a/2.temp.mp3"].map(|path| look(&after, &rows, &path.into(), may_trust));
    let updates = classify(&rows, &looks(false), NOW).updates;
    let put = updates.iter().find_map(|update| match update {
        RowUpdate::Put(row) => Some(row),
        RowUpdate::Remove(_) => None,
    });
    let row = put.unwrap();
    assert_eq!((&*row.track, row.stat.inode, row.first_published), (&track(2), 2, LONG_AGO), "the row stays");
    // A modified message has the content of the file, so the file is read before the decision.
    let unread = classify(&rows, &looks(true), NOW);
    assert_eq!(unread, Decision { again: vec!["a/2.mp3".into()], ..Decision::default() });
}

#[test]
fn nothing_is_decided_about_a_row_before_the_decision_about_its_file() {
    // 2 is moved over 3, possibly to save it. 1 is moved to 2 and replaced by a new file.
    let before = album(&[(1, 1), (2, 2), (3, 3)]);
    let after = album(&[(1, 4), (2, 1), (3, 2)]);
    let rows = rows_of(&before, |_| true);
    let batch: Vec<Observation> =
        before.keys().map(|path| look(&after, &rows, path, path.to_string() == "a/3.mp3")).collect();
    let decision = classify(&rows, &batch, NOW);
    assert_eq!(in_words(&decision), Vec::<String>::new());
    assert_eq!(decision.again, before.into_keys().collect::<Vec<_>>());
}

#[test]
fn a_save_without_a_change_only_updates_the_row() {
    let before = disk([("a/2.mp3", file(1, 1)), ("a/2.temp.mp3", file(2, 1))]);
    let after = disk([("a/2.mp3", file(2, 1))]);
    assert_eq!(published(&before, &after), ["deleted a/2.temp.mp3"]);
    let rows = rows_of(&before, |_| false);
    let batch = ["a/2.mp3", "a/2.temp.mp3"].map(|path| look(&after, &rows, &path.into(), false));
    let updates = classify(&rows, &batch, NOW).updates;
    assert!(updates.iter().any(|update| matches!(update, RowUpdate::Put(row) if row.stat.inode == 2)), "{updates:?}");
}

#[test]
fn a_young_file_keeps_its_row_if_the_old_one_was_moved() {
    let young = ["a/1.mp3", "a/2.mp3"];
    assert_eq!(
        published_with_young(&young, &album(&[(1, 1), (2, 2)]), &album(&[(2, 1), (3, 2)])),
        ["renamed a/2.mp3 -> a/3.mp3", "renamed a/1.mp3 -> a/2.mp3"]
    );
}

/// Three files moved by one place. The look at the first has an older candidate than the path that the row of its file has.
#[test]
fn a_look_that_began_before_the_row_of_its_file_came_to_its_path_does_not_lose_the_file() {
    let disk = album(&[(58, 1), (59, 2), (60, 3)]);
    for is_young in [true, false] {
        let rows = rows_of(&album(&[(59, 1), (60, 2), (61, 3)]), |_| is_young);
        let looks = |is_trusted| {
            let stale = |path: &LibraryPath| {
                let mut look = look(&disk, &rows, path, false);
                if let (Seen::File { content, candidates, .. }, "a/58.mp3") = (&mut look.seen, &*path.to_string()) {
                    *candidates = vec!["a/60.mp3".into()];
                    if is_trusted {
                        *content = Content::MovedFrom("a/60.mp3".into());
                    }
                }
                look
            };
            disk.keys().map(stale).collect::<Vec<_>>()
        };
        let moved = ["renamed a/59.mp3 -> a/58.mp3", "renamed a/60.mp3 -> a/59.mp3", "renamed a/61.mp3 -> a/60.mp3"];
        assert_eq!(in_words(&classify(&rows, &looks(false), NOW)), moved);
        // A look that has not read its file is made again, and the others wait for it.
        let decision = classify(&rows, &looks(true), NOW);
        assert_eq!((in_words(&decision), decision.again.len()), (vec![], 3));
    }
}

#[test]
fn of_two_missing_files_with_the_same_content_neither_is_taken_for_the_source() {
    assert_eq!(
        published(&disk([("a/1", file(1, 1)), ("a/2", file(2, 1))]), &disk([("b/1", file(9, 1))])),
        ["deleted a/1", "deleted a/2", "created b/1"]
    );
}

#[test]
fn two_new_files_with_the_same_content_are_both_created() {
    assert_eq!(published(&disk([]), &disk([("a/1", file(1, 1)), ("a/2", file(2, 1))])), ["created a/1", "created a/2"]);
}

#[test]
fn a_rewrite_with_the_same_content_publishes_nothing() {
    let rewritten = File { mtime: 5, ctime: 5, ..file(2, 1) };
    assert_eq!(published(&disk([("a/1", file(1, 1))]), &disk([("a/1", rewritten)])), [""; 0]);
}

#[test]
fn at_a_forgotten_path_a_file_is_created_a_missing_one_deleted_and_a_move_there_comes_after_the_delete() {
    let at = |path: &str, seen| Observation { path: path.into(), origin: Origin::Scan, seen };
    let file = file(1, 1);
    let read = |candidates| Seen::File { stat: file.stat(), content: Content::Read(track(1).into()), candidates };
    let mut rows: Rows = ["here.mp3", "gone.mp3", "onto.mp3"]
        .map(|path| (path.into(), Row::forgotten(path.into(), MountId::default())))
        .into_iter()
        .collect();
    let from = LibraryPath::from("from.mp3");
    // However young it is: there is no known content to modify.
    let row = Row { path: from.clone(), stat: file.stat(), track: track(1).into(), first_published: NOW };
    rows.insert(from.clone(), row);
    let looks = [
        at("here.mp3", read(vec![])),
        at("gone.mp3", Seen::Missing),
        at("onto.mp3", read(vec![from.clone()])),
        at("from.mp3", Seen::Missing),
    ];
    let decision = classify(&rows, &looks, NOW);
    assert_eq!(
        in_words(&decision),
        ["deleted gone.mp3", "deleted onto.mp3", "renamed from.mp3 -> onto.mp3", "created here.mp3"]
    );
    assert!(decision.updates.iter().all(|update| !matches!(update, RowUpdate::Put(row) if row.is_forgotten())));
}
