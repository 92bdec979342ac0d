//! The `file-watcher` binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    file_watcher::cli::run(std::env::args_os())
}
