//! Deletes in doubt on real mounts: held with their reason, listed, and released by a person or by the files.

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use crate::roots::Mounted;
use crate::support::disk::write;
use crate::support::library::{HELD, Library};

fn fill(at: &Path, files: usize) {
    for number in 0..files {
        write(&at.join(format!("{number}.mp3")), format!("{} {number}", at.display()));
    }
}

/// What `held --json` lists: reason, place below the root, and count of each line.
fn held(library: &Library) -> Vec<(String, String, u64)> {
    let output = library.try_beside(&["held", "--json"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let list: Value = serde_json::from_slice(&output.stdout).unwrap();
    let lines = list["held"].as_array().unwrap().iter();
    let root = library.root();
    let below = |place: &str| Path::new(place).strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
    let line = |line: &Value| {
        let place = below(line["place"].as_str().unwrap());
        (line["reason"].as_str().unwrap().to_owned(), place, line["count"].as_u64().unwrap())
    };
    lines.map(line).collect()
}

fn line(reason: &str, place: &str, count: u64) -> (String, String, u64) {
    (reason.to_owned(), place.to_owned(), count)
}

/// A library with two files of its own and two disks, one inside the other.
fn on_two_disks() -> (Library, Mounted, Mounted) {
    let library = Library::new();
    fill(&library.root(), 2);
    let outer = Mounted::tmpfs(&library.path("outer"));
    fill(&outer.0, 3);
    let inner = Mounted::tmpfs(&library.path("outer/inner"));
    fill(&inner.0, 4);
    (library, outer, inner)
}

/// A watched library with two files of its own and a disk with three; the disk, and its mount at `usb`.
fn watched_with_disk() -> (Library, Mounted, Mounted) {
    let mut library = Library::new();
    fill(&library.root(), 2);
    let disk = Mounted::tmpfs(&library.outside("disk"));
    fill(&disk.0, 3);
    let below = Mounted::bind(&disk.0, &library.path("usb"));
    library.start();
    library.wait_until_settled();
    (library, disk, below)
}

#[test]
fn of_two_disks_the_one_that_is_gone_is_held_and_approved_by_itself() {
    let (mut library, outer, inner) = on_two_disks();
    library.scan();
    let mark = library.mark();
    inner.unmount();
    fs::remove_file(outer.0.join("0.mp3")).unwrap();
    assert_eq!(held(&library), [line("mount_gone", "outer/inner", 4)]);
    assert_eq!(library.published_since(mark).len(), 0, "a listing publishes nothing");
    library.scan();
    assert_eq!(library.published_since(mark), ["deleted outer/0.mp3"]);

    // Both are gone: each is held at its own place.
    outer.unmount();
    library.scan();
    assert_eq!(held(&library), [line("mount_gone", "outer", 2), line("mount_gone", "outer/inner", 4)]);
    let mark = library.mark();
    let (status, said) = library.try_to(&["approve", "--path", "outer/inner"]);
    assert!(status.success() && said.contains("4 published as deleted; 0 still held at or under"), "{said}");
    assert_eq!(
        library.published_sorted_since(mark),
        (0..4).map(|number| format!("deleted outer/inner/{number}.mp3")).collect::<Vec<_>>()
    );
    assert_eq!(held(&library), [line("mount_gone", "outer", 2)]);
    library.until_it_ends("approve");
    library.wait_until_converged();
}

#[test]
fn a_disk_that_is_taken_out_live_is_held_within_seconds_and_comes_back_without_a_message() {
    for options in [[].as_slice(), &["--lazy"]] {
        let (library, disk, below) = watched_with_disk();
        let mark = library.mark();
        below.unmount_with(options);
        library.wait_for_log(mark, HELD);
        assert_eq!(held(&library), [line("mount_gone", "usb", 3)]);
        assert!(!library.has_logged(mark, "cannot be read"), "a mount that is gone is no failure");
        let below = Mounted::bind(&disk.0, &library.path("usb"));
        library.wait_for_log(mark, "no deletes are held for this reason any more");
        assert_eq!(held(&library), []);
        assert_eq!(library.published_since(mark), Vec::<String>::new());

        // Gone for good, and a person says so.
        let mark_again = library.mark();
        below.unmount();
        library.wait_for_log(mark_again, HELD);
        let (code, said) = library.ask("approve");
        assert!(code == Some(0) && said.contains("3 published as deleted; 0 still held"), "{said}");
        library.wait_until_settled();
        assert_eq!(
            library.published_sorted_since(mark),
            (0..3).map(|number| format!("deleted usb/{number}.mp3")).collect::<Vec<_>>()
        );
    }
}

#[test]
fn a_small_library_whose_root_is_empty_or_covered_is_held() {
    let mut library = Library::new();
    fill(&library.root(), 3);
    fs::remove_file(library.path("cover.jpg")).unwrap();
    library.scan();
    let mark = library.mark();
    // A container runtime makes such a directory if the disk is missing; hidden names do not count as content.
    fs::rename(library.root(), library.outside("away")).unwrap();
    fs::create_dir_all(library.path("lost+found")).unwrap();
    fs::create_dir(library.path(".Trash")).unwrap();
    assert_eq!(held(&library), [line("root_empty", "", 3)]);
    library.start();
    library.wait_for_log(mark, "the library is empty");
    assert_eq!(held(&library), [line("root_empty", "", 3)]);
    // The root comes back live, and is covered by another filesystem that is not empty.
    fs::remove_dir_all(library.root()).unwrap();
    fs::rename(library.outside("away"), library.root()).unwrap();
    library.wait_for_log(mark, "no deletes are held for this reason any more");
    let over = Mounted::tmpfs(&library.root());
    library.write("cover.jpg", "of another disk");
    library.wait_for_log(mark, "is not mounted");
    library.stay_silent(Duration::from_millis(500));
    assert_eq!(held(&library), [line("mount_gone", "", 3)]);
    over.unmount_with(&["--lazy"]);
    library.wait_for_logged("no deletes are held for this reason any more", 2);
    assert_eq!(library.published_since(mark), Vec::<String>::new());
    library.wait_until_settled();
}

#[test]
fn what_is_back_when_a_person_approves_is_not_deleted() {
    let (library, disk, below) = watched_with_disk();
    let mark = library.mark();
    below.unmount();
    library.wait_for_log(mark, HELD);
    // Back before anybody noticed, but for one file.
    fs::remove_file(disk.0.join("1.mp3")).unwrap();
    let below = Mounted::bind(&disk.0, &library.path("usb"));
    let (code, said) = library.ask("approve");
    assert_eq!(code, Some(0), "{said}");
    library.wait_until_settled();
    assert_eq!(library.published_since(mark), ["deleted usb/1.mp3"]);
    drop(below);
}

#[test]
fn with_nothing_held_an_approval_changes_nothing_and_is_not_kept_for_later() {
    let mut library = Library::new();
    for verb in ["held", "approve"] {
        let (code, said) = library.ask(verb);
        assert!(code == Some(0) && said.contains("never scanned"), "{said}");
    }
    assert!(!library.state("").exists(), "a state was made");
    fill(&library.root(), 20);
    library.scan();
    for start in [false, true] {
        if start {
            library.start();
        }
        let (code, said) = library.ask("approve");
        assert!(code == Some(0) && said.contains("no delete is held; nothing was changed"), "{said}");
        let (code, said) = library.ask_with(&["approve", "--path", "elsewhere"]);
        assert!(code == Some(0) && said.contains("no delete is held at or under"), "{said}");
        assert_eq!(held(&library), []);
    }
    library.stop();
    for number in 0..15 {
        fs::remove_file(library.path(format!("{number}.mp3"))).unwrap();
    }
    let mark = library.mark();
    library.start();
    library.wait_for_log(mark, HELD);
    assert_eq!(held(&library), [line("too_many", "", 15)]);
}

#[test]
fn files_that_were_moved_are_not_listed_as_held() {
    let mut library = Library::new();
    fill(&library.root(), 20);
    library.scan();
    for number in 0..20 {
        let to = library.path(format!("moved/{number}.mp3"));
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::rename(library.path(format!("{number}.mp3")), to).unwrap();
    }
    assert_eq!(held(&library), []);
}

#[test]
fn only_deletes_under_the_path_are_released_and_the_rest_stays_held() {
    let mut library = Library::new();
    for directory in ["a", "b"] {
        fill(&library.path(directory), 15);
    }
    library.scan();
    let mark = library.mark();
    for directory in ["a", "b"] {
        fs::remove_dir_all(library.path(directory)).unwrap();
    }
    library.start();
    library.wait_for_log(mark, HELD);
    let (code, said) = library.ask_with(&["approve", "--path", "a"]);
    assert!(code == Some(0) && said.contains("15 published as deleted; 0 still held"), "{said}");
    let (_, said) = library.ask_with(&["approve", "--path", "b/1.mp3"]);
    assert!(said.contains("1 published as deleted; 0 still held"), "{said}");
    library.stop();
    library.scan();
    assert_eq!(library.published_since(mark).len(), 16);
    // Fourteen of fourteen, with nothing else left in the library.
    assert_eq!(held(&library), [line("too_many", "b", 14)]);
}
