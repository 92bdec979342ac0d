//! FLAC in Ogg: the stream's properties from its first packet, the tags from its second.
//!
//! Comments are read one at a time, and long ones, such as pictures, are skipped. So little is kept
//! in memory, whatever the sizes in the file are.
//!
//! Formats: Ogg, RFC 3533, section 6. FLAC and its mapping to Ogg, RFC 9639, sections 8 and 10.1.

use std::io::{self, Read, Seek, SeekFrom};

use super::source::Source;
use crate::model::{Metadata, Tags};

/// The first bytes of the first packet.
pub(super) const MAGIC: &[u8] = b"\x7FFLAC";

/// Bytes of a page's header, without its table of segments.
pub(super) const PAGE_HEADER: usize = 27;

/// Bytes at the end of the file in which the last page is looked for: one page at most.
const TAIL: usize = 64 * 1024;

/// Bytes of the longest comment that is read.
const LONGEST_COMMENT: u32 = 64 * 1024;

/// The block type of Vorbis comments.
const VORBIS_COMMENT: u8 = 4;

/// Whether the page at the start of `head` contains the beginning of a FLAC stream.
pub(super) fn begins_stream(head: &[u8]) -> bool {
    head.starts_with(b"OggS")
        && head
            .get(PAGE_HEADER - 1)
            .and_then(|&segments| head.get(PAGE_HEADER + usize::from(segments)..))
            .is_some_and(|packet| packet.starts_with(MAGIC))
}

/// Reads both packets into `metadata`. On failure, `metadata` has what came before the corrupt part.
pub(super) fn read<R: Read + Seek>(source: &mut Source<R>, metadata: &mut Metadata) -> io::Result<()> {
    source.rewind()?;
    let mut packets = Packets::new(source);
    let mut mapping = [0; 13];
    packets.read_exact(&mut mapping)?;
    if !mapping.starts_with(MAGIC) || !mapping.ends_with(b"fLaC") {
        return Err(corrupt("no flac stream in the ogg container"));
    }
    // Four bytes of block header, then the block.
    let mut stream_info = [0; 4 + 34];
    packets.read_exact(&mut stream_info)?;
    let rate_and_counts = stream_info[14..].first_chunk().map_or(0, |&bytes| u64::from_be_bytes(bytes));
    let sample_rate = u32::try_from(rate_and_counts >> 44).unwrap_or(0);
    if sample_rate == 0 {
        return Err(corrupt("a sample rate of 0"));
    }
    metadata.sample_rate = Some(sample_rate);
    metadata.channels = Some(u32::from(stream_info[16] >> 1 & 7) + 1);

    let comments = packets.next_packet().and_then(|()| read_comments(&mut packets, &mut metadata.tags));
    let serial = packets.serial.unwrap_or(0);
    let headers_end = source.stream_position()?;

    let samples = match rate_and_counts & 0xF_FFFF_FFFF {
        0 => last_granule_position(source, serial)?,
        samples => samples,
    };
    if samples > 0 {
        let duration = samples as f64 / f64::from(sample_rate);
        metadata.duration = Some(duration);
        let sound_bytes = source.length().saturating_sub(headers_end);
        metadata.bitrate = super::values::bits_per_second(sound_bytes, duration);
    }
    comments
}

/// Reads the block of Vorbis comments, RFC 9639, section 8.6.
fn read_comments<R: Read + Seek>(packets: &mut Packets<'_, R>, tags: &mut Tags) -> io::Result<()> {
    let block_header: [u8; 4] = packets.array()?;
    if block_header[0] & 0x7F != VORBIS_COMMENT {
        return Err(corrupt("no comments in the second packet"));
    }
    let vendor_length = u32::from_le_bytes(packets.array()?);
    packets.skip(vendor_length)?;
    let count = u32::from_le_bytes(packets.array()?);
    let (mut year, mut total) = (None, None);
    let mut comment = Vec::new();
    for _ in 0..count {
        let length = u32::from_le_bytes(packets.array()?);
        if length > LONGEST_COMMENT {
            packets.skip(length)?;
            continue;
        }
        comment.resize(length as usize, 0);
        packets.read_exact(&mut comment)?;
        let text = String::from_utf8_lossy(&comment);
        let Some((name, value)) = text.split_once('=') else { continue };
        let slot = match name.to_ascii_uppercase().as_str() {
            "TITLE" => &mut tags.title,
            "ARTIST" => &mut tags.artist,
            "ALBUM" => &mut tags.album,
            "DATE" => &mut tags.date,
            "YEAR" => &mut year,
            "GENRE" => &mut tags.genre,
            "TRACKNUMBER" => &mut tags.track,
            "TRACKTOTAL" | "TOTALTRACKS" => &mut total,
            _ => continue,
        };
        if slot.is_none() {
            *slot = super::values::tidy(value);
        }
    }
    tags.date = tags.date.take().or(year);
    tags.track = super::values::track(tags.track.take(), total);
    Ok(())
}

/// The number of samples before the end of the stream's last page; 0 if no page has it.
pub(super) fn last_granule_position<R: Read + Seek>(source: &mut Source<R>, serial: u32) -> io::Result<u64> {
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
struct Packets<'source, R> {
    source: &'source mut Source<R>,
    /// The serial number of the stream, once its first page was read.
    serial: Option<u32>,
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
    fn new(source: &'source mut Source<R>) -> Self {
        Self { source, serial: None, lacing: [0; 255], segments: 0, begun: 0, left: 0, goes_on: true }
    }

    /// Goes to the beginning of the next packet.
    fn next_packet(&mut self) -> io::Result<()> {
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

    fn skip(&mut self, bytes: u32) -> io::Result<()> {
        let skipped = io::copy(&mut self.take(bytes.into()), &mut io::sink())?;
        if skipped == u64::from(bytes) { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }

    fn array<const N: usize>(&mut self) -> io::Result<[u8; N]> {
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

fn corrupt(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Cursor;

    const SERIAL: u32 = 0x0102_0304;

    /// One page with these segments of `body`.
    fn page(serial: u32, granule_position: u64, lacing: &[u8], body: &[u8]) -> Vec<u8> {
        let mut page = b"OggS\0\0".to_vec();
        page.extend(granule_position.to_le_bytes());
        page.extend(serial.to_le_bytes());
        page.extend([0; 8]);
        page.push(u8::try_from(lacing.len()).unwrap());
        page.extend(lacing);
        page.extend(body);
        page
    }

    /// One packet in pages of at most `segments` segments.
    fn pages(packet: &[u8], segments: usize) -> Vec<u8> {
        let mut lacing: Vec<u8> = vec![255; packet.len() / 255];
        lacing.push(u8::try_from(packet.len() % 255).unwrap());
        let mut pages = Vec::new();
        let mut rest = packet;
        for lacing in lacing.chunks(segments) {
            let (body, later) = rest.split_at(lacing.iter().map(|&length| usize::from(length)).sum());
            pages.extend(page(SERIAL, u64::MAX, lacing, body));
            pages.extend(page(99, 77, &[3, 0], b"xyz"));
            rest = later;
        }
        pages
    }

    fn stream_info(samples: u64) -> Vec<u8> {
        let mut packet = b"\x7FFLAC\x01\0\0\x01fLaC\0\0\0\x22".to_vec();
        packet.extend([0; 10]);
        // 44,100 Hz, 2 channels, 16 bits.
        packet.extend((44_100_u64 << 44 | 1 << 41 | 15 << 36 | samples).to_be_bytes());
        packet.extend([0; 16]);
        packet
    }

    fn comments(comments: &[&str]) -> Vec<u8> {
        let mut packet = b"\x84\0\0\0\x04\0\0\0them".to_vec();
        packet.extend(u32::try_from(comments.len()).unwrap().to_le_bytes());
        for comment in comments {
            packet.extend(u32::try_from(comment.len()).unwrap().to_le_bytes());
            packet.extend(comment.as_bytes());
        }
        packet
    }

    fn sample(samples: u64, segments: usize) -> Vec<u8> {
        let picture = format!("METADATA_BLOCK_PICTURE={}", "p".repeat(70_000));
        let comments = comments(&[
            "Title=Ärger",
            "ARTIST=First\0",
            "artist=Second",
            &picture,
            "nonsense",
            "ALBUM=",
            "YEAR=1999",
            "TRACKNUMBER=4",
            "TRACKTOTAL=12",
        ]);
        let mut file = pages(&stream_info(samples), 255);
        file.extend(pages(&comments, segments));
        file.extend(page(SERIAL, 66_150, &[100], &[1; 100]));
        file.extend(page(SERIAL, u64::MAX, &[5], &[1; 5]));
        file
    }

    fn parse(bytes: &[u8]) -> (Metadata, Option<String>) {
        let mut metadata = Metadata::default();
        let result = read(&mut Source::new(Cursor::new(bytes)).unwrap(), &mut metadata);
        (metadata, result.err().map(|error| error.to_string()))
    }

    #[test]
    fn properties_and_tags_are_read_whatever_pages_they_span() {
        for segments in [1, 7, 255] {
            let bytes = sample(88_200, segments);
            assert!(begins_stream(&bytes));
            let (metadata, error) = parse(&bytes);
            assert_eq!(error, None);
            assert_eq!(
                (metadata.duration, metadata.sample_rate, metadata.channels),
                (Some(2.0), Some(44_100), Some(2))
            );
            assert_eq!(
                metadata.tags.present().collect::<Vec<_>>(),
                [("title", "Ärger"), ("artist", "First"), ("date", "1999"), ("track", "4/12")]
            );
        }
    }

    #[test]
    fn a_stream_of_unknown_length_has_the_length_of_its_last_page() {
        assert_eq!(parse(&sample(0, 255)).0.duration, Some(1.5));
    }

    #[test]
    fn corrupt_comments_leave_the_properties() {
        let mut packet = comments(&["TITLE=kept", "ALBUM=lost"]);
        packet.truncate(packet.len() - 1);
        let (metadata, error) = parse(&[pages(&stream_info(44_100), 255), pages(&packet, 255)].concat());
        assert!(error.is_some());
        assert_eq!((metadata.duration, metadata.tags.title.as_deref()), (Some(1.0), Some("kept")));
    }

    #[test]
    fn a_file_that_is_truncated_anywhere_does_no_harm() {
        let bytes = sample(0, 3);
        for length in (0..1000).chain(bytes.len() - 500..bytes.len()) {
            parse(&bytes[..length]);
        }
    }

    proptest! {
        #[test]
        fn no_mutation_panics(
            changes in prop::collection::vec((0..1000_usize, any::<u8>()), 1..12), segments in 1..255_usize
        ) {
            let mut bytes = sample(0, segments);
            for (at, value) in changes {
                bytes[at] = value;
            }
            begins_stream(&bytes);
            parse(&bytes);
        }
    }
}
