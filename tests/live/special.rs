//! What is in a library and is no file that can be read.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use notify::event::EventKindMask;
use notify::{Config, RecommendedWatcher, RecursiveMode, Watcher};
use rustix::fs::{CWD, FileType, Mode};

use crate::support::disk::write;
use crate::support::library::{Library, SETTLE};
use crate::support::process::NOBODY;

#[test]
fn links_are_not_followed_wherever_they_lead() {
    let library = Library::watched();
    write(&library.outside("tree/x.mp3"), "outside");
    library.write("real/x.mp3", "inside");
    library.wait_until_settled();
    for (target, link) in [
        (library.outside("tree"), "tree out"),
        (library.outside("tree/x.mp3"), "out.mp3"),
        (library.path("real"), "tree in"),
        (library.path("real/x.mp3"), "in.mp3"),
        (library.root(), "circle"),
        (library.path("nothing"), "dangling.mp3"),
    ] {
        symlink(target, library.path(link)).unwrap();
    }
    library.stay_silent(SETTLE * 2);

    // A change behind a link is not published for the link.
    write(&library.outside("tree/y.mp3"), "more outside");
    fs::write(library.outside("tree/x.mp3"), "changed outside").unwrap();
    library.stay_silent(SETTLE * 2);
    library.wait_until_converged();

    // A file that becomes a link is gone.
    let mark = library.mark();
    fs::rename(library.path("real/x.mp3"), library.outside("x.mp3")).unwrap();
    symlink(library.outside("x.mp3"), library.path("real/x.mp3")).unwrap();
    library.wait_until_settled();
    assert_eq!(library.published_since(mark), ["deleted real/x.mp3"]);
}

#[test]
fn links_are_not_followed_by_a_walk() {
    let mut library = Library::new();
    write(&library.outside("tree/x.mp3"), "outside");
    library.write("real/x.mp3", "inside");
    symlink(library.outside("tree"), library.path("tree out")).unwrap();
    symlink(library.outside("tree/x.mp3"), library.path("out.mp3")).unwrap();
    symlink(library.root(), library.path("circle")).unwrap();
    library.scan();
    assert_eq!(library.published(), ["created real/x.mp3"]);
}

/// Counts how often a file is opened, under any name, by the kernel's events.
pub(crate) struct Openings {
    _watcher: RecommendedWatcher,
    count: Arc<AtomicUsize>,
}

impl Openings {
    pub(crate) fn of(file: &Path) -> Self {
        let count = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&count);
        let handler = move |_: notify::Result<notify::Event>| {
            counter.fetch_add(1, Ordering::Relaxed);
        };
        let config = Config::default().with_event_kinds(EventKindMask::ACCESS_OPEN);
        let mut watcher = RecommendedWatcher::new(handler, config).unwrap();
        watcher.watch(file, RecursiveMode::NonRecursive).unwrap();
        Self { _watcher: watcher, count }
    }

    pub(crate) fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }
}

#[test]
fn pipes_and_sockets_are_never_opened() {
    let mut library = Library::new();
    let make = |directory: &str| {
        fs::create_dir_all(library.path(directory)).unwrap();
        let pipe = library.path(directory).join("pipe.mp3");
        rustix::fs::mknodat(CWD, &pipe, FileType::Fifo, Mode::RWXU, 0).unwrap();
        let opened = Openings::of(&pipe);
        (UnixListener::bind(library.path(directory).join("socket.mp3")).unwrap(), opened)
    };
    let walked = make("walked");
    let live = make("live");
    library.write("x.mp3", "beside");
    library.start();
    let later = {
        let library = &library;
        fs::rename(library.path("live"), library.path("renamed")).unwrap();
        fs::set_permissions(library.path("renamed/pipe.mp3"), fs::Permissions::from_mode(0o666)).unwrap();
        // A file that an event reported, and that is a pipe when the program looks at it.
        library.wait_until_converged();
        fs::remove_file(library.path("x.mp3")).unwrap();
        rustix::fs::mknodat(CWD, library.path("x.mp3"), FileType::Fifo, Mode::RWXU, 0).unwrap();
        library.wait_until_settled();
        library.published()
    };
    assert_eq!(later, ["created x.mp3", "deleted x.mp3"]);
    for (_, opened) in [walked, live] {
        assert_eq!(opened.count(), 0);
    }
}

#[test]
fn what_may_not_be_read_is_left_as_it_was_until_it_may() {
    let mut library = Library::new();
    for name in ["file.mp3", "directory/x.mp3", "directory/deep/y.mp3"] {
        library.write(name, name);
    }
    fs::hard_link(library.path("directory/x.mp3"), library.outside("the same.mp3")).unwrap();
    library.run_by_nobody().start();
    library.wait_until_settled();
    let mark = library.mark();

    let allow = |name: &str, mode| fs::set_permissions(library.path(name), fs::Permissions::from_mode(mode)).unwrap();
    // Neither a file nor a directory is gone because it cannot be read.
    allow("directory", 0o000);
    allow("file.mp3", 0o000);
    write(&library.outside("new.mp3"), "a new one");
    fs::set_permissions(library.outside("new.mp3"), fs::Permissions::from_mode(0o000)).unwrap();
    fs::rename(library.outside("new.mp3"), library.path("new.mp3")).unwrap();
    library.stay_silent(SETTLE * 3);
    let files = library.files();
    assert_eq!(files.len(), 3);

    // What changed meanwhile is published when it can be read.
    write(&library.outside("the same.mp3"), "changed");
    library.stay_silent(SETTLE * 2);
    for name in ["directory", "file.mp3", "new.mp3"] {
        allow(name, 0o755);
    }
    library.wait_until_settled();
    let published = library.published_sorted_since(mark);
    assert_eq!(published, ["created new.mp3", "modified directory/x.mp3"]);
}

#[test]
fn what_a_walk_may_not_read_is_not_called_gone() {
    let mut library = Library::new();
    for name in ["file.mp3", "a/x.mp3", "b/deep/y.mp3", "c/z.mp3"] {
        library.write(name, name);
    }
    library.run_by_nobody().scan();
    let mark = library.mark();
    let allow = |name: &str, mode| fs::set_permissions(library.path(name), fs::Permissions::from_mode(mode)).unwrap();
    allow("file.mp3", 0o000);
    allow("a", 0o000);
    // May be listed and not entered.
    allow("b", 0o444);
    // May be entered and not listed.
    allow("c", 0o111);
    let own = [("file.mp3", 0o644), ("a", 0o755), ("b", 0o755), ("c", 0o755)];
    for name in ["file.mp3", "a", "b", "c"] {
        std::os::unix::fs::chown(library.path(name), Some(NOBODY + 1), None)
            .or_else(|error| match error.kind() {
                // Who is not root keeps what it has, and has no leave all the same.
                std::io::ErrorKind::PermissionDenied => Ok(()),
                _ => Err(error),
            })
            .unwrap();
    }
    let published_before = library.published_since(mark).len();
    let summary = library.scan();
    assert_eq!(library.published_since(mark).len(), published_before, "{}", summary.text);
    for (name, mode) in own {
        fs::set_permissions(library.path(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    library.scan();
    assert_eq!(library.published_since(mark), Vec::<String>::new());
    library.wait_until_converged();
}
