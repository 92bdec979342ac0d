//! A slow, endless walk of the whole library, for changes that cause no event.
//!
//! `truncate(2)` by path, and writes through a memory map after its file was closed, send `IN_MODIFY` only. The watcher
//! does not subscribe to it, because every write sends it too. Instead, this walk continuously compares the library
//! with the index. It uses a fixed share of a processor, so a pass takes time in proportion to the number of files. It
//! only emits hints.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

use super::{Difference, Inbox, Reconcile, Walk};
use crate::disk::{Disk as _, Entry, Root};
use crate::model::{Cause, FsEvent, Index, LibraryPath, Origin};

/// The share of one processor that is used: 0.4 milliseconds per second.
const PROCESSOR_SHARE: f64 = 0.0004;

/// The share of time that is spent waiting for the disk.
const DISK_SHARE: f64 = 0.01;

/// Processor time of one burst. Fewer, longer bursts wake the processor less often.
const BURST: Duration = Duration::from_millis(1);

/// The shortest time between two passes, and between the finding of a difference and its second check.
const SHORTEST_REST: Duration = Duration::from_secs(2);

/// How often to check whether a walk of everything is done.
const WALK_CHECK: Duration = Duration::from_secs(1);

/// Entries between two readings of the clock.
const ENTRIES_PER_STEP: usize = 16;

/// The most differences that one burst collects. The next pass finds the rest.
const MAX_FOUND: usize = 1000;

/// The context of the slow walk.
#[derive(Clone, Debug)]
pub struct Recheck<I> {
    /// The library root.
    pub root: Arc<Root>,
    /// The committed index.
    pub index: I,
    /// Whether a difference in ctime alone is ignored.
    pub ignore_ctime: bool,
    /// Where hints go.
    pub inbox: Inbox,
}

/// The thread of a [`Recheck`]. It stops soon after this is dropped.
#[derive(Debug)]
#[must_use = "the slow walk ends when this is dropped"]
pub struct RecheckThread {
    _stop: SyncSender<()>,
}

/// Time that was used since the last rest.
#[derive(Debug, Default)]
struct Budget {
    processor: Duration,
    elapsed: Duration,
}

impl Budget {
    fn add(&mut self, processor: Duration, elapsed: Duration) {
        self.processor += processor;
        self.elapsed += elapsed;
    }

    fn is_burst_over(&self) -> bool {
        self.processor >= BURST || self.elapsed.mul_f64(PROCESSOR_SHARE / DISK_SHARE) >= BURST
    }

    /// How long to rest for the time that was used. Resets the budget.
    fn rest(&mut self) -> Duration {
        let Self { processor, elapsed } = std::mem::take(self);
        processor.div_f64(PROCESSOR_SHARE).max(elapsed.div_f64(DISK_SHARE)).max(SHORTEST_REST)
    }
}

/// Measures processor time of this thread and elapsed time.
struct Meter {
    processor: Duration,
    started: Instant,
}

impl Meter {
    fn start() -> Self {
        Self { processor: processor_time(), started: Instant::now() }
    }

    /// Adds the time since the last call to `budget`.
    fn lap(&mut self, budget: &mut Budget) {
        let next = Self::start();
        budget.add(next.processor.saturating_sub(self.processor), next.started - self.started);
        *self = next;
    }
}

fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or_default())
}

impl<I: Index + Send + 'static> Recheck<I> {
    /// Starts the slow walk on a thread of its own. It runs until the returned value is dropped.
    ///
    /// # Errors
    /// If the thread cannot be started.
    pub fn spawn(self) -> io::Result<RecheckThread> {
        let (stop, stopped) = sync_channel(1);
        std::thread::Builder::new().name("recheck".to_owned()).spawn(move || self.run(&stopped))?;
        Ok(RecheckThread { _stop: stop })
    }

    fn run(&self, stopped: &Receiver<()>) {
        let rest = |long| matches!(stopped.recv_timeout(long), Err(RecvTimeoutError::Timeout));
        while self.pass(rest) {
            tracing::trace!("every file was compared with the index");
        }
    }

    /// Compares everything once, with rests. Returns false if `rest` did, which means to stop.
    fn pass(&self, mut rest: impl FnMut(Duration) -> bool) -> bool {
        let mut budget = Budget::default();
        let mut found = Vec::new();
        let mut meter = Meter::start();
        // Other threads would use processor time that is not measured.
        let walk = Walk::new(&self.root, LibraryPath::root()).alone();
        let mut differences = Reconcile::new(walk, &self.index, LibraryPath::root(), self.ignore_ctime);
        loop {
            let mut is_over = false;
            for _ in 0..ENTRIES_PER_STEP {
                match differences.next() {
                    Some(Ok(Difference::Look(path))) if found.len() < MAX_FOUND => found.push(path),
                    Some(Ok(_)) => {}
                    Some(Err(_)) | None => is_over = true,
                }
            }
            meter.lap(&mut budget);
            if is_over || budget.is_burst_over() {
                if !rest(budget.rest()) {
                    return false;
                }
                // A walk of everything finds all differences sooner. While the root is not watched at all, it stays in doubt.
                let is_root_in_doubt = || self.inbox.trust(|trust| trust.is_in_doubt(&LibraryPath::root()));
                if is_root_in_doubt() {
                    while is_root_in_doubt() {
                        if !rest(WALK_CHECK) {
                            return false;
                        }
                    }
                    // The rows were read before that walk.
                    return true;
                }
                meter = Meter::start();
                // Most differences were changes that were not committed yet.
                for path in found.drain(..).filter(|path| self.still_differs(path)) {
                    self.hint(path);
                }
                meter.lap(&mut budget);
            }
            if is_over {
                return true;
            }
        }
    }

    /// Whether the disk and the index still differ at `path`, and no look or walk of it is pending.
    fn still_differs(&self, path: &LibraryPath) -> bool {
        if self.inbox.trust(|trust| trust.is_under_doubt(path)) {
            return false;
        }
        let (Ok(Entry::File(stat)), Ok(row)) = (self.root.entry(path), self.index.row(path)) else { return false };
        !row.is_some_and(|row| row.stat.is_unchanged(&stat, self.ignore_ctime))
    }

    fn hint(&self, path: LibraryPath) {
        tracing::debug!(path = %path, "changed without an event");
        let hint = FsEvent::new(path, Cause::Found, Origin::Scan).about_root(self.root.generation());
        self.inbox.push(self.inbox.doubting(hint));
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::fs;

    use proptest::prelude::*;

    use super::*;
    use crate::model::MemoryIndex;

    proptest! {
        #[test]
        fn the_walk_uses_a_fixed_share_of_the_time(laps in prop::collection::vec((0_u64..3_000, 0_u64..3_000), 1..50)) {
            let mut budget = Budget::default();
            let (mut processor, mut elapsed, mut rested) = (Duration::ZERO, Duration::ZERO, Duration::ZERO);
            for (used, waited) in laps {
                let (used, waited) = (Duration::from_micros(used), Duration::from_micros(used + waited));
                (processor, elapsed) = (processor + used, elapsed + waited);
                budget.add(used, waited);
                if budget.is_burst_over() {
                    rested += budget.rest();
                }
            }
            rested += budget.rest();
            let of = |used: Duration| used.as_secs_f64() / (rested + elapsed).as_secs_f64();
            prop_assert!(of(processor) <= PROCESSOR_SHARE && of(elapsed) <= DISK_SHARE);
        }
    }

    #[test]
    fn only_a_lasting_difference_without_a_pending_look_causes_a_hint() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["changed.mp3", "pending.mp3", "passing.mp3", "same.mp3", "cover.jpg"] {
            fs::write(folder.path().join(name), name).unwrap();
        }
        let root = Arc::new(Root::open(folder.path()).unwrap());
        let Entry::File(stat) = root.entry(&"same.mp3".into()).unwrap() else { panic!("no file") };
        let inbox = Inbox::new();
        let recheck = Recheck {
            root,
            index: MemoryIndex::of_files([("same.mp3".into(), stat)]),
            ignore_ctime: false,
            inbox: inbox.clone(),
        };
        let doubt = inbox.trust(|trust| trust.doubt(&"pending.mp3".into()));
        let rests = Cell::new(0);
        let rest = |_| {
            rests.set(rests.get() + 1);
            let _ = fs::remove_file(folder.path().join("passing.mp3"));
            true
        };
        assert!(recheck.pass(rest));
        let hints = |inbox: &Inbox| inbox.take_all().into_iter().map(|hint| hint.path.to_string()).collect::<Vec<_>>();
        assert_eq!((hints(&inbox), rests.get()), (vec!["changed.mp3".to_owned()], 1));
        drop(doubt);
        assert!(recheck.pass(rest));
        let mut found = hints(&inbox);
        found.sort();
        assert_eq!(found, ["changed.mp3", "pending.mp3"]);
    }

    #[test]
    fn no_hint_is_emitted_during_a_walk_of_everything() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("a.mp3"), "").unwrap();
        let inbox = Inbox::new();
        let recheck = Recheck {
            root: Arc::new(Root::open(folder.path()).unwrap()),
            index: MemoryIndex::of_files([("b.mp3".into(), crate::model::FileStat::default())]),
            ignore_ctime: false,
            inbox: inbox.clone(),
        };
        let mut walk = Some(inbox.trust(|trust| trust.doubt(&LibraryPath::root())));
        let mut rests = 0;
        assert!(recheck.pass(|_| {
            rests += 1;
            if rests == 3 {
                walk = None;
            }
            true
        }));
        assert!(inbox.take_all().is_empty() && rests == 3);
        assert!(!recheck.pass(|_| false), "the pass stops when `rest` returns false");
    }
}
