//! The watcher: what `src/library/watch.rs` makes of the kernel's words, as far as these arrive.

use file_watcher::disk::Entry;
use file_watcher::model::{FsEvent, LibraryPath, Origin, Quiet};

use super::{Fate, Haste, Kernel, Mark, Process, World};
use crate::operation::Told;

impl World {
    pub(super) fn hear(&self, which: u8, fate: Fate) {
        let (which, fate) = match self.kernel_is {
            Kernel::Treacherous => (usize::from(which), fate),
            Kernel::Faithful | Kernel::Silent => (0, Fate::Heard),
        };
        let told = {
            let mut kernel = self.kernel.borrow_mut();
            let which = if kernel.is_empty() { return } else { which % kernel.len() };
            kernel.remove(which)
        };
        let Some(told) = told else { return };
        self.note(|| format!("{fate:?}: {told:?}"));
        match fate {
            Fate::Lost => {
                // A write that changed no time and of which nothing is told is found when its pages are
                // written back, and not before.
                self.disk.borrow_mut().write_back();
                // That it overflowed the kernel says where the lost event would have come. Nothing is said
                // of what happens in a new directory before it is watched.
                if !told.path().is_some_and(|path| self.is_in_new_directory(path)) {
                    self.mark(LibraryPath::root(), Haste::Came);
                }
            }
            Fate::Heard => self.translate(told),
            Fate::HeardTwice => {
                self.translate(told.clone());
                self.translate(told);
            }
        }
    }

    fn translate(&self, told: Told) {
        let is_audio = |path: &LibraryPath| self.extensions.matches(path);
        match told {
            Told::Created(path) if is_audio(&path) => self.content_may_have_changed(path, Quiet::Created, false),
            Told::Closed(path) if is_audio(&path) => self.content_may_have_changed(path, Quiet::Closed, true),
            Told::Attributes(path) if is_audio(&path) => self.content_may_have_changed(path, Quiet::Touched, false),
            Told::Removed(path) if is_audio(&path) => self.push(FsEvent::new(path, Quiet::Gone, Origin::Watch)),
            Told::Created(_) | Told::Closed(_) | Told::Attributes(_) | Told::Removed(_) => {}
            Told::DirectoryAttributes(path) if is_audio(&path) => {
                self.content_may_have_changed(path, Quiet::Touched, false);
            }
            Told::DirectoryMade(path) | Told::DirectoryAttributes(path) => self.mark(path, Haste::Came),
            Told::DirectoryRemoved(path) => self.mark(path, Haste::Went),
            Told::Unmounted => self.mark(LibraryPath::root(), Haste::Went),
            Told::Went(path, number) => {
                let mut is_new = false;
                if is_audio(&path) {
                    self.push(FsEvent::new(path.clone(), Quiet::Gone, Origin::Watch));
                } else {
                    is_new = !self.process.borrow().marks.contains_key(&path);
                    self.mark(path.clone(), Haste::Went);
                }
                self.went.borrow_mut().insert(number, (path, is_new));
            }
            Told::Came(path, number) => {
                let from = self.went.borrow_mut().remove(&number);
                let entry = self.disk.borrow().entry(&path);
                if matches!(entry, Ok(Entry::Directory)) {
                    self.mark(path, Haste::Came);
                    return;
                }
                if let (Some((from, true)), Ok(Entry::File(_))) = (&from, entry) {
                    self.process.borrow_mut().marks.remove(from);
                }
                if is_audio(&path) {
                    let mut hint = FsEvent::new(path, Quiet::Renamed, Origin::Watch);
                    let process = self.process.borrow();
                    hint.renamed_from =
                        from.map(|(from, _)| from).filter(|from| is_audio(from) && !process.inbox.doubts().cover(from));
                    if hint.renamed_from.is_none() {
                        hint = process.inbox.doubting(hint);
                    }
                    drop(process);
                    self.push(hint);
                }
            }
        }
    }

    fn content_may_have_changed(&self, path: LibraryPath, quiet: Quiet, written: bool) {
        let hint = FsEvent { written, ..FsEvent::new(path, quiet, Origin::Watch) };
        let hint = self.process.borrow().inbox.doubting(hint);
        self.push(hint);
    }

    pub(super) fn push(&self, hint: FsEvent) {
        self.process.borrow().inbox.push(hint);
    }

    pub(super) fn mark(&self, subtree: LibraryPath, haste: Haste) {
        let Process { marks, inbox, .. } = &mut *self.process.borrow_mut();
        let mark = marks.entry(subtree).or_insert_with_key(|path| {
            let doubt = inbox.doubts().hold(path.clone());
            Mark { haste, doubt }
        });
        mark.haste = haste.min(mark.haste);
    }

    fn is_in_new_directory(&self, path: &LibraryPath) -> bool {
        let is_above = |(directory, mark): (&LibraryPath, &Mark)| {
            mark.haste == Haste::Came && !directory.is_root() && path != directory && path.is_at_or_under(directory)
        };
        self.process.borrow().marks.iter().any(is_above)
    }
}
