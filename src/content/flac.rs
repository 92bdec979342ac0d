//! FLAC: the properties from the first block of metadata, the tags from the block of Vorbis comments. The other blocks, such
//! as pictures, are passed over.
//!
//! Format: RFC 9639, section 8.

use std::io::{self, Read, Seek, SeekFrom};

use super::comments;
use super::found::Found;
use super::ogg::corrupt;
use super::source::Source;
use super::values::bits_per_second;
use super::{end_tags, id3v2};
use crate::model::Metadata;

/// The first bytes.
pub(super) const MAGIC: &[u8] = b"fLaC";

/// The kinds of blocks that are read.
const STREAM_INFO: u8 = 0;
pub(super) const VORBIS_COMMENT: u8 = 4;
const PICTURE: u8 = 6;

/// The most blocks. A file with more is corrupt.
const MOST_BLOCKS: usize = 1024;

/// Bytes of a block's header.
const BLOCK_HEADER: u64 = 4;

/// Reads the file, whose first bytes are at `begin`, into `metadata`, and the tags into `found`. On failure, both have what
/// came before the damaged part.
pub(super) fn read<R: Read + Seek>(
    source: &mut Source<R>,
    begin: u64,
    metadata: &mut Metadata,
    found: &mut Found,
) -> io::Result<()> {
    let read = read_blocks(source, begin, metadata, found);
    // Some programs put tags of other kinds around it.
    if begin > 0 {
        id3v2::read(source, 0, found)?;
    }
    let end = end_tags::read(source, found)?;
    let sound = read?;
    if let Some(duration) = metadata.duration {
        metadata.bitrate = bits_per_second(end.saturating_sub(sound), duration);
    }
    Ok(())
}

/// Reads the blocks; returns where the sound begins.
fn read_blocks<R: Read + Seek>(
    source: &mut Source<R>,
    begin: u64,
    metadata: &mut Metadata,
    found: &mut Found,
) -> io::Result<u64> {
    found.within("FLAC");
    each_block(source, begin, |source, number, kind| {
        match kind {
            STREAM_INFO => {
                let info = StreamInfo::read(source)?;
                info.show(metadata);
                metadata.duration = info.duration(info.samples);
            }
            _ if number == 0 => return Err(corrupt("the first block is not about the stream")),
            VORBIS_COMMENT => {
                // Some programs wrote a size that is too small for the comments, which say themselves how long they are.
                let read = comments::read(source, found);
                if read.is_err() {
                    found.problem("Vorbis comments end too early");
                }
                found.within("FLAC");
            }
            PICTURE => found.cover(),
            _ => {}
        }
        Ok(())
    })
}

/// Where the sound begins, of a file whose first bytes are at `begin`.
pub(super) fn sound_begin<R: Read + Seek>(source: &mut Source<R>, begin: u64) -> io::Result<u64> {
    each_block(source, begin, |_, _, _| Ok(()))
}

/// Calls `visit` with the number and the kind of each block, behind its header; returns where the blocks end.
fn each_block<R: Read + Seek>(
    source: &mut Source<R>,
    begin: u64,
    mut visit: impl FnMut(&mut Source<R>, usize, u8) -> io::Result<()>,
) -> io::Result<u64> {
    let mut at = begin + MAGIC.len() as u64;
    for number in 0..MOST_BLOCKS {
        source.seek(SeekFrom::Start(at))?;
        let [kind, size @ ..]: [u8; 4] = source.array()?;
        let size = size.into_iter().fold(0_u64, |size, byte| size << 8 | u64::from(byte));
        visit(source, number, kind & 0x7F)?;
        at += BLOCK_HEADER + size;
        if at > source.length() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if kind & 0x80 != 0 {
            return Ok(at);
        }
    }
    Err(corrupt("it has too many blocks"))
}

/// What a STREAMINFO block says of the sound.
pub(super) struct StreamInfo {
    /// In Hz, never 0.
    sample_rate: u32,
    channels: u32,
    pub(super) bits_per_sample: u32,
    /// Samples per channel. 0 if the encoder did not know.
    pub(super) samples: u64,
}

impl StreamInfo {
    /// Bytes of the block that are read. The checksum of the sound follows.
    const SIZE: usize = 18;

    /// Reads the block from behind its header.
    pub(super) fn read(reader: &mut impl Read) -> io::Result<Self> {
        let mut info = [0; Self::SIZE];
        reader.read_exact(&mut info)?;
        let rate_and_counts = info[10..].first_chunk().map_or(0, |&bytes| u64::from_be_bytes(bytes));
        let sample_rate = u32::try_from(rate_and_counts >> 44).unwrap_or(0);
        if sample_rate == 0 {
            return Err(corrupt("a sample rate of 0"));
        }
        let channels = u32::from(info[12] >> 1 & 7) + 1;
        let bits_per_sample = (u32::from(info[12] & 1) << 4 | u32::from(info[13] >> 4)) + 1;
        Ok(Self { sample_rate, channels, bits_per_sample, samples: rate_and_counts & 0xF_FFFF_FFFF })
    }

    pub(super) fn show(&self, metadata: &mut Metadata) {
        metadata.sample_rate = Some(self.sample_rate);
        metadata.channels = Some(self.channels);
        metadata.bits_per_sample = Some(self.bits_per_sample);
        metadata.codec = Some("flac".to_owned());
    }

    /// The seconds that `samples` take, if there are any.
    pub(super) fn duration(&self, samples: u64) -> Option<f64> {
        (samples > 0).then(|| samples as f64 / f64::from(self.sample_rate))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Field;
    use proptest::prelude::*;
    use std::io::Cursor;

    fn block(kind: u8, content: &[u8]) -> Vec<u8> {
        let size = u32::try_from(content.len()).unwrap().to_be_bytes();
        [&[kind], &size[1..], content].concat()
    }

    fn file() -> Vec<u8> {
        // 44,100 Hz, 2 channels, 16 bits, 88,200 samples.
        let counts = ((44_100_u64 << 44) + (1 << 41) + (15 << 36) + 88_200).to_be_bytes();
        let info = [&[0; 10][..], &counts, &[0; 16]].concat();
        let comment = |text: &str| [&u32::try_from(text.len()).unwrap().to_le_bytes()[..], text.as_bytes()].concat();
        let comments = [comment(""), vec![2, 0, 0, 0], comment("title=T"), comment("tracknumber=3")].concat();
        let blocks = [block(0, &info), block(6, &vec![7; 70_000]), block(0x84, &comments)].concat();
        [MAGIC, &blocks, &[0xFF; 1000]].concat()
    }

    fn parse(bytes: &[u8], begin: u64) -> Metadata {
        let (mut metadata, mut found) = (Metadata::default(), Found::default());
        let _ = read(&mut Source::new(Cursor::new(bytes)).unwrap(), begin, &mut metadata, &mut found);
        found.show(&mut metadata);
        metadata
    }

    #[test]
    fn the_sound_is_what_follows_the_blocks() {
        let found = parse(&file(), 0);
        assert_eq!((found.duration, found.bitrate), (Some(2.0), Some(4000)));
        assert_eq!((found.sample_rate, found.channels), (Some(44_100), Some(2)));
        assert_eq!((found.codec.as_deref(), found.bits_per_sample, found.has_cover), (Some("flac"), Some(16), true));
        assert_eq!((found.tags.get(Field::Title), found.tags.get(Field::Track)), (Some("T"), Some("3")));
    }

    proptest! {
        #[test]
        fn no_mutation_panics(changes in prop::collection::vec((0..120_usize, any::<u8>()), 1..12)) {
            let mut bytes = file();
            for (at, value) in changes {
                bytes[at] = value;
            }
            parse(&bytes, 0);
        }
    }
}
