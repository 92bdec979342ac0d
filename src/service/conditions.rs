//! Keeps the register of conditions up to date with what the engine, the store and the delivery know.

use std::convert::Infallible;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::Service;
use crate::config::Command;
use crate::engine::Engine;
use crate::model::{HeldReason, LibraryPath};
use crate::sink::{BrokerState, DeliveryStatus, Stall};
use crate::status::{Condition, ConditionKind, HeldList};

/// How often to check whether conditions are due to be logged again.
const REMIND: Duration = Duration::from_mins(1);

/// How often the engine is asked while nothing is looked at.
const ENGINE_CHECK: Duration = Duration::from_secs(5);

/// The number of places that a condition names.
const PLACES_NAMED: usize = 5;

/// What the engine knows about conditions. Another value means that some of them may have changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct EngineState {
    full_walks: u64,
    unreadable: usize,
    makes_up_for_lost_events: bool,
}

impl EngineState {
    fn of(engine: &mut Engine) -> Self {
        Self {
            full_walks: engine.full_walks(),
            unreadable: engine.unreadable_count() + engine.failed_count(),
            makes_up_for_lost_events: engine.trust().is_replaced(&LibraryPath::root()),
        }
    }
}

impl Service {
    /// Keeps the conditions up to date, and logs those that last. Never returns.
    pub(super) async fn keep_conditions(&self, delivery: Option<Arc<DeliveryStatus>>) -> Infallible {
        let mut parked = self.store.parked_length();
        let mut broker = delivery.as_ref().map(|status| status.state());
        let mut stall = delivery.as_ref().map(|status| status.stall());
        let mut scans = self.scanner.tally.finished();
        let mut committed = self.store.committed();
        loop {
            let known = self.inbox.engine().with(EngineState::of);
            if let Some(last) = scans.borrow_and_update().last
                && self.conditions.is_active(ConditionKind::FirstScan)
            {
                self.conditions.clear(ConditionKind::FirstScan);
                self.announce_first_scan(last.took);
                if let Err(error) = self.store.index_sounds().await {
                    tracing::warn!(%error, "retagged files are not recognised by their sound before the next start");
                }
            }
            committed.mark_unchanged();
            let is_empty = self.settings.command == Command::Watch && self.note_emptiness();
            self.note_engine();
            if !known.makes_up_for_lost_events {
                self.conditions.clear(ConditionKind::EventsLost);
            }
            let messages = *parked.borrow_and_update();
            self.conditions.set_or_clear(
                ConditionKind::MessagesParked,
                (messages > 0).then_some(Condition::MessagesParked { messages }),
            );
            if let (Some(broker), Some(stall)) = (&mut broker, &mut stall) {
                self.note_delivery(&broker.borrow_and_update(), stall.borrow_and_update().as_ref());
            }
            self.conditions.remind();
            tokio::select! {
                () = self.inbox.wait_until_checked(ENGINE_CHECK, |engine| EngineState::of(engine) != known) => {}
                () = changed(Some(&mut parked)) => {}
                () = changed(Some(&mut scans)) => {}
                () = changed(broker.as_mut()) => {}
                () = changed(stall.as_mut()) => {}
                // The first file ends the emptiness.
                () = changed(is_empty.then_some(&mut committed)) => {}
                () = tokio::time::sleep(REMIND) => {}
            }
        }
    }

    /// Updates the conditions that the engine knows about.
    pub(super) fn note_engine(&self) {
        let (held, unreadable) = self
            .inbox
            .engine()
            .with(|engine| (engine.held_deletes(), engine.unreadable_count() + engine.failed_count()));
        for reason in HeldReason::ALL {
            let of_reason: Vec<_> = held.iter().filter(|held| held.reason == reason).cloned().collect();
            let list = HeldList::new(&of_reason, self.root.path());
            let condition = (list.total > 0).then(|| {
                let places = places_of(&list);
                Condition::DeletesHeld { reason, count: list.total, places }
            });
            self.conditions.set_or_clear(ConditionKind::DeletesHeld(reason), condition);
        }
        let condition = (unreadable > 0).then_some(Condition::Unreadable { paths: unreadable });
        self.conditions.set_or_clear(ConditionKind::Unreadable, condition);
    }

    fn note_delivery(&self, broker: &BrokerState, stall: Option<&Stall>) {
        let (away, refused, blocked) = match broker {
            // The first attempt is under way.
            BrokerState::Connecting { last_error: None, .. } | BrokerState::Connected => (None, None, None),
            BrokerState::Connecting { last_error: Some(error), .. } => (Some(error.clone()), None, None),
            BrokerState::Refused { reason, .. } => (None, Some(reason.clone()), None),
            BrokerState::Blocked { reason, .. } => (None, None, Some(reason.clone())),
        };
        let conditions = &self.conditions;
        conditions.set_or_clear(ConditionKind::BrokerAway, away.map(|error| Condition::BrokerAway { error }));
        conditions
            .set_or_clear(ConditionKind::BrokerRefuses, refused.map(|reason| Condition::BrokerRefuses { reason }));
        conditions
            .set_or_clear(ConditionKind::BrokerBlocked, blocked.map(|reason| Condition::BrokerBlocked { reason }));
        let stalled = stall.map(|stall| Condition::DeliveryStalled { waiting_for: stall.to_string() });
        conditions.set_or_clear(ConditionKind::DeliveryStalled, stalled);
    }
}

fn places_of(list: &HeldList) -> String {
    let mut places = String::new();
    for line in list.held.iter().take(PLACES_NAMED) {
        let separator = if places.is_empty() { "" } else { ", " };
        let _ = write!(places, "{separator}{}", line.place.as_deref().unwrap_or(HeldList::ELSEWHERE));
        if let (Some(kind), Some(source)) = (&line.mount_type, &line.mount_source) {
            let _ = write!(places, " ({kind}, {source})");
        }
    }
    if list.held.len() > PLACES_NAMED {
        places.push_str(", ...");
    }
    places
}

/// Waits until the value changes, or forever if there is none or it has its last value.
async fn changed<T>(value: Option<&mut watch::Receiver<T>>) {
    let Some(value) = value else { return std::future::pending().await };
    if value.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}
