//! The `file-watcher` binary.

fn main() {}
