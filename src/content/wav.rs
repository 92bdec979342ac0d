//! The properties of the audio in a WAV file.
//!
//! lofty rejects files whose header announces more audio than they contain, such as those that were
//! written to a pipe, and its figures are wrong for compressed codecs. Here the audio that is there
//! counts.
//!
//! Format: Multimedia Programming Interface and Data Specifications 1.0 (IBM, Microsoft), chapter 3.

use std::io::{self, Read, Seek, SeekFrom};

use super::source::Source;
use crate::model::Metadata;

/// The most chunks in a file. A file with more is corrupt.
const MAX_CHUNKS: usize = 4096;

/// Reads the properties into `metadata`, if there is a format chunk before the audio.
pub(super) fn read<R: Read + Seek>(source: &mut Source<R>, metadata: &mut Metadata) -> io::Result<()> {
    // "RIFF", a size and "WAVE".
    let mut at = 12;
    let (mut channels, mut sample_rate, mut bytes_per_second) = (0_u16, 0_u32, 0_u32);
    for _ in 0..MAX_CHUNKS {
        source.seek(SeekFrom::Start(at))?;
        let kind: [u8; 4] = source.array()?;
        let size = u64::from(u32::from_le_bytes(source.array()?));
        let content = at + 8;
        match &kind {
            b"fmt " => {
                let _codec: [u8; 2] = source.array()?;
                channels = u16::from_le_bytes(source.array()?);
                sample_rate = u32::from_le_bytes(source.array()?);
                bytes_per_second = u32::from_le_bytes(source.array()?);
            }
            b"data" if bytes_per_second > 0 => {
                let bytes = size.min(source.length().saturating_sub(content));
                metadata.duration = (bytes > 0).then(|| bytes as f64 / f64::from(bytes_per_second));
                metadata.bitrate = bytes_per_second.checked_mul(8);
                metadata.channels = (channels > 0).then_some(channels.into());
                metadata.sample_rate = (sample_rate > 0).then_some(sample_rate);
                return Ok(());
            }
            _ => {}
        }
        // Chunks begin at even positions.
        at = content + size.next_multiple_of(2);
    }
    Ok(())
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
    fn only_the_audio_that_is_there_counts() {
        let metadata = parse(&file());
        assert_eq!((metadata.duration, metadata.bitrate), (Some(0.5), Some(256_000)));
        assert_eq!((metadata.sample_rate, metadata.channels), (Some(8000), Some(2)));
    }

    #[test]
    fn a_file_that_is_truncated_anywhere_does_no_harm() {
        let bytes = file();
        assert!((0..=56).all(|length| parse(&bytes[..length]).duration.is_none()));
    }
}
