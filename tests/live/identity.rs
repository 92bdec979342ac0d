//! Files keep their identity when names are passed round, live and between two scans.
//!
//! The contents of all files differ. The consumers are unique in hashes, and each of their rows refers to the
//! file that it was made for.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use crate::support::disk::sha256;
use crate::support::library::{Library, Mark};
use crate::support::strict::{StrictConsumers, StrictMessage, StrictRow};

/// How many tracks an album has.
const TRACKS: u32 = 12;

/// The content that a track has at first, by which its identity is named.
fn content(number: u32) -> String {
    format!("this is track {number}")
}

fn path(number: u32) -> String {
    format!("a/{number}.mp3")
}

/// How the program learns what happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    /// From the kernel, while it runs.
    Live,
    /// By its next scan.
    Offline,
}

const BOTH: [How; 2] = [How::Live, How::Offline];

/// A library with one album, known to consumers.
struct Album {
    library: Library,
    how: How,
    mark: Mark,
}

impl Album {
    fn known(how: How) -> Self {
        let mut library = Library::new();
        for number in 1..=TRACKS {
            library.write(path(number), content(number));
        }
        match how {
            How::Live => {
                library.start();
                library.wait_until_settled();
            }
            How::Offline => drop(library.scan()),
        }
        let mark = library.mark();
        Self { library, how, mark }
    }

    fn rename(&self, from: impl AsRef<str>, to: impl AsRef<str>) {
        fs::rename(self.library.path(from.as_ref()), self.library.path(to.as_ref())).unwrap();
    }

    /// Lets the program find everything that happened.
    fn settle(&mut self) {
        match self.how {
            How::Live => self.library.wait_until_settled(),
            How::Offline => {
                self.library.scan();
                self.library.wait_until_converged();
            }
        }
    }

    /// The messages about what happened since the album was known.
    fn published(&self) -> Vec<String> {
        self.library.published_since(self.mark)
    }

    /// Whether only moves were published.
    fn assert_only_moves(&self) {
        let published = self.published();
        let is_move = |message: &String| message.starts_with("renamed ") || message.starts_with("moved ");
        assert!(!published.is_empty() && published.iter().all(is_move), "{:?}: {published:#?}", self.how);
    }

    /// Gives all messages to the strict consumers. Each must have exactly these rows then: a path with the
    /// content that is there, and the content that its file had when it was first published.
    fn assert_rows(&self, expected: &[(String, String, String)]) {
        let mut consumers = StrictConsumers::new();
        for message in self.library.messages() {
            let taken = consumers.take(&StrictMessage::about_unique_content(&message));
            assert!(taken.is_ok(), "{:?}: {taken:?} in {:#?}", self.how, self.published());
        }
        let expected: BTreeMap<PathBuf, StrictRow> = expected
            .iter()
            .map(|(path, content, first)| (path.into(), StrictRow { sha256: sha256(content), identity: sha256(first) }))
            .collect();
        for (deleted, rows) in consumers.rows() {
            assert_eq!(rows, expected, "{:?}, {deleted:?}: {:#?}", self.how, self.published());
        }
    }
}

/// The rows of tracks whose contents did not change: each track with the number that it had at first.
fn unchanged(tracks: impl IntoIterator<Item = (u32, u32)>) -> Vec<(String, String, String)> {
    tracks.into_iter().map(|(number, first)| (path(number), content(first), content(first))).collect()
}

#[test]
fn an_album_that_is_renumbered_upwards_is_twelve_renames() {
    for how in BOTH {
        let mut album = Album::known(how);
        for number in (1..=TRACKS).rev() {
            album.rename(path(number), path(number + 1));
        }
        album.settle();
        album.assert_rows(&unchanged((1..=TRACKS).map(|number| (number + 1, number))));
        album.assert_only_moves();
        assert_eq!(album.published().len(), 12, "{how:?}: {:#?}", album.published());
    }
}

#[test]
fn an_album_that_is_renumbered_downwards_is_twelve_renames() {
    for how in BOTH {
        let mut album = Album::known(how);
        for number in 1..=TRACKS {
            album.rename(path(number), path(number - 1));
        }
        album.settle();
        album.assert_rows(&unchanged((1..=TRACKS).map(|number| (number - 1, number))));
        album.assert_only_moves();
        assert_eq!(album.published().len(), 12, "{how:?}: {:#?}", album.published());
    }
}

#[test]
fn two_files_that_are_swapped_are_moved() {
    for how in BOTH {
        let mut album = Album::known(how);
        album.rename(path(1), "a/aside");
        album.rename(path(2), path(1));
        album.rename("a/aside", path(2));
        album.settle();
        album.assert_rows(&unchanged((1..=TRACKS).map(|number| match number {
            1 => (1, 2),
            2 => (2, 1),
            other => (other, other),
        })));
        album.assert_only_moves();
    }
}

#[test]
fn three_files_that_are_rotated_are_moved() {
    for how in BOTH {
        let mut album = Album::known(how);
        album.rename(path(1), "a/aside");
        album.rename(path(2), path(1));
        album.rename(path(3), path(2));
        album.rename("a/aside", path(3));
        album.settle();
        album.assert_rows(&unchanged((1..=TRACKS).map(|number| match number {
            1 => (1, 2),
            2 => (2, 3),
            3 => (3, 1),
            other => (other, other),
        })));
        album.assert_only_moves();
    }
}

#[test]
fn a_file_that_moves_away_keeps_its_row_and_the_new_one_in_its_place_gets_its_own() {
    for how in BOTH {
        let mut album = Album::known(how);
        fs::create_dir(album.library.path("b")).unwrap();
        album.rename(path(1), "b/old.mp3");
        album.library.write(path(1), "this is new");
        album.settle();
        let mut expected = unchanged((2..=TRACKS).map(|number| (number, number)));
        expected.push(("b/old.mp3".into(), content(1), content(1)));
        expected.push((path(1), "this is new".into(), "this is new".into()));
        album.assert_rows(&expected);
        assert_eq!(album.published(), ["moved a/1.mp3 -> b/old.mp3", "created a/1.mp3"], "{how:?}");
    }
}

#[test]
fn a_temporary_file_that_is_renamed_over_a_known_one_is_its_new_version() {
    for (how, pause) in [(How::Live, 0), (How::Live, 300), (How::Offline, 0)] {
        let mut album = Album::known(how);
        album.library.write("a/2.temp.mp3", "this is saved");
        thread::sleep(Duration::from_millis(pause));
        album.rename("a/2.temp.mp3", path(2));
        album.settle();
        let mut expected = unchanged((1..=TRACKS).filter(|number| *number != 2).map(|number| (number, number)));
        expected.push((path(2), "this is saved".into(), content(2)));
        album.assert_rows(&expected);
        let published = album.published();
        assert_eq!(
            published.last().map(String::as_str),
            Some("modified a/2.mp3"),
            "{how:?}, {pause} ms: {published:#?}"
        );
        let deleted = published.iter().filter(|published| published.starts_with("deleted")).count();
        assert_eq!(deleted, 0, "the temporary file is not published: {how:?}, {pause} ms: {published:#?}");
    }
}

#[test]
fn a_file_that_was_renamed_and_retagged_while_the_program_was_down_is_renamed_then_modified() {
    let mut album = Album::known(How::Offline);
    let retagged = album.library.path(path(1));
    assert!(fs::metadata(&retagged).unwrap().created().is_ok(), "this needs a filesystem that keeps birth times");
    // In place, with another size.
    fs::write(&retagged, "this is track 1 with another title").unwrap();
    album.rename(path(1), "a/first.mp3");
    album.settle();
    let mut expected = unchanged((2..=TRACKS).map(|number| (number, number)));
    expected.push(("a/first.mp3".into(), "this is track 1 with another title".into(), content(1)));
    album.assert_rows(&expected);
    assert_eq!(album.published(), ["renamed a/1.mp3 -> a/first.mp3", "modified a/first.mp3"]);
}
