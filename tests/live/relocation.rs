//! A library that has another place now.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Output;

use serde_json::Value;

use crate::library::{Library, files_in, sha256};

/// A consumer that knows files by their absolute paths.
#[derive(Default)]
struct Consumer {
    files: BTreeMap<String, String>,
    sequence: u64,
    told: Vec<String>,
}

impl Consumer {
    fn take(&mut self, output: &Output) {
        for line in String::from_utf8(output.stdout.clone()).unwrap().lines() {
            let message: Value = serde_json::from_str(line).unwrap();
            let text = |field: &str| message[field].as_str().map(str::to_owned);
            self.sequence += 1;
            assert_eq!(message["sequence"].as_u64(), Some(self.sequence), "a gap, or out of order");
            let kind = text("event_type").unwrap();
            if let Some(old_path) = text("old_path") {
                assert_eq!(self.files.remove(&old_path), text("sha256_hash"), "{line}");
            }
            let path = text("file_path").unwrap();
            match text("sha256_hash") {
                Some(hash) => drop(self.files.insert(path, hash)),
                None => assert!(self.files.remove(&path).is_some(), "{line}"),
            }
            self.told.push(kind);
        }
    }

    fn told(&mut self) -> Vec<String> {
        std::mem::take(&mut self.told)
    }

    fn agrees_with(&self, root: &Path) {
        let absolute = |path: Vec<u8>| format!("{}/{}", root.display(), String::from_utf8(path).unwrap());
        let disk: BTreeMap<String, String> =
            files_in(root).into_iter().map(|(path, hash)| (absolute(path), hash)).collect();
        assert_eq!(self.files, disk);
    }
}

fn run(library: &Library, consumer: &mut Consumer, arguments: &[&str], code: i32) -> String {
    let output = library.try_beside(arguments);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
    consumer.take(&output);
    said
}

/// A library of three files that was scanned and then moved; its old place and its new one.
fn moved() -> (Library, Consumer, String, String) {
    let library = Library::new();
    for name in ["a.mp3", "b/c.mp3", "b/d.mp3"] {
        library.write(name, name);
    }
    let mut consumer = Consumer::default();
    run(&library, &mut consumer, &["scan"], 0);
    assert_eq!(consumer.told(), ["created"; 3]);
    let (old, new) = (text(&library.root()), text(&library.outside("music")));
    fs::rename(&old, &new).unwrap();
    (library, consumer, old, new)
}

#[test]
fn a_library_that_was_moved_is_refused_with_what_to_do_and_relocated_without_reading_a_file() {
    let (library, mut consumer, old, new) = moved();
    let said = run(&library, &mut consumer, &["scan", &new], 2);
    let what_to_do = format!("file-watcher relocate {old:?} {new:?}").replace('"', "\\\"");
    assert!(said.contains(&what_to_do), "{said}");
    let said = run(&library, &mut consumer, &["relocate", "/elsewhere", &new], 2);
    assert!(said.contains("not of \\\"/elsewhere\\\""), "{said}");

    let said = run(&library, &mut consumer, &["relocate", &old, &new], 0);
    assert!(said.contains("3 files are published as moved"), "{said}");
    assert_eq!(consumer.told(), ["moved"; 3]);
    consumer.agrees_with(Path::new(&new));
    let said = run(&library, &mut consumer, &["scan", &new], 0);
    assert!(said.contains("hashed        0 B"), "{said}");
    let said = run(&library, &mut consumer, &["relocate", &old, &new], 0);
    assert!(said.contains("nothing to relocate"), "{said}");
    assert_eq!(consumer.told(), Vec::<String>::new());
}

#[test]
fn relocate_from_does_it_at_a_start_once_and_finds_what_changed_too() {
    let (mut library, mut consumer, old, new) = moved();
    fs::remove_file(Path::new(&new).join("a.mp3")).unwrap();
    fs::write(Path::new(&new).join("b/c.mp3"), "changed").unwrap();
    library.set("RELOCATE_FROM", &old);
    run(&library, &mut consumer, &["scan", &new], 0);
    assert_eq!(consumer.told(), ["moved", "moved", "moved", "modified", "deleted"]);
    consumer.agrees_with(Path::new(&new));
    assert_eq!(consumer.files[&format!("{new}/b/c.mp3")], sha256("changed"));
    let said = run(&library, &mut consumer, &["scan", &new], 0);
    assert!(!said.contains("relocated"), "{said}");
    assert_eq!(consumer.told(), Vec::<String>::new());
}

#[test]
fn the_state_of_the_old_place_is_found_where_it_is_by_default() {
    let mut library = Library::new();
    let home = library.outside("home");
    library.set("STATE_DIR", "").set("HOME", &home);
    library.write("a.mp3", "a");
    let mut consumer = Consumer::default();
    run(&library, &mut consumer, &["scan"], 0);
    let states = home.join(".local/state/file-watcher");
    let names = || fs::read_dir(&states).unwrap().map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>();
    let before = names();
    let (old, new) = (text(&library.root()), text(&library.outside("music")));
    fs::rename(&old, &new).unwrap();
    run(&library, &mut consumer, &["relocate", &old, &new], 0);
    assert_eq!(consumer.told(), ["created", "moved"]);
    assert!(names().len() == 1 && names() != before, "{:?}", names());
    run(&library, &mut consumer, &["scan", &new], 0);
    consumer.agrees_with(Path::new(&new));

    let third = text(&library.outside("third"));
    fs::rename(&new, &third).unwrap();
    library.set("RELOCATE_FROM", &new);
    for told in [["moved"].as_slice(), &[]] {
        consumer.told();
        run(&library, &mut consumer, &["scan", &third], 0);
        assert_eq!(consumer.told(), told);
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
    assert_eq!(consumer.told(), ["deleted", "deleted", "deleted", "created", "created", "created"]);
    consumer.agrees_with(Path::new(&new));
}

fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}
