//! One history: operations on a library and its watcher, and whether the two agree in the end.

mod absence;
mod names_passed_round;

use std::fmt::Write as _;
use std::ops::AddAssign;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use self::absence::Absences;
use crate::names;
use crate::operation::{Choice, Content, Operation, When};
use crate::poison;
use crate::program::{Program, Target};
use crate::replay::Replay;
use crate::root::{Mounted, Root};
use crate::support::disk::differences;
use crate::support::oracle::Oracle;
use crate::support::strict::StrictConsumers;
use crate::tree::{How, LIBRARY, OUTSIDE, Tree, name};

/// How long everything may stay as it is after the messages agree, and must.
const STILL: Duration = Duration::from_millis(500);

/// The directories that operations choose from, in the library.
const DIRECTORIES: [&str; 9] = ["", "a", "a/b", "a/b/c", "d", "d/e", "a.mp3", "d e", "f"];

/// The names that operations choose from: few, so that they meet.
const NAMES: [&[u8]; 12] = [
    b"x.mp3",
    b"y.mp3",
    b"z.flac",
    b"u.ogg",
    b"v.MP3",
    b"w.part",
    b"x.mp3.tmp",
    b"cover.jpg",
    b"n\xff.mp3",
    b"o\n.wav",
    b"b",
    b"e",
];

/// The patterns that operations choose from.
const PATTERNS: [&str; 10] =
    ["", "x.mp3", "/a/b/", "*.flac", "d/", "*.mp3\n!/y.mp3", "!x.mp3", "e", "a.mp3/", "[xy].*\n!a/**"];

/// What is around a history: where its messages go, and the faults of that connection.
pub(crate) trait World {
    /// Where messages go.
    fn target(&self) -> Target;
    /// Begins a history. If the messages are not read from the program's output, this reads them into `replay`.
    fn begin(&mut self, replay: &Arc<Mutex<Replay>>);
    /// Does an operation on the connection.
    fn disturb(&mut self, operation: &Operation);
    /// Ends all disturbance.
    fn calm(&mut self);
    /// The history is over.
    fn end(&mut self) {}
    /// The largest message that the broker takes. Larger ones are parked.
    fn largest_message(&self) -> Option<usize> {
        None
    }
    /// How long the messages may take to agree with the disk once nothing changes any more.
    fn patience(&self) -> Duration;
}

/// A pipe, which has no faults of its own.
pub(crate) struct Pipe;

impl World for Pipe {
    fn target(&self) -> Target {
        Target::Pipe
    }

    fn begin(&mut self, _: &Arc<Mutex<Replay>>) {}

    fn disturb(&mut self, _: &Operation) {}

    fn calm(&mut self) {}

    fn patience(&self) -> Duration {
        let seconds = std::env::var("CHAOS_PATIENCE_SECS").ok().and_then(|seconds| seconds.parse().ok());
        // A file that was left empty is published a minute later.
        Duration::from_secs(seconds.unwrap_or(120))
    }
}

/// Sums over histories.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Figures {
    pub(crate) histories: u64,
    pub(crate) operations: u64,
    pub(crate) effects: u64,
    pub(crate) messages: u64,
    pub(crate) redelivered: u64,
    pub(crate) starts: u64,
    pub(crate) kills: u64,
    pub(crate) remounts: u64,
    pub(crate) absences: u64,
    pub(crate) poisonous: u64,
    pub(crate) parked: u64,
    pub(crate) slowest: Duration,
}

impl AddAssign for Figures {
    fn add_assign(&mut self, other: Self) {
        self.histories += other.histories;
        self.operations += other.operations;
        self.effects += other.effects;
        self.messages += other.messages;
        self.redelivered += other.redelivered;
        self.starts += other.starts;
        self.kills += other.kills;
        self.remounts += other.remounts;
        self.absences += other.absences;
        self.poisonous += other.poisonous;
        self.parked += other.parked;
        self.slowest = self.slowest.max(other.slowest);
    }
}

/// Why a history failed.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    pub(crate) what: String,
    /// Everything that may explain it.
    pub(crate) story: String,
}

/// Runs the operations, and judges.
pub(crate) fn run(operations: &[Operation], root: Root, world: &mut dyn World) -> Result<Figures, Failure> {
    let folder = tempfile::Builder::new().prefix("file-watcher-chaos-").tempdir().unwrap();
    let library = folder.path().join(LIBRARY);
    let (is_strict, largest) = (names::are_about_names(operations), world.largest_message());
    let replay = Arc::new(Mutex::new(Replay::new(&library, is_strict, largest)));
    world.begin(&replay);
    let mounted = root.mount(folder.path());
    let mut history = History {
        tree: Tree::new(folder.path(), crate::program::SETTLE),
        program: Program::new(folder.path(), world.target(), root.watch_mode, Arc::clone(&replay)),
        replay,
        down_for: 0,
        frozen_until: None,
        moved_out: 0,
        absences: Absences::default(),
        remounts: 0,
        poisonous: 0,
        mounted,
    };
    for (path, bytes) in std::mem::take(&mut history.mounted.files) {
        history.tree.find(&path, &bytes);
    }
    let judged = history.play(operations, world).and_then(|slowest| history.judge(world).map(|()| slowest));
    history.program.kill();
    world.end();
    let replay = history.replay();
    match judged {
        Ok(slowest) => Ok(Figures {
            histories: 1,
            operations: operations.len() as u64,
            effects: history.tree.effects,
            messages: replay.oracle.messages.len() as u64,
            redelivered: replay.redelivered(),
            starts: history.program.starts,
            kills: history.program.kills,
            remounts: history.remounts,
            absences: history.absences.count(),
            poisonous: history.poisonous,
            parked: replay.parked,
            slowest,
        }),
        Err(what) => {
            drop(replay);
            let story = history.story(&what);
            Err(Failure { what, story })
        }
    }
}

struct History {
    tree: Tree,
    program: Program,
    replay: Arc<Mutex<Replay>>,
    down_for: usize,
    frozen_until: Option<Instant>,
    moved_out: usize,
    absences: Absences,
    remounts: u64,
    poisonous: u64,
    /// The last one: it is unmounted when nothing uses it any more.
    mounted: Mounted,
}

impl History {
    fn play(&mut self, operations: &[Operation], world: &mut dyn World) -> Result<Duration, String> {
        self.program.start();
        for (number, operation) in operations.iter().enumerate() {
            self.tree.note(format!("{number}: {operation:?}"));
            self.operate(operation, world)?;
            self.pass(Duration::ZERO);
            self.count_absence();
            if self.down_for > 0 {
                self.down_for -= 1;
            } else if !self.program.is_running() {
                self.tree.note("start");
                self.program.start();
            }
            self.program.check()?;
        }
        while self.tree.is_writing_slowly() {
            self.pass(Duration::from_millis(5));
        }
        self.put_back();
        self.frozen_until = None;
        self.program.thaw();
        self.program.start();
        world.calm();
        self.tree.note("quiet");
        self.converge(world.patience())
    }

    /// Lets time go by, in which slow writers write.
    fn pass(&mut self, length: Duration) {
        let end = Instant::now() + length;
        loop {
            let due = self.tree.write_parts();
            if self.frozen_until.is_some_and(|until| Instant::now() >= until) {
                self.frozen_until = None;
                self.program.thaw();
                self.tree.note("thaw");
            }
            let now = Instant::now();
            if now >= end {
                return;
            }
            let next = [due, self.frozen_until].into_iter().flatten().fold(end, Instant::min);
            thread::sleep(next.saturating_duration_since(now).max(Duration::from_micros(200)));
        }
    }

    /// Waits until the messages give what is on disk, and makes sure that they stay so.
    fn converge(&mut self, patience: Duration) -> Result<Duration, String> {
        let begun = Instant::now();
        let expected = self.tree.library();
        let mut agreed_since: Option<Instant> = None;
        loop {
            self.program.check()?;
            self.take_parked();
            let (agrees, violation) = {
                let replay = self.replay();
                (replay.oracle.files == expected && replay.is_whole(), replay.violation.clone())
            };
            if let Some(violation) = violation {
                return Err(violation);
            }
            agreed_since = agrees.then(|| agreed_since.unwrap_or_else(Instant::now));
            if let Some(since) = agreed_since
                && since.elapsed() >= STILL
            {
                return Ok(since.duration_since(begun));
            }
            if begun.elapsed() > patience && !agrees {
                return Err(format!("the messages do not give what is on disk, {patience:?} after the last change"));
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn judge(&mut self, world: &mut dyn World) -> Result<(), String> {
        let expected = self.tree.library();
        assert_eq!(expected, self.tree.on_disk(), "the test itself must know what is on disk");
        self.program.terminate()?;
        let before = self.replay().oracle.messages.len();
        self.program.scan()?;
        // What a broker was given may still be on its way to the consumer.
        thread::sleep(if matches!(world.target(), Target::Pipe) { Duration::ZERO } else { Duration::from_millis(300) });
        self.take_parked();
        let replay = self.replay();
        if let Some(violation) = &replay.violation {
            return Err(violation.clone());
        }
        if replay.oracle.files != expected || !replay.is_whole() {
            return Err("the messages no longer give what is on disk after the end".into());
        }
        let messages = &replay.oracle.messages;
        if let Some(message) = messages.get(before) {
            return Err(format!("a scan of what is known publishes {message:?}"));
        }
        for message in messages.iter().filter(|message| message.old_path.is_none()) {
            if let Some(sha256) = &message.sha256
                && !self.tree.was_ever(&message.path, sha256)
            {
                return Err(format!("never was the file left like that: {message:?}"));
            }
        }
        self.absences.check(messages)?;
        for (deleted, rows) in replay.strict.iter().flat_map(StrictConsumers::rows) {
            self.tree.check_strict_rows(&rows).map_err(|wrong| format!("a strict consumer ({deleted:?}): {wrong}"))?;
        }
        let (messages, effects) = (messages.len() as u64, self.tree.effects);
        if messages > effects + effects / 5 + 10 {
            return Err(format!("{messages} messages for {effects} changes"));
        }
        Ok(())
    }

    /// Lets the consumer have what was parked, as if a person had sent it.
    fn take_parked(&self) {
        let parked = self.program.parked();
        self.replay().take_parked(parked);
    }

    fn replay(&self) -> MutexGuard<'_, Replay> {
        self.replay.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn operate(&mut self, operation: &Operation, world: &mut dyn World) -> Result<(), String> {
        match *operation {
            Operation::Pause { milliseconds } => self.pass(Duration::from_millis(milliseconds)),
            Operation::Kill => {
                self.tree.note("kill");
                self.program.kill();
            }
            Operation::Terminate => {
                self.program.terminate()?;
                self.tree.note("terminated");
            }
            Operation::Down { kill, operations } => {
                if kill {
                    self.program.kill();
                } else {
                    self.program.terminate()?;
                }
                self.down_for = operations;
            }
            Operation::Ignore { directory: at, patterns, how } => {
                self.absences.rules_change();
                self.tree.ignore(&directory(at), PATTERNS[patterns % PATTERNS.len()], how);
            }
            Operation::Exclude { patterns, kill } => {
                self.absences.rules_change();
                if kill {
                    self.program.kill();
                } else {
                    self.program.terminate()?;
                }
                PATTERNS[patterns % PATTERNS.len()].clone_into(&mut self.program.exclude);
                self.tree.exclude(&self.program.exclude);
            }
            Operation::Freeze { milliseconds } => {
                self.program.freeze();
                self.frozen_until = Some(Instant::now() + Duration::from_millis(milliseconds));
            }
            Operation::Overflow { one, other } => {
                if let (Some(one), Some(other)) = (self.file(one), self.file(other)) {
                    self.program.freeze();
                    self.tree.flood(&one, &other);
                    self.frozen_until = Some(Instant::now() + Duration::from_millis(5));
                }
            }
            Operation::CutConnection { .. } | Operation::BadNetwork { .. } => world.disturb(operation),
            Operation::Remount { kill } => self.remount(kill)?,
            Operation::Away { operations, milliseconds } => {
                self.take_away(operations)?;
                self.pass(Duration::from_millis(milliseconds));
            }
            Operation::Poison { at, name, title, seed } => {
                let path = poison::path(&directory(at), name);
                self.make_parent(&path);
                self.poisonous += u64::from(self.tree.write(&path, &poison::mp3(title, seed), How::Whole));
            }
            Operation::Names(ref operation) => self.pass_names_round(operation),
            _ => self.change(operation),
        }
        Ok(())
    }

    /// Does an operation on the disk, as far as that can be done.
    fn change(&mut self, operation: &Operation) {
        match *operation {
            Operation::Write { at, content } => self.write(&place(at), content, How::Whole),
            Operation::InPlace { file, same_size, restore_mtime, content } => {
                let Some(path) = self.file(file) else { return };
                let modified = self.tree.modified(&path);
                self.write(&path, content, if same_size { How::InPlace } else { How::InPlaceAndCut });
                if let Some(modified) = modified.filter(|_| restore_mtime) {
                    self.tree.set_modified(&path, modified);
                }
            }
            Operation::Tag { file, to, content } => {
                let Some(path) = self.file(file) else { return };
                let modified = self.tree.modified(&path);
                self.write(&path, content, How::InPlace);
                if let Some(modified) = modified {
                    self.tree.set_modified(&path, modified);
                }
                self.tree.rename(&path, &place(to));
            }
            Operation::Append { file, content } => {
                if let Some(path) = self.file(file) {
                    self.write(&path, content, How::Append);
                }
            }
            Operation::Cut { file } => {
                if let Some(path) = self.file(file) {
                    self.tree.cut(&path);
                }
            }
            Operation::WriteSlowly { at, cut, parts, pause_ms, content } => {
                let bytes = content.bytes();
                let size = bytes.len().div_ceil(parts).max(1);
                let parts = bytes.chunks(size).map(<[u8]>::to_vec).collect();
                self.make_parent(&place(at));
                self.tree.begin_slow_write(&place(at), cut, parts, Duration::from_millis(pause_ms));
            }
            Operation::Replace { at, temporary, content } => {
                let target = place(at);
                let temporary = [".hidden.mp3", "x.mp3.tmp", ".x.part", "new.flac"][temporary % 4];
                let beside = target.with_file_name(temporary);
                self.make_parent(&target);
                if self.tree.write(&beside, &content.bytes(), How::Whole) {
                    self.tree.rename(&beside, &target);
                }
            }
            Operation::Rename { file, to } => {
                if let Some(path) = self.file(file) {
                    self.tree.rename(&path, &place(to));
                }
            }
            Operation::Swap { one, other } => {
                if let (Some(one), Some(other)) = (self.file(one), self.file(other)) {
                    let aside = one.with_file_name("aside.mp3");
                    self.tree.rename(&one, &aside);
                    self.tree.rename(&other, &one);
                    self.tree.rename(&aside, &other);
                }
            }
            Operation::Link { file, to } => {
                if let Some(path) = self.file(file) {
                    self.tree.link(&path, &place(to));
                }
            }
            Operation::Touch { file, when } => {
                let Some(path) = self.file(file) else { return };
                let now = SystemTime::now();
                let when = match when {
                    When::Now => now,
                    When::Past => now - Duration::from_secs(1_000_000 + file % 1_000),
                    When::Future => now + Duration::from_secs(1_000),
                };
                self.tree.set_modified(&path, when);
            }
            Operation::ChangeMode { file } => {
                if let Some(path) = self.file(file) {
                    self.tree.change_mode(&path);
                }
            }
            Operation::Remove { file } => {
                if let Some(path) = self.file(file) {
                    self.tree.remove(&path);
                }
            }
            Operation::LinkSymbolically { to, at } => {
                if let Some(path) = self.file(to) {
                    self.tree.link_symbolically(&path, &place(at));
                }
            }
            Operation::MakePipe { at } => self.tree.make_pipe(&place(at)),
            Operation::WriteInTightLoop { file, content } => {
                let Some(path) = self.file(file) else { return };
                let mut seed = content.seed;
                let next = || {
                    seed = seed.wrapping_add(1);
                    Content { seed, length: 1_500 }.bytes()
                };
                self.tree.write_in_tight_loop(&path, next, Duration::from_millis(50));
            }
            _ => self.change_tree(operation),
        }
    }

    fn change_tree(&mut self, operation: &Operation) {
        match *operation {
            Operation::MakeTree { at, depth, files, content } => {
                let mut directory = directory(at);
                for level in 0..depth {
                    directory.push(["new", "a", "b"][(level + files) % 3]);
                }
                if !self.tree.make_directories(&directory) {
                    return;
                }
                for (number, file) in NAMES.iter().enumerate().take(files) {
                    let content = Content { seed: content.seed + number as u64, length: content.length % 3_000 };
                    let at = directory.ancestors().nth(number % depth.max(1)).unwrap().join(name(file));
                    self.tree.write(&at, &content.bytes(), How::Whole);
                }
            }
            Operation::CopyTree { directory: from, to } => {
                if let Some(from) = self.directory(from, LIBRARY)
                    && self.tree.files_in(LIBRARY).len() < 150
                {
                    self.tree.copy_tree(&from, &directory(to).join("copy"));
                }
            }
            Operation::RenameTree { directory: from, to, then_write } => {
                let Some(from) = self.directory(from, LIBRARY) else { return };
                let to = directory(to).join(["moved", "a", "b", "d"][usize::try_from(to >> 32).unwrap() % 4]);
                if self.tree.rename(&from, &to)
                    && let Some(content) = then_write
                {
                    self.tree.write(&to.join("x.mp3"), &content.bytes(), How::Whole);
                }
            }
            Operation::RenameStorm { one, other, rounds } => {
                let (Some(one), Some(other)) = (self.file(one), self.file(other)) else { return };
                if one == other {
                    return;
                }
                let (one_away, other_away) = (one.with_file_name("away.mp3"), other.with_file_name("other.mp3"));
                for _ in 0..rounds {
                    self.tree.rename(&one, &one_away);
                    self.tree.rename(&other, &other_away);
                    self.tree.rename(&one_away, &one);
                    self.tree.rename(&other_away, &other);
                }
            }
            Operation::MoveOut { directory: from } => {
                if let Some(from) = self.directory(from, LIBRARY) {
                    self.moved_out += 1;
                    self.tree.rename(&from, &Path::new(OUTSIDE).join(self.moved_out.to_string()));
                }
            }
            Operation::MoveIn { directory: from, to } => {
                if let Some(from) = self.directory(from, OUTSIDE) {
                    self.tree.rename(&from, &directory(to).join("back"));
                }
            }
            Operation::RemoveTree { directory } => {
                if let Some(path) = self.directory(directory, LIBRARY) {
                    self.tree.remove_tree(&path);
                }
            }
            _ => unreachable!("{operation:?} is not done to the disk"),
        }
    }

    fn write(&mut self, path: &Path, content: Content, how: How) {
        self.make_parent(path);
        self.tree.write(path, &content.bytes(), how);
    }

    fn make_parent(&mut self, path: &Path) {
        if let Some(parent) = path.parent() {
            self.tree.make_directories(parent);
        }
    }

    /// One of the files in the library.
    fn file(&self, choice: Choice) -> Option<PathBuf> {
        one_of(self.tree.files_in(LIBRARY), choice)
    }

    /// One of the directories in a place.
    fn directory(&self, choice: Choice, place: &str) -> Option<PathBuf> {
        one_of(self.tree.directories_in(Path::new(place)), choice)
    }

    /// Everything that may explain a failure.
    fn story(&self, what: &str) -> String {
        let replay = self.replay();
        let (expected, on_disk) = (self.tree.library(), self.tree.on_disk());
        let mut story = String::new();
        let Oracle { files, messages, .. } = &replay.oracle;
        let mut wrong = differences(files, &expected);
        let paths = messages.iter().map(|message| message.path.as_path());
        wrong.extend(paths.filter(|path| what.contains(&format!("{path:?}"))));
        wrong.sort();
        wrong.dedup();
        for path in wrong {
            let (published, expected, found) = (files.get(path), expected.get(path), on_disk.get(path));
            let _ = writeln!(story, "{path:?}: published {published:?}, expected {expected:?}, on disk {found:?}");
        }
        let _ = writeln!(story, "messages:");
        for message in messages {
            let _ = writeln!(
                story,
                "  {:>4} {} {} {} {:?} {:?} {}",
                message.sequence,
                message.timestamp,
                message.origin,
                message.event_type,
                message.old_path.as_deref().unwrap_or(Path::new("")),
                message.path,
                message.sha256.as_deref().map_or("", |sha256| &sha256[..8]),
            );
        }
        let _ = writeln!(story, "journal:");
        for line in &self.tree.journal {
            let _ = writeln!(story, "  {line}");
        }
        let _ = writeln!(story, "log:");
        for line in self.program.log(|_| true) {
            let _ = writeln!(story, "  {line}");
        }
        story
    }
}

fn one_of(mut paths: Vec<PathBuf>, choice: Choice) -> Option<PathBuf> {
    let length = paths.len() as u64;
    (length > 0).then(|| paths.swap_remove(usize::try_from(choice % length).unwrap()))
}

/// One of the directories that may be there or not.
fn directory(choice: Choice) -> PathBuf {
    Path::new(LIBRARY).join(DIRECTORIES[usize::try_from(choice).unwrap() % DIRECTORIES.len()])
}

/// One of the names in one of the directories.
fn place(choice: Choice) -> PathBuf {
    directory(choice).join(name(NAMES[usize::try_from(choice >> 16).unwrap() % NAMES.len()]))
}
