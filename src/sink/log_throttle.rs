//! Limits how often a lasting problem is logged.

use std::time::{Duration, Instant};

/// The time between two log lines about the same problem.
const INTERVAL: Duration = Duration::from_mins(1);

/// Logs a problem when it begins, and then once a minute while it lasts.
#[derive(Debug, Default)]
pub(super) struct LogThrottle {
    current: Option<Problem>,
}

#[derive(Debug)]
struct Problem {
    since: Instant,
    logged: Instant,
}

impl LogThrottle {
    /// Notes that the problem exists at `now`. Returns how long it has lasted if it is due to be logged.
    pub(super) fn should_log(&mut self, now: Instant) -> Option<Duration> {
        match &mut self.current {
            None => {
                self.current = Some(Problem { since: now, logged: now });
                Some(Duration::ZERO)
            }
            Some(problem) if now.duration_since(problem.logged) >= INTERVAL => {
                problem.logged = now;
                Some(now.duration_since(problem.since))
            }
            Some(_) => None,
        }
    }

    /// Notes that the problem does not exist at `now`. Returns how long it lasted if there was one.
    pub(super) fn ended(&mut self, now: Instant) -> Option<Duration> {
        self.current.take().map(|problem| now.duration_since(problem.since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_is_logged_at_once_and_then_once_a_minute() {
        let start = Instant::now();
        let mut throttle = LogThrottle::default();
        assert_eq!(throttle.ended(start), None);
        let logged: Vec<_> = (0..=130)
            .filter_map(|second| throttle.should_log(start + Duration::from_secs(second)))
            .map(|lasted| lasted.as_secs())
            .collect();
        assert_eq!(logged, [0, 60, 120]);
        assert_eq!(throttle.ended(start + Duration::from_secs(131)), Some(Duration::from_secs(131)));
        assert_eq!(throttle.should_log(start + Duration::from_secs(132)), Some(Duration::ZERO));
    }
}
