//! The whole program, from its start to its end, against the tools that it replaces.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::LazyLock;

use criterion::Criterion;

use crate::support::library::Library;
use crate::support::ratio::{Ratio, compare};

const MIB: usize = 1024 * 1024;

pub(crate) fn chain(criterion: &mut Criterion<Ratio>) {
    let mut group = criterion.benchmark_group("chain");

    let large = LazyLock::new(|| Library::of_large_files(32, 32 * MIB));
    compare(&mut group, "1 GB of large files / openssl", &large, first_scan, |library| openssl(library, 4));
    drop(large);

    let small = LazyLock::new(|| Library::of_small_files(10_000));
    compare(&mut group, "10,000 small files / openssl", &small, first_scan, |library| openssl(library, 1000));
    let scanned = LazyLock::new(|| {
        let state = tempfile::tempdir().unwrap();
        scan(&small, state.path());
        state
    });
    compare(
        &mut group,
        "10,000 unchanged files / find",
        &scanned,
        |state| scan(&small, state.path()),
        |_| find(&small),
    );
    group.finish();
}

/// A scan in which every file is new and published.
fn first_scan(library: &Library) {
    let state = tempfile::tempdir().unwrap();
    scan(library, state.path());
}

fn scan(library: &Library, state: &Path) {
    let mut scan = Command::new(env!("CARGO_BIN_EXE_file-watcher"));
    // Only these settings apply.
    scan.env_clear().current_dir(state).env("STATE_DIR", state).env("LOG_LEVEL", "warn");
    run(scan.args(["scan", "--sink", "stdout"]).arg(library.root()));
}

/// Hashes every file, with this many files per process.
fn openssl(library: &Library, at_once: usize) {
    let script = r#"find "$1" -type f -print0 | xargs -0 -P2 -n "$2" openssl dgst -sha256"#;
    run(Command::new("sh").args(["-c", script, "sh"]).arg(library.root()).arg(at_once.to_string()));
}

fn find(library: &Library) {
    run(Command::new("find").arg(library.root()).args(["-printf", "%s %T@ %i %p\n"]));
}

fn run(command: &mut Command) {
    let output = command.stdin(Stdio::null()).stdout(Stdio::null()).output().expect("a program that is installed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
