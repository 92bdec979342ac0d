//! Values that cannot be true are left out of the metadata, and the error says so.

use crate::model::{Field, Metadata};

/// Samples per second that no file has: the highest number that FLAC can hold.
const MOST_SAMPLES_PER_SECOND: u32 = 1_048_575;

/// Channels that no file has.
const MOST_CHANNELS: u32 = 255;

/// Bits of one sample of one channel, uncompressed.
const MOST_BITS_PER_SAMPLE: u64 = 64;

/// Seconds that even a short file may last, since a file that is cut still says how long it was: two days.
const LONGEST_OF_SHORT: f64 = 2.0 * 24.0 * 3600.0;

/// Bytes that a second of a longer file has at least.
const LEAST_BYTES_PER_SECOND: f64 = 125.0;

/// Leaves out what a file of `size` bytes cannot be, and adds that to the error text. Returns what it added.
pub(super) fn leave_out_impossible(metadata: &mut Metadata, size: u64) -> Vec<String> {
    let rate = take_if(&mut metadata.sample_rate, |&rate| rate > MOST_SAMPLES_PER_SECOND);
    let channels = take_if(&mut metadata.channels, |&channels| channels > MOST_CHANNELS);
    let bits = take_if(&mut metadata.bits_per_sample, |&bits| u64::from(bits) > MOST_BITS_PER_SAMPLE);
    let samples = u64::from(metadata.sample_rate.unwrap_or(MOST_SAMPLES_PER_SECOND))
        * u64::from(metadata.channels.unwrap_or(MOST_CHANNELS));
    let bitrate = take_if(&mut metadata.bitrate, |&bits| u64::from(bits) > samples * MOST_BITS_PER_SAMPLE);
    let longest = LONGEST_OF_SHORT.max(size as f64 / LEAST_BYTES_PER_SECOND);
    let duration = take_if(&mut metadata.duration, |seconds| seconds.is_nan() || *seconds > longest);
    if let Some(seconds) = duration {
        // A bit rate that was computed from it is as wrong.
        metadata.bitrate.take_if(|bits| f64::from(*bits) * seconds / 8.0 <= size as f64 + seconds);
    }
    let has_no_date = metadata.tags.get(Field::Date).is_some_and(is_zero);
    let date = has_no_date.then(|| metadata.tags.remove(Field::Date)).flatten();
    let impossible = [
        ("sample rate", rate.map(|rate| rate.to_string())),
        ("number of channels", channels.map(|channels| channels.to_string())),
        ("number of bits per sample", bits.map(|bits| bits.to_string())),
        ("bit rate", bitrate.map(|bits| bits.to_string())),
        ("duration", duration.map(|seconds| seconds.to_string())),
        ("date", date.map(String::from)),
    ];
    let said = impossible.into_iter().filter_map(|(name, value)| Some(format!("the {name} {} cannot be true", value?)));
    let said: Vec<String> = said.collect();
    for text in &said {
        metadata.add_error(text);
    }
    said
}

fn take_if<T>(value: &mut Option<T>, is_impossible: impl FnOnce(&T) -> bool) -> Option<T> {
    value.take_if(|value| is_impossible(value))
}

/// Whether a date is of zeros only, with what separates its parts.
fn is_zero(date: &str) -> bool {
    date.contains('0') && date.bytes().all(|byte| matches!(byte, b'0' | b'-' | b'/' | b'.' | b':' | b' ' | b'T'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn left(metadata: &Metadata) -> Metadata {
        let mut metadata = metadata.clone();
        leave_out_impossible(&mut metadata, 1000);
        metadata
    }

    #[test]
    fn what_is_possible_stays() {
        let mut metadata = Metadata {
            duration: Some(172_800.0),
            bitrate: Some(5_644_800),
            sample_rate: Some(44_100),
            channels: Some(2),
            ..Metadata::default()
        };
        metadata.tags.set(Field::Date, "2000");
        assert_eq!(left(&metadata), metadata);
        assert_eq!(left(&Metadata::default()), Metadata::default());
    }

    #[test]
    fn what_is_impossible_is_left_out_and_said() {
        let mut metadata = Metadata {
            duration: Some(172_800.5),
            bitrate: Some(5_644_801),
            sample_rate: Some(44_100),
            channels: Some(2),
            ..Metadata::default()
        };
        for zero in ["0", "0000-00-00", "00/00/0000"] {
            metadata.tags.set(Field::Date, zero);
            let left = left(&metadata);
            assert_eq!((left.duration, left.bitrate, left.tags.get(Field::Date)), (None, None, None));
            let error = left.error.unwrap();
            assert!(
                error
                    .starts_with("the bit rate 5644801 cannot be true; the duration 172800.5 cannot be true; the date")
            );
        }
        let left = left(&Metadata {
            sample_rate: Some(u32::MAX),
            channels: Some(256),
            bits_per_sample: Some(65),
            ..Metadata::default()
        });
        assert_eq!((left.sample_rate, left.channels, left.bits_per_sample), (None, None, None));
    }

    #[test]
    fn a_bit_rate_that_follows_from_an_impossible_duration_is_left_out_too() {
        let of = |bitrate| {
            let metadata = Metadata { duration: Some(200_000.0), bitrate: Some(bitrate), ..Metadata::default() };
            left(&metadata).bitrate
        };
        assert_eq!((of(1), of(64_000)), (None, Some(64_000)));
    }

    #[test]
    fn a_duration_that_is_no_number_is_left_out() {
        for duration in [f64::NAN, f64::INFINITY] {
            assert_eq!(left(&Metadata { duration: Some(duration), ..Metadata::default() }).duration, None);
        }
    }
}
