//! Faults of the network.

use std::time::Duration;

use file_watcher::sink::{Amqp, Deliver};
use lapin::types::FieldTable;
use tokio::time;

use crate::support::consumer::{Consumer, KEYS, declare, first_seen};
use crate::support::proxy::{Network, Proxy};
use crate::support::rabbit::Node;
use crate::support::{created, eventually};
use crate::{LIMIT, QUIET, settings, sink};

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_is_cut_in_the_middle_of_a_frame_loses_nothing() {
    let node = Node::shared();
    let vhost = node.vhost();
    let url = node.url(&vhost);
    declare(&url, "everything", &KEYS, FieldTable::default()).await;
    let proxy = Proxy::to(node.port()).await;
    let mut sink = sink(&format!("amqp://guest:guest@127.0.0.1:{}/{vhost}", proxy.port()));
    for (round, batch) in created(1..=2_000).chunks(100).enumerate() {
        if round % 4 == 1 {
            proxy.cut_after(10_007 * round as u64 / 2);
        }
        time::timeout(LIMIT, sink.deliver(batch)).await.expect("delivered").unwrap();
    }
    assert!(sink.status().connections() > 3);
    let received = Consumer::of_queue(&url, "everything").await.expect_different(2_000, LIMIT, QUIET).await;
    assert_eq!(first_seen(&received), (1..=2_000).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_half_open_connection_is_left() {
    let node = Node::shared();
    let vhost = node.vhost();
    let url = node.url(&vhost);
    declare(&url, "everything", &KEYS, FieldTable::default()).await;
    let proxy = Proxy::to(node.port()).await;
    let through = format!("amqp://guest:guest@127.0.0.1:{}/{vhost}?connection_timeout=500", proxy.port());
    let mut settings = settings(&through);
    settings.confirm_timeout = Duration::from_secs(1);
    let mut sink = Amqp::new(settings);
    let status = sink.status();
    sink.deliver(&created(1..=100)).await.unwrap();

    proxy.set(Network::Silent);
    let batch = created(101..=200);
    let delivery = tokio::spawn(async move {
        sink.deliver(&batch).await.unwrap();
        sink
    });
    eventually("the silence is noticed", LIMIT, || !status.is_connected()).await;
    proxy.set(Network::Down);
    time::sleep(Duration::from_millis(300)).await;
    proxy.set(Network::Up);
    time::timeout(LIMIT, delivery).await.expect("delivered").unwrap();
    let received = Consumer::of_queue(&url, "everything").await.expect_different(200, LIMIT, QUIET).await;
    assert_eq!(first_seen(&received), (1..=200).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_slower_than_the_patience_for_a_confirm_is_no_failure() {
    let node = Node::shared();
    let vhost = node.vhost();
    let mut consumer = Consumer::of_all_keys(&node.url(&vhost)).await;
    let proxy = Proxy::to(node.port()).await;
    let mut settings = settings(&format!("amqp://guest:guest@127.0.0.1:{}/{vhost}", proxy.port()));
    settings.confirm_timeout = Duration::from_secs(1);
    let mut sink = Amqp::new(settings);
    sink.deliver(&created(1..=1)).await.unwrap();
    // A batch takes some three seconds, a message thirty milliseconds.
    proxy.set(Network::Slow(30_000));
    sink.deliver(&created(2..=101)).await.unwrap();
    assert_eq!(first_seen(&consumer.expect(101, LIMIT).await), (1..=101).collect::<Vec<_>>());
    assert_eq!((sink.status().connections(), sink.status().redelivered()), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_has_no_address_is_waited_for() {
    let mut sink = sink("amqp://guest:guest@no-such-host.invalid:5673");
    assert!(time::timeout(Duration::from_secs(2), sink.connect()).await.is_err());
    let waiting = sink.status().waiting_for().unwrap();
    assert!(waiting.contains("no-such-host.invalid:5673"), "{waiting}");
    sink.close().await;
}
