//! How long messages take from the event of the kernel to the confirm of the broker.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// The most messages that are timed at once. With a full outbox, a sample is enough.
const MAX_TIMED: usize = 100_000;

/// Messages that wait for their confirm, and when the events came that they follow from.
#[derive(Debug, Default)]
pub(super) struct Latencies {
    /// By sequence number, in order.
    waiting: VecDeque<(u64, Instant)>,
    /// The last confirm: up to which sequence number, and when.
    last_confirm: Option<(u64, Instant)>,
}

impl Latencies {
    /// A message was committed. The calls come in the order of sequence numbers. If it is confirmed already, returns how
    /// long that took: a message may be delivered before its commit is recorded here.
    pub(super) fn committed(&mut self, sequence: u64, first_event: Instant) -> Option<Duration> {
        if let Some((_, confirmed)) = self.last_confirm.filter(|(last, _)| sequence <= *last) {
            return Some(confirmed.saturating_duration_since(first_event));
        }
        if self.waiting.len() < MAX_TIMED {
            self.waiting.push_back((sequence, first_event));
        }
        None
    }

    /// All messages up to `sequence` were confirmed. Returns those that were timed, and how long each of them took.
    pub(super) fn confirmed(&mut self, sequence: u64, now: Instant) -> Vec<(u64, Duration)> {
        self.last_confirm = Some((sequence, now));
        let confirmed = self.waiting.partition_point(|(waiting, _)| *waiting <= sequence);
        let took = |(sequence, event)| (sequence, now.saturating_duration_since(event));
        self.waiting.drain(..confirmed).map(took).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_message_is_timed_once() {
        let begun = Instant::now();
        let mut latencies = Latencies::default();
        for sequence in [3, 4, 7] {
            assert_eq!(latencies.committed(sequence, begun + Duration::from_secs(sequence)), None);
        }
        let mut confirmed = |sequence, seconds| latencies.confirmed(sequence, begun + Duration::from_secs(seconds));
        let took = |sequence, seconds| (sequence, Duration::from_secs(seconds));
        assert_eq!(confirmed(4, 10), [took(3, 7), took(4, 6)]);
        assert_eq!(confirmed(4, 11), []);
        assert_eq!(confirmed(9, 12), [took(7, 5)]);
    }

    #[test]
    fn a_message_that_is_confirmed_before_its_commit_is_known_is_timed_too() {
        let begun = Instant::now();
        let mut latencies = Latencies::default();
        assert_eq!(latencies.confirmed(5, begun + Duration::from_secs(9)), []);
        assert_eq!(latencies.committed(5, begun), Some(Duration::from_secs(9)));
        assert_eq!(latencies.committed(6, begun), None);
        assert_eq!(latencies.confirmed(6, begun + Duration::from_secs(10)), [(6, Duration::from_secs(10))]);
    }
}
