//! The genres of ID3, which tags give by number.

use lofty::id3::v1::GENRES;

/// The names that other readers of tags write differently from lofty, which has one of them in an old form.
const NAMES: [(usize, &str); 24] = [
    (1, "Classic Rock"),
    (22, "Death Metal"),
    (29, "Jazz+Funk"),
    (37, "Sound Clip"),
    (40, "Alt. Rock"),
    (59, "Gangsta Rap"),
    (64, "Native American"),
    (69, "Showtunes"),
    (78, "Rock & Roll"),
    (84, "Fast-Fusion"),
    (95, "Slow Rock"),
    (104, "Chamber Music"),
    (107, "Booty Bass"),
    (109, "Porn Groove"),
    (111, "Slow Jam"),
    (123, "A Cappella"),
    (126, "Goa"),
    (129, "Hardcore"),
    (133, "Afro-Punk"),
    (141, "Christian Rock"),
    (146, "JPop"),
    (152, "Big Beat"),
    (184, "Audio Theatre"),
    (187, "Indie Rock"),
];

/// The name of a genre by its number in Winamp's list.
pub(super) fn name(number: usize) -> Option<&'static str> {
    let named = NAMES.iter().find(|(known, _)| *known == number).map(|(_, name)| *name);
    named.or_else(|| GENRES.get(number).copied())
}

/// The first genre of a frame TCON: `17`, `(17)`, `(17)(18)`, `(17)Rock`, `((Foo)` or a name. `RX` is a remix and `CR` a
/// cover.
pub(super) fn first(text: &str) -> Option<String> {
    let text = text.trim();
    if let Some(named) = of_word(text) {
        return Some(named);
    }
    let mut rest = text;
    while let Some((word, after)) = rest.strip_prefix('(').and_then(|rest| rest.split_once(')')) {
        if rest.starts_with("((") {
            break;
        }
        if let Some(named) = of_word(word) {
            return Some(named);
        }
        if !word.bytes().all(|byte| byte.is_ascii_digit()) {
            break;
        }
        rest = after;
    }
    let name = rest.strip_prefix("((").map_or_else(|| rest.to_owned(), |name| format!("({name}"));
    Some(name.trim().to_owned()).filter(|name| !name.is_empty())
}

fn of_word(word: &str) -> Option<String> {
    match word {
        "RX" => Some("Remix".to_owned()),
        "CR" => Some("Cover".to_owned()),
        _ => word.parse().ok().and_then(name).map(ToOwned::to_owned),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_genre_is_a_number_or_a_name() {
        for (text, expected) in [
            ("17", "Rock"),
            ("(17)", "Rock"),
            ("(4)Eurodisco", "Disco"),
            ("(17)(18)", "Rock"),
            ("(RX)", "Remix"),
            ("CR", "Cover"),
            ("((Foo)", "(Foo)"),
            ("(Foo) Bar", "(Foo) Bar"),
            ("133", "Afro-Punk"),
            ("191", "Psybient"),
            ("(255)", ""),
            ("(999)Odd", "Odd"),
            ("Jazz", "Jazz"),
        ] {
            assert_eq!(first(text).unwrap_or_default(), expected, "{text}");
        }
    }
}
