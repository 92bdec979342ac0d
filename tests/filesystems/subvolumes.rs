//! Subvolumes and snapshots of btrfs: directories with device and inode numbers of their own on one mount.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::scenarios::{Place, Stage, hashed, write_old};
use crate::support::disk::{run, write};
use crate::support::medium::Disk;

fn subvolume(verb: &str, arguments: &[&Path]) {
    let mut all: Vec<&dyn AsRef<std::ffi::OsStr>> = vec![&"subvolume"];
    all.push(&verb);
    all.extend(arguments.iter().map(|path| path as &dyn AsRef<_>));
    run("btrfs", &all);
}

/// Two subvolumes, one of them with another one in it, whose files have the same inode numbers.
fn stage() -> Stage {
    let stage = Stage::new(Box::new(Disk::btrfs()), Place::Below);
    stage.change(|folder| {
        for name in ["one", "two", "two/nested"] {
            subvolume("create", &[&folder.join(name)]);
            for number in 0..3 {
                write_old(&folder.join(name).join(format!("{number}.mp3")), &format!("{name} {number}"));
            }
        }
        let inode = |path: &str| fs::metadata(folder.join(path)).unwrap().ino();
        assert_eq!(inode("one/0.mp3"), inode("two/nested/0.mp3"));
    });
    stage
}

#[test]
fn subvolumes_and_snapshots_are_followed_offline() {
    let mut stage = stage();
    stage.library.scan();
    stage.library.wait_until_converged();
    let mark = stage.library.mark();
    stage.attach_again(|folder| {
        subvolume("snapshot", &[&folder.join("one"), &folder.join("snap")]);
        write_old(&folder.join("snap/0.mp3"), "in the snapshot");
        fs::remove_file(folder.join("one/1.mp3")).unwrap();
        fs::rename(folder.join("two/2.mp3"), folder.join("two/renamed.mp3")).unwrap();
        subvolume("delete", &[&folder.join("two/nested")]);
    });
    let summary = stage.library.scan();
    stage.library.wait_until_converged();
    let published = stage.published(mark);
    for number in 0..3 {
        assert!(published.contains(&format!("deleted two/nested/{number}.mp3")), "{published:?}");
    }
    assert!(published.contains(&"renamed two/2.mp3 -> two/renamed.mp3".to_owned()), "{published:?}");
    assert!(hashed(&summary) <= "in the snapshot".len() + 3 * "one 0".len(), "{}", summary.text);

    let mark = stage.library.mark();
    stage.attach_again(|_| {});
    let summary = stage.library.scan();
    assert_eq!(stage.published(mark), [""; 0]);
    assert!(summary.hashed_nothing(), "{}", summary.text);

    // Which leaves its name to its snapshot, the files of which have the same numbers and birth times.
    stage.change(|folder| {
        subvolume("delete", &[&folder.join("one")]);
        fs::rename(folder.join("snap"), folder.join("one")).unwrap();
    });
    stage.library.scan();
    stage.library.wait_until_converged();
    stage.change(|folder| subvolume("delete", &[&folder.join("one")]));
    stage.library.scan();
    stage.library.wait_until_converged();
}

#[test]
fn subvolumes_and_snapshots_are_followed_live() {
    let mut stage = stage();
    stage.library.start();
    stage.library.wait_until_converged();
    let steps: &[&dyn Fn(&Path)] = &[
        &|folder| subvolume("snapshot", &[&folder.join("one"), &folder.join("snap")]),
        &|folder| write(&folder.join("snap/0.mp3"), "in the snapshot"),
        &|folder| write(&folder.join("one/0.mp3"), "in the original"),
        &|folder| fs::rename(folder.join("snap/2.mp3"), folder.join("snap/renamed.mp3")).unwrap(),
        &|folder| subvolume("create", &[&folder.join("new")]),
        &|folder| write(&folder.join("new/0.mp3"), "in a new one"),
        &|folder| fs::rename(folder.join("new"), folder.join("renamed")).unwrap(),
        &|folder| subvolume("delete", &[&folder.join("two/nested")]),
        &|folder| subvolume("delete", &[&folder.join("one")]),
        &|folder| subvolume("snapshot", &[&folder.join("snap"), &folder.join("one")]),
    ];
    for step in steps {
        stage.change(step);
        stage.library.wait_until_converged();
    }
    stage.library.stop();
    let mark = stage.library.mark();
    stage.library.scan();
    assert_eq!(stage.published(mark), [""; 0]);
}
