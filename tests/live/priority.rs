//! `IO_PRIORITY`: what other programs do comes first.

use std::fs;

use crate::support::library::Library;
use crate::support::medium::output;

/// The niceness and the class of input and output of each thread of the program, without repetition.
fn priorities(library: &Library) -> Vec<(String, String)> {
    let tasks = fs::read_dir(format!("/proc/{}/task", library.pid().as_raw_pid())).unwrap();
    let mut found = Vec::new();
    for task in tasks {
        let task = task.unwrap();
        let id = task.file_name().into_string().unwrap();
        let Ok(stat) = fs::read_to_string(task.path().join("stat")) else { continue };
        // Field 2 is the name in brackets; field 19 is the niceness.
        let niceness = stat.rsplit(") ").next().unwrap().split(' ').nth(19 - 3).unwrap().to_owned();
        let class = String::from_utf8(output("ionice", &["-p", &id]).stdout).unwrap();
        // The class of one without a class follows from its niceness, and has a number behind it.
        found.push((niceness, class.split(':').next().unwrap().trim().to_owned()));
    }
    found.sort();
    found.dedup();
    found
}

#[test]
fn an_idle_program_is_idle_with_all_its_threads() {
    let mut library = Library::new();
    library.start();
    assert_eq!(priorities(&library).len(), 1);
    assert_ne!(priorities(&library)[0].1, "idle");
    library.stop();
    library.set("IO_PRIORITY", "idle").start();
    library.write("x.mp3", "x");
    library.wait_until_converged();
    assert_eq!(priorities(&library), [("19".to_owned(), "idle".to_owned())]);
    library.stop();
}
