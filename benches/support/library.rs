//! A music library with realistic names, and with files made from the fixtures.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use file_watcher::model::LibraryPath;

const ARTISTS: [&str; 16] = [
    "Nina Simone",
    "Sigur Rós",
    "The Velvet Underground",
    "Miles Davis",
    "Björk",
    "King Gizzard & The Lizard Wizard",
    "John Coltrane",
    "坂本龍一",
    "Antônio Carlos Jobim",
    "Einstürzende Neubauten",
    "Fela Kuti",
    "The Smiths",
    "Дмитрий Шостакович",
    "Godspeed You! Black Emperor",
    "Portishead",
    "Various Artists",
];

const WORDS: [&str; 24] = [
    "Blue", "Night", "River", "Love", "Theme", "Dance", "Rain", "Little", "Black", "Sunday", "Homesick", "Waltz",
    "Summer", "Ghost", "Train", "Été", "Light", "Sætur", "Street", "Golden", "Minor", "Winter", "Home", "(Live)",
];

/// Tracks on an album, and albums of an artist.
const TRACKS: usize = 12;
const ALBUMS: usize = 7;

/// The extensions of the files, most of them flac and mp3.
const EXTENSIONS: [&str; 6] = ["flac", "mp3", "flac", "mp3", "m4a", "flac"];

/// The path of the file with this number, such as `Nina Simone/1964 - Blue Train/03 - Summer Rain.flac`.
pub(crate) fn path(number: usize) -> LibraryPath {
    let (album, track) = (number / TRACKS, number % TRACKS);
    let (artist, year) = (album / ALBUMS, 1955 + album * 3 % 70);
    // After the artists of the list, each name is used again with a number.
    let namesake = match artist / ARTISTS.len() {
        0 => String::new(),
        namesake => format!(" ({namesake})"),
    };
    let word = |salt: usize| WORDS[(number * 7 + salt * 13 + album) % WORDS.len()];
    let album_word = |salt: usize| WORDS[(album * 5 + salt * 11) % WORDS.len()];
    let text = format!(
        "{}{namesake}/{year} - {} {} {}/{:02} - {} {}.{}",
        ARTISTS[artist % ARTISTS.len()],
        album_word(0),
        album_word(1),
        album % ALBUMS + 1,
        track + 1,
        word(0),
        word(1),
        extension(number),
    );
    LibraryPath::from(text.as_str())
}

fn extension(number: usize) -> &'static str {
    EXTENSIONS[number / TRACKS % EXTENSIONS.len()]
}

/// A fixture of the tests, such as `mp3/tagged-id3v24.mp3`.
pub(crate) fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// A library on disk, removed when this is dropped.
pub(crate) struct Library {
    folder: tempfile::TempDir,
}

impl Library {
    /// Empty files, for benches that only read their stat.
    pub(crate) fn of_names(count: usize) -> Self {
        Self::of(count, |_, file| drop(File::create(file).unwrap()))
    }

    /// Small tagged files with different contents.
    pub(crate) fn of_small_files(count: usize) -> Self {
        let fixtures = ["flac/tagged-flac.flac", "mp3/tagged-lame-abr.mp3", "m4a/tagged-faststart.m4a"]
            .map(|name| fs::read(fixture(name)).unwrap());
        Self::of(count, |number, file| {
            let [flac, mp3, mp4] = &fixtures;
            let sample = match extension(number) {
                "flac" => flac,
                "mp3" => mp3,
                _ => mp4,
            };
            write(file, sample, number, 0);
        })
    }

    /// Large files: tags in front, and incompressible audio.
    pub(crate) fn of_large_files(count: usize, size: usize) -> Self {
        let sample = fs::read(fixture("flac/tagged-flac.flac")).unwrap();
        Self::of(count, |number, file| write(&file.with_extension("flac"), &sample, number, size))
    }

    fn of(count: usize, make: impl Fn(usize, &Path)) -> Self {
        let folder = tempfile::Builder::new().prefix("file-watcher-bench-").tempdir().unwrap();
        for number in 0..count {
            let file = path(number).to_absolute(folder.path());
            if number % TRACKS == 0 {
                fs::create_dir_all(file.parent().unwrap()).unwrap();
            }
            make(number, &file);
        }
        // Otherwise the writeback would be measured with the next bench.
        rustix::fs::sync();
        Self { folder }
    }

    /// The library's root.
    pub(crate) fn root(&self) -> &Path {
        self.folder.path()
    }
}

/// Writes a sample with an atom of noise at its end, which the parsers of all formats skip, and sets an mtime that is
/// old enough for the file to be settled.
fn write(file: &Path, sample: &[u8], number: usize, size: usize) {
    let noise = noise(number, size.saturating_sub(sample.len() + 8).max(64));
    let mut bytes = Vec::with_capacity(sample.len() + 8 + noise.len());
    bytes.extend_from_slice(sample);
    bytes.extend_from_slice(&u32::try_from(noise.len() + 8).unwrap().to_be_bytes());
    bytes.extend_from_slice(b"free");
    bytes.extend_from_slice(&noise);
    fs::write(file, bytes).unwrap();
    let an_hour_ago = SystemTime::now() - Duration::from_hours(1);
    File::options().write(true).open(file).unwrap().set_modified(an_hour_ago).unwrap();
}

/// Bytes without a pattern, the same for the same seed.
pub(crate) fn noise(seed: usize, length: usize) -> Vec<u8> {
    let mut state = (seed as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        // xorshift64
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}
