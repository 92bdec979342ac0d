//! The walks that the engine asks for.

use std::time::Duration;

use file_watcher::engine::{Engine, FullWalk, Missing, Round, Verdict, tie_together};
use file_watcher::library::{Difference, Reconcile, Walked};
use file_watcher::model::{Cause, FsEvent, Index, LibraryPath};

use super::{Kernel, PendingRound, Step, World};

/// With a reliable kernel, longer waits than this end only when nothing else happens.
const LONG_WAIT: Duration = Duration::from_millis(50);

impl World {
    /// Lets time pass until a walk may begin. `None` if that takes too long or no walk is marked.
    fn next_round(&self, which: u8) -> Option<Round> {
        if self.kernel_kind == Kernel::Unreliable && which.is_multiple_of(4) {
            self.pass(Duration::from_millis(400));
        }
        loop {
            let now = self.now().instant;
            let engine = self.process.borrow().engine.clone();
            let (round, deadline) = engine.with(|engine| {
                engine.tick(now);
                (engine.begin_round(now), engine.next_deadline())
            });
            if round.is_some() {
                return round;
            }
            let wait = deadline?.saturating_duration_since(now);
            if self.kernel_kind == Kernel::Reliable && wait > LONG_WAIT && !self.is_quiet() {
                return None;
            }
            self.pass(wait);
        }
    }

    fn is_quiet(&self) -> bool {
        let process = self.process.borrow();
        self.events.borrow().is_empty() && process.waiting.is_empty() && !process.engine.with(|it| it.has_hints())
    }

    pub(super) fn walk_marked(&self, which: u8, meanwhile: &[(u8, Step)]) {
        let Some(round) = self.next_round(which) else { return };
        self.note(|| format!("walk {:?}", round.subtrees));
        // The new directories are watched from now on.
        self.new_directories.borrow_mut().clear();
        let start = self.starts.get();
        self.scripts.borrow_mut().push(meanwhile.iter().cloned().collect());
        let engine = self.process.borrow().engine.clone();
        let mut missing =
            if round.is_of_everything { engine.with(Engine::begin_full_walk) } else { Missing::default() };
        let mut excluded = Vec::new();
        let mut replaced = Vec::new();
        let index = &self.memory;
        for subtree in &round.subtrees {
            let walk = Walk { world: self, start: subtree, last: None };
            for difference in Reconcile::new(walk, &index, subtree.clone(), self.ignore_ctime) {
                if self.starts.get() != start {
                    break;
                }
                match difference.unwrap() {
                    Difference::Same(..) | Difference::Unreadable(..) => {}
                    Difference::Look(path) => {
                        let hint = FsEvent::new(path, Cause::Found, round.origin);
                        let engine = self.process.borrow().engine.clone();
                        let hint = engine.with(|engine| engine.found(round.id, hint));
                        self.push(hint);
                    }
                    Difference::Replaced(found) => replaced.push(found),
                    Difference::Gone(path, _) if self.is_excluded(&path) => excluded.push(path),
                    Difference::Gone(path, mount) if self.is_mount_gone(&path) => {
                        missing.add_away(path, mount, None);
                    }
                    Difference::Gone(path, _) => missing.add_here(path),
                }
            }
        }
        self.scripts.borrow_mut().pop();
        if self.starts.get() != start {
            return;
        }
        let mut second_wave = Vec::new();
        let process = &mut *self.process.borrow_mut();
        process.engine.with(|engine| {
            for (path, ties) in tie_together(replaced) {
                let hint = FsEvent::new(path, Cause::Found, round.origin).tied(ties);
                second_wave.push(engine.found_replaced(round.id, hint));
            }
            engine.walk_ended(round.id);
        });
        process.rounds.push(PendingRound { round, missing, excluded, second_wave });
    }

    /// Continues every round whose looks are done.
    pub(super) fn finish_rounds(&self) {
        let now = self.now();
        let index = &self.memory;
        self.take_in();
        let process = &mut *self.process.borrow_mut();
        process.rounds.retain_mut(|pending| {
            let PendingRound { round, missing, excluded, second_wave } = pending;
            let id = round.id;
            process.engine.with(|engine| {
                if second_wave.is_empty() || engine.is_first_wave_done(id) {
                    second_wave.drain(..).for_each(|hint| engine.push(hint, now.instant));
                    engine.found_all(id);
                }
                if !engine.is_looked_at(id) {
                    return true;
                }
                let is_indexed = |path: &LibraryPath| index.row(path).unwrap().is_some();
                excluded.retain(is_indexed);
                let mut missing = std::mem::take(missing);
                missing.retain(is_indexed);
                let mut looks: Vec<FsEvent> = Vec::new();
                let look = |path| FsEvent::new(path, Cause::Gone, round.origin).indexed();
                if round.is_of_everything {
                    let walk = FullWalk {
                        is_root_empty: self.disk.borrow().is_bare(),
                        indexed: self.memory.rows().len() as u64,
                        missing,
                        ..FullWalk::default()
                    };
                    let is_root_empty = walk.is_root_empty;
                    let Verdict { gone, approved } = engine.missed_by_full_walk(walk, |_| None, now);
                    if is_root_empty && !gone.is_empty() {
                        self.fail(format!("the library is empty, and {gone:?} are to be deleted unasked"));
                    }
                    looks.extend(gone.into_iter().map(look));
                    looks.extend(approved.into_iter().map(|(path, token)| {
                        let mut look = look(path).holding(token);
                        look.guards.approved = true;
                        look
                    }));
                } else {
                    looks.extend(engine.missed_by_subtree_walk(missing, false, now.instant).into_iter().map(look));
                }
                for look in excluded.drain(..).map(look).chain(looks) {
                    let ties = engine.ties_of_missed(id, &look.path);
                    engine.push(look.tied(ties), now.instant);
                }
                engine.round_ended(id);
                false
            })
        });
    }

    /// What a walk of a subtree finds in the current state, without what the rules exclude.
    pub(super) fn walk_now(&self, start: &LibraryPath) -> Vec<Walked> {
        let mut walked = self.disk.borrow().walk(start, &self.extensions);
        walked.retain(|walked| !self.is_excluded(&walked.path()));
        walked
    }

    pub(super) fn mark_root(&self) {
        let now = self.now().instant;
        self.process.borrow().engine.with(|engine| engine.mark(LibraryPath::root(), Duration::ZERO, now));
    }

    /// Approves the deletes that are held now.
    pub(super) fn approve(&self) {
        let is_approved = self.process.borrow().engine.with(|engine| engine.approve(&LibraryPath::root()));
        if is_approved {
            self.note(|| "approved".into());
            self.mark_root();
        }
    }

    /// The first mark of a process, as it does not know about earlier changes.
    pub(super) fn mark_root_at_start(&self) {
        let now = self.now().instant;
        self.process.borrow().engine.with(|engine| {
            let ties = engine.ties_of_unwatched_time();
            engine.mark_tied(LibraryPath::root(), Duration::ZERO, ties, now)
        });
    }
}

/// A walk that sees each entry in its state at that moment.
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
            Walked::File(path, _) => path.to_path(),
            Walked::Unreadable(path, _) => path.join(b""),
        };
        let walked = self.world.walk_now(self.start);
        let next = walked.into_iter().find(|walked| self.last.as_ref().is_none_or(|last| place(walked) > *last))?;
        self.last = Some(place(&next));
        Some(next)
    }
}
