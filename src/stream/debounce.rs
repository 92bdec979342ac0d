//! Delays the hints for a key until the key has been quiet.

use std::collections::{BTreeMap, HashMap};
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
use super::{Hint, QuietTime, READS_A_POLL};

/// How long newer hints may delay a key, unless [`Debounce::no_later_than`] says otherwise.
const NO_LATER_THAN: Duration = Duration::from_secs(10);

/// Keys that wait at once, apart from those with a long wait. While there are so many, the input is not read.
const MOST_WAITING: usize = 16_384;

/// Keys that wait at once in all.
const MOST_IN_ALL: usize = 8 * MOST_WAITING;

/// A wait that is longer is a long one: what comes after it must not wait for it.
const LONG: Duration = Duration::from_secs(5);

pin_project! {
    /// The stream of [`debounce`](super::HintStreamExt::debounce).
    #[must_use = "streams do nothing unless polled"]
    pub struct Debounce<S, Q>
    where
        S: Stream,
        S::Item: Hint,
    {
        #[pin]
        input: Fuse<S>,
        quiet_time: Q,
        no_later_than: Duration,
        pending: Pending<S::Item>,
        #[pin]
        alarm: Alarm,
        input_is_next: bool,
    }
}

impl<S, Q> Debounce<S, Q>
where
    S: Stream,
    S::Item: Hint,
{
    pub(super) fn new(input: S, quiet_time: Q) -> Self {
        Self {
            input: input.fuse(),
            quiet_time,
            no_later_than: NO_LATER_THAN,
            pending: Pending::default(),
            alarm: Alarm::default(),
            input_is_next: false,
        }
    }

    /// Sets the longest time that newer hints for a key can delay it after its first hint. The default is ten seconds.
    pub fn no_later_than(self, cap: Duration) -> Self {
        Self { no_later_than: cap, ..self }
    }
}

impl<S, Q> fmt::Debug for Debounce<S, Q>
where
    S: Stream,
    S::Item: Hint,
{
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = formatter.debug_struct("Debounce");
        debug.field("no_later_than", &self.no_later_than).field("pending", &self.pending.len()).finish_non_exhaustive()
    }
}

impl<S, Q> Stream for Debounce<S, Q>
where
    S: Stream,
    S::Item: Hint,
    Q: QuietTime<S::Item>,
{
    type Item = S::Item;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut this = self.project();
        for _ in 0..READS_A_POLL {
            // In turn, so that neither an input that is always ready nor many expired hints starve the other.
            if !mem::take(this.input_is_next)
                && let Some(hint) = this.pending.take_expired(Instant::now())
            {
                *this.input_is_next = true;
                return Poll::Ready(Some(hint));
            }
            let read = if this.pending.is_full() { Poll::Pending } else { this.input.as_mut().poll_next(context) };
            match read {
                Poll::Ready(Some(hint)) => {
                    if let Some(hint) = this.pending.admit(hint, this.quiet_time, *this.no_later_than) {
                        return Poll::Ready(Some(hint));
                    }
                }
                Poll::Ready(None) => return Poll::Ready(this.pending.take_first()),
                Poll::Pending => match this.pending.earliest() {
                    Some(deadline) => ready!(this.alarm.as_mut().poll_at(deadline, context)),
                    None => return Poll::Pending,
                },
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        // All items to come may be merged into one. Pending hints are not counted as to come either: a batch
        // downstream must not wait for a path to become quiet.
        let upper = self.input.size_hint().1.and_then(|upper| upper.checked_add(self.pending.len()));
        (0, upper)
    }
}

/// A deadline, and a number that makes it unique and keeps the order in which deadlines were set.
type Place = (Instant, u64);

/// The hints that wait for their keys to be quiet, one per key, in the order of their deadlines.
struct Pending<T: Hint> {
    hints: BTreeMap<Place, Waiting<T>>,
    places: HashMap<T::Key, Place>,
    admitted: u64,
    /// How many of them have a long wait.
    long: usize,
}

struct Waiting<T> {
    /// In a box, because it is moved about with its neighbours.
    hint: Box<T>,
    /// Newer hints do not delay the deadline beyond this.
    latest: Instant,
    is_long: bool,
}

impl<T: Hint> Default for Pending<T> {
    fn default() -> Self {
        Self { hints: BTreeMap::new(), places: HashMap::new(), admitted: 0, long: 0 }
    }
}

impl<T: Hint> Pending<T> {
    /// Adds `hint`, merged with the one that waits for its key. Returns it if it need not wait.
    fn admit(&mut self, hint: T, quiet_time: &impl QuietTime<T>, no_later_than: Duration) -> Option<T> {
        let now = Instant::now();
        let place = self.places.get(hint.key()).copied();
        let older = place.and_then(|place| self.remove(place));
        let (hint, quiet, latest) = match older {
            Some(Waiting { hint: older, latest, .. }) => {
                let merged = hint.merged_over(*older);
                let quiet = quiet_time.quiet(&merged);
                (merged, quiet, latest)
            }
            None => match quiet_time.quiet(&hint) {
                Duration::ZERO => return Some(hint),
                // The cap limits delays by newer hints. A longer wait of the first hint itself is kept.
                quiet => (hint, quiet, after(now, no_later_than.max(quiet))),
            },
        };
        let place = (after(now, quiet).min(latest), self.admitted);
        self.admitted += 1;
        self.places.insert(hint.key().clone(), place);
        let is_long = quiet > LONG;
        self.long += usize::from(is_long);
        self.hints.insert(place, Waiting { hint: Box::new(hint), latest, is_long });
        None
    }

    fn earliest(&self) -> Option<Instant> {
        self.hints.first_key_value().map(|(&(deadline, _), _)| deadline)
    }

    fn take_expired(&mut self, now: Instant) -> Option<T> {
        self.earliest().filter(|&deadline| deadline <= now).and_then(|_| self.take_first())
    }

    fn take_first(&mut self) -> Option<T> {
        let (&place, _) = self.hints.first_key_value()?;
        let Waiting { hint, .. } = self.remove(place)?;
        self.places.remove(hint.key());
        if self.places.is_empty() {
            // A map keeps its capacity, but the memory of a burst must not stay in use until the restart.
            self.places.shrink_to(READS_A_POLL);
        }
        Some(*hint)
    }

    fn remove(&mut self, place: Place) -> Option<Waiting<T>> {
        let waiting = self.hints.remove(&place)?;
        self.long -= usize::from(waiting.is_long);
        Some(waiting)
    }

    fn is_full(&self) -> bool {
        self.len() - self.long >= MOST_WAITING || self.len() >= MOST_IN_ALL
    }

    fn len(&self) -> usize {
        self.hints.len()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    use futures::{FutureExt, SinkExt, stream};
    use proptest::prelude::*;
    use tokio::time::{advance, sleep};
    use tokio_test::{assert_pending, assert_ready, task};

    use super::*;
    use crate::model::{Cause, FsEvent, Origin};
    use crate::stream::HintStreamExt;
    use crate::stream::testing::{Probe, every_key_comes_out_with_all_its_hints, milliseconds, paused, schedule};

    /// Caps and quiet times are odd and arrivals are even, so that no hint expires just when another one arrives.
    const CAP: u64 = 61;

    /// A time in milliseconds, and the hint that arrived or came out then.
    type Timed = (u64, Probe);

    fn arrivals() -> impl Strategy<Value = Vec<Timed>> {
        let quiet = prop_oneof![1 => Just(0), 4 => (0_u64..20).prop_map(|half| 2 * half + 1), 1 => Just(CAP + 20)];
        prop::collection::vec((0_u64..16, 0_u8..4, quiet), 0..40).prop_map(|hints| {
            let mut now = 0;
            hints
                .into_iter()
                .enumerate()
                .map(|(number, (gap, key, quiet))| {
                    now += 2 * gap;
                    (now, Probe::new(number, key, quiet))
                })
                .collect()
        })
    }

    /// What comes out, and when, with a consumer that takes `reading` milliseconds for each item.
    fn debounced(arrivals: &[Timed], reading: u64) -> Vec<Timed> {
        let mut before = 0;
        let gaps = arrivals.iter().map(|(at, probe)| (at - mem::replace(&mut before, *at), probe.clone())).collect();
        paused(async {
            let start = Instant::now();
            schedule(gaps)
                .debounce(|probe: &Probe| probe.quiet)
                .no_later_than(milliseconds(CAP))
                .map(|probe| (u64::try_from(start.elapsed().as_millis()).unwrap(), probe))
                .then(|timed| async {
                    sleep(milliseconds(reading)).await;
                    timed
                })
                .collect()
                .await
        })
    }

    /// What should come out, and when, with a consumer that takes no time.
    fn model(arrivals: &[Timed]) -> Vec<Timed> {
        struct Waits {
            deadline: u64,
            latest: u64,
            probe: Probe,
        }
        let (mut waiting, mut out) = (Vec::<Waits>::new(), Vec::new());
        for (at, probe) in arrivals {
            let expired = waiting.partition_point(|waits| waits.deadline <= *at);
            out.extend(waiting.drain(..expired).map(|waits| (waits.deadline, waits.probe)));
            let quiet = u64::try_from(probe.quiet.as_millis()).unwrap();
            let older = waiting.iter().position(|waits| waits.probe.key == probe.key);
            let (probe, latest) = match older.map(|place| waiting.remove(place)) {
                Some(older) => (probe.clone().merged_over(older.probe), older.latest),
                None => (probe.clone(), at + quiet.max(CAP)),
            };
            let deadline = latest.min(at + quiet);
            let place = waiting.partition_point(|waits| waits.deadline <= deadline);
            waiting.insert(place, Waits { deadline, latest, probe });
        }
        let end = arrivals.last().map_or(0, |(at, _)| *at);
        out.extend(waiting.into_iter().map(|waits| (end, waits.probe)));
        out
    }

    proptest! {
        #[test]
        fn debounce_loses_no_key_and_emits_the_newest_on_top(arrivals in arrivals(), reading in 0_u64..40) {
            let out = debounced(&arrivals, reading);
            every_key_comes_out_with_all_its_hints(
                arrivals.iter().map(|(_, probe)| probe),
                out.iter().map(|(_, probe)| probe),
            )?;
        }

        #[test]
        fn debounce_emits_not_before_quiet_and_never_after_the_cap(arrivals in arrivals()) {
            let end = arrivals.last().map_or(0, |(at, _)| *at);
            for (at, probe) in debounced(&arrivals, 0) {
                let (newest, oldest) = (probe.numbers[0], *probe.numbers.last().unwrap());
                let quiet = |number: usize| u64::try_from(arrivals[number].1.quiet.as_millis()).unwrap();
                let latest = arrivals[oldest].0 + quiet(oldest).max(CAP);
                prop_assert!(at <= latest);
                prop_assert!(at == end || at >= latest.min(arrivals[newest].0 + quiet(newest)));
            }
        }

        #[test]
        fn debounce_agrees_with_its_model(arrivals in arrivals()) {
            prop_assert_eq!(debounced(&arrivals, 0), model(&arrivals));
        }
    }

    #[test]
    fn an_input_that_is_always_ready_yields_and_does_not_starve_expired_hints() {
        paused(async {
            let busy = stream::repeat(Probe::new(1, 1, 50));
            let mut debounced = task::spawn(busy.debounce(|probe: &Probe| probe.quiet));
            assert_pending!(debounced.poll_next());
            assert!(debounced.is_woken());
            advance(NO_LATER_THAN).await;
            assert_ready!(debounced.poll_next());

            let passing = stream::iter([Probe::new(0, 0, 50)]).chain(stream::repeat(Probe::new(1, 1, 0)));
            let mut debounced = Box::pin(passing.debounce(|probe: &Probe| probe.quiet));
            assert_eq!(debounced.next().await.unwrap().key, 1);
            advance(milliseconds(50)).await;
            let next_two = [debounced.next().await.unwrap().key, debounced.next().await.unwrap().key];
            assert!(next_two.contains(&0), "{next_two:?}");
        });
    }

    #[test]
    fn many_expired_hints_do_not_starve_the_input() {
        paused(async {
            let (mut sender, receiver) = futures::channel::mpsc::channel(200);
            let mut debounced = Box::pin(receiver.debounce(|probe: &Probe| probe.quiet));
            for key in 0..100 {
                sender.send(Probe::new(0, key, 5)).await.unwrap();
            }
            while debounced.next().now_or_never().is_some() || debounced.pending.len() < 100 {}
            advance(milliseconds(10)).await;
            sender.send(Probe::new(0, 200, 0)).await.unwrap();
            let next_two = [debounced.next().await.unwrap().key, debounced.next().await.unwrap().key];
            assert!(next_two.contains(&200), "{next_two:?}");
        });
    }

    #[test]
    fn a_wait_beyond_the_range_of_the_clock_does_not_panic() {
        paused(async {
            let patient = stream::iter([Probe::new(0, 0, 1)]).chain(stream::pending());
            let mut debounced = Box::pin(patient.debounce(|_: &Probe| Duration::MAX));
            assert!(debounced.next().now_or_never().is_none());
        });
    }

    #[test]
    fn a_burst_does_not_keep_its_memory() {
        paused(async {
            let burst =
                stream::iter((0..10_000).map(|number| Probe::new(number, (number % 200).try_into().unwrap(), 5)));
            let mut debounced = Box::pin(burst.chain(stream::pending()).debounce(|probe: &Probe| probe.quiet));
            assert_eq!(
                debounced.by_ref().take(200).map(|probe| probe.numbers.len()).fold(0, async |a, b| a + b).await,
                10_000
            );
            let Pending { hints, places, .. } = &debounced.pending;
            assert!(hints.is_empty() && places.is_empty() && places.capacity() < 200);
        });
    }

    #[test]
    fn the_input_is_not_read_while_very_many_keys_wait() {
        paused(async {
            let read = AtomicUsize::new(0);
            let count = MOST_WAITING + 1_000;
            let burst = stream::iter(0..count)
                .map(|number| FsEvent::new(number.to_string().as_str().into(), Cause::Closed, Origin::Watch))
                .inspect(|_| _ = read.fetch_add(1, Relaxed));
            let mut debounced = Box::pin(burst.debounce(|_: &FsEvent| milliseconds(5)));
            debounced.next().await.unwrap();
            assert_eq!(read.load(Relaxed), MOST_WAITING);
            assert_eq!(debounced.count().await, count - 1);
        });
    }

    #[test]
    fn a_hint_does_not_wait_for_very_many_that_wait_long() {
        paused(async {
            let begun = Instant::now();
            let hints = (0..=2 * MOST_WAITING).map(|number| FsEvent {
                cause: if number < 2 * MOST_WAITING { Cause::Again(Duration::from_mins(1)) } else { Cause::Closed },
                ..FsEvent::new(number.to_string().as_str().into(), Cause::Found, Origin::Watch)
            });
            let quiet = |hint: &FsEvent| if let Cause::Again(wait) = hint.cause { wait } else { milliseconds(5) };
            let mut debounced = Box::pin(stream::iter(hints).chain(stream::pending()).debounce(quiet));
            assert_eq!(debounced.next().await.unwrap().cause, Cause::Closed);
            assert_eq!(begun.elapsed(), milliseconds(5));
        });
    }

    #[test]
    fn pending_hints_are_not_counted_in_the_lower_size_hint_and_dropped_with_the_stream() {
        paused(async {
            let hint = Arc::new(7_u8);
            let input = stream::iter([Arc::clone(&hint)]).chain(stream::pending());
            let mut debounced = Box::pin(input.debounce(|_: &Arc<u8>| milliseconds(5)));
            assert!(debounced.next().now_or_never().is_none());
            assert_eq!(Arc::strong_count(&hint), 2);
            assert_eq!(debounced.size_hint().0, 0);
            drop(debounced);
            assert_eq!(Arc::strong_count(&hint), 1);
        });
    }

    #[test]
    fn the_end_flushes_at_once_in_the_order_of_deadlines_and_stays_the_end() {
        let probes = [(0, 90), (1, 30), (2, 60)].map(|(key, quiet)| Probe::new(0, key, quiet));
        let mut debounced = Box::pin(stream::iter(probes).debounce(|probe: &Probe| probe.quiet));
        let keys: Vec<u8> = debounced.by_ref().map(|probe| probe.key).collect().now_or_never().unwrap();
        assert_eq!(keys, [1, 2, 0]);
        assert_eq!(debounced.next().now_or_never(), Some(None));
    }
}
