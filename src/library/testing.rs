//! What the tests of this module share.

use std::collections::BTreeMap;
use std::convert::Infallible;

use crate::model::{FileStat, Fingerprint, Index, LibraryPath, Metadata, MountId, Row, Track};

/// An index with these rows, all of which have the same content.
#[derive(Clone, Default)]
pub(super) struct Rows(pub(super) BTreeMap<LibraryPath, FileStat>);

impl Index for Rows {
    type Error = Infallible;

    fn row(&self, path: &LibraryPath) -> Result<Option<Row>, Infallible> {
        let fingerprint = Fingerprint { sha256: [0; 32], xxh128: 0 };
        let track = Track { fingerprint, metadata: Metadata::default() };
        let stat = self.0.get(path).copied();
        Ok(stat.map(|stat| Row { path: path.clone(), stat, track, first_published: 0 }))
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
        limit: usize,
    ) -> Result<Vec<(LibraryPath, FileStat)>, Infallible> {
        let is_wanted = |(path, _): &(&LibraryPath, &FileStat)| {
            path.is_at_or_under(under) && after.is_none_or(|after| *path > after)
        };
        Ok(self.0.iter().filter(is_wanted).take(limit).map(|(path, stat)| (path.clone(), *stat)).collect())
    }

    fn len(&self) -> Result<u64, Infallible> {
        Ok(self.0.len() as u64)
    }
}
