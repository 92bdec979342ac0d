//! The text frames of an ID3v2 tag, each apart from the others: a damaged frame costs its own text and nothing else.
//!
//! Formats: ID3v2.2.0, ID3v2.3.0 and ID3v2.4.0 (id3.org). Frames that are not wanted, such as pictures, are passed over.

use std::io::{self, BufRead, Read, Seek, SeekFrom};

use flate2::read::ZlibDecoder;

use super::found::{Field, Found, Named};
use super::source::{LONGEST_TEXT, Source};
use super::values::tidy;
use super::{names, text};

/// Bytes of the header of a tag.
const HEADER: u64 = 10;

/// The most frames of a tag. A tag with more is corrupt.
const MOST_FRAMES: usize = 10_000;

/// Frames that are enough to know how their sizes are written.
const ENOUGH_FRAMES: usize = 64;

/// Bytes of text whose decoding takes as long as making a decompressor ready for one frame.
const DECOMPRESSOR: u64 = 1024;

/// Whether the whole tag is unsynchronised, before ID3v2.4.
const UNSYNCHRONISED: u8 = 0x80;

/// Whether the tag has an extended header.
const EXTENDED: u8 = 0x40;

/// Whether the tag of ID3v2.4 has a footer.
const FOOTER: u8 = 0x10;

/// The length in bytes of the tag at the beginning of `head`, with its header and footer; `None` if there is none.
pub(super) fn length(head: &[u8]) -> Option<u64> {
    let &[b'I', b'D', b'3', version, _, flags, ref size @ ..] = head.first_chunk::<10>()? else { return None };
    let footer = if version == 4 && flags & FOOTER != 0 { HEADER } else { 0 };
    size.iter().all(|&byte| byte < 0x80).then(|| HEADER + u64::from(synchsafe(*size)) + footer)
}

/// Reads the tag in a chunk whose content begins at `at`, if there is one.
pub(super) fn read_chunk<R: Read + Seek>(source: &mut Source<R>, at: u64, found: &mut Found) -> io::Result<()> {
    let mut header = [0; 10];
    match length(source.read_at(at, &mut header)?) {
        Some(_) => read(source, at, found),
        None => Ok(()),
    }
}

/// Reads the tag that begins at `at` into `found`.
///
/// # Errors
///
/// If the file cannot be read.
pub(super) fn read<R: Read + Seek>(source: &mut Source<R>, at: u64, found: &mut Found) -> io::Result<()> {
    source.seek(SeekFrom::Start(at))?;
    let header: [u8; 10] = source.array()?;
    let (version, flags) = (header[3], header[5]);
    let size = u64::from(synchsafe([header[6], header[7], header[8], header[9]]));
    found.within(match version {
        2 => "ID3v2.2",
        3 => "ID3v2.3",
        4 => "ID3v2.4",
        _ => "ID3v2",
    });
    let end = (at + HEADER + size).min(source.length());
    if size > end - at - HEADER {
        found.problem("ID3v2 ends too early");
    }
    let Some(layout) = Layout::of(version) else {
        found.problem(format!("ID3v2 is of version 2.{version}, which is not known"));
        return Ok(());
    };
    let is_unsynchronised = version < 4 && flags & UNSYNCHRONISED != 0;
    let mut body = Body { source, end, is_unsynchronised, follows_ff: false };
    if flags & EXTENDED != 0 && version > 2 {
        body.skip_extended_header(version)?;
    }
    let sizes = if version == 4 { body.sizes_of_frames()? } else { Sizes::Plain };
    let mut parts = Parts::default();
    let frames = Frames { version, layout, sizes, is_unsynchronised: flags & UNSYNCHRONISED != 0 };
    let read = frames.read(&mut body, &mut parts, found);
    found.set(Field::Date, parts.dates.written());
    found.fill(parts.named);
    read
}

/// How the frames of a tag are written.
struct Frames {
    version: u8,
    layout: Layout,
    sizes: Sizes,
    is_unsynchronised: bool,
}

impl Frames {
    fn read<R: Read + Seek>(&self, body: &mut Body<'_, R>, parts: &mut Parts, found: &mut Found) -> io::Result<()> {
        for _ in 0..MOST_FRAMES {
            let Some(frame) = body.next_frame(self.layout, self.sizes)? else { return Ok(()) };
            let taken = match wanted(frame.id) {
                Some(Wanted::Cover) => {
                    found.cover();
                    0
                }
                // One that is not the first costs nothing.
                Some(Wanted::Tag(field)) if !found.wants(field) => 0,
                Some(wanted) => self.read_frame(body, &frame, wanted, parts, found)?,
                None => {
                    found.unread(|| frame.name());
                    0
                }
            };
            body.skip(frame.size - taken)?;
        }
        found.problem(format!("ID3v2: only the first {MOST_FRAMES} frames are read"));
        Ok(())
    }

    /// Reads the content of a frame; returns how many bytes of it.
    fn read_frame<R: Read + Seek>(
        &self,
        body: &mut Body<'_, R>,
        frame: &Frame,
        wanted: Wanted,
        parts: &mut Parts,
        found: &mut Found,
    ) -> io::Result<u64> {
        let taken = frame.size.min(LONGEST_TEXT);
        let data = body.text(taken)?;
        if (data.len() as u64) < taken {
            found.problem(format!("ID3v2 {} ends too early", frame.name()));
        }
        body.source.decode(if frame.is_compressed(self.version) { DECOMPRESSOR } else { 0 })?;
        let content = frame.content(self.version, self.version == 4 && self.is_unsynchronised, &data);
        let expanded = content.as_ref().map_or(0, |content| content.len() as u64);
        body.source.decode(expanded.saturating_sub(taken))?;
        if let Err(problem) = content.and_then(|data| wanted.keep(&data, frame, parts, found)) {
            found.problem(format!("ID3v2 {} {problem}", frame.name()));
        }
        Ok(taken)
    }
}

fn synchsafe(bytes: [u8; 4]) -> u32 {
    bytes.into_iter().fold(0, |number, byte| number << 7 | u32::from(byte & 0x7F))
}

/// The form of a frame's header.
#[derive(Clone, Copy)]
struct Layout {
    id: usize,
    size: usize,
    flags: usize,
}

impl Layout {
    fn of(version: u8) -> Option<Self> {
        match version {
            2 => Some(Self { id: 3, size: 3, flags: 0 }),
            3 | 4 => Some(Self { id: 4, size: 4, flags: 2 }),
            _ => None,
        }
    }
}

/// How the sizes of frames are written. ID3v2.4 says seven bits a byte, and some versions of iTunes wrote eight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sizes {
    Plain,
    Synchsafe,
}

/// The header of a frame.
struct Frame {
    id: [u8; 4],
    size: u64,
    flags: u16,
}

impl Frame {
    fn name(&self) -> String {
        self.id.iter().filter(|byte| byte.is_ascii_alphanumeric()).map(|byte| char::from(*byte)).collect()
    }

    fn is_compressed(&self, version: u8) -> bool {
        match version {
            3 => self.flags & 0x80 != 0,
            4 => self.flags & 0x08 != 0,
            _ => false,
        }
    }

    /// The text of the frame, without what its flags add.
    fn content(&self, version: u8, is_unsynchronised: bool, data: &[u8]) -> Result<Vec<u8>, String> {
        let is_set = |flag: u16| self.flags & flag != 0;
        let (grouped, encrypted, unsynchronised, has_length) = match version {
            3 => (is_set(0x20), is_set(0x40), false, is_set(0x80)),
            4 => (is_set(0x40), is_set(0x04), is_set(0x02) || is_unsynchronised, is_set(0x01)),
            _ => Default::default(),
        };
        if encrypted {
            return Err("is encrypted".to_owned());
        }
        let added = usize::from(grouped) + if has_length { 4 } else { 0 };
        let data = data.get(added..).ok_or("ends too early")?;
        let data = if unsynchronised { synchronised(data) } else { data.to_vec() };
        if !self.is_compressed(version) {
            return Ok(data);
        }
        let mut text = Vec::new();
        // What was decompressed before an error is as good as a text that is cut.
        let decompressed = ZlibDecoder::new(&data[..]).take(LONGEST_TEXT).read_to_end(&mut text);
        if text.is_empty() && decompressed.is_err() {
            return Err("cannot be decompressed".to_owned());
        }
        Ok(text)
    }
}

/// Removes the zeros that unsynchronisation inserted.
fn synchronised(data: &[u8]) -> Vec<u8> {
    let mut before = 0;
    data.iter().copied().filter(|&byte| std::mem::replace(&mut before, byte) != 0xFF || byte != 0).collect()
}

/// A frame that is wanted.
#[derive(Clone, Copy)]
enum Wanted {
    Tag(Field),
    Genre,
    Date(DatePart),
    /// A comment with a language and a description.
    Comment,
    /// A text whose name is in the frame.
    Named,
    /// An id whose owner is in the frame.
    Id,
    Cover,
}

#[derive(Clone, Copy)]
enum DatePart {
    Recorded,
    Year,
    DayAndMonth,
    Time,
}

fn wanted(id: [u8; 4]) -> Option<Wanted> {
    Some(match &id {
        b"TIT2" | b"TT2\0" => Wanted::Tag(Field::Title),
        b"TPE1" | b"TP1\0" => Wanted::Tag(Field::Artist),
        b"TALB" | b"TAL\0" => Wanted::Tag(Field::Album),
        b"TRCK" | b"TRK\0" => Wanted::Tag(Field::Track),
        b"TCON" | b"TCO\0" => Wanted::Genre,
        b"TDRC" => Wanted::Date(DatePart::Recorded),
        b"TYER" | b"TYE\0" => Wanted::Date(DatePart::Year),
        b"TDAT" | b"TDA\0" => Wanted::Date(DatePart::DayAndMonth),
        b"TIME" | b"TIM\0" => Wanted::Date(DatePart::Time),
        b"TPE2" | b"TP2\0" => Wanted::Tag(Field::AlbumArtist),
        b"TPOS" | b"TPA\0" => Wanted::Tag(Field::Disc),
        b"TCOM" | b"TCM\0" => Wanted::Tag(Field::Composer),
        b"TSRC" | b"TRC\0" => Wanted::Tag(Field::Isrc),
        b"TBPM" | b"TBP\0" => Wanted::Tag(Field::Bpm),
        b"TKEY" | b"TKE\0" => Wanted::Tag(Field::InitialKey),
        // Frames of iTunes.
        b"TCMP" | b"TCP\0" => Wanted::Tag(Field::Compilation),
        b"COMM" | b"COM\0" => Wanted::Comment,
        b"TXXX" | b"TXX\0" => Wanted::Named,
        b"UFID" | b"UFI\0" => Wanted::Id,
        b"APIC" | b"PIC\0" => Wanted::Cover,
        _ => return None,
    })
}

/// Who owns the ids of MusicBrainz in frames UFID.
const MUSICBRAINZ: &[u8] = b"http://musicbrainz.org";

/// What is put together from several frames, or kept until the others were read.
#[derive(Default)]
struct Parts {
    dates: Dates,
    /// The texts of frames with a name of their own. A frame that ID3v2 has for the field goes before them.
    named: Named,
}

impl Wanted {
    /// Keeps what the frame says.
    ///
    /// # Errors
    ///
    /// Why it cannot be read, in words that follow the name of the frame.
    fn keep(self, data: &[u8], frame: &Frame, parts: &mut Parts, found: &mut Found) -> Result<(), String> {
        match self {
            Self::Tag(field) => found.set(field, text::of_id3(data)?),
            Self::Genre => found.set(Field::Genre, text::of_id3(data)?.and_then(|text| super::genres::first(&text))),
            Self::Date(part) => {
                let text = text::of_id3(data)?;
                let place = parts.dates.place(part);
                if place.is_none() {
                    *place = text;
                }
            }
            // Some programs write empty ones.
            Self::Comment | Self::Named if data.is_empty() => {}
            Self::Comment => {
                let comment = text::Described::with_language(data)?;
                let description = comment.description();
                if !description.is_empty() {
                    found.unread(|| format!("{}:{description}", frame.name()));
                } else if found.wants(Field::Comment) {
                    found.set(Field::Comment, comment.text());
                }
            }
            Self::Named => {
                let described = text::Described::of(data)?;
                let name = described.description();
                match names::field_of(&name) {
                    Some(field) if parts.named.wants(field, found) => parts.named.set(field, described.text()),
                    Some(_) => {}
                    None => found.unread(|| format!("{}:{name}", frame.name())),
                }
            }
            Self::Id => match data.strip_prefix(MUSICBRAINZ).and_then(|rest| rest.strip_prefix(b"\0")) {
                Some(id) => found.set(Field::MusicBrainzTrackId, tidy(&text::latin1(id))),
                None => found.unread(|| frame.name()),
            },
            // It is passed over unread.
            Self::Cover => {}
        }
        Ok(())
    }
}

/// The frames that together are the date.
#[derive(Default)]
struct Dates {
    recorded: Option<String>,
    year: Option<String>,
    /// `DDMM`.
    day_and_month: Option<String>,
    /// `HHMM`.
    time: Option<String>,
}

impl Dates {
    fn place(&mut self, part: DatePart) -> &mut Option<String> {
        match part {
            DatePart::Recorded => &mut self.recorded,
            DatePart::Year => &mut self.year,
            DatePart::DayAndMonth => &mut self.day_and_month,
            DatePart::Time => &mut self.time,
        }
    }

    /// The date as it is written. The three frames of ID3v2.3 are put together as one of ID3v2.4 would be written.
    fn written(self) -> Option<String> {
        if self.recorded.is_some() {
            return self.recorded;
        }
        let year = self.year?;
        let is_number = |text: &str| text.len() == 4 && text.bytes().all(|byte| byte.is_ascii_digit());
        let day_and_month = self.day_and_month.filter(|text| is_number(text) && is_number(&year));
        let Some(day_and_month) = day_and_month else { return Some(year) };
        let (day, month) = day_and_month.split_at(2);
        let time = self.time.filter(|text| is_number(text));
        let time = time.map(|time| format!(" {}:{}:00", &time[..2], &time[2..])).unwrap_or_default();
        Some(format!("{year}-{month}-{day}{time}"))
    }
}

/// What follows the header of a tag.
struct Body<'a, R> {
    source: &'a mut Source<R>,
    end: u64,
    is_unsynchronised: bool,
    /// Whether the last byte was one after which a zero is inserted.
    follows_ff: bool,
}

impl<R: Read + Seek> Body<'_, R> {
    /// The next bytes, at most so many: fewer at the end of the tag.
    fn read(&mut self, most: u64) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        if self.is_unsynchronised {
            self.synchronise(most, |byte| bytes.push(byte))?;
        } else {
            let left = self.end.saturating_sub(self.source.stream_position()?);
            self.source.by_ref().take(most.min(left)).read_to_end(&mut bytes)?;
        }
        Ok(bytes)
    }

    /// The next bytes, which are decoded as text.
    fn text(&mut self, most: u64) -> io::Result<Vec<u8>> {
        self.source.decode(most)?;
        self.read(most)
    }

    /// Calls `keep` with the next bytes, at most so many, without the zeros that unsynchronisation inserted.
    fn synchronise(&mut self, most: u64, mut keep: impl FnMut(u8)) -> io::Result<()> {
        let mut wanted = most;
        while wanted > 0 {
            let left = self.end.saturating_sub(self.source.stream_position()?);
            let buffer = self.source.fill_buf()?;
            let length = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
            if length == 0 {
                break;
            }
            let mut used = 0;
            for &byte in &buffer[..length] {
                if wanted == 0 {
                    break;
                }
                used += 1;
                let is_inserted = std::mem::replace(&mut self.follows_ff, byte == 0xFF) && byte == 0;
                if !is_inserted {
                    wanted -= 1;
                    keep(byte);
                }
            }
            self.source.consume(used);
        }
        Ok(())
    }

    /// Passes over the next bytes, not counting the zeros that unsynchronisation inserted. It looks at many bytes at once,
    /// as pictures are large.
    fn skip_synchronised(&mut self, bytes: u64) -> io::Result<()> {
        let mut wanted = bytes;
        while wanted > 0 {
            let left = self.end.saturating_sub(self.source.stream_position()?).min(wanted);
            let buffer = self.source.fill_buf()?;
            let passed = &buffer[..usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len())];
            let (Some(&first), Some(&last)) = (passed.first(), passed.last()) else { break };
            let pairs = passed.iter().zip(&passed[1..]).filter(|&(&one, &next)| one == 0xFF && next == 0).count();
            let inserted = pairs + usize::from(self.follows_ff && first == 0);
            self.follows_ff = last == 0xFF;
            let length = passed.len();
            wanted -= (length - inserted) as u64;
            self.source.consume(length);
        }
        Ok(())
    }

    fn skip(&mut self, bytes: u64) -> io::Result<()> {
        if self.is_unsynchronised {
            return self.skip_synchronised(bytes);
        }
        let at = self.source.stream_position()?;
        self.source.seek(SeekFrom::Start(at.saturating_add(bytes).min(self.end)))?;
        Ok(())
    }

    /// Skips the extended header. Some programs set its flag and write none: then the first frame follows at once.
    fn skip_extended_header(&mut self, version: u8) -> io::Result<()> {
        let before = self.source.stream_position()?;
        let size: [u8; 4] = self.read(4)?.try_into().unwrap_or_default();
        if wanted(size).is_some() || is_id(size) {
            self.follows_ff = false;
            self.source.seek(SeekFrom::Start(before))?;
            return Ok(());
        }
        // In ID3v2.3 the size is without itself.
        let rest = if version == 3 { u32::from_be_bytes(size) } else { synchsafe(size).saturating_sub(4) };
        self.skip(u64::from(rest))
    }

    /// How the sizes are written: in the way by which more frames follow each other.
    fn sizes_of_frames(&mut self) -> io::Result<Sizes> {
        let begin = self.source.stream_position()?;
        let mut count = |sizes| {
            self.source.seek(SeekFrom::Start(begin))?;
            let layout = Layout { id: 4, size: 4, flags: 2 };
            let mut frames = 0_usize;
            while let Some(frame) = self.next_frame(layout, sizes)?.filter(|frame| is_id(frame.id)) {
                let fits = self.source.stream_position()?.saturating_add(frame.size) <= self.end;
                if !fits || frames == ENOUGH_FRAMES {
                    break;
                }
                frames += 1;
                self.skip(frame.size)?;
            }
            Ok::<_, io::Error>(frames)
        };
        let (synchsafe, plain) = (count(Sizes::Synchsafe)?, count(Sizes::Plain)?);
        self.source.seek(SeekFrom::Start(begin))?;
        Ok(if plain > synchsafe { Sizes::Plain } else { Sizes::Synchsafe })
    }

    /// The header of the next frame; `None` at the padding or the end of the tag.
    fn next_frame(&mut self, layout: Layout, sizes: Sizes) -> io::Result<Option<Frame>> {
        self.source.visit()?;
        let header = self.read((layout.id + layout.size + layout.flags) as u64)?;
        if header.len() < layout.id + layout.size + layout.flags || header[..layout.id].iter().all(|&byte| byte == 0) {
            return Ok(None);
        }
        let mut id = [0; 4];
        id[..layout.id].copy_from_slice(&header[..layout.id]);
        let size = &header[layout.id..layout.id + layout.size];
        let bits = if sizes == Sizes::Synchsafe { 7 } else { 8 };
        let size = size.iter().fold(0_u64, |number, &byte| number << bits | u64::from(byte));
        let flags = header[layout.id + layout.size..].iter().fold(0, |flags, &byte| flags << 8 | u16::from(byte));
        Ok(Some(Frame { id, size, flags }))
    }
}

fn is_id(id: [u8; 4]) -> bool {
    id.iter().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Metadata;
    use flate2::Compression;
    use flate2::write::ZlibEncoder;
    use proptest::prelude::*;
    use std::io::{Cursor, Write};

    fn seven_bits_a_byte(size: usize) -> [u8; 4] {
        [21, 14, 7, 0].map(|shift| u8::try_from(size >> shift & 0x7F).unwrap())
    }

    fn tag(version: u8, flags: u8, body: &[u8]) -> Vec<u8> {
        [&[b'I', b'D', b'3', version, 0, flags], &seven_bits_a_byte(body.len())[..], body].concat()
    }

    fn frame(version: u8, id: &str, flags: [u8; 2], data: &[u8]) -> Vec<u8> {
        let plain = u32::try_from(data.len()).unwrap().to_be_bytes();
        match version {
            2 => [id.as_bytes(), &plain[1..], data].concat(),
            3 => [id.as_bytes(), &plain, &flags, data].concat(),
            _ => [id.as_bytes(), &seven_bits_a_byte(data.len()), &flags, data].concat(),
        }
    }

    fn text(version: u8, id: &str, text: &str) -> Vec<u8> {
        frame(version, id, [0, 0], &[b"\0", text.as_bytes()].concat())
    }

    fn parse(bytes: &[u8]) -> (String, Option<String>) {
        let mut found = Found::default();
        read(&mut Source::new(Cursor::new(bytes)).unwrap(), 0, &mut found).unwrap();
        let mut metadata = Metadata::default();
        found.show(&mut metadata);
        let Metadata { tags, error: problems, .. } = metadata;
        let tags: Vec<_> = tags.present().map(|(name, text)| format!("{name}={text}")).collect();
        (tags.join(" "), problems)
    }

    fn of(bytes: &[u8]) -> String {
        let (tags, problems) = parse(bytes);
        assert_eq!(problems, None);
        tags
    }

    #[test]
    fn the_three_versions_are_read_and_the_first_of_two_frames_wins() {
        let picture = "x".repeat(5000);
        for (version, ids) in [(2, ["TT2", "PIC", "TP1", "TCO"]), (3, ["TIT2", "APIC", "TPE1", "TCON"])] {
            let frames = [
                text(version, ids[0], "Title"),
                text(version, ids[1], &picture),
                text(version, ids[2], "First"),
                text(version, ids[2], "Second"),
                text(version, ids[3], "(17)"),
                vec![0; 50],
            ];
            assert_eq!(of(&tag(version, 0, &frames.concat())), "title=Title artist=First genre=Rock");
        }
        let frames = [text(4, "TIT2", "Title"), text(4, "APIC", &picture), text(4, "TDRC", "1999-12-31")];
        assert_eq!(of(&tag(4, 0, &frames.concat())), "title=Title date=1999-12-31");
    }

    #[test]
    fn fields_are_found_by_their_frames_and_by_the_names_in_frames() {
        for version in [2, 3, 4] {
            let ids = match version {
                2 => ["TP2", "TPA", "TCM", "TRC", "TBP", "TKE", "TCP", "TXX", "COM", "UFI", "PIC"],
                _ => ["TPE2", "TPOS", "TCOM", "TSRC", "TBPM", "TKEY", "TCMP", "TXXX", "COMM", "UFID", "APIC"],
            };
            let plain = |id: &str, data: &[u8]| frame(version, id, [0, 0], data);
            let frames = [
                text(version, ids[7], "ALBUM ARTIST\0Named"),
                text(version, ids[7], "MusicBrainz Album Id\0album"),
                text(version, ids[7], "REPLAYGAIN_TRACK_GAIN\0-6.50 dB"),
                text(version, ids[7], "MOOD\0sad"),
                plain(ids[7], b"\x01\xff\xfeI\0S\0R\0C\0\0\0\xff\xfen\0o\0"),
                text(version, ids[0], "Album artist"),
                text(version, ids[1], "1/2"),
                text(version, ids[2], "Composer"),
                text(version, ids[3], "FRZ039800212"),
                text(version, ids[4], "128"),
                text(version, ids[5], "Am"),
                text(version, ids[6], "1"),
                plain(ids[8], b"\0engiTunNORM\0 00000"),
                plain(ids[8], b"\x01eng\xff\xfe\0\0\xff\xfeG\0\xf6\0"),
                plain(ids[9], b"http://www.id3.org/dummy/ufid.html\0x"),
                plain(ids[9], b"http://musicbrainz.org\0recording"),
                plain(ids[10], &[7; 300]),
            ];
            assert_eq!(
                of(&tag(version, 0, &frames.concat())),
                "albumartist=Album artist disc=1/2 composer=Composer musicbrainz_trackid=recording \
                 musicbrainz_albumid=album isrc=FRZ039800212 bpm=128 initialkey=Am comment=Gö compilation=1 \
                 replaygain_track_gain=-6.50 dB",
                "2.{version}"
            );
        }
    }

    #[test]
    fn a_date_is_as_it_is_written() {
        let of_frames = |version, frames: &[(&str, &str)]| {
            let frames: Vec<u8> = frames.iter().flat_map(|(id, value)| text(version, id, value)).collect();
            of(&tag(version, 0, &frames))
        };
        assert_eq!(of_frames(3, &[("TYER", "1999-12-31")]), "date=1999-12-31");
        assert_eq!(of_frames(4, &[("TYER", "1999")]), "date=1999");
        assert_eq!(of_frames(3, &[("TDAT", "3112"), ("TYER", "1999")]), "date=1999-12-31");
        assert_eq!(of_frames(3, &[("TIME", "0930"), ("TDAT", "3112"), ("TYER", "1999")]), "date=1999-12-31 09:30:00");
        assert_eq!(of_frames(2, &[("TYE", "1999 (remaster)"), ("TDA", "3112")]), "date=1999 (remaster)");
        assert_eq!(of_frames(4, &[("TYER", "1998"), ("TDRC", "1999/12/31")]), "date=1999/12/31");
    }

    #[test]
    fn a_damaged_frame_costs_its_own_text_alone() {
        let frames = [
            frame(3, "TIT2", [0, 0], b"\x07Title"),
            frame(3, "TALB", [0, 0x40], b"\0secret"),
            frame(3, "COMM", [0, 0], b"\0en"),
            text(3, "TPE1", "Artist"),
        ];
        let (tags, problems) = parse(&tag(3, 0, &frames.concat()));
        assert_eq!(tags, "artist=Artist");
        let expected = "ID3v2 TIT2 has the text encoding 7, which is not known; ID3v2 TALB is encrypted; ID3v2 COMM ends too early";
        assert_eq!(problems.as_deref(), Some(expected));
        let cut = tag(3, 0, &[text(3, "TPE1", "Artist"), text(3, "TIT2", "A long title")].concat());
        let (tags, problems) = parse(&cut[..cut.len() - 5]);
        assert_eq!(tags, "title=A long  artist=Artist".replace("long ", "long"));
        assert_eq!(problems.as_deref(), Some("ID3v2 ends too early; ID3v2 TIT2 ends too early"));
    }

    #[test]
    fn extended_headers_are_passed_over_and_may_be_missing() {
        let frames = text(3, "TIT2", "Title");
        assert_eq!(of(&tag(3, EXTENDED, &[&[0, 0, 0, 6, 0, 0, 0, 0, 0, 0], &frames[..]].concat())), "title=Title");
        assert_eq!(of(&tag(3, EXTENDED, &frames)), "title=Title", "the flag without the header");
        let frames = text(4, "TIT2", "Title");
        assert_eq!(of(&tag(4, EXTENDED, &[&[0, 0, 0, 6, 1, 0], &frames[..]].concat())), "title=Title");
    }

    #[test]
    fn unsynchronisation_is_undone() {
        let data = b"\x01\xff\xfeA\0";
        let inserted = b"\x01\xff\0\xfeA\0";
        let body = frame(3, "TIT2", [0, 0], data);
        let unsynchronised: Vec<u8> =
            body.iter().flat_map(|&byte| if byte == 0xFF { vec![byte, 0] } else { vec![byte] }).collect();
        let frames = [unsynchronised, text(3, "TPE1", "Artist")].concat();
        assert_eq!(of(&tag(3, UNSYNCHRONISED, &frames)), "title=A artist=Artist");
        let frames = [frame(4, "TIT2", [0, 0x02], inserted), text(4, "TPE1", "Artist")].concat();
        assert_eq!(of(&tag(4, 0, &frames)), "title=A artist=Artist");
    }

    #[test]
    fn sizes_of_eight_bits_a_byte_are_recognised() {
        let long = "x".repeat(200);
        let frames = [text(3, "TIT2", &long), text(3, "TPE1", "Artist"), text(3, "TALB", "Album")].concat();
        assert_eq!(of(&tag(4, 0, &frames)), format!("title={long} artist=Artist album=Album"));
    }

    #[test]
    fn what_is_compressed_costs_no_more_than_what_is_kept() {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(&[b"\0", vec![b'A'; 20 << 20].as_slice()].concat()).unwrap();
        let packed = encoder.finish().unwrap();
        let data = [&seven_bits_a_byte(20 << 20)[..], &packed].concat();
        let frames = [frame(4, "TIT2", [0, 0x09], &data), text(4, "TPE1", "Artist")].concat();
        let (tags, problems) = parse(&tag(4, 0, &frames));
        assert!(problems.is_none() && tags.ends_with("AAA artist=Artist"));
        assert_eq!(tags.len() as u64, "title= artist=Artist".len() as u64 + LONGEST_TEXT - 1);
    }

    #[test]
    fn a_decompressor_for_each_of_many_frames_costs_too_much() {
        let frames = frame(4, "TIT2", [0, 0x09], b"\0\0\0\x09\x78\x9c").repeat(5000);
        let tag = tag(4, 0, &frames);
        let read = read(&mut Source::new(Cursor::new(&tag)).unwrap(), 0, &mut Found::default());
        assert_eq!(read.unwrap_err().to_string(), "it has too much text");
    }

    /// Reads or passes over bytes of an unsynchronised tag in steps of these sizes. Returns after each step whether a zero
    /// may follow, and the position.
    fn steps(bytes: &[u8], sizes: &[u64], passes_over: bool) -> Vec<(bool, u64)> {
        let source = &mut Source::new(Cursor::new(bytes)).unwrap();
        let mut body = Body { source, end: bytes.len() as u64, is_unsynchronised: true, follows_ff: false };
        let mut seen = Vec::new();
        for &size in sizes {
            if passes_over {
                body.skip(size).unwrap();
            } else {
                body.read(size).unwrap();
            }
            seen.push((body.follows_ff, body.source.stream_position().unwrap()));
        }
        seen
    }

    proptest! {
        #[test]
        fn passing_over_ends_where_reading_ends(
            bytes in prop::collection::vec(prop::sample::select(vec![0, 1, 0xFF]), 0..200),
            sizes in prop::collection::vec(0..60_u64, 0..8),
        ) {
            prop_assert_eq!(steps(&bytes, &sizes, true), steps(&bytes, &sizes, false));
        }

        #[test]
        fn no_mutation_panics(
            version in 2_u8..5,
            flags: u8,
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..12)
        ) {
            let ids = if version == 2 { ["TT2", "TDA", "TYE"] } else { ["TIT2", "TDAT", "TYER"] };
            let frames: Vec<u8> = ids.iter().flat_map(|id| text(version, id, "3112")).collect();
            let mut bytes = tag(version, flags, &frames);
            for (at, value) in changes {
                let at = at.index(bytes.len() - 10) + 10;
                bytes[at] = value;
            }
            parse(&bytes);
        }
    }
}
