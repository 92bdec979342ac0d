//! The consumer of a history: an oracle, and what a broker may do to its messages.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use crate::support::oracle::{Message, Oracle};
use crate::support::strict::{StrictConsumers, StrictMessage};

/// What the messages so far add up to.
pub(crate) struct Replay {
    pub(crate) oracle: Oracle,
    /// The largest message that arrives. Larger ones are parked, and those behind them arrive before that is known.
    largest: Option<usize>,
    /// Messages that wait for parked ones in front of them, by sequence number.
    waiting: BTreeMap<u64, (Message, Vec<u8>)>,
    /// How many messages were redelivered while they waited.
    redelivered_waiting: u64,
    /// How many messages were parked.
    pub(crate) parked: u64,
    /// Consumers that are unique in hashes, if no two files have equal contents.
    pub(crate) strict: Option<StrictConsumers>,
    /// The first message that broke the contract.
    pub(crate) violation: Option<String>,
}

impl Replay {
    /// `is_strict`: no two files ever have equal contents, so consumers may be unique in hashes.
    pub(crate) fn new(root: &Path, is_strict: bool, largest: Option<usize>) -> Self {
        Self {
            oracle: Oracle::new(root),
            largest,
            waiting: BTreeMap::new(),
            redelivered_waiting: 0,
            parked: 0,
            strict: is_strict.then(StrictConsumers::new),
            violation: None,
        }
    }

    /// Whether no message waits for one in front of it.
    pub(crate) fn is_whole(&self) -> bool {
        self.waiting.is_empty()
    }

    /// How many messages were redelivered.
    pub(crate) fn redelivered(&self) -> u64 {
        self.oracle.redelivered + self.redelivered_waiting
    }

    /// Takes one message, in the order of arrival. Redeliveries are dropped.
    pub(crate) fn take(&mut self, body: &[u8]) {
        match self.oracle.read_json(body) {
            Ok(message) if self.largest.is_some() && message.sequence > self.oracle.sequence() + 1 => {
                let before = self.waiting.insert(message.sequence, (message, body.to_vec()));
                self.redelivered_waiting += u64::from(before.is_some());
            }
            Ok(message) => self.try_take(message, body),
            Err(violation) => self.note(&violation, body),
        }
        self.take_waiting();
    }

    /// Takes the messages that were parked so far, each in its place.
    pub(crate) fn take_parked(&mut self, parked: Vec<(u64, Vec<u8>)>) {
        for (sequence, body) in parked {
            if sequence == self.oracle.sequence() + 1 {
                self.parked += 1;
                match self.is_too_large(&body).and_then(|()| self.oracle.read_json(&body)) {
                    Ok(message) => self.try_take(message, &body),
                    Err(violation) => self.note(&violation, &body),
                }
                self.take_waiting();
            }
        }
    }

    fn take_waiting(&mut self) {
        while let Some((message, body)) = self.waiting.remove(&(self.oracle.sequence() + 1)) {
            self.try_take(message, &body);
        }
    }

    fn try_take(&mut self, message: Message, body: &[u8]) {
        let strict = self.strict.as_mut();
        let taken = self.oracle.take(message).and_then(|is_new| match (strict, self.oracle.messages.last()) {
            (Some(strict), Some(message)) if is_new => strict.take(&StrictMessage::about_unique_content(message)),
            _ => Ok(()),
        });
        if let Err(violation) = taken {
            self.note(&violation, body);
        }
    }

    /// Whether no broker would take it, even without its metadata.
    fn is_too_large(&self, body: &[u8]) -> Result<(), String> {
        let mut message: Value = serde_json::from_slice(body).map_err(|error| format!("not JSON: {error}"))?;
        message.as_object_mut().ok_or("not an object")?.remove("metadata");
        let is_too_large = self.largest.is_some_and(|largest| message.to_string().len() > largest);
        if is_too_large { Ok(()) } else { Err("parked, and not too large".into()) }
    }

    fn note(&mut self, violation: &str, body: &[u8]) {
        self.violation.get_or_insert_with(|| format!("{violation}: {}", String::from_utf8_lossy(body)));
    }
}
