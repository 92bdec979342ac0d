//! Libraries made of links: a file outside is published at the path of the first link that leads to it.

use std::fs;
use std::os::unix::fs::symlink;

use crate::support::disk::write;
use crate::support::library::{Library, SETTLE};

fn following_all() -> Library {
    let mut library = Library::new();
    library.set("FOLLOW_SYMLINKS", "all");
    library
}

/// Makes a link in the library to something outside of it.
fn link(library: &Library, target: &str, link: &str) {
    symlink(library.outside(target), library.path(link)).unwrap();
}

/// More files than may be deleted without approval.
fn fill(library: &Library, directory: &str) {
    for number in 10..22 {
        write(&library.outside(format!("{directory}/{number}.mp3")), number.to_string());
    }
}

#[test]
fn each_place_outside_is_followed_once_and_the_other_links_are_counted() {
    let mut library = following_all();
    library.write("here/h.mp3", "here");
    for (path, content) in
        [("one/a.mp3", "a"), ("one/album/b.mp3", "b"), ("two/c.mp3", "c"), ("deep/d.mp3", "d"), ("three/s.mp3", "s")]
    {
        write(&library.outside(path), content);
    }
    write(&library.outside("cover.jpg"), "no audio");
    link(&library, "one", "disk 1");
    link(&library, "two", "disk 2");
    link(&library, "three/s.mp3", "here/song.mp3");
    link(&library, "cover.jpg", "front.jpg");
    symlink(library.path("here"), library.path("inside")).unwrap();
    symlink("../deep", library.outside("two/more")).unwrap();
    let passed_over = [
        (library.outside("one"), library.path("other name of disk 1")),
        (library.outside("three/s.mp3"), library.path("other name of song.mp3")),
        // The directory that holds it comes first, wherever the link to that is.
        (library.outside("one/album"), library.path("album")),
        (library.root().parent().unwrap().to_path_buf(), library.path("above")),
        (library.outside("nothing"), library.path("nothing")),
        (library.path("circle"), library.path("circle")),
        (library.root(), library.outside("one/the library")),
        (library.outside("two"), library.outside("two/itself")),
        (library.outside("one/album"), library.outside("deep/album")),
    ];
    for (target, link) in &passed_over {
        symlink(target, link).unwrap();
    }
    let published = [
        ("disk 1/a.mp3", "a"),
        ("disk 1/album/b.mp3", "b"),
        ("disk 2/c.mp3", "c"),
        ("disk 2/more/d.mp3", "d"),
        ("here/h.mp3", "here"),
        ("here/song.mp3", "s"),
        ("inside/h.mp3", "here"),
    ];
    let mark = library.mark();
    let summary = library.scan();
    library.wait_until_published(&published);
    assert_eq!(summary.figure("links skipped"), passed_over.len().to_string());
    assert!(library.has_logged(mark, "symbolic links are passed over"));

    // What is known is not read again, and a link that takes the place of another has its files moved.
    let summary = library.scan();
    assert!(summary.hashed_nothing(), "{}", summary.text);
    library.wait_until_published(&published);
    fs::remove_file(library.path("disk 1")).unwrap();
    let mark = library.mark();
    library.scan();
    let mut moved = library.published_since(mark);
    moved.sort();
    assert_eq!(
        moved,
        [
            "moved disk 1/a.mp3 -> other name of disk 1/a.mp3",
            "moved disk 1/album/b.mp3 -> other name of disk 1/album/b.mp3"
        ]
    );
}

#[test]
fn changes_outside_are_published_live() {
    let mut library = following_all();
    write(&library.outside("one/a.mp3"), "a");
    write(&library.outside("two/c.mp3"), "c");
    write(&library.outside("three/s.mp3"), "s");
    link(&library, "one", "disk 1");
    link(&library, "three/s.mp3", "song.mp3");
    library.start();
    library.wait_until_published(&[("disk 1/a.mp3", "a"), ("song.mp3", "s")]);

    // Files and directories of what is followed already.
    write(&library.outside("one/new/n.mp3"), "new");
    write(&library.outside("one/a.mp3"), "a again");
    write(&library.outside("three/s.part"), "s again");
    fs::rename(library.outside("three/s.part"), library.outside("three/s.mp3")).unwrap();
    write(&library.outside("three/unknown.mp3"), "no link leads here");
    let published = [("disk 1/a.mp3", "a again"), ("disk 1/new/n.mp3", "new"), ("song.mp3", "s again")];
    library.wait_until_published(&published);
    let mark = library.mark();
    fs::rename(library.outside("one/a.mp3"), library.outside("one/b.mp3")).unwrap();
    library.wait_until_published(&[("disk 1/b.mp3", "a again"), ("disk 1/new/n.mp3", "new"), ("song.mp3", "s again")]);
    assert_eq!(library.published_since(mark), ["renamed disk 1/a.mp3 -> disk 1/b.mp3"]);
    fs::rename(library.outside("one/new"), library.outside("one/old")).unwrap();
    library.wait_until_published(&[("disk 1/b.mp3", "a again"), ("disk 1/old/n.mp3", "new"), ("song.mp3", "s again")]);
    fs::remove_file(library.outside("one/b.mp3")).unwrap();
    library.wait_until_published(&[("disk 1/old/n.mp3", "new"), ("song.mp3", "s again")]);

    // Links that come, go, and lead elsewhere; what they lead to is watched at once.
    link(&library, "two", "disk 2");
    library.wait_until_published(&[("disk 1/old/n.mp3", "new"), ("disk 2/c.mp3", "c"), ("song.mp3", "s again")]);
    write(&library.outside("two/d.mp3"), "d");
    let published =
        [("disk 1/old/n.mp3", "new"), ("disk 2/c.mp3", "c"), ("disk 2/d.mp3", "d"), ("song.mp3", "s again")];
    library.wait_until_published(&published);
    let mark = library.mark();
    fs::rename(library.outside("two/d.mp3"), library.outside("one/d.mp3")).unwrap();
    let published =
        [("disk 1/d.mp3", "d"), ("disk 1/old/n.mp3", "new"), ("disk 2/c.mp3", "c"), ("song.mp3", "s again")];
    library.wait_until_published(&published);
    assert_eq!(library.published_since(mark), ["moved disk 2/d.mp3 -> disk 1/d.mp3"]);
    fs::remove_file(library.path("disk 1")).unwrap();
    fs::remove_file(library.path("song.mp3")).unwrap();
    library.wait_until_published(&[("disk 2/c.mp3", "c")]);
    write(&library.outside("one/unheard.mp3"), "no link leads here any more");
    write(&library.outside("four/e.mp3"), "e");
    link(&library, "four", "next");
    fs::rename(library.path("next"), library.path("disk 2")).unwrap();
    library.wait_until_published(&[("disk 2/e.mp3", "e")]);
    write(&library.outside("four/f.mp3"), "f");
    library.wait_until_published(&[("disk 2/e.mp3", "e"), ("disk 2/f.mp3", "f")]);

    // A directory that is moved in with a link in it, and a target that goes and comes back.
    fs::create_dir(library.outside("album")).unwrap();
    symlink(library.outside("two"), library.outside("album/two")).unwrap();
    fs::rename(library.outside("album"), library.path("album")).unwrap();
    library.wait_until_published(&[("album/two/c.mp3", "c"), ("disk 2/e.mp3", "e"), ("disk 2/f.mp3", "f")]);
    fs::rename(library.outside("two"), library.outside("two away")).unwrap();
    library.wait_until_published(&[("disk 2/e.mp3", "e"), ("disk 2/f.mp3", "f")]);
    fs::rename(library.outside("two away"), library.outside("two")).unwrap();
    library.wait_until_published(&[("album/two/c.mp3", "c"), ("disk 2/e.mp3", "e"), ("disk 2/f.mp3", "f")]);
    write(&library.outside("two/g.mp3"), "g");
    let published = [("album/two/c.mp3", "c"), ("album/two/g.mp3", "g"), ("disk 2/e.mp3", "e"), ("disk 2/f.mp3", "f")];
    library.wait_until_published(&published);
    library.stay_silent(SETTLE * 2);
}

#[test]
fn a_target_that_was_moved_away_is_for_the_brake() {
    let mut library = following_all();
    fill(&library, "disk");
    link(&library, "disk", "disk");
    library.scan();
    let mark = library.mark();
    fs::rename(library.outside("disk"), library.outside("away")).unwrap();
    let summary = library.scan();
    assert_eq!(summary.figure("held deletes"), "12");
    fs::rename(library.outside("away"), library.outside("disk")).unwrap();
    let summary = library.scan();
    assert!(summary.hashed_nothing() && !summary.text.contains("held deletes"), "{}", summary.text);
    assert!(library.messages_since(mark).is_empty(), "{:?}", library.published_since(mark));
}

#[test]
fn what_is_not_followed_any_more_is_deleted_without_the_brake() {
    for (less, is_inside_published) in [("inside", true), ("never", false)] {
        let mut library = following_all();
        fill(&library, "disk");
        link(&library, "disk", "disk");
        library.write("here/x.mp3", "x");
        symlink("here", library.path("inside")).unwrap();
        library.scan();
        assert_eq!(library.files().len(), 14);
        library.set("FOLLOW_SYMLINKS", less);
        let summary = library.scan();
        assert!(!summary.text.contains("held deletes") && !summary.text.contains("links skipped"), "{}", summary.text);
        let inside: &[(&str, &str)] = if is_inside_published { &[("inside/x.mp3", "x")] } else { &[] };
        library.wait_until_published(&[&[("here/x.mp3", "x")], inside].concat());
    }
}
