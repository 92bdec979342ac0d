//! Parses the settings that select files.

use std::ffi::OsString;
use std::io;
use std::path::Path;

use super::arguments::Flags;
use super::places;
use super::raw_value::{RawValue, shown};
use super::{Environment, SettingsError, Sources};
use crate::model::{PatternError, Patterns, Rules};

/// The hint in errors about patterns.
const EXAMPLE: &str = "give patterns in gitignore's syntax such as Podcasts/ or *.wav";

/// The rules from the settings.
pub(super) fn rules(sources: &Sources<'_>, flags: &Flags, environment: &Environment) -> Result<Rules, SettingsError> {
    let exclude = patterns(&sources.of_list("exclude", &flags.exclude))?;
    let exclude_file = match sources.of_optional("exclude_file", flags.exclude_file.as_ref()) {
        Some(given) => patterns_in_file(&given, environment)?,
        None => Patterns::default(),
    };
    let defaults = sources.of("exclude_defaults", &flags.exclude_defaults).boolean()?;
    let extensions = sources.of("audio_extensions", &flags.audio_extensions).parsed()?;
    let partition = sources.of("partition", &flags.partition).parsed()?;
    Ok(Rules::new(extensions).excluding(exclude, exclude_file, defaults).of_partition(partition))
}

fn patterns(given: &[RawValue]) -> Result<Patterns, SettingsError> {
    let mut list = Vec::new();
    for given in given {
        for pattern in split(given.text()?) {
            if pattern.starts_with('#') {
                return Err(
                    given.wrong(format!("{pattern:?} is a comment; give \\{pattern} for a name that begins with #"))
                );
            }
            match Patterns::of_lines([pattern.as_bytes()]).1.pop() {
                Some(PatternError { problem, .. }) => return Err(given.wrong(format!("{problem}; {EXAMPLE}"))),
                None => list.push(pattern),
            }
        }
    }
    Ok(Patterns::of_lines(list.iter().map(String::as_bytes)).0)
}

fn patterns_in_file(given: &RawValue, environment: &Environment) -> Result<Patterns, SettingsError> {
    let path = places::absolute(environment.directory(), Path::new(&given.value));
    let text = std::fs::read(&path).map_err(|error| {
        let problem = match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => "does not exist".to_owned(),
            io::ErrorKind::IsADirectory => "is a directory".to_owned(),
            io::ErrorKind::PermissionDenied => "cannot be read by this user".to_owned(),
            _ => format!("cannot be read ({error})"),
        };
        given.wrong(format!("{} {problem}; give the path of a file with one pattern per line", shown(&path)))
    })?;
    let (patterns, errors) = Patterns::of_text(&text);
    match errors.into_iter().next() {
        Some(error) => Err(given.wrong(format!("{} {error}; {EXAMPLE}", shown(&path)))),
        None => Ok(patterns),
    }
}

/// Splits a value into patterns, at newlines and commas. A comma after a backslash, in braces or in brackets is part of
/// its pattern.
fn split(text: &str) -> Vec<String> {
    let mut patterns = vec![String::new()];
    let (mut in_braces, mut in_brackets, mut escaped) = (0_u32, false, false);
    for letter in text.chars() {
        let separates = letter == '\n' || (letter == ',' && !escaped && in_braces == 0 && !in_brackets);
        if separates {
            (in_braces, in_brackets, escaped) = (0, false, false);
            patterns.push(String::new());
            continue;
        }
        match letter {
            _ if escaped => {}
            '{' if !in_brackets => in_braces += 1,
            '}' if !in_brackets => in_braces = in_braces.saturating_sub(1),
            '[' => in_brackets = true,
            ']' => in_brackets = false,
            _ => {}
        }
        escaped = letter == '\\' && !escaped;
        if let Some(pattern) = patterns.last_mut() {
            pattern.push(letter);
        }
    }
    let trimmed = patterns.into_iter().map(|pattern| pattern.trim_start().trim_end_matches('\r').to_owned());
    trimmed.filter(|pattern| !pattern.trim().is_empty()).collect()
}

impl Sources<'_> {
    /// The values of a setting whose flag may be given several times.
    fn of_list(&self, id: &str, flags: &[OsString]) -> Vec<RawValue> {
        let first = flags.first();
        match self.of_optional(id, first) {
            // The value comes from the variable.
            Some(given) if first != Some(&given.value) => vec![given],
            None => Vec::new(),
            Some(given) => flags.iter().map(|value| RawValue { value: value.clone(), ..given.clone() }).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commas_and_newlines_separate_patterns_unless_they_are_part_of_one() {
        assert_eq!(split("a, b/\n !c \\ \n,,\r\n"), ["a", "b/", "!c \\ "]);
        assert_eq!(
            split(r"Earth\, Wind & Fire,*.{wav,aac},[,x]y,z"),
            [r"Earth\, Wind & Fire", "*.{wav,aac}", "[,x]y", "z"]
        );
        // Unclosed braces end with the line.
        assert_eq!(split("a{b,c\nd,e"), ["a{b,c", "d", "e"]);
        assert_eq!(split(" , "), [""; 0]);
    }
}
