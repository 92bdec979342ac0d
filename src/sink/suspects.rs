//! Finds the message for which the broker closes the channel.
//!
//! A refusal names no message. So the messages of a refused batch are published one by one, and a message that is
//! refused alone for the second time is given up. If it was too large, the second attempt is without its metadata.

use std::collections::BTreeMap;

use super::refusal::MessageRefusal;
use crate::message;
use crate::model::Outgoing;

/// The number of refusals after which a message is given up.
const ATTEMPTS: u32 = 2;

/// The messages of one batch that were refused alone, by sequence number.
#[derive(Debug, Default)]
pub(super) struct Suspects(BTreeMap<u64, Suspect>);

#[derive(Debug)]
struct Suspect {
    refusals: u32,
    reason: String,
    /// The message without its metadata, which is published instead.
    reduced: Option<Outgoing>,
}

/// What to do with a message that was refused alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Publish it once more.
    Retry,
    /// Publish it once more, without its metadata.
    Reduced,
    /// Give it up.
    GivenUp,
}

impl Suspects {
    /// Notes that the broker refused this message while no other one was in flight.
    pub(super) fn refused_alone(&mut self, sent: &Outgoing, refusal: MessageRefusal) -> Verdict {
        let MessageRefusal { reason, is_for_size } = refusal;
        let new = Suspect { refusals: 0, reason: String::new(), reduced: None };
        let suspect = self.0.entry(sent.sequence).or_insert(new);
        suspect.refusals += 1;
        suspect.reason = reason;
        if is_for_size && suspect.reduced.is_none() {
            suspect.reduced = message::without_metadata(sent);
            if suspect.reduced.is_some() {
                suspect.refusals = 1;
                return Verdict::Reduced;
            }
        }
        if suspect.refusals < ATTEMPTS { Verdict::Retry } else { Verdict::GivenUp }
    }

    /// The message to publish in place of `message`.
    pub(super) fn to_send<'a>(&'a self, message: &'a Outgoing) -> &'a Outgoing {
        self.0.get(&message.sequence).and_then(|suspect| suspect.reduced.as_ref()).unwrap_or(message)
    }

    /// Why a message was given up, if it was.
    pub(super) fn given_up(&self, message: &Outgoing) -> Option<&str> {
        let suspect = self.0.get(&message.sequence)?;
        (suspect.refusals >= ATTEMPTS).then_some(suspect.reason.as_str())
    }

    /// Removes all suspects. Called at the end of their batch.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::EventType;

    fn message(sequence: u64, metadata: &str) -> Outgoing {
        Outgoing {
            sequence,
            event_type: EventType::Created,
            correlation_id: sequence.to_string(),
            timestamp: 0,
            body: format!(r#"{{"file_path":"/a.mp3"{metadata},"sequence":{sequence}}}"#).into_bytes(),
        }
    }

    fn refusal(is_for_size: bool) -> MessageRefusal {
        MessageRefusal { reason: format!("size: {is_for_size}"), is_for_size }
    }

    #[test]
    fn a_message_that_is_refused_twice_is_given_up_with_the_last_reason() {
        let (mut suspects, one, other) = (Suspects::default(), message(1, ""), message(2, ""));
        assert_eq!(suspects.refused_alone(&one, refusal(false)), Verdict::Retry);
        assert_eq!(suspects.refused_alone(&other, refusal(false)), Verdict::Retry);
        assert_eq!((suspects.given_up(&one), suspects.given_up(&other)), (None, None));
        // There is nothing to leave out of it.
        assert_eq!(suspects.refused_alone(&one, refusal(true)), Verdict::GivenUp);
        assert_eq!((suspects.given_up(&one), suspects.given_up(&other)), (Some("size: true"), None));
        suspects.clear();
        assert_eq!(suspects.given_up(&one), None);
    }

    #[test]
    fn a_message_that_is_too_large_is_tried_without_its_metadata_before_it_is_given_up() {
        let title = format!(r#","metadata":{{"tags":{{"title":"{}"}}}}"#, "x".repeat(300));
        let (mut suspects, one) = (Suspects::default(), message(1, &title));
        assert_eq!(suspects.to_send(&one), &one);
        assert_eq!(suspects.refused_alone(&one, refusal(false)), Verdict::Retry);
        assert_eq!(suspects.to_send(&one), &one);
        assert_eq!(suspects.refused_alone(&one, refusal(true)), Verdict::Reduced);
        assert_eq!(suspects.given_up(&one), None);
        let reduced = suspects.to_send(&one).clone();
        assert!(reduced.body.len() < one.body.len());
        assert_eq!(suspects.refused_alone(&reduced, refusal(true)), Verdict::GivenUp);
        assert_eq!(suspects.given_up(&one), Some("size: true"));
    }
}
