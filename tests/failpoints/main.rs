//! The program ended between any two writes of store and sink, with a real RabbitMQ at the other end.
//!
//! Wherever it ends, the next start goes on: a consumer that drops the sequence numbers which it has seen
//! gets every event once, in order and without a gap, and what comes again is the same to the last byte.

#[path = "../support/library.rs"]
mod library;
#[path = "../support/mod.rs"]
mod support;
mod watcher;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::time::{Duration, SystemTime};

use file_watcher::failpoint::POINTS;
use lapin::types::FieldTable;
use rusqlite::Connection;
use support::consumer::{Consumer, KEYS, Received, declare};
use support::files_on_disk;
use support::rabbit::Node;
use tokio::process::Command;
use tokio::time::timeout;

/// Longer than anything here takes on a busy machine.
const LIMIT: Duration = Duration::from_mins(1);

/// How long a queue must say nothing to be taken for empty.
const QUIET: Duration = Duration::from_millis(500);

/// The queue of everything.
const QUEUE: &str = "everything";

/// SIGABRT, by which a failpoint ends the process.
const ABORTED: i32 = 6;

/// Path to SHA-256.
type Files = BTreeMap<String, String>;

/// A library, a state, and a queue that keeps everything.
struct Program {
    folder: tempfile::TempDir,
    url: String,
}

impl Program {
    async fn new(node: &Node) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("music")).unwrap();
        let url = node.url(&node.vhost());
        declare(&url, QUEUE, &KEYS, FieldTable::default()).await;
        Self { folder, url }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join("music").join(name)
    }

    fn store(&self) -> Connection {
        Connection::open(self.folder.path().join("state/amqp.sqlite")).unwrap()
    }

    /// Writes a file that nobody has touched for long.
    fn write(&self, name: &str, content: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        let long_ago = SystemTime::now() - Duration::from_hours(1);
        File::options().write(true).open(&path).unwrap().set_modified(long_ago).unwrap();
    }

    /// Some of everything that may happen to files, different each round.
    fn change(&self, round: usize) {
        for number in 0..16 {
            self.write(&format!("{round}/{number}.mp3"), &format!("{number} of round {round}"));
        }
        let Some(last) = round.checked_sub(1) else { return };
        for number in 0..3 {
            self.write(&format!("{last}/{number}.mp3"), &format!("{number}, changed in round {round}"));
            fs::remove_file(self.path(&format!("{last}/{}.mp3", number + 3))).unwrap();
            let renamed = format!("{last}/{}.mp3", number + 6);
            fs::rename(self.path(&renamed), self.path(&renamed.replace(".mp3", " renamed.mp3"))).unwrap();
            let moved = format!("{last}/{}.mp3", number + 9);
            fs::rename(self.path(&moved), self.path(&format!("{round}/moved {number}.mp3"))).unwrap();
        }
    }

    /// Scans, ending at `point` if one is given.
    async fn scan(&self, arguments: &[&str], point: Option<&str>) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_file-watcher"));
        command
            .arg("scan")
            .args(arguments)
            .env_clear()
            .env("DATA_DIR", self.folder.path().join("music"))
            .env("STATE_DIR", self.folder.path().join("state"))
            .env("RABBITMQ_URL", &self.url)
            // Several transactions and several deliveries.
            .env("BATCH_SIZE", "4")
            .env("LOG_FORMAT", "json")
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .kill_on_drop(true);
        if let Some(point) = point {
            command.env("FILE_WATCHER_ABORT_AT", point);
        }
        timeout(LIMIT, command.output()).await.expect("it ends").unwrap()
    }

    async fn scan_until_aborted(&self, arguments: &[&str], point: &str) {
        let output = self.scan(arguments, Some(point)).await;
        assert_eq!(output.status.signal(), Some(ABORTED), "{point}: {}", log_of(&output));
    }

    async fn scan_to_the_end(&self, what: &str) {
        let output = self.scan(&[], None).await;
        assert!(output.status.success(), "after {what}: {}", log_of(&output));
    }

    /// Everything that was ever delivered, when nothing more is to come.
    async fn delivered(&self) -> Vec<Received> {
        let query = "SELECT (SELECT seq FROM sqlite_sequence), (SELECT count(*) FROM outbox)";
        let (last, waiting): (u32, u32) =
            self.store().query_row(query, [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
        assert_eq!(waiting, 0);
        let mut consumer = Consumer::of_queue(&self.url, QUEUE).await;
        consumer.expect_different(usize::try_from(last).unwrap(), LIMIT, QUIET).await
    }

    fn disk(&self) -> Files {
        files_on_disk(&self.folder.path().join("music"))
    }
}

fn log_of(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Each message as it came first; the others are the same, and none comes before an earlier one has come.
fn each_once(received: Vec<Received>) -> Vec<Received> {
    let mut first: Vec<Received> = Vec::new();
    for message in received {
        let sequence = usize::try_from(message.sequence()).unwrap();
        if let Some(known) = first.get(sequence - 1) {
            assert_eq!(known.body, message.body);
            assert_eq!(known.routing_key, message.routing_key);
            assert_eq!(known.properties, message.properties);
        } else {
            assert_eq!(sequence, first.len() + 1, "a gap, or not in order");
            first.push(message);
        }
    }
    first
}

/// What a consumer comes to know, by the rules of the contract and none too many.
fn replay(messages: &[Received], is_told_again: bool) -> Files {
    let mut known = Files::new();
    for Received { body, .. } in messages {
        let text = |field: &str| body[field].as_str().unwrap().to_owned();
        let path = text("file_path");
        match body["event_type"].as_str().unwrap() {
            "created" => {
                let before = known.insert(path, text("sha256_hash"));
                assert!(before.is_none() || is_told_again, "{body}");
            }
            "modified" => assert!(known.insert(path, text("sha256_hash")).is_some(), "{body}"),
            "deleted" => assert!(known.remove(&path).is_some(), "{body}"),
            _ => {
                assert_eq!(known.remove(&text("old_path")), Some(text("sha256_hash")), "{body}");
                assert_eq!(known.insert(path, text("sha256_hash")), None, "{body}");
            }
        }
    }
    known
}

async fn survives(point: &str) {
    let program = Program::new(Node::shared()).await;
    for (round, hits) in [1, 2, 4].into_iter().enumerate() {
        program.change(round);
        let armed = format!("{point}:{hits}");
        program.scan_until_aborted(&[], &armed).await;
        program.scan_to_the_end(&armed).await;
    }
    let received = program.delivered().await;
    let all = received.len();
    let once = each_once(received);
    assert_eq!(replay(&once, false), program.disk(), "{point}");
    println!("{point}: {} messages, {} of them again", all, all - once.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn ended_between_any_two_writes_every_event_is_told_once_and_in_order() {
    let is_of_every_scan = |point: &&&str| !point.starts_with("rebuild::") && !point.starts_with("relocate::");
    for point in POINTS.iter().filter(is_of_every_scan) {
        survives(point).await;
    }
}

/// Between the undelivered messages, the old files and the new one.
#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_that_is_ended_at_any_step_is_finished_by_the_next_start() {
    for (point, hits) in [("rebuild::made", 1), ("rebuild::move", 1), ("rebuild::move", 2), ("rebuild::move", 3)] {
        let program = Program::new(Node::shared()).await;
        program.change(0);
        // What is in the outbox now was never delivered.
        program.scan_until_aborted(&[], "store::forget:1").await;
        let query = "SELECT correlation_id FROM outbox ORDER BY sequence";
        let undelivered: Vec<String> = program
            .store()
            .prepare(query)
            .unwrap()
            .query_map([], |row| row.get(0))
            .unwrap()
            .map(Result::unwrap)
            .collect();
        assert!(!undelivered.is_empty());
        fs::remove_file(program.path("0/1.mp3")).unwrap();

        let armed = format!("{point}:{hits}");
        program.scan_until_aborted(&["--rebuild-index"], &armed).await;
        program.scan_to_the_end(&armed).await;
        let once = each_once(program.delivered().await);
        let first: Vec<String> = once.iter().take(undelivered.len()).map(Received::message_id).collect();
        assert_eq!(first, undelivered, "{armed}");
        assert_eq!(replay(&once, true), program.disk(), "{armed}");
    }
}

/// Between the chunks of messages, and before the store belongs to the new place.
#[tokio::test(flavor = "multi_thread")]
async fn a_relocation_that_is_ended_at_any_step_is_finished_by_the_next_start() {
    for armed in ["relocate::step:1", "relocate::commit:1", "relocate::step:2"] {
        let program = Program::new(Node::shared()).await;
        program.change(0);
        // What is in the outbox now was never delivered.
        program.scan_until_aborted(&[], "store::forget:1").await;
        let (old, new) = (program.folder.path().join("music"), program.folder.path().join("elsewhere"));
        fs::rename(&old, &new).unwrap();
        let arguments = ["--relocate-from", old.to_str().unwrap(), new.to_str().unwrap()];
        program.scan_until_aborted(&arguments, armed).await;
        let refused = program.scan(&arguments[2..], None).await;
        assert_eq!(refused.status.code(), Some(2), "{armed}: {}", log_of(&refused));
        let finished = program.scan(&arguments, None).await;
        assert!(finished.status.success(), "{armed}: {}", log_of(&finished));
        assert!(log_of(&finished).contains("hashed        0 B"), "{armed}: {}", log_of(&finished));
        let once = each_once(program.delivered().await);
        assert_eq!(replay(&once, false), files_on_disk(&new), "{armed}");
    }
}
