//! Counts the files of a library that was never scanned, to say how much of its first scan is left, and its directories.

use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::disk::Root;
use crate::model::LibraryPath;

/// How far a count is.
#[derive(Debug, Default)]
pub struct FileCount {
    files: AtomicU64,
    directories: AtomicU64,
    is_finished: AtomicBool,
    is_cancelled: AtomicBool,
}

impl FileCount {
    /// The number of audio files, once all are counted. It is an estimate: ignore files and links do not matter here.
    #[must_use]
    pub fn total(&self) -> Option<u64> {
        self.is_finished.load(Ordering::Acquire).then(|| self.files.load(Ordering::Relaxed))
    }

    /// The number of directories so far, with the root.
    #[must_use]
    pub fn directories(&self) -> u64 {
        self.directories.load(Ordering::Relaxed)
    }

    /// Ends the count soon.
    pub fn cancel(&self) {
        self.is_cancelled.store(true, Ordering::Relaxed);
    }

    /// Counts the audio files of `root` by listing its directories. Reads no stat. Blocks.
    pub fn run(&self, root: &Root) {
        let mut directories = vec![LibraryPath::root()];
        while let Some(directory) = directories.pop() {
            self.directories.fetch_add(1, Ordering::Relaxed);
            // A directory that cannot be read has no files that can be scanned.
            let Ok(entries) = std::fs::read_dir(directory.to_absolute(root.path())) else { continue };
            for entry in entries.flatten() {
                if self.is_cancelled.load(Ordering::Relaxed) {
                    return;
                }
                let (name, kind) = (entry.file_name(), entry.file_type());
                let is_directory = kind.as_ref().is_ok_and(std::fs::FileType::is_dir);
                let path = directory.join(name.as_bytes());
                if root.rules().excludes(None, &directory, name.as_bytes(), is_directory) {
                    continue;
                }
                if is_directory {
                    directories.push(path);
                } else if kind.is_ok_and(|kind| kind.is_file()) && root.rules().extensions().matches(&path) {
                    self.files.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
        self.is_finished.store(true, Ordering::Release);
    }
}
