//! Rounds: walks, from their begin until everything that they found was looked at.
//!
//! A round asks for looks in three waves, each when the one before it was looked at and committed: first what
//! is new or changed, then the paths that hold another file than before, and last what is gone. So a file that was
//! moved is found at its new path before its old one is given to another file or published as deleted, however
//! far apart the two are.

use std::time::{Duration, Instant};

use super::pending::{Due, TiesOfMarks};
use super::{Engine, REPEAT_WAIT, Subtree};
use crate::model::{FsEvent, LibraryPath, Origin, RenameGroup, Ties, Token};

/// A number that no other round of the engine has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RoundId(u64);

/// A walk that is to begin now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Round {
    /// Its number.
    pub id: RoundId,
    /// Where to walk. None of the subtrees lies in another one.
    pub subtrees: Vec<LibraryPath>,
    /// Whether it walks the whole library.
    pub is_of_everything: bool,
    /// What its looks say of their origin.
    pub origin: Origin,
}

/// The rounds that have not ended, in the order of their begin.
#[derive(Debug, Default)]
pub(super) struct Rounds {
    going_on: Vec<GoingOn>,
    /// The next walk of everything, which waits until the one that is going on has found everything.
    next_of_everything: Option<Due>,
    last_id: u64,
    /// The last number before the scan began.
    before_scan: u64,
    /// Whether they belong to a single scan. It gets no events of the kernel, so there are no renames that it could
    /// wrongly accept unread, and its paths need no doubts.
    is_single_scan: bool,
    /// Why the walk of a single scan could not be finished.
    failure: Option<String>,
}

/// What the walk or the last wave of a round has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    /// It may find more.
    Finding,
    /// It has found everything, so its tokens say when all was looked at.
    FoundAll,
}

#[derive(Debug)]
struct GoingOn {
    id: RoundId,
    is_of_everything: bool,
    progress: Progress,
    /// What is under them stays in doubt until the round ends.
    _subtrees: Vec<Subtree>,
    /// Shared with each look that the round asked for.
    looks: Token,
    /// Shared with each look of the first wave.
    first_wave: Token,
    /// A file that the round finds may be that of a path at which it finds another file or none.
    group: RenameGroup,
    /// What its looks inherit from the marks.
    ties: TiesOfMarks,
    /// Rounds of subtrees that began before it. The old path of a file may lie in this one, and its new path in those.
    earlier: Vec<RoundId>,
}

impl Engine {
    /// Takes the walk that may begin now. There is one walk of everything at a time, however often it is asked for: if a
    /// walk takes longer than the time between two, there would be more and more of them.
    pub fn begin_round(&mut self, now: Instant) -> Option<Round> {
        let due = self.pending.take_due(now);
        let is_busy = self.rounds.going_on.iter().any(GoingOn::is_walking_everything);
        if due.is_of_everything() {
            match &mut self.rounds.next_of_everything {
                Some(waiting) => waiting.extend(due),
                waiting @ None => *waiting = Some(due),
            }
        } else if !due.subtrees.is_empty() {
            return Some(self.begin(due, false));
        }
        if is_busy {
            return None;
        }
        let due = self.rounds.next_of_everything.take()?;
        Some(self.begin(due, true))
    }

    /// A walk found a path to look at. Returns the hint with what ties it to the round.
    #[must_use]
    pub fn found(&mut self, id: RoundId, hint: FsEvent) -> FsEvent {
        let mut hint = self.tied_to_round(id, hint);
        if let Some(round) = self.rounds.get(id) {
            hint.guards.ties.member_of.push(round.group.join());
            hint.guards.ties.waves.push(round.first_wave.clone());
        }
        hint
    }

    /// A walk found another file than the index has at a path. Returns the hint of the second wave. To be called
    /// before [`Engine::walk_ended`].
    #[must_use]
    pub fn found_replaced(&mut self, id: RoundId, hint: FsEvent) -> FsEvent {
        self.tied_to_round(id, hint)
    }

    /// A walk came to its end: nothing more is found.
    pub fn walk_ended(&mut self, id: RoundId) {
        if let Some(round) = self.rounds.get_mut(id) {
            // The walk does not find the files of these renames any more.
            round.ties.end_search();
        }
    }

    /// Whether the second wave may begin: everything of the first was looked at.
    #[must_use]
    pub fn is_first_wave_done(&self, id: RoundId) -> bool {
        self.rounds.get(id).is_none_or(|round| round.first_wave.is_last())
    }

    /// Everything that the walk found is under way, in both waves.
    pub fn found_all(&mut self, id: RoundId) {
        if let Some(round) = self.rounds.get_mut(id) {
            round.progress = Progress::FoundAll;
        }
    }

    /// Whether everything that this round and earlier ones found was looked at.
    ///
    /// A walk of everything is waited for by itself alone: it may take hours, and a live move never depends on it.
    #[must_use]
    pub fn is_looked_at(&self, id: RoundId) -> bool {
        let Some(round) = self.rounds.get(id) else { return true };
        let earlier = round.earlier.iter().filter_map(|id| self.rounds.get(*id));
        earlier.chain([round]).all(GoingOn::is_looked_at)
    }

    /// What a look that the round asks for in the end has to wait for: it may be the old path of a renamed file.
    #[must_use]
    pub fn ties_of_missed(&self, id: RoundId, path: &LibraryPath) -> Ties {
        let left_in = self.rounds.get(id).map(|round| round.left_in(path)).unwrap_or_default();
        Ties { left_in, of_walk: true, ..Ties::default() }
    }

    /// A round ended, or was given up. What is under its subtrees is no longer in doubt because of it.
    pub fn round_ended(&mut self, id: RoundId) {
        self.rounds.going_on.retain(|round| round.id != id);
    }

    /// Whether a walk is going on, or its looks are.
    #[must_use]
    pub fn has_rounds(&self) -> bool {
        !self.rounds.going_on.is_empty() || self.rounds.next_of_everything.is_some()
    }

    /// The index could not be read completely by a walk, so it finds no missing files. The walk is repeated later, except
    /// in a single scan.
    pub fn walk_failed(&mut self, error: &str, now: Instant) {
        if self.is_following() {
            self.mark(LibraryPath::root(), REPEAT_WAIT, now);
        } else {
            self.rounds.failure = Some(error.to_owned());
        }
    }

    /// Begins a single scan: asks for a walk of everything, and forgets what an earlier scan came to.
    pub fn begin_scan(&mut self, now: Instant) {
        self.rounds.failure = None;
        self.rounds.is_single_scan = true;
        self.rounds.before_scan = self.rounds.last_id;
        self.mark(LibraryPath::root(), Duration::ZERO, now);
    }

    /// Whether nothing is left to do for a scan but the looks under way. It ends after `most_rounds`, even if more is
    /// marked.
    #[must_use]
    pub fn is_scan_done(&self, most_rounds: u64) -> bool {
        let is_at_limit = self.rounds.last_id - self.rounds.before_scan >= most_rounds;
        self.is_settled() || (is_at_limit && !self.has_hints() && self.rounds.going_on.is_empty())
    }

    /// Why a walk of the single scan failed, if one did.
    #[must_use]
    pub fn scan_failure(&self) -> Option<&str> {
        self.rounds.failure.as_deref()
    }

    /// Whether a walk of everything is going on, or its looks are.
    #[must_use]
    pub fn is_walking_everything(&self) -> bool {
        self.rounds.going_on.iter().any(|round| round.is_of_everything)
    }

    /// Whether nothing waits and no round is going on. Looks may still be under way.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        !self.has_hints() && !self.has_rounds() && self.pending.next_due().is_none()
    }

    fn begin(&mut self, due: Due, is_of_everything: bool) -> Round {
        let Due { subtrees, ties } = due;
        self.rounds.last_id += 1;
        let id = RoundId(self.rounds.last_id);
        let group = self.renames.begin_walk();
        let earlier =
            self.rounds.going_on.iter().filter(|round| !round.is_of_everything).map(|round| round.id).collect();
        let mut paths: Vec<LibraryPath> = subtrees.iter().map(|subtree| subtree.path.clone()).collect();
        if is_of_everything {
            paths = vec![LibraryPath::root()];
        }
        self.rounds.going_on.push(GoingOn {
            id,
            is_of_everything,
            progress: Progress::Finding,
            _subtrees: subtrees,
            looks: Token::new(()),
            first_wave: Token::new(()),
            group,
            ties,
            earlier,
        });
        // A single scan walks again what changed during its first walk.
        let is_scan = is_of_everything || !self.is_following();
        let origin = if is_scan { Origin::Scan } else { Origin::Watch };
        Round { id, subtrees: paths, is_of_everything, origin }
    }

    fn tied_to_round(&mut self, id: RoundId, hint: FsEvent) -> FsEvent {
        let mut hint = if self.rounds.is_single_scan { hint } else { self.doubting(hint) };
        if let Some(round) = self.rounds.get(id) {
            let members = round.ties.that_concern(&hint.path).flat_map(|ties| &ties.member_of);
            hint.guards.ties.member_of.extend(members.map(|member| member.group().join()));
            hint.guards.ties.left_in.extend(round.left_in(&hint.path));
            hint.guards.ties.of_walk = true;
            hint.guards.walks.push(round.looks.clone());
        }
        hint
    }
}

impl Rounds {
    fn get(&self, id: RoundId) -> Option<&GoingOn> {
        self.going_on.iter().find(|round| round.id == id)
    }

    fn get_mut(&mut self, id: RoundId) -> Option<&mut GoingOn> {
        self.going_on.iter_mut().find(|round| round.id == id)
    }
}

impl GoingOn {
    /// The groups that may find the file that the index has at `path`.
    fn left_in(&self, path: &LibraryPath) -> Vec<RenameGroup> {
        let of_marks = self.ties.that_concern(path).flat_map(|ties| &ties.left_in);
        of_marks.chain([&self.group]).cloned().collect()
    }

    /// Whether it still walks everything, or finds what it found: another such walk has to wait.
    fn is_walking_everything(&self) -> bool {
        self.is_of_everything && self.progress == Progress::Finding
    }

    fn is_looked_at(&self) -> bool {
        self.progress == Progress::FoundAll && self.looks.is_last()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Intervals;
    use crate::model::Cause;

    fn hint(path: &str) -> FsEvent {
        FsEvent::new(path.into(), Cause::Found, Origin::Scan)
    }

    fn engine(marked: &[&str], now: Instant) -> Engine {
        let mut engine = Engine::default();
        for subtree in marked {
            engine.mark((*subtree).into(), Duration::ZERO, now);
        }
        engine
    }

    #[test]
    fn the_waves_come_one_after_the_other_and_doubt_ends_with_the_round() {
        let now = Instant::now();
        let mut engine = engine(&["a"], now);
        let Round { id, subtrees, is_of_everything, .. } = engine.begin_round(now).unwrap();
        assert_eq!((subtrees, is_of_everything), (vec!["a".into()], false));
        let first = engine.found(id, hint("a/new"));
        let second = engine.found_replaced(id, hint("a/other"));
        engine.walk_ended(id);
        engine.found_all(id);
        assert!(!engine.is_first_wave_done(id) && !engine.is_looked_at(id));
        assert!(engine.trust().is_in_doubt(&"a/new".into()));
        drop(first);
        assert!(engine.is_first_wave_done(id) && !engine.is_looked_at(id));
        assert!(!engine.trust().is_in_doubt(&"a/new".into()));
        drop(second);
        assert!(engine.is_looked_at(id));
        assert!(engine.trust().is_under_doubt(&"a/x".into()));
        engine.round_ended(id);
        assert!(!engine.trust().is_under_doubt(&"a/x".into()) && !engine.has_rounds());
    }

    #[test]
    fn a_failed_walk_is_repeated_later_or_ends_a_single_scan() {
        let now = Instant::now();
        let mut scan = Engine::default();
        scan.walk_failed("disk full", now);
        assert!(scan.is_settled() && scan.scan_failure() == Some("disk full"));
        let mut watch = Engine::default();
        watch.follow(Intervals::default());
        watch.walk_failed("disk full", now);
        assert_eq!((watch.scan_failure(), watch.next_deadline()), (None, Some(now + REPEAT_WAIT)));
    }

    #[test]
    fn a_scan_ends_when_nothing_is_left_or_at_its_limit() {
        let now = Instant::now();
        let mut engine = Engine::default();
        engine.begin_scan(now);
        for rounds in 1..=3 {
            assert!(!engine.is_scan_done(3));
            let round = engine.begin_round(now).unwrap();
            assert!(!engine.is_scan_done(rounds), "the round is going on");
            engine.mark("a".into(), Duration::ZERO, now);
            engine.round_ended(round.id);
        }
        assert!(engine.is_scan_done(3) && !engine.is_scan_done(4));
        let last = engine.begin_round(now).unwrap();
        engine.round_ended(last.id);
        assert!(engine.is_scan_done(100));
    }

    #[test]
    fn a_single_scan_doubts_no_path() {
        let now = Instant::now();
        let mut engine = Engine::default();
        engine.begin_scan(now);
        let id = engine.begin_round(now).unwrap().id;
        let (new, replaced) = (engine.found(id, hint("a/new")), engine.found_replaced(id, hint("a/other")));
        assert!(!engine.trust().is_in_doubt(&new.path) && !engine.trust().is_in_doubt(&replaced.path));
        engine.walk_ended(id);
        engine.found_all(id);
        assert!(!engine.is_looked_at(id), "it waits for its looks all the same");
    }

    #[test]
    fn subtrees_that_a_single_scan_walks_again_belong_to_the_scan() {
        let now = Instant::now();
        for (is_following, origin) in [(false, Origin::Scan), (true, Origin::Watch)] {
            let mut engine = engine(&["a"], now);
            if is_following {
                engine.follow(Intervals::default());
            }
            assert_eq!(engine.begin_round(now).unwrap().origin, origin);
        }
    }

    #[test]
    fn a_file_is_tied_to_the_directories_it_lies_in_and_not_to_others_of_its_walk() {
        let now = Instant::now();
        let mut engine = Engine::default();
        let groups: Vec<RenameGroup> = (0..3).map(|_| RenameGroup::new(Duration::from_secs(3))).collect();
        for (subtree, group) in ["a", "a/b", "c"].into_iter().zip(&groups) {
            let ties = Ties { member_of: vec![group.join()], left_in: vec![group.clone()], ..Ties::default() };
            engine.mark_tied(subtree.into(), Duration::ZERO, ties, now);
        }
        let id = engine.begin_round(now).unwrap().id;
        for (path, lies_in) in [("a/x", &groups[..1]), ("a/b/x", &groups[..2]), ("c/x", &groups[2..])] {
            let ids = |groups: &mut dyn Iterator<Item = &RenameGroup>| {
                groups.map(RenameGroup::id).collect::<std::collections::BTreeSet<_>>()
            };
            let expected = ids(&mut lies_in.iter());
            let look = engine.found_replaced(id, hint(path));
            let ties = &look.guards.ties;
            assert_eq!(ids(&mut ties.member_of.iter().map(|member| member.group())), expected, "{path}");
            let missed = engine.ties_of_missed(id, &path.into());
            for left_in in [&ties.left_in, &missed.left_in] {
                // The last one is that of the walk itself.
                assert_eq!(ids(&mut left_in[..left_in.len() - 1].iter()), expected, "{path}");
            }
        }
        engine.walk_ended(id);
        let ties = engine.found_replaced(id, hint("a/x")).guards.ties;
        assert_eq!((ties.member_of.len(), ties.left_in.len()), (0, 2));
    }

    #[test]
    fn there_is_one_walk_of_everything_at_a_time_and_the_next_one_is_asked_for_once() {
        let now = Instant::now();
        let mut engine = engine(&[""], now);
        let first = engine.begin_round(now).unwrap();
        assert!(first.is_of_everything);
        for _ in 0..3 {
            engine.mark(LibraryPath::root(), Duration::ZERO, now);
            assert_eq!(engine.begin_round(now), None);
        }
        engine.mark("a".into(), Duration::ZERO, now);
        assert_eq!(engine.begin_round(now).unwrap().subtrees, ["a".into()], "a new album does not wait");
        engine.found_all(first.id);
        let second = engine.begin_round(now).unwrap();
        assert!(second.is_of_everything && second.id != first.id);
        engine.found_all(second.id);
        assert_eq!(engine.begin_round(now), None);
    }

    #[test]
    fn a_round_waits_for_earlier_ones_of_subtrees_and_not_for_one_of_everything() {
        let now = Instant::now();
        let mut engine = engine(&[""], now);
        let begin = |engine: &mut Engine, subtree: &str| {
            engine.mark(subtree.into(), Duration::ZERO, now);
            engine.begin_round(now).unwrap().id
        };
        let everything = engine.begin_round(now).unwrap().id;
        let (a, b) = (begin(&mut engine, "a"), begin(&mut engine, "b"));
        let look = engine.found(a, hint("a/x"));
        for id in [a, b, everything] {
            engine.found_all(id);
        }
        assert!(!engine.is_looked_at(b) && engine.is_looked_at(everything));
        drop(look);
        assert!(engine.is_looked_at(b));
    }
}
