//! What is known about a file: its stat, its hashes, its metadata.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Field, LibraryPath, Origin, Tags};

/// The id of a mount in the library. It stays the same across restarts and remounts.
///
/// The kernel's own numbers (device, mount id) change with a reboot, so rows never contain them.
/// `disk::Mounts` assigns the ids, and the store keeps them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MountId(pub u32);

impl MountId {
    /// The mount of a row that an older version wrote without recording the mount.
    pub const UNKNOWN: Self = Self(u32::MAX);
}

/// What an inode number says about the identity of its file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum InodeKind {
    /// The file keeps the number until it is deleted.
    #[default]
    Stable,
    /// The filesystem may give the file another number at the next mount or lookup.
    Unstable,
    /// No file was examined. The index knows the path and nothing about its file.
    Unknown,
}

/// The part of a stat by which two looks at a file are compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct FileStat {
    /// The mount that the file is on.
    pub mount: MountId,
    /// The inode number on that mount. It identifies the file only if `inode_kind` is [`InodeKind::Stable`].
    pub inode: u64,
    /// What the inode number says about the identity of the file.
    pub inode_kind: InodeKind,
    /// When the inode was created, in nanoseconds since the epoch, on filesystems that record it.
    pub born_ns: Option<i64>,
    /// Size in bytes.
    pub size: u64,
    /// Last change of the content, in nanoseconds since the epoch. Filesystems allow times that do not fit 64 bits.
    pub mtime_ns: i128,
    /// Last change of content or attributes, in nanoseconds since the epoch.
    pub ctime_ns: i128,
}

impl FileStat {
    /// The stat of a path about whose file nothing is known. It is equal to the stat of no file.
    pub fn unknown(mount: MountId) -> Self {
        Self { mount, inode_kind: InodeKind::Unknown, ..Self::default() }
    }

    /// Whether the inode number identifies the file.
    pub fn has_stable_inode(&self) -> bool {
        self.inode_kind == InodeKind::Stable
    }

    /// Whether both stats are of the same file: the same inode, not reused for another file.
    ///
    /// The birth time detects reuse on filesystems that record it. On others the number may have been
    /// reused, so callers that need certainty compare size and modification time too.
    pub fn same_file(&self, other: &Self) -> bool {
        self.has_stable_inode()
            && other.has_stable_inode()
            && (self.mount, self.inode) == (other.mount, other.inode)
            && (self.born_ns == other.born_ns || self.born_ns.is_none() || other.born_ns.is_none())
    }

    /// Whether both stats are of the same file for certain, even if its content changed in between.
    pub fn is_surely_same_file(&self, other: &Self) -> bool {
        self.same_file(other) && self.born_ns.is_some() && other.born_ns.is_some()
    }

    /// Whether a file with the stat `now` is taken for the file of this one without reading it: it is that for certain, or it
    /// has the same inode number, size and modification time. Without a birth time, the number may have been reused.
    pub fn shows_file(&self, now: &Self) -> bool {
        self.is_surely_same_file(now) || (self.same_file(now) && self.same_size_and_mtime(now))
    }

    /// Whether a file with the stat `now` need not be read again: it equals this stat. The ctime is not compared if
    /// `ignore_ctime`; only size and modification time are compared if inode numbers are unstable.
    pub fn is_unchanged(&self, now: &Self, ignore_ctime: bool) -> bool {
        match (self.inode_kind, now.inode_kind) {
            (InodeKind::Unknown, _) | (_, InodeKind::Unknown) => false,
            (_, InodeKind::Unstable) => self.mount == now.mount && self.same_size_and_mtime(now),
            (_, InodeKind::Stable) => {
                self.same_file(now) && self.same_size_and_mtime(now) && (ignore_ctime || self.ctime_ns == now.ctime_ns)
            }
        }
    }

    /// Whether both files are known, and their sizes and modification times are equal.
    pub fn same_size_and_mtime(&self, other: &Self) -> bool {
        let are_known = self.inode_kind != InodeKind::Unknown && other.inode_kind != InodeKind::Unknown;
        are_known && (self.size, self.mtime_ns) == (other.size, other.mtime_ns)
    }
}

/// The two hashes of a whole file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fingerprint {
    /// SHA-256.
    pub sha256: [u8; 32],
    /// XXH3 with 128 bits, seed 0.
    pub xxh128: u128,
}

/// The sound of a file, without its tags.
///
/// It is the same in files that differ only in their tags. docs/metadata.md defines it for each format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Sound {
    /// XXH3 with 128 bits, seed 0.
    pub xxh128: u128,
    /// Its length in bytes, never 0.
    pub bytes: u64,
}

impl Sound {
    /// The length in bytes from which on a sound is taken for one recording. Less is a moment of silence, or a file that
    /// was cut, and many files may have it.
    pub const DISTINCTIVE: u64 = 1024;

    /// Whether files with this sound have the same recording.
    pub fn is_distinctive(&self) -> bool {
        self.bytes >= Self::DISTINCTIVE
    }
}

/// The metadata from the tags and the stream headers.
///
/// The field names are those of the message. A field that is `None` is absent from the message.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Metadata {
    /// Playing time in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration: Option<f64>,
    /// Bits per second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bitrate: Option<u32>,
    /// Samples per second, in Hz.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sample_rate: Option<u32>,
    /// Number of channels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channels: Option<u32>,
    /// MIME type: the first one that mutagen lists for the container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<String>,
    /// The codec of the sound, as ffprobe names it. Absent if it is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub codec: Option<String>,
    /// Bits per sample. Absent for codecs that have none, which are the lossy ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bits_per_sample: Option<u32>,
    /// Whether a picture is embedded: true, or absent.
    #[schemars(extend("const" = true))]
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub has_cover: bool,
    /// The tags.
    #[serde(default)]
    pub tags: Tags,
    /// What could not be read, and why. The other fields hold what could be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl Metadata {
    /// The longest allowed text, in bytes of UTF-8.
    pub const LONGEST_TEXT: usize = 64 * 1024;

    /// Appends to the error text.
    pub fn add_error(&mut self, error: &str) {
        match &mut self.error {
            Some(errors) => {
                errors.push_str("; ");
                errors.push_str(error);
            }
            None => self.error = Some(error.to_owned()),
        }
    }

    /// The same without what older versions did not publish.
    #[must_use]
    pub fn basic(&self) -> Self {
        Self { codec: None, bits_per_sample: None, has_cover: false, tags: self.tags.basic(), ..self.clone() }
    }

    /// Whether a text is longer than [`Self::LONGEST_TEXT`].
    pub fn has_long_texts(&self) -> bool {
        let others = [&self.format, &self.codec, &self.error].into_iter().flatten().map(String::as_str);
        self.tags.present().map(|(_, text)| text).chain(others).any(|text| text.len() > Self::LONGEST_TEXT)
    }

    /// Truncates every text that is longer than [`Self::LONGEST_TEXT`], at a character boundary, and names each in the
    /// error text. Returns what it added to it.
    pub fn cut_long_texts(&mut self) -> Vec<String> {
        let error = self.error.as_mut().is_some_and(cut);
        let tags = self.tags.cut(Self::LONGEST_TEXT).into_iter().map(Field::name);
        let others = [("format", &mut self.format), ("codec", &mut self.codec)];
        let others = others.into_iter().filter_map(|(name, text)| cut(text.as_mut()?).then_some(name));
        let mut added: Vec<String> =
            tags.chain(others).map(|name| format!("{name} is cut to {} KiB", Self::LONGEST_TEXT / 1024)).collect();
        if error {
            added.push("this text is cut".to_owned());
        }
        for error in &added {
            self.add_error(error);
        }
        added
    }
}

/// Truncates a text that is too long; returns whether it was.
fn cut(text: &mut String) -> bool {
    let is_too_long = text.len() > Metadata::LONGEST_TEXT;
    if is_too_long {
        text.truncate(text.floor_char_boundary(Metadata::LONGEST_TEXT));
        text.shrink_to_fit();
    }
    is_too_long
}

/// The content of a file, as messages carry it.
#[derive(Clone, Debug, PartialEq)]
pub struct Track {
    /// The hashes.
    pub fingerprint: Fingerprint,
    /// The sound; `None` if the file is of no known format, if it is damaged, or if an older version has read it.
    pub sound: Option<Sound>,
    /// The metadata.
    pub metadata: Metadata,
}

impl Track {
    /// Whether both have the same recording, whatever their tags are. It is not known of a very short sound.
    pub fn has_sound_of(&self, other: &Self) -> bool {
        self.sound.is_some_and(|sound| sound.is_distinctive() && other.sound == Some(sound))
    }
}

/// The row of a path in the index: what was last published for it.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// The path.
    pub path: LibraryPath,
    /// The stat of the file when the content was read.
    pub stat: FileStat,
    /// The content.
    pub track: Arc<Track>,
    /// When the first message about this file was committed, in seconds since the epoch.
    pub first_published: i64,
}

impl Row {
    /// A path that was published, with unknown content: a rebuild of the index read the path and nothing else.
    ///
    /// The stat is [`InodeKind::Unknown`] and equals no file's, so the next scan looks at the path. A file there is
    /// published as created, and a missing one as deleted. The track is empty and is never published.
    pub fn forgotten(path: LibraryPath, mount: MountId) -> Self {
        let fingerprint = Fingerprint { sha256: [0; 32], xxh128: 0 };
        let track = Track { fingerprint, sound: None, metadata: Metadata::default() };
        Self { path, stat: FileStat::unknown(mount), track: Arc::new(track), first_published: 0 }
    }

    /// Whether the content of the path is unknown; see [`Row::forgotten`].
    pub fn is_forgotten(&self) -> bool {
        self.stat.inode_kind == InodeKind::Unknown
    }
}

/// The result of one look at a path.
#[derive(Clone, Debug, PartialEq)]
pub struct Observation {
    /// The path.
    pub path: LibraryPath,
    /// What asked for the look.
    pub origin: Origin,
    /// What was found.
    pub seen: Seen,
}

/// What is at a path.
#[derive(Clone, Debug, PartialEq)]
pub enum Seen {
    /// No regular file has this name. Its directory was read, so this is proved.
    Missing,
    /// A file. It was in this state from before it was read until after.
    File {
        /// The stat.
        stat: FileStat,
        /// The content.
        content: Content,
        /// The indexed paths whose file this may be, best first. Each was found missing or with another file, except
        /// for the path itself, if its own row is the one of this file.
        candidates: Vec<LibraryPath>,
    },
}

/// How the content of a file is known.
#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    /// The file was read.
    Read(Arc<Track>),
    /// The file was not read. It is the file of the row of this path, and that path was found missing or with another
    /// file. The new row keeps that row's ctime.
    MovedFrom(LibraryPath),
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_unknown_stat_is_that_of_no_file() {
        let unknown = FileStat::unknown(MountId::default());
        // An empty file of 1970 with an inode number 0.
        for inode_kind in [InodeKind::Stable, InodeKind::Unstable] {
            let file = FileStat { inode_kind, ..FileStat::default() };
            assert!(!unknown.same_file(&file) && !unknown.same_size_and_mtime(&file));
            assert!(!unknown.is_unchanged(&file, true) && !file.is_unchanged(&unknown, true));
        }
        assert!(!unknown.same_size_and_mtime(&unknown));
    }

    #[test]
    fn metadata_takes_little_memory_beside_its_texts() {
        // Thousands of rows are in memory at once.
        assert!(size_of::<Metadata>() <= 160, "{}", size_of::<Metadata>());
    }

    #[test]
    fn basic_metadata_is_what_older_versions_published() {
        let tags = Field::ALL.into_iter().map(|field| (field, field.name())).collect();
        let duration = Some(1.5);
        let all = Metadata {
            duration,
            codec: Some("flac".into()),
            bits_per_sample: Some(16),
            has_cover: true,
            tags,
            ..Metadata::default()
        };
        let expected = r#"{"duration":1.5,"tags":{"title":"title","artist":"artist","album":"album","date":"date","genre":"genre","track":"track"}}"#;
        assert_eq!(serde_json::to_string(&all.basic()).unwrap(), expected);
    }

    #[test]
    fn a_text_that_is_too_long_is_cut_and_named_beside_what_was_wrong_already() {
        let mut metadata = Metadata { error: Some("it ends too early".to_owned()), ..Metadata::default() };
        metadata.tags.set(Field::Title, "x".repeat(Metadata::LONGEST_TEXT + 1));
        metadata.tags.set(Field::Artist, "y".repeat(Metadata::LONGEST_TEXT));
        assert!(metadata.has_long_texts());
        metadata.cut_long_texts();
        assert!(!metadata.has_long_texts());
        assert_eq!(metadata.tags.get(Field::Title).unwrap().len(), Metadata::LONGEST_TEXT);
        assert_eq!(metadata.tags.get(Field::Artist).unwrap().len(), Metadata::LONGEST_TEXT);
        assert_eq!(metadata.error.as_deref(), Some("it ends too early; title is cut to 64 KiB"));
    }

    proptest! {
        #[test]
        fn a_cut_text_is_as_long_as_it_may_be_and_what_fits_is_not_cut(pattern in "\\PC{1,5}", over in -9_i64..9) {
            let length = Metadata::LONGEST_TEXT.saturating_add_signed(isize::try_from(over).unwrap());
            let text = pattern.repeat(length / pattern.len() + 1);
            let text = &text[..text.floor_char_boundary(length)];
            let mut metadata = Metadata::default();
            metadata.tags.set(Field::Album, text);
            metadata.cut_long_texts();
            let kept = metadata.tags.get(Field::Album).unwrap();
            prop_assert!(text.starts_with(kept) && kept.len() <= Metadata::LONGEST_TEXT);
            prop_assert!(kept == text || kept.len() + 4 > Metadata::LONGEST_TEXT);
            prop_assert_eq!(kept == text, metadata.error.is_none());
        }
    }
}
