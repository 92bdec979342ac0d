//! The playing time of Vorbis, Opus and Speex in Ogg, from the last page that has a position.
//!
//! Formats: Ogg, RFC 3533, section 6; Vorbis I, section A.2; Opus in Ogg, RFC 7845, sections 4 and 5.1; the header of
//! Speex, manual of Speex, section 7.1.

use std::io::{self, Read, Seek};

use super::oggflac::{PAGE_HEADER, last_granule_position};
use super::source::Source;

/// Samples per second in the positions of Opus, whatever the input had.
const OPUS_RATE: u32 = 48_000;

/// Bytes of the first page that are read: its header, one entry in the table of segments, and the header of the stream.
const FIRST_PAGE: usize = PAGE_HEADER + 1 + 80;

/// The playing time in seconds of the first stream; `None` if no page has a position, or the stream is of another kind.
///
/// # Errors
///
/// If the file cannot be read.
pub(super) fn duration<R: Read + Seek>(source: &mut Source<R>) -> io::Result<Option<f64>> {
    let mut page = [0; FIRST_PAGE];
    let page = source.read_at(0, &mut page)?;
    let Some(clock) = Clock::of(page) else { return Ok(None) };
    let samples = last_granule_position(source, clock.serial)?.saturating_sub(clock.skipped);
    Ok((samples > 0).then(|| samples as f64 / f64::from(clock.rate)))
}

/// How the positions of a stream count.
struct Clock {
    serial: u32,
    rate: u32,
    /// Samples at the beginning that are not played.
    skipped: u64,
}

impl Clock {
    fn of(page: &[u8]) -> Option<Self> {
        let serial = u32::from_le_bytes(*page.get(14..)?.first_chunk()?);
        let packet = page.get(PAGE_HEADER + usize::from(*page.get(PAGE_HEADER - 1)?)..)?;
        let number = |at: usize| Some(u32::from_le_bytes(*packet.get(at..)?.first_chunk()?));
        let (rate, skipped) = if packet.starts_with(b"\x01vorbis") {
            (number(12)?, 0)
        } else if packet.starts_with(b"OpusHead") {
            (OPUS_RATE, u64::from(u16::from_le_bytes(*packet.get(10..)?.first_chunk()?)))
        } else if packet.starts_with(b"Speex   ") {
            (number(36)?, 0)
        } else {
            return None;
        };
        (page.starts_with(b"OggS") && rate > 0).then_some(Self { serial, rate, skipped })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    fn page(serial: u32, position: u64, packet: &[u8]) -> Vec<u8> {
        let length = u8::try_from(packet.len()).unwrap();
        let head = [&b"OggS\0\0"[..], &position.to_le_bytes(), &serial.to_le_bytes(), &[0; 8], &[1, length]].concat();
        [&head, packet].concat()
    }

    fn seconds(pages: &[Vec<u8>]) -> Option<f64> {
        duration(&mut Source::new(Cursor::new(pages.concat())).unwrap()).unwrap()
    }

    #[test]
    fn the_last_page_with_a_position_of_the_first_stream_counts() {
        let vorbis = [&b"\x01vorbis\0\0\0\0\x02"[..], &44_100_u32.to_le_bytes(), &[0; 14]].concat();
        let opus = [&b"OpusHead\x01\x02"[..], &312_u16.to_le_bytes(), &44_100_u32.to_le_bytes(), &[0; 3]].concat();
        let last = |serial, position| page(serial, position, b"sound");
        let first = page(7, 0, &vorbis);
        assert_eq!(seconds(&[first.clone(), last(7, 44_100), last(7, u64::MAX)]), Some(1.0));
        assert_eq!(seconds(&[first.clone(), last(7, 88_200), last(8, 99_999_999)]), Some(2.0));
        assert_eq!(seconds(&[page(7, 0, &opus), last(7, 48_312)]), Some(1.0));
        assert_eq!(seconds(&[first, last(7, u64::MAX)]), None);
        assert_eq!(seconds(&[page(7, 0, b"fishead"), last(7, 5)]), None);
    }
}
