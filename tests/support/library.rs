//! The real binary on a library of its own, and a consumer that takes the contract by its letter.
//!
//! [`Library`] starts, stops, kills and freezes the program, always on the same library and state.
//! Every message that it ever says is replayed by the rules of the contract, and the first one that
//! breaks a rule fails the test. What the messages come to is compared with the disk by hashes that
//! are computed here, from a walk that shares nothing with the program's own.

#![allow(dead_code, reason = "each test binary uses its own part of this")]

use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::fs::{CWD, Dir, FileType, Mode, OFlags};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

/// Longer than anything here takes on a busy machine; a test that waits this long has failed.
pub(crate) const LIMIT: Duration = Duration::from_mins(1);

/// How long a file must be unchanged that nobody was seen to close: short, for the tests' sake.
pub(crate) const SETTLE: Duration = Duration::from_millis(400);

/// What counts as audio unless it is set otherwise.
const AUDIO: &[&str] =
    &["mp3", "flac", "wav", "wave", "ogg", "oga", "aac", "opus", "m4a", "m4b", "m4p", "m4v", "m4r", "mp4", "wma"];

/// What the program says at the end of each walk of everything.
const WALKED: &str = "everything was walked";

/// A user who is not root, and whom no system gives anything.
pub(crate) const NOBODY: u32 = 65_534;

/// Paths beneath the library's root, as bytes, with the SHA-256 of each file.
pub(crate) type Files = BTreeMap<Vec<u8>, String>;

/// The binary as it was when these tests began: a build that replaces it must not change it under them.
struct Binary {
    _folder: TempDir,
    path: PathBuf,
}

impl Binary {
    /// The one that all libraries of the moment share; the last of them removes it.
    fn shared() -> Arc<Self> {
        static SHARED: Mutex<Weak<Binary>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        shared.upgrade().unwrap_or_else(|| {
            let binary = Arc::new(Self::link());
            *shared = Arc::downgrade(&binary);
            binary
        })
    }

    /// Where any user can get at it.
    fn link() -> Self {
        let original = Path::new(env!("CARGO_BIN_EXE_file-watcher"));
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let path = folder.path().join("file-watcher");
        fs::hard_link(original, &path).or_else(|_| fs::copy(original, &path).map(drop)).unwrap();
        Self { _folder: folder, path }
    }
}

/// A library, a state, and the program that watches the one and keeps the other.
pub(crate) struct Library {
    folder: TempDir,
    binary: Arc<Binary>,
    variables: BTreeMap<OsString, OsString>,
    /// What runs the program, where it is not run directly.
    runner: Vec<OsString>,
    user: Option<u32>,
    running: Option<Running>,
    heard: Arc<Heard>,
}

struct Running {
    child: Child,
    threads: Vec<JoinHandle<()>>,
}

/// What the program has said so far, in all its lives.
#[derive(Default)]
struct Heard {
    said: Mutex<Said>,
    more: Condvar,
}

#[derive(Default)]
struct Said {
    consumer: Consumer,
    log: Vec<String>,
    violation: Option<String>,
}

/// A message, as far as the tests look at it.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    pub(crate) event_type: String,
    pub(crate) path: Vec<u8>,
    pub(crate) old_path: Option<Vec<u8>>,
    pub(crate) sha256: Option<String>,
    pub(crate) xxh128: Option<String>,
    pub(crate) origin: String,
    pub(crate) sequence: u64,
    pub(crate) correlation_id: String,
}

/// A consumer that believes every message and trusts none.
#[derive(Default)]
pub(crate) struct Consumer {
    /// What the library holds by what was said.
    pub(crate) files: Files,
    /// Every message, once, in order.
    pub(crate) messages: Vec<Message>,
    /// Messages that came again.
    pub(crate) repeated: usize,
    is_told_again: bool,
    identities: HashMap<String, u64>,
}

/// What `scan` printed at its end.
#[derive(Debug)]
pub(crate) struct Summary {
    pub(crate) text: String,
}

impl Library {
    /// An empty library, not watched yet. Nothing is found by walking later on that was not told.
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        for name in ["library", "outside"] {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        // A root that holds nothing at all is taken for one that is not mounted, and its deletes are held.
        fs::write(folder.path().join("library/cover.jpg"), "no audio").unwrap();
        let mut library = Self {
            folder,
            binary: Binary::shared(),
            variables: BTreeMap::new(),
            runner: Vec::new(),
            user: None,
            running: None,
            heard: Arc::default(),
        };
        let (root, state) = (library.root(), library.folder.path().join("state"));
        library
            .set("DATA_DIR", root)
            .set("STATE_DIR", state)
            .set("SINK", "stdout")
            .set("INSTANCE_ID", "test")
            .set("SETTLE_MS", SETTLE.as_millis().to_string())
            .set("RESCAN_INTERVAL_SECS", "0")
            .set("LOG_LEVEL", "file_watcher=debug")
            .set("LOG_FORMAT", "json")
            .set("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        library
    }

    /// An empty library that is watched.
    pub(crate) fn watched() -> Self {
        let mut library = Self::new();
        library.start();
        library
    }

    pub(crate) fn set(&mut self, name: &str, value: impl AsRef<OsStr>) -> &mut Self {
        self.variables.insert(name.into(), value.as_ref().into());
        self
    }

    /// Lets these words run the program, which comes as further arguments of theirs.
    pub(crate) fn run_by(&mut self, runner: &[&str]) -> &mut Self {
        self.runner = runner.iter().map(OsString::from).collect();
        self
    }

    /// Lets somebody run the program who has to obey permissions: root gives up being root for it.
    pub(crate) fn run_by_nobody(&mut self) -> &mut Self {
        if rustix::process::geteuid().is_root() {
            self.user = Some(NOBODY);
            fs::set_permissions(self.folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
            fs::create_dir_all(self.folder.path().join("state")).unwrap();
            for name in ["library", "state"] {
                std::os::unix::fs::chown(self.folder.path().join(name), Some(NOBODY), Some(NOBODY)).unwrap();
            }
        }
        self
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.folder.path().join("library")
    }

    /// A path in the library.
    pub(crate) fn path(&self, below: impl AsRef<OsStr>) -> PathBuf {
        self.root().join(below.as_ref())
    }

    /// A path on the same filesystem that is not in the library.
    pub(crate) fn outside(&self, below: impl AsRef<OsStr>) -> PathBuf {
        self.folder.path().join("outside").join(below.as_ref())
    }

    /// A path in the program's state.
    pub(crate) fn state(&self, below: impl AsRef<OsStr>) -> PathBuf {
        self.folder.path().join("state").join(below.as_ref())
    }

    /// Writes a file of the library, and the directories that lead to it.
    pub(crate) fn write(&self, below: impl AsRef<OsStr>, content: impl AsRef<[u8]>) {
        write(&self.path(below), content);
    }

    /// Starts `watch`, and waits until it watches and has walked everything once.
    pub(crate) fn start(&mut self) {
        let walked = self.logged(WALKED);
        self.spawn();
        self.wait("the first walk is done", |said| said.logged(WALKED) > walked);
    }

    /// Starts `watch` and waits for nothing.
    pub(crate) fn spawn(&mut self) {
        self.spawn_with(&["watch"]);
    }

    /// Starts it with these arguments and waits for nothing.
    pub(crate) fn spawn_with(&mut self, arguments: &[&str]) {
        let child = self.command(arguments).spawn().unwrap();
        self.run(child);
    }

    /// Runs `scan` to its end.
    pub(crate) fn scan(&mut self) -> Summary {
        self.until_it_ends("scan")
    }

    /// Runs a command to its end that looks at everything and says what it did.
    pub(crate) fn until_it_ends(&mut self, verb: &str) -> Summary {
        let (status, text) = self.try_to(&[verb]);
        let summary = Summary { text };
        // The exit code says whether the scan could read everything and holds nothing.
        let is_complete =
            verb != "scan" || (summary.figure("failed") == "0" && !summary.text.contains("\nheld deletes"));
        assert_eq!(status.code(), Some(if is_complete { 0 } else { 3 }), "{}", summary.text);
        summary
    }

    /// Runs it with these arguments until it ends by itself, however; returns also what it logged.
    pub(crate) fn try_to(&mut self, arguments: &[&str]) -> (ExitStatus, String) {
        let (_, before) = self.log();
        self.spawn_with(arguments);
        let status = self.ended();
        let (log, _) = self.log();
        (status, log[before..].join("\n"))
    }

    /// Runs it a second time, beside the one that runs, until that ends.
    pub(crate) fn try_beside(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// From now on what is known already may be told as created again.
    pub(crate) fn expect_everything_again(&self) {
        self.heard.lock().consumer.is_told_again = true;
    }

    /// Runs a command beside the service, to its end: its exit code, and what it said.
    pub(crate) fn ask(&self, verb: &str) -> (Option<i32>, String) {
        self.ask_with(&[verb])
    }

    /// The same with further arguments.
    pub(crate) fn ask_with(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let output = self.command(arguments).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let binary = self.binary.path.clone().into_os_string();
        let arguments = arguments.iter().map(OsString::from);
        let mut words = self.runner.iter().cloned().chain([binary]).chain(arguments);
        let mut command = Command::new(words.next().unwrap());
        command.args(words).env_clear().envs(&self.variables).current_dir(self.folder.path());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        if let Some(user) = self.user {
            command.uid(user).gid(user);
        }
        command
    }

    fn run(&mut self, mut child: Child) {
        assert!(self.running.is_none(), "it runs already");
        let (messages, log) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let root = self.root();
        let heard = Arc::clone(&self.heard);
        let listening = thread::spawn(move || {
            for line in BufReader::new(messages).lines() {
                let Ok(line) = line else { break };
                heard.add(|said| {
                    if let Err(violation) = said.consumer.take(&line, &root) {
                        said.violation.get_or_insert(format!("{violation}: {line}"));
                    }
                });
            }
        });
        let heard = Arc::clone(&self.heard);
        let reading = thread::spawn(move || {
            for line in BufReader::new(log).lines() {
                let Ok(line) = line else { break };
                heard.add(|said| said.log.push(line));
            }
        });
        self.running = Some(Running { child, threads: vec![listening, reading] });
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_child(&self.running.as_ref().expect("it runs").child)
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    /// Ends it in peace, with everything said that was known.
    pub(crate) fn stop(&mut self) {
        self.signal(Signal::TERM);
        let status = self.ended();
        assert!(status.success(), "{status}\n{}", self.last_words());
    }

    /// Ends it between two instructions.
    pub(crate) fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.ended();
    }

    /// Waits until it has ended.
    pub(crate) fn ended(&mut self) -> ExitStatus {
        let Running { mut child, threads } = self.running.take().expect("it runs");
        let begun = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
            if begun.elapsed() > LIMIT {
                let _ = child.kill();
            }
            thread::sleep(Duration::from_millis(5));
        };
        for thread in threads {
            thread.join().unwrap();
        }
        drop(self.said());
        assert!(begun.elapsed() < LIMIT, "it does not end\n{}", self.last_words());
        status
    }

    /// Waits until the messages come to what is on disk, which nothing changes meanwhile.
    pub(crate) fn wait_until_converged(&self) {
        let disk = files_in(&self.root());
        let begun = Instant::now();
        let mut said = self.said();
        while said.consumer.files != disk {
            if begun.elapsed() > LIMIT {
                let difference = difference(&said.consumer.files, &disk);
                drop(said);
                panic!("not converged after {LIMIT:?}:\n{difference}{}", self.last_words());
            }
            said = self.next(said);
        }
    }

    /// Waits until the messages come to what is on disk, and makes sure that nothing more is said.
    pub(crate) fn wait_until_settled(&self) {
        self.wait_until_converged();
        self.stay_silent(SETTLE + Duration::from_millis(300));
        self.wait_until_converged();
    }

    /// Waits until what was said fulfils a condition.
    pub(crate) fn wait_for(&self, what: &str, holds: impl Fn(&Consumer) -> bool) {
        self.wait(what, |said| holds(&said.consumer));
    }

    /// Waits until the log has a line with these words that was not there at `mark`.
    pub(crate) fn wait_for_log(&self, mark: Mark, words: &str) {
        self.wait(words, |said| said.log[mark.log..].iter().any(|line| line.contains(words)));
    }

    /// Waits until so many lines of the log have had these words.
    pub(crate) fn wait_for_logged(&self, words: &str, lines: usize) {
        self.wait(words, |said| said.logged(words) >= lines);
    }

    fn wait(&self, what: &str, holds: impl Fn(&Said) -> bool) {
        let begun = Instant::now();
        let mut said = self.said();
        while !holds(&said) {
            if begun.elapsed() > LIMIT {
                drop(said);
                panic!("not within {LIMIT:?}: {what}\n{}", self.last_words());
            }
            said = self.next(said);
        }
    }

    /// Makes sure that no message comes for a while.
    pub(crate) fn stay_silent(&self, long: Duration) {
        let before = self.said().consumer.messages.len();
        thread::sleep(long);
        let said = self.said();
        let new: Vec<String> = said.consumer.messages[before..].iter().map(Message::short).collect();
        drop(said);
        assert!(new.is_empty(), "it should say nothing, and says {new:#?}\n{}", self.last_words());
    }

    /// Where the messages and the log are now.
    pub(crate) fn mark(&self) -> Mark {
        let said = self.said();
        Mark { messages: said.consumer.messages.len(), log: said.log.len() }
    }

    /// The messages since then.
    pub(crate) fn messages_since(&self, mark: Mark) -> Vec<Message> {
        self.said().consumer.messages[mark.messages..].to_vec()
    }

    /// The messages since then, a few words for each.
    pub(crate) fn told_since(&self, mark: Mark) -> Vec<String> {
        self.messages_since(mark).iter().map(Message::short).collect()
    }

    /// All messages, a few words for each.
    pub(crate) fn told(&self) -> Vec<String> {
        self.told_since(Mark::default())
    }

    /// All messages.
    pub(crate) fn messages(&self) -> Vec<Message> {
        self.messages_since(Mark::default())
    }

    /// How many messages came again.
    pub(crate) fn repeated(&self) -> usize {
        self.said().consumer.repeated
    }

    /// What the library holds by what was said.
    pub(crate) fn files(&self) -> Files {
        self.said().consumer.files.clone()
    }

    /// Whether the log has had a line with these words since then.
    pub(crate) fn has_logged(&self, mark: Mark, words: &str) -> bool {
        self.said().log[mark.log..].iter().any(|line| line.contains(words))
    }

    /// How many lines of the log have had these words.
    pub(crate) fn logged(&self, words: &str) -> usize {
        self.said().logged(words)
    }

    fn log(&self) -> (Vec<String>, usize) {
        let log = self.said().log.clone();
        let length = log.len();
        (log, length)
    }

    /// What was said. Panics where it broke a rule.
    fn said(&self) -> MutexGuard<'_, Said> {
        let said = self.heard.lock();
        if let Some(violation) = said.violation.clone() {
            drop(said);
            panic!("the contract is broken: {violation}\n{}", self.last_words());
        }
        said
    }

    fn next<'a>(&'a self, said: MutexGuard<'a, Said>) -> MutexGuard<'a, Said> {
        let tick = Duration::from_millis(100);
        drop(self.heard.more.wait_timeout(said, tick).unwrap_or_else(PoisonError::into_inner));
        self.said()
    }

    /// The end of the messages and of the log, for whoever reads why a test failed.
    fn last_words(&self) -> String {
        let said = self.heard.lock();
        let messages = &said.consumer.messages;
        let mut text = String::from("last messages:\n");
        for message in &messages[messages.len().saturating_sub(20)..] {
            let _ = writeln!(text, "  {} {}", message.sequence, shown(&message.short()));
        }
        text.push_str("last lines of the log:\n");
        for line in &said.log[said.log.len().saturating_sub(20)..] {
            let _ = writeln!(text, "  {}", shown(line));
        }
        text
    }
}

impl Drop for Library {
    fn drop(&mut self) {
        if let Some(Running { mut child, .. }) = self.running.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        let violation = self.heard.lock().violation.take();
        if let Some(violation) = violation
            && !thread::panicking()
        {
            panic!("the contract is broken: {violation}");
        }
    }
}

/// A place in the messages and in the log.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Mark {
    messages: usize,
    log: usize,
}

impl Heard {
    fn lock(&self) -> MutexGuard<'_, Said> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, change: impl FnOnce(&mut Said)) {
        change(&mut self.lock());
        self.more.notify_all();
    }
}

impl Said {
    fn logged(&self, words: &str) -> usize {
        self.log.iter().filter(|line| line.contains(words)).count()
    }
}

impl Message {
    /// The message in a few words: `moved a.mp3 -> b/a.mp3`.
    pub(crate) fn short(&self) -> String {
        let path = String::from_utf8_lossy(&self.path);
        match &self.old_path {
            Some(old_path) => format!("{} {} -> {path}", self.event_type, String::from_utf8_lossy(old_path)),
            None => format!("{} {path}", self.event_type),
        }
    }

    fn read(line: &str, root: &Path) -> Result<Self, String> {
        let body: Value = serde_json::from_str(line).map_err(|error| format!("not JSON: {error}"))?;
        let text = |field: &str| body.get(field).and_then(Value::as_str).map(str::to_owned);
        let needed = |field: &str| text(field).ok_or_else(|| format!("no {field}"));
        let message = Self {
            event_type: needed("event_type")?,
            path: path_of(&body, "file_path", root)?.ok_or("no file_path")?,
            old_path: path_of(&body, "old_path", root)?,
            sha256: text("sha256_hash"),
            xxh128: text("xxh128_hash"),
            origin: needed("origin")?,
            sequence: body.get("sequence").and_then(Value::as_u64).ok_or("no sequence")?,
            correlation_id: needed("correlation_id")?,
        };
        for field in ["timestamp", "instance_id", "file_type"] {
            needed(field)?;
        }
        if needed("watched_directory")?.as_bytes() != root.as_os_str().as_bytes() {
            return Err("another watched_directory".into());
        }
        let is_delete = message.event_type == "deleted";
        for field in ["sha256_hash", "xxh128_hash", "metadata", "size_bytes", "modified_time"] {
            if body.get(field).is_some() == is_delete {
                return Err(format!("{field} is there and should not be, or the other way round"));
            }
        }
        let is_move = ["moved", "renamed"].contains(&message.event_type.as_str());
        if message.old_path.is_some() != is_move {
            return Err("old_path is there and should not be, or the other way round".into());
        }
        Ok(message)
    }
}

/// A path of a message beneath the root: its exact bytes where it is not UTF-8.
fn path_of(body: &Value, field: &str, root: &Path) -> Result<Option<Vec<u8>>, String> {
    let Some(text) = body.get(field).and_then(Value::as_str) else { return Ok(None) };
    let bytes = match body.get(format!("{field}_bytes")).and_then(Value::as_str) {
        Some(encoded) => {
            let bytes = data_encoding::BASE64.decode(encoded.as_bytes()).map_err(|error| error.to_string())?;
            if String::from_utf8_lossy(&bytes) != text || std::str::from_utf8(&bytes).is_ok() {
                return Err(format!("{field} and {field}_bytes do not fit together"));
            }
            bytes
        }
        None => text.as_bytes().to_vec(),
    };
    let mut prefix = root.as_os_str().as_bytes().to_vec();
    prefix.push(b'/');
    let below = bytes.strip_prefix(prefix.as_slice()).ok_or_else(|| format!("{field} is not in the library"))?;
    Ok(Some(below.to_vec()))
}

impl Consumer {
    fn take(&mut self, line: &str, root: &Path) -> Result<(), String> {
        let message = Message::read(line, root)?;
        let last = self.messages.last().map_or(0, |message| message.sequence);
        let known_as = self.identities.get(&message.correlation_id).copied();
        if message.sequence <= last {
            // At least once: what came before may come again, and is the same then.
            self.repeated += 1;
            return if known_as == Some(message.sequence) { Ok(()) } else { Err("a sequence twice".into()) };
        }
        if message.sequence != last + 1 {
            return Err(format!("a gap after sequence {last}"));
        }
        if known_as.is_some() {
            return Err("a correlation_id twice".into());
        }
        self.replay(&message)?;
        self.identities.insert(message.correlation_id.clone(), message.sequence);
        self.messages.push(message);
        Ok(())
    }

    fn replay(&mut self, message: &Message) -> Result<(), String> {
        let known = self.files.get(&message.path).cloned();
        match (message.event_type.as_str(), &message.sha256, &message.old_path) {
            ("created", Some(sha256), None) => {
                if known.is_some() && !self.is_told_again {
                    return Err("created what was there".into());
                }
                self.files.insert(message.path.clone(), sha256.clone());
            }
            ("modified", Some(sha256), None) => {
                if known.is_none() {
                    return Err("modified what was not there".into());
                }
                if known.as_ref() == Some(sha256) {
                    return Err("modified to what it was".into());
                }
                self.files.insert(message.path.clone(), sha256.clone());
            }
            ("deleted", None, None) => {
                if self.files.remove(&message.path).is_none() {
                    return Err("deleted what was not there".into());
                }
            }
            (kind @ ("moved" | "renamed"), Some(sha256), Some(old_path)) => {
                if known.is_some() {
                    return Err("moved onto what was there".into());
                }
                match self.files.remove(old_path) {
                    None => return Err("moved what was not there".into()),
                    Some(old) if old != *sha256 => return Err("moved with another hash".into()),
                    Some(_) => {}
                }
                if (kind == "renamed") != (parent(old_path) == parent(&message.path)) {
                    return Err("moved is to another directory, renamed within one".into());
                }
                self.files.insert(message.path.clone(), sha256.clone());
            }
            _ => return Err("no such message in the contract".into()),
        }
        Ok(())
    }
}

fn parent(path: &[u8]) -> &[u8] {
    path.iter().rposition(|&byte| byte == b'/').map_or(&[], |slash| &path[..slash])
}

impl Summary {
    /// What stands behind the name of a figure.
    pub(crate) fn figure(&self, name: &str) -> &str {
        let line = self.text.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_else(|| panic!("no {name} in {}", self.text)).trim()
    }

    /// Whether nothing was read to hash it.
    pub(crate) fn hashed_nothing(&self) -> bool {
        self.figure("hashed").trim() == "0 B"
    }
}

/// Every audio file beneath a directory, with its hash. Links are not followed.
pub(crate) fn files_in(root: &Path) -> Files {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut files = Files::new();
    // What is not there has no files.
    if let Ok(directory) = rustix::fs::openat(CWD, root, flags, Mode::empty()) {
        add_files(&directory, &[], &mut files);
    }
    files
}

/// Goes down name by name, so that no path is too long.
fn add_files(directory: &OwnedFd, above: &[u8], files: &mut Files) {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    for entry in Dir::read_from(directory).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().to_bytes();
        if [b".".as_slice(), b".."].contains(&name) {
            continue;
        }
        let path = [above, name].concat();
        let open = || rustix::fs::openat(directory.as_fd(), entry.file_name(), flags, Mode::empty());
        match entry.file_type() {
            FileType::Directory => {
                if let Ok(below) = open() {
                    add_files(&below, &[&path, b"/".as_slice()].concat(), files);
                }
            }
            FileType::RegularFile if is_audio(name) => {
                if let Ok(file) = open() {
                    files.insert(path, sha256_of(File::from(file)).unwrap());
                }
            }
            _ => {}
        }
    }
}

fn is_audio(name: &[u8]) -> bool {
    let name = String::from_utf8_lossy(name).to_lowercase();
    name.rsplit_once('.').is_some_and(|(stem, extension)| !stem.is_empty() && AUDIO.contains(&extension))
}

fn sha256_of(mut file: impl Read) -> io::Result<String> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(data_encoding::HEXLOWER.encode(&hash.finalize())),
            read => hash.update(&buffer[..read]),
        }
    }
}

/// The SHA-256 of some bytes.
pub(crate) fn sha256(content: impl AsRef<[u8]>) -> String {
    sha256_of(content.as_ref()).unwrap()
}

/// Writes a file, and the directories that lead to it.
pub(crate) fn write(path: &Path, content: impl AsRef<[u8]>) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

/// Fails whoever may not mount or set limits, rather than let them believe that this was tested.
pub(crate) fn require_root() {
    assert!(rustix::process::geteuid().is_root(), "this test was not run: it has to be root, for mounts or limits");
}

/// Runs a program that must succeed.
pub(crate) fn run(program: &str, arguments: &[&dyn AsRef<OsStr>]) {
    let output = Command::new(program).args(arguments.iter().map(AsRef::as_ref)).output().unwrap();
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
}

fn difference(said: &Files, disk: &Files) -> String {
    let mut text = String::new();
    let paths: std::collections::BTreeSet<_> = said.keys().chain(disk.keys()).collect();
    let different = paths.into_iter().filter(|path| said.get(*path) != disk.get(*path));
    for (number, path) in different.enumerate() {
        if number == 20 {
            text.push_str("  ...\n");
            break;
        }
        let what = match (said.contains_key(path), disk.contains_key(path)) {
            (true, true) => "is another file on disk",
            (true, false) => "is not on disk",
            _ => "was never told",
        };
        let _ = writeln!(text, "  {} {what}", shown(&String::from_utf8_lossy(path)));
    }
    text
}

/// As much of a line as one wants to read: paths may be long.
fn shown(line: &str) -> String {
    line.chars().take(400).collect()
}
