//! A library that has another place now.

use std::fs;
use std::io::BufRead;
use std::path::Path;
use std::process::Output;

use crate::support::disk::{files_in, sha256};
use crate::support::library::Library;
use crate::support::oracle::Oracle;

/// A consumer that knows files by their absolute paths, and the kinds of its last messages.
struct Consumer {
    oracle: Oracle,
    kinds: Vec<String>,
}

impl Consumer {
    fn new() -> Self {
        Self { oracle: Oracle::of_any_root(), kinds: Vec::new() }
    }

    fn take(&mut self, output: &Output) {
        for line in output.stdout.lines() {
            assert_eq!(self.oracle.take_json(line.unwrap().as_bytes()), Ok(true));
            self.kinds.extend(self.oracle.messages.last().map(|message| message.event_type.clone()));
        }
    }

    /// The kinds of the messages since the last call.
    fn kinds(&mut self) -> Vec<String> {
        std::mem::take(&mut self.kinds)
    }

    fn agrees_with(&self, root: &Path) {
        let disk = files_in(root).into_iter().map(|(path, sha256)| (root.join(path), sha256)).collect();
        assert_eq!(self.oracle.files, disk);
    }
}

fn run(library: &Library, consumer: &mut Consumer, arguments: &[&str], code: i32) -> String {
    let output = library.try_beside(arguments);
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {log}");
    consumer.take(&output);
    log
}

/// A library of three files that was scanned and then moved; its old place and its new one.
fn moved() -> (Library, Consumer, String, String) {
    let library = Library::new();
    for name in ["a.mp3", "b/c.mp3", "b/d.mp3"] {
        library.write(name, name);
    }
    let mut consumer = Consumer::new();
    run(&library, &mut consumer, &["scan"], 0);
    assert_eq!(consumer.kinds(), ["created"; 3]);
    let (old, new) = (text(&library.root()), text(&library.outside("music")));
    fs::rename(&old, &new).unwrap();
    (library, consumer, old, new)
}

#[test]
fn a_library_that_was_moved_is_refused_with_what_to_do_and_relocated_without_reading_a_file() {
    let (library, mut consumer, old, new) = moved();
    let log = run(&library, &mut consumer, &["scan", &new], 2);
    let what_to_do = format!("file-watcher relocate {old:?} {new:?}").replace('"', "\\\"");
    assert!(log.contains(&what_to_do), "{log}");
    let log = run(&library, &mut consumer, &["relocate", "/elsewhere", &new], 2);
    assert!(log.contains("not of \\\"/elsewhere\\\""), "{log}");

    let log = run(&library, &mut consumer, &["relocate", &old, &new], 0);
    assert!(log.contains("3 files published as moved"), "{log}");
    assert_eq!(consumer.kinds(), ["moved"; 3]);
    consumer.agrees_with(Path::new(&new));
    let log = run(&library, &mut consumer, &["scan", &new], 0);
    assert!(log.contains("hashed        0 B"), "{log}");
    let log = run(&library, &mut consumer, &["relocate", &old, &new], 0);
    assert!(log.contains("nothing to relocate"), "{log}");
    assert_eq!(consumer.kinds(), Vec::<String>::new());
}

#[test]
fn relocate_from_does_it_at_a_start_once_and_finds_what_changed_too() {
    let (mut library, mut consumer, old, new) = moved();
    fs::remove_file(Path::new(&new).join("a.mp3")).unwrap();
    fs::write(Path::new(&new).join("b/c.mp3"), "changed").unwrap();
    library.set("RELOCATE_FROM", &old);
    run(&library, &mut consumer, &["scan", &new], 0);
    assert_eq!(consumer.kinds(), ["moved", "moved", "moved", "modified", "deleted"]);
    consumer.agrees_with(Path::new(&new));
    assert_eq!(consumer.oracle.files[&Path::new(&new).join("b/c.mp3")], sha256("changed"));
    let log = run(&library, &mut consumer, &["scan", &new], 0);
    assert!(!log.contains("relocated"), "{log}");
    assert_eq!(consumer.kinds(), Vec::<String>::new());
}

#[test]
fn the_state_of_the_old_place_is_found_where_it_is_by_default() {
    let mut library = Library::new();
    let home = library.outside("home");
    library.set("STATE_DIR", "").set("HOME", &home);
    library.write("a.mp3", "a");
    let mut consumer = Consumer::new();
    run(&library, &mut consumer, &["scan"], 0);
    let states = home.join(".local/state/file-watcher");
    let names = || fs::read_dir(&states).unwrap().map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>();
    let before = names();
    let (old, new) = (text(&library.root()), text(&library.outside("music")));
    fs::rename(&old, &new).unwrap();
    run(&library, &mut consumer, &["relocate", &old, &new], 0);
    assert_eq!(consumer.kinds(), ["created", "moved"]);
    assert!(names().len() == 1 && names() != before, "{:?}", names());
    run(&library, &mut consumer, &["scan", &new], 0);
    consumer.agrees_with(Path::new(&new));

    let third = text(&library.outside("third"));
    fs::rename(&new, &third).unwrap();
    library.set("RELOCATE_FROM", &new);
    for expected in [["moved"].as_slice(), &[]] {
        consumer.kinds();
        run(&library, &mut consumer, &["scan", &third], 0);
        assert_eq!(consumer.kinds(), expected);
    }
    consumer.agrees_with(Path::new(&third));
    assert_eq!(names().len(), 1);
}

#[test]
fn a_relocation_beside_a_running_service_is_refused() {
    let mut library = Library::new();
    library.write("a.mp3", "a");
    library.start();
    let new = library.outside("music");
    fs::create_dir(&new).unwrap();
    let output = library.try_beside(&["relocate", &text(&library.root()), &text(&new)]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("is in use by another file-watcher"));
}

#[test]
fn a_rebuild_at_the_new_place_deletes_the_old_paths() {
    let (library, mut consumer, _, new) = moved();
    run(&library, &mut consumer, &["scan", "--rebuild-index", &new], 0);
    assert_eq!(consumer.kinds(), ["deleted", "deleted", "deleted", "created", "created", "created"]);
    consumer.agrees_with(Path::new(&new));
}

fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}
