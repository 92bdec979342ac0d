//! Limits the rate of items, to leave the machine time for other work.

use std::fmt;
use std::num::NonZeroU32;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::Stream;
use futures::stream::{Fuse, StreamExt};
use governor::clock::Clock;
use governor::middleware::NoOpMiddleware;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};
use pin_project_lite::pin_project;
use tokio::time::Instant;

use super::alarm::Alarm;

pin_project! {
    /// The stream of [`rate_limit`](super::HintStreamExt::rate_limit).
    #[must_use = "streams do nothing unless polled"]
    pub struct RateLimit<S: Stream> {
        #[pin]
        input: Fuse<S>,
        limiter: Option<Limiter>,
        held: Option<S::Item>,
        #[pin]
        alarm: Alarm,
    }
}

impl<S: Stream> RateLimit<S> {
    pub(super) fn new(input: S, per_second: Option<NonZeroU32>) -> Self {
        Self { input: input.fuse(), limiter: per_second.map(Limiter::new), held: None, alarm: Alarm::default() }
    }
}

impl<S: Stream> fmt::Debug for RateLimit<S> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = formatter.debug_struct("RateLimit");
        debug.field("is_limited", &self.limiter.is_some()).field("has_item", &self.held.is_some());
        debug.finish_non_exhaustive()
    }
}

impl<S: Stream> Stream for RateLimit<S> {
    type Item = S::Item;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<S::Item>> {
        let mut this = self.project();
        let Some(limiter) = this.limiter else { return this.input.poll_next(context) };
        // First the item, then its permit. A permit that was taken before would come on top of a full burst.
        if this.held.is_none() {
            let Some(item) = ready!(this.input.poll_next(context)) else { return Poll::Ready(None) };
            *this.held = Some(item);
        }
        while let Err(earliest) = limiter.check() {
            ready!(this.alarm.as_mut().poll_at(earliest, context));
        }
        Poll::Ready(this.held.take())
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let held = usize::from(self.held.is_some());
        let (lower, upper) = self.input.size_hint();
        (lower.saturating_add(held), upper.and_then(|upper| upper.checked_add(held)))
    }
}

/// Governor's limiter on tokio's clock.
struct Limiter {
    governor: RateLimiter<NotKeyed, InMemoryState, TokioClock, NoOpMiddleware<Duration>>,
    clock: TokioClock,
}

impl Limiter {
    fn new(per_second: NonZeroU32) -> Self {
        let clock = TokioClock { start: Instant::now() };
        let quota = Quota::per_second(per_second).allow_burst(burst(per_second));
        Self { governor: RateLimiter::direct_with_clock(quota, clock.clone()), clock }
    }

    /// Takes a permit, or returns the time of the next one.
    fn check(&self) -> Result<(), Instant> {
        self.governor.check().map_err(|not_until| self.clock.start + not_until.earliest_possible())
    }
}

/// How many items may come at once. The items of a tenth of a second compensate for the timer's tick of a
/// millisecond, and are too few to matter.
fn burst(per_second: NonZeroU32) -> NonZeroU32 {
    NonZeroU32::new(per_second.get() / 10).unwrap_or(NonZeroU32::MIN)
}

/// Tokio's clock for governor. Governor's own clock does not stop when tests pause tokio's.
#[derive(Clone)]
struct TokioClock {
    start: Instant,
}

impl Clock for TokioClock {
    type Instant = Duration;

    fn now(&self) -> Duration {
        self.start.elapsed()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::stream::HintStreamExt;
    use crate::stream::testing::{paused, schedule};
    use futures::{FutureExt, stream};

    proptest! {
        #[test]
        fn rate_limit_keeps_its_rate_in_every_window_and_delays_nothing_that_it_allows(
            a_second in prop_oneof![1_u32..50, 50_u32..2_000],
            gaps in prop::collection::vec(prop_oneof![3 => Just(0_u64), 1 => 0_u64..3_000], 1..120),
        ) {
            let a_second = NonZeroU32::new(a_second).unwrap();
            let interval = Duration::from_secs(1) / a_second.get();
            let arrivals = RefCell::new(Vec::new());
            let departures: Vec<(Instant, usize)> = paused(async {
                schedule(gaps.iter().copied().zip(0..).collect())
                    .inspect(|_| arrivals.borrow_mut().push(Instant::now()))
                    .rate_limit(Some(a_second))
                    .map(|item| (Instant::now(), item))
                    .collect()
                    .await
            });
            prop_assert!(departures.iter().map(|&(_, item)| item).eq(0..gaps.len()), "in order, none lost");

            let burst = burst(a_second).get() as usize;
            for (first, &(from, _)) in departures.iter().enumerate() {
                for (last, &(until, _)) in departures.iter().enumerate().skip(first) {
                    let allowed = burst + ((until - from).as_nanos() / interval.as_nanos()) as usize;
                    prop_assert!(last - first < allowed, "{} in {:?}", last - first + 1, until - from);
                }
            }

            // Each leaves within a tick of the first moment at which no window that ends with it is over-full.
            for (place, (&arrived, &(left, _))) in arrivals.borrow().iter().zip(&departures).enumerate() {
                let permitted = (0..place)
                    .filter_map(|before| {
                        let intervals = (place - before + 1).checked_sub(burst)?;
                        Some(departures[before].0 + interval * u32::try_from(intervals).unwrap())
                    })
                    .fold(arrived, Ord::max);
                prop_assert!(left < permitted + Duration::from_millis(2), "late by {:?}", left - permitted);
            }
        }
    }

    #[test]
    fn without_a_limit_nothing_waits() {
        // Outside of a runtime a timer would panic.
        assert_eq!(stream::iter(0..100_000).rate_limit(None).count().now_or_never(), Some(100_000));
    }

    #[test]
    fn after_an_idle_hour_only_a_burst_is_allowed() {
        paused(async {
            let limited = schedule(vec![(0, 0), (3_600_000, 1)]).chain(stream::iter(2..20));
            let start = Instant::now();
            limited.rate_limit(NonZeroU32::new(10)).for_each(|_| async {}).await;
            assert_eq!(start.elapsed(), Duration::from_millis(3_600_000 + 1_800));
        });
    }

    #[test]
    fn the_kept_item_is_counted_in_the_size_hint_and_dropped_with_the_stream() {
        paused(async {
            let item = Arc::new(());
            let mut limited = Box::pin(stream::iter(vec![Arc::clone(&item); 5]).rate_limit(NonZeroU32::new(1)));
            assert!(limited.next().now_or_never().is_some());
            assert!(limited.next().now_or_never().is_none());
            assert_eq!(limited.size_hint(), (4, Some(4)));
            drop(limited);
            assert_eq!(Arc::strong_count(&item), 1);
        });
    }

    #[test]
    fn after_the_end_it_stays_ended() {
        paused(async {
            let mut limited = Box::pin(schedule(vec![(5, ())]).rate_limit(NonZeroU32::new(1)));
            assert_eq!(limited.next().await, Some(()));
            assert_eq!((limited.next().await, limited.next().await), (None, None));
        });
    }
}
