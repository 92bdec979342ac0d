//! Lines of the table about scans.

use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};

use lapin::types::FieldTable;

use super::Figure;
use super::libraries;
use super::measure::{Cost, cost, median};
use super::support::consumer::{KEYS, declare};
use super::support::disk::write_settled;
use super::support::rabbit::Node;

/// `scan` with this state and no other settings.
fn scan(root: &Path, state: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_file-watcher"));
    command.env_clear().env("STATE_DIR", state).env("LOG_LEVEL", "error").arg("scan").arg(root);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command
}

fn scan_to_stdout(root: &Path, state: &Path) -> Command {
    let mut command = scan(root, state);
    command.env("SINK", "stdout");
    command
}

/// This program, as a reference.
fn reference(arguments: &[&std::ffi::OsStr]) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(arguments).stdout(Stdio::null());
    command
}

fn hash(root: &Path) -> Command {
    reference(&["hash".as_ref(), root.as_os_str()])
}

fn find(root: &Path) -> Command {
    let mut command = Command::new("find");
    command.arg(root).args(["-printf", "%s %T@ %i %p\n"]).stdout(Stdio::null());
    command
}

/// The medians of the ratios of wall time and of processor time, and of our memory, over runs in turn.
fn ratios(runs: usize, mut ours: impl FnMut() -> Cost, mut its: impl FnMut() -> Cost) -> Cost {
    let pairs: Vec<(Cost, Cost)> = (0..runs)
        .map(|run| {
            if run % 2 == 0 {
                (ours(), its())
            } else {
                let its = its();
                (ours(), its)
            }
        })
        .collect();
    let of = |value: fn(&(Cost, Cost)) -> f64| median(&pairs.iter().map(value).collect::<Vec<_>>());
    Cost {
        wall: of(|(ours, its)| ours.wall / its.wall),
        cpu: of(|(ours, its)| ours.cpu / its.cpu.max(0.01)),
        memory: of(|(ours, _)| ours.memory),
    }
}

/// First scans of a library of so many files, beside hashing alone.
fn first_scans(fill: impl FnOnce(&Path, usize), files: usize, runs: usize) -> Cost {
    let library = tempfile::tempdir().unwrap();
    let root = library.path();
    fill(root, files);
    // Both find the files in memory.
    cost(&mut hash(root));
    let ours = || {
        let state = tempfile::tempdir().unwrap();
        cost(&mut scan_to_stdout(root, state.path()))
    };
    ratios(runs, ours, || cost(&mut hash(root)))
}

/// Line A.
pub(crate) fn tagged(runs: usize) -> Vec<Figure> {
    let ratio = first_scans(libraries::tagged, 10_000, runs);
    vec![
        Figure::new("wall / hashing alone", ratio.wall, 1.6, ""),
        Figure::new("CPU / hashing alone", ratio.cpu, 1.8, ""),
    ]
}

/// Line B.
pub(crate) fn to_rabbitmq(runs: usize) -> Vec<Figure> {
    let folder = tempfile::tempdir().unwrap();
    let (root, bodies) = (folder.path().join("music"), folder.path().join("bodies"));
    libraries::tagged(&root, 10_000);
    let mut command = scan_to_stdout(&root, &folder.path().join("state"));
    cost(command.stdout(File::create(&bodies).unwrap()));
    let node = Node::shared();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let vhost = || {
        let url = node.url(&node.vhost());
        runtime.block_on(declare(&url, "compare", &KEYS, FieldTable::default()));
        url
    };
    let ours = || {
        let state = tempfile::tempdir().unwrap();
        cost(scan(&root, state.path()).env("RABBITMQ_URL", vhost()))
    };
    let its = || cost(&mut reference(&["publish".as_ref(), vhost().as_ref(), bodies.as_os_str()]));
    let ratio = ratios(runs, ours, its);
    vec![Figure::new("wall / publishing alone", ratio.wall, 1.0 / 0.95, "")]
}

/// Line C.
pub(crate) fn a_million_new(runs: usize) -> Vec<Figure> {
    let ratio = first_scans(libraries::tiny, 1_000_000, runs);
    vec![Figure::new("wall / hashing alone", ratio.wall, 3.0, ""), Figure::new("memory", ratio.memory, 40.0, "MB")]
}

/// Line D.
pub(crate) fn unchanged(runs: usize) -> Vec<Figure> {
    second_scans(100_000, runs)
}

/// Line D with a million files.
pub(crate) fn a_million_unchanged(runs: usize) -> Vec<Figure> {
    second_scans(1_000_000, runs)
}

fn second_scans(files: usize, runs: usize) -> Vec<Figure> {
    let (library, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    libraries::tiny(library.path(), files);
    cost(&mut scan_to_stdout(library.path(), state.path()));
    let ours = || cost(&mut scan_to_stdout(library.path(), state.path()));
    let ratio = ratios(runs, ours, || cost(&mut find(library.path())));
    vec![Figure::new("wall / find -printf", ratio.wall, 0.6, ""), Figure::new("memory", ratio.memory, 16.0, "MB")]
}

/// Line L.
pub(crate) fn limited_files(runs: usize) -> Vec<Figure> {
    limited(runs, "MAX_FILES_PER_SECOND", "100", |root| libraries::tiny(root, 1_000))
}

/// Line M.
pub(crate) fn limited_bytes(runs: usize) -> Vec<Figure> {
    limited(runs, "MAX_BYTES_PER_SECOND", "20MB", |root| {
        for number in 0..20_u8 {
            write_settled(&root.join(format!("{number}.mp3")), vec![number; 10_000_000]);
        }
    })
}

/// Scans that take ten seconds at the limit.
fn limited(runs: usize, setting: &str, limit: &str, fill: impl FnOnce(&Path)) -> Vec<Figure> {
    const SECONDS: f64 = 10.0;
    let library = tempfile::tempdir().unwrap();
    fill(library.path());
    let one = |_| {
        let state = tempfile::tempdir().unwrap();
        cost(scan_to_stdout(library.path(), state.path()).env(setting, limit)).wall
    };
    let times: Vec<f64> = (0..runs.min(3)).map(one).collect();
    vec![Figure::new("difference from the limit", 100.0 * (SECONDS / median(&times) - 1.0).abs(), 5.0, "%")]
}
