//! FLAC: the properties from the first block of metadata, the tags from the block of Vorbis comments. The other blocks, such
//! as pictures, are passed over.
//!
//! Format: RFC 9639, section 8.

use std::io::{self, Read, Seek, SeekFrom};

use super::comments;
use super::found::Found;
use super::ogg::corrupt;
use super::source::Source;
use super::values::{bits_per_second, explain};
use crate::model::Metadata;

/// The first bytes.
pub(super) const MAGIC: &[u8] = b"fLaC";
const MAGIC_LENGTH: u64 = MAGIC.len() as u64;

/// The kinds of blocks that are read.
const STREAM_INFO: u8 = 0;
const PICTURE: u8 = 6;
pub(super) const VORBIS_COMMENT: u8 = 4;

/// The most blocks. A file with more is corrupt.
const MOST_BLOCKS: usize = 1024;

/// Bytes of a block's header.
const BLOCK_HEADER: u64 = 4;

/// Reads the file, whose sound ends at `end`, into `metadata`, and the tags into `found`. On failure, both have what came
/// before the damaged part.
pub(super) fn read<R: Read + Seek>(
    source: &mut Source<R>,
    end: u64,
    metadata: &mut Metadata,
    found: &mut Found,
) -> io::Result<()> {
    let mut info = None;
    let read = read_blocks(source, &mut info, found);
    let begin = *read.as_ref().unwrap_or(&MAGIC_LENGTH);
    if let Some(info) = info {
        info.show(metadata);
        metadata.duration = (info.samples > 0).then(|| info.samples as f64 / f64::from(info.sample_rate));
        let bytes = end.saturating_sub(begin);
        metadata.bitrate = metadata.duration.and_then(|duration| bits_per_second(bytes, duration));
    }
    read.map(|_| ())
}

/// Where the sound begins.
pub(super) fn sound_begin<R: Read + Seek>(source: &mut Source<R>) -> io::Result<u64> {
    read_blocks(source, &mut None, &mut Found::default())
}

/// Reads the blocks; returns where the sound begins.
fn read_blocks<R: Read + Seek>(
    source: &mut Source<R>,
    info: &mut Option<StreamInfo>,
    found: &mut Found,
) -> io::Result<u64> {
    let mut at = MAGIC_LENGTH;
    let mut has_comments = false;
    for _ in 0..MOST_BLOCKS {
        source.visit()?;
        source.seek(SeekFrom::Start(at))?;
        let [kind, size @ ..]: [u8; 4] = source.array()?;
        let size = size.into_iter().fold(0_u64, |size, byte| size << 8 | u64::from(byte));
        let mut end = at + BLOCK_HEADER + size;
        // Some programs wrote sizes that are too small for comments and pictures, which say themselves how long they are.
        match kind & 0x7F {
            STREAM_INFO if info.is_none() => *info = Some(StreamInfo::read(source)?),
            // The first block counts.
            VORBIS_COMMENT if !has_comments => {
                has_comments = true;
                match comments::read(source, found) {
                    Ok(()) => end = end.max(source.stream_position()?),
                    Err(error) => found.problem(format!("Vorbis comments: {}", explain(&error))),
                }
            }
            PICTURE => {
                found.within("FLAC");
                found.cover();
                end = end.max(end_of_picture(source)?.filter(|&end| end <= source.length()).unwrap_or(end));
            }
            _ => {}
        }
        if end > source.length() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if kind & 0x80 != 0 {
            return if info.is_some() { Ok(end) } else { Err(corrupt("no block is about the stream")) };
        }
        at = end;
    }
    Err(corrupt("it has too many blocks"))
}

/// Where a picture ends: a kind, two texts with their lengths, four numbers, and the picture with its length.
fn end_of_picture<R: Read + Seek>(source: &mut Source<R>) -> io::Result<Option<u64>> {
    let mut at = source.stream_position()? + 4;
    for between in [0, 0, 16] {
        let mut length = [0; 4];
        let Ok(&mut length) = <&mut [u8; 4]>::try_from(source.read_at(at + between, &mut length)?) else {
            return Ok(None);
        };
        at += between + 4 + u64::from(u32::from_be_bytes(length));
    }
    Ok(Some(at))
}

/// What a STREAMINFO block says of the sound.
pub(super) struct StreamInfo {
    /// In Hz, never 0.
    pub(super) sample_rate: u32,
    pub(super) channels: u32,
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

    fn show(&self, metadata: &mut Metadata) {
        metadata.sample_rate = Some(self.sample_rate);
        metadata.channels = Some(self.channels);
        metadata.bits_per_sample = Some(self.bits_per_sample);
        metadata.codec = Some("flac".to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::testing::read_by;
    use crate::model::Field;
    use proptest::prelude::*;

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

    fn parse(bytes: &[u8]) -> Metadata {
        read_by(bytes, |source, metadata, found| read(source, bytes.len() as u64, metadata, found))
    }

    #[test]
    fn the_sound_is_what_follows_the_blocks() {
        let found = parse(&file());
        assert_eq!((found.duration, found.bitrate), (Some(2.0), Some(4000)));
        assert_eq!((found.sample_rate, found.channels), (Some(44_100), Some(2)));
        assert_eq!((found.codec.as_deref(), found.bits_per_sample, found.has_cover), (Some("flac"), Some(16), true));
        assert_eq!((found.tags.get(Field::Title), found.tags.get(Field::Track)), (Some("T"), Some("3")));
    }

    #[test]
    fn the_first_block_of_comments_counts_wherever_the_block_about_the_stream_is() {
        let comment = |text: &str| [&u32::try_from(text.len()).unwrap().to_le_bytes()[..], text.as_bytes()].concat();
        let comments = |text: &str| [comment(""), vec![1, 0, 0, 0], comment(text)].concat();
        let info = |samples: u64| {
            let counts = ((44_100_u64 << 44) + (1 << 41) + (15 << 36) + samples).to_be_bytes();
            [&[16, 0, 16, 0, 0, 0, 0, 0, 0, 0][..], &counts, &[0; 16]].concat()
        };
        let blocks = [block(4, &comments("title=T")), block(0, &info(44_100)), block(0x84, &comments("artist=A"))];
        let found = parse(&[MAGIC, &blocks.concat(), &[0xFF; 1000]].concat());
        let tags = found.tags;
        assert_eq!((found.duration, tags.get(Field::Title), tags.get(Field::Artist)), (Some(1.0), Some("T"), None));
        assert!(parse(&[MAGIC, &block(0x84, &comments("title=T"))].concat()).error.is_some());
    }

    #[test]
    fn blocks_whose_sizes_are_too_small_end_where_their_content_does() {
        let comment = |text: &str| [&u32::try_from(text.len()).unwrap().to_le_bytes()[..], text.as_bytes()].concat();
        let comments = [comment(""), vec![1, 0, 0, 0], comment("title=T")].concat();
        let number = |number: u32| number.to_be_bytes();
        let texts = [&number(3)[..], &number(2), b"im", &number(1), b"d", &[0; 16], &number(5000)].concat();
        let picture = [texts, vec![7; 5000]].concat();
        let mut blocks = [block(0, &file()[8..42]), block(6, &picture), block(0x84, &comments)].concat();
        blocks[38..42].copy_from_slice(&[6, 0, 0, 99]);
        let found = parse(&[MAGIC, &blocks, &[0xFF; 1000]].concat());
        assert_eq!((found.tags.get(Field::Title), found.bitrate, found.error), (Some("T"), Some(4000), None));
    }

    proptest! {
        #[test]
        fn no_mutation_panics(changes in prop::collection::vec((0..120_usize, any::<u8>()), 1..12)) {
            let mut bytes = file();
            for (at, value) in changes {
                bytes[at] = value;
            }
            parse(&bytes);
        }
    }
}
