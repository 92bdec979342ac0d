//! `WATCH_MODE=fanotify`: whole filesystems are watched instead of directories. These tests need root.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use file_watcher::disk::Root;
use file_watcher::library::{ExcludedDirectories, Handler, Inbox, Watcher};
use file_watcher::model::{LibraryPath, Partition};
use rustix::process::Signal;

use super::rules::watched_directories;
use crate::support::disk::{require_root, run, write};
use crate::support::library::{Library, Mark};
use crate::support::medium::{Bind, Disk, Medium as _, MountPoint, Overlay};
use crate::support::process::LIMIT;
use crate::support::usage;

fn with_fanotify() -> Library {
    require_root();
    let mut library = Library::new();
    library.set("WATCH_MODE", "fanotify");
    library
}

/// How many filesystems the program watches, as the kernel counts them.
fn watched_filesystems(library: &Library) -> usize {
    usage::watched_filesystems(library.pid().as_raw_pid().unsigned_abs())
}

fn eventually_watches(library: &Library, filesystems: usize) {
    let begun = Instant::now();
    while watched_filesystems(library) != filesystems {
        assert!(begun.elapsed() < LIMIT, "not {filesystems} filesystems are watched");
        thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn one_watch_is_enough_for_everything() {
    let mut library = with_fanotify();
    for number in 0..20 {
        library.write(format!("artist {number}/album/{number}.mp3"), number.to_string());
    }
    library.start();
    library.wait_until_settled();
    assert_eq!((watched_directories(&library), watched_filesystems(&library)), (0, 1));
    let mark = library.mark();
    library.write("new/deep/a.mp3", "a");
    library.write("artist 1/album/1.mp3", "changed");
    fs::rename(library.path("artist 2/album/2.mp3"), library.path("artist 2/album/renamed.mp3")).unwrap();
    fs::rename(library.path("artist 3/album/3.mp3"), library.path("artist 4/album/moved.mp3")).unwrap();
    fs::rename(library.path("artist 5"), library.path("artist five")).unwrap();
    fs::remove_dir_all(library.path("artist 6")).unwrap();
    fs::remove_file(library.path("artist 7/album/7.mp3")).unwrap();
    fs::rename(library.path("artist 8"), library.outside("artist 8")).unwrap();
    write(&library.outside("whole/b.mp3"), "b");
    fs::rename(library.outside("whole"), library.path("whole")).unwrap();
    library.wait_until_settled();
    assert_eq!(
        library.published_sorted_since(mark),
        [
            "created new/deep/a.mp3",
            "created whole/b.mp3",
            "deleted artist 6/album/6.mp3",
            "deleted artist 7/album/7.mp3",
            "deleted artist 8/album/8.mp3",
            "modified artist 1/album/1.mp3",
            "moved artist 3/album/3.mp3 -> artist 4/album/moved.mp3",
            "moved artist 5/album/5.mp3 -> artist five/album/5.mp3",
            "renamed artist 2/album/2.mp3 -> artist 2/album/renamed.mp3",
        ]
    );
    let mark = library.mark();
    library.write("artist five/album/later.mp3", "later");
    library.write("whole/later.mp3", "later too");
    library.wait_until_settled();
    let messages = library.messages_since(mark);
    assert_eq!(messages.len(), 2);
    assert!(messages.iter().all(|message| message.origin == "watch"), "{messages:?}");
    assert_eq!(library.logged("\"mode\":\"fanotify\""), 1);
}

#[test]
fn what_happens_beside_the_library_is_not_published() {
    let mut library = with_fanotify();
    library.write("x.mp3", "x");
    library.start();
    library.wait_until_settled();
    let mark = library.mark();
    for number in 0..50 {
        write(&library.outside(format!("{number}/x.mp3")), number.to_string());
    }
    library.write("y.mp3", "y");
    library.wait_until_settled();
    assert_eq!(library.published_since(mark), ["created y.mp3"]);
}

#[test]
fn a_root_that_is_reached_through_a_link_is_watched() {
    let mut library = with_fanotify();
    library.write("a/x.mp3", "x");
    fs::rename(library.root(), library.outside("library")).unwrap();
    symlink(library.outside("library"), library.root()).unwrap();
    library.start();
    library.write("a/y.mp3", "y");
    library.wait_until_settled();
    assert!(library.messages().iter().any(|message| message.origin == "watch"));
}

#[test]
fn an_instance_publishes_its_part_only() {
    let mut library = with_fanotify();
    library.set("PARTITION", "1/2").start();
    let part: Partition = "1/2".parse().unwrap();
    let (mut expected, mut others) = (Vec::new(), 0);
    for number in 0..10 {
        let path = format!("artist {number}/x.mp3");
        library.write(&path, number.to_string());
        if part.has_file(&LibraryPath::from(path.as_str())) {
            expected.push(format!("created {path}"));
        } else {
            others += 1;
        }
    }
    library.wait_for("its part", |oracle| oracle.files.len() == expected.len());
    library.stay_silent(Duration::from_secs(1));
    assert_eq!(library.published_sorted_since(Mark::default()), expected);
    assert!(others > 0 && !expected.is_empty());
}

#[test]
fn targets_of_links_on_another_filesystem_are_watched() {
    let mut library = with_fanotify();
    let elsewhere = library.outside("disk");
    let mut disk = Bind::tmpfs();
    disk.attach(&elsewhere);
    write(&elsewhere.join("album/x.mp3"), "x");
    library.set("FOLLOW_SYMLINKS", "all").start();
    assert_eq!(watched_filesystems(&library), 1);
    symlink(elsewhere.join("album"), library.path("album")).unwrap();
    library.wait_until_published(&[("album/x.mp3", "x")]);
    assert_eq!(watched_filesystems(&library), 2);
    let mark = library.mark();
    write(&elsewhere.join("album/deep/y.mp3"), "y");
    library.wait_until_published(&[("album/x.mp3", "x"), ("album/deep/y.mp3", "y")]);
    assert_eq!(library.messages_since(mark)[0].origin, "watch");
    drop(library);
}

#[test]
fn a_filesystem_in_the_library_is_watched_wherever_it_is_mounted_and_may_be_unmounted() {
    let mut library = with_fanotify();
    // A directory of the disk that the library is on, and another filesystem.
    let (mut bind, mut disk) = (Bind::directory(), Disk::ext4());
    library.write("x.mp3", "x");
    bind.attach(&library.path("bind"));
    disk.attach(&library.path("disk"));
    library.start();
    library.wait_until_settled();
    assert_eq!(watched_filesystems(&library), 2);
    let mark = library.mark();
    // A walk of a new directory could be earlier than the event of its file.
    library.write("bind/1.mp3", "one");
    library.write("disk/1.mp3", "one, too");
    library.wait_until_settled();
    fs::rename(library.path("bind/1.mp3"), library.path("bind/2.mp3")).unwrap();
    library.wait_until_settled();
    let messages = library.messages_since(mark);
    assert!(messages.iter().all(|message| message.origin == "watch"), "{messages:?}");

    // The open directory of a watch would keep it mounted.
    disk.detach();
    library.wait_for_log(mark, "deletes are held");
    eventually_watches(&library, 1);
    disk.attach(&library.path("disk"));
    library.wait_until_settled();
    // The mounts are checked every second.
    eventually_watches(&library, 2);
    let mark = library.mark();
    library.write("disk/2.mp3", "two");
    library.wait_until_settled();
    assert_eq!(library.published_since(mark), ["created disk/2.mp3"]);
    assert_eq!(library.messages_since(mark)[0].origin, "watch");
    library.stop();
}

/// The path that the kernel gives for a directory beside the mounted one is then the path of another directory.
#[test]
fn a_directory_that_cannot_be_reached_is_not_taken_for_another_one() {
    let mut library = with_fanotify();
    let disk = library.outside("disk");
    let mut below = MountPoint::default();
    below.mount(&disk, &["-t", "tmpfs", "tmpfs"]);
    // On its filesystem, this directory has the path that the library has here.
    let twin = disk.join(library.root().strip_prefix("/").unwrap());
    write(&disk.join("mounted/x.mp3"), "x");
    write(&twin.join("album/y.mp3"), "y");
    let mut bind = MountPoint::default();
    bind.mount(&library.path("album"), &["--bind", disk.join("mounted").to_str().unwrap()]);
    library.start();
    library.wait_until_settled();
    let mark = library.mark();
    write(&twin.join("album/x.mp3"), "of the twin");
    fs::remove_file(twin.join("album/y.mp3")).unwrap();
    library.write("album/z.mp3", "z");
    library.wait_until_settled();
    assert_eq!(library.published_since(mark), ["created album/z.mp3"]);
    library.stop();
}

#[test]
fn what_the_kernel_lost_is_found() {
    let mut library = with_fanotify();
    library.write("old/x.mp3", "x");
    library.start();
    library.wait_until_settled();
    let mark = library.mark();
    let length = fs::read_to_string("/proc/sys/fs/fanotify/max_queued_events").unwrap();
    let length: u64 = length.trim().parse().unwrap();
    library.signal(Signal::STOP);
    for number in 0..length + 100 {
        // Events of one name are merged.
        fs::create_dir(library.outside(number.to_string())).unwrap();
    }
    library.write("new.mp3", "new");
    fs::rename(library.path("old"), library.path("moved")).unwrap();
    library.signal(Signal::CONT);
    library.wait_for_log(mark, "the kernel lost events");
    library.wait_until_settled();
    assert_eq!(library.published_sorted_since(mark), ["created new.mp3", "moved old/x.mp3 -> moved/x.mp3"]);
}

#[test]
fn without_the_capabilities_the_library_is_scanned_and_the_reason_is_said() {
    for missing in ["-sys_admin", "-dac_read_search"] {
        let mut library = with_fanotify();
        library.run_by(&["setpriv", &format!("--bounding-set={missing}"), "--"]);
        library.set("POLL_INTERVAL_SECS", "1").start();
        let mark = Mark::default();
        library.wait_for_log(mark, "which needs the capabilities CAP_SYS_ADMIN and CAP_DAC_READ_SEARCH");
        library.write("x.mp3", "x");
        library.wait_until_settled();
    }
}

#[test]
fn a_filesystem_without_lasting_handles_is_scanned_and_the_reason_is_said() {
    let mut library = with_fanotify();
    let mut overlay = Overlay::in_memory();
    overlay.attach(&library.path("overlay"));
    library.set("POLL_INTERVAL_SECS", "1").start();
    library.wait_for_log(Mark::default(), "which has no lasting file handles; set WATCH_MODE=auto");
    library.write("x.mp3", "x");
    library.write("overlay/y.mp3", "y");
    library.wait_until_settled();
    library.stop();
}

/// The events in a subvolume name another filesystem than that which is mounted.
#[test]
fn subvolumes_are_watched_if_the_top_level_is_mounted_and_not_if_they_are() {
    let mut library = with_fanotify();
    let (mut whole, mut part) = (Disk::btrfs(), Disk::subvolume_of(256));
    whole.attach(&library.path("whole"));
    run("btrfs", &[&"subvolume", &"create", &library.path("whole/sub")]);
    library.set("POLL_INTERVAL_SECS", "1").start();
    library.wait_until_settled();
    let mark = library.mark();
    library.write("whole/sub/x.mp3", "x");
    library.wait_until_settled();
    assert_eq!(library.messages_since(mark)[0].origin, "watch");
    part.attach(&library.path("part"));
    library.wait_for_log(mark, "which is a subvolume of Btrfs; set WATCH_MODE=auto");
    library.write("part/y.mp3", "y");
    library.wait_until_settled();
    library.stop();
}

#[test]
fn the_barrier_returns_after_all_earlier_events_were_handled() {
    require_root();
    let folder = tempfile::tempdir().unwrap();
    // A filesystem without the events of other tests.
    let mut disk = Bind::tmpfs();
    disk.attach(&folder.path().join("disk"));
    let root = folder.path().join("disk");
    let inbox = Inbox::new();
    let watcher = Watcher::of_filesystems(Handler {
        root: Arc::new(Root::open(&root).unwrap()),
        generation: 0,
        inbox: inbox.clone(),
        avoided: Vec::new(),
        excluded: ExcludedDirectories::default(),
        trouble: Arc::new(|trouble| panic!("{trouble:?}")),
    });
    let watcher = watcher.unwrap();
    for round in 0..100 {
        for number in 0..100 {
            write(&root.join(format!("{number}/{round}.mp3")), "x");
        }
        assert!(watcher.barrier());
        let hinted: HashSet<String> = inbox.take_all().iter().map(|hint| hint.path.to_string()).collect();
        for number in 0..100 {
            let path = format!("{number}/{round}.mp3");
            assert!(hinted.contains(&path), "the event of {path} was not handled");
        }
    }
}
