//! Paths that could not be read: each is logged once, and retried with growing waits.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use crate::model::LibraryPath;

/// The first wait before a path is tried again.
const FIRST_RETRY: Duration = Duration::from_mins(5);

/// Paths that are remembered. Further ones are logged each time.
const MOST_PATHS: usize = 10_000;

/// The register of paths that walks could not read. Clones share it.
#[derive(Clone, Debug)]
pub struct Unreadable {
    longest_retry: Duration,
    paths: Arc<Mutex<BTreeMap<LibraryPath, Trouble>>>,
}

#[derive(Debug)]
struct Trouble {
    since: SystemTime,
    error: String,
    wait: Duration,
    due: Instant,
}

/// A path that cannot be read since a point in time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnreadableSince {
    /// The file or directory.
    pub path: LibraryPath,
    /// When a walk first failed to read it.
    pub since: SystemTime,
    /// Why, as the kernel said it last.
    pub error: String,
}

/// What follows from a failure to read a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry {
    /// Whether it could be read until now, and so is to be logged.
    pub is_news: bool,
    /// When to try again.
    pub wait: Duration,
}

impl Unreadable {
    /// A register whose waits grow up to `longest_retry`.
    pub fn new(longest_retry: Duration) -> Self {
        Self { longest_retry: longest_retry.max(FIRST_RETRY), paths: Arc::default() }
    }

    /// A walk could not read `path`.
    pub fn failed(&self, path: &LibraryPath, error: &str) -> Retry {
        let now = Instant::now();
        let mut paths = self.paths();
        if let Some(trouble) = paths.get_mut(path) {
            error.clone_into(&mut trouble.error);
            if now >= trouble.due {
                trouble.wait = trouble.wait.saturating_mul(2).min(self.longest_retry);
                trouble.due = now + trouble.wait;
            }
            return Retry { is_news: false, wait: trouble.due - now };
        }
        if paths.len() < MOST_PATHS {
            let (since, error) = (SystemTime::now(), error.to_owned());
            let trouble = Trouble { since, error, wait: FIRST_RETRY, due: now + FIRST_RETRY };
            paths.insert(path.clone(), trouble);
        }
        Retry { is_news: true, wait: FIRST_RETRY }
    }

    /// A walk of `subtrees` came to its end and could not read `unreadable`. Returns the paths that can be
    /// read again, or are gone; they are forgotten.
    pub fn walked(&self, subtrees: &[LibraryPath], unreadable: &[&LibraryPath]) -> Vec<LibraryPath> {
        let is_known = |path: &LibraryPath| {
            subtrees.iter().any(|subtree| path.is_at_or_under(subtree))
                && !unreadable.iter().any(|unreadable| path.is_at_or_under(unreadable))
        };
        self.paths().extract_if(.., |path, _| is_known(path)).map(|(path, _)| path).collect()
    }

    /// The paths that cannot be read now, in order.
    pub fn now(&self) -> Vec<UnreadableSince> {
        let since = |(path, trouble): (&LibraryPath, &Trouble)| UnreadableSince {
            path: path.clone(),
            since: trouble.since,
            error: trouble.error.clone(),
        };
        self.paths().iter().map(since).collect()
    }

    /// How many paths cannot be read now.
    pub fn len(&self) -> usize {
        self.paths().len()
    }

    /// Whether every path can be read.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn paths(&self) -> MutexGuard<'_, BTreeMap<LibraryPath, Trouble>> {
        self.paths.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_path_is_news_once_and_retried_with_waits_that_double_up_to_a_limit() {
        let unreadable = Unreadable::new(Duration::from_hours(1));
        let mut news = 0;
        let mut waits = Vec::new();
        for _ in 0..7 {
            let Retry { is_news, wait } = unreadable.failed(&"a".into(), "EACCES");
            news += u32::from(is_news);
            waits.push(wait.as_secs() / 60);
            // Another walk in between changes nothing.
            advance(Duration::from_mins(1)).await;
            let left = unreadable.failed(&"a".into(), "EIO").wait;
            assert_eq!(left + Duration::from_mins(1), wait);
            advance(left).await;
        }
        assert_eq!((news, waits), (1, vec![5, 10, 20, 40, 60, 60, 60]));
        assert_eq!(unreadable.now()[0].error, "EIO");
        assert_eq!(unreadable.walked(&[LibraryPath::root()], &[]), ["a".into()]);
        assert!(unreadable.is_empty() && unreadable.failed(&"a".into(), "EACCES").is_news);
    }

    #[test]
    fn only_a_walk_that_came_by_says_that_a_path_can_be_read_again() {
        let rt = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let _time = rt.enter();
        let unreadable = Unreadable::new(Duration::ZERO);
        for path in ["a/b/c", "a/d", "e"] {
            unreadable.failed(&path.into(), "EACCES");
        }
        assert!(unreadable.walked(&["f".into(), "a/b/x".into()], &[]).is_empty());
        let above: LibraryPath = "a/b".into();
        assert_eq!(unreadable.walked(&["a".into()], &[&above]), ["a/d".into()]);
        let paths: Vec<_> = unreadable.now().into_iter().map(|since| since.path.to_string()).collect();
        assert_eq!(paths, ["a/b/c", "e"]);
    }
}
