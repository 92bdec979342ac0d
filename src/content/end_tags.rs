//! The tags at the end of a file: ID3v1, and APEv2 in front of it. Lyrics3 between them is passed over. APEv2 may be at the
//! beginning too.
//!
//! Formats: ID3v1.1 (id3.org), APE tag version 2 (wiki.hydrogenaud.io, "APEv2 specification").

use std::io::{self, Read, Seek, SeekFrom};

use super::found::{Field, Found};
use super::source::Source;
use super::values::tidy;
use super::{genres, names, tail, text};

/// Bytes of an ID3v1 tag.
pub(super) const ID3V1: usize = 128;

/// Bytes of the footer of an APEv2 tag.
const APE_FOOTER: usize = 32;

/// Bytes of the longest key of an APEv2 tag, as the specification has it.
const LONGEST_KEY: usize = 255;

/// The most items of an APEv2 tag. A tag with more is corrupt.
const MOST_ITEMS: u32 = 4096;

/// Reads the tags at the end of the file into `found`, which has what is in front of the audio. Returns where the audio
/// ends.
///
/// # Errors
///
/// If the file cannot be read.
pub(super) fn read<R: Read + Seek>(source: &mut Source<R>, found: &mut Found) -> io::Result<u64> {
    let mut id3v1 = [0; ID3V1];
    let length = source.length();
    let at = length.saturating_sub(ID3V1 as u64);
    let has_id3v1 = source.read_at(at, &mut id3v1)?.starts_with(b"TAG") && length >= ID3V1 as u64;
    let end = if has_id3v1 { at } else { length };
    let end = end - tail::lyrics_before(source, end)?.unwrap_or(0);
    let end = read_ape(source, end, found)?;
    if has_id3v1 {
        read_id3v1(&id3v1, found);
    }
    Ok(end)
}

fn read_id3v1(tag: &[u8; ID3V1], found: &mut Found) {
    found.within("ID3v1");
    let value = |from: usize, to: usize| tidy(&text::latin1(&tag[from..to]));
    found.set(Field::Title, value(3, 33));
    found.set(Field::Artist, value(33, 63));
    found.set(Field::Album, value(63, 93));
    found.set(Field::Date, value(93, 97));
    // In version 1.1, the comment ends with a zero and the number of the track.
    let has_track = tag[125] == 0 && tag[126] != 0;
    found.set(Field::Track, has_track.then(|| tag[126].to_string()));
    found.set(Field::Comment, value(97, if has_track { 125 } else { 127 }));
    found.set(Field::Genre, genres::name(tag[127].into()).map(ToOwned::to_owned));
}

/// The length of the APEv2 tag at the beginning of `head`, with its header; `None` if there is none.
pub(super) fn leading_length(head: &[u8]) -> Option<u64> {
    let header = Footer::of(head)?;
    header.is_header().then_some(APE_FOOTER as u64 + header.size)
}

/// Reads the APEv2 tag that begins at `at`, of `length` bytes, into `found`.
pub(super) fn read_leading<R: Read + Seek>(
    source: &mut Source<R>,
    at: u64,
    length: u64,
    found: &mut Found,
) -> io::Result<()> {
    let end = at.saturating_add(length).min(source.length());
    let mut header = [0; APE_FOOTER];
    let Some(header) = Footer::of(source.read_at(at, &mut header)?) else { return Ok(()) };
    if !read_items(source, at + APE_FOOTER as u64, end, header.items, found)? {
        found.problem("APEv2 is damaged");
    }
    Ok(())
}

/// The length in bytes of the APEv2 tag whose last bytes are these; `None` if they are no footer of one.
pub(super) fn ape_length(bytes: &[u8]) -> Option<u64> {
    let footer = Footer::of(bytes.last_chunk::<APE_FOOTER>()?)?;
    (footer.size >= APE_FOOTER as u64).then(|| footer.size + footer.header_length())
}

/// The header or the footer of an APEv2 tag: both have the same form.
struct Footer {
    /// Bytes of the items and the footer.
    size: u64,
    items: u32,
    flags: u32,
}

impl Footer {
    fn of(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; APE_FOOTER] = bytes.first_chunk().filter(|bytes| bytes.starts_with(b"APETAGEX"))?;
        let number = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        Some(Self { size: number(12).into(), items: number(16), flags: number(20) })
    }

    /// Bytes of the header in front of the items, which may be missing.
    fn header_length(&self) -> u64 {
        if self.flags & 1 << 31 != 0 { APE_FOOTER as u64 } else { 0 }
    }

    fn is_header(&self) -> bool {
        self.flags & 1 << 29 != 0
    }
}

/// Reads the APEv2 tag that ends at `end`, if there is one. Returns where it begins.
fn read_ape<R: Read + Seek>(source: &mut Source<R>, end: u64, found: &mut Found) -> io::Result<u64> {
    let Some(at) = end.checked_sub(APE_FOOTER as u64) else { return Ok(end) };
    let mut footer = [0; APE_FOOTER];
    let Some(footer) = Footer::of(source.read_at(at, &mut footer)?) else { return Ok(end) };
    let Some(begin) = end.checked_sub(footer.size).filter(|_| footer.size >= APE_FOOTER as u64) else {
        found.problem("APEv2 has an impossible size");
        return Ok(at);
    };
    if !read_items(source, begin, at, footer.items, found)? {
        found.problem("APEv2 is damaged");
    }
    Ok(begin.saturating_sub(footer.header_length()))
}

/// Reads the items between `begin` and `end`; returns whether all could be read.
fn read_items<R: Read + Seek>(
    source: &mut Source<R>,
    begin: u64,
    end: u64,
    items: u32,
    found: &mut Found,
) -> io::Result<bool> {
    found.within("APEv2");
    let mut at = begin;
    for _ in 0..items.min(MOST_ITEMS) {
        source.visit()?;
        let mut head = [0; 8 + LONGEST_KEY + 1];
        let head = source.read_at(at, &mut head)?;
        let Some((sizes, rest)) = head.split_first_chunk::<8>() else { return Ok(false) };
        let length = u64::from(u32::from_le_bytes([sizes[0], sizes[1], sizes[2], sizes[3]]));
        let Some(key) = rest.iter().position(|&byte| byte == 0).map(|end| rest[..end].to_vec()) else {
            return Ok(false);
        };
        let value = at + 8 + key.len() as u64 + 1;
        if key.is_empty() || value + length > end {
            return Ok(false);
        }
        let key = String::from_utf8_lossy(&key);
        // The other kinds are binary values and links.
        let is_text = sizes[4] & 0b110 == 0;
        match field_of(&key).filter(|_| is_text) {
            Some(field) if found.wants(field) => {
                source.seek(SeekFrom::Start(value))?;
                let bytes = source.text(length)?;
                found.set(field, tidy(&text::utf8_or_windows(&bytes)));
            }
            Some(_) => {}
            None if names::is_picture(&key) => found.cover(),
            None => found.unread(|| key.into_owned()),
        }
        at = value + length;
    }
    Ok(items <= MOST_ITEMS)
}

fn field_of(key: &str) -> Option<Field> {
    Some(match key.to_ascii_lowercase().as_str() {
        "title" => Field::Title,
        "artist" => Field::Artist,
        "album" => Field::Album,
        "year" | "date" => Field::Date,
        "genre" => Field::Genre,
        "track" => Field::Track,
        _ => return names::field_of(key),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Metadata;
    use proptest::prelude::*;
    use std::io::Cursor;

    fn parse(bytes: &[u8]) -> (u64, String, Option<String>) {
        let mut found = Found::default();
        let end = read(&mut Source::new(Cursor::new(bytes)).unwrap(), &mut found).unwrap();
        let mut metadata = Metadata::default();
        found.show(&mut metadata);
        let Metadata { tags, error: problems, .. } = metadata;
        let tags: Vec<_> = tags.present().map(|(name, text)| format!("{name}={text}")).collect();
        (end, tags.join(" "), problems)
    }

    fn item(key: &str, value: &[u8]) -> Vec<u8> {
        let length = u32::try_from(value.len()).unwrap().to_le_bytes();
        [&length[..], &[0; 4], key.as_bytes(), b"\0", value].concat()
    }

    fn ape(items: &[Vec<u8>]) -> Vec<u8> {
        let number = |number: usize| u32::try_from(number).unwrap().to_le_bytes();
        let body = items.concat();
        let footer =
            [&b"APETAGEX"[..], &number(2000), &number(body.len() + 32), &number(items.len()), &[0; 12]].concat();
        [body, footer].concat()
    }

    fn id3v1() -> Vec<u8> {
        let mut tag = b"TAGTitle\0\0".to_vec();
        tag.resize(128, 0);
        tag[93..97].copy_from_slice(b"1999");
        tag[97..101].copy_from_slice(b"Well");
        (tag[126], tag[127]) = (7, 17);
        tag
    }

    #[test]
    fn both_tags_are_read_and_the_longer_texts_win() {
        let sound = [0xFF; 100];
        let tags = ape(&[item("TITLE", "Björk\0x".as_bytes()), item("Disc", b"1/2"), item("Track", b"3/12")]);
        let (end, found, problems) = parse(&[&sound[..], &tags, &id3v1()].concat());
        assert_eq!(
            (end, found.as_str(), problems),
            (100, "title=Björk date=1999 genre=Rock track=3/12 disc=1/2 comment=Well", None)
        );
        let (end, found, problems) = parse(&[&sound[..], &id3v1()].concat());
        assert_eq!(
            (end, found.as_str(), problems),
            (100, "title=Title date=1999 genre=Rock track=7 comment=Well", None)
        );
        assert_eq!(parse(&sound), (100, String::new(), None));
    }

    #[test]
    fn a_damaged_item_costs_those_behind_it() {
        let mut damaged = item("Year", b"1999");
        damaged[..4].copy_from_slice(&0x7FFF_FFF0_u32.to_le_bytes());
        let (_, found, problems) = parse(&ape(&[item("Artist", b"A"), damaged, item("Title", b"T")]));
        assert_eq!((found.as_str(), problems.as_deref()), ("artist=A", Some("APEv2 is damaged")));
    }

    #[test]
    fn lyrics_between_the_tags_are_passed_over() {
        let lyrics = [&b"LYRICSBEGIN"[..], &[b'x'; 100], b"000111LYRICS200"].concat();
        let (end, found, _) = parse(&[&[0xFF; 100][..], &ape(&[item("Artist", b"A")]), &lyrics, &id3v1()].concat());
        assert_eq!((end, found.as_str()), (100, "title=Title artist=A date=1999 genre=Rock track=7 comment=Well"));
    }

    #[test]
    fn a_tag_at_the_beginning_is_read() {
        let body = item("Artist", b"A");
        let number = |number: usize| u32::try_from(number).unwrap().to_le_bytes();
        let end = |flags: u32| {
            [&b"APETAGEX"[..], &number(2000), &number(body.len() + 32), &number(1), &flags.to_le_bytes(), &[0; 8]]
                .concat()
        };
        let file = [end(0xA000_0000), body.clone(), end(0x8000_0000), vec![0xFF; 50]].concat();
        let length = leading_length(&file).unwrap();
        assert_eq!(length, file.len() as u64 - 50);
        assert_eq!(leading_length(&end(0)), None, "a footer");
        let mut found = Found::default();
        read_leading(&mut Source::new(Cursor::new(&file)).unwrap(), 0, length, &mut found).unwrap();
        let mut metadata = Metadata::default();
        found.show(&mut metadata);
        assert_eq!(metadata.tags.get(Field::Artist), Some("A"));
    }

    proptest! {
        #[test]
        fn no_mutation_panics(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12)) {
            let mut bytes = [&[0; 10][..], &ape(&[item("Artist", b"A"), item("Title", b"T")]), &id3v1()].concat();
            for (at, value) in changes {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
            prop_assert!(parse(&bytes).0 <= bytes.len() as u64);
        }
    }
}
