//! Decides what a batch of observations means, given the rows that it touches.
//!
//! `classify` is a pure function, and its law is this: replaying its changes, in order, on the
//! library as the rows know it gives the library as the observations saw it. Everything that
//! consumers rely on follows from the order in which it speaks: deleted, then moved, then modified,
//! then created, so that a consumer with a unique index on hashes sees the old row go before the
//! new one comes.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{Change, Content, FileEvent, FileStat, LibraryPath, Observation, Origin, Row, Seen, Track};

/// The rows that a batch touches, by path.
pub type Rows = BTreeMap<LibraryPath, Row>;

/// What a batch of observations comes to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Decision {
    /// What consumers are told, in this order.
    pub changes: Vec<FileEvent>,
    /// How the index follows; the order does not matter, a path occurs once.
    pub updates: Vec<RowUpdate>,
    /// Paths whose observation rested on a row that is no longer there: look again.
    pub again: Vec<LibraryPath>,
}

/// One change of the index.
#[derive(Clone, Debug, PartialEq)]
pub enum RowUpdate {
    /// This path has this row now.
    Put(Row),
    /// This path has no row any more.
    Remove(LibraryPath),
}

impl RowUpdate {
    /// The path whose row changes.
    pub fn path(&self) -> &LibraryPath {
        match self {
            Self::Put(row) => &row.path,
            Self::Remove(path) => path,
        }
    }

    /// The file that had this name in the rows `before` and has it no more, be it that another one has it now.
    pub fn lost_file<'a>(&self, before: &'a Rows) -> Option<&'a FileStat> {
        let lost = before.get(self.path()).filter(|row| !row.is_forgotten())?;
        match self {
            Self::Put(row) if row.stat.same_file(&lost.stat) => None,
            Self::Put(_) | Self::Remove(_) => Some(&lost.stat),
        }
    }
}

/// The paths whose rows [`classify`] needs to decide about `observations`.
pub fn paths_touched(observations: &[Observation]) -> BTreeSet<&LibraryPath> {
    observations
        .iter()
        .flat_map(|observation| std::iter::once(&observation.path).chain(possible_sources(observation)))
        .collect()
}

/// Decides about one batch. `rows` holds the row of each of [`paths_touched`] that has one; `now` is the time of
/// the commit in seconds since the epoch.
pub fn classify(rows: &Rows, observations: &[Observation], now: i64) -> Decision {
    // Of two looks at one path the later counts.
    let seen: BTreeMap<_, _> = observations.iter().map(|observation| (&observation.path, observation)).collect();
    let mut decision = Decision::default();
    let sources = choose_sources(rows, &seen);

    let mut known = rows.clone();
    let mut tell = |change, origin| decision.changes.push(FileEvent { change, origin });

    for (&path, observation) in &seen {
        let gone = match &observation.seen {
            Seen::Missing => !sources.is_taken(path),
            Seen::File { .. } => sources.of(path).is_some(),
        };
        if gone && known.remove(path).is_some() {
            tell(Change::Deleted(path.clone()), observation.origin);
        }
    }
    for (&path, observation) in &seen {
        if let Some(from) = sources.of(path)
            && let Some(row) = known.remove(from)
        {
            let row = Row { path: path.clone(), ..row };
            known.insert(path.clone(), row.clone());
            tell(Change::Moved { from: from.clone(), row }, observation.origin);
        }
    }

    let mut modified = Vec::new();
    let mut created = Vec::new();
    for (&path, observation) in &seen {
        let Seen::File { stat, content, .. } = &observation.seen else { continue };
        if sources.of(path).is_none() && possible_sources(observation).any(|source| !rows.contains_key(source)) {
            // Its source has got another name meanwhile, by a look that was in flight with this one.
            decision.again.push(path.clone());
            continue;
        }
        let moved_here = sources.of(path).and(known.get(path));
        let Some(track) = track_of(content, moved_here) else {
            decision.again.push(path.clone());
            continue;
        };
        let first_published = known.get(path).filter(|row| !row.is_forgotten()).map_or(now, |row| row.first_published);
        let stat = stat_of(*stat, content, moved_here);
        let row = Row { path: path.clone(), stat, track, first_published };
        match known.insert(path.clone(), row.clone()) {
            None => created.push((Change::Created(row), observation.origin)),
            Some(old) if old.is_forgotten() => created.push((Change::Created(row), observation.origin)),
            Some(old) if old.track.fingerprint != row.track.fingerprint => {
                modified.push((Change::Modified(row), observation.origin));
            }
            Some(_) => {}
        }
    }
    for (change, origin) in modified.into_iter().chain(created) {
        decision.changes.push(FileEvent { change, origin });
    }
    decision.updates = differences(rows, &known);
    decision
}

/// The changes that tell a consumer of these rows as if they were new.
pub fn announce(rows: impl IntoIterator<Item = Row>, origin: Origin) -> Vec<FileEvent> {
    rows.into_iter().map(|row| FileEvent { change: Change::Created(row), origin }).collect()
}

/// Which vanished path each new path was moved from; each is the source of one move at most.
#[derive(Default)]
struct Sources<'a> {
    by_target: BTreeMap<&'a LibraryPath, &'a LibraryPath>,
    taken: BTreeSet<&'a LibraryPath>,
}

impl<'a> Sources<'a> {
    fn of(&self, target: &LibraryPath) -> Option<&'a LibraryPath> {
        self.by_target.get(target).copied()
    }

    fn is_taken(&self, source: &LibraryPath) -> bool {
        self.taken.contains(source)
    }
}

fn choose_sources<'a>(rows: &Rows, seen: &BTreeMap<&'a LibraryPath, &'a Observation>) -> Sources<'a> {
    let mut sources = Sources::default();
    for (&path, observation) in seen {
        let source = possible_sources(observation).find(|&source| {
            // A source that is a file in this very batch has come back, and so was not moved away. This
            // is also why no move can start where another one ends, and why the order of moves is free.
            let came_back = seen.get(source).is_some_and(|observation| matches!(observation.seen, Seen::File { .. }));
            !came_back
                && !sources.is_taken(source)
                && rows.get(source).is_some_and(|row| was_moved(row, rows.get(path), observation))
        });
        if let Some(source) = source {
            sources.by_target.insert(path, source);
            sources.taken.insert(source);
        }
    }
    sources
}

/// Whether the file in `observation` is the one of the vanished `row`, `own` being what its path held before.
fn was_moved(row: &Row, own: Option<&Row>, observation: &Observation) -> bool {
    let Seen::File { stat, content, .. } = &observation.seen else { return false };
    if own.is_some_and(|own| own.stat.same_file(stat)) {
        return false; // It was here all the time.
    }
    // An inode number alone proves nothing: the filesystem gives it to the next file.
    let same_inode = row.stat.same_file(stat) && row.stat.same_size_and_mtime(stat);
    match content {
        Content::MovedFrom(_) => same_inode,
        Content::Read(track) => {
            let sha256 = track.fingerprint.sha256;
            let same_content = row.track.fingerprint.sha256 == sha256;
            // Where the path held this content already, a vanished twin says nothing about it.
            let unchanged_here = own.is_some_and(|own| own.track.fingerprint.sha256 == sha256);
            same_inode || (same_content && !unchanged_here)
        }
    }
}

fn possible_sources(observation: &Observation) -> impl Iterator<Item = &LibraryPath> {
    let (trusted, candidates): (Option<&LibraryPath>, &[LibraryPath]) = match &observation.seen {
        Seen::File { content: Content::MovedFrom(source), .. } => (Some(source), &[]),
        Seen::File { candidates, .. } => (None, candidates),
        Seen::Missing => (None, &[]),
    };
    trusted.into_iter().chain(candidates).filter(|source| **source != observation.path)
}

/// The content at a path: as read, or as the row says that was moved there.
fn track_of(content: &Content, moved_here: Option<&Row>) -> Option<Track> {
    match content {
        Content::Read(track) => Some(track.clone()),
        Content::MovedFrom(_) => moved_here.map(|row| row.track.clone()),
    }
}

/// The stat that belongs to that content. Of a file that was not read it is not known whether somebody wrote to it
/// before it was moved and has yet to close it, for then the kernel has yet to tell. So the ctime stays the one at
/// which it was read, and the next walk of everything reads a file that was renamed by itself.
fn stat_of(found: FileStat, content: &Content, moved_here: Option<&Row>) -> FileStat {
    match (content, moved_here) {
        (Content::MovedFrom(_), Some(row)) => FileStat { ctime_ns: row.stat.ctime_ns, ..found },
        _ => found,
    }
}

fn differences(before: &Rows, after: &Rows) -> Vec<RowUpdate> {
    let removed = before.keys().filter(|path| !after.contains_key(*path)).map(|path| RowUpdate::Remove(path.clone()));
    let put = after.iter().filter(|(path, row)| before.get(*path) != Some(*row)).map(|(_, row)| row);
    removed.chain(put.cloned().map(RowUpdate::Put)).collect()
}

#[cfg(test)]
mod tests;
