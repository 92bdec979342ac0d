//! Texts for people.

use std::fmt::Write as _;

/// `text` with escaped control characters, also those that reverse the direction of text or have no width: file names may
/// contain newlines and terminal sequences, and may pretend to be other names.
pub fn printable(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for letter in text.chars() {
        if is_control(letter) {
            safe.extend(letter.escape_default());
        } else {
            safe.push(letter);
        }
    }
    safe
}

/// The same for a line of JSON, whose value stays the same.
pub fn printable_json(line: &str) -> String {
    let mut safe = String::with_capacity(line.len());
    for letter in line.chars() {
        if is_control(letter) {
            // All of them are in the basic plane, so one escape is enough.
            let _ = write!(safe, "\\u{:04x}", u32::from(letter));
        } else {
            safe.push(letter);
        }
    }
    safe
}

/// Whether a terminal may obey a character, or show nothing for it: controls, those of Unicode for bidirectional text
/// (Unicode Standard Annex 9, section 2), and spaces and joiners without a width that no script needs.
pub fn is_control(letter: char) -> bool {
    letter.is_control()
        || matches!(letter, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
        || matches!(letter, '\u{200b}' | '\u{2060}'..='\u{2064}' | '\u{feff}')
}

/// A number with its noun: `1 file`, `2 files`.
pub fn counted(number: u64, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {noun}{plural}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_would_obey_is_escaped() {
        assert_eq!(printable("Björk\n\x1b[2J"), r"Björk\n\u{1b}[2J");
        assert_eq!(printable("song\u{202e}3pm.flac"), r"song\u{202e}3pm.flac");
        assert_eq!(printable("so\u{200b}ng.mp3"), r"so\u{200b}ng.mp3");
        assert_eq!(printable("שלום"), "שלום");
    }

    #[test]
    fn a_line_of_json_keeps_its_value() {
        let line = serde_json::to_string("a\u{9b}b\u{202e}\u{7f}ö").unwrap();
        let safe = printable_json(&line);
        assert_eq!(safe, r#""a\u009bb\u202e\u007fö""#);
        assert_eq!(serde_json::from_str::<String>(&safe).unwrap(), "a\u{9b}b\u{202e}\u{7f}ö");
    }

    #[test]
    fn a_noun_has_the_number_of_its_number() {
        assert_eq!([0, 1, 2].map(|number| counted(number, "file")), ["0 files", "1 file", "2 files"]);
    }
}
