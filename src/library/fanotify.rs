//! Watching whole filesystems through fanotify, on hosts that allow it.
//!
//! One mark covers a filesystem. So directories need no watches, and nothing that happens in a new directory is missed.
//! An event names a directory by its file handle, with the name of an entry in it. The handle leads to the path that the
//! directory has now. A directory that was removed has no path, so its events are dropped: the event of its own removal
//! has the whole directory walked.
//!
//! fanotify(7) describes the events. The directories of the mounts are opened for each batch of events only, so that
//! a filesystem can be unmounted at any time.

use std::collections::HashSet;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, SyncSender, TryRecvError, channel, sync_channel};
use std::thread;

use fanotify_fid::consts::{
    FAN_ATTRIB, FAN_CLASS_NOTIF, FAN_CLOEXEC, FAN_CLOSE_WRITE, FAN_CREATE, FAN_DELETE, FAN_MARK_ADD,
    FAN_MARK_FILESYSTEM, FAN_NONBLOCK, FAN_ONDIR, FAN_RENAME, FAN_REPORT_DFID_NAME,
};
use fanotify_fid::{EventReader, Fanotify, FanotifyError, FidEvent};
use notify::event::{AccessKind, AccessMode, CreateKind, Flag, MetadataKind, ModifyKind, RemoveKind, RenameMode};
use notify::{Event, EventKind};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};

use super::events::{Handler, Translator};
use super::places::{PathTooLong, Places};
use super::watch::WatchError;
use crate::disk::Root;
use crate::engine::WatchTrouble;
use crate::model::with_causes;

/// The events of a mark. No MODIFY and no OPEN, as with inotify.
const EVENTS: u64 = FAN_CREATE | FAN_DELETE | FAN_RENAME | FAN_ATTRIB | FAN_CLOSE_WRITE | FAN_ONDIR;

/// Events name directories by their handles, and entries by their names.
const GROUP: u32 = FAN_CLASS_NOTIF | FAN_CLOEXEC | FAN_NONBLOCK | FAN_REPORT_DFID_NAME;

/// Bytes of events that are read at once.
const BATCH_BYTES: usize = 64 << 10;

/// The number of events after which the others are left to the next time. By default, the kernel keeps half as many.
const LONGEST_WINDOW: usize = 32_768;

/// The marks of the filesystems of a library, and the thread that reads their events. It ends when this is dropped.
pub(super) struct Filesystems {
    barriers: Sender<SyncSender<()>>,
    wake: Arc<OwnedFd>,
}

impl Filesystems {
    /// As [`Watcher::of_filesystems`](super::Watcher::of_filesystems).
    pub(super) fn watch(handler: Handler) -> Result<Self, WatchError> {
        let refused = |cause| WatchError::NoFanotify { filesystem: handler.root.path().to_path_buf(), cause };
        let group = Fanotify::new(GROUP).map_err(|error| refused(cause_of(&error)))?;
        let wake = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(io::Error::from)?);
        let (barriers, requests) = channel();
        let real_root = handler.root.path().canonicalize().map_err(refused)?;
        let mut reader = Reader {
            group,
            places: Places::default(),
            root: Arc::clone(&handler.root),
            real_root: real_root.clone(),
            trouble: Arc::clone(&handler.trouble),
            requests,
            wake: Arc::clone(&wake),
            marked_links: None,
            renames: 0,
        };
        reader.mark(&real_root).map_err(refused)?;
        let avoided: Vec<PathBuf> = handler.avoided.iter().map(|place| place.to_absolute(&real_root)).collect();
        reader.mark_mounts(&avoided);
        reader.mark_links();
        let translator = Translator::of_filesystems(handler, real_root);
        thread::Builder::new().name("fanotify".to_owned()).spawn(move || reader.run(translator))?;
        Ok(Self { barriers, wake })
    }

    /// As [`Watcher::barrier`](super::Watcher::barrier).
    pub(super) fn barrier(&self) -> bool {
        let (done, is_done) = sync_channel(1);
        self.barriers.send(done).is_ok() && ring(&self.wake) && is_done.recv().is_ok()
    }
}

impl Drop for Filesystems {
    fn drop(&mut self) {
        // The thread sees that nobody can ask for a barrier any more. It is not awaited: it may be this one.
        self.barriers = channel().0;
        ring(&self.wake);
    }
}

fn ring(wake: &OwnedFd) -> bool {
    rustix::io::write(wake, &1_u64.to_ne_bytes()).is_ok()
}

/// The thread that reads the events.
struct Reader {
    group: Fanotify,
    places: Places,
    root: Arc<Root>,
    /// The path of the root without links, as the paths of directories are.
    real_root: PathBuf,
    trouble: Arc<dyn Fn(WatchTrouble) + Send + Sync>,
    requests: Receiver<SyncSender<()>>,
    wake: Arc<OwnedFd>,
    /// The version of the links whose targets are marked.
    marked_links: Option<u64>,
    /// The number of renames so far, which pairs their halves.
    renames: usize,
}

impl Reader {
    /// Reads until the watcher is dropped, or the kernel refuses.
    fn run(mut self, mut translator: Translator) {
        loop {
            let mut barriers = Vec::new();
            loop {
                match self.requests.try_recv() {
                    Ok(barrier) => barriers.push(barrier),
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => return,
                }
            }
            self.mark_links();
            if let Err(error) = self.read(&mut translator) {
                (self.trouble)(WatchTrouble::Other(error.to_string()));
                return;
            }
            for barrier in barriers {
                let _ = barrier.send(());
            }
            self.wait();
        }
    }

    /// Waits for an event or a request.
    fn wait(&self) {
        let wake: &OwnedFd = &self.wake;
        let mut ready = [PollFd::new(&self.group, PollFlags::IN), PollFd::new(wake, PollFlags::IN)];
        // After a signal, the loop asks again.
        let _ = poll(&mut ready, None);
        let mut count = [0; 8];
        let _ = rustix::io::read(wake, &mut count);
    }

    /// Handles the events until there are no more, or very many.
    fn read(&mut self, translator: &mut Translator) -> io::Result<()> {
        let mut reader = EventReader::new(&self.group, BATCH_BYTES);
        let (mut window, mut count) = (Window::default(), 0);
        while count < LONGEST_WINDOW {
            let (events, report) = match reader.read_reported() {
                Ok(read) => read,
                Err(error) if error.is_would_block() => break,
                Err(error) => return Err(cause_of(&error)),
            };
            if !report.is_complete() {
                return Err(io::Error::other("the events of fanotify have an unknown form"));
            }
            count += events.len();
            for event in events {
                if event.is_overflow() {
                    window.events.push(lost());
                    continue;
                }
                let is_of_directory = event.mask() & FAN_ONDIR != 0;
                let take = |event: Event, path: PathBuf| {
                    // Most events of a filesystem may be about something else.
                    if path.starts_with(&self.real_root) || self.root.follows_links_out() {
                        window.take(event.add_path(path), is_of_directory);
                    }
                };
                if read_event(event, &mut self.places, &mut self.renames, take).is_err() {
                    let reason = "the paths of some directories are too long to be watched".to_owned();
                    (self.trouble)(WatchTrouble::Other(reason));
                }
            }
            self.places.forget();
        }
        if count >= LONGEST_WINDOW && !window.left.is_empty() {
            // What makes it ambiguous may come later.
            window.events.push(lost());
        }
        window.hand_over(translator);
        Ok(())
    }

    /// Marks the filesystems that are mounted under the root.
    fn mark_mounts(&mut self, avoided: &[PathBuf]) {
        for mount in self.root.mount_entries() {
            // What servers do is found by scans.
            if !mount.has_server() && !avoided.contains(&mount.point) {
                self.mark_or_report(&mount.point);
            }
        }
    }

    /// Marks the filesystems of the targets of links that lead out of the library, after each search for links.
    fn mark_links(&mut self) {
        let version = self.root.links_version();
        if self.root.follows_links_out() && self.marked_links.replace(version) != Some(version) {
            for target in self.root.link_targets().into_keys() {
                self.mark_or_report(&target);
            }
        }
    }

    fn mark_or_report(&mut self, place: &Path) {
        match self.mark(place) {
            Ok(()) => {}
            // It is gone already, which another scan finds.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(cause) => {
                let error = WatchError::NoFanotify { filesystem: place.to_path_buf(), cause };
                (self.trouble)(WatchTrouble::Other(with_causes(&error)));
            }
        }
    }

    fn mark(&mut self, place: &Path) -> io::Result<()> {
        let marked = self.group.mark(FAN_MARK_ADD | FAN_MARK_FILESYSTEM, EVENTS, place);
        marked.map_err(|error| cause_of(&error))?;
        self.places.add(place)
    }
}

/// The error of the kernel.
fn cause_of(error: &FanotifyError) -> io::Error {
    error.errno().map_or_else(|| io::Error::other(error.to_string()), io::Error::from_raw_os_error)
}

/// The event that says that events were lost.
fn lost() -> Event {
    Event::new(EventKind::Other).set_flag(Flag::Rescan)
}

/// Events that waited in the kernel's queue at the same time.
///
/// The kernel merges an event with an equal one that still waits. So if a file left a name, and another one came to that
/// name later, it may have left in the same way, without another event. Renames that hide others in this way are bundled:
/// each file may have any of the names.
#[derive(Default)]
struct Window {
    events: Vec<Event>,
    left: HashSet<PathBuf>,
    has_directory: bool,
    is_ambiguous: bool,
}

impl Window {
    fn take(&mut self, event: Event, is_of_directory: bool) {
        let Some(path) = event.paths.first() else { return };
        match event.kind {
            EventKind::Modify(ModifyKind::Name(RenameMode::From)) => {
                // What was renamed in a directory is reported under the path that the directory has now.
                self.is_ambiguous |= (is_of_directory || self.has_directory) && !self.left.is_empty();
                self.has_directory |= is_of_directory;
                self.left.insert(path.clone());
            }
            EventKind::Create(_) | EventKind::Modify(ModifyKind::Name(RenameMode::To)) => {
                self.is_ambiguous |= self.left.contains(path);
            }
            _ => {}
        }
        self.events.push(event);
    }

    fn hand_over(self, translator: &mut Translator) {
        if self.is_ambiguous {
            translator.handle_bundle(self.events.into_iter());
        } else {
            for event in self.events {
                translator.handle(Ok(event));
            }
        }
    }
}

/// Gives what an event says to `take`, for each place from which its directory can be reached.
fn read_event(
    event: &FidEvent<'_>,
    places: &mut Places,
    renames: &mut usize,
    mut take: impl FnMut(Event, PathBuf),
) -> Result<(), PathTooLong> {
    let Some(fsid) = event.fsid() else { return Ok(()) };
    for place in places.of(fsid) {
        if event.mask() & FAN_RENAME != 0 {
            *renames += 1;
            let halves = [(RenameMode::From, event.rename_source()), (RenameMode::To, event.rename_target())];
            for (mode, side) in halves {
                let Some(side) = side else { continue };
                if let Some(path) = place.entry(side.handle(), side.name())? {
                    let kind = EventKind::Modify(ModifyKind::Name(mode));
                    take(Event::new(kind).set_tracker(*renames), path);
                }
            }
            if event.mask() & FAN_ONDIR != 0 {
                place.forget();
            }
        } else if let (Some(handle), Some(name)) = (event.dfid_name_handle(), event.dfid_name())
            && let Some(path) = place.entry(handle, name)?
        {
            for kind in kinds(event.mask(), &path) {
                take(Event::new(kind), path.clone());
            }
        }
    }
    Ok(())
}

/// What an event says of an entry. The kernel merges events of one name, so it may say several things, without their
/// order: of a name that was created and removed, the last one is what the disk shows.
fn kinds(mask: u64, path: &Path) -> impl Iterator<Item = EventKind> + use<> {
    let is_directory = mask & FAN_ONDIR != 0;
    let (created, removed) =
        if is_directory { (CreateKind::Folder, RemoveKind::Folder) } else { (CreateKind::File, RemoveKind::File) };
    let removed = (FAN_DELETE, EventKind::Remove(removed));
    let others = [
        (FAN_CREATE, EventKind::Create(created)),
        (FAN_ATTRIB, EventKind::Modify(ModifyKind::Metadata(MetadataKind::Any))),
        (FAN_CLOSE_WRITE, EventKind::Access(AccessKind::Close(AccessMode::Write))),
    ];
    let is_removed_last = mask & FAN_DELETE != 0 && path.symlink_metadata().is_err();
    let (first, last) = if is_removed_last { (None, Some(removed)) } else { (Some(removed), None) };
    first.into_iter().chain(others).chain(last).filter(move |(bit, _)| mask & bit != 0).map(|(_, kind)| kind)
}

impl std::fmt::Debug for Filesystems {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Filesystems")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether a window with these renames and creations is ambiguous.
    fn is_ambiguous(events: &[(&str, &str)]) -> bool {
        let mut window = Window::default();
        for (from, to) in events {
            let is_of_directory = to.ends_with('/');
            let halves = [(RenameMode::From, from), (RenameMode::To, to)];
            for (mode, path) in halves.into_iter().filter(|(_, path)| !path.is_empty()) {
                let created = EventKind::Create(CreateKind::File);
                let kind = if from.is_empty() { created } else { EventKind::Modify(ModifyKind::Name(mode)) };
                window.take(Event::new(kind).add_path(path.into()), is_of_directory);
            }
        }
        window.is_ambiguous
    }

    #[test]
    fn renames_that_may_hide_others_are_ambiguous() {
        for clear in [
            &[("a", "b")][..],
            &[("a", "b"), ("c", "d"), ("e", "b")],
            &[("", "a"), ("a", "b")],
            &[("a", "b"), ("b", "c")],
            &[("a/", "b/")],
            &[("", "a"), ("", "b"), ("", "a")],
        ] {
            assert!(!is_ambiguous(clear), "{clear:?}");
        }
        for ambiguous in [
            &[("a", "b"), ("b", "a")][..],
            &[("a", "b"), ("x", "a")],
            &[("a", "b"), ("", "a")],
            &[("a", "b"), ("c/", "d/")],
            &[("c/", "d/"), ("a", "b")],
        ] {
            assert!(is_ambiguous(ambiguous), "{ambiguous:?}");
        }
    }

    #[test]
    fn of_a_name_that_was_created_and_removed_the_disk_says_which_was_last() {
        let folder = tempfile::tempdir().unwrap();
        let kinds = |name: &str, mask| kinds(mask, &folder.path().join(name)).collect::<Vec<_>>();
        let (created, removed) = (EventKind::Create(CreateKind::File), EventKind::Remove(RemoveKind::File));
        std::fs::write(folder.path().join("here"), "").unwrap();
        assert_eq!(kinds("here", FAN_CREATE | FAN_DELETE), [removed, created]);
        assert_eq!(kinds("gone", FAN_CREATE | FAN_DELETE), [created, removed]);
        assert_eq!(kinds("gone", FAN_DELETE | FAN_ONDIR), [EventKind::Remove(RemoveKind::Folder)]);
        let closed = EventKind::Access(AccessKind::Close(AccessMode::Write));
        assert_eq!(kinds("here", FAN_CLOSE_WRITE | FAN_CREATE), [created, closed]);
    }
}
