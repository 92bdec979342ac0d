//! Paths that could not be read. Each is reported once, and directories are walked again with growing waits.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime};

use super::{Engine, Now};
use crate::model::{LibraryPath, Token};

/// The first wait before an unreadable path is walked again.
const FIRST_RETRY: Duration = Duration::from_mins(5);

/// The most paths that are remembered, for walks and for looks. Further ones are reported each time.
const MAX_PATHS: usize = 10_000;

/// The paths that walks or looks could not read.
#[derive(Debug, Default)]
pub(super) struct Unreadable {
    walked: BTreeMap<LibraryPath, Failure>,
    /// Files whose last look failed, and why. They are in doubt until a look succeeds.
    looked_at: BTreeMap<LibraryPath, (Token, String)>,
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

impl Engine {
    /// A walk could not read `path`. It is walked again later, unless it is the root, which is walked anyway. Returns
    /// whether this is the first failure since the path could be read.
    pub fn walk_failed_at(&mut self, path: &LibraryPath, error: &str, now: Now) -> bool {
        let longest = self.longest_retry();
        let failures = &mut self.unreadable.walked;
        let mut is_new = true;
        let mut wait = FIRST_RETRY;
        if let Some(failure) = failures.get_mut(path) {
            is_new = false;
            error.clone_into(&mut failure.error);
            if now.instant >= failure.due {
                let longest = longest.unwrap_or_default().max(FIRST_RETRY);
                failure.wait = failure.wait.saturating_mul(2).min(longest);
                failure.due = now.instant + failure.wait;
            }
            wait = failure.due - now.instant;
        } else if failures.len() < MAX_PATHS {
            let (since, error, due) = (now.wall, error.to_owned(), now.instant + FIRST_RETRY);
            failures.insert(path.clone(), Failure { since, error, wait: FIRST_RETRY, due });
        }
        if longest.is_some() && !path.is_root() {
            self.mark(path.clone(), wait, now.instant);
        }
        is_new
    }

    /// A walk of `subtrees` is complete and could not read `unreadable`. Forgets and returns the paths under `subtrees`
    /// that can be read again or are gone.
    pub fn readable_again(&mut self, subtrees: &[LibraryPath], unreadable: &[&LibraryPath]) -> Vec<LibraryPath> {
        let is_readable = |path: &LibraryPath| {
            subtrees.iter().any(|subtree| path.is_at_or_under(subtree))
                && !unreadable.iter().any(|unreadable| path.is_at_or_under(unreadable))
        };
        self.unreadable.walked.extract_if(.., |path, _| is_readable(path)).map(|(path, _)| path).collect()
    }

    /// The paths that walks cannot read now, in order.
    #[must_use]
    pub fn unreadable(&self) -> Vec<UnreadableSince> {
        let since = |(path, failure): (&LibraryPath, &Failure)| UnreadableSince {
            path: path.clone(),
            since: failure.since,
            error: failure.error.clone(),
        };
        self.unreadable.walked.iter().map(since).collect()
    }

    /// How many paths walks cannot read now.
    #[must_use]
    pub fn unreadable_count(&self) -> usize {
        self.unreadable.walked.len()
    }

    /// How many files could not be read when they were last looked at.
    #[must_use]
    pub fn failed_count(&self) -> usize {
        self.unreadable.looked_at.len()
    }

    /// The files that could not be read when they were last looked at, in order, and why.
    #[must_use]
    pub fn failed_files(&self) -> Vec<(LibraryPath, String)> {
        self.unreadable.looked_at.iter().map(|(path, (_, error))| (path.clone(), error.clone())).collect()
    }

    /// A look at `path` failed. Returns whether this is the first failure since a look succeeded.
    pub fn look_failed(&mut self, path: &LibraryPath, error: &str) -> bool {
        let failures = &mut self.unreadable.looked_at;
        if let Some((_, known)) = failures.get_mut(path) {
            error.clone_into(known);
            return false;
        }
        // If there are too many to remember, everything is in doubt.
        let remembered = if failures.len() < MAX_PATHS { path.clone() } else { LibraryPath::root() };
        failures.entry(remembered).or_insert_with_key(|path| (self.trust.doubt(path), error.to_owned()));
        true
    }

    /// A look at `path` succeeded and is committed.
    pub fn looked_at(&mut self, path: &LibraryPath) {
        self.unreadable.looked_at.remove(path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Intervals;

    fn following() -> Engine {
        let mut engine = Engine::default();
        engine.follow(Intervals::default());
        engine
    }

    fn start() -> Now {
        Now { instant: Instant::now(), wall: SystemTime::UNIX_EPOCH }
    }

    #[test]
    fn a_path_is_reported_once_and_walked_again_with_waits_that_double_up_to_a_limit() {
        let mut engine = following();
        let mut now = start();
        let mut reported = 0;
        let mut waits = Vec::new();
        for _ in 0..7 {
            reported += u32::from(engine.walk_failed_at(&"a".into(), "EACCES", now));
            let due = engine.next_deadline().unwrap();
            waits.push((due - now.instant).as_secs() / 60);
            // Another walk in between changes nothing.
            now.instant += Duration::from_mins(1);
            engine.walk_failed_at(&"a".into(), "EIO", now);
            assert_eq!(engine.next_deadline(), Some(due));
            now.instant = due;
            assert_eq!(engine.take_marked().len(), 1);
        }
        assert_eq!((reported, waits), (1, vec![5, 10, 20, 40, 60, 60, 60]));
        assert_eq!(engine.unreadable()[0].error, "EIO");
        assert_eq!(engine.readable_again(&[LibraryPath::root()], &[]), ["a".into()]);
        assert!(engine.unreadable_count() == 0 && engine.walk_failed_at(&"a".into(), "EACCES", now));
    }

    #[test]
    fn a_single_scan_walks_no_path_again() {
        let mut engine = Engine::default();
        assert!(engine.walk_failed_at(&"a".into(), "EACCES", start()));
        assert_eq!(engine.next_deadline(), None);
    }

    #[test]
    fn only_a_walk_that_reached_a_path_says_that_it_can_be_read_again() {
        let mut engine = following();
        for path in ["a/b/c", "a/d", "e"] {
            engine.walk_failed_at(&path.into(), "EACCES", start());
        }
        assert!(engine.readable_again(&["f".into(), "a/b/x".into()], &[]).is_empty());
        let above: LibraryPath = "a/b".into();
        assert_eq!(engine.readable_again(&["a".into()], &[&above]), ["a/d".into()]);
        let paths: Vec<_> = engine.unreadable().into_iter().map(|since| since.path.to_string()).collect();
        assert_eq!(paths, ["a/b/c", "e"]);
    }

    #[test]
    fn a_file_is_in_doubt_from_a_failed_look_to_one_that_succeeds() {
        let mut engine = Engine::default();
        let path: LibraryPath = "a.mp3".into();
        assert!(engine.look_failed(&path, "EIO") && !engine.look_failed(&path, "EACCES"));
        assert_eq!(engine.failed_files(), [(path.clone(), "EACCES".to_owned())]);
        assert!(engine.trust().is_in_doubt(&path));
        engine.looked_at(&path);
        assert!(!engine.trust().is_in_doubt(&path) && engine.look_failed(&path, "EIO"));
    }
}
