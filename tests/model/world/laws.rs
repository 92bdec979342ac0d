//! The laws of the published messages and of the index.

use std::collections::BTreeMap;

use file_watcher::library::{Difference, Reconcile};
use file_watcher::model::{Change, FileEvent, FileStat, HeldReason, Index, LibraryPath, Row};

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
        for (path, (_, content)) in &library {
            if known.get(path) != Some(content) {
                self.fail(format!("{path} has {content}, consumers know {:?}", known.get(path)));
            }
        }
        for path in known.keys().filter(|path| !library.contains_key(*path)) {
            if !self.is_out_of_sight(path) && !self.is_held(path) {
                self.fail(format!("{path} does not exist, but consumers know it"));
            }
        }
    }

    /// Whether the filesystem of the row at `path` is not mounted.
    pub(super) fn is_mount_gone(&self, path: &LibraryPath) -> bool {
        let row = (&self.memory).row(path).unwrap();
        row.is_some_and(|row| self.disk.borrow().is_mount_gone(path, &row.stat))
    }

    /// Whether the file of the row at `path` cannot be reached now.
    fn is_out_of_sight(&self, path: &LibraryPath) -> bool {
        let row = (&self.memory).row(path).unwrap();
        row.is_some_and(|row| self.disk.borrow().is_out_of_sight(path, &row.stat))
    }

    /// Whether the delete of `path` is held because the library was empty.
    fn is_held(&self, path: &LibraryPath) -> bool {
        let held = self.process.borrow().engine.with(|engine| engine.held_deletes_under(path));
        held.iter().any(|held| held.reason == HeldReason::RootEmpty)
    }

    /// After a walk of everything, each file whose filesystem is not mounted is listed among the held deletes.
    pub(crate) fn check_mounts_are_held(&self) {
        for path in self.memory.rows().into_keys().filter(|path| self.is_mount_gone(path)) {
            let held = self.process.borrow().engine.with(|engine| engine.held_deletes_under(&path));
            if !held.iter().any(|held| held.reason == HeldReason::MountGone) {
                self.fail(format!("{path} is on a filesystem that is not mounted, and it is not held: {held:?}"));
            }
        }
    }

    /// An empty library deletes nothing by itself. Once the operator approves that, nothing is held.
    pub(crate) fn check_held(&self) {
        if self.disk.borrow().is_bare() && !self.memory.rows().is_empty() {
            self.walk_root();
            self.settle();
            self.approve();
            self.settle();
            if !self.memory.rows().is_empty() {
                self.fail(format!("approved, but still in the index: {:?}", self.memory.rows().keys()));
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
            .filter(|row| !disk.is_out_of_sight(&row.path, &row.stat) && !self.is_held(&row.path))
            .map(|row| (row.path, (row.stat, row.track.fingerprint.sha256[0])))
            .collect();
        if indexed != library {
            self.fail(format!("the index has {indexed:?}, the disk {library:?}"));
        }
        let walked = self.walk_now(&LibraryPath::root());
        for difference in Reconcile::new(walked.into_iter(), &index, LibraryPath::root(), false) {
            let is_fine = match &difference {
                Ok(Difference::Same(..)) => true,
                Ok(Difference::Gone(path, _)) => self.is_out_of_sight(path) || self.is_held(path),
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
