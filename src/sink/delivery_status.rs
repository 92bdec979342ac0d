//! The status of the delivery, for logs and health checks.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use tokio::sync::watch;

/// The state of the connection to RabbitMQ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BrokerState {
    /// Being opened, or waiting for the next attempt.
    Connecting {
        /// Since when there has been no connection.
        since: Instant,
        /// The number of failed attempts since then. Each was made with every node.
        attempts: u32,
        /// Why the last one failed, or why the last connection ended.
        last_error: Option<String>,
    },
    /// Open, and the broker takes messages.
    Connected,
    /// Open, but the broker is blocked: it takes no messages until it has memory or disk space again.
    Blocked {
        /// Since when the broker is blocked.
        since: Instant,
        /// The text of the broker.
        reason: String,
    },
    /// Attempts fail until the operator changes something: a wrong password or vhost, an exchange of
    /// another type. Retried slowly.
    Refused {
        /// Since when attempts fail so.
        since: Instant,
        /// What to change.
        reason: String,
    },
}

/// Why messages wait although there is a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stall {
    /// No queue is bound for the routing key, and `UNROUTABLE` says to hold such messages.
    Unroutable {
        /// Since when messages wait.
        since: Instant,
        /// The routing key of the first message.
        routing_key: String,
    },
    /// A queue rejects messages: it is full (`x-overflow: reject-publish`), or a quorum queue without a leader.
    Rejected {
        /// Since when messages wait.
        since: Instant,
    },
}

/// The status of the delivery. Shared, and cheap to read.
#[derive(Debug)]
pub struct DeliveryStatus {
    state: watch::Sender<BrokerState>,
    stall: watch::Sender<Option<Stall>>,
    node: Mutex<Option<String>>,
    connections: AtomicU64,
    delivered: AtomicU64,
    dropped: AtomicU64,
    returned: AtomicU64,
    rejected: AtomicU64,
    redelivered: AtomicU64,
    refused: AtomicU64,
}

impl Default for DeliveryStatus {
    fn default() -> Self {
        let connecting = BrokerState::Connecting { since: Instant::now(), attempts: 0, last_error: None };
        Self {
            state: watch::Sender::new(connecting),
            stall: watch::Sender::new(None),
            node: Mutex::default(),
            connections: AtomicU64::new(0),
            delivered: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            returned: AtomicU64::new(0),
            rejected: AtomicU64::new(0),
            redelivered: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        }
    }
}

impl DeliveryStatus {
    /// The state of the connection, to read or to wait for.
    pub fn state(&self) -> watch::Receiver<BrokerState> {
        self.state.subscribe()
    }

    /// Why messages wait although there is a connection; `None` while they do not.
    pub fn stall(&self) -> watch::Receiver<Option<Stall>> {
        self.stall.subscribe()
    }

    /// The node of the connection: host and port; `None` while there is no connection.
    pub fn node(&self) -> Option<String> {
        self.node.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_node(&self, node: Option<&str>) {
        *self.node.lock().unwrap_or_else(PoisonError::into_inner) = node.map(ToOwned::to_owned);
    }

    /// Whether there is a connection and the broker takes messages.
    pub fn is_connected(&self) -> bool {
        *self.state.borrow() == BrokerState::Connected
    }

    /// What delivery waits for, in words; `None` while it does not wait.
    pub fn waiting_for(&self) -> Option<String> {
        let state = self.state.borrow();
        match &*state {
            BrokerState::Connected => self.stall.borrow().as_ref().map(ToString::to_string),
            _ => Some(state.to_string()),
        }
    }

    /// The number of connections that were opened.
    pub fn connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }

    /// The number of delivered messages: confirmed and not returned.
    pub fn delivered(&self) -> u64 {
        self.delivered.load(Ordering::Relaxed)
    }

    /// The number of messages that were dropped, as `UNROUTABLE` says, because no queue was bound for them.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// How often a message was returned because no queue was bound for it.
    pub fn returned(&self) -> u64 {
        self.returned.load(Ordering::Relaxed)
    }

    /// How often a message was rejected by a queue.
    pub fn rejected(&self) -> u64 {
        self.rejected.load(Ordering::Relaxed)
    }

    /// How often a message was published again.
    pub fn redelivered(&self) -> u64 {
        self.redelivered.load(Ordering::Relaxed)
    }

    /// The number of messages that were given up because the broker refused them for their size or format.
    pub fn refused_messages(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    pub(super) fn connected(&self, node: &str) {
        self.set_node(Some(node));
        self.connections.fetch_add(1, Ordering::Relaxed);
        self.state.send_replace(BrokerState::Connected);
    }

    pub(super) fn blocked(&self, reason: String) {
        self.state.send_replace(BrokerState::Blocked { since: Instant::now(), reason });
    }

    pub(super) fn unblocked(&self) {
        self.state.send_replace(BrokerState::Connected);
    }

    /// The connection was lost. No attempt has failed yet.
    pub(super) fn lost(&self, error: String) {
        self.connecting(error, 0);
    }

    /// An attempt to connect failed, with every node.
    pub(super) fn failed(&self, error: String) {
        self.connecting(error, 1);
    }

    fn connecting(&self, error: String, failed: u32) {
        self.set_node(None);
        self.state.send_modify(|state| {
            let (since, attempts) = match state {
                BrokerState::Connecting { since, attempts, .. } => (*since, *attempts),
                BrokerState::Refused { since, .. } => (*since, 0),
                BrokerState::Connected | BrokerState::Blocked { .. } => (Instant::now(), 0),
            };
            let attempts = attempts.saturating_add(failed);
            *state = BrokerState::Connecting { since, attempts, last_error: Some(error) };
        });
    }

    pub(super) fn refused(&self, reason: String) {
        self.set_node(None);
        self.state.send_modify(|state| {
            let since = match state {
                BrokerState::Refused { since, .. } => *since,
                _ => Instant::now(),
            };
            *state = BrokerState::Refused { since, reason };
        });
    }

    /// Sets why messages wait. The start time of a stall that continues is kept.
    pub(super) fn set_stall(&self, stall: Option<Stall>) {
        self.stall.send_if_modified(|current| {
            let changed = match (&*current, &stall) {
                (
                    Some(Stall::Unroutable { routing_key: old, .. }),
                    Some(Stall::Unroutable { routing_key: new, .. }),
                ) => old != new,
                (Some(Stall::Rejected { .. }), Some(Stall::Rejected { .. })) | (None, None) => false,
                _ => true,
            };
            if changed {
                *current = stall;
            }
            changed
        });
    }

    pub(super) fn count_delivered(&self, messages: usize) {
        self.delivered.fetch_add(messages as u64, Ordering::Relaxed);
    }

    pub(super) fn count_dropped(&self, messages: usize) {
        self.dropped.fetch_add(messages as u64, Ordering::Relaxed);
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

/// What delivery waits for in this state.
impl fmt::Display for BrokerState {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connecting { last_error: None, .. } => formatter.write_str("a connection to RabbitMQ"),
            Self::Connecting { last_error: Some(error), .. } => write!(formatter, "a connection to RabbitMQ ({error})"),
            Self::Connected => formatter.write_str("nothing"),
            Self::Blocked { reason, .. } => write!(formatter, "RabbitMQ to take messages again ({reason})"),
            Self::Refused { reason, .. } => write!(formatter, "a change of the configuration ({reason})"),
        }
    }
}

/// What delivery waits for.
impl fmt::Display for Stall {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unroutable { routing_key, .. } => write!(formatter, "a queue bound for {routing_key}"),
            Self::Rejected { .. } => formatter.write_str("a queue that is full or has no leader"),
        }
    }
}
