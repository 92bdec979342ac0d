//! Walks, as `src/library/scan.rs` makes them.

use std::sync::Arc;

use file_watcher::library::{Difference, Reconcile, Replaced, Walked};
use file_watcher::model::{FsEvent, Index, LibraryPath, Origin, Quiet, Token};

use super::{Haste, Kernel, Round, Step, World};

impl World {
    pub(super) fn walk_marked(&self, which: u8, meanwhile: &[(u8, Step)]) {
        let (subtree, doubt) = {
            let process = &mut *self.process.borrow_mut();
            let quiet = self.kernel.borrow().is_empty() && process.waiting.is_empty();
            let may_walk_gone = self.kernel_is != Kernel::Faithful
                || (quiet && process.marks.values().all(|mark| mark.haste == Haste::Went));
            let due: Vec<LibraryPath> = process
                .marks
                .iter()
                .filter(|(_, mark)| may_walk_gone || mark.haste == Haste::Came)
                .map(|(path, _)| path.clone())
                .collect();
            if due.is_empty() {
                return;
            }
            let subtree = due[usize::from(which) % due.len()].clone();
            let Some(mark) = process.marks.remove(&subtree) else { return };
            (subtree, mark.doubt)
        };
        self.note(|| format!("walk {subtree}"));
        let is_whole = subtree.is_root();
        let looks = Arc::new(());
        let place = {
            let rounds = &mut self.process.borrow_mut().rounds;
            // It counts as not looked at until it has come to its end.
            rounds.push(Round { gone: Vec::new(), looks: Arc::clone(&looks), is_whole, _doubt: doubt });
            Arc::clone(&looks)
        };
        let origin = if is_whole { Origin::Scan } else { Origin::Watch };
        self.scripts.borrow_mut().push(meanwhile.iter().cloned().collect());
        let mut gone = Vec::new();
        let index = &self.memory;
        let walk = Walk { world: self, start: &subtree, last: None };
        for difference in Reconcile::new(walk, &index, subtree.clone(), false) {
            match difference.unwrap() {
                Difference::Same(..) | Difference::Unreadable(..) => {}
                Difference::Look(path) | Difference::Replaced(Replaced { path, .. }) => {
                    let hint = FsEvent::new(path, Quiet::Found, origin);
                    let mut hint = self.process.borrow().inbox.doubting(hint);
                    hint.walks.push(Token::new(Arc::clone(&looks)));
                    self.push(hint);
                }
                Difference::Gone(path, _) => gone.push(path),
            }
        }
        self.scripts.borrow_mut().pop();
        let rounds = &mut self.process.borrow_mut().rounds;
        if let Some(round) = rounds.iter_mut().find(|round| Arc::ptr_eq(&round.looks, &place)) {
            round.gone = gone;
        }
    }

    pub(super) fn finish_rounds(&self) {
        self.take_in();
        let mut told = Vec::new();
        {
            let rounds = &mut self.process.borrow_mut().rounds;
            let mut earlier_are_done = true;
            let mut kept = Vec::new();
            for round in rounds.drain(..) {
                let is_done = Arc::strong_count(&round.looks) == 1;
                if is_done && earlier_are_done {
                    told.push((round.gone.clone(), round.is_whole));
                }
                let was_told = is_done && earlier_are_done;
                // A walk of everything is waited for by itself alone.
                earlier_are_done &= is_done || round.is_whole;
                if !was_told {
                    kept.push(round);
                }
            }
            *rounds = kept;
        }
        let index = &self.memory;
        for (mut missed, is_whole) in told {
            missed.retain(|path| index.row(path).unwrap().is_some());
            let count = missed.len();
            let missing = self.missing.borrow();
            let gone = if is_whole { missing.twice(missed, 0) } else { missing.beneath_a_subtree(missed) };
            if is_whole && gone.len() < count {
                self.mark(LibraryPath::root(), Haste::Came);
            }
            let origin = if is_whole { Origin::Scan } else { Origin::Watch };
            for path in gone {
                self.push(FsEvent::new(path, Quiet::Gone, origin));
            }
        }
    }
}

/// A walk that sees each directory entry as it is when it comes by.
struct Walk<'a> {
    world: &'a World,
    start: &'a LibraryPath,
    last: Option<LibraryPath>,
}

impl Iterator for Walk<'_> {
    type Item = Walked;

    fn next(&mut self) -> Option<Walked> {
        self.world.interrupt();
        let place = |walked: &Walked| match walked {
            Walked::File(path, _) => path.clone(),
            Walked::Unreadable(path, _) => path.join(b""),
        };
        let walked = self.world.disk.borrow().walk(self.start, &self.world.extensions);
        let next = walked.into_iter().find(|walked| self.last.as_ref().is_none_or(|last| place(walked) > *last))?;
        self.last = Some(place(&next));
        Some(next)
    }
}
