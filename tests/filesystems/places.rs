//! Disks that change their places.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use file_watcher::disk::{MountChanges, Root};

use crate::scenarios::{fill, hashed, write_old};
use crate::support::disk::write;
use crate::support::library::Library;
use crate::support::medium::{Bind, Disk, Medium, MountPoint};

/// Files of each disk: few enough that no brake holds their deletes.
const FILES: usize = 6;

/// Two disks in a library.
struct Two {
    one: Disk,
    other: Disk,
    library: Library,
}

impl Two {
    /// Disks whose files have the same names, or other ones.
    fn new(make: fn() -> Disk, has_same_names: bool) -> Self {
        let library = Library::new();
        fill(&library.path("here"), 12);
        let mut two = Self { one: make(), other: make(), library };
        two.attach("a", "b");
        for number in 0..FILES {
            write_old(&two.library.path(format!("a/{number}.mp3")), &format!("one {number}"));
            let name = if has_same_names { number } else { number + 10 };
            write_old(&two.library.path(format!("b/{name}.mp3")), &format!("the other {number}"));
        }
        two
    }

    fn attach(&mut self, one: &str, other: &str) {
        self.one.attach(&self.library.path(one));
        self.other.attach(&self.library.path(other));
    }

    fn detach(&mut self) {
        self.one.detach();
        self.other.detach();
    }
}

/// Whether these are the messages if the disks change places: all files move, and none is read.
fn moved_all(published: &[String], has_same_names: bool) -> bool {
    if has_same_names {
        // Chains of names are broken up somewhere.
        return !published.is_empty();
    }
    published.len() == 2 * FILES && published.iter().all(|published| published.starts_with("moved"))
}

#[test]
fn disks_that_are_swapped_while_the_program_is_down_are_followed() {
    for make in [Disk::ext4, Disk::xfs, Disk::btrfs] {
        for has_same_names in [false, true] {
            let mut two = Two::new(make, has_same_names);
            two.library.scan();
            let mark = two.library.mark();
            two.detach();
            two.attach("b", "a");
            let summary = two.library.scan();
            two.library.wait_until_converged();
            let published = two.library.published_since(mark);
            assert!(moved_all(&published, has_same_names), "{published:#?}");
            assert!(has_same_names || hashed(&summary) == 0, "{}", summary.text);
        }
    }
}

/// No file's own times change with that.
#[test]
fn directories_with_the_same_names_in_them_that_are_swapped_are_followed() {
    let mut library = Library::new();
    for number in 0..FILES {
        write_old(&library.path(format!("a/{number}.mp3")), &format!("one {number}"));
        write_old(&library.path(format!("b/{number}.mp3")), &format!("the other {number}"));
    }
    library.scan();
    for (from, to) in [("a", "passing"), ("b", "a"), ("passing", "b")] {
        fs::rename(library.path(from), library.path(to)).unwrap();
    }
    library.scan();
    library.wait_until_converged();
}

#[test]
fn disks_that_are_swapped_live_are_followed() {
    for has_same_names in [false, true] {
        let mut two = Two::new(Disk::ext4, has_same_names);
        two.library.start();
        two.library.wait_until_converged();
        two.detach();
        two.library.stay_silent(Duration::from_millis(1500));
        two.attach("b", "a");
        two.library.wait_until_settled();
        write(&two.library.path("b/new.mp3"), "written at its new place");
        two.library.wait_until_settled();
        two.library.stop();
    }
}

#[test]
fn a_disk_that_is_put_back_at_another_place_has_moved() {
    for live in [false, true] {
        let library = Library::new();
        fill(&library.path("here"), 12);
        // The disk goes first, so that nothing is deleted from it.
        let (mut library, mut disk) = (library, Disk::ext4());
        disk.attach(&library.path("usb1"));
        fill(&library.path("usb1"), FILES);
        if live {
            library.start();
        } else {
            library.scan();
        }
        library.wait_until_converged();
        let mark = library.mark();
        disk.detach();
        if live {
            library.stay_silent(Duration::from_millis(1500));
        } else {
            library.scan();
            library.stay_silent(Duration::ZERO);
        }
        disk.attach(&library.path("usb2"));
        // One file is deleted from it before anybody looks.
        fs::remove_file(library.path("usb2/0/00.mp3")).unwrap();
        if !live {
            let summary = library.scan();
            assert!(summary.hashed_nothing(), "{}", summary.text);
        }
        library.wait_until_converged();
        let published = library.published_sorted_since(mark);
        let expected: Vec<String> = (1..FILES)
            .map(|number| format!("{}/{number:02}.mp3", number % 3))
            .map(|name| format!("moved usb1/{name} -> usb2/{name}"))
            .collect();
        let mut expected = expected;
        expected.push("deleted usb1/0/00.mp3".into());
        expected.sort();
        assert_eq!(published, expected);
        if live {
            library.stop();
        }
        disk.pull_out();
    }
}

#[test]
fn of_a_disk_that_is_mounted_twice_either_place_may_be_missing() {
    let mut library = Library::new();
    let mut disk = Bind::directory();
    let mut again = MountPoint::default();
    fill(&library.path("here"), 12);
    disk.attach(&library.path("a"));
    fill(&library.path("a"), FILES);
    let first = library.path("a");
    again.mount(&library.path("b"), &["--bind", first.to_str().unwrap()]);
    library.scan();
    library.wait_until_converged();
    let mark = library.mark();
    again.unmount();
    library.scan();
    library.scan();
    assert_eq!(library.published_since(mark), [""; 0]);
    again.mount(&library.path("b"), &["--bind", first.to_str().unwrap()]);
    let summary = library.scan();
    assert!(summary.hashed_nothing(), "{}", summary.text);
    // Now the one that was mounted first.
    disk.detach();
    library.scan();
    assert_eq!(library.published_since(mark), [""; 0]);
    disk.attach(&library.path("a"));
    library.scan();
    assert_eq!(library.published_since(mark), [""; 0]);
    fs::remove_file(library.path("b/0/00.mp3")).unwrap();
    library.scan();
    library.wait_until_converged();
    disk.detach();
    drop(again);
}

#[test]
fn another_disk_at_the_place_of_one_takes_none_of_its_files_away() {
    let mut library = Library::new();
    let (mut one, mut other) = (Disk::ext4(), Disk::ext4());
    fill(&library.path("here"), 12);
    let at = library.path("usb");
    let put = |at: &Path, name: &str, content: &str| write_old(&at.join(name), content);
    one.attach(&at);
    put(&at, "1.mp3", "of the one");
    put(&at, "both.mp3", "of the one as well");
    library.scan();
    one.detach();
    other.attach(&at);
    put(&at, "2.mp3", "of the other");
    put(&at, "both.mp3", "of the other, too");
    let mark = library.mark();
    library.scan();
    let published = library.published_sorted_since(mark);
    assert_eq!(published, ["created usb/2.mp3", "modified usb/both.mp3"]);
    other.detach();
    one.attach(&at);
    let mark = library.mark();
    library.scan();
    assert_eq!(library.published_since(mark), ["modified usb/both.mp3"]);
    one.detach();
}

/// The rules for a disk may be on the disk.
#[test]
fn files_that_only_an_ignore_file_of_their_disk_includes_are_held_while_the_disk_is_away() {
    let media: [Box<dyn Medium>; 2] = [Box::new(Disk::ext4()), Box::new(Bind::tmpfs())];
    for mut medium in media {
        for is_root in [false, true] {
            let mut library = Library::new();
            library.set("EXCLUDE", "x.mp3").set("POLL_INTERVAL_SECS", "1");
            let disk = if is_root { library.root() } else { library.path("disk") };
            medium.attach(&disk);
            write(&disk.join("a/.ignore-music"), "!x.mp3");
            write_old(&disk.join("a/x.mp3"), "included again");
            write_old(&disk.join("a/y.mp3"), "not excluded");
            library.scan();
            assert_eq!(library.files().len(), 2);
            let mark = library.mark();
            medium.detach();
            let summary = library.scan();
            assert_eq!(summary.figure("held deletes"), "2", "{}", summary.text);
            library.start();
            library.stay_silent(Duration::from_secs(1));
            medium.attach(&disk);
            library.stay_silent(Duration::from_secs(3));
            library.stop();
            assert!(library.published_since(mark).is_empty(), "{:?}", library.published_since(mark));
            medium.detach();
        }
    }
}

#[test]
fn what_is_mounted_at_the_root_while_the_program_starts_is_the_library() {
    let folder = tempfile::tempdir().unwrap();
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut mounted = MountPoint::default();
            while !is_over.load(Ordering::Relaxed) {
                mounted.mount(folder.path(), &["-t", "tmpfs", "tmpfs"]);
                mounted.unmount();
            }
        });
        let begun = Instant::now();
        let failed = std::iter::from_fn(|| {
            let root = Root::open(folder.path()).and_then(|root| root.own_mount_at_start());
            (begun.elapsed() < Duration::from_secs(2)).then_some(root)
        })
        .find_map(Result::err);
        is_over.store(true, Ordering::Relaxed);
        assert!(failed.is_none(), "{failed:?}");
    });
}

#[test]
fn the_kernel_announces_that_a_mount_came_or_went() {
    let folder = tempfile::tempdir().unwrap();
    let mut changes = MountChanges::from_now();
    let mut mounted = MountPoint::default();
    mounted.mount(folder.path(), &["-t", "tmpfs", "tmpfs"]);
    assert!(changes.are_there());
    mounted.unmount();
    assert!(changes.are_there());
}
