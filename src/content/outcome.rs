//! The result of a look.

use std::io;

use crate::model::{Content, FileStat, FsEvent, LibraryPath, Observation, Row, Seen, Ties, Token};
use crate::stream::Tied;

/// One look at a path and its result.
#[derive(Debug)]
pub struct Examined {
    /// The path that was examined.
    pub path: LibraryPath,
    /// The result.
    pub outcome: Outcome,
    /// Whether the path is or was a directory, so that the subtree has to be walked.
    pub look_under: bool,
    /// Released when the outcome is committed.
    pub tokens: Vec<Token>,
    /// Whether the path is in doubt and has no file. An event that is still pending may say where the file went. It must
    /// be handled before the tokens are released, so that the doubt goes with the file.
    pub left_in_doubt: bool,
    /// The file of the path's row, if another file or none is at the path now. A look that is tied to this one may
    /// find that file.
    pub displaced: Option<FileStat>,
}

impl Examined {
    /// A look that failed.
    pub fn failed(path: LibraryPath, error: io::Error) -> Self {
        let outcome = Outcome::Failed(error);
        Self { path, outcome, look_under: false, tokens: Vec::new(), left_in_doubt: false, displaced: None }
    }
}

impl Tied for Examined {
    type Key = LibraryPath;

    fn key(&self) -> &LibraryPath {
        &self.path
    }

    fn ties(&self) -> Option<&Ties> {
        self.displaced?;
        self.outcome.look().map(|look| &look.guards.ties)
    }

    fn begin_waiting(&mut self) {
        if let Some(look) = self.outcome.look_mut() {
            // The looks of the wave may find the file that this one waits for.
            look.guards.ties.waves.clear();
        }
    }

    fn in_place_of(mut self, mut older: Self) -> Self {
        self.tokens.append(&mut older.tokens);
        self.look_under |= older.look_under;
        self.left_in_doubt |= older.left_in_doubt;
        if older.outcome.has_read_what_is_guessed_by(&self.outcome) {
            std::mem::swap(&mut self.outcome, &mut older.outcome);
        }
        if let (Some(look), Some(older)) = (self.outcome.look_mut(), older.outcome.look_mut()) {
            look.evidence.written |= older.evidence.written;
            look.evidence.doubtful |= older.evidence.doubtful;
            look.guards.append(std::mem::take(&mut older.guards));
        }
        self
    }
}

/// What a look found.
///
/// The first three variants carry the observation, and the hint to look again with if the observation is no longer
/// true when it is to be committed.
#[derive(Debug)]
pub enum Outcome {
    /// A new file: neither its path nor any path that it may have been moved from is in the index.
    New(Observation, FsEvent),
    /// An observation to compare with the index.
    Observed(Observation, FsEvent),
    /// A rename that was accepted without reading the file. It is checked again right before the commit.
    Trusted(Observation, FsEvent),
    /// The path is as the index has it.
    Unchanged,
    /// The file is not settled, or it changed during the look: look again.
    Again(FsEvent),
    /// The file is gone from a subtree without change notification. It may have been renamed, so a scan decides.
    LeftToWalk,
    /// The file is gone and its filesystem is not mounted: its delete is held.
    Held,
    /// The look failed: the row stays as it is, and the next scan looks again.
    Failed(io::Error),
}

impl Outcome {
    /// What was found, to compare with the index.
    pub(super) fn observation(&self) -> Option<&Observation> {
        match self {
            Self::New(observation, _) | Self::Observed(observation, _) | Self::Trusted(observation, _) => {
                Some(observation)
            }
            Self::Again(_) | Self::Unchanged | Self::LeftToWalk | Self::Held | Self::Failed(_) => None,
        }
    }

    /// The hint for the next look, or for the look to make instead of this one.
    pub(super) fn look(&self) -> Option<&FsEvent> {
        match self {
            Self::New(_, look) | Self::Observed(_, look) | Self::Trusted(_, look) | Self::Again(look) => Some(look),
            Self::Unchanged | Self::LeftToWalk | Self::Held | Self::Failed(_) => None,
        }
    }

    /// The same hint, mutable.
    pub(super) fn look_mut(&mut self) -> Option<&mut FsEvent> {
        match self {
            Self::New(_, look) | Self::Observed(_, look) | Self::Trusted(_, look) | Self::Again(look) => Some(look),
            Self::Unchanged | Self::LeftToWalk | Self::Held | Self::Failed(_) => None,
        }
    }

    /// Whether this outcome has read the file of which the `newer` one only says that it was moved.
    fn has_read_what_is_guessed_by(&self, newer: &Self) -> bool {
        let (Some(read), Some(guessed)) = (self.observation(), newer.observation()) else { return false };
        match (&read.seen, &guessed.seen) {
            (
                Seen::File { stat: read, content: Content::Read(_), .. },
                Seen::File { stat: guessed, content: Content::MovedFrom(_), .. },
            ) => read == guessed,
            _ => false,
        }
    }

    /// The outcome in one or a few words, as logs show it.
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

/// The stat of the file that was found.
pub(super) fn found_by(observation: &Observation) -> Option<FileStat> {
    match &observation.seen {
        Seen::File { stat, .. } => Some(*stat),
        Seen::Missing => None,
    }
}

/// The file of the path's row, if the observation did not find that file at the path.
pub(super) fn displaced_by(observation: &Observation, row: &Row) -> Option<FileStat> {
    let is_there = found_by(observation).is_some_and(|found| row.stat.same_file(&found));
    (!is_there).then_some(row.stat)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::testing::{HERE, old, track};
    use crate::model::{Cause, Origin};

    #[test]
    fn a_later_look_that_only_guesses_does_not_replace_one_that_has_read_the_same_file() {
        let stat = old(9);
        let looked = |stat, content| {
            let path: LibraryPath = HERE.into();
            let hint = FsEvent::new(path.clone(), Cause::Found, Origin::Watch);
            let seen = Seen::File { stat, content, candidates: Vec::new() };
            let outcome = Outcome::Observed(Observation { path: path.clone(), origin: Origin::Watch, seen }, hint);
            Examined { outcome, ..Examined::failed(path, io::Error::other("")) }
        };
        let is_read = |looked: Examined| match looked.outcome.observation().map(|it| &it.seen) {
            Some(Seen::File { content, .. }) => matches!(content, Content::Read(_)),
            _ => panic!("no file"),
        };
        let moved = || Content::MovedFrom("b/old.mp3".into());
        let read = || Content::Read(track().into());
        assert!(is_read(looked(stat, moved()).in_place_of(looked(stat, read()))));
        assert!(is_read(looked(stat, read()).in_place_of(looked(stat, moved()))));
        assert!(
            !is_read(looked(FileStat { size: 8, ..stat }, moved()).in_place_of(looked(stat, read()))),
            "it is another file by now"
        );
    }
}
