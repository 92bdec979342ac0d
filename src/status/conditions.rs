//! The register of conditions: the states that an operator should know, with their start times.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::model::HeldReason;

/// How often a lasting condition is logged.
const LOGGED_AGAIN: Duration = Duration::from_hours(1);

/// A state that an operator should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Deletes are held until the files are back or the operator approves.
    DeletesHeld {
        /// The reason.
        reason: HeldReason,
        /// The number of deletes.
        count: u64,
        /// The places, in words.
        places: String,
    },
    /// The library root cannot be found.
    RootGone {
        /// Why.
        error: String,
    },
    /// Some directories are not watched.
    PartlyWatched {
        /// Why.
        reason: String,
        /// How often everything is walked meanwhile, in seconds.
        poll_s: u64,
    },
    /// Nothing is watched.
    NotWatched {
        /// Why.
        reason: String,
        /// How often everything is walked meanwhile, in seconds.
        poll_s: u64,
    },
    /// Some filesystems cause no events.
    Polled {
        /// Their types, and where they are mounted.
        filesystems: String,
        /// How often everything is walked, in seconds.
        poll_s: u64,
    },
}

/// The kind of a condition, without its figures. The register has at most one condition of each kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConditionKind {
    /// [`Condition::DeletesHeld`] for this reason.
    DeletesHeld(HeldReason),
    /// [`Condition::RootGone`].
    RootGone,
    /// [`Condition::PartlyWatched`].
    PartlyWatched,
    /// [`Condition::NotWatched`].
    NotWatched,
    /// [`Condition::Polled`].
    Polled,
}

impl Condition {
    /// The kind of the condition.
    pub fn kind(&self) -> ConditionKind {
        match self {
            Self::DeletesHeld { reason, .. } => ConditionKind::DeletesHeld(*reason),
            Self::RootGone { .. } => ConditionKind::RootGone,
            Self::PartlyWatched { .. } => ConditionKind::PartlyWatched,
            Self::NotWatched { .. } => ConditionKind::NotWatched,
            Self::Polled { .. } => ConditionKind::Polled,
        }
    }

    /// The condition and what to do about it, in one sentence.
    pub fn description(&self) -> String {
        match self {
            Self::DeletesHeld { reason, .. } => format!(
                "deletes are held: {}; they are published only if `file-watcher approve` confirms that the files are \
                 gone",
                reason.description()
            ),
            Self::RootGone { .. } => "the library root is gone; no deletes are published until it is back".to_owned(),
            Self::PartlyWatched { .. } => {
                "some directories are not watched; everything is walked at an interval".to_owned()
            }
            Self::NotWatched { .. } => "changes are found only by walking, until watching works".to_owned(),
            Self::Polled { .. } => "some filesystems cause no events; everything is walked at an interval".to_owned(),
        }
    }

    fn log(&self, lasted: Duration) {
        let lasted_s = lasted.as_secs();
        match self {
            Self::DeletesHeld { reason, count, places } => {
                tracing::warn!(reason = reason.as_str(), held = count, places, lasted_s, "{}", self.description());
            }
            Self::RootGone { error } => tracing::error!(error, lasted_s, "{}", self.description()),
            Self::PartlyWatched { reason, poll_s } | Self::NotWatched { reason, poll_s } => {
                tracing::error!(reason, every_s = poll_s, lasted_s, "{}", self.description());
            }
            Self::Polled { filesystems, poll_s } => {
                tracing::info!(filesystems, every_s = poll_s, lasted_s, "{}", self.description());
            }
        }
    }

    fn log_end(&self, lasted: Duration) {
        let lasted_s = lasted.as_secs();
        match self {
            Self::DeletesHeld { reason, .. } => {
                tracing::info!(reason = reason.as_str(), lasted_s, "no deletes are held for this reason any more");
            }
            Self::RootGone { .. } => tracing::info!(lasted_s, "the library root is back"),
            Self::PartlyWatched { .. } | Self::NotWatched { .. } => {
                tracing::info!(lasted_s, "everything is watched again");
            }
            Self::Polled { .. } => tracing::info!(lasted_s, "every filesystem causes events"),
        }
    }
}

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
        let is_new = self.register().set(condition.clone(), now, i64::try_from(since).unwrap_or(i64::MAX));
        if is_new {
            condition.log(Duration::ZERO);
        }
    }

    /// Ends the condition of this kind, if it is in effect.
    pub fn clear(&self, kind: ConditionKind) {
        let ended = self.register().clear(kind);
        if let Some(entry) = ended {
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
        self.register().0.iter().map(|entry| entry.active.clone()).collect()
    }

    fn register(&self) -> MutexGuard<'_, Register> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The register without lock and clocks.
#[derive(Debug, Default)]
struct Register(Vec<Entry>);

#[derive(Debug)]
struct Entry {
    active: Active,
    begun: Instant,
    logged: Instant,
}

impl Register {
    /// Adds or replaces a condition; returns whether it is new.
    fn set(&mut self, condition: Condition, now: Instant, since: i64) -> bool {
        if let Some(entry) = self.0.iter_mut().find(|entry| entry.active.condition.kind() == condition.kind()) {
            entry.active.condition = condition;
            return false;
        }
        self.0.push(Entry { active: Active { condition, since }, begun: now, logged: now });
        true
    }

    fn clear(&mut self, kind: ConditionKind) -> Option<Entry> {
        let place = self.0.iter().position(|entry| entry.active.condition.kind() == kind)?;
        Some(self.0.remove(place))
    }

    /// The conditions that are due to be logged again, with their durations. They are marked as logged.
    fn due(&mut self, now: Instant) -> Vec<(Condition, Duration)> {
        let is_due = |entry: &&mut Entry| now.duration_since(entry.logged) >= LOGGED_AGAIN;
        let due = self.0.iter_mut().filter(is_due).map(|entry| {
            entry.logged = now;
            (entry.active.condition.clone(), now.duration_since(entry.begun))
        });
        due.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(reason: HeldReason, count: u64) -> Condition {
        Condition::DeletesHeld { reason, count, places: "a".to_owned() }
    }

    #[test]
    fn a_condition_begins_once_keeps_its_start_time_and_ends_once() {
        let mut register = Register::default();
        let begun = Instant::now();
        assert!(register.set(held(HeldReason::MountGone, 2), begun, 100));
        assert!(!register.set(held(HeldReason::MountGone, 3), begun, 200));
        assert!(register.set(held(HeldReason::TooMany, 20), begun, 300));
        let listed: Vec<_> = register.0.iter().map(|entry| entry.active.clone()).collect();
        let first = Active { condition: held(HeldReason::MountGone, 3), since: 100 };
        assert_eq!(listed, [first, Active { condition: held(HeldReason::TooMany, 20), since: 300 }]);
        let kind = ConditionKind::DeletesHeld(HeldReason::MountGone);
        assert!(register.clear(kind).is_some() && register.clear(kind).is_none());
        assert!(register.set(held(HeldReason::MountGone, 1), begun, 400));
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
