//! The codecs by the numbers and names that containers give them, as ffprobe names them.
//!
//! Sources: Windows' `mmreg.h` (WAVE_FORMAT_*); the registration authority of MP4 (mp4ra.org), "Sample Entry Codes" and
//! "Object Types"; QuickTime File Format, "Sound Sample Descriptions"; AIFF-C (draft of 1991), section 4.

/// The number in WAV that says that another one follows in the extension.
pub(super) const EXTENSIBLE: u16 = 0xFFFE;

/// The codec with this number in WAV and ASF.
pub(super) fn of_wave(number: u16, bits: u16) -> Option<&'static str> {
    Some(match (number, bits) {
        (0x0001, 8) => "pcm_u8",
        (0x0001, 16) => "pcm_s16le",
        (0x0001, 24) => "pcm_s24le",
        (0x0001, 32) => "pcm_s32le",
        (0x0001, 64) => "pcm_s64le",
        (0x0003, 32) => "pcm_f32le",
        (0x0003, 64) => "pcm_f64le",
        (0x0002, _) => "adpcm_ms",
        (0x0006, _) => "pcm_alaw",
        (0x0007, _) => "pcm_mulaw",
        (0x000A, _) => "wmavoice",
        (0x0011, _) => "adpcm_ima_wav",
        (0x0031, _) => "gsm_ms",
        (0x0050, _) => "mp2",
        (0x0055, _) => "mp3",
        (0x00FF | 0x1610, _) => "aac",
        (0x0160, _) => "wmav1",
        (0x0161, _) => "wmav2",
        (0x0162, _) => "wmapro",
        (0x0163, _) => "wmalossless",
        (0x2000, _) => "ac3",
        (0x2001, _) => "dts",
        (0xF1AC, _) => "flac",
        _ => return None,
    })
}

/// The codec of a sample entry of MP4 or QuickTime, with the bits that the entry says. `mp4a` has its codec in its
/// descriptor: see [`of_object_type`].
pub(super) fn of_sample_entry(kind: [u8; 4], bits: u16) -> Option<&'static str> {
    Some(match (&kind, bits) {
        (b"alac", _) => "alac",
        (b"fLaC", _) => "flac",
        (b"Opus", _) => "opus",
        (b"ac-3", _) => "ac3",
        (b"ec-3", _) => "eac3",
        (b"dtsc" | b"dtsh" | b"dtsl" | b"dtse", _) => "dts",
        (b".mp3", _) => "mp3",
        (b"samr", _) => "amr_nb",
        (b"sawb", _) => "amr_wb",
        (b"ulaw", _) => "pcm_mulaw",
        (b"alaw", _) => "pcm_alaw",
        (b"twos" | b"sowt", 8) => "pcm_s8",
        (b"twos", _) => "pcm_s16be",
        (b"sowt", _) => "pcm_s16le",
        (b"in24", _) => "pcm_s24be",
        (b"in32", _) => "pcm_s32be",
        (b"fl32", _) => "pcm_f32be",
        (b"fl64", _) => "pcm_f64be",
        _ => return None,
    })
}

/// The codec with this object type in a descriptor of MPEG-4.
pub(super) fn of_object_type(number: u8) -> Option<&'static str> {
    Some(match number {
        0x40 | 0x66..=0x68 => "aac",
        0x69 | 0x6B => "mp3",
        0xA5 => "ac3",
        0xA6 => "eac3",
        0xA9 => "dts",
        0xAD => "opus",
        0xC1 => "flac",
        0xDD => "vorbis",
        _ => return None,
    })
}

/// The codec of AIFF with these bits, and of AIFF-C with this compression.
pub(super) fn of_aiff(compression: Option<[u8; 4]>, bits: u16) -> Option<&'static str> {
    Some(match (compression.as_ref(), bits) {
        (None | Some(b"NONE" | b"twos"), 1..=8) => "pcm_s8",
        (None | Some(b"NONE" | b"twos"), 9..=16) => "pcm_s16be",
        (None | Some(b"NONE" | b"in24"), 17..=24) => "pcm_s24be",
        (None | Some(b"NONE" | b"in32"), 25..=32) => "pcm_s32be",
        (Some(b"sowt"), 9..=16) => "pcm_s16le",
        (Some(b"sowt"), 17..=24) => "pcm_s24le",
        (Some(b"sowt"), 25..=32) => "pcm_s32le",
        (Some(b"fl32" | b"FL32"), _) => "pcm_f32be",
        (Some(b"fl64" | b"FL64"), _) => "pcm_f64be",
        (Some(b"ulaw" | b"ULAW"), _) => "pcm_mulaw",
        (Some(b"alaw" | b"ALAW"), _) => "pcm_alaw",
        (Some(b"ima4"), _) => "adpcm_ima_qt",
        _ => return None,
    })
}

/// The bits per sample that a header says, if the codec keeps samples as they are: those of lossy codecs mean nothing.
pub(super) fn bits_of(codec: Option<&str>, bits: u32) -> Option<u32> {
    let is_lossless =
        |codec: &str| codec.starts_with("pcm_") || matches!(codec, "alac" | "ape" | "flac" | "wavpack" | "wmalossless");
    codec.filter(|codec| is_lossless(codec) && bits > 0).map(|_| bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codecs_have_the_names_of_ffprobe() {
        assert_eq!(of_wave(1, 24), Some("pcm_s24le"));
        assert_eq!((of_wave(1, 12), of_wave(0x161, 16)), (None, Some("wmav2")));
        assert_eq!((of_sample_entry(*b"twos", 16), of_sample_entry(*b"mp4a", 16)), (Some("pcm_s16be"), None));
        assert_eq!((of_aiff(None, 16), of_aiff(Some(*b"sowt"), 16)), (Some("pcm_s16be"), Some("pcm_s16le")));
    }

    #[test]
    fn only_codecs_that_keep_samples_have_bits() {
        assert_eq!((bits_of(Some("flac"), 24), bits_of(Some("pcm_s16le"), 16)), (Some(24), Some(16)));
        assert_eq!((bits_of(Some("aac"), 16), bits_of(Some("flac"), 0), bits_of(None, 16)), (None, None, None));
    }
}
