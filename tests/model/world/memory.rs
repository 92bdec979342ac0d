//! The store in memory. It survives crashes.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::convert::Infallible;

use file_watcher::classify::{self, RowUpdate, Rows};
use file_watcher::model::{FileEvent, FilePage, Index, LibraryPath, MemoryIndex, MountId, Observation, Row, Track};
use file_watcher::store::Committed;

/// Rows and messages, changed together as `src/store/commit.rs` does.
#[derive(Default)]
pub(crate) struct Memory {
    index: RefCell<MemoryIndex>,
    /// All published messages, in order.
    outbox: RefCell<Vec<FileEvent>>,
}

impl Memory {
    pub(super) fn commit(&self, batch: &[Observation]) -> Committed {
        let MemoryIndex(rows) = &mut *self.index.borrow_mut();
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
        let last_sequence = self.outbox.borrow().len() as u64;
        Committed { changes: decision.changes, last_sequence, again: decision.again, other_names }
    }

    pub(super) fn outbox(&self) -> Vec<FileEvent> {
        self.outbox.borrow().clone()
    }

    pub(super) fn rows(&self) -> BTreeMap<LibraryPath, Row> {
        self.index.borrow().0.clone()
    }
}

impl Index for &Memory {
    type Error = Infallible;

    fn row(&self, path: &LibraryPath) -> Result<Option<Row>, Infallible> {
        self.index.borrow().row(path)
    }

    fn rows_by_inode(&self, mount: MountId, inode: u64, limit: usize) -> Result<Vec<Row>, Infallible> {
        self.index.borrow().rows_by_inode(mount, inode, limit)
    }

    fn rows_by_content(&self, track: &Track, limit: usize) -> Result<Vec<Row>, Infallible> {
        self.index.borrow().rows_by_content(track, limit)
    }

    fn rows_after(
        &self,
        under: &LibraryPath,
        after: Option<&LibraryPath>,
        limit: usize,
    ) -> Result<FilePage, Infallible> {
        self.index.borrow().rows_after(under, after, limit)
    }

    fn len(&self) -> Result<u64, Infallible> {
        self.index.borrow().len()
    }
}
