//! What is read of real files, against what mutagen reads of them.
//!
//! `tests/fixtures` is made by real encoders, and its `expected.json` by mutagen.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use file_watcher::content::{Contents, PartContent, Reader, adts, tags};
use file_watcher::model::{Field, LibraryPath, Metadata, Origin};
use serde::Deserialize;

/// What mutagen says of one file.
#[derive(Debug, Deserialize)]
struct Expected {
    format: String,
    #[serde(default)]
    duration: f64,
    bitrate: Option<u32>,
    sample_rate: Option<u32>,
    channels: Option<u32>,
    codec: String,
    bits_per_sample: Option<u32>,
    #[serde(default)]
    has_cover: bool,
    #[serde(default)]
    tags: BTreeMap<String, String>,
    audio_hash: String,
}

/// Where this differs from mutagen, and why that is right: file, field, what is read here, reason.
const DIFFERENCES: &[(&str, &str, &str, &str)] = &[
    ("flac/tagged-24bit.flac", "track", "11/20", TOTAL),
    ("ogg/tagged-oggenc-total.ogg", "track", "7/12", TOTAL),
    ("m4a/tagged-alac.m4a", "bitrate", "244560", NOMINAL),
    ("m4r/tagged-alac.m4r", "bitrate", "61584", NOMINAL),
    ("m4a/tagged-alac-24bit.m4a", "bitrate", "724480", NOMINAL),
    ("mp3/tagged-all-apev2.mp3", "duration", "0.504", APE_IS_NO_SOUND),
    ("wma/ffmpeg-date.wma", "date", "2004", PLAIN_DATE),
];

const TOTAL: &str = "the total is in a comment of its own, and is joined to the number";
const NOMINAL: &str = "the header has the rate of the uncompressed sound; this is what the file has";
const APE_IS_NO_SOUND: &str = "the APEv2 tag behind the frames is not a part of them";
const PLAIN_DATE: &str = "the date is under the name that ffmpeg gives it";

/// What is in `damaged` and can be read all the same.
const READABLE: &[&str] = &[
    "huge-atom.m4a",
    "huge-count.wma",
    "huge-header.wma",
    "truncated-sound.aac",
    "truncated-sound.flac",
    "truncated-sound.wav",
];

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

fn expected() -> BTreeMap<String, Expected> {
    let text = fs::read_to_string(fixtures().join("expected.json")).expect("the fixtures are there");
    serde_json::from_str(&text).expect("expected.json is as described")
}

fn read(file: &Path, adts: Option<adts::Summary>) -> Metadata {
    let name = LibraryPath::from(file.file_name().unwrap().to_str().unwrap());
    tags::read(&File::open(file).unwrap(), &name, adts)
}

/// The fields of which mutagen knows anything, each with what was read and whether it agrees.
fn compare(expected: &Expected, found: &Metadata) -> Vec<(String, String, String, bool)> {
    let near = |found: f64, expected: f64, least: f64| (found - expected).abs() <= (expected * 0.02).max(least);
    let mut fields = Vec::new();
    let mut field = |name: &str, expected: String, found: String, agrees: bool| {
        fields.push((name.to_owned(), expected, found, agrees));
    };
    field("error", "none".into(), format!("{:?}", found.error), found.error.is_none());
    let format = found.format.clone().unwrap_or_default();
    field("format", expected.format.clone(), format.clone(), format == expected.format);
    let duration = found.duration.unwrap_or(0.0);
    field("duration", expected.duration.to_string(), format!("{duration:.3}"), near(duration, expected.duration, 0.05));
    if let Some(bitrate) = expected.bitrate {
        let here = found.bitrate.unwrap_or(0);
        field("bitrate", bitrate.to_string(), here.to_string(), near(here.into(), bitrate.into(), 1000.0));
    }
    for (name, expected, found) in
        [("sample_rate", expected.sample_rate, found.sample_rate), ("channels", expected.channels, found.channels)]
    {
        if let Some(expected) = expected {
            field(name, expected.to_string(), found.unwrap_or(0).to_string(), found == Some(expected));
        }
    }
    let codec = found.codec.clone().unwrap_or_default();
    field("codec", expected.codec.clone(), codec.clone(), codec == expected.codec);
    let bits = |bits: Option<u32>| bits.unwrap_or(0).to_string();
    let is_equal = expected.bits_per_sample == found.bits_per_sample;
    field("bits_per_sample", bits(expected.bits_per_sample), bits(found.bits_per_sample), is_equal);
    let (cover, here) = (expected.has_cover, found.has_cover);
    field("has_cover", cover.to_string(), here.to_string(), here == cover);
    for tag in Field::ALL {
        let expected = expected.tags.get(tag.name()).map_or("", String::as_str);
        let found = found.tags.get(tag).unwrap_or_default();
        field(tag.name(), expected.to_owned(), found.to_owned(), found == expected);
    }
    fields
}

/// Every disagreement must be in the table, and everything in the table must be a disagreement.
fn check(all: impl Iterator<Item = (String, Vec<(String, String, String, bool)>)>, whole_table: bool) {
    let mut wrong = Vec::new();
    let mut explained = 0;
    for (file, fields) in all {
        for (field, expected, found, agrees) in fields {
            let difference = DIFFERENCES.iter().find(|&&(of, name, ..)| of == file && name == field);
            match difference {
                None if !agrees => wrong.push(format!("{file}: {field}: {found}, and not {expected}")),
                Some((.., here, _)) if agrees || *here != found => {
                    wrong.push(format!("{file}: {field}: the table says {here}, but it is {found}"));
                }
                Some(_) => explained += 1,
                None => {}
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
    assert!(!whole_table || explained == DIFFERENCES.len());
}

#[test]
fn every_file_reads_as_mutagen_reads_it() {
    let expected = expected();
    assert!(expected.len() > 50);
    check(
        expected.into_iter().map(|(file, expected)| {
            let fields = compare(&expected, &read(&fixtures().join(&file), None));
            (file, fields)
        }),
        true,
    );
}

#[test]
fn raw_aac_reads_the_same_through_the_counter_whatever_the_chunks() {
    let files: Vec<_> = expected().into_iter().filter(|(file, _)| file.starts_with("aac/")).collect();
    assert!(!files.is_empty());
    for chunk in [1, 7, 1000, 4096, 65_537] {
        check(
            files.iter().map(|(file, expected)| {
                let bytes = fs::read(fixtures().join(file)).unwrap();
                let mut counter = adts::Counter::new();
                bytes.chunks(chunk).for_each(|chunk| counter.update(chunk));
                let summary = counter.finish(bytes.len() as u64);
                (file.clone(), compare(expected, &read(&fixtures().join(file), Some(summary))))
            }),
            false,
        );
    }
}

/// The hash of the sound of a file, as messages have it.
fn audio_hash(file: &Path) -> Option<String> {
    let name = LibraryPath::from(file.file_name().unwrap().to_str().unwrap());
    let track = Reader::default().read(&File::open(file).unwrap(), &name, None, Origin::Watch).unwrap();
    track.sound.map(|sound| format!("{:032x}", sound.xxh128))
}

#[test]
fn the_sound_of_every_file_is_what_ffmpeg_copies_out_of_it() {
    for (file, expected) in expected() {
        assert_eq!(audio_hash(&fixtures().join(&file)), Some(expected.audio_hash), "{file}");
    }
}

#[test]
fn a_file_that_was_retagged_has_the_same_sound() {
    let expected = expected();
    let mut retagged = 0;
    for tagger in folders(&fixtures().join("retagged")) {
        for format in folders(&tagger) {
            for file in folders(&format) {
                let name = file.strip_prefix(&tagger).unwrap();
                let original = fixtures().join(name);
                assert_ne!(fs::read(&file).unwrap(), fs::read(original).unwrap(), "{}", file.display());
                let expected = &expected[name.to_str().unwrap()].audio_hash;
                assert_eq!(audio_hash(&file).as_ref(), Some(expected), "{}", file.display());
                retagged += 1;
            }
        }
    }
    assert!(retagged > 25);
}

fn folders(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn the_sound_of_a_file_of_several_chunks_is_hashed_whole() {
    // The name of each file with another size of its tags, so that the sound begins and ends anywhere in a chunk.
    let sound = fs::read(fixtures().join("mp3/untagged-ffmpeg.mp3")).unwrap();
    for (repeats, tag) in [(100, 0), (150, 300_000), (400, 1_000_000)] {
        let size = u32::try_from(tag).unwrap();
        let size = [21, 14, 7, 0].map(|shift| u8::try_from(size >> shift & 0x7F).unwrap());
        let tag = [&b"ID3\x04\0\0"[..], &size, &vec![0; tag]].concat();
        let id3v1 = [&b"TAG"[..], &[b' '; 125]].concat();
        let mut file = tempfile::Builder::new().suffix(".mp3").tempfile().unwrap();
        let bytes = sound.repeat(repeats);
        std::io::Write::write_all(&mut file, &[&tag, &bytes[..], &id3v1].concat()).unwrap();
        let expected = format!("{:032x}", xxhash_rust::xxh3::xxh3_128(&bytes));
        assert_eq!(audio_hash(file.path()), Some(expected), "{repeats}");
    }
}

#[test]
fn listing_the_parts_of_tags_changes_nothing_and_lists_every_published_text() {
    for file in expected().into_keys() {
        let path = fixtures().join(&file);
        let name = LibraryPath::from(path.file_name().unwrap().to_str().unwrap());
        let listed = tags::list(File::open(&path).unwrap(), &name);
        assert_eq!(listed.metadata, read(&path, None), "{file}");
        let published = listed.parts.iter().filter_map(|part| match &part.content {
            PartContent::Text { field, text, is_published: true } => Some((field.name(), text.as_str())),
            _ => None,
        });
        let published: BTreeMap<&str, &str> = published.collect();
        assert_eq!(published, listed.metadata.tags.present().collect(), "{file}");
        assert!(listed.problems.is_empty() && listed.parts.iter().all(|part| part.container != "by lofty"), "{file}");
    }
}

#[test]
fn a_damaged_file_has_an_error_and_what_is_known() {
    let entries = fs::read_dir(fixtures().join("damaged")).unwrap();
    let files: BTreeMap<String, Metadata> = entries
        .map(|entry| entry.unwrap().path())
        .map(|file| (file.file_name().unwrap().to_str().unwrap().to_owned(), read(&file, None)))
        .collect();
    assert!(files.len() > 30);
    for (name, metadata) in &files {
        assert!(metadata.format.is_some(), "{name}");
        assert_eq!(metadata.error.is_none(), READABLE.contains(&name.as_str()), "{name}: {metadata:?}");
        assert_ne!(metadata.error.as_deref(), Some("the parser failed on it"), "{name}");
    }
    assert_eq!(files["huge-tag.mp3"].tags.present().count(), 6);
    assert!(files["huge-comment.opus"].duration.is_some());
}

#[test]
fn a_file_that_is_cut_anywhere_does_no_harm() {
    for file in expected().into_keys() {
        let bytes = fs::read(fixtures().join(&file)).unwrap();
        let mut cut = tempfile::NamedTempFile::new().unwrap();
        std::io::Write::write_all(&mut cut, &bytes).unwrap();
        let path = LibraryPath::from(file.as_str());
        // Every length in the headers, and some of those in the sound.
        for length in (0..bytes.len()).rev().filter(|length| *length < 300 || length % 97 == 0) {
            cut.as_file().set_len(length as u64).unwrap();
            let metadata = tags::read(cut.as_file(), &path, None);
            assert_ne!(metadata.error.as_deref(), Some("the parser failed on it"), "{file} cut to {length}");
        }
    }
}
