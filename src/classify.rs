//! Decides which changes a batch of observations amounts to, given the rows that it touches.
//!
//! [`classify`] is a pure function. Its tests check these laws as properties:
//!
//! - Replaying the changes, in order, on the library as in the rows gives the library as in the observations.
//! - The order is deleted, moved, modified, created. No change names a path that another row has at that moment, so a
//!   consumer with a unique index on paths or hashes has no conflict.
//! - A file keeps its row when files exchange names. A chain of moves starts at the free target, and a cycle is broken
//!   with a placeholder name, as `mv` would do it.

mod draft;
mod order;
mod sources;
mod temporary;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::model::{Change, Content, FileEvent, FileStat, LibraryPath, Observation, Origin, Row, Seen};
pub use temporary::originals_of_temporary_name;

use draft::Draft;
use order::{Modified, Move};
use sources::{Looks, Sources};

/// The rows that a batch touches, by path.
pub type Rows = BTreeMap<LibraryPath, Row>;

/// The decision about a batch of observations.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Decision {
    /// The changes to publish, in this order.
    pub changes: Vec<FileEvent>,
    /// The updates of the index. The order does not matter, and each path occurs at most once.
    pub updates: Vec<RowUpdate>,
    /// Paths to examine again: their observation relied on a row that has changed since, or they have to be read.
    pub again: Vec<LibraryPath>,
}

/// An update of one row of the index.
#[derive(Clone, Debug, PartialEq)]
pub enum RowUpdate {
    /// Inserts the row, or replaces the one at its path.
    Put(Row),
    /// Removes the row at the path.
    Remove(LibraryPath),
}

impl RowUpdate {
    /// The path of the row.
    pub fn path(&self) -> &LibraryPath {
        match self {
            Self::Put(row) => &row.path,
            Self::Remove(path) => path,
        }
    }

    /// The file that had this path in the rows `before`, if it does not have it after the update.
    pub fn lost_file<'a>(&self, before: &'a Rows) -> Option<&'a FileStat> {
        let lost = before.get(self.path()).filter(|row| !row.is_forgotten())?;
        match self {
            Self::Put(row) if row.stat.same_file(&lost.stat) => None,
            Self::Put(_) | Self::Remove(_) => Some(&lost.stat),
        }
    }
}

/// The paths whose rows [`classify`] needs for `observations`.
#[must_use]
pub fn paths_touched(observations: &[Observation]) -> BTreeSet<&LibraryPath> {
    observations
        .iter()
        .flat_map(|observation| std::iter::once(&observation.path).chain(sources::candidates(observation)))
        .collect()
}

/// Decides about one batch. `rows` has the row of each of [`paths_touched`] that has one. `now` is the time of the
/// commit in seconds since the epoch.
#[must_use]
pub fn classify(rows: &Rows, observations: &[Observation], now: i64) -> Decision {
    // Of two looks at one path, the later one counts.
    let looks: Looks = observations.iter().map(|observation| (&observation.path, observation)).collect();
    let sources = Sources::find(rows, &looks, now);
    let mut draft = Draft::new(rows);

    for row in rows.values() {
        if let Some(origin) = deletion(row, &looks, &sources) {
            draft.delete(&row.path, origin);
        }
    }
    for Move { from, to, origin } in order::free_target_first(&sources.moves(), rows, &looks) {
        draft.rename(from, to, origin);
    }
    let Contents { modified, created, again } = compare_contents(&mut draft, &looks, &sources, now);
    draft.publish(order::old_holder_first(modified));
    draft.publish(created);
    draft.into_decision(again)
}

/// The changes that publish these rows as new files.
#[must_use]
pub fn announce(rows: impl IntoIterator<Item = Row>, origin: Origin) -> Vec<FileEvent> {
    rows.into_iter().map(|row| FileEvent { change: Change::Created(row), origin }).collect()
}

/// The origin of the delete of a row; `None` if the row is not deleted.
fn deletion(row: &Row, looks: &Looks, sources: &Sources) -> Option<Origin> {
    if let Some(target) = sources.target_of(&row.path) {
        // If its file was saved over another one, only that one's row stays. Otherwise the row moves.
        return sources.is_save(target).then(|| looks[target].origin);
    }
    let look = looks.get(&row.path)?;
    if sources.is_kept(&row.path) {
        return None;
    }
    let is_gone = match look.seen {
        Seen::Missing => true,
        // The row of another file may move here.
        Seen::File { .. } => {
            sources.of(&row.path).is_some() && !sources.is_save(&row.path) && !sources.is_undecided(&row.path)
        }
    };
    is_gone.then_some(look.origin)
}

/// The changes of contents, to publish after all deletes and moves.
#[derive(Default)]
struct Contents {
    modified: Vec<Modified>,
    created: Vec<FileEvent>,
    again: Vec<LibraryPath>,
}

/// Compares each file that was found with the row that its path has in the draft, and puts its new row there.
fn compare_contents(draft: &mut Draft, looks: &Looks, sources: &Sources, now: i64) -> Contents {
    let mut contents = Contents::default();
    for (&path, look) in looks {
        let Seen::File { stat, content, .. } = &look.seen else {
            contents.again.extend(sources.is_kept(path).then(|| path.clone()));
            continue;
        };
        let source = sources.of(path);
        // The row of its path may belong to a file that is undecided.
        let is_held = sources.target_of(path).is_some_and(|target| sources.is_undecided(target));
        if sources.is_undecided(path) || is_held {
            contents.again.push(path.clone());
            continue;
        }
        let (stat, track) = match (content, source) {
            (Content::Read(_), None) if sources::relied_on_another_row(look, draft.before()) => {
                contents.again.push(path.clone());
                continue;
            }
            (Content::Read(track), _) => (*stat, Arc::clone(track)),
            (Content::MovedFrom(_), Some(source)) => (unread_stat(stat, source), Arc::clone(&source.track)),
            (Content::MovedFrom(_), None) => {
                contents.again.push(path.clone());
                continue;
            }
        };
        let origin = look.origin;
        let known = draft.row(path).filter(|row| !row.is_forgotten());
        let first_published = known.map_or(now, |known| known.first_published);
        let row = Row { path: path.clone(), stat, track, first_published };
        match known.map(|known| known.track.fingerprint) {
            None => contents.created.push(FileEvent { change: Change::Created(row.clone()), origin }),
            Some(old) if old != row.track.fingerprint => {
                contents.modified.push(Modified { old, row: row.clone(), origin });
            }
            Some(_) => {}
        }
        draft.put(row);
    }
    contents
}

/// The stat to store for a file that was moved and not read.
///
/// The ctime stays the one at which the file was last read, because a writer may still have the file open. So the next
/// full scan reads the file again.
fn unread_stat(found: &FileStat, source: &Row) -> FileStat {
    FileStat { ctime_ns: source.stat.ctime_ns, ..*found }
}

#[cfg(test)]
mod tests;
