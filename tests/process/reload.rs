//! The settings are read again while the service runs.

use std::fs;

use rustix::process::Signal;

use crate::LIMIT;
use crate::program::Program;
use crate::support::eventually;

#[tokio::test(flavor = "multi_thread")]
async fn files_that_match_no_longer_are_deleted_and_files_that_match_again_are_created() {
    let program = Program::new().await;
    program.write("a.mp3", "one");
    program.write("b.flac", "two");
    let mut running = program.watch().await;
    let mut consumer = program.consumer().await;
    consumer.expect(2, LIMIT).await;

    let status = async || program.run(&["status", "--json"]).await.stdout;
    let started = |status: String| serde_json::from_str::<serde_json::Value>(&status).unwrap()["started"].clone();
    let before = started(status().await);
    fs::write(program.place(".env"), "EXCLUDE=*.flac\n").unwrap();
    let reloaded = program.run(&["reload"]).await;
    assert!(reloaded.code == Some(0) && reloaded.log.contains("the settings were read again"), "{reloaded:?}");
    assert_eq!(consumer.expect(1, LIMIT).await[0].routing_key, "file.deleted");

    fs::write(program.place(".env"), "EXCLUDE=*.flac\nMAX_FILES_PER_SECOND=many\n").unwrap();
    let refused = program.run(&["reload"]).await;
    assert!(refused.code == Some(2) && refused.log.contains("MAX_FILES_PER_SECOND: \"many\""), "{refused:?}");
    running.signal(Signal::HUP);
    running.wait_for_log("SIGHUP: the settings stay as they are").await;

    fs::remove_file(program.place(".env")).unwrap();
    running.signal(Signal::HUP);
    assert_eq!(consumer.expect(1, LIMIT).await[0].routing_key, "file.created");
    // Changes are followed as before.
    eventually("it watches again", LIMIT, || running.log().matches("everything was walked").count() >= 3).await;
    program.write("c.mp3", "three");
    assert_eq!(consumer.expect(1, LIMIT).await[0].routing_key, "file.created");
    assert!(running.is_running());
    let after: serde_json::Value = serde_json::from_str(&status().await).unwrap();
    assert_eq!(after["started"], before, "it is the same service");
    let count = |kind: &str| after["events"][kind].as_u64();
    assert_eq!((count("created"), count("deleted")), (Some(4), Some(1)), "{after}");

    // Nothing of the runs before is left.
    let open = |target: &str| {
        let files = fs::read_dir(format!("/proc/{}/fd", running.pid())).unwrap().flatten();
        files.filter(|file| fs::read_link(file.path()).is_ok_and(|path| path.ends_with(target))).count()
    };
    eventually("one watcher is left", LIMIT, || open("anon_inode:inotify") == 1).await;
    eventually("one writer is left", LIMIT, || open("amqp.mark") <= 1).await;
    assert_eq!(running.stop().await.code, Some(0));

    let nobody = program.run(&["reload"]).await;
    assert!(nobody.code == Some(1) && nobody.log.contains("no service is running"), "{nobody:?}");
}
