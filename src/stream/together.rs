//! Looks whose files changed names with each other are decided in one batch.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::Stream;
use futures::stream::{Fuse, StreamExt};
use pin_project_lite::pin_project;
use tokio::time::Instant;

use super::Leased;
use super::alarm::{Alarm, after};
use crate::model::{RenameGroup, Ties};

/// How often it is checked whether the last member of a group is gone: members end without a sign.
const CHECK: Duration = Duration::from_millis(5);

/// Items that wait at once; beyond this the oldest goes on alone.
const MOST_WAITING: usize = 2_000;

/// What the combinator needs to know of an item, and to do with it.
pub trait Tied: Sized {
    /// What the item is about. Of two items with one key, the later counts.
    type Key: Clone + Eq + Hash;

    /// The key of this item.
    fn key(&self) -> &Self::Key;

    /// What ties it to others; nothing if it need not wait for them.
    fn ties(&self) -> Option<&Ties>;

    /// Called when the item begins to wait: others may work on its key from now on.
    fn begin_waiting(&mut self) {}

    /// This item, newer than `older` with the same key, with the ties of both.
    #[must_use]
    fn in_place_of(self, older: Self) -> Self;
}

impl<T: Tied, K: Clone + Eq + Hash> Tied for Leased<T, K> {
    type Key = T::Key;

    fn key(&self) -> &T::Key {
        self.item.key()
    }

    fn ties(&self) -> Option<&Ties> {
        self.item.ties()
    }

    fn begin_waiting(&mut self) {
        // A hint for the same path that waits for the lease may itself be a member of the group.
        self.lease.give_back();
        self.item.begin_waiting();
    }

    fn in_place_of(self, older: Self) -> Self {
        Self { item: self.item.in_place_of(older.item), lease: self.lease }
    }
}

pin_project! {
    /// The stream of [`together`](super::HintStreamExt::together).
    #[must_use = "streams do nothing unless polled"]
    pub struct Together<S, T>
    where
        S: Stream<Item = Vec<T>>,
        T: Tied,
    {
        #[pin]
        input: Fuse<S>,
        waiting: Room<T>,
        #[pin]
        alarm: Alarm,
    }
}

impl<S: Stream<Item = Vec<T>>, T: Tied> Together<S, T> {
    pub(super) fn new(input: S) -> Self {
        Self { input: input.fuse(), waiting: Room::default(), alarm: Alarm::default() }
    }
}

impl<S: Stream<Item = Vec<T>>, T: Tied> Stream for Together<S, T> {
    type Item = Vec<T>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Vec<T>>> {
        let mut this = self.project();
        loop {
            if let Some(batch) = this.waiting.take_complete(Instant::now()) {
                return Poll::Ready(Some(batch));
            }
            match this.input.as_mut().poll_next(context) {
                Poll::Ready(Some(batch)) => {
                    let batch = this.waiting.admit(batch);
                    if !batch.is_empty() {
                        return Poll::Ready(Some(batch));
                    }
                }
                // Nobody is left who could come.
                Poll::Ready(None) => return Poll::Ready(this.waiting.take_all()),
                Poll::Pending if this.waiting.items.is_empty() => return Poll::Pending,
                Poll::Pending => ready!(this.alarm.as_mut().poll_at(after(Instant::now(), CHECK), context)),
            }
        }
    }
}

/// The items that wait, by their arrival.
struct Room<T: Tied> {
    items: BTreeMap<u64, Waiting<T>>,
    places: HashMap<T::Key, u64>,
    arrivals: u64,
}

struct Waiting<T> {
    item: T,
    until: Instant,
}

impl<T: Tied> Default for Room<T> {
    fn default() -> Self {
        Self { items: BTreeMap::new(), places: HashMap::new(), arrivals: 0 }
    }
}

impl<T: Tied> Room<T> {
    /// Keeps back the items that wait for others, and gives the rest.
    fn admit(&mut self, batch: Vec<T>) -> Vec<T> {
        let mut rest = Vec::with_capacity(batch.len());
        let now = Instant::now();
        for mut item in batch {
            let mut until = None;
            if let Some(older) = self.take_older(item.key()) {
                item = item.in_place_of(older.item);
                until = Some(older.until);
            }
            let limit = item.ties().and_then(|ties| ties.left_in.iter().map(RenameGroup::limit).max());
            let Some(limit) = limit else {
                rest.push(item);
                continue;
            };
            item.begin_waiting();
            self.places.insert(item.key().clone(), self.arrivals);
            self.items.insert(self.arrivals, Waiting { item, until: until.unwrap_or_else(|| after(now, limit)) });
            self.arrivals += 1;
        }
        while self.items.len() > MOST_WAITING {
            rest.extend(self.items.pop_first().map(|(_, waiting)| self.without_place(waiting)));
        }
        rest
    }

    fn take_older(&mut self, key: &T::Key) -> Option<Waiting<T>> {
        if self.places.is_empty() {
            return None;
        }
        self.places.remove(key).and_then(|place| self.items.remove(&place))
    }

    fn without_place(&mut self, waiting: Waiting<T>) -> T {
        self.places.remove(waiting.item.key());
        waiting.item
    }

    /// Takes the items whose groups have no member elsewhere, and those that have waited for long enough.
    fn take_complete(&mut self, now: Instant) -> Option<Vec<T>> {
        if self.items.is_empty() {
            return None;
        }
        let tied = self.items.iter().filter_map(|(place, waiting)| Some((*place, waiting.item.ties()?))).collect();
        let complete = Ties::complete(&tied);
        let is_done = |place: &u64, waiting: &mut Waiting<T>| {
            waiting.until <= now || complete.contains(place) || waiting.item.ties().is_none()
        };
        let done: Vec<Waiting<T>> = self.items.extract_if(.., is_done).map(|(_, waiting)| waiting).collect();
        let done: Vec<T> = done.into_iter().map(|waiting| self.without_place(waiting)).collect();
        (!done.is_empty()).then_some(done)
    }

    fn take_all(&mut self) -> Option<Vec<T>> {
        self.places.clear();
        let items: Vec<T> = std::mem::take(&mut self.items).into_values().map(|waiting| waiting.item).collect();
        (!items.is_empty()).then_some(items)
    }
}

#[cfg(test)]
mod tests {
    use futures::{FutureExt, stream};
    use tokio::time::advance;
    use tokio_stream::wrappers::UnboundedReceiverStream;

    use super::*;
    use crate::stream::HintStreamExt;
    use crate::stream::testing::paused;

    #[derive(Debug)]
    struct Item(u32, Option<Ties>);

    impl Tied for Item {
        type Key = u32;

        fn key(&self) -> &u32 {
            &self.0
        }

        fn ties(&self) -> Option<&Ties> {
            self.1.as_ref()
        }

        fn in_place_of(self, _: Self) -> Self {
            self
        }
    }

    const LIMIT: Duration = Duration::from_secs(1);

    fn left(number: u32, group: &RenameGroup) -> Item {
        Item(number, Some(Ties { member_of: vec![group.join()], left_in: vec![group.clone()], ..Ties::default() }))
    }

    fn numbers(batch: Option<Vec<Item>>) -> Vec<u32> {
        batch.unwrap_or_default().into_iter().map(|item| item.0).collect()
    }

    #[test]
    fn an_item_does_not_go_before_one_that_it_waits_for_and_that_waits_itself() {
        paused(async {
            let (one, other) = (RenameGroup::new(LIMIT), RenameGroup::new(LIMIT));
            let ties = |member_of: &RenameGroup, left_in: &RenameGroup| {
                Some(Ties { member_of: vec![member_of.join()], left_in: vec![left_in.clone()], ..Ties::default() })
            };
            let (first, second) = (Item(1, ties(&one, &other)), Item(2, ties(&other, &one)));
            let elsewhere = other.join();
            let (sender, batches) = tokio::sync::mpsc::unbounded_channel();
            let mut together = Box::pin(UnboundedReceiverStream::new(batches).together());
            sender.send(vec![first, second]).unwrap();
            assert!(together.next().now_or_never().is_none());
            drop(elsewhere);
            assert_eq!(numbers(together.next().await), [1, 2]);
        });
    }

    #[test]
    fn items_wait_until_every_member_of_their_group_is_there_and_come_in_one_batch() {
        paused(async {
            let group = RenameGroup::new(LIMIT);
            let (sender, batches) = tokio::sync::mpsc::unbounded_channel();
            let mut together = Box::pin(UnboundedReceiverStream::new(batches).together());
            let (last, elsewhere) = (left(3, &group), group.join());
            sender.send(vec![Item(0, None), left(1, &group)]).unwrap();
            assert_eq!(numbers(together.next().await), [0]);
            sender.send(vec![left(2, &group)]).unwrap();
            assert!(together.next().now_or_never().is_none());
            // A member that comes to nothing is one less to wait for.
            drop(elsewhere);
            advance(CHECK).await;
            assert!(together.next().now_or_never().is_none());
            sender.send(vec![last]).unwrap();
            assert_eq!(numbers(together.next().await), [1, 2, 3]);
        });
    }

    #[test]
    fn nobody_waits_longer_than_the_limit_or_beyond_the_end() {
        paused(async {
            let group = RenameGroup::new(LIMIT);
            let _never_comes = group.join();
            let begun = Instant::now();
            let mut together = Box::pin(stream::iter([vec![left(1, &group)]]).chain(stream::pending()).together());
            assert_eq!(numbers(together.next().await), [1]);
            assert!(begun.elapsed() >= LIMIT && begun.elapsed() <= LIMIT + 2 * CHECK);
            let ended: Vec<Vec<Item>> = stream::iter([vec![left(2, &group)]]).together().collect().await;
            assert_eq!(ended.len(), 1);
        });
    }

    #[test]
    fn a_newer_item_takes_the_place_of_one_that_waits() {
        paused(async {
            let group = RenameGroup::new(LIMIT);
            let elsewhere = group.join();
            let (sender, batches) = tokio::sync::mpsc::unbounded_channel();
            let mut together = Box::pin(UnboundedReceiverStream::new(batches).together());
            sender.send(vec![left(1, &group), left(2, &group)]).unwrap();
            assert!(together.next().now_or_never().is_none());
            // It need not wait any more.
            sender.send(vec![Item(1, None)]).unwrap();
            assert_eq!(numbers(together.next().await), [1]);
            drop(elsewhere);
            assert_eq!(numbers(together.next().await), [2]);
        });
    }

    #[test]
    fn of_more_than_fit_the_oldest_goes_on() {
        paused(async {
            let group = RenameGroup::new(LIMIT);
            let _never_comes = group.join();
            let many = (0..=u32::try_from(MOST_WAITING).unwrap()).map(|number| left(number, &group)).collect();
            let mut together = Box::pin(stream::iter([many]).chain(stream::pending::<Vec<Item>>()).together());
            assert_eq!(numbers(together.next().now_or_never().unwrap()), [0]);
        });
    }
}
