//! The formats that lofty reads, with corrections of what it gets wrong.

use std::borrow::Cow;
use std::io::{Read, Seek};

use lofty::config::{GlobalOptions, ParseOptions, ParsingMode, apply_global_options};
use lofty::error::FileParseError;
use lofty::file::{AudioFile, FileType as Container, TaggedFile, TaggedFileExt};
use lofty::id3::v2::FrameId;
use lofty::mpeg::{Layer, MpegFile};
use lofty::probe::Probe;
use lofty::tag::{ItemKey, Tag};

use super::source::Source;
use super::values::{explain, guarded, tidy, track};
use super::{mp4, wav};
use crate::model::{Metadata, Tags};

/// Bytes that lofty may allocate for one item.
const ALLOCATION_LIMIT: usize = 16 * 1024 * 1024;

/// The frame of ID3v2 that holds the track number.
const TRACK: FrameId<'static> = FrameId::Valid(Cow::Borrowed("TRCK"));

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
            if let Ok(Some(bitrate)) = mp4::audio_bitrate(source) {
                metadata.bitrate = Some(bitrate);
            }
        }
        // A file that is corrupt here was corrupt for lofty too, and `result` has that error.
        Container::Wav => wav::read(source, metadata).unwrap_or_default(),
        _ => {}
    }
    if tags_are_read && metadata.duration.is_some() {
        // Whatever was wrong, nothing is missing.
        result = Ok(());
        metadata.format = metadata.format.take().or_else(|| format_of(container).map(str::to_owned));
    }
    result
}

/// Reads only the ID3 tags of `source`. It need not contain any audio.
pub(super) fn read_id3<R: Read + Seek>(source: &mut Source<R>, metadata: &mut Metadata) -> Result<(), String> {
    let options = options(Container::Mpeg).parsing_mode(ParsingMode::Relaxed).read_properties(false);
    attempt(source, Container::Mpeg, options)?.show_tags(metadata);
    Ok(())
}

/// The result of one try with lofty.
struct Found {
    file: TaggedFile,
    /// The MIME type, if it is not the usual one of this container.
    format: Option<&'static str>,
    /// The track number of an ID3v2 tag. lofty drops it if it is not a number, such as `A1` for vinyl.
    track: Option<String>,
}

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
        if container != Container::Mpeg {
            let file = Probe::with_file_type(source, container).options(options).read();
            return file.map(|file| Found { file, format: None, track: None }).map_err(|error| explain(&error));
        }
        let file = MpegFile::read_from(source, options).map_err(|error: FileParseError| explain(&error))?;
        let format = match file.properties().layer() {
            Layer::Layer1 => Some("audio/mp1"),
            Layer::Layer2 => Some("audio/mp2"),
            Layer::Layer3 => None,
        };
        let track = file.id3v2().and_then(|tag| tidy(tag.get_text(&TRACK)?));
        Ok(Found { file: file.into(), format, track })
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
        let properties = self.file.properties();
        let duration = properties.duration().as_secs_f64();
        let known = |number: &u32| *number > 0;
        let kilobits = properties.audio_bitrate().filter(known).or(properties.overall_bitrate().filter(known));
        metadata.duration = (duration > 0.0).then_some(duration);
        metadata.bitrate = kilobits.and_then(|kilobits| kilobits.checked_mul(1000));
        metadata.sample_rate = properties.sample_rate().filter(known);
        metadata.channels = properties.channels().map(u32::from).filter(known);
        if let Some(format) = self.format {
            metadata.format = Some(format.to_owned());
        }
    }

    /// The six tags. A tag that the format's primary kind of tag lacks is taken from the other kinds.
    fn show_tags(&self, metadata: &mut Metadata) {
        let kinds = || self.file.primary_tag().into_iter().chain(self.file.tags());
        let first = |keys: &[ItemKey]| kinds().find_map(|kind| keys.iter().find_map(|&key| first_of(kind, key)));
        let track_of = |kind| track(first_of(kind, ItemKey::TrackNumber), first_of(kind, ItemKey::TrackTotal));
        metadata.tags = Tags {
            title: first(&[ItemKey::TrackTitle]),
            artist: first(&[ItemKey::TrackArtist]),
            album: first(&[ItemKey::AlbumTitle]),
            date: first(&[ItemKey::RecordingDate, ItemKey::Year]),
            genre: first(&[ItemKey::Genre]),
            track: self.track.clone().or_else(|| kinds().find_map(track_of)),
        };
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
