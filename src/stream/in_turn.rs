//! Works on one item after the other, while the input prepares the next one.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures::Stream;
use futures::stream::{Fuse, StreamExt};
use pin_project_lite::pin_project;

pin_project! {
    /// The future of [`in_turn`](super::HintStreamExt::in_turn).
    #[must_use = "futures do nothing unless polled"]
    pub struct InTurn<S, W, F>
    where
        S: Stream,
    {
        #[pin]
        input: Fuse<S>,
        next: Option<S::Item>,
        work: W,
        #[pin]
        working: Option<F>,
    }
}

impl<S, W, F> InTurn<S, W, F>
where
    S: Stream,
{
    pub(super) fn new(input: S, work: W) -> Self {
        Self { input: input.fuse(), next: None, work, working: None }
    }
}

impl<S, W, F> fmt::Debug for InTurn<S, W, F>
where
    S: Stream,
{
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = formatter.debug_struct("InTurn");
        debug
            .field("is_working", &self.working.is_some())
            .field("has_next", &self.next.is_some())
            .finish_non_exhaustive()
    }
}

impl<S, W, F> Future for InTurn<S, W, F>
where
    S: Stream,
    W: FnMut(S::Item) -> F,
    F: Future<Output = ()>,
{
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let mut this = self.project();
        loop {
            if let Some(working) = this.working.as_mut().as_pin_mut()
                && working.poll(context).is_ready()
            {
                this.working.set(None);
            }
            if this.next.is_none()
                && let Poll::Ready(item) = this.input.as_mut().poll_next(context)
            {
                *this.next = item;
            }
            if this.working.is_some() {
                return Poll::Pending;
            }
            match this.next.take() {
                Some(item) => this.working.set(Some((this.work)(item))),
                None if this.input.is_done() => return Poll::Ready(()),
                None => return Poll::Pending,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use futures::stream;
    use proptest::prelude::*;
    use tokio::time::{Instant, sleep};

    use crate::stream::HintStreamExt;
    use crate::stream::testing::{milliseconds, paused, schedule};

    proptest! {
        /// As a machine that makes an item while the last one is worked on, and waits with it until that is done.
        #[test]
        fn each_item_is_worked_on_after_the_one_before_while_the_next_is_made(
            times in prop::collection::vec((0_u64..20, 0_u64..20), 0..20)
        ) {
            let mut expected = Vec::new();
            let (mut made, mut begun, mut done) = (0, 0, 0);
            for (making, working) in &times {
                // The input is asked for an item once the one before is worked on.
                made = begun.max(made) + making;
                begun = made.max(done);
                done = begun + working;
                expected.push((begun, done));
            }
            let worked = RefCell::new(Vec::new());
            paused(async {
                let start = Instant::now();
                let now = || u64::try_from(start.elapsed().as_millis()).unwrap();
                let made = stream::unfold(times.iter(), |mut left| async {
                    let (making, working) = left.next()?;
                    sleep(milliseconds(*making)).await;
                    Some((*working, left))
                });
                made.in_turn(|working| {
                    let begun = now();
                    let worked = &worked;
                    async move {
                        sleep(milliseconds(working)).await;
                        worked.borrow_mut().push((begun, now()));
                    }
                })
                .await;
            });
            prop_assert_eq!(worked.into_inner(), expected);
        }
    }

    #[test]
    fn it_ends_with_the_work_on_the_last_item() {
        paused(async {
            let begun = Instant::now();
            schedule(vec![(5, ())]).in_turn(|()| sleep(milliseconds(7))).await;
            assert_eq!(begun.elapsed(), milliseconds(12));
        });
    }
}
