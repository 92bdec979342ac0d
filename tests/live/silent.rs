//! Filesystems whose remote changes inotify does not report: FUSE stands for all of them.

use std::fs;
use std::path::Path;

use crate::support::disk::write;
use crate::support::library::Library;
use crate::support::medium::Medium;
use crate::support::mirror::{Mirror, Oddity};

/// A file is created, changed, renamed and deleted without an event.
fn is_followed(library: &Library, source: &Path, below: &str) {
    let renamed = source.join("renamed.mp3");
    let mark = library.mark();
    write(&source.join("x.mp3"), "one");
    library.wait_until_settled();
    write(&source.join("x.mp3"), "another");
    library.wait_until_settled();
    fs::rename(source.join("x.mp3"), &renamed).unwrap();
    library.wait_until_settled();
    fs::remove_file(renamed).unwrap();
    library.wait_until_settled();
    let published =
        ["created {}x.mp3", "modified {}x.mp3", "renamed {}x.mp3 -> {}renamed.mp3", "deleted {}renamed.mp3"];
    assert_eq!(library.published_since(mark), published.map(|published| published.replace("{}", below)));
    assert!(library.messages_since(mark).iter().all(|message| message.origin == "scan"));
}

#[test]
fn a_library_on_a_filesystem_without_events_is_polled() {
    let mut library = Library::new();
    let mut mirror = Mirror::new(Oddity::None);
    let source = mirror.source();
    write(&source.join("cover.jpg"), "the root must not be empty");
    mirror.attach(&library.root());
    library.set("POLL_INTERVAL_SECS", "1").start();
    assert_eq!(library.logged("some filesystems cause no events"), 1);
    is_followed(&library, &source, "");
    library.stop();
    mirror.detach();
}

#[test]
fn a_filesystem_without_events_that_is_mounted_in_the_library_is_polled_too() {
    let mut library = Library::new();
    let mut mirror = Mirror::new(Oddity::None);
    let source = mirror.source();
    mirror.attach(&library.path("cloud"));
    library.set("POLL_INTERVAL_SECS", "1").start();
    assert_eq!(library.logged("some filesystems cause no events"), 1);
    is_followed(&library, &source, "cloud/");
    library.stop();
    mirror.detach();
}
