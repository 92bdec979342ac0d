//! Filesystems that find a file under other names than the one that they list.

use std::fs;
use std::path::Path;

use crate::scenarios::{Place, Stage, Traits, all, write_old};
use crate::support::disk::write;
use crate::support::library::Mark;
use crate::support::medium::{Disk, Medium, output};
use crate::support::mirror::{Mirror, Oddity};

fn stage(oddity: Oddity, files: &[&str]) -> Stage {
    let mirror = Mirror::new(oddity);
    for (number, file) in files.iter().enumerate() {
        write_old(&mirror.source().join(file), &format!("file {number}"));
    }
    Stage::new(Box::new(mirror), Place::Below)
}

fn published(stage: &Stage, mark: Mark) -> Vec<String> {
    stage.published(mark)
}

/// Scans, or waits for the walk that finds it.
fn follow(stage: &mut Stage, live: bool, change: impl FnOnce(&Path)) -> Vec<String> {
    let mark = stage.library.mark();
    stage.change(change);
    if !live {
        stage.library.scan();
    }
    stage.library.wait_until_settled();
    published(stage, mark)
}

#[test]
fn a_change_of_case_alone_is_a_rename() {
    let mut stage = stage(Oddity::NoCase, &["a/Song.mp3", "x/one.mp3", "x/Two.mp3", "x/deep/3.mp3"]);
    stage.library.scan();
    for live in [false, true] {
        if live {
            stage.library.start();
        }
        let (file, new_file) = if live { ("SONG.mp3", "Song.mp3") } else { ("Song.mp3", "SONG.mp3") };
        let rename = |folder: &Path| fs::rename(folder.join("a").join(file), folder.join("a").join(new_file)).unwrap();
        assert_eq!(follow(&mut stage, live, rename), [format!("renamed a/{file} -> a/{new_file}")]);
        let (directory, new_directory) = if live { ("X", "x") } else { ("x", "X") };
        let rename = |folder: &Path| fs::rename(folder.join(directory), folder.join(new_directory)).unwrap();
        let moved = ["Two.mp3", "deep/3.mp3", "one.mp3"];
        let moved = moved.map(|file| format!("moved {directory}/{file} -> {new_directory}/{file}"));
        assert_eq!(follow(&mut stage, live, rename), moved);
        let rename = |folder: &Path| fs::rename(folder.join(new_directory).join("deep"), folder.join("Deep")).unwrap();
        let back = |folder: &Path| fs::rename(folder.join("Deep"), folder.join(new_directory).join("deep")).unwrap();
        assert_eq!(follow(&mut stage, live, rename), [format!("moved {new_directory}/deep/3.mp3 -> Deep/3.mp3")]);
        assert_eq!(follow(&mut stage, live, back), [format!("moved Deep/3.mp3 -> {new_directory}/deep/3.mp3")]);
    }
    let delete = |folder: &Path| fs::remove_file(folder.join("x/one.mp3")).unwrap();
    assert_eq!(follow(&mut stage, true, delete), ["deleted x/one.mp3"]);
}

#[test]
fn another_normal_form_of_a_name_is_a_rename() {
    let composed = "caf\u{e9}";
    let decomposed = "cafe\u{301}";
    let file = format!("a/{composed}.mp3");
    let below = format!("{composed}/one.mp3");
    let mut stage = stage(Oddity::Decomposed, &[&file, &below]);
    stage.library.scan();
    for live in [false, true] {
        let (from, to) = if live { (decomposed, composed) } else { (composed, decomposed) };
        if live {
            stage.library.start();
        }
        let rename = |folder: &Path| {
            fs::rename(folder.join(format!("a/{from}.mp3")), folder.join(format!("a/{to}.mp3"))).unwrap();
        };
        assert_eq!(follow(&mut stage, live, rename), [format!("renamed a/{from}.mp3 -> a/{to}.mp3")]);
        let rename = |folder: &Path| fs::rename(folder.join(from), folder.join(to)).unwrap();
        assert_eq!(follow(&mut stage, live, rename), [format!("moved {from}/one.mp3 -> {to}/one.mp3")]);
    }
}

/// ext4 without case in all of its directories.
struct Casefold {
    disk: Disk,
    is_folded: bool,
}

impl Medium for Casefold {
    fn attach(&mut self, at: &Path) {
        self.disk.attach(at);
        if !self.is_folded {
            fs::remove_dir(at.join("lost+found")).unwrap();
            let made = output("chattr", &["+F", at.to_str().unwrap()]);
            assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
            self.is_folded = true;
        }
    }

    fn detach(&mut self) {
        self.disk.detach();
    }

    fn pull_out(&mut self) {
        self.disk.pull_out();
    }
}

/// Where the kernel has no such thing, `lacking` says so.
#[test]
fn ext4_without_case_keeps_the_promises() {
    if Disk::casefold().is_err() {
        return;
    }
    let make = || Box::new(Casefold { disk: Disk::casefold().unwrap(), is_folded: false }) as Box<dyn Medium>;
    all(make, Traits { inodes_last: true, has_birth_times: true });
    let mut stage = Stage::new(make(), Place::Below);
    stage.library.start();
    let rename = |folder: &Path| {
        // The kernel takes both names for one.
        fs::rename(folder.join("0/00.mp3"), folder.join("0/passing")).unwrap();
        fs::rename(folder.join("0/passing"), folder.join("0/00.MP3")).unwrap();
    };
    assert_eq!(follow(&mut stage, true, rename), ["renamed 0/00.mp3 -> 0/00.MP3"]);
    let rewrite = |folder: &Path| write(&folder.join("0/00.mp3"), "by another spelling");
    assert_eq!(follow(&mut stage, true, rewrite), ["modified 0/00.MP3"]);
}
