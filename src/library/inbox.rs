//! The engine with a clock: takes the input of the watcher, walks and looks, and wakes those who wait for its output.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::engine::{Engine, Hints, Now, Round, RoundId, SharedEngine, Trust};
use crate::model::{FsEvent, LibraryPath, Ties};

/// The longest time that a wait for the end of looks sleeps. Only commits wake it: a hint that is dropped elsewhere
/// does not.
const MAX_SLEEP: Duration = Duration::from_secs(1);

/// The engine, shared by all that feed it. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Inbox {
    engine: SharedEngine,
    looks_ended: Arc<Notify>,
}

impl Inbox {
    /// An inbox with a new engine.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The engine without the clock.
    #[must_use]
    pub fn engine(&self) -> &SharedEngine {
        &self.engine
    }

    /// Calls the engine with the current time.
    pub fn with<T>(&self, act: impl FnOnce(&mut Engine, Now) -> T) -> T {
        self.engine.with(|engine| act(engine, now()))
    }

    /// Reads or changes what may not be trusted.
    pub fn trust<T>(&self, act: impl FnOnce(&mut Trust) -> T) -> T {
        self.engine.trust(act)
    }

    /// This hint with a guard: its path is in doubt until the hint is done.
    #[must_use]
    pub fn doubting(&self, hint: FsEvent) -> FsEvent {
        self.engine.with(|engine| engine.doubting(hint))
    }

    /// Adds a hint. One that waits for the same path is merged into it.
    pub fn push(&self, hint: FsEvent) {
        self.with(|engine, now| engine.push(hint, now.instant));
    }

    /// Requests a walk of everything at or under `subtree`, after `wait` at the earliest.
    pub fn mark(&self, subtree: LibraryPath, wait: Duration) {
        self.mark_tied(subtree, wait, Ties::default());
    }

    /// Like [`Inbox::mark`]. The walk may find, or miss, files of the renames that `ties` name.
    pub fn mark_tied(&self, subtree: LibraryPath, wait: Duration, ties: Ties) {
        self.with(|engine, now| engine.mark_tied(subtree, wait, ties, now.instant));
    }

    /// The hints, in the order in which their paths were first pushed. The stream never ends.
    pub fn hints(&self) -> Hints {
        self.engine.hints()
    }

    /// Takes all hints that wait now.
    #[must_use]
    pub fn take_all(&self) -> Vec<FsEvent> {
        self.engine.with(|engine| std::iter::from_fn(|| engine.next_hint()).collect())
    }

    /// Takes all marked subtrees, due or not. None of them lies in another one.
    #[must_use]
    pub fn take_subtrees(&self) -> Vec<LibraryPath> {
        let subtrees = self.engine.with(Engine::take_marked);
        subtrees.into_iter().map(|subtree| subtree.path).collect()
    }

    /// Waits until a walk may begin. The engine's timers run meanwhile.
    pub async fn next_round(&self) -> Round {
        loop {
            // Registered before the engine is asked, so that no wakeup is lost in between.
            let looks_ended = self.looks_ended.notified();
            let (round, deadline) = self.with(|engine, now| {
                engine.tick(now.instant);
                (engine.begin_round(now.instant), engine.next_deadline())
            });
            if let Some(round) = round {
                return round;
            }
            tokio::select! {
                () = looks_ended => {}
                _ = self.engine.next_deadline(deadline) => {}
                () = sleep_until(deadline.map(Instant::from_std)) => {}
            }
        }
    }

    /// Wakes those who wait for the end of looks or of a walk. They ask the engine again.
    pub fn looks_ended(&self) {
        self.looks_ended.notify_waiters();
    }

    /// A round ended, or was given up.
    pub fn round_ended(&self, id: RoundId) {
        self.engine.with(|engine| engine.round_ended(id));
        self.looks_ended();
    }

    /// Waits until `holds` is true of the engine. It is checked again whenever looks have ended, and every second.
    pub async fn wait_until(&self, holds: impl Fn(&mut Engine) -> bool) {
        self.wait_until_checked(MAX_SLEEP, holds).await;
    }

    /// Like [`Inbox::wait_until`], with another time between checks while no looks end.
    pub async fn wait_until_checked(&self, every: Duration, holds: impl Fn(&mut Engine) -> bool) {
        loop {
            let looks_ended = self.looks_ended.notified();
            if self.engine.with(&holds) {
                return;
            }
            let _ = tokio::time::timeout(every, looks_ended).await;
        }
    }
}

fn now() -> Now {
    Now { instant: Instant::now().into_std(), wall: SystemTime::now() }
}

/// Waits until `due`, or forever if there is no such time.
async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use futures::{FutureExt, StreamExt};

    use super::*;
    use crate::model::{Cause, Origin};

    fn hint(path: &str, cause: Cause) -> FsEvent {
        FsEvent::new(path.into(), cause, Origin::Watch)
    }

    #[tokio::test]
    async fn hints_come_once_per_path_in_the_order_of_their_first_push_and_wake_the_stream() {
        let inbox = Inbox::new();
        inbox.push(hint("b", Cause::Created));
        inbox.push(hint("a", Cause::Created));
        inbox.push(hint("b", Cause::Closed));
        let taken: Vec<_> = inbox.hints().take(2).map(|hint| (hint.path.to_string(), hint.cause)).collect().await;
        assert_eq!(taken, [("b".to_owned(), Cause::Closed), ("a".to_owned(), Cause::Created)]);
        let mut hints = inbox.hints();
        assert!(hints.next().now_or_never().is_none());
        let waiting = tokio::spawn(async move { hints.next().await.map(|hint| hint.path) });
        tokio::task::yield_now().await;
        inbox.push(hint("c", Cause::Created));
        assert_eq!(waiting.await.unwrap(), Some("c".into()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_round_begins_when_its_subtree_is_due_even_if_it_was_marked_during_the_wait() {
        let inbox = Inbox::new();
        let begin = Instant::now();
        inbox.mark("late".into(), Duration::from_secs(5));
        let waiting = tokio::spawn({
            let inbox = inbox.clone();
            async move { inbox.next_round().await.subtrees }
        });
        tokio::task::yield_now().await;
        inbox.mark("a".into(), Duration::from_secs(1));
        assert_eq!(waiting.await.unwrap(), [LibraryPath::from("a")]);
        assert_eq!(begin.elapsed().as_secs(), 1);
        assert_eq!(inbox.next_round().await.subtrees, [LibraryPath::from("late")]);
        assert_eq!(begin.elapsed().as_secs(), 5);
    }
}
