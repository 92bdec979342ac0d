//! A slow walk of the whole library that never ends, for changes that cause no event.
//!
//! `truncate(2)` by path and writes through a memory map whose file is closed already send `IN_MODIFY` alone.
//! The watcher does not ask for it, because every single write sends it too. So the library is compared with
//! the index all the time, a little at a time: it takes a fixed share of a processor, and a library with
//! twice as many files takes twice as long. It emits hints and nothing else.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

use super::{Difference, Inbox, Reconcile, Walk};
use crate::disk::{Disk as _, Entry, Root};
use crate::model::{Cause, FsEvent, Index, LibraryPath, Origin};

/// Of each second of a processor this share is used: half a millisecond.
const PROCESSOR_SHARE: f64 = 0.0005;

/// Of the time of a disk that has to be waited for, this share is used.
const DISK_SHARE: f64 = 0.01;

/// Work that is done at once: fewer, longer bursts wake the processor less often.
const BURST: Duration = Duration::from_millis(1);

/// The shortest time between two passes, and between finding a difference and looking at it.
const SHORTEST_REST: Duration = Duration::from_secs(2);

/// How often to look whether a walk of everything is over.
const WHILE_WALKED: Duration = Duration::from_secs(1);

/// Entries between two looks at the clock.
const ENTRIES_A_STEP: usize = 16;

/// Differences that one burst collects. The next pass finds what is left.
const MOST_FOUND: usize = 1000;

/// What the slow walk needs to know.
#[derive(Clone, Debug)]
pub struct Recheck<I> {
    /// The library.
    pub root: Arc<Root>,
    /// What was committed.
    pub index: I,
    /// Whether a changed ctime alone is no difference.
    pub ignore_ctime: bool,
    /// Where hints go.
    pub inbox: Inbox,
}

/// The thread of a [`Recheck`]. It ends soon after this is dropped.
#[derive(Debug)]
#[must_use = "the slow walk ends when this is dropped"]
pub struct RecheckThread {
    _stop: SyncSender<()>,
}

/// Time that was used and has to be rested for.
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

    /// How long to rest for what was used, which is paid for with that.
    fn rest(&mut self) -> Duration {
        let Self { processor, elapsed } = std::mem::take(self);
        processor.div_f64(PROCESSOR_SHARE).max(elapsed.div_f64(DISK_SHARE)).max(SHORTEST_REST)
    }
}

/// Measures the processor time of this thread and the time that passes.
struct Meter {
    processor: Duration,
    begun: Instant,
}

impl Meter {
    fn start() -> Self {
        Self { processor: processor_time(), begun: Instant::now() }
    }

    /// What was used since the last call.
    fn lap(&mut self, budget: &mut Budget) {
        let next = Self::start();
        budget.add(next.processor.saturating_sub(self.processor), next.begun - self.begun);
        *self = next;
    }
}

fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or_default())
}

impl<I: Index + Send + 'static> Recheck<I> {
    /// Walks slowly, on a thread of its own, until the returned value is dropped.
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

    /// Compares everything once, with rests. `rest` returns false to stop, and so does this.
    fn pass(&self, mut rest: impl FnMut(Duration) -> bool) -> bool {
        let mut budget = Budget::default();
        let mut found = Vec::new();
        let mut meter = Meter::start();
        let walk = Walk::new(&self.root, LibraryPath::root());
        let mut differences = Reconcile::new(walk, &self.index, LibraryPath::root(), self.ignore_ctime);
        loop {
            let mut is_over = false;
            for _ in 0..ENTRIES_A_STEP {
                match differences.next() {
                    Some(Ok(Difference::Look(path))) if found.len() < MOST_FOUND => found.push(path),
                    Some(Ok(_)) => {}
                    Some(Err(_)) | None => is_over = true,
                }
            }
            meter.lap(&mut budget);
            if is_over || budget.is_burst_over() {
                if !rest(budget.rest()) {
                    return false;
                }
                // A walk of everything finds all of it sooner. Where only walks find changes, doubt never ends.
                while self.inbox.trust(|trust| trust.is_in_doubt(&LibraryPath::root())) {
                    found.clear();
                    if !rest(WHILE_WALKED) {
                        return false;
                    }
                }
                meter = Meter::start();
                // Most of what differed was on its way to the index.
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

    /// Whether the disk and the index still differ at `path`, and nothing is on its way that would find it.
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
    use crate::library::testing::Rows;

    proptest! {
        #[test]
        fn what_is_used_is_a_fixed_share_of_the_time(laps in prop::collection::vec((0_u64..3_000, 0_u64..3_000), 1..50)) {
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
    fn a_difference_that_stays_is_looked_at_and_one_that_was_on_its_way_is_not() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["changed.mp3", "on its way.mp3", "passing.mp3", "same.mp3", "cover.jpg"] {
            fs::write(folder.path().join(name), name).unwrap();
        }
        let root = Arc::new(Root::open(folder.path()).unwrap());
        let Entry::File(stat) = root.entry(&"same.mp3".into()).unwrap() else { panic!("no file") };
        let inbox = Inbox::new();
        let recheck = Recheck {
            root,
            index: Rows([("same.mp3".into(), stat)].into()),
            ignore_ctime: false,
            inbox: inbox.clone(),
        };
        let doubt = inbox.trust(|trust| trust.doubt(&"on its way.mp3".into()));
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
        assert_eq!(found, ["changed.mp3", "on its way.mp3"]);
    }

    #[test]
    fn nothing_is_looked_at_while_everything_is_walked() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("a.mp3"), "").unwrap();
        let inbox = Inbox::new();
        let recheck = Recheck {
            root: Arc::new(Root::open(folder.path()).unwrap()),
            index: Rows([("b.mp3".into(), crate::model::FileStat::default())].into()),
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
        assert!(!recheck.pass(|_| false), "it stops when it is asked to");
    }
}
