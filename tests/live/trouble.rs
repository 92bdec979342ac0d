//! The watcher in trouble: events lost, limits reached, nothing to watch with.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::thread;
use std::time::Duration;

use rustix::process::Signal;

use crate::files::Pace;
use crate::support::disk::{require_root, run, write};
use crate::support::library::Library;

/// How many events the kernel keeps for one watcher.
fn queue_length() -> u64 {
    fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap().trim().parse().unwrap()
}

/// Makes so many events, about files that the program ignores.
fn flood(library: &Library, events: u64) {
    // Equal events in a row are one, so two files take turns.
    let files = ["1.txt", "2.txt"].map(|name| {
        library.write(name, "");
        File::options().write(true).open(library.path(name)).unwrap()
    });
    for number in 0..events {
        let mode = fs::Permissions::from_mode(if number % 4 < 2 { 0o600 } else { 0o644 });
        files[usize::from(number % 2 == 0)].set_permissions(mode).unwrap();
    }
}

#[test]
fn what_the_kernel_lost_is_found_and_watched_from_then_on() {
    let library = Library::watched();
    for name in ["changed.mp3", "gone.mp3", "renamed.mp3", "old/x.mp3", "swept/y.mp3"] {
        library.write(name, name);
    }
    library.wait_until_settled();
    let mark = library.mark();

    library.signal(Signal::STOP);
    flood(&library, queue_length() + 1000);
    library.write("new.mp3", "new");
    library.write("changed.mp3", "other");
    fs::remove_file(library.path("gone.mp3")).unwrap();
    fs::rename(library.path("renamed.mp3"), library.path("now.mp3")).unwrap();
    fs::rename(library.path("old"), library.path("moved")).unwrap();
    fs::remove_dir_all(library.path("swept")).unwrap();
    library.write("made/deep/z.mp3", "z");
    library.signal(Signal::CONT);

    library.wait_for_log(mark, "the kernel lost events");
    library.wait_until_settled();
    let published = library.published_sorted_since(mark);
    assert_eq!(
        published,
        [
            "created made/deep/z.mp3",
            "created new.mp3",
            "deleted gone.mp3",
            "deleted swept/y.mp3",
            "modified changed.mp3",
            "moved old/x.mp3 -> moved/x.mp3",
            "renamed renamed.mp3 -> now.mp3",
        ]
    );
    // In directories whose creation or rename was not reported as well.
    let mark = library.mark();
    library.write("made/deep/later.mp3", "later");
    library.write("moved/later.mp3", "later too");
    library.wait_until_settled();
    let published = library.published_sorted_since(mark);
    assert_eq!(published, ["created made/deep/later.mp3", "created moved/later.mp3"]);
}

/// The watcher reports a directory before it watches it, and is late with that if it has many events.
#[test]
fn a_directory_is_watched_before_it_is_listed_however_busy_the_watcher_is() {
    let library = Library::watched();
    let mark = library.mark();
    library.signal(Signal::STOP);
    fs::create_dir(library.path("a")).unwrap();
    flood(&library, queue_length() / 2);
    library.signal(Signal::CONT);
    for number in 0..300 {
        library.write(format!("a/{number}.mp3"), number.to_string());
        thread::sleep(Duration::from_millis(1));
    }
    library.wait_until_converged();
    assert!(!library.has_logged(mark, "the kernel lost events"), "the walk of everything must not be what finds them");
}

/// A user namespace of its own has limits of its own, which bind nobody else.
const LIMITED: &str = r#"echo "$1" > "/proc/sys/user/$0"; shift; exec "$@""#;

fn limit(library: &mut Library, name: &str, to: usize) {
    require_root();
    library.run_by(&["unshare", "--user", "--map-root-user", "sh", "-c", LIMITED, name, &to.to_string()]);
}

fn lift_limit(library: &Library, name: &str) {
    let pid = library.pid().as_raw_nonzero().to_string();
    let script = format!("echo 100000 > /proc/sys/user/{name}");
    run("nsenter", &[&"--target", &pid, &"--user", &"--preserve-credentials", &"sh", &"-c", &script]);
}

#[test]
fn directories_beyond_the_limit_of_watches_are_polled_until_there_are_watches_for_them() {
    let mut library = Library::new();
    limit(&mut library, "max_inotify_watches", 20);
    library.set("POLL_INTERVAL_SECS", "2");
    for number in 0..40 {
        library.write(format!("{number}/x.mp3"), number.to_string());
    }
    library.start();
    library.wait_until_settled();
    for number in 0..50 {
        library.write(format!("{number}/y.mp3"), format!("beyond {number}"));
    }
    library.wait_until_converged();
    assert_eq!(library.logged("some directories are not watched"), 1, "loud, and once");
    let limit = "the library needs 41 watches and user.max_inotify_watches allows 20";
    assert_eq!(library.logged(limit), 2, "in the warning, and as the reason in the line about the start");

    let mark = library.mark();
    lift_limit(&library, "max_inotify_watches");
    library.wait_for_log(mark, "everything is watched again");
    library.write("39/z.mp3", "watched");
    library.wait_until_converged();
}

#[test]
fn directories_that_are_made_beyond_the_limit_of_watches_are_polled() {
    let mut library = Library::new();
    limit(&mut library, "max_inotify_watches", 20);
    library.set("POLL_INTERVAL_SECS", "2").start();
    let mark = library.mark();
    for number in 0..40 {
        library.write(format!("{number}/x.mp3"), number.to_string());
    }
    library.wait_until_converged();
    library.wait_for_log(mark, "user.max_inotify_watches allows 20");
    for number in 0..40 {
        library.write(format!("{number}/x.mp3"), format!("again {number}"));
    }
    library.wait_until_converged();
}

#[test]
fn without_a_watcher_everything_is_polled_until_there_is_one() {
    let mut library = Library::new();
    limit(&mut library, "max_inotify_instances", 0);
    library.set("POLL_INTERVAL_SECS", "1").start();
    assert!(library.logged("changes are found only by walking") > 0);
    library.write("a/x.mp3", "polled");
    library.wait_until_converged();
    assert_eq!(library.messages()[0].origin, "scan");

    let mark = library.mark();
    lift_limit(&library, "max_inotify_instances");
    library.wait_for_log(mark, "everything is watched again");
    library.write("a/y.mp3", "watched");
    library.wait_until_converged();
}

#[test]
fn a_library_that_is_polled_is_followed() {
    let mut library = Library::new();
    library.set("WATCH_MODE", "poll").set("POLL_INTERVAL_SECS", "1").start();
    for name in ["changed.mp3", "gone.mp3", "renamed.mp3", "old/x.mp3"] {
        library.write(name, name);
    }
    library.wait_until_converged();
    let mark = library.mark();
    library.write("new.mp3", "new");
    library.write("changed.mp3", "other");
    fs::remove_file(library.path("gone.mp3")).unwrap();
    fs::rename(library.path("renamed.mp3"), library.path("now.mp3")).unwrap();
    fs::rename(library.path("old"), library.path("moved")).unwrap();
    library.wait_until_converged();
    let published = library.published_sorted_since(mark);
    assert_eq!(
        published,
        [
            "created new.mp3",
            "deleted gone.mp3",
            "modified changed.mp3",
            "moved old/x.mp3 -> moved/x.mp3",
            "renamed renamed.mp3 -> now.mp3",
        ]
    );

    // A file that is written slowly is not published half, though its close is not seen.
    let mark = library.mark();
    let mut whole = String::new();
    let mut pace = Pace::new();
    for number in 0..20 {
        whole.push_str(&number.to_string());
        library.write("slow.mp3", &whole);
        pace.step();
        thread::sleep(Duration::from_millis(120));
    }
    library.wait_until_settled();
    let published = library.published_since(mark);
    assert!(published == ["created slow.mp3"] || !pace.was_steady(), "{published:?}");
}

/// A directory that cannot be read cannot be watched either.
#[test]
fn a_directory_that_becomes_readable_is_watched_from_then_on() {
    let mut library = Library::new();
    write(&library.path("a/deep/x.mp3"), "x");
    let allow = |mode| fs::set_permissions(library.path("a"), fs::Permissions::from_mode(mode)).unwrap();
    allow(0o000);
    let path = library.path("a");
    library.run_by_nobody().start();
    library.stay_silent(Duration::from_millis(500));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    library.wait_until_settled();
    library.write("a/y.mp3", "y");
    library.write("a/deep/z.mp3", "z");
    library.wait_until_converged();
    assert_eq!(library.files().len(), 3);
    assert_eq!(library.logged("are not watched"), 0, "one directory that may not be read is no trouble");
}

#[test]
fn a_directory_that_cannot_be_read_is_logged_once_and_once_more_when_it_can() {
    let mut library = Library::new();
    library.set("RESCAN_INTERVAL_SECS", "1");
    write(&library.path("a/x.mp3"), "x");
    let path = library.path("a");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).unwrap();
    library.run_by_nobody().start();
    library.wait_for_logged("still cannot be read", 2);
    assert_eq!(library.logged("its files stay in the index"), 1);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    library.wait_until_settled();
    library.wait_for_logged("can be read again", 1);
    assert_eq!(library.logged("its files stay in the index"), 1);
}
