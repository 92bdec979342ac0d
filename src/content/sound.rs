//! The hash of the sound of a file, without its tags. It is the same after the file was retagged.
//!
//! docs/metadata.md defines for each format what the sound is. The hash is computed in the read that hashes the file, so
//! the positions of the sound must be known before: they are found by reading the headers and the tags at the end. Only
//! the pages of Ogg are found in the read itself.
//!
//! - A file of no known format, or one whose structure is damaged, has no such hash. Neither has a file without sound.
//! - A corrupt file costs a bounded amount of reading and memory. A panic of a parser costs the hash and nothing else.

mod chunks;
mod pages;
mod ranges;
mod samples;

use std::io::{self, Read, Seek};

use xxhash_rust::xxh3::Xxh3Default;

use super::source::Source;
use super::tags::{Kind, leading_tags_end};
use super::values::{explain, guarded};
use super::{flac, tail, wav};
use crate::model::{LibraryPath, Sound};

use pages::Pages;
use ranges::Ranges;

/// Hashes the sound of one file, whose bytes it gets in order.
pub(super) struct Hasher {
    hash: Xxh3Default,
    bytes: u64,
    places: Places,
}

/// Where the sound of a file is.
#[derive(Debug)]
enum Places {
    Ranges(Ranges),
    Pages(Pages),
}

impl Hasher {
    /// A hasher for `file`, whose path is `path`; `None` if it is not known where the sound is.
    pub(super) fn of<R: Read + Seek>(mut file: R, path: &LibraryPath) -> Option<Self> {
        let places = guarded(|| Places::of(&mut file, path).map_err(|error| explain(&error)));
        let places = places.ok().flatten()?;
        Some(Self { hash: Xxh3Default::new(), bytes: 0, places })
    }

    /// Hashes what is sound in the next bytes of the file.
    pub(super) fn update(&mut self, chunk: &[u8]) {
        let take = |sound: &[u8]| {
            self.hash.update(sound);
            self.bytes += sound.len() as u64;
        };
        match &mut self.places {
            Places::Ranges(ranges) => ranges.each_in(chunk, take),
            Places::Pages(pages) => pages.each_in(chunk, take),
        }
    }

    /// The sound of the whole file; `None` if there is none.
    pub(super) fn finish(self) -> Option<Sound> {
        (self.bytes > 0).then(|| Sound { xxh128: self.hash.digest128(), bytes: self.bytes })
    }
}

impl Places {
    fn of<R: Read + Seek>(file: &mut R, path: &LibraryPath) -> io::Result<Option<Self>> {
        let source = &mut Source::new(file)?;
        let begin = leading_tags_end(source)?;
        source.begin_at(begin)?;
        let (kind, end) = match Kind::by_magic(source, path)? {
            Some(kind) if !kind.has_tags_behind() => (kind, source.length()),
            Some(kind) => (kind, tail::sound_end(source)?),
            None => {
                let end = tail::sound_end(source)?;
                (Kind::by_frames(source, end)?, end)
            }
        };
        let range = match kind {
            Kind::Ogg => return Ok(Some(Self::Pages(Pages::default()))),
            Kind::Mp4 => {
                let ranges = samples::of_file(source)?;
                return Ok(ranges.map(|ranges| Self::Ranges(Ranges::new(ranges, begin))));
            }
            Kind::Adif | Kind::Adts | Kind::Container(_) => Some(0..end),
            Kind::Aiff => chunks::aiff_data(source)?,
            Kind::Asf => chunks::asf_data(source)?,
            Kind::Flac => Some(flac::sound_begin(source)?..end),
            Kind::Mpeg(first) => Some(first.sound_begin(source)?..end),
            Kind::Wav => wav::sound(source)?,
            Kind::Unknown => None,
        };
        Ok(range.map(|range| Self::Ranges(Ranges::new(vec![range], begin))))
    }
}

#[cfg(test)]
mod tests;
