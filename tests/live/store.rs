//! A store that is damaged, lost or of another program is named, left as it is, and rebuilt only on request.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;

use rusqlite::Connection;

use crate::roots::Mounted;
use crate::support::library::Library;

pub(crate) const STORE: &str = "stdout.sqlite";
const LOG: &str = "stdout.sqlite-wal";
const PAGE: usize = 4096;

/// A library of so many published files, with the write-ahead log moved into the store.
fn published(files: usize) -> Library {
    let mut library = Library::new();
    for number in 0..files {
        library.write(name(number), format!("content {number}"));
    }
    library.scan();
    library.wait_until_converged();
    move_log_into_store(&library);
    library
}

pub(crate) fn move_log_into_store(library: &Library) {
    let store = Connection::open(library.state(STORE)).unwrap();
    store.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    drop(store);
    assert!(!library.state(LOG).exists());
}

fn name(number: usize) -> String {
    format!("album {}/{number}.mp3", number % 7)
}

/// The same, killed while it ran: its newest commits are in the log alone.
fn killed(files: usize) -> Library {
    let mut library = published(files);
    library.start();
    library.write("new.mp3", "new");
    library.wait_until_converged();
    library.kill();
    assert!(fs::metadata(library.state(LOG)).unwrap().len() > 0);
    library
}

/// What is in the store's files; those that are not there are empty.
fn bytes(library: &Library) -> [Vec<u8>; 2] {
    [STORE, LOG].map(|name| fs::read(library.state(name)).unwrap_or_default())
}

fn garbage(length: usize) -> Vec<u8> {
    (0..length).map(|at| u8::try_from((at * 7919 + (at >> 4)) % 251).unwrap()).collect()
}

/// Overwrites a page that holds rows, neither the first nor the last of its kind.
fn damage_a_page(library: &Library) {
    let store = Connection::open(library.state(STORE)).unwrap();
    let query = "SELECT pageno FROM dbstat WHERE name = 'files' AND pagetype = 'leaf' ORDER BY path LIMIT 1 OFFSET 9";
    let page: u32 = store.query_row(query, [], |row| row.get(0)).unwrap();
    drop(store);
    let store = File::options().write(true).open(library.state(STORE)).unwrap();
    store.write_all_at(&garbage(PAGE), u64::from(page - 1) * PAGE as u64).unwrap();
}

/// Tries to scan and to watch, which must end with this code and these words, and change nothing.
fn assert_refused(library: &mut Library, what: &str, code: i32, words: &str) {
    let before = bytes(library);
    let path = library.state(STORE);
    for verb in ["scan", "watch"] {
        let (status, log) = library.try_to(&[verb]);
        assert_eq!(status.code(), Some(code), "{what}: {log}");
        let line = log.lines().last().unwrap();
        assert!(line.contains("STATE_DIR: ") && line.contains(path.to_str().unwrap()), "{what}: {log}");
        assert!(line.contains(words), "{what}: {log}");
        assert_eq!(bytes(library), before, "{what}: the files were changed");
    }
}

/// What is done to a store, to which one, and how.
type Case<'a> = (&'a str, fn(usize) -> Library, &'a dyn Fn(&Library));

#[test]
fn a_damaged_store_is_refused_with_what_to_do_and_left_as_it_is() {
    let cut = |name: &'static str, to: u64| {
        move |library: &Library| File::options().write(true).open(library.state(name)).unwrap().set_len(to).unwrap()
    };
    let overwrite = |name: &'static str| {
        move |library: &Library| {
            let length = fs::metadata(library.state(name)).unwrap().len();
            fs::write(library.state(name), garbage(usize::try_from(length).unwrap())).unwrap();
        }
    };
    let first_page = |library: &Library| {
        let store = File::options().write(true).open(library.state(STORE)).unwrap();
        store.write_all_at(&garbage(PAGE - 100), 100).unwrap();
    };
    let another_program = |library: &Library| {
        fs::remove_file(library.state(STORE)).unwrap();
        let other = Connection::open(library.state(STORE)).unwrap();
        other.execute_batch("CREATE TABLE notes (text); PRAGMA user_version = 1;").unwrap();
    };
    let text = |library: &Library| fs::write(library.state(STORE), "SQLite format 3, so it says").unwrap();
    let cases: [Case<'_>; 10] = [
        ("cut in the middle", published, &cut(STORE, 20 * 4096)),
        ("cut in a page", published, &cut(STORE, 5000)),
        ("cut in the header", published, &cut(STORE, 50)),
        ("cut to nothing", published, &cut(STORE, 0)),
        ("cut to nothing beside its log", killed, &cut(STORE, 0)),
        ("garbage", published, &overwrite(STORE)),
        ("garbage in the log", killed, &overwrite(LOG)),
        ("garbage behind the header", published, &first_page),
        ("another program's", published, &another_program),
        ("text", published, &text),
    ];
    for (what, library, damage) in cases {
        let mut library = library(300);
        damage(&library);
        assert_refused(&mut library, what, 1, "is corrupt");
        assert_refused(&mut library, what, 1, "--rebuild-index");
    }
    let mut library = killed(3);
    fs::remove_file(library.state(STORE)).unwrap();
    assert_refused(&mut library, "its log alone", 1, "is corrupt");
}

#[test]
fn a_page_that_is_found_damaged_at_work_ends_the_program_and_stays_as_it_is() {
    let mut library = published(400);
    damage_a_page(&library);
    assert_refused(&mut library, "a page in the middle", 1, "--rebuild-index");
}

/// Not a look that failed, to be tried again for ever.
#[test]
fn a_page_that_is_damaged_while_it_runs_ends_the_program() {
    let mut library = published(400);
    library.start();
    damage_a_page(&library);
    // The scan at the start has read the page. A commit lets every reader read it again.
    library.write("zzz.mp3", "new");
    library.wait_until_converged();
    for number in 0..400 {
        library.write(name(number), format!("other content {number}"));
    }
    assert_eq!(library.ended().code(), Some(1));
    assert_eq!(library.logged("--rebuild-index"), 1);
}

#[test]
fn a_newer_store_and_that_of_another_library_are_refused_and_left_as_they_are() {
    let mut library = published(3);
    let store = Connection::open(library.state(STORE)).unwrap();
    store.pragma_update(None, "user_version", 99).unwrap();
    drop(store);
    assert_refused(&mut library, "newer", 2, "has format 99");
    assert_refused(&mut library, "newer", 2, "use the newer version");
    let store = Connection::open(library.state(STORE)).unwrap();
    store.pragma_update(None, "user_version", 2).unwrap();
    store.execute("UPDATE meta SET value = ?1", [b"/elsewhere".as_slice()]).unwrap();
    drop(store);
    assert_refused(&mut library, "of another library", 2, "contains the index of \\\"/elsewhere\\\"");
}

#[test]
fn after_a_rebuild_consumers_agree_with_the_disk_again() {
    let mut library = published(400);
    damage_a_page(&library);
    let damaged = bytes(&library);
    // Changes from now on are not in the index that the rebuild replaces.
    for number in 0..40 {
        fs::remove_file(library.path(name(number))).unwrap();
        library.write(name(number + 40), format!("other content {number}"));
        fs::rename(library.path(name(number + 80)), library.path(format!("renamed {number}.mp3"))).unwrap();
        library.write(format!("new {number}.mp3"), format!("new {number}"));
    }
    assert_refused(&mut library, "a page in the middle", 1, "--rebuild-index");
    library.expect_everything_again();
    let mark = library.mark();
    let (status, log) = library.try_to(&["scan", "--rebuild-index"]);
    assert!(status.success(), "{log}");
    library.wait_until_converged();
    let mut published: BTreeMap<String, usize> = BTreeMap::new();
    for message in library.messages_since(mark) {
        *published.entry(message.event_type).or_default() += 1;
    }
    assert_eq!(published, BTreeMap::from([("created".to_owned(), 400), ("deleted".to_owned(), 80)]));
    // What was there is kept as it was, and not taken for a store.
    let kept: Vec<_> = fs::read_dir(library.state(""))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|it| it == "sqlite") && *path != library.state(STORE))
        .collect();
    assert_eq!(kept.len(), 1, "{kept:?}");
    assert_eq!(fs::read(&kept[0]).unwrap(), damaged[0]);

    // And from then on it is a store like any other.
    let mark = library.mark();
    assert!(library.scan().hashed_nothing());
    assert!(library.messages_since(mark).is_empty());
    library.start();
    library.write("last.mp3", "last");
    library.wait_until_converged();
    library.stop();
}

/// What was committed and not delivered is delivered first, as it was.
#[test]
fn what_was_not_delivered_is_delivered_after_a_rebuild() {
    let mut library = Library::new();
    library.write("one.mp3", "one");
    library.write("two.mp3", "two");
    // Nobody reads what it says.
    library.run_by(&["sh", "-c", r#""$0" "$@" > /dev/full"#]);
    let (status, log) = library.try_to(&["scan"]);
    assert_eq!(status.code(), Some(1), "{log}");
    library.run_by(&[]);
    let store = Connection::open(library.state(STORE)).unwrap();
    let ids: Vec<String> = store
        .prepare("SELECT correlation_id FROM outbox ORDER BY sequence")
        .unwrap()
        .query_map([], |row| row.get(0))
        .unwrap()
        .map(Result::unwrap)
        .collect();
    drop(store);
    assert_eq!(ids.len(), 2);
    fs::remove_file(library.path("one.mp3")).unwrap();
    library.expect_everything_again();
    let (status, log) = library.try_to(&["scan", "--rebuild-index"]);
    assert!(status.success(), "{log}");
    library.wait_until_converged();
    let messages = library.messages();
    let first: Vec<&String> = messages[..2].iter().map(|message| &message.correlation_id).collect();
    assert_eq!(first, ids.iter().collect::<Vec<_>>());
    assert_eq!(library.published()[2..], ["created two.mp3", "deleted one.mp3"]);
    assert_eq!(messages.iter().map(|message| message.sequence).collect::<Vec<_>>(), [1, 2, 3, 4]);
}

#[test]
fn a_rebuild_is_for_commands_that_read_the_library() {
    let mut library = published(1);
    for verb in ["replay", "approve"] {
        let (status, log) = library.try_to(&[verb, "--rebuild-index"]);
        assert_eq!(status.code(), Some(2), "{log}");
        assert!(log.contains("--rebuild-index: works only with scan and watch"), "{log}");
    }
}

#[test]
fn a_second_program_on_one_state_is_refused_and_disturbs_nothing() {
    let mut library = published(3);
    library.start();
    for arguments in [["scan"].as_slice(), &["watch"], &["scan", "--rebuild-index"]] {
        let refused = library.try_beside(arguments);
        let line = String::from_utf8(refused.stderr).unwrap();
        assert_eq!(refused.status.code(), Some(2), "{line}");
        assert!(line.contains("STATE_DIR: ") && line.contains("in use by another file-watcher"), "{line}");
        assert!(refused.stdout.is_empty());
        library.write("new.mp3", arguments.join(" "));
        library.wait_until_converged();
    }
    // The lock ends with who holds it, however that ends.
    library.kill();
    library.scan();
    library.wait_until_converged();
}

/// Root may write wherever it wants, so this is about somebody who is not.
#[test]
fn a_state_that_may_not_be_written_is_refused_with_the_name_of_its_setting() {
    let allow = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    let mut library = Library::new();
    library.run_by_nobody();
    library.write("one.mp3", "one");
    library.scan();
    let rebuilding: &[&str] = &["scan", "--rebuild-index"];
    for (what, name, mode, refused) in [
        ("the folder", "", 0o555, rebuilding),
        ("the folder, not even to be entered", "", 0o000, rebuilding),
        ("the store", STORE, 0o444, &["watch"]),
        ("the store, not even to be read", STORE, 0o000, rebuilding),
        ("the lock", "lock", 0o444, rebuilding),
        ("the mark", "stdout.mark", 0o444, &["watch"]),
    ] {
        // With a log that is there already, a folder need not be written to.
        move_log_into_store(&library);
        let path = library.state(name);
        let usual = fs::metadata(&path).unwrap().permissions().mode();
        let before = bytes(&library);
        allow(&path, mode);
        for arguments in [["scan"].as_slice(), refused] {
            let (status, log) = library.try_to(arguments);
            assert_eq!(status.code(), Some(2), "{what} {arguments:?}: {log}");
            let line = log.lines().last().unwrap();
            assert!(line.contains("STATE_DIR: "), "{what} {arguments:?}: {log}");
        }
        allow(&path, usual);
        assert_eq!(bytes(&library), before, "{what}");
    }
    library.write("two.mp3", "two");
    library.scan();
    library.wait_until_converged();
}

#[test]
fn a_state_on_a_disk_that_is_mounted_for_reading_only_is_refused() {
    let mut library = Library::new();
    let disk = Mounted::tmpfs_of("16m", &library.state(""));
    for files in 0..2 {
        disk.make_writable(false);
        let (status, log) = library.try_to(&["watch"]);
        assert_eq!(status.code(), Some(2), "{log}");
        assert!(log.contains("STATE_DIR: ") && log.contains("Read-only file system"), "{log}");
        disk.make_writable(true);
        library.write(format!("{files}.mp3"), "a file");
        library.scan();
        library.wait_until_converged();
    }
    drop(library);
    drop(disk);
}
