//! Reads a published file again, to tell rot from change.

use std::fs::File;
use std::io;

use rustix::fs::{Advice, fadvise};

use super::examine::Contents;
use crate::disk::{Disk, Entry};
use crate::model::{Origin, Row};

/// What a file is, compared with what was published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verification {
    /// The same content.
    AsPublished,
    /// Another content, although size and times are the same. It was read twice, with the same result.
    Rotten {
        /// The SHA-256 of the content.
        found: [u8; 32],
    },
    /// Other times or another size: an ordinary change, which is published when it is found.
    Changed,
    /// No file any more. That is published when it is found.
    Gone,
}

/// What one reading of a file found.
enum Reading {
    /// The SHA-256 of a file that had the times and the size of the row before and after it was read.
    Content([u8; 32]),
    Changed,
    Gone,
}

/// Reads the file of a row again, from the disk and not from memory.
///
/// # Errors
///
/// If it cannot be read, or two readings of it differ.
pub fn verify<D: Disk<File = File>>(
    disk: &D,
    contents: &impl Contents<File>,
    row: &Row,
    ignore_ctime: bool,
) -> io::Result<Verification> {
    let found = match read_anew(disk, contents, row, ignore_ctime)? {
        Reading::Content(found) if found == row.track.fingerprint.sha256 => return Ok(Verification::AsPublished),
        Reading::Content(found) => found,
        Reading::Changed => return Ok(Verification::Changed),
        Reading::Gone => return Ok(Verification::Gone),
    };
    match read_anew(disk, contents, row, ignore_ctime)? {
        Reading::Content(again) if again == found => Ok(Verification::Rotten { found }),
        Reading::Content(_) => {
            Err(io::Error::other("two readings of the file differ; check the memory, the disk and its cable"))
        }
        Reading::Changed => Ok(Verification::Changed),
        Reading::Gone => Ok(Verification::Gone),
    }
}

fn read_anew<D: Disk<File = File>>(
    disk: &D,
    contents: &impl Contents<File>,
    row: &Row,
    ignore_ctime: bool,
) -> io::Result<Reading> {
    // Without the store, the mounts of this process have ids of their own.
    let is_unchanged = |mut now: crate::model::FileStat| {
        now.mount = row.stat.mount;
        row.stat.is_unchanged(&now, ignore_ctime)
    };
    let Some((file, stat)) = disk.open(&row.path)? else { return Ok(Reading::Gone) };
    if !is_unchanged(stat) {
        return Ok(Reading::Changed);
    }
    // Pages in memory would hide what is on the disk. Filesystems that cannot drop them are read as they are.
    let _ = fadvise(&file, 0, None, Advice::DontNeed);
    let track = contents.read(&file, &row.path, Some(&row.track), Origin::Scan)?;
    let _ = fadvise(&file, 0, None, Advice::DontNeed);
    match disk.entry(&row.path)? {
        Entry::File(now) if is_unchanged(now) => Ok(Reading::Content(track.fingerprint.sha256)),
        Entry::File(_) => Ok(Reading::Changed),
        _ => Ok(Reading::Gone),
    }
}
