//! The configuration of an AAC decoder: what it puts out.
//!
//! The core of HE-AAC has half of the samples of the output, and with parametric stereo one of its two channels.
//!
//! Formats: `AudioSpecificConfig`, ISO/IEC 14496-3, section 1.6.2; `program_config_element`, section 4.4.1.1; `UsacConfig`,
//! ISO/IEC 23003-3, section 5.2.

use super::adts::SAMPLE_RATES;

/// The object types of spectral band replication (HE-AAC), of parametric stereo on top of it (HE-AAC v2), and of xHE-AAC.
const SBR: u32 = 5;
const PARAMETRIC_STEREO: u32 = 29;
const USAC: u32 = 42;

/// The object types that may have spectral band replication without announcing it.
const EXTENSIBLE: [u32; 9] = [1, 2, 3, 4, 6, 17, 19, 20, 22];

/// The highest rate of a core, in Hz.
const HIGHEST_CORE_RATE: u32 = 24_000;

/// The words that announce both in a configuration that older decoders understand too.
const SBR_FOLLOWS: u32 = 0x2B7;
const PARAMETRIC_STEREO_FOLLOWS: u32 = 0x548;

/// The sample rates that only xHE-AAC has, from number 15 on.
const USAC_RATES: [u32; 13] =
    [57_600, 51_200, 40_000, 38_400, 34_150, 28_800, 25_600, 20_000, 19_200, 17_075, 14_400, 12_800, 9_600];

/// What a decoder puts out; `None` for what its configuration does not say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Output {
    pub(super) sample_rate: Option<u32>,
    pub(super) channels: Option<u32>,
}

impl Output {
    /// What an `AudioSpecificConfig` says.
    pub(super) fn of(config: &[u8]) -> Self {
        let mut output = Self::default();
        // What was read before the end counts.
        let _ = output.read(&mut Bits::new(config));
        output
    }

    fn read(&mut self, bits: &mut Bits<'_>) -> Option<()> {
        let mut object = bits.object_type()?;
        let core_rate = bits.rate()?;
        let configuration = bits.take(4)?;
        self.channels = channels(configuration);
        let is_announced = object == SBR || object == PARAMETRIC_STEREO;
        if is_announced {
            if object == PARAMETRIC_STEREO && configuration == 1 {
                self.channels = Some(2);
            }
            self.sample_rate = bits.rate()?;
            object = bits.object_type()?;
        } else {
            self.sample_rate = core_rate.filter(|&rate| rate > HIGHEST_CORE_RATE || !EXTENSIBLE.contains(&object));
        }
        if object == USAC {
            return self.read_usac(bits);
        }
        if !EXTENSIBLE.contains(&object) {
            return None;
        }
        read_core(bits, object, configuration).inspect(|program| {
            if let Some(program) = program {
                self.channels = Some(program.channels).filter(|&channels| channels > 0);
            }
        })?;
        if is_announced || bits.take(11)? != SBR_FOLLOWS || bits.object_type()? != SBR {
            return None;
        }
        if bits.take(1)? == 0 {
            self.sample_rate = core_rate;
            return None;
        }
        self.sample_rate = bits.rate()?;
        if bits.take(11)? == PARAMETRIC_STEREO_FOLLOWS && bits.take(1)? == 1 && configuration == 1 {
            self.channels = Some(2);
        }
        None
    }

    fn read_usac(&mut self, bits: &mut Bits<'_>) -> Option<()> {
        let number = bits.take(5)?;
        self.sample_rate = match number {
            31 => Some(bits.take(24)?),
            15.. => USAC_RATES.get(number as usize - 15).copied(),
            _ => SAMPLE_RATES.get(number as usize).copied(),
        };
        let _frame_length = bits.take(3)?;
        self.channels = match bits.take(5)? {
            8 => Some(2),
            9 => Some(3),
            10 => Some(4),
            11 => Some(7),
            12 => Some(8),
            13 => Some(24),
            configuration => channels(configuration).or(self.channels),
        };
        Some(())
    }
}

/// Reads what follows for the object types of AAC (`GASpecificConfig`); the description of the channels is only there if
/// the configuration has no number.
#[expect(clippy::option_option, reason = "the outer one is for the end of the bits")]
fn read_core(bits: &mut Bits<'_>, object: u32, configuration: u32) -> Option<Option<Program>> {
    let _frame_length = bits.take(1)?;
    if bits.take(1)? == 1 {
        bits.skip(14)?;
    }
    let is_extended = bits.take(1)? == 1;
    let program = if configuration == 0 { Some(Program::of(bits)?) } else { None };
    if matches!(object, 6 | 20) {
        bits.skip(3)?;
    }
    if is_extended {
        bits.skip(match object {
            22 => 5 + 11 + 1,
            17 | 19 | 20 => 3 + 1,
            _ => 1,
        })?;
    }
    Some(program)
}

/// The number of channels by the number of their configuration; `None` if the number has none.
fn channels(configuration: u32) -> Option<u32> {
    match configuration {
        1..=6 => Some(configuration),
        7 => Some(8),
        _ => None,
    }
}

/// A description of the channels.
#[derive(Clone, Copy)]
pub(super) struct Program {
    pub(super) sample_rate: Option<u32>,
    pub(super) channels: u32,
}

impl Program {
    pub(super) fn of(bits: &mut Bits<'_>) -> Option<Self> {
        // Its number and profile.
        bits.skip(4 + 2)?;
        let sample_rate = SAMPLE_RATES.get(bits.take(4)? as usize).copied();
        let speakers = bits.take(4)? + bits.take(4)? + bits.take(4)?;
        let (low, data, coupling) = (bits.take(2)?, bits.take(3)?, bits.take(4)?);
        // How to mix it down: to mono, to stereo, by a matrix.
        for length in [4, 4, 3] {
            if bits.take(1)? == 1 {
                bits.skip(length)?;
            }
        }
        let mut channels = low;
        for _ in 0..speakers {
            let is_pair = bits.take(1)?;
            channels += 1 + is_pair;
            bits.skip(4)?;
        }
        bits.skip((4 * low + 4 * data + 5 * coupling) as usize)?;
        bits.align();
        let comment = bits.take(8)?;
        bits.skip(8 * comment as usize)?;
        Some(Self { sample_rate, channels })
    }
}

/// Reads bits, the highest one of each byte first.
pub(super) struct Bits<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Bits<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// The next bits, at most 32, as a number; `None` at the end.
    pub(super) fn take(&mut self, count: usize) -> Option<u32> {
        let mut number = 0;
        for _ in 0..count {
            let byte = self.bytes.get(self.at / 8)?;
            number = number << 1 | u32::from(byte >> (7 - self.at % 8) & 1);
            self.at += 1;
        }
        Some(number)
    }

    pub(super) fn skip(&mut self, count: usize) -> Option<()> {
        self.at += count;
        (self.at <= self.bytes.len() * 8).then_some(())
    }

    /// Goes to the beginning of the next byte, unless it is at one.
    pub(super) fn align(&mut self) {
        self.at = self.at.next_multiple_of(8);
    }

    /// The bytes of which bits were taken.
    pub(super) fn bytes_taken(&self) -> u64 {
        self.at.div_ceil(8) as u64
    }

    fn object_type(&mut self) -> Option<u32> {
        match self.take(5)? {
            31 => Some(32 + self.take(6)?),
            object => Some(object),
        }
    }

    /// A sample rate; the inner `None` is for a number without one.
    #[expect(clippy::option_option, reason = "the outer one is for the end of the bits")]
    fn rate(&mut self) -> Option<Option<u32>> {
        match self.take(4)? {
            15 => self.take(24).map(Some),
            number => Some(SAMPLE_RATES.get(number as usize).copied()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_output_of_he_aac_has_more_samples_than_its_core() {
        let of = |config: &[u8]| {
            let Output { sample_rate, channels } = Output::of(config);
            (sample_rate.unwrap_or(0), channels.unwrap_or(0))
        };
        // AAC-LC of 44,100 Hz, and HE-AAC of 22,050 Hz announced in both ways, as encoders write them.
        assert_eq!(of(&[0x12, 0x10]), (44_100, 2));
        assert_eq!(of(&[0x2B, 0x92, 0x08, 0x00]), (44_100, 2));
        assert_eq!(of(&[0x13, 0x90, 0x56, 0xE5, 0xA0]), (44_100, 2));
        assert_eq!(of(&[0x13, 0x88, 0x56, 0xE5, 0xA5, 0x48, 0x80]), (44_100, 2));
        // AAC-LC of 22,050 Hz may have more without announcing it, unless it says that it has none.
        assert_eq!(of(&[0x13, 0x90]), (0, 2));
        assert_eq!(of(&[0x13, 0x90, 0x56, 0xE5, 0x00]), (22_050, 2));
    }

    #[test]
    fn rates_that_have_no_number_are_written_in_full() {
        let bits = format!("{:05b}{:04b}{:024b}{:04b}000", 2, 15, 37_800, 2);
        let config: Vec<u8> = bits
            .as_bytes()
            .chunks(8)
            .map(|byte| u8::from_str_radix(&format!("{:0<8}", str::from_utf8(byte).unwrap()), 2).unwrap())
            .collect();
        assert_eq!(Output::of(&config), Output { sample_rate: Some(37_800), channels: Some(2) });
    }

    #[test]
    fn xhe_aac_says_its_output() {
        // Object type 42, 48,000 Hz, 2 channels; then 48,000 Hz, frames with replication, 2 channels.
        let bits = format!("{:05b}{:06b}{:04b}{:04b}{:05b}{:03b}{:05b}", 31, 10, 3, 2, 3, 3, 2);
        let config: Vec<u8> = bits
            .as_bytes()
            .chunks(8)
            .map(|byte| u8::from_str_radix(str::from_utf8(byte).unwrap(), 2).unwrap())
            .collect();
        assert_eq!(Output::of(&config), Output { sample_rate: Some(48_000), channels: Some(2) });
        assert_eq!(Output::of(&config[..2]).channels, None);
    }
}
