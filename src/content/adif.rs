//! AAC with one header for the whole file (ADIF).
//!
//! Format: ISO/IEC 13818-7, section 6.2 (`adif_header`, `program_config_element`).

use std::io::{self, Read, Seek};

use super::aac::{Bits, Program};
use super::source::Source;
use crate::model::Metadata;

/// The first bytes.
pub(super) const MAGIC: &[u8] = b"ADIF";

/// Bytes of the header that are read: the longest one, with sixteen descriptions of programs, is not much longer.
const HEADER: usize = 1024;

/// Reads the header into `metadata`. The sound ends at `end`.
pub(super) fn read<R: Read + Seek>(source: &mut Source<R>, end: u64, metadata: &mut Metadata) -> io::Result<()> {
    let mut header = [0; HEADER];
    let header = source.read_at(MAGIC.len() as u64, &mut header)?;
    let Some(sound) = Sound::of(Bits::new(header)) else { return Err(io::ErrorKind::UnexpectedEof.into()) };
    metadata.codec = Some("aac".to_owned());
    metadata.sample_rate = sound.sample_rate;
    metadata.channels = (sound.channels > 0).then_some(sound.channels);
    metadata.bitrate = (sound.bitrate > 0).then_some(sound.bitrate);
    let bytes = end.saturating_sub(MAGIC.len() as u64 + sound.header);
    metadata.duration = metadata.bitrate.map(|bitrate| bytes as f64 * 8.0 / f64::from(bitrate));
    Ok(())
}

struct Sound {
    sample_rate: Option<u32>,
    channels: u32,
    /// The bit rate, or the highest one.
    bitrate: u32,
    /// Bytes of the header behind the magic number.
    header: u64,
}

impl Sound {
    fn of(mut bits: Bits<'_>) -> Option<Self> {
        if bits.take(1)? == 1 {
            bits.skip(72)?;
        }
        // Whether it is the original, and whether it is home-made.
        bits.skip(2)?;
        let is_variable = bits.take(1)? == 1;
        let bitrate = bits.take(23)?;
        let more_programs = bits.take(4)?;
        let mut first = None;
        for _ in 0..=more_programs {
            if !is_variable {
                // How full the buffer is.
                bits.skip(20)?;
            }
            let program = Program::of(&mut bits)?;
            first.get_or_insert(program);
        }
        let Program { sample_rate, channels } = first?;
        Some(Self { sample_rate, channels, bitrate, header: bits.bytes_taken() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    /// The header of a stereo stream of 64 kbit/s at 44,100 Hz.
    fn header() -> Vec<u8> {
        let fields = [
            (0, 1),
            (0, 2),
            (1, 1),
            (64_000, 23),
            (0, 4), // header
            (0, 4),
            (1, 2),
            (4, 4),
            (1, 4),
            (0, 4),
            (0, 4),
            (0, 2),
            (0, 3),
            (0, 4),
            (0, 3), // program
            (1, 1),
            (0, 4), // one pair of speakers
        ];
        let mut bits: Vec<u8> = Vec::new();
        for (value, width) in fields {
            bits.extend(format!("{value:0width$b}").into_bytes());
        }
        bits.resize(bits.len().next_multiple_of(8) + 8, b'0');
        let byte = |bits: &[u8]| bits.iter().fold(0, |byte, bit| byte << 1 | (bit - b'0'));
        MAGIC.iter().copied().chain(bits.chunks(8).map(byte)).collect()
    }

    #[test]
    fn the_header_is_read() {
        let mut bytes = header();
        bytes.resize(bytes.len() + 16_000, 0x21);
        let mut metadata = Metadata::default();
        let end = bytes.len() as u64;
        read(&mut Source::new(Cursor::new(bytes)).unwrap(), end, &mut metadata).unwrap();
        assert_eq!((metadata.duration, metadata.bitrate), (Some(2.0), Some(64_000)));
        assert_eq!((metadata.sample_rate, metadata.channels), (Some(44_100), Some(2)));
    }

    #[test]
    fn a_header_that_is_cut_is_an_error() {
        let bytes = header();
        for length in 0..bytes.len() {
            let mut metadata = Metadata::default();
            let read = read(&mut Source::new(Cursor::new(&bytes[..length])).unwrap(), length as u64, &mut metadata);
            assert!(read.is_err(), "{length}");
        }
    }
}
