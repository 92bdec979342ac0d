//! One look at one path: what is there, whether it is settled, and what it contains.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::outcome::{Examined, Outcome, displaced_by};
use super::previous::{PreviousRows, UnreadMove, is_hidden};
use super::read::READ_AT_ONCE;
use super::settle::{FIRST_RETRY, SettlePolicy, backoff};
use crate::disk::{Disk, Entry, Place};
use crate::engine::SharedEngine;
use crate::model::{
    Cause, Content, FileStat, FsEvent, Index, LibraryPath, Observation, Origin, Row, Seen, Sighting, Token, Track,
};

/// After this many looks, a file that had another inode number at each of them and always the same times is taken
/// for one file on a filesystem whose inode numbers are not stable.
const LOOKS_AT_UNSTABLE_INODES: u32 = 2;

/// For how many looks at a file that does not settle walks wait before they publish deletes, because a deleted path may
/// be the old name of the file. A file that is written without end must not delay deletes without end.
pub(super) const WALKS_WAIT_FOR: u32 = 3;

/// Reads the content of open files. Tests use a model instead.
pub trait Contents<F> {
    /// Hashes the whole file and reads its metadata. If `known` has the same hashes, its metadata is used. A scan leaves
    /// in the page cache what was there before.
    ///
    /// # Errors
    ///
    /// If the file cannot be read.
    fn read(&self, file: &F, path: &LibraryPath, known: Option<&Track>, origin: Origin) -> io::Result<Track>;
}

/// Examines paths.
#[derive(Clone, Debug)]
pub struct Examiner<D, C, I> {
    /// The disk.
    pub disk: D,
    /// The reader of files.
    pub contents: C,
    /// The index.
    pub index: I,
    /// When a file is settled or unchanged.
    pub settle_policy: SettlePolicy,
    /// Which paths are in doubt, claimed, replaced or unwatched, and which renames are in progress.
    pub engine: SharedEngine,
    /// Bytes of files that were read and turned out to be only renamed.
    pub verified_bytes: Arc<AtomicU64>,
}

/// A regular file that a look found.
struct Found {
    stat: FileStat,
    place: Place,
}

/// The result of a look before it is tied to others.
struct Looked {
    outcome: Outcome,
    /// Claims on the paths that the file may have been moved from.
    claims: Vec<Token>,
}

impl From<Outcome> for Looked {
    fn from(outcome: Outcome) -> Self {
        Self { outcome, claims: Vec::new() }
    }
}

impl<D: Disk, C: Contents<D::File>, I: Index> Examiner<D, C, I> {
    /// Examines the path of a hint. Blocks while the file is read.
    pub fn examine(&self, look: FsEvent) -> Examined {
        let path = look.path.clone();
        // The result keeps them too, so that they live until the commit if there is no further look to carry them.
        let mut tokens: Vec<Token> = look.guards.walks.iter().chain(&look.guards.holds).cloned().collect();
        let row_and_entry = self.index.row(&path).map_err(io::Error::other).and_then(|row| {
            let (entry, place) = self.disk.find(&path)?;
            Ok((row, entry, place, self.has_subtree(&look, entry)?))
        });
        let (row, entry, place, look_under) = match row_and_entry {
            Ok(found) => found,
            Err(error) => return Examined { tokens, ..Examined::failed(path, error) },
        };
        let row = row.as_ref();
        let left_in_doubt = !look.guards.holds.is_empty() && !matches!(entry, Entry::File(_));
        let Looked { mut outcome, claims } = match entry {
            Entry::File(stat) => self
                .look_at_file(look, &Found { stat, place }, row)
                .unwrap_or_else(|error| Outcome::Failed(error).into()),
            Entry::Directory | Entry::Other | Entry::Missing { .. } | Entry::Excluded { .. } => {
                self.look_at_gone(look, entry, row).into()
            }
        };
        tokens.extend(claims);
        let displaced = row.zip(outcome.observation()).and_then(|(row, observation)| displaced_by(observation, row));
        if let Some(next) = outcome.look_mut() {
            self.tie(next, displaced);
        }
        Examined { path, outcome, look_under, tokens, left_in_doubt, displaced }
    }

    /// Whether there is, or was, something under the path that has to be walked.
    fn has_subtree(&self, look: &FsEvent, entry: Entry) -> io::Result<bool> {
        match entry {
            Entry::Directory => Ok(true),
            // A walk compares the whole subtree anyway. An event may be the only sign that a directory became a file.
            Entry::File(_) if look.origin != Origin::Watch => Ok(false),
            Entry::File(_) | Entry::Other | Entry::Missing { .. } | Entry::Excluded { .. } => {
                let under = self.index.rows_after(&look.path, Some(&look.path), 1).map_err(io::Error::other)?;
                Ok(!under.is_empty())
            }
        }
    }

    /// Limits which walks wait for the next look, and ties it to the looks that may find the displaced file.
    fn tie(&self, next: &mut FsEvent, displaced: Option<FileStat>) {
        if next.retry.attempt > WALKS_WAIT_FOR {
            // The look stays a member of its groups: their own limits say how long others wait for it.
            next.guards.walks.clear();
            next.guards.ties.waves.clear();
        }
        if displaced.is_some() {
            let mut groups =
                self.engine.with(|engine| engine.renames().that_may_find_what_left(&next.path, &next.guards.ties));
            next.guards.ties.left_in.append(&mut groups);
        }
    }

    /// Looks at a path with a regular file.
    fn look_at_file(&self, look: FsEvent, found: &Found, row: Option<&Row>) -> io::Result<Looked> {
        let stat = found.stat;
        if !look.evidence.written && row.is_some_and(|row| row.stat.is_unchanged(&stat, self.ignores_ctime_for(&look)))
        {
            return Ok(Outcome::Unchanged.into());
        }
        let previous = self.previous_rows(&look, &stat, row)?;
        if let Some(wait) = self.wait_before_reading(&look, &stat, row, &previous)? {
            return Ok(self.look_when_settled(look, stat, wait, &previous).into());
        }
        let mut claims: Vec<Token> = previous.rows.iter().map(|row| self.claim(row)).collect();
        match self.identify(look, found, row, previous) {
            Ok((outcome, claim)) => {
                claims.extend(claim);
                Ok(Looked { outcome, claims })
            }
            // The claims live until the failure is handled.
            Err(error) => Ok(Looked { outcome: Outcome::Failed(error), claims }),
        }
    }

    /// Whether a difference in ctime alone is ignored. If a renamed file was written before, and its modification time
    /// restored, only the ctime shows that.
    pub(super) fn ignores_ctime_for(&self, look: &FsEvent) -> bool {
        self.settle_policy.ignore_ctime && !look.evidence.doubtful
    }

    /// The file is not settled: look again after the wait.
    fn look_when_settled(&self, look: FsEvent, stat: FileStat, wait: Duration, previous: &PreviousRows) -> Outcome {
        let is_renamed = look.cause == Cause::Renamed || look.retry.is_renamed;
        let mut next = look_again(look, wait, Some(stat));
        next.retry.is_renamed = is_renamed;
        if stat.size == 0 && wait > self.settle_policy.settle {
            // It may stay empty for a minute, and an empty file is seldom a known one renamed: deletes do not wait.
            next.guards.walks.clear();
            next.guards.ties.waves.clear();
            if previous.rows.is_empty() {
                next.guards.ties.member_of.clear();
            }
        }
        Outcome::Again(next)
    }

    /// Finds out the content of a settled file, and which rows it may have been moved from. With the outcome comes
    /// the claim on the path of a row that was found by its content.
    fn identify(
        &self,
        look: FsEvent,
        found: &Found,
        row: Option<&Row>,
        previous: PreviousRows,
    ) -> io::Result<(Outcome, Option<Token>)> {
        let stat = found.stat;
        let observed = |look: &FsEvent, content, candidates| Observation {
            path: look.path.clone(),
            origin: look.origin,
            seen: Seen::File { stat, content, candidates },
        };
        if let [source] = previous.rows.as_slice()
            && let Some(unread) = self.unread_move(&look, &stat, source)?
        {
            let moved = observed(&look, Content::MovedFrom(source.path.clone()), Vec::new());
            let outcome = match unread {
                UnreadMove::Unchanged => Outcome::Observed(moved, look_instead(look)),
                UnreadMove::Renamed => Outcome::Trusted(moved, look_instead(look)),
            };
            return Ok((outcome, None));
        }

        let known = row.or(previous.rows.first()).map(|row| &*row.track);
        let Some(track) = self.read_whole(&look, found, known)? else {
            let wait = backoff(look.retry.attempt);
            return Ok((Outcome::Again(look_again(look, wait, None)), None));
        };
        let is_as_it_was =
            |row: &Row| row.stat.is_surely_same_file(&stat) && row.track.fingerprint == track.fingerprint;
        if previous.rows.iter().any(is_as_it_was) {
            self.verified_bytes.fetch_add(stat.size, Ordering::Relaxed);
        }
        let by_content = if previous.was_here { None } else { self.row_with_content(&look.path, &track)? };
        let claim = by_content.as_ref().map(|row| self.claim(row));
        let mut candidates: Vec<LibraryPath> =
            previous.rows.into_iter().chain(by_content).map(|row| row.path).collect();
        if previous.was_here {
            // By the time of the commit, the row may be at another path.
            candidates.push(look.path.clone());
        }
        let is_new = row.is_none() && candidates.is_empty() && !previous.is_known_elsewhere;
        let observation = observed(&look, Content::Read(track.into()), candidates);
        let instead = look_instead(look);
        let outcome = if is_new { Outcome::New(observation, instead) } else { Outcome::Observed(observation, instead) };
        Ok((outcome, claim))
    }

    /// Claims the path of a row as the old path of a file, until the token is dropped.
    fn claim(&self, row: &Row) -> Token {
        self.engine.trust(|trust| trust.claim(&row.path))
    }

    /// Looks at a path without a regular file.
    fn look_at_gone(&self, mut look: FsEvent, entry: Entry, row: Option<&Row>) -> Outcome {
        let Some(row) = row else { return Outcome::Unchanged };
        // No file of a group has come here, so no look has to wait for this one.
        look.guards.ties.member_of.clear();
        if self.engine.trust(|trust| trust.is_claimed(&look.path)) {
            return Outcome::Again(look_again(look, FIRST_RETRY, None));
        }
        if look.guards.generation.is_some_and(|generation| generation != self.disk.generation()) {
            // The hint is about a root that has been replaced since. The walk of the new root decides.
            return Outcome::Unchanged;
        }
        let is_held = is_hidden(row, entry) && !self.disk.is_elsewhere(row.stat.mount, &row.path);
        if is_held && !look.guards.approved {
            return Outcome::Held;
        }
        // An excluded path is deleted even if its file has another name now, so that name need not be found first.
        let is_excluded = matches!(entry, Entry::Excluded { .. });
        if look.cause != Cause::Gone && !is_excluded && self.engine.trust(|trust| trust.is_unwatched(&look.path)) {
            return Outcome::LeftToWalk;
        }
        if look.cause != Cause::Gone {
            // Wait as a delete does: there may soon be a look at the file's new path.
            look.retry.attempt = look.retry.attempt.saturating_add(1);
            return Outcome::Again(look.because(Cause::Gone));
        }
        let observation = Observation { path: look.path.clone(), origin: look.origin, seen: Seen::Missing };
        Outcome::Observed(observation, look_instead(look))
    }

    /// The content of the file; `None` if the file changed during the read, or lost its name.
    ///
    /// In one look a path is stat'ed several times, and no stat replaces another. [`Disk::entry`] finds what the
    /// directory lists under exactly this name; all decisions up to here rest on it. The stat of the open file shows
    /// that this very file was opened. The same stat after the read shows that it was not written meanwhile, and that its
    /// name still leads to it: while the file is open, no other one has its inode number. After a long read, the whole
    /// path is looked up for that. After a short one, as many directories may have been renamed as between the look and
    /// its commit, and [`Examiner::overtaken`] finds both.
    fn read_whole(&self, look: &FsEvent, found: &Found, known: Option<&Track>) -> io::Result<Option<Track>> {
        let (path, stat) = (&look.path, &found.stat);
        let Some((file, opened)) = self.disk.open_at(&found.place, path)? else { return Ok(None) };
        if opened != *stat {
            // Once, another file may have replaced it. A file that is saved again and again has other times.
            if look.retry.attempt >= LOOKS_AT_UNSTABLE_INODES && (FileStat { inode: stat.inode, ..opened }) == *stat {
                self.disk.note_unstable_inodes(stat.mount);
            }
            return Ok(None);
        }
        let track = self.contents.read(&file, path, known, look.origin)?;
        let now = if stat.size <= READ_AT_ONCE {
            self.disk.look_up_at(&found.place, path).ok()
        } else {
            self.disk.look_up(&[path]).into_iter().next().and_then(Result::ok)
        };
        let is_the_same = now.is_some_and(|now| matches!(now, Entry::File(now) if now == *stat))
            && (stat.has_stable_inode() || self.disk.stat(&file)? == *stat);
        Ok(is_the_same.then_some(track))
    }
}

/// The hint to look again after the wait, which remembers the file as it was `seen`.
fn look_again(mut look: FsEvent, wait: Duration, seen: Option<FileStat>) -> FsEvent {
    let same = look.retry.last_seen.filter(|last_seen| seen == Some(last_seen.stat));
    look.retry.last_seen = same.or_else(|| seen.map(|stat| Box::new(Sighting { stat, since: Instant::now() })));
    look.retry.attempt = look.retry.attempt.saturating_add(1);
    look.because(Cause::Again(wait))
}

/// The hint to look again with if this look's result is no longer true when it is to be committed. The walks that
/// wait for this look wait for that one.
fn look_instead(look: FsEvent) -> FsEvent {
    let mut look = look_again(look, Duration::ZERO, None).because(Cause::Found);
    look.evidence.renamed_from = None;
    look
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::testing::{HERE, examiner, is_read, look, old, renamed};
    use crate::model::{MountId, RenameGroup, Ties};

    #[test]
    fn a_look_stays_a_member_of_its_groups_however_often_it_was_repeated() {
        let group = RenameGroup::new(Duration::from_hours(1));
        let ties = Ties { member_of: vec![group.join()], ..Ties::default() };
        let mut hint = FsEvent::new(HERE.into(), Cause::Renamed, Origin::Watch).tied(ties);
        hint.retry.attempt = 2 * WALKS_WAIT_FOR;
        let outcome = look(old(9), None, hint);
        assert!(is_read(&outcome) && group.members() == 1, "{outcome:?}");
    }

    #[test]
    fn a_file_missing_from_a_subtree_without_notification_is_left_to_the_next_scan() {
        let examiner = examiner(old(9), Some(("b/gone.mp3", old(9))));
        let look = |cause| examiner.examine(FsEvent::new("b/gone.mp3".into(), cause, Origin::Scan)).outcome;
        assert!(matches!(look(Cause::Found), Outcome::Again(_)));
        let _polled = examiner.engine.trust(|trust| trust.leave_unwatched(&LibraryPath::root()));
        assert!(matches!(look(Cause::Found), Outcome::LeftToWalk));
        assert!(matches!(look(Cause::Gone), Outcome::Observed(Observation { seen: Seen::Missing, .. }, _)));
    }

    #[test]
    fn the_former_subtree_is_walked_if_a_file_replaced_its_directory() {
        let under = "a.mp3/b.mp3";
        let examiner = examiner(old(9), Some((under, FileStat { inode: 8, ..old(9) })));
        let look_under = |origin| examiner.examine(FsEvent::new(HERE.into(), Cause::Renamed, origin)).look_under;
        assert!(look_under(Origin::Watch) && !look_under(Origin::Scan));
    }

    #[test]
    fn no_look_reports_a_delete_before_the_delete_has_waited() {
        let (examiner, _) = renamed();
        for cause in [Cause::Found, Cause::Renamed, Cause::Closed] {
            let hint = FsEvent::new("b/old.mp3".into(), cause, Origin::Watch);
            let Outcome::Again(waiting) = examiner.examine(hint).outcome else { panic!("{cause:?} did not wait") };
            assert_eq!(waiting.cause, Cause::Gone);
            let Outcome::Observed(gone, _) = examiner.examine(waiting).outcome else { panic!("it waits forever") };
            assert_eq!(gone.seen, Seen::Missing);
        }
    }

    #[test]
    fn an_excluded_row_is_deleted_even_in_a_subtree_without_notification() {
        struct ExcludedDirectories;

        impl Disk for ExcludedDirectories {
            type File = ();

            fn entry(&self, _: &LibraryPath) -> io::Result<Entry> {
                Ok(Entry::Excluded { nearest_mount: None })
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

        // On a filesystem that is not mounted.
        let examiner = examiner(old(9), Some((HERE, FileStat { mount: MountId(7), ..old(9) })));
        let Examiner { contents, index, settle_policy, engine, verified_bytes, .. } = examiner;
        let examiner = Examiner { disk: ExcludedDirectories, contents, index, settle_policy, engine, verified_bytes };
        let _polled = examiner.engine.trust(|trust| trust.leave_unwatched(&LibraryPath::root()));
        let look = |path: &str, cause| examiner.examine(FsEvent::new(path.into(), cause, Origin::Scan)).outcome;
        let Outcome::Again(again) = look(HERE, Cause::Found) else { panic!("it did not wait as a delete does") };
        let gone = examiner.examine(again).outcome;
        assert!(matches!(gone, Outcome::Observed(Observation { seen: Seen::Missing, .. }, _)));
        assert!(matches!(look("unknown.mp3", Cause::Closed), Outcome::Unchanged));
    }
}
