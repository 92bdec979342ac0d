//! Parses numbers with units.

use std::time::Duration;

use jiff::SignedDuration;

/// Bytes, from a number with or without a unit: `20M`, `20 MB`, `20MiB`. `K`, `M` and `G` alone are powers of 1024, as
/// `KiB`, `MiB` and `GiB` are; `kB`, `MB` and `GB` are powers of 1000.
pub(super) fn bytes(text: &str) -> Option<u64> {
    let text = text.trim();
    let end_of_number = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end_of_number);
    let factor: u64 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(factor)
}

/// A time, from a number with or without a unit: `30s`, `5m`, `1h 30m`, `500ms`. A number alone counts this unit.
pub(super) fn duration(text: &str, unit: Duration) -> Option<Duration> {
    let text = text.trim();
    if let Ok(number) = text.parse::<u32>() {
        return unit.checked_mul(number);
    }
    Duration::try_from(text.parse::<SignedDuration>().ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_binary_and_decimal_units() {
        for (text, number) in [
            ("0", 0),
            ("17", 17),
            ("20M", 20 << 20),
            ("20m", 20 << 20),
            ("20MiB", 20 << 20),
            ("20MB", 20_000_000),
            (" 3 kB ", 3_000),
            ("2G", 2 << 30),
        ] {
            assert_eq!(bytes(text), Some(number), "{text}");
        }
        for wrong in ["", "M", "-1", "1.5M", "1T", "20 MB/s", "99999999999G"] {
            assert_eq!(bytes(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_time_without_a_unit_has_that_of_its_setting() {
        let second = Duration::from_secs(1);
        for (text, expected) in [
            ("0", Duration::ZERO),
            ("90", Duration::from_secs(90)),
            ("30s", Duration::from_secs(30)),
            ("500ms", Duration::from_millis(500)),
            ("5m", Duration::from_mins(5)),
            ("1h", Duration::from_hours(1)),
            ("1h 30m", Duration::from_mins(90)),
        ] {
            assert_eq!(duration(text, second), Some(expected), "{text}");
        }
        assert_eq!(duration("50", Duration::from_millis(1)), Some(Duration::from_millis(50)));
        for wrong in ["", "s", "-1", "-5s", "1.5", "1 fortnight", "99999999999"] {
            assert_eq!(duration(wrong, second), None, "{wrong}");
        }
    }
}
