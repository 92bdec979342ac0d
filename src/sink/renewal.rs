//! When to open a new connection although the old one works, because messages are rejected.
//!
//! A queue that is full rejects messages, and waiting is all that helps. But RabbitMQ also rejects messages on a channel
//! that was opened while a quorum queue had no leader, and 3.10.8 does so for as long as the channel exists, also when
//! there is a leader again. Only a new channel finds it. One cannot tell these two from each other, so a new connection is
//! opened now and then.

use std::time::{Duration, Instant};

/// How long messages are rejected before the first new connection. The next ones wait twice as long each.
const FIRST: Duration = Duration::from_secs(5);

/// How often that time is doubled at most: up to about five minutes.
const MOST_DOUBLED: u32 = 6;

/// Messages that are rejected all the time.
#[derive(Debug, Default)]
pub(super) struct Renewal {
    /// When the first of them was rejected on this connection.
    since: Option<Instant>,
    /// The new connections since then.
    connections: u32,
}

impl Renewal {
    /// Notes that a message was rejected at `now`. Returns whether a new connection is due.
    pub(super) fn is_due(&mut self, now: Instant) -> bool {
        let since = *self.since.get_or_insert(now);
        let is_due = now.duration_since(since) >= FIRST * 2_u32.pow(self.connections.min(MOST_DOUBLED));
        if is_due {
            *self = Self { since: None, connections: self.connections.saturating_add(1) };
        }
        is_due
    }

    /// Notes that a message was accepted.
    pub(super) fn ended(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_connections_are_opened_at_growing_intervals_until_a_message_is_accepted() {
        let start = Instant::now();
        let due = |renewal: &mut Renewal, from: u64, to: u64| -> Vec<u64> {
            (from..=to).filter(|second| renewal.is_due(start + Duration::from_secs(*second))).collect()
        };
        let mut renewal = Renewal::default();
        // The first rejection on the new connection comes a second later.
        assert_eq!(due(&mut renewal, 0, 60), [5, 16, 37]);
        renewal.ended();
        assert_eq!(due(&mut renewal, 100, 110), [105]);
        let later = due(&mut renewal, 111, 5_000);
        assert!(later.windows(2).all(|pair| pair[1] - pair[0] <= 321), "{later:?}");
    }
}
