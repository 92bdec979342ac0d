//! Lines of the table about a library that is watched.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::Figure;
use super::measure::{cost, median, peak_memory, percentile, resident_memory};
use super::support::process::{Launcher, Process, Stream};
use super::support::usage::cpu_of;

/// How the program watches.
pub(crate) static WATCH_MODE: OnceLock<String> = OnceLock::new();

/// The quiet time of a closed file, in milliseconds: the default.
const DEBOUNCE_MS: f64 = 50.0;

/// Longer than anything here takes.
const LIMIT: Duration = Duration::from_mins(10);

/// When the last message for each path came, and the number of messages.
#[derive(Default)]
struct Seen {
    times: HashMap<PathBuf, Instant>,
    messages: usize,
    last: Option<Instant>,
    is_scanned: bool,
}

/// What the container image and the unit of systemd tell the C library, as the unit says it.
fn settings_of_deployment() -> impl Iterator<Item = (&'static str, &'static str)> {
    let unit = include_str!("../../deploy/systemd/file-watcher.service");
    let words = unit.lines().filter_map(|line| line.strip_prefix("Environment=")).flat_map(str::split_whitespace);
    words.filter_map(|word| word.split_once('=')).filter(|(setting, _)| setting.starts_with("MALLOC_"))
}

/// The program, watching a library and writing messages to its standard output.
struct Watched {
    folder: TempDir,
    process: Process,
    seen: Arc<Mutex<Seen>>,
}

impl Watched {
    /// Watches a library that `fill` made, after its first scan.
    fn start(fill: impl FnOnce(&Path)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("music");
        fs::create_dir(&root).unwrap();
        fs::create_dir(folder.path().join("outside")).unwrap();
        fs::write(root.join("one.mp3"), "one").unwrap();
        fill(&root);
        let mut launcher = Launcher::new(folder.path());
        launcher.set("DATA_DIR", &root).set("STATE_DIR", folder.path().join("state")).set("SINK", "stdout");
        launcher.set("WATCH_MODE", WATCH_MODE.get().unwrap());
        for (setting, value) in settings_of_deployment() {
            launcher.set(setting, value);
        }
        let seen = Arc::<Mutex<Seen>>::default();
        let (messages, log) = (Arc::clone(&seen), Arc::clone(&seen));
        let lock = |seen: &Arc<Mutex<Seen>>, change: &dyn Fn(&mut Seen)| {
            change(&mut seen.lock().unwrap_or_else(PoisonError::into_inner));
        };
        let on_message = move |line: &[u8]| {
            let now = Instant::now();
            let body: serde_json::Value = serde_json::from_slice(line).unwrap();
            let path = PathBuf::from(body["file_path"].as_str().unwrap());
            lock(&messages, &|seen| {
                seen.messages += 1;
                seen.last = Some(now);
                seen.times.insert(path.clone(), now);
            });
        };
        let on_log = move |line: &[u8]| {
            if String::from_utf8_lossy(line).contains("the first scan is done") {
                lock(&log, &|seen| seen.is_scanned = true);
            }
        };
        let process = launcher.start(["watch"], Stream::lines(on_message), Stream::lines(on_log));
        let watched = Self { folder, process, seen };
        watched.wait(|seen| seen.is_scanned);
        watched
    }

    fn root(&self) -> PathBuf {
        self.folder.path().join("music")
    }

    fn outside(&self) -> PathBuf {
        self.folder.path().join("outside")
    }

    fn pid(&self) -> u32 {
        self.process.pid().as_raw_pid().unsigned_abs()
    }

    fn messages(&self) -> usize {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).messages
    }

    fn wait(&self, holds: impl Fn(&Seen) -> bool) {
        let begun = Instant::now();
        while !holds(&self.seen.lock().unwrap_or_else(PoisonError::into_inner)) {
            assert!(begun.elapsed() < LIMIT, "it takes too long");
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// When the message for a path came.
    fn time_of(&self, path: &Path) -> Instant {
        self.wait(|seen| seen.times.contains_key(path));
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).times[path]
    }

    /// Waits for this many messages in all, and returns when the last one came.
    fn last_of(&self, messages: usize) -> Instant {
        self.wait(|seen| seen.messages >= messages);
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).last.unwrap()
    }

    /// The milliseconds from the end of `change`, which makes the file at a path, to its message.
    fn latency(&self, path: &Path, change: impl FnOnce()) -> f64 {
        change();
        let changed = Instant::now();
        // So that no change is in the quiet time of another one.
        let latency = self.time_of(path).saturating_duration_since(changed);
        thread::sleep(Duration::from_millis(20));
        latency.as_secs_f64() * 1000.0
    }
}

fn latencies(watched: &Watched, count: usize, change: impl Fn(usize, &Path)) -> Vec<f64> {
    let one = |number: usize| {
        let path = watched.root().join(format!("new {number}.mp3"));
        watched.latency(&path, || change(number, &path))
    };
    (0..count).map(one).collect()
}

fn bytes(count: usize, number: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    fastrand::Rng::with_seed(number as u64).fill(&mut bytes);
    bytes
}

/// Line E.
pub(crate) fn renames(runs: usize) -> Vec<Figure> {
    let watched = Watched::start(|_| {});
    let count = runs * 40;
    let outside = watched.outside();
    for number in 0..count {
        fs::write(outside.join(number.to_string()), bytes(100_000, number)).unwrap();
    }
    let found = latencies(&watched, count, |number, path| fs::rename(outside.join(number.to_string()), path).unwrap());
    vec![
        Figure::new("median", percentile(&found, 50), 3.0, "ms"),
        Figure::new("99th percentile", percentile(&found, 99), 15.0, "ms"),
    ]
}

/// Line F.
pub(crate) fn closes(runs: usize) -> Vec<Figure> {
    let watched = Watched::start(|_| {});
    let found = latencies(&watched, runs * 40, |number, path| fs::write(path, bytes(100_000, number)).unwrap());
    vec![
        Figure::new("median", percentile(&found, 50), DEBOUNCE_MS + 3.0, "ms"),
        Figure::new("99th percentile", percentile(&found, 99), DEBOUNCE_MS + 10.0, "ms"),
    ]
}

/// Line G.
pub(crate) fn large_closes(runs: usize) -> Vec<Figure> {
    let watched = Watched::start(|_| {});
    let content = bytes(50_000_000, 0);
    let begun = Instant::now();
    std::hint::black_box((xxhash_rust::xxh3::xxh3_128(&content), super::support::disk::sha256(&content)));
    let hashing = begun.elapsed().as_secs_f64() * 1000.0;
    let found = latencies(&watched, runs * 8, |_, path| fs::write(path, &content).unwrap());
    vec![Figure::new("longest", percentile(&found, 100), DEBOUNCE_MS + hashing + 30.0, "ms")]
}

/// Line H.
pub(crate) fn archive(runs: usize) -> Vec<Figure> {
    const FILES: usize = 50_000;
    let source = tempfile::tempdir().unwrap();
    let archive = source.path().join("music.tar");
    super::libraries::tiny(&source.path().join("in"), FILES);
    let tar = |arguments: &[&std::ffi::OsStr]| cost(Command::new("tar").args(arguments));
    tar(&["-cf".as_ref(), archive.as_ref(), "-C".as_ref(), source.path().join("in").as_ref(), ".".as_ref()]);
    let one = |_| {
        let watched = Watched::start(|_| {});
        let before = watched.messages();
        // Without -m, the files have the times of the archive, as copies that preserve them do.
        tar(&["-xf".as_ref(), archive.as_ref(), "-C".as_ref(), watched.root().as_ref()]);
        let unpacked = Instant::now();
        watched.last_of(before + FILES).saturating_duration_since(unpacked).as_secs_f64()
    };
    let found: Vec<f64> = (0..runs.min(5)).map(one).collect();
    vec![Figure::new("from its end to the last message", median(&found), 0.5, "s")]
}

/// Line I.
pub(crate) fn touches(_runs: usize) -> Vec<Figure> {
    let watched = Watched::start(|root| super::libraries::tiny(root, 60_000));
    let (cpu, before) = (cpu_of(watched.pid()), watched.messages());
    let root = watched.root();
    cost(Command::new("find").arg(&root).args(["-name", "*.mp3", "-exec", "touch", "{}", "+"]));
    // The last one gets other content, and its message is the sign that the others were looked at.
    fs::write(root.join("one.mp3"), "another one").unwrap();
    watched.last_of(before + 1);
    wait_until_idle(watched.pid());
    let figures = vec![
        Figure::new("CPU", cpu_of(watched.pid()) - cpu, 1.5, "s"),
        Figure::new("peak memory", peak_memory(watched.pid()), 90.0, "MB"),
    ];
    assert_eq!(watched.messages(), before + 1, "nothing else has changed");
    figures
}

/// Waits until a process uses less than a hundredth of a processor for two seconds.
fn wait_until_idle(pid: u32) {
    let begun = Instant::now();
    loop {
        let before = cpu_of(pid);
        thread::sleep(Duration::from_secs(2));
        if cpu_of(pid) - before < 0.02 {
            return;
        }
        assert!(begun.elapsed() < LIMIT, "it does not become idle");
    }
}

/// Line J.
pub(crate) fn removals(runs: usize) -> Vec<Figure> {
    let one = |directories: usize| {
        let watched = Watched::start(|root| {
            // If most of the library were missing in a walk, its deletes would be held.
            super::libraries::tiny(&root.join("kept"), 30_000);
            for number in 0..directories {
                super::support::disk::write(&root.join(format!("gone/{number}/1.mp3")), number.to_string());
            }
        });
        let before = watched.messages();
        let begun = Instant::now();
        cost(Command::new("rm").arg("-rf").arg(watched.root().join("gone")));
        watched.last_of(before + directories).saturating_duration_since(begun).as_secs_f64()
    };
    let pairs: Vec<f64> = (0..runs.min(5)).map(|_| one(10_000) / one(5_000)).collect();
    // Twice the work, and a tenth for what is measured.
    vec![Figure::new("time / that of 5,000", median(&pairs), 2.2, "")]
}

/// Line K.
pub(crate) fn idle(runs: usize) -> Vec<Figure> {
    let watched = Watched::start(|root| super::libraries::tiny(root, 105_000));
    wait_until_idle(watched.pid());
    let (cpu, begun) = (cpu_of(watched.pid()), Instant::now());
    thread::sleep(Duration::from_secs(12 * runs.min(10) as u64));
    let a_second = (cpu_of(watched.pid()) - cpu) * 1000.0 / begun.elapsed().as_secs_f64();
    vec![
        Figure::new("CPU a second", a_second, 1.0, "ms"),
        Figure::new("memory", resident_memory(watched.pid()), 30.0, "MB"),
    ]
}
