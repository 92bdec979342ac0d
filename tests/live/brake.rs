//! Deletes that are too many to be believed: held, and released by a person or by the files.

use std::fs;
use std::time::Duration;

use crate::support::disk::run;
use crate::support::library::{HELD, Library, Mark};

/// More than are let pass however large a share they are.
const FILES: usize = 20;
const GONE: usize = 15;

fn full() -> Library {
    let library = Library::new();
    for number in 0..FILES {
        library.write(format!("{number}.mp3"), format!("content {number}"));
    }
    library
}

/// Takes most of it away, and keeps it elsewhere.
fn take_most(library: &Library) {
    for number in 0..GONE {
        fs::rename(library.path(format!("{number}.mp3")), library.outside(format!("{number}.mp3"))).unwrap();
    }
}

fn give_back(library: &Library) {
    run("cp", &[&"-a", &library.outside("."), &library.root()]);
}

/// Most files are missing, none is published as deleted, and the log names the command for it.
fn is_held(library: &Library, mark: Mark) {
    library.wait_for_log(mark, HELD);
    library.wait_for_log(mark, "`file-watcher approve");
    library.stay_silent(Duration::from_millis(2500));
    assert_eq!((library.files().len(), library.published_since(mark).len()), (FILES, 0));
}

/// A person approves the deletes, and they are published.
fn is_released_by_approval(library: &Library, mark: Mark) {
    let (code, said) = library.ask("approve");
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains(&format!("{GONE} deletes are held")), "{said}");
    assert!(said.contains(&format!("{GONE} published as deleted; 0 still held")), "{said}");
    library.wait_until_settled();
    let published = library.messages_since(mark);
    assert_eq!(published.len(), GONE);
    assert!(published.iter().all(|message| message.event_type == "deleted"));
    let (code, said) = library.ask("approve");
    assert!(code == Some(0) && said.contains("no delete is held"), "{said}");
}

#[test]
fn what_is_missing_at_the_start_is_held_until_a_person_approves_of_it() {
    let mut library = full();
    library.scan();
    take_most(&library);
    let mark = library.mark();
    library.start();
    is_held(&library, mark);
    is_released_by_approval(&library, mark);
    // What was approved is over with: the next mass of deletes is held again.
    library.write("0.mp3", "anew");
    library.wait_until_settled();
}

#[test]
fn what_goes_missing_while_nobody_sees_it_is_held_until_a_person_approves_of_it() {
    let mut library = full();
    library.set("WATCH_MODE", "poll").set("POLL_INTERVAL_SECS", "1").start();
    library.wait_until_settled();
    let mark = library.mark();
    take_most(&library);
    is_held(&library, mark);
    is_released_by_approval(&library, mark);
}

#[test]
fn held_deletes_are_dropped_when_the_files_come_back_and_nothing_is_published() {
    for mode in ["native", "poll"] {
        let mut library = full();
        library.set("WATCH_MODE", mode).set("POLL_INTERVAL_SECS", "1").set("RESCAN_INTERVAL_SECS", "1");
        library.scan();
        take_most(&library);
        let mark = library.mark();
        library.start();
        is_held(&library, mark);
        give_back(&library);
        library.wait_until_settled();
        library.stay_silent(Duration::from_millis(1500));
        assert_eq!(library.published_since(mark), Vec::<String>::new(), "{mode}");

        // The brake holds nothing any more, and holds anew what goes missing next.
        library.stop();
        take_most(&library);
        let mark = library.mark();
        library.start();
        is_held(&library, mark);
    }
}

#[test]
fn what_the_kernel_says_was_deleted_is_believed_however_much_it_is() {
    let mut library = full();
    library.start();
    library.wait_until_settled();
    for number in 0..FILES {
        fs::remove_file(library.path(format!("{number}.mp3"))).unwrap();
    }
    library.wait_until_settled();
    assert_eq!(library.files().len(), 0);
    assert_eq!(library.logged(HELD), 0);
}

#[test]
fn without_a_service_approval_looks_and_publishes_by_itself() {
    let mut library = full();
    library.scan();
    take_most(&library);
    let mark = library.mark();
    let summary = library.scan();
    assert_eq!(summary.figure("held deletes"), GONE.to_string());
    assert_eq!(library.published_since(mark).len(), 0);
    library.until_it_ends("approve");
    assert_eq!(library.published_since(mark).len(), GONE);
    library.wait_until_converged();
}
