//! What is still true of looks: right before they are committed, and right after.

use std::cell::LazyCell;
use std::collections::BTreeMap;
use std::io;

use super::examine::{Contents, Examiner, Outcome, found_by};
use crate::disk::{Disk, Entry};
use crate::model::{Change, Content, FileEvent, FileStat, FsEvent, Index, LibraryPath, Observation, Seen, Token};

impl<D: Disk, C: Contents<D::File>, I: Index> Examiner<D, C, I> {
    /// What may be committed of what looks found, and what is to be looked at in place of the rest.
    ///
    /// To be asked right before every commit. A rename is accepted without reading the file if no event says
    /// that its content changed. Events come late, and a process that is killed before it reads one would have
    /// committed a row with the times of the change and the hash from before it. So `catch_up` handles the pending
    /// events first, and says whether it could.
    ///
    /// And what is not true any more is not told: a file that a look still found where it was moved from would
    /// come back to life there, and one that several looks found under its new names one after the other may
    /// have been moved to the last of them only.
    pub fn confirm(
        &self,
        outcomes: impl IntoIterator<Item = Outcome>,
        catch_up: impl FnOnce() -> bool,
    ) -> (Vec<Observation>, Vec<FsEvent>) {
        let (mut confirmed, mut looks) = (Vec::new(), Vec::new());
        // Files that are known to be elsewhere by looks that are not confirmed.
        let mut on_their_way = Vec::new();
        let is_caught_up = LazyCell::new(catch_up);
        for outcome in outcomes {
            match outcome {
                Outcome::Trusted(observation, instead) if !*is_caught_up || self.is_in_doubt(&observation) => {
                    on_their_way.extend(found_by(&observation));
                    looks.push(instead);
                }
                Outcome::Observed(observation, mut instead) | Outcome::Trusted(observation, mut instead)
                    if self.is_overtaken_now(&observation) =>
                {
                    on_their_way.extend(found_by(&observation));
                    // What it found new is in no row, so a rename of the file cannot be trusted yet.
                    instead.holds.push(Token::new(self.doubts.hold(observation.path)));
                    looks.push(instead);
                }
                Outcome::New(observation) => confirmed.push((observation, None)),
                Outcome::Observed(observation, instead) | Outcome::Trusted(observation, instead) => {
                    confirmed.push((observation, Some(instead)));
                }
                Outcome::Again(look) => looks.push(look),
                Outcome::Unchanged | Outcome::LeftToWalk | Outcome::Held | Outcome::Failed(_) => {}
            }
        }
        self.withdraw_dependent(&mut confirmed, on_their_way, &mut looks);
        (confirmed.into_iter().map(|(observation, _)| observation).collect(), looks)
    }

    /// Takes back the looks at paths whose old files are on their way to other names: they wait for those.
    fn withdraw_dependent(
        &self,
        confirmed: &mut Vec<(Observation, Option<FsEvent>)>,
        mut on_their_way: Vec<FileStat>,
        looks: &mut Vec<FsEvent>,
    ) {
        while let Some(file) = on_their_way.pop() {
            let has_left = |(observation, instead): &mut (Observation, Option<FsEvent>)| {
                let is_there = found_by(observation).is_some_and(|found| found.same_file(&file));
                let row = || self.index.row(&observation.path).ok().flatten();
                instead.is_some() && !is_there && row().is_some_and(|row| row.stat.same_file(&file))
            };
            for (observation, instead) in confirmed.extract_if(.., has_left) {
                on_their_way.extend(found_by(&observation));
                looks.extend(instead);
            }
        }
    }

    /// Where the disk is no longer as it was found, of the paths whose rows were just committed.
    ///
    /// To be asked after every commit. Between a look and its commit a walk may have passed, which compared
    /// the disk with the row before and so found nothing to say: after `mv d e` and `mv e d`, no event names
    /// the files either. A path that is as committed now was not missed, and later changes have hints of their own.
    pub fn overtaken(&self, observations: &[Observation], changes: &[FileEvent]) -> Vec<LibraryPath> {
        // Paths that lost their rows without a look at them are as good as found missing.
        let emptied = changes.iter().filter_map(|event| match &event.change {
            Change::Moved { from, .. } => Some((from, None)),
            Change::Deleted(path) => Some((path, None)),
            Change::Created(_) | Change::Modified(_) => None,
        });
        let mut found: BTreeMap<&LibraryPath, Option<FileStat>> = emptied.collect();
        found.extend(observations.iter().map(|observation| (&observation.path, found_by(observation))));
        let paths: Vec<&LibraryPath> = found.keys().copied().collect();
        let now = self.disk.look_up(&paths);
        let overtaken = found.into_iter().zip(now).filter(|((path, found), now)| self.is_overtaken(path, *found, now));
        overtaken.map(|((path, _), _)| path.clone()).collect()
    }

    fn is_overtaken_now(&self, observation: &Observation) -> bool {
        let now = self.disk.look_up(&[&observation.path]);
        now.iter().any(|now| self.is_overtaken(&observation.path, found_by(observation), now))
    }

    /// Whether a path is no longer as it was found, where a look-up finds this now.
    fn is_overtaken(&self, path: &LibraryPath, found: Option<FileStat>, now: &io::Result<Entry>) -> bool {
        match now {
            // What is there under another spelling of the name is not at this path.
            Ok(Entry::File(_)) if found.is_none() => !matches!(self.disk.entry(path), Ok(Entry::Missing { .. })),
            Ok(Entry::File(stat)) => found != Some(*stat),
            Ok(_) => found.is_some(),
            // Nothing can be said of it now; that which can no longer be read is walked again anyway.
            Err(_) => false,
        }
    }

    /// Whether the content may have changed of a file that is said to be only renamed, under either name.
    fn is_in_doubt(&self, observation: &Observation) -> bool {
        let from_doubtful = match &observation.seen {
            Seen::File { content: Content::MovedFrom(source), .. } => self.doubts.cover(source),
            _ => false,
        };
        from_doubtful || self.doubts.is_held(&observation.path)
    }
}
