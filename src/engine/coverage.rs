//! How much of the library is watched, and when to watch or walk it again.

use std::time::{Duration, Instant};

use super::Engine;
use crate::model::{LibraryPath, Ties, Token};

/// How soon everything is walked after trouble: soon, and not at once for each of many.
const AFTER_TROUBLE: Duration = Duration::from_millis(500);

/// The longest wait before something that failed is tried again, such as watching a directory. The wait doubles up to
/// this.
const LONGEST_RETRY: Duration = Duration::from_hours(1);

/// How much of the library the watcher covers. What it does not cover is found by walking.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Coverage {
    /// Every directory is watched.
    #[default]
    Full,
    /// Some directories are not watched.
    Partial,
    /// Nothing is watched: the watcher could not be started, or it stopped.
    None,
    /// Nothing is watched, and nothing is to be.
    Polled,
}

/// What may go wrong with watching.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchTrouble {
    /// The kernel dropped events.
    Overflow,
    /// The kernel's limit of watches is reached: some directories are not watched.
    OutOfWatches,
    /// A directory that could not be watched because it could not be read may be readable now.
    MoreToWatch,
    /// The root was renamed, removed or unmounted. The watcher does not see what has its path now.
    RootGone,
    /// Something else, which may have left directories unwatched.
    Other(String),
}

/// How often to walk everything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Intervals {
    /// If some changes cause no events.
    pub poll: Duration,
    /// If every change causes an event; `None` for never.
    pub rescan: Option<Duration>,
}

/// What changed since the last check.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Filesystems were mounted or unmounted in the library.
    pub mounts: bool,
    /// A server stopped answering, or answers again.
    pub servers: bool,
    /// Links lead elsewhere.
    pub links: bool,
}

/// What the supervisor knows of the watch.
#[derive(Debug, Default)]
pub(super) struct Watch {
    coverage: Coverage,
    /// `None` for a single scan.
    intervals: Option<Intervals>,
    /// A restart of the watcher would cover more.
    wants_restart: bool,
    is_root_gone: bool,
    restarted: Option<Instant>,
    walked: Option<Instant>,
    /// How long to wait before directories that are not watched are tried again.
    retry: Duration,
    /// While not every change causes an event.
    unwatched: Option<Token>,
    /// While some mounts are silent, everything is in doubt.
    silent: Option<Token>,
}

impl Engine {
    /// The library is to be followed: it is watched, everything is walked at these intervals, and what failed is tried
    /// again. Without this call the engine serves a single scan.
    pub fn follow(&mut self, intervals: Intervals) {
        self.watch.intervals = Some(intervals);
        self.watch.retry = intervals.poll;
    }

    /// Whether the library is followed.
    pub(super) fn is_following(&self) -> bool {
        self.watch.intervals.is_some()
    }

    /// The longest wait before something that failed is tried again, if that is done at all.
    pub(super) fn longest_retry(&self) -> Option<Duration> {
        self.watch.intervals.map(|intervals| intervals.rescan.unwrap_or(LONGEST_RETRY))
    }

    /// How much of the library is watched.
    #[must_use]
    pub fn coverage(&self) -> Coverage {
        self.watch.coverage
    }

    /// Whether the root that is watched went away.
    #[must_use]
    pub fn is_watched_root_gone(&self) -> bool {
        self.watch.is_root_gone
    }

    /// The watcher is about to be started: it forgets what it said before.
    pub fn watch_starts(&mut self) {
        self.watch.coverage = Coverage::Full;
        self.watch.wants_restart = false;
        self.watch.is_root_gone = false;
    }

    /// The watcher was started as far as possible. Everything is walked, because nobody saw what happened before.
    /// `ties` are those of the unwatched time, from before the start.
    pub fn watch_started(&mut self, coverage: Coverage, ties: Ties, now: Instant) {
        if self.watch.coverage == Coverage::Full {
            self.watch.coverage = coverage;
        }
        self.watch.restarted = Some(now);
        self.watch.walked = Some(now);
        self.leave_deletes_to_walks(self.watch.coverage != Coverage::Full);
        self.mark_tied(LibraryPath::root(), Duration::ZERO, ties, now);
    }

    /// Something went wrong with watching: everything is walked. Returns whether that is news.
    pub fn watch_trouble(&mut self, trouble: &WatchTrouble, now: Instant) -> bool {
        // One directory of thousands says what all of them would.
        let was_full = self.watch.coverage == Coverage::Full;
        let root = LibraryPath::root();
        let is_news = match trouble {
            // The watcher may not know of a directory that was created or renamed, so it starts again.
            WatchTrouble::Overflow => {
                self.watch.wants_restart = true;
                let ties = self.ties_of_unwatched_time();
                // Any lost event may have replaced a directory.
                self.mark_replaced(root.clone(), AFTER_TROUBLE, ties, now);
                true
            }
            WatchTrouble::RootGone => !std::mem::replace(&mut self.watch.is_root_gone, true),
            WatchTrouble::MoreToWatch => !std::mem::replace(&mut self.watch.wants_restart, true),
            WatchTrouble::OutOfWatches | WatchTrouble::Other(_) => {
                self.watch.coverage = Coverage::Partial;
                was_full
            }
        };
        self.mark(root, AFTER_TROUBLE, now);
        is_news
    }

    /// Whether the watcher is to be started again.
    pub fn is_restart_due(&mut self, changes: Changes, now: Instant) -> bool {
        let Watch { coverage, intervals, wants_restart, restarted, retry, .. } = &mut self.watch;
        let poll = intervals.unwrap_or_default().poll;
        if *coverage == Coverage::Full {
            *retry = poll;
        }
        let is_partly = matches!(coverage, Coverage::Partial | Coverage::None);
        let is_retry = is_partly && has_passed(*restarted, *retry, now);
        // Links that changed may lead to other mounts, which are watched and walked already.
        let is_mounted_anew = changes.mounts && !changes.links;
        let is_due = is_retry || *wants_restart || is_mounted_anew || changes.servers;
        if is_due {
            // A watcher that could not be started costs nothing to try. Watching most of a library again does.
            *retry = if *coverage == Coverage::Partial { (*retry * 2).min(LONGEST_RETRY) } else { poll };
        }
        is_due
    }

    /// Asks for a walk of everything if it is due: because links lead elsewhere, or because the interval is over.
    /// `has_silent_mounts` if some mounted filesystem causes no events for changes that are made elsewhere.
    pub fn walk_if_due(&mut self, changes: Changes, has_silent_mounts: bool, now: Instant) {
        let has_all_events = self.watch.coverage == Coverage::Full && !has_silent_mounts;
        self.leave_deletes_to_walks(!has_all_events);
        self.watch.silent = match (has_silent_mounts, self.watch.silent.take()) {
            (true, None) => Some(self.trust.doubt(&LibraryPath::root())),
            (true, known) => known,
            (false, _) => None,
        };
        let Intervals { poll, rescan } = self.watch.intervals.unwrap_or_default();
        let interval = if has_all_events { rescan } else { Some(poll) };
        let is_due = interval.is_some_and(|interval| has_passed(self.watch.walked, interval, now));
        if is_due {
            self.watch.walked = Some(now);
        }
        if is_due || changes.links {
            self.mark(LibraryPath::root(), Duration::ZERO, now);
        }
    }

    /// Whether only walks may find deletes, because a rename may cause no event for the new name.
    fn leave_deletes_to_walks(&mut self, is_left: bool) {
        self.watch.unwatched = match (is_left, self.watch.unwatched.take()) {
            (true, None) => Some(self.trust.leave_unwatched(&LibraryPath::root())),
            (true, known) => known,
            (false, _) => None,
        };
    }
}

/// Whether `wait` has passed since `last`; not if there was no last time.
fn has_passed(last: Option<Instant>, wait: Duration, now: Instant) -> bool {
    last.is_some_and(|last| now.saturating_duration_since(last) >= wait)
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLL: Duration = Duration::from_secs(10);

    fn watching(rescan: Option<Duration>, now: Instant) -> Engine {
        let mut engine = Engine::default();
        engine.follow(Intervals { poll: POLL, rescan });
        engine.watch_starts();
        engine.watch_started(Coverage::Full, Ties::default(), now);
        engine.take_marked();
        engine
    }

    fn is_walk_asked_for(engine: &mut Engine, has_silent_mounts: bool, now: Instant) -> bool {
        engine.walk_if_due(Changes::default(), has_silent_mounts, now);
        !engine.take_marked().is_empty()
    }

    #[test]
    fn what_is_not_watched_is_walked_at_the_shorter_interval_and_may_not_be_deleted_otherwise() {
        let now = Instant::now();
        let mut engine = watching(Some(POLL * 10), now);
        let path: LibraryPath = "a.mp3".into();
        assert!(!is_walk_asked_for(&mut engine, false, now + POLL));
        assert!(is_walk_asked_for(&mut engine, false, now + POLL * 10));
        assert!(is_walk_asked_for(&mut engine, true, now + POLL * 11));
        assert!(engine.trust().is_unwatched(&path) && engine.trust().is_under_doubt(&path));
        assert!(!is_walk_asked_for(&mut engine, false, now + POLL * 12));
        assert!(!engine.trust().is_unwatched(&path) && !engine.trust().is_under_doubt(&path));
        assert!(engine.watch_trouble(&WatchTrouble::OutOfWatches, now));
        assert!(!engine.watch_trouble(&WatchTrouble::OutOfWatches, now), "it is news once");
        assert!(!engine.take_marked().is_empty());
        assert!(is_walk_asked_for(&mut engine, false, now + POLL * 13));
        assert!(engine.trust().is_unwatched(&path));
    }

    #[test]
    fn without_an_interval_nothing_is_walked_unless_links_change() {
        let now = Instant::now();
        let mut engine = watching(None, now);
        assert!(!is_walk_asked_for(&mut engine, false, now + POLL * 1000));
        engine.walk_if_due(Changes { links: true, ..Changes::default() }, false, now);
        assert!(!engine.take_marked().is_empty());
    }

    #[test]
    fn a_partial_watch_is_tried_again_with_waits_that_double() {
        let mut now = Instant::now();
        let mut engine = watching(None, now);
        assert!(!engine.is_restart_due(Changes::default(), now + POLL * 1000));
        for wait in [1, 2, 4] {
            engine.watch_trouble(&WatchTrouble::OutOfWatches, now);
            assert!(!engine.is_restart_due(Changes::default(), now + POLL * wait / 2));
            now += POLL * wait;
            assert!(engine.is_restart_due(Changes::default(), now));
            engine.watch_starts();
            engine.watch_started(Coverage::Partial, Ties::default(), now);
        }
    }

    #[test]
    fn events_that_were_lost_and_new_mounts_start_the_watch_again() {
        let now = Instant::now();
        let mut engine = watching(None, now);
        assert!(engine.watch_trouble(&WatchTrouble::Overflow, now));
        assert!(engine.is_restart_due(Changes::default(), now));
        assert!(engine.trust().is_replaced(&"a.mp3".into()));
        engine.watch_starts();
        assert!(!engine.is_restart_due(Changes::default(), now));
        assert!(engine.is_restart_due(Changes { mounts: true, ..Changes::default() }, now));
        assert!(!engine.is_restart_due(Changes { mounts: true, links: true, ..Changes::default() }, now));
        assert!(engine.is_restart_due(Changes { servers: true, ..Changes::default() }, now));
    }
}
