//! The whole program, as a container runs it, with consumers that compare what they hear with the disk.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, SystemTime};

use lapin::ExchangeKind;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::support::consumer::{Consumer, Received, declare_exchange};
use crate::support::files_on_disk;
use crate::support::rabbit::Node;
use crate::{LIMIT, QUIET};

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures");

/// A library, a state, and the program's environment.
struct Program {
    folder: tempfile::TempDir,
    url: String,
}

/// How a run ended, and what it said.
#[derive(Debug)]
struct Ended {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Program {
    fn new(url: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("music")).unwrap();
        Self { folder, url: url.to_owned() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join("music").join(name)
    }

    /// Puts a fixture into the library, as old as a file that has long been there.
    fn add(&self, fixture: &str, name: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::copy(Path::new(FIXTURES).join(fixture), &path).unwrap();
        let long_ago = SystemTime::now() - Duration::from_hours(1);
        fs::File::options().write(true).open(&path).unwrap().set_modified(long_ago).unwrap();
    }

    fn start(&self, verb: &str) -> Child {
        self.spawn(Command::new(env!("CARGO_BIN_EXE_file-watcher")).arg(verb))
    }

    /// Starts it where the names of hosts are read from `hosts`.
    fn start_with_hosts(&self, verb: &str, hosts: &Path) -> Child {
        let script = "mount --bind \"$1\" /etc/hosts && exec \"$2\" \"$3\"";
        let mut command = Command::new("/usr/bin/unshare");
        command.args(["--mount", "/bin/sh", "-c", script, "sh"]).arg(hosts);
        self.spawn(command.args([env!("CARGO_BIN_EXE_file-watcher"), verb]))
    }

    fn spawn(&self, command: &mut Command) -> Child {
        command
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("DATA_DIR", self.folder.path().join("music"))
            .env("STATE_DIR", self.folder.path().join("state"))
            .env("RABBITMQ_URL", &self.url)
            .env("SETTLE_MS", "300")
            .env("LOG_FORMAT", "json")
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap()
    }

    async fn run(&self, verb: &str) -> Ended {
        ended(self.start(verb)).await
    }

    /// What is on disk: path to SHA-256.
    fn disk(&self) -> BTreeMap<String, String> {
        files_on_disk(&self.folder.path().join("music"))
    }
}

async fn ended(child: Child) -> Ended {
    let output = timeout(LIMIT, child.wait_with_output()).await.expect("it ends").unwrap();
    Ended {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

async fn stop(child: Child) -> Ended {
    let pid = Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap()).unwrap();
    kill_process(pid, Signal::TERM).unwrap();
    ended(child).await
}

/// What a consumer comes to know, by the rules of the contract.
fn replay(known: &mut BTreeMap<String, String>, received: &[Received]) {
    for Received { body, .. } in received {
        let text = |field: &str| body[field].as_str().unwrap().to_owned();
        if let Some(old_path) = body["old_path"].as_str() {
            assert_eq!(known.remove(old_path), Some(text("sha256_hash")), "{body}");
        }
        match body["event_type"].as_str().unwrap() {
            "deleted" => assert!(known.remove(&text("file_path")).is_some(), "{body}"),
            _ => drop(known.insert(text("file_path"), text("sha256_hash"))),
        }
    }
}

fn told(received: &[Received]) -> Vec<&str> {
    received.iter().map(|message| message.routing_key.as_str()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scan_of_a_real_library_gives_one_right_message_a_file_and_a_second_scan_none() {
    let node = Node::shared();
    let program = Program::new(&node.url(&node.vhost()));
    let mut consumer = Consumer::of_all_keys(&program.url).await;
    let expected: BTreeMap<String, Value> =
        serde_json::from_slice(&fs::read(Path::new(FIXTURES).join("expected.json")).unwrap()).unwrap();
    for fixture in expected.keys() {
        program.add(fixture, fixture);
    }

    let scan = program.run("scan").await;
    assert_eq!(scan.code, Some(0), "{scan:?}");
    assert_eq!(scan.stdout, "");
    assert!(scan.stderr.contains(&format!("changed       {0} ({0} created)", expected.len())), "{scan:?}");
    let received = consumer.expect(expected.len(), LIMIT).await;
    let mut sequences = Vec::new();
    for Received { body, routing_key, .. } in &received {
        assert_eq!(routing_key, "file.created");
        let path = Path::new(body["file_path"].as_str().unwrap());
        let fixture = path.strip_prefix(program.folder.path().join("music")).unwrap().to_str().unwrap();
        let expected = &expected[fixture];
        assert_eq!(body["sha256_hash"], expected["sha256"], "{fixture}");
        assert_eq!(body["xxh128_hash"], expected["xxh128"], "{fixture}");
        assert_eq!(body["size_bytes"], expected["size"], "{fixture}");
        assert_eq!(body["metadata"]["format"], expected["format"], "{fixture}");
        sequences.push(body["sequence"].as_u64().unwrap());
    }
    assert_eq!(sequences, (1..=expected.len() as u64).collect::<Vec<_>>());

    let again = program.run("scan").await;
    assert_eq!(again.code, Some(0), "{again:?}");
    assert!(again.stderr.contains("hashed        0 B"), "{again:?}");
    assert_eq!(told(&consumer.drain_until_quiet(QUIET).await), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn all_five_events_are_told_live_and_of_the_time_in_between() {
    let node = Node::shared();
    let program = Program::new(&node.url(&node.vhost()));
    let mut consumer = Consumer::of_all_keys(&program.url).await;
    let mut known = BTreeMap::new();
    program.add("mp3/tagged-id3v24.mp3", "a/one.mp3");
    program.add("flac/tagged-flac.flac", "a/two.flac");

    // Live, each after the other.
    let watching = program.start("watch");
    let mut next = async |known: &mut BTreeMap<String, String>| {
        let received = consumer.expect(1, LIMIT).await;
        replay(known, &received);
        received[0].routing_key.clone()
    };
    assert_eq!(next(&mut known).await, "file.created");
    assert_eq!(next(&mut known).await, "file.created");
    fs::copy(Path::new(FIXTURES).join("mp3/tagged-id3v23.mp3"), program.path("a/one.mp3")).unwrap();
    assert_eq!(next(&mut known).await, "file.modified");
    fs::rename(program.path("a/one.mp3"), program.path("a/three.mp3")).unwrap();
    assert_eq!(next(&mut known).await, "file.renamed");
    fs::create_dir(program.path("b")).unwrap();
    fs::rename(program.path("a/three.mp3"), program.path("b/three.mp3")).unwrap();
    assert_eq!(next(&mut known).await, "file.moved");
    fs::remove_file(program.path("a/two.flac")).unwrap();
    assert_eq!(next(&mut known).await, "file.deleted");
    assert_eq!(known, program.disk());
    let stopped = stop(watching).await;
    assert_eq!((stopped.code, stopped.stdout.as_str()), (Some(0), ""), "{stopped:?}");

    // The same while nobody looks, found by the next start.
    program.add("ogg/tagged-oggenc.ogg", "c/four.ogg");
    program.add("wma/tagged-wmav2.wma", "c/five.wma");
    program.add("opus/tagged-opusenc.opus", "c/six.opus");
    assert_eq!(program.run("scan").await.code, Some(0));
    replay(&mut known, &consumer.expect(3, LIMIT).await);
    fs::rename(program.path("b/three.mp3"), program.path("b/seven.mp3")).unwrap();
    fs::rename(program.path("c/four.ogg"), program.path("a/four.ogg")).unwrap();
    fs::remove_file(program.path("c/five.wma")).unwrap();
    program.add("opus/tagged-ffmpeg.opus", "c/six.opus");
    program.add("m4a/tagged-aac.m4a", "d/eight.m4a");
    assert_eq!(program.run("scan").await.code, Some(0));
    let received = consumer.expect(5, LIMIT).await;
    replay(&mut known, &received);
    assert_eq!(known, program.disk());
    let mut kinds = told(&received);
    kinds.sort_unstable();
    assert_eq!(kinds, ["file.created", "file.deleted", "file.modified", "file.moved", "file.renamed"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_broker_both_go_on_indexing_and_deliver_when_it_comes() {
    let node = Node::absent();
    // A vhost of one's own takes a broker to make it: this node is nobody else's until it is given back.
    let program = Program::new(&node.url("/"));
    program.add("mp3/tagged-id3v24.mp3", "one.mp3");
    let scanning = program.start("scan");
    tokio::time::sleep(Duration::from_secs(2)).await;
    tokio::task::block_in_place(|| node.start_again());
    let mut consumer = Consumer::of_all_keys(&program.url).await;
    assert_eq!(told(&consumer.expect(1, LIMIT).await), ["file.created"]);
    let scanned = ended(scanning).await;
    assert_eq!(scanned.code, Some(0), "{scanned:?}");
    assert_eq!(scanned.stderr.matches(r#""level":"WARN""#).count(), 1, "said once: {scanned:?}");

    tokio::task::block_in_place(|| node.stop());
    let watching = program.start("watch");
    tokio::time::sleep(Duration::from_secs(1)).await;
    program.add("flac/tagged-flac.flac", "two.flac");
    tokio::time::sleep(Duration::from_secs(1)).await;
    tokio::task::block_in_place(|| node.start_again());
    let mut consumer = Consumer::of_all_keys(&program.url).await;
    assert_eq!(told(&consumer.expect(1, LIMIT).await), ["file.created"]);
    assert_eq!(stop(watching).await.code, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scan_that_is_refused_says_what_to_mend_and_ends_with_two() {
    let node = Node::shared();
    let vhost = node.vhost();
    let mut program = Program::new(&node.url_as("guest", "wrong-secret", &vhost));
    program.add("mp3/tagged-id3v24.mp3", "one.mp3");
    let refused = program.run("scan").await;
    assert_eq!(refused.code, Some(2), "{refused:?}");
    assert!(refused.stderr.contains("RABBITMQ_PASS") && !refused.stderr.contains("wrong-secret"), "{refused:?}");

    program.url = node.url(&vhost);
    declare_exchange(&program.url, ExchangeKind::Fanout).await;
    let refused = program.run("scan").await;
    assert_eq!(refused.code, Some(2), "{refused:?}");
    assert!(refused.stderr.contains("file_events"), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_tells_everything_again_alone_or_by_the_running_service() {
    let node = Node::shared();
    let program = Program::new(&node.url(&node.vhost()));
    let mut consumer = Consumer::of_all_keys(&program.url).await;
    program.add("mp3/tagged-id3v24.mp3", "a/one.mp3");
    program.add("flac/tagged-flac.flac", "b/two.flac");
    assert_eq!(program.run("scan").await.code, Some(0));
    consumer.expect(2, LIMIT).await;

    let replayed = program.run("replay").await;
    assert_eq!(replayed.code, Some(0), "{replayed:?}");
    let mut rebuilt = BTreeMap::new();
    let received = consumer.expect(2, LIMIT).await;
    assert!(received.iter().all(|message| message.body["origin"] == "replay"));
    replay(&mut rebuilt, &received);
    assert_eq!(rebuilt, program.disk());

    let watching = program.start("watch");
    crate::support::eventually("the control socket", LIMIT, || {
        program.folder.path().join("state/control.sock").exists()
    })
    .await;
    let asked = program.run("replay").await;
    assert_eq!(asked.code, Some(0), "{asked:?}");
    assert!(asked.stderr.contains("2 files will be published again"), "{asked:?}");
    replay(&mut rebuilt, &consumer.expect(2, LIMIT).await);
    assert_eq!(rebuilt, program.disk());
    assert_eq!(stop(watching).await.code, Some(0));
}

/// Needs to be root, for a table of hosts of its own.
#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_gets_its_address_later_is_found() {
    let node = Node::shared();
    let vhost = node.vhost();
    let mut consumer = Consumer::of_all_keys(&node.url(&vhost)).await;
    let program = Program::new(&format!("amqp://guest:guest@broker.test:{}/{vhost}", node.port()));
    program.add("mp3/tagged-cover.mp3", "a.mp3");
    let hosts = program.folder.path().join("hosts");
    fs::write(&hosts, "127.0.0.1 localhost\n").unwrap();
    let scanning = program.start_with_hosts("scan", &hosts);
    assert!(consumer.drain_until_quiet(Duration::from_secs(2)).await.is_empty(), "it has no address yet");
    fs::write(&hosts, "127.0.0.1 localhost broker.test\n").unwrap();
    consumer.expect(1, LIMIT).await;
    let ended = ended(scanning).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.stderr.contains("no connection"), "{ended:?}");
}
