//! The lists that the page shows.

use std::fmt;

use serde::Serialize;

use super::human_bytes;
use crate::model::{PublishedPath, counted, printable};

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

/// The files with equal content.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DuplicatesReport {
    /// The groups that waste most, up to a limit.
    pub groups: Vec<DuplicatesLine>,
    /// The number of all groups.
    pub total_groups: u64,
    /// The bytes that are free if one file of each group is kept.
    pub wasted_bytes: u64,
}

/// A group of files with equal content.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DuplicatesLine {
    /// The SHA-256 of each.
    pub sha256_hash: String,
    /// The size of each.
    pub size: u64,
    /// The bytes that are free if one file is kept. Hard links take no space.
    pub wasted_bytes: u64,
    /// The files, the oldest first.
    pub files: Vec<DuplicateFile>,
}

/// One of several files with equal content.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DuplicateFile {
    /// The path in the library.
    pub path: String,
    /// The path as it appears in the messages.
    #[serde(flatten)]
    pub published: PublishedPath,
    /// When it was last modified, in RFC 3339.
    pub modified: String,
    /// Whether it is a hard link to an earlier file of the group.
    pub is_hard_link: bool,
}

impl DuplicatesReport {
    /// The groups as JSON, one per line.
    #[must_use]
    pub fn to_json(&self) -> String {
        let line = |group| serde_json::to_string(group).expect("texts and numbers are always JSON");
        self.groups.iter().map(line).collect::<Vec<_>>().join("\n")
    }
}

impl fmt::Display for DuplicatesReport {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for DuplicatesLine { size, wasted_bytes, files, .. } in &self.groups {
            let wasted = human_bytes(*wasted_bytes as f64);
            writeln!(formatter, "{} files of {}, {wasted} wasted", files.len(), human_bytes(*size as f64))?;
            for (number, file) in files.iter().enumerate() {
                let remark = match (number, file.is_hard_link) {
                    (0, _) => "  (oldest)",
                    (_, true) => "  (hard link)",
                    _ => "",
                };
                writeln!(formatter, "  {}  {}{remark}", file.modified, printable(&file.path))?;
            }
        }
        if self.total_groups > self.groups.len() as u64 {
            let others = counted(self.total_groups - self.groups.len() as u64, "group");
            writeln!(formatter, "and {others} that waste less")?;
        }
        let wasted = human_bytes(self.wasted_bytes as f64);
        write!(formatter, "{} of equal files, {wasted} wasted", counted(self.total_groups, "group"))
    }
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
