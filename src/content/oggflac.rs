//! FLAC in Ogg: the stream's properties from its first packet, the tags from its second.
//!
//! Formats: Ogg, RFC 3533, section 6. FLAC and its mapping to Ogg, RFC 9639, sections 8 and 10.1.

use std::io::{self, Read, Seek};

use super::comments;
use super::flac::{StreamInfo, VORBIS_COMMENT};
use super::found::Found;
use super::ogg::{PAGE_HEADER, Packets, corrupt, last_position};
use super::source::Source;
use crate::model::Metadata;

/// The first bytes of the first packet.
const MAGIC: &[u8] = b"\x7FFLAC";

/// Whether the page at the start of `head` contains the beginning of a FLAC stream.
pub(super) fn begins_stream(head: &[u8]) -> bool {
    head.starts_with(b"OggS")
        && head
            .get(PAGE_HEADER - 1)
            .and_then(|&segments| head.get(PAGE_HEADER + usize::from(segments)..))
            .is_some_and(|packet| packet.starts_with(MAGIC))
}

/// Reads the first packet into `metadata` and the second one into `found`. On failure, both have what came before the
/// corrupt part.
pub(super) fn read<R: Read + Seek>(
    source: &mut Source<R>,
    metadata: &mut Metadata,
    found: &mut Found,
) -> io::Result<()> {
    source.rewind()?;
    let mut packets = Packets::new(source);
    let mut mapping = [0; 13];
    packets.read_exact(&mut mapping)?;
    if !mapping.starts_with(MAGIC) || !mapping.ends_with(b"fLaC") {
        return Err(corrupt("no flac stream in the ogg container"));
    }
    let _block_header: [u8; 4] = packets.array()?;
    let info = StreamInfo::read(&mut packets)?;
    let _checksum_of_the_sound: [u8; 16] = packets.array()?;
    info.show(metadata);

    let read = packets.next_packet().and_then(|()| {
        let block_header: [u8; 4] = packets.array()?;
        if block_header[0] & 0x7F != VORBIS_COMMENT {
            return Err(corrupt("no comments in the second packet"));
        }
        comments::read(&mut packets, found)
    });
    let serial = packets.serial.unwrap_or(0);
    let headers_end = source.stream_position()?;

    let samples = match info.samples {
        0 => last_position(source, serial)?,
        samples => samples,
    };
    if let Some(duration) = info.duration(samples) {
        metadata.duration = Some(duration);
        let sound_bytes = source.length().saturating_sub(headers_end);
        metadata.bitrate = super::values::bits_per_second(sound_bytes, duration);
    }
    read
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Field;
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
        let (mut metadata, mut found) = (Metadata::default(), Found::default());
        let result = read(&mut Source::new(Cursor::new(bytes)).unwrap(), &mut metadata, &mut found);
        found.show(&mut metadata);
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
        assert_eq!((metadata.duration, metadata.tags.get(Field::Title)), (Some(1.0), Some("kept")));
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
