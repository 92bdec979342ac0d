//! What a scan costs in system calls, which do not depend on the time. strace counts them.

use std::collections::BTreeMap;
use std::fs;

use crate::support::disk::fixtures;
use crate::support::library::Library;

/// The numbers of the system calls of a first scan of so many tagged files, by name.
fn calls_of_first_scan(files: usize) -> BTreeMap<String, usize> {
    let mut library = Library::new();
    let content = fs::read(fixtures().join("mp3/tagged-all-apev2.mp3")).unwrap();
    for number in 0..files {
        crate::support::disk::write_settled(&library.path(format!("{}/{number}.mp3", number / 10)), &content);
    }
    let table = library.outside("calls");
    library.run_by(&["strace", "-f", "-c", "-o", table.to_str().unwrap()]);
    library.set("LOG_LEVEL", "error").scan();
    let table = fs::read_to_string(table).unwrap();
    // % time, seconds, microseconds a call, calls, perhaps errors, name.
    let row = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        Some(((*fields.last()?).to_owned(), fields.get(3)?.parse().ok()?))
    };
    table.lines().filter_map(row).filter(|(name, _)| name != "total").collect()
}

#[test]
fn a_first_scan_needs_a_bounded_number_of_system_calls() {
    const FILES: usize = 1_000;
    let (none, all) = (calls_of_first_scan(0), calls_of_first_scan(FILES));
    let more = |name: &str| all.get(name).copied().unwrap_or(0).saturating_sub(none.get(name).copied().unwrap_or(0));
    let a_file = |names: &[&str]| names.iter().map(|name| more(name)).sum::<usize>() as f64 / FILES as f64;
    println!("{all:#?}");
    let (opened, asked) = (a_file(&["open", "openat", "openat2"]), a_file(&["stat", "fstat", "newfstatat", "statx"]));
    let (read, synced) = (a_file(&["read", "pread64"]), more("fsync") + more("fdatasync"));
    println!("a file: {opened} opened, {asked} asked for, {read} read; {synced} synced");
    // Files as young as these are looked up once more before the commit.
    assert!(opened < 5.5 && asked < 12.0 && read < 5.5, "a file: {opened} opened, {asked} asked for, {read} read");
    // One for each commit of up to a hundred files, and what the log of the store needs. strace slows the looks down, so that
    // batches close before they are full.
    assert!((1..=50).contains(&synced), "{synced} synced");
}
