//! What fuzzing runs: an entry for each reader of a format, and one for everything that is done with the content of a file.
//!
//! Each takes the bytes of a file and panics if a promise of docs/metadata.md does not hold for them. The readers run alone
//! too, because random bytes rarely get through the choice of a format to the depth of its reader.
//!
//! The crate in `fuzz/` has a target for each. The tests below run them on the files of `tests/fixtures`.

use std::io::{self, Cursor};
use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use rustix::time::{ClockId, clock_gettime};
use uuid::Uuid;

use super::found::Found;
use super::source::Source;
use super::{adif, adts, aiff, asf, end_tags, flac, id3v2, mp4, mpeg, ogg, plausible, sound, tags, tail, wav};
use crate::message::{Encoder, Stamp};
use crate::model::{
    Change, FileEvent, FileStat, Fingerprint, LibraryPath, Metadata, MetadataStyle, Origin, Outgoing, Row, Sound, Track,
};

/// CPU time that the metadata of one file may take here: ten times what is promised of the program, since here each
/// branch is counted and each overflow is checked.
const MOST_TIME: Duration = Duration::from_millis(500);

/// Bytes of the longest error text. It is of a few sentences.
const LONGEST_ERROR: usize = 4096;

type File<'a> = Source<Cursor<&'a [u8]>>;

/// Reads a tag of ID3v2.
pub fn id3v2(bytes: &[u8]) {
    reader(bytes, |source, _, found| id3v2::read_chunk(source, 0, found));
}

/// Reads ID3v1, Lyrics3 and APEv2, which are behind the sound, and APEv2 in front of it.
pub fn end_tags(bytes: &[u8]) {
    reader(bytes, |source, _, found| {
        if let Some(length) = end_tags::leading_length(bytes) {
            end_tags::read_leading(source, 0, length, found)?;
        }
        let ends = [end_tags::read(source, found)?, tail::sound_end(source)?];
        assert!(ends.iter().all(|&end| end <= source.length()), "the sound ends at {ends:?}");
        Ok(())
    });
}

/// Reads MPEG audio, layers 1 to 3.
pub fn mpeg(bytes: &[u8]) {
    reader(bytes, |source, metadata, _| {
        let end = source.length();
        let Some(first) = mpeg::find(source, end)? else { return Ok(()) };
        first.read(source, end)?.show(metadata);
        first.sound_begin(source).map(|_| ())
    });
}

/// Counts the frames of raw AAC, in one chunk and in small ones.
pub fn adts(bytes: &[u8]) {
    let summary = bounded(|| count_frames(bytes, bytes.len()));
    assert_eq!(summary, count_frames(bytes, 1 + bytes.len() % 977), "the sizes of the chunks make a difference");
    assert_eq!(summary.frame_bytes + summary.other_bytes, bytes.len() as u64);
    reader(bytes, |_, metadata, _| {
        adts::has_frames(bytes);
        metadata.duration = (summary.duration > 0.0).then_some(summary.duration);
        Ok(())
    });
}

/// Reads AAC with one header.
pub fn adif(bytes: &[u8]) {
    reader(bytes, |source, metadata, _| adif::read(source, bytes.len() as u64, metadata));
}

/// Reads FLAC.
pub fn flac(bytes: &[u8]) {
    reader(bytes, |source, metadata, found| {
        flac::read(source, bytes.len() as u64, metadata, found)?;
        flac::sound_begin(source).map(|_| ())
    });
}

/// Reads Ogg.
pub fn ogg(bytes: &[u8]) {
    reader(bytes, ogg::read);
}

/// Reads ASF.
pub fn asf(bytes: &[u8]) {
    reader(bytes, asf::read);
}

/// Reads MP4.
pub fn mp4(bytes: &[u8]) {
    reader(bytes, mp4::read);
}

/// Reads WAV.
pub fn wav(bytes: &[u8]) {
    reader(bytes, |source, metadata, found| {
        wav::read(source, metadata, found)?;
        let sound = wav::sound(source)?;
        assert!(sound.is_none_or(|sound| sound.end <= source.length()));
        Ok(())
    });
}

/// Reads AIFF.
pub fn aiff(bytes: &[u8]) {
    reader(bytes, |source, metadata, found| {
        aiff::read(source, metadata, found)?;
        let sound = aiff::sound(source)?;
        assert!(sound.is_none_or(|sound| sound.end <= source.length()));
        Ok(())
    });
}

/// Hashes the sound, in one chunk and in small ones.
pub fn sound(bytes: &[u8]) {
    let path = path_for(bytes);
    let hash = |chunk: usize| sound_in_chunks(sound::Hasher::of(Cursor::new(bytes), &path), bytes, chunk);
    let whole = bounded(|| hash(bytes.len()));
    assert_eq!(whole, hash(1 + bytes.len() % 977), "the sizes of the chunks make a difference");
    assert!(whole.is_none_or(|sound| (1..=bytes.len() as u64).contains(&sound.bytes)), "{whole:?}");
}

/// Does all that is done with the content of a file, up to the message about it.
pub fn file(bytes: &[u8]) {
    let path = path_for(bytes);
    let (metadata, sound) = bounded(|| {
        let is_aac = path.extension().is_some_and(|extension| extension == b"aac");
        let frames = is_aac.then(|| count_frames(bytes, bytes.len()));
        let hasher = sound::Hasher::of(Cursor::new(bytes), &path);
        let known = tags::Known { frames, kind: hasher.kind() };
        let sound = sound_in_chunks(hasher, bytes, bytes.len());
        (tags::read_known(Cursor::new(bytes), &path, known), sound)
    });
    check(&metadata, bytes);
    let listed = bounded(|| tags::list(Cursor::new(bytes), &path));
    check(&listed.metadata, bytes);
    for style in [MetadataStyle::Nested, MetadataStyle::Flat] {
        let message = message(&path, sound, &metadata, style);
        assert!(message.body.len() <= Outgoing::LONGEST_BODY, "a message of {} bytes", message.body.len());
    }
}

/// Runs the reader of a format, for a message and for a list of all parts.
fn reader<'a>(bytes: &'a [u8], read: impl Fn(&mut File<'a>, &mut Metadata, &mut Found) -> io::Result<()>) {
    for mut found in [Found::default(), Found::listing()] {
        let mut metadata = Metadata::default();
        bounded(|| {
            let mut source = Source::new(Cursor::new(bytes)).expect("memory can be read");
            if let Err(error) = read(&mut source, &mut metadata, &mut found) {
                metadata.add_error(&super::values::explain(&error));
            }
            found.show(&mut metadata);
        });
        plausible::leave_out_impossible(&mut metadata, bytes.len() as u64);
        metadata.cut_long_texts();
        check(&metadata, bytes);
    }
}

/// Asserts the bounds of metadata.
fn check(metadata: &Metadata, bytes: &[u8]) {
    let longest = metadata.tags.present().map(|(_, text)| text.len()).max().unwrap_or(0);
    assert!(longest <= Metadata::LONGEST_TEXT, "a text of {longest} bytes");
    let error = metadata.error.as_deref().unwrap_or_default();
    assert!(error.len() <= LONGEST_ERROR, "an error of {} bytes", error.len());
    assert!(!error.contains(super::values::PANICKED), "{error}");
    assert!(metadata.tags.present().all(|(_, text)| !text.is_empty()), "{metadata:?}");
    // A short file may be the beginning of one of two days, and a second of a longer one takes a thousand bits.
    let longest = (bytes.len() as f64 / 125.0).max(172_800.0);
    assert!(metadata.duration.is_none_or(|seconds| (0.0..=longest).contains(&seconds)), "{:?}", metadata.duration);
    let numbers = [metadata.bitrate, metadata.sample_rate, metadata.channels, metadata.bits_per_sample];
    assert!(!numbers.contains(&Some(0)), "{metadata:?}");
    assert!(metadata.sample_rate.is_none_or(|rate| rate < 1 << 20), "{:?}", metadata.sample_rate);
    assert!(metadata.channels.is_none_or(|channels| channels <= 255), "{:?}", metadata.channels);
    assert!(metadata.bits_per_sample.is_none_or(|bits| bits <= 64), "{:?}", metadata.bits_per_sample);
}

/// Runs `work`, and asserts that it takes little time of the CPU.
fn bounded<T>(work: impl FnOnce() -> T) -> T {
    let now = || {
        let now = clock_gettime(ClockId::ThreadCPUTime);
        Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or(0))
    };
    let begun = now();
    let done = work();
    let taken = now().saturating_sub(begun);
    assert!(taken <= MOST_TIME, "{taken:?} of the CPU");
    done
}

fn count_frames(bytes: &[u8], chunk: usize) -> adts::Summary {
    let mut counter = adts::Counter::new();
    bytes.chunks(chunk.max(1)).for_each(|chunk| counter.update(chunk));
    counter.finish(bytes.len() as u64)
}

fn sound_in_chunks(mut hasher: sound::Hasher, bytes: &[u8], chunk: usize) -> Option<Sound> {
    bytes.chunks(chunk.max(1)).for_each(|chunk| hasher.update(chunk));
    hasher.finish()
}

fn message(path: &LibraryPath, sound: Option<Sound>, metadata: &Metadata, style: MetadataStyle) -> Outgoing {
    let fingerprint = Fingerprint { sha256: [7; 32], xxh128: 7 };
    let row = Row {
        path: path.clone(),
        stat: FileStat::default(),
        track: Track { fingerprint, sound, metadata: metadata.clone() }.into(),
        first_published: 0,
    };
    let id = Uuid::nil();
    let stamp = Stamp { store_id: id, sequence: 7, at: Timestamp::UNIX_EPOCH, correlation_id: id };
    let event = FileEvent { change: Change::Created(row), origin: Origin::Scan };
    Encoder::new("fuzz", Path::new("/music"), style).encode(&event, &stamp)
}

/// One of the names that make a difference to the format, by the length of the file.
fn path_for(bytes: &[u8]) -> LibraryPath {
    ["a.mp3", "a.aac", "a.mpc"][bytes.len() % 3].into()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn every_entry_accepts_every_file_of_the_tests() {
        let entries = [id3v2, end_tags, mpeg, adts, adif, flac, ogg, asf, mp4, wav, aiff, sound, file];
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
        let mut files = 0;
        for folder in fs::read_dir(fixtures).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_dir()) {
            for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_file()) {
                let bytes = fs::read(path).unwrap();
                for entry in entries {
                    entry(&bytes);
                }
                files += 1;
            }
        }
        assert!(files > 100, "{files}");
    }
}
