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
mod tail;

use std::io::{self, Read, Seek};

use lofty::file::FileType as Container;
use xxhash_rust::xxh3::Xxh3Default;

use super::source::Source;
use super::tags::{Kind, leading_tags_end};
use super::values::{explain, guarded};
use super::{flac, mpeg};
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
        let kind = Kind::of(&mut *file, path)?;
        if kind.is_guess() {
            return Ok(None);
        }
        let source = &mut Source::new(file)?;
        let one = |range| Ok(Some(Self::Ranges(Ranges::new(vec![range]))));
        match kind {
            Kind::Ogg | Kind::OggFlac => Ok(Some(Self::Pages(Pages::default()))),
            Kind::Mpeg => {
                // The end first, because the tags in front are next to the first frame.
                let end = tail::sound_end(source)?;
                let tags_end = leading_tags_end(source)?;
                match mpeg::sound_begin(source, tags_end, end)? {
                    Some(begin) => one(begin..end),
                    None => Ok(None),
                }
            }
            Kind::Flac { begin } => {
                let begin = flac::sound_begin(source, begin)?;
                one(begin..tail::sound_end(source)?)
            }
            Kind::Adts { .. }
            | Kind::Container { container: Container::Ape | Container::Mpc | Container::WavPack, .. } => {
                let begin = leading_tags_end(source)?;
                one(begin..tail::sound_end(source)?)
            }
            Kind::Asf => chunks::asf_data(source)?.map_or(Ok(None), one),
            Kind::Container { container: Container::Wav, .. } => chunks::wav_data(source)?.map_or(Ok(None), one),
            Kind::Container { container: Container::Aiff, .. } => chunks::aiff_data(source)?.map_or(Ok(None), one),
            Kind::Container { container: Container::Mp4, .. } => {
                Ok(samples::of_file(source)?.map(|ranges| Self::Ranges(Ranges::new(ranges))))
            }
            Kind::Container { .. } | Kind::Unknown => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests;
