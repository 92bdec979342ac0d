//! The real binary on a library of its own, with an oracle for every message.
//!
//! [`Library`] starts, stops, kills and freezes the program, always on the same library and state. The [`Oracle`] takes
//! every message that it publishes to its standard output, and the first one that breaks the contract fails the test.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Output};
use std::sync::{Arc, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};
use tempfile::TempDir;

use super::disk::{Files, differences, files_in, sha256, write};
use super::oracle::{Again, Message, Oracle};
use super::process::{LIMIT, Launcher, Monitor, NOBODY, Process, Stream};

/// How long a file must be unchanged if the program did not see it closed: short, so that tests are.
pub(crate) const SETTLE: Duration = Duration::from_millis(400);

/// What the program logs when it begins to hold deletes. The line that ends this has the same words without the colon.
pub(crate) const HELD: &str = "deletes are held: ";

/// What the program logs at the end of each walk of everything.
const WALKED: &str = "everything was walked";

/// A library, a state, and the program that watches the one and keeps the other.
pub(crate) struct Library {
    folder: TempDir,
    root: PathBuf,
    launcher: Launcher,
    running: Option<Process>,
    written: Arc<Monitor<Written>>,
}

/// What the program has written so far, over all its starts.
struct Written {
    oracle: Oracle,
    log: Vec<String>,
    /// The first message that broke the contract.
    violation: Option<String>,
}

/// What a command printed at its end.
#[derive(Debug)]
pub(crate) struct Summary {
    pub(crate) text: String,
}

impl Library {
    /// An empty library that is not watched yet. The program rescans it only when a test says so.
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        for name in ["library", "outside"] {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        let root = folder.path().join("library");
        // A root that holds nothing at all looks unmounted, and its deletes are held.
        fs::write(root.join("cover.jpg"), "no audio").unwrap();
        Self::in_folder(folder, root)
    }

    /// The library of `other`, watched by a further instance with a state of its own.
    pub(crate) fn sharing(other: &Self) -> Self {
        Self::in_folder(tempfile::tempdir().unwrap(), other.root())
    }

    fn in_folder(folder: TempDir, root: PathBuf) -> Self {
        let state = folder.path().join("state");
        let mut launcher = Launcher::new(folder.path());
        launcher
            .link_binary()
            .set("DATA_DIR", &root)
            .set("STATE_DIR", state)
            .set("SINK", "stdout")
            .set("INSTANCE_ID", "test")
            .set("SETTLE_MS", SETTLE.as_millis().to_string())
            .set("RESCAN_INTERVAL_SECS", "0")
            .set("LOG_LEVEL", "file_watcher=debug")
            .set("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        let written = Written { oracle: Oracle::new(&root), log: Vec::new(), violation: None };
        Self { folder, root, launcher, running: None, written: Arc::new(Monitor::new(written)) }
    }

    /// An empty library that is watched.
    pub(crate) fn watched() -> Self {
        let mut library = Self::new();
        library.start();
        library
    }

    pub(crate) fn set(&mut self, name: &str, value: impl AsRef<OsStr>) -> &mut Self {
        self.launcher.set(name, value);
        self
    }

    /// Starts these words, with the program and its arguments as further arguments of theirs.
    pub(crate) fn run_by(&mut self, runner: &[&str]) -> &mut Self {
        self.launcher.run_by(runner);
        self
    }

    /// Starts the program as a user whom permissions restrict, if this one is root.
    pub(crate) fn run_by_nobody(&mut self) -> &mut Self {
        if rustix::process::geteuid().is_root() {
            self.launcher.run_as(NOBODY);
            fs::set_permissions(self.folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
            fs::create_dir_all(self.folder.path().join("state")).unwrap();
            for name in ["library", "state"] {
                std::os::unix::fs::chown(self.folder.path().join(name), Some(NOBODY), Some(NOBODY)).unwrap();
            }
        }
        self
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.root.clone()
    }

    /// A path in the library.
    pub(crate) fn path(&self, name: impl AsRef<OsStr>) -> PathBuf {
        self.root().join(name.as_ref())
    }

    /// A path on the same filesystem that is not in the library.
    pub(crate) fn outside(&self, name: impl AsRef<OsStr>) -> PathBuf {
        self.folder.path().join("outside").join(name.as_ref())
    }

    /// A path in the program's state.
    pub(crate) fn state(&self, name: impl AsRef<OsStr>) -> PathBuf {
        self.folder.path().join("state").join(name.as_ref())
    }

    /// Writes a file of the library, and the directories that lead to it.
    pub(crate) fn write(&self, name: impl AsRef<OsStr>, content: impl AsRef<[u8]>) {
        write(&self.path(name), content);
    }

    /// Starts `watch`, and waits until it watches and has walked everything once.
    pub(crate) fn start(&mut self) {
        let walked = self.logged(WALKED);
        self.spawn();
        self.wait("the first walk is done", |written| written.logged(WALKED) > walked);
    }

    /// Starts `watch` and waits for nothing.
    pub(crate) fn spawn(&mut self) {
        self.spawn_with(&["watch"]);
    }

    /// Starts it with these arguments and waits for nothing.
    pub(crate) fn spawn_with(&mut self, arguments: &[&str]) {
        assert!(self.running.is_none(), "it runs already");
        let written = Arc::clone(&self.written);
        let on_message = move |line: &[u8]| {
            written.change(|written| {
                if let Err(violation) = written.oracle.take_json(line) {
                    let message = String::from_utf8_lossy(line);
                    written.violation.get_or_insert(format!("{violation}: {message}"));
                }
            });
        };
        let written = Arc::clone(&self.written);
        let on_log =
            move |line: &[u8]| written.change(|written| written.log.push(String::from_utf8_lossy(line).into_owned()));
        self.running = Some(self.launcher.start(arguments, Stream::lines(on_message), Stream::lines(on_log)));
    }

    /// Runs `scan` to its end.
    pub(crate) fn scan(&mut self) -> Summary {
        self.until_it_ends("scan")
    }

    /// Runs a command to its end that examines everything and prints a summary.
    pub(crate) fn until_it_ends(&mut self, verb: &str) -> Summary {
        let (status, text) = self.try_to(&[verb]);
        let summary = Summary { text };
        // The exit code says whether the scan could read everything and holds nothing.
        let is_complete =
            verb != "scan" || (summary.figure("failed") == "0" && !summary.text.contains("\nheld deletes"));
        assert_eq!(status.code(), Some(if is_complete { 0 } else { 3 }), "{}", summary.text);
        summary
    }

    /// Runs it with these arguments until it ends by itself. Returns how it ended and what it logged.
    pub(crate) fn try_to(&mut self, arguments: &[&str]) -> (ExitStatus, String) {
        let mark = self.mark();
        self.spawn_with(arguments);
        let status = self.ended();
        let log = self.written().log[mark.log..].join("\n");
        (status, log)
    }

    /// Runs it a second time, beside the one that runs, until that ends.
    pub(crate) fn try_beside(&self, arguments: &[&str]) -> Output {
        self.launcher.command(arguments).output().unwrap()
    }

    /// From now on, what is known already may be published as created again.
    pub(crate) fn expect_everything_again(&self) {
        self.written.lock().oracle.expect(Again::Everything);
    }

    /// Lets the consumer forget the other files, as one does that leaves them to another instance.
    pub(crate) fn keep_only(&self, keeps: impl Fn(&Path) -> bool) {
        self.written.lock().oracle.files.retain(|path, _| keeps(path));
    }

    /// Runs a command beside the service, to its end. Returns its exit code and its standard error.
    pub(crate) fn ask(&self, verb: &str) -> (Option<i32>, String) {
        self.ask_with(&[verb])
    }

    /// The same with further arguments.
    pub(crate) fn ask_with(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let output = self.try_beside(arguments);
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    }

    pub(crate) fn pid(&self) -> Pid {
        self.running.as_ref().expect("it runs").pid()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        self.running.as_ref().expect("it runs").signal(signal);
    }

    /// Ends it by SIGTERM, which must succeed.
    pub(crate) fn stop(&mut self) {
        self.signal(Signal::TERM);
        let status = self.ended();
        assert!(status.success(), "{status}\n{}", self.last_lines());
    }

    /// Ends it by SIGKILL.
    pub(crate) fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.ended();
    }

    /// Waits until it has ended.
    pub(crate) fn ended(&mut self) -> ExitStatus {
        let mut process = self.running.take().expect("it runs");
        let status = process.wait(LIMIT);
        process.kill();
        drop(self.written());
        status.unwrap_or_else(|| panic!("it does not end\n{}", self.last_lines()))
    }

    /// Waits until the messages give what is on disk, which nothing changes meanwhile.
    pub(crate) fn wait_until_converged(&self) {
        let disk = files_in(&self.root());
        let begun = Instant::now();
        let mut written = self.written();
        while written.oracle.files != disk {
            if begun.elapsed() > LIMIT {
                let difference = difference(&written.oracle.files, &disk);
                drop(written);
                panic!("not converged after {LIMIT:?}:\n{difference}{}", self.last_lines());
            }
            written = self.next(written);
        }
    }

    /// Waits until the messages give what is on disk, and makes sure that no more are published.
    pub(crate) fn wait_until_settled(&self) {
        self.wait_until_converged();
        self.stay_silent(SETTLE + Duration::from_millis(300));
        self.wait_until_converged();
    }

    /// Waits until the messages give these files with these contents, and no others.
    pub(crate) fn wait_until_published(&self, files: &[(&str, &str)]) {
        let expected: Files = files.iter().map(|(path, content)| (PathBuf::from(path), sha256(content))).collect();
        self.wait_for(&format!("{files:?}"), |oracle| oracle.files == expected);
    }

    /// Waits until the messages fulfil a condition.
    pub(crate) fn wait_for(&self, what: &str, holds: impl Fn(&Oracle) -> bool) {
        self.wait(what, |written| holds(&written.oracle));
    }

    /// Waits until the log has a line with these words that was not there at `mark`.
    pub(crate) fn wait_for_log(&self, mark: Mark, words: &str) {
        self.wait(words, |written| written.log[mark.log..].iter().any(|line| line.contains(words)));
    }

    /// Waits until so many lines of the log have these words.
    pub(crate) fn wait_for_logged(&self, words: &str, lines: usize) {
        self.wait(words, |written| written.logged(words) >= lines);
    }

    fn wait(&self, what: &str, holds: impl Fn(&Written) -> bool) {
        let begun = Instant::now();
        let mut written = self.written();
        while !holds(&written) {
            if begun.elapsed() > LIMIT {
                drop(written);
                panic!("not within {LIMIT:?}: {what}\n{}", self.last_lines());
            }
            written = self.next(written);
        }
    }

    /// Makes sure that no message is published for a while.
    pub(crate) fn stay_silent(&self, long: Duration) {
        let mark = self.mark();
        thread::sleep(long);
        let new = self.published_since(mark);
        assert!(new.is_empty(), "it should publish nothing, and publishes {new:#?}\n{}", self.last_lines());
    }

    /// How far the messages and the log are now.
    pub(crate) fn mark(&self) -> Mark {
        let written = self.written();
        Mark { messages: written.oracle.messages.len(), log: written.log.len() }
    }

    /// The messages since then.
    pub(crate) fn messages_since(&self, mark: Mark) -> Vec<Message> {
        self.written().oracle.messages[mark.messages..].to_vec()
    }

    /// The messages since then, a few words for each.
    pub(crate) fn published_since(&self, mark: Mark) -> Vec<String> {
        self.messages_since(mark).iter().map(Message::short).collect()
    }

    /// The same in the order of their words, for messages that may come in any order.
    pub(crate) fn published_sorted_since(&self, mark: Mark) -> Vec<String> {
        let mut published = self.published_since(mark);
        published.sort();
        published
    }

    /// All messages, a few words for each.
    pub(crate) fn published(&self) -> Vec<String> {
        self.published_since(Mark::default())
    }

    /// All messages.
    pub(crate) fn messages(&self) -> Vec<Message> {
        self.messages_since(Mark::default())
    }

    /// How many messages were redelivered.
    pub(crate) fn redelivered(&self) -> u64 {
        self.written().oracle.redelivered
    }

    /// What the library holds by the messages.
    pub(crate) fn files(&self) -> Files {
        self.written().oracle.files.clone()
    }

    /// Whether the log has a line with these words since then.
    pub(crate) fn has_logged(&self, mark: Mark, words: &str) -> bool {
        self.written().log[mark.log..].iter().any(|line| line.contains(words))
    }

    /// How many lines of the log have these words.
    pub(crate) fn logged(&self, words: &str) -> usize {
        self.written().logged(words)
    }

    /// What was written so far. Panics if a message broke the contract.
    fn written(&self) -> MutexGuard<'_, Written> {
        let written = self.written.lock();
        if let Some(violation) = written.violation.clone() {
            drop(written);
            panic!("the contract is broken: {violation}\n{}", self.last_lines());
        }
        written
    }

    fn next<'a>(&'a self, written: MutexGuard<'a, Written>) -> MutexGuard<'a, Written> {
        self.written.wait_for_change(written);
        self.written()
    }

    /// The end of the messages and of the log, to explain why a test failed.
    fn last_lines(&self) -> String {
        let written = self.written.lock();
        let messages = &written.oracle.messages;
        let mut text = String::from("last messages:\n");
        for message in &messages[messages.len().saturating_sub(20)..] {
            let _ = writeln!(text, "  {} {}", message.sequence, shown(&message.short()));
        }
        text.push_str("last lines of the log:\n");
        for line in &written.log[written.log.len().saturating_sub(20)..] {
            let _ = writeln!(text, "  {}", shown(line));
        }
        text
    }
}

impl Drop for Library {
    fn drop(&mut self) {
        drop(self.running.take());
        let violation = self.written.lock().violation.take();
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

impl Written {
    fn logged(&self, words: &str) -> usize {
        self.log.iter().filter(|line| line.contains(words)).count()
    }
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

fn difference(published: &Files, disk: &Files) -> String {
    let mut text = String::new();
    for (number, path) in differences(published, disk).into_iter().enumerate() {
        if number == 20 {
            text.push_str("  ...\n");
            break;
        }
        let what = match (published.contains_key(path), disk.contains_key(path)) {
            (true, true) => "has other content on disk",
            (true, false) => "is not on disk",
            _ => "was never published",
        };
        let _ = writeln!(text, "  {} {what}", shown(&path.to_string_lossy()));
    }
    text
}

/// The beginning of a line, which a long path may make very long.
fn shown(line: &str) -> String {
    line.chars().take(400).collect()
}
