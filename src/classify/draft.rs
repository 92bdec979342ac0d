//! The index as the changes decided so far leave it.

use std::collections::BTreeMap;

use super::{Decision, RowUpdate, Rows};
use crate::model::{Change, FileEvent, LibraryPath, Origin, Row};

/// The changes of one batch, and the rows as a consumer of them would have them.
pub(super) struct Draft<'a> {
    before: &'a Rows,
    /// The paths that were touched, each with its row, or `None` if it has none any more.
    after: BTreeMap<LibraryPath, Option<Row>>,
    changes: Vec<FileEvent>,
}

impl<'a> Draft<'a> {
    /// Begins with the rows as they were committed last.
    pub(super) fn new(before: &'a Rows) -> Self {
        Self { before, after: BTreeMap::new(), changes: Vec::new() }
    }

    /// The rows as they were committed last.
    pub(super) fn before(&self) -> &'a Rows {
        self.before
    }

    /// The row that a path has by now.
    pub(super) fn row(&self, path: &LibraryPath) -> Option<&Row> {
        self.after.get(path).map_or_else(|| self.before.get(path), Option::as_ref)
    }

    /// Publishes that a path is gone, and removes its row.
    pub(super) fn delete(&mut self, path: &LibraryPath, origin: Origin) {
        self.after.insert(path.clone(), None);
        self.changes.push(FileEvent { change: Change::Deleted(path.clone()), origin });
    }

    /// Publishes that the row of one path belongs to another one now.
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

    /// Publishes changes whose rows were put already.
    pub(super) fn publish(&mut self, changes: impl IntoIterator<Item = FileEvent>) {
        self.changes.extend(changes);
    }

    /// The changes, and what differs between the rows before and after them.
    pub(super) fn into_decision(self, again: Vec<LibraryPath>) -> Decision {
        let Self { before, after, changes } = self;
        let update = |(path, row): (LibraryPath, Option<Row>)| match (before.get(&path), row) {
            (old, Some(row)) => (old != Some(&row)).then_some(RowUpdate::Put(row)),
            (Some(_), None) => Some(RowUpdate::Remove(path)),
            // A passing name.
            (None, None) => None,
        };
        Decision { changes, updates: after.into_iter().filter_map(update).collect(), again }
    }
}
