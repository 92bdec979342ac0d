//! A library under live changes, the service that watches it, and a consumer, all of them with the cluster.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;
use tokio::runtime::Runtime;

use crate::support::cluster::Cluster;
use crate::support::disk::write;
use crate::support::oracle::Oracle;
use crate::support::process::{Recorded, tail};
use crate::support::program::Program;

const QUEUE: &str = "cataloging.file.events";

/// The heartbeat of the service and of the consumer. A node that hangs is left after twice this time.
pub(crate) const HEARTBEAT: Duration = Duration::from_secs(2);

/// Short times, so that a silent node costs seconds and not minutes.
const IMPATIENCE: &str = "heartbeat=2&connection_timeout=1000";

/// How long anything may take: half a minute is what a confirm may take.
const LIMIT: Duration = Duration::from_mins(3);

/// What the consumer got so far.
#[derive(Clone)]
struct Got(Arc<Mutex<(Oracle, Option<String>)>>);

impl Got {
    fn take(&self, body: &[u8]) {
        let (oracle, violation) = &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(wrong) = oracle.take_json(body) {
            violation.get_or_insert_with(|| format!("{wrong}: {}", String::from_utf8_lossy(body)));
        }
    }

    /// Looks at it; panics if a message broke the contract.
    fn see<T>(&self, look: impl FnOnce(&Oracle) -> T) -> T {
        let (oracle, violation) = &*self.0.lock().unwrap_or_else(PoisonError::into_inner);
        assert_eq!(*violation, None);
        look(oracle)
    }
}

pub(crate) struct Scene<'a> {
    cluster: &'a Cluster,
    vhost: String,
    files: usize,
    program: Program,
    watching: Recorded,
    got: Got,
    changes: Option<JoinHandle<u64>>,
    over: Arc<AtomicBool>,
    runtime: Runtime,
}

impl<'a> Scene<'a> {
    /// Starts the service on a library with many files, and the changes.
    pub(crate) fn begin(cluster: &'a Cluster) -> Self {
        let files = std::env::var("CLUSTER_FILES").ok().and_then(|files| files.parse().ok()).unwrap_or(1_000);
        let vhost = cluster.nodes()[0].vhost();
        let mut program = Program::new(&format!("{}?{IMPATIENCE}", cluster.url(&vhost)));
        program.fill(files);
        program.set("DEBOUNCE_MS", "20");
        let got = Got(Arc::new(Mutex::new((program.oracle(), None))));
        let runtime = Runtime::new().unwrap();
        let consumer = got.clone();
        runtime.spawn(cluster.quorum_queue(&vhost, QUEUE, IMPATIENCE).read(move |body| consumer.take(body)));
        let watching = program.start(&["watch"]);
        let over = Arc::new(AtomicBool::new(false));
        let (root, until) = (program.root(), Arc::clone(&over));
        let changes = Some(thread::spawn(move || change(&root, &until)));
        Self { cluster, vhost, files, program, watching, got, changes, over, runtime }
    }

    /// The same, when a tenth of the files was delivered.
    pub(crate) fn under_way(cluster: &'a Cluster) -> Self {
        let scene = Self::begin(cluster);
        scene.wait_for_messages(scene.files / 10);
        scene
    }

    /// The number of different messages that the consumer got.
    pub(crate) fn received(&self) -> usize {
        self.got.see(|oracle| oracle.messages.len())
    }

    /// The number of messages in the outbox.
    pub(crate) fn waiting(&self) -> usize {
        self.program.waiting()
    }

    /// Waits until the consumer got so many more messages.
    pub(crate) fn wait_for_messages(&self, messages: usize) {
        let before = self.received();
        self.eventually(&format!("{messages} more messages after {before}"), || self.received() >= before + messages);
    }

    /// The number of the node that the service says it is connected to.
    pub(crate) fn node(&self) -> usize {
        let mut node = None;
        self.eventually("a connection", || {
            node = self.address();
            node.is_some()
        });
        self.cluster.at(&node.unwrap())
    }

    /// Waits until the service is connected to another node; returns its number.
    pub(crate) fn wait_for_another_node(&self, than: usize) -> usize {
        let mut other = than;
        self.eventually("another node", || {
            other = self.address().map_or(than, |address| self.cluster.at(&address));
            other != than
        });
        other
    }

    /// Waits until the service is connected to the node with this port.
    pub(crate) fn wait_for_node_at(&self, port: u16) {
        self.eventually("this node", || self.address() == Some(format!("127.0.0.1:{port}")));
    }

    fn address(&self) -> Option<String> {
        let output = self.program.launcher.command(["status", "--json"]).output().unwrap();
        let report: Value = serde_json::from_slice(&output.stdout).ok()?;
        report["broker"]["node"].as_str().map(ToOwned::to_owned)
    }

    /// The number of the node that leads the queue.
    pub(crate) fn leader(&self) -> usize {
        self.cluster.leader(&self.vhost, QUEUE)
    }

    /// Ends the changes, and waits until the messages give what is on disk.
    pub(crate) fn end(mut self) {
        self.over.store(true, Ordering::Relaxed);
        let changes = self.changes.take().unwrap().join().unwrap();
        let expected = self.program.files();
        self.eventually("the messages give what is on disk", || self.got.see(|oracle| oracle.files == expected));
        self.watching.signal(Signal::TERM);
        let ended = self.runtime.block_on(self.watching.ended());
        assert_eq!(ended.code, Some(0), "{}", tail(&ended.log));
        // What was sent twice may still be on its way.
        thread::sleep(Duration::from_millis(500));
        let (messages, again) = self.got.see(|oracle| (oracle.messages.len(), oracle.redelivered));
        assert_eq!(self.program.waiting(), 0);
        assert_eq!(self.got.see(|oracle| oracle.files.len()), expected.len());
        let connections = ended.log.matches("connected to RabbitMQ").count();
        println!(
            "{} files, {changes} changes, {messages} messages, 0 lost, {again} redelivered, {connections} connections",
            self.files
        );
        self.runtime.shutdown_background();
    }

    fn eventually(&self, what: &str, mut holds: impl FnMut() -> bool) {
        let begun = Instant::now();
        while !holds() {
            assert!(begun.elapsed() < LIMIT, "not within {LIMIT:?}: {what}\n{}", tail(&self.watching.log()));
            thread::sleep(Duration::from_millis(50));
        }
    }
}

/// Creates, modifies, renames, moves and deletes files until it is over; returns how many changes that were.
fn change(root: &Path, over: &AtomicBool) -> u64 {
    let mut known: BTreeMap<u64, String> = BTreeMap::new();
    let mut number = 0;
    while !over.load(Ordering::Relaxed) {
        number += 1;
        let path = |name: &str| root.join(name);
        let oldest = known.first_key_value().map(|(key, name)| (*key, name.clone()));
        match (number % 5, oldest) {
            (1, Some((_, name))) => write(&path(&name), format!("modified {number}")),
            (2, Some((key, name))) => {
                let to = format!("live/renamed {number}.mp3");
                fs::rename(path(&name), path(&to)).unwrap();
                known.remove(&key);
                known.insert(number, to);
            }
            (3, Some((key, name))) if known.len() > 20 => {
                fs::remove_file(path(&name)).unwrap();
                known.remove(&key);
            }
            (4, Some((key, name))) => {
                let to = format!("moved/{number}.mp3");
                fs::create_dir_all(path("moved")).unwrap();
                fs::rename(path(&name), path(&to)).unwrap();
                known.remove(&key);
                known.insert(number, to);
            }
            _ => {
                let name = format!("live/{number}.mp3");
                write(&path(&name), format!("content {number} of the live files"));
                known.insert(number, name);
            }
        }
        thread::sleep(Duration::from_millis(25));
    }
    number
}
