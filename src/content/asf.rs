//! Windows Media (ASF): the header's properties and its two tag objects.
//!
//! Other objects, such as pictures, are skipped by seeking. One attribute at a time is kept in
//! memory, and an attribute's size has 16 bits.
//!
//! Format: Advanced Systems Format (ASF) Specification, revision 01.20.03, sections 2 and 3.

use std::io::{self, Read, Seek, SeekFrom};

use super::found::{Field, Found};
use super::source::Source;
use super::{codecs, names};
use crate::model::Metadata;

/// The first bytes of every ASF file: the GUID of the header object.
pub(super) const MAGIC: [u8; 16] = guid(0x75B2_2630, 0x668E, 0x11CF, 0xA6D9_00AA_0062_CE6C);

const FILE_PROPERTIES: [u8; 16] = guid(0x8CAB_DCA1, 0xA947, 0x11CF, 0x8EE4_00C0_0C20_5365);
const STREAM_PROPERTIES: [u8; 16] = guid(0xB7DC_0791, 0xA9B7, 0x11CF, 0x8EE6_00C0_0C20_5365);
const AUDIO_STREAM: [u8; 16] = guid(0xF869_9E40, 0x5B4D, 0x11CF, 0xA8FD_0080_5F5C_442B);
const CONTENT_DESCRIPTION: [u8; 16] = guid(0x75B2_2633, 0x668E, 0x11CF, 0xA6D9_00AA_0062_CE6C);
const EXTENDED_CONTENT_DESCRIPTION: [u8; 16] = guid(0xD2D0_A440, 0xE307, 0x11D2, 0x97F0_00A0_C95E_A850);

/// Bytes in front of an object's content: its GUID and its size.
pub(super) const OBJECT_HEADER: u64 = 24;

/// Bytes in front of the header's first object: object header, count and two reserved bytes.
const HEADER_START: u64 = OBJECT_HEADER + 6;

/// The most objects in a header. Real ones have about ten, and one with more is corrupt.
const MAX_OBJECTS: u32 = 1024;

/// Bytes of the longest attribute name that is read. All known names, with their terminators, are shorter.
const LONGEST_NAME: usize = 64;

/// A GUID in the byte order of files: the first three fields little-endian, the rest as written.
pub(super) const fn guid(first: u32, second: u16, third: u16, rest: u64) -> [u8; 16] {
    let (a, b, c, d) = (first.to_le_bytes(), second.to_le_bytes(), third.to_le_bytes(), rest.to_be_bytes());
    [a[0], a[1], a[2], a[3], b[0], b[1], c[0], c[1], d[0], d[1], d[2], d[3], d[4], d[5], d[6], d[7]]
}

/// Reads the header into `metadata`, and the tags into `found`. On failure, both have what came before the corrupt part.
pub(super) fn read<R: Read + Seek>(
    source: &mut Source<R>,
    metadata: &mut Metadata,
    found: &mut Found,
) -> io::Result<()> {
    found.within("ASF");
    let mut attributes = Attributes { found, plain_date: None };
    let result = read_header(source, metadata, &mut attributes);
    // Only ffmpeg writes an attribute of the name `date`.
    attributes.found.set(Field::Date, attributes.plain_date);
    result
}

struct Attributes<'found> {
    found: &'found mut Found,
    plain_date: Option<String>,
}

/// What the attribute of a name means.
enum Meaning {
    Field(Field),
    PlainDate,
    Cover,
}

impl Meaning {
    /// The texts of Content Description have no names in the file; they get the names that mutagen gives them.
    fn of(name: &str) -> Option<Self> {
        Some(Self::Field(match name {
            "Title" => Field::Title,
            "Author" => Field::Artist,
            "Description" => Field::Comment,
            "WM/AlbumTitle" => Field::Album,
            "WM/Year" => Field::Date,
            "WM/Genre" => Field::Genre,
            "WM/TrackNumber" => Field::Track,
            "date" => return Some(Self::PlainDate),
            "WM/Picture" => return Some(Self::Cover),
            // ffmpeg writes the names of its own as they are.
            "album_artist" => Field::AlbumArtist,
            _ => names::field_of(name.strip_prefix("WM/").unwrap_or(name))?,
        }))
    }
}

fn read_header<R: Read + Seek>(
    source: &mut Source<R>,
    metadata: &mut Metadata,
    attributes: &mut Attributes<'_>,
) -> io::Result<()> {
    source.rewind()?;
    if source.array()? != MAGIC {
        return Err(corrupt("no asf header"));
    }
    let header_end = u64::from_le_bytes(source.array()?);
    let count = u32::from_le_bytes(source.array()?);
    let mut start = HEADER_START;
    for index in 0..count {
        if start.saturating_add(OBJECT_HEADER) > header_end {
            break;
        }
        if index == MAX_OBJECTS {
            return Err(corrupt("too many objects in the asf header"));
        }
        source.seek(SeekFrom::Start(start))?;
        let kind: [u8; 16] = source.array()?;
        let size = u64::from_le_bytes(source.array()?);
        let end = start.checked_add(size).filter(|&end| size >= OBJECT_HEADER && end <= header_end);
        let Some(end) = end else {
            return Err(corrupt("an object of an impossible size in the asf header"));
        };
        match kind {
            FILE_PROPERTIES => file_properties(source, metadata)?,
            STREAM_PROPERTIES => stream_properties(source, metadata)?,
            CONTENT_DESCRIPTION => content_description(source, attributes)?,
            EXTENDED_CONTENT_DESCRIPTION => extended_content_description(source, attributes)?,
            _ => {}
        }
        if source.stream_position()? > end {
            return Err(corrupt("an object in the asf header is longer than it says"));
        }
        start = end;
    }
    Ok(())
}

/// File Properties, section 3.2.
fn file_properties<R: Read + Seek>(source: &mut Source<R>, metadata: &mut Metadata) -> io::Result<()> {
    // File id, size, creation date and packet count.
    skip(source, 40)?;
    let play_duration = u64::from_le_bytes(source.array()?);
    let _send_duration: [u8; 8] = source.array()?;
    let preroll = u64::from_le_bytes(source.array()?);
    // In units of 100 ns, and the preroll, in milliseconds, is part of it.
    let duration = play_duration as f64 / 1e7 - preroll as f64 / 1e3;
    metadata.duration = (duration > 0.0).then_some(duration);
    Ok(())
}

/// Stream Properties, section 3.3, with the WAVEFORMATEX of section 9.1 in it. The first audio stream counts.
fn stream_properties<R: Read + Seek>(source: &mut Source<R>, metadata: &mut Metadata) -> io::Result<()> {
    if metadata.channels.is_some() || source.array()? != AUDIO_STREAM {
        return Ok(());
    }
    // Error correction type, time offset, two lengths, flags and four reserved bytes.
    skip(source, 38)?;
    let codec = u16::from_le_bytes(source.array()?);
    let channels = u16::from_le_bytes(source.array()?);
    let sample_rate = u32::from_le_bytes(source.array()?);
    let bytes_per_second = u32::from_le_bytes(source.array()?);
    metadata.channels = (channels > 0).then_some(channels.into());
    metadata.sample_rate = (sample_rate > 0).then_some(sample_rate);
    metadata.bitrate = bytes_per_second.checked_mul(8).filter(|&bitrate| bitrate > 0);
    let _block: [u8; 2] = source.array()?;
    let bits = u16::from_le_bytes(source.array()?);
    let codec = codecs::of_wave(codec, bits);
    metadata.codec = codec.map(ToOwned::to_owned);
    metadata.bits_per_sample = codecs::bits_of(codec, bits.into());
    Ok(())
}

/// Content Description, section 3.10: five lengths, then title, author, copyright, description and rating.
fn content_description<R: Read + Seek>(source: &mut Source<R>, attributes: &mut Attributes<'_>) -> io::Result<()> {
    let mut lengths = [0; 5];
    for length in &mut lengths {
        *length = u16::from_le_bytes(source.array()?);
    }
    let names = ["Title", "Author", "Copyright", "Description", "Rating"];
    for (name, length) in names.into_iter().zip(lengths) {
        put(source, attributes, name, Kind::Text, length)?;
    }
    Ok(())
}

/// Extended Content Description, section 3.11: a count, then as many attributes.
fn extended_content_description<R: Read + Seek>(
    source: &mut Source<R>,
    attributes: &mut Attributes<'_>,
) -> io::Result<()> {
    let count = u16::from_le_bytes(source.array()?);
    for _ in 0..count {
        let name_length = u16::from_le_bytes(source.array()?);
        let name = if usize::from(name_length) <= LONGEST_NAME {
            text(source, name_length)?
        } else {
            skip(source, name_length.into())?;
            String::new()
        };
        let kind = Kind::of(u16::from_le_bytes(source.array()?));
        let length = u16::from_le_bytes(source.array()?);
        put(source, attributes, name.trim_end_matches('\0'), kind, length)?;
    }
    Ok(())
}

/// The types of values.
#[derive(Clone, Copy)]
enum Kind {
    Text,
    Number,
    Other,
}

impl Kind {
    fn of(number: u16) -> Self {
        match number {
            0 => Self::Text,
            // The first of these is for yes and no.
            2..=5 => Self::Number,
            _ => Self::Other,
        }
    }
}

/// Reads the next value, of `length` bytes, into the field of its name, or skips it.
fn put<R: Read + Seek>(
    source: &mut Source<R>,
    attributes: &mut Attributes<'_>,
    name: &str,
    kind: Kind,
    length: u16,
) -> io::Result<()> {
    let Attributes { found, plain_date } = attributes;
    match Meaning::of(name) {
        Some(Meaning::Field(field)) if found.wants(field) => {
            let value = value(source, kind, length)?;
            found.set(field, value);
        }
        Some(Meaning::PlainDate) if plain_date.is_none() => *plain_date = value(source, kind, length)?,
        meaning => {
            match meaning {
                Some(Meaning::Cover) => found.cover(),
                None if length > 0 => found.unread(|| name.to_owned()),
                _ => {}
            }
            skip(source, length.into())?;
        }
    }
    Ok(())
}

/// Reads a value as a text.
fn value<R: Read + Seek>(source: &mut Source<R>, kind: Kind, length: u16) -> io::Result<Option<String>> {
    match (kind, length) {
        (Kind::Text, _) => Ok(super::values::tidy(&text(source, length)?)),
        (Kind::Number, 1..=8) => {
            let mut bytes = [0; 8];
            source.read_exact(&mut bytes[..usize::from(length)])?;
            Ok(Some(u64::from_le_bytes(bytes).to_string()))
        }
        _ => skip(source, length.into()).map(|()| None),
    }
}

/// Reads `length` bytes of little-endian UTF-16. Anything that is not a character becomes U+FFFD.
fn text<R: Read>(source: &mut R, length: u16) -> io::Result<String> {
    let mut bytes = vec![0; length.into()];
    source.read_exact(&mut bytes)?;
    let units = bytes.as_chunks().0.iter().map(|&unit| u16::from_le_bytes(unit));
    Ok(char::decode_utf16(units).map(|unit| unit.unwrap_or(char::REPLACEMENT_CHARACTER)).collect())
}

fn skip<R: Read + Seek>(source: &mut Source<R>, bytes: u32) -> io::Result<()> {
    source.seek(SeekFrom::Current(bytes.into()))?;
    Ok(())
}

fn corrupt(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Cursor;

    fn object(kind: [u8; 16], content: &[u8]) -> Vec<u8> {
        [&kind[..], &(content.len() as u64 + 24).to_le_bytes(), content].concat()
    }

    fn utf16(text: &str) -> Vec<u8> {
        text.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect()
    }

    fn attribute(name: &str, kind: u16, value: &[u8]) -> Vec<u8> {
        let name = utf16(name);
        let (name_length, length) = (u16::try_from(name.len()).unwrap(), u16::try_from(value.len()).unwrap());
        [&name_length.to_le_bytes()[..], &name, &kind.to_le_bytes(), &length.to_le_bytes(), value].concat()
    }

    fn extended(attributes: &[Vec<u8>]) -> Vec<u8> {
        let count = u16::try_from(attributes.len()).unwrap();
        object(EXTENDED_CONTENT_DESCRIPTION, &[&count.to_le_bytes()[..], &attributes.concat()].concat())
    }

    fn properties() -> Vec<u8> {
        let mut file = vec![0; 80];
        file[40..48].copy_from_slice(&46_000_000_u64.to_le_bytes());
        file[56..64].copy_from_slice(&3100_u64.to_le_bytes());
        let mut stream = AUDIO_STREAM.to_vec();
        stream.resize(54, 0);
        stream.extend([0x61, 1, 2, 0]);
        stream.extend(44_100_u32.to_le_bytes());
        stream.extend(8005_u32.to_le_bytes());
        stream.extend([0; 6]);
        [object(FILE_PROPERTIES, &file), object(STREAM_PROPERTIES, &stream)].concat()
    }

    fn description(title: &str, author: &str) -> Vec<u8> {
        let (title, author) = (utf16(title), utf16(author));
        let mut content = Vec::new();
        for text in [&title, &author] {
            content.extend(u16::try_from(text.len()).unwrap().to_le_bytes());
        }
        content.extend([0; 6]);
        object(CONTENT_DESCRIPTION, &[content, title, author].concat())
    }

    fn file(objects: &[Vec<u8>]) -> Vec<u8> {
        let objects_count = u32::try_from(objects.len()).unwrap();
        let content = objects.concat();
        let mut file = MAGIC.to_vec();
        file.extend((content.len() as u64 + HEADER_START).to_le_bytes());
        file.extend(objects_count.to_le_bytes());
        file.extend([1, 2]);
        file.extend(content);
        file
    }

    fn sample() -> Vec<u8> {
        let properties = properties();
        let (file_properties, stream_properties) = properties.split_at(104);
        file(&[
            file_properties.to_vec(),
            object([7; 16], &[0; 100]),
            description("Ähnlich 🎵", "Somebody"),
            stream_properties.to_vec(),
            extended(&[
                attribute("WM/Picture", 1, &[9; 3000]),
                attribute(&"long".repeat(50), 0, &utf16("value")),
                attribute("WM/AlbumTitle", 0, &utf16("  The Album  ")),
                attribute("WM/AlbumTitle", 0, &utf16("Another")),
                attribute("WM/Year", 0, &utf16("1998")),
                attribute("date", 0, &utf16("2001")),
                attribute("WM/Genre", 0, &utf16("")),
                attribute("WM/TrackNumber", 3, &7_u32.to_le_bytes()),
                attribute("WM/AlbumArtist", 0, &utf16("Various")),
                attribute("WM/IsCompilation", 2, &1_u32.to_le_bytes()),
                attribute("MusicBrainz/Album Id", 0, &utf16("album")),
            ]),
        ])
    }

    fn parse(bytes: &[u8]) -> (Metadata, Option<String>) {
        let (mut metadata, mut found) = (Metadata::default(), Found::default());
        let result = read(&mut Source::new(Cursor::new(bytes)).unwrap(), &mut metadata, &mut found);
        found.show(&mut metadata);
        (metadata, result.err().map(|error| error.to_string()))
    }

    #[test]
    fn properties_and_tags_are_read() {
        let (metadata, error) = parse(&sample());
        assert_eq!(error, None);
        assert!((metadata.duration.unwrap() - 1.5).abs() < 1e-9);
        assert_eq!((metadata.bitrate, metadata.sample_rate, metadata.channels), (Some(64_040), Some(44_100), Some(2)));
        let tags: Vec<_> = metadata.tags.present().collect();
        assert_eq!(
            tags,
            [
                ("title", "Ähnlich 🎵"),
                ("artist", "Somebody"),
                ("album", "The Album"),
                ("date", "1998"),
                ("track", "7"),
                ("albumartist", "Various"),
                ("musicbrainz_albumid", "album"),
                ("compilation", "1"),
            ]
        );
        assert!(metadata.has_cover && metadata.codec.as_deref() == Some("wmav2"));
    }

    #[test]
    fn a_plain_date_counts_if_there_is_no_year_and_numbers_may_have_any_width() {
        let (metadata, _) = parse(&file(&[extended(&[
            attribute("date", 0, &utf16("2001")),
            attribute("WM/TrackNumber", 5, &[9, 1]),
            attribute("WM/Genre", 1, b"bytes"),
        ])]));
        assert_eq!(metadata.tags.present().collect::<Vec<_>>(), [("date", "2001"), ("track", "265")]);
    }

    #[test]
    fn a_preroll_longer_than_the_audio_leaves_no_duration() {
        let mut content = vec![0; 80];
        content[56..64].fill(0xFF);
        assert_eq!(parse(&file(&[object(FILE_PROPERTIES, &content)])).0.duration, None);
    }

    #[test]
    fn wrong_sizes_and_counts_are_detected() {
        let mut huge_count = sample();
        huge_count[24..28].fill(0xFF);
        assert_eq!(parse(&huge_count).1, None);
        let mut no_size = sample();
        no_size[46..54].fill(0);
        assert_eq!(parse(&no_size).1.as_deref(), Some("an object of an impossible size in the asf header"));
        let many = vec![object([7; 16], &[]); 2000];
        assert_eq!(parse(&file(&many)).1.as_deref(), Some("too many objects in the asf header"));
        let short = file(&[object(EXTENDED_CONTENT_DESCRIPTION, &[255, 255]), object([0; 16], &[0; 999])]);
        assert!(parse(&short).1.is_some());
    }

    #[test]
    fn a_header_that_is_truncated_anywhere_gives_what_came_before() {
        let bytes = sample();
        let mut known = 0;
        for length in 0..bytes.len() {
            let (metadata, error) = parse(&bytes[..length]);
            assert!(error.is_some(), "{length}");
            let now = metadata.tags.present().count() + usize::from(metadata.duration.is_some());
            assert!(now >= known, "{length}");
            known = now;
        }
        assert!(known >= 5);
    }

    proptest! {
        #[test]
        fn no_mutation_panics(
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12)
        ) {
            let mut bytes = sample();
            for (at, value) in changes {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
            parse(&bytes);
        }
    }
}
