//! The index after the changes that were decided so far.

use std::collections::BTreeMap;

use super::{Decision, RowUpdate, Rows};
use crate::model::{Change, FileEvent, LibraryPath, Origin, Row};

/// The changes of one batch, and the rows that a consumer would have after them.
pub(super) struct Draft<'a> {
    before: &'a Rows,
    /// The rows of the paths that were changed; `None` if the row was removed.
    after: BTreeMap<LibraryPath, Option<Row>>,
    changes: Vec<FileEvent>,
}

impl<'a> Draft<'a> {
    /// A draft without changes to these rows.
    pub(super) fn new(before: &'a Rows) -> Self {
        Self { before, after: BTreeMap::new(), changes: Vec::new() }
    }

    /// The rows before all changes.
    pub(super) fn before(&self) -> &'a Rows {
        self.before
    }

    /// The row of a path after the changes so far.
    pub(super) fn row(&self, path: &LibraryPath) -> Option<&Row> {
        self.after.get(path).map_or_else(|| self.before.get(path), Option::as_ref)
    }

    /// Publishes a delete, and removes the row.
    pub(super) fn delete(&mut self, path: &LibraryPath, origin: Origin) {
        self.after.insert(path.clone(), None);
        self.changes.push(FileEvent { change: Change::Deleted(path.clone()), origin });
    }

    /// Publishes a move or a rename, and moves the row.
    pub(super) fn rename(&mut self, from: LibraryPath, to: LibraryPath, origin: Origin) {
        let touched = self.after.insert(from.clone(), None);
        let Some(row) = touched.unwrap_or_else(|| self.before.get(&from).cloned()) else { return };
        let row = Row { path: to.clone(), ..row };
        self.after.insert(to, Some(row.clone()));
        self.changes.push(FileEvent { change: Change::Moved { from, row }, origin });
    }

    /// Puts a row without publishing anything.
    pub(super) fn put(&mut self, row: Row) {
        self.after.insert(row.path.clone(), Some(row));
    }

    /// Publishes changes whose rows were already put.
    pub(super) fn publish(&mut self, changes: impl IntoIterator<Item = FileEvent>) {
        self.changes.extend(changes);
    }

    /// The changes, and the differences between the rows before and after them.
    pub(super) fn into_decision(self, again: Vec<LibraryPath>) -> Decision {
        let Self { before, after, changes } = self;
        let update = |(path, row): (LibraryPath, Option<Row>)| match (before.get(&path), row) {
            (old, Some(row)) => (old != Some(&row)).then_some(RowUpdate::Put(row)),
            (Some(_), None) => Some(RowUpdate::Remove(path)),
            // The placeholder name of a cycle.
            (None, None) => None,
        };
        Decision { changes, updates: after.into_iter().filter_map(update).collect(), again }
    }
}
