//! The commands that ask: about the index, with and without a running service, and about the messages.

use serde_json::Value;

use crate::program::Program;
use crate::support::process::Ended;

/// The lines of JSON that a command printed.
fn json(ended: &Ended) -> Vec<Value> {
    assert_eq!(ended.code, Some(0), "{ended:?}");
    ended.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Three songs in two directories, one of them twice and once more as a hard link.
async fn with_songs() -> Program {
    let program = Program::new().await;
    program.add("mp3/tagged-id3v24.mp3", "a/one.mp3");
    program.add("mp3/tagged-id3v24.mp3", "b/copy\n\u{1b}[31m.mp3");
    program.add("flac/tagged-flac.flac", "b/two.flac");
    program.add("m4a/tagged-aac.m4a", "b/three.m4a");
    std::fs::hard_link(program.path("a/one.mp3"), program.path("b/link.mp3")).unwrap();
    program
}

#[tokio::test(flavor = "multi_thread")]
async fn the_index_is_listed_at_rest_and_while_a_service_runs() {
    let program = with_songs().await;
    let never = program.run(&["list"]).await;
    assert!(never.code == Some(2) && never.log.contains("scan the library first"), "{never:?}");
    assert_eq!(program.run(&["status"]).await.code, Some(2));
    assert_eq!(program.run(&["healthcheck"]).await.code, Some(1));
    assert!(!program.place("state").exists(), "a question makes nothing");

    let running = program.watch().await;
    let listed = json(&program.run(&["list", "--json"]).await);
    let mut messages = program.consumer().await.expect(5, crate::LIMIT).await;
    messages.sort_by_key(|message| message.body["file_path"].to_string());
    assert_eq!(listed.len(), 5);
    let mut listed_by_path = listed.clone();
    listed_by_path.sort_by_key(|file| file["file_path"].to_string());
    for (file, message) in listed_by_path.iter().zip(&messages) {
        for (field, value) in file.as_object().unwrap() {
            assert_eq!(*value, message.body[field], "{field}");
        }
    }
    running.stop().await;

    assert_eq!(json(&program.run(&["list", "--json"]).await), listed);
    let table = program.run(&["list", "--path", "b", "--format", "mp3"]).await;
    let lines: Vec<&str> = table.stdout.lines().collect();
    assert_eq!(lines.len(), 3, "a name never breaks a line: {table:?}");
    assert!(lines[0].starts_with("FORMAT") && lines[1].contains("kHz") && lines[1].ends_with(r"copy\n\u{1b}[31m.mp3"));
    assert!(table.log.contains("2 files, "), "{table:?}");
    let of = async |arguments: &[&str]| json(&program.run(&[&["list", "--json"], arguments].concat()).await).len();
    assert_eq!(of(&["--format", "m4a"]).await, 1);
    assert_eq!(of(&["--format", "ogg"]).await, 0);
    assert_eq!(of(&["--path", "a/one.mp3"]).await, 1);
    let title = listed[0]["metadata"]["tags"]["title"].as_str().unwrap().to_uppercase();
    assert_eq!(of(&["--where", &format!("title={title}")]).await, 3);
    assert_eq!(of(&["--where", "title~", "--where", "artist="]).await, 0);

    let status = json(&program.run(&["status", "--json"]).await).remove(0);
    assert_eq!(
        (&status["running"], &status["index"]["files"], &status["outbox"]["messages"]),
        (&false.into(), &5.into(), &0.into())
    );
    let status = program.run(&["status"]).await;
    assert!(status.stdout.starts_with("status        no service is running\n"), "{status:?}");

    // The library may be gone: that is when somebody asks.
    std::fs::rename(program.root(), program.place("away")).unwrap();
    assert_eq!(json(&program.run(&["list", "--json"]).await), listed);
    assert_eq!(program.run(&["status"]).await.stdout, status.stdout);
    let unhealthy = program.run(&["healthcheck"]).await;
    assert!(unhealthy.code == Some(1) && unhealthy.stdout.starts_with("unhealthy: no service"), "{unhealthy:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn duplicates_are_found_and_hard_links_waste_nothing() {
    let program = with_songs().await;
    assert_eq!(program.run(&["scan"]).await.code, Some(0));
    let groups = json(&program.run(&["duplicates", "--json"]).await);
    let [group] = &groups[..] else { panic!("{groups:?}") };
    let files = group["files"].as_array().unwrap();
    assert_eq!((files.len(), &group["wasted_bytes"]), (3, &group["size"]));
    assert_eq!(files.iter().filter(|file| file["is_hard_link"] == true).count(), 1);
    assert_eq!(files[0]["file_path"], program.root().join(files[0]["path"].as_str().unwrap()).to_str().unwrap());
    assert!(json(&program.run(&["duplicates", "--json", "--path", "b/two.flac"]).await).is_empty());
    let empty = program.run(&["replay", "--path", ""]).await;
    assert!(empty.code == Some(2) && empty.log.contains("--path: is empty"), "an unset variable is not everything");
    for command in ["duplicates", "list"] {
        let unknown = program.run(&[command, "--path", "nobody"]).await;
        assert!(unknown.code == Some(2) && unknown.log.contains("nothing is known at or under"), "{unknown:?}");
    }
    let text = program.run(&["duplicates", "--path", "b"]).await;
    assert!(
        text.stdout.contains("(oldest)") && text.stdout.ends_with("1 group of equal files, 4.7 kB wasted\n"),
        "{text:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_printed_as_they_are_published() {
    let program = with_songs().await;
    let mut raw = program.start(&["events", "--json", "--count", "2", "--type", "Created,"]);
    raw.wait_for_log("waiting for messages").await;
    let under = program.path("b").to_str().unwrap().to_owned();
    let mut lines = program.start(&["events", "--count", "4", "--path", &under]);
    lines.wait_for_log("waiting for messages").await;
    assert_eq!(program.run(&["scan"]).await.code, Some(0));
    let sent = program.consumer().await.expect(5, crate::LIMIT).await;
    let printed = json(&raw.ended().await);
    assert_eq!(printed, [sent[0].body.clone(), sent[1].body.clone()]);
    let ended = lines.ended().await;
    assert!(ended.code == Some(0) && ended.stdout.lines().count() == 4, "{ended:?}");
    assert!(ended.stdout.contains("created   ") && ended.stdout.contains("two.flac  0:00  22.05 kHz\n"), "{ended:?}");

    program.proxy.set(crate::support::proxy::Network::Down);
    let away = program.run(&["events"]).await;
    assert!(away.code == Some(1) && away.log.contains("no connection to RabbitMQ"), "{away:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_cannot_be_written_is_a_failure() {
    let program = with_songs().await;
    let refused = program.run(&["replay"]).await;
    assert!(refused.code == Some(2) && refused.log.contains("scan the library first"), "{refused:?}");
    assert_eq!(program.run(&["scan"]).await.code, Some(0));
    for command in ["schema", "status", "list", "held", "duplicates"] {
        let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
        let mut run = program.launcher.command([command]);
        let output = run.stdout(full).stderr(std::process::Stdio::piped()).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{command}: {error}");
        assert!(error.contains("failed to write to standard output"), "{command}: {error}");
    }
}
