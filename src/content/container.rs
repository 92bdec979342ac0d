//! The properties of the formats that lofty reads, and the formats by their magic numbers.

use std::io::{self, Read, Seek};

use lofty::config::{GlobalOptions, ParseOptions, apply_global_options};
use lofty::file::{AudioFile, FileType};
use lofty::probe::Probe;

use super::codecs;
use super::source::Source;
use super::values::{bits_per_second, explain, guarded};
use crate::model::Metadata;

/// Bytes that lofty may allocate for one item.
const ALLOCATION_LIMIT: usize = 1024 * 1024;

/// Bytes that lofty may read. It searches the whole file for what a damaged one lacks.
const READING_LIMIT: u64 = 2 * 1024 * 1024;

/// A format whose properties lofty reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Container {
    Ape,
    Musepack,
    WavPack,
}

impl Container {
    /// The format of a file that begins with `head`.
    pub(super) fn of(head: &[u8]) -> Option<Self> {
        match head.first_chunk()? {
            b"MAC " | b"MACF" => Some(Self::Ape),
            b"MPCK" | [b'M', b'P', b'+', _] => Some(Self::Musepack),
            b"wvpk" => Some(Self::WavPack),
            _ => None,
        }
    }

    /// The MIME type that mutagen gives first.
    pub(super) fn format(self) -> &'static str {
        match self {
            Self::Ape => "audio/ape",
            Self::Musepack => "audio/x-musepack",
            Self::WavPack => "audio/x-wavpack",
        }
    }

    /// The codec. Musepack has one for each version.
    fn codec<R: Read + Seek>(self, source: &mut Source<R>) -> io::Result<&'static str> {
        Ok(match self {
            Self::Ape => "ape",
            Self::WavPack => "wavpack",
            Self::Musepack if source.read_at(0, &mut [0; 4])?.starts_with(b"MPCK") => "musepack8",
            Self::Musepack => "musepack7",
        })
    }

    fn file_type(self) -> FileType {
        match self {
            Self::Ape => FileType::Ape,
            Self::Musepack => FileType::Mpc,
            Self::WavPack => FileType::WavPack,
        }
    }

    /// Reads the properties into `metadata`. The sound ends at `end`.
    pub(super) fn read<R: Read + Seek>(
        self,
        source: &mut Source<R>,
        end: u64,
        metadata: &mut Metadata,
    ) -> Result<(), String> {
        let codec = self.codec(source).map_err(|error| explain(&error))?;
        metadata.codec = Some(codec.to_owned());
        // lofty keeps these options per thread, and this may be any thread.
        apply_global_options(GlobalOptions::new().allocation_limit(ALLOCATION_LIMIT).use_custom_resolvers(false));
        // The tags are read apart from it.
        let options = ParseOptions::new().read_tags(false).read_cover_art(false);
        let file = guarded(|| {
            source.rewind().map_err(|error| explain(&error))?;
            source.limit(READING_LIMIT);
            let probe = Probe::with_file_type(source, self.file_type()).options(options);
            probe.read().map_err(|error| explain(&error))
        })?;
        let properties = file.properties();
        let duration = properties.duration().as_secs_f64();
        let known = |number: &u32| *number > 0;
        metadata.duration = (duration > 0.0).then_some(duration);
        metadata.sample_rate = properties.sample_rate().filter(known);
        metadata.channels = properties.channels().map(u32::from).filter(known);
        metadata.bitrate = bits_per_second(end, duration);
        let bits = properties.bit_depth().map(u32::from).unwrap_or_default();
        metadata.bits_per_sample = codecs::bits_of(Some(codec), bits);
        Ok(())
    }
}
