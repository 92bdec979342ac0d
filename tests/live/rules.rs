//! What is left out: by patterns, by extension, by ignore files that come and go, and by being empty.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::library::{Library, SETTLE};
use crate::support::usage;

/// Waits until the consumer knows these files and no others.
fn wait_until_published(library: &Library, paths: &[&str]) {
    let expected: BTreeSet<&Path> = paths.iter().map(Path::new).collect();
    library.wait_for(&format!("{paths:?}"), |oracle| {
        oracle.files.keys().map(PathBuf::as_path).eq(expected.iter().copied())
    });
}

#[test]
fn what_systems_and_sync_tools_keep_for_themselves_is_never_published() {
    let mut library = Library::new();
    let kept = [
        "._a.mp3",
        "album/@eaDir/a.mp3",
        "#recycle/a.mp3",
        "$RECYCLE.BIN/S-1/a.mp3",
        ".Trash-1000/files/a.mp3",
        ".stversions/a.mp3",
        ".snapshots/1/snapshot/a.mp3",
        "lost+found/a.mp3",
    ];
    for path in kept {
        library.write(path, path);
    }
    library.write("album/a.mp3", "music");
    library.start();
    wait_until_published(&library, &["album/a.mp3"]);
    // And none while it is watched, be the directory new or old.
    let mark = library.mark();
    for path in kept.into_iter().chain(["b/@eaDir/a.mp3", ".sync/Archive/a.mp3", "b/._b.mp3"]) {
        library.write(path, [path, "again"].concat());
    }
    library.write("b/b.mp3", "more music");
    wait_until_published(&library, &["album/a.mp3", "b/b.mp3"]);
    library.stay_silent(SETTLE * 2);
    assert_eq!(library.published_since(mark), ["created b/b.mp3"]);
}

#[test]
fn what_moves_to_where_nothing_is_published_is_deleted_and_what_comes_from_there_is_created() {
    let library = Library::watched();
    for path in ["a/1.mp3", "a/2.mp3", "album/3.mp3", "#recycle/4.mp3", "#recycle/other/5.mp3"] {
        library.write(path, path);
    }
    wait_until_published(&library, &["a/1.mp3", "a/2.mp3", "album/3.mp3"]);
    library.stay_silent(SETTLE);
    let mark = library.mark();
    fs::rename(library.path("a/1.mp3"), library.path("#recycle/1.mp3")).unwrap();
    fs::rename(library.path("a/2.mp3"), library.path("a/._2.mp3")).unwrap();
    fs::rename(library.path("album"), library.path("#recycle/album")).unwrap();
    fs::rename(library.path("#recycle/4.mp3"), library.path("a/4.mp3")).unwrap();
    fs::rename(library.path("#recycle/other"), library.path("other")).unwrap();
    wait_until_published(&library, &["a/4.mp3", "other/5.mp3"]);
    library.stay_silent(SETTLE);
    let published =
        ["created a/4.mp3", "created other/5.mp3", "deleted a/1.mp3", "deleted a/2.mp3", "deleted album/3.mp3"];
    assert_eq!(library.published_sorted_since(mark), published);
    // There and back.
    fs::rename(library.path("#recycle/album"), library.path("album")).unwrap();
    wait_until_published(&library, &["a/4.mp3", "album/3.mp3", "other/5.mp3"]);
}

#[test]
fn an_ignore_file_may_come_change_and_go_while_the_library_is_watched() {
    let library = Library::watched();
    let all: Vec<String> = (10..32).map(|number| format!("a/{number}.mp3")).chain(["a/b/c/x.mp3".to_owned()]).collect();
    for path in &all {
        library.write(path, path);
    }
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    wait_until_published(&library, &all);

    // Most of the library goes, and no brake holds it: it was asked for.
    library.write("a/.ignore-music", "*.mp3\n!10.mp3\n");
    wait_until_published(&library, &["a/10.mp3"]);
    library.write("a/10.mp3", "it is still followed");
    library.write("a/11.mp3", "and this one not");
    library.wait_for("the change", |consumer| {
        consumer.messages.iter().any(|message| message.short() == "modified a/10.mp3")
    });
    library.stay_silent(SETTLE);

    // A deeper one goes before.
    library.write("a/b/.ignore-music", "!x.mp3\n");
    wait_until_published(&library, &["a/10.mp3", "a/b/c/x.mp3"]);
    // Replaced as editors do.
    library.write("a/.ignore-music.new", "b/\n");
    fs::rename(library.path("a/.ignore-music.new"), library.path("a/.ignore-music")).unwrap();
    let without_b: Vec<&str> = all.iter().copied().filter(|path| !path.starts_with("a/b")).collect();
    wait_until_published(&library, &without_b);
    // With its directory.
    fs::rename(library.path("a"), library.path("z")).unwrap();
    let in_z: Vec<String> = without_b.iter().map(|path| path.replacen('a', "z", 1)).collect();
    wait_until_published(&library, &in_z.iter().map(String::as_str).collect::<Vec<_>>());
    fs::remove_file(library.path("z/.ignore-music")).unwrap();
    let all: Vec<String> = all.iter().map(|path| path.replacen('a', "z", 1)).collect();
    wait_until_published(&library, &all.iter().map(String::as_str).collect::<Vec<_>>());
    library.wait_until_settled();
}

#[test]
fn an_ignore_file_is_obeyed_from_its_first_moment() {
    let mut library = Library::new();
    library.write("a/.ignore-music", "*\n!keep.mp3\n");
    for number in 0..50 {
        library.write(format!("a/{number}.mp3"), number.to_string());
    }
    library.write("a/keep.mp3", "kept");
    library.start();
    wait_until_published(&library, &["a/keep.mp3"]);
    // A directory that is made with its files right after its rules.
    library.write("b/.ignore-music", "*.mp3");
    library.write("b/1.mp3", "not published");
    fs::create_dir(library.outside("c")).unwrap();
    fs::write(library.outside("c/.ignore-music"), "1.mp3").unwrap();
    fs::write(library.outside("c/1.mp3"), "not published").unwrap();
    fs::write(library.outside("c/2.mp3"), "published").unwrap();
    fs::rename(library.outside("c"), library.path("c")).unwrap();
    wait_until_published(&library, &["a/keep.mp3", "c/2.mp3"]);
    library.stay_silent(SETTLE * 2);
    assert_eq!(library.messages().len(), 2);
}

/// Scans or watches, each from one start to the next.
fn at_the_next_start(library: &mut Library, is_live: bool, paths: &[&str]) {
    if is_live {
        library.start();
        wait_until_published(library, paths);
        library.stop();
    } else {
        library.scan();
        wait_until_published(library, paths);
    }
}

#[test]
fn rules_that_changed_between_two_starts_are_published_without_the_brake() {
    for is_live in [false, true] {
        let mut library = Library::new();
        for number in 10..30 {
            library.write(format!("{number}.mp3"), number.to_string());
            library.write(format!("pod/{number}.mp3"), format!("pod {number}"));
        }
        library.write("a.flac", "flac");
        library.write("@eaDir/b.flac", "left out by default");
        symlink("a.flac", library.path("link.flac")).unwrap();
        let mp3: Vec<String> = (10..30).map(|number| format!("{number}.mp3")).collect();
        let mp3: Vec<&str> = mp3.iter().map(String::as_str).collect();
        let pod: Vec<String> = (10..30).map(|number| format!("pod/{number}.mp3")).collect();
        let pod: Vec<&str> = pod.iter().map(String::as_str).collect();
        let all = [mp3.as_slice(), &["a.flac"], &pod].concat();
        at_the_next_start(&mut library, is_live, &all);

        library.set("AUDIO_EXTENSIONS", "flac");
        at_the_next_start(&mut library, is_live, &["a.flac"]);
        library.set("AUDIO_EXTENSIONS", "");
        at_the_next_start(&mut library, is_live, &all);
        library.set("EXCLUDE", "*.mp3,!/pod/1?.mp3");
        at_the_next_start(&mut library, is_live, &[["a.flac"].as_slice(), &pod[..10]].concat());
        library.set("EXCLUDE", "/*.mp3\npod/");
        at_the_next_start(&mut library, is_live, &["a.flac"]);
        library.set("EXCLUDE_DEFAULTS", "false");
        at_the_next_start(&mut library, is_live, &["@eaDir/b.flac", "a.flac"]);
        library.set("FOLLOW_SYMLINKS", "true");
        at_the_next_start(&mut library, is_live, &["@eaDir/b.flac", "a.flac", "link.flac"]);
        library.set("FOLLOW_SYMLINKS", "false").set("EXCLUDE_DEFAULTS", "true");
        at_the_next_start(&mut library, is_live, &["a.flac"]);
        library.write("../outside/patterns", "# none of these\n*.flac\n");
        let patterns = library.outside("patterns");
        library.set("EXCLUDE", "").set("EXCLUDE_FILE", patterns);
        at_the_next_start(&mut library, is_live, &[mp3.as_slice(), &pod].concat());
        library.write(".ignore-music", "*");
        at_the_next_start(&mut library, is_live, &[]);
        assert!(library.redelivered() == 0 && library.logged("looks unmounted") == 0);
    }
}

#[test]
fn a_file_that_moved_while_the_rules_changed_is_moved() {
    let mut library = Library::new();
    library.write("incoming/x.mp3", "x");
    library.scan();
    fs::create_dir(library.path("album")).unwrap();
    fs::rename(library.path("incoming/x.mp3"), library.path("album/x.mp3")).unwrap();
    let mark = library.mark();
    library.set("EXCLUDE", "incoming/").scan();
    assert_eq!(library.published_since(mark), ["moved incoming/x.mp3 -> album/x.mp3"]);
}

#[test]
fn a_download_that_begins_late_is_published_once_with_its_content() {
    let library = Library::watched();
    let mut download = File::create(library.path("download.mp3")).unwrap();
    library.write("other.mp3", "another one");
    wait_until_published(&library, &["other.mp3"]);
    library.stay_silent(SETTLE * 2);
    download.write_all(b"all of it").unwrap();
    drop(download);
    library.wait_until_settled();
    assert_eq!(library.published(), ["created other.mp3", "created download.mp3"]);

    // A file that is truncated to be written anew is not published as empty either, and no delete waits for it.
    let again = File::create(library.path("download.mp3")).unwrap();
    fs::remove_file(library.path("other.mp3")).unwrap();
    wait_until_published(&library, &["download.mp3"]);
    library.stay_silent(SETTLE * 2);
    (&again).write_all(b"all of it again").unwrap();
    drop(again);
    library.wait_until_settled();
    assert_eq!(library.published()[2..], ["deleted other.mp3", "modified download.mp3"]);
}

#[test]
fn a_scan_leaves_a_file_that_was_just_made_empty_to_the_next_one() {
    let mut library = Library::new();
    library.write("young.mp3", "");
    library.write("x.mp3", "x");
    let begun = std::time::Instant::now();
    let summary = library.scan();
    assert!(begun.elapsed() < Duration::from_secs(30));
    assert_eq!(summary.figure("left"), "1 (empty for less than a minute)");
    assert_eq!(library.published(), ["created x.mp3"]);
    library.write("young.mp3", "not empty any more");
    let summary = library.scan();
    assert!(!summary.text.contains("left "), "{}", summary.text);
    assert_eq!(library.published(), ["created x.mp3", "created young.mp3"]);
}

/// How many directories the program watches, as the kernel counts them.
pub(crate) fn watched_directories(library: &Library) -> usize {
    usage::watched_directories(library.pid().as_raw_pid().unsigned_abs())
}

fn wait_until_watched(library: &Library, directories: usize) {
    let begun = Instant::now();
    while watched_directories(library) != directories {
        let watched = watched_directories(library);
        assert!(begun.elapsed() < Duration::from_secs(30), "{watched} directories are watched, not {directories}");
        thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn what_is_excluded_is_not_watched_until_it_is_published() {
    let mut library = Library::new();
    for path in ["a/1.mp3", "a/@eaDir/1.mp3", ".snapshots/1/2/1.mp3", "b/c/2.mp3"] {
        library.write(path, path);
    }
    fs::write(library.path("b/.ignore-music"), "c/\n").unwrap();
    library.start();
    // The root, a and b.
    wait_until_watched(&library, 3);
    library.write("a/new/@eaDir/3.mp3", "3");
    fs::rename(library.path(".snapshots"), library.path("a/.snapshots")).unwrap();
    wait_until_watched(&library, 4);
    fs::remove_file(library.path("b/.ignore-music")).unwrap();
    wait_until_published(&library, &["a/1.mp3", "b/c/2.mp3"]);
    wait_until_watched(&library, 5);
    library.write("b/c/4.mp3", "4");
    wait_until_published(&library, &["a/1.mp3", "b/c/2.mp3", "b/c/4.mp3"]);
}
