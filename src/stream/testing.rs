//! Helpers for the tests of the combinators.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, stream};
use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;

use super::Hint;

/// A hint that records what was merged into it: the numbers of the hints, newest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Probe {
    pub(super) key: u8,
    pub(super) quiet: Duration,
    pub(super) numbers: Vec<usize>,
}

impl Probe {
    pub(super) fn new(number: usize, key: u8, quiet: u64) -> Self {
        Self { key, quiet: milliseconds(quiet), numbers: vec![number] }
    }
}

impl Hint for Probe {
    type Key = u8;

    fn key(&self) -> &u8 {
        &self.key
    }

    fn merged_over(mut self, older: Self) -> Self {
        self.numbers.extend(older.numbers);
        self
    }
}

/// A hint whose owners can be counted.
impl Hint for Arc<u8> {
    type Key = u8;

    fn key(&self) -> &u8 {
        self
    }

    fn merged_over(self, _older: Self) -> Self {
        self
    }
}

pub(super) fn milliseconds(count: u64) -> Duration {
    Duration::from_millis(count)
}

/// Runs `test` on a paused clock, which jumps to the next timer when there is no other work.
pub(super) fn paused<T>(test: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap().block_on(test)
}

/// The items, each this many milliseconds after the one before. The lower `size_hint` is 0.
pub(super) fn schedule<T>(items: Vec<(u64, T)>) -> impl Stream<Item = T> {
    stream::unfold(items.into_iter(), async |mut items| {
        let (gap, item) = items.next()?;
        if gap > 0 {
            tokio::time::sleep(milliseconds(gap)).await;
        }
        Some((item, items))
    })
}

/// Checks that for every key, the hints that came out contain all hints that went in, in their order.
pub(super) fn every_key_comes_out_with_all_its_hints<'a>(
    came_in: impl Iterator<Item = &'a Probe>,
    came_out: impl Iterator<Item = &'a Probe>,
) -> TestCaseResult {
    fn by_key<'a>(probes: impl Iterator<Item = &'a Probe>) -> HashMap<u8, Vec<usize>> {
        probes.fold(HashMap::new(), |mut keys, probe| {
            keys.entry(probe.key).or_default().extend(probe.numbers.iter().rev());
            keys
        })
    }
    prop_assert_eq!(by_key(came_out), by_key(came_in));
    Ok(())
}
