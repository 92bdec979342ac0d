//! The properties of the audio in a WAV file, and the tags in its list of information.
//!
//! lofty rejects files whose header announces more audio than they contain, such as those that were
//! written to a pipe, and its figures are wrong for compressed codecs. Here the audio that is there
//! counts. lofty takes the texts of the list for UTF-8, and many are in the code page of Windows.
//!
//! Format: Multimedia Programming Interface and Data Specifications 1.0 (IBM, Microsoft), chapters 2 and 3.

use std::io::{self, Read, Seek, SeekFrom};

use super::found::{Field, Found};
use super::source::Source;
use super::values::tidy;
use super::{codecs, id3v2, text};
use crate::model::Metadata;

/// The most chunks in a file, or in a list. A file with more is corrupt.
pub(super) const MAX_CHUNKS: usize = 4096;

/// The position of the first chunk: behind "RIFF", a size and "WAVE".
pub(super) const FIRST_CHUNK: u64 = 12;

/// Bytes of a text that are decoded.
const LONGEST_TEXT: u64 = Metadata::LONGEST_TEXT as u64 + 1024;

/// Reads the tags into `found`: those of ID3v2, then the lists of information.
///
/// # Errors
///
/// If the file ends in a chunk, which files that were not finished do.
pub(super) fn read_tags<R: Read + Seek>(source: &mut Source<R>, found: &mut Found) -> io::Result<()> {
    let mut lists = Vec::new();
    let mut at = FIRST_CHUNK;
    for _ in 0..MAX_CHUNKS {
        let Some(chunk) = Chunk::at(source, at, source.length())? else { break };
        match &chunk.kind {
            b"LIST" if source.array()? == *b"INFO" => lists.push((chunk.content + 4, chunk.end)),
            b"id3 " | b"ID3 " => id3v2::read_chunk(source, chunk.content, found)?,
            _ => {}
        }
        at = chunk.next;
    }
    found.within("LIST INFO");
    for (begin, end) in lists {
        read_list(source, begin, end, found)?;
    }
    Ok(())
}

fn read_list<R: Read + Seek>(source: &mut Source<R>, begin: u64, end: u64, found: &mut Found) -> io::Result<()> {
    let mut at = begin;
    for _ in 0..MAX_CHUNKS {
        let Some(chunk) = Chunk::at(source, at, end)? else { break };
        let field = match &chunk.kind {
            b"INAM" => Some(Field::Title),
            b"IART" => Some(Field::Artist),
            b"IPRD" => Some(Field::Album),
            b"ICRD" => Some(Field::Date),
            b"IGNR" => Some(Field::Genre),
            b"ITRK" | b"IPRT" => Some(Field::Track),
            b"IMUS" => Some(Field::Composer),
            b"ICMT" => Some(Field::Comment),
            b"IBPM" => Some(Field::Bpm),
            _ => None,
        };
        if field.is_none() {
            found.unread(|| text::latin1(&chunk.kind));
        }
        if let Some(field) = field.filter(|field| found.wants(*field)) {
            let mut text = Vec::new();
            source.by_ref().take((chunk.end - chunk.content).min(LONGEST_TEXT)).read_to_end(&mut text)?;
            let end = text.iter().position(|&byte| byte == 0).unwrap_or(text.len());
            found.set(field, tidy(&text::utf8_or_windows(&text[..end])));
        }
        at = chunk.next;
    }
    Ok(())
}

/// A chunk of a RIFF file.
pub(super) struct Chunk {
    pub(super) kind: [u8; 4],
    pub(super) content: u64,
    pub(super) end: u64,
    /// Chunks begin at even positions.
    pub(super) next: u64,
}

impl Chunk {
    /// The chunk at this position, and goes to its content; `None` behind the last one.
    pub(super) fn at<R: Read + Seek>(source: &mut Source<R>, at: u64, end: u64) -> io::Result<Option<Self>> {
        if at + 8 > end {
            return Ok(None);
        }
        source.seek(SeekFrom::Start(at))?;
        let kind = source.array()?;
        let size = u64::from(u32::from_le_bytes(source.array()?));
        let content = at + 8;
        Ok(Some(Self { kind, content, end: (content + size).min(end), next: content + size.next_multiple_of(2) }))
    }
}

/// Reads the properties into `metadata`, if there is a format chunk before the audio.
pub(super) fn read<R: Read + Seek>(source: &mut Source<R>, metadata: &mut Metadata) -> io::Result<()> {
    let mut at = FIRST_CHUNK;
    let mut format = None;
    for _ in 0..MAX_CHUNKS {
        let Some(chunk) = Chunk::at(source, at, source.length())? else { break };
        match (&chunk.kind, &format) {
            (b"fmt ", _) => format = Some(Format::read(source, &chunk)?),
            (b"data", Some(format)) if format.bytes_per_second > 0 => {
                let bytes = chunk.end - chunk.content;
                metadata.duration = (bytes > 0).then(|| bytes as f64 / f64::from(format.bytes_per_second));
                format.show(metadata);
                return Ok(());
            }
            _ => {}
        }
        at = chunk.next;
    }
    Ok(())
}

/// The chunk `fmt `, which is a WAVEFORMATEX.
struct Format {
    codec: u16,
    channels: u16,
    sample_rate: u32,
    bytes_per_second: u32,
    bits: u16,
}

impl Format {
    fn read<R: Read + Seek>(source: &mut Source<R>, chunk: &Chunk) -> io::Result<Self> {
        let mut format = Self {
            codec: u16::from_le_bytes(source.array()?),
            channels: u16::from_le_bytes(source.array()?),
            sample_rate: u32::from_le_bytes(source.array()?),
            bytes_per_second: u32::from_le_bytes(source.array()?),
            bits: 0,
        };
        let _block: [u8; 2] = source.array()?;
        format.bits = u16::from_le_bytes(source.array()?);
        if format.codec == codecs::EXTENSIBLE && chunk.end - chunk.content >= 26 {
            // The size of the extension, the valid bits and the places of the channels.
            let _before: [u8; 8] = source.array()?;
            format.codec = u16::from_le_bytes(source.array()?);
        }
        Ok(format)
    }

    fn show(&self, metadata: &mut Metadata) {
        metadata.bitrate = self.bytes_per_second.checked_mul(8);
        metadata.channels = (self.channels > 0).then_some(self.channels.into());
        metadata.sample_rate = (self.sample_rate > 0).then_some(self.sample_rate);
        let codec = codecs::of_wave(self.codec, self.bits);
        metadata.codec = codec.map(ToOwned::to_owned);
        metadata.bits_per_sample = codecs::bits_of(codec, self.bits.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    fn file() -> Vec<u8> {
        let mut file = b"RIFF\xFF\xFF\xFF\xFFWAVELIST\x03\0\0\0abc\0fmt \x10\0\0\0\x01\0\x02\0".to_vec();
        file.extend(8000_u32.to_le_bytes());
        file.extend(32_000_u32.to_le_bytes());
        file.extend([4, 0, 16, 0]);
        file.extend(b"data\xFF\xFF\xFF\xFF");
        file.resize(file.len() + 16_000, 0);
        file
    }

    fn parse(bytes: &[u8]) -> Metadata {
        let mut metadata = Metadata::default();
        read(&mut Source::new(Cursor::new(bytes)).unwrap(), &mut metadata).ok();
        metadata
    }

    #[test]
    fn the_list_of_information_is_in_utf8_or_in_the_code_page_of_windows() {
        let item = |kind: &[u8], text: &[u8]| {
            let mut item = [kind, &u32::try_from(text.len()).unwrap().to_le_bytes(), text].concat();
            item.resize(item.len().next_multiple_of(2), 0);
            item
        };
        let items = [
            item(b"INAM", b"Gr\xf6\xdfe\0"),
            item(b"IART", "Björk".as_bytes()),
            item(b"ITRK", b"3"),
            item(b"ICMT", b"Well"),
        ]
        .concat();
        let list = item(b"LIST", &[b"INFO".to_vec(), items].concat());
        let bytes = [b"RIFF\xFF\xFF\xFF\xFFWAVE".to_vec(), item(b"junk", b"x"), list].concat();
        let mut found = Found::default();
        read_tags(&mut Source::new(Cursor::new(bytes)).unwrap(), &mut found).unwrap();
        let mut metadata = Metadata::default();
        found.show(&mut metadata);
        let Metadata { tags, error: problems, .. } = metadata;
        let tags: Vec<_> = tags.present().map(|(_, text)| text.to_owned()).collect();
        assert_eq!((tags, problems), (["Größe", "Björk", "3", "Well"].map(ToOwned::to_owned).to_vec(), None));
    }

    #[test]
    fn only_the_audio_that_is_there_counts() {
        let metadata = parse(&file());
        assert_eq!((metadata.duration, metadata.bitrate), (Some(0.5), Some(256_000)));
        assert_eq!((metadata.sample_rate, metadata.channels), (Some(8000), Some(2)));
        assert_eq!((metadata.codec.as_deref(), metadata.bits_per_sample), (Some("pcm_s16le"), Some(16)));
    }

    #[test]
    fn the_extension_of_the_format_says_the_codec() {
        let mut bytes = b"RIFF\xFF\xFF\xFF\xFFWAVEfmt \x28\0\0\0\xFE\xFF\x02\0".to_vec();
        bytes.extend([48_000_u32.to_le_bytes(), 384_000_u32.to_le_bytes()].concat());
        bytes.extend([8, 0, 32, 0, 22, 0, 32, 0, 3, 0, 0, 0, 3, 0]);
        bytes.extend([0; 14]);
        bytes.extend(b"data\x02\0\0\0xx");
        assert_eq!(parse(&bytes).codec.as_deref(), Some("pcm_f32le"));
    }

    #[test]
    fn a_file_that_is_truncated_anywhere_does_no_harm() {
        let bytes = file();
        assert!((0..=56).all(|length| parse(&bytes[..length]).duration.is_none()));
    }
}
