//! STATE_DIR on a disk that is full, and then has room again.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::PathBuf;

use rusqlite::Connection;

use crate::roots::Mounted;
use crate::store::STORE;
use crate::support::disk::run;
use crate::support::library::Library;
use crate::support::process::LIMIT;

/// Files whose messages fill the pipe to the reader many times over.
const FILES: usize = 500;

/// Reads nothing of what the program says until somebody has opened a pipe and closed it again.
const READS_LATER: &str = r#"exec "$1" "${@:2}" > >(cat "$0" > /dev/null; exec cat)"#;

/// A library whose state is on a small disk, and whose messages are not read before they are let through.
struct Cramped {
    gate: Gate,
    library: Library,
    disk: Mounted,
}

/// The pipe that somebody has to open.
struct Gate(PathBuf);

impl Drop for Gate {
    fn drop(&mut self) {
        // Whoever waits for it still waits no longer. To open a pipe for both takes nobody at its other end.
        let _ = File::options().read(true).write(true).open(&self.0);
    }
}

impl Cramped {
    fn new() -> Self {
        let mut library = Library::new();
        let disk = Mounted::tmpfs_of("16m", &library.state(""));
        let gate = library.outside("gate");
        run("mkfifo", &[&gate]);
        library.run_by(&["bash", "-c", READS_LATER, gate.to_str().unwrap()]);
        Self { gate: Gate(gate), library, disk }
    }

    fn add_files(&self, prefix: &str, files: usize) {
        for number in 0..files {
            self.library.write(format!("{prefix}/{number}.mp3"), format!("{prefix} {number}"));
        }
    }

    fn fill_the_disk(&self) {
        let mut filler = File::create(self.filler()).unwrap();
        let mut piece = vec![0; 1 << 20];
        while !piece.is_empty() {
            match filler.write(&piece) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::StorageFull => piece.truncate(piece.len() / 2),
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// The same beside a program that runs: also of the room that its log has taken nothing is left.
    fn fill_the_disk_and_the_log(&self) {
        let store = Connection::open(self.library.state(STORE)).unwrap();
        store.busy_timeout(LIMIT).unwrap();
        let emptied = || store.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, i64>(0));
        while emptied().unwrap() != 0 {}
        self.fill_the_disk();
    }

    fn make_room(&self) {
        fs::remove_file(self.filler()).unwrap();
    }

    fn filler(&self) -> PathBuf {
        self.library.state("filler")
    }

    fn let_messages_through(&self) {
        drop(File::options().write(true).open(&self.gate.0).unwrap());
    }

    /// Everything was published once, and nothing is left to publish.
    fn assert_all_published_once(self) {
        self.library.wait_until_converged();
        assert_eq!(self.library.redelivered(), 0);
        self.assert_all_published();
    }

    /// Nothing is left to publish.
    fn assert_all_published(mut self) {
        self.library.run_by(&[]);
        let mark = self.library.mark();
        self.library.scan();
        assert!(self.library.messages_since(mark).is_empty());
        drop(self.library);
        drop(self.disk);
    }
}

#[test]
fn what_was_delivered_while_the_disk_was_full_is_forgotten_when_there_is_room() {
    let mut cramped = Cramped::new();
    cramped.add_files("a", FILES);
    let mark = cramped.library.mark();
    cramped.library.spawn_with(&["scan"]);
    cramped.library.wait_for_log(mark, "everything is indexed; delivering");
    cramped.fill_the_disk_and_the_log();
    cramped.let_messages_through();
    cramped.library.wait_for("all is delivered", |consumer| consumer.messages.len() == FILES);
    cramped.library.wait_for_log(mark, "cannot be removed from the outbox");
    cramped.make_room();
    assert!(cramped.library.ended().success());
    cramped.assert_all_published_once();
}

#[test]
fn while_the_disk_is_full_intake_waits_and_delivery_goes_on() {
    let mut cramped = Cramped::new();
    let mark = cramped.library.mark();
    cramped.library.start();
    cramped.add_files("a", FILES);
    cramped.library.wait_for_logged("committed", FILES);
    cramped.fill_the_disk_and_the_log();
    cramped.add_files("b", 20);
    cramped.library.wait_for_log(mark, "intake waits");
    cramped.let_messages_through();
    cramped.library.wait_for("what was committed is delivered", |consumer| consumer.messages.len() == FILES);
    fs::remove_dir_all(cramped.library.path("a")).unwrap();
    cramped.make_room();
    cramped.library.wait_until_converged();
    cramped.library.stop();
    cramped.assert_all_published_once();
}

/// If there is room to open the store, everything else waits for more room; if there is not, the start fails and says so.
#[test]
fn a_start_on_a_full_disk_waits_for_room_or_says_what_is_wrong() {
    for has_log in [true, false] {
        let mut cramped = Cramped::new();
        cramped.library.run_by(&[]);
        cramped.library.start();
        cramped.add_files("a", 20);
        cramped.library.wait_until_converged();
        cramped.library.kill();
        if !has_log {
            crate::store::move_log_into_store(&cramped.library);
        }
        cramped.add_files("b", 20);
        cramped.fill_the_disk();
        let mark = cramped.library.mark();
        if has_log {
            cramped.library.spawn();
            cramped.library.wait_for_log(mark, "intake waits");
            cramped.make_room();
        } else {
            let (status, log) = cramped.library.try_to(&["watch"]);
            assert_eq!(status.code(), Some(1), "{log}");
            let line = log.lines().last().unwrap();
            assert!(line.contains("STATE_DIR: ") && line.contains("check that its disk has free space"), "{line}");
            cramped.make_room();
            cramped.library.spawn();
        }
        cramped.library.wait_until_converged();
        cramped.library.stop();
        cramped.assert_all_published();
    }
}
