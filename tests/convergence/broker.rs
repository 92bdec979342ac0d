//! The same histories with a real RabbitMQ at the other end, which is killed, stopped, frozen, starved
//! and cut off meanwhile.
//!
//! One broker serves all histories that run at the same time, each in a vhost of its own. What happens
//! to the broker is not drawn from the seeds: it happens to all of them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};
use std::thread;
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

use crate::campaign::Campaign;
use crate::history::{Figures, World};
use crate::operation::Operation;
use crate::program::Target;
use crate::random::Random;
use crate::replay::Replay;
use crate::support::consumer::{channel, declare_on};
use crate::support::proxy::{Network, Proxy};
use crate::support::rabbit::Node;
use crate::troubles::{IMPATIENCE, Troubled};

/// The largest message that the broker takes. Usual ones have a third of that; tags and the longest names make larger
/// ones.
pub(crate) const LARGEST_MESSAGE: u32 = 3_000;

/// A broker, and who may trouble it when.
pub(crate) struct Broker<'a> {
    site: &'a dyn Troubled,
    runtime: Runtime,
    /// Held for reading by whoever needs the broker as it should be, for writing by who troubles it.
    peace: RwLock<()>,
    over: AtomicBool,
    troubles: Mutex<BTreeMap<&'static str, u64>>,
}

impl<'a> Broker<'a> {
    pub(crate) fn new(site: &'a dyn Troubled) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        Self { site, runtime, peace: RwLock::new(()), over: AtomicBool::new(false), troubles: Mutex::default() }
    }

    /// Runs the campaign while the broker is troubled.
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
            let trouble = self.site.trouble(&mut random, moment);
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
    /// One for each node.
    proxies: Vec<Arc<Proxy>>,
    consumer: JoinHandle<()>,
}

impl There {
    /// The proxies that a disturbance with this number is for: one of them, or all.
    fn chosen(&self, number: usize) -> &[Arc<Proxy>] {
        let one = number % (self.proxies.len() + 1);
        self.proxies.get(one..=one).unwrap_or(&self.proxies)
    }
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
        let addresses: Vec<String> = there.proxies.iter().map(|proxy| format!("127.0.0.1:{}", proxy.port())).collect();
        Target::Broker(format!("amqp://guest:guest@{}/{}?{IMPATIENCE}", addresses.join(","), there.vhost))
    }

    fn begin(&mut self, replay: &Arc<Mutex<Replay>>) {
        self.make_peace();
        let Broker { site, runtime, .. } = self.broker;
        let node = &site.nodes()[0];
        let vhost = node.vhost();
        let queue = site.queue(&vhost);
        runtime.block_on(async {
            let (connection, channel) = channel(&node.url(&vhost)).await;
            declare_on(&channel, &queue.queue, &["file.#"], queue.arguments.clone()).await.expect("the queue");
            let _ = connection.close(200, "done".into()).await;
        });
        let proxy = |node: &Node| Arc::new(runtime.block_on(Proxy::to(node.port())));
        let proxies = site.nodes().iter().map(proxy).collect();
        let replay = Arc::clone(replay);
        let take = move |body: &[u8]| replay.lock().unwrap_or_else(PoisonError::into_inner).take(body);
        let consumer = runtime.spawn(queue.read(take));
        self.there = Some(There { vhost, proxies, consumer });
        self.peace = None;
    }

    fn disturb(&mut self, operation: &Operation) {
        let there = self.there.as_ref().unwrap();
        match *operation {
            Operation::CutConnection { after_bytes: None } => there.proxies.iter().for_each(|proxy| proxy.cut()),
            Operation::CutConnection { after_bytes: Some(bytes) } => {
                there.proxies.iter().for_each(|proxy| proxy.cut_after(bytes));
            }
            Operation::BadNetwork { kind, milliseconds } => {
                for proxy in there.chosen(usize::try_from(milliseconds).unwrap()) {
                    let proxy = Arc::clone(proxy);
                    proxy.set([Network::Silent, Network::Down, Network::Slow(20_000)][kind % 3]);
                    self.broker.runtime.spawn(async move {
                        tokio::time::sleep(Duration::from_millis(milliseconds)).await;
                        proxy.set(Network::Up);
                    });
                }
            }
            _ => {}
        }
    }

    fn calm(&mut self) {
        self.make_peace();
        for proxy in &self.there.as_ref().unwrap().proxies {
            proxy.set(Network::Up);
            proxy.cut_after(u64::MAX);
        }
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
            self.broker.site.nodes()[0].eval(&format!("rabbit_vhost:delete(<<\"{vhost}\">>, <<\"test\">>)."));
        }
        self.peace = None;
    }
}
