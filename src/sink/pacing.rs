//! The states of a delivery: how many messages are published at once, and what becomes of returned ones.

use std::time::Duration;

use super::publish::PublishOutcome;
use crate::model::Unroutable;

/// The number of messages that are published one by one after a rejected one.
///
/// A full queue with `x-overflow: reject-publish` may reject a message and take the next one. Publishing one by one
/// keeps the order.
const CAREFUL: usize = 1_000;

/// The longest pause before a held message is published again.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// How long after the first routed message returned ones are still held with `UNROUTABLE=auto`: a consumer that has
/// just started binds its routing keys one after the other.
const BINDING: Duration = Duration::from_secs(1);

/// How many of the next messages are published at once.
///
/// The transitions return the next state and do not change `self`.
#[must_use]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Pacing {
    /// All of them.
    #[default]
    Batch,
    /// One by one, for the next `left` messages: a message was rejected or refused.
    OneByOne {
        /// Never 0.
        left: usize,
    },
    /// The first message is held, because it was returned or rejected. It is published alone, after a pause, until it
    /// is delivered or dropped. After it, the next `left` messages are published one by one.
    Held {
        /// May be 0.
        left: usize,
    },
}

impl Pacing {
    fn one_by_one(left: usize) -> Self {
        if left == 0 { Self::Batch } else { Self::OneByOne { left } }
    }

    fn left(self) -> usize {
        match self {
            Self::Batch => 0,
            Self::OneByOne { left } | Self::Held { left } => left,
        }
    }

    fn with_left(self, left: usize) -> Self {
        match self {
            Self::Batch | Self::OneByOne { .. } => Self::one_by_one(left),
            Self::Held { .. } => Self::Held { left },
        }
    }

    /// Whether a message was rejected or refused lately.
    pub(super) fn is_careful(self) -> bool {
        self.left() > 0
    }

    /// Whether only one message may be published at once.
    pub(super) fn is_single(self) -> bool {
        self != Self::Batch
    }

    /// A new batch begins, or the first message is not held any more.
    pub(super) fn released(self) -> Self {
        Self::one_by_one(self.left())
    }

    /// The first message is held.
    pub(super) fn held(self) -> Self {
        Self::Held { left: self.left() }
    }

    /// The first `done` of the published messages are delivered or dropped.
    pub(super) fn settled(self, done: usize, outcomes: &[PublishOutcome]) -> Self {
        let left =
            if outcomes.contains(&PublishOutcome::Rejected) { CAREFUL } else { self.left().saturating_sub(done) };
        self.with_left(left)
    }

    /// The broker refused one of `messages` published messages, and it is not known which.
    pub(super) fn refused_among(self, messages: usize) -> Self {
        self.with_left(self.left().max(messages))
    }

    /// A refused message was skipped.
    pub(super) fn skipped(self) -> Self {
        self.with_left(self.left().saturating_sub(1))
    }
}

/// What becomes of a message that is returned, by the `UNROUTABLE` setting and the age of the connection's first
/// routed message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReturnPolicy {
    /// `auto`, and no message was routed on this connection: hold it, and find out whether other keys are bound.
    Probe,
    /// `auto`, and the first message was routed a moment ago: hold it, for a consumer may still be binding its queue.
    AwaitBindings,
    /// `auto`, and the first message was routed longer ago: drop it.
    DropUnwanted,
    /// `hold`: hold it until a queue is bound.
    Hold,
    /// `drop`: drop it.
    Drop,
}

impl ReturnPolicy {
    /// The policy for a connection that routed its first message `routed_for` ago.
    pub(super) fn new(unroutable: Unroutable, routed_for: Option<Duration>) -> Self {
        match (unroutable, routed_for) {
            (Unroutable::Hold, _) => Self::Hold,
            (Unroutable::Drop, _) => Self::Drop,
            (Unroutable::Auto, None) => Self::Probe,
            (Unroutable::Auto, Some(routed_for)) if routed_for < BINDING => Self::AwaitBindings,
            (Unroutable::Auto, Some(_)) => Self::DropUnwanted,
        }
    }

    /// Whether a returned message is dropped.
    pub(super) fn drops(self) -> bool {
        match self {
            Self::DropUnwanted | Self::Drop => true,
            Self::Probe | Self::AwaitBindings | Self::Hold => false,
        }
    }

    /// The longest pause before a held message is published again.
    pub(super) fn longest_pause(self) -> Duration {
        match self {
            Self::AwaitBindings | Self::DropUnwanted => BINDING,
            Self::Probe | Self::Hold | Self::Drop => LONGEST_PAUSE,
        }
    }

    /// How many of the first messages are delivered or dropped.
    pub(super) fn count_done(self, outcomes: &[PublishOutcome]) -> usize {
        let is_done = |outcome: &&PublishOutcome| match outcome {
            PublishOutcome::Delivered => true,
            PublishOutcome::Returned => self.drops(),
            PublishOutcome::Rejected | PublishOutcome::Unconfirmed => false,
        };
        outcomes.iter().take_while(is_done).count()
    }
}

#[cfg(test)]
mod tests {
    use super::PublishOutcome::{Delivered, Rejected, Returned, Unconfirmed};
    use super::*;

    #[test]
    fn only_an_unbroken_run_from_the_first_message_is_done() {
        let (hold, drop) = (ReturnPolicy::Hold, ReturnPolicy::Drop);
        assert_eq!(hold.count_done(&[Delivered, Delivered]), 2);
        assert_eq!(hold.count_done(&[Delivered, Returned, Delivered]), 1);
        assert_eq!(drop.count_done(&[Delivered, Returned, Delivered]), 3);
        assert_eq!(drop.count_done(&[Rejected, Delivered]), 0);
        assert_eq!(drop.count_done(&[Delivered, Unconfirmed, Delivered]), 1);
    }

    #[test]
    fn a_returned_message_is_dropped_as_the_setting_says() {
        let long = Some(Duration::from_mins(1));
        let drops = |unroutable, routed_for| ReturnPolicy::new(unroutable, routed_for).drops();
        assert!(!drops(Unroutable::Auto, None));
        assert!(!drops(Unroutable::Auto, Some(Duration::ZERO)));
        assert!(drops(Unroutable::Auto, long));
        assert!(!drops(Unroutable::Hold, long));
        assert!(drops(Unroutable::Drop, None));
    }

    #[test]
    fn after_a_rejected_message_a_thousand_are_published_one_by_one() {
        let held = Pacing::Batch.settled(0, &[Rejected]).held();
        assert_eq!(held, Pacing::Held { left: CAREFUL });
        let released = held.settled(1, &[Delivered]).released();
        assert_eq!(released, Pacing::OneByOne { left: CAREFUL - 1 });
        let last = (1..CAREFUL).fold(released, |pacing, _| pacing.settled(1, &[Delivered]));
        assert_eq!(last, Pacing::Batch);
    }

    #[test]
    fn after_a_returned_message_the_rest_is_published_at_once() {
        let held = Pacing::Batch.settled(0, &[Returned]).held();
        assert!(held.is_single() && !held.is_careful());
        assert_eq!(held.settled(1, &[Delivered]).released(), Pacing::Batch);
    }

    #[test]
    fn a_refusal_among_several_messages_publishes_these_one_by_one() {
        let pacing = Pacing::Batch.refused_among(3).settled(1, &[Delivered, Unconfirmed, Unconfirmed]);
        assert_eq!(pacing, Pacing::OneByOne { left: 2 });
        assert_eq!(pacing.refused_among(1), pacing);
        assert_eq!(pacing.skipped().settled(1, &[Delivered]), Pacing::Batch);
        assert_eq!(Pacing::Batch.skipped(), Pacing::Batch);
    }
}
