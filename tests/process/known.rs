//! What a consumer knows that has read everything from the beginning.

use std::ops::Deref;
use std::path::PathBuf;

use crate::program::Program;
use crate::support::consumer::Received;
use crate::support::oracle::{Again, Oracle};
use crate::{LIMIT, QUIET};

/// An oracle that also expects replays, and keeps which paths they published.
pub(crate) struct Known {
    oracle: Oracle,
    /// Paths that were published again, in order.
    pub(crate) replayed: Vec<PathBuf>,
}

impl Known {
    /// Of a program that has published nothing yet.
    pub(crate) fn of(program: &Program) -> Self {
        Self { oracle: program.oracle().expecting(Again::Replays), replayed: Vec::new() }
    }

    /// Reads the queue of a program, which must give this many different messages and then its files.
    pub(crate) async fn read_all(program: &Program, messages: usize) -> Self {
        let mut known = Self::of(program);
        known.take_all(&program.consumer().await.expect_different(messages, LIMIT, QUIET).await);
        assert_eq!(known.files, program.files());
        known
    }

    /// Takes messages by the rules of the contract.
    pub(crate) fn take_all(&mut self, received: &[Received]) {
        for message in received {
            self.take(message);
        }
    }

    /// Takes a message by the rules of the contract. Returns whether it was new.
    pub(crate) fn take(&mut self, received: &Received) -> bool {
        let is_new = received.replay(&mut self.oracle);
        if let Some(message) = self.oracle.messages.last().filter(|message| is_new && message.origin == "replay") {
            // A replay publishes what earlier messages made known, neither older nor newer.
            assert_eq!(message.event_type, "created", "{message:?}");
            self.replayed.push(message.path.clone());
        }
        is_new
    }
}

impl Deref for Known {
    type Target = Oracle;

    fn deref(&self) -> &Oracle {
        &self.oracle
    }
}
