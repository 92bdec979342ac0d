//! Figures of the last hour, one of each for every minute.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The number of minutes.
const MINUTES: usize = 60;

/// The most latencies of one minute that are kept. Later ones of the same minute are left out.
const MAX_LATENCIES: usize = 10_000;

/// How often [`History::sample`] is to be called.
pub const STEP: Duration = Duration::from_mins(1);

/// The figures of the last hour. `null` stands for a minute in which the service did not run, or without a latency.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HistoryReport {
    /// The length of a step in seconds.
    pub step_seconds: u64,
    /// Files that were hashed, oldest step first.
    pub files: Vec<Option<u64>>,
    /// Bytes that were hashed.
    pub bytes: Vec<Option<u64>>,
    /// The median time from an event to its confirm, in milliseconds.
    pub latency_p50_ms: Vec<Option<f64>>,
    /// The 99th percentile of that time.
    pub latency_p99_ms: Vec<Option<f64>>,
    /// Messages in the outbox at the end of the step.
    pub outbox: Vec<Option<u64>>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Minute {
    files: u64,
    bytes: u64,
    p50: Option<Duration>,
    p99: Option<Duration>,
    outbox: u64,
}

/// Collects the figures.
#[derive(Debug, Default)]
pub struct History(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    minutes: VecDeque<Minute>,
    /// Of the current minute.
    latencies: Vec<Duration>,
    files_before: u64,
    bytes_before: u64,
}

impl History {
    /// A message was confirmed this long after its event.
    pub fn add_latency(&self, took: Duration) {
        let mut state = self.state();
        if state.latencies.len() < MAX_LATENCIES {
            state.latencies.push(took);
        }
    }

    /// A minute is over. `files` and `bytes` were hashed since the start, and `outbox` messages wait.
    pub fn sample(&self, files: u64, bytes: u64, outbox: u64) {
        let mut state = self.state();
        let mut latencies = std::mem::take(&mut state.latencies);
        latencies.sort_unstable();
        let minute = Minute {
            files: files.saturating_sub(std::mem::replace(&mut state.files_before, files)),
            bytes: bytes.saturating_sub(std::mem::replace(&mut state.bytes_before, bytes)),
            p50: percentile(&latencies, 50),
            p99: percentile(&latencies, 99),
            outbox,
        };
        if state.minutes.len() == MINUTES {
            state.minutes.pop_front();
        }
        state.minutes.push_back(minute);
    }

    /// The figures of the last hour.
    pub fn report(&self) -> HistoryReport {
        let state = self.state();
        let missing = std::iter::repeat_n(None, MINUTES - state.minutes.len());
        let minutes: Vec<Option<Minute>> = missing.chain(state.minutes.iter().copied().map(Some)).collect();
        let whole = |figure: fn(&Minute) -> u64| minutes.iter().map(|minute| minute.as_ref().map(figure)).collect();
        let latency = |figure: fn(&Minute) -> Option<Duration>| {
            minutes.iter().map(|minute| Some(figure(minute.as_ref()?)?.as_secs_f64() * 1000.0)).collect()
        };
        HistoryReport {
            step_seconds: STEP.as_secs(),
            files: whole(|minute| minute.files),
            bytes: whole(|minute| minute.bytes),
            latency_p50_ms: latency(|minute| minute.p50),
            latency_p99_ms: latency(|minute| minute.p99),
            outbox: whole(|minute| minute.outbox),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A percentile of sorted values by the nearest rank.
fn percentile(sorted: &[Duration], percent: usize) -> Option<Duration> {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted.get(rank.checked_sub(1)?).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minute_has_what_was_added_in_it_and_an_hour_is_kept() {
        let history = History::default();
        for millis in (1..=100).rev() {
            history.add_latency(Duration::from_millis(millis));
        }
        history.sample(10, 1000, 3);
        history.sample(15, 1200, 0);
        let report = history.report();
        assert_eq!((report.files.len(), report.files[57], &report.files[58..]), (60, None, &[Some(10), Some(5)][..]));
        assert_eq!(report.bytes[58..], [Some(1000), Some(200)]);
        assert_eq!((&report.latency_p50_ms[58..], report.latency_p99_ms[58]), (&[Some(50.0), None][..], Some(99.0)));
        assert_eq!(report.outbox[58..], [Some(3), Some(0)]);
        for minute in 0..60 {
            history.sample(15 + minute, 0, 0);
        }
        let report = history.report();
        assert_eq!((report.files.len(), report.files[0], report.files[59]), (60, Some(0), Some(1)));
    }
}
