//! The metadata of an audio file: what its stream headers and its tags say.
//!
//! - Reading never fails: what could not be read is missing, and [`Metadata::error`] says why.
//! - What a file is, is decided by its content. The name decides only where no content can: raw
//!   AAC has no magic number, and a file that is nothing at all is called what its name says.
//! - A panic of a parser is an error of that file.
//! - A damaged file costs a bounded amount of reading and memory.
//!
//! Most formats are read by lofty; [`super::asf`], [`super::adts`] and [`super::oggflac`] read those
//! that it does not.

use std::fs::File;
use std::io::{self, Cursor, Read, Seek};
use std::panic::{AssertUnwindSafe, catch_unwind};

use lofty::config::{GlobalOptions, ParseOptions, ParsingMode, apply_global_options};
use lofty::error::FileParseError;
use lofty::file::{AudioFile, FileType as Container, TaggedFile, TaggedFileExt};
use lofty::mpeg::{Layer, MpegFile};
use lofty::probe::Probe;
use lofty::tag::{ItemKey, Tag};

use super::source::Source;
use super::{adts, asf, oggflac};
use crate::model::{FileType, LibraryPath, Metadata, Tags};

/// Bytes that lofty may allocate for one item.
const ALLOCATION_LIMIT: usize = 16 * 1024 * 1024;

/// Bytes that are enough to tell what a file is: an Ogg page's header and the first packet's magic.
const HEAD: usize = 512;

/// ID3v2 tags in front of the sound before it must be nonsense.
const MAX_LEADING_TAGS: usize = 16;

/// Bytes that are read at once where a whole file is read.
const CHUNK: usize = 64 * 1024;

/// Bytes of an ID3v1 tag.
const ID3V1: u64 = 128;

/// Characters of an error text that are kept.
const LONGEST_ERROR: usize = 160;

/// Reads the metadata of `file`, whose name is `path`, from its beginning.
///
/// `adts` is what an [`adts::Counter`] saw while all of the file was read; without it a raw AAC file
/// is read once more.
pub fn read(file: &File, path: &LibraryPath, adts: Option<adts::Summary>) -> Metadata {
    read_from(file, path, adts)
}

fn read_from<R: Read + Seek>(mut file: R, path: &LibraryPath, adts: Option<adts::Summary>) -> Metadata {
    let mut metadata = Metadata::default();
    let outcome = guarded(|| {
        let kind = Kind::of(&mut file, path).map_err(|error| explain(&error))?;
        metadata.format = kind.format().map(str::to_owned);
        match kind {
            Kind::Adts => read_adts(&mut file, adts, &mut metadata),
            Kind::Asf => asf::read(&mut open(&mut file)?, &mut metadata).map_err(|error| explain(&error)),
            Kind::OggFlac => oggflac::read(&mut open(&mut file)?, &mut metadata).map_err(|error| explain(&error)),
            Kind::Container { container, .. } => read_container(&mut open(&mut file)?, container, &mut metadata),
            Kind::Unknown => {
                read_surrounding_tags(&mut file, &mut metadata)?;
                Err("it is of no audio format that is known".to_owned())
            }
        }
    });
    metadata.error = outcome.err();
    if metadata.format.is_none() {
        metadata.format = format_of_name(path).map(str::to_owned);
    }
    metadata
}

/// What a file is, by its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Adts,
    Asf,
    OggFlac,
    Container {
        container: Container,
        /// Whether a magic number says so, and not just something that looks like a frame.
        sure: bool,
    },
    Unknown,
}

impl Kind {
    fn of<R: Read + Seek>(file: &mut R, path: &LibraryPath) -> io::Result<Self> {
        let mut source = Source::new(file)?;
        let mut buffer = [0; HEAD];
        let head = source.read_at(0, &mut buffer)?;
        if head.starts_with(&asf::MAGIC) {
            return Ok(Self::Asf);
        }
        if oggflac::begins_stream(head) {
            return Ok(Self::OggFlac);
        }
        let tags_end = leading_tags_end(&mut source)?;
        let head = source.read_at(tags_end, &mut buffer)?;
        let by_magic = Container::from_buffer(head);
        if by_magic == Some(Container::Aac) && adts::begins_frame(head) {
            return Ok(Self::Adts);
        }
        if let Some(container) = by_magic.filter(|&container| container != Container::Aac) {
            return Ok(Self::Container { container, sure: true });
        }
        if head.is_empty() && tags_end == 0 {
            return Ok(Self::Unknown);
        }
        // Nothing begins here, so junk does. Only these two may have junk in front of them.
        source.rewind()?;
        if FileType::of(path).as_str() == "aac" {
            return Ok(Self::Adts);
        }
        Ok(match Probe::new(source).options(options()).guess_file_type()?.file_type() {
            Some(Container::Aac) => Self::Adts,
            Some(container) => Self::Container { container, sure: false },
            None => Self::Unknown,
        })
    }

    /// The MIME type that mutagen gives first.
    fn format(self) -> Option<&'static str> {
        match self {
            Self::Adts => Some("audio/x-aac"),
            Self::Asf => Some("audio/x-ms-wma"),
            Self::OggFlac => Some("audio/x-oggflac"),
            Self::Container { container, sure: true } => format_of(container),
            Self::Container { .. } | Self::Unknown => None,
        }
    }
}

/// Where the ID3v2 tags end that the file begins with.
fn leading_tags_end<R: Read + Seek>(source: &mut Source<R>) -> io::Result<u64> {
    let mut end = 0_u64;
    for _ in 0..MAX_LEADING_TAGS {
        let mut header = [0; 10];
        match adts::id3v2_length(source.read_at(end, &mut header)?) {
            Some(length) => end += length,
            None => break,
        }
    }
    Ok(end)
}

/// Raw AAC: the sums over its frames, and the ID3 tags around them.
fn read_adts<R: Read + Seek>(file: &mut R, seen: Option<adts::Summary>, metadata: &mut Metadata) -> Result<(), String> {
    let summary = match seen {
        Some(summary) => summary,
        None => count_frames(file).map_err(|error| explain(&error))?,
    };
    metadata.duration = (summary.duration > 0.0).then_some(summary.duration);
    metadata.bitrate = summary.bitrate;
    metadata.sample_rate = summary.sample_rate;
    metadata.channels = summary.channels;
    let tags_end = read_surrounding_tags(file, metadata)?;
    if summary.frames == 0 {
        return Err("there is no whole aac frame in it".to_owned());
    }
    if summary.other_bytes.saturating_sub(tags_end) > summary.frame_bytes {
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

/// The ID3 tags at both ends of a file whose sound lofty is not shown; says where the first ones end.
fn read_surrounding_tags<R: Read + Seek>(file: &mut R, metadata: &mut Metadata) -> Result<u64, String> {
    let mut source = open(file)?;
    let tags_end = leading_tags_end(&mut source).map_err(|error| explain(&error))?;
    let excerpt = excerpt(&mut source, tags_end).map_err(|error| explain(&error))?;
    let Some(excerpt) = excerpt else { return Ok(tags_end) };
    // The rest of the excerpt is silence to lofty, where it looks for frames and finds none.
    let mut excerpt = Source::new(Cursor::new(excerpt)).map_err(|error| explain(&error))?;
    let (found, _) = attempt(&mut excerpt, Container::Mpeg, relaxed().read_properties(false))?;
    metadata.tags = tags_of(&found);
    Ok(tags_end)
}

/// The first `tags_end` bytes, zeros, and the ID3v1 tag where there is one; `None` where there is no tag.
fn excerpt<R: Read + Seek>(source: &mut Source<R>, tags_end: u64) -> io::Result<Option<Vec<u8>>> {
    let mut last = [0; ID3V1 as usize];
    let last_start = source.length().saturating_sub(ID3V1).max(tags_end);
    let last = source.read_at(last_start, &mut last)?;
    let id3v1 = last.len() as u64 == ID3V1 && last.starts_with(b"TAG");
    if tags_end == 0 && !id3v1 {
        return Ok(None);
    }
    let mut excerpt = Vec::new();
    source.rewind()?;
    source.take(tags_end.min(ALLOCATION_LIMIT as u64)).read_to_end(&mut excerpt)?;
    excerpt.resize(excerpt.len() + 256, 0);
    if id3v1 {
        excerpt.extend_from_slice(last);
    }
    Ok(Some(excerpt))
}

/// What lofty reads. It gives up the whole file for one bad part, so then the parts are tried alone.
fn read_container<R: Read + Seek>(
    source: &mut Source<R>,
    container: Container,
    metadata: &mut Metadata,
) -> Result<(), String> {
    let failure = match attempt(source, container, options()) {
        Ok((found, format)) => {
            metadata.format = format.map(str::to_owned);
            metadata.tags = tags_of(&found);
            set_properties(metadata, &found);
            return Ok(());
        }
        Err(failure) => failure,
    };
    if let Ok((found, _)) = attempt(source, container, relaxed().read_properties(false)) {
        metadata.tags = tags_of(&found);
    }
    if let Ok((found, format)) = attempt(source, container, relaxed().read_tags(false)) {
        set_properties(metadata, &found);
        if metadata.duration.is_some() && metadata.tags != Tags::default() {
            // One frame of a tag was bad, and everything else was read: nothing that mattered.
            metadata.format = format.map(str::to_owned);
            return Ok(());
        }
    }
    Err(failure)
}

/// One try with lofty: the file, and its MIME type.
fn attempt<R: Read + Seek>(
    source: &mut Source<R>,
    container: Container,
    options: ParseOptions,
) -> Result<(TaggedFile, Option<&'static str>), String> {
    // They belong to the thread, and this may be any.
    apply_global_options(
        GlobalOptions::new()
            .allocation_limit(ALLOCATION_LIMIT)
            .use_custom_resolvers(false)
            .preserve_format_specific_items(false),
    );
    guarded(|| {
        source.rewind().map_err(|error| explain(&error))?;
        if container != Container::Mpeg {
            let found = Probe::with_file_type(source, container).options(options).read();
            return found.map(|found| (found, format_of(container))).map_err(|error| explain(&error));
        }
        let found = MpegFile::read_from(source, options).map_err(|error: FileParseError| explain(&error))?;
        let format = match found.properties().layer() {
            Layer::Layer1 => "audio/mp1",
            Layer::Layer2 => "audio/mp2",
            Layer::Layer3 => "audio/mp3",
        };
        Ok((found.into(), Some(format)))
    })
}

fn options() -> ParseOptions {
    ParseOptions::new().read_cover_art(false)
}

fn relaxed() -> ParseOptions {
    options().parsing_mode(ParsingMode::Relaxed)
}

fn set_properties(metadata: &mut Metadata, found: &TaggedFile) {
    let properties = found.properties();
    let duration = properties.duration().as_secs_f64();
    let known = |number: &u32| *number > 0;
    let kilobits = properties.audio_bitrate().filter(known).or(properties.overall_bitrate().filter(known));
    metadata.duration = (duration > 0.0).then_some(duration);
    metadata.bitrate = kilobits.and_then(|kilobits| kilobits.checked_mul(1000));
    metadata.sample_rate = properties.sample_rate().filter(known);
    metadata.channels = properties.channels().map(u32::from).filter(known);
}

/// The six tags; where the format's own kind of tag lacks one, the other kinds are asked.
fn tags_of(found: &TaggedFile) -> Tags {
    let kinds = || found.primary_tag().into_iter().chain(found.tags());
    let first = |keys: &[ItemKey]| kinds().find_map(|kind| keys.iter().find_map(|&key| first_of(kind, key)));
    Tags {
        title: first(&[ItemKey::TrackTitle]),
        artist: first(&[ItemKey::TrackArtist]),
        album: first(&[ItemKey::AlbumTitle]),
        date: first(&[ItemKey::RecordingDate, ItemKey::Year]),
        genre: first(&[ItemKey::Genre]),
        track: kinds()
            .find_map(|kind| track(first_of(kind, ItemKey::TrackNumber), first_of(kind, ItemKey::TrackTotal))),
    }
}

fn first_of(kind: &Tag, key: ItemKey) -> Option<String> {
    kind.get_strings(key).find_map(tidy)
}

/// The first of the values in `text` that has something in it, without what surrounds it.
pub(super) fn tidy(text: &str) -> Option<String> {
    text.split('\0').map(str::trim).find(|value| !value.is_empty()).map(str::to_owned)
}

/// `3`, or `3/12` where there is a total that `number` does not have yet.
pub(super) fn track(number: Option<String>, total: Option<String>) -> Option<String> {
    let number = number?;
    match total {
        Some(total) if !number.contains('/') && total.bytes().any(|byte| byte != b'0') => {
            Some(format!("{number}/{total}"))
        }
        _ => Some(number),
    }
}

/// The mean bits a second of `bytes` that last `seconds`.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the range was looked at")]
pub(super) fn bits_per_second(bytes: u64, seconds: f64) -> Option<u32> {
    let bits_per_second = (bytes as f64 * 8.0 / seconds).round();
    (seconds > 0.0 && bits_per_second >= 1.0 && bits_per_second <= f64::from(u32::MAX))
        .then_some(bits_per_second as u32)
}

/// The MIME type that mutagen gives first.
fn format_of(container: Container) -> Option<&'static str> {
    Some(match container {
        Container::Aac => "audio/x-aac",
        Container::Aiff => "audio/aiff",
        Container::Ape => "audio/ape",
        Container::Flac => "audio/flac",
        Container::Mpc => "audio/x-musepack",
        Container::Mp4 => "audio/mp4",
        Container::Mpeg => "audio/mp3",
        Container::Opus => "audio/ogg",
        Container::Speex => "audio/x-speex",
        Container::Vorbis => "audio/vorbis",
        Container::Wav => "audio/wav",
        Container::WavPack => "audio/x-wavpack",
        _ => return None,
    })
}

/// What a file of this name usually is.
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

/// Runs a parser; its panic is an error of this file.
fn guarded<T>(parse: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(parse)).unwrap_or_else(|_| Err("the parser failed on it".to_owned()))
}

/// The innermost reason of `error`, in one short line.
fn explain(error: &(dyn std::error::Error + 'static)) -> String {
    let reasons = || std::iter::successors(Some(error), |error| error.source());
    let ended = |reason: &(dyn std::error::Error + 'static)| {
        reason.downcast_ref::<io::Error>().is_some_and(|reason| reason.kind() == io::ErrorKind::UnexpectedEof)
    };
    if reasons().any(ended) {
        return "it ends too early".to_owned();
    }
    let reason = reasons().last().unwrap_or(error).to_string();
    let mut characters = reason.chars().filter(|character| !character.is_control()).take(LONGEST_ERROR);
    characters.next().into_iter().flat_map(char::to_lowercase).chain(characters).collect()
}
