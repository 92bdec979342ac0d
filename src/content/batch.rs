//! Looks that are decided together: a look that depends on another one is committed only together with that.

use std::collections::HashSet;

use super::outcome::found_by;
use crate::engine::SharedEngine;
use crate::model::{FileStat, FsEvent, MountId, Observation, Ties};

/// How often a look waits for the file that left its path. If files change names without end, it is committed anyway
/// after that.
const MOST_WAITS: u32 = 5;

/// Looks that are about to be committed.
#[derive(Default)]
pub(super) struct Batch {
    confirmed: Vec<BatchedLook>,
    /// Files whose new paths were found by looks that are not committed.
    uncommitted: Vec<FileStat>,
    looks: Vec<FsEvent>,
}

/// Why a look is not committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Doubt {
    /// It accepted a rename without reading the file, and the file may have been written to.
    MayBeWritten,
    /// The disk has changed since the look.
    Overtaken,
    /// The former file of its path is at another path, whose look is not committed.
    OldFileNotCommitted,
    /// The former file of its path may still be found.
    OldFileNotFound,
}

/// A look with an observation.
pub(super) struct BatchedLook {
    pub(super) observation: Observation,
    /// The hint to look again with if it is not committed.
    pub(super) instead: FsEvent,
    /// The file of the path's row, if it is not at the path now.
    pub(super) displaced: Option<FileStat>,
}

impl Batch {
    /// Adds a look whose observation is still true.
    pub(super) fn add(&mut self, look: BatchedLook) {
        self.confirmed.push(look);
    }

    /// Adds a hint for another look at a path that gave no observation.
    pub(super) fn look_again(&mut self, look: FsEvent) {
        self.looks.push(look);
    }

    /// Does not commit this look: it is made again.
    pub(super) fn withdraw(&mut self, look: BatchedLook, doubt: Doubt) {
        tracing::trace!(path = %look.observation.path, ?doubt, "not committed");
        self.uncommitted.extend(found_by(&look.observation));
        self.looks.push(look.instead);
    }

    /// Withdraws the looks at paths whose former files were found by looks that are not committed.
    pub(super) fn withdraw_dependent(&mut self) -> &mut Self {
        while let Some(file) = self.uncommitted.pop() {
            let has_left = |look: &mut BatchedLook| look.displaced.is_some_and(|displaced| displaced.same_file(&file));
            let dependent: Vec<BatchedLook> = self.confirmed.extract_if(.., has_left).collect();
            for look in dependent {
                self.withdraw(look, Doubt::OldFileNotCommitted);
            }
        }
        self
    }

    /// Withdraws the looks at paths whose former files were renamed and have not been found yet.
    pub(super) fn withdraw_waiting(&mut self, engine: &SharedEngine, is_ending: bool) -> &mut Self {
        let here = Ties::members_here(self.confirmed.iter().map(|look| &look.instead.guards.ties));
        let found: HashSet<(MountId, u64)> = self
            .confirmed
            .iter()
            .filter_map(|look| found_by(&look.observation))
            .map(|it| (it.mount, it.inode))
            .collect();
        let may_be_found = |look: &mut BatchedLook| {
            let Some(displaced) = look.displaced else { return false };
            let instead = &mut look.instead;
            if found.contains(&(displaced.mount, displaced.inode)) {
                return false;
            }
            if is_ending || instead.guards.ties.waits >= MOST_WAITS {
                return is_ending;
            }
            let mut groups =
                engine.with(|engine| engine.renames().that_may_find_what_left(&instead.path, &instead.guards.ties));
            instead.guards.ties.left_in.append(&mut groups);
            instead.guards.ties.waits += 1;
            !instead.guards.ties.left_in.iter().all(|group| here.are_all_of(group))
        };
        let waiting: Vec<BatchedLook> = self.confirmed.extract_if(.., may_be_found).collect();
        for look in waiting {
            self.withdraw(look, Doubt::OldFileNotFound);
        }
        self
    }

    /// Whether a look found that the file of its path's row has left the path.
    pub(super) fn is_displaced(&self) -> bool {
        self.confirmed.iter().any(|look| look.displaced.is_some())
    }

    /// The observations to commit, each with the hint to look again with if that fails, and the hints of the other
    /// looks.
    pub(super) fn into_confirmed(self) -> (Vec<(Observation, FsEvent)>, Vec<FsEvent>) {
        (self.confirmed.into_iter().map(|look| (look.observation, look.instead)).collect(), self.looks)
    }
}
