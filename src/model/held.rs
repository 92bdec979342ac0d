//! Deletes in doubt: why they are held, and where.

use super::LibraryPath;

/// Why a delete that a walk inferred is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HeldReason {
    /// The mount that the files were on is not there.
    MountGone,
    /// The root holds nothing but hidden names, while the index has files.
    RootEmpty,
    /// More files are missing than MASS_DELETE_PERCENT allows.
    TooMany,
}

impl HeldReason {
    /// All reasons, in the order in which they are listed.
    pub const ALL: [Self; 3] = [Self::MountGone, Self::RootEmpty, Self::TooMany];

    /// The word for programs: `mount_gone`, `root_empty` or `too_many`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::MountGone => "mount_gone",
            Self::RootEmpty => "root_empty",
            Self::TooMany => "too_many",
        }
    }

    /// The reason in words for people.
    pub fn description(self) -> &'static str {
        match self {
            Self::MountGone => "the filesystem that the files were on is not mounted",
            Self::RootEmpty => "the library is empty",
            Self::TooMany => "more files are missing than MASS_DELETE_PERCENT allows",
        }
    }
}

/// The deletes that are held for one reason at one place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldDeletes {
    /// Why they are held.
    pub reason: HeldReason,
    /// Where the mount was, or else the directory in the root that held the files (the root itself for files
    /// right in it). `None` sums up all places beyond a bound.
    pub place: Option<LibraryPath>,
    /// The type and the source of the mount that is gone, such as `ext4` and `/dev/sdb1`, if they are known.
    pub mount: Option<(String, String)>,
    /// How many deletes these are.
    pub count: u64,
    /// Since when some of them have been held, in seconds since the epoch.
    pub since: i64,
}
