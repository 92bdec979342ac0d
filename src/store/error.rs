//! The errors of the store.

use std::io;
use std::path::{Path, PathBuf};

use rusqlite::ErrorCode;

use super::corruption;

/// Why an operation of the store failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// SQLite failed.
    #[error("the store failed")]
    Sqlite(#[from] rusqlite::Error),
    /// SQLite failed to open the file. A new attempt may succeed.
    #[error("STATE_DIR: the store {file:?} cannot be opened; check that its disk has free space and can be read")]
    Unopened {
        /// The file of the store.
        file: PathBuf,
        /// The error of SQLite.
        #[source]
        source: rusqlite::Error,
    },
    /// The file is corrupt.
    #[error(
        "STATE_DIR: the store {file:?} is corrupt ({problem}) and was not changed; restore a backup, or run once with \
         --rebuild-index, which keeps the file and makes a new one"
    )]
    Corrupt {
        /// The file of the store.
        file: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The file was written by a newer version of the program.
    #[error(
        "STATE_DIR: the store {file:?} has format {found}, and this version knows formats up to {known}; use the newer \
         version, or run once with --rebuild-index, which keeps the file and makes a new one"
    )]
    Newer {
        /// The file of the store.
        file: PathBuf,
        /// The `user_version` of the file.
        found: i64,
        /// The newest format that this version knows.
        known: i64,
    },
    /// The file was written by an older version, and is only to be read.
    #[error("STATE_DIR: the store {file:?} was written by an older version; run scan or watch once, which updates it")]
    Older {
        /// The file of the store.
        file: PathBuf,
    },
    /// There is no file: nothing was scanned with this STATE_DIR and SINK.
    #[error(
        "STATE_DIR: there is no store {file:?}; scan the library first, or give the DIR, STATE_DIR and SINK with which it \
         was scanned"
    )]
    NeverScanned {
        /// The file of the store.
        file: PathBuf,
    },
    /// The file belongs to another library.
    #[error(
        "STATE_DIR: the store {file:?} contains the index of {found:?}, not of {wanted:?}; if the library was moved, run \
         `file-watcher relocate {found:?} {wanted:?}`; if it is another library, give it a STATE_DIR of its own"
    )]
    OtherLibrary {
        /// The file of the store.
        file: PathBuf,
        /// The root in the store.
        found: String,
        /// The root of this library.
        wanted: String,
    },
    /// The file belongs to the same library under another path, for example that of a symbolic link.
    #[error(
        "STATE_DIR: the store {file:?} contains the index of this library, and its messages name it {found:?}; give \
         {found:?} as the library, or run `file-watcher relocate {found:?} {wanted:?}` to publish its files as moved"
    )]
    OtherPath {
        /// The file of the store.
        file: PathBuf,
        /// The root in the store.
        found: String,
        /// The root of this library.
        wanted: String,
    },
    /// A relocation of the library was begun and not finished.
    #[error(
        "STATE_DIR: the store {file:?} is being relocated from {from:?} to {to:?}; run `file-watcher relocate {from:?} \
         {to:?}` to finish that"
    )]
    Relocating {
        /// The file of the store.
        file: PathBuf,
        /// The old root.
        from: String,
        /// The new root.
        to: String,
    },
    /// The file belongs to another library than the one that is to be relocated.
    #[error(
        "STATE_DIR: the store {file:?} contains the index of {found:?}, not of {from:?}; to relocate it, run \
         `file-watcher relocate {found:?} {to:?}`"
    )]
    RelocatesAnother {
        /// The file of the store.
        file: PathBuf,
        /// The root in the store.
        found: String,
        /// The given old root.
        from: String,
        /// The given new root.
        to: String,
    },
    /// There is no store to relocate.
    #[error(
        "STATE_DIR: there is no store {file:?} to relocate; give the STATE_DIR and the SINK with which {from:?} was scanned"
    )]
    NothingToRelocate {
        /// The file of the store.
        file: PathBuf,
        /// The old root.
        from: String,
    },
    /// The file or its directory is not writable.
    #[error(
        "STATE_DIR: the store {file:?} is not writable; grant this user permission to write to it and to its directory"
    )]
    ReadOnly {
        /// The file of the store.
        file: PathBuf,
    },
    /// A file next to the store could not be read or written.
    #[error("STATE_DIR: {file:?} cannot be used")]
    File {
        /// The file.
        file: PathBuf,
        /// The error of the operating system.
        #[source]
        source: io::Error,
    },
    /// The writer thread ended, which is a bug, or could not be started.
    #[error("the writer of the store has stopped")]
    Stopped,
}

impl StoreError {
    /// Whether STATE_DIR is not usable by this program, library or user, as opposed to a failure. The exit code is 2.
    pub fn is_invalid_usage(&self) -> bool {
        use io::ErrorKind::{PermissionDenied, ReadOnlyFilesystem};
        match self {
            Self::Newer { .. }
            | Self::Older { .. }
            | Self::NeverScanned { .. }
            | Self::OtherLibrary { .. }
            | Self::OtherPath { .. }
            | Self::Relocating { .. }
            | Self::RelocatesAnother { .. }
            | Self::NothingToRelocate { .. }
            | Self::ReadOnly { .. } => true,
            Self::File { source, .. } => matches!(source.kind(), PermissionDenied | ReadOnlyFilesystem),
            _ => false,
        }
    }

    /// Adds the meaning of an error that occurred while opening `file`.
    pub(super) fn at(self, file: &Path) -> Self {
        let Self::Sqlite(source) = self else { return self };
        let file = file.to_path_buf();
        if let Some(problem) = corruption::problem_of(&source) {
            return Self::Corrupt { file, problem };
        }
        match source.sqlite_error_code() {
            Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied | ErrorCode::CannotOpen) => Self::ReadOnly { file },
            // The file has other tables.
            Some(ErrorCode::Unknown) => Self::Corrupt { file, problem: source.to_string() },
            _ => Self::Unopened { file, source },
        }
    }

    /// Turns the error about another library's store into the one for a relocation.
    pub(super) fn for_relocation(self, from: &Path, to: &Path) -> Self {
        let (Self::OtherLibrary { file, found, .. } | Self::OtherPath { file, found, .. }) = self else { return self };
        let (from, to) = (from.to_string_lossy().into_owned(), to.to_string_lossy().into_owned());
        Self::RelocatesAnother { file, found, from, to }
    }
}
