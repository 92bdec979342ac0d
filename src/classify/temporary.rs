//! The temporary names under which programs write a new version of a file before they rename it over the old one.

/// Words that mark a temporary file wherever a separator sets them off from the name, also with a number.
const ANYWHERE: [&[u8]; 2] = [b"temp", b"tmp"];

/// Words that mark a temporary file only between dots behind the name. Elsewhere they may belong to a title.
const BEHIND_A_DOT: [&[u8]; 5] = [b"new", b"part", b"partial", b"download", b"saving"];

/// The separators between a word and a name. A space is none: `New Song.mp3` is a song.
const SEPARATORS: &[u8] = b"._-~";

/// The longest random part of a temporary name.
const LONGEST_RANDOM: usize = 16;

/// Whether `name` is the name `of` with a temporary part: `2.temp.mp3`, `tmp_2.mp3` or `.2.mp3.part.mp3` of `2.mp3`.
pub(super) fn is_temporary_name_of(name: &[u8], of: &[u8]) -> bool {
    let (of_stem, of_extension) = split_extension(of);
    let (visible, is_hidden) = match name.strip_prefix(b".") {
        Some(visible) if !of.starts_with(b".") => (visible, true),
        _ => (name, false),
    };
    let (stem, extension) = split_extension(visible);
    if of_stem.is_empty() || !extension.eq_ignore_ascii_case(of_extension) {
        return false;
    }
    if is_hidden && visible == of {
        return true;
    }
    let behind = |whole: &[u8]| stem.strip_prefix(whole).is_some_and(|rest| is_behind(rest, is_hidden && whole == of));
    behind(of) || behind(of_stem) || stem.strip_suffix(of_stem).is_some_and(is_in_front)
}

/// The names that give this one if a temporary part is added.
pub fn originals_of_temporary_name(name: &[u8]) -> Vec<Vec<u8>> {
    let visible = name.strip_prefix(b".").unwrap_or(name);
    let (stem, extension) = split_extension(visible);
    let with_extension = |stem: &[u8]| [stem, b".", extension].concat();
    let is_separator = |(_, byte): &(usize, &u8)| SEPARATORS.contains(byte);
    let parts = stem.iter().enumerate().filter(is_separator).flat_map(|(place, _)| {
        let (front, behind) = (&stem[..place], &stem[place + 1..]);
        [front.to_vec(), with_extension(front), with_extension(behind)]
    });
    let mut originals: Vec<Vec<u8>> = parts.chain([visible.to_vec(), with_extension(visible)]).collect();
    originals.retain(|original| original != name && is_temporary_name_of(name, original));
    originals.sort_unstable();
    originals.dedup();
    originals
}

/// Whether a program may have appended this to a name. Behind the whole name in a hidden file's name, that is any short
/// word.
fn is_behind(rest: &[u8], may_be_random: bool) -> bool {
    let Some((separator, word)) = rest.split_first().filter(|(first, _)| SEPARATORS.contains(first)) else {
        return false;
    };
    is_temporary_word(word)
        || (*separator == b'.' && BEHIND_A_DOT.iter().any(|known| word.eq_ignore_ascii_case(known)))
        || (may_be_random && (1..=LONGEST_RANDOM).contains(&word.len()) && word.iter().all(u8::is_ascii_alphanumeric))
}

/// Whether a program may have put this in front of a name.
fn is_in_front(rest: &[u8]) -> bool {
    rest.split_last().is_some_and(|(last, word)| SEPARATORS.contains(last) && is_temporary_word(word))
}

/// Whether this is one of the words, with or without a number: `temp`, `tmp12`.
fn is_temporary_word(word: &[u8]) -> bool {
    let word = word.to_ascii_lowercase();
    ANYWHERE.iter().any(|known| word.strip_prefix(*known).is_some_and(|rest| rest.iter().all(u8::is_ascii_digit)))
}

/// The name up to its last dot, and the rest behind that dot.
fn split_extension(name: &[u8]) -> (&[u8], &[u8]) {
    match name.iter().rposition(|&byte| byte == b'.') {
        Some(dot) => (&name[..dot], &name[dot + 1..]),
        None => (name, b""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_under_which_programs_save_files_are_temporary() {
        let of_2 = [
            "2.temp.mp3",
            "2.tmp.mp3",
            "2.TEMP.MP3",
            "2-tmp.mp3",
            "2_temp.mp3",
            "2~tmp.mp3",
            "2.temp17.mp3",
            "2.mp3.part.mp3",
            "2.mp3.tmp.mp3",
            "2.mp3-tmp.mp3",
            "2.part.mp3",
            "2.partial.mp3",
            "2.new.mp3",
            "2.mp3.new.mp3",
            "2.download.mp3",
            "tmp_2.mp3",
            "temp-2.mp3",
            "tmp.2.mp3",
            "tmp3_2.mp3",
            ".2.mp3",
            ".2.tmp.mp3",
            ".2.mp3.tmp.mp3",
            ".2.mp3.kX81bQ.mp3",
            ".tmp_2.mp3",
        ];
        for name in of_2 {
            assert!(is_temporary_name_of(name.as_bytes(), b"2.mp3"), "{name}");
            let originals = originals_of_temporary_name(name.as_bytes());
            assert!(originals.iter().any(|original| original.eq_ignore_ascii_case(b"2.mp3")), "{name}: {originals:?}");
        }
        for name in ["2.mp3", "New Song.mp3", "2 (remix).mp3", "02 - Tempo.mp3"] {
            assert_eq!(originals_of_temporary_name(name.as_bytes()), Vec::<Vec<u8>>::new(), "{name}");
        }
        assert!(is_temporary_name_of("Café.temp.flac".as_bytes(), "Café.flac".as_bytes()));
        assert!(is_temporary_name_of(b"\xff.tmp.mp3", b"\xff.mp3"));
        assert!(is_temporary_name_of(b".hidden.tmp.mp3", b".hidden.mp3"));
    }

    #[test]
    fn ordinary_names_are_not_temporary() {
        let ordinary = [
            ("2.mp3", "2.mp3"),
            ("3.mp3", "2.mp3"),
            ("2 (remix).mp3", "2.mp3"),
            ("2 new.mp3", "2.mp3"),
            ("2-new.mp3", "2.mp3"),
            ("12.mp3", "2.mp3"),
            ("22.mp3", "2.mp3"),
            ("2.tempo.mp3", "2.mp3"),
            ("2.temple.mp3", "2.mp3"),
            ("2temp.mp3", "2.mp3"),
            ("temp2.mp3", "2.mp3"),
            ("2.temp.flac", "2.mp3"),
            ("2.mp3", "2.temp.mp3"),
            ("2.live.mp3", "2.mp3"),
            ("2.mp3.live.mp3", "2.mp3"),
            ("New.mp3", "Song.mp3"),
            ("New.mp3", "New.mp3"),
            ("New Song.mp3", "Song.mp3"),
            ("Temp.mp3", "2.mp3"),
            ("tmp.mp3", "2.mp3"),
            ("Suite-part1.mp3", "Suite.mp3"),
            ("Suite.part1.mp3", "Suite.mp3"),
            ("Suite-part.mp3", "Suite.mp3"),
            ("A new part.mp3", "A new.mp3"),
            (".2.live.mp3", "2.mp3"),
            ("._2.mp3", "2.mp3"),
            ("temp.mp3", ".mp3"),
            ("", "2.mp3"),
            ("2.temp.mp3", ""),
        ];
        for (name, of) in ordinary {
            assert!(!is_temporary_name_of(name.as_bytes(), of.as_bytes()), "{name} of {of}");
        }
    }
}
