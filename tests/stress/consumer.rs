//! The consumer that checks every message.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use lapin::options::QueueDeclareOptions;
use lapin::types::FieldTable;

use super::changes::Sent;
use super::support::consumer::{Consumer, KEYS, channel, declare};
use super::support::oracle::{Again, Oracle};

/// The queue of the consumer.
const QUEUE: &str = "stress";

/// How often the depth of the queue is asked for.
const SAMPLE: Duration = Duration::from_millis(200);

/// What the messages showed so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct Found {
    /// Messages, without redeliveries.
    pub(crate) messages: u64,
    pub(crate) redelivered: u64,
    /// Paths that two instances published, and which ones.
    pub(crate) conflicts: Vec<String>,
    /// Messages that break the contract.
    pub(crate) violations: Vec<String>,
    /// From the end of a write to its message at the consumer.
    pub(crate) latencies: Vec<Duration>,
    /// The most messages that waited in the queue.
    pub(crate) deepest: u32,
}

#[derive(Default)]
struct State {
    /// What each instance has published.
    oracles: HashMap<String, Oracle>,
    /// The instance that publishes each path.
    owners: HashMap<PathBuf, String>,
    found: Found,
}

/// Reads the queue in tasks of its own.
pub(crate) struct Checker {
    state: Arc<Mutex<State>>,
    sent: Sent,
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Checker {
    /// Declares the queue, and reads it from now on.
    pub(crate) async fn start(url: &str) -> Self {
        declare(url, QUEUE, &KEYS, FieldTable::default()).await;
        let (state, sent) = (Arc::<Mutex<State>>::default(), Sent::default());
        let mut consumer = Consumer::of_queue(url, QUEUE).await;
        let (seen, written) = (Arc::clone(&state), Arc::clone(&sent));
        tokio::spawn(async move {
            loop {
                if let Some(message) = consumer.next(Duration::from_secs(1)).await {
                    take(&mut lock(&seen), &written, &message.body, Instant::now());
                }
            }
        });
        let (sampled, url) = (Arc::clone(&state), url.to_owned());
        tokio::spawn(async move {
            let (_connection, channel) = channel(&url).await;
            let passive = QueueDeclareOptions { passive: true, durable: true, ..QueueDeclareOptions::default() };
            while let Ok(queue) = channel.queue_declare(QUEUE.into(), passive, FieldTable::default()).await {
                sample(&sampled, queue.message_count());
                tokio::time::sleep(SAMPLE).await;
            }
        });
        Self { state, sent }
    }

    /// Where writers note what they have written.
    pub(crate) fn sent(&self) -> Sent {
        Arc::clone(&self.sent)
    }

    /// Waits for this number of messages; `None` if they do not come in time.
    pub(crate) async fn wait_for_messages(&self, messages: usize, limit: Duration) -> Option<()> {
        let begun = Instant::now();
        while lock(&self.state).found.messages < messages as u64 {
            if begun.elapsed() > limit {
                return None;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Some(())
    }

    /// Waits until the messages give what is on disk. Returns the paths at which they do not in time.
    pub(crate) async fn wait_until_known(&self, disk: &BTreeMap<PathBuf, String>, limit: Duration) -> Vec<PathBuf> {
        let begun = Instant::now();
        loop {
            let known: BTreeMap<PathBuf, String> =
                lock(&self.state).oracles.values().flat_map(|oracle| oracle.files.clone()).collect();
            if known == *disk {
                return Vec::new();
            }
            if begun.elapsed() > limit {
                let mut paths: Vec<&PathBuf> = known.keys().chain(disk.keys()).collect();
                paths.retain(|path| known.get(*path) != disk.get(*path));
                paths.sort_unstable();
                paths.dedup();
                return paths.into_iter().cloned().collect();
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// What the messages showed.
    pub(crate) fn found(&self) -> Found {
        let state = lock(&self.state);
        let redelivered = state.oracles.values().map(|oracle| oracle.redelivered).sum();
        Found { redelivered, ..state.found.clone() }
    }
}

fn sample(state: &Mutex<State>, waiting: u32) {
    let mut state = lock(state);
    state.found.deepest = state.found.deepest.max(waiting);
}

fn take(state: &mut State, sent: &Sent, body: &serde_json::Value, now: Instant) {
    let State { oracles, owners, found } = state;
    let text = |field: &str| body[field].as_str().unwrap_or_default().to_owned();
    let instance = text("instance_id");
    let oracle = oracles.entry(instance.clone()).or_insert_with(|| Oracle::of_any_root().expecting(Again::Nothing));
    match oracle.take_body(body) {
        Ok(true) => found.messages += 1,
        Ok(false) => return,
        Err(violation) => found.violations.push(format!("{violation}: {body}")),
    }
    let path = PathBuf::from(text("file_path"));
    let owner = owners.entry(path.clone()).or_insert_with(|| instance.clone());
    if *owner != instance {
        found.conflicts.push(format!("{} by {owner} and {instance}", path.display()));
    }
    let mut sent = sent.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(written) = sent.remove(&(path, text("sha256_hash"))) {
        found.latencies.push(now.saturating_duration_since(written));
    }
}
