//! What an operator sees and does: the start of the log, an empty library, a state of another user, the files in deploy/.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::health::Served;
use crate::program::Program;
use crate::support::eventually;
use crate::support::proxy::Network;
use crate::{LIMIT, QUIET};

/// The first line of a log with this message.
fn line(log: &str, message: &str) -> Value {
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let found = lines.into_iter().find(|line| line["message"].as_str().is_some_and(|text| text.starts_with(message)));
    found.unwrap_or_else(|| panic!("not in the log: {message}\n{log}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_start_of_the_log_says_what_runs_and_how() {
    let mut program = Program::new().await;
    program.set("RABBITMQ_PASS", "hunter2").set("BATCH_SIZE", "7").fill(3);
    let mut running = program.watch().await;
    running.wait_for_log("the first scan is done").await;
    let log = running.log();
    let start = line(&log, "watching");
    assert_eq!((&start["mode"], &start["version"]), (&"inotify".into(), &env!("CARGO_PKG_VERSION").into()));
    assert!(start["directories"].as_u64().is_some_and(|directories| directories >= 2), "{start}");
    let settings = start["settings"].as_str().unwrap();
    assert!(settings.contains("BATCH_SIZE=7") && settings.contains("RABBITMQ_PASS=***"), "{settings}");
    assert!(!settings.contains("MAX_CONCURRENT_FILES"), "it is the default: {settings}");
    assert!(line(&log, "the index is new")["message"].as_str().unwrap().contains("STATE_DIR was not kept"));
    let first = line(&log, "the first scan is done");
    assert_eq!((&first["files"], &first["created"], &first["failed"]), (&3.into(), &3.into(), &0.into()));
    let ended = running.stop().await;
    assert!(!ended.log.contains("hunter2"));

    let store_id = program.consumer().await.expect(3, LIMIT).await[0].header("store_id").unwrap();
    let again = program.watch().await;
    assert_eq!(line(&again.log(), "watching")["store_id"], *store_id, "it stays the same");
    assert!(!again.log().contains("the index is new"));
    again.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_library_without_audio_files_is_no_silence() {
    let program = Program::new().await;
    let scanned = program.run(&["scan"]).await;
    assert!(scanned.code == Some(0) && scanned.log.contains("there is no audio file in "), "{scanned:?}");
    let mut running = program.watch().await;
    running.wait_for_log("there is no audio file in the library").await;
    let status = program.run(&["status"]).await.stdout;
    assert!(status.contains("not ready") && status.contains("is it mounted?"), "{status}");
    program.write("a.mp3", "a song");
    running.wait_for_log("there are audio files in the library").await;
    assert!(program.run(&["status"]).await.stdout.starts_with("status        ready\n"));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_keys_for_partitions_are_the_first_directories() {
    let program = Program::new().await;
    program.write("Jazz/a/1.mp3", "one");
    program.write("2.mp3", "two");
    let running = program.watch().await;
    let mut consumer = program.consumer().await;
    let mut keys: Vec<_> =
        consumer.expect(2, LIMIT).await.iter().map(|message| message.header("partition_key").unwrap()).collect();
    keys.sort_unstable();
    assert_eq!(keys, ["", "Jazz"]);
    fs::create_dir(program.path("Rock")).unwrap();
    fs::rename(program.path("Jazz/a"), program.path("Rock/a")).unwrap();
    let moved = consumer.expect(1, LIMIT).await.remove(0);
    assert_eq!(moved.routing_key, "file.moved");
    let key = |name| moved.header(name);
    assert_eq!((key("partition_key"), key("old_partition_key")), (Some("Rock".into()), Some("Jazz".into())));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_wait_in_a_durable_queue_of_events() {
    let program = Program::new().await;
    let mut listening = program.start(&["events", "--durable", "mine", "--json", "--count", "1"]);
    listening.wait_for_log("keeps messages").await;
    program.write("a.mp3", "one");
    program.write("b.mp3", "two");
    assert_eq!(program.run(&["scan"]).await.code, Some(0));
    let first = listening.ended().await;
    assert_eq!((first.code, first.stdout.lines().count()), (Some(0), 1), "{first:?}");
    let second = program.run(&["events", "--durable", "mine", "--json", "--count", "1"]).await;
    let path = |line: &str| serde_json::from_str::<Value>(line).unwrap()["file_path"].clone();
    assert_ne!(path(&first.stdout), path(&second.stdout), "each message once");
    program.consumer().await.expect(2, QUIET).await;
    let refused = program.run(&["events", "--durable", "amq.mine"]).await;
    assert!(refused.code == Some(2) && refused.log.contains("--durable: \"amq.mine\""), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_summary_of_a_scan_can_be_json_and_an_interruption_is_no_error() {
    let mut program = Program::new().await;
    program.fill(3);
    let scanned = program.run(&["scan", "--json"]).await;
    let summary: Value = serde_json::from_str(scanned.log.lines().last().unwrap()).unwrap();
    assert_eq!((&summary["files_seen"], &summary["created"]), (&3.into(), &3.into()));

    program.write("new.mp3", "a song");
    program.set("SHUTDOWN_GRACE_SECS", "0");
    program.proxy.set(Network::Down);
    let mut running = program.start(&["scan"]);
    running.wait_for_log("everything is indexed").await;
    running.signal(rustix::process::Signal::INT);
    let ended = running.ended().await;
    assert!(ended.code == Some(1) && ended.log.contains("interrupted; the next start continues"), "{ended:?}");
    assert!(!ended.log.contains(r#""level":"ERROR","message":"interrupted"#), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_of_another_user_is_refused_with_what_helps() {
    const OWNER: u32 = 4711;
    assert!(rustix::process::geteuid().is_root(), "only root can give a directory to another user");
    let mut program = Program::new().await;
    let open = |path: &std::path::Path| fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    open(&program.place("."));
    open(&program.root());
    fs::create_dir(program.place("state")).unwrap();
    chown(program.place("state"), Some(OWNER), Some(OWNER)).unwrap();
    program.launcher.link_binary().run_as(4712);
    let refused = program.run(&["scan"]).await;
    assert_eq!(refused.code, Some(2), "{refused:?}");
    for words in ["belongs to user 4711", "cannot be written by user 4712", "chown -R 4712", "--user 4711:4711"] {
        assert!(refused.log.contains(words), "{words}: {refused:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_library_is_one_library_whatever_link_leads_to_it() {
    let mut program = Program::new().await;
    program.fill(1);
    std::os::unix::fs::symlink(program.root(), program.place("link")).unwrap();
    assert_eq!(program.run(&["scan"]).await.code, Some(0));
    program.set("DATA_DIR", "link");
    let refused = program.run(&["scan"]).await;
    assert_eq!(refused.code, Some(2), "{refused:?}");
    assert!(refused.log.contains("contains the index of this library, and its messages name it"), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn systemd_is_told_when_the_watch_is_up_and_how_the_service_is() {
    let mut program = Program::new().await;
    let socket = UnixDatagram::bind(program.place("notify")).unwrap();
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    let path = program.place("notify");
    program.set("NOTIFY_SOCKET", path.to_str().unwrap()).set("WATCHDOG_USEC", "1000000").fill(1);
    let running = program.watch().await;
    let mut told = String::new();
    let mut read_until = |words: &str| {
        let mut buffer = [0; 4096];
        while !told.contains(words) {
            let length = socket.recv(&mut buffer).unwrap_or_else(|error| panic!("no {words}, {error}: {told}"));
            told.push_str(&String::from_utf8_lossy(&buffer[..length]));
        }
    };
    for words in ["READY=1", "STATUS=", "STATUS=everything is in order", "WATCHDOG=1"] {
        read_until(words);
    }
    running.stop().await;
    read_until("STOPPING=1");
}

/// The alert rules and their tests, the dashboard, and the unit for systemd agree with the program.
#[tokio::test(flavor = "multi_thread")]
async fn the_files_for_operators_name_only_what_exists() {
    let served = Served::start_with(Network::Up, 1, &[]).await;
    let mut metrics = String::new();
    eventually("a file is indexed", LIMIT, || {
        metrics = served.get("/metrics").1;
        metrics.contains("file_watcher_index_files{format=")
    })
    .await;
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), &metrics).unwrap();
    let check = |metrics: &std::path::Path| {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/deploy/check");
        Command::new("/usr/bin/python3").arg(script).arg(metrics).output().unwrap()
    };
    let checked = check(file.path());
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stdout));
    // A check that cannot fail would be none.
    fs::write(file.path(), metrics.replace("file_watcher_outbox_messages", "file_watcher_renamed")).unwrap();
    assert!(!check(file.path()).status.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_in_order_ends_at_once() {
    let program = Program::new().await;
    program.write("a.mp3", "a song");
    let running = program.watch().await;
    program.consumer().await.expect(1, LIMIT).await;
    eventually("everything is confirmed", LIMIT, || program.count("outbox") == 0).await;
    let ended = running.stop().await;
    assert!(ended.took < Duration::from_secs(2), "{ended:?}");
}
