//! Names that are legal and that programs stumble over.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::support::disk::{require_root, run};
use crate::support::library::Library;

/// Goes down so far that the kernel takes no path of it at once, and does there what the last words say.
const DEEP: &str = "
import os, sys
os.chdir(sys.argv[1])
for _ in range(20):
    if not os.path.isdir('d' * 250):
        os.mkdir('d' * 250)
    os.chdir('d' * 250)
exec(sys.argv[2])
";

fn deep_in(root: &Path, action: &str) {
    run("python3", &[&"-c", &DEEP, &root, &action]);
}

#[test]
fn odd_names_are_published_byte_by_byte_live_and_by_a_walk() {
    let mut library = Library::new();
    let long = [&[b'n'; 251][..], b".mp3"].concat();
    let names: &[&[u8]] = &[
        b"\xff\xfe.mp3",
        b"new\nline.mp3",
        b" .mp3",
        b"\x01barrier.mp3",
        b"-rf.mp3",
        "ü.mp3".as_bytes(),
        b"\\.mp3",
        &long,
    ];
    for (directory, live) in [("walked", false), ("live", true)] {
        if live {
            library.start();
        }
        for name in names {
            library.write(Path::new(directory).join(OsStr::from_bytes(name)), name);
            let inside = [b"in ".as_slice(), &name[..name.len().min(200)]].concat();
            library.write(Path::new(directory).join(OsStr::from_bytes(&inside)).join("x.mp3"), name);
        }
    }
    library.wait_until_settled();
    assert_eq!(library.files().len(), names.len() * 4);

    let mark = library.mark();
    for name in names {
        fs::rename(
            library.path("live").join(OsStr::from_bytes(name)),
            library.path("walked").join(OsStr::from_bytes(&[b"2", &name[..name.len().min(200)], b".mp3"].concat())),
        )
        .unwrap();
    }
    library.wait_until_settled();
    assert!(library.messages_since(mark).iter().all(|message| message.event_type == "moved"));
}

#[test]
fn a_file_deeper_than_a_path_may_be_long_is_found_by_a_walk() {
    let mut library = Library::new();
    deep_in(&library.root(), "open('x.mp3', 'w').write('deep')");
    library.start();
    library.wait_until_converged();
    assert_eq!(library.files().len(), 1);
    library.stop();
    deep_in(&library.root(), "os.rename('x.mp3', 'y.mp3')");
    let mark = library.mark();
    assert!(library.scan().hashed_nothing() || library.published_since(mark).len() == 1);
    assert_eq!(library.messages_since(mark)[0].event_type, "renamed");
}

#[test]
fn a_file_deeper_than_can_be_watched_is_found_by_polling() {
    require_root();
    for mode in ["native", "fanotify"] {
        let mut library = Library::new();
        library.set("WATCH_MODE", mode).set("POLL_INTERVAL_SECS", "2").start();
        deep_in(&library.root(), "open('x.mp3', 'w').write('deep')");
        library.wait_until_converged();
        assert_eq!(library.files().len(), 1);
        deep_in(&library.root(), "open('x.mp3', 'w').write('deeper')");
        library.wait_until_converged();
        deep_in(&library.root(), "os.remove('x.mp3')");
        library.wait_until_converged();
    }
}
