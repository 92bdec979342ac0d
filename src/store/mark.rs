//! The highest reserved sequence number, in a small file next to the store.
//!
//! If the store is lost or unreadable, sequence numbers that consumers have seen must not be used again. So a number is
//! reserved in this file, durably, before it is used. Numbers are reserved in blocks, so few commits wait for that. A
//! new store in place of a lost one continues after the last reserved block. This leaves a gap and repeats no number.
//!
//! The file also contains the last committed number, written without waiting for the disk. A store with a lower one is
//! an older store: its log was lost, or a backup was restored.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::{StoreError, sync_directory};

/// The number of sequence numbers that are reserved at once.
const BLOCK: u64 = 10_000;

/// The content of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Marked {
    /// No higher number was ever used.
    pub(super) reserved: u64,
    /// This number was committed. Higher ones may have been.
    pub(super) committed: u64,
}

/// The open file, for the writer.
#[derive(Debug)]
pub(super) struct Mark {
    file: File,
    path: PathBuf,
    marked: Marked,
}

impl Mark {
    /// Reads the file next to `store`; `None` if it does not exist or has another content.
    pub(super) fn read(store: &Path) -> Option<Marked> {
        Marked::parse(&fs::read_to_string(path(store)).ok()?)
    }

    /// Opens the file next to `store`, and creates it if it does not exist. `last` is the last number in the store.
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

    /// Reserves the numbers up to `sequence`, if they are not reserved yet.
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

    /// Records that `sequence` was committed.
    pub(super) fn committed(&mut self, sequence: u64) {
        self.marked.committed = sequence;
        // The number is also in the store. It is needed here only to detect an older store.
        if let Err(error) = self.write() {
            tracing::debug!(%error, path = %self.path.display(), "failed to record the last sequence number");
        }
    }

    fn write(&self) -> io::Result<()> {
        self.file.write_all_at(self.marked.to_line().as_bytes(), 0)
    }
}

impl Marked {
    /// The length is constant, so that it is written in place, and short, so that the write is atomic.
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
    fn an_incomplete_file_is_ignored() {
        let line = Marked { reserved: 3, committed: 2 }.to_line();
        assert_eq!(Marked::parse(&line), Some(Marked { reserved: 3, committed: 2 }));
        for broken in ["", "reserved 3 committed 2\n", &line[..line.len() - 1], &line.replace('3', "1"), "\0\0"] {
            assert_eq!(Marked::parse(broken), None, "{broken:?}");
        }
    }
}
