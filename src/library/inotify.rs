//! Watching directories through inotify, with the `notify` crate.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use notify::event::EventKindMask;
use notify::{Config, ErrorKind, EventHandler, RecommendedWatcher, RecursiveMode, Watcher as _};
use rustix::io::Errno;

use super::events::{Handler, ToWatch, Translator};
use super::watch::WatchError;
use crate::disk::{LinkTarget, Root};
use crate::engine::WatchTrouble;
use crate::model::Partition;

/// The watched directories of a library. They are not watched any more when this is dropped.
pub(super) struct Directories {
    /// `None` only in `drop`.
    inner: Mutex<Option<RecommendedWatcher>>,
    /// The directories of this instance's part that are to be watched; `None` if it has the whole library.
    part: Option<Part>,
    /// The watched targets of links that lead out of the library; `None` if such links are not followed.
    links: Option<Mutex<WatchedLinks>>,
}

/// The part of a library whose root is not watched recursively, because most of it belongs to other instances.
struct Part {
    partition: Partition,
    root: PathBuf,
    /// Places that are never watched.
    avoided: Vec<PathBuf>,
    to_watch: ToWatch,
    trouble: Arc<dyn Fn(WatchTrouble) + Send + Sync>,
}

/// The targets outside of the library that are watched because links lead to them.
struct WatchedLinks {
    root: Arc<Root>,
    trouble: Arc<dyn Fn(WatchTrouble) + Send + Sync>,
    version: Option<u64>,
    targets: HashMap<PathBuf, LinkTarget>,
}

impl Directories {
    /// As [`Watcher::of_directories`](super::Watcher::of_directories).
    pub(super) fn watch(handler: Handler) -> Result<Self, WatchError> {
        let (root, trouble) = (handler.root.path().to_path_buf(), Arc::clone(&handler.trouble));
        let links = handler.root.follows_links_out().then(|| {
            let (root, trouble) = (Arc::clone(&handler.root), Arc::clone(&handler.trouble));
            Mutex::new(WatchedLinks { root, trouble, version: None, targets: HashMap::new() })
        });
        let avoided: Vec<PathBuf> = handler.avoided.iter().map(|place| place.to_absolute(&root)).collect();
        let partition = handler.root.rules().partition();
        let to_watch = ToWatch::default();
        let mut translator = Translator::of_directories(handler, Arc::clone(&to_watch));
        let mut watcher = Self::listen(move |event| translator.handle(event))?;
        watcher.links = links;
        let added = if partition.is_whole() {
            watcher.with(|watcher| watch_around(watcher, &root, &avoided))
        } else {
            let added = watcher.with(|watcher| watch_part(watcher, &root, partition, &avoided));
            watcher.part = Some(Part { partition, root, avoided, to_watch, trouble: Arc::clone(&trouble) });
            added
        };
        match added {
            Ok(()) => {}
            Err(error) if matches!(error.kind, ErrorKind::MaxFilesWatch) => trouble(WatchTrouble::OutOfWatches),
            Err(error) => return Err(error.into()),
        }
        watcher.watch_links();
        Ok(watcher)
    }

    /// Watches the directories of the part that were created since the last call.
    fn watch_new_of_part(&self) {
        let Some(Part { partition, root, avoided, to_watch, trouble }) = &self.part else { return };
        let new = std::mem::take(&mut *to_watch.lock().unwrap_or_else(PoisonError::into_inner));
        for directory in new {
            let watched = if directory == *root {
                self.with(|watcher| watch_part(watcher, root, *partition, avoided))
            } else {
                self.with(|watcher| watch_around(watcher, &directory, avoided))
            };
            match watched {
                Err(error) if !is_absence(&error) => trouble(trouble_of(&error)),
                _ => {}
            }
        }
    }

    /// Watches the targets outside of the library to which links led when links were last searched.
    fn watch_links(&self) {
        let Some(links) = &self.links else { return };
        let mut links = links.lock().unwrap_or_else(PoisonError::into_inner);
        let version = links.root.links_version();
        if links.version.replace(version) == Some(version) {
            return;
        }
        let targets = links.root.link_targets();
        let before = std::mem::replace(&mut links.targets, targets);
        let is_same = |(path, target): &(&PathBuf, &LinkTarget)| links.targets.get(*path) == Some(*target);
        for (path, _) in before.iter().filter(|watched| !is_same(watched)) {
            // A target that is gone has no watch any more, so an error is expected.
            let _ = self.with(|watcher| watcher.unwatch(path));
        }
        for (path, target) in links.targets.iter().filter(|(path, target)| before.get(*path) != Some(*target)) {
            let mode = if target.is_recursive { RecursiveMode::Recursive } else { RecursiveMode::NonRecursive };
            match self.with(|watcher| watcher.watch(path, mode)) {
                Ok(()) => {}
                Err(error) if is_absence(&error) => links.root.links_changed(),
                Err(error) => (links.trouble)(trouble_of(&error)),
            }
        }
    }

    fn listen(handler: impl EventHandler) -> Result<Self, WatchError> {
        // No MODIFY: each write would cause an event and could overflow the queue, and the close is enough. No OPEN: our
        // own reads would cause events.
        let mask = EventKindMask::CREATE
            | EventKindMask::REMOVE
            | EventKindMask::MODIFY_NAME
            | EventKindMask::MODIFY_META
            | EventKindMask::ACCESS_CLOSE;
        let config = Config::default().with_event_kinds(mask).with_follow_symlinks(false);
        let is_emfile = |error: &std::io::Error| error.raw_os_error() == Some(Errno::MFILE.raw_os_error());
        let watcher = RecommendedWatcher::new(handler, config).map_err(|error| match error.kind {
            ErrorKind::Io(cause) if is_emfile(&cause) => WatchError::TooManyInstances,
            _ => error.into(),
        })?;
        Ok(Self { inner: Mutex::new(Some(watcher)), part: None, links: None })
    }

    /// As [`Watcher::unwatch`](super::Watcher::unwatch).
    pub(super) fn unwatch(&self, directories: impl IntoIterator<Item = PathBuf>) {
        for directory in directories {
            // A directory that is not watched any more causes an error, which is harmless.
            let _ = self.with(|watcher| watcher.unwatch(&directory));
        }
    }

    /// As [`Watcher::barrier`](super::Watcher::barrier).
    ///
    /// An empty batch makes the watcher's loop read all pending events and watch new directories. It answers before it
    /// calls the handler with these events, so a second round trip is needed: a configuration, which changes nothing and,
    /// unlike the removal of a watch, takes no time that grows with the number of watches.
    pub(super) fn barrier(&self) -> bool {
        self.watch_links();
        let round_trip = |watcher: &mut RecommendedWatcher| {
            watcher.update_paths(Vec::new()).map_err(|error| error.source)?;
            watcher.configure(Config::default())
        };
        let works = self.with(round_trip).is_ok();
        self.watch_new_of_part();
        works
    }

    fn with<T>(&self, call: impl FnOnce(&mut RecommendedWatcher) -> notify::Result<T>) -> notify::Result<T> {
        match self.inner.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            Some(watcher) => call(watcher),
            None => Err(notify::Error::new(ErrorKind::WatchNotFound)),
        }
    }
}

impl Drop for Directories {
    fn drop(&mut self) {
        // A `notify` watcher whose thread has ended panics when it is dropped. To forget it leaks only a channel.
        if !self.barrier() {
            let watcher = self.inner.get_mut().unwrap_or_else(PoisonError::into_inner).take();
            std::mem::forget(watcher);
        }
    }
}

/// The trouble that an error is for the engine.
fn trouble_of(error: &notify::Error) -> WatchTrouble {
    match error.kind {
        ErrorKind::MaxFilesWatch => WatchTrouble::OutOfWatches,
        _ => WatchTrouble::Other(error.to_string()),
    }
}

/// Whether the error says that the path does not exist.
fn is_absence(error: &notify::Error) -> bool {
    match &error.kind {
        ErrorKind::PathNotFound => true,
        ErrorKind::Io(error) => error.kind() == std::io::ErrorKind::NotFound,
        _ => false,
    }
}

/// Watches the root, and the directories in it that belong to this part, with everything under them.
fn watch_part(
    watcher: &mut RecommendedWatcher,
    root: &Path,
    partition: Partition,
    avoided: &[PathBuf],
) -> notify::Result<()> {
    watch_some(watcher, root, avoided, |name| partition.has(name.as_bytes(), true))
}

/// Watches a directory and everything under it, except the directories `avoided`.
fn watch_around(watcher: &mut RecommendedWatcher, directory: &Path, avoided: &[PathBuf]) -> notify::Result<()> {
    if !avoided.iter().any(|place| place.starts_with(directory)) {
        return watcher.watch(directory, RecursiveMode::Recursive);
    }
    watch_some(watcher, directory, avoided, |_| true)
}

/// Watches a directory, and those of its directories whose names are wanted and that are not `avoided`, with everything
/// under them.
fn watch_some(
    watcher: &mut RecommendedWatcher,
    directory: &Path,
    avoided: &[PathBuf],
    is_wanted: impl Fn(&OsStr) -> bool,
) -> notify::Result<()> {
    watcher.watch(directory, RecursiveMode::NonRecursive)?;
    for entry in std::fs::read_dir(directory).map_err(notify::Error::io)?.flatten() {
        let path = entry.path();
        // The type comes from the listing, so a filesystem that is mounted there is not accessed.
        let is_directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if is_directory && is_wanted(&entry.file_name()) && !avoided.contains(&path) {
            watch_around(watcher, &path, avoided)?;
        }
    }
    Ok(())
}

impl std::fmt::Debug for Directories {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Directories")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::time::Duration;

    use notify::Event;

    use super::*;

    #[test]
    fn a_watcher_whose_thread_has_ended_reports_it_and_can_be_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let watcher = Directories::listen(|_| panic!("a bug in the handler")).unwrap();
        watcher.with(|watcher| watcher.watch(folder.path(), RecursiveMode::Recursive)).unwrap();
        assert!(watcher.barrier());
        std::fs::create_dir(folder.path().join("a")).unwrap();
        let started = std::time::Instant::now();
        while watcher.barrier() {
            assert!(started.elapsed() < Duration::from_secs(10), "the barrier still succeeds");
        }
        drop(watcher);
    }

    #[test]
    fn the_barrier_returns_after_all_earlier_events_were_handled() {
        let folder = tempfile::tempdir().unwrap();
        let handled = Arc::new(Mutex::new(HashSet::new()));
        let register = Arc::clone(&handled);
        let watcher = Directories::listen(move |event: notify::Result<Event>| {
            // As slow as on a busy machine.
            std::thread::sleep(Duration::from_micros(100));
            register.lock().unwrap().extend(event.unwrap().paths);
        });
        let watcher = watcher.unwrap();
        watcher.with(|watcher| watcher.watch(folder.path(), RecursiveMode::Recursive)).unwrap();
        for number in 0..300 {
            let file = folder.path().join(number.to_string());
            std::fs::write(&file, b"").unwrap();
            assert!(watcher.barrier());
            assert!(handled.lock().unwrap().contains(&file), "the event of {number} was not handled");
        }
    }
}
