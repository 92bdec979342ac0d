//! The binary under test as a process: started, read, waited for, signalled and ended.
//!
//! [`Launcher`] has what a process is started with, [`Process`] is one that was started. [`Recorded`] keeps all that
//! a process writes, for tests that are asynchronous.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::usage;

/// Longer than anything here takes on a busy machine; a test that waits this long has failed.
pub(crate) const LIMIT: Duration = Duration::from_mins(1);

/// A user that is not root and owns nothing.
pub(crate) const NOBODY: u32 = 65_534;

/// The binary that was built with these tests.
const BINARY: &str = env!("CARGO_BIN_EXE_file-watcher");

/// What a process is started with. It gets no other variables.
#[derive(Clone)]
pub(crate) struct Launcher {
    binary: PathBuf,
    linked: Option<Arc<Linked>>,
    directory: PathBuf,
    variables: BTreeMap<OsString, OsString>,
    runner: Vec<OsString>,
    user: Option<u32>,
}

impl Launcher {
    /// The binary with this working directory and no variables.
    pub(crate) fn new(directory: &Path) -> Self {
        Self {
            binary: BINARY.into(),
            linked: None,
            directory: directory.to_path_buf(),
            // Many run at once, and only one could have the default port.
            variables: BTreeMap::from([("HTTP_ADDR".into(), "off".into())]),
            runner: Vec::new(),
            user: None,
        }
    }

    pub(crate) fn set(&mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> &mut Self {
        self.variables.insert(name.as_ref().to_owned(), value.as_ref().to_owned());
        self
    }

    pub(crate) fn unset(&mut self, name: &str) -> &mut Self {
        self.variables.remove(OsStr::new(name));
        self
    }

    /// Starts another binary.
    pub(crate) fn set_binary(&mut self, binary: impl Into<PathBuf>) -> &mut Self {
        self.binary = binary.into();
        self
    }

    /// Starts a link to the binary that a later build does not replace and that every user can execute.
    pub(crate) fn link_binary(&mut self) -> &mut Self {
        let linked = Linked::shared();
        self.binary.clone_from(&linked.path);
        self.linked = Some(linked);
        self
    }

    /// Starts these words, with the binary and its arguments as further arguments of theirs.
    pub(crate) fn run_by(&mut self, runner: impl IntoIterator<Item = impl AsRef<OsStr>>) -> &mut Self {
        self.runner = runner.into_iter().map(|word| word.as_ref().to_owned()).collect();
        self
    }

    /// Starts it as another user, which root alone can do.
    pub(crate) fn run_as(&mut self, user: u32) -> &mut Self {
        self.user = Some(user);
        self
    }

    /// The command, with nothing to read and its outputs as they are here.
    pub(crate) fn command(&self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Command {
        let arguments = arguments.into_iter().map(|argument| argument.as_ref().to_owned());
        let mut words = self.runner.iter().cloned().chain([self.binary.clone().into_os_string()]).chain(arguments);
        let mut command = Command::new(words.next().unwrap());
        command.args(words).env_clear().envs(&self.variables).current_dir(&self.directory).stdin(Stdio::null());
        if let Some(user) = self.user {
            command.uid(user).gid(user);
        }
        command
    }

    /// Starts it, with its outputs where they are wanted.
    pub(crate) fn start(
        &self,
        arguments: impl IntoIterator<Item = impl AsRef<OsStr>>,
        stdout: Stream,
        stderr: Stream,
    ) -> Process {
        let mut command = self.command(arguments);
        let (stdio, on_stdout) = stdout.split();
        command.stdout(stdio);
        let (stdio, on_stderr) = stderr.split();
        command.stderr(stdio);
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let stdout = on_stdout.map(|on_line| read_lines(child.stdout.take().unwrap(), on_line));
        let stderr = on_stderr.map(|on_line| read_lines(child.stderr.take().unwrap(), on_line));
        Process { child, readers: stdout.into_iter().chain(stderr).collect() }
    }

    /// Starts it and keeps what it writes.
    pub(crate) fn record(&self, arguments: &[&str]) -> Recorded {
        let output = Arc::new(Mutex::new(Output::default()));
        let keep = |add: fn(&mut Output, &[u8])| {
            let output = Arc::clone(&output);
            Stream::lines(move |line| add(&mut output.lock().unwrap_or_else(PoisonError::into_inner), line))
        };
        let stdout = keep(|output, line| add_line(&mut output.stdout, line));
        let log = keep(|output, line| add_line(&mut output.log, line));
        Recorded { process: self.start(arguments, stdout, log), output }
    }
}

/// A link to the binary as it was when the test began.
struct Linked {
    _folder: TempDir,
    path: PathBuf,
}

impl Linked {
    /// The one that all tests of the moment share; the last of them removes it.
    fn shared() -> Arc<Self> {
        static SHARED: Mutex<Weak<Linked>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        shared.upgrade().unwrap_or_else(|| {
            let linked = Arc::new(Self::new());
            *shared = Arc::downgrade(&linked);
            linked
        })
    }

    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let path = folder.path().join("file-watcher");
        fs::hard_link(BINARY, &path).or_else(|_| fs::copy(BINARY, &path).map(drop)).unwrap();
        Self { _folder: folder, path }
    }
}

type OnLine = Box<dyn FnMut(&[u8]) + Send>;

/// Where an output of a process goes.
pub(crate) enum Stream {
    Null,
    File(File),
    /// To this function, a line at a time and without its line feed. A kill may cut the last line; that one is dropped.
    Lines(OnLine),
}

impl Stream {
    pub(crate) fn lines(on_line: impl FnMut(&[u8]) + Send + 'static) -> Self {
        Self::Lines(Box::new(on_line))
    }

    fn split(self) -> (Stdio, Option<OnLine>) {
        match self {
            Self::Null => (Stdio::null(), None),
            Self::File(file) => (file.into(), None),
            Self::Lines(on_line) => (Stdio::piped(), Some(on_line)),
        }
    }
}

fn read_lines(output: impl Read + Send + 'static, mut on_line: OnLine) -> JoinHandle<()> {
    thread::spawn(move || {
        let mut output = BufReader::new(output);
        let mut line = Vec::new();
        while output.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
            if line.pop() == Some(b'\n') {
                on_line(&line);
            }
            line.clear();
        }
    })
}

/// A process that was started. It is killed when it is dropped.
pub(crate) struct Process {
    child: Child,
    readers: Vec<JoinHandle<()>>,
}

impl Process {
    pub(crate) fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    /// How it ended, if it has.
    pub(crate) fn status(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.status().is_none()
    }

    /// Waits until it has ended and all that it wrote was read; `None` if it has not ended within `limit`.
    pub(crate) fn wait(&mut self, limit: Duration) -> Option<ExitStatus> {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.status() {
                self.join_readers();
                return Some(status);
            }
            if begun.elapsed() > limit {
                return None;
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Kills it, and waits until all that it wrote was read.
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.join_readers();
    }

    /// The most memory that it ever had resident, in kB.
    pub(crate) fn peak_memory(&self) -> u64 {
        usage::peak_memory(self.child.id()).expect("it runs")
    }

    fn join_readers(&mut self) {
        for reader in self.readers.drain(..) {
            reader.join().unwrap();
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A process whose outputs are kept.
pub(crate) struct Recorded {
    process: Process,
    output: Arc<Mutex<Output>>,
}

#[derive(Clone, Default)]
struct Output {
    stdout: String,
    log: String,
}

/// How a process ended, and what it wrote.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    /// The number of the signal that ended it.
    pub(crate) signal: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) log: String,
    /// Since the wait for its end began.
    pub(crate) took: Duration,
}

impl Recorded {
    pub(crate) fn pid(&self) -> i32 {
        self.process.pid().as_raw_nonzero().get()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.process.is_running()
    }

    pub(crate) fn peak_memory(&self) -> u64 {
        self.process.peak_memory()
    }

    pub(crate) fn log(&self) -> String {
        self.output().log.clone()
    }

    pub(crate) fn stdout(&self) -> String {
        self.output().stdout.clone()
    }

    /// Waits until the log has these words.
    pub(crate) async fn wait_for_log(&mut self, words: &str) {
        let begun = Instant::now();
        while !self.output().log.contains(words) {
            let status = self.process.status();
            assert!(
                status.is_none() && begun.elapsed() < LIMIT,
                "{status:?}, not in the log: {words}\n{}",
                tail(&self.log())
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits for its end.
    pub(crate) async fn ended(mut self) -> Ended {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.process.wait(Duration::ZERO) {
                let Output { stdout, log } = self.output().clone();
                return Ended { code: status.code(), signal: status.signal(), stdout, log, took: begun.elapsed() };
            }
            assert!(begun.elapsed() < LIMIT, "it does not end\n{}", tail(&self.log()));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Ends it by SIGTERM, which must succeed.
    pub(crate) async fn stop(self) -> Ended {
        self.signal(Signal::TERM);
        let ended = self.ended().await;
        assert_eq!(ended.code, Some(0), "{}", tail(&ended.log));
        ended
    }

    pub(crate) async fn kill(self) {
        self.signal(Signal::KILL);
        self.ended().await;
    }

    fn output(&self) -> MutexGuard<'_, Output> {
        self.output.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn add_line(text: &mut String, line: &[u8]) {
    text.push_str(&String::from_utf8_lossy(line));
    text.push('\n');
}

/// The end of a log, without the many lines about commits.
pub(crate) fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().filter(|line| !line.contains(r#""committed""#)).collect();
    lines[lines.len().saturating_sub(30)..].join("\n")
}

/// A value that other threads change while a test waits for it to fulfil a condition.
#[derive(Default)]
pub(crate) struct Monitor<T> {
    value: Mutex<T>,
    changed: Condvar,
}

impl<T> Monitor<T> {
    pub(crate) fn new(value: T) -> Self {
        Self { value: Mutex::new(value), changed: Condvar::new() }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        self.value.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn change(&self, change: impl FnOnce(&mut T)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }

    /// Waits for the next change, at most a tenth of a second.
    pub(crate) fn wait_for_change(&self, value: MutexGuard<'_, T>) {
        let tick = Duration::from_millis(100);
        drop(self.changed.wait_timeout(value, tick).unwrap_or_else(PoisonError::into_inner));
    }
}
