//! One look at one path: what is there, is it finished, and what is in it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::classify::originals_of_temporary_name;
use crate::disk::{Disk, Entry, is_root_replaced};
use crate::model::{
    Content, FileStat, FsEvent, Index, LibraryPath, Observation, Origin, Quiet, Renames, Row, Seen, Ties, Token, Track,
};
use crate::stream::{Holds, Tied};

/// How many rows with one content or inode are looked at before it is called ambiguous.
const CANDIDATES: usize = 32;

/// Waits between looks at a file that keeps changing: doubled each time, from this to that.
const FIRST_RETRY: Duration = Duration::from_millis(100);
/// Shorter waits would only be looks in vain: timers and file times are not that exact.
const SHORTEST_WAIT: Duration = Duration::from_millis(10);
const LAST_RETRY: Duration = Duration::from_secs(30);

/// Looks after which a file that has another inode number at each of them, and the same times, is the same file.
const LOOKS_AT_PASSING_INODES: u32 = 2;

/// How many looks at a file that is not finished others wait for: walks, before they publish what is gone, for
/// that may be the old name of the file, and looks at the paths that its group left. A file that is written to
/// for ever must not keep deletes waiting for ever.
const OTHERS_WAIT_FOR: u32 = 3;

/// Reads the content of an open file; tests put a model in its place.
pub trait Contents<F> {
    /// Hashes the whole file and reads its metadata, which is taken from `known` where the content is the same.
    fn read(&self, file: &F, path: &LibraryPath, known: Option<&Track>) -> io::Result<Track>;
}

/// How patient looks are.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Quiet that a closed file must have kept.
    pub debounce: Duration,
    /// Quiet that a file must have kept which nobody was seen to close.
    pub settle: Duration,
    /// How long a file must have been empty.
    pub empty: Duration,
    /// Whether a changed ctime alone is no reason to read a file.
    pub ignore_ctime: bool,
}

/// Looks at paths.
#[derive(Clone, Debug)]
pub struct Examiner<D, C, I> {
    /// Where the files are.
    pub disk: D,
    /// How they are read.
    pub contents: C,
    /// What was committed of them.
    pub index: I,
    /// How long they must have been left alone.
    pub patience: Patience,
    /// Paths that a look in flight takes for the old name of its file: nobody calls them deleted meanwhile.
    pub claimed: Holds,
    /// Paths and subtrees whose content may have changed since it was looked at: no rename of them is trusted.
    pub doubts: Holds,
    /// Subtrees that went away: what was told of a name there may have been told of another file.
    pub replaced: Holds,
    /// Subtrees of which nobody tells what happens there: only walks call deleted what is gone from them.
    pub unwatched: Holds,
    /// Renames that are going on, which may find a file that has left its path.
    pub renames: Renames,
    /// Bytes of files that were read only to make sure that nothing but their names had changed.
    pub verified_bytes: Arc<AtomicU64>,
}

/// What came of a look.
#[derive(Debug)]
pub struct Examined {
    /// Where was looked.
    pub path: LibraryPath,
    /// What was found.
    pub outcome: Outcome,
    /// There is, or was, something beneath this path: walk it.
    pub look_under: bool,
    /// What must stay alive until the outcome is committed.
    pub tokens: Vec<Token>,
    /// The file of the path's row, if it is not at the path any more. A look that is tied to this one may find it.
    pub displaced: Option<FileStat>,
}

impl Examined {
    /// A look that found out nothing.
    pub fn failed(path: LibraryPath, error: io::Error) -> Self {
        Self { path, outcome: Outcome::Failed(error), look_under: false, tokens: Vec::new(), displaced: None }
    }
}

impl Tied for Examined {
    type Key = LibraryPath;

    fn key(&self) -> &LibraryPath {
        &self.path
    }

    fn ties(&self) -> Option<&Ties> {
        self.displaced?;
        self.outcome.look().map(|look| &look.ties)
    }

    fn begin_waiting(&mut self) {
        if let Some(look) = self.outcome.look_mut() {
            // The wave may find what it waits for.
            look.ties.waves.clear();
        }
    }

    fn in_place_of(mut self, mut older: Self) -> Self {
        self.tokens.append(&mut older.tokens);
        self.look_under |= older.look_under;
        if let (Some(look), Some(older)) = (self.outcome.look_mut(), older.outcome.look_mut()) {
            look.ties.append(&mut older.ties);
            look.walks.append(&mut older.walks);
            look.holds.append(&mut older.holds);
        }
        self
    }
}

/// What a look found.
#[derive(Debug)]
pub enum Outcome {
    /// A file of which the index has nothing, nor of what it may have been moved from; and the look to make in its
    /// place if it is not true any more.
    New(Observation, FsEvent),
    /// Something to compare with what the index has, if it is still true; else the look to make in its place.
    Observed(Observation, FsEvent),
    /// The same, if moreover it is true that the file was only renamed.
    Trusted(Observation, FsEvent),
    /// Everything is as the index has it.
    Unchanged,
    /// The file is not finished, or changed under the look.
    Again(FsEvent),
    /// The file is gone, perhaps to another name, which the next walk of everything has to find first.
    LeftToWalk,
    /// The file is gone with its mount: its delete is held.
    Held,
    /// Nothing could be found out: the row stays as it is, and the next walk looks again.
    Failed(io::Error),
}

impl Outcome {
    /// What was found, to compare with the index.
    fn observation(&self) -> Option<&Observation> {
        match self {
            Self::New(observation, _) | Self::Observed(observation, _) | Self::Trusted(observation, _) => {
                Some(observation)
            }
            Self::Again(_) | Self::Unchanged | Self::LeftToWalk | Self::Held | Self::Failed(_) => None,
        }
    }

    /// The look to make next, or in place of this one.
    fn look(&self) -> Option<&FsEvent> {
        match self {
            Self::New(_, look) | Self::Observed(_, look) | Self::Trusted(_, look) | Self::Again(look) => Some(look),
            Self::Unchanged | Self::LeftToWalk | Self::Held | Self::Failed(_) => None,
        }
    }

    fn look_mut(&mut self) -> Option<&mut FsEvent> {
        match self {
            Self::New(_, look) | Self::Observed(_, look) | Self::Trusted(_, look) | Self::Again(look) => Some(look),
            Self::Unchanged | Self::LeftToWalk | Self::Held | Self::Failed(_) => None,
        }
    }

    /// A word or two for the log.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::New(..) => "new",
            Self::Observed(Observation { seen: Seen::Missing, .. }, _) => "gone",
            Self::Observed(..) => "changed",
            Self::Trusted(..) => "only renamed",
            Self::Unchanged => "unchanged",
            Self::Again(_) => "to be looked at again",
            Self::LeftToWalk => "left to the next walk",
            Self::Held => "held",
            Self::Failed(_) => "failed",
        }
    }
}

impl<D: Disk, C: Contents<D::File>, I: Index> Examiner<D, C, I> {
    /// Looks at a path. Blocks for as long as reading the file takes.
    pub fn examine(&self, look: FsEvent) -> Examined {
        let path = look.path.clone();
        // Also here until the commit: another look takes them along, and without one they are let go of then.
        let mut tokens: Vec<Token> = look.walks.iter().chain(&look.holds).cloned().collect();
        let mut look_under = false;
        let row = self.index.row(&path).map_err(io::Error::other);
        let mut displaced = None;
        let mut outcome = row
            .and_then(|row| {
                let outcome = self.outcome(look, row.as_ref(), &mut tokens, &mut look_under);
                displaced =
                    outcome.as_ref().ok().and_then(|outcome| displaced_by(outcome.observation()?, row.as_ref()?));
                outcome
            })
            .unwrap_or_else(Outcome::Failed);
        if let Some(next) = outcome.look_mut() {
            if next.attempt > OTHERS_WAIT_FOR {
                next.walks.clear();
                next.ties.waves.clear();
                next.ties.member_of.clear();
            }
            if displaced.is_some() {
                let mut groups = self.renames.that_may_find_what_left(&path, &next.ties);
                next.ties.left_in.append(&mut groups);
            }
        }
        Examined { path, outcome, look_under, tokens, displaced }
    }

    fn outcome(
        &self,
        look: FsEvent,
        row: Option<&Row>,
        tokens: &mut Vec<Token>,
        look_under: &mut bool,
    ) -> io::Result<Outcome> {
        let entry = self.disk.entry(&look.path)?;
        let Entry::File(stat) = entry else {
            *look_under = entry == Entry::Directory || self.has_rows_beneath(&look.path)?;
            return Ok(self.gone(look, entry, row));
        };
        // A walk comes by what was beneath by itself; a hint may be all that is told of a directory of this name.
        *look_under = look.origin == Origin::Watch && self.has_rows_beneath(&look.path)?;
        if !look.written && row.is_some_and(|row| row.stat.is_unchanged(&stat, self.patience.ignore_ctime)) {
            return Ok(Outcome::Unchanged);
        }
        let was_here = row.is_some_and(|row| row.stat.same_file(&stat));
        let mut same_inode = if was_here { Vec::new() } else { self.rows_of_file(&look.path, &stat)? };
        // One that has not left its path is a hard link, or comes and goes while this looks.
        let is_known_elsewhere = !same_inode.is_empty();
        same_inode = those_that(same_inode, |row| self.has_left_for_another(row))?;
        // Of several names that one file lost, the one that this was is most likely the one that is most like it.
        same_inode.sort_by_key(|row| {
            let is_told = look.renamed_from.as_ref() == Some(&row.path);
            (!is_told, row.path.parent() != look.path.parent(), row.path.name() != look.path.name())
        });
        // Nothing was written since it was committed, however young that is: it only changed its name or attributes.
        let was_finished =
            row.into_iter().filter(|_| was_here).chain(&same_inode).any(|row| row.stat.same_size_and_mtime(&stat));
        // An empty file is one that was cut to be written anew, or made to be written, more often than not.
        let may_be_cut = stat.size == 0
            || row.map(|row| &row.stat).iter().copied().chain(&look.last_seen).any(|before| may_be_cut(before, &stat));
        if !was_finished && let Some(wait) = self.unsettled_for(&look, &stat, may_be_cut) {
            let mut next = look_again(look, wait, Some(stat));
            if stat.size == 0 && wait > self.patience.settle {
                // It may be empty for a minute, and be no file's new name: deletes do not wait for it.
                next.walks.clear();
                next.ties.waves.clear();
                if same_inode.is_empty() {
                    next.ties.member_of.clear();
                }
            }
            return Ok(Outcome::Again(next));
        }
        if row.is_none() && same_inode.is_empty() && self.may_be_renamed_soon(&look.path, &stat)? {
            let wait = self.patience.settle;
            return Ok(Outcome::Again(look_again(look, wait, Some(stat))));
        }
        tokens.extend(same_inode.iter().map(|row| self.claim(row)));
        let (path, origin) = (look.path.clone(), look.origin);
        let observed = |content, candidates| {
            let seen = Seen::File { stat, content, candidates };
            Observation { path: path.clone(), origin, seen }
        };
        if let [source] = same_inode.as_slice()
            && source.stat.same_size_and_mtime(&stat)
            && !look.written
            && !self.doubts.is_held(&source.path)
        {
            let moved = || observed(Content::MovedFrom(source.path.clone()), Vec::new());
            if source.stat.is_unchanged(&stat, self.patience.ignore_ctime) {
                return Ok(Outcome::Observed(moved(), look_instead(look)));
            }
            if self.is_only_renamed(&look, source)? {
                return Ok(Outcome::Trusted(moved(), look_instead(look)));
            }
        }

        let known = row.or(same_inode.first()).map(|row| &row.track);
        let Some(track) = self.read_whole(&look, &stat, known)? else {
            let wait = backoff(look.attempt);
            return Ok(Outcome::Again(look_again(look, wait, None)));
        };
        let is_as_it_was =
            |row: &&Row| row.stat.is_surely_same_file(&stat) && row.track.fingerprint == track.fingerprint;
        if same_inode.iter().any(|row| is_as_it_was(&row)) {
            self.verified_bytes.fetch_add(stat.size, Ordering::Relaxed);
        }
        let mut candidates: Vec<LibraryPath> = same_inode.into_iter().map(|row| row.path).collect();
        if was_here {
            // The row may belong to another path by the time of the commit.
            candidates.push(look.path.clone());
        } else {
            let same_content = self.row_with_content(&look.path, &track)?;
            tokens.extend(same_content.iter().map(|row| self.claim(row)));
            candidates.extend(same_content.into_iter().map(|row| row.path));
        }
        let is_new = row.is_none() && candidates.is_empty() && !is_known_elsewhere;
        let observation = observed(Content::Read(track), candidates);
        let instead = look_instead(look);
        Ok(if is_new { Outcome::New(observation, instead) } else { Outcome::Observed(observation, instead) })
    }

    /// Takes the path of a row for the old name of a file, for as long as the token lives.
    fn claim(&self, row: &Row) -> Token {
        Token::new(self.claimed.hold(row.path.clone()))
    }

    /// No regular file is at the path.
    fn gone(&self, mut look: FsEvent, entry: Entry, row: Option<&Row>) -> Outcome {
        let Some(row) = row else { return Outcome::Unchanged };
        // No file of a group has come here, so nobody need wait for this look.
        look.ties.member_of.clear();
        if self.claimed.is_held(&look.path) {
            return Outcome::Again(look_again(look, FIRST_RETRY, None));
        }
        if look.generation.is_some_and(|generation| generation != self.disk.generation()) {
            // It went away with a root that is no longer the root: the walk of this one will tell.
            return Outcome::Unchanged;
        }
        let is_held = is_hidden(row, entry) && !self.disk.is_elsewhere(row.stat.mount, &row.path);
        if is_held && !look.approved {
            return Outcome::Held;
        }
        // What is left out by the rules is deleted whatever its file does, so no other name has to be looked for.
        let is_excluded = entry == Entry::Excluded;
        if look.quiet != Quiet::Gone && !is_excluded && self.unwatched.cover(&look.path) {
            return Outcome::LeftToWalk;
        }
        if look.quiet != Quiet::Gone {
            // It waits as deletions do: the file's other name may be about to be looked at.
            let attempt = look.attempt.saturating_add(1);
            return Outcome::Again(FsEvent { quiet: Quiet::Gone, attempt, ..look });
        }
        let observation = Observation { path: look.path.clone(), origin: look.origin, seen: Seen::Missing };
        Outcome::Observed(observation, look_instead(look))
    }

    /// Whether a new file has the name of a known one with a temporary part, and had it for a short time only:
    /// programs that save a file so rename it over the known one as soon as it is written.
    fn may_be_renamed_soon(&self, path: &LibraryPath, stat: &FileStat) -> io::Result<bool> {
        let changed = u64::try_from(stat.ctime_ns).map(Duration::from_nanos).unwrap_or_default();
        let age = since_epoch(SystemTime::now()).checked_sub(changed);
        if age.is_none_or(|age| age >= self.patience.settle) {
            return Ok(false);
        }
        let directory = path.parent().unwrap_or_else(LibraryPath::root);
        for original in originals_of_temporary_name(path.name()) {
            if self.index.row(&directory.join(&original)).map_err(io::Error::other)?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// How long to wait until the file can be called finished; `None` where it is.
    fn unsettled_for(&self, look: &FsEvent, stat: &FileStat, may_be_cut: bool) -> Option<Duration> {
        let modified = u64::try_from(stat.mtime_ns).map(Duration::from_nanos).unwrap_or_default();
        // What was written since then is not complete yet.
        let is_complete = look.complete_at.is_none_or(|complete| modified <= since_epoch(complete))
            && !self.replaced.cover(&look.path);
        let needed = match look.quiet {
            _ if may_be_cut => self.patience.settle,
            Quiet::Renamed if is_complete => return None,
            Quiet::Closed if is_complete => self.patience.debounce,
            _ => self.patience.settle,
        };
        // Not what the hint was told to wait: a program that is about to end waits no longer.
        let stayed = look.seen_at.filter(|_| look.last_seen.as_ref() == Some(stat)).map(|seen_at| seen_at.elapsed());
        if stayed.is_some_and(|stayed| stayed >= needed)
            && (stat.size > 0 || self.empty_for_less(stat, stayed).is_none())
        {
            return None;
        }
        if stat.size == 0
            && let Some(wait) = self.empty_for_less(stat, stayed)
        {
            return Some(wait);
        }
        if may_be_cut {
            // Its time is that of another content, so its age tells nothing.
            return Some(needed.saturating_sub(stayed.unwrap_or_default()).max(SHORTEST_WAIT));
        }
        let now = since_epoch(SystemTime::now());
        match now.checked_sub(modified) {
            Some(age) if age >= needed => None,
            // When it will be old enough, unless it is written to until then.
            Some(age) => Some(needed.saturating_sub(age).max(SHORTEST_WAIT)),
            // A time in the future tells no age: only two looks that far apart do.
            None => Some(needed.saturating_sub(stayed.unwrap_or_default()).max(SHORTEST_WAIT)),
        }
    }

    /// How long to wait until an empty file has been empty for long enough; `None` where it has, by its times or
    /// because it `stayed` so while it was looked at.
    fn empty_for_less(&self, stat: &FileStat, stayed: Option<Duration>) -> Option<Duration> {
        let Patience { empty, ignore_ctime, .. } = self.patience;
        let changed = if ignore_ctime { stat.mtime_ns } else { stat.mtime_ns.max(stat.ctime_ns) };
        let changed = u64::try_from(changed).map(Duration::from_nanos).unwrap_or_default();
        // A time in the future tells no age.
        let age = since_epoch(SystemTime::now()).checked_sub(changed).unwrap_or_default();
        let left = empty.saturating_sub(age.max(stayed.unwrap_or_default()));
        (!left.is_zero()).then(|| left.max(SHORTEST_WAIT))
    }

    /// Whether the kernel said that the file is the one of `source`, and nothing that would change more
    /// than the ctime, which a rename changes too. What is done by another name of it is not told of this one.
    fn is_only_renamed(&self, look: &FsEvent, source: &Row) -> io::Result<bool> {
        if look.renamed_from.as_ref() != Some(&source.path)
            || self.doubts.cover(&source.path)
            || self.doubts.is_held(&look.path)
            || self.unwatched.cover(&source.path)
        {
            return Ok(false);
        }
        self.has_no_other_name(&look.path, source)
    }

    /// Whether the file has one name, and the index knows it by one.
    fn has_no_other_name(&self, path: &LibraryPath, source: &Row) -> io::Result<bool> {
        let FileStat { mount, inode, .. } = source.stat;
        let others = self.index.rows_by_inode(mount, inode, 2).map_err(io::Error::other)?;
        Ok(others.len() == 1 && self.disk.has_one_name(path)?)
    }

    /// The content, if the file was in one state from before the read until after it, and has its name still.
    fn read_whole(&self, look: &FsEvent, stat: &FileStat, known: Option<&Track>) -> io::Result<Option<Track>> {
        let path = &look.path;
        let Some((file, opened)) = self.disk.open(path)? else { return Ok(None) };
        if opened != *stat {
            // Once, another file may have taken its place. A file that is saved again and again has other times.
            if look.attempt >= LOOKS_AT_PASSING_INODES && (FileStat { inode: stat.inode, ..opened }) == *stat {
                self.disk.inodes_do_not_last(stat.mount);
            }
            return Ok(None);
        }
        let track = self.contents.read(&file, path, known)?;
        let has_its_name =
            || self.disk.look_up(&[path]).iter().any(|now| matches!(now, Ok(Entry::File(now)) if now == stat));
        Ok((self.disk.stat(&file)? == *stat && has_its_name()).then_some(track))
    }

    /// The rows of the file with this stat that have other paths.
    pub(super) fn rows_of_file(&self, path: &LibraryPath, stat: &FileStat) -> io::Result<Vec<Row>> {
        if stat.passing_inode {
            return Ok(Vec::new());
        }
        let mut rows = self.index.rows_by_inode(stat.mount, stat.inode, CANDIDATES).map_err(io::Error::other)?;
        // Without a birth time, the inode number may have been given to another file.
        let is_its = |row: &Row| {
            row.stat.is_surely_same_file(stat) || (row.stat.same_file(stat) && row.stat.same_size_and_mtime(stat))
        };
        rows.retain(|row| row.path != *path && is_its(row));
        Ok(rows)
    }

    /// The one row with this content whose file has left its path; none where there are several to choose from.
    fn row_with_content(&self, path: &LibraryPath, track: &Track) -> io::Result<Vec<Row>> {
        let sha256 = &track.fingerprint.sha256;
        let rows = self.index.rows_by_sha256(sha256, CANDIDATES).map_err(io::Error::other)?;
        if rows.len() == CANDIDATES {
            return Ok(Vec::new());
        }
        let rows = those_that(rows, |row| {
            let is_another = |now: &FileStat| !row.stat.same_file(now) && !row.stat.same_size_and_mtime(now);
            Ok(row.path != *path && self.has_left(row, is_another)?)
        })?;
        Ok(if rows.len() == 1 { rows } else { Vec::new() })
    }

    /// Whether the file of a row has left its path for certain: nothing is there any more, or another file.
    ///
    /// What cannot be read now is no source of a move, and no reason either to keep silent about another file. If
    /// the whole root was replaced, neither of the two files is where it was: that is an error.
    fn has_left(&self, row: &Row, is_another: impl Fn(&FileStat) -> bool) -> io::Result<bool> {
        match self.disk.entry(&row.path) {
            Ok(Entry::File(now)) => Ok(is_another(&now)),
            // A disk that has another place now has taken its files along.
            Ok(entry) => Ok(!is_hidden(row, entry) || self.disk.is_elsewhere(row.stat.mount, &row.path)),
            Err(error) if is_root_replaced(&error) => Err(error),
            Err(_) => Ok(false),
        }
    }

    /// The same, judged by the inode.
    pub(super) fn has_left_for_another(&self, row: &Row) -> io::Result<bool> {
        self.has_left(row, |now| !row.stat.same_file(now))
    }

    fn has_rows_beneath(&self, path: &LibraryPath) -> io::Result<bool> {
        let beneath = self.index.rows_after(path, Some(path), 1).map_err(io::Error::other)?;
        Ok(!beneath.is_empty())
    }
}

/// The rows of which `holds` says yes; its first error, if there is one.
fn those_that(rows: Vec<Row>, holds: impl Fn(&Row) -> io::Result<bool>) -> io::Result<Vec<Row>> {
    rows.into_iter().filter_map(|row| holds(&row).map(|holds| holds.then_some(row)).transpose()).collect()
}

/// The file of the path's row, if the look did not find that.
pub(super) fn displaced_by(observation: &Observation, row: &Row) -> Option<FileStat> {
    let is_there = found_by(observation).is_some_and(|found| row.stat.same_file(&found));
    (!is_there).then_some(row.stat)
}

pub(super) fn found_by(observation: &Observation) -> Option<FileStat> {
    match &observation.seen {
        Seen::File { stat, .. } => Some(*stat),
        Seen::Missing => None,
    }
}
/// Whether a row's file may be out of sight only because its filesystem is not mounted here.
fn is_hidden(row: &Row, entry: Entry) -> bool {
    matches!(entry, Entry::Missing { nearest_mount } if row.stat.mount != nearest_mount)
}

/// Whether somebody may just be cutting the file: the kernel changes the size first and the times when
/// that is done, and until then the file looks as old and as finished as it was.
fn may_be_cut(before: &FileStat, now: &FileStat) -> bool {
    before.same_file(now) && before.size != now.size && before.ctime_ns == now.ctime_ns
}

fn since_epoch(time: SystemTime) -> Duration {
    time.duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn look_again(look: FsEvent, wait: Duration, seen: Option<FileStat>) -> FsEvent {
    let seen_at = if seen.is_some() && seen == look.last_seen { look.seen_at } else { seen.map(|_| Instant::now()) };
    FsEvent { quiet: Quiet::Again(wait), last_seen: seen, seen_at, attempt: look.attempt.saturating_add(1), ..look }
}

/// The look to make where what this one found is not true any more when it is to be committed. The walks that
/// waited for this one wait for that one.
fn look_instead(look: FsEvent) -> FsEvent {
    FsEvent { quiet: Quiet::Found, renamed_from: None, ..look_again(look, Duration::ZERO, None) }
}

fn backoff(attempt: u32) -> Duration {
    FIRST_RETRY.saturating_mul(1 << attempt.min(16)).min(LAST_RETRY)
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;
    use crate::disk::RootReplaced;
    use crate::model::{Fingerprint, Metadata, MountId, RenameGroup};

    const SETTLE: Duration = Duration::from_secs(2);

    const HERE: &str = "a.mp3";

    /// A disk with one file, at [`HERE`].
    struct OneFile {
        stat: FileStat,
        has_one_name: bool,
        /// Every other path fails, as if the root had been replaced after the look at this one.
        is_root_replaced: bool,
    }

    impl Disk for OneFile {
        type File = ();

        fn entry(&self, path: &LibraryPath) -> io::Result<Entry> {
            match *path == HERE.into() {
                true => Ok(Entry::File(self.stat)),
                false if self.is_root_replaced => Err(io::Error::other(RootReplaced)),
                false => Ok(Entry::Missing { nearest_mount: MountId::default() }),
            }
        }

        fn open(&self, _: &LibraryPath) -> io::Result<Option<((), FileStat)>> {
            Ok(Some(((), self.stat)))
        }

        fn stat(&self, (): &()) -> io::Result<FileStat> {
            Ok(self.stat)
        }

        fn has_one_name(&self, _: &LibraryPath) -> io::Result<bool> {
            Ok(self.has_one_name)
        }
    }

    struct SomeContent;

    impl Contents<()> for SomeContent {
        fn read(&self, (): &(), _: &LibraryPath, _: Option<&Track>) -> io::Result<Track> {
            Ok(track())
        }
    }

    struct OneRow(Option<Row>);

    impl Index for OneRow {
        type Error = Infallible;

        fn row(&self, path: &LibraryPath) -> Result<Option<Row>, Infallible> {
            Ok(self.0.clone().filter(|row| row.path == *path))
        }

        fn rows_by_inode(&self, _: MountId, _: u64, _: usize) -> Result<Vec<Row>, Infallible> {
            Ok(self.0.iter().cloned().collect())
        }

        fn rows_by_sha256(&self, _: &[u8; 32], _: usize) -> Result<Vec<Row>, Infallible> {
            Ok(Vec::new())
        }

        fn rows_after(
            &self,
            under: &LibraryPath,
            after: Option<&LibraryPath>,
            _: usize,
        ) -> Result<Vec<(LibraryPath, FileStat)>, Infallible> {
            let is_next = |row: &&Row| row.path.is_at_or_under(under) && after.is_none_or(|after| row.path > *after);
            Ok(self.0.iter().filter(is_next).map(|row| (row.path.clone(), row.stat)).collect())
        }

        fn len(&self) -> Result<u64, Infallible> {
            Ok(1)
        }
    }

    fn track() -> Track {
        Track { fingerprint: Fingerprint { sha256: [1; 32], xxh128: 1 }, metadata: Metadata::default() }
    }

    fn age(length: Duration) -> i128 {
        i128::try_from(since_epoch(SystemTime::now() - length).as_nanos()).unwrap()
    }

    fn old(size: u64) -> FileStat {
        let an_hour_ago = age(Duration::from_hours(1));
        FileStat { inode: 7, size, mtime_ns: an_hour_ago, ctime_ns: an_hour_ago, ..FileStat::default() }
    }

    fn examiner(found: FileStat, row: Option<(&str, FileStat)>) -> Examiner<OneFile, SomeContent, OneRow> {
        Examiner {
            disk: OneFile { stat: found, has_one_name: true, is_root_replaced: false },
            contents: SomeContent,
            index: OneRow(row.map(|(path, stat)| Row { path: path.into(), stat, track: track(), first_published: 0 })),
            patience: Patience {
                debounce: Duration::from_millis(50),
                settle: SETTLE,
                empty: Duration::from_mins(1),
                ignore_ctime: false,
            },
            claimed: Holds::new(),
            doubts: Holds::new(),
            replaced: Holds::new(),
            unwatched: Holds::new(),
            renames: Renames::default(),
            verified_bytes: Arc::default(),
        }
    }

    fn look(found: FileStat, row: Option<FileStat>, look: FsEvent) -> Outcome {
        examiner(found, row.map(|stat| (HERE, stat))).examine(look).outcome
    }

    /// An examiner that finds a file under another name than the index has it, and the kernel's hint of that.
    fn renamed() -> (Examiner<OneFile, SomeContent, OneRow>, FsEvent) {
        let committed = old(9);
        let renamed = FileStat { ctime_ns: committed.ctime_ns + 1, ..committed };
        let hint = FsEvent {
            renamed_from: Some("b/old.mp3".into()),
            ..FsEvent::new(HERE.into(), Quiet::Renamed, Origin::Watch)
        };
        (examiner(renamed, Some(("b/old.mp3", committed))), hint)
    }

    fn is_read(outcome: &Outcome) -> bool {
        let (Outcome::New(observation, _) | Outcome::Observed(observation, _)) = outcome else { return false };
        matches!(observation.seen, Seen::File { content: Content::Read(_), .. })
    }

    #[test]
    fn a_rename_is_believed_only_where_nobody_doubts_that_the_file_is_as_it_was() {
        let (examiner, hint) = renamed();
        assert!(matches!(examiner.examine(hint.clone()).outcome, Outcome::Trusted(..)));
        for in_doubt in ["b/old.mp3", "b", "", HERE] {
            let _doubt = examiner.doubts.hold(in_doubt.into());
            assert!(is_read(&examiner.examine(hint.clone()).outcome), "{in_doubt:?}");
        }
        assert!(is_read(&examiner.examine(FsEvent { renamed_from: None, ..hint.clone() }).outcome));
        // Whoever writes to it by its other name tells nothing of this one.
        let two_names = OneFile { has_one_name: false, ..examiner.disk };
        assert!(is_read(&Examiner { disk: two_names, ..examiner }.examine(hint).outcome));
    }

    #[test]
    fn a_file_that_may_have_left_a_root_that_was_replaced_is_not_called_new() {
        let (mut examiner, hint) = renamed();
        examiner.disk.is_root_replaced = true;
        assert!(matches!(examiner.examine(hint).outcome, Outcome::Failed(_)));
        let elsewhere = Observation { path: "b/old.mp3".into(), origin: Origin::Watch, seen: Seen::Missing };
        let look = FsEvent::new(elsewhere.path.clone(), Quiet::Found, Origin::Watch);
        let (confirmed, again) = examiner.confirm([(Outcome::Observed(elsewhere, look), None)], false, || true);
        assert_eq!((confirmed.len(), again.len()), (0, 1));
    }

    #[test]
    fn what_is_gone_where_nobody_tells_of_renames_is_left_to_the_next_walk() {
        let examiner = examiner(old(9), Some(("b/gone.mp3", old(9))));
        let look = |quiet| examiner.examine(FsEvent::new("b/gone.mp3".into(), quiet, Origin::Scan)).outcome;
        assert!(matches!(look(Quiet::Found), Outcome::Again(_)));
        let _polled = examiner.unwatched.hold(LibraryPath::root());
        assert!(matches!(look(Quiet::Found), Outcome::LeftToWalk));
        assert!(matches!(look(Quiet::Gone), Outcome::Observed(Observation { seen: Seen::Missing, .. }, _)));
    }

    #[test]
    fn a_rename_is_committed_unread_only_when_everything_was_heard_that_was_told_before() {
        let (examiner, hint) = renamed();
        let outcome = || [(examiner.examine(hint.clone()).outcome, None)];
        let (observations, looks) = examiner.confirm(outcome(), false, || true);
        assert_eq!((observations.len(), looks.len()), (1, 0));
        let mut doubts = Vec::new();
        for heard in ["b/old.mp3", "b", HERE] {
            let (observations, looks) = examiner.confirm(outcome(), false, || {
                doubts.push(examiner.doubts.hold(heard.into()));
                true
            });
            assert!(observations.is_empty(), "{heard:?}");
            assert_eq!(looks.iter().map(|look| look.renamed_from.clone()).collect::<Vec<_>>(), [None]);
            doubts.clear();
        }
        let (observations, looks) = examiner.confirm(outcome(), false, || false);
        assert_eq!((observations.len(), looks.len()), (0, 1));
    }

    #[test]
    fn of_two_looks_that_found_one_file_the_one_that_is_still_true_is_committed() {
        let (examiner, hint) = renamed();
        let Outcome::Trusted(here, instead) = examiner.examine(hint).outcome else { panic!("not believed") };
        let elsewhere = Observation { path: "a/was-here.mp3".into(), ..here.clone() };
        let look = FsEvent::new(elsewhere.path.clone(), Quiet::Found, Origin::Watch);
        let outcomes =
            [(Outcome::Observed(elsewhere.clone(), look), None), (Outcome::Trusted(here.clone(), instead), None)];
        let (observations, looks) = examiner.confirm(outcomes, false, || true);
        assert_eq!(observations.into_iter().map(|(found, _)| found).collect::<Vec<_>>(), [here]);
        assert_eq!(looks.into_iter().map(|look| look.path).collect::<Vec<_>>(), [elsewhere.path]);
    }

    #[test]
    fn what_was_beneath_a_directory_whose_name_a_file_has_now_is_looked_at() {
        let beneath = "a.mp3/b.mp3";
        let examiner = examiner(old(9), Some((beneath, FileStat { inode: 8, ..old(9) })));
        let look_under = |origin| examiner.examine(FsEvent::new(HERE.into(), Quiet::Renamed, origin)).look_under;
        assert!(look_under(Origin::Watch) && !look_under(Origin::Scan));
    }

    #[test]
    fn no_deletion_is_told_by_a_look_that_did_not_wait_as_deletions_do() {
        let (examiner, _) = renamed();
        for quiet in [Quiet::Found, Quiet::Renamed, Quiet::Closed] {
            let hint = FsEvent::new("b/old.mp3".into(), quiet, Origin::Watch);
            let Outcome::Again(waiting) = examiner.examine(hint).outcome else { panic!("{quiet:?} did not wait") };
            assert_eq!(waiting.quiet, Quiet::Gone);
            let Outcome::Observed(gone, _) = examiner.examine(waiting).outcome else { panic!("it waits for ever") };
            assert_eq!(gone.seen, Seen::Missing);
        }
    }

    #[test]
    fn an_old_name_is_not_called_gone_while_a_look_at_the_new_one_is_on_its_way() {
        let (examiner, hint) = renamed();
        let gone = || FsEvent::new("b/old.mp3".into(), Quiet::Gone, Origin::Watch);
        let on_its_way = examiner.examine(FsEvent { renamed_from: None, ..hint });
        assert!(is_read(&on_its_way.outcome));
        assert!(matches!(examiner.examine(gone()).outcome, Outcome::Again(_)));
        drop(on_its_way);
        let outcome = examiner.examine(gone()).outcome;
        assert!(matches!(outcome, Outcome::Observed(observation, _) if observation.seen == Seen::Missing));
    }

    #[test]
    fn a_walk_waits_for_the_look_that_takes_the_place_of_one_that_was_overtaken() {
        let (examiner, hint) = renamed();
        let waits = Arc::new(());
        let walks = vec![Token::new(Arc::clone(&waits))];
        let Examined { outcome, tokens, .. } = examiner.examine(FsEvent { walks, renamed_from: None, ..hint });
        let touched = FileStat { ctime_ns: examiner.disk.stat.ctime_ns + 1, ..examiner.disk.stat };
        let examiner = Examiner { disk: OneFile { stat: touched, ..examiner.disk }, ..examiner };
        let (observations, mut looks) = examiner.confirm([(outcome, None)], false, || true);
        drop(tokens);
        assert!(observations.is_empty() && looks.len() == 1 && Arc::strong_count(&waits) > 1);
        // But not for ever, where the file changes all the time.
        let last = FsEvent { attempt: OTHERS_WAIT_FOR, ..looks.remove(0) };
        let Outcome::Observed(_, instead) = examiner.examine(last).outcome else { panic!("nothing was found") };
        assert!(instead.walks.is_empty() && Arc::strong_count(&waits) == 1);
    }

    #[test]
    fn a_file_that_changed_its_size_and_not_its_times_is_being_cut_and_must_stay_like_that_to_be_finished() {
        let committed = old(9);
        let cut = FileStat { size: 0, ..committed };
        for quiet in [Quiet::Found, Quiet::Closed, Quiet::Renamed] {
            let first = look(cut, Some(committed), FsEvent::new("a.mp3".into(), quiet, Origin::Watch));
            let Outcome::Again(again) = first else { panic!("{first:?}") };
            assert_eq!((again.quiet, again.last_seen), (Quiet::Again(SETTLE), Some(cut)));
            // Where the kernel's clock is coarse it may stay like that for good. The wait is measured, not believed.
            assert!(matches!(look(cut, Some(committed), again.clone()), Outcome::Again(_)));
            let again = FsEvent { seen_at: again.seen_at.and_then(|at| at.checked_sub(SETTLE)), ..again };
            assert!(is_read(&look(cut, Some(committed), again)));
        }
        // Nothing was committed yet, but an earlier look saw more of it.
        let seen = FsEvent { last_seen: Some(committed), ..FsEvent::new("a.mp3".into(), Quiet::Found, Origin::Scan) };
        assert!(matches!(look(cut, None, seen), Outcome::Again(_)));
    }

    #[test]
    fn an_empty_file_must_stay_empty_to_be_finished_however_old_it_looks_and_whoever_closed_it() {
        let empty = old(0);
        for quiet in [Quiet::Found, Quiet::Closed, Quiet::Renamed] {
            let hint = FsEvent::new(HERE.into(), quiet, Origin::Watch);
            let Outcome::Again(again) = look(empty, None, hint.clone()) else { panic!("{quiet:?} did not wait") };
            assert_eq!(again.quiet, Quiet::Again(SETTLE));
            let again = FsEvent { seen_at: again.seen_at.and_then(|at| at.checked_sub(SETTLE)), ..again };
            assert!(is_read(&look(empty, None, again)));
            assert!(is_read(&look(old(1), None, hint)), "one with something in it is believed at once");
        }
    }

    #[test]
    fn a_file_that_was_just_made_or_emptied_is_finished_when_it_was_empty_for_a_minute() {
        let now = age(Duration::ZERO);
        let minute = Duration::from_mins(1);
        let emptied = FileStat { size: 0, mtime_ns: now, ctime_ns: now, ..old(9) };
        let with_an_old_time = FileStat { mtime_ns: old(9).mtime_ns, ..emptied };
        let with_a_time_to_come = FileStat { mtime_ns: i64::MAX.into(), ..emptied };
        for (found, row) in [
            (emptied, None),
            (emptied, Some(old(9))),
            (with_an_old_time, Some(old(9))),
            (with_an_old_time, None),
            (with_a_time_to_come, None),
        ] {
            for quiet in [Quiet::Found, Quiet::Created, Quiet::Closed, Quiet::Renamed] {
                let walks = vec![Token::new(())];
                let group = RenameGroup::new(Duration::from_hours(1));
                let (member_of, waves) = (vec![group.join()], vec![Token::new(())]);
                let ties = Ties { member_of, waves, ..Ties::default() };
                let hint = FsEvent { walks, ties, ..FsEvent::new(HERE.into(), quiet, Origin::Watch) };
                let Outcome::Again(again) = look(found, row, hint) else { panic!("{found:?} did not wait") };
                let Quiet::Again(wait) = again.quiet else { panic!("{:?}", again.quiet) };
                assert!(wait > minute * 9 / 10 && wait <= minute, "{wait:?}");
                assert!(again.walks.is_empty() && again.ties.waves.is_empty(), "deletes wait for it");
                assert_eq!(group.members(), 0, "the looks at other paths wait for it");
                let after = |waited| {
                    let seen_at = again.seen_at.and_then(|at| at.checked_sub(waited));
                    look(found, row, FsEvent { seen_at, ..again.clone() })
                };
                assert!(matches!(after(minute / 2), Outcome::Again(_)));
                assert!(is_read(&after(minute)));
            }
        }
        // It got its content meanwhile.
        let seen = FsEvent { last_seen: Some(emptied), ..FsEvent::new(HERE.into(), Quiet::Closed, Origin::Watch) };
        let written = FileStat { mtime_ns: age(Duration::from_secs(1)), ..old(9) };
        assert!(is_read(&look(written, None, seen)));
        // It was renamed, and is in the index as it is.
        let hint = FsEvent::new(HERE.into(), Quiet::Renamed, Origin::Watch);
        let committed = FileStat { ctime_ns: with_an_old_time.mtime_ns, ..with_an_old_time };
        assert!(is_read(&look(with_an_old_time, Some(committed), hint)));
    }

    #[test]
    fn a_row_that_the_rules_leave_out_is_deleted_also_where_only_walks_find_that_files_are_gone() {
        struct LeftOut;

        impl Disk for LeftOut {
            type File = ();

            fn entry(&self, _: &LibraryPath) -> io::Result<Entry> {
                Ok(Entry::Excluded)
            }

            fn open(&self, _: &LibraryPath) -> io::Result<Option<((), FileStat)>> {
                panic!("it was opened")
            }

            fn stat(&self, (): &()) -> io::Result<FileStat> {
                panic!("it was opened")
            }

            fn has_one_name(&self, _: &LibraryPath) -> io::Result<bool> {
                panic!("it was looked at")
            }
        }

        // On a filesystem that may be mounted or not.
        let examiner = examiner(old(9), Some((HERE, FileStat { mount: MountId(7), ..old(9) })));
        let Examiner { contents, index, patience, claimed, doubts, replaced, unwatched, .. } = examiner;
        let (renames, verified_bytes) = (Renames::default(), Arc::default());
        let examiner = Examiner {
            disk: LeftOut,
            contents,
            index,
            patience,
            claimed,
            doubts,
            replaced,
            unwatched,
            renames,
            verified_bytes,
        };
        let _polled = examiner.unwatched.hold(LibraryPath::root());
        let look = |path: &str, quiet| examiner.examine(FsEvent::new(path.into(), quiet, Origin::Scan)).outcome;
        let Outcome::Again(again) = look(HERE, Quiet::Found) else { panic!("it did not wait as deletions do") };
        let gone = examiner.examine(again).outcome;
        assert!(matches!(gone, Outcome::Observed(Observation { seen: Seen::Missing, .. }, _)));
        assert!(matches!(look("unknown.mp3", Quiet::Closed), Outcome::Unchanged));
    }

    #[test]
    fn a_close_or_a_rename_says_nothing_of_what_was_written_after_it() {
        let a_second_ago = FileStat { mtime_ns: age(Duration::from_secs(1)), ..old(9) };
        for quiet in [Quiet::Closed, Quiet::Renamed] {
            let complete = |ago| FsEvent {
                complete_at: Some(SystemTime::now() - ago),
                ..FsEvent::new("a.mp3".into(), quiet, Origin::Watch)
            };
            assert!(is_read(&look(a_second_ago, None, complete(Duration::from_millis(900)))));
            assert!(matches!(look(a_second_ago, None, complete(Duration::from_millis(1100))), Outcome::Again(_)));
            // Nor of a file in a directory that took the place of the one that was told of.
            let examiner = examiner(a_second_ago, None);
            let _replaced = examiner.replaced.hold(LibraryPath::root());
            let look = examiner.examine(complete(Duration::from_millis(900)));
            assert!(matches!(look.outcome, Outcome::Again(_)));
        }
    }
}
