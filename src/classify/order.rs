//! The order in which changes are published, so that a path or a hash is free before another file takes it.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use super::Rows;
use super::sources::Looks;
use crate::model::{Change, FileEvent, Fingerprint, LibraryPath, Origin, Row};

/// The prefix of the placeholder name that breaks a cycle of moves. No row keeps such a name.
const PLACEHOLDER: &str = ".file-watcher-";

/// One move, as it is published.
#[derive(Debug, PartialEq)]
pub(super) struct Move {
    pub(super) from: LibraryPath,
    pub(super) to: LibraryPath,
    pub(super) origin: Origin,
}

/// A path whose content changes.
pub(super) struct Modified {
    /// Its former content.
    pub(super) old: Fingerprint,
    /// Its new row.
    pub(super) row: Row,
    pub(super) origin: Origin,
}

/// Orders moves, given by target, so that each target is free before its move.
///
/// Targets that are not also sources are free already: nothing was there, or it was deleted. From there, each chain is
/// followed backwards, because each move frees its source. The remaining moves form cycles.
pub(super) fn free_target_first(moves: &BTreeMap<&LibraryPath, &LibraryPath>, rows: &Rows, looks: &Looks) -> Vec<Move> {
    let mut remaining = moves.clone();
    let mut ordered = Vec::with_capacity(moves.len());
    let mut push = |from: &LibraryPath, to: &LibraryPath, target: &LibraryPath| {
        ordered.push(Move { from: from.clone(), to: to.clone(), origin: looks[target].origin });
    };

    let sources: BTreeSet<&LibraryPath> = moves.values().copied().collect();
    for &end in moves.keys().filter(|target| !sources.contains(*target)) {
        let mut free = end;
        while let Some(source) = remaining.remove(free) {
            push(source, free, free);
            free = source;
        }
    }

    while let Some((&first, _)) = remaining.first_key_value() {
        let placeholder = placeholder_name(first, |name| rows.contains_key(name) || looks.contains_key(name));
        push(first, &placeholder, first);
        let mut free = first;
        while let Some(source) = remaining.remove(free) {
            let from = if source == first { &placeholder } else { source };
            push(from, free, free);
            free = source;
        }
    }
    ordered
}

/// A placeholder name for the first file of a cycle, in its directory and with its extension.
fn placeholder_name(first: &LibraryPath, is_taken: impl Fn(&LibraryPath) -> bool) -> LibraryPath {
    let directory = first.parent().unwrap_or_else(LibraryPath::root);
    let names = (1_u64..).map(|number| {
        let mut name = format!("{PLACEHOLDER}{number}").into_bytes();
        if let Some(extension) = first.extension() {
            name.push(b'.');
            name.extend_from_slice(extension);
        }
        directory.join(&name)
    });
    names.into_iter().find(|name| !is_taken(name)).expect("there are more numbers than paths")
}

/// Orders changes of contents so that the paths that had a hash have changed before another path gets it. If contents
/// were exchanged in a cycle there is no such order, and the cycle starts anywhere.
pub(super) fn old_holder_first(modified: Vec<Modified>) -> Vec<FileEvent> {
    let mut holders: HashMap<Fingerprint, usize> = HashMap::new();
    for one in &modified {
        *holders.entry(one.old).or_default() += 1;
    }
    let mut pending = VecDeque::from(modified);
    let mut ordered = Vec::with_capacity(pending.len());
    while !pending.is_empty() {
        let is_free = |one: &Modified| holders.get(&one.row.track.fingerprint).is_none_or(|count| *count == 0);
        let next = pending.iter().position(is_free).unwrap_or(0);
        let Some(Modified { old, row, origin }) = pending.remove(next) else { break };
        holders.entry(old).and_modify(|count| *count -= 1);
        ordered.push(FileEvent { change: Change::Modified(row), origin });
    }
    ordered
}
