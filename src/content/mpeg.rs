//! The properties of MPEG audio, layers 1 to 3, from its first frame and the frame of Xing, LAME or VBRI.
//!
//! Formats: ISO 11172-3 and 13818-3 (headers of frames), the Xing VBR header, the LAME tag (gabriel.mp3-tech.org,
//! "Mp3 Info Tag"), the VBRI header of Fraunhofer.

use std::io::{self, Read, Seek};

use super::source::Source;
use super::values::bits_per_second;

/// Bytes behind the tags in which the first frame is searched.
const SEARCHED: u64 = 1024 * 1024;

/// Bytes that are searched at once.
const CHUNK: usize = 64 * 1024;

/// The frames that must follow each other before they are taken for audio. A file may end sooner.
const SURE: usize = 4;

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

/// What a file of MPEG audio is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Sound {
    pub(super) duration: Option<f64>,
    pub(super) bitrate: Option<u32>,
    pub(super) sample_rate: u32,
    pub(super) channels: u32,
    /// 1, 2 or 3.
    pub(super) layer: u8,
}

/// Reads the audio between `begin` and `end`; `None` if there are no frames that follow each other.
///
/// # Errors
///
/// If the file cannot be read.
pub(super) fn read<R: Read + Seek>(source: &mut Source<R>, begin: u64, end: u64) -> io::Result<Option<Sound>> {
    let Some((at, header)) = first_frame(source, begin, end)? else { return Ok(None) };
    let mut frame = [0; FIRST_FRAME];
    let frame = source.read_at(at, &mut frame)?;
    let found = Announced::of(frame, header);
    let samples_per_frame = u64::from(header.samples_per_frame());
    let rate = f64::from(header.sample_rate);
    let sound = |duration: Option<f64>, bitrate| {
        let duration = duration.filter(|duration| *duration > 0.0);
        Some(Sound {
            duration,
            bitrate,
            sample_rate: header.sample_rate,
            channels: header.channels,
            layer: header.layer,
        })
    };
    let Some(Announced { frames: Some(frames), bytes, cut }) = found else {
        let bytes = end.saturating_sub(at);
        let bitrate = header.kilobits * 1000;
        return Ok(sound(Some(bytes as f64 * 8.0 / f64::from(bitrate)), Some(bitrate)));
    };
    let samples = frames.saturating_mul(samples_per_frame);
    // The frame that announces is counted in the bytes and not in the frames.
    let bytes = bytes.map(|bytes| bytes.saturating_sub(header.length()));
    let bitrate =
        bytes.and_then(|bytes| bits_per_second(bytes, samples as f64 / rate)).or(Some(header.kilobits * 1000));
    Ok(sound(Some(samples.saturating_sub(cut) as f64 / rate), bitrate))
}

/// Where the sound between `begin` and `end` begins: with the first frame, or behind it if it announces the others.
pub(super) fn sound_begin<R: Read + Seek>(source: &mut Source<R>, begin: u64, end: u64) -> io::Result<Option<u64>> {
    let Some((at, header)) = first_frame(source, begin, end)? else { return Ok(None) };
    let mut frame = [0; FIRST_FRAME];
    let announces = Announced::of(source.read_at(at, &mut frame)?, header).is_some();
    Ok(Some(if announces { at + header.length() } else { at }))
}

/// The first of the frames that follow each other.
fn first_frame<R: Read + Seek>(source: &mut Source<R>, begin: u64, end: u64) -> io::Result<Option<(u64, Header)>> {
    let limit = end.min(begin.saturating_add(SEARCHED));
    // It is nearly always right behind the tags.
    let first = Header::of(source.read_at(begin, &mut [0; 4])?).filter(|_| begin < limit);
    if let Some(header) = first
        && is_followed(source, begin, header, end)?
    {
        return Ok(Some((begin, header)));
    }
    let mut chunk = vec![0; CHUNK];
    let mut at = begin;
    while at < limit {
        let length = source.read_at(at, &mut chunk)?.len();
        let bytes = &chunk[..length];
        if bytes.len() < 4 {
            return Ok(None);
        }
        for offset in 0..bytes.len() - 3 {
            let Some(header) = Header::of(&bytes[offset..]) else { continue };
            let place = at + offset as u64;
            if place >= limit {
                return Ok(None);
            }
            if is_followed(source, place, header, end)? {
                return Ok(Some((place, header)));
            }
        }
        // A header may be cut by the end of the chunk.
        at += bytes.len() as u64 - 3;
    }
    Ok(None)
}

/// Whether enough frames of the same kind follow the one at `place`, or the file ends with such a frame.
fn is_followed<R: Read + Seek>(source: &mut Source<R>, place: u64, header: Header, end: u64) -> io::Result<bool> {
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
    frames: Option<u64>,
    bytes: Option<u64>,
    /// The samples that the encoder added at both ends.
    cut: u64,
}

impl Announced {
    fn of(frame: &[u8], header: Header) -> Option<Self> {
        let side = match (header.is_mpeg1, header.channels) {
            (true, 1) | (false, 2) => 17,
            (true, _) => 32,
            (false, _) => 9,
        };
        Self::of_xing(frame.get(4 + side..)?).or_else(|| Self::of_vbri(frame.get(36..)?))
    }

    fn of_xing(tag: &[u8]) -> Option<Self> {
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
        // Other encoders write another name here, and readers do not trust their figures.
        let lame = tag.get(at..).filter(|lame| lame.starts_with(b"LAME") || lame.starts_with(b"L3.99"));
        let cut = lame.and_then(|lame| lame.get(21..24)).map_or(0, |both| {
            let (first, middle, last) = (u64::from(both[0]), u64::from(both[1]), u64::from(both[2]));
            (first << 4 | middle >> 4) + ((middle & 0xF) << 8 | last)
        });
        Some(Self { frames, bytes, cut })
    }

    fn of_vbri(tag: &[u8]) -> Option<Self> {
        let is_vbri = tag.starts_with(b"VBRI");
        is_vbri.then_some(())?;
        Some(Self { bytes: number(tag, 10).map(u64::from), frames: number(tag, 14).map(u64::from), cut: 0 })
    }
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
        read(&mut Source::new(Cursor::new(bytes)).unwrap(), 0, bytes.len() as u64).unwrap()
    }

    #[test]
    fn frames_of_a_constant_rate_are_measured_by_their_bytes() {
        let sound = parse(&frame(b"").repeat(100)).unwrap();
        assert_eq!((sound.bitrate, sound.sample_rate, sound.channels, sound.layer), (Some(128_000), 44_100, 2, 3));
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
    fn junk_in_front_of_the_frames_is_passed_over() {
        let mut junk = vec![0; 3000];
        // What looks like a header, with nothing behind it.
        junk[100..104].copy_from_slice(&[0xFF, 0xFB, 0x90, 0x00]);
        assert!(parse(&[junk.clone(), frame(b"").repeat(20)].concat()).is_some());
        assert_eq!(parse(&junk), None);
        assert!((0..100).all(|length| parse(&junk[..length]).is_none()));
    }
}
