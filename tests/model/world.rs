//! The service around the model's disk: hints on their way, looks in flight, walks, commits and crashes.
//!
//! What looks, decides, compares and commits is the program's own: `Examiner`, `classify` inside of
//! `Store`, `Reconcile`, `Inbox`, `FsEvent::merged_over`. What stands around them here does as
//! `service.rs`, `library/scan.rs` and `library/watch.rs` do, but in whatever order a history says.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use file_watcher::content::{Contents, Examined, Examiner, Outcome, Patience};
use file_watcher::disk::{Disk as LookedAt, Entry};
use file_watcher::library::{Difference, Inbox, Reconcile, Walked};
use file_watcher::message::Encoder;
use file_watcher::model::{
    Content, Extensions, FileStat, Fingerprint, FsEvent, Index, LibraryPath, Metadata, MetadataStyle, Observation,
    Origin, Quiet, Row, Seen, Token, Track,
};
use file_watcher::store::{IndexReader, Store};
use file_watcher::stream::Holds;
use futures::FutureExt;
use futures::StreamExt;
use futures::executor::block_on;
use rusqlite::Connection;

use crate::disk::{ContentId, Disk, Op, Told};

const ROOT: &str = "/music";

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
    /// Looks in flight are committed: from this one on, so many.
    Commit(u8, u8),
    /// A marked subtree is walked, while other things happen.
    Walk(u8, Vec<(u8, Step)>),
    /// Walks whose findings were looked at say what is gone.
    Finish,
    /// Somebody asks for a walk of everything.
    MarkRoot,
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
}

/// A look that is going on, and every content that its path had meanwhile.
struct Witness {
    path: LibraryPath,
    contents: BTreeSet<ContentId>,
}

/// Things still to happen during a look or walk.
type Script = VecDeque<(u8, Step)>;

pub(crate) struct World {
    kernel_is: Kernel,
    pub(crate) disk: RefCell<Disk>,
    kernel: RefCell<VecDeque<Told>>,
    /// Names that went, and whether that made a new mark.
    went: RefCell<BTreeMap<u32, (LibraryPath, bool)>>,
    process: RefCell<Process>,
    store: RefCell<Store>,
    database: Database,
    extensions: Extensions,
    scripts: RefCell<Vec<Script>>,
    witnesses: RefCell<Vec<Witness>>,
    /// What was seen that must not be: told at the end, so that a history can be shrunk.
    pub(crate) faults: RefCell<Vec<String>>,
    pub(crate) looks: Cell<u64>,
}

/// What a crash loses.
#[derive(Default)]
struct Process {
    inbox: Inbox,
    /// Hints that wait: for quiet, or for a lease on their path.
    waiting: BTreeMap<LibraryPath, FsEvent>,
    leases: BTreeSet<LibraryPath>,
    in_flight: Vec<Examined>,
    marks: BTreeMap<LibraryPath, Haste>,
    rounds: Vec<Round>,
    claimed: Holds,
    dirty: Holds,
}

/// SQLite in memory, kept from one history to the next: making tables takes longer than a history does.
pub(crate) struct Database {
    uri: String,
    connection: Connection,
    first_sequence: u64,
}

impl Database {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let uri = format!("file:/model-{}?vfs=memdb", COUNT.fetch_add(1, Ordering::Relaxed));
        let connection = Connection::open(&uri).unwrap();
        Self { uri, connection, first_sequence: 0 }
    }

    fn store(&self) -> Store {
        let encoder = Encoder::new("model", Path::new(ROOT), MetadataStyle::Off);
        Store::open(Path::new(&self.uri), ROOT.as_bytes(), encoder).unwrap()
    }

    /// The messages since the history began: sequence and body.
    fn outbox(&self) -> Vec<(u64, serde_json::Value)> {
        let mut statement =
            self.connection.prepare_cached("SELECT sequence, body FROM outbox ORDER BY sequence").unwrap();
        let read = |row: &rusqlite::Row<'_>| Ok((row.get::<_, i64>(0)?, row.get::<_, Vec<u8>>(1)?));
        let rows = statement.query_map([], read).unwrap().map(Result::unwrap);
        rows.map(|(sequence, body)| (sequence.cast_unsigned(), serde_json::from_slice(&body).unwrap())).collect()
    }
}

thread_local! {
    static KEPT: RefCell<Option<(Database, Store)>> = const { RefCell::new(None) };
}

impl World {
    pub(crate) fn new(kernel_is: Kernel) -> Self {
        let (mut database, store) = KEPT.take().unwrap_or_else(|| {
            let database = Database::new();
            let store = database.store();
            (database, store)
        });
        database.connection.execute_batch("DELETE FROM files; DELETE FROM outbox").unwrap();
        database.first_sequence = store.last_sequence();
        Self {
            kernel_is,
            disk: RefCell::new(Disk::new()),
            kernel: RefCell::default(),
            went: RefCell::default(),
            process: RefCell::default(),
            store: RefCell::new(store),
            database,
            extensions: Extensions::default(),
            scripts: RefCell::default(),
            witnesses: RefCell::default(),
            faults: RefCell::default(),
            looks: Cell::new(0),
        }
    }

    /// Gives the store back for the next history.
    pub(crate) fn end(self) {
        KEPT.set(Some((self.database, self.store.into_inner())));
    }

    pub(crate) fn index(&self) -> IndexReader {
        self.store.borrow().index().clone()
    }

    fn fault(&self, fault: String) {
        self.faults.borrow_mut().push(fault);
    }

    pub(crate) fn take(&self, step: &Step) {
        match step {
            Step::Do(op) => self.happen(|disk| disk.apply(*op)),
            Step::Hear(which, fate) => self.hear(*which, *fate),
            Step::Look(which, meanwhile) => self.look(*which, meanwhile),
            Step::Commit(first, count) => self.commit(*first, *count),
            Step::Walk(which, meanwhile) => self.walk_marked(*which, meanwhile),
            Step::Finish => self.finish_rounds(),
            Step::MarkRoot => self.mark(LibraryPath::root(), Haste::Came),
            Step::Crash => self.crash(),
        }
    }

    /// Changes the disk, and lets everybody notice who can.
    pub(crate) fn happen(&self, change: impl FnOnce(&mut Disk) -> Vec<Told>) {
        let told = change(&mut self.disk.borrow_mut());
        self.kernel.borrow_mut().extend(told);
        let disk = self.disk.borrow();
        for witness in &mut *self.witnesses.borrow_mut() {
            witness.contents.extend(disk.content_at(&witness.path));
        }
    }

    fn crash(&self) {
        self.kernel.borrow_mut().clear();
        self.went.borrow_mut().clear();
        *self.process.borrow_mut() = Process::default();
        // Opened again beside the old one, which goes then: nobody else holds the memory that it is in.
        let reopened = self.database.store();
        if reopened.last_sequence() != self.store.borrow().last_sequence() {
            self.fault("the sequence did not survive a restart".into());
        }
        *self.store.borrow_mut() = reopened;
        // The hints of these writes are lost.
        self.disk.borrow_mut().write_back();
        self.mark(LibraryPath::root(), Haste::Came);
    }

    // The watcher: what src/library/watch.rs makes of the kernel's words.

    fn hear(&self, which: u8, fate: Fate) {
        let (which, fate) = match self.kernel_is {
            Kernel::Treacherous => (usize::from(which), fate),
            Kernel::Faithful => (0, Fate::Heard),
        };
        let told = {
            let mut kernel = self.kernel.borrow_mut();
            let which = if kernel.is_empty() { return } else { which % kernel.len() };
            kernel.remove(which)
        };
        let Some(told) = told else { return };
        match fate {
            Fate::Lost => {
                // A write that changed no time and of which nothing is told is found when its pages are
                // written back, and not before.
                self.disk.borrow_mut().write_back();
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
            Told::DirectoryMade(path) => self.mark(path, Haste::Came),
            Told::DirectoryAttributes(path) if is_audio(&path) => {
                self.content_may_have_changed(path, Quiet::Touched, false);
            }
            Told::DirectoryAttributes(path) => self.mark(path, Haste::Came),
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
                if self.disk.borrow().is_directory(&path) {
                    self.mark(path, Haste::Came);
                    return;
                }
                if let Some((from, true)) = &from {
                    self.process.borrow_mut().marks.remove(from);
                }
                if is_audio(&path) {
                    let mut hint = FsEvent::new(path, Quiet::Renamed, Origin::Watch);
                    hint.renamed_from = from.map(|(from, _)| from);
                    self.push(hint);
                }
            }
        }
    }

    fn content_may_have_changed(&self, path: LibraryPath, quiet: Quiet, written: bool) {
        let mut hint = FsEvent::new(path.clone(), quiet, Origin::Watch);
        hint.written = written;
        hint.holds.push(Token::new(self.process.borrow().dirty.hold(path)));
        self.push(hint);
    }

    fn push(&self, hint: FsEvent) {
        self.process.borrow().inbox.push(hint);
    }

    fn mark(&self, subtree: LibraryPath, haste: Haste) {
        let marks = &mut self.process.borrow_mut().marks;
        let kept = marks.entry(subtree).or_insert(haste);
        *kept = haste.min(*kept);
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
        let free = |path: &&LibraryPath| !process.leases.contains(*path);
        let appearances: Vec<LibraryPath> = process
            .waiting
            .iter()
            .filter(|(_, hint)| hint.quiet != Quiet::Gone)
            .map(|(path, _)| path)
            .filter(free)
            .cloned()
            .collect();
        let everything_came = appearances.is_empty()
            && self.kernel.borrow().is_empty()
            && process.marks.values().all(|haste| *haste == Haste::Went);
        match self.kernel_is {
            Kernel::Faithful if !everything_came => appearances,
            _ => process.waiting.keys().filter(free).cloned().collect(),
        }
    }

    fn look(&self, which: u8, meanwhile: &[(u8, Step)]) {
        let ready = self.ready();
        if ready.is_empty() {
            return;
        }
        let path = ready[usize::from(which) % ready.len()].clone();
        let Some(hint) = self.process.borrow_mut().waiting.remove(&path) else { return };
        self.process.borrow_mut().leases.insert(path.clone());
        let examiner = self.examiner();
        let open_before = self.disk.borrow().open.len();
        let contents = self.disk.borrow().content_at(&path).into_iter().collect();
        self.witnesses.borrow_mut().push(Witness { path: path.clone(), contents });
        self.scripts.borrow_mut().push(meanwhile.iter().cloned().collect());
        let examined = examiner.examine(hint);
        self.scripts.borrow_mut().pop();
        self.disk.borrow_mut().open.truncate(open_before);
        if let Some(witness) = self.witnesses.borrow_mut().pop()
            && let Outcome::Observed(Observation { seen: Seen::File { content: Content::Read(track), .. }, .. }) =
                &examined.outcome
            && !witness.contents.contains(&track.fingerprint.sha256[0])
        {
            self.fault(format!(
                "{path}: content {} was read, and it held {:?}",
                track.fingerprint.sha256[0], witness.contents
            ));
        }
        self.looks.set(self.looks.get() + 1);
        self.process.borrow_mut().in_flight.push(examined);
    }

    fn examiner(&self) -> Examiner<&Self, &Self, IndexReader> {
        let process = self.process.borrow();
        let patience =
            Patience { debounce: Duration::from_millis(50), settle: Duration::from_secs(2), ignore_ctime: false };
        Examiner {
            disk: self,
            contents: self,
            index: self.index(),
            patience,
            claimed: process.claimed.clone(),
            dirty: process.dirty.clone(),
        }
    }

    /// As `Service::commit` does it.
    fn commit(&self, first: u8, count: u8) {
        let batch: Vec<Examined> = {
            let in_flight = &mut self.process.borrow_mut().in_flight;
            if in_flight.is_empty() {
                return;
            }
            let first = usize::from(first) % in_flight.len();
            let end = (first + usize::from(count)).min(in_flight.len());
            in_flight.drain(first..end).collect()
        };
        let mut observations = Vec::new();
        let mut looks_again = Vec::new();
        let mut leases = Vec::new();
        for Examined { path, outcome, look_under, tokens } in batch {
            leases.push((path.clone(), tokens));
            if look_under {
                self.mark(path, Haste::Came);
            }
            match outcome {
                Outcome::Observed(observation) => observations.push(observation),
                Outcome::Again(look) => looks_again.push(look),
                Outcome::Unchanged | Outcome::Failed(_) => {}
            }
        }
        if !observations.is_empty() {
            let observations: Arc<[Observation]> = observations.into();
            let committed = block_on(self.store.borrow().commit(Arc::clone(&observations))).unwrap();
            let overtaken = self.examiner().overtaken(&observations, &committed.changes);
            let again = committed.again.into_iter().chain(overtaken);
            looks_again.extend(again.map(|path| FsEvent::new(path, Quiet::Found, Origin::Watch)));
        }
        for look in looks_again {
            self.push(look);
        }
        for (path, tokens) in leases {
            self.process.borrow_mut().leases.remove(&path);
            drop(tokens);
        }
    }

    // Walks, as src/library/scan.rs makes them.

    fn walk_marked(&self, which: u8, meanwhile: &[(u8, Step)]) {
        let subtree = {
            let process = &mut *self.process.borrow_mut();
            let quiet = self.kernel.borrow().is_empty() && process.waiting.is_empty();
            let may_walk_gone = self.kernel_is == Kernel::Treacherous
                || (quiet && process.marks.values().all(|haste| *haste == Haste::Went));
            let due: Vec<LibraryPath> = process
                .marks
                .iter()
                .filter(|(_, haste)| may_walk_gone || **haste == Haste::Came)
                .map(|(path, _)| path.clone())
                .collect();
            if due.is_empty() {
                return;
            }
            let subtree = due[usize::from(which) % due.len()].clone();
            process.marks.remove(&subtree);
            subtree
        };
        let is_whole = subtree.is_root();
        let looks = Arc::new(());
        let place = {
            let rounds = &mut self.process.borrow_mut().rounds;
            // It counts as not looked at until it has come to its end.
            rounds.push(Round { gone: Vec::new(), looks: Arc::clone(&looks), is_whole });
            Arc::clone(&looks)
        };
        let origin = if is_whole { Origin::Scan } else { Origin::Watch };
        self.scripts.borrow_mut().push(meanwhile.iter().cloned().collect());
        let mut gone = Vec::new();
        let index = self.index();
        let walk = Walk { world: self, start: &subtree, last: None };
        for difference in Reconcile::new(walk, &index, subtree.clone(), false) {
            match difference.unwrap() {
                Difference::Same | Difference::Unreadable(..) => {}
                Difference::Look(path) => {
                    let mut hint = FsEvent::new(path, Quiet::Found, origin);
                    hint.walks.push(Token::new(Arc::clone(&looks)));
                    self.push(hint);
                }
                Difference::Gone(path) => gone.push(path),
            }
        }
        self.scripts.borrow_mut().pop();
        let rounds = &mut self.process.borrow_mut().rounds;
        if let Some(round) = rounds.iter_mut().find(|round| Arc::ptr_eq(&round.looks, &place)) {
            round.gone = gone;
        }
    }

    fn finish_rounds(&self) {
        self.take_in();
        let mut gone = Vec::new();
        {
            let rounds = &mut self.process.borrow_mut().rounds;
            let mut earlier_are_done = true;
            let mut kept = Vec::new();
            for round in rounds.drain(..) {
                let is_done = Arc::strong_count(&round.looks) == 1;
                if is_done && earlier_are_done {
                    gone.extend(round.gone.iter().map(|path| (path.clone(), round.is_whole)));
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
        let index = self.index();
        for (path, is_whole) in gone {
            if index.row(&path).unwrap().is_some() {
                let origin = if is_whole { Origin::Scan } else { Origin::Watch };
                self.push(FsEvent::new(path, Quiet::Found, origin));
            }
        }
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
            self.commit(0, 3);
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
        self.fault(format!("it never comes to an end: {:?}, marks {:?}", process.waiting, process.marks));
    }

    /// What a consumer has who trusts nothing: every message must fit what came before.
    pub(crate) fn replay(&self) -> BTreeMap<LibraryPath, ContentId> {
        let mut known: BTreeMap<LibraryPath, ContentId> = BTreeMap::new();
        let mut expected = self.database.first_sequence;
        for (sequence, body) in self.database.outbox() {
            expected += 1;
            if sequence != expected || body["sequence"].as_u64() != Some(sequence) {
                self.fault(format!("sequence {sequence} where {expected} was due"));
            }
            let path_of = |field: &str| {
                LibraryPath::beneath(Path::new(ROOT), Path::new(body[field].as_str().unwrap_or_default()))
                    .unwrap_or_else(|| panic!("no path in {field} of {body}"))
            };
            let path = path_of("file_path");
            let content = body["sha256_hash"].as_str().map(|hash| u8::from_str_radix(&hash[..2], 16).unwrap());
            let event_type = body["event_type"].as_str().unwrap_or_default();
            let fits = match (event_type, content) {
                ("created", Some(content)) => known.insert(path.clone(), content).is_none(),
                ("modified", Some(content)) => known.insert(path.clone(), content).is_some_and(|old| old != content),
                ("deleted", None) => known.remove(&path).is_some(),
                ("moved" | "renamed", Some(content)) => {
                    let from = path_of("old_path");
                    let same_directory = from.parent() == path.parent();
                    let carried = known.remove(&from) == Some(content);
                    carried
                        && same_directory == (event_type == "renamed")
                        && known.insert(path.clone(), content).is_none()
                }
                _ => false,
            };
            if !fits {
                self.fault(format!("message {sequence} does not fit: {event_type} {path} {content:?}"));
            }
            if content == Some(TORN) {
                self.fault(format!("message {sequence} has content that no file held"));
            }
        }
        known
    }

    /// The event types of all messages, in order.
    pub(crate) fn told(&self) -> Vec<String> {
        let outbox = self.database.outbox();
        outbox
            .iter()
            .map(|(_, body)| {
                let path =
                    |field: &str| body[field].as_str().unwrap_or_default().trim_start_matches("/music/").to_owned();
                match body["event_type"].as_str().unwrap_or_default() {
                    word @ ("moved" | "renamed") => format!("{word} {} -> {}", path("old_path"), path("file_path")),
                    word => format!("{word} {}", path("file_path")),
                }
            })
            .collect()
    }

    /// Consumers know exactly what is on disk, but for what nobody can see now.
    pub(crate) fn check_consumers(&self) {
        let known = self.replay();
        let disk = self.disk.borrow();
        let library = disk.library(&self.extensions);
        let index = self.index();
        for (path, (_, content)) in &library {
            if known.get(path) != Some(content) {
                self.fault(format!("{path} holds {content}, consumers know {:?}", known.get(path)));
            }
        }
        for path in known.keys().filter(|path| !library.contains_key(*path)) {
            let row = index.row(path).unwrap();
            if !row.is_some_and(|row| disk.is_out_of_sight(path, &row.stat)) {
                self.fault(format!("{path} is not there, and consumers know of it"));
            }
        }
    }

    /// The index has exactly what is on disk, and so a further walk finds nothing to look at.
    pub(crate) fn check_index(&self) {
        let disk = self.disk.borrow();
        let library = disk.library(&self.extensions);
        let index = self.index();
        let rows: Vec<Row> = index
            .rows_after(&LibraryPath::root(), None, 1000)
            .unwrap()
            .into_iter()
            .map(|(path, _)| index.row(&path).unwrap().unwrap())
            .collect();
        let indexed: BTreeMap<LibraryPath, (FileStat, ContentId)> =
            rows.into_iter().map(|row| (row.path, (row.stat, row.track.fingerprint.sha256[0]))).collect();
        if indexed != library {
            self.fault(format!("the index has {indexed:?}, the disk {library:?}"));
        }
        let walked = disk.walk(&LibraryPath::root(), &self.extensions);
        for difference in Reconcile::new(walked.into_iter(), &index, LibraryPath::root(), false) {
            if !matches!(difference, Ok(Difference::Same)) {
                self.fault(format!("a further walk finds {difference:?}"));
            }
        }
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
