//! Rot is told from change, by the command and by the service at night.

use std::fs::{self, File, FileTimes};
use std::time::Duration;

use rustix::process::Signal;

use crate::program::Program;
use crate::support::eventually;
use crate::{LIMIT, QUIET};

/// Changes one byte of a file and keeps its size and its modification time. The ctime changes with it, unlike that of a
/// file on a failing disk, so these tests let it be ignored.
fn rot(program: &Program, name: &str) {
    let path = program.path(name);
    let modified = fs::metadata(&path).unwrap().modified().unwrap();
    let mut content = fs::read(&path).unwrap();
    *content.last_mut().unwrap() ^= 1;
    fs::write(&path, content).unwrap();
    File::options().write(true).open(&path).unwrap().set_times(FileTimes::new().set_modified(modified)).unwrap();
}

async fn with_files() -> Program {
    let mut program = Program::new().await;
    program.set("IGNORE_CTIME", "true").fill(10);
    assert_eq!(program.run(&["scan"]).await.code, Some(0));
    program.consumer().await.expect(10, LIMIT).await;
    program
}

#[tokio::test(flavor = "multi_thread")]
async fn rot_is_listed_and_not_published_and_a_change_is_published() {
    let program = with_files().await;
    let sound = program.run(&["verify"]).await;
    assert!(sound.code == Some(0) && sound.stdout.is_empty(), "{sound:?}");
    assert!(
        sound.log.contains("10 files verified") && sound.log.contains(": 0 rotten, 0 changed, 0 gone, 0 failed"),
        "{sound:?}"
    );

    rot(&program, "0000/03.mp3");
    let again = program.run(&["verify", "--since", "1"]).await;
    assert!(again.code == Some(0) && again.log.contains("0 files verified"), "they were read just now: {again:?}");
    program.write("0000/05.mp3", "another song");
    fs::remove_file(program.path("0000/06.mp3")).unwrap();
    let found = program.run(&["verify", "--path", "0000"]).await;
    let mut lines: Vec<&str> = found.stdout.lines().collect();
    lines.sort_unstable();
    assert_eq!(
        (found.code, lines),
        (Some(1), vec!["changed   0000/05.mp3", "gone      0000/06.mp3", "rotten    0000/03.mp3"]),
        "{found:?}"
    );
    let published = program.consumer().await.drain_until_quiet(QUIET).await;
    let mut events: Vec<(&str, bool)> = published
        .iter()
        .map(|it| (it.routing_key.as_str(), it.body["file_path"].as_str().unwrap().ends_with("03.mp3")))
        .collect();
    events.sort_unstable();
    assert_eq!(events, [("file.deleted", false), ("file.modified", false)], "the changes alone");

    let status = program.run(&["status"]).await.stdout;
    assert!(status.contains("some files are rotten") && status.contains("1 file, the first one is 0000/03.mp3"));
    let json = program.run(&["verify", "--json"]).await;
    let line: serde_json::Value = serde_json::from_str(json.stdout.trim()).unwrap();
    let path = program.path("0000/03.mp3").to_str().unwrap().to_owned();
    assert_eq!((&line["problem"], &line["file_path"]), (&"rotten".into(), &path.into()));
    assert_ne!(line["published_sha256"], line["found_sha256"]);
    let known = program.run(&["verify", "--since", "1"]).await;
    assert!(known.code == Some(1) && known.stdout == "rotten    0000/03.mp3\n", "it is still rotten: {known:?}");
    rot(&program, "0000/03.mp3");
    assert_eq!(program.run(&["verify"]).await.code, Some(0), "the byte is back");
    assert!(!program.run(&["status"]).await.stdout.contains("rotten"));
    let unknown = program.run(&["verify", "--path", "0001"]).await;
    assert!(unknown.code == Some(2) && unknown.log.contains("nothing is known at or under"), "{unknown:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_ends_a_verification_which_can_be_continued() {
    let mut program = with_files().await;
    for number in 0..5 {
        rot(&program, &format!("0000/0{number}.mp3"));
    }
    program.set("MAX_FILES_PER_SECOND", "1");
    let running = program.start(&["verify"]);
    eventually("it is listed at once", LIMIT, || running.stdout().contains("rotten    0000/0")).await;
    running.signal(Signal::INT);
    let stopped = running.ended().await;
    assert!(stopped.code == Some(1) && stopped.log.contains("interrupted; --since leaves out"), "{stopped:?}");
    program.set("MAX_FILES_PER_SECOND", "0");
    let rest = program.run(&["verify", "--since", "1"]).await;
    let verified = |log: &str| {
        let summary = log.lines().find(|line| line.contains(" verified, ")).unwrap();
        summary.split(' ').next().unwrap().parse::<usize>().unwrap()
    };
    assert!(verified(&stopped.log) < 10, "{stopped:?}");
    // The others were published today.
    assert_eq!(verified(&rest.log), stopped.stdout.lines().count(), "rotten files are read every time");
    assert_eq!(rest.code, Some(1), "{rest:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_message_is_mixed_with_the_answer() {
    let mut program = Program::new().await;
    program.set("SINK", "stdout").fill(2);
    assert_eq!(program.run(&["scan"]).await.code, Some(0));
    fs::remove_file(program.path("0000/01.mp3")).unwrap();
    let verified = program.run(&["verify", "--json"]).await;
    assert_eq!((verified.code, verified.stdout.lines().count()), (Some(0), 1), "{verified:?}");
    assert!(verified.stdout.starts_with(r#"{"problem":"gone","#) && verified.log.contains("`file-watcher scan`"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_verifies_at_night_and_names_what_is_rotten() {
    let mut program = with_files().await;
    rot(&program, "0000/07.mp3");
    // Files that were read in this second are not due.
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    // A time zone in which it is between three and four.
    let hours_ahead = jiff::Timestamp::now().to_string()[11..13].parse::<i32>().unwrap() - 3;
    program.set("TZ", &format!("XXX{hours_ahead}")).set("VERIFY_INTERVAL_DAYS", "1");
    let running = program.watch().await;
    let status = async || program.run(&["status"]).await.stdout;
    eventually("the rot is found", LIMIT, || running.log().contains("a part of the library was verified")).await;
    assert!(running.log().contains("rotten: another content than was published"), "{}", running.log());
    let mut report = String::new();
    for _ in 0..100 {
        report = status().await;
        if report.contains("some files are rotten") {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(report.contains("1 file, the first one is 0000/07.mp3"), "{report}");
    assert_eq!(program.run(&["healthcheck"]).await.code, Some(0), "it is a warning");
    let beside = program.run(&["verify"]).await;
    assert!(beside.code == Some(1) && beside.stdout == "rotten    0000/07.mp3\n", "{beside:?}");
    assert!(program.consumer().await.drain_until_quiet(QUIET).await.is_empty(), "nothing is published");
    running.stop().await;
}
