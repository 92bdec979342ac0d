//! Where hints wait until the chain takes them: at most one a path, and never more than a bound.
//!
//! It also keeps the register of doubt: whoever pushes or marks says with that where content may have
//! changed, and a rename is trusted only where nobody doubts. And it remembers from where directories went
//! away: what was told of a name beneath one may have been told of a file that went with it.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures::Stream;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::model::{FsEvent, LibraryPath, Renames, Ties, Token};
use crate::stream::{Hold, Holds};

/// Paths that may wait one by one; beyond this the whole library is looked at instead, which costs
/// a walk and loses nothing.
const MOST_HINTS: usize = 100_000;

/// Subtrees that may wait one by one, likewise.
const MOST_SUBTREES: usize = 10_000;

/// Hints that wait for the chain, and subtrees that wait for a walk. Clones share them.
///
/// Its law: for every path that was pushed, a later taker gets a hint for that path, or the root
/// as a subtree to walk. Pushing never blocks and never waits for a taker.
#[derive(Clone, Debug, Default)]
pub struct Inbox(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    subtree_marked: Notify,
    doubts: Holds,
    replaced: Holds,
    renames: Renames,
}

#[derive(Debug, Default)]
struct State {
    hints: HashMap<LibraryPath, FsEvent>,
    order: VecDeque<LibraryPath>,
    taker: Option<Waker>,
    subtrees: BTreeMap<LibraryPath, Mark>,
    overflows: u64,
}

#[derive(Debug)]
struct Mark {
    due: Instant,
    doubt: Hold,
    /// Where a directory went away.
    replaced: Option<Hold>,
    /// Of the renames whose files the walk may find, or miss.
    ties: Ties,
}

/// A subtree to walk. What is beneath it stays in doubt until this is dropped, which is to be done when
/// the walk has come to its end and everything that it found was looked at.
#[derive(Debug)]
pub struct Subtree {
    /// Where to walk.
    pub path: LibraryPath,
    /// Its own, and those of subtrees that lie in it.
    holds: Vec<Hold>,
    /// Of the renames whose files the walk may find, or miss.
    pub ties: Ties,
}

impl Inbox {
    /// An empty inbox.
    pub fn new() -> Self {
        Self::default()
    }

    /// The paths whose content may have changed since it was looked at: those of hints that say so, and
    /// all beneath subtrees that wait for a walk, for nobody knows what happened there.
    pub fn doubts(&self) -> &Holds {
        &self.0.doubts
    }

    /// Subtrees that went away and were not walked since: who closed a file there, or renamed it into its place,
    /// may have done so to another one.
    pub fn replaced(&self) -> &Holds {
        &self.0.replaced
    }

    /// The renames that are going on.
    pub fn renames(&self) -> &Renames {
        &self.0.renames
    }

    /// This hint, and with it the doubt whether what is at its path is as it was.
    #[must_use]
    pub fn doubting(&self, mut hint: FsEvent) -> FsEvent {
        hint.holds.push(Token::new(self.0.doubts.hold(hint.path.clone())));
        hint
    }

    /// Adds a hint; one that waits for the same path is merged into it.
    pub fn push(&self, hint: FsEvent) {
        let mut state = self.state();
        if state.hints.len() >= MOST_HINTS && !state.hints.contains_key(&hint.path) {
            // First, for with the hints their doubts go.
            state.mark(LibraryPath::root(), Instant::now(), &self.0.doubts, Some(&self.0.replaced), self.unwatched());
            state.hints.clear();
            state.order.clear();
            state.overflows += 1;
            drop(state);
            self.0.subtree_marked.notify_one();
            return;
        }
        let path = hint.path.clone();
        let merged = if let Some(older) = state.hints.remove(&path) {
            hint.merged_over(older)
        } else {
            state.order.push_back(path.clone());
            hint
        };
        state.hints.insert(path, merged);
        if let Some(taker) = state.taker.take() {
            taker.wake();
        }
    }

    /// Asks for a walk of everything at or beneath `subtree`, not before `wait` has passed. Says
    /// whether that was not asked for already.
    pub fn mark(&self, subtree: LibraryPath, wait: Duration) -> bool {
        self.mark_as(subtree, wait, None, Ties::default())
    }

    /// The same, where the walk may find, or miss, files of renames that `ties` name.
    pub fn mark_tied(&self, subtree: LibraryPath, wait: Duration, ties: Ties) -> bool {
        self.mark_as(subtree, wait, None, ties)
    }

    /// The same, where the directory of this name went away, whatever has its name now.
    pub fn mark_gone(&self, subtree: LibraryPath, wait: Duration, ties: Ties) -> bool {
        self.mark_as(subtree, wait, Some(&self.0.replaced), ties)
    }

    fn mark_as(&self, subtree: LibraryPath, wait: Duration, replaced: Option<&Holds>, ties: Ties) -> bool {
        let due = Instant::now() + wait;
        let mut state = self.state();
        if state.subtrees.len() >= MOST_SUBTREES {
            state.mark(LibraryPath::root(), Instant::now(), &self.0.doubts, Some(&self.0.replaced), self.unwatched());
            state.subtrees.retain(|path, _| path.is_root());
        }
        let is_new = state.mark(subtree, due, &self.0.doubts, replaced, ties);
        drop(state);
        self.0.subtree_marked.notify_one();
        is_new
    }

    /// The ties of a walk of everything that finds out what happened while nobody watched.
    pub fn unwatched(&self) -> Ties {
        Ties { member_of: vec![self.0.renames.begin_walk_of_unwatched().join()], ..Ties::default() }
    }

    /// Takes all marks back: something makes up for them that is marked now.
    pub fn unmark_all(&self) {
        self.state().subtrees.clear();
    }

    /// Takes a mark back, where nobody walked the subtree yet.
    pub fn unmark(&self, subtree: &LibraryPath) {
        self.state().subtrees.remove(subtree);
    }

    /// Waits until a subtree is due and takes all that are; none of them lies in another one.
    pub async fn due_subtrees(&self) -> Vec<Subtree> {
        loop {
            let marked = self.0.subtree_marked.notified();
            let (due, next) = self.state().take_due(Instant::now());
            if !due.is_empty() {
                return due;
            }
            match next {
                Some(next) => drop(tokio::time::timeout_at(next, marked).await),
                None => marked.await,
            }
        }
    }

    /// Takes all hints that wait now.
    pub fn take_all(&self) -> Vec<FsEvent> {
        let mut state = self.state();
        let State { hints, order, .. } = &mut *state;
        order.drain(..).filter_map(|path| hints.remove(&path)).collect()
    }

    /// Takes all subtrees that are marked, due or not; none of them lies in another one.
    pub fn take_subtrees(&self) -> Vec<Subtree> {
        let mut state = self.state();
        let last = state.subtrees.values().map(|mark| mark.due).max();
        last.map(|last| state.take_due(last).0).unwrap_or_default()
    }

    /// How many hints wait.
    pub fn len(&self) -> usize {
        self.state().hints.len()
    }

    /// Whether no hint waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How often the bound was reached and the hints gave way to a walk of the root.
    pub fn overflows(&self) -> u64 {
        self.state().overflows
    }

    /// The hints, in the order in which their paths were first pushed; it never ends.
    pub fn hints(&self) -> Hints {
        Hints(self.clone())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Marks a subtree, and says whether it was not marked before.
    fn mark(
        &mut self,
        subtree: LibraryPath,
        due: Instant,
        doubts: &Holds,
        replaced: Option<&Holds>,
        mut ties: Ties,
    ) -> bool {
        let replaced = replaced.map(|replaced| replaced.hold(subtree.clone()));
        match self.subtrees.entry(subtree) {
            Entry::Vacant(entry) => {
                let doubt = doubts.hold(entry.key().clone());
                entry.insert(Mark { due, doubt, replaced, ties });
                true
            }
            // What was asked for sooner is not put off by asking again.
            Entry::Occupied(mut entry) => {
                let mark = entry.get_mut();
                mark.due = due.min(mark.due);
                mark.replaced = mark.replaced.take().or(replaced);
                mark.ties.append(&mut ties);
                false
            }
        }
    }

    fn take_due(&mut self, now: Instant) -> (Vec<Subtree>, Option<Instant>) {
        let mut due: Vec<Subtree> = Vec::new();
        for (path, mut mark) in self.subtrees.extract_if(.., |_, mark| mark.due <= now) {
            let holds = std::iter::once(mark.doubt).chain(mark.replaced);
            // In byte order a directory comes before what is in it.
            match due.iter_mut().rev().find(|above| path.is_at_or_under(&above.path)) {
                Some(above) => {
                    above.holds.extend(holds);
                    above.ties.append(&mut mark.ties);
                }
                None => due.push(Subtree { path, holds: holds.collect(), ties: mark.ties }),
            }
        }
        (due, self.subtrees.values().map(|mark| mark.due).min())
    }
}

/// The stream of an [`Inbox`]'s hints.
#[derive(Debug)]
#[must_use = "streams do nothing unless polled"]
pub struct Hints(Inbox);

impl Stream for Hints {
    type Item = FsEvent;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<FsEvent>> {
        let mut state = self.0.state();
        while let Some(path) = state.order.pop_front() {
            if let Some(hint) = state.hints.remove(&path) {
                return Poll::Ready(Some(hint));
            }
        }
        state.taker = Some(context.waker().clone());
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use futures::{FutureExt, StreamExt};

    use super::*;
    use crate::model::{Origin, Quiet};

    fn hint(path: &str, quiet: Quiet) -> FsEvent {
        FsEvent::new(path.into(), quiet, Origin::Watch)
    }

    async fn due(inbox: &Inbox) -> Vec<LibraryPath> {
        inbox.due_subtrees().await.into_iter().map(|subtree| subtree.path).collect()
    }

    #[tokio::test]
    async fn hints_come_once_a_path_in_the_order_of_the_first() {
        let inbox = Inbox::new();
        inbox.push(hint("b", Quiet::Created));
        inbox.push(hint("a", Quiet::Created));
        inbox.push(hint("b", Quiet::Closed));
        let taken: Vec<_> = inbox.hints().take(2).map(|hint| (hint.path.to_string(), hint.quiet)).collect().await;
        assert_eq!(taken, [("b".to_owned(), Quiet::Closed), ("a".to_owned(), Quiet::Created)]);
        assert!(inbox.hints().next().now_or_never().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn beyond_the_bound_the_root_is_walked_instead() {
        let inbox = Inbox::new();
        for index in 0..=MOST_HINTS {
            inbox.push(hint(&index.to_string(), Quiet::Created));
        }
        assert_eq!((inbox.len(), inbox.overflows()), (0, 1));
        assert_eq!(due(&inbox).await, [LibraryPath::root()]);
        for index in 0..=MOST_SUBTREES {
            inbox.mark(LibraryPath::from(index.to_string().as_str()), Duration::from_mins(1));
        }
        assert_eq!(due(&inbox).await, [LibraryPath::root()]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_subtree_comes_when_it_is_due_and_without_what_is_beneath_it() {
        let inbox = Inbox::new();
        let begin = Instant::now();
        inbox.mark("late".into(), Duration::from_secs(5));
        inbox.mark("a/b".into(), Duration::from_secs(1));
        inbox.mark("a".into(), Duration::from_secs(1));
        inbox.mark("a.b".into(), Duration::from_secs(1));
        inbox.mark("gone".into(), Duration::from_secs(1));
        inbox.unmark(&"gone".into());
        assert_eq!(due(&inbox).await, ["a".into(), LibraryPath::from("a.b")]);
        assert_eq!(begin.elapsed().as_secs(), 1);
        assert_eq!(due(&inbox).await, [LibraryPath::from("late")]);
        assert_eq!(begin.elapsed().as_secs(), 5);
    }

    #[tokio::test(start_paused = true)]
    async fn what_lies_beneath_a_mark_is_in_doubt_until_its_walk_is_over() {
        let inbox = Inbox::new();
        let in_doubt = |path: &str| inbox.doubts().cover(&path.into());
        inbox.mark("a".into(), Duration::ZERO);
        inbox.mark("a/b".into(), Duration::ZERO);
        inbox.mark("c".into(), Duration::ZERO);
        inbox.unmark(&"c".into());
        assert!(in_doubt("a/b/x.mp3") && !in_doubt("c/x.mp3"));
        let walked = inbox.due_subtrees().await;
        assert!(in_doubt("a/b/x.mp3"));
        drop(walked);
        assert!(!in_doubt("a/b/x.mp3"));

        let is_replaced = |path: &str| inbox.replaced().cover(&path.into());
        inbox.mark("a".into(), Duration::ZERO);
        inbox.mark("a/b".into(), Duration::ZERO);
        inbox.mark_gone("a/b".into(), Duration::ZERO, Ties::default());
        inbox.mark_gone("c".into(), Duration::ZERO, Ties::default());
        inbox.unmark(&"c".into());
        assert!(is_replaced("a/b/x.mp3") && !is_replaced("a/x.mp3") && !is_replaced("c/x.mp3"));
        let walked = inbox.due_subtrees().await;
        assert!(walked.len() == 1 && is_replaced("a/b/x.mp3"), "by the walk of what it lies in");
        drop(walked);
        assert!(!is_replaced("a/b/x.mp3"));
        // With the hints that are given up for a walk of everything, their own doubts go.
        for index in 0..=MOST_HINTS {
            inbox.push(inbox.doubting(hint(&index.to_string(), Quiet::Closed)));
        }
        assert!(inbox.is_empty() && in_doubt("0"));
        drop(inbox.due_subtrees().await);
        assert!(!in_doubt("0"));
    }
}
