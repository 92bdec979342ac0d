//! The tags at the end of a file, which are no sound.
//!
//! Formats: ID3v1, the enhanced tag in front of it, Lyrics3 1 and 2, ID3v2.4 with a footer (id3.org); APEv2
//! (wiki.hydrogenaud.io).

use std::io::{self, Read, Seek};

use super::end_tags::{ID3V1, ape_length};
use super::id3v2;
use super::source::Source;

/// The most tags. A file with more is corrupt.
const MOST_TAGS: usize = 16;

/// Bytes of the enhanced tag in front of ID3v1, the longest tag that is recognised by its beginning.
const ENHANCED: usize = 227;

/// Bytes of the texts that end Lyrics3, and of the size in front of the second one.
const LYRICS_END: usize = 9;
const LYRICS_SIZE: usize = 6;

/// Bytes of the longest Lyrics3 1, with its beginning.
const LONGEST_LYRICS: usize = 5100 + LYRICS_BEGIN.len() + LYRICS_END;

const LYRICS_BEGIN: &[u8] = b"LYRICSBEGIN";

/// Bytes of the footer of ID3v2.4.
const ID3V2_FOOTER: usize = 10;

/// Where the sound ends: in front of the tags at the end of the file.
pub(super) fn sound_end<R: Read + Seek>(source: &mut Source<R>) -> io::Result<u64> {
    let mut end = source.length();
    for _ in 0..MOST_TAGS {
        let Some(length) = tag_before(source, end)? else { break };
        match end.checked_sub(length) {
            Some(tag) => end = tag,
            None => break,
        }
    }
    Ok(end)
}

/// The length of the tag that ends at `end`; `None` if there is none.
fn tag_before<R: Read + Seek>(source: &mut Source<R>, end: u64) -> io::Result<Option<u64>> {
    let mut buffer = [0; ENHANCED];
    let bytes = read_before(source, end, &mut buffer)?;
    let last = |count: usize| bytes.len().checked_sub(count).map(|from| &bytes[from..]);
    if last(ID3V1).is_some_and(|tag| tag.starts_with(b"TAG")) {
        return Ok(Some(ID3V1 as u64));
    }
    if last(ENHANCED).is_some_and(|tag| tag.starts_with(b"TAG+")) {
        return Ok(Some(ENHANCED as u64));
    }
    if let Some(length) = lyrics_before(source, end)? {
        return Ok(Some(length));
    }
    Ok(ape_length(bytes).or_else(|| id3v2_length(last(ID3V2_FOOTER)?)))
}

/// The length of the Lyrics3 that end at `end`; `None` if there are none.
pub(super) fn lyrics_before<R: Read + Seek>(source: &mut Source<R>, end: u64) -> io::Result<Option<u64>> {
    let mut buffer = [0; LYRICS_SIZE + LYRICS_END];
    let bytes = read_before(source, end, &mut buffer)?;
    if bytes.ends_with(b"LYRICS200") {
        let size = bytes.first_chunk::<LYRICS_SIZE>().and_then(|digits| number(digits));
        let length = size.map(|size| size + (LYRICS_SIZE + LYRICS_END) as u64);
        return Ok(length.filter(|&length| length <= end));
    }
    if bytes.ends_with(b"LYRICSEND") {
        let mut buffer = [0; LONGEST_LYRICS];
        let bytes = read_before(source, end, &mut buffer)?;
        let begin = bytes.windows(LYRICS_BEGIN.len()).rposition(|window| window == LYRICS_BEGIN);
        return Ok(begin.map(|begin| (bytes.len() - begin) as u64));
    }
    Ok(None)
}

/// The last bytes before `end`, as many as fit in `buffer`.
fn read_before<'buffer, R: Read + Seek>(
    source: &mut Source<R>,
    end: u64,
    buffer: &'buffer mut [u8],
) -> io::Result<&'buffer [u8]> {
    let from = end.saturating_sub(buffer.len() as u64);
    let length = usize::try_from(end - from).unwrap_or(buffer.len());
    Ok(source.read_at(from, &mut buffer[..length])?)
}

fn number(digits: &[u8]) -> Option<u64> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// The length of the ID3v2 tag with this footer, which is like its header but for its first bytes.
fn id3v2_length(footer: &[u8]) -> Option<u64> {
    let rest = footer.strip_prefix(b"3DI")?;
    id3v2::length(&[b"ID3", rest].concat())
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    fn id3v1() -> Vec<u8> {
        [&b"TAG"[..], &[0; 125]].concat()
    }

    fn enhanced() -> Vec<u8> {
        [&b"TAG+"[..], &[0; 223]].concat()
    }

    fn ape(flags: u32) -> Vec<u8> {
        let edge = [&b"APETAGEX\xd0\x07\0\0"[..], &132_u32.to_le_bytes(), &[1, 0, 0, 0], &flags.to_le_bytes(), &[0; 8]];
        let header = if flags == 0 { Vec::new() } else { edge.concat() };
        [header, vec![b'i'; 100], edge.concat()].concat()
    }

    fn id3v2() -> Vec<u8> {
        let edge = |name: &[u8]| [name, &[4, 0, 0x10, 0, 0, 0, 50]].concat();
        [edge(b"ID3"), vec![b'f'; 50], edge(b"3DI")].concat()
    }

    fn end(tags: &[Vec<u8>]) -> u64 {
        let bytes = [vec![0xFF; 300], tags.concat()].concat();
        sound_end(&mut Source::new(Cursor::new(bytes)).unwrap()).unwrap()
    }

    #[test]
    fn every_kind_of_tag_is_recognised_in_any_order() {
        let lyrics1 = b"LYRICSBEGIN[00:01]la la\r\nLYRICSEND".to_vec();
        let lyrics2 = b"LYRICSBEGININD0000200LYR00005la la000034LYRICS200".to_vec();
        let tags = [id3v1(), ape(0), ape(1 << 31), lyrics1, lyrics2, id3v2()];
        assert_eq!(end(&[]), 300);
        for tag in &tags {
            assert_eq!(end(std::slice::from_ref(tag)), 300, "{tag:?}");
            for other in &tags {
                assert_eq!(end(&[tag.clone(), other.clone()]), 300, "{tag:?} {other:?}");
            }
        }
        assert_eq!(end(&[enhanced(), id3v1()]), 300);
    }

    #[test]
    fn a_tag_that_would_begin_in_front_of_the_file_is_none() {
        let huge = [&b"APETAGEX\xd0\x07\0\0"[..], &u32::MAX.to_le_bytes(), &[0; 16]].concat();
        assert_eq!(end(std::slice::from_ref(&huge)), 332);
        assert_eq!(end(&[b"999999LYRICS200".to_vec()]), 315);
        assert_eq!(end(&[b"LYRICSEND".to_vec()]), 309);
    }
}
