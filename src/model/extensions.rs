//! The file extensions of audio files.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use super::LibraryPath;

/// The fifteen extensions that are watched by default, if `AUDIO_EXTENSIONS` is not set.
const DEFAULT: [&str; 15] =
    ["mp3", "flac", "wav", "wave", "ogg", "oga", "aac", "opus", "m4a", "m4b", "m4p", "m4v", "m4r", "mp4", "wma"];

/// The length in bytes up to which an extension is put into lower case on the stack.
const SHORT: usize = 16;

/// A set of file extensions, compared without ASCII case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extensions(BTreeSet<String>);

/// Why a list of extensions is invalid.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ExtensionsError {
    /// The list is empty.
    #[error("names no extension; give a list such as mp3,flac or +aiff,ape to add to the fifteen")]
    Empty,
    /// An entry has a character that no extension has.
    #[error("{0:?} is not an extension; give letters and digits such as mp3,flac or +aiff,ape to add")]
    NotAnExtension(String),
}

impl Extensions {
    /// Whether the name of `path` has one of these extensions.
    pub fn matches(&self, path: &LibraryPath) -> bool {
        self.matches_name(path.name())
    }

    /// Whether the name of a directory entry has one of these extensions.
    pub fn matches_name(&self, name: &[u8]) -> bool {
        let Some(dot) = name.iter().rposition(|&byte| byte == b'.') else { return false };
        let (stem, extension) = (&name[..dot], &name[dot + 1..]);
        // Nearly all are short, and are looked up in the set.
        let mut lower = [0; SHORT];
        let Some(lower) = lower.get_mut(..extension.len()) else {
            return !stem.is_empty() && self.0.iter().any(|known| known.as_bytes().eq_ignore_ascii_case(extension));
        };
        lower.copy_from_slice(extension);
        lower.make_ascii_lowercase();
        !stem.is_empty() && str::from_utf8(lower).is_ok_and(|extension| self.0.contains(extension))
    }
}

impl Default for Extensions {
    fn default() -> Self {
        Self(DEFAULT.iter().map(ToString::to_string).collect())
    }
}

impl FromStr for Extensions {
    type Err = ExtensionsError;

    /// `mp3,flac` replaces the fifteen, and `+aiff,ape` adds to them. A leading dot is ignored.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (mut set, list) = match text.trim().strip_prefix('+') {
            Some(list) => (Self::default().0, list),
            None => (BTreeSet::new(), text.trim()),
        };
        let mut named = 0;
        for entry in list.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
            let extension = entry.trim_start_matches(['.', '+']);
            if extension.is_empty() || !extension.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
                return Err(ExtensionsError::NotAnExtension(entry.to_owned()));
            }
            set.insert(extension.to_ascii_lowercase());
            named += 1;
        }
        if named == 0 { Err(ExtensionsError::Empty) } else { Ok(Self(set)) }
    }
}

impl fmt::Display for Extensions {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0.iter().map(String::as_str).collect::<Vec<_>>().join(","))
    }
}

/// The file type of an extension, as in messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileType(String);

impl FileType {
    /// The file type of `path` by its extension; the extension itself if it belongs to no known type.
    pub fn of(path: &LibraryPath) -> Self {
        let extension = String::from_utf8_lossy(path.extension().unwrap_or_default()).to_ascii_lowercase();
        Self(match extension.as_str() {
            "wave" => "wav".to_owned(),
            "oga" => "ogg".to_owned(),
            "m4a" | "m4b" | "m4p" | "m4v" | "m4r" => "mp4".to_owned(),
            _ => extension,
        })
    }

    /// The name of the type: mp3, flac, wav, ogg, opus, aac, mp4, wma, or another extension.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The format family that messages have in addition for `ogg` and `oga`.
    pub fn format_family(&self) -> Option<&'static str> {
        (self.0 == "ogg").then_some("ogg_vorbis")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fifteen_match_whatever_their_case() {
        let extensions = Extensions::default();
        for extension in DEFAULT {
            for name in [format!("a.{extension}"), format!("a.b.{}", extension.to_uppercase())] {
                assert!(extensions.matches(&LibraryPath::from(name.as_str())), "{name}");
            }
        }
        for name in ["a.txt", "mp3", ".mp3", "a.mp3.part", "a.mp33", "mp3/a", "a."] {
            assert!(!extensions.matches(&LibraryPath::from(name)), "{name}");
        }
        assert!(extensions.matches(&LibraryPath::from_bytes(b"\xff\xfe.mp3")));
        assert!(!extensions.matches(&LibraryPath::from_bytes(b"a.\xff")));
    }

    #[test]
    fn a_list_replaces_and_a_plus_adds() {
        let replaced: Extensions = "FLAC, .mp3".parse().unwrap();
        assert_eq!(replaced.to_string(), "flac,mp3");
        let added: Extensions = "+aiff,ape".parse().unwrap();
        assert!(added.matches(&LibraryPath::from("a.APE")) && added.matches(&LibraryPath::from("a.mp3")));
        assert_eq!("".parse::<Extensions>(), Err(ExtensionsError::Empty));
        assert_eq!("+".parse::<Extensions>(), Err(ExtensionsError::Empty));
        assert_eq!("mp3;flac".parse::<Extensions>(), Err(ExtensionsError::NotAnExtension("mp3;flac".into())));
    }

    #[test]
    fn every_extension_has_its_file_type() {
        let families: Vec<String> = DEFAULT
            .iter()
            .map(|extension| FileType::of(&LibraryPath::from(format!("a.{}", extension.to_uppercase()).as_str())).0)
            .collect();
        assert_eq!(
            families,
            ["mp3", "flac", "wav", "wav", "ogg", "ogg", "aac", "opus", "mp4", "mp4", "mp4", "mp4", "mp4", "mp4", "wma"]
        );
        assert_eq!(FileType::of(&LibraryPath::from("a.oga")).format_family(), Some("ogg_vorbis"));
        assert_eq!(FileType::of(&LibraryPath::from("a.opus")).format_family(), None);
    }
}
