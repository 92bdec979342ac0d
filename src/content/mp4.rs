//! The bit rate, the sample rate and the channels of the audio in an MP4 file, from its decoder configuration.
//!
//! lofty divides all of the media data by the playing time, which is far too much if there is
//! video too. It gives the rate of the core of HE-AAC, of which the output has twice as many samples.
//!
//! Formats: boxes, ISO/IEC 14496-12, sections 4.2 and 8; `esds`, 14496-14, section 5.6, and 14496-1,
//! section 7.2.6; `AudioSpecificConfig`, 14496-3, section 1.6.2.

use std::io::{self, Read, Seek, SeekFrom};

use super::flac::StreamInfo;
use super::found::{Field, Found, Named};
use super::source::Source;
use super::values::{tidy, track};
use super::{codecs, genres, names, text};
use crate::model::Metadata;

/// The most boxes in one box. A file with more is corrupt.
pub(super) const MAX_BOXES: usize = 4096;

/// Bytes of an audio sample entry before the boxes in it, by its version.
const ENTRY_LENGTHS: [u64; 3] = [28, 28 + 16, 28 + 36];

/// Bytes of a text that are decoded.
const LONGEST_TEXT: u64 = Metadata::LONGEST_TEXT as u64 + 1024;

/// Bytes of the name of a freeform item that are compared. All names that are known are shorter.
const LONGEST_NAME: usize = 64;

/// The kind of data that is text in UTF-16.
const UTF16: u32 = 2;

/// Reads the tags into `found`, each apart from the others. Pictures are passed over.
pub(super) fn read_tags<R: Read + Seek>(source: &mut Source<R>, found: &mut Found) -> io::Result<()> {
    let Some(movie) = Part::file(source).child(source, *b"moov")? else { return Ok(()) };
    let Some(user_data) = movie.child(source, *b"udta")? else { return Ok(()) };
    let Some(meta) = user_data.child(source, *b"meta")? else { return Ok(()) };
    // Version and flags.
    let meta = Part { start: meta.start + 4, ..meta };
    let Some(list) = meta.child(source, *b"ilst")? else { return Ok(()) };
    let mut items = Vec::new();
    list.each(source, |part| {
        items.push(part);
        true
    })?;
    found.within("MP4");
    let mut named = Named::default();
    let read = read_items(source, &items, found, &mut named);
    // An item that MP4 has for a field goes before one with a name of its own.
    found.fill(named);
    read
}

fn read_items<R: Read + Seek>(
    source: &mut Source<R>,
    items: &[Part],
    found: &mut Found,
    named: &mut Named,
) -> io::Result<()> {
    for &item in items {
        match Item::of(item.kind) {
            Some(Item::Cover) => found.cover(),
            Some(Item::Field(field)) if found.wants(field) => {
                let value = value_of(source, item)?;
                found.set(field, value.and_then(|value| value.text(item.kind)));
            }
            Some(Item::Field(_)) => {}
            Some(Item::Freeform) => {
                let name = name_of(source, item)?;
                match names::field_of(&name) {
                    Some(field) if named.wants(field, found) => {
                        named.set(field, value_of(source, item)?.and_then(|value| value.plain_text()));
                    }
                    Some(_) => {}
                    None => found.unread(|| name),
                }
            }
            None => found.unread(|| text::latin1(&item.kind)),
        }
    }
    Ok(())
}

/// What an item in the list of tags is.
enum Item {
    Field(Field),
    /// An item with a name of its own.
    Freeform,
    Cover,
}

impl Item {
    fn of(kind: [u8; 4]) -> Option<Self> {
        Some(Self::Field(match &kind {
            b"\xa9nam" => Field::Title,
            b"\xa9ART" => Field::Artist,
            b"\xa9alb" => Field::Album,
            b"\xa9day" => Field::Date,
            b"\xa9gen" | b"gnre" => Field::Genre,
            b"trkn" => Field::Track,
            b"aART" => Field::AlbumArtist,
            b"disk" => Field::Disc,
            b"\xa9wrt" => Field::Composer,
            b"tmpo" => Field::Bpm,
            b"\xa9cmt" => Field::Comment,
            b"cpil" => Field::Compilation,
            b"----" => return Some(Self::Freeform),
            b"covr" => return Some(Self::Cover),
            _ => return None,
        }))
    }
}

/// The name of a freeform item, such as `MusicBrainz Album Id`.
fn name_of<R: Read + Seek>(source: &mut Source<R>, item: Part) -> io::Result<String> {
    let Some(name) = item.child(source, *b"name")? else { return Ok(String::new()) };
    let mut bytes = [0; LONGEST_NAME];
    // Version and flags.
    let begin = name.start + 4;
    let length = usize::try_from(name.end.saturating_sub(begin)).unwrap_or(LONGEST_NAME).min(LONGEST_NAME);
    let bytes = source.read_at(begin, &mut bytes[..length])?;
    Ok(String::from_utf8_lossy(bytes).into_owned())
}

/// The value of an item: the first one.
struct Data {
    kind: u32,
    bytes: Vec<u8>,
}

fn value_of<R: Read + Seek>(source: &mut Source<R>, item: Part) -> io::Result<Option<Data>> {
    let Some(data) = item.child(source, *b"data")? else { return Ok(None) };
    source.seek(SeekFrom::Start(data.start))?;
    let kind = u32::from_be_bytes(source.array()?);
    let _locale: [u8; 4] = source.array()?;
    let mut bytes = Vec::new();
    let length = data.end.saturating_sub(data.start + 8).min(LONGEST_TEXT);
    source.by_ref().take(length).read_to_end(&mut bytes)?;
    Ok(Some(Data { kind, bytes }))
}

impl Data {
    /// The text of an item of this kind. Some kinds have numbers.
    fn text(&self, kind: [u8; 4]) -> Option<String> {
        match (&kind, &self.bytes[..]) {
            (b"trkn" | b"disk", [_, _, high, low, rest @ ..]) => {
                let number = u16::from_be_bytes([*high, *low]);
                let total = rest.first_chunk().map_or(0, |&total| u16::from_be_bytes(total));
                let total = (total > 0).then(|| total.to_string());
                track((number > 0).then(|| number.to_string()), total)
            }
            // The number of ID3v1, counted from one.
            (b"gnre", [high, low, ..]) => {
                let number = usize::from(u16::from_be_bytes([*high, *low]));
                number.checked_sub(1).and_then(genres::name).map(ToOwned::to_owned)
            }
            (b"tmpo" | b"cpil", bytes @ [_, ..]) if bytes.len() <= 8 => {
                Some(bytes.iter().fold(0_u64, |number, &byte| number << 8 | u64::from(byte)).to_string())
            }
            (b"trkn" | b"disk" | b"gnre" | b"tmpo" | b"cpil", _) => None,
            _ => self.plain_text(),
        }
    }

    fn plain_text(&self) -> Option<String> {
        match self.kind {
            UTF16 => tidy(&text::utf16_be(&self.bytes)),
            _ => tidy(&text::utf8_or_windows(&self.bytes)),
        }
    }
}

/// What the configuration of a decoder says; `None` for what it does not say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Described {
    /// Bits per second.
    pub(super) bitrate: Option<u32>,
    /// Samples per second of the output.
    pub(super) sample_rate: Option<u32>,
    /// Channels of the output.
    pub(super) channels: Option<u32>,
    /// The codec.
    pub(super) codec: Option<&'static str>,
    /// Bits per sample, if the codec keeps samples as they are.
    pub(super) bits_per_sample: Option<u32>,
}

/// What is said of the first audio track.
pub(super) fn described<R: Read + Seek>(source: &mut Source<R>) -> io::Result<Described> {
    let Some(movie) = Part::file(source).child(source, *b"moov")? else { return Ok(Described::default()) };
    let Some(media) = sound_of(source, movie)? else { return Ok(Described::default()) };
    Ok(described_in(source, media)?.unwrap_or_default())
}

/// The media of the first audio track of a movie.
pub(super) fn sound_of<R: Read + Seek>(source: &mut Source<R>, movie: Part) -> io::Result<Option<Part>> {
    for track in movie.children(source, *b"trak")? {
        let Some(media) = track.child(source, *b"mdia")? else { continue };
        let Some(handler) = media.child(source, *b"hdlr")? else { continue };
        source.seek(SeekFrom::Start(handler.start + 8))?;
        if source.array()? == *b"soun" {
            return Ok(Some(media));
        }
    }
    Ok(None)
}

fn described_in<R: Read + Seek>(source: &mut Source<R>, media: Part) -> io::Result<Option<Described>> {
    let Some(information) = media.child(source, *b"minf")? else { return Ok(None) };
    let Some(table) = information.child(source, *b"stbl")? else { return Ok(None) };
    let Some(descriptions) = table.child(source, *b"stsd")? else { return Ok(None) };
    // Version, flags and a count.
    let descriptions = Part { start: descriptions.start + 8, ..descriptions };
    let mut first = None;
    descriptions.each(source, |part| {
        first = Some(part);
        false
    })?;
    let Some(entry) = first else { return Ok(None) };
    source.seek(SeekFrom::Start(entry.start + 8))?;
    let version = usize::from(u16::from_be_bytes(source.array()?));
    let _revision_vendor_and_channels: [u8; 8] = source.array()?;
    let bits = u16::from_be_bytes(source.array()?);
    let Some(length) = ENTRY_LENGTHS.get(version) else { return Ok(None) };
    let inner = Part { start: entry.start + length, ..entry };
    if entry.kind != *b"mp4a" {
        let codec = codecs::of_sample_entry(entry.kind, bits);
        let bits = exact_bits(source, inner)?.unwrap_or(bits.into());
        return Ok(Some(Described { codec, bits_per_sample: codecs::bits_of(codec, bits), ..Described::default() }));
    }
    let stream = match inner.child(source, *b"esds")? {
        Some(stream) => stream,
        // QuickTime puts a box around it.
        None => match inner.child(source, *b"wave")? {
            Some(wave) => match wave.child(source, *b"esds")? {
                Some(stream) => stream,
                None => return Ok(None),
            },
            None => return Ok(None),
        },
    };
    // Version and flags.
    source.seek(SeekFrom::Start(stream.start + 4))?;
    of_descriptor(source)
}

/// The bits per sample in the configuration of ALAC or FLAC. The entry itself often says 16, whatever they are.
fn exact_bits<R: Read + Seek>(source: &mut Source<R>, entry: Part) -> io::Result<Option<u32>> {
    if let Some(config) = entry.child(source, *b"alac")? {
        // Version and flags, samples per frame, and the version that can read it.
        source.seek(SeekFrom::Start(config.start + 4 + 4 + 1))?;
        let [bits] = source.array()?;
        return Ok(Some(bits.into()));
    }
    if let Some(config) = entry.child(source, *b"dfLa")? {
        // Version and flags, and the header of the block.
        source.seek(SeekFrom::Start(config.start + 4 + 4))?;
        return Ok(Some(StreamInfo::read(source)?.bits_per_sample));
    }
    Ok(None)
}

/// The decoder's configuration in an elementary stream's descriptor.
fn of_descriptor<R: Read + Seek>(source: &mut Source<R>) -> io::Result<Option<Described>> {
    if descriptor(source)? != 3 {
        return Ok(None);
    }
    let [_, _, flags] = source.array()?;
    if flags & 0x80 != 0 {
        source.seek(SeekFrom::Current(2))?;
    }
    if flags & 0x40 != 0 {
        let [length] = source.array()?;
        source.seek(SeekFrom::Current(length.into()))?;
    }
    if flags & 0x20 != 0 {
        source.seek(SeekFrom::Current(2))?;
    }
    if descriptor(source)? != 4 {
        return Ok(None);
    }
    let [object_type] = source.array()?;
    // Stream type, buffer size and the highest bit rate.
    source.seek(SeekFrom::Current(1 + 3 + 4))?;
    let bitrate = Some(u32::from_be_bytes(source.array()?)).filter(|&bitrate| bitrate > 0);
    let codec = codecs::of_object_type(object_type);
    let mut described = Described { bitrate, codec, ..Described::default() };
    // A file that ends here still has a bit rate.
    if descriptor(source).is_ok_and(|tag| tag == 5) {
        let mut config = [0; 16];
        let at = source.stream_position()?;
        let output = Output::of(Bits::new(source.read_at(at, &mut config)?)).unwrap_or_default();
        (described.sample_rate, described.channels) = (output.sample_rate, output.channels);
    }
    Ok(Some(described))
}

/// What the decoder puts out, where the core of the stream has something else.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Output {
    sample_rate: Option<u32>,
    channels: Option<u32>,
}

/// The sample rates by their number.
const RATES: [u32; 13] =
    [96_000, 88_200, 64_000, 48_000, 44_100, 32_000, 24_000, 22_050, 16_000, 12_000, 11_025, 8_000, 7_350];

/// The object types of spectral band replication (HE-AAC), and of parametric stereo on top of it (HE-AAC v2).
const SBR: u32 = 5;
const PARAMETRIC_STEREO: u32 = 29;

/// The words that announce both in a configuration that older decoders understand too.
const SBR_FOLLOWS: u32 = 0x2B7;
const PARAMETRIC_STEREO_FOLLOWS: u32 = 0x548;

impl Output {
    /// What an `AudioSpecificConfig` says, if it announces more than its core.
    fn of(mut bits: Bits<'_>) -> Option<Self> {
        let mut object = bits.object_type()?;
        bits.rate()?;
        let channels = bits.take(4)?;
        if object == SBR || object == PARAMETRIC_STEREO {
            let is_stereo = object == PARAMETRIC_STEREO && channels == 1;
            return Some(Self { sample_rate: bits.rate()?, channels: is_stereo.then_some(2) });
        }
        // The configuration of the core: only the object types of AAC have this form.
        if !matches!(object, 1..=4) || channels == 0 {
            return None;
        }
        let _frame_length = bits.take(1)?;
        if bits.take(1)? == 1 {
            bits.take(14)?;
        }
        let _extension = bits.take(1)?;
        if bits.take(11)? != SBR_FOLLOWS {
            return None;
        }
        object = bits.object_type()?;
        if object != SBR || bits.take(1)? == 0 {
            return None;
        }
        let sample_rate = bits.rate()?;
        let has_stereo = bits.take(11) == Some(PARAMETRIC_STEREO_FOLLOWS) && bits.take(1) == Some(1);
        Some(Self { sample_rate, channels: (has_stereo && channels == 1).then_some(2) })
    }
}

/// Reads bits, the highest one of each byte first.
struct Bits<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Bits<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    fn take(&mut self, count: usize) -> Option<u32> {
        let mut number = 0;
        for _ in 0..count {
            let byte = self.bytes.get(self.at / 8)?;
            number = number << 1 | u32::from(byte >> (7 - self.at % 8) & 1);
            self.at += 1;
        }
        Some(number)
    }

    fn object_type(&mut self) -> Option<u32> {
        match self.take(5)? {
            31 => Some(32 + self.take(6)?),
            object => Some(object),
        }
    }

    /// A sample rate; the inner `None` is for a number without one.
    #[expect(clippy::option_option, reason = "the outer one is for the end of the bits")]
    fn rate(&mut self) -> Option<Option<u32>> {
        match self.take(4)? {
            15 => self.take(24).map(Some),
            number => Some(RATES.get(number as usize).copied()),
        }
    }
}

/// Reads a descriptor's tag, and skips its size, of which every byte but the last has its high bit set.
fn descriptor<R: Read + Seek>(source: &mut Source<R>) -> io::Result<u8> {
    let [tag] = source.array()?;
    for _ in 0..4 {
        let [size] = source.array()?;
        if size & 0x80 == 0 {
            break;
        }
    }
    Ok(tag)
}

/// A box: its type, and the positions of its content.
#[derive(Clone, Copy)]
pub(super) struct Part {
    pub(super) kind: [u8; 4],
    pub(super) start: u64,
    pub(super) end: u64,
}

impl Part {
    /// The whole file, as if it was the content of a box.
    pub(super) fn file<R: Read + Seek>(source: &Source<R>) -> Self {
        Self { kind: [0; 4], start: 0, end: source.length() }
    }

    /// All boxes of this type in this one.
    pub(super) fn children<R: Read + Seek>(self, source: &mut Source<R>, kind: [u8; 4]) -> io::Result<Vec<Self>> {
        let mut found = Vec::new();
        self.each(source, |part| {
            if part.kind == kind {
                found.push(part);
            }
            true
        })?;
        Ok(found)
    }

    /// The first box of this type in this one.
    pub(super) fn child<R: Read + Seek>(self, source: &mut Source<R>, kind: [u8; 4]) -> io::Result<Option<Self>> {
        let mut found = None;
        self.each(source, |part| {
            found = (part.kind == kind).then_some(part);
            found.is_none()
        })?;
        Ok(found)
    }

    /// Calls `visit` with each box in this one, until it returns false.
    pub(super) fn each<R: Read + Seek>(
        self,
        source: &mut Source<R>,
        mut visit: impl FnMut(Self) -> bool,
    ) -> io::Result<()> {
        let mut at = self.start;
        for _ in 0..MAX_BOXES {
            if self.end.saturating_sub(at) < 8 {
                break;
            }
            source.seek(SeekFrom::Start(at))?;
            let size = u32::from_be_bytes(source.array()?);
            let kind = source.array()?;
            let (header, size) = match size {
                0 => (8, self.end - at),
                1 => (16, u64::from_be_bytes(source.array()?)),
                size => (8, size.into()),
            };
            if size < header {
                break;
            }
            let end = at.saturating_add(size).min(self.end);
            if !visit(Self { kind, start: at + header, end }) {
                break;
            }
            at = end;
        }
        Ok(())
    }
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

    fn track(handler: [u8; 4], bitrate: u32, version: u8, quicktime: bool) -> Vec<u8> {
        let mut stream = vec![0, 0, 0, 0, 3, 0x80, 0x80, 0x80, 0x22, 0, 1, 0, 4, 0x14, 0x40, 0x15, 0, 0, 0];
        stream.extend([0; 4]);
        stream.extend(bitrate.to_be_bytes());
        let mut stream = part(*b"esds", &stream);
        if quicktime {
            stream = part(*b"wave", &[part(*b"frma", b"mp4a"), stream].concat());
        }
        let mut entry = vec![0; usize::try_from(ENTRY_LENGTHS[usize::from(version)]).unwrap()];
        entry[9] = version;
        let entry = part(*b"mp4a", &[entry, stream].concat());
        let table = part(*b"stbl", &part(*b"stsd", &[vec![0; 8], entry].concat()));
        let handler = part(*b"hdlr", &[&[0; 8][..], &handler, &[0; 12]].concat());
        part(*b"trak", &part(*b"mdia", &[part(*b"mdhd", &[0; 24]), handler, part(*b"minf", &table)].concat()))
    }

    fn file(tracks: &[Vec<u8>]) -> Vec<u8> {
        [part(*b"ftyp", b"M4A "), part(*b"mdat", &[7; 999]), part(*b"moov", &tracks.concat())].concat()
    }

    fn item(kind: [u8; 4], data_kind: u32, value: &[u8]) -> Vec<u8> {
        part(kind, &part(*b"data", &[&data_kind.to_be_bytes()[..], &[0; 4], value].concat()))
    }

    fn freeform(name: &str, value: &[u8]) -> Vec<u8> {
        let text = |kind, text: &[u8]| part(kind, &[&[0; 4], text].concat());
        let data = part(*b"data", &[&[0, 0, 0, 1, 0, 0, 0, 0], value].concat());
        part(*b"----", &[text(*b"mean", b"com.apple.iTunes"), text(*b"name", name.as_bytes()), data].concat())
    }

    #[test]
    fn each_tag_is_read_apart_from_the_others_and_the_cover_not_at_all() {
        let items = [
            item(*b"covr", 13, &vec![7; 70_000]),
            item(*b"\xa9nam", 1, "Tïtle".as_bytes()),
            item(*b"\xa9ART", 0, b"Bj\xf6rk"),
            item(*b"\xa9alb", 2, b"\0A\0l"),
            part(*b"\xa9day", b""),
            item(*b"gnre", 0, &[0, 18]),
            item(*b"trkn", 0, &[0, 0, 0, 3, 0, 12, 0, 0]),
            freeform("ALBUMARTIST", b"Named"),
            freeform("MusicBrainz Track Id", b"recording"),
            freeform("iTunNORM", b" 00000"),
            item(*b"aART", 1, b"AA"),
            item(*b"disk", 0, &[0, 0, 0, 1, 0, 0]),
            item(*b"tmpo", 21, &[0, 128]),
            item(*b"cpil", 21, &[1]),
        ];
        let meta = part(*b"meta", &[vec![0; 4], part(*b"ilst", &items.concat())].concat());
        let bytes = file(&[part(*b"udta", &meta)]);
        let of = |bytes: &[u8]| {
            let mut found = Found::default();
            let _ = read_tags(&mut Source::new(Cursor::new(bytes)).unwrap(), &mut found);
            let mut metadata = Metadata::default();
            found.show(&mut metadata);
            let tags: Vec<_> = metadata.tags.present().map(|(_, text)| text.to_owned()).collect();
            tags.join(" ")
        };
        assert_eq!(of(&bytes), "Tïtle Björk Al Rock 3/12 AA 1 recording 128 1");
        assert!((0..bytes.len()).step_by(97).all(|length| of(&bytes[..length]).len() <= 48));
    }

    fn bitrate(bytes: &[u8]) -> Option<u32> {
        described(&mut Source::new(Cursor::new(bytes)).unwrap()).unwrap_or_default().bitrate
    }

    #[test]
    fn the_bit_rate_is_that_of_the_first_audio_track() {
        let tracks = [track(*b"vide", 9, 0, false), track(*b"soun", 96_000, 0, false), track(*b"soun", 8, 0, false)];
        assert_eq!(bitrate(&file(&tracks)), Some(96_000));
        assert_eq!(bitrate(&file(&tracks[..1])), None);
        assert_eq!(bitrate(&file(&[track(*b"soun", 0, 0, false)])), None);
    }

    #[test]
    fn the_output_of_he_aac_has_more_samples_than_its_core() {
        let of = |bytes: &[u8]| Output::of(Bits::new(bytes));
        let output = |rate, channels| Some(Output { sample_rate: Some(rate), channels });
        // AAC-LC of 44,100 Hz, and HE-AAC of 22,050 Hz announced in both ways, as encoders write them.
        assert_eq!(of(&[0x12, 0x10]), None);
        assert_eq!(of(&[0x2B, 0x92, 0x08, 0x00]), output(44_100, None));
        assert_eq!(of(&[0x13, 0x90, 0x56, 0xE5, 0xA0]), output(44_100, None));
        assert_eq!(of(&[0x13, 0x88, 0x56, 0xE5, 0xA5, 0x48, 0x80]), output(44_100, Some(2)));
        assert!((0..4).all(|length| of(&[0x13, 0x90, 0x56, 0xE5, 0xA0][..length]).is_none()));
    }

    #[test]
    fn quicktime_files_are_read() {
        for version in 0..3 {
            assert_eq!(bitrate(&file(&[track(*b"soun", 64_000, version, true)])), Some(64_000));
        }
    }

    #[test]
    fn a_file_that_is_truncated_anywhere_does_no_harm() {
        let bytes = file(&[track(*b"soun", 96_000, 0, true)]);
        assert!((0..bytes.len()).all(|length| bitrate(&bytes[..length]).is_none()));
    }

    proptest! {
        #[test]
        fn no_mutation_panics(
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12)
        ) {
            let mut bytes = file(&[track(*b"vide", 9, 0, false), track(*b"soun", 96_000, 1, true)]);
            for (at, value) in changes {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
            bitrate(&bytes);
        }
    }
}
