//! What somebody at a terminal sees.

use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::AsyncReadExt;

use crate::LIMIT;
use crate::program::Program;

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_shows_a_bar_then_a_line_for_each_event_and_leaves_the_terminal_tidy() {
    let mut program = Program::new().await;
    program.set("MAX_FILES_PER_SECOND", "5").set("LOG_LEVEL", "info");
    program.fill(25);
    // `script` gives it a terminal.
    let command = format!("exec {} watch", env!("CARGO_BIN_EXE_file-watcher"));
    program.launcher.set_binary("/usr/bin/script").set("SHELL", "/bin/sh").set("TERM", "xterm");
    let command = program.launcher.command(["-qefc", &command, "/dev/null"]);
    let mut command = tokio::process::Command::from(command);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let mut seen = String::new();
    let mut until = async |words: &str, seen: &mut String| {
        let reading = async {
            let mut buffer = [0; 4096];
            while !seen.contains(words) {
                let length = stdout.read(&mut buffer).await.unwrap();
                assert!(length > 0, "it ended: {seen}");
                seen.push_str(&String::from_utf8_lossy(&buffer[..length]));
            }
        };
        tokio::time::timeout(LIMIT, reading).await.unwrap_or_else(|_| panic!("no {words:?}: {seen}"));
    };
    until("of about 25 files", &mut seen).await;
    until(" left", &mut seen).await;
    assert!(seen.contains(" %  "), "{seen}");
    // Events are shown from the end of the first scan on.
    let adding = async {
        for number in 0..60 {
            tokio::time::sleep(Duration::from_secs(1)).await;
            program.add("mp3/tagged-id3v24.mp3", &format!("{number}new\u{1b}[2J.mp3"));
        }
    };
    tokio::select! {
        () = until("new\\u{1b}[2J.mp3  0:01  44.1 kHz\r\n", &mut seen) => {}
        () = adding => panic!("no line: {seen}"),
    }
    assert!(seen.contains("created   "), "{seen}");
    assert!(!seen.contains("{\""), "no JSON: {seen}");
    let shell = Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap()).unwrap();
    let watcher =
        std::fs::read_to_string(format!("/proc/{}/task/{}/children", shell.as_raw_nonzero(), shell.as_raw_nonzero()));
    let watcher: i32 = watcher.unwrap().split_whitespace().next().unwrap().parse().unwrap();
    kill_process(Pid::from_raw(watcher).unwrap(), Signal::INT).unwrap();
    let ended = tokio::time::timeout(LIMIT, child.wait()).await.unwrap().unwrap();
    assert_eq!(ended.code(), Some(0));
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).await.unwrap();
    assert!(rest.ends_with('\n') && !rest.contains(" %  "), "{rest:?}");
}
