//! The root and what is mounted there: gone, replaced, unmounted, and back again.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::support::disk::{require_root, run, write};
use crate::support::library::{HELD, Library};

/// Enough files that the brake may hold their deletion.
const FILES: usize = 15;

fn fill(at: &Path) {
    for number in 0..FILES {
        write(&at.join(format!("{}/{number}.mp3", number % 3)), format!("content {number}"));
    }
}

/// Something mounted on a directory, for as long as this lives at most.
pub(crate) struct Mounted(pub(crate) PathBuf);

impl Mounted {
    pub(crate) fn tmpfs(at: &Path) -> Self {
        Self::tmpfs_of("50%", at)
    }

    /// One that has room for so many bytes.
    pub(crate) fn tmpfs_of(size: &str, at: &Path) -> Self {
        require_root();
        fs::create_dir_all(at).unwrap();
        run("mount", &[&"-t", &"tmpfs", &"-o", &format!("size={size}"), &"test", &at]);
        Self(at.to_path_buf())
    }

    /// Lets nobody write there any more, or lets them again.
    pub(crate) fn make_writable(&self, writable: bool) {
        run("mount", &[&"-o", &(if writable { "remount,rw" } else { "remount,ro" }), &self.0]);
    }

    pub(crate) fn bind(from: &Path, at: &Path) -> Self {
        require_root();
        fs::create_dir_all(at).unwrap();
        run("mount", &[&"--bind", &from, &at]);
        Self(at.to_path_buf())
    }

    /// As a person does it: refused if a process still uses the filesystem.
    pub(crate) fn unmount(self) {
        self.unmount_with(&[]);
    }

    pub(crate) fn unmount_with(self, options: &[&str]) {
        let options = options.iter().map(|option| option as &dyn AsRef<OsStr>);
        run("umount", &options.chain([&self.0 as &dyn AsRef<OsStr>]).collect::<Vec<_>>());
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).output();
    }
}

#[test]
fn a_root_that_is_deleted_says_nothing_and_one_that_is_made_again_is_followed() {
    let mut library = Library::new();
    fill(&library.root());
    library.set("RESCAN_INTERVAL_SECS", "1").start();
    library.wait_until_settled();
    run("cp", &[&"-a", &library.root(), &library.outside("copy")]);
    let mark = library.mark();
    fs::rename(library.root(), library.outside("aside")).unwrap();
    library.wait_for_log(mark, "the library root is gone");
    fs::remove_dir_all(library.outside("aside")).unwrap();

    // An empty directory in its place proves nothing.
    fs::create_dir(library.root()).unwrap();
    library.wait_for_log(mark, HELD);
    library.stay_silent(Duration::from_millis(1500));
    assert_eq!(library.files().len(), FILES);

    // Most of it comes back; what does not is gone after all.
    for lost in ["0/0.mp3", "1/1.mp3"] {
        fs::remove_file(library.outside("copy").join(lost)).unwrap();
    }
    run("cp", &[&"-a", &library.outside("copy").join("."), &library.root()]);
    library.wait_until_converged();
    let published = library.published_sorted_since(mark);
    assert_eq!(published, ["deleted 0/0.mp3", "deleted 1/1.mp3"]);

    library.set("RESCAN_INTERVAL_SECS", "0");
    library.write("0/new.mp3", "new");
    library.wait_until_converged();
}

#[test]
fn a_root_that_is_removed_from_under_us_takes_no_file_with_it() {
    let mut library = Library::new();
    fill(&library.root());
    library.start();
    library.wait_until_settled();
    run("cp", &[&"-a", &library.root(), &library.outside("copy")]);
    let mark = library.mark();
    run("rm", &[&"-rf", &library.root()]);
    library.wait_for_log(mark, "the library root is gone");
    library.stay_silent(Duration::from_secs(1));
    fs::rename(library.outside("copy"), library.root()).unwrap();
    library.wait_for_log(mark, "the library root is back or was replaced");
    library.wait_until_settled();
    library.write("0/new.mp3", "new");
    library.wait_until_converged();
    // What was seen to be deleted while the root was there may have been published; the rest stays.
    assert_eq!(library.files().len(), FILES + 1);
}

#[test]
fn what_was_deleted_in_a_root_that_is_no_longer_the_root_was_not_deleted_in_the_one_that_is() {
    let mut library = Library::new();
    fill(&library.root());
    // The looks at what went away come when the other root has long been noticed.
    library.set("DEBOUNCE_MS", "600").start();
    library.wait_until_settled();
    let mark = library.mark();
    fs::create_dir(library.outside("another")).unwrap();
    fs::rename(library.root(), library.outside("aside")).unwrap();
    fs::remove_dir_all(library.outside("aside")).unwrap();
    fs::rename(library.outside("another"), library.root()).unwrap();
    library.wait_for_log(mark, HELD);
    library.stay_silent(Duration::from_millis(3500));
    assert_eq!(library.files().len(), FILES);
}

/// The filesystem gives the inode number of the old one to the new one.
#[test]
fn a_root_that_is_made_again_at_once_is_watched() {
    let mut library = Library::new();
    library.write("x.mp3", "x");
    library.start();
    library.wait_until_settled();
    for round in 0..3 {
        let mark = library.mark();
        fs::remove_dir_all(library.root()).unwrap();
        library.write("a/y.mp3", format!("y {round}"));
        library.wait_for_log(mark, "the library root is back or was replaced");
        library.wait_until_settled();
        library.write("a/z.mp3", format!("z {round}"));
        library.wait_until_converged();
    }
}

#[test]
fn a_root_that_is_renamed_and_replaced_is_followed_where_its_name_is() {
    let mut library = Library::new();
    fill(&library.root());
    library.start();
    library.wait_until_settled();
    let mark = library.mark();
    run("cp", &[&"-a", &library.root(), &library.outside("other")]);
    write(&library.outside("other/0/0.mp3"), "of the other");
    fs::remove_file(library.outside("other/1/1.mp3")).unwrap();
    fs::rename(library.root(), library.outside("old")).unwrap();
    fs::rename(library.outside("other"), library.root()).unwrap();
    library.wait_until_settled();
    let published = library.published_sorted_since(mark);
    assert_eq!(published, ["deleted 1/1.mp3", "modified 0/0.mp3"]);

    // Only the new one is watched now.
    let mark = library.mark();
    write(&library.outside("old/2/2.mp3"), "of the old");
    fs::remove_dir_all(library.outside("old/0")).unwrap();
    library.stay_silent(Duration::from_secs(1));
    library.write("2/new.mp3", "new");
    library.wait_until_settled();
    assert_eq!(library.published_since(mark), ["created 2/new.mp3"]);
}

#[test]
fn a_root_that_is_unmounted_and_mounted_again_has_lost_nothing() {
    let mut library = Library::new();
    let disk = Mounted::tmpfs(&library.outside("disk"));
    fill(&disk.0);
    let root = Mounted::bind(&disk.0, &library.root());
    library.start();
    library.wait_until_settled();
    assert_eq!(library.files().len(), FILES);
    let mark = library.mark();

    root.unmount();
    library.wait_for_log(mark, HELD);
    library.stay_silent(Duration::from_secs(1));

    // What happened to it elsewhere is found when it is back.
    write(&disk.0.join("0/0.mp3"), "changed elsewhere");
    let root = Mounted::bind(&disk.0, &library.root());
    library.wait_until_settled();
    assert_eq!(library.published_since(mark), ["modified 0/0.mp3"]);
    library.write("0/new.mp3", "live again");
    library.wait_until_settled();

    library.stop();
    root.unmount();
    disk.unmount();
}

#[test]
fn a_root_whose_mount_is_missing_at_the_start_says_nothing_until_it_is_there() {
    let mut library = Library::new();
    let disk = Mounted::tmpfs(&library.outside("disk"));
    fill(&disk.0);
    let root = Mounted::bind(&disk.0, &library.root());
    library.scan();
    assert_eq!(library.files().len(), FILES);
    root.unmount();
    let mark = library.mark();
    let summary = library.scan();
    assert_eq!(summary.figure("held deletes"), FILES.to_string());
    library.start();
    library.wait_for_log(mark, HELD);
    let root = Mounted::bind(&disk.0, &library.root());
    library.wait_for_log(mark, "the library root is back or was replaced");
    library.wait_until_settled();
    assert_eq!(library.published_since(mark), Vec::<String>::new());

    // The brake holds no more: few deletes pass, also those that a walk finds.
    library.stop();
    fs::remove_file(disk.0.join("0/0.mp3")).unwrap();
    library.scan();
    assert_eq!(library.published_since(mark), ["deleted 0/0.mp3"]);
    drop(root);
}

#[test]
fn what_was_on_a_filesystem_that_is_not_mounted_stays_as_it_was() {
    let mut library = Library::new();
    library.set("RESCAN_INTERVAL_SECS", "1");
    fill(&library.root());
    let disk = Mounted::tmpfs(&library.outside("disk"));
    // Few enough that no brake would hold them.
    write(&disk.0.join("a/1.mp3"), "one");
    write(&disk.0.join("2.mp3"), "two");
    let below = Mounted::bind(&disk.0, &library.path("usb"));
    library.start();
    library.wait_until_settled();
    assert_eq!(library.files().len(), FILES + 2);
    let mark = library.mark();

    below.unmount();
    library.stay_silent(Duration::from_millis(2500));
    fs::remove_dir(library.path("usb")).unwrap();
    library.stay_silent(Duration::from_millis(2500));
    library.stop();
    library.scan();
    assert_eq!(library.published_since(mark), Vec::<String>::new());

    write(&disk.0.join("2.mp3"), "changed elsewhere");
    fs::remove_file(disk.0.join("a/1.mp3")).unwrap();
    let below = Mounted::bind(&disk.0, &library.path("usb"));
    library.start();
    library.wait_until_settled();
    let published = library.published_sorted_since(mark);
    assert_eq!(published, ["deleted usb/a/1.mp3", "modified usb/2.mp3"]);
    drop(below);
}

#[test]
fn a_filesystem_that_is_mounted_in_a_watched_library_is_watched_too() {
    let library = Library::watched();
    let disk = Mounted::tmpfs(&library.outside("disk"));
    write(&disk.0.join("a/1.mp3"), "one");
    fs::create_dir(library.path("usb")).unwrap();
    library.stay_silent(Duration::from_millis(1200));
    let below = Mounted::bind(&disk.0, &library.path("usb"));
    library.wait_until_settled();
    assert_eq!(library.published(), ["created usb/a/1.mp3"]);
    library.write("usb/a/2.mp3", "two");
    library.wait_until_settled();
    assert_eq!(library.published().len(), 2);
    below.unmount();
    library.stay_silent(Duration::from_millis(1500));
}
