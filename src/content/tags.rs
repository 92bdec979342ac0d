//! The metadata of an audio file, from its stream headers and its tags.
//!
//! - Reading never fails: values that could not be read are missing, and [`Metadata::error`] says why.
//! - The format is determined by the content. The name decides only if the content cannot: raw AAC
//!   has no magic number, and a file of no known format gets the format of its extension.
//! - A panic of a parser is an error of that file.
//! - A corrupt file costs a bounded amount of reading and memory.
//! - A text is kept up to [`Metadata::LONGEST_TEXT`] bytes.
//! - Each tag is read apart from the others, so a damaged part costs itself and nothing else.
//!
//! - A value that cannot be true is left out, and the error says so.
//!
//! Each format has its reader: `mpeg`, `adts`, `adif`, `flac`, `ogg`, `asf`, `mp4`, `wav` and `aiff`; lofty reads the properties of
//! the formats in `container`. `id3v2` and `end_tags` read the tags around the sound.

use std::io::{self, Read, Seek, SeekFrom};

use super::container::Container;
use super::found::{Found, Listing, Part};
use super::source::Source;
use super::values::{explain, guarded};
use super::{adif, adts, aiff, asf, end_tags, flac, id3v2, mp4, mpeg, ogg, ogg_pages, plausible, wav};
use crate::model::{FileType, LibraryPath, Metadata};

/// Bytes that are enough to determine the format.
const HEAD: usize = 64;

/// The most tags in front of the audio. A file with more is corrupt.
const MAX_LEADING_TAGS: usize = 16;

/// Bytes per read when a whole file is read, and bytes in which the first frame of raw AAC is searched.
const CHUNK: usize = 64 * 1024;

/// The error of a file of no known format.
const UNKNOWN_FORMAT: &str = "it is of no audio format that is known";

/// Reads the metadata of `file`, whose path is `path`, from its beginning.
///
/// `adts` is the summary of an [`adts::Counter`] that has seen the whole file. Without it, a raw AAC
/// file is read once more.
pub fn read<R: Read + Seek>(file: R, path: &LibraryPath, adts: Option<adts::Summary>) -> Metadata {
    read_known(file, path, Known { frames: adts, kind: None })
}

/// What is known of a file whose hashes were computed.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Known {
    /// The sums over its frames, if its name is that of raw AAC.
    pub(super) frames: Option<adts::Summary>,
    /// Its format.
    pub(super) kind: Option<Kind>,
}

/// Reads the metadata as [`read`] does, without finding out what is known.
pub(super) fn read_known<R: Read + Seek>(file: R, path: &LibraryPath, known: Known) -> Metadata {
    read_into(file, path, known, &mut Found::default())
}

/// The metadata of a file, with everything that was found on the way.
#[derive(Clone, Debug)]
pub struct Listed {
    /// The metadata, as [`read`] gives it.
    pub metadata: Metadata,
    /// The parts of the tags, in the order in which they count.
    pub parts: Vec<Part>,
    /// How many more parts there are.
    pub more_parts: usize,
    /// Every problem. [`Metadata::error`] has the first few.
    pub problems: Vec<String>,
}

/// Reads the metadata as [`read`] does, and lists every part of the tags and every problem.
pub fn list<R: Read + Seek>(file: R, path: &LibraryPath) -> Listed {
    let mut found = Found::listing();
    let metadata = read_into(file, path, Known::default(), &mut found);
    let (Listing { parts, more }, problems) = found.into_lists();
    Listed { metadata, parts, more_parts: more, problems }
}

fn read_into<R: Read + Seek>(mut file: R, path: &LibraryPath, known: Known, found: &mut Found) -> Metadata {
    let mut metadata = Metadata::default();
    let outcome = guarded(|| read_parts(&mut file, path, known, &mut metadata, found));
    found.show(&mut metadata);
    if let Err(failure) = outcome {
        metadata.add_error(&failure);
        found.problem(failure);
    }
    if metadata.format.is_none() {
        metadata.format = format_of_name(path).map(str::to_owned);
    }
    let impossible = plausible::leave_out_impossible(&mut metadata, file_size(&mut file));
    metadata.duration = metadata.duration.map(to_microseconds);
    for problem in impossible.into_iter().chain(metadata.cut_long_texts()) {
        found.problem(problem);
    }
    metadata
}

/// The size in bytes; 0 if it cannot be known.
fn file_size<R: Seek>(file: &mut R) -> u64 {
    file.seek(SeekFrom::End(0)).unwrap_or(0)
}

/// Every message of a file has the same number, whatever computed it.
fn to_microseconds(seconds: f64) -> f64 {
    (seconds * 1e6).round() / 1e6
}

fn read_parts<R: Read + Seek>(
    file: &mut R,
    path: &LibraryPath,
    known: Known,
    metadata: &mut Metadata,
    found: &mut Found,
) -> Result<(), String> {
    let readable = |error: io::Error| explain(&error);
    let mut source = Source::new(&mut *file).map_err(readable)?;
    let (mut leading, mut trailing) = (found.beside(), found.beside());
    let begin = read_leading_tags(&mut source, &mut leading).map_err(readable)?;
    source.begin_at(begin).map_err(readable)?;
    let known_kind = match known.kind {
        Some(kind) => Some(kind),
        None => Kind::by_magic(&mut source, path).map_err(readable)?,
    };
    let end = match known_kind {
        Some(kind) if !kind.has_tags_behind() => source.length(),
        _ => read_trailing_tags(&mut source, &mut trailing),
    };
    let kind = match known_kind {
        Some(kind) => kind,
        None => Kind::by_frames(&mut source, end).map_err(readable)?,
    };
    metadata.format = kind.format().map(str::to_owned);
    let read = match kind {
        Kind::Adif => adif::read(&mut source, end, metadata).map_err(readable),
        Kind::Aiff => aiff::read(&mut source, metadata, found).map_err(readable),
        Kind::Asf => asf::read(&mut source, metadata, found).map_err(readable),
        Kind::Container(container) => container.read(&mut source, end, metadata),
        Kind::Flac => flac::read(&mut source, end, metadata, found).map_err(readable),
        Kind::Mp4 => mp4::read(&mut source, metadata, found).map_err(readable),
        Kind::Mpeg(first) => first.read(&mut source, end).map_err(readable).map(|sound| sound.show(metadata)),
        Kind::Ogg => ogg::read(&mut source, metadata, found).map_err(readable),
        Kind::Wav => wav::read(&mut source, metadata, found).map_err(readable),
        Kind::Adts => {
            let around = begin + (source.length() - end.min(source.length()));
            read_adts(file, around, known.frames, metadata)
        }
        Kind::Unknown => Err(UNKNOWN_FORMAT.to_owned()),
    };
    // The tags of a format itself are there already, and count before those that other programs put around it.
    found.append(leading);
    found.append(trailing);
    read
}

/// Reads the tags behind the sound. Returns where the sound ends.
fn read_trailing_tags<R: Read + Seek>(source: &mut Source<R>, found: &mut Found) -> u64 {
    end_tags::read(source, found).unwrap_or_else(|error| {
        found.problem(format!("the tags at the end: {}", explain(&error)));
        source.length()
    })
}

/// Reads the tags in front of the sound. Returns where the sound begins.
fn read_leading_tags<R: Read + Seek>(source: &mut Source<R>, found: &mut Found) -> io::Result<u64> {
    each_leading_tag(source, |source, tag, at, length| {
        let read = match tag {
            LeadingTag::Id3v2 => id3v2::read(source, at, found),
            LeadingTag::Ape => end_tags::read_leading(source, at, length, found),
        };
        if let Err(error) = read {
            found.problem(format!("the tag in front: {}", explain(&error)));
        }
    })
}

/// The position behind the tags in front of the sound.
pub(super) fn leading_tags_end<R: Read + Seek>(source: &mut Source<R>) -> io::Result<u64> {
    each_leading_tag(source, |_, _, _, _| {})
}

/// The kinds of tags that may be in front of the sound.
#[derive(Clone, Copy)]
enum LeadingTag {
    Id3v2,
    Ape,
}

/// Calls `visit` with each tag in front of the sound, its position and its length. Returns where the sound begins.
fn each_leading_tag<R: Read + Seek>(
    source: &mut Source<R>,
    mut visit: impl FnMut(&mut Source<R>, LeadingTag, u64, u64),
) -> io::Result<u64> {
    let mut at = 0;
    for _ in 0..MAX_LEADING_TAGS {
        let mut header = [0; 32];
        let header = source.read_at(at, &mut header)?;
        let (tag, length) = if let Some(length) = id3v2::length(header) {
            (LeadingTag::Id3v2, length)
        } else if let Some(length) = end_tags::leading_length(header) {
            (LeadingTag::Ape, length)
        } else {
            break;
        };
        visit(source, tag, at, length);
        at += length;
    }
    Ok(at)
}

/// The format of a file, by its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Adif,
    Adts,
    Aiff,
    Asf,
    Container(Container),
    Flac,
    Mp4,
    Mpeg(mpeg::Found),
    Ogg,
    Unknown,
    Wav,
}

impl Kind {
    /// The format by the first bytes; `None` if only frames of MPEG audio or AAC can be in it.
    pub(super) fn by_magic<R: Read + Seek>(source: &mut Source<R>, path: &LibraryPath) -> io::Result<Option<Self>> {
        let mut head = [0; HEAD];
        let head = source.read_at(0, &mut head)?;
        Ok(if head.starts_with(&asf::MAGIC) {
            Some(Self::Asf)
        } else if head.starts_with(ogg_pages::MAGIC) {
            Some(Self::Ogg)
        } else if head.starts_with(flac::MAGIC) {
            Some(Self::Flac)
        } else if wav::begins(head) {
            Some(Self::Wav)
        } else if aiff::begins(head) {
            Some(Self::Aiff)
        } else if mp4::begins(head) {
            Some(Self::Mp4)
        } else if head.starts_with(adif::MAGIC) {
            Some(Self::Adif)
        } else if let Some(container) = Container::of(head) {
            Some(Self::Container(container))
        } else if adts::begins_frame(head) {
            Some(Self::Adts)
        } else {
            Self::by_name(head, path)
        })
    }

    /// The format by the extension, of those that have no magic number.
    fn by_name(head: &[u8], path: &LibraryPath) -> Option<Self> {
        match FileType::of(path).as_str() {
            _ if head.is_empty() || mpeg::begins_frame(head) => None,
            // It may have junk in front of it.
            "aac" => Some(Self::Adts),
            // The versions before 7.
            "mpc" => Some(Self::Container(Container::Musepack)),
            _ => None,
        }
    }

    /// The format by frames that follow each other, behind any junk.
    pub(super) fn by_frames<R: Read + Seek>(source: &mut Source<R>, end: u64) -> io::Result<Self> {
        if let Some(first) = mpeg::find(source, end)? {
            return Ok(Self::Mpeg(first));
        }
        let length = usize::try_from(source.length()).unwrap_or(CHUNK).min(CHUNK);
        let mut chunk = vec![0; length];
        let has_frames = adts::has_frames(source.read_at(0, &mut chunk)?);
        Ok(if has_frames { Self::Adts } else { Self::Unknown })
    }

    /// Whether ID3v1 and APEv2 may be behind the sound.
    pub(super) fn has_tags_behind(self) -> bool {
        match self {
            Self::Adif | Self::Adts | Self::Container(_) | Self::Flac | Self::Mpeg(_) | Self::Unknown => true,
            Self::Aiff | Self::Asf | Self::Mp4 | Self::Ogg | Self::Wav => false,
        }
    }

    /// The MIME type that mutagen gives first.
    fn format(self) -> Option<&'static str> {
        match self {
            Self::Adif | Self::Adts => Some("audio/x-aac"),
            Self::Aiff => Some("audio/aiff"),
            Self::Asf => Some("audio/x-ms-wma"),
            Self::Container(container) => Some(container.format()),
            Self::Flac => Some("audio/flac"),
            Self::Mp4 => Some("audio/mp4"),
            Self::Mpeg(first) => Some(first.format()),
            Self::Wav => Some("audio/wav"),
            // The first packet says which one it is.
            Self::Ogg | Self::Unknown => None,
        }
    }
}

/// Reads the sums over the frames of raw AAC, with so many bytes of tags around it.
fn read_adts<R: Read + Seek>(
    file: &mut R,
    around: u64,
    seen: Option<adts::Summary>,
    metadata: &mut Metadata,
) -> Result<(), String> {
    let summary = match seen {
        Some(summary) => summary,
        None => count_frames(file).map_err(|error| explain(&error))?,
    };
    metadata.duration = (summary.duration > 0.0).then_some(summary.duration);
    metadata.bitrate = summary.bitrate;
    metadata.sample_rate = summary.sample_rate;
    metadata.channels = summary.channels;
    metadata.codec = Some("aac".to_owned());
    if summary.frames == 0 {
        return Err("there is no whole aac frame in it".to_owned());
    }
    if summary.other_bytes.saturating_sub(around) > summary.frame_bytes {
        return Err("most of it is no aac".to_owned());
    }
    Ok(())
}

fn count_frames<R: Read + Seek>(file: &mut R) -> io::Result<adts::Summary> {
    file.rewind()?;
    let mut counter = adts::Counter::new();
    let mut chunk = vec![0; CHUNK];
    let mut size = 0;
    loop {
        match file.read(&mut chunk) {
            Ok(0) => return Ok(counter.finish(size)),
            Ok(length) => {
                counter.update(&chunk[..length]);
                size += length as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// The usual format of files with this extension.
fn format_of_name(path: &LibraryPath) -> Option<&'static str> {
    Some(match FileType::of(path).as_str() {
        "mp3" => "audio/mp3",
        "flac" => "audio/flac",
        "wav" => "audio/wav",
        "ogg" => "audio/vorbis",
        "opus" => "audio/ogg",
        "aac" => "audio/x-aac",
        "mp4" => "audio/mp4",
        "wma" => "audio/x-ms-wma",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::super::values::PANICKED;
    use super::*;
    use crate::model::Field;
    use proptest::prelude::*;

    fn parse(bytes: &[u8], name: &str) -> Metadata {
        let metadata = read(Cursor::new(bytes), &LibraryPath::from(name), None);
        assert_ne!(metadata.error.as_deref(), Some(PANICKED), "{bytes:?}");
        metadata
    }

    fn wav(seconds: u32, list: &[u8]) -> Vec<u8> {
        let mut wav = b"RIFF\0\0\0\0WAVEfmt \x10\0\0\0\x01\0\x01\0".to_vec();
        wav.extend([8000_u32.to_le_bytes(), 16_000_u32.to_le_bytes()].concat());
        wav.extend([2, 0, 16, 0]);
        if !list.is_empty() {
            wav.extend(b"LIST");
            wav.extend(u32::try_from(list.len() + 4).unwrap().to_le_bytes());
            wav.extend(b"INFO");
            wav.extend(list);
        }
        wav.extend(b"data");
        wav.extend((seconds * 16_000).to_le_bytes());
        wav.resize(wav.len() + seconds as usize * 16_000, 0);
        let size = u32::try_from(wav.len() - 8).unwrap();
        wav[4..8].copy_from_slice(&size.to_le_bytes());
        wav
    }

    /// An ID3v2.4 tag with these frames, in Latin-1.
    fn id3v2(frames: &[(&str, &str)]) -> Vec<u8> {
        let mut content = Vec::new();
        for (name, text) in frames {
            content.extend(name.as_bytes());
            content.extend(seven_bits_a_byte(text.len() + 1));
            content.extend([0, 0, 0]);
            content.extend(text.as_bytes());
        }
        let mut tag = b"ID3\x04\0\0".to_vec();
        tag.extend(seven_bits_a_byte(content.len()));
        tag.extend(content);
        tag
    }

    fn seven_bits_a_byte(size: usize) -> [u8; 4] {
        [21, 14, 7, 0].map(|shift| u8::try_from((size >> shift) & 0x7F).unwrap())
    }

    /// Silent frames of an mp3, 64 kbit/s at 44,100 Hz.
    fn mp3(frames: usize) -> Vec<u8> {
        let mut frame = vec![0xFF, 0xFB, 0x50, 0xC0];
        frame.resize(208, 0);
        frame.repeat(frames)
    }

    fn adts(frames: usize) -> Vec<u8> {
        let mut frame = vec![0xFF, 0xF1, 0x50, 0x80, 12, 0x9F, 0xFC];
        frame.resize(100, 0x21);
        frame.repeat(frames)
    }

    fn id3v1(title: &str) -> Vec<u8> {
        let mut tag = [b"TAG", title.as_bytes()].concat();
        tag.resize(128, 0);
        tag[127] = 255;
        tag
    }

    #[test]
    fn the_content_decides_the_format_and_not_the_name() {
        for name in ["a.mp3", "a.wma", "a.aac", "a"] {
            let metadata = parse(&wav(1, &[]), name);
            assert_eq!((metadata.format.as_deref(), metadata.error), (Some("audio/wav"), None), "{name}");
            assert_eq!((metadata.duration, metadata.bitrate), (Some(1.0), Some(128_000)));
            assert_eq!((metadata.sample_rate, metadata.channels), (Some(8000), Some(1)));
            assert_eq!(parse(&mp3(20), name).format.as_deref(), Some("audio/mp3"), "{name}");
            assert_eq!(parse(&adts(20), name).format.as_deref(), Some("audio/x-aac"), "{name}");
        }
    }

    #[test]
    fn a_file_of_no_known_format_has_the_format_of_its_extension_and_an_error() {
        let nothing = [&b""[..], b"\0", b"nothing that is known, and rather long at that, so that it is read"];
        for (bytes, (name, format)) in nothing.into_iter().flat_map(|bytes| {
            [("a.mp3", Some("audio/mp3")), ("a.OGA", Some("audio/vorbis")), ("a.xyz", None)]
                .map(|expected| (bytes, expected))
        }) {
            let metadata = parse(bytes, name);
            assert_eq!(metadata.format.as_deref(), format, "{name}");
            assert_eq!(metadata.error.as_deref(), Some(UNKNOWN_FORMAT), "{name}");
        }
    }

    #[test]
    fn tags_of_several_kinds_in_one_file_complete_each_other() {
        let list = b"INAM\x06\0\0\0Title\0IART\x04\0\0\0\0\0\0\0ICRD\x04\0\0\x001999";
        let tag = id3v2(&[("TPE1", "Artist"), ("TIT2", " \0Second\0Third"), ("TRCK", "03/12")]);
        let mut bytes = wav(1, list);
        bytes.extend(b"id3 ");
        bytes.extend(u32::try_from(tag.len()).unwrap().to_le_bytes());
        bytes.extend(&tag);
        let size = u32::try_from(bytes.len() - 8).unwrap();
        bytes[4..8].copy_from_slice(&size.to_le_bytes());
        let metadata = parse(&bytes, "a.wav");
        assert_eq!(
            metadata.tags.present().collect::<Vec<_>>(),
            [("title", "Second"), ("artist", "Artist"), ("date", "1999"), ("track", "03/12")]
        );
    }

    #[test]
    fn what_the_tags_of_a_format_lack_is_taken_from_those_in_front() {
        let front = id3v2(&[("TIT2", "Front"), ("TPE1", "Artist")]);
        let metadata = parse(&[front, wav(1, b"INAM\x06\0\0\0Title\0")].concat(), "a.wav");
        assert_eq!(metadata.tags.present().collect::<Vec<_>>(), [("title", "Title"), ("artist", "Artist")]);
        assert_eq!((metadata.duration, metadata.error), (Some(1.0), None));
    }

    #[test]
    fn a_tag_that_is_too_large_to_read_costs_itself() {
        let blank = "\u{20}".repeat(100_000);
        let frames: Vec<_> = std::iter::once(("TIT2", "Title")).chain([("TPE1", blank.as_str()); 60]).collect();
        let metadata = parse(&[id3v2(&frames), mp3(20)].concat(), "a.mp3");
        assert_eq!(metadata.tags.get(Field::Title), Some("Title"));
        assert_eq!(metadata.error.as_deref(), Some("the tag in front: it has too much text"));
        assert!(metadata.duration.is_some());
    }

    #[test]
    fn raw_aac_is_found_behind_junk_whatever_its_name() {
        let metadata = parse(&[vec![0; 3000], adts(43)].concat(), "a.mp3");
        assert_eq!((metadata.format.as_deref(), metadata.error), (Some("audio/x-aac"), None));
    }

    #[test]
    fn a_huge_text_is_truncated_and_the_others_are_whole() {
        let tag = id3v2(&[("TIT2", &"\u{7f}x".repeat(200_000)), ("TPE1", "Artist")]);
        let metadata = parse(&[tag, mp3(20)].concat(), "a.mp3");
        assert_eq!(metadata.tags.get(Field::Title).map(str::len), Some(Metadata::LONGEST_TEXT));
        assert_eq!(metadata.tags.get(Field::Artist), Some("Artist"));
        assert_eq!(metadata.error.as_deref(), Some("title is cut to 64 KiB"));
    }

    #[test]
    fn a_sample_of_too_many_bits_is_left_out() {
        // FLAC in WAV. Fuzzing found such numbers in ASF and QuickTime too.
        let mut bytes = wav(1, &[]);
        bytes[20..22].copy_from_slice(&0xF1AC_u16.to_le_bytes());
        bytes[34..36].copy_from_slice(&4096_u16.to_le_bytes());
        let metadata = parse(&bytes, "a.wav");
        assert_eq!((metadata.bits_per_sample, metadata.sample_rate), (None, Some(8000)));
        assert_eq!(metadata.error.as_deref(), Some("the number of bits per sample 4096 cannot be true"));
    }

    #[test]
    fn texts_are_as_they_are_written() {
        let tag = id3v2(&[("TIT2", "Title"), ("TDRC", "Unknown"), ("TRCK", "A1"), ("TPE1", "Artist")]);
        let metadata = parse(&[tag, mp3(20)].concat(), "a.mp3");
        assert_eq!(metadata.error, None);
        assert!(metadata.duration.is_some());
        assert_eq!(
            metadata.tags.present().collect::<Vec<_>>(),
            [("title", "Title"), ("artist", "Artist"), ("date", "Unknown"), ("track", "A1")]
        );
    }

    #[test]
    fn raw_aac_has_the_tags_at_both_ends_of_the_file() {
        let bytes = [id3v2(&[("TPE1", "Artist")]), adts(43), id3v1("Title")].concat();
        let metadata = parse(&bytes, "a.aac");
        assert_eq!(metadata.error, None);
        assert_eq!(metadata.tags.present().collect::<Vec<_>>(), [("title", "Title"), ("artist", "Artist")]);
        assert_eq!(metadata.duration, Some(0.998_458), "43 frames of 1024 samples, rounded to microseconds");
        let mut counter = adts::Counter::new();
        counter.update(&bytes);
        let summary = counter.finish(bytes.len() as u64);
        assert_eq!(read(Cursor::new(&bytes), &LibraryPath::from("a.aac"), Some(summary)), metadata);
    }

    #[test]
    fn a_little_aac_in_much_garbage_is_an_error() {
        let metadata = parse(&[adts(3), vec![1; 1000]].concat(), "a.aac");
        assert_eq!(metadata.error.as_deref(), Some("most of it is no aac"));
        assert!(metadata.duration.is_some());
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..600), name in "a\\.(mp3|aac|wma|oga|m4a|wav)") {
            parse(&bytes, &name);
        }

        #[test]
        fn no_mutation_panics(
            which in 0..4_usize, changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..9),
            end in any::<prop::sample::Index>(),
        ) {
            let tag = id3v2(&[("TIT2", "Title"), ("TDRC", "1999"), ("TRCK", "3/12")]);
            let mut bytes = match which {
                0 => wav(1, b"INAM\x06\0\0\0Title\0")[..300].to_vec(),
                1 => [tag, mp3(4), id3v1("Title")].concat(),
                2 => [tag, adts(5), id3v1("Title")].concat(),
                _ => [&tag[..], b"fLaC\0\0\0\x22", &[1; 34], b"\x84\0\0\x0C\0\0\0\0\x01\0\0\0\0\0\0\0"].concat(),
            };
            for (at, value) in changes {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
            bytes.truncate(end.index(bytes.len() * 2));
            parse(&bytes, ["a.wav", "a.mp3", "a.aac", "a.flac"][which]);
        }
    }
}
