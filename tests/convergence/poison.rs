//! Files that are a trouble to whoever handles them: huge or odd texts in their tags, and names that are no text.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::random::Random;

/// The lengths of titles, and the bytes that they are made of. None of these is a length that a message could have.
const TITLES: [(usize, &[u8]); 6] = [
    (200_000, b"t"),
    (3_000_000, b"T"),
    (70_000, b"\"\\"),
    // JSON writes each with six characters.
    (40_000, b"\x01\x1f"),
    // Not UTF-8.
    (5_000, b"\xff\xfe\xc3("),
    (70_000, "\u{1f3b5}".as_bytes()),
];

/// Names that a terminal, a log or JSON could stumble over.
const NAMES: [&[u8]; 4] =
    [b"\x1b[2J\x07.mp3", b"\xf0\x28\x8c\x28\xc3.mp3", b"\"\\\r\n\t .mp3", "\u{202e}e\u{301}.mp3".as_bytes()];

/// One of the names, below `directory`. Two of them are so long that a broker may refuse every message about them.
pub(crate) fn path(directory: &Path, number: usize) -> PathBuf {
    let long = [b'\xff'; 200];
    match number % 6 {
        number @ 0..4 => directory.join(OsStr::from_bytes(NAMES[number])),
        number => {
            let name = [&long[..], if number == 4 { b".mp3" } else { b".flac" }].concat();
            directory.join(OsStr::from_bytes(&long)).join(OsStr::from_bytes(&long)).join(OsStr::from_bytes(&name))
        }
    }
}

/// An mp3 with an ID3v2.4 tag that has one of the titles, different for each seed.
pub(crate) fn mp3(number: usize, seed: u64) -> Vec<u8> {
    let (length, pattern) = TITLES[number % TITLES.len()];
    let mut text = vec![3];
    text.extend_from_slice(format!("{seed:016x}").as_bytes());
    text.extend(pattern.iter().copied().cycle().take(length));
    let frame = [b"TIT2".as_slice(), &synchsafe(text.len()), &[0, 0], &text].concat();
    let mut file = [b"ID3\x04\x00\x00".as_slice(), &synchsafe(frame.len()), &frame].concat();
    // MPEG 1 layer III, 128 kbit/s, 44.1 kHz.
    let mut random = Random::new(seed);
    for _ in 0..4 {
        file.extend_from_slice(b"\xff\xfb\x90\x64");
        file.extend(random.bytes(413).iter().map(|byte| byte & 0x7f));
    }
    file
}

/// A size as tags have it: seven bits a byte.
fn synchsafe(size: usize) -> [u8; 4] {
    [21, 14, 7, 0].map(|shift| u8::try_from(size >> shift & 0x7f).unwrap())
}
