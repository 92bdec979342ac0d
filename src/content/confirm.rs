//! Checks that the results of looks are still true, right before they are committed and right after.

use std::cell::LazyCell;
use std::collections::{BTreeMap, HashSet};
use std::io;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::batch::{Batch, BatchedLook, Doubt};
use super::examine::{Contents, Examiner};
use super::outcome::{Outcome, displaced_by, found_by};
use crate::disk::{Disk, Entry, is_root_replaced};
use crate::model::{Change, Content, FileEvent, FileStat, FsEvent, Index, LibraryPath, Observation, Seen};

/// A file whose ctime is younger than this may have been renamed again since the look. Older files are not checked:
/// later changes have hints of their own, and a first scan finds many old files.
const YOUNG: Duration = Duration::from_secs(10);

fn is_young(observation: &Observation) -> bool {
    let changed = found_by(observation).and_then(|found| u64::try_from(found.ctime_ns).ok()).map(Duration::from_nanos);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    changed.is_some_and(|changed| now.saturating_sub(changed) < YOUNG)
}

/// What has to be compared with the disk before the outcome can be committed.
fn to_be_confirmed((outcome, _): &(Outcome, Option<FileStat>)) -> Option<(&LibraryPath, Option<FileStat>)> {
    let is_new = matches!(outcome, Outcome::New(..));
    outcome.observation().filter(|observation| !is_new || is_young(observation)).map(path_and_stat)
}

fn path_and_stat(observation: &Observation) -> (&LibraryPath, Option<FileStat>) {
    (&observation.path, found_by(observation))
}

impl<D: Disk, C: Contents<D::File>, I: Index> Examiner<D, C, I> {
    /// Decides which outcomes can be committed. Returns their observations, each with the hint to look again with if
    /// the commit fails, and the hints for the other looks.
    ///
    /// With each outcome comes [`Examined::displaced`](super::Examined::displaced). Call this right before every
    /// commit.
    ///
    /// A rename is accepted without reading the file if no event says that the content changed. Events come late: a
    /// process that is killed before it reads one would have committed a row with the times from after the change and
    /// the hash from before it. So `catch_up` handles the pending events first, and returns whether it could.
    ///
    /// An observation that is no longer true is not committed. Otherwise a file that a look still found at its old
    /// path would be published as created there again, and a file that several looks found under one new name after
    /// another would be published under all of them. A path does not lose its row to a new file while its former file
    /// may still be found. If the program `is_ending`, nobody looks for that file any more, and the next start decides.
    pub fn confirm(
        &self,
        outcomes: impl IntoIterator<Item = (Outcome, Option<FileStat>)>,
        is_ending: bool,
        catch_up: impl FnOnce() -> bool,
    ) -> (Vec<(Observation, FsEvent)>, Vec<FsEvent>) {
        let mut batch = Batch::default();
        let is_caught_up = LazyCell::new(catch_up);
        let outcomes: Vec<(Outcome, Option<FileStat>)> = outcomes.into_iter().collect();
        if outcomes.iter().any(|(outcome, _)| matches!(outcome, Outcome::Trusted(..))) {
            let _ = *is_caught_up;
        }
        let overtaken: HashSet<LibraryPath> =
            self.changed_since(outcomes.iter().filter_map(to_be_confirmed)).into_iter().collect();
        for (outcome, displaced) in outcomes {
            let (observation, instead, doubt) = match outcome {
                Outcome::New(observation, instead) | Outcome::Observed(observation, instead) => {
                    let doubt = self.doubt_about(&observation, &overtaken);
                    (observation, instead, doubt)
                }
                Outcome::Trusted(observation, instead) => {
                    let is_trusted = *is_caught_up && !self.is_in_doubt(&observation);
                    let doubt =
                        if is_trusted { self.doubt_about(&observation, &overtaken) } else { Some(Doubt::MayBeWritten) };
                    (observation, instead, doubt)
                }
                Outcome::Again(look) => {
                    batch.look_again(look);
                    continue;
                }
                Outcome::Unchanged | Outcome::LeftToWalk | Outcome::Held | Outcome::Failed(_) => continue,
            };
            let displaced = self.displaced_by_now(&observation, displaced);
            let mut look = BatchedLook { observation, instead, displaced };
            match doubt {
                None => batch.add(look),
                Some(doubt) => {
                    if doubt == Doubt::Overtaken {
                        // The new content is in no row, so a rename of the file must not be accepted unread yet.
                        let path = look.observation.path.clone();
                        look.instead.guards.holds.push(self.engine.trust(|trust| trust.doubt(&path)));
                    }
                    batch.withdraw(look, doubt);
                }
            }
        }
        if batch.withdraw_dependent().is_displaced() {
            // Renames whose events are still pending are in no group yet. Without a watcher there are no events.
            let _ = *is_caught_up;
            batch.withdraw_waiting(&self.engine, is_ending).withdraw_dependent();
        }
        batch.into_confirmed()
    }

    /// Why an observation must not be committed; `None` if it can be.
    fn doubt_about(&self, observation: &Observation, overtaken: &HashSet<LibraryPath>) -> Option<Doubt> {
        let is_untrue = overtaken.contains(&observation.path) || self.has_a_row_by_now(observation);
        is_untrue.then_some(Doubt::Overtaken)
    }

    /// The file of the path's row, if it is not the one that was found. The row may have changed since the look.
    fn displaced_by_now(&self, observation: &Observation, displaced: Option<FileStat>) -> Option<FileStat> {
        if displaced.is_none() && !is_young(observation) {
            return None;
        }
        let row = self.index.row(&observation.path).ok().flatten()?;
        displaced_by(observation, &row)
    }

    /// The paths whose rows were just committed and that have changed on disk since they were examined.
    ///
    /// Call this after every commit. Between a look and its commit, a walk may have compared the disk with the former
    /// row and found no difference. After `mv d e` and `mv e d`, no event names the files in `d` either. A path that
    /// is as committed now was not missed, and later changes have hints of their own.
    pub fn overtaken(&self, observations: &[Observation], changes: &[FileEvent]) -> Vec<LibraryPath> {
        // Paths that lost their rows without a look at them count as found missing.
        let emptied = changes.iter().filter_map(|event| match &event.change {
            Change::Moved { from, .. } => Some((from, None)),
            Change::Deleted(path) => Some((path, None)),
            Change::Created(_) | Change::Modified(_) => None,
        });
        self.changed_since(emptied.chain(observations.iter().map(path_and_stat)))
    }

    /// The paths that are no longer as they were found. Of several findings for one path, the last one counts.
    fn changed_since<'a>(&self, found: impl Iterator<Item = (&'a LibraryPath, Option<FileStat>)>) -> Vec<LibraryPath> {
        // In order, so that each directory is opened once.
        let found: BTreeMap<&LibraryPath, Option<FileStat>> = found.collect();
        let paths: Vec<&LibraryPath> = found.keys().copied().collect();
        let now = self.disk.look_up(&paths);
        let changed = found.into_iter().zip(now).filter(|((path, found), now)| self.is_overtaken(path, *found, now));
        changed.map(|((path, _), _)| path.clone()).collect()
    }

    /// Whether a path is no longer as it was `found`, given the result of a look-up `now`.
    fn is_overtaken(&self, path: &LibraryPath, found: Option<FileStat>, now: &io::Result<Entry>) -> bool {
        match now {
            // A file that is listed under another spelling of the name is not at this path.
            Ok(Entry::File(_)) if found.is_none() => !matches!(self.disk.entry(path), Ok(Entry::Missing { .. })),
            Ok(Entry::File(stat)) => found != Some(*stat),
            Ok(_) => found.is_some(),
            // No path is as it was found if the whole root was replaced.
            Err(error) if is_root_replaced(error) => true,
            // This cannot be found out now. A path that can no longer be read is walked again anyway.
            Err(_) => false,
        }
    }

    /// Whether a file that had no row when it was examined has one now, committed since, at a path that it has left.
    fn has_a_row_by_now(&self, observation: &Observation) -> bool {
        let Seen::File { stat, content: Content::Read(_), candidates } = &observation.seen else { return false };
        candidates.is_empty()
            && is_young(observation)
            && self
                .rows_of_file(&observation.path, stat)
                .is_ok_and(|rows| rows.iter().any(|row| self.has_left_for_another(row).unwrap_or(true)))
    }

    /// Whether the content of a file that was accepted as only renamed may have changed, under either name.
    fn is_in_doubt(&self, observation: &Observation) -> bool {
        let from_doubtful = match &observation.seen {
            Seen::File { content: Content::MovedFrom(source), .. } => {
                self.engine.trust(|trust| trust.is_under_doubt(source))
            }
            _ => false,
        };
        from_doubtful || self.engine.trust(|trust| trust.is_in_doubt(&observation.path))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::content::Examined;
    use crate::content::examine::WALKS_WAIT_FOR;
    use crate::content::testing::{HERE, OneFile, renamed};
    use crate::model::Token;
    use crate::model::{Cause, Origin};

    #[test]
    fn a_rename_is_committed_unread_only_after_all_pending_events_were_handled() {
        let (examiner, hint) = renamed();
        let outcome = || [(examiner.examine(hint.clone()).outcome, None)];
        let (observations, looks) = examiner.confirm(outcome(), false, || true);
        assert_eq!((observations.len(), looks.len()), (1, 0));
        let mut doubts = Vec::new();
        for reported in ["b/old.mp3", "b", HERE] {
            let (observations, looks) = examiner.confirm(outcome(), false, || {
                doubts.push(examiner.engine.trust(|trust| trust.doubt(&reported.into())));
                true
            });
            assert!(observations.is_empty(), "{reported:?}");
            assert_eq!(looks.iter().map(|look| look.evidence.renamed_from.clone()).collect::<Vec<_>>(), [None]);
            doubts.clear();
        }
        let (observations, looks) = examiner.confirm(outcome(), false, || false);
        assert_eq!((observations.len(), looks.len()), (0, 1));
    }

    #[test]
    fn of_two_looks_that_found_one_file_only_the_true_one_is_committed() {
        let (examiner, hint) = renamed();
        let Outcome::Trusted(here, instead) = examiner.examine(hint).outcome else { panic!("it was not accepted") };
        let elsewhere = Observation { path: "a/was-here.mp3".into(), ..here.clone() };
        let look = FsEvent::new(elsewhere.path.clone(), Cause::Found, Origin::Watch);
        let outcomes =
            [(Outcome::Observed(elsewhere.clone(), look), None), (Outcome::Trusted(here.clone(), instead), None)];
        let (observations, looks) = examiner.confirm(outcomes, false, || true);
        assert_eq!(observations.into_iter().map(|(found, _)| found).collect::<Vec<_>>(), [here]);
        assert_eq!(looks.into_iter().map(|look| look.path).collect::<Vec<_>>(), [elsewhere.path]);
    }

    #[test]
    fn a_walk_waits_for_the_look_that_replaces_an_overtaken_one() {
        let (examiner, hint) = renamed();
        let waits = Arc::new(());
        let walks = vec![Token::new(Arc::clone(&waits))];
        let mut look = hint;
        look.guards.walks = walks;
        look.evidence.renamed_from = None;
        let Examined { outcome, tokens, .. } = examiner.examine(look);
        let touched = FileStat { ctime_ns: examiner.disk.stat.ctime_ns + 1, ..examiner.disk.stat };
        let examiner = Examiner { disk: OneFile { stat: touched, ..examiner.disk }, ..examiner };
        let (observations, mut looks) = examiner.confirm([(outcome, None)], false, || true);
        drop(tokens);
        assert!(observations.is_empty() && looks.len() == 1 && Arc::strong_count(&waits) > 1);
        // But not forever, if the file changes all the time.
        let mut last = looks.remove(0);
        last.retry.attempt = WALKS_WAIT_FOR;
        let Outcome::Observed(_, instead) = examiner.examine(last).outcome else { panic!("nothing was found") };
        assert!(instead.guards.walks.is_empty() && Arc::strong_count(&waits) == 1);
    }
}
