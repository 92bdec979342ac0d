//! Vorbis comments, one at a time: those that are not wanted, such as pictures, are passed over unread. So little is kept in
//! memory, whatever the sizes in the file are.
//!
//! Format: Vorbis I, section 5; the same in FLAC, RFC 9639, section 8.6, and in Opus, RFC 7845, section 5.2.

use std::io::{self, Read, Seek, SeekFrom};

use super::found::{Field, Found};
use super::names;
use super::ogg_pages::Packets;
use super::source::{self, Source};
use super::values::{tidy, track};
use crate::model::Metadata;

/// Bytes of a comment that are decoded.
const LONGEST_COMMENT: u64 = Metadata::LONGEST_TEXT as u64 + 1024;

/// Bytes of the longest name that is wanted, with the sign behind it.
const LONGEST_NAME: u64 = 64;

/// The most comments that are read. Files with more are made to cost time.
const MOST_COMMENTS: u32 = 50_000;

/// What comments are read from.
pub(super) trait Comments: Read {
    /// Passes over so many bytes.
    fn pass(&mut self, bytes: u64) -> io::Result<()>;
}

impl<R: Read + Seek> Comments for Source<R> {
    fn pass(&mut self, bytes: u64) -> io::Result<()> {
        let target = self.stream_position()?.saturating_add(bytes);
        if target > self.length() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.seek(SeekFrom::Start(target)).map(|_| ())
    }
}

impl<R: Read + Seek> Comments for Packets<'_, R> {
    fn pass(&mut self, bytes: u64) -> io::Result<()> {
        if self.skip(bytes)? == bytes { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }
}

/// What a comment means.
enum Meaning {
    Field(Field),
    /// A part of a field, or what takes the place of another comment.
    Part(Part),
    Cover,
}

#[derive(Clone, Copy)]
enum Part {
    Year,
    Description,
    Track,
    Tracks,
    Disc,
    Discs,
}

impl Meaning {
    fn of(name: &str) -> Option<Self> {
        Some(match name.to_ascii_uppercase().as_str() {
            "TITLE" => Self::Field(Field::Title),
            "ARTIST" => Self::Field(Field::Artist),
            "ALBUM" => Self::Field(Field::Album),
            "DATE" => Self::Field(Field::Date),
            "GENRE" => Self::Field(Field::Genre),
            "YEAR" => Self::Part(Part::Year),
            "DESCRIPTION" => Self::Part(Part::Description),
            "TRACKNUMBER" => Self::Part(Part::Track),
            "TRACKTOTAL" | "TOTALTRACKS" => Self::Part(Part::Tracks),
            "DISCNUMBER" => Self::Part(Part::Disc),
            "DISCTOTAL" | "TOTALDISCS" => Self::Part(Part::Discs),
            _ if names::is_picture(name) => Self::Cover,
            _ => Self::Field(names::field_of(name)?),
        })
    }
}

#[derive(Default)]
struct Parts {
    year: Option<String>,
    description: Option<String>,
    track: Option<String>,
    tracks: Option<String>,
    disc: Option<String>,
    discs: Option<String>,
}

impl Parts {
    fn place(&mut self, part: Part) -> &mut Option<String> {
        match part {
            Part::Year => &mut self.year,
            Part::Description => &mut self.description,
            Part::Track => &mut self.track,
            Part::Tracks => &mut self.tracks,
            Part::Disc => &mut self.disc,
            Part::Discs => &mut self.discs,
        }
    }

    fn finish(self, found: &mut Found) {
        found.set(Field::Date, self.year);
        found.set(Field::Comment, self.description);
        found.set(Field::Track, track(self.track, self.tracks));
        found.set(Field::Disc, track(self.disc, self.discs));
    }
}

/// Reads the comments, from the length of the vendor's name on. On failure, `found` has those before it.
pub(super) fn read<R: Comments>(reader: &mut R, found: &mut Found) -> io::Result<()> {
    found.within("Vorbis comments");
    let mut parts = Parts::default();
    let read = read_each(reader, &mut parts, found);
    parts.finish(found);
    if let Ok(Count::TooMany) = read {
        found.problem(format!("Vorbis comments: only the first {MOST_COMMENTS} are read"));
    }
    read.map(|_| ())
}

/// Whether all comments were read.
enum Count {
    All,
    TooMany,
}

fn read_each<R: Comments>(reader: &mut R, parts: &mut Parts, found: &mut Found) -> io::Result<Count> {
    let vendor = number(reader)?;
    reader.pass(vendor.into())?;
    let count = number(reader)?;
    let mut text_left = source::TEXT;
    for _ in 0..count.min(MOST_COMMENTS) {
        let mut comment = Comment::begin(reader)?;
        match comment.name().and_then(|name| Meaning::of(&name)) {
            Some(Meaning::Field(field)) if found.wants(field) => {
                let value = comment.value(reader, &mut text_left)?;
                found.set(field, value);
            }
            Some(Meaning::Part(part)) if parts.place(part).is_none() => {
                *parts.place(part) = comment.value(reader, &mut text_left)?;
            }
            Some(Meaning::Field(_) | Meaning::Part(_)) => {}
            Some(Meaning::Cover) => found.cover(),
            None => found.unread(|| comment.name().unwrap_or_default()),
        }
        reader.pass(comment.left)?;
    }
    Ok(if count > MOST_COMMENTS { Count::TooMany } else { Count::All })
}

/// A comment, of which only the beginning was read.
struct Comment {
    beginning: Vec<u8>,
    /// Bytes that were not read.
    left: u64,
}

impl Comment {
    fn begin<R: Read>(reader: &mut R) -> io::Result<Self> {
        let length = u64::from(number(reader)?);
        let mut comment = Self { beginning: Vec::new(), left: length };
        comment.read_on(reader, length.min(LONGEST_NAME))?;
        Ok(comment)
    }

    fn read_on<R: Read>(&mut self, reader: &mut R, bytes: u64) -> io::Result<()> {
        self.left -= bytes;
        append(reader, bytes, &mut self.beginning)
    }

    fn name(&self) -> Option<String> {
        let end = self.beginning.iter().position(|&byte| byte == b'=')?;
        Some(String::from_utf8_lossy(&self.beginning[..end]).into_owned())
    }

    /// Reads the value, whose bytes are taken from `text_left`.
    fn value<R: Read>(&mut self, reader: &mut R, text_left: &mut u64) -> io::Result<Option<String>> {
        let more = self.left.min(LONGEST_COMMENT);
        *text_left = text_left.checked_sub(more).ok_or_else(|| io::Error::other("it has too much text"))?;
        self.read_on(reader, more)?;
        let begin = self.beginning.iter().position(|&byte| byte == b'=').map_or(0, |end| end + 1);
        Ok(tidy(&String::from_utf8_lossy(&self.beginning[begin..])))
    }
}

fn append<R: Read>(reader: &mut R, bytes: u64, comment: &mut Vec<u8>) -> io::Result<()> {
    if reader.take(bytes).read_to_end(comment)? as u64 == bytes {
        Ok(())
    } else {
        Err(io::ErrorKind::UnexpectedEof.into())
    }
}

fn number<R: Read>(reader: &mut R) -> io::Result<u32> {
    let mut bytes = [0; 4];
    reader.read_exact(&mut bytes)?;
    Ok(u32::from_le_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    fn block(comment: &[u8], count: u32) -> Vec<u8> {
        let mut block = [&[0; 4], &count.to_le_bytes()[..]].concat();
        block.extend([&u32::try_from(comment.len()).unwrap().to_le_bytes(), comment].concat().repeat(count as usize));
        block
    }

    fn parse(block: &[u8]) -> (Metadata, Option<String>) {
        let mut found = Found::default();
        let read = read(&mut Source::new(Cursor::new(block)).unwrap(), &mut found);
        let mut metadata = Metadata::default();
        found.show(&mut metadata);
        (metadata, read.err().map(|error| error.to_string()))
    }

    #[test]
    fn comments_that_belong_together_are_one_field_and_a_picture_is_noted() {
        let comments = [
            "DESCRIPTION=D",
            "disctotal=2",
            "DiscNumber=1",
            "Album Artist=AA",
            "ALBUMARTIST=Second",
            "MUSICBRAINZ_TRACKID=m",
            "ENCODER=x",
            "METADATA_BLOCK_PICTURE=AAAA",
        ];
        let mut block = [&[0; 4], &u32::try_from(comments.len()).unwrap().to_le_bytes()[..]].concat();
        for comment in comments {
            block.extend(u32::try_from(comment.len()).unwrap().to_le_bytes());
            block.extend(comment.as_bytes());
        }
        let (metadata, error) = parse(&block);
        let expected = [("albumartist", "AA"), ("disc", "1/2"), ("musicbrainz_trackid", "m"), ("comment", "D")];
        assert_eq!((metadata.tags.present().collect::<Vec<_>>(), metadata.has_cover), (expected.to_vec(), true));
        assert_eq!(error, None);
    }

    #[test]
    fn what_is_not_utf8_is_replaced_and_too_many_are_said() {
        let (metadata, error) = parse(&block(b"artist=Bj\xf6rk", 2_000_000));
        assert_eq!(metadata.tags.get(Field::Artist), Some("Bj\u{fffd}rk"));
        assert_eq!(metadata.error.as_deref(), Some("Vorbis comments: only the first 50000 are read"));
        assert_eq!(error, None);
    }

    #[test]
    fn only_so_much_text_is_decoded() {
        let (_, error) = parse(&block(format!("artist={}", " ".repeat(70_000)).as_bytes(), 100));
        assert_eq!(error.as_deref(), Some("it has too much text"));
    }
}
