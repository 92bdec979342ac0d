//! Which row belongs to a file that was found at another path.

use std::collections::{BTreeMap, BTreeSet};

use super::{Rows, temporary};
use crate::model::{Content, FileStat, InodeKind, LibraryPath, MountId, Observation, Row, Seen};

/// In seconds: a file that replaces another one this soon after its own first message counts as a new version of it.
const YOUNG_SECS: i64 = 60;

/// The last look at each path of a batch.
pub(super) type Looks<'a> = BTreeMap<&'a LibraryPath, &'a Observation>;

/// The rows whose files were found at other paths. Each row is the source of at most one file.
#[derive(Default)]
pub(super) struct Sources<'a> {
    by_target: BTreeMap<&'a LibraryPath, Source<'a>>,
    targets: BTreeMap<&'a LibraryPath, &'a LibraryPath>,
    /// The paths whose rows have to stay, because their files were found by looks that are to be repeated.
    kept: BTreeSet<&'a LibraryPath>,
}

struct Source<'a> {
    row: &'a Row,
    role: Role,
}

/// What happened to a file that was found at another path.
#[derive(Clone, Copy, PartialEq)]
enum Role {
    /// It was moved: its row moves there.
    Moves,
    /// It was saved over the file that was there: the row of that path stays, and its own is deleted.
    Saved,
    /// It was saved over another file, but has not been read, so its content is not certain. Or the file of the row at
    /// its new path is undecided.
    Undecided,
}

impl<'a> Sources<'a> {
    /// Finds the sources of all files of a batch, starting with the best evidence.
    pub(super) fn find(rows: &'a Rows, looks: &Looks<'a>, now: i64) -> Self {
        let mut sources = Self::default();
        let left = Left::of(rows, looks);
        for wanted in [Evidence::Identity, Evidence::Stat, Evidence::Content, Evidence::Sound] {
            sources.find_by(wanted, rows, looks, |look| candidates(look).filter_map(|candidate| rows.get(candidate)));
            // A file that was not read is that of the row that it was trusted to be.
            sources.find_by(wanted, rows, looks, |look| left.rows_of(look).into_iter().filter(|_| is_read(look)));
        }
        sources.distinguish_saves_from_moves(rows, looks, now);
        sources.keep_rows_of_repeated_looks(looks, &left);
        sources.defer_moves_to_undecided_paths();
        sources
    }

    /// Finds the sources with this evidence of files that have none yet, among some rows for each look.
    fn find_by<I: Iterator<Item = &'a Row>>(
        &mut self,
        wanted: Evidence,
        rows: &'a Rows,
        looks: &Looks<'a>,
        among: impl Fn(&'a Observation) -> I,
    ) {
        for (&path, &look) in looks {
            let is_source = |row: &&Row| {
                !self.targets.contains_key(&row.path)
                    && evidence(look, row, rows.get(path)) == Some(wanted)
                    && if wanted == Evidence::Sound { is_missing(row, looks) } else { has_left(row, looks) }
            };
            if !self.by_target.contains_key(path)
                && let Some(row) = among(look).find(is_source)
            {
                self.by_target.insert(path, Source { row, role: Role::Moves });
                self.targets.insert(&row.path, path);
            }
        }
    }

    /// The row of the file that was found at this path, if the file had another path before.
    pub(super) fn of(&self, target: &LibraryPath) -> Option<&'a Row> {
        self.by_target.get(target).map(|source| source.row)
    }

    /// The path at which the file of the row at this path was found.
    pub(super) fn target_of(&self, source: &LibraryPath) -> Option<&'a LibraryPath> {
        self.targets.get(source).copied()
    }

    /// Whether the file that was found at this path was saved over the one that was there.
    pub(super) fn is_save(&self, target: &LibraryPath) -> bool {
        self.by_target.get(target).is_some_and(|source| source.role == Role::Saved)
    }

    /// Whether the file that was found at this path must be examined again, and read, before a decision about it.
    pub(super) fn is_undecided(&self, target: &LibraryPath) -> bool {
        self.is_kept(target) || self.by_target.get(target).is_some_and(|source| source.role == Role::Undecided)
    }

    /// Whether the row of this path has to stay.
    pub(super) fn is_kept(&self, path: &LibraryPath) -> bool {
        self.kept.contains(path)
    }

    /// The moves: the source of each target.
    pub(super) fn moves(&self) -> BTreeMap<&'a LibraryPath, &'a LibraryPath> {
        let moves = self.by_target.iter().filter(|(_, source)| source.role == Role::Moves);
        moves.map(|(&target, source)| (target, &source.row.path)).collect()
    }

    /// Finds files that were saved over others. Taggers and editors write a new file and rename it over the old one.
    /// It is then a new version of the old one, unless the old one was itself found elsewhere.
    fn distinguish_saves_from_moves(&mut self, rows: &Rows, looks: &Looks, now: i64) {
        let targets = &self.targets;
        for (&path, source) in &mut self.by_target {
            let replaces = rows.get(path).is_some_and(|own| !own.is_forgotten() && !targets.contains_key(path));
            let is_save = replaces
                && (now.saturating_sub(source.row.first_published) < YOUNG_SECS
                    || temporary::is_temporary_name_of(source.row.path.name(), path.name()));
            if is_save {
                source.role = if is_read(looks[path]) { Role::Saved } else { Role::Undecided };
            }
        }
    }

    /// A rename that was accepted unread, but not from the path that the row of its file has now, is to be looked at again.
    /// That row has to stay until then.
    fn keep_rows_of_repeated_looks(&mut self, looks: &Looks<'a>, left: &Left<'a>) {
        let is_repeated = |look: &&Observation| {
            let is_unread = matches!(look.seen, Seen::File { content: Content::MovedFrom(_), .. });
            is_unread && !self.by_target.contains_key(&look.path)
        };
        let repeated = looks.values().copied().filter(is_repeated);
        self.kept = repeated.flat_map(|look| left.rows_of(look)).map(|row| &row.path).collect();
        for path in &self.kept {
            if let Some(source) = self.by_target.get_mut(path) {
                source.role = Role::Undecided;
            }
        }
    }

    /// A file cannot move to a path whose own file is undecided.
    fn defer_moves_to_undecided_paths(&mut self) {
        loop {
            let is_blocked = |(path, source): &(&&'a LibraryPath, &Source)| {
                source.role != Role::Undecided && self.target_of(path).is_some_and(|target| self.is_undecided(target))
            };
            let blocked: Vec<&LibraryPath> = self.by_target.iter().filter(is_blocked).map(|(path, _)| *path).collect();
            if blocked.is_empty() {
                return;
            }
            for path in blocked {
                if let Some(source) = self.by_target.get_mut(path) {
                    source.role = Role::Undecided;
                }
            }
        }
    }
}

/// The rows whose paths have another file or none by a look of this batch, by their inodes.
///
/// A look may have begun before the row of its file came to the path that it has now. Then its candidates do not have that
/// path.
struct Left<'a>(BTreeMap<(MountId, u64), Vec<&'a Row>>);

impl<'a> Left<'a> {
    fn of(rows: &'a Rows, looks: &Looks) -> Self {
        let mut left = BTreeMap::<_, Vec<&Row>>::new();
        for row in rows.values() {
            if row.stat.has_stable_inode() && looks.contains_key(&row.path) && has_left(row, looks) {
                left.entry((row.stat.mount, row.stat.inode)).or_default().push(row);
            }
        }
        Self(left)
    }

    /// Those of the file that was found. A look that began now would have them as its candidates.
    fn rows_of(&self, look: &'a Observation) -> Vec<&'a Row> {
        let Seen::File { stat, .. } = &look.seen else { return Vec::new() };
        let at_inode = self.0.get(&(stat.mount, stat.inode)).into_iter().flatten().copied();
        at_inode.filter(|row| row.path != look.path && row.stat.shows_file(stat)).collect()
    }
}

fn is_read(look: &Observation) -> bool {
    matches!(look.seen, Seen::File { content: Content::Read(_), .. })
}

/// The paths whose rows may belong to the file that was found, most likely first.
pub(super) fn candidates(look: &Observation) -> impl Iterator<Item = &LibraryPath> {
    relied_on(look).filter(|candidate| **candidate != look.path)
}

/// The candidates, and the path itself if its own row was that of the file.
fn relied_on(look: &Observation) -> impl Iterator<Item = &LibraryPath> {
    let (trusted, candidates): (Option<&LibraryPath>, &[LibraryPath]) = match &look.seen {
        Seen::File { content: Content::MovedFrom(source), .. } => (Some(source), &[]),
        Seen::File { candidates, .. } => (None, candidates),
        Seen::Missing => (None, &[]),
    };
    trusted.into_iter().chain(candidates)
}

/// Whether a path that this look relied on has no row now, or the row of another file. Then the row of the file that
/// was found may be at another path.
pub(super) fn relied_on_another_row(look: &Observation, rows: &Rows) -> bool {
    let Seen::File { stat, content, .. } = &look.seen else { return false };
    let is_another = |row: &Row| !row.stat.same_file(stat) && !has_content(row, content) && !has_sound(row, content);
    relied_on(look).any(|path| rows.get(path).is_none_or(is_another))
}

/// The evidence that a file is that of a row.
#[derive(Clone, Copy, PartialEq)]
enum Evidence {
    /// Inode number and birth time: it is that file, whatever else has changed.
    Identity,
    /// Inode number, size and modification time.
    Stat,
    /// The hash alone.
    Content,
    /// The sound alone: the file was also retagged. A file that replaced another one proves nothing, because taggers do
    /// that.
    Sound,
}

/// The evidence that the file that was found is that of `row`. `own` is the row of the path at which it was found.
fn evidence(look: &Observation, row: &Row, own: Option<&Row>) -> Option<Evidence> {
    let Seen::File { stat, content, .. } = &look.seen else { return None };
    let was_here = own.is_some_and(|own| own.stat.same_file(stat));
    let has_stat = row.stat.same_file(stat) && row.stat.same_size_and_mtime(stat);
    match content {
        _ if was_here => None,
        // The file was not read, so its content is known only if nothing else has changed.
        Content::MovedFrom(_) if !has_stat => None,
        _ if row.stat.is_surely_same_file(stat) => Some(Evidence::Identity),
        _ if has_stat => Some(Evidence::Stat),
        // A file that replaces one with the same content is no evidence about other files with that content.
        _ if own.is_some_and(|own| has_content(own, content)) => None,
        _ if has_content(row, content) => Some(Evidence::Content),
        _ if own.is_some_and(|own| has_sound(own, content)) => None,
        _ => has_sound(row, content).then_some(Evidence::Sound),
    }
}

/// Whether no look of this batch found the file of a row at its path.
fn has_left(row: &Row, looks: &Looks) -> bool {
    match looks.get(&row.path).map(|look| &look.seen) {
        Some(Seen::File { stat, content, .. }) => !is_file_of(row, stat, content),
        Some(Seen::Missing) | None => true,
    }
}

/// Whether no look of this batch found a file at the path of a row.
fn is_missing(row: &Row, looks: &Looks) -> bool {
    looks.get(&row.path).is_none_or(|look| look.seen == Seen::Missing)
}

/// Whether a file that was found at the path of a row is still the file of that row.
fn is_file_of(row: &Row, stat: &FileStat, content: &Content) -> bool {
    // Otherwise the inode number may have been reused, or is not stable.
    let is_unknown_by_inode = row.stat.same_file(stat)
        || (row.stat.mount == stat.mount && [&row.stat, stat].iter().any(|it| it.inode_kind == InodeKind::Unstable));
    row.stat.shows_file(stat) || (is_unknown_by_inode && has_content(row, content))
}

fn has_content(row: &Row, content: &Content) -> bool {
    matches!(content, Content::Read(track) if track.fingerprint.sha256 == row.track.fingerprint.sha256)
}

fn has_sound(row: &Row, content: &Content) -> bool {
    matches!(content, Content::Read(track) if track.has_sound_of(&row.track))
}
