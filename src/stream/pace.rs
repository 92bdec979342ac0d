//! Longer waits for paths that are published again and again.
//!
//! A recorder or an FTP server may open a file, append to it and close it twice a second. Without this, each close
//! would cost a read of the whole file, and a message.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use xxhash_rust::xxh3::xxh3_64;

use super::{QuietTime, Settle};
use crate::model::{Cause, FsEvent, LibraryPath};

/// How long after a message for a path a further change has to wait.
const RECENT: Duration = Duration::from_secs(10);

/// The longest wait.
const LONGEST: Duration = Duration::from_secs(30);

/// How long a path that waits is remembered. This includes the time to read the file.
const REMEMBERED: Duration = Duration::from_mins(2);

/// The most paths in one of the two generations of the register. With more, the older generation is forgotten.
const MOST_PATHS: usize = 8192;

/// The quiet times of [`Settle`], and longer ones for paths with a message in the last ten seconds.
///
/// The first of these waits is the settle time, and each further one is twice as long, up to thirty seconds. A path
/// whose last message is older starts anew. Renames and deletes do not wait longer. Clones share the register.
#[derive(Clone, Debug)]
pub struct Pace {
    settle: Settle,
    register: Arc<Mutex<Register>>,
}

/// The hash of a path, which may be long. Two paths with the same hash only delay each other.
type PathHash = u64;

fn hash_of(path: &LibraryPath) -> PathHash {
    xxh3_64(path.as_bytes())
}

#[derive(Debug, Default)]
struct Register {
    young: HashMap<PathHash, Recent>,
    old: HashMap<PathHash, Recent>,
    rotated: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
struct Recent {
    published: Instant,
    /// How long the next change has to wait.
    wait: Duration,
    /// When a change last began to wait; `None` once it was examined.
    waiting_since: Option<Instant>,
}

impl Pace {
    /// An empty register.
    pub fn new(settle: Settle) -> Self {
        Self { settle, register: Arc::default() }
    }

    /// Records that a message about the content at `path` was committed.
    pub fn published(&self, path: &LibraryPath) {
        let now = Instant::now();
        let mut register = self.register();
        let before = register.take(path, now);
        let wait = match before {
            Some(before) if before.is_waiting(now) => before.wait.saturating_mul(2).min(LONGEST),
            Some(before) if before.is_recent(now) => before.wait,
            _ => self.settle.settle.min(LONGEST),
        };
        register.put(path, Recent { published: now, wait, waiting_since: None });
    }

    /// Records that `path` was examined and there was nothing to publish.
    pub fn unchanged(&self, path: &LibraryPath) {
        let now = Instant::now();
        let mut register = self.register();
        if let Some(recent) = register.take(path, now) {
            register.put(path, Recent { waiting_since: None, ..recent });
        }
    }

    /// Gives back the memory of paths whose next change need not wait longer.
    pub fn shrink(&self) {
        let now = Instant::now();
        let Register { young, old, .. } = &mut *self.register();
        for generation in [young, old] {
            generation.retain(|_, recent| recent.is_recent(now) || recent.is_waiting(now));
            generation.shrink_to_fit();
        }
    }

    /// How long a change of the content at `path` has to wait.
    fn wait(&self, path: &LibraryPath) -> Duration {
        let now = Instant::now();
        let mut register = self.register();
        let Some(recent) = register.take(path, now) else { return Duration::ZERO };
        let has_to_wait = recent.is_recent(now) || recent.is_waiting(now);
        let waiting_since = if has_to_wait { Some(now) } else { recent.waiting_since };
        register.put(path, Recent { waiting_since, ..recent });
        if has_to_wait { recent.wait } else { Duration::ZERO }
    }

    fn register(&self) -> MutexGuard<'_, Register> {
        self.register.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl QuietTime<FsEvent> for Pace {
    fn quiet(&self, hint: &FsEvent) -> Duration {
        let quiet = self.settle.quiet(hint);
        match hint.cause {
            Cause::Closed | Cause::Created | Cause::Touched => quiet.max(self.wait(&hint.path)),
            Cause::Found | Cause::Renamed | Cause::Gone | Cause::Again(_) => quiet,
        }
    }
}

impl Recent {
    fn is_recent(&self, now: Instant) -> bool {
        now.duration_since(self.published) <= RECENT
    }

    fn is_waiting(&self, now: Instant) -> bool {
        self.waiting_since.is_some_and(|since| now.duration_since(since) <= REMEMBERED)
    }
}

impl Register {
    /// Takes the entry of `path` out, and forgets old entries.
    fn take(&mut self, path: &LibraryPath, now: Instant) -> Option<Recent> {
        let is_old = self.rotated.is_none_or(|rotated| now.duration_since(rotated) > REMEMBERED);
        if is_old || self.young.len() >= MOST_PATHS {
            self.old = std::mem::take(&mut self.young);
            self.rotated = Some(now);
        }
        let hash = hash_of(path);
        self.young.remove(&hash).or_else(|| self.old.remove(&hash))
    }

    fn put(&mut self, path: &LibraryPath, recent: Recent) {
        self.young.insert(hash_of(path), recent);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use futures::StreamExt;
    use proptest::prelude::*;
    use tokio::time::{advance, sleep};

    use super::*;
    use crate::model::Origin;
    use crate::stream::HintStreamExt;
    use crate::stream::testing::{milliseconds, paused, schedule};

    const SETTLE: Settle = Settle { debounce: Duration::from_millis(50), settle: Duration::from_secs(2) };

    fn hint(quiet: Cause) -> FsEvent {
        FsEvent::new("a.mp3".into(), quiet, Origin::Watch)
    }

    /// Publishes each hint that comes out. Returns the times of the closes and of the messages.
    async fn published(pace: &Pace, gaps: Vec<u64>) -> (Vec<Duration>, Vec<Duration>) {
        let begun = Instant::now();
        let (closes, messages) = (RefCell::new(Vec::new()), RefCell::new(Vec::new()));
        // The end of the input would flush.
        let input = schedule(gaps.into_iter().map(|gap| (gap, hint(Cause::Closed))).collect())
            .inspect(|_| closes.borrow_mut().push(begun.elapsed()))
            .chain(futures::stream::once(async { sleep(Duration::from_mins(2)).await }).filter_map(async |()| None));
        let out = input.debounce(pace.clone());
        out.for_each(|hint| {
            pace.published(&hint.path);
            messages.borrow_mut().push(begun.elapsed());
            std::future::ready(())
        })
        .await;
        (closes.into_inner(), messages.into_inner())
    }

    #[test]
    fn a_recorder_that_closes_its_file_twice_a_second_gives_a_handful_of_messages() {
        paused(async {
            let (closes, messages) = published(&Pace::new(SETTLE), vec![500; 240]).await;
            assert!((4..=9).contains(&messages.len()), "{messages:?}");
            assert_eq!(messages[0], closes[0] + SETTLE.debounce);
            let (last_close, last_message) = (closes.last().unwrap(), messages.last().unwrap());
            assert!(last_message > last_close && *last_message <= *last_close + LONGEST);
        });
    }

    #[test]
    fn a_change_waits_the_settle_time_then_twice_as_long_and_starts_anew_after_ten_quiet_seconds() {
        paused(async {
            let pace = Pace::new(SETTLE);
            let wait = |quiet| pace.quiet(&hint(quiet));
            assert_eq!(wait(Cause::Closed), SETTLE.debounce);
            for seconds in [2, 4, 8, 16, 30, 30] {
                pace.published(&"a.mp3".into());
                advance(RECENT).await;
                assert_eq!(wait(Cause::Closed), Duration::from_secs(seconds));
                assert_eq!((wait(Cause::Renamed), wait(Cause::Found)), (Duration::ZERO, Duration::ZERO));
                assert_eq!(wait(Cause::Gone), SETTLE.quiet(&hint(Cause::Gone)));
                let other = FsEvent::new("b.mp3".into(), Cause::Closed, Origin::Watch);
                assert_eq!(pace.quiet(&other), SETTLE.debounce);
                // It keeps waiting, also while the file is being read.
                advance(Duration::from_secs(40)).await;
                assert_eq!(wait(Cause::Touched), Duration::from_secs(seconds));
            }
            pace.published(&"a.mp3".into());
            advance(RECENT + milliseconds(1)).await;
            assert_eq!(wait(Cause::Closed), SETTLE.debounce);
            pace.published(&"a.mp3".into());
            assert_eq!(wait(Cause::Closed), SETTLE.settle);
        });
    }

    #[test]
    fn a_hint_without_a_change_does_not_delay_later_ones() {
        paused(async {
            let pace = Pace::new(SETTLE);
            pace.published(&"a.mp3".into());
            assert_eq!(pace.quiet(&hint(Cause::Touched)), SETTLE.settle);
            pace.unchanged(&"a.mp3".into());
            advance(RECENT + milliseconds(1)).await;
            assert_eq!(pace.quiet(&hint(Cause::Closed)), SETTLE.debounce);
        });
    }

    #[test]
    fn the_register_forgets_old_paths() {
        paused(async {
            let pace = Pace::new(SETTLE);
            for number in 0..3 * MOST_PATHS {
                pace.published(&format!("{number}.mp3").as_str().into());
            }
            let sizes = |pace: &Pace| {
                let register = pace.register();
                (register.young.len(), register.old.len())
            };
            assert!(sizes(&pace).0 <= MOST_PATHS && sizes(&pace).1 <= MOST_PATHS);
            for _ in 0..2 {
                advance(REMEMBERED + milliseconds(1)).await;
                pace.published(&"a.mp3".into());
            }
            assert_eq!(sizes(&pace), (1, 0));
        });
    }

    proptest! {
        #[test]
        fn giving_memory_back_changes_no_wait(
            steps in prop::collection::vec((0_u64..45_000, 0..3, any::<bool>()), 1..40),
        ) {
            paused(async {
                let (pace, shrunk) = (Pace::new(SETTLE), Pace::new(SETTLE));
                for (later, what, shrinks) in steps {
                    advance(milliseconds(later)).await;
                    if shrinks {
                        shrunk.shrink();
                    }
                    for pace in [&pace, &shrunk] {
                        match what {
                            0 => pace.published(&"a.mp3".into()),
                            1 => pace.unchanged(&"a.mp3".into()),
                            _ => {}
                        }
                    }
                    assert_eq!(pace.quiet(&hint(Cause::Closed)), shrunk.quiet(&hint(Cause::Closed)));
                }
                advance(REMEMBERED + milliseconds(1)).await;
                shrunk.shrink();
                assert!(shrunk.register().young.capacity() == 0 && shrunk.register().old.capacity() == 0);
            });
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

        #[test]
        fn appends_are_few_messages_and_the_last_state_comes_within_the_wait(
            gaps in prop::collection::vec(1_u64..9_900, 1..200),
        ) {
            let (closes, messages) = paused(async { published(&Pace::new(SETTLE), gaps).await });
            // Every two messages are at least as far apart as the wait, which doubles.
            let mut wait = SETTLE.settle;
            for pair in messages.windows(2) {
                prop_assert!(pair[1] >= pair[0] + wait, "{messages:?}");
                wait = (wait * 2).min(LONGEST);
            }
            let most = 5 + (*closes.last().unwrap()).as_secs() / LONGEST.as_secs() + 1;
            prop_assert!(messages.len() as u64 <= most, "{messages:?}");
            let last_close = *closes.last().unwrap();
            let last = *messages.last().unwrap();
            prop_assert!(last >= last_close && last <= last_close + LONGEST, "{last:?} after {last_close:?}");
        }
    }
}
