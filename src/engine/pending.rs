//! What waits to be done: hints to look at, at most one for each path, and subtrees to walk. Both are bounded.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Instant;

use crate::model::{FsEvent, LibraryPath, Ties, Token};

/// Paths that may wait one by one. If there are more, the whole library is walked instead, which costs a walk
/// and loses nothing.
pub(super) const MOST_HINTS: usize = 100_000;

/// Subtrees that may wait one by one, likewise.
pub(super) const MOST_SUBTREES: usize = 10_000;

/// Hints and subtrees that wait.
#[derive(Debug, Default)]
pub(super) struct Pending {
    hints: HashMap<LibraryPath, FsEvent>,
    order: VecDeque<LibraryPath>,
    subtrees: BTreeMap<LibraryPath, Mark>,
    /// When the first of them is due.
    next_due: Option<Instant>,
}

/// A subtree that is to be walked.
#[derive(Debug)]
pub(super) struct Mark {
    pub(super) due: Instant,
    /// Nobody knows what happened under it.
    pub(super) doubt: Token,
    /// The directory went away.
    pub(super) replaced: Option<Token>,
    /// Of the renames whose files the walk may find, or miss.
    pub(super) ties: Ties,
}

/// A subtree to walk. What is under it stays in doubt until this is dropped: when the walk has ended and everything
/// that it found was looked at.
#[derive(Debug)]
pub struct Subtree {
    /// Where to walk.
    pub path: LibraryPath,
    /// Its own, and those of subtrees that lie in it.
    pub(super) holds: Vec<Token>,
    /// Of the renames whose files the walk may find, or miss.
    pub ties: Ties,
}

impl Pending {
    /// Adds a hint, merged with the one that waits for the same path. Returns `false`, and adds nothing, if there are
    /// too many.
    pub(super) fn push(&mut self, hint: FsEvent) -> bool {
        let path = hint.path.clone();
        let merged = match self.hints.remove(&path) {
            Some(older) => hint.merged_over(older),
            None if self.hints.len() >= MOST_HINTS => return false,
            None => {
                self.order.push_back(path.clone());
                hint
            }
        };
        self.hints.insert(path, merged);
        true
    }

    /// The hint whose path was pushed first.
    pub(super) fn pop(&mut self) -> Option<FsEvent> {
        while let Some(path) = self.order.pop_front() {
            if let Some(hint) = self.hints.remove(&path) {
                return Some(hint);
            }
        }
        None
    }

    pub(super) fn drop_hints(&mut self) {
        self.hints.clear();
        self.order.clear();
    }

    pub(super) fn hints(&self) -> usize {
        self.hints.len()
    }

    pub(super) fn has_room_for_marks(&self) -> bool {
        self.subtrees.len() < MOST_SUBTREES
    }

    /// Marks a subtree, and returns whether it was not marked before.
    pub(super) fn mark(&mut self, subtree: LibraryPath, mut mark: Mark) -> bool {
        self.next_due = Some(self.next_due.map_or(mark.due, |next| next.min(mark.due)));
        match self.subtrees.entry(subtree) {
            Entry::Vacant(entry) => {
                entry.insert(mark);
                true
            }
            // What was asked for sooner is not put off by asking again.
            Entry::Occupied(mut entry) => {
                let known = entry.get_mut();
                known.due = mark.due.min(known.due);
                known.replaced = known.replaced.take().or(mark.replaced);
                known.ties.append(&mut mark.ties);
                false
            }
        }
    }

    pub(super) fn unmark(&mut self, subtree: &LibraryPath) {
        if self.subtrees.remove(subtree).is_some_and(|mark| Some(mark.due) == self.next_due) {
            self.note_next_due();
        }
    }

    pub(super) fn unmark_all(&mut self) {
        self.subtrees.clear();
        self.next_due = None;
    }

    /// Removes all marks but that of the root.
    pub(super) fn unmark_all_but_the_root(&mut self) {
        self.subtrees.retain(|path, _| path.is_root());
        self.note_next_due();
    }

    /// Takes the subtrees that are due; none of them lies in another one.
    pub(super) fn take_due(&mut self, now: Instant) -> Vec<Subtree> {
        let mut due: Vec<Subtree> = Vec::new();
        for (path, mut mark) in self.subtrees.extract_if(.., |_, mark| mark.due <= now) {
            let holds = std::iter::once(mark.doubt).chain(mark.replaced);
            // In byte order a directory comes before what is in it.
            match due.iter_mut().rev().find(|above| path.is_at_or_under(&above.path)) {
                Some(above) => {
                    above.holds.extend(holds);
                    above.ties.append(&mut mark.ties);
                }
                None => due.push(Subtree { path, holds: holds.collect(), ties: mark.ties }),
            }
        }
        self.note_next_due();
        due
    }

    /// When the next subtree is due.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.next_due
    }

    /// When the last of all subtrees is due.
    pub(super) fn last_due(&self) -> Option<Instant> {
        self.subtrees.values().map(|mark| mark.due).max()
    }

    fn note_next_due(&mut self) {
        self.next_due = self.subtrees.values().map(|mark| mark.due).min();
    }
}
