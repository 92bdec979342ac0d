//! The service around the model's disk: pending hints, looks in flight, walks, commits and crashes.
//!
//! All decisions are the program's: the engine, `Examiner`, `classify`, `Reconcile`, `FsEvent::merged_over` and the order of
//! tied looks. The model has its own disk, event queue and clock. The history determines the order of steps.

mod laws;
mod memory;
mod walks;
mod watcher;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant, SystemTime};

use file_watcher::content::{Contents, Examined, Examiner, Outcome, SettlePolicy};
use file_watcher::disk::{Disk as DiskAccess, Entry};
use file_watcher::engine::{Missing, Now, Round, SharedEngine};
use file_watcher::model::{
    Cause, Change, Content, Extensions, FileStat, Fingerprint, FsEvent, LibraryPath, Metadata, Observation, Origin,
    Seen, Sound, Ties, Token, Track,
};
use file_watcher::stream::Tied;

use crate::disk::Disk;
use crate::operation::{ContentId, Event, Op};
use memory::Memory;

/// The content of a read during which the file changed. No file ever has it.
const TORN: ContentId = 255;

/// One step of a history.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// An operation on the disk.
    Do(Op),
    /// One of the queued events is delivered or lost.
    Deliver(u8, Delivery),
    /// A hint is looked at. Other steps happen during the look, each after a number of calls to the disk.
    Look(u8, Vec<(u8, Step)>),
    /// Looks in flight are committed: the first of them, their number, and other steps during the commit.
    Commit(u8, u8, Vec<(u8, Step)>),
    /// A marked subtree is walked. Other steps happen during the walk.
    Walk(u8, Vec<(u8, Step)>),
    /// Rounds whose looks are done publish the missing files.
    Finish,
    /// A walk of everything is requested.
    MarkRoot,
    /// The held deletes are approved.
    Approve,
    /// Everything pending is completed.
    Rest,
    /// The process is killed and restarted. From then on, the rules exclude the directory with this index of [`EXCLUDED`],
    /// or none.
    Crash(u8),
}

/// How an event is delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Delivery {
    Once,
    Lost,
    Duplicated,
}

/// How the kernel delivers events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kernel {
    /// Loses, repeats and reorders events.
    Unreliable,
    /// Delivers all events in order.
    Reliable,
    /// Delivers no events. Only walks find changes.
    Silent,
}

/// A round whose looks are not done.
struct PendingRound {
    round: Round,
    /// Rows for which the walk found no file, without those that the rules exclude.
    missing: Missing,
    /// Those that the rules exclude.
    excluded: Vec<LibraryPath>,
    /// Hints for replaced paths. They wait for the looks of the first wave.
    second_wave: Vec<FsEvent>,
}

/// A running look, and every content that its path had during it.
struct Witness {
    path: LibraryPath,
    contents: BTreeSet<ContentId>,
}

/// Leased paths, and the tokens that are kept until the commit.
type Leases = Vec<(LibraryPath, Vec<Token>)>;

/// The steps that still have to happen during a look, walk or commit.
type Script = VecDeque<(u8, Step)>;

pub(crate) struct World {
    kernel_kind: Kernel,
    /// Whether walks ignore a difference in ctime alone. Then no walk repairs a wrong guess about a renamed file.
    ignore_ctime: bool,
    pub(crate) disk: RefCell<Disk>,
    events: RefCell<VecDeque<Event>>,
    /// Directories that were not walked since they were created. Changes before they were watched have no events.
    new_directories: RefCell<BTreeSet<LibraryPath>>,
    process: RefCell<Process>,
    memory: Memory,
    /// Every content that each path ever had.
    ever_held: RefCell<BTreeSet<(LibraryPath, ContentId)>>,
    extensions: Extensions,
    /// The directory that the rules exclude.
    excluded: RefCell<Option<LibraryPath>>,
    started: Instant,
    /// The time that has passed.
    elapsed: Cell<Duration>,
    /// Whether the looks in flight have waited for each other up to the limit.
    is_wait_limit_reached: Cell<bool>,
    scripts: RefCell<Vec<Script>>,
    witnesses: RefCell<Vec<Witness>>,
    /// Violated laws. They are reported at the end, so that a history can be shrunk.
    pub(crate) failures: RefCell<Vec<String>>,
    /// The number of restarts.
    starts: Cell<u32>,
}

/// The state that a crash loses.
#[derive(Default)]
struct Process {
    engine: SharedEngine,
    /// Present if only walks find changes.
    _unwatched: Option<Token>,
    /// Hints that wait for their path to become quiet, or for its lease.
    waiting: BTreeMap<LibraryPath, FsEvent>,
    leases: BTreeSet<LibraryPath>,
    in_flight: Vec<Examined>,
    rounds: Vec<PendingRound>,
}

/// The directories that a restart may exclude. Any other index excludes nothing.
const EXCLUDED: [&str; 3] = ["b", "a/d", "a"];

impl Process {
    fn start(kernel_kind: Kernel) -> Self {
        let engine = SharedEngine::new();
        let only_walks = kernel_kind == Kernel::Silent;
        let unwatched = only_walks.then(|| engine.trust(|trust| trust.leave_unwatched(&LibraryPath::root())));
        Self { engine, _unwatched: unwatched, ..Self::default() }
    }
}

impl World {
    pub(crate) fn new(kernel_kind: Kernel, keeps_births: bool, ignore_ctime: bool) -> Self {
        let world = Self {
            kernel_kind,
            ignore_ctime,
            disk: RefCell::new(Disk::new(keeps_births)),
            events: RefCell::default(),
            new_directories: RefCell::default(),
            process: RefCell::new(Process::start(kernel_kind)),
            memory: Memory::default(),
            ever_held: RefCell::default(),
            extensions: Extensions::default(),
            excluded: RefCell::default(),
            started: Instant::now(),
            elapsed: Cell::default(),
            is_wait_limit_reached: Cell::default(),
            scripts: RefCell::default(),
            witnesses: RefCell::default(),
            failures: RefCell::default(),
            starts: Cell::new(0),
        };
        world.note(|| "a history begins".into());
        world
    }

    pub(crate) fn fail(&self, failure: String) {
        self.note(|| format!("failure: {failure}"));
        self.failures.borrow_mut().push(failure);
    }

    /// Prints a line of the journal if `MODEL_JOURNAL` is set.
    fn note(&self, line: impl FnOnce() -> String) {
        static WANTED: LazyLock<bool> = LazyLock::new(|| std::env::var_os("MODEL_JOURNAL").is_some());
        if *WANTED {
            println!("{:indent$}{}", "", line(), indent = 4 * self.scripts.borrow().len());
        }
    }

    pub(crate) fn take(&self, step: &Step) {
        match step {
            Step::Do(op) => self.happen(|disk| disk.apply(*op)),
            Step::Deliver(which, delivery) => self.deliver(*which, *delivery),
            Step::Look(which, meanwhile) => self.look(*which, meanwhile),
            Step::Commit(first, count, meanwhile) => self.commit(*first, *count, meanwhile),
            Step::Walk(which, meanwhile) => self.walk_marked(*which, meanwhile),
            Step::Finish => self.finish_rounds(),
            Step::MarkRoot => self.mark_root(),
            Step::Approve => self.approve(),
            Step::Rest => self.settle(),
            Step::Crash(excluded) => self.crash(*excluded),
        }
    }

    /// Changes the disk, queues the events and records the new contents.
    pub(crate) fn happen(&self, change: impl FnOnce(&mut Disk) -> Vec<Event>) {
        let events = change(&mut self.disk.borrow_mut());
        self.note(|| format!("disk: {events:?}"));
        if self.kernel_kind != Kernel::Silent {
            self.events.borrow_mut().extend(events);
        }
        let disk = self.disk.borrow();
        for witness in &mut *self.witnesses.borrow_mut() {
            witness.contents.extend(disk.content_at(&witness.path));
        }
        self.ever_held.borrow_mut().extend(disk.contents());
    }

    fn crash(&self, excluded: u8) {
        self.note(|| format!("crash, {excluded}"));
        self.events.borrow_mut().clear();
        self.new_directories.borrow_mut().clear();
        self.starts.set(self.starts.get() + 1);
        self.excluded.replace(EXCLUDED.get(usize::from(excluded)).map(|path| LibraryPath::from(*path)));
        drop(self.process.replace(Process::start(self.kernel_kind)));
        // The events of these writes are lost.
        self.disk.borrow_mut().write_back();
        self.mark_root_at_start();
    }

    /// Whether the rules exclude a path.
    fn is_excluded(&self, path: &LibraryPath) -> bool {
        self.excluded.borrow().as_ref().is_some_and(|excluded| path.is_at_or_under(excluded))
    }

    fn now(&self) -> Now {
        Now { instant: self.started + self.elapsed.get(), wall: SystemTime::now() }
    }

    fn pass(&self, time: Duration) {
        self.elapsed.set(self.elapsed.get() + time);
    }

    fn push(&self, hint: FsEvent) {
        let now = self.now().instant;
        self.process.borrow().engine.with(|engine| engine.push(hint, now));
    }

    // The chain: waiting hints, one look per path at a time, leases until the commit.

    fn take_in(&self) {
        let process = &mut *self.process.borrow_mut();
        while let Some(hint) = process.engine.with(file_watcher::engine::Engine::next_hint) {
            if !self.extensions.matches(&hint.path) || (self.is_excluded(&hint.path) && !hint.guards.is_indexed) {
                continue;
            }
            let hint = match process.waiting.remove(&hint.path) {
                Some(older) => hint.merged_over(older),
                None => hint,
            };
            process.waiting.insert(hint.path.clone(), hint);
        }
    }

    /// The paths that could be looked at now. With a reliable kernel, hints for gone paths wait for everything else, as the
    /// service delays them by a quarter of a second.
    fn ready(&self) -> Vec<LibraryPath> {
        self.take_in();
        let process = self.process.borrow();
        let is_deletion = |hint: &FsEvent| hint.cause == Cause::Gone;
        // Nothing waits for a look that was already repeated several times.
        let may_wait =
            |hint: &FsEvent| is_deletion(hint) || (matches!(hint.cause, Cause::Again(_)) && hint.retry.attempt > 3);
        let waits_for_others = |look: &Examined| look.ties().is_some_and(|ties| !ties.left_in.is_empty());
        let everything_arrived = self.events.borrow().is_empty()
            && process.in_flight.iter().all(waits_for_others)
            // No look or walk is running.
            && self.scripts.borrow().is_empty()
            && process.waiting.values().all(may_wait)
            && self.has_only_long_waits(&process);
        let may_go = self.kernel_kind != Kernel::Reliable || everything_arrived;
        let is_ready =
            |(path, hint): &(&LibraryPath, &FsEvent)| !process.leases.contains(*path) && (may_go || !is_deletion(hint));
        process.waiting.iter().filter(is_ready).map(|(path, _)| path.clone()).collect()
    }

    /// Whether the engine has no deadline soon.
    fn has_only_long_waits(&self, process: &Process) -> bool {
        let now = self.now().instant;
        let deadline = process.engine.with(|engine| engine.next_deadline());
        deadline.is_none_or(|deadline| deadline.saturating_duration_since(now) > Duration::from_millis(50))
    }

    fn look(&self, which: u8, meanwhile: &[(u8, Step)]) {
        let ready = self.ready();
        if ready.is_empty() {
            return;
        }
        let path = ready[usize::from(which) % ready.len()].clone();
        let Some(hint) = self.process.borrow_mut().waiting.remove(&path) else { return };
        self.note(|| format!("look at {path} ({:?}, from {:?})", hint.cause, hint.evidence.renamed_from));
        self.process.borrow_mut().leases.insert(path.clone());
        let examiner = self.examiner();
        let open_before = self.disk.borrow().open.len();
        let contents = self.disk.borrow().content_at(&path).into_iter().collect();
        self.witnesses.borrow_mut().push(Witness { path: path.clone(), contents });
        self.scripts.borrow_mut().push(meanwhile.iter().cloned().collect());
        let mut look = examiner.examine(hint);
        self.note(|| format!("looked at {path}: {}", summary(&look.outcome)));
        self.scripts.borrow_mut().pop();
        self.disk.borrow_mut().open.truncate(open_before);
        if let Some(witness) = self.witnesses.borrow_mut().pop()
            && let Outcome::New(found, _) | Outcome::Observed(found, _) = &look.outcome
            && let Seen::File { content: Content::Read(track), .. } = &found.seen
            && !witness.contents.contains(&track.fingerprint.sha256[0])
        {
            self.fail(format!(
                "{path}: content {} was read, but it only had {:?}",
                track.fingerprint.sha256[0], witness.contents
            ));
        }
        let process = &mut *self.process.borrow_mut();
        // As `together` does with tied looks.
        if let Some(at) = process.in_flight.iter().position(|older| older.path == look.path) {
            look = look.in_place_of(process.in_flight.remove(at));
        }
        if look.ties().is_some_and(|ties| !ties.left_in.is_empty()) {
            look.begin_waiting();
            process.leases.remove(&path);
        }
        process.in_flight.push(look);
    }

    fn examiner(&self) -> Examiner<&Self, &Self, &Memory> {
        let process = self.process.borrow();
        // Time does not pass here. A file is settled once two looks saw the same stat.
        let settle_policy = SettlePolicy {
            debounce: Duration::ZERO,
            settle: Duration::ZERO,
            empty: Duration::ZERO,
            ignore_ctime: self.ignore_ctime,
        };
        Examiner {
            disk: self,
            contents: self,
            index: &self.memory,
            settle_policy,
            engine: process.engine.clone(),
            verified_bytes: Arc::default(),
        }
    }

    /// As `Service::commit` does.
    fn commit(&self, first: u8, count: u8, meanwhile: &[(u8, Step)]) {
        let batch = self.take_batch(usize::from(first), usize::from(count));
        if batch.is_empty() {
            return;
        }
        let start = self.starts.get();
        self.note(|| format!("commit {:?}", batch.iter().map(|look| look.path.to_string()).collect::<Vec<_>>()));
        self.scripts.borrow_mut().push(meanwhile.iter().cloned().collect());
        let looks_again_and_leases = self.commit_batch(batch, start);
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

    /// Takes looks that are committed together. With an unreliable kernel, any look may have reached the limit of its wait,
    /// so it is committed without the looks that it is tied to.
    fn take_batch(&self, first: usize, count: usize) -> Vec<Examined> {
        let in_flight = &mut self.process.borrow_mut().in_flight;
        if in_flight.is_empty() {
            return Vec::new();
        }
        let first = first % in_flight.len();
        if self.kernel_kind == Kernel::Unreliable || self.is_wait_limit_reached.take() {
            let end = (first + count).min(in_flight.len());
            return in_flight.drain(first..end).collect();
        }
        let tied = in_flight.iter().enumerate();
        let tied = tied.filter_map(|(at, look)| Some((at, look.ties().filter(|ties| !ties.left_in.is_empty())?)));
        let tied: BTreeMap<usize, &Ties> = tied.collect();
        let complete = Ties::complete(&tied);
        let is_due: BTreeSet<usize> = (0..in_flight.len())
            .filter(|at| complete.contains(at) || (!tied.contains_key(at) && (first..first + count).contains(at)))
            .collect();
        let mut at = 0;
        let is_taken = |_: &mut Examined| {
            at += 1;
            is_due.contains(&(at - 1))
        };
        in_flight.extract_if(.., is_taken).collect()
    }

    /// `None` if the process was killed during the commit.
    fn commit_batch(&self, batch: Vec<Examined>, start: u32) -> Option<(Vec<FsEvent>, Leases)> {
        let mut outcomes = Vec::new();
        let mut leases = Vec::new();
        let left_in_doubt = batch.iter().any(|look| look.left_in_doubt);
        for Examined { path, outcome, look_under, tokens, displaced, .. } in batch {
            let now = self.now().instant;
            self.process.borrow().engine.with(|engine| {
                if look_under {
                    engine.mark(path.clone(), Duration::ZERO, now);
                }
                match &outcome {
                    Outcome::Failed(error) => drop(engine.look_failed(&path, &error.to_string())),
                    Outcome::Held => engine.look_was_held(now),
                    _ => {}
                }
            });
            outcomes.push((outcome, displaced));
            leases.push((path, tokens));
        }
        let catch_up = || {
            self.deliver_all();
            true
        };
        if left_in_doubt {
            catch_up();
        }
        let (observations, mut looks_again) = self.examiner().confirm(outcomes, false, catch_up);
        let (observations, instead): (Vec<Observation>, Vec<FsEvent>) = observations.into_iter().unzip();
        (self.starts.get() == start).then_some(())?;
        if observations.is_empty() {
            return Some((looks_again, leases));
        }
        let committed = self.memory.commit(&observations);
        self.note(|| {
            let changes: Vec<_> =
                committed.changes.iter().map(|event| (event.change.event_type(), event.change.path())).collect();
            format!("committed {changes:?}, again {:?}, other names {:?}", committed.again, committed.other_names)
        });
        self.process.borrow().engine.with(|engine| {
            for observation in &observations {
                engine.looked_at(&observation.path);
            }
            for event in &committed.changes {
                if let Change::Deleted(path) = &event.change {
                    engine.deleted(path);
                }
            }
        });
        let overtaken = self.examiner().overtaken(&observations, &committed.changes);
        (self.starts.get() == start).then_some(())?;
        let origin = observations[0].origin;
        // They are read this time: the conclusion from their stats alone was wrong.
        let again = instead.into_iter().filter(|look| committed.again.contains(&look.path));
        looks_again.extend(again.map(FsEvent::written));
        looks_again.extend(overtaken.into_iter().map(|path| FsEvent::new(path, Cause::Found, origin)));
        let (process, now) = (self.process.borrow(), self.now().instant);
        for path in committed.other_names {
            process.engine.with(|engine| engine.push_other_name(path, origin, now));
        }
        drop(process);
        Some((looks_again, leases))
    }

    /// Runs the steps that are due before this call to the disk.
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
            // The steps of a script are not interrupted by the same script.
            self.scripts.borrow_mut().push(Script::new());
            self.take(&step);
            self.scripts.borrow_mut().pop();
        }
    }

    // The end of a history.

    /// Loses all queued events.
    pub(crate) fn drop_events(&self) {
        self.events.borrow_mut().clear();
        self.disk.borrow_mut().write_back();
    }

    pub(crate) fn deliver_all(&self) {
        while !self.events.borrow().is_empty() {
            self.deliver(0, Delivery::Once);
        }
    }

    /// Walks everything now, whatever else is pending.
    pub(crate) fn walk_root(&self) {
        self.process.borrow().engine.with(file_watcher::engine::Engine::unmark_all);
        self.mark_root();
        self.walk_marked(0, &[]);
    }

    /// Completes everything that is pending.
    pub(crate) fn settle(&self) {
        for turn in 1..200_u32 {
            // After several turns, tied looks have waited for each other up to the limit.
            if turn.is_multiple_of(10) {
                self.is_wait_limit_reached.set(true);
            }
            self.deliver_all();
            while !self.ready().is_empty() && self.process.borrow().in_flight.len() < 5 {
                self.look(0, &[]);
            }
            let before = self.process.borrow().in_flight.len();
            self.commit(0, 3, &[]);
            self.finish_rounds();
            self.take_in();
            let is_stuck = self.process.borrow().in_flight.len() == before && self.ready().is_empty();
            if self.ready().is_empty() && (is_stuck || before == 0) {
                self.walk_marked(0, &[]);
                self.finish_rounds();
                self.take_in();
                if self.process.borrow().in_flight.len() == before && self.ready().is_empty() {
                    self.is_wait_limit_reached.set(true);
                }
            }
            let process = self.process.borrow();
            let is_done = process.waiting.is_empty()
                && process.in_flight.is_empty()
                && process.rounds.is_empty()
                && process
                    .engine
                    .with(|engine| !engine.has_hints() && !engine.has_rounds() && engine.next_deadline().is_none());
            if is_done {
                return;
            }
        }
        let process = self.process.borrow();
        self.fail(format!("it never settles: {:?}, {:?}", process.waiting, process.engine));
    }
}

impl DiskAccess for &World {
    type File = usize;

    fn entry(&self, path: &LibraryPath) -> io::Result<Entry> {
        self.interrupt();
        if self.is_excluded(path) {
            let nearest_mount = self.disk.borrow().entry(path).ok().and_then(Entry::nearest_mount);
            return Ok(Entry::Excluded { nearest_mount });
        }
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
    /// Reads in two halves. Other steps may happen between them.
    fn read(&self, file: &usize, _path: &LibraryPath, _known: Option<&Track>, _: Origin) -> io::Result<Track> {
        self.interrupt();
        let first_half = self.disk.borrow().content(*file);
        self.interrupt();
        let second_half = self.disk.borrow().content(*file);
        let content = if first_half == second_half { first_half } else { TORN };
        let fingerprint = Fingerprint { sha256: [content; 32], xxh128: u128::from(content) };
        // Two contents each differ only in their tags.
        let sound = Some(Sound { xxh128: u128::from(content / 2), bytes: Sound::DISTINCTIVE });
        Ok(Track { fingerprint, sound, metadata: Metadata::default() })
    }
}

fn summary(outcome: &Outcome) -> String {
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
        Outcome::Again(look) => format!("again, {:?}", look.cause),
        Outcome::Failed(error) => format!("failed: {error}"),
    }
}
