//! The engine: every decision about what to look at, what to walk, which deletes to hold and what to trust.
//!
//! It is a state machine without IO, clock, lock or task. Events of the kernel, findings of walks, results of looks and
//! commits go in, each with the time; hints to look at and subtrees to walk come out. Around it are the drivers: the
//! watcher, the walk, the examiner and the store. [`SharedEngine`] is the one lock around it.
//!
//! | file | what it decides |
//! |---|---|
//! | `approval` | which held deletes an operator released, and what came of them |
//! | `brake` | which deletes are held |
//! | `coverage` | how much of the library is watched, and when to watch or walk it again |
//! | `kernel` | what follows from an event of the kernel |
//! | `pending` | which hints and subtrees wait, and that they are bounded |
//! | `renames` | which looks have to wait for which other ones, so that a renamed file keeps its identity |
//! | `trust` | which paths are in doubt, claimed, replaced or unwatched |
//! | `rounds` | when a walk may begin, and when the looks that it asked for are done |
//! | `missed` | which files that walks did not find may be published as deleted |
//! | `replaced` | which paths with another file than before changed names with each other |
//! | `unreadable` | which paths could not be read, and when to try again |

mod approval;
mod brake;
mod coverage;
mod kernel;
mod missed;
mod pending;
mod renames;
mod replaced;
mod rounds;
mod shared;
mod trust;
mod unreadable;

use std::time::{Duration, Instant, SystemTime};

use crate::model::{Cause, FsEvent, LibraryPath, Origin, Ties};

pub use approval::{Approval, Released};
pub use brake::{FullWalk, Missing, Verdict};
pub use coverage::{Changes, Coverage, Intervals, WatchTrouble};
pub use kernel::{Alias, Found, KernelEvent, KernelEventKind};
pub use pending::Subtree;
pub use renames::{Left, Renames};
pub use replaced::{Replaced, tie_together};
pub use rounds::{Round, RoundId};
pub use shared::{Hints, SharedEngine};
pub use trust::Trust;
pub use unreadable::UnreadableSince;

use brake::Brake;
use coverage::Watch;
use kernel::Earlier;
use missed::MissedOnce;
use pending::{Mark, Pending};
use rounds::Rounds;
use unreadable::Unreadable;

/// The wait before a walk of everything is repeated that could not be finished, or missed too many files to remember.
const REPEAT_WAIT: Duration = Duration::from_mins(1);

/// A point in time, by both clocks.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// By the monotonic clock, for waits.
    pub instant: Instant,
    /// By the wall clock, to compare with the times of files.
    pub wall: SystemTime,
}

/// The engine. See the [module](self).
///
/// Its law: for every path that was pushed, a hint for that path comes out later, or the root as a subtree to walk.
#[derive(Debug, Default)]
pub struct Engine {
    trust: Trust,
    renames: Renames,
    pending: Pending,
    earlier: Earlier,
    rounds: Rounds,
    missed: MissedOnce,
    brake: Brake,
    unreadable: Unreadable,
    watch: Watch,
}

impl Engine {
    /// What may not be trusted now.
    pub fn trust(&mut self) -> &mut Trust {
        &mut self.trust
    }

    /// The renames that are going on.
    pub fn renames(&mut self) -> &mut Renames {
        &mut self.renames
    }

    /// This hint, and with it the doubt whether its path is as it was.
    #[must_use]
    pub fn doubting(&mut self, hint: FsEvent) -> FsEvent {
        let doubt = self.trust.doubt(&hint.path);
        hint.holding(doubt)
    }

    /// Adds a hint. One that waits for the same path is merged into it.
    pub fn push(&mut self, hint: FsEvent, now: Instant) {
        if !self.pending.push(hint) {
            // The mark comes first: with the hints their doubts go.
            self.mark_root_for_everything(now);
            self.pending.drop_hints();
        }
    }

    /// The next hint to look at.
    pub fn next_hint(&mut self) -> Option<FsEvent> {
        self.pending.pop()
    }

    /// Whether a hint waits.
    #[must_use]
    pub fn has_hints(&self) -> bool {
        self.hints() > 0
    }

    /// How many hints wait.
    #[must_use]
    pub fn hints(&self) -> usize {
        self.pending.hints()
    }

    /// Asks for a walk of everything at or under `subtree`, not before `wait` has passed. Returns whether it was not
    /// asked for yet.
    pub fn mark(&mut self, subtree: LibraryPath, wait: Duration, now: Instant) -> bool {
        self.mark_tied(subtree, wait, Ties::default(), now)
    }

    /// Like [`Engine::mark`]. The walk may find, or miss, files of the renames that `ties` name.
    pub fn mark_tied(&mut self, subtree: LibraryPath, wait: Duration, ties: Ties, now: Instant) -> bool {
        self.mark_as(subtree, wait, false, ties, now)
    }

    /// Like [`Engine::mark_tied`], if the directory at `subtree` went away, whatever has its name now.
    pub fn mark_replaced(&mut self, subtree: LibraryPath, wait: Duration, ties: Ties, now: Instant) -> bool {
        self.mark_as(subtree, wait, true, ties, now)
    }

    /// Takes a mark back.
    pub fn unmark(&mut self, subtree: &LibraryPath) {
        self.pending.unmark(subtree);
    }

    /// Takes all marks back: a mark that follows makes up for them.
    pub fn unmark_all(&mut self) {
        self.pending.unmark_all();
    }

    /// The ties of a walk of everything that finds out what happened while nothing was watched.
    pub fn ties_of_unwatched_time(&mut self) -> Ties {
        Ties { member_of: vec![self.renames.begin_walk_of_unwatched_time().join()], ..Ties::default() }
    }

    /// Takes all marked subtrees, due or not; none of them lies in another one.
    pub fn take_marked(&mut self) -> Vec<Subtree> {
        self.pending.last_due().map(|last| self.pending.take_due(last).subtrees).unwrap_or_default()
    }

    /// When [`Engine::tick`] or [`Engine::begin_round`] has something to do, if nothing else happens until then.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        let deadlines = [self.pending.next_due(), self.renames.next_deadline(), self.brake.next_recheck()];
        deadlines.into_iter().flatten().min()
    }

    /// Time passes.
    pub fn tick(&mut self, now: Instant) {
        self.renames.tick(now);
        if self.brake.is_recheck_due(now) {
            self.mark(LibraryPath::root(), Duration::ZERO, now);
        }
    }

    /// A path lost its file by a commit, so the file's other names are to be looked at.
    pub fn push_other_name(&mut self, path: LibraryPath, origin: Origin, now: Instant) {
        // It may also be the old name of a file whose inode number was given to another one.
        let hint = self.doubting(FsEvent::new(path, Cause::Gone, origin));
        self.push(hint, now);
    }

    fn mark_as(&mut self, subtree: LibraryPath, wait: Duration, is_replaced: bool, ties: Ties, now: Instant) -> bool {
        if !self.pending.has_room_for_marks() {
            self.mark_root_for_everything(now);
            self.pending.unmark_all_but_the_root();
        }
        let doubt = self.trust.doubt(&subtree);
        let replaced = is_replaced.then(|| self.trust.replace(&subtree));
        self.pending.mark(subtree, Mark { due: now + wait, doubt, replaced, ties })
    }

    /// Too much happened to follow it one by one: everything is walked, and nothing is trusted until then.
    fn mark_root_for_everything(&mut self, now: Instant) {
        let root = LibraryPath::root();
        let (doubt, replaced) = (self.trust.doubt(&root), Some(self.trust.replace(&root)));
        let ties = self.ties_of_unwatched_time();
        self.pending.mark(root, Mark { due: now, doubt, replaced, ties });
    }
}

#[cfg(test)]
mod tests {
    use super::pending::{MOST_HINTS, MOST_SUBTREES};
    use super::*;

    fn hint(path: &str, cause: Cause) -> FsEvent {
        FsEvent::new(path.into(), cause, Origin::Watch)
    }

    fn walked(engine: &mut Engine, now: Instant) -> Vec<LibraryPath> {
        let round = engine.begin_round(now);
        round.map_or_else(Vec::new, |round| {
            engine.found_all(round.id);
            engine.round_ended(round.id);
            round.subtrees
        })
    }

    #[test]
    fn beyond_the_bounds_the_root_is_walked_instead() {
        let now = Instant::now();
        let mut engine = Engine::default();
        for index in 0..=MOST_HINTS {
            let hint = engine.doubting(hint(&index.to_string(), Cause::Closed));
            engine.push(hint, now);
        }
        assert_eq!(engine.hints(), 0);
        // With the hints, their own doubts went. That of the root makes up for them.
        assert!(engine.trust().is_under_doubt(&"0".into()) && !engine.trust().is_in_doubt(&"0".into()));
        assert_eq!(walked(&mut engine, now), [LibraryPath::root()]);
        assert!(!engine.trust().is_under_doubt(&"0".into()));
        for index in 0..=MOST_SUBTREES {
            engine.mark(index.to_string().as_str().into(), Duration::from_mins(1), now);
        }
        assert_eq!(walked(&mut engine, now), [LibraryPath::root()]);
    }

    #[test]
    fn a_subtree_comes_when_it_is_due_and_without_what_is_under_it() {
        let now = Instant::now();
        let mut engine = Engine::default();
        for (subtree, seconds) in [("late", 5), ("a/b", 1), ("a", 1), ("a.b", 1), ("gone", 1)] {
            engine.mark(subtree.into(), Duration::from_secs(seconds), now);
        }
        engine.unmark(&"gone".into());
        let second = Duration::from_secs(1);
        assert_eq!((walked(&mut engine, now), engine.next_deadline()), (vec![], Some(now + second)));
        assert_eq!(walked(&mut engine, now + second), ["a".into(), LibraryPath::from("a.b")]);
        assert_eq!(engine.next_deadline(), Some(now + 5 * second));
        assert_eq!(walked(&mut engine, now + 5 * second), [LibraryPath::from("late")]);
        assert_eq!(engine.next_deadline(), None);
    }

    #[test]
    fn what_lies_under_a_mark_is_in_doubt_until_its_round_ends() {
        let now = Instant::now();
        let mut engine = Engine::default();
        for subtree in ["a", "a/b", "c"] {
            engine.mark(subtree.into(), Duration::ZERO, now);
        }
        engine.unmark(&"c".into());
        let (inside, outside): (LibraryPath, LibraryPath) = ("a/b/x.mp3".into(), "c/x.mp3".into());
        assert!(engine.trust().is_under_doubt(&inside) && !engine.trust().is_under_doubt(&outside));
        let round = engine.begin_round(now).unwrap();
        assert!(engine.trust().is_under_doubt(&inside));
        engine.round_ended(round.id);
        assert!(!engine.trust().is_under_doubt(&inside));

        engine.mark("a".into(), Duration::ZERO, now);
        engine.mark("a/b".into(), Duration::ZERO, now);
        engine.mark_replaced("a/b".into(), Duration::ZERO, Ties::default(), now);
        engine.mark_replaced("c".into(), Duration::ZERO, Ties::default(), now);
        engine.unmark(&"c".into());
        let beside: LibraryPath = "a/x.mp3".into();
        let trust = engine.trust();
        assert!(trust.is_replaced(&inside) && !trust.is_replaced(&beside) && !trust.is_replaced(&outside));
        let round = engine.begin_round(now).unwrap();
        assert_eq!(round.subtrees, [LibraryPath::from("a")]);
        assert!(engine.trust().is_replaced(&inside), "by the walk of what it lies in");
        engine.round_ended(round.id);
        assert!(!engine.trust().is_replaced(&inside));
    }
}
