//! The program is ended between any two writes of store and sink, with a real RabbitMQ.
//!
//! After each such end, the next start continues: a consumer that drops the sequence numbers that it has seen gets every
//! event once, in order and without a gap, and a redelivery is the same to the last byte.

#[path = "../support/mod.rs"]
mod support;
mod watcher;

use std::collections::HashMap;
use std::fs;
use std::ops::Deref;

use file_watcher::failpoint::POINTS;
use lapin::types::FieldTable;
use support::consumer::{Consumer, KEYS, QUIET, Received, declare};
use support::disk::files_in;
use support::oracle::{Again, Oracle};
use support::process::{Ended, LIMIT};
use support::program;
use support::rabbit::Node;

/// The queue of everything.
const QUEUE: &str = "everything";

/// SIGABRT, by which a failpoint ends the process.
const ABORTED: i32 = 6;

/// The program with a queue that keeps everything.
struct Program {
    base: program::Program,
    url: String,
}

impl Program {
    async fn new(node: &Node) -> Self {
        let url = node.url(&node.vhost());
        declare(&url, QUEUE, &KEYS, FieldTable::default()).await;
        let mut base = program::Program::new(&url);
        // Several transactions and several deliveries.
        base.set("BATCH_SIZE", "4");
        Self { base, url }
    }

    /// Some of every kind of change, different each round.
    fn change(&self, round: usize) {
        for number in 0..16 {
            self.write(format!("{round}/{number}.mp3"), format!("{number} of round {round}"));
        }
        let Some(last) = round.checked_sub(1) else { return };
        for number in 0..3 {
            self.write(format!("{last}/{number}.mp3"), format!("{number}, changed in round {round}"));
            fs::remove_file(self.path(format!("{last}/{}.mp3", number + 3))).unwrap();
            let renamed = format!("{last}/{}.mp3", number + 6);
            fs::rename(self.path(&renamed), self.path(renamed.replace(".mp3", " renamed.mp3"))).unwrap();
            let moved = format!("{last}/{}.mp3", number + 9);
            fs::rename(self.path(&moved), self.path(format!("{round}/moved {number}.mp3"))).unwrap();
        }
    }

    /// Scans until the process ends at a failpoint.
    async fn scan_until_aborted(&self, arguments: &[&str], point: &str) {
        let mut launcher = self.launcher.clone();
        launcher.set("FILE_WATCHER_ABORT_AT", point);
        let ended = launcher.record(&[&["scan"], arguments].concat()).ended().await;
        assert_eq!(ended.signal, Some(ABORTED), "{point}: {}", ended.log);
    }

    /// Scans with these arguments.
    async fn scan_with(&self, arguments: &[&str]) -> Ended {
        self.run(&[&["scan"], arguments].concat()).await
    }

    async fn scan_to_the_end(&self, what: &str) {
        let ended = self.scan_with(&[]).await;
        assert_eq!(ended.code, Some(0), "after {what}: {}", ended.log);
    }

    /// Gives everything that was ever delivered to an oracle. Nothing is left in the outbox.
    ///
    /// Messages that come again are the same as the first time, to the last byte.
    async fn delivered_to(&self, mut oracle: Oracle) -> Oracle {
        assert_eq!(self.count("outbox"), 0);
        let last = self.number("SELECT seq FROM sqlite_sequence");
        let mut consumer = Consumer::of_queue(&self.url, QUEUE).await;
        let mut first: HashMap<u64, Received> = HashMap::new();
        for message in consumer.expect_different(last, LIMIT, QUIET).await {
            message.replay(&mut oracle);
            let known = first.entry(message.sequence()).or_insert_with(|| message.clone());
            assert_eq!(known.body, message.body);
            assert_eq!(known.routing_key, message.routing_key);
            assert_eq!(known.properties, message.properties);
        }
        oracle
    }
}

impl Deref for Program {
    type Target = program::Program;

    fn deref(&self) -> &program::Program {
        &self.base
    }
}

async fn survives(point: &str) {
    let program = Program::new(Node::shared()).await;
    for (round, hits) in [1, 2, 4].into_iter().enumerate() {
        program.change(round);
        let armed = format!("{point}:{hits}");
        program.scan_until_aborted(&[], &armed).await;
        program.scan_to_the_end(&armed).await;
    }
    let oracle = program.delivered_to(program.oracle()).await;
    assert_eq!(oracle.files, program.files(), "{point}");
    println!("{point}: {} messages, {} redeliveries", oracle.messages.len(), oracle.redelivered);
}

#[tokio::test(flavor = "multi_thread")]
async fn ended_between_any_two_writes_every_event_is_published_once_and_in_order() {
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
        let oracle = program.delivered_to(program.oracle().expecting(Again::Everything)).await;
        let first = oracle.messages.iter().take(undelivered.len()).map(|message| &message.correlation_id);
        assert!(first.eq(&undelivered), "{armed}");
        assert_eq!(oracle.files, program.files(), "{armed}");
    }
}

/// Between the chunks of messages, and before the store belongs to the new place.
#[tokio::test(flavor = "multi_thread")]
async fn a_relocation_that_is_ended_at_any_step_is_finished_by_the_next_start() {
    for armed in ["relocate::step:1", "relocate::commit:1", "relocate::step:2"] {
        let program = Program::new(Node::shared()).await;
        program.change(0);
        // What is in the outbox now was never delivered. On a slow machine not every file is indexed yet.
        program.scan_until_aborted(&[], "store::forget:1").await;
        let indexed: i64 = program.store().query_row("SELECT count(*) FROM files", [], |row| row.get(0)).unwrap();
        let (old, new) = (program.root(), program.place("elsewhere"));
        fs::rename(&old, &new).unwrap();
        let arguments = ["--relocate-from", old.to_str().unwrap(), new.to_str().unwrap()];
        program.scan_until_aborted(&arguments, armed).await;
        let refused = program.scan_with(&arguments[2..]).await;
        assert_eq!(refused.code, Some(2), "{armed}: {}", refused.log);
        let finished = program.scan_with(&arguments).await;
        assert_eq!(finished.code, Some(0), "{armed}: {}", finished.log);
        assert!(finished.log.contains(&format!("\nunchanged     {indexed}\n")), "{armed}: {}", finished.log);
        let oracle = program.delivered_to(Oracle::of_any_root()).await;
        let disk = files_in(&new).into_iter().map(|(path, sha256)| (new.join(path), sha256)).collect();
        assert_eq!(oracle.files, disk, "{armed}");
    }
}
