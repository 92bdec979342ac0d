//! The one lock around the engine, and who is woken when it has something new.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Instant;

use futures::Stream;
use futures::future::poll_fn;
use futures::task::AtomicWaker;

use super::{Engine, Trust};
use crate::model::FsEvent;

/// The engine for all who feed it and all who work for it. Clones are the same engine.
#[derive(Clone, Debug, Default)]
pub struct SharedEngine(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    engine: Mutex<Engine>,
    hint_taker: AtomicWaker,
    time_keeper: AtomicWaker,
}

impl SharedEngine {
    /// An engine that knows nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks or tells the engine something. Whoever waits for what follows is woken.
    pub fn with<T>(&self, act: impl FnOnce(&mut Engine) -> T) -> T {
        let mut engine = self.lock();
        let before = engine.next_deadline();
        let done = act(&mut engine);
        let (has_hints, deadline) = (engine.has_hints(), engine.next_deadline());
        drop(engine);
        if has_hints {
            self.0.hint_taker.wake();
        }
        if deadline != before {
            self.0.time_keeper.wake();
        }
        done
    }

    /// Asks or changes what may not be trusted.
    pub fn trust<T>(&self, act: impl FnOnce(&mut Trust) -> T) -> T {
        self.with(|engine| act(engine.trust()))
    }

    /// The hints, in the order in which their paths were first pushed. The stream never ends, and there is only one.
    pub fn hints(&self) -> Hints {
        Hints(self.clone())
    }

    /// Waits until the engine's next deadline is another one than `known`, and returns it.
    pub async fn next_deadline(&self, known: Option<Instant>) -> Option<Instant> {
        poll_fn(|context| {
            self.0.time_keeper.register(context.waker());
            let deadline = self.lock().next_deadline();
            if deadline == known { Poll::Pending } else { Poll::Ready(deadline) }
        })
        .await
    }

    fn lock(&self) -> MutexGuard<'_, Engine> {
        // Every change under the lock is one step, so that a panic elsewhere cannot leave it half done.
        self.0.engine.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The stream of [`SharedEngine::hints`].
#[derive(Debug)]
#[must_use = "streams do nothing unless polled"]
pub struct Hints(SharedEngine);

impl Stream for Hints {
    type Item = FsEvent;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<FsEvent>> {
        let shared = &self.0.0;
        if let Some(hint) = self.0.lock().next_hint() {
            return Poll::Ready(Some(hint));
        }
        shared.hint_taker.register(context.waker());
        // One may have come before the waker was there.
        self.0.lock().next_hint().map_or(Poll::Pending, |hint| Poll::Ready(Some(hint)))
    }
}
