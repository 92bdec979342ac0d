//! Overlays: a file of the lower layer has another device number than its directory, and is another file when it is
//! copied up.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::scenarios::{Place, Stage, Traits, all, write_old};
use crate::support::disk::write;
use crate::support::medium::{Medium, Overlay};

#[test]
fn an_overlay_on_disks_whose_numbers_change_keeps_the_promises() {
    all(|| Box::new(Overlay::on_disks()), Traits { inodes_last: true, has_birth_times: false });
}

fn copy_up_some(folder: &Path) {
    let device = |path: &str| fs::metadata(folder.join(path)).unwrap().dev();
    assert_ne!(device("0"), device("0/00.mp3"), "the layers are on different filesystems");
    // Copied up with new content, with no more than new times, and with another name.
    write_old(&folder.join("0/00.mp3"), "rewritten");
    fs::File::options().append(true).open(folder.join("1/01.mp3")).unwrap();
    fs::rename(folder.join("2/02.mp3"), folder.join("0/02.mp3")).unwrap();
    fs::remove_file(folder.join("0/03.mp3")).unwrap();
    // Of the upper layer alone.
    write(&folder.join("0/upper.mp3"), "only above");
    fs::remove_file(folder.join("1/upper.mp3")).unwrap();
    fs::remove_dir_all(folder.join("lower")).unwrap();
}

const PUBLISHED: [&str; 7] = [
    "created 0/upper.mp3",
    "deleted 0/03.mp3",
    "deleted 1/upper.mp3",
    "deleted lower/1.mp3",
    "deleted lower/2.mp3",
    "modified 0/00.mp3",
    "moved 2/02.mp3 -> 0/02.mp3",
];

fn stage(place: Place) -> Stage {
    let mut overlay = Overlay::in_memory();
    overlay.prepare(&|lower| {
        for name in ["1", "2"] {
            write_old(&lower.join(format!("lower/{name}.mp3")), &format!("lower {name}"));
        }
    });
    let stage = Stage::new(Box::new(overlay), place);
    stage.change(|folder| write_old(&folder.join("1/upper.mp3"), "above"));
    stage
}

#[test]
fn copies_and_deletes_on_an_overlay_are_published_offline() {
    for place in [Place::Below, Place::Root] {
        let mut stage = stage(place);
        stage.library.scan();
        let mark = stage.library.mark();
        stage.change(copy_up_some);
        stage.library.scan();
        assert_eq!(stage.published(mark), PUBLISHED);
        stage.library.wait_until_converged();
    }
}

#[test]
fn copies_and_deletes_on_an_overlay_are_published_live() {
    for place in [Place::Below, Place::Root] {
        let mut stage = stage(place);
        stage.library.start();
        stage.library.wait_until_converged();
        let mark = stage.library.mark();
        stage.change(copy_up_some);
        stage.library.wait_until_settled();
        assert_eq!(stage.published(mark), PUBLISHED);
        stage.library.stop();
    }
}
