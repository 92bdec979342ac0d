//! A broker with several addresses: which one is used, and when the next one is tried.

use std::time::{Duration, Instant};

use file_watcher::sink::{Amqp, BrokerState, Deliver};
use lapin::types::FieldTable;
use rustix::process::Signal;
use tokio::time;

use crate::support::consumer::{Consumer, KEYS, declare, first_seen};
use crate::support::program::Program;
use crate::support::proxy::{Network, Proxy};
use crate::support::rabbit::{Node, free_port};
use crate::support::{created, eventually};
use crate::{LIMIT, QUIET, sink};

/// Two ways to the shared node, as if they were two nodes.
struct Ways {
    proxies: [Proxy; 2],
    vhost: String,
}

impl Ways {
    async fn new() -> Self {
        let node = Node::shared();
        let proxies = [Proxy::to(node.port()).await, Proxy::to(node.port()).await];
        Self { proxies, vhost: node.vhost() }
    }

    fn url(&self, parameters: &str) -> String {
        let [one, other] = self.proxies.each_ref().map(Proxy::port);
        format!("amqp://guest:guest@127.0.0.1:{one},127.0.0.1:{other}/{}?{parameters}", self.vhost)
    }

    /// Which of them the sink uses, and which it does not.
    fn used(&self, sink: &Amqp) -> (&Proxy, &Proxy) {
        let [one, other] = &self.proxies;
        let node = sink.status().node().expect("a connection");
        if node == address(one.port()) { (one, other) } else { (other, one) }
    }
}

fn address(port: u16) -> String {
    format!("127.0.0.1:{port}")
}

#[tokio::test(flavor = "multi_thread")]
async fn addresses_that_refuse_are_passed_over_at_once() {
    let node = Node::shared();
    let vhost = node.vhost();
    let [one, two, three] = [(); 3].map(|()| address(free_port()));
    let url = format!("amqp://guest:guest@{one},{two},{},{three}/{vhost}", address(node.port()));
    // The order is random, and three pauses are longer than this.
    for _ in 0..8 {
        let mut sink = sink(&url);
        let begun = Instant::now();
        time::timeout(LIMIT, sink.connect()).await.expect("connected").unwrap();
        assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
        assert_eq!(sink.status().node(), Some(address(node.port())));
        sink.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn there_is_one_pause_for_a_round_of_all_addresses_and_the_error_names_them() {
    let addresses = [(); 3].map(|()| address(free_port()));
    let sink = sink(&format!("amqp://{}/", addresses.join(",")));
    let mut state = sink.status().state();
    let begun = Instant::now();
    // After three rounds there were two pauses, of at least 0.1 and 0.2 seconds.
    let failed = |state: &BrokerState| matches!(state, BrokerState::Connecting { attempts: 3.., .. });
    let seen = time::timeout(LIMIT, state.wait_for(failed)).await.unwrap().unwrap().clone();
    let took = begun.elapsed();
    assert!(took > Duration::from_millis(290) && took < Duration::from_secs(3), "{took:?}");
    let BrokerState::Connecting { last_error: Some(error), .. } = seen else { panic!("{seen:?}") };
    assert!(addresses.iter().all(|address| error.contains(address.as_str())), "{error}");
    sink.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn when_a_node_goes_the_next_one_is_used_at_once_and_nothing_is_lost() {
    let ways = Ways::new().await;
    let url = Node::shared().url(&ways.vhost);
    declare(&url, "everything", &KEYS, FieldTable::default()).await;
    let mut sink = sink(&ways.url("connection_timeout=500"));
    for (round, batch) in created(1..=1_000).chunks(100).enumerate() {
        time::timeout(LIMIT, sink.deliver(batch)).await.expect("delivered").unwrap();
        if round % 3 == 0 {
            let (used, other) = ways.used(&sink);
            let lost = Instant::now();
            used.set(Network::Down);
            let status = sink.status();
            let next = Some(address(other.port()));
            eventually("the other address is used", LIMIT, || status.node() == next).await;
            assert!(lost.elapsed() < Duration::from_secs(2), "{:?}", lost.elapsed());
            used.set(Network::Up);
        }
    }
    let received = Consumer::of_queue(&url, "everything").await.expect_different(1_000, LIMIT, QUIET).await;
    assert_eq!(first_seen(&received), (1..=1_000).collect::<Vec<_>>());
    sink.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_hangs_is_left_for_the_next_one_after_the_heartbeat() {
    let ways = Ways::new().await;
    let mut sink = sink(&ways.url("heartbeat=1&connection_timeout=500"));
    time::timeout(LIMIT, sink.connect()).await.expect("connected").unwrap();
    let (used, other) = ways.used(&sink);
    used.set(Network::Silent);
    let (status, silent, next) = (sink.status(), Instant::now(), Some(address(other.port())));
    eventually("the other address is used", LIMIT, || status.node() == next).await;
    assert!(silent.elapsed() < Duration::from_secs(6), "{:?}", silent.elapsed());
    sink.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_name_is_tried_with_each_of_its_addresses() {
    let node = Node::shared();
    let vhost = node.vhost();
    let mut consumer = Consumer::of_all_keys(&node.url(&vhost)).await;
    let mut program = Program::new(&format!("amqp://guest:guest@broker.test:{}/{vhost}", node.port()));
    program.add("mp3/tagged-cover.mp3", "a.mp3");
    // The node has only the last of them.
    program.has_hosts("127.0.0.3 broker.test\n127.0.0.2 broker.test\n127.0.0.1 localhost broker.test\n");
    let scanned = program.scan().await;
    consumer.expect(1, LIMIT).await;
    let node = format!("broker.test:{} (127.0.0.1)", node.port());
    assert!(scanned.log.contains(&node), "{}", scanned.log);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_the_status_and_the_listener_name_the_node_in_use() {
    let node = Node::shared();
    let vhost = node.vhost();
    let hosts = format!("{},{}", address(free_port()), address(node.port()));
    let mut program = Program::new("");
    program.launcher.unset("RABBITMQ_URL");
    program.set("RABBITMQ_HOST", &hosts).set("RABBITMQ_VHOST", &vhost);
    let mut listening = program.start(&["events", "--json", "--count", "1"]);
    listening.wait_for_log(&format!("{}: waiting for messages", address(node.port()))).await;
    let mut watching = program.start(&["watch"]);
    watching.wait_for_log(&format!(r#""node":"{}""#, address(node.port()))).await;
    let status = program.run(&["status"]).await;
    assert!(status.stdout.contains(&format!("connected to {}", address(node.port()))), "{status:?}");
    program.add("mp3/tagged-cover.mp3", "a.mp3");
    let listened = listening.ended().await;
    assert!(listened.stdout.contains("a.mp3"), "{listened:?}");
    watching.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_is_refused_ends_at_once() {
    let node = Node::shared();
    let url = node.url_as("nobody", "hunter2", &node.vhost());
    let mut program = Program::new(&url);
    program.set("SHUTDOWN_GRACE_SECS", "3600");
    program.add("mp3/tagged-cover.mp3", "a.mp3");
    let mut watching = program.start(&["watch"]);
    watching.wait_for_log("RabbitMQ cannot be used as configured").await;
    watching.wait_for_log("the first scan is done").await;
    watching.signal(Signal::TERM);
    let ended = watching.ended().await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.took < Duration::from_secs(10) && ended.log.contains("stay in the outbox"), "{ended:?}");
    assert_eq!(program.waiting(), 1);
}
