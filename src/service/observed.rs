//! What the process observed since its start, also under other settings than now.

use std::sync::atomic::AtomicU64;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use super::memory;
use crate::config::Settings;
use crate::metrics::Metrics;
use crate::status::{EventCounts, EventLog, History};

/// The most events that the page can list.
const MAX_EVENTS: usize = 100_000;

/// The same with little memory.
const FEW_EVENTS: usize = 1_000;

/// What people are shown about the past. It outlives the run of one set of settings.
#[derive(Debug)]
pub struct Observed {
    /// When the process was started.
    pub(super) started: SystemTime,
    /// Messages that were committed to the outbox, by event type.
    pub(super) events: EventCounts<AtomicU64>,
    /// How often the kernel lost events.
    pub(super) overflows: AtomicU64,
    /// What runs with other settings counted.
    pub(super) earlier: Mutex<Earlier>,
    pub(super) metrics: Metrics,
    pub(super) history: History,
    pub(super) event_log: EventLog,
}

/// The counts of parts that each run has of its own.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Earlier {
    pub(super) confirms: u64,
    pub(super) nacks: u64,
    pub(super) returns: u64,
    pub(super) dropped: u64,
    pub(super) redeliveries: u64,
    pub(super) connections: u64,
    pub(super) scans: u64,
}

impl Observed {
    /// Nothing so far. `settings` are those at the start.
    #[must_use]
    pub fn new(settings: &Settings) -> Self {
        Self {
            started: SystemTime::now(),
            events: EventCounts::default(),
            overflows: AtomicU64::new(0),
            earlier: Mutex::default(),
            metrics: Metrics::new(),
            history: History::default(),
            event_log: EventLog::new(if memory::is_little(settings) { FEW_EVENTS } else { MAX_EVENTS }),
        }
    }

    /// Records how long a message took from the event of the kernel to the confirm of the broker.
    pub(super) fn observe_latency(&self, took: Duration) {
        self.metrics.observe_latency(took);
        self.history.add_latency(took);
    }

    pub(super) fn earlier(&self) -> Earlier {
        *self.earlier.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
