//! The combinators of the chain, one a file, behind one extension trait.
//!
//! What they all promise:
//!
//! - Nothing is lost: what goes in comes out, alone or merged into something newer for the same key.
//! - The end of the input is a flush: what is kept comes out, then `None`, and `None` from then on.
//! - Dropping a stream drops everything in it, and cancels every timer.
//! - No input, however busy, keeps its task from other work.
//! - Time is tokio's, so a test that pauses the clock sees every delay to the millisecond.

mod alarm;
mod audio_files;
mod debounce;
mod in_batches;
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
pub use lease::{Lease, Leases};
pub use one_at_a_time::{Leased, OneAtATime};
pub use pace::Pace;
pub use rate_limit::RateLimit;
pub use settle::{QuietTime, Settle};
pub use together::{Tied, Together};

/// How much a combinator reads in one poll when nothing of it can go on: then it gives way to other tasks.
const READS_A_POLL: usize = 64;

/// What the combinators need to know of a hint.
pub trait Hint: Sized {
    /// What the hint is about; hints for one key can be merged.
    type Key: Clone + Eq + Hash;

    /// The key of this hint.
    fn key(&self) -> &Self::Key;

    /// This hint, newer than `older` for the same key, knowing what `older` knew. It keeps its key.
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

/// The verbs of the chain, for every stream.
pub trait HintStreamExt: Stream + Sized {
    /// Keeps the hints whose path has one of these extensions, in any case, or has a row in the index.
    ///
    /// Law: the output is the input without the other hints, in the same order.
    ///
    /// It cannot deadlock: it keeps nothing.
    ///
    /// ```
    /// use file_watcher::model::{Extensions, FsEvent, Origin, Quiet};
    /// use file_watcher::stream::HintStreamExt;
    /// use futures::{StreamExt, executor::block_on, stream};
    ///
    /// let hints = ["a.mp3", "cover.jpg", "b.FLAC"].map(|path| FsEvent::new(path.into(), Quiet::Found, Origin::Scan));
    /// let audio: Vec<FsEvent> = block_on(stream::iter(hints).audio_files(&Extensions::default()).collect());
    /// assert_eq!(audio.len(), 2);
    /// ```
    fn audio_files(self, extensions: &Extensions) -> impl Stream<Item = FsEvent> + use<Self>
    where
        Self: Stream<Item = FsEvent>,
    {
        audio_files::audio_files(self, extensions.clone())
    }

    /// Holds each hint back until its key has been quiet, and merges what comes for the key meanwhile.
    ///
    /// Law: every key that goes in comes out, merged, with the newest hint on top; not before the key has
    /// been left alone for as long as the newest hint asks for, and not later than ten seconds
    /// ([`Debounce::no_later_than`]) after the first hint that was merged into it, unless that one
    /// asked for longer. A hint that asks for no quiet and finds nothing to merge with goes straight on.
    ///
    /// It cannot deadlock by itself: time alone frees what it holds. It reads on while it holds, one
    /// entry a key; so what it holds is no sign of work to come, and its lower `size_hint` says so.
    ///
    /// ```
    /// use std::time::Duration;
    /// use file_watcher::model::{FsEvent, Origin, Quiet};
    /// use file_watcher::stream::{HintStreamExt, Settle};
    /// use futures::{StreamExt, stream};
    ///
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() {
    /// let settle = Settle { debounce: Duration::from_millis(50), settle: Duration::from_secs(2) };
    /// let hints = [("a.mp3", Quiet::Created), ("b.mp3", Quiet::Found), ("a.mp3", Quiet::Closed)]
    ///     .map(|(path, quiet)| FsEvent::new(path.into(), quiet, Origin::Watch));
    /// let settled: Vec<FsEvent> = stream::iter(hints).debounce(settle).collect().await;
    /// assert_eq!(settled[0].path, "b.mp3".into());
    /// assert_eq!((&settled[1].path, settled[1].quiet), (&"a.mp3".into(), Quiet::Closed));
    /// # }
    /// ```
    fn debounce<Q>(self, quiet_time: Q) -> Debounce<Self, Q>
    where
        Self::Item: Hint,
        Q: QuietTime<Self::Item>,
    {
        Debounce::new(self, quiet_time)
    }

    /// Lets at most so many items a second through, and any number where there is no limit.
    ///
    /// Law: in any window of `t` seconds at most `burst + rate * t` items come out, in their order, where
    /// `burst` is a tenth of a second's worth, or one. It delays no item that the law allows by more
    /// than a timer's tick, a millisecond.
    ///
    /// It cannot deadlock: time alone frees the one item that it holds. The input feels the limit as
    /// back-pressure.
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
    fn rate_limit(self, a_second: Option<NonZeroU32>) -> RateLimit<Self> {
        RateLimit::new(self, a_second)
    }

    /// Gives each item a lease on its key, and keeps back what comes for a key on lease until the lease is dropped.
    ///
    /// Law: of one key at most one item is out at a time; every key that goes in comes out, merged, with
    /// the newest hint on top; what was kept back goes first, in the order in which it came.
    ///
    /// It deadlocks where a lease is dropped only after a later item has come: it is for whoever is
    /// downstream to let go without one. A batch that closes only when it is full does not, a batch that
    /// also closes by time ([`HintStreamExt::in_batches`]) does. At the end of the input it waits for
    /// the leases of what it still keeps.
    ///
    /// ```
    /// use file_watcher::model::{FsEvent, Origin, Quiet};
    /// use file_watcher::stream::{HintStreamExt, Leases};
    /// use futures::{FutureExt, StreamExt, stream};
    ///
    /// let hint = || FsEvent::new("a.mp3".into(), Quiet::Found, Origin::Scan);
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

    /// Puts the items into batches that close when they are full, when no more is on its way, or after the linger.
    ///
    /// Law: the batches put end to end are the input; none is empty or longer than `size`; no item waits
    /// longer than `linger` for company, and none waits at all once the input has nothing ready and
    /// nothing on its way. That is what a lower `size_hint` of zero says: `buffer_unordered` counts
    /// there what it has in hand. So a lone item never waits, and a busy chain fills its batches.
    ///
    /// It cannot deadlock: at worst, where the input counts items in its lower `size_hint` that wait for
    /// this very batch, the linger ends the wait.
    ///
    /// Panics where `size` is zero.
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

    /// Keeps items back until all that have to be decided with them are there, and gives these as one batch.
    ///
    /// Law: every item comes out once, except one whose key has a newer item by then. An item whose ties name no
    /// group that its file left comes at once, in its batch. The others come when no member of their groups is anywhere else, or when the group's
    /// limit is over, or when the input ends.
    ///
    /// It cannot deadlock: an item that waits here keeps no lease, and at worst the limit ends the wait.
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
    use crate::model::{Origin, Quiet};

    #[test]
    fn in_the_whole_chain_a_lone_hint_waits_for_nothing_but_quiet_and_the_end_flushes() {
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
                .for_each(move |batch: Vec<Leased<FsEvent>>| {
                    commit.send((Instant::now(), batch)).unwrap();
                    async {}
                });
            let chain = tokio::spawn(chain);

            for (quiet, waits) in [(Quiet::Found, 0), (Quiet::Renamed, 20), (Quiet::Closed, 50), (Quiet::Gone, 250)] {
                let start = Instant::now();
                watcher.send(FsEvent::new("cover.jpg".into(), quiet, Origin::Watch)).unwrap();
                watcher.send(FsEvent::new("a.mp3".into(), quiet, Origin::Watch)).unwrap();
                let (at, batch) = committed.recv().await.unwrap();
                assert_eq!((at - start, batch.len()), (Duration::from_millis(waits), 1), "{quiet:?}");
                assert!(leases.is_held(&"a.mp3".into()));
            }

            watcher.send(FsEvent::new("b.mp3".into(), Quiet::Gone, Origin::Watch)).unwrap();
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
