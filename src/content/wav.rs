//! WAV: the properties of the sound, and the tags in the list of information and in the chunk of ID3v2.
//!
//! The sound that is there counts, whatever the header says: files that were written to a pipe announce none, or more than
//! there can be. Texts of the list that are not UTF-8 are in the code page of Windows.
//!
//! Formats: Multimedia Programming Interface and Data Specifications 1.0 (IBM, Microsoft), chapters 2 and 3, with RIFX;
//! EBU Tech 3306 (RF64), ITU-R BS.2088 (BW64).

use std::io::{self, Read, Seek};
use std::ops::Range;

use super::chunks::{Chunk, Chunks, Order};
use super::found::{Field, Found};
use super::source::Source;
use super::values::{bits_per_second, tidy};
use super::{codecs, id3v2, text};
use crate::model::Metadata;

/// The position of the first chunk: behind "RIFF", a size and "WAVE".
const FIRST_CHUNK: u64 = 12;

/// The size of a chunk whose size is not known, or is in the chunk `ds64`.
const UNKNOWN_SIZE: u64 = u32::MAX as u64;

/// The most items of a list. Files with more are made to cost time.
const MOST_ITEMS: usize = 4096;

/// The codecs whose bytes per second follow from the size of a block: integers, floats, and those with an extended header.
const PCM: [u16; 3] = [1, 3, 0xFFFE];

/// Whether `head` is the beginning of a WAV file.
pub(super) fn begins(head: &[u8]) -> bool {
    order(head).is_some() && head.get(8..12) == Some(b"WAVE")
}

fn order(head: &[u8]) -> Option<Order> {
    match head.first_chunk()? {
        b"RIFF" | b"RF64" | b"BW64" => Some(Order::LittleEndian),
        b"RIFX" => Some(Order::BigEndian),
        _ => None,
    }
}

/// Reads the properties into `metadata`, and the tags into `found`: those of ID3v2, then the lists of information. On
/// failure, both have what could be read.
pub(super) fn read<R: Read + Seek>(
    source: &mut Source<R>,
    metadata: &mut Metadata,
    found: &mut Found,
) -> io::Result<()> {
    source.rewind()?;
    let order = order(&source.array::<12>()?).unwrap_or(Order::LittleEndian);
    let mut file = File { order, ..File::default() };
    let read = file.read_chunks(source, Some(found));
    file.sound.show(metadata);
    found.within("LIST INFO");
    for (begin, end) in std::mem::take(&mut file.lists) {
        file.read_list(source, begin, end, found)?;
    }
    read?;
    match (file.sound.format, file.sound.place) {
        (None, _) => Err(io::Error::other("it has no format chunk")),
        (_, None) => Err(io::Error::other("it has no sound")),
        _ => Ok(()),
    }
}

/// Where the sound is; `None` if there is none.
pub(super) fn sound<R: Read + Seek>(source: &mut Source<R>) -> io::Result<Option<Range<u64>>> {
    source.rewind()?;
    let order = order(&source.array::<12>()?).unwrap_or(Order::LittleEndian);
    let mut file = File { order, ..File::default() };
    file.read_chunks(source, None)?;
    Ok(file.sound.place)
}

#[derive(Default)]
struct File {
    order: Order,
    /// The size of the sound by the chunk `ds64`.
    long_size: Option<u64>,
    sound: Sound,
    /// Where the lists of information begin and end.
    lists: Vec<(u64, u64)>,
}

#[derive(Default)]
struct Sound {
    format: Option<Format>,
    place: Option<Range<u64>>,
}

/// What the format chunk says, which is a WAVEFORMATEX.
#[derive(Clone, Copy)]
struct Format {
    codec: u16,
    channels: u16,
    sample_rate: u32,
    bytes_per_second: u32,
    bits: u16,
}

impl Format {
    fn read<R: Read + Seek>(source: &mut Source<R>, chunk: &Chunk, order: Order) -> io::Result<Self> {
        let (codec, channels) = (order.u16(source.array()?), order.u16(source.array()?));
        let (sample_rate, bytes_per_second) = (order.u32(source.array()?), order.u32(source.array()?));
        let (block, bits) = (order.u16(source.array()?), order.u16(source.array()?));
        let of_blocks = sample_rate.checked_mul(block.into()).filter(|&bytes| bytes > 0 && PCM.contains(&codec));
        let bytes_per_second = of_blocks.unwrap_or(bytes_per_second);
        let mut format = Self { codec, channels, sample_rate, bytes_per_second, bits };
        if codec == codecs::EXTENSIBLE && chunk.size >= 26 {
            // The size of the extension, the valid bits and the places of the channels.
            let _before: [u8; 8] = source.array()?;
            format.codec = order.u16(source.array()?);
        }
        Ok(format)
    }
}

impl Sound {
    fn show(&self, metadata: &mut Metadata) {
        let Some(Format { codec, channels, sample_rate, bytes_per_second, bits }) = self.format else { return };
        metadata.channels = (channels > 0).then_some(channels.into());
        metadata.sample_rate = (sample_rate > 0).then_some(sample_rate);
        metadata.bitrate = bits_per_second(bytes_per_second.into(), 1.0);
        let codec = codecs::of_wave(codec, bits);
        metadata.codec = codec.map(ToOwned::to_owned);
        metadata.bits_per_sample = codecs::bits_of(codec, bits.into());
        let bytes = self.place.as_ref().map(|place| place.end - place.start);
        let bytes = bytes.filter(|&bytes| bytes > 0 && bytes_per_second > 0);
        metadata.duration = bytes.map(|bytes| bytes as f64 / f64::from(bytes_per_second));
    }
}

impl File {
    fn read_chunks<R: Read + Seek>(&mut self, source: &mut Source<R>, mut found: Option<&mut Found>) -> io::Result<()> {
        let mut chunks = Chunks::new(self.order, FIRST_CHUNK);
        while let Some(chunk) = chunks.next(source)? {
            match &chunk.kind {
                b"ds64" if chunk.size >= 16 => {
                    let [_, _, _, _, _, _, _, _, size @ ..]: [u8; 16] = source.array()?;
                    self.long_size = Some(u64::from_le_bytes(size)).filter(|&size| size > 0);
                }
                b"fmt " if self.sound.format.is_none() && chunk.size >= 16 => {
                    self.sound.format = Some(Format::read(source, &chunk, self.order)?);
                }
                b"data" if self.sound.place.is_none() => {
                    let end = self.end_of_sound(source, &chunk)?;
                    self.sound.place = Some(chunk.content..end);
                    chunks.pass(end);
                }
                b"LIST" if source.array()? == *b"INFO" => self.lists.push((chunk.content + 4, chunk.end)),
                b"id3 " | b"ID3 " => {
                    if let Some(found) = &mut found {
                        id3v2::read_chunk(source, chunk.content, found)?;
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Where the sound ends: at the end of the file, if the header does not say it.
    fn end_of_sound<R: Read + Seek>(&self, source: &mut Source<R>, chunk: &Chunk) -> io::Result<u64> {
        let size = match chunk.size {
            UNKNOWN_SIZE => self.long_size.unwrap_or(UNKNOWN_SIZE),
            // A program that writes to a pipe cannot go back to write the size.
            0 if !follows_chunk(source, chunk.content, self.order)? => UNKNOWN_SIZE,
            size => size,
        };
        Ok(chunk.content.saturating_add(size).min(source.length()))
    }

    fn read_list<R: Read + Seek>(
        &self,
        source: &mut Source<R>,
        begin: u64,
        end: u64,
        found: &mut Found,
    ) -> io::Result<()> {
        let mut at = begin;
        for _ in 0..MOST_ITEMS {
            let Some(chunk) = Chunk::at(source, at, end, self.order)? else { return Ok(()) };
            let field = match &chunk.kind {
                b"INAM" => Some(Field::Title),
                b"IART" => Some(Field::Artist),
                b"IPRD" => Some(Field::Album),
                b"ICRD" => Some(Field::Date),
                b"IGNR" => Some(Field::Genre),
                b"ITRK" | b"IPRT" => Some(Field::Track),
                b"IMUS" => Some(Field::Composer),
                b"ICMT" => Some(Field::Comment),
                b"IBPM" => Some(Field::Bpm),
                _ => None,
            };
            if field.is_none() {
                found.unread(|| text::latin1(&chunk.kind));
            }
            if let Some(field) = field.filter(|field| found.wants(*field)) {
                let text = source.text(chunk.end - chunk.content)?;
                let end = text.iter().position(|&byte| byte == 0).unwrap_or(text.len());
                found.set(field, tidy(&text::utf8_or_windows(&text[..end])));
            }
            at = chunk.next;
        }
        found.problem(format!("LIST INFO: only the first {MOST_ITEMS} items are read"));
        Ok(())
    }
}

/// Whether another chunk that fits in the file begins at `at`.
fn follows_chunk<R: Read + Seek>(source: &mut Source<R>, at: u64, order: Order) -> io::Result<bool> {
    let next = Chunk::at(source, at, source.length(), order)?;
    Ok(next.is_some_and(|next| next.has_name() && next.end == next.content + next.size))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::testing::read_by;
    use proptest::prelude::*;

    fn chunk(kind: &[u8], size: u32, content: &[u8]) -> Vec<u8> {
        let mut chunk = [kind, &size.to_le_bytes(), content].concat();
        chunk.resize(chunk.len().next_multiple_of(2), 0);
        chunk
    }

    fn whole(kind: &[u8], content: &[u8]) -> Vec<u8> {
        chunk(kind, u32::try_from(content.len()).unwrap(), content)
    }

    /// 8,000 Hz, two channels of 16 bits.
    fn format() -> Vec<u8> {
        let rates = [8000_u32, 32_000].map(u32::to_le_bytes).concat();
        whole(b"fmt ", &[&[1, 0, 2, 0][..], &rates, &[4, 0, 16, 0]].concat())
    }

    fn file(chunks: &[Vec<u8>]) -> Vec<u8> {
        [b"RIFF\xFF\xFF\xFF\xFFWAVE".to_vec(), chunks.concat()].concat()
    }

    fn parse(bytes: &[u8]) -> Metadata {
        read_by(bytes, read)
    }

    #[test]
    fn the_list_of_information_is_in_utf8_or_in_the_code_page_of_windows() {
        let items = [
            whole(b"INAM", b"Gr\xf6\xdfe\0"),
            whole(b"IART", "Björk".as_bytes()),
            whole(b"ITRK", b"3"),
            whole(b"INAM", b"second"),
        ];
        let list = whole(b"LIST", &[b"INFO".to_vec(), items.concat()].concat());
        let found = parse(&file(&[whole(b"junk", b"x"), list, format(), whole(b"data", &[0; 99])]));
        let tags: Vec<_> = found.tags.present().map(|(_, text)| text).collect();
        assert_eq!((tags, found.error), (vec!["Größe", "Björk", "3"], None));
    }

    #[test]
    fn only_the_sound_that_is_there_counts() {
        let sound = [0; 16_000];
        let tail = whole(b"LIST", b"INFOINAM\x02\0\0\0T\0");
        for data in [whole(b"data", &sound), chunk(b"data", u32::MAX, &sound), chunk(b"data", 0, &sound)] {
            let found = parse(&file(&[format(), data]));
            assert_eq!((found.duration, found.bitrate), (Some(0.5), Some(256_000)));
            assert_eq!((found.sample_rate, found.channels), (Some(8000), Some(2)));
            assert_eq!((found.codec.as_deref(), found.bits_per_sample), (Some("pcm_s16le"), Some(16)));
        }
        let empty = parse(&file(&[format(), whole(b"data", b""), tail.clone()]));
        assert_eq!((empty.duration, empty.tags.get(Field::Title)), (None, Some("T")));
        assert!(parse(&file(&[format()])).error.is_some());
    }

    #[test]
    fn the_extension_of_the_format_says_the_codec() {
        let rates = [48_000_u32, 384_000].map(u32::to_le_bytes).concat();
        let codec =
            [&[0xFE, 0xFF, 2, 0][..], &rates, &[8, 0, 32, 0, 22, 0, 32, 0, 3, 0, 0, 0, 3, 0], &[0; 14]].concat();
        let found = parse(&file(&[whole(b"fmt ", &codec), whole(b"data", b"xx")]));
        assert_eq!((found.codec.as_deref(), found.bits_per_sample), (Some("pcm_f32le"), Some(32)));
    }

    #[test]
    fn sizes_of_64_bits_and_the_other_order_of_bytes_are_read() {
        let sizes = whole(b"ds64", &[[0; 8], 16_000_u64.to_le_bytes(), [0; 8]].concat());
        let tail = whole(b"LIST", b"INFOINAM\x02\0\0\0T\0");
        for magic in [b"RF64", b"BW64"] {
            let mut bytes = file(&[sizes.clone(), format(), chunk(b"data", u32::MAX, &[0; 16_000]), tail.clone()]);
            bytes[..4].copy_from_slice(magic);
            assert!(begins(&bytes));
            let found = parse(&bytes);
            assert_eq!((found.duration, found.tags.get(Field::Title)), (Some(0.5), Some("T")));
        }
        let mut bytes = b"RIFX\0\0\0\0WAVEfmt \0\0\0\x10\0\x01\0\x02".to_vec();
        bytes.extend([8000_u32, 32_000].map(u32::to_be_bytes).concat());
        bytes.extend(b"\0\x04\0\x10data\0\0\x3e\x80");
        bytes.resize(bytes.len() + 16_000, 0);
        let found = parse(&bytes);
        assert!(begins(&bytes));
        assert_eq!((found.duration, found.bitrate, found.channels), (Some(0.5), Some(256_000), Some(2)));
    }

    #[test]
    fn a_million_items_are_not_read_to_the_end() {
        let list = whole(b"LIST", &[&b"INFO"[..], &whole(b"IXYZ", b"").repeat(1_000_000)].concat());
        let found = parse(&file(&[list, format(), whole(b"data", &[0; 999])]));
        assert!(found.duration.is_some());
        assert_eq!(found.error.as_deref(), Some("LIST INFO: only the first 4096 items are read"));
        let chunks = whole(b"junk", b"").repeat(1_000_000);
        assert_eq!(parse(&file(&[chunks])).error.as_deref(), Some("it has too many parts"));
    }

    proptest! {
        #[test]
        fn no_mutation_panics(
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12),
            end in any::<prop::sample::Index>(),
        ) {
            let list = whole(b"LIST", b"INFOINAM\x02\0\0\0T\0");
            let mut bytes = file(&[whole(b"ds64", &[1; 28]), format(), list, chunk(b"data", u32::MAX, &[0; 40])]);
            for (at, value) in changes {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
            bytes.truncate(end.index(bytes.len() * 2));
            parse(&bytes);
        }
    }
}
