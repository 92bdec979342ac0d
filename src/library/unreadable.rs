//! Paths that could not be read. Each is logged once and retried with growing waits.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use crate::model::LibraryPath;

/// The first wait before a path is retried.
const FIRST_RETRY: Duration = Duration::from_mins(5);

/// The most paths that are remembered. Further ones are logged each time.
const MAX_PATHS: usize = 10_000;

/// The register of paths that walks could not read. Clones share it.
#[derive(Clone, Debug)]
pub struct Unreadable {
    longest_retry: Duration,
    paths: Arc<Mutex<BTreeMap<LibraryPath, Failure>>>,
}

#[derive(Debug)]
struct Failure {
    since: SystemTime,
    error: String,
    wait: Duration,
    due: Instant,
}

/// A path that cannot be read, and since when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnreadableSince {
    /// The file or directory.
    pub path: LibraryPath,
    /// When a walk first failed to read it.
    pub since: SystemTime,
    /// The last error.
    pub error: String,
}

/// What to do after a failure to read a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry {
    /// Whether this is the first failure since the path could be read. Only that is logged as a warning.
    pub is_new: bool,
    /// How long to wait before the next try.
    pub wait: Duration,
}

impl Unreadable {
    /// A register whose waits grow up to `longest_retry`, or to five minutes if that is longer.
    #[must_use]
    pub fn new(longest_retry: Duration) -> Self {
        Self { longest_retry: longest_retry.max(FIRST_RETRY), paths: Arc::default() }
    }

    /// Notes that a walk could not read `path`.
    pub fn note_failure(&self, path: &LibraryPath, error: &str) -> Retry {
        let now = Instant::now();
        let mut paths = self.paths();
        if let Some(failure) = paths.get_mut(path) {
            error.clone_into(&mut failure.error);
            if now >= failure.due {
                failure.wait = failure.wait.saturating_mul(2).min(self.longest_retry);
                failure.due = now + failure.wait;
            }
            return Retry { is_new: false, wait: failure.due - now };
        }
        if paths.len() < MAX_PATHS {
            let (since, error) = (SystemTime::now(), error.to_owned());
            let failure = Failure { since, error, wait: FIRST_RETRY, due: now + FIRST_RETRY };
            paths.insert(path.clone(), failure);
        }
        Retry { is_new: true, wait: FIRST_RETRY }
    }

    /// Notes that a walk of `subtrees` is complete and could not read `unreadable`. Removes and returns the paths under
    /// `subtrees` that can be read again or are gone.
    pub fn note_walked(&self, subtrees: &[LibraryPath], unreadable: &[&LibraryPath]) -> Vec<LibraryPath> {
        let is_known = |path: &LibraryPath| {
            subtrees.iter().any(|subtree| path.is_at_or_under(subtree))
                && !unreadable.iter().any(|unreadable| path.is_at_or_under(unreadable))
        };
        self.paths().extract_if(.., |path, _| is_known(path)).map(|(path, _)| path).collect()
    }

    /// The paths that cannot be read now, in order.
    #[must_use]
    pub fn list(&self) -> Vec<UnreadableSince> {
        let since = |(path, failure): (&LibraryPath, &Failure)| UnreadableSince {
            path: path.clone(),
            since: failure.since,
            error: failure.error.clone(),
        };
        self.paths().iter().map(since).collect()
    }

    /// How many paths cannot be read now.
    #[must_use]
    pub fn len(&self) -> usize {
        self.paths().len()
    }

    /// Whether every path can be read.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn paths(&self) -> MutexGuard<'_, BTreeMap<LibraryPath, Failure>> {
        self.paths.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_path_is_reported_once_and_retried_with_waits_that_double_up_to_a_limit() {
        let unreadable = Unreadable::new(Duration::from_hours(1));
        let mut reported = 0;
        let mut waits = Vec::new();
        for _ in 0..7 {
            let Retry { is_new, wait } = unreadable.note_failure(&"a".into(), "EACCES");
            reported += u32::from(is_new);
            waits.push(wait.as_secs() / 60);
            // Another walk in between changes nothing.
            advance(Duration::from_mins(1)).await;
            let left = unreadable.note_failure(&"a".into(), "EIO").wait;
            assert_eq!(left + Duration::from_mins(1), wait);
            advance(left).await;
        }
        assert_eq!((reported, waits), (1, vec![5, 10, 20, 40, 60, 60, 60]));
        assert_eq!(unreadable.list()[0].error, "EIO");
        assert_eq!(unreadable.note_walked(&[LibraryPath::root()], &[]), ["a".into()]);
        assert!(unreadable.is_empty() && unreadable.note_failure(&"a".into(), "EACCES").is_new);
    }

    #[test]
    fn only_a_walk_that_reached_a_path_says_that_it_can_be_read_again() {
        let rt = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let _time = rt.enter();
        let unreadable = Unreadable::new(Duration::ZERO);
        for path in ["a/b/c", "a/d", "e"] {
            unreadable.note_failure(&path.into(), "EACCES");
        }
        assert!(unreadable.note_walked(&["f".into(), "a/b/x".into()], &[]).is_empty());
        let above: LibraryPath = "a/b".into();
        assert_eq!(unreadable.note_walked(&["a".into()], &[&above]), ["a/d".into()]);
        let paths: Vec<_> = unreadable.list().into_iter().map(|since| since.path.to_string()).collect();
        assert_eq!(paths, ["a/b/c", "e"]);
    }
}
