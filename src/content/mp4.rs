//! The bit rate of the audio in an MP4 file, from its decoder configuration.
//!
//! lofty divides all of the media data by the playing time, which is far too much if there is
//! video too.
//!
//! Formats: boxes, ISO/IEC 14496-12, sections 4.2 and 8; `esds`, 14496-14, section 5.6, and 14496-1,
//! section 7.2.6.

use std::io::{self, Read, Seek, SeekFrom};

use super::source::Source;

/// The most boxes in one box. A file with more is corrupt.
const MAX_BOXES: usize = 4096;

/// Bytes of an audio sample entry before the boxes in it, by its version.
const ENTRY_LENGTHS: [u64; 3] = [28, 28 + 16, 28 + 36];

/// Bits per second of the first audio track; `None` if its description has none.
pub(super) fn audio_bitrate<R: Read + Seek>(source: &mut Source<R>) -> io::Result<Option<u32>> {
    let file = Part { kind: [0; 4], start: 0, end: source.length() };
    let Some(movie) = file.child(source, *b"moov")? else { return Ok(None) };
    let mut tracks = Vec::new();
    movie.each(source, |part| {
        if part.kind == *b"trak" {
            tracks.push(part);
        }
        true
    })?;
    for track in tracks {
        let Some(media) = track.child(source, *b"mdia")? else { continue };
        let Some(handler) = media.child(source, *b"hdlr")? else { continue };
        source.seek(SeekFrom::Start(handler.start + 8))?;
        if source.array()? == *b"soun" {
            return described_bitrate(source, media);
        }
    }
    Ok(None)
}

fn described_bitrate<R: Read + Seek>(source: &mut Source<R>, media: Part) -> io::Result<Option<u32>> {
    let Some(information) = media.child(source, *b"minf")? else { return Ok(None) };
    let Some(table) = information.child(source, *b"stbl")? else { return Ok(None) };
    let Some(descriptions) = table.child(source, *b"stsd")? else { return Ok(None) };
    // Version, flags and a count.
    let descriptions = Part { start: descriptions.start + 8, ..descriptions };
    let Some(entry) = descriptions.child(source, *b"mp4a")? else { return Ok(None) };
    source.seek(SeekFrom::Start(entry.start + 8))?;
    let version = usize::from(u16::from_be_bytes(source.array()?));
    let Some(length) = ENTRY_LENGTHS.get(version) else { return Ok(None) };
    let entry = Part { start: entry.start + length, ..entry };
    let stream = match entry.child(source, *b"esds")? {
        Some(stream) => stream,
        // QuickTime puts a box around it.
        None => match entry.child(source, *b"wave")? {
            Some(wave) => match wave.child(source, *b"esds")? {
                Some(stream) => stream,
                None => return Ok(None),
            },
            None => return Ok(None),
        },
    };
    // Version and flags.
    source.seek(SeekFrom::Start(stream.start + 4))?;
    average_bitrate(source)
}

/// The `avgBitrate` of the decoder's configuration in an elementary stream's descriptor.
fn average_bitrate<R: Read + Seek>(source: &mut Source<R>) -> io::Result<Option<u32>> {
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
    // Object type, stream type, buffer size and the highest bit rate.
    source.seek(SeekFrom::Current(1 + 1 + 3 + 4))?;
    Ok(Some(u32::from_be_bytes(source.array()?)).filter(|&bitrate| bitrate > 0))
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
struct Part {
    kind: [u8; 4],
    start: u64,
    end: u64,
}

impl Part {
    fn child<R: Read + Seek>(self, source: &mut Source<R>, kind: [u8; 4]) -> io::Result<Option<Self>> {
        let mut found = None;
        self.each(source, |part| {
            found = (part.kind == kind).then_some(part);
            found.is_none()
        })?;
        Ok(found)
    }

    /// Calls `visit` with each box in this one, until it returns false.
    fn each<R: Read + Seek>(self, source: &mut Source<R>, mut visit: impl FnMut(Self) -> bool) -> io::Result<()> {
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

    fn bitrate(bytes: &[u8]) -> Option<u32> {
        audio_bitrate(&mut Source::new(Cursor::new(bytes)).unwrap()).unwrap_or_default()
    }

    #[test]
    fn the_bit_rate_is_that_of_the_first_audio_track() {
        let tracks = [track(*b"vide", 9, 0, false), track(*b"soun", 96_000, 0, false), track(*b"soun", 8, 0, false)];
        assert_eq!(bitrate(&file(&tracks)), Some(96_000));
        assert_eq!(bitrate(&file(&tracks[..1])), None);
        assert_eq!(bitrate(&file(&[track(*b"soun", 0, 0, false)])), None);
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
