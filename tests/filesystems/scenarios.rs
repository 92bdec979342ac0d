//! What every medium has to live through.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, SystemTime};

use crate::support::disk::write;
use crate::support::library::{Library, Mark, Summary};
use crate::support::medium::Medium;

/// Files on a medium: enough that all of them gone is too many to be believed.
pub(crate) const FILES: usize = 24;

/// Where a medium is mounted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// On a directory of the library.
    Below,
    /// On the library's root.
    Root,
}

/// What can be expected of a medium.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Traits {
    /// A file has the same inode number at each mount.
    pub(crate) inodes_last: bool,
    /// A renamed file is known by its inode and birth time.
    pub(crate) has_birth_times: bool,
}

/// A library with a medium. The medium goes first, so that nothing is deleted from it.
pub(crate) struct Stage {
    pub(crate) medium: Box<dyn Medium>,
    pub(crate) library: Library,
    place: Place,
}

impl Stage {
    pub(crate) fn new(mut medium: Box<dyn Medium>, place: Place) -> Self {
        let mut library = Library::new();
        library.set("POLL_INTERVAL_SECS", "1");
        if place == Place::Below {
            fill(&library.path("here"), 3);
        }
        medium.prepare(&|folder| fill(folder, FILES));
        let mut stage = Self { medium, library, place };
        stage.attach();
        fill(&stage.mounted(), FILES);
        stage
    }

    /// Where the medium is mounted.
    pub(crate) fn mounted(&self) -> PathBuf {
        match self.place {
            Place::Below => self.library.path("disk"),
            Place::Root => self.library.root(),
        }
    }

    pub(crate) fn attach(&mut self) {
        let at = self.mounted();
        self.medium.attach(&at);
    }

    /// The medium goes and comes back under another number. What is changed elsewhere is changed meanwhile.
    pub(crate) fn attach_again(&mut self, change: impl FnOnce(&Path)) {
        self.medium.detach();
        if let Some(elsewhere) = self.medium.elsewhere() {
            change(&elsewhere);
            self.attach();
        } else {
            self.attach();
            change(&self.mounted());
        }
    }

    /// Changes files while the medium is mounted.
    pub(crate) fn change(&self, change: impl FnOnce(&Path)) {
        change(&self.medium.elsewhere().unwrap_or_else(|| self.mounted()));
    }

    /// The messages since then without what is in front of the medium's own paths, sorted.
    pub(crate) fn published(&self, mark: Mark) -> Vec<String> {
        let mut published: Vec<String> =
            self.library.published_since(mark).iter().map(|published| published.replace("disk/", "")).collect();
        published.sort();
        published
    }

    fn agree(&self) {
        self.library.wait_until_converged();
    }
}

/// Puts files there that are not there yet, none of them young.
pub(crate) fn fill(folder: &Path, files: usize) {
    for number in 0..files {
        let path = folder.join(format!("{}/{number:02}.mp3", number % 3));
        if !path.exists() {
            // Some filesystems keep whole seconds, and some files are known by nothing but size and time.
            write_of_age(&path, &format!("{} {number}", folder.file_name().unwrap().len()), 3600 + 2 * number as u64);
        }
    }
}

/// Writes a file that has been left alone for long.
pub(crate) fn write_old(path: &Path, content: &str) {
    write_of_age(path, content, 1800);
}

fn write_of_age(path: &Path, content: &str, seconds: u64) {
    write(path, content);
    let file = fs::File::options().write(true).open(path).unwrap();
    file.set_modified(SystemTime::now() - Duration::from_secs(seconds)).unwrap();
}

/// Bytes that were read because they were new.
pub(crate) fn hashed(summary: &Summary) -> usize {
    let figure = summary.figure("hashed");
    let (bytes, _) = figure.split_once(" B").unwrap_or_else(|| panic!("too much was read: {figure}"));
    bytes.parse().unwrap()
}

/// Deletes, renames, moves, rewrites and makes a file.
fn change_some(folder: &Path) {
    fs::remove_file(folder.join("0/00.mp3")).unwrap();
    fs::rename(folder.join("1/01.mp3"), folder.join("1/renamed.mp3")).unwrap();
    fs::create_dir(folder.join("new")).unwrap();
    fs::rename(folder.join("2/02.mp3"), folder.join("new/02.mp3")).unwrap();
    write_old(&folder.join("0/03.mp3"), "rewritten");
    write_old(&folder.join("1/new.mp3"), "this is new");
}

const CHANGED: [&str; 5] = [
    "created 1/new.mp3",
    "deleted 0/00.mp3",
    "modified 0/03.mp3",
    "moved 2/02.mp3 -> new/02.mp3",
    "renamed 1/01.mp3 -> 1/renamed.mp3",
];

/// Scan, remount under another number, changes, scan.
pub(crate) fn offline(medium: Box<dyn Medium>, place: Place, traits: Traits) {
    let mut stage = Stage::new(medium, place);
    stage.library.scan();
    stage.agree();
    let mark = stage.library.mark();
    stage.attach_again(change_some);
    let summary = stage.library.scan();
    assert_eq!(stage.published(mark), CHANGED, "{}", summary.text);
    stage.agree();
    let new = "rewritten".len() + "this is new".len();
    // Without a birth time, nothing but its content says that a renamed file is still that file.
    let renamed = if traits.has_birth_times { 0 } else { 2 * "4 01".len() + 8 };
    if traits.inodes_last {
        assert!(hashed(&summary) <= new + renamed, "{}", summary.text);
    }
    // By now it is known if the numbers do not last.
    let mark = stage.library.mark();
    stage.attach_again(|_| {});
    let summary = stage.library.scan();
    assert_eq!(stage.published(mark), [""; 0], "{}", summary.text);
    assert!(summary.hashed_nothing(), "{}", summary.text);
}

/// Scan, scans without the medium, scan with it.
pub(crate) fn away(medium: Box<dyn Medium>, place: Place, traits: Traits) {
    let mut stage = Stage::new(medium, place);
    stage.library.scan();
    let mark = stage.library.mark();
    stage.medium.detach();
    for _ in 0..2 {
        let (_, log) = stage.library.try_to(&["scan"]);
        assert_eq!(stage.published(mark), [""; 0], "{log}");
    }
    stage.attach();
    let summary = stage.library.scan();
    assert_eq!(stage.published(mark), [""; 0], "{}", summary.text);
    assert!(!traits.inodes_last || summary.hashed_nothing(), "{}", summary.text);
    stage.agree();
}

/// Changes while it is watched, and the medium goes and comes back.
pub(crate) fn live(medium: Box<dyn Medium>, place: Place) {
    let mut stage = Stage::new(medium, place);
    stage.library.start();
    stage.agree();
    if stage.medium.changes_live() {
        stage.change(|folder| {
            write(&folder.join("live/1.mp3"), "written live");
            fs::remove_file(folder.join("2/23.mp3")).unwrap();
            fs::rename(folder.join("1/22.mp3"), folder.join("live/22.mp3")).unwrap();
        });
        stage.agree();
    }
    for is_pulled_out in [false, true] {
        let mark = stage.library.mark();
        if is_pulled_out {
            stage.medium.pull_out();
        } else {
            stage.medium.detach();
        }
        stage.library.stay_silent(Duration::from_millis(1800));
        stage.attach();
        // Found by the walk or reported, whichever comes first.
        if stage.medium.changes_live() {
            stage.change(|folder| {
                write(&folder.join("0/00.mp3"), format!("written after it was back, {is_pulled_out}"));
                let number = if is_pulled_out { 19 } else { 16 };
                fs::rename(folder.join(format!("1/{number}.mp3")), folder.join(format!("2/moved{number}.mp3")))
                    .unwrap();
            });
            // The watcher's own time for it.
            thread::sleep(Duration::from_millis(1100));
        }
        stage.agree();
        let published = stage.published(mark);
        assert!(
            !published.iter().any(|published| published.starts_with("deleted") && !published.contains("1/1")),
            "{published:?}"
        );
    }
    stage.library.stop();
    let summary = stage.library.scan();
    stage.agree();
    assert!(summary.text.contains("changed       0"), "{}", summary.text);
}

/// A generator of numbers, the same on each run.
struct Random {
    state: u64,
    written: usize,
}

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.state = self.state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.state >> 33) % bound
    }

    fn file(&mut self, folder: &Path) -> PathBuf {
        let number = self.below(FILES as u64);
        folder.join(format!("{}/{number:02}.mp3", number % 3))
    }

    fn change(&mut self, folder: &Path) {
        let (one, other) = (self.file(folder), self.file(folder));
        match self.below(4) {
            0 => {
                self.written += 1;
                write(&one, format!("random {}", "x".repeat(self.written)));
            }
            1 => drop(fs::remove_file(one)),
            _ => drop(fs::rename(one, other)),
        }
    }
}

/// Random changes, remounts and kills, and agreement in the end.
pub(crate) fn killed(medium: Box<dyn Medium>, place: Place, seed: u64) {
    let mut random = Random { state: seed, written: 0 };
    let mut stage = Stage::new(medium, place);
    stage.library.scan();
    for _ in 0..4 {
        stage.library.spawn();
        thread::sleep(Duration::from_millis(random.below(300)));
        for _ in 0..6 {
            if stage.medium.changes_live() {
                stage.change(|folder| random.change(folder));
            }
            thread::sleep(Duration::from_millis(random.below(30)));
        }
        stage.library.kill();
        if random.below(2) == 0 {
            stage.attach_again(|folder| (0..3).for_each(|_| random.change(folder)));
        }
    }
    stage.library.start();
    stage.agree();
    if stage.medium.changes_live() {
        stage.change(|folder| write(&folder.join("last.mp3"), "the last one"));
    }
    stage.agree();
    stage.library.stop();
}

/// Plays all of them at once, each with a medium of its own.
pub(crate) fn all(make: impl Fn() -> Box<dyn Medium> + Sync, traits: Traits) {
    let make = &make;
    thread::scope(|scope| {
        let named = |name: String| thread::Builder::new().name(name);
        for place in [Place::Below, Place::Root] {
            named(format!("offline {place:?}")).spawn_scoped(scope, move || offline(make(), place, traits)).unwrap();
            named(format!("away {place:?}")).spawn_scoped(scope, move || away(make(), place, traits)).unwrap();
        }
        named("live".into()).spawn_scoped(scope, move || live(make(), Place::Below)).unwrap();
        named("live as root".into()).spawn_scoped(scope, move || live(make(), Place::Root)).unwrap();
        named("killed".into()).spawn_scoped(scope, move || killed(make(), Place::Below, 7)).unwrap();
        named("killed as root".into()).spawn_scoped(scope, move || killed(make(), Place::Root, 8)).unwrap();
    });
}
