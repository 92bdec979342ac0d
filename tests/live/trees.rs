//! Directories that come, go and change their names, with everything in them.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use rustix::process::Signal;

use crate::files::Pace;
use crate::support::disk::{run, write};
use crate::support::library::{Library, Mark, SETTLE};

/// Writes one file of the library and one that is not audio in a tight loop while `work` is done.
fn while_others_write(library: &Library, work: impl FnOnce()) {
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut number = 0_u64;
            while !done.load(Ordering::Relaxed) {
                number += 1;
                library.write("busy.mp3", number.to_string());
                library.write("busy.txt", number.to_string());
            }
        });
        work();
        done.store(true, Ordering::Relaxed);
    });
}

/// A tree of `directories` with a file in each, three levels deep.
fn make_tree(at: &Path, directories: usize) {
    for number in 0..directories {
        let below = format!("{}/{}/{number}/x.mp3", number % 7, number % 31);
        write(&at.join(&below), format!("{} {below}", at.display()));
    }
}

#[test]
fn a_tree_that_is_made_and_filled_at_once_is_found_to_its_last_file() {
    let library = Library::watched();
    while_others_write(&library, || make_tree(&library.path("made"), 500));
    library.wait_until_converged();
    assert!(library.files().len() == 501);
}

#[test]
fn a_tree_that_is_copied_or_unpacked_is_found_to_its_last_file() {
    let library = Library::watched();
    make_tree(&library.outside("tree"), 300);
    let archive = library.outside("tree.tar");
    run("tar", &[&"-C", &library.outside("tree"), &"-cf", &archive, &"."]);
    fs::create_dir(library.path("unpacked")).unwrap();
    while_others_write(&library, || {
        run("cp", &[&"-r", &library.outside("tree"), &library.path("copied")]);
        run("tar", &[&"-C", &library.path("unpacked"), &"-xf", &archive]);
    });
    library.wait_until_converged();
    assert!(library.files().len() == 601);
}

#[test]
fn a_tree_that_is_moved_in_and_out_comes_and_goes_whole() {
    let library = Library::watched();
    make_tree(&library.outside("tree"), 60);
    fs::rename(library.outside("tree"), library.path("tree")).unwrap();
    library.wait_until_converged();
    assert_eq!(library.files().len(), 60);

    let mark = library.mark();
    fs::rename(library.path("tree"), library.outside("tree")).unwrap();
    library.wait_until_settled();
    assert_eq!(library.published_since(mark).len(), 60);

    // Changes in it outside of the library are not published; what it brings back is.
    let mark = library.mark();
    fs::write(library.outside("tree/0/0/0/x.mp3"), "changed outside").unwrap();
    thread::sleep(SETTLE);
    fs::rename(library.outside("tree"), library.path("again")).unwrap();
    library.wait_until_settled();
    assert_eq!(library.published_since(mark).len(), 60);
}

#[test]
fn a_renamed_directory_moves_its_files_and_none_is_deleted() {
    let library = Library::watched();
    make_tree(&library.path("before"), 60);
    library.wait_until_settled();
    let mark = library.mark();
    fs::rename(library.path("before"), library.path("after")).unwrap();
    library.wait_until_settled();
    let published = library.messages_since(mark);
    assert_eq!(published.len(), 60);
    for message in published {
        assert_eq!(message.event_type, "moved", "{}", message.short());
        assert_eq!(message.old_path, Some(Path::new("before").join(message.path.strip_prefix("after").unwrap())));
    }
}

#[test]
fn a_directory_that_is_renamed_and_written_to_at_once_is_followed() {
    let library = Library::watched();
    make_tree(&library.path("0"), 20);
    library.wait_until_converged();
    for number in 0..40 {
        let (from, to) = (library.path(number.to_string()), library.path((number + 1).to_string()));
        fs::rename(from, &to).unwrap();
        fs::write(to.join("0/0/0/x.mp3"), format!("written {number}")).unwrap();
        write(&to.join(format!("new {number}/y.mp3")), number.to_string());
        if number % 10 == 0 {
            library.wait_until_converged();
        }
    }
    library.wait_until_converged();
}

#[test]
fn a_directory_that_is_renamed_away_and_replaced_at_once_is_another_one() {
    let library = Library::watched();
    make_tree(&library.path("album"), 20);
    library.wait_until_converged();
    for number in 0..10 {
        fs::rename(library.path("album"), library.path(format!("album {number}"))).unwrap();
        write(&library.path("album/0/0/0/x.mp3"), format!("new {number}"));
        write(&library.path("album/other.mp3"), format!("other {number}"));
    }
    library.wait_until_converged();
}

#[test]
fn events_about_a_file_do_not_count_for_another_one_in_a_directory_of_the_same_name() {
    let library = Library::watched();
    library.write("a/x.part", "renamed into place");
    library.wait_until_settled();
    // The program reads no event of all this before the other file is half written.
    library.signal(Signal::STOP);
    fs::rename(library.path("a/x.part"), library.path("a/x.mp3")).unwrap();
    fs::rename(library.path("a"), library.path("b")).unwrap();
    fs::create_dir(library.path("a")).unwrap();
    let mut file = File::create(library.path("a/x.mp3")).unwrap();
    file.write_all(b"one half").unwrap();
    library.signal(Signal::CONT);
    let mut pace = Pace::new();
    library.wait_for("the renamed file", |oracle| oracle.files.contains_key(Path::new("b/x.mp3")));
    thread::sleep(SETTLE / 2);
    pace.step();
    file.write_all(b" and the other").unwrap();
    drop(file);
    library.wait_until_settled();
    let published = library.published_sorted_since(Mark::default());
    assert!(published == ["created a/x.mp3", "created b/x.mp3"] || !pace.was_steady(), "{published:?}");
}

#[test]
fn a_tree_of_ten_thousand_directories_is_removed_to_its_last_file() {
    let mut library = Library::new();
    // More stays than goes, or the brake would hold the deletes if the kernel's queue overflows.
    for number in 0..2_600 {
        library.write(format!("stays/{number}.mp3"), "stays");
    }
    for number in 0..10_000 {
        let below = format!("goes/{}/{number}", number % 40);
        fs::create_dir_all(library.path(&below)).unwrap();
        if number % 4 == 0 {
            library.write(format!("{below}/x.mp3"), number.to_string());
        }
    }
    library.start();
    library.wait_until_converged();
    run("rm", &[&"-rf", &library.path("goes")]);
    library.wait_until_converged();
    assert_eq!(library.files().len(), 2_600);
}

#[test]
fn renames_that_interleave_are_paired_correctly() {
    let library = Library::watched();
    for thread in 0..4 {
        for number in 0..25 {
            library.write(format!("{thread}/{number}.mp3"), format!("{thread} {number}"));
        }
    }
    library.wait_until_settled();
    let mark = library.mark();
    thread::scope(|scope| {
        for thread in 0..4 {
            let library = &library;
            scope.spawn(move || {
                for number in 0..25 {
                    let from = library.path(format!("{thread}/{number}.mp3"));
                    fs::rename(from, library.path(format!("{thread}/new {number}.mp3"))).unwrap();
                }
            });
        }
    });
    library.wait_until_settled();
    let published = library.messages_since(mark);
    assert_eq!(published.len(), 100);
    assert!(published.iter().all(|message| message.event_type == "renamed"), "{:#?}", library.published_since(mark));
}

#[test]
fn a_storm_of_renames_to_and_fro_ends_where_the_disk_is() {
    let library = Library::watched();
    for number in 0..40 {
        library.write(format!("a/{number}.mp3"), number.to_string());
    }
    fs::create_dir(library.path("b")).unwrap();
    library.wait_until_converged();
    thread::scope(|scope| {
        for thread in 0..4 {
            let library = &library;
            scope.spawn(move || {
                for round in 0..20 {
                    for number in (thread * 10)..(thread * 10 + 10) {
                        let (from, to) = if round % 2 == 0 { ("a", "b") } else { ("b", "a") };
                        let name = format!("{number}.mp3");
                        // Now and then its neighbour's name, so that files are also moved onto each other.
                        let other = if round % 5 == 4 { format!("{}.mp3", thread * 10) } else { name.clone() };
                        let _ = fs::rename(library.path(from).join(name), library.path(to).join(other));
                    }
                }
            });
        }
    });
    library.wait_until_converged();
}
