//! The real program, started, frozen, stopped and killed.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rusqlite::{Connection, OpenFlags};
use rustix::process::Signal;

use crate::replay::Replay;
use crate::support::process::{Launcher, Process, Stream};

/// How long an orderly end may take.
const END: Duration = Duration::from_secs(25);

/// How long a start may take on a busy machine, or while it is frozen.
const FIRST_STEPS: Duration = Duration::from_secs(10);

/// Times short enough for a test that waits for them many times over.
pub(crate) const SETTLE: Duration = Duration::from_millis(200);
pub(crate) const DEBOUNCE: Duration = Duration::from_millis(30);

/// Where messages go.
#[derive(Clone, Debug)]
pub(crate) enum Target {
    /// To a pipe that the test reads.
    Pipe,
    /// To the broker at this URL.
    Broker(String),
}

/// The program in a folder of its own.
pub(crate) struct Program {
    folder: PathBuf,
    target: Target,
    watch_mode: &'static str,
    replay: Arc<Mutex<Replay>>,
    running: Option<Running>,
    /// The patterns of `EXCLUDE`.
    pub(crate) exclude: String,
    pub(crate) starts: u64,
    pub(crate) kills: u64,
}

struct Running {
    process: Process,
    frozen: bool,
    started: Instant,
}

impl Program {
    pub(crate) fn new(folder: &Path, target: Target, watch_mode: &'static str, replay: Arc<Mutex<Replay>>) -> Self {
        Self {
            folder: folder.to_path_buf(),
            target,
            watch_mode,
            replay,
            running: None,
            exclude: String::new(),
            starts: 0,
            kills: 0,
        }
    }

    pub(crate) fn is_running(&self) -> bool {
        self.running.is_some()
    }

    pub(crate) fn start(&mut self) {
        if self.running.is_none() {
            self.starts += 1;
            self.running = Some(self.spawn("watch"));
        }
    }

    fn spawn(&self, verb: &str) -> Running {
        let mut launcher = Launcher::new(&self.folder);
        if let Some(binary) = std::env::var_os("CHAOS_PROGRAM") {
            launcher.set_binary(binary);
        }
        // If this process is killed, the kernel kills the program.
        launcher.run_by(["setpriv", "--pdeathsig", "KILL"]);
        if let Some(path) = std::env::var_os("PATH") {
            launcher.set("PATH", path);
        }
        launcher
            .set("DATA_DIR", self.folder.join(crate::tree::LIBRARY))
            .set("STATE_DIR", self.folder.join("state"))
            .set("HOME", &self.folder)
            .set("INSTANCE_ID", "chaos")
            .set("SETTLE_MS", SETTLE.as_millis().to_string())
            .set("DEBOUNCE_MS", DEBOUNCE.as_millis().to_string())
            .set("EXCLUDE", &self.exclude)
            .set("WATCH_MODE", self.watch_mode)
            // Half of a library is often deleted here, on purpose.
            .set("MASS_DELETE_PERCENT", "100")
            .set("LOG_LEVEL", "file_watcher=trace,warn");
        let stdout = match &self.target {
            Target::Pipe => {
                launcher.set("SINK", "stdout").set("SHUTDOWN_GRACE_SECS", "10");
                let replay = Arc::clone(&self.replay);
                Stream::lines(move |line| replay.lock().unwrap_or_else(PoisonError::into_inner).take(line))
            }
            Target::Broker(url) => {
                // While the broker is away, an orderly end takes this long.
                launcher.set("SINK", "amqp").set("RABBITMQ_URL", url).set("SHUTDOWN_GRACE_SECS", "2");
                Stream::Null
            }
        };
        let log = OpenOptions::new().create(true).append(true).open(self.log_file()).unwrap();
        let process = launcher.start([verb], stdout, Stream::File(log));
        Running { process, frozen: false, started: Instant::now() }
    }

    /// Kills it, and waits until everything that it wrote was read.
    pub(crate) fn kill(&mut self) {
        if let Some(mut running) = self.running.take() {
            self.kills += 1;
            running.process.kill();
        }
    }

    /// Ends it in an orderly way.
    pub(crate) fn terminate(&mut self) -> Result<(), String> {
        self.thaw();
        let Some(mut running) = self.running.take() else { return Ok(()) };
        let age = running.started.elapsed();
        running.process.signal(Signal::TERM);
        let mut ended = running.process.wait(if age < FIRST_STEPS { END / 2 } else { END });
        if ended.is_none() && age < FIRST_STEPS {
            // Tokio enables a signal before it subscribes to it: one that comes between the two is lost.
            running.process.signal(Signal::TERM);
            ended = running.process.wait(END / 2);
        }
        running.process.kill();
        match ended {
            Some(status) if status.success() => Ok(()),
            // The signal came before the program had installed its handlers.
            Some(status) if status.signal().is_some() && age < FIRST_STEPS => Ok(()),
            Some(status) => Err(format!("ended with {status}")),
            None => Err(format!("did not end within {END:?} of SIGTERM")),
        }
    }

    pub(crate) fn freeze(&mut self) {
        if let Some(running) = &mut self.running {
            running.process.signal(Signal::STOP);
            running.frozen = true;
        }
    }

    pub(crate) fn thaw(&mut self) {
        if let Some(running) = self.running.as_mut().filter(|running| running.frozen) {
            running.process.signal(Signal::CONT);
            running.frozen = false;
        }
    }

    /// Whether it is still there, if it should be.
    pub(crate) fn check(&mut self) -> Result<(), String> {
        let Some(running) = &mut self.running else { return Ok(()) };
        match running.process.status() {
            Some(status) => Err(format!("ended by itself with {status}")),
            None => Ok(()),
        }
    }

    /// One scan, to its end.
    pub(crate) fn scan(&mut self) -> Result<(), String> {
        let mut running = self.spawn("scan");
        let ended = running.process.wait(END);
        running.process.kill();
        match ended {
            Some(status) if status.success() => Ok(()),
            Some(status) => Err(format!("the scan ended with {status}")),
            None => Err(format!("the scan did not end within {END:?}")),
        }
    }

    /// The messages that no broker takes, by sequence.
    pub(crate) fn parked(&self) -> Vec<(u64, Vec<u8>)> {
        let store = self.folder.join("state/amqp.sqlite");
        if matches!(self.target, Target::Pipe) || !store.exists() {
            return Vec::new();
        }
        let read = || -> rusqlite::Result<Vec<(u64, Vec<u8>)>> {
            let store = Connection::open_with_flags(&store, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
            let mut parked = store.prepare("SELECT sequence, body FROM parked ORDER BY sequence")?;
            let rows = parked.query_map([], |row| Ok((row.get::<_, i64>(0)?.cast_unsigned(), row.get(1)?)))?;
            rows.collect()
        };
        // The program may be creating it at this moment; then the next call reads it.
        read().unwrap_or_default()
    }

    pub(crate) fn log_file(&self) -> PathBuf {
        self.folder.join("log")
    }

    /// The lines of the log for which `matches` is true.
    pub(crate) fn log(&self, matches: impl Fn(&str) -> bool) -> Vec<String> {
        let Ok(log) = File::open(self.log_file()) else { return Vec::new() };
        BufReader::new(log).lines().map_while(Result::ok).filter(|line| matches(line)).collect()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.kill();
    }
}
