//! The broker is away, and comes back.

use std::time::Duration;

use file_watcher::model::Outgoing;
use file_watcher::sink::{Amqp, BrokerState, Deliver};
use lapin::types::FieldTable;
use tokio::time;

use crate::support::consumer::{Consumer, KEYS, declare, delete_exchange, first_seen};
use crate::support::rabbit::Node;
use crate::support::{created, eventually};
use crate::{LIMIT, QUIET, settings, sink};

/// Delivers in batches of a hundred, in the background.
fn deliver_all(mut sink: Amqp, messages: Vec<Outgoing>) -> tokio::task::JoinHandle<Amqp> {
    tokio::spawn(async move {
        for batch in messages.chunks(100) {
            sink.deliver(batch).await.unwrap();
        }
        sink
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_absent_is_waited_for() {
    let node = Node::absent();
    let url = node.url("/");
    let sink = sink(&url);
    let status = sink.status();
    let delivery = deliver_all(sink, created(1..=500));
    let mut state = status.state();
    let failed = |state: &BrokerState| matches!(state, BrokerState::Connecting { attempts: 2.., .. });
    let seen = time::timeout(LIMIT, state.wait_for(failed)).await.unwrap().unwrap().clone();
    let BrokerState::Connecting { last_error: Some(error), .. } = seen else { panic!("{seen:?}") };
    assert!(error.contains("refused") && error.contains(&node.port().to_string()), "{error}");

    node.start_again();
    let mut consumer = Consumer::of_all_keys(&url).await;
    time::timeout(LIMIT, delivery).await.expect("all delivered").unwrap();
    assert_eq!(first_seen(&consumer.expect(500, LIMIT).await), (1..=500).collect::<Vec<_>>());
    assert_eq!(status.connections(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_when_the_broker_is_killed_or_stopped_in_the_middle() {
    let node = Node::start();
    let url = node.url(&node.vhost());
    declare(&url, "everything", &KEYS, FieldTable::default()).await;
    let sink = sink(&url);
    let status = sink.status();
    let delivery = deliver_all(sink, created(1..=15_000));
    eventually("some are delivered", LIMIT, || status.delivered() > 1_500).await;
    node.kill();
    let before = status.delivered();
    node.start_again();
    eventually("some more are delivered", LIMIT, || status.delivered() > before + 1_500).await;
    node.stop();
    assert!(!delivery.is_finished(), "there must be something left to lose");
    node.start_again();
    time::timeout(LIMIT, delivery).await.expect("all delivered").unwrap();

    let received = Consumer::of_queue(&url, "everything").await.expect_different(15_000, LIMIT, QUIET).await;
    println!("{} messages came twice", received.len() - 15_000);
    assert_eq!(first_seen(&received), (1..=15_000).collect::<Vec<_>>());
    assert!(received.len() <= 15_000 + 2 * 100, "no more than a batch comes again after each outage");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_hangs_is_noticed_and_left() {
    let node = Node::start();
    let url = node.url(&node.vhost());
    let mut consumer = Consumer::of_all_keys(&url).await;
    let mut settings = settings(&format!("{url}?connection_timeout=500"));
    settings.confirm_timeout = Duration::from_secs(1);
    let mut busy = Amqp::new(settings);
    busy.deliver(&created(1..=100)).await.unwrap();
    let mut idle = sink(&format!("{url}?connection_timeout=500&heartbeat=1"));
    idle.connect().await.unwrap();
    let (busy_status, idle_status) = (busy.status(), idle.status());
    let sockets = open_sockets_to(node.port());

    node.freeze();
    let delivery = deliver_all(busy, created(101..=400));
    eventually("the missing confirms are noticed", LIMIT, || !busy_status.is_connected()).await;
    eventually("the missing heartbeats are noticed", LIMIT, || !idle_status.is_connected()).await;
    // Connections to a frozen broker are made by its kernel and never answered. None may pile up.
    time::sleep(Duration::from_secs(1)).await;
    assert!(open_sockets_to(node.port()) <= sockets);
    node.thaw();
    time::timeout(LIMIT, delivery).await.expect("all delivered").unwrap();
    time::timeout(LIMIT, idle.connect()).await.expect("connected again").unwrap();
    assert_eq!(first_seen(&consumer.expect_different(400, LIMIT, QUIET).await), (1..=400).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_is_closed_by_force_is_made_again() {
    let node = Node::shared();
    let vhost = node.vhost();
    let url = node.url(&vhost);
    declare(&url, "everything", &KEYS, FieldTable::default()).await;
    let sink = sink(&url);
    let status = sink.status();
    let delivery = deliver_all(sink, created(1..=10_000));
    eventually("some are delivered", LIMIT, || status.delivered() > 500).await;
    node.ctl(&["close_all_connections", "--vhost", &vhost, "a test"]);
    let mut sink = time::timeout(LIMIT, delivery).await.expect("all delivered").unwrap();
    // The last may have been delivered before the connection was closed.
    eventually("a second connection", LIMIT, || status.connections() == 2).await;
    sink.deliver(&created(10_001..=10_100)).await.unwrap();
    let received = Consumer::of_queue(&url, "everything").await.expect_different(10_100, LIMIT, QUIET).await;
    assert_eq!(first_seen(&received), (1..=10_100).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exchange_that_is_deleted_is_declared_again() {
    let node = Node::shared();
    let url = node.url(&node.vhost());
    let mut first = Consumer::of_all_keys(&url).await;
    let mut sink = sink(&url);
    let status = sink.status();
    sink.deliver(&created(1..=10)).await.unwrap();
    assert_eq!(first_seen(&first.expect(10, LIMIT).await), (1..=10).collect::<Vec<_>>());

    delete_exchange(&url).await;
    let batch = created(11..=20);
    let mut delivery = Box::pin(sink.deliver(&batch));
    // With the exchange its bindings went, so the messages wait for a consumer.
    assert!(time::timeout(Duration::from_secs(1), &mut delivery).await.is_err());
    let mut second = Consumer::of_all_keys(&url).await;
    time::timeout(LIMIT, delivery).await.expect("delivered to the new exchange").unwrap();
    assert_eq!(first_seen(&second.expect(10, LIMIT).await), (11..=20).collect::<Vec<_>>());
    assert_eq!(status.delivered(), 20);
}

/// How many sockets this machine's processes hold that lead to `port`. One that is closed and only
/// waits for its peer has no inode any more.
fn open_sockets_to(port: u16) -> usize {
    let remote = format!(":{port:04X}");
    std::fs::read_to_string("/proc/net/tcp")
        .unwrap()
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .filter(|fields| fields.get(2).is_some_and(|address| address.ends_with(&remote)))
        .filter(|fields| fields.get(9).is_some_and(|inode| *inode != "0"))
        .count()
}
