//! Vorbis, Opus and Speex in Ogg: the properties from the first packet of a stream, the tags from the second, the playing
//! time from the last page that has a position.
//!
//! Formats: Ogg, RFC 3533, section 6; Vorbis I, sections 4.2 and A.2; Opus in Ogg, RFC 7845, sections 4 and 5; the header
//! of Speex, manual of Speex, section 7.1.

use std::io::{self, Read, Seek, SeekFrom};

use super::comments;
use super::found::Found;
use super::source::Source;
use super::values::bits_per_second;
use crate::model::Metadata;

/// Bytes of a page's header, without its table of segments.
pub(super) const PAGE_HEADER: usize = 27;

/// Bytes at the end of the file in which the last page is looked for: one page at most.
const TAIL: usize = 64 * 1024;

/// Bytes of the header of Speex, the longest of the three.
const LONGEST_HEADER: usize = 80;

/// Samples per second in the positions of Opus, whatever the input had.
const OPUS_RATE: u32 = 48_000;

/// What the first packet of a stream says.
struct Stream {
    format: &'static str,
    codec: &'static str,
    sample_rate: u32,
    channels: u32,
    /// Samples per second in the positions of pages.
    clock: u32,
    /// Samples at the beginning that are not played.
    skipped: u64,
    /// Bits per second that the encoder aimed at.
    nominal: Option<u32>,
    /// The bytes in front of the comments.
    comments: &'static [u8],
}

impl Stream {
    fn of(packet: &[u8]) -> Option<Self> {
        let number = |at: usize| Some(u32::from_le_bytes(*packet.get(at..)?.first_chunk()?));
        let byte = |at: usize| packet.get(at).copied().map(u32::from);
        let stream = if packet.starts_with(b"\x01vorbis") {
            let (most, nominal, least) = (number(16)?, number(20)?, number(24)?);
            Self {
                format: "audio/vorbis",
                codec: "vorbis",
                sample_rate: number(12)?,
                channels: byte(11)?,
                clock: number(12)?,
                skipped: 0,
                nominal: nominal_of(most, nominal, least),
                comments: b"\x03vorbis",
            }
        } else if packet.starts_with(b"OpusHead") {
            let skipped = u64::from(u16::from_le_bytes(*packet.get(10..)?.first_chunk()?));
            let input = Some(number(12)?).filter(|&rate| rate > 0);
            Self {
                format: "audio/ogg",
                codec: "opus",
                sample_rate: input.unwrap_or(OPUS_RATE),
                channels: byte(9)?,
                clock: OPUS_RATE,
                skipped,
                nominal: None,
                comments: b"OpusTags",
            }
        } else if packet.starts_with(b"Speex   ") {
            let nominal = number(52)?;
            Self {
                format: "audio/x-speex",
                codec: "speex",
                sample_rate: number(36)?,
                channels: number(48)?,
                clock: number(36)?,
                skipped: 0,
                nominal: Some(nominal).filter(|&rate| rate > 0 && rate < u32::MAX / 2),
                comments: b"",
            }
        } else {
            return None;
        };
        (stream.clock > 0 && stream.channels > 0).then_some(stream)
    }
}

/// The bit rate that three numbers of Vorbis mean; a number that is 0 or negative means nothing.
fn nominal_of(most: u32, nominal: u32, least: u32) -> Option<u32> {
    let known = |rate: u32| i32::try_from(rate).ok().filter(|&rate| rate > 0).map(i32::cast_unsigned);
    match (known(nominal), known(most), known(least)) {
        (Some(nominal), most, least) => Some(nominal.min(most.unwrap_or(u32::MAX)).max(least.unwrap_or(0))),
        (None, Some(most), Some(least)) => Some(most.midpoint(least)),
        (None, ..) => None,
    }
}

/// Whether the page at the beginning of `head` has the beginning of such a stream.
pub(super) fn begins_stream(head: &[u8]) -> bool {
    let packet = || head.get(PAGE_HEADER + usize::from(*head.get(PAGE_HEADER - 1)?)..);
    head.starts_with(b"OggS") && packet().and_then(Stream::of).is_some()
}

/// Reads the first stream into `metadata`, and the tags into `found`. On failure, both have what came before the damaged
/// part.
pub(super) fn read<R: Read + Seek>(
    source: &mut Source<R>,
    metadata: &mut Metadata,
    found: &mut Found,
) -> io::Result<()> {
    source.rewind()?;
    let mut packets = Packets::new(source);
    let mut header = Vec::new();
    packets.by_ref().take(LONGEST_HEADER as u64).read_to_end(&mut header)?;
    let Some(stream) = Stream::of(&header) else { return Err(corrupt("no stream of sound in the ogg container")) };
    metadata.format = Some(stream.format.to_owned());
    metadata.codec = Some(stream.codec.to_owned());
    metadata.sample_rate = Some(stream.sample_rate);
    metadata.channels = Some(stream.channels);
    let read = packets.next_packet().and_then(|()| {
        let mut magic = [0; 8];
        let magic = &mut magic[..stream.comments.len()];
        packets.read_exact(magic)?;
        if magic != stream.comments {
            return Err(corrupt("no comments in the second packet"));
        }
        comments::read(&mut packets, found)
    });
    let serial = packets.serial.unwrap_or(0);
    let headers_end = source.stream_position()?;
    let samples = last_position(source, serial)?.saturating_sub(stream.skipped);
    if samples > 0 {
        let duration = samples as f64 / f64::from(stream.clock);
        metadata.duration = Some(duration);
        let sound = source.length().saturating_sub(headers_end);
        metadata.bitrate = stream.nominal.or_else(|| bits_per_second(sound, duration));
    }
    read
}

/// The number of samples before the end of the stream's last page; 0 if no page has it.
pub(super) fn last_position<R: Read + Seek>(source: &mut Source<R>, serial: u32) -> io::Result<u64> {
    let mut buffer = vec![0; TAIL];
    let tail = source.read_at(source.length().saturating_sub(TAIL as u64), &mut buffer)?;
    let last = tail.windows(PAGE_HEADER).rev().find_map(|page| {
        let page = page.strip_prefix(b"OggS")?;
        let granule_position = u64::from_le_bytes(*page[2..].first_chunk()?);
        // A page on which no packet ends has the position -1.
        (page[10..14] == serial.to_le_bytes() && granule_position != u64::MAX).then_some(granule_position)
    });
    Ok(last.unwrap_or(0))
}

/// Reads the packets of the container's first stream, one after another.
pub(super) struct Packets<'source, R> {
    source: &'source mut Source<R>,
    /// The serial number of the stream, once its first page was read.
    pub(super) serial: Option<u32>,
    /// The lengths of the page's segments. `segments` is how many there are, `begun` how many were begun.
    lacing: [u8; 255],
    segments: usize,
    begun: usize,
    /// Bytes of the current segment that are left to read.
    left: u8,
    /// Whether the packet continues after the current segment.
    goes_on: bool,
}

impl<'source, R: Read + Seek> Packets<'source, R> {
    pub(super) fn new(source: &'source mut Source<R>) -> Self {
        Self { source, serial: None, lacing: [0; 255], segments: 0, begun: 0, left: 0, goes_on: true }
    }

    /// Goes to the beginning of the next packet.
    pub(super) fn next_packet(&mut self) -> io::Result<()> {
        loop {
            self.source.seek(SeekFrom::Current(self.left.into()))?;
            self.left = 0;
            if !self.next_segment()? {
                self.goes_on = true;
                return Ok(());
            }
        }
    }

    /// Goes to the next segment of this packet. Returns false if there is none.
    fn next_segment(&mut self) -> io::Result<bool> {
        if !self.goes_on {
            return Ok(false);
        }
        while self.begun == self.segments {
            self.next_page()?;
        }
        self.left = self.lacing[self.begun];
        self.begun += 1;
        // A segment of less than 255 bytes, possibly empty, is the last one of its packet.
        self.goes_on = self.left == u8::MAX;
        Ok(true)
    }

    /// Reads the header of the stream's next page. Pages of other streams are skipped.
    fn next_page(&mut self) -> io::Result<()> {
        let header: [u8; PAGE_HEADER] = self.source.array()?;
        if !header.starts_with(b"OggS") {
            return Err(corrupt("no ogg page where one should be"));
        }
        let serial = header[14..].first_chunk().map_or(0, |&bytes| u32::from_le_bytes(bytes));
        let segments = usize::from(header[PAGE_HEADER - 1]);
        self.source.read_exact(&mut self.lacing[..segments])?;
        if *self.serial.get_or_insert(serial) == serial {
            (self.segments, self.begun) = (segments, 0);
        } else {
            let body: i64 = self.lacing[..segments].iter().map(|&length| i64::from(length)).sum();
            self.source.seek(SeekFrom::Current(body))?;
        }
        Ok(())
    }

    pub(super) fn array<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.read_exact(&mut bytes)?;
        Ok(bytes)
    }
}

impl<R: Read + Seek> Read for Packets<'_, R> {
    /// Reads up to the end of the packet.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.left == 0 {
            if !self.next_segment()? {
                return Ok(0);
            }
        }
        let length = buffer.len().min(self.left.into());
        let read = self.source.read(&mut buffer[..length])?;
        if read == 0 && length > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.left -= u8::try_from(read).unwrap_or(self.left);
        Ok(read)
    }
}

pub(super) fn corrupt(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Field;
    use std::io::Cursor;

    fn page(serial: u32, position: u64, packet: &[u8]) -> Vec<u8> {
        let length = u8::try_from(packet.len()).unwrap();
        let head = [&b"OggS\0\0"[..], &position.to_le_bytes(), &serial.to_le_bytes(), &[0; 8], &[1, length]].concat();
        [&head, packet].concat()
    }

    fn parse(pages: &[Vec<u8>]) -> Metadata {
        let (mut metadata, mut found) = (Metadata::default(), Found::default());
        let _ = read(&mut Source::new(Cursor::new(pages.concat())).unwrap(), &mut metadata, &mut found);
        found.show(&mut metadata);
        metadata
    }

    fn comments(magic: &[u8]) -> Vec<u8> {
        [magic, b"\0\0\0\0\x01\0\0\0\x07\0\0\0title=T"].concat()
    }

    #[test]
    fn the_last_page_with_a_position_of_the_first_stream_counts() {
        let rates = [0_u32, 64_000, 0].map(u32::to_le_bytes).concat();
        let vorbis = [&b"\x01vorbis\0\0\0\0\x02"[..], &44_100_u32.to_le_bytes(), &rates, b"\xb8\x01"].concat();
        let opus = [&b"OpusHead\x01\x02"[..], &312_u16.to_le_bytes(), &44_100_u32.to_le_bytes(), &[0; 3]].concat();
        let last = |serial, position| page(serial, position, b"sound");
        let begin = [page(7, 0, &vorbis), page(7, 0, &comments(b"\x03vorbis"))];
        let of = |pages: &[Vec<u8>]| parse(&[&begin[..], pages].concat());
        let found = of(&[last(7, 44_100), last(7, u64::MAX)]);
        assert_eq!((found.duration, found.bitrate, found.sample_rate), (Some(1.0), Some(64_000), Some(44_100)));
        assert_eq!((found.tags.get(Field::Title), found.channels), (Some("T"), Some(2)));
        assert_eq!(of(&[last(7, 88_200), last(8, 99_999_999)]).duration, Some(2.0));
        assert_eq!(of(&[last(7, u64::MAX)]).duration, None);
        let opus = parse(&[page(7, 0, &opus), page(7, 0, &comments(b"OpusTags")), last(7, 48_312)]);
        assert_eq!((opus.duration, opus.format.as_deref()), (Some(1.0), Some("audio/ogg")));
        assert!(!begins_stream(&page(7, 0, b"fishead")) && begins_stream(&begin[0]));
    }

    #[test]
    fn a_bit_rate_of_vorbis_is_nominal_within_its_bounds() {
        assert_eq!(nominal_of(0, 64_000, 0), Some(64_000));
        assert_eq!(nominal_of(48_000, 64_000, 0), Some(48_000));
        assert_eq!(nominal_of(96_000, 0, 32_000), Some(64_000));
        assert_eq!(nominal_of(u32::MAX, u32::MAX, u32::MAX), None);
    }
}
