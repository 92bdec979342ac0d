//! The formats that lofty reads, with corrections of what it gets wrong.

use std::io::{self, Read, Seek};

use lofty::config::{GlobalOptions, ParseOptions, ParsingMode, apply_global_options};
use lofty::file::{AudioFile, FileType as Container, TaggedFile, TaggedFileExt};
use lofty::probe::Probe;
use lofty::tag::{ItemKey, Tag};

use super::found::Found as FoundTags;
use super::source::Source;
use super::values::{explain, guarded, tidy, track};
use super::{mp4, wav};
use crate::model::{Field, Metadata};

/// Bytes that lofty may allocate for one item.
const ALLOCATION_LIMIT: usize = 16 * 1024 * 1024;

/// Reads into `metadata` what lofty can read. On failure, `metadata` has the parts that could be read.
pub(super) fn read<R: Read + Seek>(
    source: &mut Source<R>,
    container: Container,
    metadata: &mut Metadata,
) -> Result<(), String> {
    let mut result = attempt(source, container, options(container)).map(|found| {
        found.show_tags(metadata);
        found.show_properties(metadata);
    });
    let mut tags_are_read = result.is_ok();
    if result.is_err() {
        // lofty rejects the whole file for one bad part, so the parts are tried alone.
        let relaxed = || options(container).parsing_mode(ParsingMode::Relaxed);
        if let Ok(found) = attempt(source, container, relaxed().read_properties(false)) {
            found.show_tags(metadata);
            tags_are_read = true;
        }
        if let Ok(found) = attempt(source, container, relaxed().read_tags(false)) {
            found.show_properties(metadata);
        }
    }
    match container {
        Container::Mp4 => {
            tags_are_read |= fill_tags(mp4::read_tags, source, metadata);
            if let Ok(described) = mp4::described(source) {
                metadata.bitrate = described.bitrate.or(metadata.bitrate);
                metadata.sample_rate = described.sample_rate.or(metadata.sample_rate);
                metadata.channels = described.channels.or(metadata.channels);
            }
        }
        // A file that is corrupt here was corrupt for lofty too, and `result` has that error.
        Container::Wav => {
            tags_are_read |= fill_tags(wav::read_info, source, metadata);
            wav::read(source, metadata).unwrap_or_default();
        }
        _ => {}
    }
    if tags_are_read && metadata.duration.is_some() {
        // Whatever was wrong, nothing is missing.
        result = Ok(());
        metadata.format = metadata.format.take().or_else(|| format_of(container).map(str::to_owned));
    }
    result
}

/// Fills in the tags that lofty did not find with those of `read_tags`. Returns whether there is a tag now.
fn fill_tags<R: Read + Seek>(
    read_tags: fn(&mut Source<R>, &mut FoundTags) -> io::Result<()>,
    source: &mut Source<R>,
    metadata: &mut Metadata,
) -> bool {
    let mut found = FoundTags::default();
    // A list that is cut keeps the tags before the cut.
    let _ = read_tags(source, &mut found);
    found.show(metadata);
    !metadata.tags.is_empty()
}

/// The result of one try with lofty.
struct Found(TaggedFile);

/// Tries to read the file once.
fn attempt<R: Read + Seek>(
    source: &mut Source<R>,
    container: Container,
    options: ParseOptions,
) -> Result<Found, String> {
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
        file.map(Found).map_err(|error| explain(&error))
    })
}

/// The options to read files of this kind with.
pub(super) fn options(container: Container) -> ParseOptions {
    // In Vorbis comments, the conversions would turn `03/12` into `3/12`.
    let as_written = matches!(container, Container::Flac | Container::Opus | Container::Speex | Container::Vorbis);
    ParseOptions::new().read_cover_art(false).implicit_conversions(!as_written)
}

impl Found {
    fn show_properties(&self, metadata: &mut Metadata) {
        let properties = self.0.properties();
        let duration = properties.duration().as_secs_f64();
        let known = |number: &u32| *number > 0;
        let kilobits = properties.audio_bitrate().filter(known).or(properties.overall_bitrate().filter(known));
        metadata.duration = (duration > 0.0).then_some(duration);
        metadata.bitrate = kilobits.and_then(|kilobits| kilobits.checked_mul(1000));
        metadata.sample_rate = properties.sample_rate().filter(known);
        metadata.channels = properties.channels().map(u32::from).filter(known);
    }

    /// The six tags. A tag that the format's primary kind of tag lacks is taken from the other kinds.
    fn show_tags(&self, metadata: &mut Metadata) {
        let kinds = || self.0.primary_tag().into_iter().chain(self.0.tags());
        let first = |keys: &[ItemKey]| kinds().find_map(|kind| keys.iter().find_map(|&key| first_of(kind, key)));
        let track_of = |kind| track(first_of(kind, ItemKey::TrackNumber), first_of(kind, ItemKey::TrackTotal));
        let fields = [
            (Field::Title, first(&[ItemKey::TrackTitle])),
            (Field::Artist, first(&[ItemKey::TrackArtist])),
            (Field::Album, first(&[ItemKey::AlbumTitle])),
            (Field::Date, first(&[ItemKey::RecordingDate, ItemKey::Year])),
            (Field::Genre, first(&[ItemKey::Genre])),
            (Field::Track, kinds().find_map(track_of)),
        ];
        metadata.tags = fields.into_iter().filter_map(|(field, text)| Some((field, text?))).collect();
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
