//! Vorbis comments, one at a time: long ones, such as pictures, are passed over. So little is kept in memory, whatever the
//! sizes in the file are.
//!
//! Format: Vorbis I, section 5; the same in FLAC, RFC 9639, section 8.6, and in Opus, RFC 7845, section 5.2.

use std::io::{self, Read};

use super::found::{Field, Found};
use super::names;
use super::values::{tidy, track};
use crate::model::Metadata;

/// Bytes of a comment that are decoded.
const LONGEST_COMMENT: u64 = Metadata::LONGEST_TEXT as u64 + 1024;

/// The most comments that are read. Files with more are made to cost time.
const MOST_COMMENTS: u32 = 50_000;

/// Reads the comments, from the length of the vendor's name on. On failure, `found` has those before it.
pub(super) fn read<R: Read>(reader: &mut R, found: &mut Found) -> io::Result<()> {
    found.within("Vorbis comments");
    let mut parts = Parts::default();
    let read = each(reader, |name, value| parts.keep(name, value, found));
    parts.finish(found);
    if let Ok(Count::TooMany) = read {
        found.problem(format!("Vorbis comments: only the first {MOST_COMMENTS} are read"));
    }
    read.map(|_| ())
}

/// The comments that are a part of a field, or take the place of another comment.
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
    fn keep(&mut self, name: &str, value: &str, found: &mut Found) {
        let part = match name.to_ascii_uppercase().as_str() {
            "TITLE" => return found.set(Field::Title, tidy(value)),
            "ARTIST" => return found.set(Field::Artist, tidy(value)),
            "ALBUM" => return found.set(Field::Album, tidy(value)),
            "DATE" => return found.set(Field::Date, tidy(value)),
            "GENRE" => return found.set(Field::Genre, tidy(value)),
            "YEAR" => &mut self.year,
            "DESCRIPTION" => &mut self.description,
            "TRACKNUMBER" => &mut self.track,
            "TRACKTOTAL" | "TOTALTRACKS" => &mut self.tracks,
            "DISCNUMBER" => &mut self.disc,
            "DISCTOTAL" | "TOTALDISCS" => &mut self.discs,
            _ if names::is_picture(name) => return found.cover(),
            _ => match names::field_of(name) {
                Some(field) => return found.set(field, tidy(value)),
                None => return found.unread(|| name.to_owned()),
            },
        };
        if part.is_none() {
            *part = tidy(value);
        }
    }

    fn finish(self, found: &mut Found) {
        found.set(Field::Date, self.year);
        found.set(Field::Comment, self.description);
        found.set(Field::Track, track(self.track, self.tracks));
        found.set(Field::Disc, track(self.disc, self.discs));
    }
}

/// Whether all comments were read.
enum Count {
    All,
    TooMany,
}

fn each<R: Read>(reader: &mut R, mut keep: impl FnMut(&str, &str)) -> io::Result<Count> {
    let vendor = number(reader)?;
    skip(reader, vendor.into())?;
    let count = number(reader)?;
    let mut comment = Vec::new();
    for _ in 0..count.min(MOST_COMMENTS) {
        let length = u64::from(number(reader)?);
        let kept = length.min(LONGEST_COMMENT);
        comment.clear();
        if reader.take(kept).read_to_end(&mut comment)? as u64 != kept {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        skip(reader, length - kept)?;
        let text = String::from_utf8_lossy(&comment);
        if let Some((name, value)) = text.split_once('=') {
            keep(name, value);
        }
    }
    Ok(if count > MOST_COMMENTS { Count::TooMany } else { Count::All })
}

fn number<R: Read>(reader: &mut R) -> io::Result<u32> {
    let mut bytes = [0; 4];
    reader.read_exact(&mut bytes)?;
    Ok(u32::from_le_bytes(bytes))
}

fn skip<R: Read>(reader: &mut R, bytes: u64) -> io::Result<()> {
    let skipped = io::copy(&mut reader.take(bytes), &mut io::sink())?;
    if skipped == bytes { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(comments: &[&str]) -> Metadata {
        let mut block = [[0; 4], u32::try_from(comments.len()).unwrap().to_le_bytes()].concat();
        for comment in comments {
            block.extend(u32::try_from(comment.len()).unwrap().to_le_bytes());
            block.extend(comment.as_bytes());
        }
        let (mut metadata, mut found) = (Metadata::default(), Found::default());
        read(&mut &block[..], &mut found).unwrap();
        found.show(&mut metadata);
        metadata
    }

    #[test]
    fn comments_that_belong_together_are_one_field_and_a_picture_is_noted() {
        let metadata = parse(&[
            "DESCRIPTION=D",
            "disctotal=2",
            "DiscNumber=1",
            "Album Artist=AA",
            "ALBUMARTIST=Second",
            "MUSICBRAINZ_TRACKID=m",
            "ENCODER=x",
        ]);
        let expected = [("albumartist", "AA"), ("disc", "1/2"), ("musicbrainz_trackid", "m"), ("comment", "D")];
        assert_eq!(metadata.tags.present().collect::<Vec<_>>(), expected);
        assert!(!metadata.has_cover);
        let metadata = parse(&["DESCRIPTION=D", "COMMENT=C", "metadata_block_picture=AAAA"]);
        assert_eq!(metadata.tags.present().collect::<Vec<_>>(), [("comment", "C")]);
        assert!(metadata.has_cover);
    }

    #[test]
    fn what_is_not_utf8_is_replaced_and_too_many_are_said() {
        let mut block = b"\0\0\0\0".to_vec();
        block.extend((MOST_COMMENTS + 1).to_le_bytes());
        let comment: &[u8] = b"artist=Bj\xf6rk";
        for _ in 0..=MOST_COMMENTS {
            block.extend(u32::try_from(comment.len()).unwrap().to_le_bytes());
            block.extend(comment);
        }
        let mut found = Found::default();
        read(&mut &block[..], &mut found).unwrap();
        let mut metadata = Metadata::default();
        found.show(&mut metadata);
        let Metadata { tags, error: problems, .. } = metadata;
        assert_eq!(tags.get(Field::Artist), Some("Bj\u{fffd}rk"));
        assert_eq!(problems.as_deref(), Some("Vorbis comments: only the first 50000 are read"));
    }
}
