//! What is known of a file: its stat, its hashes, its metadata.

use serde::{Deserialize, Serialize};

use super::{LibraryPath, Origin};

/// One of the mounts of the library, by a number that stays the same across restarts and remounts.
///
/// The kernel's own numbers (device, mount id) change with a reboot, so rows never keep them.
/// `disk::Mounts` decides which mount has which number, and the store remembers it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MountId(pub u32);

impl MountId {
    /// The mount of a row that an older version wrote, when it is not known which one that was.
    pub const UNKNOWN: Self = Self(u32::MAX);
}

/// The part of a stat by which two looks at a file are compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct FileStat {
    /// The mount that the file is on.
    pub mount: MountId,
    /// The inode number there; 0 if it says nothing.
    pub inode: u64,
    /// Whether the filesystem may give a file another inode number at the next mount or look.
    pub passing_inode: bool,
    /// When the inode was made, in nanoseconds since the epoch, on filesystems that keep this.
    pub born_ns: Option<i64>,
    /// Size in bytes.
    pub size: u64,
    /// Last change of the content, in nanoseconds since the epoch. Filesystems keep times that do not fit 64 bits.
    pub mtime_ns: i128,
    /// Last change of content or attributes, in nanoseconds since the epoch.
    pub ctime_ns: i128,
}

impl FileStat {
    /// Whether both are the same file: the same inode, and not another file that was given its number.
    ///
    /// The birth time decides that on filesystems that keep it. On the others the number may have been
    /// given to another file, so callers that need more compare size and modification time as well.
    pub fn same_file(&self, other: &Self) -> bool {
        !self.passing_inode
            && !other.passing_inode
            && (self.mount, self.inode) == (other.mount, other.inode)
            && (self.born_ns == other.born_ns || self.born_ns.is_none() || other.born_ns.is_none())
    }

    /// Whether both are the same file for certain, however much its content changed in between.
    pub fn is_surely_same_file(&self, other: &Self) -> bool {
        self.same_file(other) && self.born_ns.is_some() && other.born_ns.is_some()
    }

    /// Whether a file with this stat need not be read again: nothing of `now` differs, except for the
    /// ctime if `ignore_ctime`, and for all but size and modification time where inode numbers do not last.
    pub fn is_unchanged(&self, now: &Self, ignore_ctime: bool) -> bool {
        if now.passing_inode {
            return self.mount == now.mount && self.same_size_and_mtime(now);
        }
        self.same_file(now) && self.same_size_and_mtime(now) && (ignore_ctime || self.ctime_ns == now.ctime_ns)
    }

    /// Whether size and modification time agree.
    pub fn same_size_and_mtime(&self, other: &Self) -> bool {
        (self.size, self.mtime_ns) == (other.size, other.mtime_ns)
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

/// What the tags and the stream headers say.
///
/// The field names are those of the message; an absent field is absent there too.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Metadata {
    /// Playing time in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration: Option<f64>,
    /// Bits a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bitrate: Option<u32>,
    /// Hz.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sample_rate: Option<u32>,
    /// Number of channels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channels: Option<u32>,
    /// MIME type, the one that mutagen gives first for the container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<String>,
    /// The six tags.
    #[serde(default)]
    pub tags: Tags,
    /// Why something could not be read; what could be is still there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl Metadata {
    /// The most bytes that one text may have, in UTF-8.
    pub const LONGEST_TEXT: usize = 64 * 1024;

    /// Adds to what is said of what could not be read or kept.
    pub fn add_error(&mut self, error: &str) {
        match &mut self.error {
            Some(errors) => {
                errors.push_str("; ");
                errors.push_str(error);
            }
            None => self.error = Some(error.to_owned()),
        }
    }

    /// Whether a text is longer than [`Self::LONGEST_TEXT`].
    pub fn has_long_texts(&self) -> bool {
        let others = [&self.format, &self.error].into_iter().flatten().map(String::as_str);
        self.tags.present().map(|(_, text)| text).chain(others).any(|text| text.len() > Self::LONGEST_TEXT)
    }

    /// Cuts every text that is longer than [`Self::LONGEST_TEXT`], at the end of a character, and adds to the error
    /// which those were.
    pub fn cut_long_texts(&mut self) {
        let error = self.error.as_mut().is_some_and(cut);
        let format = self.format.as_mut().is_some_and(cut);
        let tags = self.tags.texts_mut().into_iter().filter_map(|(name, text)| cut(text.as_mut()?).then_some(name));
        let cut: Vec<&str> = tags.chain(format.then_some("format")).collect();
        for name in cut {
            self.add_error(&format!("{name} is cut to {} KiB", Self::LONGEST_TEXT / 1024));
        }
        if error {
            self.add_error("this text is cut");
        }
    }
}

/// Cuts a text that is too long; returns whether it was.
fn cut(text: &mut String) -> bool {
    let is_too_long = text.len() > Metadata::LONGEST_TEXT;
    if is_too_long {
        text.truncate(text.floor_char_boundary(Metadata::LONGEST_TEXT));
        text.shrink_to_fit();
    }
    is_too_long
}

/// The six tags that consumers know, each absent where the file has none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tags {
    /// Title.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// Artist.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artist: Option<String>,
    /// Album.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub album: Option<String>,
    /// Date or year, as written in the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub date: Option<String>,
    /// Genre.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub genre: Option<String>,
    /// Track number, `3` or `3/12`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub track: Option<String>,
}

impl Tags {
    /// The tags by name, in the order of the contract, absent ones left out.
    pub fn present(&self) -> impl Iterator<Item = (&'static str, &str)> {
        [
            ("title", &self.title),
            ("artist", &self.artist),
            ("album", &self.album),
            ("date", &self.date),
            ("genre", &self.genre),
            ("track", &self.track),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some((name, value.as_deref()?)))
    }

    /// The tags by name, to be changed.
    pub fn texts_mut(&mut self) -> [(&'static str, &mut Option<String>); 6] {
        [
            ("title", &mut self.title),
            ("artist", &mut self.artist),
            ("album", &mut self.album),
            ("date", &mut self.date),
            ("genre", &mut self.genre),
            ("track", &mut self.track),
        ]
    }
}

/// The content of a file, as messages carry it.
#[derive(Clone, Debug, PartialEq)]
pub struct Track {
    /// The hashes.
    pub fingerprint: Fingerprint,
    /// The metadata.
    pub metadata: Metadata,
}

/// What was last committed of one path: what every consumer has been told.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Where.
    pub path: LibraryPath,
    /// The stat that belongs to the content.
    pub stat: FileStat,
    /// The content.
    pub track: Track,
    /// When the first message about this file was committed, in seconds since the epoch.
    pub first_published: i64,
}

impl Row {
    /// A path that consumers may know of, when it is no longer known what of it they know.
    ///
    /// It differs from every file, so the next walk looks at it: a file there is told as created, whatever
    /// consumers knew before; and where there is none any more, they are told that it was deleted.
    pub fn forgotten(path: LibraryPath, mount: MountId) -> Self {
        let stat = FileStat { mount, mtime_ns: FORGOTTEN_TIME, ctime_ns: FORGOTTEN_TIME, ..FileStat::default() };
        let fingerprint = Fingerprint { sha256: [0; 32], xxh128: 0 };
        Self { path, stat, track: Track { fingerprint, metadata: Metadata::default() }, first_published: 0 }
    }

    /// Whether it is such a row.
    pub fn is_forgotten(&self) -> bool {
        (self.stat.inode, self.stat.mtime_ns) == (0, FORGOTTEN_TIME) && self.track.fingerprint.sha256 == [0; 32]
    }
}

/// A time that no file has.
const FORGOTTEN_TIME: i128 = i64::MIN as i128;

/// What one look found.
#[derive(Clone, Debug, PartialEq)]
pub struct Observation {
    /// Where was looked.
    pub path: LibraryPath,
    /// Who asked.
    pub origin: Origin,
    /// What was there.
    pub seen: Seen,
}

/// What was at a path.
#[derive(Clone, Debug, PartialEq)]
pub enum Seen {
    /// No regular file has this name; that was proved, not guessed.
    Missing,
    /// A file, wholly in this state from before the read until after it.
    File {
        /// Its stat.
        stat: FileStat,
        /// Its content.
        content: Content,
        /// The indexed paths whose file this may be, best first; each was seen to be gone or to hold another file,
        /// except for the path itself, if its own row is that of the file.
        candidates: Vec<LibraryPath>,
    },
}

/// How the content of a file is known.
#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    /// It was read.
    Read(Track),
    /// Nothing was read: it is what the row of this path says, for it is that very file, and the path was seen to
    /// be gone or to hold another file. The new row keeps that row's ctime.
    MovedFrom(LibraryPath),
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_text_that_is_too_long_is_cut_and_named_beside_what_was_wrong_already() {
        let mut metadata = Metadata { error: Some("it ends too early".to_owned()), ..Metadata::default() };
        metadata.tags.title = Some("x".repeat(Metadata::LONGEST_TEXT + 1));
        metadata.tags.artist = Some("y".repeat(Metadata::LONGEST_TEXT));
        assert!(metadata.has_long_texts());
        metadata.cut_long_texts();
        assert!(!metadata.has_long_texts());
        assert_eq!(metadata.tags.title.unwrap().len(), Metadata::LONGEST_TEXT);
        assert_eq!(metadata.tags.artist.unwrap().len(), Metadata::LONGEST_TEXT);
        assert_eq!(metadata.error.as_deref(), Some("it ends too early; title is cut to 64 KiB"));
    }

    proptest! {
        #[test]
        fn a_cut_text_is_as_long_as_it_may_be_and_what_fits_is_not_cut(pattern in "\\PC{1,5}", over in -9_i64..9) {
            let length = Metadata::LONGEST_TEXT.saturating_add_signed(isize::try_from(over).unwrap());
            let text = pattern.repeat(length / pattern.len() + 1);
            let text = &text[..text.floor_char_boundary(length)];
            let mut metadata = Metadata::default();
            metadata.tags.album = Some(text.to_owned());
            metadata.cut_long_texts();
            let kept = metadata.tags.album.unwrap();
            prop_assert!(text.starts_with(&kept) && kept.len() <= Metadata::LONGEST_TEXT);
            prop_assert!(kept == text || kept.len() + 4 > Metadata::LONGEST_TEXT);
            prop_assert_eq!(kept == text, metadata.error.is_none());
        }
    }
}
