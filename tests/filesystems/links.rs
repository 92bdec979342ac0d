//! Libraries made of links to disks.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use crate::scenarios::write_old;
use crate::support::disk::write;
use crate::support::library::{Library, SETTLE};
use crate::support::medium::{Bind, Disk, Medium};

/// A library with a link to a directory of a disk and one to a file of it.
fn linked(medium: &mut dyn Medium) -> Library {
    let mut library = Library::new();
    library.set("FOLLOW_SYMLINKS", "all").set("POLL_INTERVAL_SECS", "1");
    medium.attach(&library.outside("disk"));
    write_old(&library.outside("disk/music/x.mp3"), "x");
    write_old(&library.outside("disk/y.mp3"), "y");
    write_old(&library.path("here.mp3"), "here");
    symlink(library.outside("disk/music"), library.path("disk")).unwrap();
    symlink(library.outside("disk/y.mp3"), library.path("song.mp3")).unwrap();
    library
}

#[test]
fn files_behind_links_to_a_disk_that_is_away_are_held() {
    let media: [Box<dyn Medium>; 3] = [Box::new(Disk::ext4()), Box::new(Disk::xfs()), Box::new(Bind::tmpfs())];
    for mut medium in media {
        let mut library = linked(medium.as_mut());
        library.scan();
        assert_eq!(library.files().len(), 3);
        let mark = library.mark();
        for is_there_a_directory in [true, false] {
            medium.detach();
            if !is_there_a_directory {
                fs::remove_dir(library.outside("disk")).unwrap();
            }
            let summary = library.scan();
            assert_eq!(summary.figure("held deletes"), "2", "{}", summary.text);
            assert_eq!(summary.figure("links skipped"), "2", "{}", summary.text);
            medium.attach(&library.outside("disk"));
            let summary = library.scan();
            assert!(summary.hashed_nothing() && !summary.text.contains("held deletes"), "{}", summary.text);
        }
        assert!(library.messages_since(mark).is_empty(), "{:?}", library.published_since(mark));

        // Without the links nothing is behind them, as long as the disk is there to say so.
        fs::remove_file(library.path("disk")).unwrap();
        fs::remove_file(library.path("song.mp3")).unwrap();
        let summary = library.scan();
        assert!(!summary.text.contains("held deletes"), "{}", summary.text);
        assert_eq!(library.files().len(), 1);
    }
}

#[test]
fn a_disk_that_links_lead_to_goes_and_comes_back_while_it_is_watched() {
    let mut disk = Disk::ext4();
    let mut library = linked(&mut disk);
    library.start();
    library.wait_for("all three files are published", |consumer| consumer.files.len() == 3);
    let mark = library.mark();
    for _ in 0..2 {
        disk.detach();
        library.wait_for_log(mark, "passed over");
        library.stay_silent(SETTLE * 8);
        disk.attach(&library.outside("disk"));
        library.stay_silent(SETTLE * 8);
    }
    assert!(library.messages_since(mark).is_empty(), "{:?}", library.published_since(mark));
    write(&library.outside("disk/music/z.mp3"), "z");
    library.wait_for("the new file is published", |oracle| oracle.files.contains_key(Path::new("disk/z.mp3")));
    fs::rename(library.outside("disk/music/z.mp3"), library.outside("disk/music/a.mp3")).unwrap();
    library.wait_for("its new name is published", |oracle| oracle.files.contains_key(Path::new("disk/a.mp3")));
    assert_eq!(library.published_since(mark), ["created disk/z.mp3", "renamed disk/z.mp3 -> disk/a.mp3"]);
}
