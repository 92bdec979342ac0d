//! Lets one item per key through at a time: two looks at one path could be committed in the wrong order.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::hash::Hash;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures::Stream;
use futures::channel::mpsc::{UnboundedReceiver, UnboundedSender, unbounded};
use futures::stream::{Fuse, StreamExt};
use pin_project_lite::pin_project;

use super::{Hint, Lease, Leases, READS_A_POLL};
use crate::model::LibraryPath;

/// An item with the lease on its key, which stays with it until the work on the key is done.
#[derive(Debug)]
pub struct Leased<T, K: Clone + Eq + Hash = LibraryPath> {
    /// The item.
    pub item: T,
    /// The lease. Dropping it lets the next hint for the key go on.
    pub lease: Lease<K>,
}

type KeyOf<S> = <<S as Stream>::Item as Hint>::Key;

pin_project! {
    /// The stream of [`one_at_a_time`](super::HintStreamExt::one_at_a_time).
    #[must_use = "streams do nothing unless polled"]
    pub struct OneAtATime<S>
    where
        S: Stream,
        S::Item: Hint,
    {
        #[pin]
        input: Fuse<S>,
        leases: Leases<KeyOf<S>>,
        // At most one hint for each leased key.
        parked: HashMap<KeyOf<S>, Parked<S::Item>>,
        // The parked keys whose lease was released, in the order of arrival.
        free: BTreeMap<u64, KeyOf<S>>,
        arrivals: u64,
        waiting: UnboundedSender<KeyOf<S>>,
        released: UnboundedReceiver<KeyOf<S>>,
    }
}

struct Parked<T> {
    hint: T,
    arrival: u64,
}

impl<S> OneAtATime<S>
where
    S: Stream,
    S::Item: Hint,
{
    pub(super) fn new(input: S, leases: Leases<KeyOf<S>>) -> Self {
        let (waiting, released) = unbounded();
        Self {
            input: input.fuse(),
            leases,
            parked: HashMap::new(),
            free: BTreeMap::new(),
            arrivals: 0,
            waiting,
            released,
        }
    }
}

impl<S> fmt::Debug for OneAtATime<S>
where
    S: Stream,
    S::Item: Hint,
{
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = formatter.debug_struct("OneAtATime");
        debug.field("leases", &self.leases).field("parked", &self.parked.len()).finish_non_exhaustive()
    }
}

impl<S> Stream for OneAtATime<S>
where
    S: Stream,
    S::Item: Hint,
{
    type Item = Leased<S::Item, KeyOf<S>>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut this = self.project();
        while let Poll::Ready(Some(key)) = this.released.poll_next_unpin(context) {
            if let Some(Parked { arrival, .. }) = this.parked.get(&key) {
                this.free.insert(*arrival, key);
            }
        }
        while let Some((_, key)) = this.free.pop_first() {
            // Without a lease, another stream with the same register was faster. Then this key will be sent again.
            if let Some(lease) = this.leases.lease_or_wait(&key, this.waiting)
                && let Some(Parked { hint: item, .. }) = this.parked.remove(&key)
            {
                return Poll::Ready(Some(Leased { item, lease }));
            }
        }
        for _ in 0..READS_A_POLL {
            match this.input.as_mut().poll_next(context) {
                Poll::Ready(Some(hint)) => {
                    let key = hint.key().clone();
                    if let Some(Parked { hint: older, arrival }) = this.parked.remove(&key) {
                        this.parked.insert(key, Parked { hint: hint.merged_over(older), arrival });
                    } else if let Some(lease) = this.leases.lease_or_wait(&key, this.waiting) {
                        return Poll::Ready(Some(Leased { item: hint, lease }));
                    } else {
                        this.parked.insert(key, Parked { hint, arrival: *this.arrivals });
                        *this.arrivals += 1;
                    }
                }
                Poll::Ready(None) if this.parked.is_empty() => return Poll::Ready(None),
                Poll::Ready(None) | Poll::Pending => return Poll::Pending,
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        // Parked hints may wait for the very batch that asks for this size hint, and all items to come may be merged
        // into them.
        let upper = self.input.size_hint().1.and_then(|upper| upper.checked_add(self.parked.len()));
        (0, upper)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::collections::{HashSet, VecDeque};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use futures::{FutureExt, stream};
    use proptest::prelude::*;
    use tokio::time::{sleep, timeout};
    use tokio_test::task;

    use super::*;
    use crate::stream::HintStreamExt;
    use crate::stream::testing::{Probe, every_key_comes_out_with_all_its_hints, milliseconds, paused, schedule};

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Send(u8),
        Poll,
        /// Drop one of the leases that are out.
        Release(prop::sample::Index),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            3 => (0_u8..5).prop_map(Step::Send),
            3 => Just(Step::Poll),
            2 => any::<prop::sample::Index>().prop_map(Step::Release),
        ];
        prop::collection::vec(step, 0..80)
    }

    /// A simple model of the stream.
    #[derive(Default)]
    struct Model {
        sent: VecDeque<Probe>,
        out: HashSet<u8>,
        parked: Vec<Probe>,
    }

    impl Model {
        fn poll(&mut self) -> Option<Probe> {
            let next = self.next()?;
            self.out.insert(next.key);
            Some(next)
        }

        fn next(&mut self) -> Option<Probe> {
            if let Some(place) = self.parked.iter().position(|probe| !self.out.contains(&probe.key)) {
                return Some(self.parked.remove(place));
            }
            while let Some(probe) = self.sent.pop_front() {
                if !self.out.contains(&probe.key) {
                    return Some(probe);
                }
                match self.parked.iter_mut().find(|parked| parked.key == probe.key) {
                    Some(parked) => *parked = probe.merged_over(parked.clone()),
                    None => self.parked.push(probe),
                }
            }
            None
        }
    }

    proptest! {
           #[test]
           fn one_at_a_time_agrees_with_its_model(steps in steps()) {
               let (sender, receiver) = unbounded();
               let leases = Leases::new();
               let mut stream = task::spawn(receiver.one_at_a_time(leases.clone()));
               let mut out: Vec<Leased<Probe, u8>> = Vec::new();
               let mut model = Model::default();
               let mut asleep = false;
               for (number, step) in steps.into_iter().enumerate() {
                   match step {
                       Step::Send(key) => {
                           let probe = Probe::new(number, key, 0);
                           sender.unbounded_send(probe.clone()).unwrap();
                           model.sent.push_back(probe);
                           prop_assert!(!asleep || stream.is_woken(), "asleep over new input");
                       }
                       Step::Release(index) if !out.is_empty() => {
                           let key = out.swap_remove(index.index(out.len())).item.key;
                           model.out.remove(&key);
                           let waited_for = model.parked.iter().any(|probe| probe.key == key);
                           prop_assert!(!asleep || !waited_for || stream.is_woken(), "asleep over a release");
                       }
                       Step::Release(_) => {}
                       Step::Poll => {
                           let polled = match stream.poll_next() {
                               Poll::Ready(leased) => leased,
                               Poll::Pending => None,
                           };
                           asleep = polled.is_none();
                           let expected = model.poll();
    prop_assert_eq!(polled.as_ref().map(|leased| &leased.item), expected.as_ref());
                           out.extend(polled);
                       }
                   }
                   prop_assert_eq!(leases.held(), model.out.len());
                   prop_assert!(model.out.iter().all(|key| leases.is_held(key)));
                   prop_assert_eq!(stream.size_hint().0, 0);
               }
           }

           #[test]
           fn one_at_a_time_never_overlaps_a_key_and_loses_none_and_never_deadlocks_with_batches_of_leases(
               hints in prop::collection::vec((prop_oneof![Just(0_u64), 0_u64..20], 0_u8..6, 0_u64..30), 0..60),
               at_a_time in 1_usize..6,
               size in 1_usize..12,
               linger in 0_u64..50,
               commit in 0_u64..30,
           ) {
               let arrivals: Vec<(u64, Probe)> = hints
                   .iter()
                   .enumerate()
                   .map(|(number, &(gap, key, work))| (gap, Probe::new(number, key, work)))
                   .collect();
               let leases = Leases::new();
               let (in_hand, committed) = (RefCell::new(HashSet::new()), RefCell::new(Vec::new()));
               paused(async {
                   let chain = schedule(arrivals.clone())
                       .one_at_a_time(leases.clone())
                       .map(|leased| {
                           assert!(in_hand.borrow_mut().insert(leased.item.key), "two looks at one key");
                           async move {
                               sleep(leased.item.quiet).await;
                               leased
                           }
                       })
                       .buffer_unordered(at_a_time)
                       .in_batches(size, milliseconds(linger))
                       .for_each(|batch| async {
                           sleep(milliseconds(commit)).await;
                           for Leased { item, lease } in batch {
                               in_hand.borrow_mut().remove(&item.key);
                               committed.borrow_mut().push(item);
                               drop(lease);
                           }
                       });
                   timeout(Duration::from_hours(1), chain).await.expect("no deadlock");
               });
               prop_assert_eq!(leases.held(), 0);
               every_key_comes_out_with_all_its_hints(arrivals.iter().map(|(_, probe)| probe), committed.borrow().iter())?;
           }
       }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn a_release_on_another_thread_is_never_missed() {
        const HINTS: usize = 20_000;
        let seen = Arc::new(AtomicUsize::new(0));
        let leases = Leases::new();
        let hints = stream::iter((0..HINTS).map(|number| Probe::new(number, u8::try_from(number % 5).unwrap(), 0)));
        let all = hints.one_at_a_time(leases.clone()).for_each_concurrent(None, |leased| {
            let seen = Arc::clone(&seen);
            tokio::spawn(async move {
                tokio::task::yield_now().await;
                seen.fetch_add(leased.item.numbers.len(), Ordering::Relaxed);
            })
            .map(Result::unwrap)
        });
        timeout(Duration::from_mins(1), all).await.expect("no release was missed");
        assert_eq!((seen.load(Ordering::Relaxed), leases.held()), (HINTS, 0));
    }

    #[test]
    fn two_streams_can_share_a_register() {
        let leases = Leases::new();
        let mut left = stream::iter([Probe::new(0, 7, 0)]).one_at_a_time(leases.clone());
        let mut right = stream::iter([Probe::new(1, 7, 0)]).one_at_a_time(leases.clone());
        let mine = leases.lease_or_wait(&7, &unbounded().0);
        assert!(left.next().now_or_never().is_none() && right.next().now_or_never().is_none());
        drop(mine);
        let first = left.next().now_or_never();
        assert!(first.is_some() && right.next().now_or_never().is_none());
        drop(first);
        assert!(right.next().now_or_never().is_some());
        assert_eq!(leases.held(), 0);
    }

    #[test]
    fn an_input_that_is_always_ready_yields() {
        let busy = stream::repeat(Probe::new(0, 7, 0)).map(|probe| Probe { numbers: Vec::new(), ..probe });
        let mut stream = task::spawn(busy.one_at_a_time(Leases::new()));
        let Poll::Ready(first) = stream.poll_next() else { panic!("nothing is on lease") };
        assert!(stream.poll_next().is_pending() && stream.is_woken());
        drop(first);
        assert!(stream.poll_next().is_ready());
    }

    #[test]
    fn the_end_waits_for_parked_hints_and_stays_the_end() {
        let mut stream = stream::iter([0, 1, 2].map(|number| Probe::new(number, 7, 0))).one_at_a_time(Leases::new());
        let first = stream.next().now_or_never().unwrap();
        assert!(stream.next().now_or_never().is_none());
        drop(first);
        assert_eq!(stream.next().now_or_never().flatten().unwrap().item.numbers, [2, 1]);
        assert!(stream.next().now_or_never().unwrap().is_none());
        assert!(stream.next().now_or_never().unwrap().is_none());
    }

    #[test]
    fn dropping_the_stream_drops_parked_hints_but_no_lease_that_is_out() {
        let leases = Leases::new();
        let hint = Arc::new(7_u8);
        let input = stream::iter([Arc::clone(&hint), Arc::clone(&hint)]).chain(stream::pending());
        let mut stream = input.one_at_a_time(leases.clone());
        let first = stream.next().now_or_never().flatten().unwrap();
        assert!(stream.next().now_or_never().is_none());
        assert_eq!(Arc::strong_count(&hint), 3);
        drop(stream);
        assert_eq!(Arc::strong_count(&hint), 2);
        assert!(leases.is_held(&7));
        drop(first);
        assert!(!leases.is_held(&7));
    }
}
