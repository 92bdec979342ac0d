//! The properties of MPEG audio, layers 1 to 3, from its first frame and the frame of Xing, LAME or VBRI.
//!
//! Formats: ISO 11172-3 and 13818-3 (headers of frames), the Xing VBR header, the LAME tag (gabriel.mp3-tech.org,
//! "Mp3 Info Tag"), the VBRI header of Fraunhofer.

use std::io::{self, Read, Seek};

use super::source::Source;
use super::values::bits_per_second;
use crate::model::Metadata;

/// Bytes behind the tags in which the first frame is searched.
const SEARCHED: u64 = 1024 * 1024;

/// Bytes that are searched at once.
const CHUNK: usize = 64 * 1024;

/// The frames that must follow each other before they are taken for audio. A file may end sooner.
const SURE: usize = 4;

/// The most headers that are tried.
const MOST_HEADERS: usize = 4096;

/// Bytes of the first frame that are read: its header, the side information, and the tag of LAME.
const FIRST_FRAME: usize = 512;

/// Bits per second, in thousands, by layer and number. Rows: MPEG 1 layers 1, 2, 3; MPEG 2 layer 1; MPEG 2 layers 2, 3.
const KILOBITS: [[u32; 14]; 5] = [
    [32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448],
    [32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384],
    [32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320],
    [32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256],
    [8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160],
];

/// Whether `bytes` begin with the header of a frame.
pub(super) fn begins_frame(bytes: &[u8]) -> bool {
    Header::of(bytes).is_some()
}

/// What a file of MPEG audio is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Sound {
    /// `None` if it cannot be known.
    duration: Option<f64>,
    bitrate: Option<u32>,
    sample_rate: u32,
    channels: u32,
    layer: u8,
}

impl Sound {
    pub(super) fn show(self, metadata: &mut Metadata) {
        metadata.duration = self.duration;
        metadata.bitrate = self.bitrate;
        metadata.sample_rate = Some(self.sample_rate);
        metadata.channels = Some(self.channels);
        metadata.codec = Some(format!("mp{}", self.layer));
    }
}

/// Finds the first of the frames that follow each other, between the beginning of the file and `end`; `None` if there are
/// none.
///
/// # Errors
///
/// If the file cannot be read.
pub(super) fn find<R: Read + Seek>(source: &mut Source<R>, end: u64) -> io::Result<Option<Found>> {
    let limit = end.min(SEARCHED);
    // It is nearly always right behind the tags.
    let first = Header::of(source.read_at(0, &mut [0; 4])?);
    if let Some(header) = first
        && is_followed(source, 0, header, end)?
    {
        return Ok(Some(Found { at: 0, header }));
    }
    // A header may begin at the last byte before the limit.
    let length = usize::try_from(limit + 3).unwrap_or(CHUNK).min(CHUNK);
    let mut chunk = vec![0; length];
    let mut tried = 0;
    let mut at = 0;
    while at < limit {
        let length = source.read_at(at, &mut chunk)?.len();
        let bytes = &chunk[..length];
        if bytes.len() < 4 {
            return Ok(None);
        }
        for offset in 0..bytes.len() - 3 {
            let Some(header) = Header::of(&bytes[offset..]) else { continue };
            let place = at + offset as u64;
            tried += 1;
            if place >= limit || tried > MOST_HEADERS {
                return Ok(None);
            }
            if is_followed(source, place, header, end)? {
                return Ok(Some(Found { at: place, header }));
            }
        }
        // A header may be cut by the end of the chunk.
        at += bytes.len() as u64 - 3;
    }
    Ok(None)
}

/// The first frame, and where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Found {
    at: u64,
    header: Header,
}

impl Found {
    /// Reads the sound from this frame to `end`.
    ///
    /// # Errors
    ///
    /// If the file cannot be read.
    pub(super) fn read<R: Read + Seek>(self, source: &mut Source<R>, end: u64) -> io::Result<Sound> {
        let Self { at, header } = self;
        let mut frame = [0; FIRST_FRAME];
        let announced = Announced::of(source.read_at(at, &mut frame)?, header);
        let bytes = end.saturating_sub(at);
        let (duration, bitrate) = match announced {
            Some(announced) if announced.frames > 0 => announced.measure(header),
            _ => (bytes as f64 * 8.0 / f64::from(header.kilobits * 1000), None),
        };
        Ok(Sound {
            duration: Some(duration).filter(|&duration| duration > 0.0),
            bitrate: bitrate.or(Some(header.kilobits * 1000)),
            sample_rate: header.sample_rate,
            channels: header.channels,
            layer: header.layer,
        })
    }

    /// Where the sound begins: with this frame, or behind it if it announces the others.
    ///
    /// # Errors
    ///
    /// If the file cannot be read.
    pub(super) fn sound_begin<R: Read + Seek>(self, source: &mut Source<R>) -> io::Result<u64> {
        let Self { at, header } = self;
        let mut frame = [0; FIRST_FRAME];
        let announces = Announced::of(source.read_at(at, &mut frame)?, header).is_some();
        Ok(if announces { at + header.length() } else { at })
    }

    /// The MIME type that mutagen gives first.
    pub(super) fn format(self) -> &'static str {
        match self.header.layer {
            1 => "audio/mp1",
            2 => "audio/mp2",
            _ => "audio/mp3",
        }
    }
}

/// Whether enough frames of the same kind follow the one at `place`, or the file ends with such a frame, or the one at
/// `place` announces others.
fn is_followed<R: Read + Seek>(source: &mut Source<R>, place: u64, header: Header, end: u64) -> io::Result<bool> {
    let mut frame = [0; FIRST_FRAME];
    if Announced::of(source.read_at(place, &mut frame)?, header).is_some() {
        return Ok(true);
    }
    let mut next = place + header.length();
    for frame in 1..SURE {
        if next + 4 > end {
            // The last frame may be cut. One alone proves nothing.
            return Ok(frame > 1 || next == end);
        }
        let mut bytes = [0; 4];
        match Header::of(source.read_at(next, &mut bytes)?).filter(|next| next.is_like(header)) {
            Some(header) => next += header.length(),
            None => return Ok(false),
        }
    }
    Ok(true)
}

/// The header of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Header {
    is_mpeg1: bool,
    layer: u8,
    kilobits: u32,
    sample_rate: u32,
    channels: u32,
    has_padding: bool,
}

impl Header {
    fn of(bytes: &[u8]) -> Option<Self> {
        let &[0xFF, second, third, fourth, ..] = bytes else { return None };
        if second & 0xE0 != 0xE0 {
            return None;
        }
        let (is_mpeg1, rates) = match second >> 3 & 3 {
            0 => (false, [11_025, 12_000, 8_000]),
            2 => (false, [22_050, 24_000, 16_000]),
            3 => (true, [44_100, 48_000, 32_000]),
            _ => return None,
        };
        let layer = 4 - (second >> 1 & 3);
        let row = match (is_mpeg1, layer) {
            (_, 4) => return None,
            (true, layer) => usize::from(layer) - 1,
            (false, 1) => 3,
            (false, _) => 4,
        };
        let kilobits = *KILOBITS[row].get(usize::from(third >> 4).checked_sub(1)?)?;
        let sample_rate = *rates.get(usize::from(third >> 2 & 3))?;
        let channels = if fourth >> 6 == 3 { 1 } else { 2 };
        Some(Self { is_mpeg1, layer, kilobits, sample_rate, channels, has_padding: third & 2 != 0 })
    }

    fn samples_per_frame(self) -> u32 {
        match (self.layer, self.is_mpeg1) {
            (1, _) => 384,
            (3, false) => 576,
            _ => 1152,
        }
    }

    /// The length of the frame in bytes.
    fn length(self) -> u64 {
        let padding = u32::from(self.has_padding);
        let slot = if self.layer == 1 { 4 } else { 1 };
        let slots = self.samples_per_frame() / 8 / slot * self.kilobits * 1000 / self.sample_rate + padding;
        u64::from(slots * slot)
    }

    /// Whether both can be of one stream. The bit rate may change, and so may mono and stereo.
    fn is_like(self, other: Self) -> bool {
        (self.is_mpeg1, self.layer, self.sample_rate) == (other.is_mpeg1, other.layer, other.sample_rate)
    }
}

/// What the first frame says about the whole file.
struct Announced {
    /// 0 if it does not say it.
    frames: u64,
    /// Of these frames.
    bytes: Option<u64>,
    /// The samples that the encoder added at both ends.
    cut: u64,
}

impl Announced {
    fn of(frame: &[u8], header: Header) -> Option<Self> {
        if header.layer != 3 {
            return None;
        }
        let side = match (header.is_mpeg1, header.channels) {
            (true, 1) | (false, 2) => 17,
            (true, _) => 32,
            (false, _) => 9,
        };
        Self::of_xing(frame.get(4 + side..)?, header).or_else(|| Self::of_vbri(frame.get(36..)?))
    }

    fn of_xing(tag: &[u8], header: Header) -> Option<Self> {
        if !tag.starts_with(b"Xing") && !tag.starts_with(b"Info") {
            return None;
        }
        let flags = number(tag, 4)?;
        let mut at = 8;
        let mut next = |flag: u32, length: usize| {
            let is_there = flags & flag != 0;
            let value = if is_there { number(tag, at) } else { None };
            at += if is_there { length } else { 0 };
            value.map(u64::from)
        };
        let (frames, bytes, _, _) = (next(1, 4), next(2, 4), next(4, 100), next(8, 4));
        // The frame that announces is counted in the bytes and not in the frames.
        let bytes = bytes.map(|bytes| bytes.saturating_sub(header.length()));
        let cut = tag.get(at..).and_then(added_by_lame).unwrap_or(0);
        Some(Self { frames: frames.unwrap_or(0), bytes, cut })
    }

    fn of_vbri(tag: &[u8]) -> Option<Self> {
        let is_vbri = tag.starts_with(b"VBRI");
        is_vbri.then_some(())?;
        let frames = number(tag, 14).map_or(0, u64::from);
        Some(Self { bytes: number(tag, 10).map(u64::from), frames, cut: 0 })
    }

    /// The seconds, and the bits per second if the size is said.
    fn measure(&self, header: Header) -> (f64, Option<u32>) {
        let rate = f64::from(header.sample_rate);
        let samples = self.frames.saturating_mul(header.samples_per_frame().into());
        let bitrate = self.bytes.and_then(|bytes| bits_per_second(bytes, samples as f64 / rate));
        (samples.saturating_sub(self.cut) as f64 / rate, bitrate)
    }
}

/// The samples that LAME added at both ends. Other encoders write another name here, and readers do not trust their figures;
/// versions of LAME before 3.90 have none.
fn added_by_lame(tag: &[u8]) -> Option<u64> {
    let version = tag.strip_prefix(b"LAME3.").or_else(|| tag.strip_prefix(b"L3."))?;
    let digits = version.iter().take_while(|byte| byte.is_ascii_digit()).take(3);
    let number = digits.fold(0_u32, |number, digit| number * 10 + u32::from(digit - b'0'));
    // The high half of the byte behind the name is the revision of the tag.
    let is_known = number >= 90 && tag.get(9)? >> 4 == 0;
    let &[first, middle, last] = tag.get(21..)?.first_chunk::<3>().filter(|_| is_known)?;
    let (first, middle, last) = (u64::from(first), u64::from(middle), u64::from(last));
    Some((first << 4 | middle >> 4) + ((middle & 0xF) << 8 | last))
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    /// A frame of 128 kbit/s at 44,100 Hz in stereo, with this content behind the side information.
    fn frame(content: &[u8]) -> Vec<u8> {
        let mut frame = vec![0xFF, 0xFB, 0x90, 0x00];
        frame.resize(36, 0);
        frame.extend_from_slice(content);
        frame.resize(417, 0);
        frame
    }

    fn parse(bytes: &[u8]) -> Option<Sound> {
        let mut source = Source::new(Cursor::new(bytes)).unwrap();
        let found = find(&mut source, bytes.len() as u64).unwrap()?;
        Some(found.read(&mut source, bytes.len() as u64).unwrap())
    }

    #[test]
    fn frames_of_a_constant_rate_are_measured_by_their_bytes() {
        let sound = parse(&frame(b"").repeat(100)).unwrap();
        assert_eq!((sound.bitrate, sound.sample_rate, sound.channels), (Some(128_000), 44_100, 2));
        assert!((sound.duration.unwrap() - 100.0 * 1152.0 / 44_100.0).abs() < 0.01);
    }

    #[test]
    fn the_samples_that_the_encoder_added_are_no_sound() {
        let mut tag = b"Info\0\0\0\x03\0\0\0\x0a\0\0\x10\x4aLAME3.100".to_vec();
        tag.resize(16 + 21, 0);
        tag.extend([0x24, 0x03, 0xE8]);
        let sound = parse(&[frame(&tag), frame(b"").repeat(10)].concat()).unwrap();
        assert_eq!(sound.duration, Some(f64::from(10 * 1152 - 576 - 1000) / 44_100.0));
        assert_eq!(sound.bitrate, Some(114_936), "3,753 bytes without the first frame");
    }

    #[test]
    fn a_frame_that_announces_others_needs_none_behind_it() {
        let file = |frames: u32| {
            let tag = [&b"Xing\0\0\0\x01"[..], &frames.to_be_bytes()].concat();
            parse(&[frame(&tag), vec![7; 2000]].concat()).unwrap().duration
        };
        assert_eq!(file(100), Some(f64::from(100 * 1152) / 44_100.0), "a file that is cut");
        assert!(file(0).is_some_and(|duration| duration < 1.0), "a count of 0 says nothing");
    }

    #[test]
    fn junk_in_front_of_the_frames_is_passed_over() {
        let mut junk = vec![0; 3000];
        // What looks like a header, with nothing behind it.
        junk[100..104].copy_from_slice(&[0xFF, 0xFB, 0x90, 0x00]);
        assert!(parse(&[junk.clone(), frame(b"").repeat(20)].concat()).is_some());
        assert_eq!(parse(&junk), None);
        assert!((0..100).all(|length| parse(&junk[..length]).is_none()));
    }
}
