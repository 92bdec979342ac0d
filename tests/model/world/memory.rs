//! The store in memory. It survives crashes.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::convert::Infallible;

use file_watcher::classify::{self, RowUpdate, Rows};
use file_watcher::model::{FileEvent, FileStat, Index, LibraryPath, MountId, Observation, Row};
use file_watcher::store::Committed;

/// Rows and messages, changed together as `src/store/commit.rs` does.
#[derive(Default)]
pub(crate) struct Memory {
    rows: RefCell<Rows>,
    /// All published messages, in order.
    outbox: RefCell<Vec<FileEvent>>,
}

impl Memory {
    pub(super) fn commit(&self, batch: &[Observation]) -> Committed {
        let rows = &mut *self.rows.borrow_mut();
        let touched = classify::paths_touched(batch);
        let before: Rows =
            touched.into_iter().filter_map(|path| Some((path.clone(), rows.get(path)?.clone()))).collect();
        let decision = classify::classify(&before, batch, 0);
        for update in &decision.updates {
            match update {
                RowUpdate::Put(row) => drop(rows.insert(row.path.clone(), row.clone())),
                RowUpdate::Remove(path) => drop(rows.remove(path)),
            }
        }
        let other_names = |update: &RowUpdate| -> Vec<LibraryPath> {
            let lost = update.lost_file(&before);
            let is_other_name = |row: &&Row| {
                let is_in_another_state =
                    matches!(update, RowUpdate::Put(put) if row.stat.same_file(&put.stat) && row.stat != put.stat);
                is_in_another_state || lost.is_some_and(|lost| row.stat.same_file(lost))
            };
            rows.values().filter(is_other_name).map(|row| row.path.clone()).collect()
        };
        let mut other_names: Vec<LibraryPath> = decision.updates.iter().flat_map(other_names).collect();
        other_names.retain(|name| !decision.updates.iter().any(|update| update.path() == name));
        self.outbox.borrow_mut().extend(decision.changes.iter().cloned());
        Committed { changes: decision.changes, again: decision.again, other_names }
    }

    pub(super) fn outbox(&self) -> Vec<FileEvent> {
        self.outbox.borrow().clone()
    }

    pub(super) fn rows(&self) -> BTreeMap<LibraryPath, Row> {
        self.rows.borrow().clone()
    }

    fn some_rows(&self, is_wanted: impl Fn(&Row) -> bool, limit: usize) -> Vec<Row> {
        self.rows.borrow().values().filter(|row| is_wanted(row)).take(limit).cloned().collect()
    }
}

impl Index for &Memory {
    type Error = Infallible;

    fn row(&self, path: &LibraryPath) -> Result<Option<Row>, Infallible> {
        Ok(self.rows.borrow().get(path).cloned())
    }

    fn rows_by_inode(&self, mount: MountId, inode: u64, limit: usize) -> Result<Vec<Row>, Infallible> {
        Ok(self.some_rows(|row| (row.stat.mount, row.stat.inode) == (mount, inode), limit))
    }

    fn rows_by_sha256(&self, sha256: &[u8; 32], limit: usize) -> Result<Vec<Row>, Infallible> {
        Ok(self.some_rows(|row| row.track.fingerprint.sha256 == *sha256, limit))
    }

    fn rows_after(
        &self,
        under: &LibraryPath,
        after: Option<&LibraryPath>,
        limit: usize,
    ) -> Result<Vec<(LibraryPath, FileStat)>, Infallible> {
        let is_next = |row: &Row| row.path.is_at_or_under(under) && after.is_none_or(|after| row.path > *after);
        Ok(self.some_rows(is_next, limit).into_iter().map(|row| (row.path, row.stat)).collect())
    }

    fn len(&self) -> Result<u64, Infallible> {
        Ok(self.rows.borrow().len() as u64)
    }
}
