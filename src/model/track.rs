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
        /// The indexed paths whose file this may be, best first; each was seen to be gone or to hold another file.
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
