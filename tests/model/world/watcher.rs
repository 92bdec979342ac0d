//! The watcher: passes the delivered events to the engine.

use file_watcher::disk::Entry;
use file_watcher::engine::{Found, KernelEvent, KernelEventKind};
use file_watcher::model::LibraryPath;

use super::{Delivery, Kernel, World};
use crate::operation::Event;

impl World {
    pub(super) fn deliver(&self, which: u8, delivery: Delivery) {
        let (which, delivery) = match self.kernel_kind {
            Kernel::Unreliable => (usize::from(which), delivery),
            Kernel::Reliable | Kernel::Silent => (0, Delivery::Once),
        };
        let event = {
            let mut events = self.events.borrow_mut();
            let which = if events.is_empty() { return } else { which % events.len() };
            events.remove(which)
        };
        let Some(event) = event else { return };
        self.note(|| format!("{delivery:?}: {event:?}"));
        match delivery {
            Delivery::Lost => {
                // A write that changed no time and whose event was lost is found only after its pages were written back.
                self.disk.borrow_mut().write_back();
                // An overflow is reported instead of the lost event. A change in a new directory before it is watched
                // has no event at all.
                if !event.path().is_some_and(|path| self.is_in_new_directory(path)) {
                    self.mark_root();
                }
            }
            Delivery::Once => self.translate(event),
            Delivery::Duplicated => {
                self.translate(event.clone());
                self.translate(event);
            }
        }
    }

    fn translate(&self, event: Event) {
        let (path, kind, cookie) = match event {
            Event::Created(path) => (path, KernelEventKind::Created, None),
            Event::Closed(path) => (path, KernelEventKind::ClosedAfterWriting, None),
            Event::Attributes(path) | Event::DirectoryAttributes(path) => {
                (path, KernelEventKind::AttributesChanged, None)
            }
            Event::Removed(path) => (path, KernelEventKind::Removed, None),
            Event::DirectoryCreated(path) => (path, KernelEventKind::DirectoryCreated, None),
            Event::DirectoryRemoved(path) => (path, KernelEventKind::DirectoryRemoved, None),
            Event::MovedFrom(path, number) => (path, KernelEventKind::MovedFrom, Some(number)),
            Event::MovedTo(path, number) => (path, KernelEventKind::MovedTo, Some(number)),
            Event::Unmounted => return self.mark_root(),
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
            bundle: None,
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
