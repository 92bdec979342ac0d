//! The engine with a clock: what the watcher, walks and looks hand in, and who waits for what follows.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::engine::{Engine, Hints, Now, Round, SharedEngine, Trust};
use crate::model::{FsEvent, LibraryPath, Ties};

/// How long a wait for the end of looks goes on without being woken. Hints that are dropped elsewhere than in a commit
/// wake nobody.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// The engine for everyone who feeds it. Clones share it.
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

    /// The engine itself.
    #[must_use]
    pub fn engine(&self) -> &SharedEngine {
        &self.engine
    }

    /// Asks or tells the engine something, now.
    pub fn with<T>(&self, act: impl FnOnce(&mut Engine, Now) -> T) -> T {
        self.engine.with(|engine| act(engine, now()))
    }

    /// Asks or changes what may not be trusted.
    pub fn trust<T>(&self, act: impl FnOnce(&mut Trust) -> T) -> T {
        self.engine.trust(act)
    }

    /// This hint, and with it the doubt whether its path is as it was.
    #[must_use]
    pub fn doubting(&self, hint: FsEvent) -> FsEvent {
        self.engine.with(|engine| engine.doubting(hint))
    }

    /// Adds a hint. One that waits for the same path is merged into it.
    pub fn push(&self, hint: FsEvent) {
        self.with(|engine, now| engine.push(hint, now.instant));
    }

    /// Asks for a walk of everything at or under `subtree`, not before `wait` has passed.
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

    /// Takes all subtrees that are marked, due or not; none of them lies in another one.
    #[must_use]
    pub fn take_subtrees(&self) -> Vec<LibraryPath> {
        let subtrees = self.engine.with(Engine::take_marked);
        subtrees.into_iter().map(|subtree| subtree.path).collect()
    }

    /// Waits until a walk may begin. Time passes for the engine meanwhile.
    pub async fn next_round(&self) -> Round {
        loop {
            // Asked for before the engine is asked, so that no end of looks is missed in between.
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
                () = at(deadline.map(Instant::from_std)) => {}
            }
        }
    }

    /// Looks came to an end, or a walk did: whoever waits for that asks the engine again.
    pub fn looks_ended(&self) {
        self.looks_ended.notify_waiters();
    }

    /// Waits until the engine says yes. It is asked again whenever looks have ended.
    pub async fn until(&self, holds: impl Fn(&mut Engine) -> bool) {
        loop {
            let looks_ended = self.looks_ended.notified();
            if self.engine.with(&holds) {
                return;
            }
            let _ = tokio::time::timeout(LOOK_AGAIN, looks_ended).await;
        }
    }
}

fn now() -> Now {
    Now { instant: Instant::now().into_std(), wall: SystemTime::now() }
}

/// Waits until then; for ever if there is no such time.
pub(super) async fn at(due: Option<Instant>) {
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

    fn hint(path: &str, quiet: Cause) -> FsEvent {
        FsEvent::new(path.into(), quiet, Origin::Watch)
    }

    #[tokio::test]
    async fn hints_come_once_a_path_in_the_order_of_the_first_and_wake_who_waits() {
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
    async fn a_round_begins_when_its_subtree_is_due_also_if_that_is_marked_meanwhile() {
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
