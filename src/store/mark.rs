//! The number above which every sequence number is still free, in a small file beside the store.
//!
//! Should the store be lost or unreadable, numbers that consumers have seen must not be given out again.
//! So before a number is used, the file says durably that it may be: a block of numbers at a time, so that
//! hardly any commit waits for it. A store that takes the place of a lost one goes on after the last
//! reserved block, which leaves a gap and never repeats a number.
//!
//! Beside that it says, without waiting for the disk, which number was committed last. A store that knows
//! of fewer is an older one: its log was lost, or a backup was put in its place.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::{StoreError, sync_directory};

/// Numbers reserved at once.
const BLOCK: u64 = 10_000;

/// What the file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Marked {
    /// No number above this one was ever given out.
    pub(super) reserved: u64,
    /// This one was, and perhaps more were.
    pub(super) committed: u64,
}

/// The file, for the one who gives out numbers.
#[derive(Debug)]
pub(super) struct Mark {
    file: File,
    path: PathBuf,
    marked: Marked,
}

impl Mark {
    /// What the file beside `store` says; nothing where there is none, or something else is in it.
    pub(super) fn read(store: &Path) -> Option<Marked> {
        Marked::parse(&fs::read_to_string(path(store)).ok()?)
    }

    /// Opens the file beside `store`, whose newest number is `last`; makes it where there is none.
    pub(super) fn open(store: &Path, last: u64) -> Result<Self, StoreError> {
        let marked = Self::read(store);
        let path = path(store);
        let opened = File::options().create(true).truncate(false).write(true).mode(0o600).open(&path);
        let file = opened.map_err(|source| StoreError::File { file: path.clone(), source })?;
        let mut mark = Self { file, path, marked: marked.unwrap_or(Marked { reserved: last, committed: last }) };
        if marked.is_none() || last > mark.marked.reserved {
            mark.marked = Marked { reserved: last, committed: last };
            let made = mark.file.set_len(0).and_then(|()| mark.write()).and_then(|()| mark.file.sync_all());
            made.and_then(|()| sync_directory(&mark.path))
                .map_err(|source| StoreError::File { file: mark.path.clone(), source })?;
        }
        Ok(mark)
    }

    /// Makes sure that numbers up to `sequence` may be given out.
    pub(super) fn reserve(&mut self, sequence: u64) -> Result<(), StoreError> {
        if sequence <= self.marked.reserved {
            return Ok(());
        }
        let before = self.marked;
        self.marked.reserved = sequence + BLOCK;
        self.write().and_then(|()| self.file.sync_data()).map_err(|source| {
            self.marked = before;
            StoreError::File { file: self.path.clone(), source }
        })
    }

    /// Says that numbers up to `sequence` were committed.
    pub(super) fn committed(&mut self, sequence: u64) {
        self.marked.committed = sequence;
        // The store itself knows; this only helps to notice that it forgot.
        if let Err(error) = self.write() {
            tracing::debug!(%error, path = %self.path.display(), "the newest sequence number is not written down");
        }
    }

    fn write(&self) -> io::Result<()> {
        self.file.write_all_at(self.marked.to_line().as_bytes(), 0)
    }
}

impl Marked {
    /// Always as long, so that it is written in place, and so short that it is written whole or not at all.
    fn to_line(self) -> String {
        format!("reserved {:020} committed {:020}\n", self.reserved, self.committed)
    }

    fn parse(text: &str) -> Option<Self> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let ["reserved", reserved, "committed", committed] = words[..] else { return None };
        let marked = Self { reserved: reserved.parse().ok()?, committed: committed.parse().ok()? };
        (marked.to_line() == text && marked.committed <= marked.reserved).then_some(marked)
    }
}

fn path(store: &Path) -> PathBuf {
    store.with_extension("mark")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_reserved_in_blocks_and_remembered() {
        let folder = tempfile::tempdir().unwrap();
        let store = folder.path().join("x.sqlite");
        assert_eq!(Mark::read(&store), None);
        let mut mark = Mark::open(&store, 7).unwrap();
        assert_eq!(Mark::read(&store), Some(Marked { reserved: 7, committed: 7 }));
        mark.reserve(8).unwrap();
        mark.committed(8);
        let after = Marked { reserved: 8 + BLOCK, committed: 8 };
        mark.reserve(after.reserved).unwrap();
        assert_eq!(Mark::read(&store), Some(after));
        drop(mark);
        Mark::open(&store, 8).unwrap();
        assert_eq!(Mark::read(&store), Some(after));
    }

    #[test]
    fn what_is_not_whole_says_nothing() {
        let line = Marked { reserved: 3, committed: 2 }.to_line();
        assert_eq!(Marked::parse(&line), Some(Marked { reserved: 3, committed: 2 }));
        for broken in ["", "reserved 3 committed 2\n", &line[..line.len() - 1], &line.replace('3', "1"), "\0\0"] {
            assert_eq!(Marked::parse(broken), None, "{broken:?}");
        }
    }
}
