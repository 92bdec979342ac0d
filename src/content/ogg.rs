//! Vorbis, Opus, Speex and FLAC in Ogg: the properties from the first packet of a stream, the tags from the second, the
//! playing time from the last page that has a position.
//!
//! Other streams, such as those of Skeleton and Theora, are passed over. A file may be a chain of several such files; then
//! their playing times are added up, and the properties and tags are those of the first.
//!
//! Formats: Ogg, RFC 3533, section 6; Vorbis I, sections 4.2 and A.2; Opus in Ogg, RFC 7845, sections 4 and 5; the header
//! of Speex, manual of Speex, section 7.1; FLAC in Ogg, RFC 9639, section 10.1.

use std::io::{self, Read, Seek};

use super::comments;
use super::flac::{StreamInfo, VORBIS_COMMENT};
use super::found::Found;
use super::ogg_pages::{Packets, Page, last_page, next_link, serials_at};
use super::source::Source;
use super::values::bits_per_second;
use crate::model::Metadata;

/// Bytes of the longest header of a stream, which is that of Speex.
const LONGEST_HEADER: usize = 80;

/// Samples per second in the positions of Opus, whatever the input had.
const OPUS_RATE: u32 = 48_000;

/// The most files in a chain that are added up.
const MOST_LINKS: usize = 64;

/// What the first packet of a stream says.
struct Stream {
    format: &'static str,
    codec: &'static str,
    bits_per_sample: Option<u32>,
    sample_rate: u32,
    channels: u32,
    /// Samples per second in the positions of pages.
    clock: u32,
    /// Samples at the beginning that are not played.
    skipped: u64,
    /// Samples of the whole stream, if the header says it.
    samples: Option<u64>,
    /// Bits per second that the encoder aimed at.
    nominal: Option<u32>,
    comments: Comments,
}

/// What is in front of the comments in the second packet.
enum Comments {
    Behind(&'static [u8]),
    /// The header of a block of FLAC.
    InBlock,
}

impl Stream {
    fn of(packet: &[u8]) -> Option<Self> {
        let stream = if packet.starts_with(b"\x01vorbis") {
            Self::of_vorbis(packet)
        } else if packet.starts_with(b"OpusHead") {
            Self::of_opus(packet)
        } else if packet.starts_with(b"Speex   ") {
            Self::of_speex(packet)
        } else if packet.starts_with(b"\x7FFLAC") {
            Self::of_flac(packet)
        } else {
            None
        };
        stream.filter(|stream| stream.clock > 0 && stream.channels > 0)
    }

    fn of_vorbis(packet: &[u8]) -> Option<Self> {
        let sample_rate = number(packet, 12)?;
        Some(Self {
            format: "audio/vorbis",
            codec: "vorbis",
            bits_per_sample: None,
            sample_rate,
            channels: byte(packet, 11)?,
            clock: sample_rate,
            skipped: 0,
            samples: None,
            nominal: nominal_of(number(packet, 16)?, number(packet, 20)?, number(packet, 24)?),
            comments: Comments::Behind(b"\x03vorbis"),
        })
    }

    fn of_opus(packet: &[u8]) -> Option<Self> {
        let input = number(packet, 12)?;
        Some(Self {
            format: "audio/ogg",
            codec: "opus",
            bits_per_sample: None,
            sample_rate: if input > 0 { input } else { OPUS_RATE },
            channels: byte(packet, 9)?,
            clock: OPUS_RATE,
            skipped: u64::from(u16::from_le_bytes(*packet.get(10..)?.first_chunk()?)),
            samples: None,
            nominal: None,
            comments: Comments::Behind(b"OpusTags"),
        })
    }

    fn of_speex(packet: &[u8]) -> Option<Self> {
        let (sample_rate, nominal) = (number(packet, 36)?, number(packet, 52)?);
        Some(Self {
            format: "audio/x-speex",
            codec: "speex",
            bits_per_sample: None,
            sample_rate,
            channels: number(packet, 48)?,
            clock: sample_rate,
            skipped: 0,
            samples: None,
            nominal: Some(nominal).filter(|&rate| rate > 0 && rate < u32::MAX / 2),
            comments: Comments::Behind(b""),
        })
    }

    /// Behind the magic number: a version, a count, the magic number of FLAC and the header of the block.
    fn of_flac(packet: &[u8]) -> Option<Self> {
        let info = packet.get(9..)?.strip_prefix(b"fLaC")?.get(4..)?;
        let info = StreamInfo::read(&mut &info[..]).ok()?;
        Some(Self {
            format: "audio/x-oggflac",
            codec: "flac",
            bits_per_sample: Some(info.bits_per_sample),
            sample_rate: info.sample_rate,
            channels: info.channels,
            clock: info.sample_rate,
            skipped: 0,
            samples: Some(info.samples).filter(|&samples| samples > 0),
            nominal: None,
            comments: Comments::InBlock,
        })
    }
}

fn number(packet: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*packet.get(at..)?.first_chunk()?))
}

fn byte(packet: &[u8], at: usize) -> Option<u32> {
    packet.get(at).copied().map(u32::from)
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

/// A stream of sound, and where it is.
struct Located {
    stream: Stream,
    serial: u32,
    /// The position of its first page.
    at: u64,
}

/// The first stream of sound among those that begin at `at`: all of them begin before any of them goes on.
fn stream_at<R: Read + Seek>(source: &mut Source<R>, at: u64) -> io::Result<Option<Located>> {
    let mut next = at;
    while let Some(page) = Page::at(source, next)?.filter(Page::begins_stream) {
        let mut packet = [0; LONGEST_HEADER];
        let packet = page.head(source, &mut packet)?;
        if let Some(stream) = Stream::of(packet) {
            return Ok(Some(Located { stream, serial: page.serial, at: next }));
        }
        next = page.end();
    }
    Ok(None)
}

/// Reads the first stream of sound into `metadata`, and its tags into `found`. On failure, both have what came before the
/// damaged part.
pub(super) fn read<R: Read + Seek>(
    source: &mut Source<R>,
    metadata: &mut Metadata,
    found: &mut Found,
) -> io::Result<()> {
    let Some(Located { stream, serial, at }) = stream_at(source, 0)? else {
        return Err(corrupt("no stream of sound in the ogg container"));
    };
    metadata.format = Some(stream.format.to_owned());
    metadata.codec = Some(stream.codec.to_owned());
    metadata.bits_per_sample = stream.bits_per_sample;
    metadata.sample_rate = Some(stream.sample_rate);
    metadata.channels = Some(stream.channels);
    let mut packets = Packets::of(source, serial, at)?;
    let read = packets.next_packet().and_then(|()| {
        stream.comments.pass(&mut packets)?;
        comments::read(&mut packets, found)
    });
    let headers_end = packets.end_of_page();
    metadata.bitrate = stream.nominal;
    if let Some(duration) = duration(source, &stream, serial)?.filter(|&duration| duration > 0.0) {
        metadata.duration = Some(duration);
        let sound = source.length().saturating_sub(headers_end);
        metadata.bitrate = metadata.bitrate.or_else(|| bits_per_second(sound, duration));
    }
    read
}

impl Comments {
    fn pass<R: Read + Seek>(&self, packets: &mut Packets<'_, R>) -> io::Result<()> {
        let is_there = match self {
            Self::Behind(magic) => {
                let mut found = [0; 8];
                let found = &mut found[..magic.len()];
                packets.read_exact(found)?;
                found == *magic
            }
            Self::InBlock => {
                let mut header = [0; 4];
                packets.read_exact(&mut header)?;
                header[0] & 0x7F == VORBIS_COMMENT
            }
        };
        if is_there { Ok(()) } else { Err(corrupt("no comments in the second packet")) }
    }
}

/// The seconds of the stream `serial`, and of those of the files that are chained to it; `None` if it is not known.
fn duration<R: Read + Seek>(source: &mut Source<R>, first: &Stream, serial: u32) -> io::Result<Option<f64>> {
    let length = source.length();
    let counts = |page: &Page| page.serial == serial && page.position().is_some();
    let last = last_page(source, length, |_| true)?;
    let last = match last {
        Some(page) if counts(&page) => Some(page),
        Some(page) if !serials_at(source, 0)?.contains(&page.serial) => return chained(source, first, serial),
        _ => last_page(source, length, counts)?,
    };
    Ok(last.and_then(|page| seconds(first, &page)))
}

/// Adds up the files of a chain, of which the first one has the stream `serial`.
fn chained<R: Read + Seek>(source: &mut Source<R>, first: &Stream, serial: u32) -> io::Result<Option<f64>> {
    let mut begin = 0;
    let mut sum = None;
    let mut located = None;
    for _ in 0..MOST_LINKS {
        let (stream, serial) =
            located.as_ref().map_or((first, serial), |Located { stream, serial, .. }| (stream, *serial));
        let end = next_link(source, begin)?;
        let last = last_page(source, end, |page| page.serial == serial && page.position().is_some())?;
        if let Some(seconds) = last.and_then(|page| seconds(stream, &page)) {
            sum = Some(sum.unwrap_or(0.0) + seconds);
        }
        if end >= source.length() {
            break;
        }
        begin = end;
        match stream_at(source, begin)? {
            Some(next) => located = Some(next),
            None => break,
        }
    }
    Ok(sum)
}

/// The seconds before the position of a stream's last page.
fn seconds(stream: &Stream, last: &Page) -> Option<f64> {
    let samples = stream.samples.or_else(|| Some(last.position()?.saturating_sub(stream.skipped)))?;
    Some(samples as f64 / f64::from(stream.clock))
}

pub(super) fn corrupt(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::testing::read_by;
    use crate::model::Field;
    use proptest::prelude::*;

    const BEGINS: u8 = 2;

    fn page(serial: u32, flags: u8, position: u64, lacing: &[u8], body: &[u8]) -> Vec<u8> {
        let segments = u8::try_from(lacing.len()).unwrap();
        let numbers = [&position.to_le_bytes()[..], &serial.to_le_bytes(), &[0; 8]].concat();
        [&b"OggS\0"[..], &[flags], &numbers, &[segments], lacing, body].concat()
    }

    /// A page with one packet.
    fn packet(serial: u32, flags: u8, position: u64, packet: &[u8]) -> Vec<u8> {
        page(serial, flags, position, &[u8::try_from(packet.len()).unwrap()], packet)
    }

    /// One packet in pages of at most `segments` segments, with pages of another stream between them.
    fn pages(serial: u32, packet: &[u8], segments: usize) -> Vec<u8> {
        let mut lacing: Vec<u8> = vec![255; packet.len() / 255];
        lacing.push(u8::try_from(packet.len() % 255).unwrap());
        let mut pages = Vec::new();
        let mut rest = packet;
        for lacing in lacing.chunks(segments) {
            let (body, later) = rest.split_at(lacing.iter().map(|&length| usize::from(length)).sum());
            pages.extend(page(serial, 0, u64::MAX, lacing, body));
            pages.extend(page(99, 0, 77, &[3, 0], b"xyz"));
            rest = later;
        }
        pages
    }

    fn comments(magic: &[u8], comments: &[&str]) -> Vec<u8> {
        let mut packet = [magic, b"\x04\0\0\0them"].concat();
        packet.extend(u32::try_from(comments.len()).unwrap().to_le_bytes());
        for comment in comments {
            packet.extend(u32::try_from(comment.len()).unwrap().to_le_bytes());
            packet.extend(comment.as_bytes());
        }
        packet
    }

    fn vorbis() -> Vec<u8> {
        let rates = [0_u32, 64_000, 0].map(u32::to_le_bytes).concat();
        [&b"\x01vorbis\0\0\0\0\x02"[..], &44_100_u32.to_le_bytes(), &rates, b"\xb8\x01"].concat()
    }

    fn flac(samples: u64) -> Vec<u8> {
        // 44,100 Hz, 2 channels, 16 bits.
        let counts = (44_100_u64 << 44 | 1 << 41 | 15 << 36 | samples).to_be_bytes();
        [&b"\x7FFLAC\x01\0\0\x01fLaC\0\0\0\x22"[..], &[0; 10], &counts, &[0; 16]].concat()
    }

    fn flac_file(samples: u64, segments: usize) -> Vec<u8> {
        let picture = format!("METADATA_BLOCK_PICTURE={}", "p".repeat(70_000));
        let tags = [
            "Title=Ärger",
            "ARTIST=First\0",
            "artist=Second",
            &picture,
            "nonsense",
            "ALBUM=",
            "YEAR=1999",
            "TRACKNUMBER=4",
            "TRACKTOTAL=12",
        ];
        let mut file = packet(7, BEGINS, 0, &flac(samples));
        file.extend(pages(7, &comments(b"\x84\0\0\0", &tags), segments));
        file.extend(packet(7, 0, 66_150, &[1; 100]));
        file.extend(packet(7, 0, u64::MAX, &[1; 5]));
        file
    }

    fn vorbis_file(serial: u32, title: &str, seconds: u64) -> Vec<u8> {
        let tags = comments(b"\x03vorbis", &[&format!("title={title}")]);
        let begin = [packet(serial, BEGINS, 0, &vorbis()), packet(serial, 0, 0, &tags)].concat();
        let sound = (1..=seconds).flat_map(|second| packet(serial, 0, second * 44_100, &[5; 200]));
        begin.into_iter().chain(sound).collect()
    }

    fn parse(bytes: &[u8]) -> Metadata {
        read_by(bytes, read)
    }

    #[test]
    fn the_last_whole_page_with_a_position_of_the_first_stream_counts() {
        let of = |pages: &[Vec<u8>]| parse(&[vorbis_file(7, "T", 0), pages.concat()].concat());
        let last = |serial, position| packet(serial, 0, position, b"sound");
        let found = of(&[last(7, 44_100), last(7, u64::MAX)]);
        assert_eq!((found.duration, found.bitrate, found.sample_rate), (Some(1.0), Some(64_000), Some(44_100)));
        assert_eq!((found.tags.get(Field::Title), found.channels), (Some("T"), Some(2)));
        assert_eq!(of(&[last(7, u64::MAX)]).duration, None);
        let cut = last(7, 99_999)[..30].to_vec();
        assert_eq!(of(&[last(7, 88_200), cut]).duration, Some(2.0));
    }

    #[test]
    fn opus_is_counted_at_48_000_hz() {
        let head = [&b"OpusHead\x01\x02"[..], &312_u16.to_le_bytes(), &44_100_u32.to_le_bytes(), &[0; 3]].concat();
        let tags = comments(b"OpusTags", &["title=T"]);
        let file = [packet(7, BEGINS, 0, &head), packet(7, 0, 0, &tags), packet(7, 4, 48_312, b"sound")];
        let found = parse(&file.concat());
        assert_eq!((found.duration, found.format.as_deref()), (Some(1.0), Some("audio/ogg")));
        assert_eq!((found.tags.get(Field::Title), found.sample_rate), (Some("T"), Some(44_100)));
    }

    #[test]
    fn other_streams_in_front_are_passed_over() {
        let other = [packet(1, BEGINS, 0, b"fishead\0"), packet(2, BEGINS, 0, b"\x80theora")].concat();
        let found = parse(&[other.clone(), vorbis_file(7, "T", 3)].concat());
        assert_eq!((found.duration, found.tags.get(Field::Title), found.error), (Some(3.0), Some("T"), None));
        assert_eq!(parse(&other).error.as_deref(), Some("no stream of sound in the ogg container"));
    }

    #[test]
    fn the_files_of_a_chain_are_added_up() {
        let chain = [vorbis_file(7, "First", 3), vorbis_file(8, "Second", 400), vorbis_file(9, "Third", 1)].concat();
        let found = parse(&chain);
        assert_eq!((found.duration, found.tags.get(Field::Title), found.error), (Some(404.0), Some("First"), None));
        let many_pages = [7, 8].map(|serial| packet(serial, 0, u64::MAX, b"x").repeat(3000));
        let chain =
            [vorbis_file(7, "First", 3), many_pages[0].clone(), vorbis_file(8, "Second", 400), many_pages[1].clone()];
        let found = parse(&[chain.concat(), vorbis_file(9, "Third", 1)].concat());
        assert_eq!((found.duration, found.error), (Some(404.0), None));
    }

    #[test]
    fn properties_and_tags_of_flac_are_read_whatever_pages_they_span() {
        for segments in [1, 7, 255] {
            let found = parse(&flac_file(88_200, segments));
            assert_eq!((found.error, found.bits_per_sample, found.has_cover), (None, Some(16), true));
            assert_eq!((found.duration, found.sample_rate, found.channels), (Some(2.0), Some(44_100), Some(2)));
            assert_eq!(
                found.tags.present().collect::<Vec<_>>(),
                [("title", "Ärger"), ("artist", "First"), ("date", "1999"), ("track", "4/12")]
            );
        }
        assert_eq!(parse(&flac_file(0, 255)).duration, Some(1.5), "the length of the last page");
    }

    #[test]
    fn corrupt_comments_leave_the_properties() {
        let mut tags = comments(b"\x84\0\0\0", &["TITLE=kept", "ALBUM=lost"]);
        tags.truncate(tags.len() - 1);
        let found = parse(&[packet(7, BEGINS, 0, &flac(44_100)), packet(7, 0, 0, &tags)].concat());
        assert!(found.error.is_some());
        assert_eq!((found.duration, found.tags.get(Field::Title)), (Some(1.0), Some("kept")));
    }

    #[test]
    fn a_picture_in_pages_of_one_byte_is_not_read_to_the_end() {
        let mut file = packet(7, BEGINS, 0, &vorbis());
        file.extend(packet(7, 0, 0, &comments(b"\x03vorbis", &["title=T"])[..8]));
        file.extend(page(7, 1, u64::MAX, &[255], &[0xFF; 255]).repeat(200_000));
        file.extend(page(7, 0, u64::MAX, &[1], b"x").repeat(200_000));
        assert!(parse(&file).error.is_some());
    }

    #[test]
    fn a_bit_rate_of_vorbis_is_nominal_within_its_bounds() {
        assert_eq!(nominal_of(0, 64_000, 0), Some(64_000));
        assert_eq!(nominal_of(48_000, 64_000, 0), Some(48_000));
        assert_eq!(nominal_of(96_000, 0, 32_000), Some(64_000));
        assert_eq!(nominal_of(u32::MAX, u32::MAX, u32::MAX), None);
    }

    #[test]
    fn a_file_that_is_truncated_anywhere_does_no_harm() {
        let bytes = flac_file(0, 3);
        for length in (0..1000).chain(bytes.len() - 500..bytes.len()) {
            parse(&bytes[..length]);
        }
    }

    proptest! {
        #[test]
        fn no_mutation_panics(
            changes in prop::collection::vec((0..1000_usize, any::<u8>()), 1..12), segments in 1..255_usize
        ) {
            let mut bytes = [flac_file(0, segments), vorbis_file(9, "Second", 2)].concat();
            for (at, value) in changes {
                bytes[at] = value;
            }
            parse(&bytes);
        }
    }
}
