//! The one timer of a combinator.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep, sleep_until};

pin_project! {
    /// A timer that is created when it is first polled, so that a pipeline can be built outside of a runtime.
    #[derive(Default)]
    pub(super) struct Alarm {
        #[pin]
        sleep: Option<Sleep>,
    }
}

impl Alarm {
    /// Ready at `deadline` and later. Until then, the task is woken at the deadline of the last call.
    pub(super) fn poll_at(self: Pin<&mut Self>, deadline: Instant, context: &mut Context<'_>) -> Poll<()> {
        // The timer wheel may be a tick late, so a deadline that has passed does not go there.
        if deadline <= Instant::now() {
            return Poll::Ready(());
        }
        let mut sleep = self.project().sleep;
        match sleep.as_mut().as_pin_mut() {
            None => sleep.set(Some(sleep_until(deadline))),
            Some(set) if set.deadline() != deadline => set.reset(deadline),
            Some(_) => {}
        }
        sleep.as_pin_mut().map_or(Poll::Ready(()), |set| set.poll(context))
    }
}

/// `duration` after `instant`, or a year after it if the sum is out of range.
pub(super) fn after(instant: Instant, duration: Duration) -> Instant {
    const YEAR: Duration = Duration::from_hours(365 * 24);
    instant.checked_add(duration).unwrap_or_else(|| instant + YEAR)
}
