//! What the tests of this module share.

use std::convert::Infallible;

use crate::model::{FileStat, Fingerprint, Index, LibraryPath, Metadata, MountId, Row, Track};

/// An index with one row.
#[derive(Clone)]
pub(super) struct OneRow(pub(super) LibraryPath, pub(super) FileStat);

impl Index for OneRow {
    type Error = Infallible;

    fn row(&self, path: &LibraryPath) -> Result<Option<Row>, Infallible> {
        let fingerprint = Fingerprint { sha256: [0; 32], xxh128: 0 };
        let track = Track { fingerprint, metadata: Metadata::default() };
        Ok((*path == self.0).then(|| Row { path: path.clone(), stat: self.1, track, first_published: 0 }))
    }

    fn rows_by_inode(&self, _: MountId, _: u64, _: usize) -> Result<Vec<Row>, Infallible> {
        Ok(Vec::new())
    }

    fn rows_by_sha256(&self, _: &[u8; 32], _: usize) -> Result<Vec<Row>, Infallible> {
        Ok(Vec::new())
    }

    fn rows_after(
        &self,
        under: &LibraryPath,
        after: Option<&LibraryPath>,
        _: usize,
    ) -> Result<Vec<(LibraryPath, FileStat)>, Infallible> {
        let is_asked_for = self.0.is_at_or_under(under) && after.is_none_or(|after| self.0 > *after);
        Ok(is_asked_for.then(|| (self.0.clone(), self.1)).into_iter().collect())
    }

    fn len(&self) -> Result<u64, Infallible> {
        Ok(1)
    }
}
