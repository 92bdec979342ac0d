//! One look at one path: what is there, is it finished, and what is in it.

use std::io;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::disk::{Disk, Entry};
use crate::model::{
    Change, Content, FileEvent, FileStat, FsEvent, Index, LibraryPath, Observation, Quiet, Row, Seen, Token, Track,
};
use crate::stream::Holds;

/// How many rows with one content or inode are looked at before it is called ambiguous.
const CANDIDATES: usize = 32;

/// Waits between looks at a file that keeps changing: doubled each time, from this to that.
const FIRST_RETRY: Duration = Duration::from_millis(100);
/// Shorter waits would only be looks in vain: timers and file times are not that exact.
const SHORTEST_WAIT: Duration = Duration::from_millis(10);
const LAST_RETRY: Duration = Duration::from_secs(30);

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
    /// Paths whose content is hinted to have changed and was not looked at since: no rename of them is trusted.
    pub dirty: Holds,
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
}

/// What a look found.
#[derive(Debug)]
pub enum Outcome {
    /// Something to compare with the index.
    Observed(Observation),
    /// Everything is as the index has it.
    Unchanged,
    /// The file is not finished, or changed under the look.
    Again(FsEvent),
    /// Nothing could be found out: the row stays as it is, and the next walk looks again.
    Failed(io::Error),
}

impl<D: Disk, C: Contents<D::File>, I: Index> Examiner<D, C, I> {
    /// Looks at a path. Blocks for as long as reading the file takes.
    pub fn examine(&self, mut look: FsEvent) -> Examined {
        let path = look.path.clone();
        let mut tokens = std::mem::take(&mut look.walks);
        // Also here until the commit: `Again` takes the holds along, and every other outcome lets go of them then.
        tokens.extend(look.holds.iter().cloned());
        let mut look_under = false;
        let outcome = self.outcome(look, &mut tokens, &mut look_under).unwrap_or_else(Outcome::Failed);
        Examined { path, outcome, look_under, tokens }
    }

    /// Where the disk is no longer as it was found, of the paths whose rows were just committed.
    ///
    /// To be asked after every commit. Between a look and its commit a walk may have passed, which compared
    /// the disk with the row before and so found nothing to say: after `mv d e` and `mv e d`, no event names
    /// the files either. A path that is as committed now was not missed, and later changes have hints of their own.
    pub fn overtaken(&self, observations: &[Observation], changes: &[FileEvent]) -> Vec<LibraryPath> {
        let looked_at = observations.iter().map(|observation| {
            let found = match &observation.seen {
                Seen::File { stat, .. } => Some(*stat),
                Seen::Missing => None,
            };
            (&observation.path, found)
        });
        let sources = changes.iter().filter_map(|event| match &event.change {
            Change::Moved { from, .. } => Some((from, None)),
            _ => None,
        });
        let is_overtaken = |path: &LibraryPath, found: Option<FileStat>| match self.disk.entry(path) {
            Ok(Entry::File(stat)) => found != Some(stat),
            Ok(_) => found.is_some(),
            // Nothing can be said of it now; that which can no longer be read is walked again anyway.
            Err(_) => false,
        };
        looked_at
            .chain(sources)
            .filter(|(path, found)| is_overtaken(path, *found))
            .map(|(path, _)| path.clone())
            .collect()
    }

    fn outcome(&self, look: FsEvent, tokens: &mut Vec<Token>, look_under: &mut bool) -> io::Result<Outcome> {
        let row = self.index.row(&look.path).map_err(io::Error::other)?;
        let entry = self.disk.entry(&look.path)?;
        let Entry::File(stat) = entry else {
            *look_under = entry == Entry::Directory || self.has_rows_beneath(&look.path)?;
            return self.gone(look, entry, row.as_ref());
        };
        if !look.written && row.as_ref().is_some_and(|row| row.stat.is_unchanged(&stat, self.patience.ignore_ctime)) {
            return Ok(Outcome::Unchanged);
        }
        let was_here = row.as_ref().is_some_and(|row| row.stat.same_file(&stat));
        let same_inode = if was_here { Vec::new() } else { self.vanished_with_inode(&look.path, &stat)? };
        // Nothing was written since it was committed, however young that is: it only changed its name or attributes.
        let was_finished =
            row.iter().filter(|_| was_here).chain(&same_inode).any(|row| row.stat.same_size_and_mtime(&stat));
        // An empty file is one that was cut to be written anew, more often than not.
        let may_be_cut = stat.size == 0
            || row.iter().map(|row| &row.stat).chain(&look.last_seen).any(|before| may_be_cut(before, &stat));
        if !was_finished && let Some(wait) = self.unsettled_for(&look, &stat, may_be_cut) {
            return Ok(Outcome::Again(look_again(look, wait, Some(stat))));
        }
        tokens.extend(same_inode.iter().map(|row| Token::new(self.claimed.hold(row.path.clone()))));
        let observed = |content, candidates| {
            let seen = Seen::File { stat, content, candidates };
            Outcome::Observed(Observation { path: look.path.clone(), origin: look.origin, seen })
        };
        if let [source] = same_inode.as_slice()
            && self.is_trusted(&look, &stat, source)
        {
            return Ok(observed(Content::MovedFrom(source.path.clone()), Vec::new()));
        }

        let known = row.as_ref().or(same_inode.first()).map(|row| &row.track);
        let Some(track) = self.read_whole(&look.path, &stat, known)? else {
            let wait = backoff(look.attempt);
            return Ok(Outcome::Again(look_again(look, wait, None)));
        };
        let mut candidates: Vec<LibraryPath> = same_inode.into_iter().map(|row| row.path).collect();
        if !was_here {
            let same_content = self.vanished_with_content(&look.path, &track)?;
            tokens.extend(same_content.iter().map(|row| Token::new(self.claimed.hold(row.path.clone()))));
            candidates.extend(same_content.into_iter().map(|row| row.path));
        }
        Ok(observed(Content::Read(track), candidates))
    }

    /// No regular file is at the path.
    fn gone(&self, look: FsEvent, entry: Entry, row: Option<&Row>) -> io::Result<Outcome> {
        let Some(row) = row else { return Ok(Outcome::Unchanged) };
        if self.claimed.is_held(&look.path) {
            return Ok(Outcome::Again(look_again(look, FIRST_RETRY, None)));
        }
        if look.generation.is_some_and(|generation| generation != self.disk.generation()) {
            // It went away with a root that is no longer the root: the walk of this one will tell.
            return Ok(Outcome::Unchanged);
        }
        if is_hidden(row, entry) {
            return Err(io::Error::other("the filesystem that the file was on is not mounted here"));
        }
        Ok(Outcome::Observed(Observation { path: look.path, origin: look.origin, seen: Seen::Missing }))
    }

    /// How long to wait until the file can be called finished; `None` where it is.
    fn unsettled_for(&self, look: &FsEvent, stat: &FileStat, may_be_cut: bool) -> Option<Duration> {
        let modified = u64::try_from(stat.mtime_ns).map(Duration::from_nanos).unwrap_or_default();
        // What was written since then is not complete yet.
        let is_complete = look.complete_at.is_none_or(|complete| modified <= since_epoch(complete));
        let needed = match look.quiet {
            _ if may_be_cut => self.patience.settle,
            Quiet::Renamed if is_complete => return None,
            Quiet::Closed if is_complete => self.patience.debounce,
            _ => self.patience.settle,
        };
        // Not what the hint was told to wait: a program that is about to end waits no longer.
        let stayed = look.seen_at.filter(|_| look.last_seen.as_ref() == Some(stat)).map(|seen_at| seen_at.elapsed());
        if stayed.is_some_and(|stayed| stayed >= needed) {
            return None;
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

    /// Whether the file is the one of `source` without reading it: nothing about it changed but its
    /// name, or only the ctime, which a rename changes too.
    fn is_trusted(&self, look: &FsEvent, stat: &FileStat, source: &Row) -> bool {
        let untouched = source.stat.is_unchanged(stat, self.patience.ignore_ctime);
        let renamed = look.renamed_from.as_ref() == Some(&source.path);
        !look.written && !self.dirty.is_held(&source.path) && (untouched || renamed)
    }

    /// The content, if the file was in one state from before the read until after it, and has its name still.
    fn read_whole(&self, path: &LibraryPath, stat: &FileStat, known: Option<&Track>) -> io::Result<Option<Track>> {
        let Some((file, opened)) = self.disk.open(path)? else { return Ok(None) };
        if opened != *stat {
            return Ok(None);
        }
        let track = self.contents.read(&file, path, known)?;
        let unchanged = self.disk.stat(&file)? == *stat && self.disk.entry(path)? == Entry::File(*stat);
        Ok(unchanged.then_some(track))
    }

    fn vanished_with_inode(&self, path: &LibraryPath, stat: &FileStat) -> io::Result<Vec<Row>> {
        let mut rows = self.index.rows_by_inode(stat.device, stat.inode, CANDIDATES).map_err(io::Error::other)?;
        rows.retain(|row| row.path != *path && row.stat.same_size_and_mtime(stat) && self.is_vanished(row));
        Ok(rows)
    }

    /// The one vanished row with this content; none where there are several to choose from.
    fn vanished_with_content(&self, path: &LibraryPath, track: &Track) -> io::Result<Vec<Row>> {
        let sha256 = &track.fingerprint.sha256;
        let mut rows = self.index.rows_by_sha256(sha256, CANDIDATES).map_err(io::Error::other)?;
        if rows.len() == CANDIDATES {
            return Ok(Vec::new());
        }
        rows.retain(|row| row.path != *path && self.is_vanished(row));
        Ok(if rows.len() == 1 { rows } else { Vec::new() })
    }

    /// Whether the file of a row is proved to be gone: what cannot be read now is no source of a move,
    /// and no reason either to keep silent about another file.
    fn is_vanished(&self, row: &Row) -> bool {
        match self.disk.entry(&row.path) {
            Ok(Entry::File(_)) | Err(_) => false,
            Ok(entry) => !is_hidden(row, entry),
        }
    }

    fn has_rows_beneath(&self, path: &LibraryPath) -> io::Result<bool> {
        let beneath = self.index.rows_after(path, Some(path), 1).map_err(io::Error::other)?;
        Ok(!beneath.is_empty())
    }
}

/// Whether a row's file may be out of sight only because its filesystem is not mounted.
fn is_hidden(row: &Row, entry: Entry) -> bool {
    matches!(entry, Entry::Missing { nearest_device } if row.stat.device != 0 && row.stat.device != nearest_device)
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

fn backoff(attempt: u32) -> Duration {
    FIRST_RETRY.saturating_mul(1 << attempt.min(16)).min(LAST_RETRY)
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;
    use crate::model::{Fingerprint, Metadata, Origin};

    const SETTLE: Duration = Duration::from_secs(2);

    /// A disk with one file.
    struct OneFile(FileStat);

    impl Disk for OneFile {
        type File = ();

        fn entry(&self, _: &LibraryPath) -> io::Result<Entry> {
            Ok(Entry::File(self.0))
        }

        fn open(&self, _: &LibraryPath) -> io::Result<Option<((), FileStat)>> {
            Ok(Some(((), self.0)))
        }

        fn stat(&self, (): &()) -> io::Result<FileStat> {
            Ok(self.0)
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

        fn row(&self, _: &LibraryPath) -> Result<Option<Row>, Infallible> {
            Ok(self.0.clone())
        }

        fn rows_by_inode(&self, _: u64, _: u64, _: usize) -> Result<Vec<Row>, Infallible> {
            Ok(self.0.iter().cloned().collect())
        }

        fn rows_by_sha256(&self, _: &[u8; 32], _: usize) -> Result<Vec<Row>, Infallible> {
            Ok(Vec::new())
        }

        fn rows_after(
            &self,
            _: &LibraryPath,
            _: Option<&LibraryPath>,
            _: usize,
        ) -> Result<Vec<(LibraryPath, FileStat)>, Infallible> {
            Ok(Vec::new())
        }

        fn len(&self) -> Result<u64, Infallible> {
            Ok(1)
        }
    }

    fn track() -> Track {
        Track { fingerprint: Fingerprint { sha256: [1; 32], xxh128: 1 }, metadata: Metadata::default() }
    }

    fn age(length: Duration) -> i64 {
        i64::try_from(since_epoch(SystemTime::now() - length).as_nanos()).unwrap()
    }

    fn old(size: u64) -> FileStat {
        let an_hour_ago = age(Duration::from_hours(1));
        FileStat { device: 0, inode: 7, size, mtime_ns: an_hour_ago, ctime_ns: an_hour_ago }
    }

    fn look(found: FileStat, row: Option<FileStat>, look: FsEvent) -> Outcome {
        let row = row.map(|stat| Row { path: look.path.clone(), stat, track: track() });
        let patience = Patience { debounce: Duration::from_millis(50), settle: SETTLE, ignore_ctime: false };
        let (claimed, dirty) = (Holds::new(), Holds::new());
        Examiner { disk: OneFile(found), contents: SomeContent, index: OneRow(row), patience, claimed, dirty }
            .examine(look)
            .outcome
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
            assert!(matches!(look(cut, Some(committed), again), Outcome::Observed(_)));
        }
        // Nothing was committed yet, but an earlier look saw more of it.
        let seen = FsEvent { last_seen: Some(committed), ..FsEvent::new("a.mp3".into(), Quiet::Found, Origin::Scan) };
        assert!(matches!(look(cut, None, seen), Outcome::Again(_)));
    }

    #[test]
    fn a_close_or_a_rename_says_nothing_of_what_was_written_after_it() {
        let a_second_ago = FileStat { mtime_ns: age(Duration::from_secs(1)), ..old(9) };
        for quiet in [Quiet::Closed, Quiet::Renamed] {
            let complete = |ago| FsEvent {
                complete_at: Some(SystemTime::now() - ago),
                ..FsEvent::new("a.mp3".into(), quiet, Origin::Watch)
            };
            assert!(matches!(look(a_second_ago, None, complete(Duration::from_millis(900))), Outcome::Observed(_)));
            assert!(matches!(look(a_second_ago, None, complete(Duration::from_millis(1100))), Outcome::Again(_)));
        }
    }
}
