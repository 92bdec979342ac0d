//! Changes made while the program was not running, or was killed in the middle.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::thread;
use std::time::{Duration, SystemTime};

use rustix::process::Signal;

use crate::files::retag;
use crate::support::disk::fixtures;
use crate::support::library::{Library, SETTLE};

#[test]
fn all_five_kinds_of_change_are_found_at_the_next_start() {
    let mut library = Library::watched();
    for name in ["changed.mp3", "deleted.mp3", "a/moved.mp3", "renamed.mp3", "same.mp3", "touched.mp3"] {
        library.write(name, name);
    }
    library.wait_until_settled();
    library.stop();

    library.write("created.mp3", "new");
    library.write("changed.mp3", "other");
    fs::remove_file(library.path("deleted.mp3")).unwrap();
    fs::create_dir(library.path("b")).unwrap();
    fs::rename(library.path("a/moved.mp3"), library.path("b/moved.mp3")).unwrap();
    fs::rename(library.path("renamed.mp3"), library.path("other name.mp3")).unwrap();
    library.write("touched.mp3", "touched.mp3");

    let mark = library.mark();
    library.start();
    library.wait_until_settled();
    let published = [
        "created created.mp3",
        "deleted deleted.mp3",
        "modified changed.mp3",
        "moved a/moved.mp3 -> b/moved.mp3",
        "renamed renamed.mp3 -> other name.mp3",
    ];
    assert_eq!(library.published_sorted_since(mark), published);

    library.stop();
    let mark = library.mark();
    assert!(library.scan().hashed_nothing());
    assert_eq!(library.published_since(mark), Vec::<String>::new());
}

#[test]
fn a_renamed_file_whose_writer_closed_it_while_nobody_listened_is_read_by_the_next_start() {
    let mut library = Library::watched();
    library.write("a.mp3", "old content");
    library.wait_until_settled();
    // The write is an event only when the file is closed, and setting the time is none.
    let file = File::options().write(true).open(library.path("a.mp3")).unwrap();
    let modified = file.metadata().unwrap().modified().unwrap();
    file.write_at(b"new", 0).unwrap();
    file.set_modified(modified).unwrap();
    fs::rename(library.path("a.mp3"), library.path("b.mp3")).unwrap();
    library.wait_for("the rename", |consumer| consumer.messages.len() == 2);
    library.stop();
    drop(file);
    let mark = library.mark();
    library.start();
    library.wait_until_settled();
    assert_eq!(library.published_since(mark), ["modified b.mp3"]);
    library.stop();
    assert!(library.scan().hashed_nothing());
}

#[test]
fn a_directory_that_was_moved_meanwhile_is_published_as_moves_and_nothing_is_read_again() {
    let mut library = Library::new();
    for number in 0..50 {
        library.write(format!("artist/{}/{number}.mp3", number % 5), number.to_string());
    }
    // Young files would only be looked at later.
    thread::sleep(SETTLE);
    library.scan();
    let mark = library.mark();
    fs::rename(library.path("artist"), library.path("another")).unwrap();
    fs::rename(library.path("another/3"), library.path("another/a new name")).unwrap();
    let summary = library.scan();
    assert!(summary.hashed_nothing(), "{}", summary.text);
    let published = library.messages_since(mark);
    assert_eq!(published.len(), 50);
    assert!(published.iter().all(|message| message.event_type == "moved"));
    library.wait_until_converged();
}

#[test]
fn no_file_is_called_deleted_while_one_that_may_be_it_is_not_finished() {
    let mut library = Library::new();
    library.write("a/x.mp3", "content");
    library.scan();
    let mark = library.mark();
    fs::rename(library.path("a"), library.path("b")).unwrap();
    // As young as this it must be left alone for a while before it is looked at.
    File::options().write(true).open(library.path("b/x.mp3")).unwrap().set_modified(SystemTime::now()).unwrap();
    library.start();
    library.wait_until_converged();
    assert_eq!(library.published_since(mark), ["moved a/x.mp3 -> b/x.mp3"]);
}

#[test]
fn a_file_that_was_moved_to_another_filesystem_and_back_keeps_its_identity_by_its_content() {
    let mut library = Library::new();
    library.write("a/x.mp3", "content");
    library.scan();
    let mark = library.mark();
    // Another inode, other times.
    fs::create_dir(library.path("b")).unwrap();
    fs::copy(library.path("a/x.mp3"), library.path("b/x.mp3")).unwrap();
    fs::remove_file(library.path("a/x.mp3")).unwrap();
    library.scan();
    assert_eq!(library.published_since(mark), ["moved a/x.mp3 -> b/x.mp3"]);
}

#[test]
fn an_inode_number_that_another_file_got_is_no_move() {
    let mut library = Library::new();
    for number in 0..30 {
        library.write(format!("old {number}.mp3"), format!("old {number}"));
    }
    library.scan();
    let mark = library.mark();
    // The filesystem gives the numbers that become free to the next files.
    for number in 0..30 {
        fs::remove_file(library.path(format!("old {number}.mp3"))).unwrap();
        library.write(format!("new {number}.mp3"), format!("new {number}"));
    }
    // Nearly everything is gone, which is what the brake is for; nobody asked for it here.
    library.set("MASS_DELETE_PERCENT", "100").scan();
    let published = library.messages_since(mark);
    assert_eq!(published.len(), 60);
    assert!(published.iter().all(|message| message.old_path.is_none()), "{:?}", library.published_since(mark));
    library.wait_until_converged();
}

#[test]
fn two_files_with_the_content_of_one_that_vanished_are_not_its_move() {
    let mut library = Library::new();
    for name in ["one.mp3", "two.mp3"] {
        library.write(name, "twins");
    }
    library.scan();
    let mark = library.mark();
    for name in ["one.mp3", "two.mp3"] {
        fs::remove_file(library.path(name)).unwrap();
    }
    library.write("a/three.mp3", "twins");
    library.scan();
    // Which of the two it was nobody knows.
    let published = ["created a/three.mp3", "deleted one.mp3", "deleted two.mp3"];
    assert_eq!(library.published_sorted_since(mark), published);
}

#[test]
fn a_tagger_that_rewrote_in_place_and_moved_meanwhile_gives_moved_then_modified() {
    let mut library = Library::new();
    library.write("a/x.mp3", "title: old");
    library.scan();
    let mark = library.mark();
    retag(&library.path("a/x.mp3"), "title: new");
    fs::create_dir(library.path("b")).unwrap();
    fs::rename(library.path("a/x.mp3"), library.path("b/y.mp3")).unwrap();
    library.scan();
    assert_eq!(library.published_since(mark), ["moved a/x.mp3 -> b/y.mp3", "modified b/y.mp3"]);
}

/// A fixture, or the file that a tagger made of it.
fn fixture(name: &str) -> Vec<u8> {
    fs::read(fixtures().join(name)).unwrap()
}

/// Puts a file in another directory, as a tagger that saves into a new file and removes the old one.
fn save_elsewhere(library: &Library, from: &str, to: &str, retagged: &str) {
    library.write(to, fixture(retagged));
    fs::remove_file(library.path(from)).unwrap();
}

#[test]
fn a_file_that_was_retagged_into_a_new_file_elsewhere_gives_moved_then_modified_by_its_sound() {
    let names = ["mp3/tagged-id3v23.mp3", "flac/tagged-flac.flac", "ogg/tagged-oggenc.ogg", "m4a/tagged-faststart.m4a"];
    for name in names {
        let mut library = Library::new();
        let file = name.split('/').next_back().unwrap();
        library.write(format!("a/{file}"), fixture(name));
        library.write("other.mp3", fixture("mp3/untagged-cbr.mp3"));
        library.scan();
        let mark = library.mark();
        save_elsewhere(&library, &format!("a/{file}"), &format!("b/{file}"), &format!("retagged/mutagen/{name}"));
        library.scan();
        let published = [format!("moved a/{file} -> b/{file}"), format!("modified b/{file}")];
        assert_eq!(library.published_since(mark), published);
        let [moved, modified] = &library.messages_since(mark)[..] else { panic!("two messages") };
        assert!(moved.audio_hash.is_some() && moved.audio_hash == modified.audio_hash);
        assert_ne!(moved.sha256, modified.sha256);
        library.wait_until_converged();
    }
}

#[test]
fn a_retagged_file_is_recognised_by_its_sound_in_the_first_run_too() {
    let mut library = Library::new();
    library.write("a/x.flac", fixture("flac/tagged-flac.flac"));
    library.write("b/other.mp3", "other");
    library.start();
    library.wait_until_settled();
    let mark = library.mark();
    // All of it happens before the program can look.
    library.signal(Signal::STOP);
    save_elsewhere(&library, "a/x.flac", "b/x.flac", "retagged/metaflac/flac/tagged-flac.flac");
    library.signal(Signal::CONT);
    library.wait_until_settled();
    assert_eq!(library.published_since(mark), ["moved a/x.flac -> b/x.flac", "modified b/x.flac"]);
}

#[test]
fn two_files_with_the_sound_of_a_retagged_one_and_a_file_that_is_still_there_are_not_its_move() {
    let mut library = Library::new();
    let [name, retagged] = ["mp3/tagged-lame-vbr.mp3", "retagged/mutagen/mp3/tagged-lame-vbr.mp3"];
    library.write("one.mp3", fixture(name));
    library.write("two.mp3", [fixture(name), b"TAG".to_vec(), vec![b' '; 125]].concat());
    library.write("kept.flac", fixture("flac/tagged-flac.flac"));
    library.scan();
    let mark = library.mark();
    save_elsewhere(&library, "one.mp3", "a/three.mp3", retagged);
    fs::remove_file(library.path("two.mp3")).unwrap();
    library.write("a/kept.flac", fixture("retagged/metaflac/flac/tagged-flac.flac"));
    // It is retagged where it is.
    fs::remove_file(library.path("kept.flac")).unwrap();
    library.write("kept.flac", fixture("retagged/mutagen/flac/tagged-flac.flac"));
    library.scan();
    let published =
        ["created a/kept.flac", "created a/three.mp3", "deleted one.mp3", "deleted two.mp3", "modified kept.flac"];
    assert_eq!(library.published_sorted_since(mark), published);
    library.wait_until_converged();
}

#[test]
fn a_chain_of_names_passed_on_meanwhile_ends_where_the_disk_is() {
    let mut library = Library::new();
    for number in 0..10 {
        library.write(format!("{number}.mp3"), number.to_string());
    }
    library.scan();
    for number in (0..10).rev() {
        let (from, to) = (format!("{number}.mp3"), format!("{}.mp3", number + 1));
        fs::rename(library.path(from), library.path(to)).unwrap();
    }
    library.scan();
    library.wait_until_converged();
}

#[test]
fn a_scan_that_is_killed_anywhere_is_taken_up_by_the_next_start() {
    let mut library = Library::new();
    library.set("BATCH_SIZE", "7").set("MAX_FILES_PER_SECOND", "400");
    for number in 0..400 {
        library.write(format!("{}/{number}.mp3", number % 20), number.to_string());
    }
    for round in 0..6_u64 {
        library.spawn();
        let enough = usize::try_from(round * 40).unwrap();
        library.wait_for("some messages", |consumer| consumer.messages.len() >= enough);
        thread::sleep(Duration::from_millis(round * 7));
        library.kill();
        // The library goes on changing between the lives.
        let directory = format!("{round}");
        fs::rename(library.path(&directory), library.path(format!("moved {round}"))).unwrap();
        library.write(format!("{}/{}.mp3", round + 8, round + 8), format!("changed {round}"));
        fs::remove_file(library.path(format!("19/{}.mp3", 19 + 20 * round))).unwrap();
    }
    library.start();
    library.wait_until_settled();
    assert_eq!(library.files().len(), 394);
}

#[test]
fn a_watch_that_is_killed_in_a_storm_is_taken_up_by_the_next_start() {
    let mut library = Library::new();
    for number in 0..100 {
        library.write(format!("a/{number}.mp3"), number.to_string());
    }
    library.start();
    for round in 0..4_u64 {
        let (from, to) = if round % 2 == 0 { ("a", "b") } else { ("b", "a") };
        fs::create_dir_all(library.path(to)).unwrap();
        thread::scope(|scope| {
            let (source, target) = (library.path(from), library.path(to));
            scope.spawn(move || {
                for number in 0..100 {
                    let name = format!("{number}.mp3");
                    fs::rename(source.join(&name), target.join(&name)).unwrap();
                    if number % 3 == 0 {
                        fs::write(target.join(name), format!("{round} {number}")).unwrap();
                    }
                }
            });
            thread::sleep(Duration::from_millis(5 + round * 40));
            library.kill();
        });
        library.spawn();
    }
    library.wait_until_settled();
}
