//! Where hints wait until the chain takes them: at most one a path, and never more than a bound.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures::Stream;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::model::{FsEvent, LibraryPath};

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
}

#[derive(Debug, Default)]
struct State {
    hints: HashMap<LibraryPath, FsEvent>,
    order: VecDeque<LibraryPath>,
    taker: Option<Waker>,
    subtrees: BTreeMap<LibraryPath, Instant>,
    overflows: u64,
}

impl Inbox {
    /// An empty inbox.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a hint; one that waits for the same path is merged into it.
    pub fn push(&self, hint: FsEvent) {
        let mut state = self.state();
        if state.hints.len() >= MOST_HINTS && !state.hints.contains_key(&hint.path) {
            state.hints.clear();
            state.order.clear();
            state.overflows += 1;
            drop(state);
            self.mark(LibraryPath::root(), Duration::ZERO);
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
        let due = Instant::now() + wait;
        let mut state = self.state();
        if state.subtrees.len() >= MOST_SUBTREES {
            state.subtrees.clear();
            state.subtrees.insert(LibraryPath::root(), Instant::now());
        }
        let is_new = match state.subtrees.entry(subtree) {
            Entry::Vacant(entry) => {
                entry.insert(due);
                true
            }
            // What was asked for sooner is not put off by asking again.
            Entry::Occupied(mut entry) => {
                *entry.get_mut() = due.min(*entry.get());
                false
            }
        };
        drop(state);
        self.0.subtree_marked.notify_one();
        is_new
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
    pub async fn due_subtrees(&self) -> Vec<LibraryPath> {
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
    pub fn take_subtrees(&self) -> Vec<LibraryPath> {
        let mut state = self.state();
        let last = state.subtrees.values().max().copied();
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
    fn take_due(&mut self, now: Instant) -> (Vec<LibraryPath>, Option<Instant>) {
        let mut due: Vec<LibraryPath> = Vec::new();
        for (subtree, _) in self.subtrees.iter().filter(|(_, at)| **at <= now) {
            // In byte order a directory comes before what is in it.
            if !due.iter().rev().any(|above| subtree.is_at_or_under(above)) {
                due.push(subtree.clone());
            }
        }
        self.subtrees.retain(|_, at| *at > now);
        (due, self.subtrees.values().min().copied())
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
        assert_eq!(inbox.due_subtrees().await, [LibraryPath::root()]);
        for index in 0..=MOST_SUBTREES {
            inbox.mark(LibraryPath::from(index.to_string().as_str()), Duration::from_mins(1));
        }
        assert_eq!(inbox.due_subtrees().await, [LibraryPath::root()]);
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
        assert_eq!(inbox.due_subtrees().await, ["a".into(), LibraryPath::from("a.b")]);
        assert_eq!(begin.elapsed().as_secs(), 1);
        assert_eq!(inbox.due_subtrees().await, [LibraryPath::from("late")]);
        assert_eq!(begin.elapsed().as_secs(), 5);
    }
}
