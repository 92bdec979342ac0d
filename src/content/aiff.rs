//! AIFF and AIFF-C: the codec, and each tag apart from the others. lofty reads the other properties.
//!
//! Formats: Audio Interchange File Format 1.3, and its extension AIFF-C (draft of 1991).

use std::io::{self, Read, Seek, SeekFrom};

use super::found::{Field, Found};
use super::source::Source;
use super::values::tidy;
use super::{codecs, id3v2, text};
use crate::model::Metadata;

/// The most chunks in a file. A file with more is corrupt.
const MAX_CHUNKS: usize = 4096;

/// The position of the first chunk: behind "FORM", a size and the kind of the file.
const FIRST_CHUNK: u64 = 12;

/// Bytes of a text that are decoded.
const LONGEST_TEXT: u64 = Metadata::LONGEST_TEXT as u64 + 1024;

/// Reads the codec into `metadata` and the tags into `found`: ID3v2 first, then the chunks that are texts.
///
/// # Errors
///
/// If the file ends in a chunk.
pub(super) fn read<R: Read + Seek>(
    source: &mut Source<R>,
    metadata: &mut Metadata,
    found: &mut Found,
) -> io::Result<()> {
    let mut texts = Vec::new();
    let mut at = FIRST_CHUNK;
    for _ in 0..MAX_CHUNKS {
        if source.length().saturating_sub(at) < 8 {
            break;
        }
        source.seek(SeekFrom::Start(at))?;
        let kind: [u8; 4] = source.array()?;
        let size = u64::from(u32::from_be_bytes(source.array()?));
        let content = at + 8;
        match &kind {
            b"COMM" => read_codec(source, size, metadata)?,
            b"ID3 " | b"id3 " => id3v2::read_chunk(source, content, found)?,
            b"NAME" => texts.push((Field::Title, content, size)),
            b"AUTH" => texts.push((Field::Artist, content, size)),
            b"ANNO" => texts.push((Field::Comment, content, size)),
            _ => {}
        }
        // Chunks begin at even positions.
        at = content + size.next_multiple_of(2);
    }
    found.within("AIFF");
    for (field, content, size) in texts {
        source.seek(SeekFrom::Start(content))?;
        let mut bytes = Vec::new();
        source.by_ref().take(size.min(LONGEST_TEXT)).read_to_end(&mut bytes)?;
        found.set(field, tidy(&text::utf8_or_windows(&bytes)));
    }
    Ok(())
}

/// The chunk COMM: channels, frames, bits per sample, and the rate as a number of 80 bits; in AIFF-C, the compression.
fn read_codec<R: Read + Seek>(source: &mut Source<R>, size: u64, metadata: &mut Metadata) -> io::Result<()> {
    let _channels_and_frames: [u8; 6] = source.array()?;
    let bits = u16::from_be_bytes(source.array()?);
    let _rate: [u8; 10] = source.array()?;
    let compression = if size >= 22 { Some(source.array()?) } else { None };
    metadata.codec = codecs::of_aiff(compression, bits).map(ToOwned::to_owned);
    metadata.bits_per_sample = codecs::bits_of(metadata.codec.as_deref(), bits.into());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Cursor;

    fn chunk(kind: &[u8], content: &[u8]) -> Vec<u8> {
        let mut chunk = [kind, &u32::try_from(content.len()).unwrap().to_be_bytes(), content].concat();
        chunk.resize(chunk.len().next_multiple_of(2), 0);
        chunk
    }

    fn file(compression: &[u8]) -> Vec<u8> {
        let common = [&[0, 2, 0, 0, 0, 9, 0, 24], &[0; 10][..], compression].concat();
        let tag = b"ID3\x03\0\0\0\0\0\x10TIT2\0\0\0\x06\0\0\0Title";
        let chunks =
            [chunk(b"NAME", b"Name"), chunk(b"AUTH", b"Bj\xf6rk"), chunk(b"COMM", &common), chunk(b"ID3 ", tag)];
        [b"FORM\0\0\0\0AIFC", &chunks.concat()[..]].concat()
    }

    fn parse(bytes: &[u8]) -> Metadata {
        let (mut metadata, mut found) = (Metadata::default(), Found::default());
        let _ = read(&mut Source::new(Cursor::new(bytes)).unwrap(), &mut metadata, &mut found);
        found.show(&mut metadata);
        metadata
    }

    #[test]
    fn the_codec_and_every_kind_of_tag_are_read() {
        let metadata = parse(&file(b"sowt"));
        assert_eq!((metadata.codec.as_deref(), metadata.bits_per_sample), (Some("pcm_s24le"), Some(24)));
        assert_eq!(metadata.tags.present().collect::<Vec<_>>(), [("title", "Title"), ("artist", "Björk")]);
        assert_eq!(parse(&file(b"")).codec.as_deref(), Some("pcm_s24be"));
    }

    proptest! {
        #[test]
        fn no_mutation_panics(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12)) {
            let mut bytes = file(b"sowt");
            for (at, value) in changes {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
            parse(&bytes);
        }
    }
}
