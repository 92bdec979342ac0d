//! Held deletes: the reasons and the places.

use super::LibraryPath;

/// Why a delete that a scan found is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HeldReason {
    /// The mount that the files were on is missing.
    MountGone,
    /// The root has only hidden names, and the index has files.
    RootEmpty,
    /// More files are missing than MASS_DELETE_PERCENT allows.
    TooMany,
}

impl HeldReason {
    /// All reasons, in the order of lists.
    pub const ALL: [Self; 3] = [Self::MountGone, Self::RootEmpty, Self::TooMany];

    /// The identifier in JSON and logs: `mount_gone`, `root_empty` or `too_many`.
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
    /// The reason.
    pub reason: HeldReason,
    /// The mount point, or the first directory under the root that contains the files (the root itself for files
    /// directly in it). `None` is the sum of all places beyond a limit.
    pub place: Option<LibraryPath>,
    /// The type and the source of the missing mount, such as `ext4` and `/dev/sdb1`, if they are known.
    pub mount: Option<(String, String)>,
    /// The number of deletes.
    pub count: u64,
    /// Since when the first of them is held, in seconds since the epoch.
    pub since: i64,
}
