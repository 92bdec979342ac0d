//! The service around the model's disk: hints on their way, looks in flight, walks, commits and crashes.
//!
//! What looks, confirms, decides and compares is the program's own: `Examiner`, `classify`, `Reconcile`,
//! `Inbox` with its doubts, `FsEvent::merged_over`. What stands around them here does as `service.rs`,
//! `store/commit.rs`, `library/scan.rs` and `library/watch.rs` do, but in whatever order a history says.

mod laws;
mod memory;
mod walks;
mod watcher;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use file_watcher::content::{Contents, Examined, Examiner, Outcome, Patience};
use file_watcher::disk::{Disk as LookedAt, Entry};
use file_watcher::library::{Inbox, Missing};
use file_watcher::model::{
    Content, Extensions, FileStat, Fingerprint, FsEvent, LibraryPath, Metadata, Observation, Origin, Quiet, Renames,
    Seen, Token, Track,
};
use file_watcher::stream::{Hold, Holds};
use futures::FutureExt;
use futures::StreamExt;

use crate::disk::Disk;
use crate::operation::{ContentId, Op, Told};
use memory::Memory;

/// The content of a read that saw the file change: no file ever held this.
const TORN: ContentId = 255;

/// One step of a history.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// Something happens to the disk.
    Do(Op),
    /// One of the kernel's events is handled.
    Hear(u8, Fate),
    /// A hint is looked at, while other things happen: each after so many calls to the disk.
    Look(u8, Vec<(u8, Step)>),
    /// Looks in flight are committed: from this one on, so many; while other things happen.
    Commit(u8, u8, Vec<(u8, Step)>),
    /// A marked subtree is walked, while other things happen.
    Walk(u8, Vec<(u8, Step)>),
    /// Walks whose findings were looked at say what is gone.
    Finish,
    /// Somebody asks for a walk of everything.
    MarkRoot,
    /// Everything that is under way comes to its end.
    Rest,
    /// The process is killed and started again.
    Crash,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Heard,
    Lost,
    HeardTwice,
}

/// What a history may do to hints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kernel {
    /// Loses, repeats and reorders.
    Treacherous,
    /// Tells everything in order.
    Faithful,
    /// Tells nothing: all is found by walking.
    Silent,
}

/// A mark to walk a subtree; those that tell of something gone wait longer, where anybody waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Haste {
    Came,
    Went,
}

struct Round {
    gone: Vec<LibraryPath>,
    looks: Arc<()>,
    is_whole: bool,
    _doubt: Hold,
}

/// A subtree that waits for its walk.
struct Mark {
    haste: Haste,
    doubt: Hold,
}

/// A look that is going on, and every content that its path had meanwhile.
struct Witness {
    path: LibraryPath,
    contents: BTreeSet<ContentId>,
}

/// Paths that are looked at until their outcome is committed, each with what must stay alive as long.
type Leases = Vec<(LibraryPath, Vec<Token>)>;

/// Things still to happen during a look, walk or commit.
type Script = VecDeque<(u8, Step)>;

pub(crate) struct World {
    kernel_is: Kernel,
    pub(crate) disk: RefCell<Disk>,
    kernel: RefCell<VecDeque<Told>>,
    /// Names that went, and whether that made a new mark.
    went: RefCell<BTreeMap<u32, (LibraryPath, bool)>>,
    process: RefCell<Process>,
    memory: Memory,
    /// Subtrees of which nobody tells what happens there.
    unwatched: Holds,
    _polled: Option<Hold>,
    missing: RefCell<Missing>,
    /// Which path held what, at any time.
    held: RefCell<BTreeSet<(LibraryPath, ContentId)>>,
    extensions: Extensions,
    scripts: RefCell<Vec<Script>>,
    witnesses: RefCell<Vec<Witness>>,
    /// What was seen that must not be: told at the end, so that a history can be shrunk.
    pub(crate) faults: RefCell<Vec<String>>,
    /// How often the process was started.
    lives: Cell<u32>,
}

/// What a crash loses.
#[derive(Default)]
struct Process {
    inbox: Inbox,
    /// Hints that wait: for quiet, or for a lease on their path.
    waiting: BTreeMap<LibraryPath, FsEvent>,
    leases: BTreeSet<LibraryPath>,
    in_flight: Vec<Examined>,
    marks: BTreeMap<LibraryPath, Mark>,
    rounds: Vec<Round>,
    failed: BTreeMap<LibraryPath, Hold>,
    claimed: Holds,
}

impl World {
    pub(crate) fn new(kernel_is: Kernel, keeps_births: bool) -> Self {
        let unwatched = Holds::new();
        let world = Self {
            kernel_is,
            _polled: (kernel_is == Kernel::Silent).then(|| unwatched.hold(LibraryPath::root())),
            missing: RefCell::new(Missing::new(unwatched.clone())),
            unwatched,
            disk: RefCell::new(Disk::new(keeps_births)),
            kernel: RefCell::default(),
            went: RefCell::default(),
            process: RefCell::default(),
            memory: Memory::default(),
            held: RefCell::default(),
            extensions: Extensions::default(),
            scripts: RefCell::default(),
            witnesses: RefCell::default(),
            faults: RefCell::default(),
            lives: Cell::new(0),
        };
        world.note(|| "a history begins".into());
        world
    }

    pub(crate) fn fault(&self, fault: String) {
        self.note(|| format!("fault: {fault}"));
        self.faults.borrow_mut().push(fault);
    }

    /// Tells what happens, for who set `MODEL_JOURNAL` to understand a failure.
    fn note(&self, words: impl FnOnce() -> String) {
        static WANTED: LazyLock<bool> = LazyLock::new(|| std::env::var_os("MODEL_JOURNAL").is_some());
        if *WANTED {
            println!("{:indent$}{}", "", words(), indent = 4 * self.scripts.borrow().len());
        }
    }

    pub(crate) fn take(&self, step: &Step) {
        match step {
            Step::Do(op) => self.happen(|disk| disk.apply(*op)),
            Step::Hear(which, fate) => self.hear(*which, *fate),
            Step::Look(which, meanwhile) => self.look(*which, meanwhile),
            Step::Commit(first, count, meanwhile) => self.commit(*first, *count, meanwhile),
            Step::Walk(which, meanwhile) => self.walk_marked(*which, meanwhile),
            Step::Finish => self.finish_rounds(),
            Step::MarkRoot => self.mark(LibraryPath::root(), Haste::Came),
            Step::Rest => self.settle(),
            Step::Crash => self.crash(),
        }
    }

    /// Changes the disk, and lets everybody notice who can.
    pub(crate) fn happen(&self, change: impl FnOnce(&mut Disk) -> Vec<Told>) {
        let told = change(&mut self.disk.borrow_mut());
        self.note(|| format!("disk: {told:?}"));
        if self.kernel_is != Kernel::Silent {
            self.kernel.borrow_mut().extend(told);
        }
        let disk = self.disk.borrow();
        for witness in &mut *self.witnesses.borrow_mut() {
            witness.contents.extend(disk.content_at(&witness.path));
        }
        self.held.borrow_mut().extend(disk.contents());
    }

    fn crash(&self) {
        self.note(|| "crash".into());
        self.kernel.borrow_mut().clear();
        self.went.borrow_mut().clear();
        self.lives.set(self.lives.get() + 1);
        drop(self.process.take());
        self.missing.replace(Missing::new(self.unwatched.clone()));
        // The hints of these writes are lost.
        self.disk.borrow_mut().write_back();
        self.mark(LibraryPath::root(), Haste::Came);
    }

    // The chain: hints wait, one look a path at a time, leases until the commit.

    fn take_in(&self) {
        let process = &mut *self.process.borrow_mut();
        let mut hints = process.inbox.hints();
        while let Some(Some(hint)) = hints.next().now_or_never() {
            if !self.extensions.matches(&hint.path) {
                continue;
            }
            let hint = match process.waiting.remove(&hint.path) {
                Some(older) => hint.merged_over(older),
                None => hint,
            };
            process.waiting.insert(hint.path.clone(), hint);
        }
    }

    /// The hints that could be looked at now. A faithful kernel's deletions wait for everything else,
    /// as they do for a quarter of a second in life.
    fn ready(&self) -> Vec<LibraryPath> {
        self.take_in();
        let process = self.process.borrow();
        let is_deletion = |hint: &FsEvent| hint.quiet == Quiet::Gone;
        let everything_came = self.kernel.borrow().is_empty()
            && process.in_flight.is_empty()
            // No look or walk is under way.
            && self.scripts.borrow().is_empty()
            && process.waiting.values().all(is_deletion)
            && process.marks.values().all(|mark| mark.haste == Haste::Went);
        let may_go = self.kernel_is != Kernel::Faithful || everything_came;
        let is_ready =
            |(path, hint): &(&LibraryPath, &FsEvent)| !process.leases.contains(*path) && (may_go || !is_deletion(hint));
        process.waiting.iter().filter(is_ready).map(|(path, _)| path.clone()).collect()
    }

    fn look(&self, which: u8, meanwhile: &[(u8, Step)]) {
        let ready = self.ready();
        if ready.is_empty() {
            return;
        }
        let path = ready[usize::from(which) % ready.len()].clone();
        let Some(hint) = self.process.borrow_mut().waiting.remove(&path) else { return };
        self.note(|| format!("look at {path} ({:?}, from {:?})", hint.quiet, hint.renamed_from));
        self.process.borrow_mut().leases.insert(path.clone());
        let examiner = self.examiner();
        let open_before = self.disk.borrow().open.len();
        let contents = self.disk.borrow().content_at(&path).into_iter().collect();
        self.witnesses.borrow_mut().push(Witness { path: path.clone(), contents });
        self.scripts.borrow_mut().push(meanwhile.iter().cloned().collect());
        let look = examiner.examine(hint);
        self.note(|| format!("looked at {path}: {}", in_short(&look.outcome)));
        self.scripts.borrow_mut().pop();
        self.disk.borrow_mut().open.truncate(open_before);
        if let Some(witness) = self.witnesses.borrow_mut().pop()
            && let Outcome::New(found, _) | Outcome::Observed(found, _) = &look.outcome
            && let Seen::File { content: Content::Read(track), .. } = &found.seen
            && !witness.contents.contains(&track.fingerprint.sha256[0])
        {
            self.fault(format!(
                "{path}: content {} was read, and it held {:?}",
                track.fingerprint.sha256[0], witness.contents
            ));
        }
        self.process.borrow_mut().in_flight.push(look);
    }

    fn examiner(&self) -> Examiner<&Self, &Self, &Memory> {
        let process = self.process.borrow();
        // Time does not pass here: a file is quiet once two looks saw the same of it.
        let patience =
            Patience { debounce: Duration::ZERO, settle: Duration::ZERO, empty: Duration::ZERO, ignore_ctime: false };
        Examiner {
            disk: self,
            contents: self,
            index: &self.memory,
            patience,
            claimed: process.claimed.clone(),
            doubts: process.inbox.doubts().clone(),
            replaced: process.inbox.replaced().clone(),
            unwatched: self.unwatched.clone(),
            renames: Renames::default(),
            verified_bytes: Arc::default(),
        }
    }

    /// As `Service::commit` does it.
    fn commit(&self, first: u8, count: u8, meanwhile: &[(u8, Step)]) {
        let batch: Vec<Examined> = {
            let in_flight = &mut self.process.borrow_mut().in_flight;
            if in_flight.is_empty() {
                return;
            }
            let first = usize::from(first) % in_flight.len();
            let end = (first + usize::from(count)).min(in_flight.len());
            in_flight.drain(first..end).collect()
        };
        let life = self.lives.get();
        self.note(|| format!("commit {:?}", batch.iter().map(|look| look.path.to_string()).collect::<Vec<_>>()));
        self.scripts.borrow_mut().push(meanwhile.iter().cloned().collect());
        let looks_again_and_leases = self.commit_batch(batch, life);
        self.scripts.borrow_mut().pop();
        let Some((looks_again, leases)) = looks_again_and_leases else { return };
        for look in looks_again {
            self.push(look);
        }
        for (path, tokens) in leases {
            self.process.borrow_mut().leases.remove(&path);
            drop(tokens);
        }
    }

    /// Nothing where the process was killed in the middle.
    fn commit_batch(&self, batch: Vec<Examined>, life: u32) -> Option<(Vec<FsEvent>, Leases)> {
        let mut outcomes = Vec::new();
        let mut leases = Vec::new();
        for Examined { path, outcome, look_under, tokens, displaced, .. } in batch {
            if look_under {
                self.mark(path.clone(), Haste::Came);
            }
            if matches!(outcome, Outcome::Failed(_)) {
                let Process { failed, inbox, .. } = &mut *self.process.borrow_mut();
                failed.entry(path.clone()).or_insert_with_key(|path| inbox.doubts().hold(path.clone()));
            }
            outcomes.push((outcome, displaced));
            leases.push((path, tokens));
        }
        let catch_up = || {
            self.hear_all();
            true
        };
        let (observations, mut looks_again) = self.examiner().confirm(outcomes, false, catch_up);
        let observations: Vec<Observation> = observations.into_iter().map(|(observation, _)| observation).collect();
        (self.lives.get() == life).then_some(())?;
        if observations.is_empty() {
            return Some((looks_again, leases));
        }
        let committed = self.memory.commit(&observations);
        self.note(|| {
            let changes: Vec<_> =
                committed.changes.iter().map(|event| (event.change.event_type(), event.change.path())).collect();
            format!("committed {changes:?}, again {:?}, other names {:?}", committed.again, committed.other_names)
        });
        for observation in &observations {
            self.process.borrow_mut().failed.remove(&observation.path);
        }
        let overtaken = self.examiner().overtaken(&observations, &committed.changes);
        (self.lives.get() == life).then_some(())?;
        // What a look took a file for without reading it did not hold, so it is read.
        let to_be_read = |path| FsEvent { written: true, ..FsEvent::new(path, Quiet::Found, Origin::Watch) };
        looks_again.extend(committed.again.into_iter().map(to_be_read));
        looks_again.extend(overtaken.into_iter().map(|path| FsEvent::new(path, Quiet::Found, Origin::Watch)));
        for path in committed.other_names {
            let hint = FsEvent::new(path, Quiet::Gone, Origin::Watch);
            looks_again.push(self.process.borrow().inbox.doubting(hint));
        }
        Some((looks_again, leases))
    }

    /// Something may happen before each call to the disk.
    fn interrupt(&self) {
        loop {
            let step = {
                let mut scripts = self.scripts.borrow_mut();
                let Some(script) = scripts.last_mut() else { return };
                match script.front_mut() {
                    Some((0, _)) => script.pop_front().map(|(_, step)| step),
                    Some((wait, _)) => {
                        *wait -= 1;
                        None
                    }
                    None => None,
                }
            };
            let Some(step) = step else { return };
            // What happens meanwhile is not itself interrupted by the same script.
            self.scripts.borrow_mut().push(Script::new());
            self.take(&step);
            self.scripts.borrow_mut().pop();
        }
    }

    // The end of a history.

    /// The kernel's queue is lost.
    pub(crate) fn hints_stop(&self) {
        self.kernel.borrow_mut().clear();
        self.disk.borrow_mut().write_back();
    }

    pub(crate) fn hear_all(&self) {
        while !self.kernel.borrow().is_empty() {
            self.hear(0, Fate::Heard);
        }
    }

    /// Walks everything, now, whatever else is still under way.
    pub(crate) fn look_at_the_root(&self) {
        let root = LibraryPath::root();
        self.process.borrow_mut().marks.clear();
        self.mark(root, Haste::Came);
        self.walk_marked(0, &[]);
    }

    /// Lets everything that is under way come to its end.
    pub(crate) fn settle(&self) {
        for _ in 0..200 {
            self.hear_all();
            while !self.ready().is_empty() && self.process.borrow().in_flight.len() < 5 {
                self.look(0, &[]);
            }
            self.commit(0, 3, &[]);
            self.finish_rounds();
            self.take_in();
            if self.process.borrow().in_flight.is_empty() && self.ready().is_empty() {
                self.walk_marked(0, &[]);
            }
            let process = self.process.borrow();
            let is_done = process.waiting.is_empty()
                && process.inbox.is_empty()
                && process.in_flight.is_empty()
                && process.marks.is_empty()
                && process.rounds.is_empty();
            if is_done {
                return;
            }
        }
        let process = self.process.borrow();
        self.fault(format!("it never comes to an end: {:?}, marks {:?}", process.waiting, process.marks.keys()));
    }
}

impl LookedAt for &World {
    type File = usize;

    fn entry(&self, path: &LibraryPath) -> io::Result<Entry> {
        self.interrupt();
        self.disk.borrow().entry(path)
    }

    fn open(&self, path: &LibraryPath) -> io::Result<Option<(usize, FileStat)>> {
        self.interrupt();
        let mut disk = self.disk.borrow_mut();
        let opened = disk.open(path)?;
        Ok(opened.map(|inode| (inode, disk.stat(inode))))
    }

    fn stat(&self, file: &usize) -> io::Result<FileStat> {
        self.interrupt();
        Ok(self.disk.borrow().stat(*file))
    }

    fn has_one_name(&self, path: &LibraryPath) -> io::Result<bool> {
        self.interrupt();
        self.disk.borrow().has_one_name(path)
    }
}

impl Contents<usize> for &World {
    /// Reads in two halves, between which anything may happen.
    fn read(&self, file: &usize, _path: &LibraryPath, _known: Option<&Track>) -> io::Result<Track> {
        self.interrupt();
        let first_half = self.disk.borrow().content(*file);
        self.interrupt();
        let second_half = self.disk.borrow().content(*file);
        let content = if first_half == second_half { first_half } else { TORN };
        let fingerprint = Fingerprint { sha256: [content; 32], xxh128: u128::from(content) };
        Ok(Track { fingerprint, metadata: Metadata::default() })
    }
}

fn in_short(outcome: &Outcome) -> String {
    match outcome {
        Outcome::New(Observation { seen: Seen::File { stat, content, candidates }, .. }, _)
        | Outcome::Observed(Observation { seen: Seen::File { stat, content, candidates }, .. }, _)
        | Outcome::Trusted(Observation { seen: Seen::File { stat, content, candidates }, .. }, _) => {
            let content = match content {
                Content::Read(track) => format!("content {}", track.fingerprint.sha256[0]),
                Content::MovedFrom(source) => format!("moved from {source}"),
            };
            let how = if matches!(outcome, Outcome::Trusted(..)) { "trusted" } else { "observed" };
            format!("{how} inode {} ctime {}, {content}, candidates {candidates:?}", stat.inode, stat.ctime_ns)
        }
        Outcome::New(..) | Outcome::Observed(..) | Outcome::Trusted(..) => "missing".into(),
        Outcome::Unchanged => "unchanged".into(),
        Outcome::Held => "held".into(),
        Outcome::LeftToWalk => "left to the next walk".into(),
        Outcome::Again(look) => format!("again, {:?}", look.quiet),
        Outcome::Failed(error) => format!("failed: {error}"),
    }
}
