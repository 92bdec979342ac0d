//! How delivery is doing, for whoever shows it.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use tokio::sync::watch;

/// How the connection to RabbitMQ is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BrokerState {
    /// Being made, or waiting for the next attempt.
    Connecting {
        /// Since when there has been none.
        since: Instant,
        /// Attempts that failed since then.
        attempts: u32,
        /// Why the last one failed, or why the last connection ended.
        last_error: Option<String>,
    },
    /// Made, and messages are taken.
    Connected,
    /// Made, but the broker takes no messages until it has memory or disk again.
    Blocked {
        /// Since when.
        since: Instant,
        /// What the broker says.
        reason: String,
    },
    /// The broker is there and refuses us for something that a person must put right: a wrong
    /// password or vhost, an exchange of the wrong type. Tried again, slowly.
    Refused {
        /// Since when.
        since: Instant,
        /// What to put right.
        reason: String,
    },
}

/// Why messages wait although the broker is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hold {
    /// No queue is bound for this routing key, and `UNROUTABLE` says to keep such messages.
    Unroutable {
        /// Since when.
        since: Instant,
        /// The routing key.
        routing_key: String,
    },
    /// The broker says no to the message: a queue is full and told to reject.
    Rejected {
        /// Since when.
        since: Instant,
    },
}

/// How delivery is doing. Shared and cheap to read.
#[derive(Debug)]
pub struct DeliveryStatus {
    state: watch::Sender<BrokerState>,
    hold: watch::Sender<Option<Hold>>,
    connections: AtomicU64,
    delivered: AtomicU64,
    let_go: AtomicU64,
    returned: AtomicU64,
    rejected: AtomicU64,
    redelivered: AtomicU64,
    refused: AtomicU64,
    parked: AtomicU64,
}

impl Default for DeliveryStatus {
    fn default() -> Self {
        let connecting = BrokerState::Connecting { since: Instant::now(), attempts: 0, last_error: None };
        Self {
            state: watch::Sender::new(connecting),
            hold: watch::Sender::new(None),
            connections: AtomicU64::new(0),
            delivered: AtomicU64::new(0),
            let_go: AtomicU64::new(0),
            returned: AtomicU64::new(0),
            rejected: AtomicU64::new(0),
            redelivered: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            parked: AtomicU64::new(0),
        }
    }
}

impl DeliveryStatus {
    /// The connection's state, to look at or to wait on.
    pub fn state(&self) -> watch::Receiver<BrokerState> {
        self.state.subscribe()
    }

    /// Why messages wait although the broker is there; `None` while they don't.
    pub fn hold(&self) -> watch::Receiver<Option<Hold>> {
        self.hold.subscribe()
    }

    /// Whether messages can be delivered now, as far as is known.
    pub fn is_connected(&self) -> bool {
        *self.state.borrow() == BrokerState::Connected
    }

    /// What delivery waits for, in words; `None` while it doesn't.
    pub fn waiting_for(&self) -> Option<String> {
        let state = self.state.borrow();
        match &*state {
            BrokerState::Connected => self.hold.borrow().as_ref().map(ToString::to_string),
            _ => Some(state.to_string()),
        }
    }

    /// Connections made.
    pub fn connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }

    /// Messages acknowledged by the broker and in a queue.
    pub fn delivered(&self) -> u64 {
        self.delivered.load(Ordering::Relaxed)
    }

    /// Messages for which no queue was bound, and which were let go as `UNROUTABLE` says.
    pub fn let_go(&self) -> u64 {
        self.let_go.load(Ordering::Relaxed)
    }

    /// How often the broker gave a message back because no queue was bound for it.
    pub fn returned(&self) -> u64 {
        self.returned.load(Ordering::Relaxed)
    }

    /// How often the broker said no to a message.
    pub fn rejected(&self) -> u64 {
        self.rejected.load(Ordering::Relaxed)
    }

    /// How often a message was sent again.
    pub fn redelivered(&self) -> u64 {
        self.redelivered.load(Ordering::Relaxed)
    }

    /// Messages that the broker refused for what they are, and that are sent no more.
    pub fn refused_messages(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// How many messages are parked: a person must have them sent again or drop them.
    pub fn parked(&self) -> u64 {
        self.parked.load(Ordering::Relaxed)
    }

    /// Takes in how many messages are parked, which whoever keeps them knows.
    pub fn set_parked(&self, messages: u64) {
        self.parked.store(messages, Ordering::Relaxed);
    }

    pub(super) fn connected(&self) {
        self.connections.fetch_add(1, Ordering::Relaxed);
        self.state.send_replace(BrokerState::Connected);
    }

    pub(super) fn blocked(&self, reason: String) {
        self.state.send_replace(BrokerState::Blocked { since: Instant::now(), reason });
    }

    pub(super) fn unblocked(&self) {
        self.state.send_replace(BrokerState::Connected);
    }

    pub(super) fn failed(&self, error: String) {
        self.state.send_modify(|state| {
            let (since, attempts) = match state {
                BrokerState::Connecting { since, attempts, .. } => (*since, *attempts),
                BrokerState::Refused { since, .. } => (*since, 0),
                BrokerState::Connected | BrokerState::Blocked { .. } => (Instant::now(), 0),
            };
            *state = BrokerState::Connecting { since, attempts: attempts.saturating_add(1), last_error: Some(error) };
        });
    }

    pub(super) fn refused(&self, reason: String) {
        self.state.send_modify(|state| {
            let since = match state {
                BrokerState::Refused { since, .. } => *since,
                _ => Instant::now(),
            };
            *state = BrokerState::Refused { since, reason };
        });
    }

    pub(super) fn hold_for(&self, hold: Option<Hold>) {
        self.hold.send_if_modified(|current| {
            let changed = match (&*current, &hold) {
                (Some(Hold::Unroutable { routing_key: old, .. }), Some(Hold::Unroutable { routing_key: new, .. })) => {
                    old != new
                }
                (Some(Hold::Rejected { .. }), Some(Hold::Rejected { .. })) | (None, None) => false,
                _ => true,
            };
            if changed {
                *current = hold;
            }
            changed
        });
    }

    pub(super) fn count_delivered(&self, messages: usize) {
        self.delivered.fetch_add(messages as u64, Ordering::Relaxed);
    }

    pub(super) fn count_let_go(&self, messages: usize) {
        self.let_go.fetch_add(messages as u64, Ordering::Relaxed);
    }

    pub(super) fn count_returned(&self, messages: usize) {
        self.returned.fetch_add(messages as u64, Ordering::Relaxed);
    }

    pub(super) fn count_rejected(&self, messages: usize) {
        self.rejected.fetch_add(messages as u64, Ordering::Relaxed);
    }

    pub(super) fn count_refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn count_redelivered(&self, messages: usize) {
        self.redelivered.fetch_add(messages as u64, Ordering::Relaxed);
    }
}

impl fmt::Display for BrokerState {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connecting { last_error: None, .. } => formatter.write_str("RabbitMQ to answer"),
            Self::Connecting { last_error: Some(error), .. } => write!(formatter, "RabbitMQ to be there ({error})"),
            Self::Connected => formatter.write_str("nothing"),
            Self::Blocked { reason, .. } => write!(formatter, "RabbitMQ to take messages again ({reason})"),
            Self::Refused { reason, .. } => write!(formatter, "RabbitMQ to let us in ({reason})"),
        }
    }
}

impl fmt::Display for Hold {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unroutable { routing_key, .. } => write!(formatter, "a queue to be bound for {routing_key}"),
            Self::Rejected { .. } => formatter.write_str("room in a queue that is full"),
        }
    }
}
