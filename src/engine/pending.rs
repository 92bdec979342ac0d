//! What waits to be done: hints to look at, at most one for each path, and subtrees to walk. Both are bounded.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Instant;

use crate::model::{FsEvent, LibraryPath, Ties, Token};

/// Paths that may wait one by one. If there are more, the whole library is walked instead, which costs a walk
/// and loses nothing.
pub(super) const MOST_HINTS: usize = 32_768;

/// Subtrees that may wait one by one, likewise.
pub(super) const MOST_SUBTREES: usize = 10_000;

/// Room for so many hints is kept.
const FEW_HINTS: usize = 64;

/// Hints and subtrees that wait.
#[derive(Debug, Default)]
pub(super) struct Pending {
    /// In boxes, because a map has room for far more than it holds.
    hints: HashMap<LibraryPath, Box<FsEvent>>,
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
}

/// Marks that are due together.
#[derive(Debug, Default)]
pub(super) struct Due {
    /// What to walk.
    pub(super) subtrees: Vec<Subtree>,
    pub(super) ties: TiesOfMarks,
}

/// The ties of marks, by the path of each.
#[derive(Debug, Default)]
pub(super) struct TiesOfMarks(HashMap<LibraryPath, Ties>);

impl Pending {
    /// Adds a hint, merged with the one that waits for the same path. Returns `false`, and adds nothing, if there are
    /// too many.
    pub(super) fn push(&mut self, hint: FsEvent) -> bool {
        let path = hint.path.clone();
        let merged = match self.hints.remove(&path) {
            Some(older) => hint.merged_over(*older),
            None if self.hints.len() >= MOST_HINTS => return false,
            None => {
                self.order.push_back(path.clone());
                hint
            }
        };
        self.hints.insert(path, Box::new(merged));
        true
    }

    /// The hint whose path was pushed first.
    pub(super) fn pop(&mut self) -> Option<FsEvent> {
        while let Some(path) = self.order.pop_front() {
            if let Some(hint) = self.hints.remove(&path) {
                self.shrink_if_empty();
                return Some(*hint);
            }
        }
        None
    }

    pub(super) fn drop_hints(&mut self) {
        self.hints.clear();
        self.order.clear();
        self.shrink_if_empty();
    }

    /// Gives back the memory of a burst. Collections keep their capacity otherwise.
    fn shrink_if_empty(&mut self) {
        if self.hints.is_empty() {
            self.hints.shrink_to(FEW_HINTS);
            self.order.shrink_to(FEW_HINTS);
        }
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

    /// Takes the marks that are due. None of their subtrees lies in another one.
    pub(super) fn take_due(&mut self, now: Instant) -> Due {
        let mut due = Due::default();
        let mut places: HashMap<LibraryPath, usize> = HashMap::new();
        for (path, mark) in self.subtrees.extract_if(.., |_, mark| mark.due <= now) {
            let holds = std::iter::once(mark.doubt).chain(mark.replaced);
            due.ties.add(path.clone(), mark.ties);
            // In byte order a directory comes before what is in it.
            if let Some(&above) = path.at_and_above().find_map(|above| places.get(&above)) {
                due.subtrees[above].holds.extend(holds);
            } else {
                places.insert(path.clone(), due.subtrees.len());
                due.subtrees.push(Subtree { path, holds: holds.collect() });
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

impl Due {
    pub(super) fn is_of_everything(&self) -> bool {
        self.subtrees.iter().any(|subtree| subtree.path.is_root())
    }

    pub(super) fn extend(&mut self, other: Self) {
        self.subtrees.extend(other.subtrees);
        for (path, ties) in other.ties.0 {
            self.ties.add(path, ties);
        }
    }
}

impl TiesOfMarks {
    fn add(&mut self, path: LibraryPath, mut ties: Ties) {
        if !ties.member_of.is_empty() || !ties.left_in.is_empty() {
            self.0.entry(path).or_default().append(&mut ties);
        }
    }

    /// The ties of the marks at `path` and at the directories above it. Those of others do not concern it.
    pub(super) fn that_concern(&self, path: &LibraryPath) -> impl Iterator<Item = &Ties> {
        let places = (!self.0.is_empty()).then(|| path.at_and_above());
        places.into_iter().flatten().filter_map(|path| self.0.get(&path))
    }

    /// The files of the renames are not looked for any more. They may still be missed.
    pub(super) fn end_search(&mut self) {
        self.0.retain(|_, ties| {
            ties.member_of.clear();
            !ties.left_in.is_empty()
        });
    }
}
