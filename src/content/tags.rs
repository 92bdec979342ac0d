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
//! lofty reads the properties of MP4, WAV, AIFF, APE, Musepack and WavPack, with corrections in `container`. The other formats are read by
//! `mpeg`, `adts`, `flac`, `ogg`, `oggflac` and `asf`, and the tags around their audio by `id3v2` and `end_tags`.

use std::io::{self, Read, Seek};

use lofty::file::FileType as Container;
use lofty::probe::Probe;

use super::found::{Found, Listing, Part};
use super::source::Source;
use super::values::{explain, guarded};
use super::{adts, asf, container, end_tags, flac, id3v2, mpeg, ogg, oggflac};
use crate::model::{FileType, LibraryPath, Metadata};

/// Bytes that are enough to determine the format: an Ogg page's header and the first packet's magic.
const HEAD: usize = 512;

/// The most ID3v2 tags in front of the audio. A file with more is corrupt.
const MAX_LEADING_TAGS: usize = 16;

/// Bytes per read when a whole file is read.
const CHUNK: usize = 64 * 1024;

/// The error of a file of no known format.
const UNKNOWN_FORMAT: &str = "it is of no audio format that is known";

/// Reads the metadata of `file`, whose path is `path`, from its beginning.
///
/// `adts` is the summary of an [`adts::Counter`] that has seen the whole file. Without it, a raw AAC
/// file is read once more.
pub fn read<R: Read + Seek>(file: R, path: &LibraryPath, adts: Option<adts::Summary>) -> Metadata {
    read_into(file, path, adts, &mut Found::default())
}

/// The metadata of a file, with everything that was found on the way.
#[derive(Clone, Debug)]
pub struct Listed {
    /// The metadata, as [`read`] gives it.
    pub metadata: Metadata,
    /// The parts of the tags, in the order in which they were read.
    pub parts: Vec<Part>,
    /// How many more parts there are.
    pub more_parts: usize,
    /// Every problem. [`Metadata::error`] has the first few.
    pub problems: Vec<String>,
}

/// Reads the metadata as [`read`] does, and lists every part of the tags and every problem.
pub fn list<R: Read + Seek>(file: R, path: &LibraryPath) -> Listed {
    let mut found = Found::listing();
    let metadata = read_into(file, path, None, &mut found);
    let (Listing { parts, more }, problems) = found.into_lists();
    Listed { metadata, parts, more_parts: more, problems }
}

fn read_into<R: Read + Seek>(
    mut file: R,
    path: &LibraryPath,
    adts: Option<adts::Summary>,
    found: &mut Found,
) -> Metadata {
    let mut metadata = Metadata::default();
    let outcome = guarded(|| {
        let kind = Kind::of(&mut file, path).map_err(|error| explain(&error))?;
        metadata.format = kind.format().map(str::to_owned);
        let result = match kind {
            Kind::Adts { .. } => read_adts(&mut file, adts, &mut metadata, found),
            Kind::Mpeg => read_mpeg(&mut file, &mut metadata, found),
            Kind::Asf => asf::read(&mut open(&mut file)?, &mut metadata, found).map_err(|error| explain(&error)),
            Kind::Flac { begin } => {
                flac::read(&mut open(&mut file)?, begin, &mut metadata, found).map_err(|error| explain(&error))
            }
            Kind::Ogg => ogg::read(&mut open(&mut file)?, &mut metadata, found).map_err(|error| explain(&error)),
            Kind::OggFlac => {
                oggflac::read(&mut open(&mut file)?, &mut metadata, found).map_err(|error| explain(&error))
            }
            Kind::Container { container, .. } => {
                container::read(&mut open(&mut file)?, container, &mut metadata, found)
            }
            Kind::Unknown => {
                read_surrounding_tags(&mut file, found)?;
                Err(UNKNOWN_FORMAT.to_owned())
            }
        };
        // The error of a wrong guess says nothing about the file.
        result.map_err(|failure| if kind.is_guess() { UNKNOWN_FORMAT.to_owned() } else { failure })
    });
    found.show(&mut metadata);
    if let Err(failure) = outcome {
        metadata.add_error(&failure);
        found.problem(failure);
    }
    if metadata.format.is_none() {
        metadata.format = format_of_name(path).map(str::to_owned);
    }
    metadata.duration = metadata.duration.map(to_microseconds);
    for cut in metadata.cut_long_texts() {
        found.problem(cut);
    }
    metadata
}

/// Every message of a file has the same number, whatever computed it.
fn to_microseconds(seconds: f64) -> f64 {
    (seconds * 1e6).round() / 1e6
}

/// The format of a file, by its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Adts {
        /// Whether the first frame is where it must be, or the extension says so.
        sure: bool,
    },
    Asf,
    Flac {
        /// The position of its first bytes, behind the tags of ID3v2 that some programs put there.
        begin: u64,
    },
    Mpeg,
    Ogg,
    OggFlac,
    Container {
        container: Container,
        /// Whether a magic number was found, and not just bytes that look like a frame.
        sure: bool,
    },
    Unknown,
}

impl Kind {
    pub(super) fn of<R: Read + Seek>(file: &mut R, path: &LibraryPath) -> io::Result<Self> {
        let mut source = Source::new(file)?;
        let mut buffer = [0; HEAD];
        let head = source.read_at(0, &mut buffer)?;
        if head.starts_with(&asf::MAGIC) {
            return Ok(Self::Asf);
        }
        if oggflac::begins_stream(head) {
            return Ok(Self::OggFlac);
        }
        if ogg::begins_stream(head) {
            return Ok(Self::Ogg);
        }
        let tags_end = leading_tags_end(&mut source)?;
        let head = source.read_at(tags_end, &mut buffer)?;
        if head.starts_with(flac::MAGIC) {
            return Ok(Self::Flac { begin: tags_end });
        }
        let by_magic = Container::from_buffer(head);
        if by_magic == Some(Container::Aac) && adts::begins_frame(head) {
            return Ok(Self::Adts { sure: true });
        }
        let is_frames = |container: &Container| matches!(container, Container::Aac | Container::Mpeg);
        if let Some(container) = by_magic.filter(|container| !is_frames(container)) {
            return Ok(Self::Container { container, sure: true });
        }
        if head.is_empty() && tags_end == 0 {
            return Ok(Self::Unknown);
        }
        // Only raw AAC and MPEG audio may have junk in front of them.
        let is_mpeg = by_magic == Some(Container::Mpeg);
        if FileType::of(path).as_str() == "aac" && !is_mpeg {
            return Ok(Self::Adts { sure: true });
        }
        let end = source.length();
        if mpeg::read(&mut source, tags_end, end)?.is_some() {
            return Ok(Self::Mpeg);
        }
        source.rewind()?;
        Ok(match Probe::new(source).options(container::options(Container::Mpeg)).guess_file_type()?.file_type() {
            Some(Container::Aac) => Self::Adts { sure: false },
            Some(Container::Mpeg) | None => Self::Unknown,
            Some(container) => Self::Container { container, sure: false },
        })
    }

    /// Whether the format is only guessed from bytes that look like a frame.
    pub(super) fn is_guess(self) -> bool {
        matches!(self, Self::Adts { sure: false } | Self::Container { sure: false, .. })
    }

    /// The MIME type that mutagen gives first.
    fn format(self) -> Option<&'static str> {
        match self {
            Self::Adts { sure: true } => Some("audio/x-aac"),
            Self::Asf => Some("audio/x-ms-wma"),
            Self::OggFlac => Some("audio/x-oggflac"),
            Self::Flac { .. } => Some("audio/flac"),
            Self::Container { container, sure: true } => container::format_of(container),
            // What `read_mpeg` finds says which layer it is.
            Self::Mpeg | Self::Ogg | Self::Adts { .. } | Self::Container { .. } | Self::Unknown => None,
        }
    }
}

/// The position behind the ID3v2 tags at the beginning of the file.
pub(super) fn leading_tags_end<R: Read + Seek>(source: &mut Source<R>) -> io::Result<u64> {
    let mut end = 0_u64;
    for _ in 0..MAX_LEADING_TAGS {
        let mut header = [0; 10];
        match id3v2::length(source.read_at(end, &mut header)?) {
            Some(length) => end += length,
            None => break,
        }
    }
    Ok(end)
}

/// Reads MPEG audio, and the tags around it.
fn read_mpeg<R: Read + Seek>(file: &mut R, metadata: &mut Metadata, found: &mut Found) -> Result<(), String> {
    let Surrounding { begin, end } = read_surrounding_tags(file, found)?;
    let mut source = open(file)?;
    let Some(sound) = mpeg::read(&mut source, begin, end).map_err(|error| explain(&error))? else {
        return Err(UNKNOWN_FORMAT.to_owned());
    };
    metadata.duration = sound.duration;
    metadata.bitrate = sound.bitrate;
    metadata.sample_rate = Some(sound.sample_rate);
    metadata.channels = Some(sound.channels);
    metadata.format = Some(format!("audio/mp{}", sound.layer));
    metadata.codec = Some(format!("mp{}", sound.layer));
    Ok(())
}

/// Reads raw AAC: the sums over its frames, and the ID3 tags around them.
fn read_adts<R: Read + Seek>(
    file: &mut R,
    seen: Option<adts::Summary>,
    metadata: &mut Metadata,
    found: &mut Found,
) -> Result<(), String> {
    let summary = match seen {
        Some(summary) => summary,
        None => count_frames(file).map_err(|error| explain(&error))?,
    };
    metadata.duration = (summary.duration > 0.0).then_some(summary.duration);
    metadata.bitrate = summary.bitrate;
    metadata.sample_rate = summary.sample_rate;
    metadata.channels = summary.channels;
    let Surrounding { begin: tags_end, .. } = read_surrounding_tags(file, found)?;
    if summary.frames == 0 {
        return Err("there is no whole aac frame in it".to_owned());
    }
    if summary.other_bytes.saturating_sub(tags_end) > summary.frame_bytes {
        return Err("most of it is no aac".to_owned());
    }
    metadata.format = container::format_of(Container::Aac).map(str::to_owned);
    metadata.codec = Some("aac".to_owned());
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

/// Where the audio is between the tags.
struct Surrounding {
    begin: u64,
    end: u64,
}

/// Reads the tags at both ends of a file.
fn read_surrounding_tags<R: Read + Seek>(file: &mut R, found: &mut Found) -> Result<Surrounding, String> {
    let mut source = open(file)?;
    let mut read = || {
        let mut begin = 0;
        for _ in 0..MAX_LEADING_TAGS {
            let mut header = [0; 10];
            let Some(length) = id3v2::length(source.read_at(begin, &mut header)?) else { break };
            id3v2::read(&mut source, begin, found)?;
            begin += length;
        }
        let end = end_tags::read(&mut source, found)?;
        Ok(Surrounding { begin, end: end.max(begin) })
    };
    read().map_err(|error: io::Error| explain(&error))
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

fn open<R: Read + Seek>(file: R) -> Result<Source<R>, String> {
    Source::new(file).map_err(|error| explain(&error))
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
    fn a_huge_text_is_truncated_and_the_others_are_whole() {
        let tag = id3v2(&[("TIT2", &"\u{7f}x".repeat(200_000)), ("TPE1", "Artist")]);
        let metadata = parse(&[tag, mp3(20)].concat(), "a.mp3");
        assert_eq!(metadata.tags.get(Field::Title).map(str::len), Some(Metadata::LONGEST_TEXT));
        assert_eq!(metadata.tags.get(Field::Artist), Some("Artist"));
        assert_eq!(metadata.error.as_deref(), Some("title is cut to 64 KiB"));
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
