//! The stream combinators of the pipeline, one per file, behind one extension trait.
//!
//! All of them guarantee:
//!
//! - Nothing is lost: each item that goes in comes out, alone or merged into a newer one for the same key.
//! - The end of the input flushes: everything that is kept comes out, then `None`, and `None` from then on.
//! - Dropping a stream drops everything in it, and cancels every timer.
//! - A busy input does not keep its task from other work.
//! - They use tokio's clock, so a test that pauses it sees every delay to the millisecond.

mod alarm;
mod audio_files;
mod debounce;
mod in_batches;
mod in_turn;
mod lease;
mod one_at_a_time;
mod pace;
mod rate_limit;
mod settle;
#[cfg(test)]
mod testing;
mod together;

use std::hash::Hash;
use std::num::NonZeroU32;
use std::time::Duration;

use futures::Stream;

use crate::model::{Extensions, FsEvent, LibraryPath};

pub use debounce::Debounce;
pub use in_batches::InBatches;
pub use in_turn::InTurn;
pub use lease::{Lease, Leases};
pub use one_at_a_time::{Leased, OneAtATime};
pub use pace::Pace;
pub use rate_limit::RateLimit;
pub use settle::{QuietTime, Settle};
pub use together::{Tied, Together};

/// The most items that a combinator reads in one poll without passing one on. Then it yields to other tasks.
const READS_A_POLL: usize = 64;

/// A hint for a key, as the combinators see it.
pub trait Hint: Sized {
    /// What the hint is about. Hints for the same key can be merged.
    type Key: Clone + Eq + Hash;

    /// The key of this hint.
    fn key(&self) -> &Self::Key;

    /// This hint merged with an `older` one for the same key. The key stays the same.
    #[must_use]
    fn merged_over(self, older: Self) -> Self;
}

impl Hint for FsEvent {
    type Key = LibraryPath;

    fn key(&self) -> &LibraryPath {
        &self.path
    }

    fn merged_over(self, older: Self) -> Self {
        Self::merged_over(self, older)
    }
}

/// The combinators, as methods on every stream.
pub trait HintStreamExt: Stream + Sized {
    /// Keeps the hints whose path has one of these extensions, in upper or lower case, or has a row in the index.
    ///
    /// Law: the output is the input without the other hints, in the same order.
    ///
    /// It cannot deadlock, because it keeps nothing.
    ///
    /// ```
    /// use file_watcher::model::{Extensions, FsEvent, Origin, Cause};
    /// use file_watcher::stream::HintStreamExt;
    /// use futures::{StreamExt, executor::block_on, stream};
    ///
    /// let hints = ["a.mp3", "cover.jpg", "b.FLAC"].map(|path| FsEvent::new(path.into(), Cause::Found, Origin::Scan));
    /// let audio: Vec<FsEvent> = block_on(stream::iter(hints).audio_files(&Extensions::default()).collect());
    /// assert_eq!(audio.len(), 2);
    /// ```
    fn audio_files(self, extensions: &Extensions) -> impl Stream<Item = FsEvent> + use<Self>
    where
        Self: Stream<Item = FsEvent>,
    {
        audio_files::audio_files(self, extensions.clone())
    }

    /// Delays each hint until its key has been quiet, and merges the hints that arrive for the key meanwhile.
    ///
    /// Law: every key that goes in comes out, merged, with the newest hint on top. It does not come out before the
    /// key has been quiet for as long as the newest hint asks for. It comes out at most ten seconds
    /// ([`Debounce::no_later_than`]) after the first hint that was merged into it, unless that one asked for longer. A
    /// hint that asks for no wait and has nothing to merge with passes at once.
    ///
    /// It cannot deadlock: time alone releases the hints. It keeps reading while it delays hints, with one entry per
    /// key, until 16,384 keys wait, without those that wait for more than five seconds, or 131,072 in all: the rest is left
    /// to the input. Delayed hints do not count as items to come, so its lower `size_hint` is 0.
    ///
    /// ```
    /// use std::time::Duration;
    /// use file_watcher::model::{FsEvent, Origin, Cause};
    /// use file_watcher::stream::{HintStreamExt, Settle};
    /// use futures::{StreamExt, stream};
    ///
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() {
    /// let settle = Settle { debounce: Duration::from_millis(50), settle: Duration::from_secs(2) };
    /// let hints = [("a.mp3", Cause::Created), ("b.mp3", Cause::Found), ("a.mp3", Cause::Closed)]
    ///     .map(|(path, cause)| FsEvent::new(path.into(), cause, Origin::Watch));
    /// let settled: Vec<FsEvent> = stream::iter(hints).debounce(settle).collect().await;
    /// assert_eq!(settled[0].path, "b.mp3".into());
    /// assert_eq!((&settled[1].path, settled[1].cause), (&"a.mp3".into(), Cause::Closed));
    /// # }
    /// ```
    fn debounce<Q>(self, quiet_time: Q) -> Debounce<Self, Q>
    where
        Self::Item: Hint,
        Q: QuietTime<Self::Item>,
    {
        Debounce::new(self, quiet_time)
    }

    /// Lets at most this many items per second through; `None` for no limit.
    ///
    /// Law: in any window of `t` seconds, at most `burst + rate * t` items come out, in their order. `burst` is a tenth
    /// of the rate, but at least one. An item that the law allows is delayed by at most one tick of the timer, a
    /// millisecond.
    ///
    /// It cannot deadlock: time alone releases the one item that it keeps. The limit puts back-pressure on the input.
    ///
    /// ```
    /// use std::{num::NonZeroU32, time::Duration};
    /// use file_watcher::stream::HintStreamExt;
    /// use futures::{StreamExt, stream};
    ///
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() {
    /// let start = tokio::time::Instant::now();
    /// stream::iter(0..21).rate_limit(NonZeroU32::new(10)).count().await;
    /// assert_eq!(start.elapsed(), Duration::from_secs(2));
    /// # }
    /// ```
    fn rate_limit(self, per_second: Option<NonZeroU32>) -> RateLimit<Self> {
        RateLimit::new(self, per_second)
    }

    /// Gives each item a lease on its key, and keeps items for a leased key until the lease is dropped.
    ///
    /// Law: for each key, at most one item is out at a time. Every key that goes in comes out, merged, with the newest
    /// hint on top. Items that were kept come out first, in the order of their arrival.
    ///
    /// It deadlocks if a lease is dropped only after a later item has arrived. So the consumer must drop leases without
    /// waiting for another item. A batch that closes only when it is full does not; a batch that also closes by time
    /// ([`HintStreamExt::in_batches`]) does. At the end of the input, the stream waits for the leases on the keys of the
    /// items that it still keeps.
    ///
    /// ```
    /// use file_watcher::model::{FsEvent, Origin, Cause};
    /// use file_watcher::stream::{HintStreamExt, Leases};
    /// use futures::{FutureExt, StreamExt, stream};
    ///
    /// let hint = || FsEvent::new("a.mp3".into(), Cause::Found, Origin::Scan);
    /// let leases = Leases::new();
    /// let mut looks = stream::iter([hint(), hint()]).one_at_a_time(leases.clone());
    ///
    /// let first = looks.next().now_or_never().unwrap();
    /// assert!(looks.next().now_or_never().is_none());
    /// drop(first);
    /// assert!(looks.next().now_or_never().is_some());
    /// assert_eq!(leases.held(), 0);
    /// ```
    fn one_at_a_time(self, leases: Leases<<Self::Item as Hint>::Key>) -> OneAtATime<Self>
    where
        Self::Item: Hint,
    {
        OneAtATime::new(self, leases)
    }

    /// Collects the items into batches. A batch closes when it is full, when no more items are to come, or after the
    /// linger.
    ///
    /// Law: the concatenated batches are the input. No batch is empty or longer than `size`. No item waits longer than
    /// `linger` for others, and none waits at all if the input has no item ready and none to come. The input says that
    /// by a lower `size_hint` of 0: `buffer_unordered` counts the items in progress there. So a single item never waits,
    /// and a busy pipeline fills its batches.
    ///
    /// It cannot deadlock: if the lower `size_hint` of the input counts items that wait for this very batch, the linger
    /// ends the wait.
    ///
    /// # Panics
    ///
    /// If `size` is 0.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use file_watcher::stream::HintStreamExt;
    /// use futures::{StreamExt, executor::block_on, stream};
    ///
    /// let batches = stream::iter(1..=5).in_batches(2, Duration::from_secs(1)).collect::<Vec<_>>();
    /// assert_eq!(block_on(batches), [vec![1, 2], vec![3, 4], vec![5]]);
    /// ```
    fn in_batches(self, size: usize, linger: Duration) -> InBatches<Self> {
        InBatches::new(self, size, linger)
    }

    /// Keeps items until all items that have to be decided with them are there, and passes them on as one batch.
    ///
    /// Law: every item comes out once, except one whose key has a newer item by then. An item whose ties name no group
    /// that its file left comes out at once, in its batch. The others come out when no member of their groups is
    /// anywhere else, when the group's limit is over, or when the input ends.
    ///
    /// It cannot deadlock: an item that waits here has no lease, and the limit ends the wait.
    ///
    /// ```
    /// use std::time::Duration;
    /// use file_watcher::model::{RenameGroup, Ties};
    /// use file_watcher::stream::{HintStreamExt, Tied};
    /// use futures::{StreamExt, executor::block_on, stream};
    ///
    /// struct Look(&'static str, Ties);
    ///
    /// impl Tied for Look {
    ///     type Key = &'static str;
    ///
    ///     fn key(&self) -> &Self::Key {
    ///         &self.0
    ///     }
    ///
    ///     fn ties(&self) -> Option<&Ties> {
    ///         Some(&self.1)
    ///     }
    ///
    ///     fn in_place_of(self, _: Self) -> Self {
    ///         self
    ///     }
    /// }
    ///
    /// let group = RenameGroup::new(Duration::from_secs(1));
    /// let look = |name| Look(name, Ties { member_of: vec![group.join()], left_in: vec![group.clone()], ..Ties::default() });
    /// let batches = stream::iter([vec![look("a")], vec![look("b")]]).together().collect::<Vec<_>>();
    /// assert_eq!(block_on(batches).len(), 1);
    /// ```
    fn together<T: Tied>(self) -> Together<Self, T>
    where
        Self: Stream<Item = Vec<T>>,
    {
        Together::new(self)
    }

    /// Does `work` with each item, one after the other. Meanwhile the input is asked for the next item, so that it does
    /// not stand still.
    ///
    /// Law: the work on an item begins when that on the item before is done, in the order of the input. The future ends
    /// when the input has ended and the last work is done.
    ///
    /// It deadlocks if the work waits for an item after the next one. It keeps at most one item that is not worked on.
    ///
    /// ```
    /// use file_watcher::stream::HintStreamExt;
    /// use futures::{executor::block_on, stream};
    /// use std::cell::RefCell;
    ///
    /// let done = RefCell::new(Vec::new());
    /// block_on(stream::iter(1..=3).in_turn(|item| {
    ///     done.borrow_mut().push(item);
    ///     async {}
    /// }));
    /// assert_eq!(done.into_inner(), [1, 2, 3]);
    /// ```
    fn in_turn<W, F>(self, work: W) -> InTurn<Self, W, F>
    where
        W: FnMut(Self::Item) -> F,
        F: Future<Output = ()>,
    {
        InTurn::new(self, work)
    }
}

impl<S: Stream> HintStreamExt for S {}

#[cfg(test)]
mod tests {
    use futures::{StreamExt, stream};
    use tokio::sync::{mpsc, oneshot};
    use tokio::time::Instant;
    use tokio_stream::wrappers::UnboundedReceiverStream;

    use super::testing::paused;
    use super::*;
    use crate::model::{Cause, Origin};

    #[test]
    fn in_the_whole_pipeline_a_single_hint_waits_only_for_quiet_and_the_end_flushes() {
        paused(async {
            let settle = Settle { debounce: Duration::from_millis(50), settle: Duration::from_secs(2) };
            let (watcher, hints) = mpsc::unbounded_channel();
            let (shutdown, cut) = oneshot::channel::<()>();
            let (commit, mut committed) = mpsc::unbounded_channel();
            let leases = Leases::new();
            let chain = stream::select(UnboundedReceiverStream::new(hints), stream::empty())
                .take_until(cut)
                .audio_files(&Extensions::default())
                .debounce(settle)
                .rate_limit(NonZeroU32::new(100))
                .one_at_a_time(leases.clone())
                .map(|look| async { look })
                .buffer_unordered(4)
                .in_batches(100, Duration::from_mins(1))
                .in_turn(move |batch: Vec<Leased<FsEvent>>| {
                    commit.send((Instant::now(), batch)).unwrap();
                    async {}
                });
            let chain = tokio::spawn(chain);

            for (quiet, waits) in [(Cause::Found, 0), (Cause::Renamed, 0), (Cause::Closed, 50), (Cause::Gone, 250)] {
                let start = Instant::now();
                watcher.send(FsEvent::new("cover.jpg".into(), quiet, Origin::Watch)).unwrap();
                watcher.send(FsEvent::new("a.mp3".into(), quiet, Origin::Watch)).unwrap();
                let (at, batch) = committed.recv().await.unwrap();
                assert_eq!((at - start, batch.len()), (Duration::from_millis(waits), 1), "{quiet:?}");
                assert!(leases.is_held(&"a.mp3".into()));
            }

            watcher.send(FsEvent::new("b.mp3".into(), Cause::Gone, Origin::Watch)).unwrap();
            tokio::task::yield_now().await;
            let start = Instant::now();
            shutdown.send(()).unwrap();
            chain.await.unwrap();
            assert_eq!(committed.recv().await.unwrap().0, start);
            assert!(committed.recv().await.is_none());
            assert_eq!(leases.held(), 0);
        });
    }
}
