//! The same histories with a real RabbitMQ at the other end, which is killed, stopped, frozen, starved
//! and cut off meanwhile.
//!
//! One node serves all histories that run at the same time, each in a vhost of its own. What happens
//! to the node is not drawn from the seeds: it happens to all of them.

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};
use std::thread;
use std::time::Duration;

use futures::StreamExt;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::FieldTable;
use lapin::{Connection, ConnectionProperties};
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::campaign::Campaign;
use crate::history::{Figures, World};
use crate::operation::Operation;
use crate::program::Target;
use crate::random::Random;
use crate::replay::Replay;
use crate::support::consumer::{declare, declare_on};
use crate::support::proxy::{Network, Proxy};
use crate::support::rabbit::Node;

const QUEUE: &str = "cataloging.file.events";

/// Short times, so that a silent broker costs seconds and not minutes.
const IMPATIENCE: &str = "heartbeat=2&connection_timeout=1000";

/// The largest message that the node takes. Usual ones have a third of that; tags and the longest names make larger ones.
pub(crate) const LARGEST_MESSAGE: u32 = 3_000;

/// How long the consumer waits for anything at all.
const SILENCE: Duration = Duration::from_secs(6);

/// A node, and who may trouble it when.
pub(crate) struct Broker<'a> {
    node: &'a Node,
    runtime: Runtime,
    /// Held for reading by whoever needs the node as it should be, for writing by who troubles it.
    peace: RwLock<()>,
    over: AtomicBool,
    troubles: Mutex<BTreeMap<&'static str, u64>>,
}

impl<'a> Broker<'a> {
    pub(crate) fn new(node: &'a Node) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        Self { node, runtime, peace: RwLock::new(()), over: AtomicBool::new(false), troubles: Mutex::default() }
    }

    /// Runs the campaign while the node is troubled.
    pub(crate) fn suffer(&self, campaign: &Campaign) -> Figures {
        thread::scope(|scope| {
            scope.spawn(|| self.trouble(campaign.first_seed));
            // However the campaign ends, so must the troubles.
            let _end = End(&self.over);
            let figures = campaign.run(|| Line::new(self));
            println!("what happened to the broker: {:?}", self.troubles.lock().unwrap());
            figures
        })
    }

    fn trouble(&self, seed: u64) {
        let mut random = Random::new(seed);
        while self.wait(Duration::from_millis(random.next() % 4_000 + 1_000)) {
            let moment = Duration::from_millis(random.next() % 2_500);
            let _peace_is_over = self.peace.write().unwrap_or_else(PoisonError::into_inner);
            let trouble = match random.below(8) {
                0 | 1 => {
                    self.node.kill();
                    thread::sleep(moment / 4);
                    self.node.start_again();
                    "killed"
                }
                2 => {
                    self.node.stop();
                    self.node.start_again();
                    "stopped"
                }
                3 => {
                    self.node.ctl(&["stop_app"]);
                    self.node.ctl(&["start_app"]);
                    "application stopped"
                }
                4 | 5 => {
                    self.node.ctl(&["close_all_connections", "chaos"]);
                    "connections closed"
                }
                6 => {
                    self.node.ctl(&["set_vm_memory_high_watermark", "0"]);
                    thread::sleep(moment);
                    self.node.ctl(&["set_vm_memory_high_watermark", "0.9"]);
                    "memory alarm"
                }
                _ => {
                    self.node.freeze();
                    thread::sleep(moment * 2);
                    self.node.thaw();
                    "frozen"
                }
            };
            *self.troubles.lock().unwrap_or_else(PoisonError::into_inner).entry(trouble).or_default() += 1;
        }
    }

    /// Whether things go on after this long.
    fn wait(&self, length: Duration) -> bool {
        let step = Duration::from_millis(50);
        let mut waited = Duration::ZERO;
        while waited < length && !self.over.load(Ordering::Relaxed) {
            thread::sleep(step);
            waited += step;
        }
        !self.over.load(Ordering::Relaxed)
    }
}

struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The line from one program to the broker, and a consumer at its end.
struct Line<'a> {
    broker: &'a Broker<'a>,
    peace: Option<RwLockReadGuard<'a, ()>>,
    there: Option<There>,
}

struct There {
    vhost: String,
    proxy: Arc<Proxy>,
    consumer: JoinHandle<()>,
}

impl<'a> Line<'a> {
    fn new(broker: &'a Broker<'a>) -> Self {
        Self { broker, peace: None, there: None }
    }

    fn make_peace(&mut self) {
        if self.peace.is_none() {
            self.peace = Some(self.broker.peace.read().unwrap_or_else(PoisonError::into_inner));
        }
    }
}

impl World for Line<'_> {
    fn target(&self) -> Target {
        let there = self.there.as_ref().unwrap();
        Target::Broker(format!("amqp://guest:guest@127.0.0.1:{}/{}?{IMPATIENCE}", there.proxy.port(), there.vhost))
    }

    fn begin(&mut self, replay: &Arc<Mutex<Replay>>) {
        self.make_peace();
        let Broker { node, runtime, .. } = self.broker;
        let vhost = node.vhost();
        let url = node.url(&vhost);
        runtime.block_on(declare(&url, QUEUE, &["file.#"], FieldTable::default()));
        let proxy = Arc::new(runtime.block_on(Proxy::to(node.port())));
        let consumer = runtime.spawn(consume(format!("{url}?{IMPATIENCE}"), Arc::clone(replay)));
        self.there = Some(There { vhost, proxy, consumer });
        self.peace = None;
    }

    fn disturb(&mut self, operation: &Operation) {
        let proxy = Arc::clone(&self.there.as_ref().unwrap().proxy);
        match *operation {
            Operation::CutConnection { after_bytes: None } => proxy.cut(),
            Operation::CutConnection { after_bytes: Some(bytes) } => proxy.cut_after(bytes),
            Operation::BadNetwork { kind, milliseconds } => {
                proxy.set([Network::Silent, Network::Down, Network::Slow(20_000)][kind % 3]);
                self.broker.runtime.spawn(async move {
                    tokio::time::sleep(Duration::from_millis(milliseconds)).await;
                    proxy.set(Network::Up);
                });
            }
            _ => {}
        }
    }

    fn calm(&mut self) {
        self.make_peace();
        let proxy = &self.there.as_ref().unwrap().proxy;
        proxy.set(Network::Up);
        proxy.cut_after(u64::MAX);
    }

    fn largest_message(&self) -> Option<usize> {
        Some(LARGEST_MESSAGE as usize)
    }

    fn patience(&self) -> Duration {
        // A file that was left empty is published a minute later.
        Duration::from_mins(2)
    }

    fn end(&mut self) {
        if let Some(There { vhost, consumer, .. }) = self.there.take() {
            consumer.abort();
            self.make_peace();
            self.broker.node.eval(&format!("rabbit_vhost:delete(<<\"{vhost}\">>, <<\"test\">>)."));
        }
        self.peace = None;
    }
}

/// Reads the queue for as long as it is there, over as many connections as it takes.
async fn consume(url: String, replay: Arc<Mutex<Replay>>) {
    loop {
        // Whatever goes wrong: what was not acknowledged comes again, and in its order.
        let mut link = None;
        let _ = read(&url, &replay, &mut link).await;
        if let Some(connection) = link {
            let _ = timeout(SILENCE, connection.close(200, "again".into())).await;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Reads until something goes wrong or nothing has come for a while, which may be the same.
async fn read(
    url: &str,
    replay: &Mutex<Replay>,
    link: &mut Option<Connection>,
) -> Result<(), Box<dyn Error + Send + Sync>> {
    let connection = timeout(SILENCE, Connection::connect(url, ConnectionProperties::default())).await??;
    let connection = link.insert(connection);
    let channel = timeout(SILENCE, connection.create_channel()).await??;
    // As every consumer does: a node that is killed soon after a queue was declared forgets it.
    timeout(SILENCE, declare_on(&channel, QUEUE, &["file.#"], FieldTable::default())).await??;
    timeout(SILENCE, channel.basic_qos(200, BasicQosOptions::default())).await??;
    // Nobody else may still hold messages that come before those that are read now.
    let exclusive = BasicConsumeOptions { exclusive: true, ..BasicConsumeOptions::default() };
    let begun = channel.basic_consume(QUEUE.into(), "".into(), exclusive, FieldTable::default());
    let mut consumer = timeout(SILENCE, begun).await??;
    while let Some(delivery) = timeout(SILENCE, consumer.next()).await? {
        let delivery = delivery?;
        replay.lock().unwrap_or_else(PoisonError::into_inner).take(&delivery.data);
        // This too waits for ever if the broker froze or died at the wrong moment.
        timeout(SILENCE, delivery.ack(BasicAckOptions::default())).await??;
    }
    Ok(())
}
