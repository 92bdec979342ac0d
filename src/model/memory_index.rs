//! An index in memory, for tests.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;

use super::{FilePage, FileStat, Fingerprint, Index, LibraryPath, Metadata, MountId, Row, Track};

/// Rows by their paths.
#[derive(Clone, Debug, Default)]
pub struct MemoryIndex(pub BTreeMap<LibraryPath, Row>);

impl MemoryIndex {
    /// An index of files that all have the same content.
    #[must_use]
    pub fn of_files(files: impl IntoIterator<Item = (LibraryPath, FileStat)>) -> Self {
        let fingerprint = Fingerprint { sha256: [0; 32], xxh128: 0 };
        let track = Arc::new(Track { fingerprint, sound: None, metadata: Metadata::default() });
        let row = |(path, stat): (LibraryPath, FileStat)| {
            (path.clone(), Row { path, stat, track: Arc::clone(&track), first_published: 0 })
        };
        Self(files.into_iter().map(row).collect())
    }

    fn select(&self, is_wanted: impl Fn(&Row) -> bool, limit: usize) -> Vec<Row> {
        self.0.values().filter(|row| is_wanted(row)).take(limit).cloned().collect()
    }
}

impl Index for MemoryIndex {
    type Error = Infallible;

    fn row(&self, path: &LibraryPath) -> Result<Option<Row>, Infallible> {
        Ok(self.0.get(path).cloned())
    }

    fn rows_by_inode(&self, mount: MountId, inode: u64, limit: usize) -> Result<Vec<Row>, Infallible> {
        Ok(self.select(|row| (row.stat.mount, row.stat.inode) == (mount, inode), limit))
    }

    fn rows_by_content(&self, track: &Track, limit: usize) -> Result<Vec<Row>, Infallible> {
        let has_content = |row: &Row| row.track.fingerprint.sha256 == track.fingerprint.sha256;
        let rows = self.select(has_content, limit);
        Ok(if rows.is_empty() { self.select(|row| row.track.has_sound_of(track), limit) } else { rows })
    }

    fn rows_after(
        &self,
        under: &LibraryPath,
        after: Option<&LibraryPath>,
        limit: usize,
    ) -> Result<FilePage, Infallible> {
        let is_next = |row: &Row| row.path.is_at_or_under(under) && after.is_none_or(|after| row.path > *after);
        let mut page = FilePage::default();
        self.select(is_next, limit).iter().for_each(|row| page.push(row.path.as_bytes(), row.stat));
        Ok(page)
    }

    fn len(&self) -> Result<u64, Infallible> {
        Ok(self.0.len() as u64)
    }
}
