//! The laws of the published messages and of the index.

use std::collections::BTreeMap;

use file_watcher::library::{Difference, Reconcile};
use file_watcher::model::{Change, FileEvent, FileStat, Index, LibraryPath, Row};

use super::World;
use crate::operation::ContentId;

impl World {
    /// The state of a strict consumer. Every message must fit the messages before it.
    pub(crate) fn replay(&self) -> BTreeMap<LibraryPath, ContentId> {
        let mut known: BTreeMap<LibraryPath, ContentId> = BTreeMap::new();
        let content_of = |row: &Row| row.track.fingerprint.sha256[0];
        for FileEvent { change, .. } in self.memory.outbox() {
            let fits = match &change {
                Change::Created(row) => known.insert(row.path.clone(), content_of(row)).is_none(),
                Change::Modified(row) => {
                    known.insert(row.path.clone(), content_of(row)).is_some_and(|old| old != content_of(row))
                }
                Change::Deleted(path) => known.remove(path).is_some(),
                Change::Moved { from, row } => {
                    known.remove(from) == Some(content_of(row))
                        && known.insert(row.path.clone(), content_of(row)).is_none()
                }
            };
            if !fits {
                self.fail(format!("a message does not fit what came before: {}", describe(&change)));
            }
            if let Change::Created(row) | Change::Modified(row) = &change
                && !self.ever_held.borrow().contains(&(row.path.clone(), content_of(row)))
            {
                self.fail(format!("{} never had {}", row.path, content_of(row)));
            }
        }
        known
    }

    /// All messages, in order, each as a short text.
    pub(crate) fn messages(&self) -> Vec<String> {
        self.memory.outbox().iter().map(|event| describe(&event.change)).collect()
    }

    /// Consumers know exactly what is on disk, except for files that cannot be read now.
    pub(crate) fn check_consumers(&self) {
        let known = self.replay();
        let disk = self.disk.borrow();
        let mut library = disk.library(&self.extensions);
        library.retain(|path, _| !self.is_excluded(path));
        let index = &self.memory;
        for (path, (_, content)) in &library {
            if known.get(path) != Some(content) {
                self.fail(format!("{path} has {content}, consumers know {:?}", known.get(path)));
            }
        }
        for path in known.keys().filter(|path| !library.contains_key(*path)) {
            let row = index.row(path).unwrap();
            if !row.is_some_and(|row| disk.is_out_of_sight(path, &row.stat)) {
                self.fail(format!("{path} does not exist, but consumers know it"));
            }
        }
    }

    /// The index has exactly what is on disk, so another walk finds nothing to look at.
    pub(crate) fn check_index(&self) {
        let disk = self.disk.borrow();
        let mut library = disk.library(&self.extensions);
        library.retain(|path, _| !self.is_excluded(path));
        let index = &self.memory;
        let indexed: BTreeMap<LibraryPath, (FileStat, ContentId)> = self
            .memory
            .rows()
            .into_values()
            .filter(|row| !disk.is_out_of_sight(&row.path, &row.stat))
            .map(|row| (row.path, (row.stat, row.track.fingerprint.sha256[0])))
            .collect();
        if indexed != library {
            self.fail(format!("the index has {indexed:?}, the disk {library:?}"));
        }
        let walked = self.walk_now(&LibraryPath::root());
        for difference in Reconcile::new(walked.into_iter(), &index, LibraryPath::root(), false) {
            let is_held =
                |path: &LibraryPath| index.row(path).unwrap().is_some_and(|row| disk.is_out_of_sight(path, &row.stat));
            let is_fine = match &difference {
                Ok(Difference::Same(..)) => true,
                Ok(Difference::Gone(path, _)) => is_held(path),
                _ => false,
            };
            if !is_fine {
                self.fail(format!("another walk finds {difference:?}"));
            }
        }
    }
}

fn describe(change: &Change) -> String {
    let word = change.event_type();
    match change {
        Change::Created(row) | Change::Modified(row) => {
            format!("{word} {} with {}", row.path, row.track.fingerprint.sha256[0])
        }
        Change::Deleted(path) => format!("{word} {path}"),
        Change::Moved { from, row } => format!("{word} {from} -> {}", row.path),
    }
}
