//! The libraries that are scanned and watched.

use std::fs::{self, File};
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::support::disk::fixtures;

/// Files in a directory.
const IN_A_DIRECTORY: usize = 10;

/// Tagged files of 20 to 60 KB, from real encoders, each with other bytes at its end.
pub(crate) fn tagged(root: &Path, files: usize) {
    let mut originals = Vec::new();
    for kind in ["flac", "mp3"] {
        for entry in fs::read_dir(fixtures().join(kind)).unwrap() {
            let content = fs::read(entry.unwrap().path()).unwrap();
            if (2_000..50_000).contains(&content.len()) {
                originals.push((kind, content));
            }
        }
    }
    originals.sort();
    let mut random = fastrand::Rng::with_seed(7);
    for number in 0..files {
        let (extension, original) = &originals[number % originals.len()];
        let size = random.usize(20_000..60_000).max(original.len());
        let mut content = original.clone();
        content.resize_with(size, || random.u8(..));
        write(root, number, extension, &content);
    }
}

/// Files of some bytes.
pub(crate) fn tiny(root: &Path, files: usize) {
    for number in 0..files {
        write(root, number, "mp3", format!("x{number}").as_bytes());
    }
}

/// Writes the file with this number, as it was an hour ago.
fn write(root: &Path, number: usize, extension: &str, content: &[u8]) {
    let directory = number / IN_A_DIRECTORY;
    let directory = root.join(format!("Artist {:05}/Album {}", directory / 10, directory % 10));
    if number.is_multiple_of(IN_A_DIRECTORY) {
        fs::create_dir_all(&directory).unwrap();
    }
    let path = directory.join(format!("{:02} Track.{extension}", number % IN_A_DIRECTORY));
    fs::write(&path, content).unwrap();
    let an_hour_ago = SystemTime::now() - Duration::from_hours(1);
    File::options().write(true).open(path).unwrap().set_modified(an_hour_ago).unwrap();
}
