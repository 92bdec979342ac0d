//! The formats that lofty reads, with corrections of what it gets wrong.

use std::io::{self, Read, Seek};

use lofty::config::{GlobalOptions, ParseOptions, ParsingMode, apply_global_options};
use lofty::file::{AudioFile, FileType as Container, TaggedFile, TaggedFileExt};
use lofty::probe::Probe;
use lofty::tag::{ItemKey, Tag};

use super::found::{Field, Found};
use super::source::Source;
use super::values::{explain, guarded, tidy, track};
use super::{aiff, codecs, end_tags, id3v2, mp4, wav};
use crate::model::Metadata;

/// Bytes that lofty may allocate for one item.
const ALLOCATION_LIMIT: usize = 16 * 1024 * 1024;

/// Reads the properties into `metadata`, and the tags into `found`. On failure, both have the parts that could be read.
pub(super) fn read<R: Read + Seek>(
    source: &mut Source<R>,
    container: Container,
    metadata: &mut Metadata,
    found: &mut Found,
) -> Result<(), String> {
    // A file that is corrupt here is corrupt for lofty too, and `result` has that error.
    let _ = read_tags(source, container, metadata, found);
    let mut result = attempt(source, container, options(container)).map(|file| {
        file.show_tags(found);
        file.show_properties(metadata);
    });
    let mut tags_are_read = result.is_ok();
    if result.is_err() {
        // lofty rejects the whole file for one bad part, so the parts are tried alone.
        let relaxed = || options(container).parsing_mode(ParsingMode::Relaxed);
        if let Ok(file) = attempt(source, container, relaxed().read_properties(false)) {
            file.show_tags(found);
            tags_are_read = true;
        }
        if let Ok(file) = attempt(source, container, relaxed().read_tags(false)) {
            file.show_properties(metadata);
        }
    }
    match container {
        Container::Mp4 => {
            if let Ok(described) = mp4::described(source) {
                metadata.bitrate = described.bitrate.or(metadata.bitrate);
                metadata.sample_rate = described.sample_rate.or(metadata.sample_rate);
                metadata.channels = described.channels.or(metadata.channels);
                metadata.codec = described.codec.map(ToOwned::to_owned);
                metadata.bits_per_sample = described.bits_per_sample;
            }
        }
        Container::Wav => wav::read(source, metadata).unwrap_or_default(),
        _ => {}
    }
    tags_are_read |= !found.is_empty();
    if tags_are_read && metadata.duration.is_some() {
        // Whatever was wrong, nothing is missing.
        result = Ok(());
        metadata.format = metadata.format.take().or_else(|| format_of(container).map(str::to_owned));
    }
    result
}

/// Reads the tags one by one, before lofty, which gives up all of a tag for one bad part, and notes no picture.
fn read_tags<R: Read + Seek>(
    source: &mut Source<R>,
    container: Container,
    metadata: &mut Metadata,
    found: &mut Found,
) -> io::Result<()> {
    match container {
        Container::Mp4 => mp4::read_tags(source, found),
        Container::Wav => wav::read_tags(source, found),
        Container::Aiff => aiff::read(source, metadata, found),
        Container::Ape | Container::Mpc | Container::WavPack => {
            let mut header = [0; 10];
            let begin = id3v2::length(source.read_at(0, &mut header)?).unwrap_or(0);
            metadata.codec = codec_of(source, container, begin)?.map(ToOwned::to_owned);
            id3v2::read_chunk(source, 0, found)?;
            end_tags::read(source, found).map(|_| ())
        }
        _ => Ok(()),
    }
}

/// The codec of a format that begins at `begin`. Musepack has one for each version.
fn codec_of<R: Read + Seek>(
    source: &mut Source<R>,
    container: Container,
    begin: u64,
) -> io::Result<Option<&'static str>> {
    Ok(match container {
        Container::Ape => Some("ape"),
        Container::WavPack => Some("wavpack"),
        Container::Mpc if source.read_at(begin, &mut [0; 4])?.starts_with(b"MPCK") => Some("musepack8"),
        Container::Mpc => Some("musepack7"),
        _ => None,
    })
}

/// The fields but the track, by lofty's names.
const KEYS: [(Field, &[ItemKey]); 5] = [
    (Field::Title, &[ItemKey::TrackTitle]),
    (Field::Artist, &[ItemKey::TrackArtist]),
    (Field::Album, &[ItemKey::AlbumTitle]),
    (Field::Date, &[ItemKey::RecordingDate, ItemKey::Year]),
    (Field::Genre, &[ItemKey::Genre]),
];

/// What one try with lofty has read.
struct Parsed(TaggedFile);

/// Tries to read the file once.
fn attempt<R: Read + Seek>(
    source: &mut Source<R>,
    container: Container,
    options: ParseOptions,
) -> Result<Parsed, String> {
    // lofty keeps these options per thread, and this may be any thread.
    apply_global_options(
        GlobalOptions::new()
            .allocation_limit(ALLOCATION_LIMIT)
            .use_custom_resolvers(false)
            .preserve_format_specific_items(false),
    );
    guarded(|| {
        source.rewind().map_err(|error| explain(&error))?;
        let file = Probe::with_file_type(source, container).options(options).read();
        file.map(Parsed).map_err(|error| explain(&error))
    })
}

/// The options to read files of this kind with.
pub(super) fn options(container: Container) -> ParseOptions {
    // In Vorbis comments, the conversions would turn `03/12` into `3/12`.
    let as_written = matches!(container, Container::Flac | Container::Opus | Container::Speex | Container::Vorbis);
    ParseOptions::new().read_cover_art(false).implicit_conversions(!as_written)
}

impl Parsed {
    fn show_properties(&self, metadata: &mut Metadata) {
        let properties = self.0.properties();
        let duration = properties.duration().as_secs_f64();
        let known = |number: &u32| *number > 0;
        let kilobits = properties.audio_bitrate().filter(known).or(properties.overall_bitrate().filter(known));
        metadata.duration = (duration > 0.0).then_some(duration);
        metadata.bitrate = kilobits.and_then(|kilobits| kilobits.checked_mul(1000));
        metadata.sample_rate = properties.sample_rate().filter(known);
        metadata.channels = properties.channels().map(u32::from).filter(known);
        let bits = properties.bit_depth().map(u32::from).unwrap_or_default();
        let exact = metadata.bits_per_sample.take();
        metadata.bits_per_sample = exact.or_else(|| codecs::bits_of(metadata.codec.as_deref(), bits));
    }

    /// The six basic fields that are missing in `found`. A field that the format's primary kind of tag lacks is taken
    /// from the other kinds.
    fn show_tags(&self, found: &mut Found) {
        let kinds = || self.0.primary_tag().into_iter().chain(self.0.tags());
        let first = |keys: &[ItemKey]| kinds().find_map(|kind| keys.iter().find_map(|&key| first_of(kind, key)));
        let track_of = |kind| track(first_of(kind, ItemKey::TrackNumber), first_of(kind, ItemKey::TrackTotal));
        found.within("by lofty");
        for (field, keys) in KEYS {
            if !found.has(field) {
                found.set(field, first(keys));
            }
        }
        if !found.has(Field::Track) {
            found.set(Field::Track, kinds().find_map(track_of));
        }
    }
}

fn first_of(kind: &Tag, key: ItemKey) -> Option<String> {
    kind.get_strings(key).find_map(tidy)
}

/// The MIME type that mutagen gives first.
pub(super) fn format_of(container: Container) -> Option<&'static str> {
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
