//! Files that are written, in every way in which programs write them.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use rustix::fs::{Timespec, Timestamps};

use crate::special::Openings;
use crate::support::disk::{run, sha256};
use crate::support::library::{Library, Mark, SETTLE};

/// How steadily a test writes. If the machine was too busy, a file may have settled, and it proves nothing that the file
/// was published.
pub(crate) struct Pace {
    last: Instant,
    longest: Duration,
}

impl Pace {
    pub(crate) fn new() -> Self {
        Self { last: Instant::now(), longest: Duration::ZERO }
    }

    pub(crate) fn step(&mut self) {
        self.longest = self.longest.max(self.last.elapsed());
        self.last = Instant::now();
    }

    pub(crate) fn was_steady(&self) -> bool {
        self.longest < SETTLE * 3 / 4
    }
}

#[test]
fn a_finished_file_is_published_once_however_it_was_made() {
    let library = Library::watched();
    let content = vec![7; 3_000_000];
    fs::write(library.outside("x.mp3"), &content).unwrap();
    fs::write(library.outside("moved in.mp3"), &content[1..]).unwrap();

    library.write("written.mp3", &content[2..]);
    run("cp", &[&library.outside("x.mp3"), &library.path("copied.mp3")]);
    run("cp", &[&"-p", &library.outside("x.mp3"), &library.path("copied with times.mp3")]);
    fs::rename(library.outside("moved in.mp3"), library.path("moved in.mp3")).unwrap();
    library.write("download.mp3.part", &content[3..]);
    fs::rename(library.path("download.mp3.part"), library.path("download.mp3")).unwrap();
    run("dd", &[&"if=/dev/zero", &format!("of={}", library.path("dd.mp3").display()), &"bs=4k", &"count=500"]);

    library.wait_until_settled();
    let published = library.published_sorted_since(Mark::default());
    let names = ["copied with times", "copied", "dd", "download", "moved in", "written"];
    assert_eq!(published, names.map(|name| format!("created {name}.mp3")));
}

#[test]
fn a_file_that_is_replaced_at_once_is_modified() {
    let library = Library::watched();
    library.write("x.mp3", "old");
    library.wait_until_settled();
    let mark = library.mark();
    // As rsync and editors do, also under a name that looks like audio.
    library.write(".x.mp3.tmp", "new");
    fs::rename(library.path(".x.mp3.tmp"), library.path("x.mp3")).unwrap();
    library.wait_until_settled();
    assert_eq!(library.published_since(mark), ["modified x.mp3"]);

    let mark = library.mark();
    library.write("temporary.mp3", "newer");
    fs::rename(library.path("temporary.mp3"), library.path("x.mp3")).unwrap();
    library.wait_until_settled();
    assert_eq!(library.published_since(mark), ["modified x.mp3"]);
}

#[test]
fn hard_links_are_files_of_their_own() {
    let library = Library::watched();
    library.write("x.mp3", "one");
    library.wait_until_settled();
    let mark = library.mark();
    fs::hard_link(library.path("x.mp3"), library.path("y.mp3")).unwrap();
    library.wait_until_settled();
    assert_eq!(library.published_since(mark), ["created y.mp3"]);

    // A write by one name gives no event for the other.
    let mark = library.mark();
    library.write("x.mp3", "two");
    library.wait_until_settled();
    let published = library.published_sorted_since(mark);
    assert_eq!(published, ["modified x.mp3", "modified y.mp3"]);

    let mark = library.mark();
    fs::remove_file(library.path("x.mp3")).unwrap();
    library.wait_until_settled();
    assert_eq!(library.published_since(mark), ["deleted x.mp3"]);
}

#[test]
fn a_file_that_is_cut_off_is_modified() {
    let mut library = Library::new();
    library.set("RESCAN_INTERVAL_SECS", "2").start();
    library.write("handle.mp3", "0123456789");
    library.write("path.mp3", "0123456789");
    library.wait_until_converged();
    File::options().write(true).open(library.path("handle.mp3")).unwrap().set_len(5).unwrap();
    library.wait_until_converged();
    // inotify does not report truncate(2) on a path; the walk finds it.
    run("python3", &[&"-c", &"import os, sys; os.truncate(sys.argv[1], 5)", &library.path("path.mp3")]);
    library.wait_until_converged();
}

#[test]
fn what_is_written_through_a_memory_map_is_found_when_the_file_is_closed() {
    let library = Library::watched();
    library.write("x.mp3", vec![0; 100_000]);
    library.wait_until_settled();
    // The second write is to a page that is dirty already, so that no time of the file changes with it;
    // and then the times are set back, so that only the close is an event.
    let script = "
import mmap, os, sys, time
before = os.stat(sys.argv[1])
with open(sys.argv[1], 'r+b') as file:
    memory = mmap.mmap(file.fileno(), 0)
    memory[5000] = 1
    time.sleep(1.2)
    os.utime(sys.argv[1], ns=(before.st_atime_ns, before.st_mtime_ns))
    time.sleep(1.2)
    memory[5001] = 2
    memory.close()
";
    run("python3", &[&"-c", &script, &library.path("x.mp3")]);
    library.wait_until_settled();
}

#[test]
fn touching_and_other_attributes_are_not_worth_a_message() {
    let library = Library::watched();
    library.write("x.mp3", "same");
    library.wait_until_settled();
    let path = library.path("x.mp3");
    File::options().write(true).open(&path).unwrap().set_modified(SystemTime::now()).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    run("touch", &[&"-d", &"2001-01-01", &path]);
    fs::write(&path, "same").unwrap();
    library.stay_silent(SETTLE * 3);
    library.wait_until_converged();
}

#[test]
fn a_file_that_is_written_slowly_is_published_when_it_is_closed_and_not_before() {
    let library = Library::watched();
    let mut file = File::create(library.path("slow.mp3")).unwrap();
    let mut pace = Pace::new();
    for _ in 0..8 {
        file.write_all(&[1; 10_000]).unwrap();
        pace.step();
        // Shorter than it takes to be called finished, longer than the debounce.
        thread::sleep(SETTLE / 3);
    }
    pace.step();
    drop(file);
    library.wait_until_settled();
    assert!(library.published() == ["created slow.mp3"] || !pace.was_steady(), "{:?}", library.published());
}

#[test]
fn a_file_that_is_left_open_is_published_once_it_settles() {
    let library = Library::watched();
    let mut file = File::create(library.path("open.mp3")).unwrap();
    file.write_all(b"first").unwrap();
    let quiet = sha256("first");
    library.wait_for("the open file", |oracle| oracle.files.get(Path::new("open.mp3")) == Some(&quiet));
    file.write_all(b" second").unwrap();
    thread::sleep(SETTLE * 2);
    drop(file);
    library.wait_until_settled();
    assert_eq!(library.published(), ["created open.mp3", "modified open.mp3"]);
}

#[test]
fn a_file_that_is_appended_to_for_ever_starves_no_other_and_is_never_published_half() {
    let library = Library::watched();
    let done = AtomicBool::new(false);
    let whole = thread::scope(|scope| {
        let appending = scope.spawn(|| {
            let mut file = File::create(library.path("endless.mp3")).unwrap();
            let mut whole = Vec::new();
            let mut pace = Pace::new();
            while !done.load(Ordering::Relaxed) {
                file.write_all(b"and on ").unwrap();
                whole.extend_from_slice(b"and on ");
                thread::sleep(Duration::from_millis(20));
                pace.step();
            }
            (whole, pace)
        });
        let begun = Instant::now();
        for number in 0..10 {
            let (name, content) = (format!("{number}.mp3"), number.to_string());
            library.write(&name, &content);
            library.wait_for("the others", |oracle| oracle.files.get(Path::new(&name)) == Some(&sha256(&content)));
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "the others wait too long: {:?}", begun.elapsed());
        thread::sleep(SETTLE * 3);
        let known = library.files().len();
        done.store(true, Ordering::Relaxed);
        let (whole, pace) = appending.join().unwrap();
        assert!(known == 10 || !pace.was_steady(), "nothing is known of a file that never rested");
        whole
    });
    library.wait_until_settled();
    assert_eq!(library.files()[Path::new("endless.mp3")], sha256(whole));
}

#[test]
fn a_file_that_is_closed_after_each_of_many_writes_is_never_published_half() {
    let library = Library::watched();
    let begun = Instant::now();
    let mut whole = Vec::new();
    // No pause is as long as the debounce.
    while begun.elapsed() < Duration::from_secs(2) {
        whole.extend_from_slice(b"a line\n");
        File::options()
            .create(true)
            .append(true)
            .open(library.path("log.mp3"))
            .unwrap()
            .write_all(b"a line\n")
            .unwrap();
        thread::sleep(Duration::from_millis(5));
    }
    library.wait_until_settled();
    // A write may have been put off for longer than the debounce, by a machine that has other work.
    let published = library.messages();
    let prefixes: Vec<String> = (0..=whole.len() / 7).map(|lines| sha256(&whole[..lines * 7])).collect();
    for message in &published {
        assert!(prefixes.contains(message.sha256.as_ref().unwrap()), "no state of the file: {}", message.short());
    }
    assert!(published.len() < 10, "{published:#?}");
}

#[test]
fn a_file_that_changes_while_it_is_hashed_is_not_published_as_it_never_was() {
    const MEGABYTE: usize = 1 << 20;
    let mut library = Library::new();
    // Read so slowly that reading takes two seconds.
    library.set("MAX_BYTES_PER_SECOND", "15M").start();
    let mut content = vec![0_u8; 30 * MEGABYTE];
    library.write("big.mp3", &content);
    let before = sha256(&content);
    thread::sleep(Duration::from_millis(700));

    // Behind what was read already, and before it; size and modification time end as they began.
    let path = library.path("big.mp3");
    let file = File::options().write(true).open(&path).unwrap();
    let modified = file.metadata().unwrap().modified().unwrap();
    for (place, byte) in [(29 * MEGABYTE, 1), (10, 2)] {
        file.write_at(&[byte], place as u64).unwrap();
        content[place] = byte;
    }
    file.set_modified(modified).unwrap();
    drop(file);
    library.wait_until_settled();
    let states = [before, sha256(&content)];
    for message in library.messages() {
        assert!(states.contains(message.sha256.as_ref().unwrap()), "no state of the file: {}", message.short());
    }
}

#[test]
fn a_file_from_the_future_or_the_far_past_is_a_file() {
    let library = Library::watched();
    for (name, seconds) in [("future.mp3", 4_000_000_000), ("past.mp3", 0), ("before.mp3", -1_000_000)] {
        let path = library.path(name);
        fs::write(&path, name).unwrap();
        let time = Timespec { tv_sec: seconds, tv_nsec: 5 };
        let file = File::open(&path).unwrap();
        rustix::fs::futimens(&file, &Timestamps { last_access: time, last_modification: time }).unwrap();
    }
    library.wait_until_settled();
    assert_eq!(library.published().len(), 3);
}

#[test]
fn a_tagger_that_rewrites_in_place_and_renames_gives_renamed_then_modified() {
    let library = Library::watched();
    library.write("a/x.mp3", "title: old");
    library.wait_until_settled();
    let mark = library.mark();
    retag(&library.path("a/x.mp3"), "title: new");
    fs::rename(library.path("a/x.mp3"), library.path("a/y.mp3")).unwrap();
    library.wait_until_settled();
    assert_eq!(library.published_since(mark), ["renamed a/x.mp3 -> a/y.mp3", "modified a/y.mp3"]);

    // With time enough between the two that nothing is pending any more.
    let mark = library.mark();
    retag(&library.path("a/y.mp3"), "title: own");
    library.wait_until_settled();
    fs::create_dir(library.path("b")).unwrap();
    fs::rename(library.path("a/y.mp3"), library.path("b/y.mp3")).unwrap();
    library.wait_until_settled();
    assert_eq!(library.published_since(mark), ["modified a/y.mp3", "moved a/y.mp3 -> b/y.mp3"]);
}

/// Writes in place, with the same size, and sets the modification time back, as Picard does if it is configured so.
pub(crate) fn retag(path: &std::path::Path, content: &str) {
    let file = File::options().write(true).open(path).unwrap();
    let modified = file.metadata().unwrap().modified().unwrap();
    assert_eq!(file.metadata().unwrap().len(), content.len() as u64, "same size");
    file.write_at(content.as_bytes(), 0).unwrap();
    file.set_modified(modified).unwrap();
}

#[test]
fn a_young_file_that_is_moved_onto_another_one_is_its_new_version() {
    let library = Library::watched();
    library.write("a/x.mp3", "mover");
    library.write("b/x.mp3", "goner");
    library.wait_until_settled();
    let mark = library.mark();
    fs::rename(library.path("a/x.mp3"), library.path("b/x.mp3")).unwrap();
    library.wait_until_settled();
    assert_eq!(library.published_since(mark), ["deleted a/x.mp3", "modified b/x.mp3"]);
}

#[test]
fn a_file_that_is_only_renamed_is_not_read_again() {
    let library = Library::watched();
    library.write("a/x.mp3", "content");
    library.write("b/y.mp3", "beside");
    library.wait_until_settled();
    let mark = library.mark();
    let openings = Openings::of(&library.path("a/x.mp3"));
    // Whoever waits until the messages agree with the disk reads the file, too.
    let wait_for = |messages: usize| {
        library.wait_for("the rename", |consumer| consumer.messages.len() == messages);
        library.stay_silent(SETTLE);
    };
    let before = library.published().len();
    fs::rename(library.path("a/x.mp3"), library.path("a/y.mp3")).unwrap();
    wait_for(before + 1);
    fs::rename(library.path("a/y.mp3"), library.path("b/x.mp3")).unwrap();
    wait_for(before + 2);
    assert_eq!(library.published_since(mark), ["renamed a/x.mp3 -> a/y.mp3", "moved a/y.mp3 -> b/x.mp3"]);
    assert_eq!(openings.count(), 0);
    drop(File::open(library.path("b/x.mp3")).unwrap());
    library.stay_silent(SETTLE);
    assert_eq!(openings.count(), 1, "the test itself would notice");
}

#[test]
fn a_file_that_is_closed_twice_a_second_is_published_in_growing_steps_and_to_its_end() {
    const APPENDS: usize = 20;
    let library = Library::watched();
    let append = || {
        let mut file = fs::OpenOptions::new().create(true).append(true).open(library.path("show.mp3")).unwrap();
        file.write_all(b"more").unwrap();
    };
    append();
    library.wait_until_settled();
    let mark = library.mark();
    for _ in 0..APPENDS {
        append();
        // As a recorder does.
        thread::sleep(Duration::from_millis(250));
    }
    // Another path does not wait for it.
    library.write("other.mp3", "other");
    library.wait_for("the other file", |oracle| oracle.files.contains_key(Path::new("other.mp3")));
    library.wait_until_converged();
    let published = library.published_since(mark);
    let steps = published.iter().filter(|published| *published == "modified show.mp3").count();
    assert!((1..=APPENDS / 4).contains(&steps), "{published:?}");
}

#[test]
fn a_change_without_an_event_is_found_while_it_runs() {
    let mut library = Library::new();
    // So that the slow walk runs; the walk of everything comes too late.
    library.set("RESCAN_INTERVAL_SECS", "3600");
    library.write("cut.mp3", "a longer content");
    library.write("same.mp3", "same");
    library.start();
    library.wait_until_converged();
    let mark = library.mark();
    run("python3", &[&"-c", &"import os, sys; os.truncate(sys.argv[1], 5)", &library.path("cut.mp3")]);
    library.wait_until_converged();
    assert_eq!(library.published_since(mark), ["modified cut.mp3"]);
    assert_eq!(library.logged("changed without an event"), 1);
}
