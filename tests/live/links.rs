//! Links that are followed if a setting says so: inside the library, once, and never in a circle.

use std::fs;
use std::os::unix::fs::symlink;

use crate::support::disk::write;
use crate::support::library::{Library, SETTLE};

fn following(which: &str) -> Library {
    let mut library = Library::new();
    library.set("FOLLOW_SYMLINKS", which);
    library
}

/// Links that lead out of the library, to nothing, and in circles.
fn lead_astray(library: &Library) {
    write(&library.outside("tree/x.mp3"), "outside");
    for (target, link) in [
        (library.outside("tree"), "tree out"),
        (library.outside("tree/x.mp3"), "out.mp3"),
        (library.root(), "artist/circle"),
        (library.path("artist"), "artist/self.mp3"),
        (library.path("nothing"), "dangling.mp3"),
    ] {
        symlink(target, library.path(link)).unwrap();
    }
}

#[test]
fn what_links_lead_to_is_published_at_every_path_that_leads_there() {
    let mut library = following("true");
    library.write("artist/album/x.mp3", "one");
    library.write("blob", "no name of an audio file");
    fs::create_dir(library.path("genre")).unwrap();
    lead_astray(&library);
    symlink("../artist", library.path("genre/jazz")).unwrap();
    symlink("../blob", library.path("genre/song.mp3")).unwrap();
    symlink("../../genre", library.path("artist/album/genre")).unwrap();
    let published = [
        ("artist/album/x.mp3", "one"),
        ("genre/jazz/album/x.mp3", "one"),
        ("genre/song.mp3", "no name of an audio file"),
    ];
    // `artist/album/genre` leads to nothing but links, and behind a link no other one is followed.
    library.scan();
    library.wait_until_published(&published);
    let summary = library.scan();
    assert!(summary.hashed_nothing(), "{}", summary.text);
    library.wait_until_published(&published);
}

#[test]
fn a_change_behind_a_link_is_published_live_at_every_path() {
    follow_live(following("inside"), lead_astray);
}

#[test]
fn links_inside_are_followed_likewise_if_those_that_lead_out_are_followed_too() {
    follow_live(following("all"), |_| {});
}

fn follow_live(mut library: Library, lead_astray: impl Fn(&Library)) {
    library.write("artist/x.mp3", "one");
    library.write("blob", "first");
    lead_astray(&library);
    library.start();
    symlink(library.path("artist"), library.path("jazz")).unwrap();
    symlink("blob", library.path("song.mp3")).unwrap();
    library.wait_until_published(&[("artist/x.mp3", "one"), ("jazz/x.mp3", "one"), ("song.mp3", "first")]);

    // Contents, names and whole directories.
    library.write("artist/x.mp3", "two");
    library.write("blob", "second");
    library.write("artist/album/y.mp3", "new");
    let published = [
        ("artist/album/y.mp3", "new"),
        ("artist/x.mp3", "two"),
        ("jazz/album/y.mp3", "new"),
        ("jazz/x.mp3", "two"),
        ("song.mp3", "second"),
    ];
    library.wait_until_published(&published);
    fs::rename(library.path("artist/album"), library.path("artist/renamed")).unwrap();
    fs::remove_file(library.path("artist/x.mp3")).unwrap();
    let published = [("artist/renamed/y.mp3", "new"), ("jazz/renamed/y.mp3", "new"), ("song.mp3", "second")];
    library.wait_until_published(&published);

    let mark = library.mark();
    fs::rename(library.path("artist/renamed/y.mp3"), library.path("artist/renamed/z.mp3")).unwrap();
    let published = [("artist/renamed/z.mp3", "new"), ("jazz/renamed/z.mp3", "new"), ("song.mp3", "second")];
    library.wait_until_published(&published);
    let mut renamed = library.published_since(mark);
    renamed.sort();
    assert_eq!(
        renamed,
        ["renamed artist/renamed/y.mp3 -> artist/renamed/z.mp3", "renamed jazz/renamed/y.mp3 -> jazz/renamed/z.mp3"]
    );

    // The links themselves.
    write(&library.path("other/z.mp3"), "other");
    symlink("other", library.path("new link")).unwrap();
    fs::rename(library.path("new link"), library.path("jazz")).unwrap();
    let published =
        [("artist/renamed/z.mp3", "new"), ("jazz/z.mp3", "other"), ("other/z.mp3", "other"), ("song.mp3", "second")];
    library.wait_until_published(&published);
    fs::remove_file(library.path("jazz")).unwrap();
    fs::remove_file(library.path("song.mp3")).unwrap();
    library.wait_until_published(&[("artist/renamed/z.mp3", "new"), ("other/z.mp3", "other")]);

    // What a link leads to goes, and comes back.
    symlink("other", library.path("jazz")).unwrap();
    let published = [("artist/renamed/z.mp3", "new"), ("jazz/z.mp3", "other"), ("other/z.mp3", "other")];
    library.wait_until_published(&published);
    fs::rename(library.path("other"), library.outside("other")).unwrap();
    library.wait_until_published(&[("artist/renamed/z.mp3", "new")]);
    fs::rename(library.outside("other"), library.path("other")).unwrap();
    library.wait_until_published(&published);
    library.stay_silent(SETTLE * 2);
}

#[test]
fn a_directory_that_a_link_leads_to_goes_with_its_files_at_every_path() {
    for which in ["inside", "all"] {
        let mut library = following(which);
        library.write("other/z.mp3", "other");
        symlink("other", library.path("jazz")).unwrap();
        library.start();
        library.wait_until_published(&[("jazz/z.mp3", "other"), ("other/z.mp3", "other")]);
        fs::rename(library.path("other"), library.outside("other")).unwrap();
        library.wait_until_published(&[]);
    }
}
