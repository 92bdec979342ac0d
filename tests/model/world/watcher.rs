//! The watcher: hands the kernel's events to the engine, as far as they arrive.

use file_watcher::disk::Entry;
use file_watcher::engine::{Found, KernelEvent, KernelEventKind};
use file_watcher::model::LibraryPath;

use super::{Fate, Kernel, World};
use crate::operation::Told;

impl World {
    pub(super) fn hear(&self, which: u8, fate: Fate) {
        let (which, fate) = match self.kernel_is {
            Kernel::Treacherous => (usize::from(which), fate),
            Kernel::Faithful | Kernel::Silent => (0, Fate::Heard),
        };
        let event = {
            let mut kernel = self.kernel.borrow_mut();
            let which = if kernel.is_empty() { return } else { which % kernel.len() };
            kernel.remove(which)
        };
        let Some(event) = event else { return };
        self.note(|| format!("{fate:?}: {event:?}"));
        match fate {
            Fate::Lost => {
                // A write that changed no time and without an event is found when its pages are written back, and
                // not before.
                self.disk.borrow_mut().write_back();
                // An overflow is reported in the place of the lost event. What happens in a new directory before it is
                // watched has no event at all.
                if !event.path().is_some_and(|path| self.is_in_new_directory(path)) {
                    self.mark_root();
                }
            }
            Fate::Heard => self.translate(event),
            Fate::HeardTwice => {
                self.translate(event.clone());
                self.translate(event);
            }
        }
    }

    fn translate(&self, event: Told) {
        let (path, kind, cookie) = match event {
            Told::Created(path) => (path, KernelEventKind::Created, None),
            Told::Closed(path) => (path, KernelEventKind::ClosedAfterWriting, None),
            Told::Attributes(path) | Told::DirectoryAttributes(path) => {
                (path, KernelEventKind::AttributesChanged, None)
            }
            Told::Removed(path) => (path, KernelEventKind::Removed, None),
            Told::DirectoryMade(path) => (path, KernelEventKind::DirectoryCreated, None),
            Told::DirectoryRemoved(path) => (path, KernelEventKind::DirectoryRemoved, None),
            Told::Went(path, number) => (path, KernelEventKind::MovedFrom, Some(number)),
            Told::Came(path, number) => (path, KernelEventKind::MovedTo, Some(number)),
            Told::Unmounted => return self.mark_root(),
        };
        let is_excluded = self.is_excluded(&path);
        let has_audio_name = self.extensions.matches(&path);
        let found = if is_excluded || kind.needs_found(has_audio_name) { self.found(&path) } else { Found::Nothing };
        if kind == KernelEventKind::DirectoryCreated || found == Found::Directory {
            self.new_directories.borrow_mut().insert(path.clone());
        }
        let event = KernelEvent {
            path,
            kind,
            cookie: cookie.map(|number| usize::try_from(number).unwrap()),
            has_audio_name,
            found,
            follows_links: false,
            aliases: Vec::new(),
            generation: 0,
        };
        let now = self.now();
        self.process.borrow().engine.with(|engine| {
            if is_excluded {
                engine.excluded_event(&event);
            } else {
                engine.kernel_event(&event, now);
            }
        });
    }

    fn found(&self, path: &LibraryPath) -> Found {
        match self.disk.borrow().entry(path) {
            Ok(Entry::Directory) => Found::Directory,
            Ok(Entry::File(_)) => Found::File,
            _ => Found::Nothing,
        }
    }

    fn is_in_new_directory(&self, path: &LibraryPath) -> bool {
        let new = self.new_directories.borrow();
        new.iter().any(|directory| path != directory && path.is_at_or_under(directory))
    }
}
