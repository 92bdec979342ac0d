//! Looks that are decided together: none is committed that depends on one that is not.

use std::collections::HashSet;

use super::outcome::found_by;
use crate::engine::SharedEngine;
use crate::model::{FileStat, FsEvent, MountId, Observation, Ties};

/// How often a look waits for the file that left its path. Where names are passed around without end, it is
/// given up in the end.
const MOST_WAITS: u32 = 5;

/// Looks that are about to be committed.
#[derive(Default)]
pub(super) struct Batch {
    confirmed: Vec<BatchedLook>,
    /// Files that are known to be elsewhere by looks that are not confirmed.
    on_their_way: Vec<FileStat>,
    looks: Vec<FsEvent>,
}

/// Why a look is not committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Doubt {
    /// It took a file for only renamed, and that may have been written to.
    MayBeWritten,
    /// What it found is not true any more.
    Overtaken,
    /// The old file of its path is at a path that is not committed.
    OldFileNotCommitted,
    /// The old file of its path may still be found.
    OldFileNotFound,
}

/// A look that found something out.
pub(super) struct BatchedLook {
    pub(super) observation: Observation,
    /// The look to make in its place.
    pub(super) instead: FsEvent,
    /// The file of the path's row, if that is not there.
    pub(super) displaced: Option<FileStat>,
}

impl Batch {
    /// Adds a look that is still true.
    pub(super) fn add(&mut self, look: BatchedLook) {
        self.confirmed.push(look);
    }

    /// Asks for a look that found nothing out yet.
    pub(super) fn look_again(&mut self, look: FsEvent) {
        self.looks.push(look);
    }

    /// Takes back a look.
    pub(super) fn withdraw(&mut self, look: BatchedLook, doubt: Doubt) {
        tracing::trace!(path = %look.observation.path, ?doubt, "not committed");
        self.on_their_way.extend(found_by(&look.observation));
        self.looks.push(look.instead);
    }

    /// Takes back the looks at paths whose old files are on their way to other names: they wait for those.
    pub(super) fn withdraw_dependent(&mut self) -> &mut Self {
        while let Some(file) = self.on_their_way.pop() {
            let has_left = |look: &mut BatchedLook| look.displaced.is_some_and(|displaced| displaced.same_file(&file));
            let dependent: Vec<BatchedLook> = self.confirmed.extract_if(.., has_left).collect();
            for look in dependent {
                self.withdraw(look, Doubt::OldFileNotCommitted);
            }
        }
        self
    }

    /// Takes back the looks at paths whose old files were renamed, if nobody has looked yet where they are.
    pub(super) fn withdraw_waiting(&mut self, engine: &SharedEngine, is_ending: bool) -> &mut Self {
        let here = Ties::members_here(self.confirmed.iter().map(|look| &look.instead.ties));
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
            if is_ending || instead.ties.waits >= MOST_WAITS {
                return is_ending;
            }
            let mut groups =
                engine.with(|engine| engine.renames().that_may_find_what_left(&instead.path, &instead.ties));
            instead.ties.left_in.append(&mut groups);
            instead.ties.waits += 1;
            !instead.ties.left_in.iter().all(|group| here.are_all_of(group))
        };
        let waiting: Vec<BatchedLook> = self.confirmed.extract_if(.., may_be_found).collect();
        for look in waiting {
            self.withdraw(look, Doubt::OldFileNotFound);
        }
        self
    }

    /// Whether the file of some path's row is not there any more.
    pub(super) fn is_displaced(&self) -> bool {
        self.confirmed.iter().any(|look| look.displaced.is_some())
    }

    /// What may be committed, each with the look to make if it is not, and the looks to make in place of the rest.
    pub(super) fn into_confirmed(self) -> (Vec<(Observation, FsEvent)>, Vec<FsEvent>) {
        (self.confirmed.into_iter().map(|look| (look.observation, look.instead)).collect(), self.looks)
    }
}
