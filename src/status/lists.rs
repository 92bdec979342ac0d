//! The lists that the page shows.

use serde::Serialize;

/// The files of the index by format, by size and by year.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LibraryReport {
    /// By format.
    pub formats: Vec<LibraryLine>,
    /// By size.
    pub sizes: Vec<LibraryLine>,
    /// By year; `unknown` for files without a date.
    pub years: Vec<LibraryLine>,
}

/// The files of one kind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LibraryLine {
    /// The kind.
    pub name: String,
    /// Their number.
    pub files: u64,
    /// The sum of their sizes.
    pub bytes: u64,
}

/// Files with equal content.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DuplicatesReport {
    /// The groups that waste most, up to a limit.
    pub groups: Vec<DuplicatesLine>,
    /// The number of all groups.
    pub total_groups: u64,
    /// The size of all files that have an equal one, without one of each group.
    pub wasted_bytes: u64,
}

/// A group of files with equal content.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DuplicatesLine {
    /// The size of each.
    pub size: u64,
    /// The files, the oldest first.
    pub files: Vec<DuplicateFile>,
}

/// One of several files with equal content.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DuplicateFile {
    /// The path in the library.
    pub path: String,
    /// When it was last modified, in RFC 3339.
    pub modified: String,
}

/// Files that cannot be read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct FailedReport {
    /// The files, up to a limit.
    pub failed: Vec<FailedLine>,
    /// Their number.
    pub total: u64,
}

/// A file or directory that cannot be read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct FailedLine {
    /// The path in the library.
    pub path: String,
    /// Why.
    pub error: String,
    /// Since when, in RFC 3339; `None` if that is not known.
    pub since: Option<String>,
}
