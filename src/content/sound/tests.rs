//! Sound in files that are made here, and in those of the fixtures when they are damaged.

use std::fs;
use std::io::Cursor;
use std::path::Path;

use proptest::prelude::*;

use super::*;

/// The hash of these bytes, as of a whole file that is read in chunks.
fn hash(bytes: &[u8], name: &str, chunk: usize) -> Option<Sound> {
    let mut hasher = Hasher::of(Cursor::new(bytes), &name.into());
    bytes.chunks(chunk).for_each(|chunk| hasher.update(chunk));
    hasher.finish()
}

fn sound(bytes: &[u8]) -> Sound {
    Sound { xxh128: xxhash_rust::xxh3::xxh3_128(bytes), bytes: bytes.len() as u64 }
}

fn noise(length: usize) -> Vec<u8> {
    let mut state = 1_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    };
    std::iter::repeat_with(|| next() & 0x7F).take(length).collect()
}

/// Frames of 128 kbit/s at 44,100 Hz in stereo.
fn mp3(frames: usize, content: &[u8]) -> Vec<u8> {
    let mut frame = vec![0xFF, 0xFB, 0x90, 0x00];
    frame.resize(36, 0);
    frame.extend_from_slice(content);
    frame.resize(417, 0);
    frame.repeat(frames)
}

fn id3v2(size: u8) -> Vec<u8> {
    let mut tag = b"ID3\x04\0\0\0\0\0".to_vec();
    tag.push(size);
    tag.resize(10 + usize::from(size), 0);
    tag
}

fn id3v1() -> Vec<u8> {
    [&b"TAG"[..], &[b' '; 125]].concat()
}

/// A page of a stream, whose packets end on it.
fn page(serial: u8, flags: u8, packets: &[&[u8]]) -> Vec<u8> {
    let mut lacing = Vec::new();
    for packet in packets {
        lacing.resize(lacing.len() + packet.len() / 255, 255);
        lacing.push(u8::try_from(packet.len() % 255).unwrap());
    }
    let segments = u8::try_from(lacing.len()).unwrap();
    [b"OggS\0", &[flags][..], &[0; 8], &[serial; 4], &[0; 8], &[segments], &lacing, &packets.concat()].concat()
}

fn vorbis(serial: u8, tags: &[u8], sound: &[u8]) -> Vec<u8> {
    let first = [&b"\x01vorbis\0\0\0\0\x02\x44\xAC\0\0"[..], &[0; 14]].concat();
    let mut pages = page(serial, 2, &[&first]);
    pages.extend(page(serial, 0, &[&[b"\x03vorbis", tags].concat(), b"\x05vorbis", &sound[..300]]));
    pages.extend(page(serial, 4, &[&sound[300..]]));
    pages
}

#[test]
fn the_frames_of_mpeg_audio_count_without_tags_and_without_the_one_that_announces_the_others() {
    let frames = mp3(10, b"");
    let xing = mp3(1, b"Xing\0\0\0\x01\0\0\0\x0a");
    let vbri = mp3(1, b"VBRI");
    for front in [vec![], id3v2(100), [id3v2(7), id3v2(50)].concat()] {
        for announced in [&b""[..], &xing, &vbri] {
            for end in [vec![], id3v1()] {
                let file = [&front, announced, &frames, &end].concat();
                assert_eq!(hash(&file, "a.mp3", file.len()), Some(sound(&frames)));
            }
        }
    }
}

#[test]
fn the_packets_of_ogg_count_whatever_their_pages_and_tags_are() {
    let packets = noise(1000);
    let file = vorbis(7, b"\0\0\0\0", &packets);
    assert_eq!(hash(&file, "a.ogg", 4096), Some(sound(&packets)));
    let retagged = vorbis(9, &[b't'; 5000], &packets);
    assert_eq!(hash(&retagged, "a.ogg", 4096), Some(sound(&packets)));
    // Other bytes between the pages and behind them.
    let mut dirty = file.clone();
    dirty.splice(58..58, *b"OggOggOg");
    dirty.extend(id3v1());
    assert_eq!(hash(&dirty, "a.ogg", 4096), Some(sound(&packets)));
    // Streams one after another, and another stream at the same time.
    let chained = [file.clone(), vorbis(8, b"", &packets)].concat();
    assert_eq!(hash(&chained, "a.ogg", 4096), Some(sound(&packets.repeat(2))));
    let multiplexed = [&file[..58], &page(1, 2, &[b"fishead"]), &page(1, 0, &[b"bones"]), &file[58..]].concat();
    assert_eq!(hash(&multiplexed, "a.ogg", 4096), Some(sound(&packets)));
}

#[test]
fn the_samples_of_aiff_count_and_of_other_formats_what_is_between_the_tags() {
    let samples = noise(501);
    let size = u32::try_from(samples.len() + 8).unwrap().to_be_bytes();
    let begin = [&b"FORM\0\0\0\0AIFFNAME\0\0\0\x03abc\0SSND"[..], &size, &[0; 8]].concat();
    let file = [&begin[..], &samples, b"\0ANNO\0\0\0\x02hi"].concat();
    assert_eq!(hash(&file, "a.aiff", 4096), Some(sound(&samples)));
    for magic in [&b"wvpk"[..], b"MAC ", b"MP+\x07", b"MPCK"] {
        let stream = [magic, &noise(600)].concat();
        assert_eq!(hash(&[id3v2(40), stream.clone(), id3v1()].concat(), "a", 4096), Some(sound(&stream)));
    }
}

#[test]
fn a_file_without_sound_or_of_no_known_format_has_no_hash() {
    let nothing = [
        (id3v2(100), "a.mp3"),
        ([id3v2(100), id3v1()].concat(), "a.aac"),
        (noise(5000), "a.mp3"),
        (Vec::new(), "a.flac"),
        (b"fLaC\x80\0\0\x22".to_vec(), "a.flac"),
        ([&b"fLaC\x80\0\0\x22"[..], &[1; 34]].concat(), "a.flac"),
        (b"RIFF\0\0\0\0WAVEdata\0\0\0\0".to_vec(), "a.wav"),
        (page(1, 2, &[b"\x01vorbis\0\0\0\0\x02\x44\xAC\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"]), "a.ogg"),
    ];
    for (bytes, name) in nothing {
        assert_eq!(hash(&bytes, name, 4096), None, "{name} {bytes:?}");
    }
}

/// One fixture of each format, with the name of its file.
fn fixtures() -> Vec<(String, Vec<u8>)> {
    let names = [
        "mp3/tagged-cover.mp3",
        "mp3/tagged-id3v1.mp3",
        "flac/tagged-id3-in-front.flac",
        "wav/tagged-id3-and-info.wav",
        "ogg/tagged-oggenc.ogg",
        "ogg/tagged-speex.ogg",
        "oga/tagged-flac.oga",
        "opus/tagged-opusenc.opus",
        "aac/tagged-44100.aac",
        "m4a/tagged-faststart.m4a",
        "mp4/tagged-video.mp4",
        "mp4/tagged-fragmented.mp4",
        "wma/tagged-wmav2.wma",
    ];
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    names.iter().map(|name| ((*name).to_owned(), fs::read(folder.join(name)).unwrap())).collect()
}

#[test]
fn a_file_that_is_cut_anywhere_does_no_harm() {
    for (name, bytes) in fixtures() {
        for length in (0..bytes.len()).rev().filter(|length| *length < 300 || length % 97 == 0) {
            let found = hash(&bytes[..length], &name, 4096);
            assert!(found.is_none_or(|sound| sound.bytes <= length as u64), "{name} cut to {length}");
        }
    }
}

proptest! {
    #[test]
    fn the_sizes_of_the_chunks_make_no_difference(
        which in any::<prop::sample::Index>(), chunk in 1..5000_usize,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3),
    ) {
        let fixtures = fixtures();
        let (name, mut bytes) = fixtures[which.index(fixtures.len())].clone();
        for (at, value) in changes {
            // Most structure is at the beginning.
            let at = at.index(bytes.len().min(600));
            bytes[at] = value;
        }
        prop_assert_eq!(hash(&bytes, &name, chunk), hash(&bytes, &name, bytes.len()));
    }

    #[test]
    fn no_mutation_panics_and_no_sound_is_longer_than_its_file(
        which in any::<prop::sample::Index>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12),
        end in any::<prop::sample::Index>(),
        from_end: bool,
    ) {
        let fixtures = fixtures();
        let (name, mut bytes) = fixtures[which.index(fixtures.len())].clone();
        for (at, value) in changes {
            let at = at.index(bytes.len().min(1500));
            let at = if from_end { bytes.len() - 1 - at } else { at };
            bytes[at] = value;
        }
        bytes.truncate(end.index(bytes.len() * 3) + 1);
        let length = bytes.len() as u64;
        // Without the guard, so that a panic fails the test.
        let places = Places::of(&mut Cursor::new(&bytes), &name.as_str().into(), &mut None);
        if let Ok(places @ Some(_)) = places {
            let mut hasher = Hasher { hash: Xxh3Default::new(), bytes: 0, places, kind: None };
            hasher.update(&bytes);
            prop_assert!(hasher.finish().is_none_or(|sound| sound.bytes <= length));
        }
    }
}
