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
}

impl Latencies {
    /// A message was committed. The calls come in the order of sequence numbers.
    pub(super) fn committed(&mut self, sequence: u64, first_event: Instant) {
        if self.waiting.len() < MAX_TIMED {
            self.waiting.push_back((sequence, first_event));
        }
    }

    /// All messages up to `sequence` were confirmed. Returns those that were timed, and how long each of them took.
    pub(super) fn confirmed(&mut self, sequence: u64, now: Instant) -> Vec<(u64, Duration)> {
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
            latencies.committed(sequence, begun + Duration::from_secs(sequence));
        }
        let mut confirmed = |sequence, seconds| latencies.confirmed(sequence, begun + Duration::from_secs(seconds));
        let took = |sequence, seconds| (sequence, Duration::from_secs(seconds));
        assert_eq!(confirmed(4, 10), [took(3, 7), took(4, 6)]);
        assert_eq!(confirmed(4, 11), []);
        assert_eq!(confirmed(9, 12), [took(7, 5)]);
    }
}
