//! Which paths of a library are published: by their extension, and by patterns that exclude some.
//!
//! Patterns have the syntax and meaning of gitignore's. The last pattern that matches decides, and one with a leading
//! `!` includes again. An excluded directory is excluded with everything in it. There are several lists of patterns,
//! and the first one with a match decides: the file `.ignore-music` of the directory, those of the directories above
//! it, then `EXCLUDE`, then `EXCLUDE_FILE`, then the defaults.

mod defaults;

use std::borrow::Cow;
use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use ignore::Match;
use ignore::gitignore::{Gitignore, GitignoreBuilder};

use super::{Extensions, LibraryPath, Partition};

pub use defaults::DEFAULT_EXCLUDES;

/// The name of the file with patterns for its directory and everything in it.
pub const IGNORE_FILE: &[u8] = b".ignore-music";

/// A list of patterns.
#[derive(Clone, Default)]
pub struct Patterns(Option<Arc<Gitignore>>);

/// An invalid pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {problem}")]
pub struct PatternError {
    /// The number of its line, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub problem: String,
}

impl Patterns {
    /// Parses a text with one pattern per line. Returns the patterns and the errors of invalid lines.
    ///
    /// Empty lines and lines that begin with `#` are skipped.
    pub fn of_text(text: &[u8]) -> (Self, Vec<PatternError>) {
        let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
        Self::of_lines(text.split(|&byte| byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line)))
    }

    /// Parses one pattern per line, as [`Patterns::of_text`] does.
    pub fn of_lines<'a>(lines: impl IntoIterator<Item = &'a [u8]>) -> (Self, Vec<PatternError>) {
        let mut builder = GitignoreBuilder::new("");
        builder.allow_unclosed_class(false);
        let mut errors = Vec::new();
        for (index, line) in lines.into_iter().enumerate() {
            let added = match std::str::from_utf8(line) {
                Ok(line) => builder.add_line(None, line).map(drop).map_err(|error| error.to_string()),
                Err(_) => Err("is not UTF-8".to_owned()),
            };
            if let Err(problem) = added {
                errors.push(PatternError { line: index + 1, problem });
            }
        }
        match builder.build() {
            Ok(matcher) if matcher.is_empty() => (Self(None), errors),
            Ok(matcher) => (Self(Some(Arc::new(matcher))), errors),
            Err(error) => {
                errors.push(PatternError { line: 1, problem: error.to_string() });
                (Self(None), errors)
            }
        }
    }

    /// Whether there is no pattern.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Whether a pattern excludes the path (`true`) or includes it again (`false`); `None` if no pattern matches.
    fn verdict(&self, path: &[u8], is_directory: bool) -> Option<bool> {
        match self.0.as_ref()?.matched(Path::new(OsStr::from_bytes(path)), is_directory) {
            Match::None => None,
            Match::Ignore(_) => Some(true),
            Match::Whitelist(_) => Some(false),
        }
    }
}

impl fmt::Debug for Patterns {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} patterns", self.0.as_ref().map_or(0, |matcher| matcher.len()))
    }
}

/// The file `.ignore-music` of a directory.
#[derive(Debug)]
pub struct IgnoreFile {
    /// The directory that it is in.
    pub directory: LibraryPath,
    /// The text that the patterns were parsed from.
    pub text: Box<[u8]>,
    /// Its patterns.
    pub patterns: Patterns,
    /// The nearest ignore file in a directory above.
    pub above: Option<Arc<IgnoreFile>>,
}

/// The rules for a whole library: the extensions of audio files, the patterns from the settings, and the part that
/// this instance has.
#[derive(Clone, Debug)]
pub struct Rules {
    extensions: Extensions,
    exclude: Patterns,
    exclude_file: Patterns,
    defaults: bool,
    partition: Partition,
}

impl Default for Rules {
    fn default() -> Self {
        Self::new(Extensions::default())
    }
}

impl Rules {
    /// Includes files with these extensions, except those that the default patterns exclude.
    pub fn new(extensions: Extensions) -> Self {
        Self {
            extensions,
            exclude: Patterns::default(),
            exclude_file: Patterns::default(),
            defaults: true,
            partition: Partition::default(),
        }
    }

    /// Excludes what these patterns match. Those of `exclude` come before those of `exclude_file`, and these before the
    /// default ones. The default ones are used only if `defaults` is true.
    #[must_use]
    pub fn excluding(self, exclude: Patterns, exclude_file: Patterns, defaults: bool) -> Self {
        Self { exclude, exclude_file, defaults, ..self }
    }

    /// Excludes what belongs to other instances.
    #[must_use]
    pub fn of_partition(self, partition: Partition) -> Self {
        Self { partition, ..self }
    }

    /// The part of the library that this instance has.
    pub fn partition(&self) -> Partition {
        self.partition
    }

    /// The extensions of audio files.
    pub fn extensions(&self) -> &Extensions {
        &self.extensions
    }

    /// Whether the entry `name` of `directory`, which itself is not excluded, is excluded by a pattern or belongs to
    /// another instance.
    ///
    /// `ignore_file` is the nearest one in `directory` or above it. Extensions are not checked here.
    pub fn excludes(
        &self,
        ignore_file: Option<&IgnoreFile>,
        directory: &LibraryPath,
        name: &[u8],
        is_directory: bool,
    ) -> bool {
        if directory.is_root() && !self.partition.has(name, is_directory) {
            return true;
        }
        let mut path = None;
        let mut path = || path.get_or_insert_with(|| directory.join(name)).clone();
        let mut nearest = ignore_file;
        while let Some(file) = nearest {
            if !file.patterns.is_empty() {
                let path = path();
                let below = path.as_bytes().get(file.directory.join(b"").as_bytes().len()..).unwrap_or_default();
                if let Some(verdict) = file.patterns.verdict(below, is_directory) {
                    return verdict;
                }
            }
            nearest = file.above.as_deref();
        }
        for patterns in [&self.exclude, &self.exclude_file] {
            if !patterns.is_empty()
                && let Some(verdict) = patterns.verdict(path().as_bytes(), is_directory)
            {
                return verdict;
            }
        }
        let whole = || {
            if directory.is_root() { Cow::Borrowed(name) } else { Cow::Owned(directory.join(name).as_bytes().to_vec()) }
        };
        self.defaults && defaults::excludes(name, whole, is_directory)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patterns(text: &str) -> Patterns {
        let (patterns, errors) = Patterns::of_text(text.as_bytes());
        assert!(errors.is_empty(), "{errors:?}");
        patterns
    }

    fn excludes(rules: &Rules, path: &str, is_directory: bool) -> bool {
        let path = LibraryPath::from(path);
        rules.excludes(None, &path.parent().unwrap(), path.name(), is_directory)
    }

    #[test]
    fn the_first_list_with_a_match_decides_and_in_a_list_the_last_match() {
        let rules = Rules::default().excluding(patterns("!/a/*.mp3\n/a/x.mp3"), patterns("*.mp3\n!@eaDir/"), true);
        for (path, is_directory, is_excluded) in [
            ("a/x.mp3", false, true),
            ("a/y.mp3", false, false),
            ("b/y.mp3", false, true),
            ("b/@eaDir", true, false),
            ("b/\u{23}recycle", true, true),
            ("b/y.flac", false, false),
        ] {
            assert_eq!(excludes(&rules, path, is_directory), is_excluded, "{path}");
        }
        assert!(!excludes(
            &Rules::default().excluding(Patterns::default(), Patterns::default(), false),
            "._a.mp3",
            false
        ));
    }

    #[test]
    fn an_ignore_file_comes_before_those_above_it_and_these_before_the_settings() {
        let above = Arc::new(IgnoreFile {
            directory: "a".into(),
            text: Box::default(),
            patterns: patterns("/b/x.mp3\n!/b/y.mp3\n*.flac"),
            above: None,
        });
        let file = IgnoreFile {
            directory: "a/b".into(),
            text: Box::default(),
            patterns: patterns("!/x.mp3"),
            above: Some(above),
        };
        let rules = Rules::default().excluding(patterns("*.mp3"), Patterns::default(), true);
        let excludes = |name: &str| rules.excludes(Some(&file), &"a/b".into(), name.as_bytes(), false);
        assert_eq!(["x.mp3", "y.mp3", "z.mp3", "z.flac", "z.ogg"].map(excludes), [false, false, true, true, false]);
    }

    #[test]
    fn an_invalid_line_is_reported_and_the_others_apply() {
        let (patterns, errors) = Patterns::of_text(b"\xef\xbb\xbf# music\r\n*.wav\r\n[z-a]\n\xff\n\n!keep.wav");
        assert_eq!(errors.iter().map(|error| error.line).collect::<Vec<_>>(), [3, 4]);
        assert_eq!(patterns.verdict(b"a/b.wav", false), Some(true));
        assert_eq!(patterns.verdict(b"a/keep.wav", false), Some(false));
        assert_eq!(patterns.verdict(b"a/b.mp3", false), None);
    }

    #[test]
    fn the_default_patterns_do_not_exclude_music() {
        let rules = Rules::default();
        for path in [
            "...And Justice for All",
            "lost and found",
            "A/Temporary Items",
            "#1 Hits",
            "@ the Disco",
            "$uicideboy$",
            "~ album",
            "_underscore",
            ".hidden album",
            "Recycled",
            "Snapshots",
        ] {
            assert!(!excludes(&rules, path, true), "{path}");
        }
        for name in ["a/.5.mp3", "a/...mp3", "a/_.mp3", "lost+found.mp3", "@eaDir.mp3", "#recycle.mp3"] {
            assert!(!excludes(&rules, name, false), "{name}");
        }
        let kept_by_systems = [
            "a/@eaDir",
            "#recycle",
            "a/#snapshot",
            "$RECYCLE.BIN",
            "a/.Trash-1000",
            ".zfs",
            "Temporary Items",
            "a/.@__thumb",
        ];
        for directory in kept_by_systems {
            assert!(excludes(&rules, directory, true), "{directory}");
        }
        for file in
            ["a/._a.mp3", ".trashed-1700000000-a.mp3", ".file-watcher-x.mp3", ".nfs00000000012345670000001a.mp3"]
        {
            assert!(excludes(&rules, file, false), "{file}");
        }
    }
}
