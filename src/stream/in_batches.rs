//! Collects items into batches, without a wait for items that do not come.

use std::fmt;
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::Stream;
use futures::stream::{Fuse, StreamExt};
use pin_project_lite::pin_project;
use tokio::time::Instant;

use super::alarm::{Alarm, after};

pin_project! {
    /// The stream of [`in_batches`](super::HintStreamExt::in_batches).
    #[must_use = "streams do nothing unless polled"]
    pub struct InBatches<S: Stream> {
        #[pin]
        input: Fuse<S>,
        size: usize,
        linger: Duration,
        batch: Vec<S::Item>,
        // When the open batch closes at the latest. It opens with its first item.
        closes_at: Option<Instant>,
        #[pin]
        alarm: Alarm,
    }
}

impl<S: Stream> InBatches<S> {
    pub(super) fn new(input: S, size: usize, linger: Duration) -> Self {
        assert!(size > 0, "a batch holds at least one item");
        Self { input: input.fuse(), size, linger, batch: Vec::new(), closes_at: None, alarm: Alarm::default() }
    }
}

impl<S: Stream> fmt::Debug for InBatches<S> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = formatter.debug_struct("InBatches");
        debug.field("size", &self.size).field("linger", &self.linger).field("batch", &self.batch.len());
        debug.finish_non_exhaustive()
    }
}

impl<S: Stream> Stream for InBatches<S> {
    type Item = Vec<S::Item>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut this = self.project();
        while this.batch.len() < *this.size {
            match this.input.as_mut().poll_next(context) {
                Poll::Ready(Some(item)) => {
                    this.closes_at.get_or_insert_with(|| after(Instant::now(), *this.linger));
                    this.batch.push(item);
                }
                Poll::Ready(None) if this.batch.is_empty() => return Poll::Ready(None),
                Poll::Ready(None) => break,
                Poll::Pending => {
                    let Some(closes_at) = *this.closes_at else { return Poll::Pending };
                    let more_is_on_its_way = this.input.size_hint().0 > 0;
                    if more_is_on_its_way {
                        ready!(this.alarm.as_mut().poll_at(closes_at, context));
                    }
                    break;
                }
            }
        }
        *this.closes_at = None;
        Poll::Ready(Some(mem::take(this.batch)))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let open = self.batch.len();
        let (lower, upper) = self.input.size_hint();
        let at_least = lower.saturating_add(open).div_ceil(self.size);
        (at_least, upper.and_then(|upper| upper.checked_add(open)))
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::sync::Arc;

    use futures::{FutureExt, stream};
    use proptest::prelude::*;
    use tokio::time::sleep;

    use super::*;
    use crate::stream::HintStreamExt;
    use crate::stream::testing::{milliseconds, paused, schedule};

    proptest! {
        #[test]
        fn batches_end_to_end_are_the_input_and_close_for_a_reason(
            jobs in prop::collection::vec((prop_oneof![Just(0_u64), 0_u64..40], 0_u64..40), 0..60),
            at_a_time in 1_usize..8,
            size in 1_usize..8,
            linger in 0_u64..30,
        ) {
            let linger = milliseconds(linger);
            let (finished, in_hand) = (RefCell::new(Vec::new()), Cell::new(0));
            let numbered = jobs.iter().enumerate().map(|(number, &(gap, work))| (gap, (number, work))).collect();
            let batches: Vec<(Instant, usize, Vec<usize>)> = paused(async {
                schedule(numbered)
                    .map(|(number, work)| {
                        in_hand.set(in_hand.get() + 1);
                        async move {
                            sleep(milliseconds(work)).await;
                            number
                        }
                    })
                    .buffer_unordered(at_a_time)
                    .inspect(|&number| {
                        in_hand.set(in_hand.get() - 1);
                        finished.borrow_mut().push((Instant::now(), number));
                    })
                    .in_batches(size, linger)
                    .map(|batch| (Instant::now(), in_hand.get(), batch))
                    .collect()
                    .await
            });

            let finished = finished.into_inner();
            let joined: Vec<usize> = batches.iter().flat_map(|(.., batch)| batch).copied().collect();
            let order: Vec<usize> = finished.iter().map(|&(_, number)| number).collect();
            prop_assert_eq!(&joined, &order, "loses, reorders and invents nothing");
            prop_assert_eq!(joined.len(), jobs.len());

            let mut first = 0;
            for (closed, in_hand, batch) in batches {
                prop_assert!((1..=size).contains(&batch.len()));
                let waited = closed - finished[first].0;
                prop_assert!(waited <= linger, "waited {waited:?}");
                prop_assert!(batch.len() == size || in_hand == 0 || waited == linger, "closed without a reason");
                first += batch.len();
            }
        }

        #[test]
        fn nothing_waits_if_no_items_are_to_come(
            gaps in prop::collection::vec(0_u64..4, 0..40),
            size in 1_usize..8,
        ) {
            paused(async {
                let arrivals = gaps.iter().map(|&gap| (gap, ())).collect();
                let waits: Vec<Duration> = schedule(arrivals)
                    .map(|()| Instant::now())
                    .in_batches(size, Duration::from_mins(1))
                    .map(|batch| batch[0].elapsed())
                    .collect()
                    .await;
                prop_assert!(waits.iter().all(Duration::is_zero));
                Ok(())
            })?;
        }
    }

    #[test]
    fn the_linger_ends_the_wait_for_items_that_do_not_come() {
        paused(async {
            // `chain` counts its second half, which never comes.
            let input = stream::iter([1, 2]).chain(stream::pending().chain(stream::iter([3])));
            let start = Instant::now();
            let mut batches = Box::pin(input.in_batches(10, milliseconds(40)));
            assert_eq!(batches.next().await, Some(vec![1, 2]));
            assert_eq!(start.elapsed(), milliseconds(40));
        });
    }

    #[test]
    fn the_size_hint_counts_the_open_batch_which_is_dropped_with_the_stream() {
        paused(async {
            let item = Arc::new(());
            let input = stream::iter(vec![Arc::clone(&item); 3]);
            let input = input.chain(stream::once(std::future::pending::<Arc<()>>()));
            let mut batches = Box::pin(input.in_batches(2, Duration::MAX));
            assert_eq!(batches.size_hint(), (2, Some(4)));
            assert_eq!(batches.next().now_or_never().flatten().map(|batch| batch.len()), Some(2));
            assert!(batches.next().now_or_never().is_none());
            assert_eq!(batches.size_hint(), (1, Some(2)));
            drop(batches);
            assert_eq!(Arc::strong_count(&item), 1);
        });
    }

    #[test]
    fn an_empty_input_gives_no_batch_and_the_end_stays_the_end() {
        let mut batches = Box::pin(stream::empty::<()>().in_batches(2, Duration::ZERO));
        assert_eq!(batches.next().now_or_never(), Some(None));
        assert_eq!(batches.next().now_or_never(), Some(None));
    }
}
