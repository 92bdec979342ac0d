//! The whole program beside what its work costs at least.
//!
//! `just compare` prints a line for each kind of work, with its reference, the ratio or figure of this run and what is to
//! be reached. The exit code is 1 if a line misses that. Programs and their references run in turn, so that other work of
//! the machine affects both alike, and each figure is a median.
//!
//! `just compare A D` runs only these lines. `--full` adds a million files, which takes an hour. `just compare rows
//! 10000000` measures an index of ten million rows.

#[path = "../support/mod.rs"]
mod support;

mod libraries;
mod live;
mod measure;
mod reference;
mod rows;
mod scans;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Compares the program with what its work costs at least.
#[derive(Parser)]
#[command(name = "compare")]
struct Arguments {
    /// Runs of each program.
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// `WATCH_MODE` of the program.
    #[arg(long, default_value = "auto")]
    watch_mode: String,
    /// Adds the lines with a million files.
    #[arg(long)]
    full: bool,
    /// Only these lines, such as A D.
    lines: Vec<String>,
    #[command(subcommand)]
    reference: Option<Reference>,
}

/// The references, which are processes of their own, and other measurements.
#[derive(Subcommand)]
enum Reference {
    /// Lists, opens, reads and hashes the files of a directory with two threads.
    #[command(hide = true)]
    Hash { directory: PathBuf },
    /// What an index with this number of rows costs.
    Rows { count: u64 },
    /// Fills an index with this number of rows.
    #[command(hide = true)]
    FillRows { file: PathBuf, count: u64 },
    /// Publishes the lines of a file in confirmed batches of 100.
    #[command(hide = true)]
    Publish { url: String, bodies: PathBuf },
}

/// One figure of a line.
pub(crate) struct Figure {
    /// What was measured, such as `wall / hashing alone`.
    pub(crate) what: String,
    pub(crate) measured: f64,
    /// The most that is right; a figure of which more is better is given as its inverse.
    pub(crate) target: f64,
    /// The unit; empty for a ratio.
    pub(crate) unit: &'static str,
}

impl Figure {
    fn new(what: &str, measured: f64, target: f64, unit: &'static str) -> Self {
        Self { what: what.to_owned(), measured, target, unit }
    }
}

/// A line of the table.
struct Line {
    name: &'static str,
    title: &'static str,
    is_long: bool,
    measure: fn(usize) -> Vec<Figure>,
}

const LINES: [Line; 14] = [
    line("A", "first scan of 10,000 tagged files", scans::tagged),
    line("B", "the same, to RabbitMQ", scans::to_rabbitmq),
    Line { is_long: true, ..line("C", "first scan of 1,000,000 tiny files", scans::a_million_new) },
    line("D", "second scan of 100,000 files", scans::unchanged),
    Line { is_long: true, ..line("D1", "second scan of 1,000,000 files", scans::a_million_unchanged) },
    line("E", "rename of 100 KB into place", live::renames),
    line("F", "close of 100 KB", live::closes),
    line("G", "close of 50 MB", live::large_closes),
    line("H", "50,000 files from tar", live::archive),
    line("I", "touch of 60,000 files", live::touches),
    line("J", "rm -rf of 10,000 directories", live::removals),
    line("K", "idle with 10,500 directories", live::idle),
    line("L", "ten seconds of a limited rate of files", scans::limited_files),
    line("M", "ten seconds of a limited rate of bytes", scans::limited_bytes),
];

const fn line(name: &'static str, title: &'static str, measure: fn(usize) -> Vec<Figure>) -> Line {
    Line { name, title, is_long: false, measure }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match arguments.reference {
        Some(Reference::Hash { directory }) => reference::hash(&directory),
        Some(Reference::Publish { url, bodies }) => reference::publish(&url, &bodies),
        Some(Reference::Rows { count }) => rows::measure(count),
        Some(Reference::FillRows { file, count }) => rows::fill(&file, count),
        None => return compare(&arguments),
    }
    ExitCode::SUCCESS
}

fn compare(arguments: &Arguments) -> ExitCode {
    let is_wanted = |line: &&Line| match arguments.lines.as_slice() {
        [] => arguments.full || !line.is_long,
        names => names.iter().any(|name| name.eq_ignore_ascii_case(line.name)),
    };
    live::WATCH_MODE.set(arguments.watch_mode.clone()).unwrap();
    let mut missed = 0;
    println!("{:3} {:38} {:40} {:>10} {:>10}", "", "work", "figure", "measured", "to reach");
    for line in LINES.iter().filter(is_wanted) {
        for Figure { what, measured, target, unit } in (line.measure)(arguments.runs) {
            let is_missed = measured > target;
            missed += u32::from(is_missed);
            let (measured, target) = (format!("{measured:.2} {unit}"), format!("{target:.2} {unit}"));
            let mark = if is_missed { "missed" } else { "" };
            println!("{:3} {:38} {what:40} {measured:>10} {target:>10} {mark}", line.name, line.title);
        }
    }
    if missed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
