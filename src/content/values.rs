//! Helpers for the parsers of all formats: values as messages have them, and errors in a few words.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// The error of a file on which a parser panicked.
pub(super) const PANICKED: &str = "the parser failed on it";

/// Characters of an error text that are kept.
const LONGEST_ERROR: usize = 160;

/// The first of the values in `text`, separated by NUL, that is not blank, without surrounding whitespace. Byte order marks
/// are no text.
pub(super) fn tidy(text: &str) -> Option<String> {
    const BYTE_ORDER_MARK: char = '\u{feff}';

    let is_blank = |character: char| character.is_whitespace() || character == BYTE_ORDER_MARK;
    let text = text.trim_start_matches(|character| character == '\0' || is_blank(character));
    let value = text.split('\0').next()?.trim_end_matches(is_blank);
    (!value.is_empty()).then(|| value.replace(BYTE_ORDER_MARK, ""))
}

/// `3`, or `3/12` if there is a total that `number` does not include yet.
pub(super) fn track(number: Option<String>, total: Option<String>) -> Option<String> {
    let number = number?;
    match total {
        Some(total) if !number.contains('/') && total.bytes().any(|byte| byte != b'0') => {
            Some(format!("{number}/{total}"))
        }
        _ => Some(number),
    }
}

/// The mean bits per second of `bytes` that last `seconds`.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the range is checked")]
pub(super) fn bits_per_second(bytes: u64, seconds: f64) -> Option<u32> {
    let bits_per_second = (bytes as f64 * 8.0 / seconds).round();
    (seconds > 0.0 && bits_per_second >= 1.0 && bits_per_second <= f64::from(u32::MAX))
        .then_some(bits_per_second as u32)
}

/// Runs a parser. A panic becomes an error of this file.
pub(super) fn guarded<T>(parse: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(parse)).unwrap_or_else(|_| Err(PANICKED.to_owned()))
}

/// The innermost source of `error`, as one short line.
pub(super) fn explain(error: &(dyn std::error::Error + 'static)) -> String {
    let reasons = || std::iter::successors(Some(error), |error| error.source());
    let ended = |reason: &(dyn std::error::Error + 'static)| {
        reason.downcast_ref::<io::Error>().is_some_and(|reason| reason.kind() == io::ErrorKind::UnexpectedEof)
    };
    if reasons().any(ended) {
        return "it ends too early".to_owned();
    }
    let reason = reasons().last().unwrap_or(error).to_string();
    let mut reason: String = reason.chars().filter(|character| !character.is_control()).take(LONGEST_ERROR).collect();
    // A word such as ID3v2 is written as it is.
    let mut first_two = reason.chars();
    if first_two.next().is_some_and(|first| first.is_ascii_uppercase())
        && first_two.next().is_some_and(|second| second.is_ascii_lowercase())
    {
        reason[..1].make_ascii_lowercase();
    }
    reason
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_an_error() {
        let failure = guarded::<()>(|| std::panic::resume_unwind(Box::new("a bug")));
        assert_eq!(failure, Err(PANICKED.to_owned()));
    }

    #[test]
    fn an_error_is_one_short_line_in_lower_case() {
        let long = io::Error::other(format!("Bad\n{}", "x".repeat(1000)));
        assert_eq!(explain(&long), format!("bad{}", "x".repeat(LONGEST_ERROR - 3)));
        assert_eq!(explain(&io::Error::other("ID3v2: Bad")), "ID3v2: Bad");
        assert_eq!(explain(&io::Error::from(io::ErrorKind::UnexpectedEof)), "it ends too early");
    }

    #[test]
    fn blanks_and_byte_order_marks_are_no_text() {
        assert_eq!(tidy(" \0\u{feff} a\u{feff}b \u{feff}\0c").as_deref(), Some("ab"));
        assert_eq!(tidy("\u{feff}\0 "), None);
    }

    #[test]
    fn a_total_is_joined_once() {
        let joined = |number: &str, total: Option<&str>| track(tidy(number), total.and_then(tidy));
        assert_eq!(joined("3", Some("12")).as_deref(), Some("3/12"));
        assert_eq!(joined("3/12", Some("13")).as_deref(), Some("3/12"));
        assert_eq!(joined("3", Some("0")).as_deref(), Some("3"));
        assert_eq!(joined("", Some("12")), None);
    }

    #[test]
    fn a_bitrate_is_whole_or_absent() {
        assert_eq!(bits_per_second(1000, 0.5), Some(16_000));
        assert_eq!(bits_per_second(1000, 0.0), None);
        assert_eq!(bits_per_second(0, 1.0), None);
        assert_eq!(bits_per_second(u64::MAX, 1e-300), None);
    }
}
