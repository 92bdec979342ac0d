//! AIFF: the properties of the sound, and the tags in the chunk of ID3v2 and in chunks of text.
//!
//! Formats: Audio Interchange File Format 1.3, sections "Common chunk" and "Text chunks", and its extension AIFF-C (draft
//! of 1991).

use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;

use super::chunks::{Chunk, Chunks, Order};
use super::found::{Field, Found};
use super::source::Source;
use super::values::tidy;
use super::{codecs, id3v2, text};
use crate::model::Metadata;

/// The position of the first chunk: behind "FORM", a size and "AIFF".
const FIRST_CHUNK: u64 = 12;

/// Bytes of the chunk of the sound before its samples: an offset and the size of a block.
const BEFORE_SAMPLES: u64 = 8;

/// Whether `head` is the beginning of an AIFF file.
pub(super) fn begins(head: &[u8]) -> bool {
    head.starts_with(b"FORM") && matches!(head.get(8..12), Some(b"AIFF" | b"AIFC"))
}

/// Reads the properties into `metadata`, and the tags into `found`: ID3v2 first, then the chunks that are texts. On failure,
/// both have what could be read.
pub(super) fn read<R: Read + Seek>(
    source: &mut Source<R>,
    metadata: &mut Metadata,
    found: &mut Found,
) -> io::Result<()> {
    let mut has_sound = false;
    let mut texts = Vec::new();
    let mut chunks = chunks();
    while let Some(chunk) = chunks.next(source)? {
        match &chunk.kind {
            b"COMM" if chunk.size >= 18 && !has_sound => {
                Common::read(source, &chunk)?.show(metadata);
                has_sound = true;
            }
            b"ID3 " | b"id3 " => id3v2::read_chunk(source, chunk.content, found)?,
            b"NAME" => texts.push((Field::Title, chunk)),
            b"AUTH" => texts.push((Field::Artist, chunk)),
            b"ANNO" => texts.push((Field::Comment, chunk)),
            _ => {}
        }
    }
    found.within("AIFF");
    for (field, chunk) in texts {
        if found.wants(field) {
            source.seek(SeekFrom::Start(chunk.content))?;
            let text = source.text(chunk.end - chunk.content)?;
            found.set(field, tidy(&text::utf8_or_windows(&text)));
        }
    }
    if has_sound { Ok(()) } else { Err(io::Error::other("it has no common chunk")) }
}

/// Where the samples are: in the first chunk `SSND`; `None` if there is none.
pub(super) fn sound<R: Read + Seek>(source: &mut Source<R>) -> io::Result<Option<Range<u64>>> {
    let mut chunks = chunks();
    while let Some(chunk) = chunks.next(source)? {
        if &chunk.kind == b"SSND" {
            return Ok(Some(chunk.content + BEFORE_SAMPLES..chunk.end));
        }
    }
    Ok(None)
}

fn chunks() -> Chunks {
    Chunks::new(Order::BigEndian, FIRST_CHUNK)
}

/// The chunk COMM.
struct Common {
    channels: u32,
    /// Of each channel.
    samples: u32,
    bits: u16,
    /// A float of 80 bits.
    rate: [u8; 10],
    /// Of AIFF-C.
    compression: Option<[u8; 4]>,
}

impl Common {
    fn read<R: Read + Seek>(source: &mut Source<R>, chunk: &Chunk) -> io::Result<Self> {
        Ok(Self {
            channels: u16::from_be_bytes(source.array()?).into(),
            samples: u32::from_be_bytes(source.array()?),
            bits: u16::from_be_bytes(source.array()?),
            rate: source.array()?,
            compression: if chunk.size >= 22 { Some(source.array()?) } else { None },
        })
    }

    fn show(&self, metadata: &mut Metadata) {
        let &Self { channels, samples, bits, rate, compression } = self;
        let rate = whole_of_float(rate);
        metadata.channels = (channels > 0).then_some(channels);
        metadata.sample_rate = rate;
        metadata.duration = rate.filter(|_| samples > 0).map(|rate| f64::from(samples) / f64::from(rate));
        let bitrate = rate.and_then(|rate| rate.checked_mul(channels)?.checked_mul(bits.into()));
        metadata.bitrate = bitrate.filter(|&bits| bits > 0);
        metadata.codec = codecs::of_aiff(compression, bits).map(ToOwned::to_owned);
        metadata.bits_per_sample = codecs::bits_of(metadata.codec.as_deref(), bits.into());
    }
}

/// The whole part of a float of 80 bits, if it is a number from 1 on that fits.
fn whole_of_float(bytes: [u8; 10]) -> Option<u32> {
    let [e0, e1, mantissa @ ..] = bytes;
    let exponent = u32::from(u16::from_be_bytes([e0, e1])).checked_sub(0x3FFF).filter(|&exponent| exponent < 32)?;
    u32::try_from(u64::from_be_bytes(mantissa) >> (63 - exponent)).ok().filter(|&whole| whole > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::testing::read_by;

    fn parse(chunks: &[(&[u8], &[u8])]) -> Metadata {
        let chunks = chunks.iter().flat_map(|(kind, content)| {
            [kind, &u32::try_from(content.len()).unwrap().to_be_bytes()[..], content].concat()
        });
        let file = b"FORM\0\0\0\0AIFF".iter().copied().chain(chunks).collect::<Vec<u8>>();
        assert!(begins(&file));
        read_by(&file, read)
    }

    #[test]
    fn the_tag_of_id3v2_comes_before_the_texts() {
        let tag = b"ID3\x03\0\0\0\0\0\x0cTIT2\0\0\0\x02\0\0\0T";
        let found = parse(&[(b"NAME", b"Name"), (b"AUTH", b"Bj\xf6rk\0"), (b"ID3 ", tag)]);
        assert_eq!(found.tags.present().collect::<Vec<_>>(), [("title", "T"), ("artist", "Björk")]);
        assert_eq!(found.error.as_deref(), Some("it has no common chunk"));
    }

    #[test]
    fn the_common_chunk_has_the_properties() {
        // Stereo, 22,050 samples of 16 bits, 44,100 Hz.
        let common = [0, 2, 0, 0, 0x56, 0x22, 0, 16, 0x40, 0x0E, 0xAC, 0x44, 0, 0, 0, 0, 0, 0];
        let found = parse(&[(b"COMM", &common), (b"SSND", &[0; 8])]);
        assert_eq!((found.duration, found.bitrate), (Some(0.5), Some(1_411_200)));
        assert_eq!((found.sample_rate, found.channels, found.error), (Some(44_100), Some(2), None));
        assert_eq!((found.codec.as_deref(), found.bits_per_sample), (Some("pcm_s16be"), Some(16)));
        let compressed = [&common[..], b"sowt"].concat();
        assert_eq!(parse(&[(b"COMM", &compressed)]).codec.as_deref(), Some("pcm_s16le"));
        assert_eq!(whole_of_float([0xFF; 10]), None);
        assert_eq!(whole_of_float([0; 10]), None);
    }
}
