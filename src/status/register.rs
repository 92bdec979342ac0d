//! The register of conditions, with their start times.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::conditions::{Condition, ConditionKind};

/// How often a lasting condition is logged.
const LOGGED_AGAIN: Duration = Duration::from_hours(1);

/// A condition that is in effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Active {
    /// The condition, with its latest figures.
    pub condition: Condition,
    /// Since when it is in effect, in seconds since the epoch.
    pub since: i64,
}

/// The register. A condition is logged when it begins, every hour while it lasts, and when it ends.
#[derive(Debug, Default)]
pub struct Conditions(Mutex<Register>);

impl Conditions {
    /// Sets a condition: a new one, or new figures of one that is in effect.
    pub fn set(&self, condition: &Condition) {
        let now = Instant::now();
        let since = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let since = i64::try_from(since).unwrap_or(i64::MAX);
        if self.register().set(condition.clone(), now, since) == Begin::Logged {
            condition.log(Duration::ZERO);
        }
    }

    /// Sets the condition of this kind, or ends it if there is none.
    pub fn set_or_clear(&self, kind: ConditionKind, condition: Option<Condition>) {
        match condition {
            Some(condition) => self.set(&condition),
            None => self.clear(kind),
        }
    }

    /// Ends the condition of this kind, if it is in effect.
    pub fn clear(&self, kind: ConditionKind) {
        let ended = self.register().clear(kind);
        if let Some(entry) = ended.filter(|entry| entry.is_logged) {
            entry.active.condition.log_end(entry.begun.elapsed());
        }
    }

    /// Removes the condition of this kind without logging its end, because another condition has taken its place.
    pub fn supersede(&self, kind: ConditionKind) {
        self.register().clear(kind);
    }

    /// Logs the conditions that have not been logged for an hour. Call this regularly.
    pub fn remind(&self) {
        let now = Instant::now();
        let due = self.register().due(now);
        for (condition, lasted) in due {
            condition.log(lasted);
        }
    }

    /// All conditions in effect, in the order in which they began.
    pub fn list(&self) -> Vec<Active> {
        self.register().entries.iter().map(|entry| entry.active.clone()).collect()
    }

    /// Whether a condition of this kind is in effect.
    pub fn is_active(&self, kind: ConditionKind) -> bool {
        self.register().entries.iter().any(|entry| entry.active.condition.kind() == kind)
    }

    fn register(&self) -> MutexGuard<'_, Register> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The register without lock and clocks.
#[derive(Debug, Default)]
struct Register {
    entries: Vec<Entry>,
    /// When the begin of a condition with a quiet time was last logged.
    begins: Vec<(ConditionKind, Instant)>,
}

#[derive(Debug)]
struct Entry {
    active: Active,
    begun: Instant,
    /// When it was last logged, or would have been.
    logged: Instant,
    /// Whether its begin was logged, so its end is logged too.
    is_logged: bool,
}

/// What [`Register::set`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Begin {
    /// The condition is new, and is to be logged.
    Logged,
    /// The condition is new, and is not logged.
    Quiet,
    /// The condition was in effect.
    Known,
}

impl Register {
    /// Adds or replaces a condition.
    fn set(&mut self, condition: Condition, now: Instant, since: i64) -> Begin {
        let kind = condition.kind();
        if let Some(entry) = self.entries.iter_mut().find(|entry| entry.active.condition.kind() == kind) {
            entry.active.condition = condition;
            return Begin::Known;
        }
        let is_logged = !kind.is_logged_where_found() && !self.was_logged_lately(kind, now);
        if is_logged && kind.quiet_time() > Duration::ZERO {
            self.begins.retain(|(known, _)| *known != kind);
            self.begins.push((kind, now));
        }
        self.entries.push(Entry { active: Active { condition, since }, begun: now, logged: now, is_logged });
        if is_logged { Begin::Logged } else { Begin::Quiet }
    }

    fn was_logged_lately(&self, kind: ConditionKind, now: Instant) -> bool {
        self.begins.iter().any(|(known, begun)| *known == kind && now.duration_since(*begun) < kind.quiet_time())
    }

    fn clear(&mut self, kind: ConditionKind) -> Option<Entry> {
        let place = self.entries.iter().position(|entry| entry.active.condition.kind() == kind)?;
        Some(self.entries.remove(place))
    }

    /// The conditions that are due to be logged again, with their durations. They are marked as logged.
    fn due(&mut self, now: Instant) -> Vec<(Condition, Duration)> {
        let is_due = |entry: &&mut Entry| now.duration_since(entry.logged) >= LOGGED_AGAIN;
        let due = self.entries.iter_mut().filter(is_due).map(|entry| {
            (entry.logged, entry.is_logged) = (now, true);
            (entry.active.condition.clone(), now.duration_since(entry.begun))
        });
        due.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::HeldReason;

    fn held(reason: HeldReason, count: u64) -> Condition {
        Condition::DeletesHeld { reason, count, places: "a".to_owned() }
    }

    #[test]
    fn a_condition_begins_once_keeps_its_start_time_and_ends_once() {
        let mut register = Register::default();
        let begun = Instant::now();
        assert_eq!(register.set(held(HeldReason::MountGone, 2), begun, 100), Begin::Logged);
        assert_eq!(register.set(held(HeldReason::MountGone, 3), begun, 200), Begin::Known);
        assert_eq!(register.set(held(HeldReason::TooMany, 20), begun, 300), Begin::Logged);
        let listed: Vec<_> = register.entries.iter().map(|entry| entry.active.clone()).collect();
        let first = Active { condition: held(HeldReason::MountGone, 3), since: 100 };
        assert_eq!(listed, [first, Active { condition: held(HeldReason::TooMany, 20), since: 300 }]);
        let kind = ConditionKind::DeletesHeld(HeldReason::MountGone);
        assert!(register.clear(kind).is_some() && register.clear(kind).is_none());
        assert_eq!(register.set(held(HeldReason::MountGone, 1), begun, 400), Begin::Logged);
    }

    #[test]
    fn an_outbox_that_is_full_again_and_again_is_logged_once_a_minute() {
        let mut register = Register::default();
        let begun = Instant::now();
        let full = Condition::OutboxFull { max_events: 1 };
        let logged: Vec<u64> = (0..150)
            .filter(|second| {
                let is_logged = register.set(full.clone(), begun + Duration::from_secs(*second), 0) == Begin::Logged;
                assert_eq!(register.clear(ConditionKind::OutboxFull).unwrap().is_logged, is_logged);
                is_logged
            })
            .collect();
        assert_eq!(logged, [0, 60, 120]);
    }

    #[test]
    fn what_is_logged_where_it_is_found_is_only_logged_again() {
        let mut register = Register::default();
        let begun = Instant::now();
        let unreadable = Condition::Unreadable { paths: 1 };
        assert_eq!(register.set(unreadable.clone(), begun, 0), Begin::Quiet);
        let hour = Duration::from_hours(1);
        assert_eq!(register.due(begun + hour), [(unreadable, hour)]);
    }

    #[test]
    fn a_condition_that_lasts_is_due_again_every_hour() {
        let mut register = Register::default();
        let begun = Instant::now();
        register.set(held(HeldReason::RootEmpty, 2), begun, 0);
        assert_eq!(register.due(begun + Duration::from_mins(59)), []);
        for hours in 1..4 {
            let lasted = Duration::from_hours(hours);
            assert_eq!(register.due(begun + lasted), [(held(HeldReason::RootEmpty, 2), lasted)]);
            assert_eq!(register.due(begun + lasted + Duration::from_mins(59)), []);
        }
    }
}
