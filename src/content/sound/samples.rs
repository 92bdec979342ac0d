//! Sound in MP4: the samples of the first audio track, wherever the media data is.
//!
//! Format: ISO/IEC 14496-12, sections 8.7 (tables of samples) and 8.8 (fragments).

use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;

use super::super::mp4_boxes::Part;
use super::super::mp4_sound::sound_of;
use super::super::ogg::corrupt;
use super::super::source::Source;

/// The most samples of a track: 27 hours of AAC at 44,100 Hz. A file with more has no hash of its sound.
const MOST_SAMPLES: u32 = 1 << 22;

/// The most chunks of samples. There are several samples in each.
const MOST_CHUNKS: u32 = 1 << 20;

/// The samples of the first audio track, in the order of the table; `None` if it has none.
pub(super) fn of_file<R: Read + Seek>(source: &mut Source<R>) -> io::Result<Option<Vec<Range<u64>>>> {
    let file = Part::file(source);
    let Some(movie) = file.child(source, *b"moov")? else { return Ok(None) };
    let Some(track) = sound_of(source, movie)? else { return Ok(None) };
    let ranges = of_track(source, track.media)?;
    if !ranges.is_empty() {
        return Ok(Some(ranges));
    }
    // The samples are in fragments. If there is no other track, they are all of the media data.
    let is_alone = movie.children(source, *b"trak")?.len() == 1;
    if is_alone { of_fragments(source, file).map(Some) } else { Ok(None) }
}

/// The samples that the table of a track lists. Those next to each other are one range.
fn of_track<R: Read + Seek>(source: &mut Source<R>, media: Part) -> io::Result<Vec<Range<u64>>> {
    let Some(information) = media.child(source, *b"minf")? else { return Ok(Vec::new()) };
    let Some(table) = information.child(source, *b"stbl")? else { return Ok(Vec::new()) };
    let Some(mut sizes) = Sizes::of(source, table)? else { return Ok(Vec::new()) };
    let mut samples_in = SamplesInChunks::of(source, table)?;
    let mut ranges: Vec<Range<u64>> = Vec::new();
    for (number, offset) in (1..).zip(chunk_offsets(source, table)?) {
        let end = offset.saturating_add(sizes.next(samples_in.chunk(number))).min(source.length());
        match ranges.last_mut().filter(|last| last.end == offset) {
            Some(last) => last.end = end.max(offset),
            None => ranges.push(offset..end),
        }
    }
    ranges.retain(|range| !range.is_empty());
    Ok(ranges)
}

/// All media data of the file.
fn of_fragments<R: Read + Seek>(source: &mut Source<R>, file: Part) -> io::Result<Vec<Range<u64>>> {
    Ok(file.children(source, *b"mdat")?.into_iter().map(|part| part.start..part.end).collect())
}

/// The sizes of samples in bytes, one after the other: box `stsz`.
enum Sizes {
    Equal { size: u32, left: u32 },
    Different(std::vec::IntoIter<u32>),
}

impl Sizes {
    fn of<R: Read + Seek>(source: &mut Source<R>, table: Part) -> io::Result<Option<Self>> {
        let Some(part) = table.child(source, *b"stsz")? else { return Ok(None) };
        source.seek(SeekFrom::Start(part.start + 4))?;
        let size = u32::from_be_bytes(source.array()?);
        let count = u32::from_be_bytes(source.array()?);
        if size > 0 {
            return Ok(Some(Self::Equal { size, left: count }));
        }
        let sizes = entries::<4, _>(source, count, MOST_SAMPLES)?.into_iter().map(u32::from_be_bytes);
        Ok(Some(Self::Different(sizes.collect::<Vec<_>>().into_iter())))
    }

    /// The bytes of the next samples together, as many as there are.
    fn next(&mut self, samples: u32) -> u64 {
        match self {
            Self::Equal { size, left } => {
                let samples = samples.min(*left);
                *left -= samples;
                u64::from(samples) * u64::from(*size)
            }
            Self::Different(sizes) => sizes.by_ref().take(samples as usize).map(u64::from).sum(),
        }
    }
}

/// How many samples are in each chunk: box `stsc`, which lists the chunks from which on the number changes.
struct SamplesInChunks {
    changes: std::iter::Peekable<std::vec::IntoIter<[u8; 12]>>,
    samples: u32,
}

impl SamplesInChunks {
    fn of<R: Read + Seek>(source: &mut Source<R>, table: Part) -> io::Result<Self> {
        let changes = match table.child(source, *b"stsc")? {
            Some(part) => counted::<12, _>(source, part)?,
            None => Vec::new(),
        };
        Ok(Self { changes: changes.into_iter().peekable(), samples: 0 })
    }

    /// The samples in the chunk with this number. Numbers count from one, and must not fall.
    fn chunk(&mut self, number: u32) -> u32 {
        let field =
            |entry: &[u8; 12], at: usize| entry[at..].first_chunk().map_or(0, |&field| u32::from_be_bytes(field));
        while let Some(change) = self.changes.next_if(|change| field(change, 0) <= number) {
            self.samples = field(&change, 4);
        }
        self.samples
    }
}

/// Where the chunks of samples begin: box `stco`, or `co64`.
fn chunk_offsets<R: Read + Seek>(source: &mut Source<R>, table: Part) -> io::Result<Vec<u64>> {
    if let Some(part) = table.child(source, *b"stco")? {
        return Ok(counted::<4, _>(source, part)?
            .into_iter()
            .map(|offset| u32::from_be_bytes(offset).into())
            .collect());
    }
    match table.child(source, *b"co64")? {
        Some(part) => Ok(counted::<8, _>(source, part)?.into_iter().map(u64::from_be_bytes).collect()),
        None => Ok(Vec::new()),
    }
}

/// The entries of a box that begins with a version, flags and their number.
fn counted<const N: usize, R: Read + Seek>(source: &mut Source<R>, part: Part) -> io::Result<Vec<[u8; N]>> {
    source.seek(SeekFrom::Start(part.start + 4))?;
    let count = u32::from_be_bytes(source.array()?);
    entries(source, count, MOST_CHUNKS)
}

/// The next entries, of `N` bytes each.
///
/// # Errors
///
/// If there are more than `most`, or fewer than `count`.
fn entries<const N: usize, R: Read + Seek>(source: &mut Source<R>, count: u32, most: u32) -> io::Result<Vec<[u8; N]>> {
    if count > most {
        return Err(corrupt("a table of samples is too long"));
    }
    let length = u64::from(count) * N as u64;
    let mut bytes = Vec::new();
    source.by_ref().take(length).read_to_end(&mut bytes)?;
    if (bytes.len() as u64) < length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(bytes.as_chunks().0.to_vec())
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    fn part(kind: [u8; 4], content: &[u8]) -> Vec<u8> {
        let size = u32::try_from(content.len() + 8).unwrap();
        [&size.to_be_bytes()[..], &kind, content].concat()
    }

    /// A box of numbers behind its version and flags.
    fn numbers(kind: [u8; 4], numbers: &[u32]) -> Vec<u8> {
        let numbers: Vec<u8> = numbers.iter().flat_map(|number| number.to_be_bytes()).collect();
        part(kind, &[&[0; 4], &numbers[..]].concat())
    }

    /// A track of sound with these boxes in its table.
    fn track(table: &[Vec<u8>]) -> Vec<u8> {
        let handler = part(*b"hdlr", b"\0\0\0\0\0\0\0\0soun");
        let information = part(*b"minf", &part(*b"stbl", &table.concat()));
        part(*b"trak", &part(*b"mdia", &[handler, information].concat()))
    }

    fn read(tracks: &[Vec<u8>], rest: &[u8]) -> io::Result<Option<Vec<Range<u64>>>> {
        let file = [part(*b"moov", &tracks.concat()), rest.to_vec()].concat();
        of_file(&mut Source::new(Cursor::new(file)).unwrap())
    }

    #[test]
    fn the_samples_of_each_chunk_are_where_the_tables_say() {
        let sizes = numbers(*b"stsz", &[0, 5, 10, 20, 30, 40, 50]);
        // Two samples in each of the first two chunks, one in the third.
        let in_chunks = numbers(*b"stsc", &[2, 1, 2, 1, 3, 1, 1]);
        let offsets = numbers(*b"stco", &[3, 100, 130, 1000]);
        let rest = part(*b"mdat", &[0; 2000]);
        let found = read(&[track(&[sizes.clone(), in_chunks.clone(), offsets])], &rest).unwrap();
        assert_eq!(found, Some(vec![100..200, 1000..1050]));
        let offsets = part(*b"co64", &[&[0; 4], &2_u32.to_be_bytes()[..], &[0; 6], &[1, 0], &[0; 6], &[2, 0]].concat());
        let equal = numbers(*b"stsz", &[7, 3]);
        assert_eq!(read(&[track(&[equal, in_chunks, offsets])], &rest).unwrap(), Some(vec![256..270, 512..519]));
    }

    #[test]
    fn the_media_data_of_fragments_is_sound_if_there_is_no_other_track() {
        let sound = track(&[numbers(*b"stsz", &[0, 0]), numbers(*b"stsc", &[0]), numbers(*b"stco", &[0])]);
        let rest = [part(*b"moof", &[0; 10]), part(*b"mdat", &[1; 20]), part(*b"mdat", &[2; 30])].concat();
        let ranges = read(std::slice::from_ref(&sound), &rest).unwrap().unwrap();
        assert_eq!(ranges.iter().map(|range| range.end - range.start).collect::<Vec<_>>(), [20, 30]);
        assert_eq!(read(&[sound.clone(), sound], &rest).unwrap(), None);
    }

    #[test]
    fn tables_that_are_too_long_are_an_error_and_cost_nothing() {
        let table = |count| {
            track(&[numbers(*b"stsz", &[0, count]), numbers(*b"stsc", &[1, 1, 1, 1]), numbers(*b"stco", &[1, 9])])
        };
        assert!(read(&[table(100)], &[]).is_err(), "the file ends before");
        assert!(read(&[table(u32::MAX)], &[]).is_err());
    }
}
