//! Vorbis comments, one at a time: long ones, such as pictures, are passed over. So little is kept in memory, whatever the
//! sizes in the file are.
//!
//! Format: Vorbis I, section 5; the same in FLAC, RFC 9639, section 8.6, and in Opus, RFC 7845, section 5.2.

use std::io::{self, Read};

use super::found::{Field, Found};
use super::values::{tidy, track};
use crate::model::Metadata;

/// Bytes of a comment that are decoded.
const LONGEST_COMMENT: u64 = Metadata::LONGEST_TEXT as u64 + 1024;

/// The most comments that are read. Files with more are made to cost time.
const MOST_COMMENTS: u32 = 50_000;

/// Reads the comments, from the length of the vendor's name on. On failure, `found` has those before it.
pub(super) fn read<R: Read>(reader: &mut R, found: &mut Found) -> io::Result<()> {
    let (mut year, mut number, mut total) = (None, None, None);
    let read = each(reader, |name, value| {
        let part = match name.to_ascii_uppercase().as_str() {
            "TITLE" => return found.set(Field::Title, tidy(value)),
            "ARTIST" => return found.set(Field::Artist, tidy(value)),
            "ALBUM" => return found.set(Field::Album, tidy(value)),
            "DATE" => return found.set(Field::Date, tidy(value)),
            "GENRE" => return found.set(Field::Genre, tidy(value)),
            "YEAR" => &mut year,
            "TRACKNUMBER" => &mut number,
            "TRACKTOTAL" | "TOTALTRACKS" => &mut total,
            _ => return,
        };
        if part.is_none() {
            *part = tidy(value);
        }
    });
    found.set(Field::Date, year);
    found.set(Field::Track, track(number, total));
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
