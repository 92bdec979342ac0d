//! MP4: the tags, each apart from the others. Pictures are passed over.
//!
//! Formats: boxes, ISO/IEC 14496-12, section 8.11; QuickTime File Format, "Metadata" and "User data text".

use std::io::{self, Read, Seek, SeekFrom};

use super::found::{Field, Found, Named};
use super::mp4_boxes::Part;
use super::source::Source;
use super::values::{tidy, track};
use super::{genres, mp4_sound, names, text};
use crate::model::Metadata;

/// Bytes of the name of a freeform item that are compared. All names that are known are shorter.
const LONGEST_NAME: usize = 64;

/// The kind of data that is text in UTF-16.
const UTF16: u32 = 2;

/// The most items of a list. A list with more is corrupt.
const MOST_ITEMS: usize = 4096;

/// The first boxes of files, of which older ones have no `ftyp`.
const FIRST_BOXES: [&[u8; 4]; 8] = [b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot", b"styp"];

/// Whether `head` is the beginning of an MP4 file.
pub(super) fn begins(head: &[u8]) -> bool {
    let Some((size, rest)) = head.split_first_chunk().map(|(size, rest)| (u32::from_be_bytes(*size), rest)) else {
        return false;
    };
    let is_size = size == 0 || size == 1 || size >= 8;
    is_size && rest.first_chunk().is_some_and(|kind| FIRST_BOXES.contains(&kind))
}

/// Reads the properties into `metadata`, and the tags into `found`. On failure, both have what could be read.
pub(super) fn read<R: Read + Seek>(
    source: &mut Source<R>,
    metadata: &mut Metadata,
    found: &mut Found,
) -> io::Result<()> {
    let sound = mp4_sound::read(source, metadata);
    let tags = read_tags(source, found);
    sound.and(tags)
}

/// Reads the tags into `found`, each apart from the others. Pictures are passed over.
pub(super) fn read_tags<R: Read + Seek>(source: &mut Source<R>, found: &mut Found) -> io::Result<()> {
    let Some(user_data) = Part::file(source).descendant(source, &[*b"moov", *b"udta"])? else { return Ok(()) };
    if let Some(meta) = user_data.child(source, *b"meta")? {
        // Version and flags.
        if let Some(list) = meta.behind(4).child(source, *b"ilst")? {
            read_list(source, list, found)?;
        }
    }
    read_user_data(source, user_data, found)
}

fn read_list<R: Read + Seek>(source: &mut Source<R>, list: Part, found: &mut Found) -> io::Result<()> {
    let mut items = Vec::new();
    list.each(source, |part| {
        items.push(part);
        items.len() < MOST_ITEMS
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
    let bytes = name.behind(4).head(source, &mut bytes)?;
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
    let bytes = source.text(data.behind(8).length())?;
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

/// Reads the texts that QuickTime puts there without a list: a length, a language and the text.
fn read_user_data<R: Read + Seek>(source: &mut Source<R>, user_data: Part, found: &mut Found) -> io::Result<()> {
    found.within("QuickTime");
    let mut texts = Vec::new();
    user_data.each(source, |part| {
        let field = match &part.kind {
            b"\xa9nam" => Field::Title,
            b"\xa9ART" => Field::Artist,
            b"\xa9alb" => Field::Album,
            b"\xa9day" => Field::Date,
            b"\xa9gen" => Field::Genre,
            b"\xa9cmt" => Field::Comment,
            _ => return true,
        };
        texts.push((field, part));
        true
    })?;
    for (field, part) in texts {
        if !found.wants(field) {
            continue;
        }
        source.seek(SeekFrom::Start(part.start))?;
        let length = u16::from_be_bytes(source.array()?);
        let _language: [u8; 2] = source.array()?;
        let text = source.text(part.behind(4).length().min(length.into()))?;
        found.set(field, tidy(&text::utf8_or_windows(&text)));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    fn part(kind: [u8; 4], content: &[u8]) -> Vec<u8> {
        let size = u32::try_from(content.len() + 8).unwrap();
        [&size.to_be_bytes()[..], &kind, content].concat()
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
        let bytes = [part(*b"ftyp", b"M4A "), part(*b"moov", &part(*b"udta", &meta))].concat();
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

    #[test]
    fn texts_without_a_list_are_read() {
        let user_data = part(*b"udta", &part(*b"\xa9nam", b"\0\x05\x15\xc7Titlexx"));
        let mut found = Found::default();
        read_tags(&mut Source::new(Cursor::new(part(*b"moov", &user_data))).unwrap(), &mut found).unwrap();
        let mut metadata = Metadata::default();
        found.show(&mut metadata);
        assert_eq!(metadata.tags.get(Field::Title), Some("Title"));
    }

    #[test]
    fn files_without_a_type_are_recognised() {
        for head in [&b"\0\0\0\x18ftypM4A "[..], b"\0\0\0\x08wide", b"\0\0\0\x01mdat", b"\0\0\x10\0moov"] {
            assert!(begins(head));
        }
        for head in [&b"\0\0\0\x02ftyp"[..], b"ID3\x03moov", b"\0\0\0\x08moo"] {
            assert_eq!(begins(head), head.starts_with(b"ID3"), "{head:?}");
        }
    }
}
