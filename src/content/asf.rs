//! Windows Media (ASF): the header's properties and its four objects of tags.
//!
//! Other objects and values, such as pictures, are skipped by seeking. An object that is damaged costs itself.
//!
//! Format: Advanced Systems Format (ASF) Specification, revision 01.20.03, sections 2 to 4.

use std::io::{self, Read, Seek, SeekFrom};

use super::found::{Field, Found};
use super::source::Source;
use super::values::tidy;
use super::{codecs, names, text};
use crate::model::Metadata;

/// The first bytes of every ASF file: the GUID of the header object.
pub(super) const MAGIC: [u8; 16] = guid(0x75B2_2630, 0x668E, 0x11CF, 0xA6D9_00AA_0062_CE6C);

const FILE_PROPERTIES: [u8; 16] = guid(0x8CAB_DCA1, 0xA947, 0x11CF, 0x8EE4_00C0_0C20_5365);
const STREAM_PROPERTIES: [u8; 16] = guid(0xB7DC_0791, 0xA9B7, 0x11CF, 0x8EE6_00C0_0C20_5365);
const AUDIO_STREAM: [u8; 16] = guid(0xF869_9E40, 0x5B4D, 0x11CF, 0xA8FD_0080_5F5C_442B);
const CONTENT_DESCRIPTION: [u8; 16] = guid(0x75B2_2633, 0x668E, 0x11CF, 0xA6D9_00AA_0062_CE6C);
const EXTENDED_CONTENT_DESCRIPTION: [u8; 16] = guid(0xD2D0_A440, 0xE307, 0x11D2, 0x97F0_00A0_C95E_A850);
const HEADER_EXTENSION: [u8; 16] = guid(0x5FBF_03B5, 0xA92E, 0x11CF, 0x8EE3_00C0_0C20_5365);
const METADATA: [u8; 16] = guid(0xC5F8_CBEA, 0x5BAF, 0x4877, 0x8467_AA8C_44FA_4CCA);
const METADATA_LIBRARY: [u8; 16] = guid(0x4423_1C94, 0x9498, 0x49D1, 0xA141_1D13_4E45_7054);

/// Bytes in front of an object's content: its GUID and its size.
pub(super) const OBJECT_HEADER: u64 = 24;

/// Bytes in front of the header's first object: object header, count and two reserved bytes.
const HEADER_START: u64 = OBJECT_HEADER + 6;

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
    let beside = || Attributes { found: found.beside(), plain_date: None };
    let mut header = Header { description: beside(), extended: beside(), metadata: beside(), library: beside() };
    let read = header.read(source, metadata);
    header.finish(found);
    read
}

/// The attributes, by the kind of object that they are in. Those of the first kind that has a tag count.
struct Header {
    description: Attributes,
    extended: Attributes,
    metadata: Attributes,
    library: Attributes,
}

struct Attributes {
    found: Found,
    plain_date: Option<String>,
}

/// What the attribute of a name means.
enum Meaning {
    Field(Field),
    /// Only ffmpeg writes an attribute of the name `date`.
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

impl Header {
    fn read<R: Read + Seek>(&mut self, source: &mut Source<R>, metadata: &mut Metadata) -> io::Result<()> {
        source.rewind()?;
        if source.array()? != MAGIC {
            return Err(corrupt("no asf header"));
        }
        let end = u64::from_le_bytes(source.array()?);
        let count = u32::from_le_bytes(source.array()?);
        self.read_objects(source, count, end, metadata)
    }

    fn finish(self, found: &mut Found) {
        let mut dates = Vec::new();
        for Attributes { found: others, plain_date } in [self.description, self.extended, self.metadata, self.library] {
            found.append(others);
            dates.push(plain_date);
        }
        for date in dates {
            found.set(Field::Date, date);
        }
    }

    /// Reads so many objects, as far as they are in front of `end`. One that is damaged costs itself, if its size is
    /// possible.
    fn read_objects<R: Read + Seek>(
        &mut self,
        source: &mut Source<R>,
        count: u32,
        end: u64,
        metadata: &mut Metadata,
    ) -> io::Result<()> {
        let mut start = HEADER_START;
        let mut failure = Ok(());
        for _ in 0..count {
            if start.saturating_add(OBJECT_HEADER) > end {
                break;
            }
            source.visit()?;
            source.seek(SeekFrom::Start(start))?;
            let kind: [u8; 16] = source.array()?;
            let size = u64::from_le_bytes(source.array()?);
            let object_end = start.checked_add(size).filter(|&object_end| size >= OBJECT_HEADER && object_end <= end);
            let Some(object_end) = object_end else {
                return Err(corrupt("an object of an impossible size in the asf header"));
            };
            let read = self.read_object(source, kind, object_end, metadata).and_then(|()| {
                if source.stream_position()? > object_end {
                    return Err(corrupt("an object in the asf header is longer than it says"));
                }
                Ok(())
            });
            failure = failure.and(read);
            start = object_end;
        }
        failure
    }

    fn read_object<R: Read + Seek>(
        &mut self,
        source: &mut Source<R>,
        kind: [u8; 16],
        end: u64,
        metadata: &mut Metadata,
    ) -> io::Result<()> {
        match kind {
            FILE_PROPERTIES => file_properties(source, metadata),
            STREAM_PROPERTIES => stream_properties(source, metadata),
            CONTENT_DESCRIPTION => self.description.read_description(source),
            EXTENDED_CONTENT_DESCRIPTION => self.extended.read_extended(source),
            METADATA => self.metadata.read_library(source),
            METADATA_LIBRARY => self.library.read_library(source),
            // Two reserved fields and the size of what follows. No such object is in another one.
            HEADER_EXTENSION if source.stream_position()? < end => {
                let begin = source.stream_position()? + 16 + 2 + 4;
                if begin > end { Ok(()) } else { self.read_extension(source, begin, end, metadata) }
            }
            _ => Ok(()),
        }
    }

    fn read_extension<R: Read + Seek>(
        &mut self,
        source: &mut Source<R>,
        begin: u64,
        end: u64,
        metadata: &mut Metadata,
    ) -> io::Result<()> {
        let mut start = begin;
        while start.saturating_add(OBJECT_HEADER) <= end {
            source.visit()?;
            source.seek(SeekFrom::Start(start))?;
            let kind: [u8; 16] = source.array()?;
            let size = u64::from_le_bytes(source.array()?);
            if kind != HEADER_EXTENSION {
                self.read_object(source, kind, end, metadata)?;
            }
            match start.checked_add(size).filter(|_| size >= OBJECT_HEADER) {
                Some(next) => start = next,
                None => break,
            }
        }
        source.seek(SeekFrom::Start(end))?;
        Ok(())
    }
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

impl Attributes {
    /// Content Description, section 3.10: five lengths, then title, author, copyright, description and rating.
    fn read_description<R: Read + Seek>(&mut self, source: &mut Source<R>) -> io::Result<()> {
        self.found.within("ASF");
        let mut lengths = [0; 5];
        for length in &mut lengths {
            *length = u16::from_le_bytes(source.array()?);
        }
        let names = ["Title", "Author", "Copyright", "Description", "Rating"];
        for (name, length) in names.into_iter().zip(lengths) {
            self.read_value(source, name, Kind::Text, length.into())?;
        }
        Ok(())
    }

    /// Extended Content Description, section 3.11: a count, then as many attributes.
    fn read_extended<R: Read + Seek>(&mut self, source: &mut Source<R>) -> io::Result<()> {
        self.found.within("ASF");
        let count = u16::from_le_bytes(source.array()?);
        for _ in 0..count {
            source.visit()?;
            let name_length = u16::from_le_bytes(source.array()?);
            let name = read_name(source, name_length)?;
            let kind = Kind::of(u16::from_le_bytes(source.array()?));
            let length = u16::from_le_bytes(source.array()?);
            self.read_value(source, &name, kind, length.into())?;
        }
        Ok(())
    }

    /// Metadata and Metadata Library, sections 4.7 and 4.8: a count, then as many attributes.
    fn read_library<R: Read + Seek>(&mut self, source: &mut Source<R>) -> io::Result<()> {
        self.found.within("ASF");
        let count = u16::from_le_bytes(source.array()?);
        for _ in 0..count {
            source.visit()?;
            let _language_and_stream: [u8; 4] = source.array()?;
            let name_length = u16::from_le_bytes(source.array()?);
            let kind = Kind::of(u16::from_le_bytes(source.array()?));
            let length = u32::from_le_bytes(source.array()?);
            let name = read_name(source, name_length)?;
            self.read_value(source, &name, kind, length)?;
        }
        Ok(())
    }

    /// Reads the next value, of `length` bytes, into the field of its name, or skips it.
    fn read_value<R: Read + Seek>(
        &mut self,
        source: &mut Source<R>,
        name: &str,
        kind: Kind,
        length: u32,
    ) -> io::Result<()> {
        let behind = source.stream_position()?.saturating_add(length.into());
        if behind > source.length() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        match Meaning::of(name) {
            Some(Meaning::Field(field)) if self.found.wants(field) => {
                let value = value(source, kind, length)?;
                self.found.set(field, value);
            }
            Some(Meaning::PlainDate) if self.plain_date.is_none() => self.plain_date = value(source, kind, length)?,
            Some(Meaning::Cover) => self.found.cover(),
            None if length > 0 => self.found.unread(|| name.to_owned()),
            _ => {}
        }
        source.seek(SeekFrom::Start(behind))?;
        Ok(())
    }
}

/// Reads a value as a text.
fn value<R: Read + Seek>(source: &mut Source<R>, kind: Kind, length: u32) -> io::Result<Option<String>> {
    match (kind, length) {
        (Kind::Text, _) => Ok(tidy(&text::utf16_le(&source.text(length.into())?))),
        (Kind::Number, 1..=8) => {
            let mut bytes = [0; 8];
            source.read_exact(&mut bytes[..length as usize])?;
            Ok(Some(u64::from_le_bytes(bytes).to_string()))
        }
        _ => Ok(None),
    }
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

/// Reads the name of an attribute; one that is too long is empty.
fn read_name<R: Read + Seek>(source: &mut Source<R>, length: u16) -> io::Result<String> {
    if usize::from(length) > LONGEST_NAME {
        skip(source, length.into())?;
        return Ok(String::new());
    }
    let mut name = [0; LONGEST_NAME];
    let name = &mut name[..usize::from(length)];
    source.read_exact(name)?;
    Ok(text::utf16_le(name).trim_end_matches('\0').to_owned())
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

    fn utf16_of(text: &str) -> Vec<u8> {
        text.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect()
    }

    fn attribute(name: &str, kind: u16, value: &[u8]) -> Vec<u8> {
        let name = utf16_of(name);
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
        let (title, author) = (utf16_of(title), utf16_of(author));
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
                attribute(&"long".repeat(50), 0, &utf16_of("value")),
                attribute("WM/AlbumTitle", 0, &utf16_of("  The Album  ")),
                attribute("WM/AlbumTitle", 0, &utf16_of("Another")),
                attribute("WM/Year", 0, &utf16_of("1998")),
                attribute("date", 0, &utf16_of("2001")),
                attribute("WM/Genre", 0, &utf16_of("")),
                attribute("WM/TrackNumber", 3, &7_u32.to_le_bytes()),
                attribute("WM/AlbumArtist", 0, &utf16_of("Various")),
                attribute("WM/IsCompilation", 2, &1_u32.to_le_bytes()),
                attribute("MusicBrainz/Album Id", 0, &utf16_of("album")),
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
            attribute("date", 0, &utf16_of("2001")),
            attribute("WM/TrackNumber", 5, &[9, 1]),
            attribute("WM/Genre", 1, b"bytes"),
        ])]));
        assert_eq!(metadata.tags.present().collect::<Vec<_>>(), [("date", "2001"), ("track", "265")]);
    }

    #[test]
    fn the_libraries_of_the_extension_fill_the_gaps() {
        let of_library = |name: &str, kind: u16, value: &[u8]| {
            let name = utf16_of(name);
            let (name_length, length) = (u16::try_from(name.len()).unwrap(), u32::try_from(value.len()).unwrap());
            let head = [&[0; 4][..], &name_length.to_le_bytes(), &kind.to_le_bytes(), &length.to_le_bytes()].concat();
            [head, name, value.to_vec()].concat()
        };
        let items = [
            of_library("WM/Picture", 1, &vec![9; 70_000]),
            of_library("WM/AlbumTitle", 0, &utf16_of("Library")),
            of_library("WM/Genre", 0, &utf16_of("Jazz")),
            of_library("WM/TrackNumber", 3, &7_u32.to_le_bytes()),
        ];
        let library = object(METADATA_LIBRARY, &[&4_u16.to_le_bytes()[..], &items.concat()].concat());
        let size = u32::try_from(library.len()).unwrap();
        let extension = object(HEADER_EXTENSION, &[&[0; 18][..], &size.to_le_bytes(), &library].concat());
        let described = extended(&[attribute("WM/AlbumTitle", 0, &utf16_of("Album"))]);
        let (metadata, error) = parse(&file(&[extension, described, properties()]));
        assert_eq!(error, None);
        assert_eq!(
            metadata.tags.present().collect::<Vec<_>>(),
            [("album", "Album"), ("genre", "Jazz"), ("track", "7")]
        );
        assert!(metadata.duration.is_some());
    }

    #[test]
    fn a_damaged_object_costs_itself() {
        let damaged = object(EXTENDED_CONTENT_DESCRIPTION, &[9, 0, 1, 0]);
        let properties = properties();
        let (of_file, of_stream) = properties.split_at(104);
        let objects = [damaged, of_file.to_vec(), of_stream.to_vec(), description("Title", "")];
        let (metadata, error) = parse(&file(&objects));
        assert!(error.is_some());
        assert_eq!((metadata.tags.get(Field::Title), metadata.channels), (Some("Title"), Some(2)));
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
        let many = vec![object([7; 16], &[]); 300_000];
        assert_eq!(parse(&file(&many)).1.as_deref(), Some("it has too many parts"));
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
