//! Several real instances on one library or on one each, a broker, random changes, and a consumer that checks.
//!
//! `just stress --instances 4 --files 5000 --seconds 60` prints rates, latencies, the depth of the queue, redeliveries,
//! conflicts and losses. The exit code is 1 if there was any conflict, loss or message that breaks the contract.
//!
//! - A **conflict** is a path that two instances published.
//! - A **loss** is a path that is in another state on disk than by the messages, after the changes have ended.

#[path = "../support/mod.rs"]
mod support;

mod changes;
mod consumer;
mod report;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use tempfile::TempDir;

use changes::Changes;
use consumer::Checker;
use report::Report;
use support::disk::{files_in, write_settled};
use support::process::{Launcher, Recorded};
use support::rabbit::Node;
use support::usage;

/// How long the consumer may need for what was changed last.
const CATCH_UP: Duration = Duration::from_mins(2);

/// Runs several instances, changes files, and checks what they publish.
#[derive(Parser)]
#[command(name = "stress")]
struct Arguments {
    /// The number of instances.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    instances: u16,
    /// The number of files for each instance.
    #[arg(long, default_value_t = 5000)]
    files: usize,
    /// How long files are changed.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Whether the instances share a library, or have one each.
    #[arg(long, value_enum, default_value_t = Libraries::Shared)]
    libraries: Libraries,
    /// Changes a second, over all instances.
    #[arg(long, default_value_t = 400, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rate: u32,
    /// The seed of the random changes.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Libraries {
    /// One library in parts (PARTITION).
    Shared,
    /// One library for each instance, and one exchange for all.
    Own,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let roots = fill(&folder, &arguments);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let report = runtime.block_on(run(&arguments, &folder, &roots));
    print!("{report}");
    if report.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The libraries, with their files.
fn fill(folder: &TempDir, arguments: &Arguments) -> Vec<PathBuf> {
    let libraries = if arguments.libraries == Libraries::Shared { 1 } else { usize::from(arguments.instances) };
    let files = arguments.files * usize::from(arguments.instances) / libraries;
    let roots: Vec<PathBuf> = (1..=libraries).map(|number| folder.path().join(format!("music {number}"))).collect();
    for root in &roots {
        for number in 0..files {
            let (artist, track) = (number / 50, number % 50);
            write_settled(
                &root.join(format!("Artist {artist}/{track:02}.mp3")),
                format!("{} {number}", root.display()),
            );
        }
    }
    roots
}

fn start(folder: &Path, roots: &[PathBuf], url: &str, count: u16) -> Vec<Recorded> {
    let begin = |number: u16| {
        let shared = roots.len() == 1;
        let root = if shared { &roots[0] } else { &roots[usize::from(number - 1)] };
        let mut launcher = Launcher::new(folder);
        launcher
            .set("DATA_DIR", root)
            .set("STATE_DIR", folder.join(format!("state {number}")))
            .set("INSTANCE_ID", format!("instance-{number}"))
            .set("RABBITMQ_URL", url)
            .set("LOG_LEVEL", "warn");
        if shared {
            launcher.set("PARTITION", format!("{number}/{count}"));
        }
        launcher.record(&["watch"])
    };
    (1..=count).map(begin).collect()
}

async fn run(arguments: &Arguments, folder: &TempDir, roots: &[PathBuf]) -> Report {
    let node = Node::shared();
    let url = node.url(&node.vhost());
    let checker = Checker::start(&url).await;
    let count = arguments.instances;
    let total = arguments.files * usize::from(count);

    let begun = Instant::now();
    let mut instances = start(folder.path(), roots, &url, count);
    let first_scan = checker.wait_for_messages(total, Duration::from_mins(10)).await.map(|()| begun.elapsed());

    let pids: Vec<u32> = instances.iter().map(|instance| instance.pid().unsigned_abs()).collect();
    let memory = pids.iter().filter_map(|pid| usage::share_of_memory(*pid)).sum();
    let watches = pids.iter().map(|pid| usage::watched_directories(*pid)).sum();
    let clients = node.ctl(&["list_connections", "client_properties"]);
    let connections = clients.matches("file_watcher_instance").count();

    let is_over = AtomicBool::new(false);
    let writer = Changes::new(checker.sent(), arguments.seed, arguments.rate);
    let changes = thread::scope(|scope| {
        let changing = scope.spawn(|| writer.run(roots, &is_over));
        thread::sleep(Duration::from_secs(arguments.seconds));
        is_over.store(true, Ordering::Relaxed);
        changing.join().expect("the changes")
    });

    let ended = Instant::now();
    let disk = roots.iter().flat_map(|root| files_in(root).into_iter().map(|(path, hash)| (root.join(path), hash)));
    let disk = disk.collect();
    let lost = checker.wait_until_known(&disk, CATCH_UP).await;
    let caught_up = ended.elapsed();
    let mut died = Vec::new();
    for (number, instance) in instances.iter_mut().enumerate() {
        if !instance.is_running() {
            died.push(number + 1);
        }
    }
    let peak_memory = instances.iter().map(Recorded::peak_memory).max().unwrap_or_default();
    for instance in instances {
        instance.stop().await;
    }
    Report {
        instances: count,
        files: total,
        first_scan,
        changes,
        caught_up,
        lost,
        died,
        peak_memory,
        memory,
        watches,
        connections,
        found: checker.found(),
    }
}
