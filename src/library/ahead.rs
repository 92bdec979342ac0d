//! Lists directories before a walk needs them, on threads of its own.
//!
//! A walk takes directories in byte order of their paths, and so does this: each listing that is known is a sorted
//! sequence of directories, and the least one of all sequences comes next. So whoever has time lists what is needed
//! soonest, and the walk itself lists a directory that nobody has begun.

use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashMap};
use std::io;
use std::num::NonZero;
use std::panic::{self, AssertUnwindSafe};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use crate::disk::{ListedKind, Listing, Root};
use crate::model::LibraryPath;

/// The most entries that are listed before they are needed. A listing that is begun below it is finished.
const MOST_ENTRIES: usize = 4096;

/// The most directories that are listed before they are needed.
const MOST_DIRECTORIES: usize = 128;

/// The most threads that list. More of them would keep a rotating disk from reading in order.
const MOST_THREADS: usize = 3;

/// The directories that the walk lists alone, before threads are started. Most walks end before that.
const LISTED_ALONE: usize = 8;

/// Lists the directories of a walk. The threads end when it is dropped.
#[derive(Debug)]
pub(super) struct Ahead {
    shared: Arc<Shared>,
    /// How many directories the walk has taken.
    listed: usize,
    /// Whether no threads are started.
    is_alone: bool,
}

#[derive(Debug)]
struct Shared {
    root: Arc<Root>,
    state: Mutex<State>,
    /// There is a directory to list, and room for its listing.
    work: Condvar,
    /// The directory that the walk waits for is listed.
    done: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// The directories that are not begun.
    next: BinaryHeap<Sequence>,
    /// The directories that are begun and not taken by the walk; `None` if they are not listed yet.
    begun: HashMap<LibraryPath, Option<io::Result<Arc<Listing>>>>,
    /// The entries in `begun`.
    entries: usize,
    /// The directory that the walk waits for.
    wanted: Option<LibraryPath>,
    idle_threads: usize,
    is_closed: bool,
}

/// The directories of a listing from one position on.
#[derive(Debug)]
struct Sequence {
    listing: Arc<Listing>,
    at: usize,
    /// The listed directory.
    parent: LibraryPath,
    /// The path of the directory at the position.
    path: LibraryPath,
}

impl Sequence {
    /// The directories of a listing from `at` on; `None` if there is none.
    fn from(parent: LibraryPath, listing: Arc<Listing>, at: usize) -> Option<Self> {
        let at = at + listing.iter_from(at).position(|entry| matches!(entry.kind, ListedKind::Directory))?;
        let path = parent.join(listing.get(at)?.name);
        Some(Self { listing, at, parent, path })
    }

    /// The order of walks: that of the paths with a slash behind them.
    fn key(&self) -> impl Iterator<Item = u8> {
        self.path.as_bytes().iter().copied().chain([b'/'])
    }
}

/// The greatest is the one with the least path, because the heap yields the greatest first.
impl Ord for Sequence {
    fn cmp(&self, other: &Self) -> Ordering {
        other.key().cmp(self.key())
    }
}

impl PartialOrd for Sequence {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Sequence {
    fn eq(&self, other: &Self) -> bool {
        self.path == other.path
    }
}

impl Eq for Sequence {}

impl State {
    /// Takes the next directory of the walk that is not begun.
    fn begin(&mut self) -> Option<LibraryPath> {
        let Sequence { listing, at, parent, path } = self.next.pop()?;
        self.next.extend(Sequence::from(parent, listing, at + 1));
        Some(path)
    }

    /// Takes the next directory to list before it is needed; `None` if there is none, or no room for its listing.
    fn begin_ahead(&mut self) -> Option<LibraryPath> {
        let directory = if self.is_below(MOST_DIRECTORIES, MOST_ENTRIES) { self.begin()? } else { return None };
        self.begun.insert(directory.clone(), None);
        Some(directory)
    }

    /// Makes the directories of a listing known.
    fn add(&mut self, directory: &LibraryPath, listed: &io::Result<Arc<Listing>>) {
        if let Ok(listing) = listed {
            self.next.extend(Sequence::from(directory.clone(), Arc::clone(listing), 0));
        }
    }

    fn is_below(&self, directories: usize, entries: usize) -> bool {
        self.begun.len() < directories && self.entries < entries
    }

    /// Whether to wake an idle thread. It is left to sleep until there is enough to do.
    fn has_much_work(&self) -> bool {
        self.idle_threads > 0 && !self.next.is_empty() && self.is_below(MOST_DIRECTORIES / 2, MOST_ENTRIES / 2)
    }
}

impl Ahead {
    pub(super) fn new(root: Arc<Root>) -> Self {
        let shared = Shared { root, state: Mutex::default(), work: Condvar::new(), done: Condvar::new() };
        Self { shared: Arc::new(shared), listed: 0, is_alone: false }
    }

    /// From now on, no threads are started: the walk lists every directory itself.
    pub(super) fn list_alone(&mut self) {
        self.is_alone = true;
    }

    /// The entries of the next directory of the walk.
    pub(super) fn list(&mut self, directory: &LibraryPath) -> io::Result<Arc<Listing>> {
        let listed = self.shared.take(directory).unwrap_or_else(|| {
            let listed = self.shared.list(directory);
            self.shared.lock().add(directory, &listed);
            listed
        });
        self.listed += 1;
        if self.listed == LISTED_ALONE && !self.is_alone {
            self.start_threads();
        }
        listed
    }

    fn start_threads(&self) {
        let cores = thread::available_parallelism().map_or(1, NonZero::get);
        for _ in 1..cores.clamp(2, MOST_THREADS + 1) {
            let shared = Arc::clone(&self.shared);
            // Without a thread, the walk lists everything itself.
            let _ = thread::Builder::new().name("walk ahead".into()).spawn(move || shared.work());
        }
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        self.shared.lock().is_closed = true;
        self.shared.work.notify_all();
    }
}

impl Shared {
    /// Takes the listing of a directory, if it is begun or finished. `None` if it is neither: the caller has to list it.
    fn take(&self, directory: &LibraryPath) -> Option<io::Result<Arc<Listing>>> {
        let mut state = self.lock();
        loop {
            match state.begun.get(directory) {
                Some(Some(_)) => break,
                // Another thread is listing it.
                Some(None) => {
                    if let Some(other) = state.begin_ahead() {
                        state = self.list_ahead(state, other);
                    } else {
                        state.wanted = Some(directory.clone());
                        state = self.done.wait(state).unwrap_or_else(PoisonError::into_inner);
                    }
                }
                None => {
                    if state.next.peek().is_some_and(|next| next.path == *directory) {
                        state.begin();
                    }
                    return None;
                }
            }
        }
        let listed = state.begun.remove(directory).flatten();
        if let Some(Ok(listing)) = &listed {
            state.entries -= listing.len();
        }
        if state.has_much_work() {
            self.work.notify_one();
        }
        listed
    }

    /// Lists directories until the walk ends.
    fn work(&self) {
        let mut state = self.lock();
        while !state.is_closed {
            if let Some(directory) = state.begin_ahead() {
                state = self.list_ahead(state, directory);
            } else {
                state.idle_threads += 1;
                state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
                state.idle_threads -= 1;
            }
        }
    }

    /// Lists a directory that was begun ahead. The state is unlocked meanwhile.
    fn list_ahead<'a>(&'a self, state: MutexGuard<'a, State>, directory: LibraryPath) -> MutexGuard<'a, State> {
        drop(state);
        // After a panic, the walk must not wait for ever.
        let listed = panic::catch_unwind(AssertUnwindSafe(|| self.list(&directory)))
            .unwrap_or_else(|_| Err(io::Error::other("the listing panicked")));
        let mut state = self.lock();
        state.entries += listed.as_ref().map_or(0, |listing| listing.len());
        state.add(&directory, &listed);
        if state.wanted.as_ref() == Some(&directory) {
            state.wanted = None;
            self.done.notify_one();
        }
        state.begun.insert(directory, Some(listed));
        if state.has_much_work() {
            self.work.notify_one();
        }
        state
    }

    /// A directory that is gone has no entries.
    fn list(&self, directory: &LibraryPath) -> io::Result<Arc<Listing>> {
        Ok(Arc::new(self.root.list_in_time(directory)?.unwrap_or_default()))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::{Duration, Instant};

    use super::*;

    /// A directory with directories of these names, on three levels.
    fn tree(names: &[&str]) -> (tempfile::TempDir, Arc<Root>) {
        let folder = tempfile::tempdir().unwrap();
        for one in names {
            for two in names {
                for three in names {
                    fs::create_dir_all(folder.path().join(one).join(two).join(three)).unwrap();
                }
            }
        }
        let root = Arc::new(Root::open(folder.path()).unwrap());
        (folder, root)
    }

    /// The directories under this one, in the order of walks.
    fn walk(ahead: &mut Ahead, directory: &LibraryPath, found: &mut Vec<LibraryPath>) {
        for entry in ahead.list(directory).unwrap().iter_from(0) {
            let path = directory.join(entry.name);
            found.push(path.clone());
            walk(ahead, &path, found);
        }
    }

    #[test]
    fn a_walk_that_lists_alone_has_no_threads() {
        let names = ["a", "b", "c", "d"];
        let (_folder, root) = tree(&names);
        for is_alone in [false, true] {
            let mut ahead = Ahead::new(Arc::clone(&root));
            if is_alone {
                ahead.list_alone();
            }
            assert_eq!(ahead.list(&LibraryPath::root()).unwrap().len(), 4);
            for one in names {
                assert_eq!(ahead.list(&one.into()).unwrap().len(), 4);
                for two in names {
                    assert_eq!(ahead.list(&LibraryPath::from(one).join(two.as_bytes())).unwrap().len(), 4);
                }
            }
            assert_eq!(Arc::strong_count(&ahead.shared) == 1, is_alone);
        }
    }

    #[test]
    fn every_directory_is_listed_once_whoever_lists_it() {
        let names = ["a", "a-b", "a.c", "b", "c", "d"];
        let (_folder, root) = tree(&names);
        for _ in 0..20 {
            let mut ahead = Ahead::new(Arc::clone(&root));
            let mut found = Vec::new();
            walk(&mut ahead, &LibraryPath::root(), &mut found);
            assert_eq!(found.len(), names.len() + names.len().pow(2) + names.len().pow(3));
            let key = |path: &LibraryPath| path.join(b"");
            assert!(found.is_sorted_by_key(key), "not in the order of walks");
            let state = ahead.shared.lock();
            assert!(state.begun.is_empty() && state.next.is_empty() && state.entries == 0, "{state:?}");
        }
    }

    #[test]
    fn what_is_listed_ahead_is_bounded_and_ends_with_the_walk() {
        let names: Vec<String> = (0..12).map(|number| number.to_string()).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let (_folder, root) = tree(&names);
        let mut ahead = Ahead::new(Arc::clone(&root));
        let mut directory = LibraryPath::root();
        // Down and along the first directories, until threads are started.
        let first = ahead.list(&directory).unwrap();
        for name in [names[0], names[0]] {
            directory = directory.join(name.as_bytes());
            ahead.list(&directory).unwrap();
        }
        assert_eq!(first.len(), 12);
        // If one were taken after that, a thread that has listed all it may would not list another one in its place.
        for name in ["0", "1", "10", "11", "2"] {
            ahead.list(&directory.join(name.as_bytes())).unwrap();
        }
        let begun = Instant::now();
        while ahead.shared.lock().begun.len() < MOST_DIRECTORIES {
            assert!(begun.elapsed() < Duration::from_secs(30), "the threads list ahead");
            thread::sleep(Duration::from_millis(1));
        }
        thread::sleep(Duration::from_millis(20));
        assert!(ahead.shared.lock().begun.len() <= MOST_DIRECTORIES);
        let shared = Arc::downgrade(&ahead.shared);
        drop(ahead);
        while shared.strong_count() > 0 {
            assert!(begun.elapsed() < Duration::from_secs(30), "the threads end");
            thread::sleep(Duration::from_millis(1));
        }
    }
}
