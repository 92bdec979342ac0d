//! Looks whose files changed names with each other are decided in one batch.

use std::collections::{HashMap, HashSet, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::Stream;
use futures::stream::{Fuse, StreamExt};
use pin_project_lite::pin_project;
use tokio::time::Instant;

use super::Leased;
use super::alarm::{Alarm, after};
use crate::model::{Member, RenameGroup, Ties};

/// How often it is checked whether the last member of a group is gone: members end without a sign.
const CHECK: Duration = Duration::from_millis(5);

/// Items that wait at once; beyond this the oldest goes on alone.
const MOST_WAITING: usize = 10_000;

/// What the combinator needs to know of an item.
pub trait Tied {
    /// What ties it to others; nothing if it need not wait for them.
    fn ties(&self) -> Option<&Ties>;
}

impl<T: Tied, K: Clone + Eq + std::hash::Hash> Tied for Leased<T, K> {
    fn ties(&self) -> Option<&Ties> {
        self.item.ties()
    }
}

pin_project! {
    /// The stream of [`together`](super::HintStreamExt::together).
    #[must_use = "streams do nothing unless polled"]
    pub struct Together<S, T>
    where
        S: Stream<Item = Vec<T>>,
    {
        #[pin]
        input: Fuse<S>,
        waiting: VecDeque<Waiting<T>>,
        #[pin]
        alarm: Alarm,
    }
}

struct Waiting<T> {
    item: T,
    until: Instant,
}

impl<S: Stream<Item = Vec<T>>, T: Tied> Together<S, T> {
    pub(super) fn new(input: S) -> Self {
        Self { input: input.fuse(), waiting: VecDeque::new(), alarm: Alarm::default() }
    }
}

impl<S: Stream<Item = Vec<T>>, T: Tied> Stream for Together<S, T> {
    type Item = Vec<T>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Vec<T>>> {
        let mut this = self.project();
        loop {
            if let Some(batch) = take_complete(this.waiting, Instant::now()) {
                return Poll::Ready(Some(batch));
            }
            match this.input.as_mut().poll_next(context) {
                Poll::Ready(Some(batch)) => {
                    let batch = admit(this.waiting, batch);
                    if !batch.is_empty() {
                        return Poll::Ready(Some(batch));
                    }
                }
                // Nobody is left who could come.
                Poll::Ready(None) if this.waiting.is_empty() => return Poll::Ready(None),
                Poll::Ready(None) => {
                    return Poll::Ready(Some(this.waiting.drain(..).map(|waiting| waiting.item).collect()));
                }
                Poll::Pending if this.waiting.is_empty() => return Poll::Pending,
                Poll::Pending => ready!(this.alarm.as_mut().poll_at(after(Instant::now(), CHECK), context)),
            }
        }
    }
}

/// Keeps back the items that wait for others, and gives the rest.
fn admit<T: Tied>(waiting: &mut VecDeque<Waiting<T>>, batch: Vec<T>) -> Vec<T> {
    let mut rest = Vec::with_capacity(batch.len());
    let now = Instant::now();
    for item in batch {
        let limit = item.ties().and_then(|ties| ties.left_in.iter().map(RenameGroup::limit).max());
        match limit {
            Some(limit) => waiting.push_back(Waiting { item, until: after(now, limit) }),
            None => rest.push(item),
        }
    }
    while waiting.len() > MOST_WAITING {
        rest.extend(waiting.pop_front().map(|waiting| waiting.item));
    }
    rest
}

/// Takes the items whose groups have no member elsewhere, and those that have waited for long enough.
fn take_complete<T: Tied>(waiting: &mut VecDeque<Waiting<T>>, now: Instant) -> Option<Vec<T>> {
    if waiting.is_empty() {
        return None;
    }
    let mut here: HashMap<usize, HashSet<*const Member>> = HashMap::new();
    for member in waiting.iter().filter_map(|waiting| waiting.item.ties()).flat_map(|ties| &ties.member_of) {
        here.entry(member.group().id()).or_default().insert(Arc::as_ptr(member));
    }
    let is_complete = |group: &RenameGroup| here.get(&group.id()).map_or(0, HashSet::len) >= group.members();
    let is_done = |waiting: &Waiting<T>| {
        waiting.until <= now || waiting.item.ties().is_none_or(|ties| ties.left_in.iter().all(is_complete))
    };
    if !waiting.iter().any(is_done) {
        return None;
    }
    let (done, kept): (VecDeque<_>, VecDeque<_>) = waiting.drain(..).partition(is_done);
    *waiting = kept;
    Some(done.into_iter().map(|waiting| waiting.item).collect())
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
        fn ties(&self) -> Option<&Ties> {
            self.1.as_ref()
        }
    }

    const LIMIT: Duration = Duration::from_secs(1);

    fn left(number: u32, group: &RenameGroup) -> Item {
        Item(number, Some(Ties { member_of: vec![group.join()], left_in: vec![group.clone()] }))
    }

    fn numbers(batch: Option<Vec<Item>>) -> Vec<u32> {
        batch.unwrap_or_default().into_iter().map(|item| item.0).collect()
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
