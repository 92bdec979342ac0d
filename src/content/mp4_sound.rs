//! The properties of the sound in an MP4 file: those of its first audio track.
//!
//! Formats: ISO/IEC 14496-12, sections 8.4, 8.5 and 8.8; QuickTime File Format, "Sound sample descriptions"; `esds`,
//! 14496-14, section 5.6, and 14496-1, section 7.2.6; `dac3` and `dec3`, ETSI TS 102 366, annex F; `dOps`, "Encapsulation
//! of Opus in ISO Base Media File Format"; `dfLa`, "Encapsulation of FLAC in ISO Base Media File Format".

use std::io::{self, Read, Seek, SeekFrom};

use super::aac::Output;
use super::codecs;
use super::flac::StreamInfo;
use super::mp4_boxes::Part;
use super::source::Source;
use super::values::bits_per_second;
use crate::model::Metadata;

/// Bytes of an audio sample entry before the boxes in it, by its version.
const ENTRY_LENGTHS: [u64; 3] = [28, 28 + 16, 28 + 36];

/// Bytes of the box of a codec that are read.
const CONFIGURATION: usize = 64;

/// Kilobits per second of AC-3, by their number.
const AC3_KILOBITS: [u32; 19] =
    [32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 448, 512, 576, 640];

/// Channels of AC-3 by their arrangement, without the one for low frequencies.
const AC3_CHANNELS: [u32; 8] = [2, 1, 2, 3, 3, 4, 4, 5];

/// Reads the properties into `metadata`. On failure, `metadata` has what came before the damaged part.
pub(super) fn read<R: Read + Seek>(source: &mut Source<R>, metadata: &mut Metadata) -> io::Result<()> {
    let Some(movie) = Part::file(source).child(source, *b"moov")? else {
        return Err(io::Error::other("it has no description of the movie"));
    };
    match sound_of(source, movie)? {
        Some(track) => read_track(source, movie, track, metadata),
        None => Err(io::Error::other("it has no track of sound")),
    }
}

/// The first audio track of a movie.
#[derive(Clone, Copy)]
pub(super) struct Track {
    track: Part,
    pub(super) media: Part,
}

/// The first audio track of a movie; `None` if it has none.
pub(super) fn sound_of<R: Read + Seek>(source: &mut Source<R>, movie: Part) -> io::Result<Option<Track>> {
    for track in movie.children(source, *b"trak")? {
        let Some(media) = track.child(source, *b"mdia")? else { continue };
        let Some(handler) = media.child(source, *b"hdlr")? else { continue };
        if handler.head(source, &mut [0; 12])?.ends_with(b"soun") {
            return Ok(Some(Track { track, media }));
        }
    }
    Ok(None)
}

fn read_track<R: Read + Seek>(
    source: &mut Source<R>,
    movie: Part,
    track: Track,
    metadata: &mut Metadata,
) -> io::Result<()> {
    let Track { track, media } = track;
    let time = Time::of(source, media)?;
    let units = match time.units {
        Some(units) => units,
        None => units_of_fragments(source, movie, track)?,
    };
    let duration = units as f64 / f64::from(time.scale);
    metadata.duration = (units > 0 && time.scale > 0).then_some(duration);
    let Some(table) = media.descendant(source, &[*b"minf", *b"stbl"])? else { return Ok(()) };
    let entry = Entry::of(source, table)?;
    metadata.sample_rate = entry.sample_rate;
    metadata.channels = entry.channels;
    metadata.codec = entry.codec.map(ToOwned::to_owned);
    metadata.bits_per_sample = codecs::bits_of(entry.codec, entry.bits);
    metadata.bitrate = match entry.bitrate {
        Some(bitrate) => Some(bitrate),
        None => bytes_of_samples(source, table)?.and_then(|bytes| bits_per_second(bytes, duration)),
    };
    Ok(())
}

/// How long the track is.
struct Time {
    /// Units per second.
    scale: u32,
    /// `None` if it is not known, as in files of fragments.
    units: Option<u64>,
}

impl Time {
    /// From the header of the media, section 8.4.2.
    fn of<R: Read + Seek>(source: &mut Source<R>, media: Part) -> io::Result<Self> {
        let header = media.child(source, *b"mdhd")?;
        let mut bytes = [0; 32];
        let bytes = match header {
            Some(header) => header.head(source, &mut bytes)?,
            None => &[],
        };
        let (scale, units) = if bytes.first() == Some(&1) {
            (number(bytes, 20), long(bytes, 24).filter(|&units| units != u64::MAX))
        } else {
            (number(bytes, 12), number(bytes, 16).filter(|&units| units != u32::MAX).map(u64::from))
        };
        Ok(Self { scale: scale.unwrap_or(0), units: units.filter(|&units| units > 0) })
    }
}

/// The sum of the durations of a track's samples in the fragments, section 8.8.
fn units_of_fragments<R: Read + Seek>(source: &mut Source<R>, movie: Part, track: Part) -> io::Result<u64> {
    let Some(header) = track.child(source, *b"tkhd")? else { return Ok(0) };
    let mut bytes = [0; 24];
    let bytes = header.head(source, &mut bytes)?;
    let id = number(bytes, if bytes.first() == Some(&1) { 20 } else { 12 });
    let mut usual = None;
    if let Some(extends) = movie.child(source, *b"mvex")? {
        for defaults in extends.children(source, *b"trex")? {
            let mut bytes = [0; 16];
            let bytes = defaults.head(source, &mut bytes)?;
            if number(bytes, 4) == id {
                usual = number(bytes, 12);
            }
        }
    }
    let mut units = 0_u64;
    for fragment in Part::file(source).children(source, *b"moof")? {
        for part in fragment.children(source, *b"traf")? {
            let defaults = FragmentDefaults::of(source, part)?;
            if defaults.track != id {
                continue;
            }
            let each = defaults.duration.or(usual).unwrap_or(0);
            for run in part.children(source, *b"trun")? {
                units = units.saturating_add(units_of_run(source, run, each)?);
            }
        }
    }
    Ok(units)
}

#[derive(Default)]
struct FragmentDefaults {
    track: Option<u32>,
    /// Of one sample.
    duration: Option<u32>,
}

impl FragmentDefaults {
    /// From the header of a track's fragment, section 8.8.7.
    fn of<R: Read + Seek>(source: &mut Source<R>, part: Part) -> io::Result<Self> {
        let Some(header) = part.child(source, *b"tfhd")? else { return Ok(Self::default()) };
        let mut bytes = [0; 24];
        let bytes = header.head(source, &mut bytes)?;
        let flags = number(bytes, 0).unwrap_or(0);
        let offset = if flags & 1 != 0 { 8 } else { 0 } + if flags & 2 != 0 { 4 } else { 0 };
        let duration = if flags & 8 != 0 { number(bytes, 8 + offset) } else { None };
        Ok(Self { track: number(bytes, 4), duration })
    }
}

/// The sum of the durations in a run of samples, section 8.8.8, of which each takes `usual` if the run does not say it.
fn units_of_run<R: Read + Seek>(source: &mut Source<R>, run: Part, usual: u32) -> io::Result<u64> {
    let mut bytes = [0; 8];
    let bytes = run.head(source, &mut bytes)?;
    let (Some(flags), Some(count)) = (number(bytes, 0), number(bytes, 4)) else { return Ok(0) };
    if flags & 0x100 == 0 {
        return Ok(u64::from(count) * u64::from(usual));
    }
    let fields = |flags: u32| u64::from(flags.count_ones()) * 4;
    // The offset of the data and the flags of the first sample come before the samples.
    let samples = run.behind(8 + fields(flags & 0x5));
    sum(source, samples, count, flags & 0xF00)
}

/// The sum of the first numbers in the rows of a table, each of which has as many numbers as `columns` has bits.
fn sum<R: Read + Seek>(source: &mut Source<R>, table: Part, rows: u32, columns: u32) -> io::Result<u64> {
    const ROWS_AT_ONCE: usize = 1024;

    let row = columns.count_ones() as usize * 4;
    let rows = u64::from(rows).min(table.length() / row as u64);
    let mut sum = 0;
    source.seek(SeekFrom::Start(table.start))?;
    let mut left = source.by_ref().take(rows * row as u64);
    let mut chunk = Vec::with_capacity(ROWS_AT_ONCE * row);
    loop {
        chunk.clear();
        if left.by_ref().take((ROWS_AT_ONCE * row) as u64).read_to_end(&mut chunk)? == 0 {
            return Ok(sum);
        }
        sum += chunk.chunks_exact(row).filter_map(|row| number(row, 0)).map(u64::from).sum::<u64>();
    }
}

/// The sum of the sizes of a track's samples, section 8.7.3; `None` if it is in fragments.
fn bytes_of_samples<R: Read + Seek>(source: &mut Source<R>, table: Part) -> io::Result<Option<u64>> {
    let Some(sizes) = table.child(source, *b"stsz")? else { return Ok(None) };
    let mut bytes = [0; 12];
    let bytes = sizes.head(source, &mut bytes)?;
    let (Some(size), Some(count)) = (number(bytes, 4), number(bytes, 8)) else { return Ok(None) };
    if size > 0 {
        return Ok(Some(u64::from(size) * u64::from(count)));
    }
    let sum = sum(source, sizes.behind(12), count, 1)?;
    Ok(Some(sum).filter(|&sum| sum > 0))
}

/// What the sample description says, section 8.5.2.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Entry {
    /// Bits per second.
    bitrate: Option<u32>,
    sample_rate: Option<u32>,
    channels: Option<u32>,
    codec: Option<&'static str>,
    /// Bits per sample, 0 if they are not known. They mean nothing for codecs that do not keep samples as they are.
    bits: u32,
}

impl Entry {
    /// Of the first codec in a table of samples.
    fn of<R: Read + Seek>(source: &mut Source<R>, table: Part) -> io::Result<Self> {
        let Some(descriptions) = table.child(source, *b"stsd")? else { return Ok(Self::default()) };
        let mut first = None;
        // Version, flags and a count.
        descriptions.behind(8).each(source, |part| {
            first = Some(part);
            false
        })?;
        let Some(part) = first else { return Ok(Self::default()) };
        let mut bytes = [0; 56];
        let bytes = part.head(source, &mut bytes)?;
        let version = short(bytes, 8).unwrap_or(0);
        let (sample_rate, channels) = match version {
            // A float of 64 bits, whose fraction is of no interest.
            2 => (long(bytes, 32).and_then(whole_of_float), number(bytes, 40)),
            _ => (short(bytes, 24), short(bytes, 16)),
        };
        let known = |value: Option<u32>| value.filter(|&value| value > 0);
        let bits = short(bytes, 18).unwrap_or(0);
        let mut entry = Self {
            bitrate: None,
            sample_rate: known(sample_rate),
            channels: known(channels),
            codec: codecs::of_sample_entry(part.kind, u16::try_from(bits).unwrap_or(0)),
            bits,
        };
        let length = ENTRY_LENGTHS.get(version as usize).copied().unwrap_or(ENTRY_LENGTHS[0]);
        let mut boxes = Vec::new();
        part.behind(length).each(source, |part| {
            boxes.push(part);
            boxes.len() < 16
        })?;
        // QuickTime puts a box around it.
        if let Some(around) = boxes.iter().find(|part| part.kind == *b"wave").copied() {
            around.each(source, |part| {
                boxes.push(part);
                boxes.len() < 32
            })?;
        }
        for part in boxes {
            entry.read_codec(source, part)?;
        }
        Ok(entry)
    }

    fn read_codec<R: Read + Seek>(&mut self, source: &mut Source<R>, part: Part) -> io::Result<()> {
        let mut bytes = [0; CONFIGURATION];
        let bytes = part.head(source, &mut bytes)?;
        let said = match &part.kind {
            b"esds" => of_descriptors(bytes.get(4..).unwrap_or_default()),
            b"alac" => of_alac(bytes),
            b"dac3" => of_ac3(bytes),
            b"dec3" => of_eac3(bytes),
            b"dOps" => {
                let channels = bytes.get(1).copied().map(u32::from);
                Some(Self { channels, sample_rate: Some(48_000), ..Self::default() })
            }
            b"dfLa" => of_flac(bytes),
            _ => None,
        };
        let Self { bitrate, sample_rate, channels, codec, bits } = said.unwrap_or_default();
        let known = |value: Option<u32>| value.filter(|&value| value > 0);
        self.bitrate = known(bitrate).or(self.bitrate);
        self.sample_rate = known(sample_rate).or(self.sample_rate);
        self.channels = known(channels).or(self.channels);
        self.codec = codec.or(self.codec);
        // The entry itself often says 16, whatever they are.
        self.bits = if bits > 0 { bits } else { self.bits };
        Ok(())
    }
}

/// The decoder's configuration in the descriptor of an elementary stream.
fn of_descriptors(bytes: &[u8]) -> Option<Entry> {
    let stream = descriptor(bytes, 3)?;
    let flags = *stream.get(2)?;
    let url = usize::from(*stream.get(3)?) + 1;
    let added = if flags & 0x80 != 0 { 2 } else { 0 }
        + if flags & 0x40 != 0 { url } else { 0 }
        + if flags & 0x20 != 0 { 2 } else { 0 };
    let decoder = descriptor(stream.get(3 + added..)?, 4)?;
    // Object type, stream type, buffer size and the highest bit rate come before the mean one.
    let bitrate = number(decoder, 9);
    let config = decoder.get(13..).and_then(|rest| descriptor(rest, 5));
    let codec = codecs::of_object_type(*decoder.first()?);
    let output = config.filter(|_| codec == Some("aac")).map(Output::of).unwrap_or_default();
    Some(Entry { bitrate, sample_rate: output.sample_rate, channels: output.channels, codec, bits: 0 })
}

/// The content of a descriptor with this tag. Every byte of its size but the last one has its high bit set.
fn descriptor(bytes: &[u8], tag: u8) -> Option<&[u8]> {
    let rest = bytes.strip_prefix(&[tag])?;
    let length = rest.iter().take(4).position(|byte| byte & 0x80 == 0)? + 1;
    let size = rest[..length].iter().fold(0_usize, |size, byte| size << 7 | usize::from(byte & 0x7F));
    let content = &rest[length..];
    Some(&content[..size.min(content.len())])
}

/// Of ALAC. Its bit rate is often that of the uncompressed sound, so that of the samples is taken.
fn of_alac(bytes: &[u8]) -> Option<Entry> {
    // Version and flags; frame length, version, bits, three parameters, channels, longest run and frame, bit rate, rate.
    let (bits, channels) = (u32::from(*bytes.get(9)?), u32::from(*bytes.get(13)?));
    Some(Entry { channels: Some(channels), sample_rate: number(bytes, 24), bits, ..Entry::default() })
}

fn of_ac3(bytes: &[u8]) -> Option<Entry> {
    let bits = u32::from_be_bytes([0, *bytes.first()?, *bytes.get(1)?, *bytes.get(2)?]);
    let channels = AC3_CHANNELS[(bits >> 11 & 7) as usize] + (bits >> 10 & 1);
    let kilobits = AC3_KILOBITS.get((bits >> 5 & 31) as usize);
    Some(Entry {
        bitrate: kilobits.map(|kilobits| kilobits * 1000),
        sample_rate: ac3_rate(bits >> 22),
        channels: Some(channels),
        ..Entry::default()
    })
}

/// Of enhanced AC-3: the first of its independent streams.
fn of_eac3(bytes: &[u8]) -> Option<Entry> {
    let kilobits = short(bytes, 0)? >> 3;
    let bits = u32::from_be_bytes([0, *bytes.get(2)?, *bytes.get(3)?, *bytes.get(4)?]);
    let channels = AC3_CHANNELS[(bits >> 9 & 7) as usize] + (bits >> 8 & 1);
    let (bitrate, sample_rate) = (Some(kilobits * 1000), ac3_rate(bits >> 22));
    Some(Entry { bitrate, sample_rate, channels: Some(channels), ..Entry::default() })
}

fn ac3_rate(number: u32) -> Option<u32> {
    [48_000, 44_100, 32_000].get(number as usize).copied()
}

/// Of the block STREAMINFO of FLAC, behind version, flags and the block's header.
fn of_flac(bytes: &[u8]) -> Option<Entry> {
    let info = StreamInfo::read(&mut bytes.get(8..)?).ok()?;
    Some(Entry {
        sample_rate: Some(info.sample_rate),
        channels: Some(info.channels),
        bits: info.bits_per_sample,
        ..Entry::default()
    })
}

fn short(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?).into())
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn long(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the range is checked")]
fn whole_of_float(bits: u64) -> Option<u32> {
    let number = f64::from_bits(bits);
    (number >= 1.0 && number <= f64::from(u32::MAX)).then_some(number as u32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Cursor;

    fn part(kind: [u8; 4], content: &[u8]) -> Vec<u8> {
        let size = u32::try_from(content.len() + 8).unwrap();
        [&size.to_be_bytes()[..], &kind, content].concat()
    }

    /// A track of a second, with this sample entry and these boxes in its table.
    fn track(handler: [u8; 4], entry: &[u8], boxes: &[u8]) -> Vec<u8> {
        let table = part(*b"stbl", &[part(*b"stsd", &[&[0; 8], entry].concat()), boxes.to_vec()].concat());
        let handler = part(*b"hdlr", &[&[0; 8][..], &handler, &[0; 12]].concat());
        let header =
            part(*b"mdhd", &[&[0; 12][..], &1000_u32.to_be_bytes(), &1000_u32.to_be_bytes(), &[0; 4]].concat());
        let media = part(*b"mdia", &[header, handler, part(*b"minf", &table)].concat());
        part(*b"trak", &[part(*b"tkhd", &[&[0; 12][..], &7_u32.to_be_bytes(), &[0; 64]].concat()), media].concat())
    }

    /// A sample entry of 8,000 Hz and two channels.
    fn entry(kind: [u8; 4], version: u8, boxes: &[u8]) -> Vec<u8> {
        let mut entry = vec![0; usize::try_from(ENTRY_LENGTHS[usize::from(version)]).unwrap()];
        (entry[9], entry[17]) = (version, 2);
        entry[24..28].copy_from_slice(&(8000_u32 << 16).to_be_bytes());
        if version == 2 {
            entry[32..40].copy_from_slice(&96_000_f64.to_be_bytes());
            entry[40..44].copy_from_slice(&6_u32.to_be_bytes());
        }
        part(kind, &[entry, boxes.to_vec()].concat())
    }

    fn stream(bitrate: u32, config: &[u8]) -> Vec<u8> {
        let mut stream = vec![0, 0, 0, 0, 3, 0x80, 0x80, 0x80, 0x22, 0, 1, 0, 4, 0x80, 0x80, 0x80];
        stream.extend([13 + 2 + u8::try_from(config.len()).unwrap(), 0x40, 0x15, 0, 0, 0]);
        stream.extend([0; 4]);
        stream.extend(bitrate.to_be_bytes());
        stream.extend([5, u8::try_from(config.len()).unwrap()]);
        part(*b"esds", &[stream, config.to_vec()].concat())
    }

    fn file(tracks: &[Vec<u8>]) -> Vec<u8> {
        [part(*b"ftyp", b"M4A "), part(*b"mdat", &[7; 999]), part(*b"moov", &tracks.concat())].concat()
    }

    fn parse(bytes: &[u8]) -> Metadata {
        let mut metadata = Metadata::default();
        if let Err(error) = read(&mut Source::new(Cursor::new(bytes)).unwrap(), &mut metadata) {
            metadata.add_error(&error.to_string());
        }
        metadata
    }

    /// Bit rate, sample rate and channels.
    fn of(entry: &[u8], boxes: &[u8]) -> (u32, u32, u32) {
        let found =
            parse(&file(&[track(*b"vide", b"", b""), track(*b"soun", entry, boxes), track(*b"soun", b"", b"")]));
        assert_eq!((found.duration, found.error), (Some(1.0), None));
        (found.bitrate.unwrap_or(0), found.sample_rate.unwrap_or(0), found.channels.unwrap_or(0))
    }

    fn sizes(all: u32, each: &[u32]) -> Vec<u8> {
        let count = u32::try_from(each.len()).unwrap();
        let each: Vec<u8> = each.iter().filter(|_| all == 0).flat_map(|size| size.to_be_bytes()).collect();
        part(*b"stsz", &[&[0; 4][..], &all.to_be_bytes(), &count.to_be_bytes(), &each].concat())
    }

    #[test]
    fn the_configuration_of_aac_counts_more_than_the_entry() {
        let aac = stream(64_000, &[0x13, 0x90, 0x56, 0xE5, 0xA0]);
        assert_eq!(of(&entry(*b"mp4a", 0, &aac), b""), (64_000, 44_100, 2));
        let inside = part(*b"wave", &[part(*b"frma", b"mp4a"), aac].concat());
        assert_eq!(of(&entry(*b"mp4a", 1, &inside), b""), (64_000, 44_100, 2));
        assert_eq!(of(&entry(*b"mp4a", 0, &stream(0, &[0x15, 0x88])), &sizes(0, &[100, 25])), (1000, 8000, 1));
    }

    #[test]
    fn a_codec_without_a_bit_rate_has_that_of_its_samples() {
        assert_eq!(of(&entry(*b"raw ", 0, b""), &sizes(4, &vec![4; 8000])), (256_000, 8000, 2));
        assert_eq!(of(&entry(*b"lpcm", 2, b""), &sizes(0, &[500, 500])), (8000, 96_000, 6));
        let alac = part(
            *b"alac",
            &[&[0; 13][..], &[1, 0, 0], &[0; 4], &9_u32.to_be_bytes(), &48_000_u32.to_be_bytes()].concat(),
        );
        assert_eq!(of(&entry(*b"alac", 0, &alac), &sizes(0, &[250])), (2000, 48_000, 1));
        // 44,100 Hz, 5.1 channels, 448 kbit/s.
        assert_eq!(of(&entry(*b"ac-3", 0, &part(*b"dac3", &[0x50, 0x3D, 0xE0])), b""), (448_000, 44_100, 6));
        // 192 kbit/s, 48,000 Hz, stereo.
        assert_eq!(
            of(&entry(*b"ec-3", 0, &part(*b"dec3", &[0x06, 0x00, 0x20, 0x04, 0x00])), b""),
            (192_000, 48_000, 2)
        );
        assert_eq!(of(&entry(*b"Opus", 0, &part(*b"dOps", &[0, 1, 0, 0])), &sizes(0, &[125])), (1000, 48_000, 1));
    }

    #[test]
    fn fragments_are_added_up() {
        let mut bytes = file(&[track(*b"soun", &entry(*b"mp4a", 0, b""), b"")]);
        let at = bytes.windows(4).position(|kind| kind == b"mdhd").unwrap() + 4;
        bytes[at + 16..at + 20].fill(0);
        let header = |flags: u32, rest: &[u32]| {
            let rest: Vec<u8> = [flags, 7].iter().chain(rest).flat_map(|number| number.to_be_bytes()).collect();
            part(*b"tfhd", &rest)
        };
        let run = |numbers: &[u32]| {
            let numbers: Vec<u8> = numbers.iter().flat_map(|number| number.to_be_bytes()).collect();
            part(*b"trun", &numbers)
        };
        let usual = part(*b"traf", &[header(8, &[100]), run(&[1, 3, 0])].concat());
        let each = part(*b"traf", &[header(0, &[]), run(&[0x301, 2, 0, 400, 9, 500, 9])].concat());
        bytes.extend([part(*b"moof", &usual), part(*b"moof", &each)].concat());
        assert_eq!(parse(&bytes).duration, Some(1.2));
    }

    #[test]
    fn a_million_boxes_are_not_read_to_the_end() {
        let boxes = part(*b"free", b"").repeat(1_000_000);
        assert_eq!(parse(&boxes).error.as_deref(), Some("it has too many parts"));
        let deep = (0..3000).fold(Vec::new(), |inner, _| part(*b"moov", &inner));
        assert!(parse(&deep).error.is_some());
    }

    proptest! {
        #[test]
        fn no_mutation_panics(
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12),
            end in any::<prop::sample::Index>(),
        ) {
            let boxes = [stream(96_000, &[0x12, 0x10]), part(*b"dac3", &[1; 3])].concat();
            let entry = entry(*b"mp4a", 1, &part(*b"wave", &boxes));
            let mut bytes = file(&[track(*b"soun", &entry, &sizes(0, &[1, 2]))]);
            for (at, value) in changes {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
            bytes.truncate(end.index(bytes.len() * 2));
            parse(&bytes);
        }
    }
}
