//! How long to wait until a file is settled. A file is settled if its times show that it is no longer being written.

use std::io;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::examine::{Contents, Examiner};
use super::previous::PreviousRows;
use crate::classify::originals_of_temporary_name;
use crate::disk::Disk;
use crate::model::{Cause, FileStat, FsEvent, Index, LibraryPath, Row, Sighting};

/// The first wait before a file that changed during a look is looked at again. It doubles with each look.
pub(super) const FIRST_RETRY: Duration = Duration::from_millis(100);

/// The longest such wait.
const LAST_RETRY: Duration = Duration::from_secs(30);

/// The shortest wait for a file to settle. Timers and file times are not exact enough for shorter ones.
const SHORTEST_WAIT: Duration = Duration::from_millis(10);

/// How long a renamed file must not have been written if it is not certain which came last: its times are those of a
/// write. It may be written again since the rename, and a write that is in progress has no event.
const WRITTEN_AND_RENAMED: Duration = Duration::from_millis(20);

/// The longest tick of a kernel, with which file times may advance.
const LONGEST_TICK: Duration = Duration::from_millis(10);

/// When a file counts as settled, and when as unchanged.
#[derive(Clone, Copy, Debug)]
pub struct SettlePolicy {
    /// How long a file must not have been modified after it was closed.
    pub debounce: Duration,
    /// How long a file must not have been modified if no close after writing was seen.
    pub settle: Duration,
    /// How long a file must have been empty.
    pub empty: Duration,
    /// Whether a file whose ctime alone has changed counts as unchanged.
    pub ignore_ctime: bool,
}

impl SettlePolicy {
    /// How long to wait until the file is settled; `None` if it is.
    ///
    /// `is_complete` says that a close or a rename was seen after the last write. `may_be_cut` is the result of
    /// [`may_be_cut`].
    fn unsettled_for(&self, look: &FsEvent, stat: &FileStat, is_complete: bool, may_be_cut: bool) -> Option<Duration> {
        let needed = match look.cause {
            _ if may_be_cut => self.settle,
            // The rename was the last change.
            Cause::Renamed if is_complete && stat.mtime_ns < stat.ctime_ns => return None,
            Cause::Renamed if is_complete => WRITTEN_AND_RENAMED,
            Cause::Again(_) if is_complete && look.retry.is_renamed => WRITTEN_AND_RENAMED,
            Cause::Closed if is_complete => self.debounce,
            _ => self.settle,
        };
        // This is measured. The wait that was asked for proves nothing: a program that is ending cuts it short.
        let last_seen = look.retry.last_seen.as_ref().filter(|last_seen| last_seen.stat == *stat);
        let stayed = last_seen.map(|last_seen| last_seen.since.elapsed());
        if stat.size == 0
            && let Some(wait) = self.empty_for_less(stat, stayed)
        {
            return Some(wait);
        }
        if stayed.is_some_and(|stayed| stayed >= needed) {
            return None;
        }
        // A file that may be being cut still has the times of its former content. An mtime in the future gives no
        // age either. Then only two looks that are far enough apart show that the file is settled.
        let age = if may_be_cut { None } else { age_of(stat.mtime_ns) };
        if age.is_some_and(|age| age >= needed) {
            return None;
        }
        Some(needed.saturating_sub(age.or(stayed).unwrap_or_default()).max(SHORTEST_WAIT))
    }

    /// How long to wait until an empty file has been empty for long enough; `None` if it has, either by its times or
    /// because it `stayed` so between two looks.
    fn empty_for_less(&self, stat: &FileStat, stayed: Option<Duration>) -> Option<Duration> {
        let changed = if self.ignore_ctime { stat.mtime_ns } else { stat.mtime_ns.max(stat.ctime_ns) };
        // A time in the future gives no age.
        let age = age_of(changed).unwrap_or_default();
        let left = self.empty.saturating_sub(age.max(stayed.unwrap_or_default()));
        (!left.is_zero()).then(|| left.max(SHORTEST_WAIT))
    }
}

impl<D: Disk, C: Contents<D::File>, I: Index> Examiner<D, C, I> {
    /// How long to wait before the file is read; `None` if it can be read now.
    pub(super) fn wait_before_reading(
        &self,
        look: &FsEvent,
        stat: &FileStat,
        row: Option<&Row>,
        previous: &PreviousRows,
    ) -> io::Result<Option<Duration>> {
        if let Some(wait) = self.until_times_advance(stat) {
            return Ok(Some(wait));
        }
        // Nothing was written since the file was committed. Only its name or its attributes changed, so its age does
        // not matter.
        let was_settled = row.filter(|_| previous.was_here).into_iter().chain(&previous.rows);
        if !was_settled.into_iter().any(|row| row.stat.same_size_and_mtime(stat)) {
            let is_complete = look
                .evidence
                .complete_at
                .is_none_or(|complete| since_epoch(stat.mtime_ns) <= duration_since_epoch(complete))
                && !self.engine.trust(|trust| trust.is_replaced(&look.path));
            let before = row.map(|row| &row.stat).into_iter().chain(
                look.retry.last_seen.iter().filter(|seen| !was_written_since(seen, stat, look)).map(|seen| &seen.stat),
            );
            let wait = self.settle_policy.unsettled_for(look, stat, is_complete, may_be_cut(before, stat));
            if wait.is_some() {
                return Ok(wait);
            }
        }
        let is_new = row.is_none() && previous.rows.is_empty();
        let is_temporary = is_new && self.may_be_renamed_soon(&look.path, stat)?;
        Ok(is_temporary.then_some(self.settle_policy.settle))
    }

    /// How long to wait until a further change of the file gives it other times; `None` if it does now.
    ///
    /// A look before that could be the last one, although the file is changed again: its times would still be those of the
    /// look, and the event of the change may be lost.
    fn until_times_advance(&self, stat: &FileStat) -> Option<Duration> {
        // No kernel has longer ticks. Most files are older, and need no question about their filesystem.
        let age = age_of(stat.ctime_ns).filter(|age| *age < LONGEST_TICK)?;
        self.disk.time_step(stat.mount).checked_sub(age).filter(|left| !left.is_zero())
    }

    /// Whether the name of a new, young file looks like a temporary name of a file in the index.
    ///
    /// Programs that save a file this way rename it over the known one as soon as it is written.
    fn may_be_renamed_soon(&self, path: &LibraryPath, stat: &FileStat) -> io::Result<bool> {
        if age_of(stat.ctime_ns).is_none_or(|age| age >= self.settle_policy.settle) {
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
}

/// Whether the file may be in the middle of being truncated.
///
/// The kernel changes the size first and the times when it is done. Until then the file looks as old as it was. An
/// empty file was most likely truncated or created to be written.
fn may_be_cut<'a>(before: impl IntoIterator<Item = &'a FileStat>, now: &FileStat) -> bool {
    let is_being_cut =
        |before: &FileStat| before.same_file(now) && before.size != now.size && before.ctime_ns == now.ctime_ns;
    now.size == 0 || before.into_iter().any(is_being_cut)
}

/// Whether the file has grown since it was seen, and was closed after that.
///
/// The kernel sets the times when a write begins. So a look during one long write sees the times of the finished file,
/// and a part of its size.
fn was_written_since(seen: &Sighting, now: &FileStat, look: &FsEvent) -> bool {
    let seen_at = SystemTime::now().checked_sub(seen.since.elapsed());
    let was_closed = look.evidence.complete_at.zip(seen_at).is_some_and(|(complete, seen_at)| complete >= seen_at);
    was_closed && now.size > seen.stat.size
}

/// How long to wait before the next look at a file that changed during a look, after this many of them.
pub(super) fn backoff(attempt: u32) -> Duration {
    FIRST_RETRY.saturating_mul(1 << attempt.min(16)).min(LAST_RETRY)
}

/// The time since a file time in nanoseconds since the epoch; `None` if that is in the future.
fn age_of(time_ns: i128) -> Option<Duration> {
    duration_since_epoch(SystemTime::now()).checked_sub(since_epoch(time_ns))
}

/// A file time in nanoseconds since the epoch as a duration; zero if it is before the epoch or too far off.
fn since_epoch(time_ns: i128) -> Duration {
    u64::try_from(time_ns).map(Duration::from_nanos).unwrap_or_default()
}

fn duration_since_epoch(time: SystemTime) -> Duration {
    time.duration_since(UNIX_EPOCH).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::content::Outcome;
    use crate::content::testing::{HERE, SETTLE, age, examiner, is_read, look, old};
    use crate::model::{LibraryPath, Origin, RenameGroup, Ties, Token};

    /// The hint, as if an earlier look had just seen this.
    fn seen_as(stat: FileStat, mut hint: FsEvent) -> FsEvent {
        hint.retry.last_seen = Some(Box::new(Sighting { stat, since: Instant::now() }));
        hint
    }

    /// The hint, as if what was last seen had been so for longer.
    fn seen_longer(mut hint: FsEvent, longer: Duration) -> FsEvent {
        let last_seen = hint.retry.last_seen.as_mut().unwrap();
        last_seen.since = last_seen.since.checked_sub(longer).unwrap();
        hint
    }

    #[test]
    fn a_renamed_file_that_may_be_written_again_must_stay_the_same_for_a_moment() {
        let renamed = |stat| {
            let mut hint = FsEvent::new(HERE.into(), Cause::Renamed, Origin::Watch);
            hint.evidence.complete_at = Some(SystemTime::now());
            look(stat, None, hint)
        };
        let now = age(Duration::ZERO);
        let written_before = FileStat { mtime_ns: now - 1, ctime_ns: now, ..old(9) };
        assert!(is_read(&renamed(written_before)));
        // As when a program opens it right after the rename, and its first write is not done.
        let is_written = FileStat { mtime_ns: now, ctime_ns: now, ..old(9) };
        let Outcome::Again(again) = renamed(is_written) else { panic!("it did not wait") };
        assert!(matches!(again.cause, Cause::Again(wait) if wait <= WRITTEN_AND_RENAMED), "{:?}", again.cause);
        assert!(is_read(&look(is_written, None, seen_longer(again, WRITTEN_AND_RENAMED))));
        assert!(is_read(&renamed(FileStat { ctime_ns: now, ..old(9) })), "it was written long ago");
    }

    #[test]
    fn a_file_is_looked_at_again_when_its_times_can_show_the_next_change() {
        let renamed = FileStat { ctime_ns: age(Duration::ZERO), ..old(9) };
        let mut examiner = examiner(renamed, Some((HERE, old(9))));
        let hint = FsEvent::new(HERE.into(), Cause::Renamed, Origin::Watch);
        assert!(is_read(&examiner.examine(hint.clone()).outcome), "the times are fine");
        examiner.disk.time_step = LONGEST_TICK;
        let Outcome::Again(again) = examiner.examine(hint).outcome else { panic!("it did not wait") };
        assert!(matches!(again.cause, Cause::Again(wait) if wait <= LONGEST_TICK), "{:?}", again.cause);
        std::thread::sleep(LONGEST_TICK);
        assert!(is_read(&examiner.examine(again).outcome));
    }

    #[test]
    fn a_file_that_changed_its_size_but_not_its_times_must_stay_the_same_to_be_settled() {
        let committed = old(9);
        let cut = FileStat { size: 0, ..committed };
        for cause in [Cause::Found, Cause::Closed, Cause::Renamed] {
            let first = look(cut, Some(committed), FsEvent::new("a.mp3".into(), cause, Origin::Watch));
            let Outcome::Again(again) = first else { panic!("{first:?}") };
            let last_seen = again.retry.last_seen.as_ref().map(|last_seen| last_seen.stat);
            assert_eq!((again.cause, last_seen), (Cause::Again(SETTLE), Some(cut)));
            // With a coarse kernel clock it may stay like that for good. The time that it stayed is measured.
            assert!(matches!(look(cut, Some(committed), again.clone()), Outcome::Again(_)));
            let again = seen_longer(again, SETTLE);
            assert!(is_read(&look(cut, Some(committed), again)));
        }
        // Nothing was committed yet, but an earlier look saw more of it.
        let seen = seen_as(committed, FsEvent::new("a.mp3".into(), Cause::Found, Origin::Scan));
        assert!(matches!(look(cut, None, seen), Outcome::Again(_)));
    }

    #[test]
    fn a_file_that_grew_during_one_write_and_was_closed_after_it_is_settled() {
        let begun = age(Duration::from_millis(200));
        let part = FileStat { size: 3, mtime_ns: begun, ctime_ns: begun, ..old(3) };
        let hint = |cause, closed: Option<Duration>| {
            let mut hint = seen_as(part, FsEvent::new(HERE.into(), cause, Origin::Watch));
            hint.retry.last_seen.as_mut().unwrap().since =
                Instant::now().checked_sub(Duration::from_millis(150)).unwrap();
            hint.evidence.complete_at = closed.map(|ago| SystemTime::now() - ago);
            hint
        };
        let whole = FileStat { size: 9, ..part };
        let after = Some(Duration::from_millis(100));
        assert!(is_read(&look(whole, None, hint(Cause::Closed, after))));
        // It was closed before, so it may still be being written, or it was cut since.
        let before = Some(Duration::from_millis(180));
        for (now, cause, closed) in [
            (whole, Cause::Closed, before),
            (whole, Cause::Created, None),
            (FileStat { size: 2, ..part }, Cause::Closed, after),
        ] {
            assert!(matches!(look(now, None, hint(cause, closed)), Outcome::Again(_)), "{now:?} {cause:?} {closed:?}");
        }
    }

    #[test]
    fn an_empty_file_must_stay_empty_to_be_settled_however_old_it_is() {
        let empty = old(0);
        for cause in [Cause::Found, Cause::Closed, Cause::Renamed] {
            let hint = FsEvent::new(HERE.into(), cause, Origin::Watch);
            let Outcome::Again(again) = look(empty, None, hint.clone()) else { panic!("{cause:?} did not wait") };
            assert_eq!(again.cause, Cause::Again(SETTLE));
            let again = seen_longer(again, SETTLE);
            assert!(is_read(&look(empty, None, again)));
            assert!(is_read(&look(old(1), None, hint)), "a file with content is read at once");
        }
    }

    #[test]
    fn a_file_that_was_just_created_or_truncated_is_settled_after_a_minute_without_content() {
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
            for cause in [Cause::Found, Cause::Created, Cause::Closed, Cause::Renamed] {
                let walks = vec![Token::new(())];
                let group = RenameGroup::new(Duration::from_hours(1));
                let (member_of, waves) = (vec![group.join()], vec![Token::new(())]);
                let ties = Ties { member_of, waves, ..Ties::default() };
                let mut hint = FsEvent::new(HERE.into(), cause, Origin::Watch).tied(ties);
                hint.guards.walks = walks;
                let Outcome::Again(again) = look(found, row, hint) else { panic!("{found:?} did not wait") };
                let Cause::Again(wait) = again.cause else { panic!("{:?}", again.cause) };
                assert!(wait > minute * 9 / 10 && wait <= minute, "{wait:?}");
                assert!(again.guards.walks.is_empty() && again.guards.ties.waves.is_empty(), "deletes wait for it");
                assert_eq!(group.members(), 0, "the looks at other paths wait for it");
                let after = |waited| look(found, row, seen_longer(again.clone(), waited));
                assert!(matches!(after(minute / 2), Outcome::Again(_)));
                assert!(is_read(&after(minute)));
            }
        }
        // It has content now.
        let seen = seen_as(emptied, FsEvent::new(HERE.into(), Cause::Closed, Origin::Watch));
        let written = FileStat { mtime_ns: age(Duration::from_secs(1)), ..old(9) };
        assert!(is_read(&look(written, None, seen)));
        // It was renamed, and the index has it as it is.
        let hint = FsEvent::new(HERE.into(), Cause::Renamed, Origin::Watch);
        let committed = FileStat { ctime_ns: with_an_old_time.mtime_ns, ..with_an_old_time };
        assert!(is_read(&look(with_an_old_time, Some(committed), hint)));
    }

    #[test]
    fn a_close_or_a_rename_says_nothing_about_later_writes() {
        let a_second_ago = FileStat { mtime_ns: age(Duration::from_secs(1)), ..old(9) };
        for cause in [Cause::Closed, Cause::Renamed] {
            let complete = |ago| {
                let mut hint = FsEvent::new("a.mp3".into(), cause, Origin::Watch);
                hint.evidence.complete_at = Some(SystemTime::now() - ago);
                hint
            };
            assert!(is_read(&look(a_second_ago, None, complete(Duration::from_millis(900)))));
            assert!(matches!(look(a_second_ago, None, complete(Duration::from_millis(1100))), Outcome::Again(_)));
            // Nor about a file in a directory that has replaced the one of the event.
            let examiner = examiner(a_second_ago, None);
            let _replaced = examiner.engine.trust(|trust| trust.replace(&LibraryPath::root()));
            let look = examiner.examine(complete(Duration::from_millis(900)));
            assert!(matches!(look.outcome, Outcome::Again(_)));
        }
    }
}
