//! The hash of the sound of a file, without its tags. It is the same after the file was retagged.
//!
//! docs/metadata.md defines for each format what the sound is. The hash is computed in the read that hashes the file, so
//! the positions of the sound must be known before: they are found by reading the headers and the tags at the end. Only
//! the pages of Ogg are found in the read itself.
//!
//! - A file of no known format, or one whose structure is damaged, has no such hash. Neither has a file without sound.
//! - A corrupt file costs a bounded amount of reading and memory. A panic of a parser costs the hash and nothing else.

mod objects;
mod pages;
mod ranges;
mod samples;

use std::io::{self, Read, Seek};

use xxhash_rust::xxh3::Xxh3Default;

use super::source::Source;
use super::tags::{Kind, leading_tags_end};
use super::values::{explain, guarded};
use super::{aiff, flac, tail, wav};
use crate::model::{LibraryPath, Sound};

use pages::Pages;
use ranges::Ranges;

/// Hashes the sound of one file, whose bytes it gets in order.
pub(super) struct Hasher {
    hash: Xxh3Default,
    bytes: u64,
    places: Option<Places>,
    kind: Option<Kind>,
}

/// Where the sound of a file is.
#[derive(Debug)]
enum Places {
    Ranges(Ranges),
    Pages(Pages),
}

impl Hasher {
    /// A hasher for `file`, whose path is `path`. It finds nothing if it is not known where the sound is.
    pub(super) fn of<R: Read + Seek>(mut file: R, path: &LibraryPath) -> Self {
        let mut kind = None;
        let places = guarded(|| Places::of(&mut file, path, &mut kind).map_err(|error| explain(&error)));
        Self { hash: Xxh3Default::new(), bytes: 0, places: places.ok().flatten(), kind }
    }

    /// The format of the file; `None` if it could not be read.
    pub(super) fn kind(&self) -> Option<Kind> {
        self.kind
    }

    /// Hashes what is sound in the next bytes of the file.
    pub(super) fn update(&mut self, chunk: &[u8]) {
        let take = |sound: &[u8]| {
            self.hash.update(sound);
            self.bytes += sound.len() as u64;
        };
        match &mut self.places {
            Some(Places::Ranges(ranges)) => ranges.each_in(chunk, take),
            Some(Places::Pages(pages)) => pages.each_in(chunk, take),
            None => {}
        }
    }

    /// The sound of the whole file; `None` if there is none.
    pub(super) fn finish(self) -> Option<Sound> {
        (self.bytes > 0).then(|| Sound { xxh128: self.hash.digest128(), bytes: self.bytes })
    }
}

impl Places {
    /// Where the sound of `file` is, and puts its format into `found`.
    fn of<R: Read + Seek>(file: &mut R, path: &LibraryPath, found: &mut Option<Kind>) -> io::Result<Option<Self>> {
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
        *found = Some(kind);
        let range = match kind {
            Kind::Ogg => return Ok(Some(Self::Pages(Pages::default()))),
            Kind::Mp4 => {
                let ranges = samples::of_file(source)?;
                return Ok(ranges.map(|ranges| Self::Ranges(Ranges::new(ranges, begin))));
            }
            Kind::Adif | Kind::Adts | Kind::Container(_) => Some(0..end),
            Kind::Aiff => aiff::sound(source)?,
            Kind::Asf => objects::packets(source)?,
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
