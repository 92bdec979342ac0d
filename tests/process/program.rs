//! The real binary in a folder of its own, its broker behind a proxy.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use lapin::types::FieldTable;
use rusqlite::{Connection, OpenFlags};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::time::sleep;

use crate::LIMIT;
use crate::library::Library;
use crate::support::consumer::{Consumer, KEYS, declare};
use crate::support::proxy::Proxy;
use crate::support::rabbit::Node;

/// The queue that takes everything, read or not.
const QUEUE: &str = "cataloging.file.events";

/// A library, a state, and the program's environment.
pub(crate) struct Program {
    pub(crate) library: Library,
    pub(crate) proxy: Proxy,
    folder: TempDir,
    /// Of the node itself.
    url: String,
    variables: BTreeMap<&'static str, String>,
    runs: AtomicUsize,
}

/// The program while it runs. Killed when dropped.
pub(crate) struct Running {
    child: Child,
    log: PathBuf,
}

/// How a run ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) log: String,
    /// Since it was asked to end, or since whoever wanted to know began to wait.
    pub(crate) took: Duration,
}

impl Program {
    /// An empty library, a vhost of its own with one queue that takes everything, and fine weather.
    pub(crate) async fn new() -> Self {
        Self::on(Node::shared()).await
    }

    /// The same with the broker on this node.
    pub(crate) async fn on(node: &Node) -> Self {
        let vhost = node.vhost();
        let url = node.url(&vhost);
        declare(&url, QUEUE, &KEYS, FieldTable::default()).await;
        let proxy = Proxy::to(node.port()).await;
        let folder = tempfile::tempdir().unwrap();
        let library = Library::new(&folder.path().join("music"));
        let through = format!("amqp://guest:guest@127.0.0.1:{}/{vhost}?connection_timeout=1000", proxy.port());
        let mut program = Self { library, proxy, folder, url, variables: BTreeMap::new(), runs: AtomicUsize::new(0) };
        program
            .set("DATA_DIR", "music")
            .set("STATE_DIR", "state")
            .set("RABBITMQ_URL", &through)
            .set("INSTANCE_ID", "test")
            .set("SETTLE_MS", "300")
            .set("RESCAN_INTERVAL_SECS", "0")
            .set("LOG_LEVEL", "file_watcher=debug,warn")
            .set("LOG_FORMAT", "json");
        program
    }

    pub(crate) fn set(&mut self, name: &'static str, value: &str) -> &mut Self {
        self.variables.insert(name, value.to_owned());
        self
    }

    /// The vhost of the program and its consumers.
    pub(crate) fn vhost(&self) -> String {
        self.url.rsplit('/').next().unwrap().to_owned()
    }

    /// The path of a file in the working directory.
    pub(crate) fn place(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Reads the queue, from the first message that nobody has read.
    pub(crate) async fn consumer(&self) -> Consumer {
        Consumer::of_queue(&self.url, QUEUE).await
    }

    pub(crate) fn start(&self, arguments: &[&str]) -> Running {
        let log = self.folder.path().join(format!("log-{}", self.runs.fetch_add(1, Ordering::Relaxed)));
        let child = self.command(arguments).stderr(File::create(&log).unwrap()).spawn().unwrap();
        Running { child, log }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_file-watcher"));
        command
            .args(arguments)
            .env_clear()
            .envs(&self.variables)
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        command
    }

    /// Starts `watch`, and waits until it has walked everything and committed what it found.
    pub(crate) async fn watch(&self) -> Running {
        let mut running = self.start(&["watch"]);
        running.says("everything was walked").await;
        running
    }

    pub(crate) async fn run(&self, arguments: &[&str]) -> Ended {
        self.start(arguments).ended().await
    }

    /// Runs it to its end; gives its exit code and what it wrote to standard output.
    pub(crate) fn answer(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let mut command = self.command(arguments);
        let output =
            tokio::task::block_in_place(|| command.stdout(Stdio::piped()).stderr(Stdio::null()).output()).unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    }

    /// Scans the library with everything delivered.
    pub(crate) async fn scan(&self) {
        let scanned = self.run(&["scan"]).await;
        assert_eq!(scanned.code, Some(0), "{}", scanned.log);
    }

    /// The rows of a table, also while the program runs.
    pub(crate) fn count(&self, table: &str) -> usize {
        self.figure(&format!("SELECT count(*) FROM {table}"))
    }

    /// Messages that are not delivered yet. There are no gaps between them, and counting many would take long.
    pub(crate) fn waiting(&self) -> usize {
        self.figure("SELECT coalesce(max(sequence) - min(sequence) + 1, 0) FROM outbox")
    }

    fn figure(&self, query: &str) -> usize {
        let file = self.folder.path().join("state/amqp.sqlite");
        let store = Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
        store.busy_timeout(LIMIT).unwrap();
        let figure: i64 = store.query_row(query, [], |row| row.get(0)).unwrap();
        usize::try_from(figure).unwrap()
    }
}

impl Running {
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    /// Waits until the log has these words.
    pub(crate) async fn says(&mut self, words: &str) {
        let begun = Instant::now();
        while !self.log().contains(words) {
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none() && begun.elapsed() < LIMIT, "{ended:?}, not said: {words}\n{}", tail(&self.log()));
            sleep(Duration::from_millis(10)).await;
        }
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits for its end.
    pub(crate) async fn ended(mut self) -> Ended {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return Ended { code: status.code(), log: self.log(), took: begun.elapsed() };
            }
            assert!(begun.elapsed() < LIMIT, "it does not end\n{}", tail(&self.log()));
            sleep(Duration::from_millis(5)).await;
        }
    }

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

    /// The most memory that it ever had resident, in kB.
    pub(crate) fn peak_memory(&self) -> u64 {
        let status = fs::read_to_string(Path::new("/proc").join(self.child.id().to_string()).join("status")).unwrap();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("Linux says so");
        peak.trim().trim_end_matches(" kB").parse().unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The end of a log, for whoever reads why a test failed.
pub(crate) fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().filter(|line| !line.contains(r#""committed""#)).collect();
    lines[lines.len().saturating_sub(30)..].join("\n")
}
