//! Raw AAC (ADTS): counts the frames in one sequential read.
//!
//! ADTS has no header for the whole file, so the only true playing time is the sum over all
//! frames. The read that hashes the file reads every byte anyway, and gives each chunk to the
//! [`Counter`] too.
//!
//! - The sizes of the chunks make no difference.
//! - In sync, the counter jumps from header to header and never looks at a frame's body.
//! - It keeps at most 16 KiB, whatever the sizes in the file are.
//!
//! Format: ISO/IEC 13818-7, section 6.2 (and 14496-3, section 1.A.2.2).

/// Bytes that are kept while looking for sync: enough for the longest frame (13 bits of length) and
/// the header after it. It is twice that, so that the bytes are not moved at every step.
const WINDOW: usize = 16 * 1024;

/// Bytes of a header without its checksum.
const HEADER: usize = 7;

/// Bytes of the header of an ID3v2 tag.
const ID3V2_HEADER: usize = 10;

/// Sample rates in Hz, by the index in the header.
pub(super) const SAMPLE_RATES: [u32; 13] =
    [96_000, 88_200, 64_000, 48_000, 44_100, 32_000, 24_000, 22_050, 16_000, 12_000, 11_025, 8_000, 7_350];

/// The sums over the frames of a file.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Summary {
    /// Number of whole frames.
    pub frames: u64,
    /// Playing time in seconds: the samples of each frame divided by that frame's sample rate.
    pub duration: f64,
    /// Bits per second of the audio without the frame headers, as mutagen counts; `None` without frames.
    pub bitrate: Option<u32>,
    /// Sample rate in Hz in the first frame's header. HE-AAC decoders play at twice that.
    pub sample_rate: Option<u32>,
    /// Number of channels in the first frame's header; `None` if only the audio data says that.
    pub channels: Option<u32>,
    /// Bytes in whole frames, headers included.
    pub frame_bytes: u64,
    /// Bytes of the file that are in no whole frame: tags, garbage, a truncated frame.
    pub other_bytes: u64,
}

/// Counts the frames of a file from its bytes, in order.
#[derive(Debug)]
pub struct Counter {
    state: State,
    /// Bytes to skip.
    skip: u64,
    /// The frame whose bytes are being skipped.
    open: Option<Header>,
    /// Bytes that cannot be parsed before more of the file is there.
    window: Vec<u8>,
    first: Option<Header>,
    frames: u64,
    frame_bytes: u64,
    sound_bytes: u64,
    samples: [u64; SAMPLE_RATES.len()],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Only tags so far.
    Start,
    /// Looking for two headers in a row.
    Hunting,
    /// A header begins at the next byte.
    InSync,
}

impl Counter {
    /// A counter at the beginning of a file.
    pub fn new() -> Self {
        Self {
            state: State::Start,
            skip: 0,
            open: None,
            window: Vec::new(),
            first: None,
            frames: 0,
            frame_bytes: 0,
            sound_bytes: 0,
            samples: [0; SAMPLE_RATES.len()],
        }
    }

    /// Counts the frames in the next bytes of the file.
    pub fn update(&mut self, chunk: &[u8]) {
        let mut rest = chunk;
        while !rest.is_empty() {
            if self.window.is_empty() {
                let parsed = self.parse(rest, false);
                rest = &rest[parsed..];
                // The rest is kept in the window. `parse` leaves less than fits in it.
                let kept = rest.len().min(WINDOW);
                self.window.extend_from_slice(&rest[..kept]);
                rest = &rest[kept..];
                continue;
            }
            let old = self.window.len();
            let added = rest.len().min(WINDOW - old);
            let mut window = std::mem::take(&mut self.window);
            window.extend_from_slice(&rest[..added]);
            let parsed = self.parse(&window, false);
            if parsed >= old {
                // All kept bytes are parsed: go on in the chunk itself, without copies.
                rest = &rest[parsed - old..];
                window.clear();
            } else {
                rest = &rest[added..];
                window.drain(..parsed);
            }
            self.window = window;
        }
    }

    /// The sums over a file of `size` bytes.
    pub fn finish(mut self, size: u64) -> Summary {
        let window = std::mem::take(&mut self.window);
        self.parse(&window, true);
        let duration: f64 =
            self.samples.iter().zip(SAMPLE_RATES).map(|(&samples, rate)| samples as f64 / f64::from(rate)).sum();
        Summary {
            frames: self.frames,
            duration,
            bitrate: super::values::bits_per_second(self.sound_bytes, duration),
            sample_rate: self.first.map(|header| SAMPLE_RATES[header.rate_index]),
            channels: self.first.and_then(Header::channels),
            frame_bytes: self.frame_bytes,
            other_bytes: size.saturating_sub(self.frame_bytes),
        }
    }

    /// Parses `bytes` as far as possible, and returns how many were parsed.
    fn parse(&mut self, bytes: &[u8], at_end: bool) -> usize {
        let mut at = 0;
        loop {
            if self.skip > 0 {
                let here = self.skip.min((bytes.len() - at) as u64);
                self.skip -= here;
                at += usize::try_from(here).unwrap_or(bytes.len() - at);
                if self.skip > 0 {
                    return at;
                }
            }
            if let Some(header) = self.open.take() {
                self.count(header);
            }
            let rest = &bytes[at..];
            match self.state {
                State::Start if rest.len() < ID3V2_HEADER && !at_end => return at,
                State::Start => match super::id3v2::length(rest) {
                    Some(length) => self.skip = length,
                    None => self.state = State::Hunting,
                },
                State::Hunting => match hunt(rest, at_end) {
                    Hunt::Found(offset) => {
                        at += offset;
                        self.state = State::InSync;
                    }
                    Hunt::Wait(offset) => return at + offset,
                },
                State::InSync if rest.len() < HEADER => return at,
                State::InSync => match Header::parse(rest) {
                    Some(header) => {
                        self.skip = header.length as u64;
                        self.open = Some(header);
                    }
                    None => self.state = State::Hunting,
                },
            }
        }
    }

    fn count(&mut self, header: Header) {
        self.first.get_or_insert(header);
        self.frames += 1;
        self.frame_bytes += header.length as u64;
        self.sound_bytes += (header.length - header.header_length()) as u64;
        self.samples[header.rate_index] += u64::from(header.samples);
    }
}

impl Default for Counter {
    fn default() -> Self {
        Self::new()
    }
}

/// Whether `bytes` begin with a valid frame header.
pub(super) fn begins_frame(bytes: &[u8]) -> bool {
    Header::parse(bytes).is_some()
}

/// Whether two frames that agree follow each other in `bytes`.
pub(super) fn has_frames(bytes: &[u8]) -> bool {
    matches!(hunt(bytes, true), Hunt::Found(_))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Header {
    /// Bytes of the frame, with this header.
    length: usize,
    rate_index: usize,
    channel_configuration: u8,
    profile: u8,
    has_checksum: bool,
    /// Samples per channel.
    samples: u32,
}

impl Header {
    fn parse(bytes: &[u8]) -> Option<Self> {
        let &[first, second, third, fourth, fifth, sixth, seventh] = bytes.first_chunk::<HEADER>()?;
        // Twelve bits of sync, one bit for the MPEG version, and the layer, which is always 0.
        if first != 0xFF || second & 0xF6 != 0xF0 {
            return None;
        }
        let header = Self {
            length: usize::from(fourth & 3) << 11 | usize::from(fifth) << 3 | usize::from(sixth >> 5),
            rate_index: usize::from(third >> 2 & 15),
            channel_configuration: (third & 1) << 2 | fourth >> 6,
            profile: third >> 6,
            has_checksum: second & 1 == 0,
            samples: 1024 * (u32::from(seventh & 3) + 1),
        };
        (header.rate_index < SAMPLE_RATES.len() && header.length >= header.header_length()).then_some(header)
    }

    fn header_length(self) -> usize {
        if self.has_checksum { HEADER + 2 } else { HEADER }
    }

    fn channels(self) -> Option<u32> {
        match self.channel_configuration {
            0 => None,
            7 => Some(8),
            channels => Some(channels.into()),
        }
    }

    /// Whether both can be of one stream: the fields that never change within a stream are equal.
    fn agrees_with(self, other: Self) -> bool {
        let fixed = |header: Self| (header.rate_index, header.channel_configuration, header.profile);
        fixed(self) == fixed(other)
    }
}

enum Hunt {
    /// A frame begins at this offset, and another one follows it.
    Found(usize),
    /// No frame begins before this offset. More bytes are needed to know whether one begins there.
    Wait(usize),
}

/// Looks for a header that is followed by another one, or whose frame ends at the end of the file.
fn hunt(bytes: &[u8], at_end: bool) -> Hunt {
    let mut at = 0;
    while let Some(offset) = bytes[at..].iter().position(|&byte| byte == 0xFF) {
        at += offset;
        if bytes.len() - at < HEADER {
            return Hunt::Wait(if at_end { bytes.len() } else { at });
        }
        if let Some(header) = Header::parse(&bytes[at..]) {
            let next = at + header.length;
            if bytes.len() < next + HEADER && !at_end {
                return Hunt::Wait(at);
            }
            let followed = bytes.get(next..).and_then(Header::parse).is_some_and(|second| second.agrees_with(header));
            if followed || (at_end && next == bytes.len()) {
                return Hunt::Found(at);
            }
        }
        at += 1;
    }
    Hunt::Wait(bytes.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A frame of `length` bytes at the rate of `rate_index`.
    fn frame(rate_index: u8, channels: u8, length: usize, fill: u8) -> Vec<u8> {
        let mut frame = vec![fill; length];
        let length = u16::try_from(length).unwrap();
        frame[0] = 0xFF;
        frame[1] = 0xF1;
        frame[2] = 1 << 6 | rate_index << 2 | channels >> 2;
        frame[3] = channels << 6 | u8::try_from(length >> 11).unwrap();
        frame[4] = u8::try_from(length >> 3 & 0xFF).unwrap();
        frame[5] = u8::try_from(length & 7).unwrap() << 5 | 0x1F;
        frame[6] = 0xFC;
        frame
    }

    fn summary(bytes: &[u8], chunk: usize) -> Summary {
        let mut counter = Counter::new();
        for chunk in bytes.chunks(chunk) {
            counter.update(chunk);
            assert!(counter.window.len() <= WINDOW && counter.window.capacity() <= 2 * WINDOW);
        }
        counter.finish(bytes.len() as u64)
    }

    fn id3v2(body: usize) -> Vec<u8> {
        let mut tag = b"ID3\x04\0\0\0\0".to_vec();
        tag.extend([u8::try_from(body >> 7).unwrap(), u8::try_from(body & 0x7F).unwrap()]);
        tag.resize(10 + body, 0xFF);
        tag
    }

    #[test]
    fn frames_add_up() {
        let bytes = frame(4, 2, 407, 0).repeat(50);
        let found = summary(&bytes, 1000);
        assert_eq!((found.frames, found.other_bytes), (50, 0));
        assert!((found.duration - 50.0 * 1024.0 / 44_100.0).abs() < 1e-9);
        assert_eq!(found.bitrate, Some(137_813));
        assert_eq!((found.sample_rate, found.channels), (Some(44_100), Some(2)));
        assert_eq!(summary(&frame(3, 7, 20, 0).repeat(2), 1).channels, Some(8));
        assert_eq!(summary(&frame(3, 0, 20, 0).repeat(2), 1).channels, None);
    }

    #[test]
    fn tags_in_front_and_garbage_between_frames_are_skipped() {
        let mut bytes = [id3v2(300), id3v2(5)].concat();
        bytes.extend(frame(4, 2, 100, 1).repeat(3));
        bytes.extend(b"garbage \xFF\xF1\xFF\xF1 and no frames");
        bytes.extend(frame(4, 2, 120, 2).repeat(4));
        bytes.extend(b"TAG and so on");
        let found = summary(&bytes, 64);
        assert_eq!(found.frames, 7);
        assert_eq!(found.other_bytes, bytes.len() as u64 - 780);
    }

    #[test]
    fn a_single_frame_counts_only_if_it_is_the_whole_file() {
        assert_eq!(summary(&frame(4, 2, 100, 0), 7).frames, 1);
        assert_eq!(summary(&frame(4, 2, 100, 0)[..99], 7).frames, 0);
        let found = summary(&[frame(4, 2, 100, 0), vec![0; 200]].concat(), 7);
        assert_eq!((found.frames, found.bitrate, found.sample_rate), (0, None, None));
    }

    #[test]
    fn a_truncated_frame_is_not_counted() {
        let bytes = frame(4, 2, 100, 0).repeat(5);
        assert_eq!(summary(&bytes[..499], 33).frames, 4);
        assert_eq!(summary(&bytes[..403], 33).frames, 4);
        assert_eq!(summary(&bytes[..400], 33).frames, 4);
    }

    #[test]
    fn frames_of_several_blocks_and_changes_of_the_sample_rate_are_counted() {
        let mut two_blocks = frame(4, 1, 100, 0);
        two_blocks[6] |= 1;
        let bytes = [two_blocks.repeat(2), frame(7, 1, 100, 0).repeat(2)].concat();
        let found = summary(&bytes, 13);
        assert_eq!(found.frames, 4);
        assert!((found.duration - (4096.0 / 44_100.0 + 2048.0 / 22_050.0)).abs() < 1e-9);
        assert_eq!(found.sample_rate, Some(44_100));
    }

    #[test]
    fn an_empty_file_has_no_frames() {
        assert_eq!(Counter::new().finish(0), Summary::default());
    }

    #[derive(Clone, Debug)]
    enum Piece {
        Frames(u8, u8, usize, usize),
        Garbage(Vec<u8>),
        Syncs(usize),
        Tag(usize),
    }

    impl Piece {
        fn bytes(&self) -> Vec<u8> {
            match self {
                Self::Frames(rate, channels, length, count) => frame(*rate, *channels, *length, 0xFF).repeat(*count),
                Self::Garbage(bytes) => bytes.clone(),
                Self::Syncs(count) => [0xFF, 0xF1, 0x50, 0x9F].repeat(*count),
                Self::Tag(body) => id3v2(*body),
            }
        }
    }

    fn piece() -> impl Strategy<Value = Piece> {
        prop_oneof![
            4 => (0..13_u8, 0..8_u8, 7..8191_usize, 1..4_usize).prop_map(|(r, c, l, n)| Piece::Frames(r, c, l, n)),
            4 => (3..5_u8, 1..3_u8, 7..60_usize, 1..9_usize).prop_map(|(r, c, l, n)| Piece::Frames(r, c, l, n)),
            2 => prop::collection::vec(any::<u8>(), 0..300).prop_map(Piece::Garbage),
            1 => (0..6000_usize).prop_map(Piece::Syncs),
            1 => (0..2000_usize).prop_map(Piece::Tag),
        ]
    }

    proptest! {
        #[test]
        fn the_sizes_of_the_chunks_make_no_difference(
            pieces in prop::collection::vec(piece(), 0..8),
            cut in any::<prop::sample::Index>(),
            chunks in prop::collection::vec(1..20_000_usize, 1..20),
        ) {
            let mut bytes: Vec<u8> = pieces.iter().flat_map(Piece::bytes).collect();
            bytes.truncate(cut.index(bytes.len() + 1).max(bytes.len() / 2));
            let whole = summary(&bytes, bytes.len().max(1));
            prop_assert_eq!(summary(&bytes, 1), whole);
            prop_assert_eq!(summary(&bytes, 7), whole);
            let mut counter = Counter::new();
            let mut rest = &bytes[..];
            for chunk in chunks.iter().cycle() {
                if rest.is_empty() { break; }
                let (head, tail) = rest.split_at((*chunk).min(rest.len()));
                counter.update(head);
                rest = tail;
            }
            prop_assert_eq!(counter.finish(bytes.len() as u64), whole);
        }

        #[test]
        fn whole_frames_are_all_counted(
            tag in prop::option::of(0..500_usize), rate in 0..13_u8, channels in 0..8_u8,
            lengths in prop::collection::vec(7..8191_usize, 1..20), fill in any::<u8>(),
        ) {
            let mut bytes = tag.map(id3v2).unwrap_or_default();
            let front = bytes.len();
            bytes.extend(lengths.iter().flat_map(|&length| frame(rate, channels, length, fill)));
            let found = summary(&bytes, 4096);
            prop_assert_eq!(found.frames, lengths.len() as u64);
            prop_assert_eq!(found.other_bytes, front as u64);
        }
    }
}
