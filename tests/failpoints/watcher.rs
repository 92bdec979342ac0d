//! The watcher's thread ended by a bug, at one of the kernel's events.

use std::fs;

use file_watcher::failpoint::WATCHER;

use crate::support::disk::require_root;
use crate::support::library::Library;

#[test]
fn a_watcher_whose_thread_ends_is_started_again_and_nothing_is_missed() {
    require_root();
    for mode in ["native", "fanotify"] {
        let mut library = Library::new();
        library.write("renamed.mp3", "renamed");
        library.write("old/x.mp3", "moved");
        library.set("WATCH_MODE", mode);
        library.set("FILE_WATCHER_ABORT_AT", format!("{WATCHER}:5")).start();
        library.wait_until_settled();
        let mark = library.mark();
        for number in 0..20 {
            library.write(format!("{number}/x.mp3"), number.to_string());
        }
        fs::rename(library.path("renamed.mp3"), library.path("now.mp3")).unwrap();
        fs::rename(library.path("old"), library.path("moved")).unwrap();
        library.wait_for_log(mark, "the watcher stopped; it is restarted");
        library.wait_until_settled();
        assert!(
            library.published_since(mark).iter().all(|published| !published.starts_with("deleted")),
            "{:?}",
            library.published_since(mark)
        );

        let mark = library.mark();
        library.write("19/y.mp3", "reported");
        library.write("moved/y.mp3", "reported, too");
        library.wait_until_settled();
        let published = library.messages_since(mark);
        assert_eq!(published.len(), 2);
        assert!(published.iter().all(|message| message.origin == "watch"), "{published:?}");
        assert_eq!(library.logged("the watcher stopped"), 1);
    }
}
